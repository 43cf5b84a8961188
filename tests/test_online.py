"""The online term of RDC: what a network teaches itself, and that the one it started from stays."""

import json

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tagmask import online
from tagmask.data.photos import Photos, Truth
from tagmask.fit import Schedule
from tagmask.nets.segmenter import build_segmenter
from tagmask.online import TaggedLabelledViews, fit_online, online_labels
from tagmask.progress import Narrator
from tagmask.segment import LabelledViews
from tagmask.types import LabelMap
from tagmask.work import Job


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 3), st.integers(2, 5), st.integers(1, 6), st.integers(1, 7), st.integers(1, 3), st.integers(0, 99)
)
def test_online_labels_are_the_best_allowed_class_inside_the_photo(batch, classes, height, width, zoom, seed):
    random = np.random.default_rng(seed)
    scores = random.normal(size=(batch, classes, height, width))
    tags = random.integers(0, 2, size=(batch, classes - 1))
    inside = random.random(size=(batch, height * zoom, width * zoom)) < 0.7
    got = online_labels(torch.from_numpy(scores), torch.from_numpy(tags), torch.from_numpy(inside)).numpy()
    for b, y, x in np.ndindex(batch, height, width):
        allowed = [0, *(int(t) + 1 for t in np.flatnonzero(tags[b]))]
        best = max(allowed, key=lambda c: scores[b, c, y, x])
        seen = inside[b, int((y + 0.5) * zoom), int((x + 0.5) * zoom)]  # the pixel under the centre of the cell
        assert got[b, y, x] == (best if seen else 255)


def test_online_labels_teach_nothing_themselves():
    scores = torch.rand(1, 3, 4, 4, requires_grad=True)
    assert not online_labels(scores, torch.ones(1, 2), torch.ones(1, 4, 4, dtype=torch.bool)).requires_grad


class Nothing(Truth):
    """Labels that know nothing."""

    def __getitem__(self, name):
        return LabelMap(np.full((48, 48), 255, dtype=np.uint8))


def job(folder):
    folder.mkdir()
    return Job(folder, "cpu", "32-true", Narrator(quiet=True), "online")


def test_it_goes_on_from_a_network_that_stays_as_it_was(toy, work, tmp_path):
    torch.manual_seed(0)
    start = build_segmenter("deeplab-v1", work.backbone, 6, width=8).eval()
    before = {name: tensor.clone() for name, tensor in start.state_dict().items()}
    photos, truth = Photos(toy.train), Truth(toy.train, classes=6)
    options = {"crop": 33, "scales": (1.0, 1.0), "schedule": Schedule(epochs=1, batch=4, rate=1e-9), "seed": 0}
    made = fit_online(start, photos, truth, **options, job=job(tmp_path / "a"))
    assert made is not start
    for name, tensor in start.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    for name, parameter in made.named_parameters():
        torch.testing.assert_close(parameter, before[name], rtol=0, atol=1e-6)
    curve = [json.loads(line) for line in (tmp_path / "a" / "curve.jsonl").read_text().splitlines()]
    assert all(point["pixels"] > 0 < point["online"] for point in curve)


def test_unknown_pixels_have_the_online_term_and_padding_has_not(toy, work, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(online, "online_labels", lambda *given: shown.append(given[2]) or online_labels(*given))
    torch.manual_seed(0)
    start = build_segmenter("deeplab-v1", work.backbone, 6, width=8).eval()
    photos, blank = Photos(toy.train), Nothing(toy.train, classes=6)
    options = {"crop": 33, "schedule": Schedule(epochs=1, batch=4, rate=1e-9), "seed": 0}
    fit_online(start, photos, blank, scales=(1.0, 1.0), **options, job=job(tmp_path / "a"))
    assert all(inside.all() for inside in shown)
    curve = [json.loads(line) for line in (tmp_path / "a" / "curve.jsonl").read_text().splitlines()]
    assert all(point["pixels"] == 0 < point["online"] for point in curve)
    shown.clear()
    fit_online(start, photos, blank, scales=(0.01, 0.01), **options, job=job(tmp_path / "b"))  # a photo of one pixel
    assert all((inside.sum(dim=(1, 2)) == 1).all() for inside in shown)


def test_views_bring_the_tags_of_their_photo(toy):
    fill = np.array([1, 2, 3], dtype=np.uint8)
    views = TaggedLabelledViews(LabelledViews(Photos(toy.train), Truth(toy.train, 6), 20, (1.0, 1.0), fill), classes=6)
    assert len(views) == len(toy.train)
    for index, sample in enumerate(toy.train):
        image, labels, tags = views.example(index, np.random.default_rng(0))
        assert (image.shape, labels.shape) == ((3, 20, 20), (20, 20))
        assert tuple(np.flatnonzero(tags) + 1) == sample.tags
