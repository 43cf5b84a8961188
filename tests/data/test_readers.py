import json
import shutil
import unicodedata

import pytest

from tagmask.data import inspect_data, load_data
from tagmask.errors import DataError


def tags_of(data):
    return {
        sample.name: None if sample.tags is None else [data.classes[tag] for tag in sample.tags]
        for sample in data.samples
    }


def kinds(findings):
    return sorted({problem.kind for problem in findings.problems})


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


# --- native ----------------------------------------------------------------------------------------------------------


def test_native(tmp_path, draw, draw_mask):
    for name in ("a.jpg", "b.png", "sub/c.jpg", "d.jpg"):
        draw(tmp_path / "images" / name)
    draw_mask(tmp_path / "masks" / "sub/c.png", [0, 1])
    write(tmp_path / "tags.csv", "image,tags\na,cat dog\nb.png,\nimages/sub/c.jpg,dog\n")
    write(tmp_path / "splits" / "train.txt", "a\nsub/c\n")
    write(tmp_path / "splits" / "val.txt", "b.png\n")
    data = load_data(tmp_path)
    assert data.classes == ("background", "cat", "dog")
    assert tags_of(data) == {"a": ["cat", "dog"], "b": [], "d": None, "sub/c": ["dog"]}
    assert [sample.name for sample in data.train] == ["a", "sub/c"]
    assert [sample.name for sample in data.val] == ["b"]
    assert [sample.name for sample in data.samples if sample.mask] == ["sub/c"]
    assert load_data(tmp_path / "tags.csv") == data
    assert load_data(str(tmp_path)) == data


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (["traffic light;car", "traffic light"], [["traffic light", "car"], ["traffic light"]]),
        (["traffic light | car", "car|"], [["traffic light", "car"], ["car"]]),
        (["traffic light", "car"], [["traffic light"], ["car"]]),
        (['"traffic light, car"', "car"], [["traffic light", "car"], ["car"]]),
        (["traffic light,car", "car"], [["traffic light", "car"], ["car"]]),
    ],
)
def test_names_with_spaces(tmp_path, draw, column, expected):
    write(tmp_path / "classes.txt", "traffic light\ncar\n")
    write(tmp_path / "tags.csv", "image,tags\n" + "".join(f"{i},{cell}\n" for i, cell in enumerate(column)))
    for index in range(2):
        draw(tmp_path / "images" / f"{index}.png")
    assert list(tags_of(load_data(tmp_path)).values()) == expected


@pytest.mark.parametrize("first", ["background\n", "", "__background__\n"])
def test_classes_txt_fixes_the_ids(tmp_path, draw, first):
    draw(tmp_path / "images/a.png")
    write(tmp_path / "tags.csv", "image,tags\na,dog\n")
    write(tmp_path / "classes.txt", first + "zebra\ndog\nant\n")
    data = load_data(tmp_path)
    assert data.classes == ("background", "zebra", "dog", "ant")
    assert data.samples[0].tags == (2,)


def test_a_tag_that_classes_txt_lacks_is_refused(tmp_path, draw):
    draw(tmp_path / "images/a.png")
    write(tmp_path / "tags.csv", "image,tags\na,dgo\n")
    write(tmp_path / "classes.txt", "dog\n")
    with pytest.raises(DataError, match=r"dgo: .*not in the list of classes \(did you mean 'dog'\?\)"):
        load_data(tmp_path)
    assert inspect_data(tmp_path)[0] is None


def test_masks_without_a_background_in_classes_txt_are_wondered_about(tmp_path, draw, draw_mask):
    draw(tmp_path / "images/a.png")
    draw_mask(tmp_path / "masks/a.png", [0, 1])
    write(tmp_path / "tags.csv", "image,tags\na,sky\n")
    write(tmp_path / "classes.txt", "sky\nroad\n")
    assert "class order" in kinds(inspect_data(tmp_path)[1])


