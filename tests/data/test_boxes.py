"""Boxes from every layout that has them: whole pixels of the upright image, ends excluded, odd ones named."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tagmask.cli import main
from tagmask.data import inspect_data, load_data
from tagmask.data.novel import guarded, with_novel
from tagmask.data.photos import DrawnBoxes
from tagmask.errors import DataError
from tagmask.types import Sample


@pytest.fixture
def native(tmp_path, draw):
    """Two photos of 24 x 20 with tags; what is given goes into boxes.csv."""
    for name in ("a", "sub/b"):
        draw(tmp_path / "images" / f"{name}.png")
    (tmp_path / "tags.csv").write_text("image,tags\na,cat\nsub/b,dog\n")

    def write(rows, header="image,class,x0,y0,x1,y1"):
        (tmp_path / "boxes.csv").write_text("\n".join([header, *rows]) + "\n")
        return tmp_path

    return write


def boxes_of(data):
    return {sample.name: sample.boxes for sample in data.samples if sample.boxes}


def said(findings, kind):
    return [problem.message for problem in findings.problems if problem.kind == kind]


def test_boxes_csv(native):
    rows = ["a,cat,1,2,8,9", "images/a.png,Cat,0.4,-1,24,20", "sub/b,,3,4,5,6.6"]
    data, findings = inspect_data(native(rows))
    assert boxes_of(data) == {"a": ((1, 1, 2, 8, 9), (1, 0, 0, 24, 20)), "sub/b": ((0, 3, 4, 5, 7),)}
    assert not findings.problems
    without = load_data(native(["a,1,2,8,9"], header="image,x0,y0,x1,y1"))
    assert boxes_of(without) == {"a": ((0, 1, 2, 8, 9),)}
    assert not boxes_of(load_data(native([])))


def test_odd_rows_are_named_and_left_out(native):
    rows = [
        "gone,cat,1,2,8,9",
        "a,cat,one,2,8,9",
        "a,cat,8,2,8,9",
        "a,cat,1,2,40,9",
        "a,cat,1,2,26,9",
        "a,cat,-5,2,8,9",
    ]
    data, findings = inspect_data(native(rows))
    assert boxes_of(data) == {"a": ((1, 1, 2, 24, 9),)}
    assert said(findings, "row without image") == ["line 2 names 'gone', and there is no such image"]
    assert [message.partition(":")[0] for message in said(findings, "box")] == [
        *(f"line {number} holds no box" for number in (3, 4, 7)),
        "1 of 2 boxes leave its 24x20 pixels; they are left out",
    ]
    data, findings = inspect_data(native(["a,cta,1,2,8,9", "a,dog,1,2,8,9"]))
    assert boxes_of(data) == {"a": ((0, 1, 2, 8, 9), (2, 1, 2, 8, 9))}
    assert said(findings, "box") == [
        "a box is of 'cta', which is no class (did you mean 'cat'?); taken as of something"
    ]
    assert said(findings, "box and tags") == ["has a box of 'dog', and no such tag"]
    with pytest.raises(DataError, match="expected image,class,x0,y0,x1,y1"):
        load_data(native(["a,cat,1,2,3,4"], header="image,class,x,y,width,height"))


def voc(root, draw, entries, size=""):
    draw(root / "JPEGImages/1.jpg")
    body = "".join(
        f"<object><name>{name}</name><difficult>{hard}</difficult><part><name>head</name><bndbox><xmin>1</xmin></bndbox>"
        f"</part><bndbox>{''.join(f'<{k}>{v}</{k}>' for k, v in zip(('xmax', 'xmin', 'ymax', 'ymin'), box, strict=True))}"
        "</bndbox></object>"
        for name, hard, box in entries
    )
    (root / "Annotations").mkdir(exist_ok=True)
    (root / "Annotations/1.xml").write_text(f"<annotation>{size}{body}</annotation>")
    return root


def test_voc_counts_from_one_and_its_last_pixel_is_inside(tmp_path, draw):
    entries = [("cat", 0, (24, 1, 20, 1)), ("dog", 1, (9, 3, 8, 4.2)), ("cat", 0, (5, 5, "x", 2))]
    data, findings = inspect_data(voc(tmp_path, draw, entries, "<size><width>24</width><height>20</height></size>"))
    cat, dog = data.classes.index("cat"), data.classes.index("dog")
    assert boxes_of(data) == {"1": ((cat, 0, 0, 24, 20), (dog, 2, 3, 9, 8))}
    assert said(findings, "box") == ["cat has no box but 5, 2, 5, x"]
    assert boxes_of(load_data(tmp_path, difficult=False)) == {"1": ((cat, 0, 0, 24, 20),)}


@pytest.mark.parametrize(("size", "words"), [((20, 24), "turned by EXIF"), ((48, 40), "boxes are of 48x40; they are")])
def test_boxes_of_another_size_are_left_out(tmp_path, draw, size, words):
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    data, findings = inspect_data(voc(tmp_path, draw, [("cat", 0, (9, 3, 8, 4))], stated))
    assert not boxes_of(data)
    assert data.samples[0].tags
    assert words in said(findings, "box")[0]


def test_boxes_are_of_the_upright_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 20)).save(tmp_path / "images/a.jpg", exif=exif)  # upright: 20 wide, 40 high
    (tmp_path / "tags.csv").write_text("image,tags\na,cat\n")
    (tmp_path / "boxes.csv").write_text("image,class,x0,y0,x1,y1\na,cat,2,25,18,39\na,cat,25,2,39,18\n")
    data, findings = inspect_data(tmp_path)
    assert boxes_of(data) == {"a": ((1, 2, 25, 18, 39),)}
    assert said(findings, "box") == ["1 of 2 boxes leave its 20x40 pixels; they are left out"]
    drawn = DrawnBoxes(data.samples)["a"]
    assert drawn.size == (40, 20)


def test_coco(tmp_path, draw):
    draw(tmp_path / "images/1.jpg")
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 24, "height": 20}],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "bbox": [2.2, 3, 4, 5.9]},
            {"id": 2, "image_id": 1, "category_id": 3, "bbox": [0, 0, 0, 0]},
            {"id": 3, "image_id": 1, "category_id": 3},
            {"id": 4, "image_id": 1, "category_id": 3, "bbox": [1, 2, "wide", 4]},
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    data, findings = inspect_data(tmp_path)
    assert data.classes == ("background", "cat", "dog")
    assert boxes_of(data) == {"1": ((2, 2, 3, 6, 9),)}
    assert data.samples[0].tags == (1, 2)
    assert len(said(findings, "box")) == 2
    assert "4 annotations are read as tags and boxes" in said(findings, "masks")[0]
    content["images"][0]["width"] = 240
    (tmp_path / "instances.json").write_text(json.dumps(content))
    assert not boxes_of(load_data(tmp_path))


@pytest.mark.parametrize("box", [(1, 4, 0, 4, 2), (1, -1, 0, 4, 2), (255, 0, 0, 4, 2), (1, 0, 2, 4, 2)])
def test_impossible_boxes_are_refused_at_birth(tmp_path, box):
    with pytest.raises(ValueError, match="a box of 'a' must be a class id"):
        Sample("a", tmp_path / "a.png", (1,), boxes=(box,))


def boxed(toy):
    """The drawn photos, each with a box of its every tag, and one of a class that nobody tagged."""
    return replace(
        toy,
        samples=tuple(
            replace(s, boxes=(*((tag, 1, 1, 9, 9) for tag in s.tags), (2, 20, 20, 30, 30)), mask=None)
            for s in toy.samples
        ),
    )


def test_no_method_sees_more_boxes_than_masks(toy):
    data = with_novel(boxed(toy), toy.classes[2])
    assert not any(sample.boxes for sample in guarded(data, "none").samples)
    all_boxes, base = guarded(data, "masks"), guarded(data, "masks of the base classes")
    assert all(sample.boxes for sample in all_boxes.train)
    assert not any(sample.boxes for sample in all_boxes.val)
    seen = [sample for sample in base.train if sample.boxes]
    assert 0 < len(seen) < len(data.train)
    assert {sample.name for sample in seen} == {sample.name for sample in data.train if 2 not in sample.tags}
    untold = replace(data, samples=tuple(replace(sample, tags=None) for sample in data.samples))
    assert not any(sample.boxes for sample in guarded(untold, "masks of the base classes").samples)


def test_a_novel_box_in_a_base_photo_is_unknown(toy):
    base = guarded(with_novel(boxed(toy), toy.classes[2]), "masks of the base classes")
    sample = next(sample for sample in base.train if sample.boxes)
    hidden, plain = DrawnBoxes([sample]), DrawnBoxes([replace(sample, hidden=())])
    assert hidden[sample.name].classes == (*sample.tags, 255)
    assert plain[sample.name].classes == (*sample.tags, 2)
    assert hidden.key_of(sample.name) != plain.key_of(sample.name)
    np.testing.assert_array_equal(hidden[sample.name].boxes[-1], [20, 20, 30, 30])
    assert hidden[sample.name].size == (48, 48)


def test_check_counts_the_boxes(native, capsys):
    folder = native(["a,cat,1,2,8,9", "a,cat,1,2,8,10", "sub/b,dog,0,0,9,9"])
    assert main(["check", str(folder)]) == 0
    assert "boxes           3 in 2 images" in capsys.readouterr().out
    assert main(["check", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["boxes"] == 3
