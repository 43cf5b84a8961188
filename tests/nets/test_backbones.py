"""Trunks: shapes, normalisation, frozen statistics, weights files and every error at the door."""

from __future__ import annotations

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.nn.modules.batchnorm import _BatchNorm

from tagmask.errors import OptionError
from tagmask.nets import backbones
from tagmask.nets.backbones import Backbone, build_backbone
from tagmask.nets.vgg import VGG16, subsample_fully_connected

SCRATCH = {
    "test_resnet": build_backbone(Backbone("test_resnet", "none", 16)).eval(),
    "test_convnext": build_backbone(Backbone("test_convnext", "none", 16)).eval(),
}


@pytest.mark.parametrize("name", ["test_resnet", "mobilenetv2_035", "resnet18", "vgg16"])
@pytest.mark.parametrize("stride", [8, 16, 32])
def test_the_last_map_has_the_output_stride(name, stride):
    trunk = build_backbone(Backbone(name, "none", stride)).eval()
    with torch.no_grad():
        maps = trunk(torch.rand(1, 3, 65, 64))
    assert tuple(m.shape[1] for m in maps) == trunk.channels
    assert maps[-1].shape[2:] == (-(-65 // stride), 64 // stride)
    assert trunk.output_stride == stride
    sides = [m.shape[2] for m in maps]
    assert sides == sorted(sides, reverse=True)


@settings(deadline=None, max_examples=12)
@given(height=st.integers(1, 70), width=st.integers(1, 70), name=st.sampled_from(sorted(SCRATCH)))
def test_images_of_any_size_give_a_grid_of_at_least_one_cell(height, width, name):
    with torch.no_grad():
        maps = SCRATCH[name](torch.rand(2, 3, height, width))
    cells = maps[-1].shape[2:]
    for side, found in zip((height, width), cells, strict=True):
        exact = -(-side // 16)
        assert found == exact if name == "test_resnet" else max(1, side // 16) <= found <= exact  # convnext rounds down


def test_the_image_is_normalised_inside():
    trunk = build_backbone(Backbone("test_resnet", "none", 16, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))).eval()
    image = torch.rand(1, 3, 40, 40)
    by_hand = torch.stack([(image[:, 0] - 0.1) / 0.5, (image[:, 1] - 0.2) / 0.25, (image[:, 2] - 0.3) / 2.0], dim=1)
    torch.testing.assert_close(trunk(image)[-1], trunk.body(by_hand)[-1])
    assert trunk.mean.shape == (1, 3, 1, 1)
    assert not any(name in trunk.state_dict() for name in ("mean", "std"))


def test_vgg_keeps_its_grid_at_321_pixels_and_its_maps_are_the_convolutions():
    with torch.device("meta"):
        network = VGG16(8)
        maps = network(torch.empty(1, 3, 321, 321))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (64, 321, 321),
        (128, 161, 161),
        (256, 81, 81),
        (512, 41, 41),
        (512, 41, 41),
        (512, 41, 41),
    ]
    dilations = [layer.dilation[0] for layer in network.features if isinstance(layer, torch.nn.Conv2d)]
    assert dilations == [1] * 10 + [2] * 3
    theirs = {name for name in timm_vgg_names() if name.startswith("features.")}
    assert theirs == set(network.state_dict())


def timm_vgg_names():
    with torch.device("meta"):
        return list(timm.create_model("vgg16").state_dict())


def test_the_fully_connected_layers_of_vgg_are_subsampled_evenly():
    def numbered(*shape):
        return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).view(shape)

    state = {
        "pre_logits.fc1.weight": numbered(10, 4, 7, 7),
        "pre_logits.fc1.bias": numbered(10),
        "pre_logits.fc2.weight": numbered(10, 10, 1, 1),
        "pre_logits.fc2.bias": numbered(10),
    }
    layers = subsample_fully_connected(state, width=4)
    kept = [0, 3, 6, 9]
    for new, old in enumerate(kept):
        assert layers["fc6.bias"][new] == layers["fc7.bias"][new] == old
        for row, column in ((0, 0), (1, 2), (2, 2)):
            source = state["pre_logits.fc1.weight"][old, :, 3 * row, 3 * column]
            assert torch.equal(layers["fc6.weight"][new, :, row, column], source)
        assert layers["fc7.weight"][new].flatten().tolist() == [10 * old + other for other in kept]


@pytest.mark.parametrize(("norm", "moves"), [("frozen", False), ("trained", True), ("auto", True)])
def test_frozen_statistics_stay_whatever_train_says(norm, moves):
    trunk = torch.nn.Sequential(build_backbone(Backbone("test_resnet", "none", 16, norm=norm))).train()
    layers = [module for module in trunk.modules() if isinstance(module, _BatchNorm)]
    before = [layer.running_mean.clone() for layer in layers]
    trunk(torch.rand(2, 3, 64, 64))[-1].sum().backward()
    moved = [not torch.equal(old, layer.running_mean) for old, layer in zip(before, layers, strict=True)]
    assert layers
    assert all(moved) if moves else not any(moved)
    assert all(layer.training is moves and layer.weight.grad is not None for layer in layers)


def whole_network(name="mobilenetv2_035"):
    return {key: tensor.contiguous() for key, tensor in timm.create_model(name).state_dict().items()}


def test_a_weights_file_is_read_with_its_metadata_and_freezes_the_statistics(tmp_path):
    state = whole_network()
    halves = {key: t.half() if t.is_floating_point() else t for key, t in state.items()}
    save_file(halves, tmp_path / "w.safetensors", {"mean": "0.5", "std": "0.5,0.25,0.125", "pad_type": "same"})
    trunk = build_backbone(Backbone("mobilenetv2_035", str(tmp_path / "w.safetensors"), 16))
    assert trunk.description.mean == (0.5, 0.5, 0.5)
    assert trunk.description.std == (0.5, 0.25, 0.125)
    assert (trunk.description.norm, trunk.description.pad_type) == ("frozen", "same")
    assert trunk.body.conv_stem.padding == (0, 0)  # "same" pads by itself
    assert torch.equal(trunk.body.conv_stem.weight, state["conv_stem.weight"].half().float())
    chosen = Backbone("mobilenetv2_035", str(tmp_path / "w.safetensors"), 16, "trained", mean=(0, 0, 0), pad_type="")
    trunk = build_backbone(chosen)
    assert trunk.description.mean == (0.0, 0.0, 0.0)
    assert (trunk.description.norm, trunk.description.pad_type) == ("trained", "")


@pytest.mark.parametrize("name", ["test_convnext", "test_vit", "test_resnet"])  # renamed, wrapped and plain parts
def test_a_pickle_is_read_and_timm_s_renamed_parts_are_found(tmp_path, name):
    state = whole_network(name)
    torch.save({"state_dict": {f"module.{key}": tensor for key, tensor in state.items()}}, tmp_path / "w.pth")
    trunk = build_backbone(Backbone(name, str(tmp_path / "w.pth"), 16))
    originals = {key.replace(".", "_"): tensor for key, tensor in state.items()}
    for key, tensor in trunk.body.state_dict().items():
        assert torch.equal(tensor, originals[key.removeprefix("model.").replace(".", "_")])


def damaged(tmp_path, change):
    state = whole_network()
    change(state)
    save_file(state, tmp_path / "w.safetensors")
    return Backbone("mobilenetv2_035", str(tmp_path / "w.safetensors"), 16)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("bn1.weight"), r"w\.safetensors is of another network: it misses bn1\.weight"),
        (lambda state: state.update({"blocks.9.w": torch.ones(1)}), r"unknown blocks\.9\.w"),
        (lambda state: state.update({"bn1.bias": torch.ones(3)}), r"bn1\.bias \(3,\) instead of \(16,\)"),
    ],
)
def test_weights_of_another_network_are_refused_by_name(tmp_path, change, words):
    with pytest.raises(OptionError, match=words):
        build_backbone(damaged(tmp_path, change))


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("content", [b"", b"garbage", b"\x08\x00\x00\x00\x00\x00\x00\x00{}", b"PK\x03\x04"])
def test_garbled_files_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(OptionError, match=name.replace(".", r"\.")):
        build_backbone(Backbone("test_resnet", str(tmp_path / name), 16))


