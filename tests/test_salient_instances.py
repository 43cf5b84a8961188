"""Instances by whoever found them, and what attention sees in each."""

import json

import numpy as np
import pytest
from PIL import Image

from tagmask.errors import OptionError
from tagmask.refine.boxes import box_of, mask_of, packed
from tagmask.salient_instances import attended, checked_instances, cut_salient, instances_supervision, salient_instances
from tagmask.types import Activation, Boxes, Saliency

CUT = {"salient": 0.5, "smallest": 0.01, "split": 0.5}


def scene():
    """Two objects in one salient piece, which the maps of two classes tell apart, and a third apart."""
    unit, maps = np.full((20, 30), 0.1), np.zeros((2, 20, 30), dtype=np.float32)
    unit[5:15, 2:18], unit[8:12, 24:28] = 1.0, 0.8
    maps[0, 8:12, 4:7], maps[1, 8:12, 13:16], maps[1, 9, 25] = 0.9, 0.7, 0.4
    return Saliency.of(unit), Activation(maps, (2, 5))


def test_salient_pieces_are_split_by_the_seeds_in_them():
    saliency, activation = scene()
    found = cut_salient(saliency, activation, **CUT)
    assert found.size == (20, 30)
    assert found.boxes.tolist() == [[2, 5, 10, 15], [10, 5, 18, 15], [24, 8, 28, 12]]
    assert found.classes == (0, 0, 0)
    assert [mask_of(found, index).sum() for index in range(3)] == [80, 80, 16]
    for changed, count in (({"split": 0.0}, 2), ({"split": 0.8}, 2), ({"smallest": 0.05}, 2), ({"salient": 0.9}, 2)):
        assert len(cut_salient(saliency, activation, **{**CUT, **changed})) == count
    nothing = cut_salient(
        Saliency(np.zeros((4, 5), dtype=np.uint8)), Activation(np.zeros((0, 4, 5), np.float32), ()), **CUT
    )
    assert len(nothing) == 0


@pytest.mark.parametrize("over", ["box", "mask"])
def test_attention_is_the_mean_over_the_box_or_the_mask(over):
    random = np.random.default_rng(0)
    masks = [random.random((20, 30)) < share for share in (0.01, 0.02, 0.5)]
    boxes = np.array([box_of(mask) for mask in masks], dtype=np.int32)
    instances = Boxes(boxes, np.ones(3, dtype=np.float32), (0, 0, 0), (20, 30), packed(masks))
    activation = Activation(random.random((2, 20, 30)).astype(np.float32), (2, 5))
    told = attended(instances, activation, over=over)
    assert told["tags"] == [2, 5]
    assert told["boxes"] == boxes.tolist()
    for n, (mask, (x0, y0, x1, y1)) in enumerate(zip(masks, boxes, strict=True)):
        for k in range(2):
            if over == "box":
                total = sum(float(activation.maps[k, y, x]) for y in range(y0, y1) for x in range(x0, x1))
                expected = total / ((x1 - x0) * (y1 - y0))
            else:
                expected = float(activation.maps[k][mask].mean())
            assert told["scores"][n][k] == pytest.approx(expected, abs=2e-6)
    assert json.loads(json.dumps(told)) == told
    without = attended(instances, Activation(activation.maps[:0], ()), over=over)
    assert without["scores"] == [[], [], []]


def test_the_users_own(toy, work, tmp_path):
    for sample in toy.train:
        ids = np.zeros((48, 48), dtype=np.uint8)
        ids[4:10, 8:20], ids[20:40, 2:6] = 3, 200
        Image.fromarray(ids).save(tmp_path / f"{sample.name}.png")
    found = salient_instances(work, toy.train, str(tmp_path), None, None, **CUT)
    assert found[toy.train[0].name].boxes.tolist() == [[8, 4, 20, 10], [2, 20, 6, 40]]
    assert instances_supervision(str(tmp_path), "mbd") == "instances of the user's"
    assert instances_supervision("saliency", "mbd") == "none"
    assert instances_supervision("saliency", str(tmp_path)) == "saliency maps of the user's"


@pytest.mark.parametrize("source", ["salency", "selective-search", "nowhere/instances.json"])
def test_what_is_no_source_is_refused(source):
    with pytest.raises(
        OptionError, match=r"expected saliency, a COCO json file" if source != "salency" else "did you mean"
    ):
        checked_instances(source)


def test_what_is_no_area_is_refused():
    with pytest.raises(OptionError, match="did you mean 'box'"):
        attended(cut_salient(*scene(), **CUT), scene()[1], over="boxes")
