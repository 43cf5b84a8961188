"""The library calls behind superpixels, GrabCut, graph cut, proposals and optical flow: their promises, on odd inputs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tagmask.errors import OptionError
from tagmask.refine.flow import consistent, optical_flow, warp
from tagmask.refine.grabcut import Guess, grabcut, grabcut_box
from tagmask.refine.graphcut import graph_cut
from tagmask.refine.proposals import segments, selective_search
from tagmask.refine.superpixels import adjacency, felzenszwalb, region_means, slic

SIDES = st.sampled_from([1, 2, 7, 31, 64])


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Draw a red rectangle on a textured blue ground, uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    picture = np.full((height, width, 3), (60, 80, 170), dtype=float)
    picture[height // 4 : height * 3 // 4, width // 3 : width * 2 // 3] = (200, 60, 50)
    return np.clip(picture + rng.normal(0, 6, picture.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("segment", [slic, felzenszwalb])
@settings(deadline=None, max_examples=20)
@given(height=SIDES, width=SIDES, flat=st.booleans())
def test_superpixels_are_numbered_without_a_gap(segment, height, width, flat):
    pixels = np.full((height, width, 3), 9, dtype=np.uint8) if flat else scene(height, width)
    labels = segment(pixels)
    assert labels.shape == (height, width)
    assert labels.dtype == np.int32
    assert np.array_equal(np.unique(labels), np.arange(labels.max() + 1))


def test_slic_makes_about_as_many_as_asked_and_keeps_to_edges():
    pixels = scene(120, 150)
    labels = slic(pixels, regions=100)
    assert 60 < labels.max() + 1 < 160
    truth = np.zeros((120, 150), dtype=bool)
    truth[30:90, 50:100] = True
    shares = region_means(truth.astype(float), labels)
    assert np.minimum(shares, 1 - shares).mean() < 0.05
    for region in range(labels.max() + 1):  # connected
        assert ndimage.label(labels == region)[1] == 1


@settings(deadline=None, max_examples=30)
@given(height=SIDES, width=SIDES, regions=st.integers(1, 6), seed=st.integers(0, 99))
def test_adjacency_and_means_are_what_a_loop_finds(height, width, regions, seed):
    rng = np.random.default_rng(seed)
    labels = np.unique(rng.integers(0, regions, (height, width)), return_inverse=True)[1].reshape(height, width)
    pairs = set()
    for y, x in product(range(height), range(width)):
        for b, a in ((y + 1, x), (y, x + 1)):
            if b < height and a < width and labels[y, x] != labels[b, a]:
                pairs.add(tuple(sorted((int(labels[y, x]), int(labels[b, a])))))
    assert [tuple(pair) for pair in adjacency(labels)] == sorted(pairs)
    values = rng.random((height, width, 3))
    expected = [values[labels == k].mean(axis=0) for k in range(labels.max() + 1)]
    np.testing.assert_allclose(region_means(values, labels), expected)
    np.testing.assert_allclose(region_means(values[..., 0], labels), np.array(expected)[:, 0])


def test_grabcut_finds_the_rectangle_in_a_box_in_every_thread():
    pixels = scene(60, 90)
    truth = np.zeros((60, 90), dtype=bool)
    truth[15:45, 30:60] = True
    found = grabcut_box(pixels, (20, 8, 75, 52))
    assert (found == truth).mean() > 0.99
    with ThreadPoolExecutor(3) as pool:
        again = list(pool.map(lambda _: grabcut_box(pixels, (20, 8, 75, 52)), range(6)))
    assert all(np.array_equal(found, other) for other in again)
    with pytest.raises(OptionError, match="box"):
        grabcut_box(pixels, (20, 8, 20, 52))
    with pytest.raises(OptionError, match="iterations"):
        grabcut(pixels, np.zeros((60, 90), dtype=np.uint8), iterations=0)
    with pytest.raises(ValueError, match="guesses"):
        grabcut(pixels, np.full((60, 90), 4, dtype=np.uint8))


@settings(deadline=None, max_examples=25)
@given(height=SIDES, width=SIDES, flat=st.booleans(), seed=st.integers(0, 99))
def test_grabcut_keeps_what_is_sure_and_survives_anything(height, width, flat, seed):
    pixels = np.full((height, width, 3), 9, dtype=np.uint8) if flat else scene(height, width)
    guesses = np.random.default_rng(seed).integers(0, 4, (height, width)).astype(np.uint8)
    found = grabcut(pixels, guesses, iterations=1)
    assert found[guesses == Guess.OBJECT].all()
    assert not found[guesses == Guess.BACKGROUND].any()


def energy(x, costs, pairs, weights):
    return sum(costs[i, int(v)] for i, v in enumerate(x)) + sum(
        w for (i, j), w in zip(pairs, weights, strict=True) if x[i] != x[j]
    )


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 9), edges=st.integers(0, 14), seed=st.integers(0, 999))
def test_graph_cut_is_the_best_of_all_labellings(n, edges, seed):
    rng = np.random.default_rng(seed)
    costs = rng.normal(0, 2, (n, 2))
    pairs = np.array([rng.choice(n, 2, replace=False) for _ in range(edges if n > 1 else 0)], dtype=int).reshape(-1, 2)
    weights = rng.exponential(1, len(pairs))
    least = min(energy(x, costs, pairs, weights) for x in product((0, 1), repeat=n))
    assert energy(graph_cut(costs, pairs, weights), costs, pairs, weights) == pytest.approx(least, abs=1e-4)


def test_graph_cut_by_hand():
    costs, pairs = np.array([[0.0, 3.0], [1.0, 0.0]]), np.array([[0, 1]])  # the first wants 0, the second a little 1
    assert graph_cut(costs, pairs, np.array([0.5])).tolist() == [False, True]
    assert graph_cut(costs, pairs, np.array([2.0])).tolist() == [False, False]
    assert graph_cut(np.zeros((2, 2)), pairs, np.array([0.0])).tolist() == [False, False]
    with pytest.raises(ValueError, match="negative"):
        graph_cut(costs, pairs, np.array([-1.0]))
    with pytest.raises(ValueError, match="costs"):
        graph_cut(costs[:, :1], pairs, np.array([1.0]))


def test_selective_search_boxes_the_rectangle():
    pixels = scene(90, 120)
    boxes = selective_search(pixels)
    assert boxes.dtype == np.int32
    assert len(np.unique(boxes, axis=0)) == len(boxes)
    assert boxes[0].tolist() == [0, 0, 120, 90]
    assert np.abs(boxes - [40, 22, 80, 67]).max(axis=1).min() <= 2
    assert np.array_equal(boxes, selective_search(pixels))
    assert len(selective_search(pixels, most=2)) <= 2
    assert len(selective_search(pixels, quality=True)) >= len(boxes)
    with pytest.raises(OptionError, match="most"):
        selective_search(pixels, most=0)


def test_segments_leave_out_what_straddles_their_box():
    pixels = scene(90, 120)
    boxes = np.array([[35, 15, 90, 75], [38, 20, 82, 70], [0, 0, 120, 90], [0, 0, 10, 10]], dtype=np.int32)
    around, masks = segments(pixels, boxes)
    masks = np.unpackbits(masks, axis=1, count=90 * 120).reshape(-1, 90, 120)
    assert len(masks) == 2  # the first two boxes hold the same region; the last one holds none
    inner = np.zeros((90, 120), dtype=bool)
    inner[22:67, 40:80] = True
    assert (masks[0] & inner).sum() / (masks[0] | inner).sum() > 0.9
    assert masks[1].all()
    np.testing.assert_array_equal(
        around[0], [*np.argwhere(masks[0]).min(0)[::-1], *np.argwhere(masks[0]).max(0)[::-1] + 1]
    )

    ids = felzenszwalb(pixels, scale=150.0, sigma=0.8)  # by definition: region by region
    box = np.zeros((90, 120), dtype=bool)
    box[15:75, 35:90] = True
    wanted = np.isin(ids, [n for n in range(ids.max() + 1) if box[ids == n].mean() >= 0.9])
    np.testing.assert_array_equal(masks[0], wanted)
    assert len(segments(pixels, boxes[3:])[0]) == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (19, 300), (25, 25)])
def test_small_images_have_boxes_inside(size):
    boxes = selective_search(scene(*size))
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= size[::-1]).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert len(segments(scene(*size), boxes)[0])  # the whole image is always among them


def test_flow_finds_a_shift_and_warping_takes_it_back():
    rng = np.random.default_rng(0)
    texture = ndimage.gaussian_filter(rng.normal(0, 300, (140, 160, 3)), (2, 2, 0)) + 128
    texture = np.clip(texture, 0, 255).astype(np.uint8)
    first, second = texture[10:110, 10:130], texture[7:107, 5:125]  # all moves by 5 to the right and 3 down
    inner = np.s_[15:-15, 15:-15]
    forward, backward = optical_flow(first, second), optical_flow(second, first)
    np.testing.assert_allclose(forward[inner].reshape(-1, 2).mean(axis=0), [5, 3], atol=0.3)
    assert np.abs(warp(second, forward)[inner].astype(int) - first[inner]).mean() < 6
    assert consistent(forward, backward)[inner].mean() > 0.98
    assert not consistent(forward, forward)[inner].any()
    with pytest.raises(OptionError, match="preset"):
        optical_flow(first, second, preset="slow")
    with pytest.raises(ValueError, match="one size"):
        optical_flow(first, second[1:])


def test_nearest_warping_keeps_labels_and_consistency_needs_the_frame():
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    flow = np.tile(np.array([1, 0], dtype=np.float32), (3, 4, 1))
    np.testing.assert_array_equal(warp(labels, flow, nearest=True), labels[:, [1, 2, 3, 3]])
    np.testing.assert_array_equal(consistent(flow, -flow), [[True, True, True, False]] * 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (13, 7), (33, 64)])
def test_small_frames_flow(size):
    flow = optical_flow(scene(*size), scene(*size))
    assert flow.shape == (*size, 2)
    assert np.isfinite(flow).all()
