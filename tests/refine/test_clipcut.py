"""Objects cut out of frames: the graph and its energy against exhaustive search, motion, and what is worth keeping."""

from __future__ import annotations

from itertools import product

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tagmask.errors import OptionError
from tagmask.refine.clipcut import (
    DENSITY_FLOOR,
    FLOOR,
    CutOptions,
    clip_graph,
    cut_frames,
    cut_graph,
    frames_to_keep,
)
from tagmask.refine.mixture import fit_mixture, log_density
from tagmask.refine.motion import enclosed, inside_motion

T, H, W = 2, 4, 6


def tiny(seed):
    """Two frames of a few regions each, with a flow from the first to the second of which not all can be trusted."""
    random = np.random.default_rng(seed)
    frames = random.integers(0, 256, (T, H, W, 3), dtype=np.uint8)
    cuts = [np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 1, 1, 2, 2])]
    regions = [np.tile(columns, (H, 1)).astype(np.int32) for columns in cuts]
    regions[1][2:, :3] = 3
    flow = random.uniform(-2, 2, (H, W, 2)).astype(np.float32)
    trusted = random.random((H, W)) < 0.8
    return frames, regions, [(flow, trusted)], random


def equations(frames, regions, flows, attended, motion, belief, options):
    """Return the energy of the paper as a function of a labelling, written from its terms alone."""
    pixels, colours = {}, {}
    for t in range(T):
        for y, x in np.ndindex(H, W):
            pixels.setdefault((t, int(regions[t][y, x])), []).append((y, x))
    nodes = sorted(pixels)
    lab = [cv2.cvtColor(frame, cv2.COLOR_RGB2LAB).astype(float) for frame in frames]
    for t, r in nodes:
        colours[t, r] = np.mean([lab[t][y, x] for y, x in pixels[t, r]], axis=0)
    centres = {node: np.mean(pixels[node], axis=0) for node in nodes}
    neighbours = set()
    for t in range(T):
        for (y, x), (dy, dx) in product(np.ndindex(H, W), ((0, 1), (1, 0))):
            if y + dy < H and x + dx < W and regions[t][y, x] != regions[t][y + dy, x + dx]:
                pair = sorted((int(regions[t][y, x]), int(regions[t][y + dy, x + dx])))
                neighbours.add(((t, pair[0]), (t, pair[1])))
    squares = {(i, j): ((colours[i] - colours[j]) ** 2).sum() for i, j in neighbours}
    sharp = 1 / (2 * np.mean(list(squares.values())))
    spatial = {
        (i, j): np.exp(-sharp * squares[i, j]) / max(np.linalg.norm(centres[i] - centres[j]), 1) for i, j in neighbours
    }
    temporal = {}
    flow, trusted = flows[0]
    for y, x in np.ndindex(H, W):
        to_x, to_y = int(np.rint(x + flow[y, x, 0])), int(np.rint(y + flow[y, x, 1]))
        if trusted[y, x] and 0 <= to_x < W and 0 <= to_y < H:
            i, j = (0, int(regions[0][y, x])), (1, int(regions[1][to_y, to_x]))
            temporal[i, j] = temporal.get((i, j), 0) + 1 / len(pixels[i])
    for i, j in temporal:
        temporal[i, j] *= np.exp(-sharp * ((colours[i] - colours[j]) ** 2).sum())
    table = np.array([colours[node] for node in nodes])
    sizes = np.array([len(pixels[node]) for node in nodes])
    models = [fit_mixture(table, sizes * side, components=options.components) for side in (1 - belief, belief)]
    own = np.zeros((len(nodes), 2))
    for n, label in product(range(len(nodes)), (0, 1)):
        for weight, values in ((options.attention, attended), (options.motion, motion)):
            p = min(max(values[n], FLOOR), 1 - FLOOR)
            own[n, label] -= weight * np.log(p if label else 1 - p)
        own[n, label] -= options.colour * max(log_density(models[label], table[n : n + 1])[0], DENSITY_FLOOR)
    unit = np.mean([abs(o - g) for g, o in own])
    each = 2 * sum(spatial.values()) / len(nodes)
    number = {node: n for n, node in enumerate(nodes)}

    def energy(x):
        apart = sum(options.spatial * unit / each * w for (i, j), w in spatial.items() if x[number[i]] != x[number[j]])
        apart += sum(options.temporal * unit * w for (i, j), w in temporal.items() if x[number[i]] != x[number[j]])
        return sum(own[n, label] for n, label in enumerate(x)) + apart

    return len(nodes), energy


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 999), st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from([0.0, 0.3, 1.0]), st.floats(0, 1))
def test_the_cut_is_the_cheapest_of_all_labellings(seed, spatial, temporal, motion):
    frames, regions, flows, random = tiny(seed)
    graph = clip_graph(frames, regions, flows)
    attended, moving = random.random((2, len(graph.sizes)))
    options = CutOptions(
        motion=motion, spatial=spatial, temporal=temporal, rounds=1, colour=0.2, components=2, regions=1
    )
    nodes, energy = equations(frames, regions, flows, attended, moving, attended, options)
    assert nodes == len(graph.sizes) == 7
    found = cut_graph(graph, attended, moving, options)
    least = min(energy(x) for x in product((0, 1), repeat=nodes))
    assert energy(found.astype(int)) == pytest.approx(least, abs=1e-6)


