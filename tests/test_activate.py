"""Activations against their definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from tagmask.activate import (
    fused_rates,
    grad_cam,
    gradient_saliency,
    highest_cam,
    mask_out,
    multi_rate_cam,
    multi_scale_cam,
    predicted_tags,
    raw_maps,
)
from tagmask.nets.backbones import Backbone, build_backbone
from tagmask.nets.classifier import Classifier
from tagmask.nets.multi_dilated import MultiDilated
from tagmask.nets.seam import SeamClassifier
from tagmask.types import Photo

RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    return Classifier(build_backbone(Backbone("test_resnet", weights="none")), classes=4).eval()


@pytest.fixture
def photo():
    return Photo("p", RANDOM.integers(0, 256, size=(40, 56, 3), dtype=np.uint8), tags=(1, 3))


def test_one_scale_is_the_definition_of_cam(classifier, photo):
    got = multi_scale_cam(classifier, photo, scales=(1.0,), flip=False)
    image = torch.from_numpy(photo.pixels.transpose(2, 0, 1)[None] / 255).float()
    with torch.no_grad():
        features = classifier.features(image)[-1]  # (1, D, h, w)
        weights = classifier.head.weight[:, :, 0, 0]  # (C-1, D)
        maps = torch.einsum("cd,dhw->chw", weights, features[0]).relu()[[0, 2]]
        maps = F.interpolate(maps[None], size=(40, 56), mode="bilinear", align_corners=False)[0]
        expected = maps / (maps.amax(dim=(1, 2), keepdim=True) + 1e-5)
    assert got.classes == (1, 3)
    np.testing.assert_allclose(got.maps, expected.numpy(), atol=1e-5)


def test_scales_and_mirrors_are_summed_before_the_one_division(classifier, photo):
    mirrored = Photo("m", np.ascontiguousarray(photo.pixels[:, ::-1]), photo.tags)
    both = multi_scale_cam(classifier, photo, scales=(0.5, 1.0), flip=True)
    other = multi_scale_cam(classifier, mirrored, scales=(0.5, 1.0), flip=True)
    np.testing.assert_allclose(both.maps, other.maps[:, :, ::-1], atol=1e-4)
    assert both.maps.max() == pytest.approx(1, abs=1e-3)


def test_the_highest_of_scales_and_mirrors(classifier, photo):
    alone = [
        raw_maps(classifier, photo.pixels, (1, 3)),
        raw_maps(classifier, photo.pixels[:, ::-1], (1, 3))[:, :, ::-1],
    ]
    small = np.asarray(Image.fromarray(photo.pixels).resize((28, 20), Image.Resampling.BICUBIC))
    alone += [raw_maps(classifier, small, (1, 3)), raw_maps(classifier, small[:, ::-1], (1, 3))[:, :, ::-1]]
    grown = [
        F.interpolate(
            torch.from_numpy(m.copy())[None].relu(), size=photo.size, mode="bilinear", align_corners=False
        ).numpy()[0]
        for m in alone
    ]
    highest = np.max(grown, axis=0)
    expected = highest / (highest.max(axis=(1, 2), keepdims=True) + 1e-5)
    got = highest_cam(classifier, photo, scales=(1.0, 0.5), flip=True)
    np.testing.assert_allclose(got.maps, expected, atol=1e-4)
    single = highest_cam(classifier, photo, scales=(1.0,)).maps
    np.testing.assert_allclose(single, multi_scale_cam(classifier, photo, scales=(1.0,), flip=False).maps, atol=1e-6)
    assert highest_cam(classifier, photo, predicted=True).classes == predicted_tags(classifier, photo)


def test_grad_cam_is_cam_for_a_linear_head(classifier, photo):
    got = grad_cam(classifier, photo).maps
    expected = multi_scale_cam(classifier, photo, scales=(1.0,), flip=False).maps
    # The gradient of the mean is 1/Z of the weight, so that the epsilon of the division counts for more.
    np.testing.assert_allclose(
        got / got.max(axis=(1, 2), keepdims=True), expected / expected.max(axis=(1, 2), keepdims=True), atol=1e-5
    )


def test_gradient_saliency_is_the_slope_of_the_summed_logits(classifier, photo):
    got = gradient_saliency(classifier, photo.pixels)
    assert got.shape == photo.size
    row, column = np.unravel_index(got.argmax(), got.shape)
    slopes = []
    for channel in range(3):
        image = torch.from_numpy(photo.pixels.transpose(2, 0, 1)[None] / 255).double()
        ends = []
        double = classifier.double()
        for step in (-1e-5, 1e-5):
            moved = image.clone()
            moved[0, channel, row, column] += step
            with torch.no_grad():
                ends.append(double(moved).sum().item())
        slopes.append(abs(ends[1] - ends[0]) / 2e-5)
    classifier.float()
    assert got.max() == pytest.approx(max(slopes), rel=0.05)
    deep = gradient_saliency(classifier, photo.pixels, layer=3)
    assert deep.shape == tuple(classifier.features(torch.zeros(1, 3, 40, 56))[3].shape[2:])


def test_mask_out_equals_painting_by_hand(classifier, photo):
    got = mask_out(classifier, photo, window=16, stride=8, batch=3)
    image = torch.from_numpy(photo.pixels.transpose(2, 0, 1)[None] / 255).float()
    total, seen = np.zeros((2, 40, 56)), np.zeros((40, 56))
    with torch.no_grad():
        whole = classifier(image)[0, [0, 2]]
        for top in range(0, 32, 8):
            for left in range(0, 48, 8):
                painted = image.clone()
                painted[:, :, top : top + 16, left : left + 16] = classifier.trunk.mean
                total[:, top : top + 16, left : left + 16] += (whole - classifier(painted)[0, [0, 2]]).numpy()[
                    :, None, None
                ]
                seen[top : top + 16, left : left + 16] += 1
    expected = np.maximum(total / np.maximum(seen, 1), 0)
    expected /= expected.max(axis=(1, 2), keepdims=True) + 1e-5
    np.testing.assert_allclose(got.maps, expected, atol=1e-2)


def test_negatives_and_unknown_photos_have_no_map(classifier, photo):
    for tags in ((), None):
        empty = Photo("e", photo.pixels, tags)
        for method in (multi_scale_cam, grad_cam, mask_out):
            assert method(classifier, empty).maps.shape == (0, 40, 56)


def test_predicted_tags_take_the_place_of_given_ones(classifier, photo):
    with torch.no_grad():
        classifier.head.weight.mul_(-1)  # whichever way the random network leans, one of both ways has tags
    for _ in range(2):
        with torch.no_grad():
            logits = classifier(torch.from_numpy(photo.pixels.transpose(2, 0, 1)[None] / 255).float())[0]
            classifier.head.weight.mul_(-1)
        expected = tuple(i + 1 for i in range(4) if -logits[i] > 0)
        assert predicted_tags(classifier, photo) == expected
        assert multi_scale_cam(classifier, photo, scales=(1.0,), predicted=True).classes == expected


def test_raw_maps_average_to_the_logits(classifier, photo):
    maps = raw_maps(classifier, photo.pixels, [2, 4])
    with torch.no_grad():
        logits = classifier(torch.from_numpy(photo.pixels.transpose(2, 0, 1)[None] / 255).float())[0, [1, 3]]
    np.testing.assert_allclose(maps.mean(axis=(1, 2)), logits.numpy(), atol=1e-5)


@pytest.fixture(scope="module")
def dilated():
    torch.manual_seed(1)
    made = MultiDilated(build_backbone(Backbone("test_resnet", weights="none")), classes=4, rates=(1, 6, 12), width=8)
    with torch.no_grad():
        for head in made.heads:
            head.weight.abs_().mul_(100)  # no map that is nowhere positive
    return made.eval()


def test_minmax_stretches_the_sum_as_seam_does():
    torch.manual_seed(0)
    photo = Photo("p", np.random.default_rng(0).integers(0, 256, size=(40, 56, 3), dtype=np.uint8), tags=(2, 4))
    seam = SeamClassifier(build_backbone(Backbone("test_resnet", weights="none")), classes=4).eval()
    got = multi_scale_cam(seam, photo, scales=(1.0,), flip=True, minmax=True)
    image = torch.from_numpy(photo.pixels.transpose(2, 0, 1)[None] / 255).float()
    with torch.no_grad():
        maps = [seam.answers(image)[1], seam.answers(image.flip(3))[1].flip(3)]
    total = sum(F.interpolate(m, size=(40, 56), mode="bilinear", align_corners=False)[0, [2, 4]].numpy() for m in maps)
    for found, x in zip(got.maps, total, strict=True):
        stretched = (x - x.min() - 1e-5) / (x.max() - x.min() + 1e-5)
        np.testing.assert_allclose(found, np.where(x < x.min() + 1e-5, 0, stretched), atol=1e-4)
    assert got.maps.min() == 0
    assert (multi_scale_cam(seam, photo, scales=(1.0,), flip=True).maps.min(axis=(1, 2)) > 0.01).any()


def test_fused_rates_are_the_paper_s_sum():
    maps = RANDOM.normal(size=(3, 2, 4, 5)).astype(np.float32)
    maps[1, 0] = -1  # a class that one rate sees nowhere
    n = [[np.maximum(m, 0) / (max(m.max(), 0) + 1e-5) for m in rate] for rate in maps]  # every map by its own maximum
    expected = np.stack([n[0][c] + (n[1][c] + n[2][c]) / 2 for c in range(2)])
    np.testing.assert_allclose(fused_rates(torch.from_numpy(maps)).numpy(), expected, atol=1e-6)
    average = np.stack([(n[0][c] + n[1][c] + n[2][c]) / 3 for c in range(2)])
    np.testing.assert_allclose(fused_rates(torch.from_numpy(maps), plain=True).numpy(), average, atol=1e-6)
    np.testing.assert_allclose(fused_rates(torch.from_numpy(maps[:1])).numpy(), np.stack(n[0]), atol=1e-6)


@pytest.mark.parametrize("plain", [True, False])
def test_maps_of_rates_are_summed_over_scales_before_they_are_fused(dilated, photo, plain):
    got = multi_rate_cam(dilated, photo, scales=(1.0, 1.0), flip=True, plain=plain)
    image = torch.from_numpy(photo.pixels.transpose(2, 0, 1)[None] / 255).float()
    with torch.no_grad():
        seen = dilated.maps(image).relu(), dilated.maps(image.flip(3)).relu().flip(3)
    total = sum(F.interpolate(m, size=(40, 56), mode="bilinear", align_corners=False)[0] for m in seen)
    fused = fused_rates(total.view(3, 4, 40, 56)[:, [0, 2]], plain=plain)
    np.testing.assert_allclose(got.maps, (fused / fused.amax(dim=(1, 2), keepdim=True)).numpy(), atol=1e-3)
    assert got.classes == (1, 3)
    assert multi_rate_cam(dilated, Photo("e", photo.pixels, ()), plain=plain).maps.shape == (0, 40, 56)
    with torch.no_grad():
        believed = tuple((dilated(image)[0] > 0).nonzero().flatten().tolist())
    assert multi_rate_cam(dilated, photo, predicted=True).classes == tuple(c + 1 for c in believed)


@settings(deadline=None, max_examples=15)
@given(
    height=st.sampled_from([1, 7, 31, 50]),
    width=st.sampled_from([1, 13, 47]),
    classes=st.sampled_from([1, 5, 254]),
    flip=st.booleans(),
    minmax=st.booleans(),
    seed=st.integers(0, 99),
)
def test_maps_of_any_photo_are_those_of_one_scale_after_the_other(height, width, classes, flip, minmax, seed):
    torch.manual_seed(seed)
    network = Classifier(build_backbone(Backbone("test_resnet", weights="none")), classes=classes).eval()
    random = np.random.default_rng(seed)
    tags = tuple(sorted({1, classes, int(random.integers(1, classes + 1))}))
    odd = Photo("p", random.integers(0, 256, (height, width, 3), dtype=np.uint8), tags)
    found = multi_scale_cam(network, odd, scales=(0.5, 1.5), flip=flip, minmax=minmax).maps
    for k, tag in enumerate(tags):
        total = np.zeros((height, width), dtype=np.float32)
        for scale in (0.5, 1.5):
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            pixels = np.asarray(Image.fromarray(odd.pixels).resize(size, Image.Resampling.BICUBIC))
            for way in (1, -1) if flip else (1,):
                image = torch.from_numpy(pixels[:, ::way].transpose(2, 0, 1).copy())[None] / 255
                with torch.no_grad():
                    one = network.maps(image)[:, tag - 1 : tag].relu()
                whole = F.interpolate(one.flip(3) if way < 0 else one, size=(height, width), mode="bilinear")
                total += whole[0, 0].numpy()
        if minmax:
            total = np.maximum(total - total.min() - 1e-5, 0)
        np.testing.assert_allclose(found[k], total / (total.max() + 1e-5), atol=2e-3)