def test_semicolon_tables_and_byte_order_marks(tmp_path, draw):
    draw(tmp_path / "images/a.png")
    (tmp_path / "tags.csv").write_text("Image;Tags\r\na;cat|dog\r\n", encoding="utf-8-sig")
    assert tags_of(load_data(tmp_path)) == {"a": ["cat", "dog"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "names nothing"), ("photo,words\na,b\n", "names photo, words; expected the columns image,tags")],
)
def test_tables_not_understood(tmp_path, draw, text, message):
    draw(tmp_path / "images/a.png")
    write(tmp_path / "tags.csv", text)
    with pytest.raises(DataError, match=message):
        load_data(tmp_path)
    (tmp_path / "tags.csv").write_bytes(b"image,tags\na,caf\xe9\n")
    with pytest.raises(DataError, match="is not UTF-8"):
        load_data(tmp_path)


def test_non_ascii_names_in_both_unicode_forms(tmp_path, draw):
    composed, split = unicodedata.normalize("NFC", "chât"), unicodedata.normalize("NFD", "chât")
    draw(tmp_path / "images" / f"{split}1.png")
    draw(tmp_path / "images" / f"{composed}2.png")
    draw(tmp_path / "images/日本.png")
    write(tmp_path / "tags.csv", f"image,tags\n{composed}1,{split}\n{split}2.png,{composed}\n日本,犬\n")
    data = load_data(tmp_path)
    assert tags_of(data) == {f"{composed}1": [composed], f"{composed}2": [composed], "日本": ["犬"]}


def test_a_sub_folder_in_the_row_is_never_taken_for_another(tmp_path, draw):
    draw(tmp_path / "images/dog/1.png")
    draw(tmp_path / "images/2.png")
    write(tmp_path / "tags.csv", "image,tags\ncat/1,cat\nphotos/2.png,cat\n1,dog\n")
    data, findings = inspect_data(tmp_path)
    assert tags_of(data) == {"dog/1": ["dog"], "2": ["cat"]}
    assert kinds(findings) == ["row without image"]


def test_pictures_of_one_name_are_refused(tmp_path, draw):
    draw(tmp_path / "images/a.png")
    draw(tmp_path / "images/a.jpg")
    write(tmp_path / "tags.csv", "image,tags\na,cat\n")
    with pytest.raises(DataError, match=r"a\.png: shares its name with images/a\.jpg"):
        load_data(tmp_path)


# --- a folder for each class -----------------------------------------------------------------------------------------


def test_folder_per_class(tmp_path, draw):
    draw(tmp_path / "cat/1.png", fill=1)
    draw(tmp_path / "dog/1.png", fill=2)  # other bytes: another image
    draw(tmp_path / "cat/both.png", fill=3)
    draw(tmp_path / "dog/both.png", fill=3)  # the same bytes: one image of two tags
    draw(tmp_path / "none/n.png")
    draw(tmp_path / "Negative/m.png")
    draw(tmp_path / "loose.png")
    (tmp_path / "cat/.DS_Store").touch()
    (tmp_path / "cat/notes.txt").touch()
    data, findings = inspect_data(tmp_path)
    assert data.reader == "folder per class"
    assert tags_of(data) == {
        "cat/1": ["cat"],
        "dog/1": ["dog"],
        "cat/both": ["cat", "dog"],
        "none/n": [],
        "Negative/m": [],
        "loose": None,
    }
    assert [problem.where for problem in findings.problems] == ["loose.png"]


def test_folder_per_class_in_splits(tmp_path, draw):
    for split, name in (("train", "cat/1"), ("train", "dog/2"), ("valid", "cat/3"), ("test", "dog/4")):
        draw(tmp_path / split / f"{name}.png")
    data = load_data(tmp_path)
    assert {name: len(members) for name, members in data.splits.items()} == {"train": 2, "val": 1, "test": 1}
    assert [sample.name for sample in data.val] == ["valid/cat/3"]
    assert data.classes == ("background", "cat", "dog")
    shutil.rmtree(tmp_path / "valid")
    assert [sample.name for sample in load_data(tmp_path).train] == ["train/cat/1", "train/dog/2"]


def test_a_picture_that_is_a_negative_and_not_keeps_its_tag(tmp_path, draw):
    draw(tmp_path / "cat/1.png", fill=3)
    draw(tmp_path / "none/1.png", fill=3)
    data, findings = inspect_data(tmp_path)
    assert tags_of(data) == {"cat/1": ["cat"]}
    assert kinds(findings) == ["contradiction"]


# --- VOC -------------------------------------------------------------------------------------------------------------


