import json

import pytest

from tagmask.data import Findings, Problem, check_as_json, inspect_data, make_toy, render_check
from tagmask.types import Dataset, Sample


def dataset(tmp_path, tags, names=("background", "cat", "dog", "saddle")):
    samples = tuple(Sample(f"{index:03d}", tmp_path / f"{index}.png", said) for index, said in enumerate(tags))
    return Dataset(root=tmp_path, classes=names, samples=samples, splits={"val": ("000", "001")})


def test_counts_of_images_classes_and_tags(tmp_path):
    data = dataset(tmp_path, [(1,), (1, 2)] + [(1,)] * 12 + [()] * 3 + [None] * 2 + [(1, 2)] * 11)
    said = json.loads(check_as_json(data, Findings()))
    assert {key: said[key] for key in ("images", "train", "val", "negatives", "unknown", "masks")} == {
        "images": 30,
        "train": 26,
        "val": 2,
        "negatives": 3,
        "unknown": 2,
        "masks": 0,
    }
    assert said["train_images_per_class"] == {"cat": 23, "dog": 11, "saddle": 0}
    assert said["tags_per_image"] == {"0": 3, "1": 13, "2": 12}
    text = render_check(data, Findings())
    assert "Would train on 26 images of 3 classes, validate on 2, and make masks for all 30." in text
    assert "No file is odd." in text


@pytest.mark.parametrize(
    ("tags", "advice"),
    [
        ([()] * 22 + [(1,)] * 12 + [(1, 2)] * 12, "12 of 12 images with 'dog' have 'cat' too"),
        ([()] * 22 + [(1,)] * 12 + [(2,)] * 9, "'dog' is in 9 training images; below 10"),
        ([(1,)] * 22 + [(1, 2)] * 12, "'cat' is in every training image"),
        ([None] * 22, "no image can be trained on"),
    ],
)
def test_what_tags_cannot_teach_is_said(tmp_path, tags, advice):
    data = dataset(tmp_path, tags, names=("background", "cat", "dog"))
    assert advice in render_check(data, Findings())
    assert any(advice in line for line in json.loads(check_as_json(data, Findings()))["advice"])


def test_a_well_mixed_set_gets_no_advice(tmp_path):
    data = dataset(tmp_path, [(1,), (2,), (1, 2), ()] * 12, names=("background", "cat", "dog"))
    assert "Worth a look" not in render_check(data, Findings())


def test_many_problems_of_one_kind_are_cut_in_text_and_whole_in_json(tmp_path):
    problems = tuple(Problem("unreadable", f"images/{i}.jpg", "is empty " * 20, "skipped") for i in range(50))
    data = dataset(tmp_path, [(1,)] * 5)
    text = render_check(data, Findings(problems))
    assert "SKIPPED  unreadable (50)" in text
    assert "... and 30 more" in text
    assert max(map(len, text.splitlines())) <= 100
    assert len(json.loads(check_as_json(data, Findings(problems)))["problems"]) == 50


def test_refused_data_is_rendered_too(tmp_path):
    data, findings = inspect_data(tmp_path / "gone")
    assert data is None
    assert "REFUSED" in render_check(data, findings)
    assert "no such file" in render_check(data, findings)
    assert json.loads(check_as_json(data, findings))["usable"] is False


def test_the_drawn_set_is_clean(tmp_path):
    data, findings = inspect_data(make_toy(tmp_path, images=40, size=48), deep=True)
    assert findings.problems == ()
    assert (len(data.train), len(data.val)) == (30, 10)
    assert f"{tmp_path}" in render_check(data, findings)
