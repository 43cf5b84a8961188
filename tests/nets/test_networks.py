"""Classifier, segmenters and parameter groups."""

from __future__ import annotations

import pytest
import timm
import torch
from torch.nn import functional

from tagmask.errors import OptionError
from tagmask.nets.backbones import Backbone, build_backbone
from tagmask.nets.classifier import Classifier
from tagmask.nets.groups import parameter_groups
from tagmask.nets.segmenter import Segmenter, build_segmenter, deeplab_v3

TINY = Backbone("test_resnet", "none", 16)


@pytest.mark.parametrize("convs", [0, 2])
def test_the_mean_of_the_class_maps_is_the_logits(convs):
    network = Classifier(build_backbone(TINY), classes=4, convs=convs, width=8).eval()
    images = torch.rand(2, 3, 50, 70)
    maps = network.maps(images)
    assert maps.shape == (2, 4, 4, 5)
    torch.testing.assert_close(network(images), maps.mean(dim=(2, 3)))
    assert [m.shape[1] for m in network.features(images)] == list(network.trunk.channels)
    assert network.head.bias is None


def test_hidden_layers_follow_the_average_and_leave_no_maps():
    network = Classifier(build_backbone(TINY), classes=4, hidden=2, width=8).eval()
    images = torch.rand(2, 3, 50, 70)
    first, second = network.neck[0], network.neck[3]
    x = network.features(images)[-1].mean(dim=(2, 3))
    for layer in (first, second):
        x = functional.relu(x @ layer.weight[:, :, 0, 0].T + layer.bias)
    torch.testing.assert_close(network(images), x @ network.head.weight[:, :, 0, 0].T)
    with pytest.raises(ValueError, match="no class maps"):
        network.maps(images)


@pytest.mark.parametrize("layers", [{"convs": 2}, {"hidden": 1}])
def test_dropout_is_chosen(layers):
    images = torch.rand(1, 3, 50, 70)
    for dropout in (0.0, 0.5):
        network = Classifier(build_backbone(TINY), classes=4, width=32, dropout=dropout, **layers)
        network.eval().neck.train()
        same = torch.equal(network(images), network(images))
        assert same == (dropout == 0)
    assert network.options["dropout"] == 0.5


def test_gradients_reach_the_features_the_logits_came_from():
    network = Classifier(build_backbone(TINY), classes=4).eval()
    features = network.features(torch.rand(1, 3, 50, 70))
    gradients = torch.autograd.grad(network.logits_of(features).sum(), features[-2:])
    assert all((gradient != 0).any() for gradient in gradients)


@pytest.mark.parametrize(("name", "size"), [("deeplab-v1", (4, 5)), ("deeplab-v2", (4, 5)), ("deeplab-v3", (50, 70))])
def test_segmenters_give_logits_at_the_grid_and_maps_to_train_on(name, size):
    network = build_segmenter(name, TINY, 6, width=8)
    images = torch.rand(2, 3, 50, 70)
    maps = network.train().training_maps(images)
    assert maps[0].shape == (2, 6, *size)
    sum(m.sum() for m in maps).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert network.eval()(images).shape == (2, 6, 4, 5)


def test_v2_fuses_its_scales_by_the_maximum():
    network = build_segmenter("deeplab-v2", TINY, 3).eval()
    images = torch.rand(1, 3, 64, 96)
    single = build_segmenter("deeplab-v2", TINY, 3, multi_scale=False).eval()
    single.load_state_dict(network.state_dict())
    maps = []
    for size in ((64, 96), (48, 72), (32, 48)):
        maps += single.training_maps(functional.interpolate(images, size=size, mode="bilinear", align_corners=False))
    assert [tuple(m.shape[2:]) for m in maps] == [(4, 6), (3, 5), (2, 3)]
    same = [functional.interpolate(m, size=(4, 6), mode="bilinear", align_corners=False) for m in maps]
    expected = torch.maximum(torch.maximum(same[0], same[1]), same[2])
    torch.testing.assert_close(network.training_maps(images), [*maps, expected])
    torch.testing.assert_close(network(images), expected)


def test_v3_trains_on_scores_at_the_size_of_the_image():
    network = build_segmenter("deeplab-v3", TINY, 3, width=8).eval()
    images = torch.rand(1, 3, 33, 47)
    expected = functional.interpolate(network(images), size=(33, 47), mode="bilinear", align_corners=False)
    torch.testing.assert_close(network.training_maps(images), [expected])


