"""The region network: what it pools against plain loops, both heads, what learns, and its way to disk and back."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torchvision.ops import roi_align

from tagmask.errors import OptionError
from tagmask.nets.backbones import Backbone, build_backbone
from tagmask.nets.folded import folded
from tagmask.nets.region import MaskedHead, RegionNet, pool_weights, region_boxes, region_masks, region_pool
from tagmask.nets.storage import load_network, save_network

SIDES, SEEDS = st.integers(1, 17), st.integers(0, 999)


def network(head="pool", name="test_resnet", stride=16, **options):
    return RegionNet(build_backbone(Backbone(name, "none", stride)), classes=4, head=head, width=8, **options)


def some_ids(seed, batch, height, width, most=6):
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.choice([*range(most), -5, 255], (batch, height, width)))


@settings(deadline=None, max_examples=40)
@given(SIDES, SIDES, st.integers(1, 6), st.integers(1, 6), SEEDS)
def test_pooling_is_the_mean_over_the_regions_pixels(height, width, h, w, seed):
    ids, features = some_ids(seed, 2, height, width), torch.rand(2, 3, h, w)
    got = region_pool(features, ids, 5)
    grown = functional.interpolate(features, size=(height, width), mode="bilinear", align_corners=False)
    weights = pool_weights(ids, 5, (h, w))
    for b in range(2):
        for region in range(5):
            inside = ids[b] == region
            expected = grown[b][:, inside].mean(dim=1) if inside.any() else torch.zeros(3)
            torch.testing.assert_close(got[b, :, region], expected, atol=1e-3, rtol=0)
            assert weights[b, region].sum() == pytest.approx(float(inside.any()), abs=1e-5)


@settings(deadline=None, max_examples=40)
@given(SIDES, SIDES, SEEDS)
def test_boxes_hold_the_pixels_and_masks_show_them(height, width, seed):
    ids = some_ids(seed, 2, height, width)
    boxes, there = region_boxes(ids, 6)
    for b, region in np.ndindex(2, 6):
        ys, xs = np.nonzero(ids[b].numpy() == region)
        assert there[b, region] == bool(len(ys))
        if len(ys):
            assert boxes[b, region].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    image, region = there.nonzero(as_tuple=True)
    masks = region_masks(ids, boxes[there], image, region)
    assert masks.shape == (len(image), 7, 7)
    for n, (x0, y0, x1, y1) in enumerate(boxes[there].tolist()):
        for i, j in np.ndindex(7, 7):
            points = [(a, b) for a in (0.25, 0.75) for b in (0.25, 0.75)]
            hits = [
                ids[image[n], int(y0 + (i + a) / 7 * (y1 - y0)), int(x0 + (j + b) / 7 * (x1 - x0))] == region[n]
                for a, b in points
            ]
            assert masks[n, i, j] == pytest.approx(np.mean(hits))


def test_the_mask_head_is_fast_r_cnn_on_each_region_alone():
    torch.manual_seed(0)
    trunk = SimpleNamespace(body=None, channels=(5,))
    head = MaskedHead(trunk, classes=3, width=16).eval()
    features = torch.rand(2, 5, 4, 6)  # cells of 8 pixels
    ids = torch.zeros(2, 32, 48, dtype=torch.int64)
    ids[0, 8:20, 10:40] = 1
    ids[1, 3:5, 3:5] = 2
    ids[1, :4, 40:] = ids[1, 28:, 8:16] = 3  # two pieces: most of the box is not of the region
    got = head([features], ids, 4)
    assert got.shape == (2, 4, 3)
    for b, region, box in ((0, 1, (10, 8, 40, 20)), (1, 2, (3, 3, 5, 5))):  # rectangles: the mask is 1 in the box
        roi = torch.tensor([[0.0, *box]])
        cut = roi_align(features[b : b + 1], roi, output_size=7, spatial_scale=1 / 8, sampling_ratio=2, aligned=True)
        x = cut.flatten(start_dim=1)
        for layer, norm, _ in (head.layers.fc6, head.layers.fc7):
            x = functional.relu(functional.layer_norm(functional.linear(x, layer.weight[..., 0, 0]), (16,)))
            assert (norm.weight == 1).all()
            assert (norm.bias == 0).all()
        expected = functional.linear(x, head.score.weight[..., 0, 0], head.score.bias)
        torch.testing.assert_close(got[b, region], expected[0])
    assert (got[0, 3] == 0).all()
    changed = features.clone()
    changed[0, :, 3] += 9  # below the box of region 1
    changed[1, :, 1:3] += 9  # between the pieces of region 3
    new = head([changed], ids, 4)
    for b, region in ((0, 1), (1, 3)):
        torch.testing.assert_close(new[b, region], got[b, region], rtol=0, atol=1e-7)
    assert (new[0, 0] - got[0, 0]).abs().max() > 1e-3 < (new[1, 0] - got[1, 0]).abs().max()


@pytest.mark.parametrize("head", ["pool", "mask"])
@pytest.mark.parametrize(
    ("name", "stride"),
    [("test_resnet", 16), ("mobilenetv2_035", 16), ("vgg16", 8), ("test_convnext", 32), ("test_vit", 16)],
)
@pytest.mark.parametrize("size", [(64, 64), (5, 61)])
def test_any_trunk_scores_regions(head, name, stride, size):
    net = network(head, name, stride).train()
    ids = some_ids(1, 2, *size)
    scores = net(torch.rand(2, 3, *size), ids.to(torch.uint8), 6)
    assert scores.shape == (2, 6, 4)
    assert scores.isfinite().all()
    scores.square().sum().backward()
    assert all(parameter.grad is not None for parameter in net.head.parameters())


@pytest.mark.parametrize("head", ["pool", "mask"])
def test_disk_and_folding_change_nothing(head, tmp_path):
    net = network(head, maps=2).eval()
    images, ids = torch.rand(1, 3, 45, 61), some_ids(0, 1, 45, 61)
    save_network(net, tmp_path)
    loaded = load_network(tmp_path)
    assert torch.equal(loaded(images, ids, 6), net(images, ids, 6))
    torch.testing.assert_close(folded(net)(images, ids, 6), net(images, ids, 6), rtol=1e-3, atol=1e-3)


def test_one_region_is_told_from_another_in_the_same_image():
    net, images = network().eval(), torch.rand(1, 3, 64, 64)
    ids = torch.zeros(1, 64, 64, dtype=torch.int64)
    ids[..., 32:] = 1
    left, right = net(images, ids, 2)[0]
    assert not torch.allclose(left, right)
    torch.testing.assert_close(net(images, ids - 1, 1)[0, 0], right)  # numbered from another start


def test_nonsense_is_refused():
    with pytest.raises(OptionError, match=r"did you mean 'pool'.*pool or mask"):
        network("poll")
    with pytest.raises(OptionError, match="1 or more of both"):
        network(maps=0)


def test_a_pretrained_vgg_gives_the_mask_head_its_fully_connected_layers(tmp_path):
    with torch.device("meta"):
        names = {k: t.shape for k, t in timm.create_model("vgg16").state_dict().items() if k.startswith("features")}
    state = {name: torch.randn(shape) * 0.01 for name, shape in names.items()}
    for name, shape in {"fc1": (8, 512, 7, 7), "fc2": (8, 8, 1, 1)}.items():  # 8 units where ImageNet's has 4096
        state |= {f"pre_logits.{name}.weight": torch.randn(shape), f"pre_logits.{name}.bias": torch.randn(shape[0])}
    torch.save(state, tmp_path / "vgg.pth")
    head = RegionNet(build_backbone(Backbone("vgg16", str(tmp_path / "vgg.pth"), 8)), 4, head="mask", width=8).head
    cell = torch.rand(1, 512, 7, 7)
    expected = functional.conv2d(cell, state["pre_logits.fc1.weight"], state["pre_logits.fc1.bias"])
    torch.testing.assert_close(
        head.layers.fc6(cell.flatten(start_dim=1)[..., None, None]), expected, rtol=1e-4, atol=1e-3
    )
    assert torch.equal(head.layers.fc7.weight, state["pre_logits.fc2.weight"])
