"""The rules of guided labelling against their words, pixel by pixel."""

from __future__ import annotations

from math import exp

import numpy as np
import pytest

from tagmask.errors import OptionError
from tagmask.refine.crf import DEEPLAB_V1_CRF, mean_field
from tagmask.refine.guides import propagated_guide, random_guide, regions, salient_mask, scored_guide
from tagmask.types import LabelMap


def pieces_of(mask):
    """Flood from every pixel to its eight neighbours: sets of places, in reading order of their first."""
    left, found = {tuple(place) for place in np.argwhere(mask).tolist()}, []
    while left:
        waiting, piece = [min(left)], set()
        while waiting:
            y, x = waiting.pop()
            if (y, x) in left:
                left.remove((y, x))
                piece.add((y, x))
                waiting += [(y + b, x + a) for b in (-1, 0, 1) for a in (-1, 0, 1)]
        found.append(piece)
    return found


def blurred(plane, deviation=10.0):
    """A Gaussian of four deviations, normalised, over the image and its mirror images."""
    reach = int(4 * deviation + 0.5)
    weights = [exp(-(d**2) / (2 * deviation**2)) for d in range(-reach, reach + 1)]

    def along(row):
        n = len(row)
        mirror = [min(i % (2 * n), 2 * n - 1 - i % (2 * n)) for i in range(-reach, n + reach)]
        return [
            sum(w * row[mirror[i + k]] for k, w in enumerate(weights)) / sum(weights) for i in range(n)
        ]  # fmt: skip

    return np.array([along(row) for row in np.array([along(column) for column in plane.T]).T])


def spread(seeds, salient, pixels, smallest, keep_unknown):
    """Steps a to d of the rule G2 as they are told."""
    height, width = seeds.shape
    tags = sorted(set(seeds.ravel().tolist()) - {0, 255})
    out = np.full(seeds.shape, 255)
    parts = [(c, part) for c in tags for part in pieces_of(seeds == c)]
    used = set()
    for piece in pieces_of(salient):
        if len(piece) < smallest * height * width:
            continue
        touching = [number for number, (_, part) in enumerate(parts) if part & piece]
        used |= set(touching)
        involved = sorted({parts[number][0] for number in touching})
        if len(involved) == 1:
            winner = np.full(seeds.shape, involved[0])
        elif involved:
            unary = [-blurred(np.where(seeds == c, 1 - 1e-3, 1e-3)) for c in involved]
            q = mean_field(np.array(unary, dtype=np.float32), pixels, DEEPLAB_V1_CRF)
            winner = np.array(involved)[q.argmax(axis=0)]
        for place in piece if involved else ():
            out[place] = winner[place]
    for number, (c, part) in enumerate(parts):
        for place in part if number not in used else ():
            out[place] = c
    for place in np.ndindex(seeds.shape):
        if seeds[place] == 0 and not salient[place]:
            out[place] = 0
        if out[place] == 255 and not keep_unknown:
            out[place] = 0
    return out


