import warnings

import pytest
from PIL import Image

from tagmask.data import inspect_data, load_data, load_photo, render_check
from tagmask.errors import DataError, OptionError


@pytest.fixture
def data(tmp_path, draw):
    """Twenty images: 0-11 in train, 12-15 in val, 0-3 in few, 16-17 in no split, 18-19 in test."""
    splits = {"train": range(12), "val": range(12, 16), "few": range(4), "test": range(18, 20)}
    for index in range(20):
        draw(tmp_path / f"images/{index:02d}.png")
    (tmp_path / "tags.csv").write_text(
        "image,tags\n" + "".join(f"{i:02d},{'cat' if i % 2 else 'dog'}\n" for i in range(20))
    )
    (tmp_path / "splits").mkdir()
    for name, members in splits.items():
        (tmp_path / f"splits/{name}.txt").write_text("".join(f"{index:02d}\n" for index in members))
    return tmp_path


def names(samples):
    return [int(sample.name) for sample in samples]


def test_default_splits_keep_everything(data):
    loaded = load_data(data)
    assert len(loaded.samples) == 20
    assert names(loaded.train) == list(range(12))
    assert names(loaded.val) == [12, 13, 14, 15]


def test_a_chosen_train_split_leaves_out_what_only_others_name(data):
    loaded = load_data(data, train_split="few")
    assert names(loaded.train) == [0, 1, 2, 3]
    assert names(loaded.samples) == [0, 1, 2, 3, 12, 13, 14, 15, 16, 17]


def test_splits_that_are_not_there(data):
    with pytest.raises(DataError, match=r"no split 'fwe' \(did you mean 'few'\?\); there are: few, test, train, val"):
        load_data(data, train_split="fwe")
    with pytest.raises(DataError, match="no split 'dev'"):
        load_data(data, val_split="dev")
    with pytest.raises(DataError, match="cannot both train and validate"):
        load_data(data, val_split="train")
    for file in (data / "splits").iterdir():
        file.unlink()
    assert len(load_data(data).train) == 20


def test_what_validates_is_never_trained_on(data):
    (data / "splits/few.txt").write_text("00\n12\n99\n")
    loaded, findings = inspect_data(data, train_split="few")
    assert names(loaded.train) == [0]
    messages = [problem.message for problem in findings.problems if problem.kind == "split"]
    assert any("'99'" in message for message in messages)
    assert any("1 of its images are in 'val' too" in message for message in messages)


def test_limit_keeps_evenly_spread_images(data):
    loaded = load_data(data, limit=3)
    assert names(loaded.train) == [0, 4, 8]
    assert names(loaded.val) == [12, 13, 14]
    assert len(load_data(data, limit=999).train) == 12
    assert len(load_data(data, limit=999).samples) == 16
    with pytest.raises(OptionError, match="limit 0"):
        load_data(data, limit=0)


def test_no_tags_at_all_is_refused_and_masks_alone_are_not(tmp_path, draw, draw_mask):
    draw(tmp_path / "images/a.png")
    (tmp_path / "classes.txt").write_text("cat\n")
    with pytest.raises(DataError, match="1 images but no tag for any"):
        load_data(tmp_path)
    draw_mask(tmp_path / "masks/a.png", [0, 1])
    loaded = load_data(tmp_path)
    assert loaded.samples[0].mask is not None
    assert loaded.train == ()


def test_words_for_nothing_make_negatives(tmp_path, draw):
    for index in range(3):
        draw(tmp_path / f"images/{index}.png")
    (tmp_path / "tags.csv").write_text("image,tags\n0,cat background\n1,none\n2,\n")
    loaded = load_data(tmp_path)
    assert loaded.classes == ("background", "cat")
    assert [sample.tags for sample in loaded.samples] == [(1,), (), ()]


def test_loading_decodes_nothing(data, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("a picture was decoded"))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("a picture was decoded"))
    assert len(load_data(data).samples) == 20


