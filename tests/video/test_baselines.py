"""The trivial methods on a drawn square that moves, and their memory."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from tagmask.errors import OptionError
from tagmask.video.baselines import averaged, copied, propagated
from tagmask.video.metrics import score_clip

STEP = 3


def square(number, size=(64, 96), side=24):
    """A textured square on a textured ground, ``STEP`` pixels further right in each frame, and its mask."""
    rng = np.random.default_rng(0)
    ground, patch = rng.integers(60, 120, (*size, 3)), rng.integers(140, 255, (side, side, 3))
    left = 8 + STEP * number
    frame, mask = ground.astype(np.uint8), np.zeros(size, dtype=np.uint8)
    frame[20 : 20 + side, left : left + side] = patch
    mask[20 : 20 + side, left : left + side] = 1
    return frame, mask


def frames(count=8):
    return [square(number)[0] for number in range(count)]


def test_copying_repeats_the_first_mask():
    mask = square(0)[1]
    held = list(copied(frames(), mask))
    assert len(held) == 8
    assert all((one == mask).all() for one in held)
    held[0][:] = 9  # what is handed out is the caller's own
    assert mask.max() == 1


def test_propagation_follows_a_moving_square_and_copying_does_not():
    first, truth = square(0)[1], [square(number)[1] for number in range(8)]
    followed = score_clip(zip(propagated(frames(), first), truth, strict=True))[1]
    stayed = score_clip(zip(copied(frames(), first), truth, strict=True))[1]
    assert followed.region.mean > 0.85
    assert stayed.region.mean < 0.5
    np.testing.assert_array_equal(next(propagated(frames(), first)), first)


def test_propagation_keeps_the_ids():
    mask = np.where(square(0)[1] > 0, np.where(np.arange(96) % 2, 7, 200), 0).astype(np.uint8)
    assert all(set(np.unique(one).tolist()) <= {0, 7, 200} for one in propagated(frames(), mask))


def test_frames_of_another_size_are_refused():
    with pytest.raises(ValueError, match="one size"):
        list(propagated(frames(), np.zeros((10, 10), dtype=np.uint8)))


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_the_average_is_its_formula(kind):
    logits = [np.random.default_rng(seed).normal(size=(3, 4, 5)).astype(np.float32) for seed in range(5)]
    held = list(averaged(map(kind, logits), alpha=0.25))
    for number, one in enumerate(held):
        weights = [0.25 * 0.75 ** (number - k) if k else 0.75**number for k in range(number + 1)]
        wanted = sum(w * x for w, x in zip(weights, logits, strict=False))
        np.testing.assert_allclose(np.asarray(one), wanted, rtol=1e-5, atol=1e-6)
        assert np.asarray(one).dtype == np.float32
    np.testing.assert_array_equal(list(averaged(logits, alpha=1.0)), logits)


@pytest.mark.parametrize("alpha", [0, -0.5, 1.01])
def test_an_impossible_weight_is_refused_at_once(alpha):
    with pytest.raises(OptionError, match=r"above 0 and up to 1"):
        averaged([], alpha=alpha)


def test_all_are_streams_without_an_end():
    endless = itertools.cycle(frames(4))
    assert len(list(itertools.islice(copied(endless, square(0)[1]), 50))) == 50
    assert len(list(itertools.islice(propagated(endless, square(0)[1], preset="ultrafast"), 50))) == 50
    assert len(list(itertools.islice(averaged(itertools.repeat(np.ones(3))), 50))) == 50