def test_a_second_cut_has_the_colours_of_the_first():
    changed = 0
    for seed in range(40):
        frames, regions, flows, random = tiny(seed)
        graph = clip_graph(frames, regions, flows)
        attended = random.random(len(graph.sizes))
        once, twice = (cut_graph(graph, attended, None, CutOptions(rounds=n, components=1)) for n in (1, 2))
        if once.all() or not once.any():
            np.testing.assert_array_equal(once, twice)
            continue
        still = CutOptions(components=1)
        nodes, energy = equations(frames, regions, flows, attended, attended, once.astype(float), still)
        least = min(energy(x) for x in product((0, 1), repeat=nodes))
        assert energy(twice.astype(int)) == pytest.approx(least, abs=1e-6)
        changed += (once != twice).any()
    assert changed


def film(count=5, size=64, step=3, seed=0):
    """A textured disc that moves over a textured ground of other colours: frames and truth."""
    random = np.random.default_rng(seed)
    ground = cv2.GaussianBlur(random.integers(0, 120, (size, size, 3), dtype=np.uint8), (0, 0), 1.5)
    thing = cv2.GaussianBlur(random.integers(120, 255, (size, size, 3), dtype=np.uint8), (0, 0), 1.5)
    y, x = np.mgrid[:size, :size]
    frames, truth = [], []
    for t in range(count):
        disc = (y - 32) ** 2 + (x - 22 - step * t) ** 2 < 14**2
        moved = np.roll(thing, step * t, axis=1)
        frames.append(np.where(disc[..., None], moved, ground))
        truth.append(disc)
    return np.stack(frames), np.stack(truth)


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


def blurred(truth):
    """What a classifier attends to: the upper half of the object, smeared."""
    half = truth & (np.arange(truth.shape[1]) < 32)[None, :, None]
    smooth = np.stack([cv2.GaussianBlur(part.astype(np.float32), (0, 0), 7) for part in half])
    return smooth / smooth.max(axis=(1, 2), keepdims=True)


OPTIONS = CutOptions(regions=120)


def test_it_beats_the_attention_that_it_starts_from():
    frames, truth = film()
    attention = blurred(truth)
    best = max(overlap(attention > level, truth) for level in np.linspace(0.1, 0.9, 9))
    got = cut_frames(frames, attention, OPTIONS)
    assert got.shape == truth.shape
    assert overlap(got, truth) > best + 0.1
    np.testing.assert_array_equal(got, cut_frames(frames, attention, OPTIONS))


