"""Base and novel classes, and the guard: what a method may see of the masks."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tagmask.cli import main
from tagmask.data import load_data
from tagmask.data.novel import FOLDS, groups, guarded, with_novel
from tagmask.data.photos import Truth
from tagmask.errors import OptionError


def test_names_lists_and_folds(toy):
    one, two = toy.classes[1:3]
    assert with_novel(toy, f"{two},{one}").novel == with_novel(toy, [one, two]).novel == (1, 2)
    voc = replace(toy, classes=("background", *(name for fold in FOLDS.values() for name in fold)))
    assert with_novel(voc, "pascal-5i-2").novel == (11, 12, 13, 14, 15)
    assert groups(with_novel(toy, one)) == {"base": [0, *range(2, len(toy.classes))], "novel": [1]}
    assert groups(toy) == {}


@pytest.mark.parametrize("names", ["background", "zebra", "pascal-5i-0"])
def test_a_name_that_is_no_class_is_refused(toy, names):
    with pytest.raises(OptionError, match=r"is no class of .*it has: .*the folds are pascal-5i-0"):
        with_novel(toy, names)
    with pytest.raises(OptionError, match="every class is novel"):
        with_novel(toy, toy.classes[1:])


def test_no_method_sees_more_masks_than_it_says(toy):
    data = with_novel(toy, toy.classes[1])
    assert not any(sample.mask for sample in guarded(data, "none").samples)
    all_masks, base = guarded(data, "masks"), guarded(data, "masks of the base classes")
    assert all(sample.mask for sample in all_masks.train)
    assert not any(sample.mask for sample in all_masks.val)
    seen = [sample for sample in base.train if sample.mask]
    assert seen
    assert all(1 not in sample.tags for sample in seen)
    assert {s.name for s in data.train if 1 not in s.tags} == {s.name for s in seen}


def test_unknown_tags_hide_the_mask(toy):
    data = with_novel(replace(toy, samples=tuple(replace(s, tags=None) for s in toy.samples)), toy.classes[1])
    assert not any(sample.mask for sample in guarded(data, "masks of the base classes").samples)


def test_novel_pixels_in_a_base_mask_are_read_as_unknown(toy, tmp_path):
    data = with_novel(toy, toy.classes[1])
    sample = next(s for s in guarded(data, "masks of the base classes").train if s.mask)
    labels = np.zeros((48, 48), dtype=np.uint8)
    labels[:4], labels[4:8] = 1, 2  # a novel object that nobody tagged
    Image.fromarray(labels).save(tmp_path / "m.png")
    known, plain = replace(sample, mask=tmp_path / "m.png"), replace(sample, mask=tmp_path / "m.png", hidden=())
    truth, open_truth = (Truth([s], len(data.classes)) for s in (known, plain))
    read = truth[sample.name].labels
    assert (read[:4] == 255).all()
    assert (read[4:8] == 2).all()
    assert truth.key_of(sample.name) != open_truth.key_of(sample.name)


def test_check_says_what_may_be_learned_from(toy_folder, capsys):
    name = load_data(toy_folder).classes[1]
    assert main(["check", str(toy_folder), "--novel", name]) == 0
    masks = sum(1 not in sample.tags for sample in load_data(toy_folder).train)
    assert f"{name}; {masks} masks of the others may be learned from" in capsys.readouterr().out
    assert main(["check", str(toy_folder), "--novel", "zebra"]) == 2
    assert "novel class 'zebra' is no class" in capsys.readouterr().err