@pytest.mark.parametrize(
    ("description", "words"),
    [
        (Backbone("resnet5", "none"), "did you mean 'resnet50'"),
        (Backbone("resnet18.nonsense", "none"), "no such tag"),
        (Backbone("test_resnet", "none", 7), "no output stride 7, only 8, 16, 32"),
        (Backbone("test_vit", "none", 8), "no output stride 8, only 16"),
        (Backbone("vgg16", "none", 4), "no output stride 4, only 8, 16, 32"),
        (Backbone("test_mambaout", "none", 16, pad_type="same"), "has none"),
        (Backbone("test_resnet", "none", pad_type="sam"), "'same', 'valid'"),
        (Backbone("test_resnet", "none", norm="frosen"), "did you mean 'frozen'"),
        (Backbone("test_resnet", "none."), "expected 'default', 'none'"),
        (Backbone("test_resnet", "no/such.pth"), "no such file"),
        (Backbone("test_maxvit", "none", 32), "refuses some image sizes"),
    ],
)
def test_errors_at_the_door(description, words):
    with pytest.raises(OptionError, match=words) as caught:
        build_backbone(description)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["half", "0.5,0.5", ""])
def test_odd_metadata_is_named(tmp_path, text):
    save_file(whole_network("test_resnet"), tmp_path / "w.safetensors", {"mean": text})
    with pytest.raises(OptionError, match=r"metadata 'mean'"):
        build_backbone(Backbone("test_resnet", str(tmp_path / "w.safetensors")))


@pytest.mark.parametrize("error", [OSError("no route to host"), RuntimeError("No pretrained weights exist")])
def test_a_failed_download_says_both_ways_out(monkeypatch, error):
    create = timm.create_model

    def offline(name, pretrained=False, **arguments):
        if pretrained:
            raise error
        return create(name, **arguments)

    monkeypatch.setattr(backbones.timm, "create_model", offline)
    with pytest.raises(OptionError, match=r"--weights FILE.*--weights none"):
        build_backbone(Backbone("test_resnet"))


def test_images_of_another_layout_are_a_mistake_of_ours():
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
        SCRATCH["test_resnet"](torch.rand(1, 40, 40, 3))