# --- the nasty folder ------------------------------------------------------------------------------------------------


EXPECTED = {  # where: kind, effect, what the message says
    "images/text.jpg": ("unreadable", "skipped", "not a picture"),
    "images/empty.jpg": ("unreadable", "skipped", "empty"),
    "images/phone.heic": ("format", "skipped", "convert it"),
    "images/tiny.png": ("too small", "skipped", "1x1 pixels; at least 16"),
    "images/no_row.png": ("image without row", "warning", "unknown"),
    "images/twice.png": ("duplicate rows", "warning", "counted once"),
    "images/contrary.png": ("duplicate rows", "warning", "differ; all their tags are taken: dog cat"),
    "tags.csv": ("row without image", "skipped", "'gone'"),
    "cat": ("spelling", "warning", "'cat' (10 images), 'Cat' (1 images)"),
    "masks/small_mask.png": ("mask", "skipped", "is 12x10, its image 24x20"),
    "masks/rgb_mask.png": ("mask", "skipped", "is a RGB picture"),
    "masks/lonely.png": ("mask without image", "skipped", "no image"),
    "masks": ("class order", "warning", "sorted"),
}
DEEP = {
    "images/cut.jpg": ("unreadable", "skipped", "truncated"),
    "masks/wild_mask.png": ("mask", "skipped", "ids 77"),
    "masks/good.png": ("mask and tags", "warning", "shows dog, the tags say cat"),
}


@pytest.mark.parametrize("deep", [False, True])
def test_each_nasty_thing_is_named_and_done_as_said(nasty, deep):
    data, findings = inspect_data(nasty, deep=deep)
    said = {problem.where: problem for problem in findings.problems}
    expected = EXPECTED | (DEEP if deep else {})
    assert set(said) == set(expected)
    for where, (kind, effect, words) in expected.items():
        assert (said[where].kind, said[where].effect) == (kind, effect)
        assert words in said[where].message
    kept = {sample.name for sample in data.samples}
    gone = {"text", "empty", "tiny", *(["cut"] if deep else [])}
    good = {"good", "other", "Ärger", "twice", "contrary", "no_row", "small_mask", "rgb_mask", "wild_mask", "huge"}
    assert kept == good | ({"cut"} - gone)
    with_mask = {sample.name for sample in data.samples if sample.mask}
    assert with_mask == ({"good"} if deep else {"good", "wild_mask"})
    tags = {sample.name: sample.tags for sample in data.samples}
    assert data.classes == ("background", "cat", "dog")
    assert (tags["contrary"], tags["twice"], tags["no_row"], tags["other"]) == ((1, 2), (2,), None, (1, 2))
    text = render_check(data, findings)
    assert all(where in text for where in expected)
    assert max(map(len, text.splitlines())) <= 100


def test_load_skips_what_check_says_and_reading_names_the_truncated_file(nasty):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_data(nasty)
    assert data == inspect_data(nasty)[0]
    cut = next(sample for sample in data.samples if sample.name == "cut")
    with pytest.raises(DataError, match=r"cut\.jpg: is truncated"):
        load_photo(cut)


def test_nothing_usable_is_refused(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "tags.csv").write_text("image,tags\na,cat\n")
    with pytest.raises(DataError, match="no image found"):
        load_data(tmp_path)
    (tmp_path / "images/a.jpg").touch()
    with pytest.raises(DataError, match="none of its 1 images can be used"):
        load_data(tmp_path)


def test_a_mask_of_0_and_255_is_wondered_about(tmp_path, draw, draw_mask):
    draw(tmp_path / "images/a.png")
    draw_mask(tmp_path / "masks/a.png", [0, 255])
    (tmp_path / "classes.txt").write_text("background\ncat\n")
    (tmp_path / "tags.csv").write_text("image,tags\na,cat\n")
    assert inspect_data(tmp_path)[1].problems == ()
    (problem,) = inspect_data(tmp_path, deep=True)[1].problems
    assert "255 means unknown" in problem.message
