"""Many looks in little time are what they would be one by one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tagmask.augment import resize
from tagmask.fickle import TOGETHER, fickle_maps, kept_places, over_looks, scaled
from tagmask.nets.backbones import Backbone, build_backbone
from tagmask.nets.fickle import FickleNet
from tagmask.nets.folded import as_image
from tagmask.types import Photo


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return FickleNet(build_backbone(Backbone("test_resnet", "none", 16)), classes=4, kernel=3).eval()


@pytest.fixture(scope="module")
def photo():
    pixels = np.random.default_rng(0).integers(0, 256, size=(50, 70, 3), dtype=np.uint8)
    return Photo("a", pixels, tags=(1, 4))


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 2), st.integers(1, 4), st.integers(1, 4), st.booleans(), st.integers(0, 99))
def test_looks_are_the_loop_over_masks(classes, height, width, keep_centre, seed):
    looks, places, dropout = TOGETHER + 3, 9, 0.6
    answers = np.random.default_rng(seed).normal(size=(classes, places, height, width)).astype(np.float32)
    highest, mean = over_looks(answers, looks, np.random.default_rng(seed), dropout=dropout, keep_centre=keep_centre)
    random, maps = np.random.default_rng(seed), []
    for count in (TOGETHER, 3):
        cells = height * width
        mask = np.zeros(count * cells * places)
        mask[kept_places(len(mask), 1 - dropout, random)] = 1 / (1 - dropout)
        for seen in mask.reshape(count, cells, places).transpose(0, 2, 1):
            if keep_centre:
                seen[4] = 1
            positive = np.maximum((answers * seen.reshape(places, height, width)).sum(axis=1), 0)  # (K, h, w)
            maps.append([m / m.max() if m.max() > 0 else m for m in positive])
    np.testing.assert_allclose(highest, np.max(maps, axis=0), atol=1e-5)
    np.testing.assert_allclose(mean, np.mean(maps, axis=0), atol=1e-5)


@pytest.mark.parametrize(("places", "share"), [(1, 0.5), (7, 1.0), (2000, 0.1), (300_000, 0.1), (5, 0.01)])
def test_each_place_is_kept_with_its_probability(places, share):
    random = np.random.default_rng(0)
    kept = kept_places(places, share, random)
    assert (np.diff(kept) > 0).all()
    assert all(0 <= place < places for place in kept[[0, -1]]) if len(kept) else places * share < 5
    assert abs(len(kept) - places * share) <= 5 * np.sqrt(places * share * (1 - share)) + 1e-9
    first = np.mean([0 in kept_places(places, share, random) for _ in range(300)])
    assert abs(first - share) <= 5 * np.sqrt(share * (1 - share) / 300) + 1e-9


def test_maps_follow_from_the_seed_and_the_name_of_the_photo(network, photo):
    looks = {"size": 65, "looks": 30}
    first = fickle_maps(network, photo, **looks)
    assert first.classes == (1, 4)
    assert first.maps.shape == (2, 5, 5)
    np.testing.assert_array_equal(fickle_maps(network, photo, **looks).maps, first.maps)
    other = Photo("b", photo.pixels, photo.tags)
    assert (fickle_maps(network, other, **looks).maps != first.maps).any()
    assert (fickle_maps(network, photo, **looks, seed=1).maps != first.maps).any()
    highest = fickle_maps(network, photo, **looks, gather="highest").maps
    assert (highest >= first.maps - 1e-6).all()
    more = fickle_maps(network, photo, size=65, looks=60, gather="highest").maps
    assert (more.sum(axis=(1, 2)) > highest.sum(axis=(1, 2))).all(), "what one look shows is not taken back by others"


def test_without_looks_every_window_sees_all(network, photo):
    plain = fickle_maps(network, photo, size=65, looks=0)
    with torch.no_grad():
        answers = network.responses(as_image(resize(photo.pixels, 65, 65), network))[0].sum(dim=1).numpy()
    np.testing.assert_allclose(plain.maps, scaled(answers[[0, 3]]), rtol=1e-3, atol=1e-4)


def test_the_mean_of_many_looks_is_near_what_all_see():
    answers = np.random.default_rng(0).random((1, 25, 4, 5)).astype(np.float32) * np.linspace(0, 1, 20).reshape(4, 5)
    _, mean = over_looks(answers, 4000, np.random.default_rng(1), dropout=0.5, keep_centre=True)
    assert np.corrcoef(mean.ravel(), answers.sum(axis=1).ravel())[0, 1] > 0.999


@pytest.mark.parametrize("tags", [(), None])
def test_a_photo_without_tags_has_no_map(network, photo, tags):
    found = fickle_maps(network, Photo("a", photo.pixels, tags), size=70, looks=3)
    assert found.maps.shape == (0, 5, 5)
