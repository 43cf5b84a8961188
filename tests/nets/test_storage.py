"""Networks on disk: the same bytes, the same outputs, and clear words for damaged folders."""

from __future__ import annotations

import json

import pytest
import torch

from tagmask.errors import RunError
from tagmask.nets import backbones
from tagmask.nets.backbones import Backbone, build_backbone
from tagmask.nets.classifier import Classifier
from tagmask.nets.segmenter import build_segmenter
from tagmask.nets.storage import describe, load_network, read_extra, save_network

TINY = Backbone("test_resnet", "none", 16, norm="frozen", mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))


def network(kind):
    if kind == "classifier":
        return Classifier(build_backbone(TINY), 3, convs=1, width=8).eval()
    if kind == "mobilenet":
        return build_segmenter("deeplab-v3", Backbone("mobilenetv2_035", "none", 8, pad_type="same"), 3, width=8).eval()
    return build_segmenter(kind, TINY, 3, width=8).eval()


@pytest.mark.parametrize("kind", ["classifier", "deeplab-v1", "deeplab-v2", "deeplab-v3", "mobilenet"])
def test_what_is_loaded_answers_as_what_was_saved(tmp_path, kind):
    saved = network(kind)
    save_network(saved, tmp_path / "a", extra={"classes": ["background", "Katze", "狗"]})
    save_network(saved, tmp_path / "b", extra={"classes": ["background", "Katze", "狗"]})
    for name in ("model.safetensors", "model.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["model.json", "model.safetensors"]
    loaded = load_network(tmp_path / "a")
    images = torch.rand(2, 3, 45, 61)
    assert torch.equal(saved(images), loaded(images))
    assert not loaded.training
    assert describe(loaded) == {**describe(saved), "backbone": {**describe(saved)["backbone"], "weights": "none"}}
    assert read_extra(tmp_path / "a") == {"classes": ["background", "Katze", "狗"]}


def test_channels_last_changes_no_byte(tmp_path):
    saved = network("deeplab-v3")
    save_network(saved, tmp_path / "a")
    save_network(saved.to(memory_format=torch.channels_last), tmp_path / "b")
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


def test_the_pretrained_file_is_not_needed_again(tmp_path, monkeypatch):
    weights = tmp_path / "secret place" / "w.pth"
    weights.parent.mkdir()
    torch.save(build_backbone(TINY).body.state_dict(), weights)
    saved = Classifier(build_backbone(Backbone("test_resnet", str(weights), 16)), 3)
    save_network(saved, tmp_path / "run")
    weights.unlink()
    monkeypatch.setattr(backbones, "download", None)
    loaded = load_network(tmp_path / "run")
    assert torch.equal(loaded.trunk.body.conv1[0].weight, saved.trunk.body.conv1[0].weight)
    assert loaded.trunk.description.norm == "frozen"
    written = (tmp_path / "run/model.json").read_text()
    assert '"w.pth"' in written
    assert "secret place" not in written


def edit(folder, **changes):
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-8])


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda f: (f / "model.json").unlink(), r"model\.json: missing"),
        (lambda f: (f / "model.safetensors").unlink(), r"model\.safetensors: cannot be read"),
        (lambda f: truncate(f / "model.safetensors"), r"model\.safetensors: damaged"),
        (lambda f: (f / "model.json").write_text("{"), r"model\.json"),
        (lambda f: (f / "model.json").write_text("[]"), "not the description"),
        (lambda f: edit(f, format=2), "format 2, this version reads 1"),
        (lambda f: edit(f, kind="traker"), "not the description"),
        (lambda f: edit(f, classes=5), "cannot be rebuilt"),
        (lambda f: edit(f, options={"widht": 8}), "cannot be rebuilt"),
        (lambda f: edit(f, backbone={"name": "resnet5"}), "cannot be rebuilt"),
    ],
)
def test_a_damaged_folder_is_named(tmp_path, harm, words):
    save_network(network("deeplab-v1"), tmp_path)
    harm(tmp_path)
    with pytest.raises(RunError, match=words) as caught:
        load_network(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_only_our_networks_are_saved(tmp_path):
    with pytest.raises(ValueError, match=r"expected one of .*Classifier, .*got Linear"):
        save_network(torch.nn.Linear(1, 1), tmp_path)