def test_a_frame_that_says_nothing_learns_from_those_around_it():
    frames, truth = film(step=1)
    attention = np.where(truth, np.float32(0.9), np.float32(0.1))
    attention[2] = 0.45  # rather ground
    still = CutOptions(regions=120, colour=0)
    joined, apart = (cut_frames(frames, attention, o) for o in (still, CutOptions(regions=120, colour=0, temporal=0)))
    assert overlap(joined[2], truth[2]) > 0.7
    assert not apart[2].any()


def test_what_moves_is_the_object_where_only_the_motion_is_asked():
    frames, truth = film(step=3)
    ignorant = np.full(truth.shape, 0.5, dtype=np.float32)
    got = cut_frames(frames, ignorant, CutOptions(attention=0, colour=0, motion=1, regions=120))
    assert overlap(got, truth) > 0.5


def test_one_frame_and_no_attention_at_all():
    frames, truth = film(count=1)
    assert overlap(cut_frames(frames, blurred(truth), OPTIONS), truth) > 0.3
    nothing = np.zeros(truth.shape, dtype=np.float32)
    assert not cut_frames(frames, nothing, OPTIONS).any()
    assert cut_frames(frames[:, :3, :2], nothing[:, :3, :2] + 1, OPTIONS).all()


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 999))
def test_rays_are_counted(height, width, seed):
    border = np.random.default_rng(seed).random((height, width)) < 0.4
    expected = np.zeros(border.shape)
    for (y, x), (dy, dx) in product(np.ndindex(border.shape), product((-1, 0, 1), repeat=2)):
        if (dy, dx) == (0, 0):
            continue
        met, before, row, column = 0, border[y, x], y + dy, x + dx
        while 0 <= row < height and 0 <= column < width:
            met += border[row, column] and not before
            before, row, column = border[row, column], row + dy, column + dx
        expected[y, x] += met % 2 / 8
    np.testing.assert_allclose(enclosed(border), expected)


def test_inside_of_a_motion_and_no_motion():
    flow = np.zeros((30, 40, 2), dtype=np.float32)
    assert (inside_motion(flow) == 0.5).all()
    flow[8:20, 10:30] = 6, 1
    inside = inside_motion(flow)
    assert inside[11:17, 13:27].min() > 0.5
    assert inside[:6].max() < 0.5
    speck = np.zeros((90, 90, 2), dtype=np.float32)
    speck[40:43, 40:43] = 9
    assert (inside_motion(speck) == 0.5).all()
    assert (inside_motion(np.ones((1, 5, 2), dtype=np.float32)) == 0.5).all()


def test_what_is_kept_to_learn_from():
    masks = np.zeros((5, 10, 10), dtype=bool)
    masks[1, 4, 4] = masks[2, 2:6, 2:6] = masks[3, :, :] = masks[4, 2:6, 2:6] = True
    attention = np.zeros((5, 10, 10), dtype=np.float32)
    attention[:, 2:6, 2:6] = 1
    attention[4, 8, :] = 1.2  # 12 outside, 16 inside: 57 %
    attention[1] = 0
    attention[1, 4, 4] = 1
    keep = {"area": (0.01, 0.9), "inside": 0.6}
    assert frames_to_keep(masks, attention, **keep).tolist() == [False, True, True, False, False]
    assert frames_to_keep(masks, attention, area=(0.02, 1.0), inside=0.5).tolist() == [False, False, True, True, True]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"rounds": 0}, "above 0"),
        ({"regions": 0}, "above 0"),
        ({"spatial": -1.0}, "must not be negative"),
        ({"attention": 0.0}, "attention or of motion"),
        ({"flow": "raft"}, "expected one of ultrafast"),
    ],
)
def test_nonsense_is_refused(wrong, words):
    with pytest.raises(OptionError, match=words):
        CutOptions(**wrong)
