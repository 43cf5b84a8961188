"""Seeded region growing against the visiting queue of the paper and the connected components of the author code."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tagmask.errors import OptionError
from tagmask.refine.grow import grow

LIMITS = {"background": 0.625, "foreground": 0.375}


def sure_labels(cues, probabilities, tags, background, foreground, override):
    """Write the criterion of the paper out, pixel by pixel."""
    sure = np.full(cues.shape, 255, dtype=np.uint8)
    present = sorted({0, *tags})
    for place in np.ndindex(cues.shape):
        best = max(present, key=lambda k: (probabilities[k][place], -k))
        if probabilities[best][place] > np.float32(foreground if best else background):
            sure[place] = best
        if cues[place] != 255 and not override:
            sure[place] = cues[place]
    return sure


def queue(cues, probabilities, tags, background=0.99, foreground=0.85):
    """Visit the 8 neighbours of all that is labelled until nothing changes (the paper's words)."""
    height, width = cues.shape
    sure = sure_labels(cues, probabilities, tags, background, foreground, override=False)
    grown = cues.copy()
    waiting = deque((y, x) for y in range(height) for x in range(width) if cues[y, x] in {0, *tags})
    while waiting:
        y, x = waiting.popleft()
        for b in range(max(y - 1, 0), min(y + 2, height)):
            for a in range(max(x - 1, 0), min(x + 2, width)):
                if grown[b, a] == 255 and sure[b, a] == grown[y, x]:
                    grown[b, a] = grown[y, x]
                    waiting.append((b, a))
    return grown


def components(cues, probabilities, tags, background, foreground, override):
    """Keep the connected components that hold a cue of their class (the author code's words)."""
    sure = sure_labels(cues, probabilities, tags, background, foreground, override)
    grown = cues.copy()
    for k in {0, *tags}:
        parts, count = ndimage.label(sure == k, structure=np.ones((3, 3)))
        for part in range(1, count + 1):
            if (cues[parts == part] == k).any():
                grown[(parts == part) & (grown == 255)] = k
    return grown


def problem(height, width, classes, seed):
    rng = np.random.default_rng(seed)
    rough = rng.random((classes, height, width)).astype(np.float32)
    smooth = ndimage.uniform_filter(rough, size=(1, 3, 3)) ** 4
    probabilities = np.round(16 * smooth / smooth.sum(axis=0)).astype(np.float32) / 16  # ties, also with the limits
    cues = np.where(rng.random((height, width)) < 0.15, rng.integers(0, classes, (height, width)), 255).astype(np.uint8)
    tags = [k for k in range(1, classes) if rng.random() < 0.7]
    return cues, probabilities, tags


@settings(deadline=None, max_examples=80)
@given(
    height=st.sampled_from([1, 2, 7, 13]),
    width=st.sampled_from([1, 3, 11, 17]),
    classes=st.sampled_from([1, 2, 4, 254]),
    seed=st.integers(0, 999),
)
def test_equals_the_queue_and_the_components(height, width, classes, seed):
    cues, probabilities, tags = problem(height, width, classes, seed)
    before = cues.copy()
    found = grow(cues, probabilities, tags, **LIMITS)
    np.testing.assert_array_equal(found, queue(cues, probabilities, tags, **LIMITS))
    np.testing.assert_array_equal(found, components(cues, probabilities, tags, override=False, **LIMITS))
    overridden = grow(cues, probabilities, tags, override_cues=True, **LIMITS)
    np.testing.assert_array_equal(overridden, components(cues, probabilities, tags, override=True, **LIMITS))
    np.testing.assert_array_equal(grow(found, probabilities, tags, **LIMITS), found)  # idempotent
    np.testing.assert_array_equal(cues, before)
    np.testing.assert_array_equal(found[cues != 255], cues[cues != 255])


def test_it_does_grow():
    cues, probabilities, tags = problem(40, 50, 4, seed=1)
    found = grow(cues, probabilities, tags, **LIMITS)
    assert (found != 255).mean() > (cues != 255).mean() + 0.05


def test_wrong_values_are_refused():
    cues, probabilities = np.full((3, 4), 255, dtype=np.uint8), np.zeros((2, 3, 4), dtype=np.float32)
    with pytest.raises(OptionError, match="foreground"):
        grow(cues, probabilities, [1], foreground=1.5)
    with pytest.raises(ValueError, match="tags"):
        grow(cues, probabilities, [2])
    with pytest.raises(ValueError, match="probabilities"):
        grow(cues, probabilities[:, :2], [1])