def test_v3_s_own_norms_learn_beside_a_frozen_trunk():
    network = build_segmenter("deeplab-v3", Backbone("test_resnet", "none", 16, norm="frozen"), 3, width=8).train()
    head = network.head.project[1]
    trunk = network.trunk.body.bn1
    before = head.running_mean.clone(), trunk.running_mean.clone()
    network(torch.rand(2, 3, 64, 64))
    assert not torch.equal(before[0], head.running_mean)
    assert torch.equal(before[1], trunk.running_mean)


@pytest.mark.parametrize(("stride", "rates"), [(8, [12, 24, 36]), (16, [6, 12, 18]), (32, [3, 6, 9])])
def test_rates_follow_the_output_stride(stride, rates):
    backbone = Backbone("test_resnet", "none", stride)
    v3 = build_segmenter("deeplab-v3", backbone, 3, width=4)
    assert [branch[0].dilation[0] for branch in v3.head.branches] == rates
    v1 = build_segmenter("deeplab-v1", backbone, 3, width=4)
    assert v1.head.fc6.dilation == (96 // stride, 96 // stride)


@pytest.mark.parametrize(("stride", "rates"), [(16, [2, 4, 8]), (8, [4, 8, 16])])
def test_multi_grid_sets_the_paper_s_rates_where_there_are_three_units(stride, rates):
    trunk = build_backbone(Backbone("resnet26", "none", stride))
    plain = deeplab_v3(trunk, 3, width=4)
    assert plain.options["multi_grid"] is False  # two units
    with pytest.raises(OptionError, match="three units"):
        deeplab_v3(trunk, 3, width=4, multi_grid=True)
    trunk.body.layer4.append(type(trunk.body.layer4[1])(2048, 512))
    network = deeplab_v3(trunk, 3, width=4)
    assert network.options["multi_grid"] is True
    assert [unit.conv2.dilation[0] for unit in trunk.body.layer4] == rates
    assert network.eval()(torch.rand(1, 3, 64, 64)).shape == (1, 3, 64 // stride, 64 // stride)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("deeplab-v4", {}, "did you mean 'deeplab-v"),
        ("deeplab-v3", {"widht": 8}, "did you mean 'width'"),
        ("deeplab-v1", {"rates": (1, 2)}, "did you mean 'rate'"),
        ("deeplab-v3", {"multi_grid": "always"}, "True, False or 'auto'"),
    ],
)
def test_unknown_names_and_options(name, options, words):
    with pytest.raises(OptionError, match=words):
        build_segmenter(name, TINY, 3, **options)


@pytest.mark.parametrize("make", ["classifier", "deeplab-v1", "deeplab-v3"])
def test_parameter_groups_hold_every_parameter_once(make):
    network = Classifier(build_backbone(TINY), 3) if make == "classifier" else build_segmenter(make, TINY, 3, width=4)
    groups = {group["name"]: group["params"] for group in parameter_groups(network)}
    together = [parameter for params in groups.values() for parameter in params]
    assert len(together) == len({id(p) for p in together}) == len(list(network.parameters()))
    inside = {id(parameter) for parameter in network.trunk.parameters()}
    for name, params in groups.items():
        assert all((id(p) in inside) == name.startswith("trunk") for p in params)
        assert all((p.ndim <= 1) == name.endswith("bias") for p in params)
    assert ("head.bias" in groups) == isinstance(network, Segmenter)  # the classifier's head has none


def test_parameters_that_do_not_learn_are_in_no_group():
    network = Classifier(build_backbone(TINY), 3)
    network.trunk.requires_grad_(False)
    assert [group["name"] for group in parameter_groups(network)] == ["head.weight"]


def test_a_pretrained_vgg_starts_large_fov_from_its_fully_connected_layers(tmp_path):
    with torch.device("meta"):
        names = {k: t.shape for k, t in timm.create_model("vgg16").state_dict().items() if k.startswith("features")}
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=generator) * 0.01 for name, shape in names.items()}
    for name, shape in {"fc1": (8, 512, 7, 7), "fc2": (8, 8, 1, 1)}.items():  # 8 units where ImageNet's has 4096
        state[f"pre_logits.{name}.weight"] = torch.randn(shape, generator=generator)
        state[f"pre_logits.{name}.bias"] = torch.randn(shape[0], generator=generator)
    torch.save(state, tmp_path / "vgg.pth")
    network = build_segmenter("deeplab-v1", Backbone("vgg16", str(tmp_path / "vgg.pth"), 8), 3, width=8)
    assert torch.equal(network.head.fc6.weight, state["pre_logits.fc1.weight"][:, :, ::3, ::3])
    assert torch.equal(network.head.fc7.bias, state["pre_logits.fc2.bias"])
    assert network.eval()(torch.rand(1, 3, 33, 33)).shape == (1, 3, 5, 5)