def blobs(random, size, share):
    """A coarse random mask, so that pieces of many sizes occur."""
    coarse = random.random((-(-size[0] // 3), -(-size[1] // 3))) < share
    speck = random.random(size) < 0.02
    return np.kron(coarse, np.ones((3, 3), dtype=bool))[: size[0], : size[1]] | speck


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("keep_unknown", [False, True])
def test_seeds_spread_as_the_steps_say(seed, keep_unknown):
    random = np.random.default_rng(seed)
    size = (int(random.integers(9, 25)), int(random.integers(9, 25)))
    seeds = np.zeros(size, dtype=np.uint8)
    for c in (2, 7, 9)[: 1 + seed % 3]:
        seeds[blobs(random, size, 0.15)] = c
    if seed % 4 == 0:
        seeds[blobs(random, size, 0.1)] = 255
    salient = blobs(random, size, 0.35)
    pixels = random.integers(0, 255, (*size, 3), dtype=np.uint8)
    found = propagated_guide(LabelMap(seeds), salient, pixels, smallest=0.02, keep_unknown=keep_unknown)
    np.testing.assert_array_equal(found.labels, spread(seeds, salient, pixels, 0.02, keep_unknown))


def test_two_seeds_share_a_piece_along_its_colours():
    seeds, salient = np.zeros((40, 80), dtype=np.uint8), np.zeros((40, 80), dtype=bool)
    seeds[15:25, 10:20], seeds[15:25, 60:70] = 3, 5
    salient[10:30, 5:75] = True
    pixels = np.zeros((40, 80, 3), dtype=np.uint8)
    pixels[:, :50] = 200
    labels = propagated_guide(LabelMap(seeds), salient, pixels).labels
    assert (labels[10:30, 5:50] == 3).all()
    assert (labels[10:30, 50:75] == 5).all()
    assert not labels[~salient].any()


def test_what_does_not_stand_out_stays_and_what_no_seed_explains_goes():
    seeds, salient = np.zeros((20, 20), dtype=np.uint8), np.zeros((20, 20), dtype=bool)
    seeds[2:4, 2:4] = 1  # beside all saliency
    seeds[12, 12] = 2  # on a speck that does not count
    salient[12, 12:14] = True
    salient[15:19, 2:8] = True  # without a seed
    pixels = np.zeros((20, 20, 3), dtype=np.uint8)
    plain = propagated_guide(LabelMap(seeds), salient, pixels, smallest=0.01).labels
    np.testing.assert_array_equal(plain, seeds)
    kept = propagated_guide(LabelMap(seeds), salient, pixels, smallest=0.01, keep_unknown=True).labels
    expected = np.where(salient & (seeds == 0), 255, seeds)
    np.testing.assert_array_equal(kept, expected)


@pytest.mark.parametrize("seed", range(6))
def test_lots_are_drawn_once_a_piece_and_only_of_the_tags(seed):
    random = np.random.default_rng(seed)
    salient = blobs(random, (17, 14), 0.3)
    labels = random_guide(salient, (4, 6), np.random.default_rng(seed)).labels
    again = random_guide(salient, (4, 6), np.random.default_rng(seed)).labels
    np.testing.assert_array_equal(labels, again)
    assert not labels[~salient].any()
    pieces = pieces_of(salient)
    for piece in pieces:
        drawn = {int(labels[place]) for place in piece}
        assert len(drawn) == 1
        assert drawn <= {4, 6}
    many = random_guide(np.kron(np.eye(40), [[1, 0], [0, 0]]) > 0, (4, 6), np.random.default_rng(seed)).labels
    assert 5 < (many == 4).sum() < 35
    assert not random_guide(salient, (), np.random.default_rng(seed)).labels.any()


@pytest.mark.parametrize("seed", range(6))
def test_each_region_gets_its_best_tag(seed):
    random = np.random.default_rng(seed)
    salient = blobs(random, (17, 14), 0.3)
    numbered = regions(salient, 0.03)
    large = [piece for piece in pieces_of(salient) if len(piece) >= 0.03 * salient.size]
    specks = [piece for piece in pieces_of(salient) if len(piece) < 0.03 * salient.size]
    for number, piece in enumerate(large, start=1):
        assert {int(numbered[place]) for place in piece} == {number}
    assert all(numbered[place] == len(large) + 1 for piece in specks for place in piece)
    assert ((numbered > 0) == salient).all()
    scores = random.normal(size=(int(numbered.max()), 3)).astype(np.float32)
    labels = scored_guide(numbered, scores, (1, 5, 8)).labels
    for place in np.ndindex(labels.shape):
        row = numbered[place]
        assert labels[place] == ((1, 5, 8)[int(np.argmax(scores[row - 1]))] if row else 0)
    assert not scored_guide(numbered * 0, scores[:0], (1, 5, 8)).labels.any()


def test_salient_is_half_of_the_largest_value():
    saliency = np.array([[0, 99, 100, 200]], dtype=np.float32) / np.float32(255)
    assert salient_mask(saliency, 0.5).tolist() == [[False, False, True, True]]
    assert not salient_mask(np.zeros((3, 3), dtype=np.float32), 0.5).any()
    for share in (0.0, 1.2):
        with pytest.raises(OptionError, match="above 0 and up to 1"):
            salient_mask(saliency, share)
