"""Saliency from detectors, folders and networks: one kind of value, whoever made it."""

import numpy as np
import pytest
from PIL import Image

from tagmask.errors import DataError, OptionError
from tagmask.nets.backbones import build_backbone
from tagmask.nets.classifier import Classifier
from tagmask.nets.segmenter import build_segmenter
from tagmask.nets.storage import save_network
from tagmask.quality import SaliencyQuality
from tagmask.refine.saliency import DETECTORS
from tagmask.saliency import checked_source, saliency_maps, supervision_of
from tagmask.types import Saliency
from tests.conftest import TINY


@pytest.mark.parametrize("kind", DETECTORS)
def test_a_detector_by_its_name(toy, work, kind):
    maps = saliency_maps(work, toy.train, kind)
    for name in maps.names[:3]:
        expected = DETECTORS[kind](work.photos(toy.train)[name].pixels)
        np.testing.assert_array_equal(maps[name].values, (expected * 255).round())
    assert supervision_of(kind) == "none"


def test_maps_of_the_users_own_at_any_size(toy, work, tmp_path):
    folder = tmp_path / "maps"
    folder.mkdir()
    for number, sample in enumerate(toy.train):
        Image.new("L", (48, 48) if number else (24, 96), 10 + number).save(folder / f"{sample.name}.png")
    maps = saliency_maps(work, toy.train, str(folder))
    for number, sample in enumerate(toy.train):
        np.testing.assert_array_equal(maps[sample.name].values, np.full((48, 48), 10 + number))
    assert supervision_of(str(folder)) == "saliency maps of the user's"
    (folder / "supervision.txt").write_text("a network trained on masks of MSRA\n")
    assert supervision_of(str(folder)) == "saliency: a network trained on masks of MSRA"
    before = {name: maps.key_of(name) for name in maps.names}
    Image.new("L", (48, 48), 200).save(folder / f"{toy.train[0].name}.png")
    again = saliency_maps(work, toy.train, str(folder))
    assert [name for name in again.names if again.key_of(name) != before[name]] == [toy.train[0].name]


def test_a_network_of_two_classes(toy, work, tmp_path):
    network = build_segmenter("deeplab-v1", TINY, 2, width=8)
    save_network(network, tmp_path / "net", extra={"supervision": "masks of cat"})
    maps = saliency_maps(work, toy.train, str(tmp_path / "net"))
    assert {maps[name].values.max() for name in maps.names} == {255}
    assert supervision_of(str(tmp_path / "net")) == "saliency learned from masks of cat"


def test_what_is_no_source_is_refused(toy, work, tmp_path):
    with pytest.raises(OptionError, match="did you mean 'mbd'"):
        checked_source("mdb")
    with pytest.raises(OptionError, match="expected mbd, rbd, a folder"):
        checked_source("none")
    checked_source("none", none=True)
    with pytest.raises(DataError, match=f"{len(toy.train)} of {len(toy.train)} photos have no saliency map"):
        saliency_maps(work, toy.train, str(tmp_path))
    for sample in toy.train:
        Image.new("RGB", (48, 48)).save(tmp_path / f"{sample.name}.png")
    with pytest.raises(DataError, match="is a RGB picture; expected 8-bit grey"):
        saliency_maps(work, toy.train, str(tmp_path))
    save_network(Classifier(build_backbone(TINY), classes=2), tmp_path / "net")
    with pytest.raises(OptionError, match="holds no saliency network"):
        saliency_maps(work, toy.train, str(tmp_path / "net"))


@pytest.mark.parametrize("seed", range(5))
def test_quality_pixel_by_pixel(seed):
    random = np.random.default_rng(seed)
    quality, pixels, overlapping, images = SaliencyQuality(), [], 0, 0
    for _ in range(4):
        truth = random.choice(np.array([0, 0, 3, 255], np.uint8), (9, 7))
        values = np.where((truth == 3) & (random.random((9, 7)) < 0.9), 200, random.choice([0, 5, 90, 240], (9, 7)))
        quality.add(truth, Saliency(values.astype(np.uint8)))
        known = truth != 255
        pixels += list(zip(values[known].tolist(), (truth[known] > 0).tolist(), strict=True))
        salient, thing = (values >= 128) & known, (truth > 0) & known
        images += thing.any()
        overlapping += (salient & thing).sum() / (salient | thing).sum() > 0.6
    found = quality.scores()
    hit = sum(v >= 128 and o for v, o in pixels)
    assert found.precision == pytest.approx(hit / sum(v >= 128 for v, _ in pixels))
    assert found.recall == pytest.approx(hit / sum(o for _, o in pixels))
    dark = [o for v, o in pixels if v / 255 < 0.06]
    assert found.ground_precision == pytest.approx(dark.count(False) / len(dark))
    assert found.ground_recall == pytest.approx(dark.count(False) / sum(not o for _, o in pixels))
    assert found.mean_absolute_error == pytest.approx(np.mean([abs(v / 255 - o) for v, o in pixels]))
    assert found.overlapping == pytest.approx(overlapping / images)
    best = 0.0
    for cut in range(256):
        above = [o for v, o in pixels if v >= cut]
        if any(above):
            precision, recall = sum(above) / len(above), sum(above) / sum(o for _, o in pixels)
            best = max(best, 1.3 * precision * recall / (0.3 * precision + recall))
    assert found.best_f == pytest.approx(best)
