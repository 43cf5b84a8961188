"""What only `retab` promises: novel masks are never learned from, and its table's rows are options."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tests.recipes.test_contract import content, go

from tagmask.data.novel import with_novel
from tagmask.errors import DataError, OptionError


def stages(done):
    return {stage["name"]: stage["computed"] for stage in done.metrics["stages"]}


@pytest.fixture
def weak(toy):
    tag = toy.train[0].tags[0]
    assert any(tag not in sample.tags for sample in toy.train)
    return with_novel(toy, toy.classes[tag])


def test_no_novel_mask_reaches_training(weak, tmp_path):
    """The masks of photos with a novel tag may be anything, and novel pixels in the others too: not a byte changes."""
    honest = go("retab", weak, tmp_path / "honest")
    samples = []
    for sample in weak.samples:
        labels = np.array(Image.open(sample.mask))
        if weak.novel[0] in sample.tags or sample in weak.val:
            labels[:] = np.random.default_rng(0).integers(0, len(weak.classes), labels.shape)
        path = tmp_path / "masks" / f"{sample.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels).save(path)
        samples.append(replace(sample, mask=path))
    assert any(weak.novel[0] in sample.tags for sample in weak.train)
    lied = go("retab", weak.only(tuple(samples)), tmp_path / "lied")
    assert content(lied.folder) == content(honest.folder)
    assert lied.metrics["train_masks"] != honest.metrics["train_masks"]


def test_a_base_mask_does_reach_it(weak, tmp_path):
    honest = go("retab", weak, tmp_path / "honest")
    chosen = next(sample for sample in weak.train if sample.tags and weak.novel[0] not in sample.tags)
    labels = np.array(Image.open(chosen.mask))
    Image.fromarray(np.where(labels == 0, np.uint8(chosen.tags[0]), np.uint8(0))).save(tmp_path / "m.png")
    changed = tuple(replace(s, mask=tmp_path / "m.png") if s is chosen else s for s in weak.samples)
    lied = go("retab", weak.only(changed), tmp_path / "lied")
    assert (lied.folder / "model.safetensors").read_bytes() != (honest.folder / "model.safetensors").read_bytes()


def test_the_rows_of_the_table_share_what_they_can(weak, tmp_path):
    store = {"store": tmp_path / "store"}
    plain = go("retab", weak, tmp_path / "a", boundary=False, affinity_masks=False, segment_masks=False, **store)
    seggt = go("retab", weak, tmp_path / "b", boundary=False, affinity_masks=False, **store)
    affgt = go("retab", weak, tmp_path / "c", boundary=False, **store)
    retab = go("retab", weak, tmp_path / "d", **store)
    assert "boundary" not in stages(plain)
    assert stages(seggt)["affinity"] == stages(seggt)["walked"] == 0 < stages(seggt)["segmenter-1"]
    assert stages(affgt)["sure"] == 0 < stages(affgt)["affinity"]
    assert stages(retab)["sure"] == 0 < stages(retab)["boundary"]
    assert {"base", "novel"} == set(retab.metrics["val"]["groups"])


def test_activations_of_seam(weak, tmp_path):
    done = go("retab", weak, tmp_path / "run", activations="seam", tag_crop=48)
    assert stages(done)["classifier"] == 1
    with pytest.raises(OptionError, match="activations is 'cams'; expected cam or seam"):
        go("retab", weak, tmp_path / "other", activations="cams")


def test_without_a_novel_class_it_says_that_all_masks_are_learned_from(toy, weak, tmp_path):
    go("retab", toy, tmp_path / "all")
    assert "no class is novel, so every mask is learned from" in (tmp_path / "all" / "log.txt").read_text()


def test_without_a_base_mask_it_says_so_at_once(weak, tmp_path):
    bare = weak.only(tuple(replace(sample, mask=None) for sample in weak.samples))
    with pytest.raises(DataError, match="no training photo without a novel class has a mask; give --novel"):
        go("retab", bare, tmp_path / "run")