def voc(root, draw, draw_mask):
    objects = {
        "2007_1": [("person", 0), ("dog", 0), ("dog", 0)],
        "2007_2": [("cat", 1)],
        "2007_3": [],
    }
    for name, entries in objects.items():
        draw(root / f"JPEGImages/{name}.jpg")
        body = "".join(f"<object><name>{word}</name><difficult>{hard}</difficult></object>" for word, hard in entries)
        write(root / f"Annotations/{name}.xml", f"<annotation>{body}</annotation>")
    draw(root / "JPEGImages/2007_4.jpg")
    draw_mask(root / "SegmentationClass/2007_1.png", [0, 12, 15, 255])
    write(root / "ImageSets/Segmentation/train.txt", "2007_1\n/JPEGImages/2007_2.jpg /SegmentationClass/2007_2.png\n")
    write(root / "ImageSets/Segmentation/val.txt", "2007_3\n")
    return root


@pytest.mark.parametrize("inner", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_voc_is_found_at_each_level(tmp_path, draw, draw_mask, inner):
    voc(tmp_path / inner, draw, draw_mask)
    data, findings = inspect_data(tmp_path, deep=True)
    assert len(data.classes) == 21
    assert (data.classes[12], data.classes[15]) == ("dog", "person")
    assert tags_of(data) == {"2007_1": ["dog", "person"], "2007_2": ["cat"], "2007_3": [], "2007_4": None}
    assert [sample.name for sample in data.train] == ["2007_1", "2007_2"]
    assert kinds(findings) == ["image without row"]
    assert tags_of(load_data(tmp_path, difficult=False))["2007_2"] == []


def test_voc_with_broken_annotations_and_two_years(tmp_path, draw, draw_mask):
    voc(tmp_path / "VOC2012", draw, draw_mask)
    write(tmp_path / "VOC2012/Annotations/2007_2.xml", "<annotation><object>")
    data, findings = inspect_data(tmp_path)
    assert tags_of(data)["2007_2"] is None
    assert "annotation" in kinds(findings)
    voc(tmp_path / "VOC2007", draw, draw_mask)
    with pytest.raises(DataError, match="holds VOC2007, VOC2012; point at one"):
        load_data(tmp_path)


# --- COCO ------------------------------------------------------------------------------------------------------------


def coco_json(path, images, annotations, categories=((18, "dog"), (1, "person"), (90, "toothbrush"))):
    content = {
        "images": [{"id": key, "file_name": name} for key, name in images],
        "categories": [{"id": key, "name": name} for key, name in categories],
    }
    if annotations is not None:
        content["annotations"] = [
            {"id": i, "image_id": image, "category_id": category, "iscrowd": crowd, "bbox": [0, 0, 2, 2]}
            for i, (image, category, crowd) in enumerate(annotations)
        ]
    write(path, json.dumps(content))


def test_coco(tmp_path, draw):
    for name in ("train2017/1.jpg", "train2017/2.jpg", "val2017/3.jpg", "train2017/4.jpg"):
        draw(tmp_path / name)
    images = [(1, "1.jpg"), (2, "2.jpg"), (4, "4.jpg"), (5, "gone.jpg")]
    coco_json(tmp_path / "annotations/instances_train2017.json", images, [(1, 18, 0), (1, 1, 1), (2, 18, 0), (9, 1, 0)])
    coco_json(tmp_path / "annotations/instances_val2017.json", [(3, "3.jpg")], [(3, 1, 0)])
    data, findings = inspect_data(tmp_path)
    assert data.classes == ("background", "person", "dog")  # by category id; nobody has a toothbrush
    assert tags_of(data) == {
        "train2017/1": ["person", "dog"],
        "train2017/2": ["dog"],
        "train2017/4": [],
        "val2017/3": ["person"],
    }
    assert [sample.name for sample in data.val] == ["val2017/3"]
    assert all(sample.mask is None for sample in data.samples)
    assert kinds(findings) == ["annotation", "category", "masks", "row without image"]
    one = load_data(tmp_path / "annotations/instances_val2017.json")
    assert list(tags_of(one)) == ["val2017/3"]


def test_coco_as_roboflow_writes_it_and_with_unknown_tags(tmp_path, draw):
    for name in ("train/a.jpg", "valid/b.jpg"):
        draw(tmp_path / name)
    coco_json(tmp_path / "train/_annotations.coco.json", [(0, "a.jpg")], [(0, 1, 0)])
    coco_json(tmp_path / "valid/_annotations.coco.json", [(0, "b.jpg")], None)
    data = load_data(tmp_path)
    assert tags_of(data) == {"train/a": ["person"], "valid/b": None}
    assert [sample.name for sample in data.val] == ["valid/b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is not JSON"), ("[]", "is no COCO file"), ('{"images": [{"id": 1}]}', "images lacks file_name or id")],
)
def test_json_files_not_understood(tmp_path, text, message):
    write(tmp_path / "x.json", text)
    with pytest.raises(DataError, match=message):
        load_data(tmp_path / "x.json")


# --- tables ----------------------------------------------------------------------------------------------------------


def test_table_with_a_column_for_each_class(tmp_path, draw, draw_mask):
    for name in ("p/a.jpg", "p/b.jpg", "p/c.jpg"):
        draw(tmp_path / name)
    draw_mask(tmp_path / "m/a.png", [0, 1])
    text = (
        "filename,Sea lion,cat,age,split,mask\np/a.jpg,1,0,7,train,m/a.png\np/b.jpg,0,0,8,valid,\nx.jpg,1,1,9,train,\n"
    )
    write(tmp_path / "list.csv", text)
    data, findings = inspect_data(tmp_path)
    assert tags_of(data) == {"p/a": ["Sea lion"], "p/b": [], "p/c": None}
    assert [sample.name for sample in data.val] == ["p/b"]
    assert next(sample for sample in data.samples if sample.name == "p/a").mask == tmp_path / "m/a.png"
    assert kinds(findings) == ["class order", "image without row", "row without image"]


def test_tsv_and_jsonl(tmp_path, draw):
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        draw(tmp_path / name)
    write(tmp_path / "x.tsv", "path\tlabels\na.jpg\tcat;dog\nb.jpg\t\nc.jpg\tcat\n")
    expected = {"a": ["cat", "dog"], "b": [], "c": ["cat"]}
    assert tags_of(load_data(tmp_path)) == expected
    rows = [{"image": "a.jpg", "tags": ["cat", "dog"]}, {"image": "b.jpg", "tags": []}, {"image": "c", "tags": "cat"}]
    write(tmp_path / "x.jsonl", "\n".join(map(json.dumps, rows)))
    assert tags_of(load_data(tmp_path / "x.jsonl")) == expected
    with pytest.raises(DataError, match=r"several tables \(x\.jsonl, x\.tsv\); name the one"):
        load_data(tmp_path)
    write(tmp_path / "y.jsonl", '{"image": "a.jpg", "tags": ["cat"]}\n{"tags": ["dog"]}')
    data, findings = inspect_data(tmp_path / "y.jsonl")
    assert tags_of(data)["a"] == ["cat"]
    assert "row without image" in kinds(findings)
    write(tmp_path / "x.jsonl", "{")
    with pytest.raises(DataError, match="line 1 is not JSON"):
        load_data(tmp_path / "x.jsonl")


def test_table_of_pictures_elsewhere(tmp_path, draw):
    near, far = draw(tmp_path / "photos/cat/1.jpg"), draw(tmp_path / "photos/dog/1.jpg")
    write(tmp_path / "lists/x.csv", f"image,tags\n{near},cat\n../photos/dog/1.jpg,dog\n")
    data = load_data(tmp_path / "lists/x.csv")
    assert sorted(sample.image for sample in data.samples) == [near, far]
    assert len({sample.name for sample in data.samples}) == 2


def test_table_without_tags(tmp_path, draw):
    draw(tmp_path / "a.jpg")
    write(tmp_path / "x.csv", "image,width\na.jpg,24\n")
    with pytest.raises(DataError, match="no column of tags"):
        load_data(tmp_path)


# --- none of these ---------------------------------------------------------------------------------------------------


def test_other_folders_are_refused_with_what_is_expected(tmp_path, draw):
    with pytest.raises(DataError, match="no such file or folder"):
        load_data(tmp_path / "gone")
    with pytest.raises(DataError, match="0 images and no tags; expected images/ with tags"):
        load_data(tmp_path)
    draw(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="1 images and no tags"):
        load_data(tmp_path)
    with pytest.raises(DataError, match="a single file"):
        load_data(tmp_path / "a.jpg")
