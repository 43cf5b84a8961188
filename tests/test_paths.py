"""Paths, affinities along them and the loss of displacements, against what is found cell by cell."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tagmask.pairs import pair_kinds
from tagmask.paths import displacement_loss, path_affinity, path_cells
from tagmask.refine.walk import half_disc


def distance(point, end):
    """Return the distance of a point to the segment from the origin to ``end``: the nearest of its points is sought."""
    point, end = np.array(point, dtype=float), np.array(end, dtype=float)
    along = np.clip(point @ end / max(end @ end, 1), 0, 1)
    return np.linalg.norm(point - along * end)


@pytest.mark.parametrize("offset", [(0, 0), (0, 1), (3, 0), (0, 9), (4, 4), (5, -5), (2, -7), (1, 9), (-3, 6), (7, 5)])
def test_path_cells_are_those_less_than_one_from_the_segment(offset):
    around = [(y, x) for y in range(-12, 13) for x in range(-12, 13)]
    near = {p for p in around if distance(p, offset) < 1 - 1e-9}
    assert {tuple(cell) for cell in path_cells(*offset).tolist()} == near
    assert (0, 0) in near
    assert offset in near


def by_hand(boundary, offsets):
    """Return the affinity (P, h, w), pair by pair."""
    height, width = boundary.shape
    found = np.zeros((len(offsets), height, width))
    for p, (dy, dx) in enumerate(offsets.tolist()):
        for y in range(height):
            for x in range(width):
                if 0 <= y + dy < height and 0 <= x + dx < width:
                    found[p, y, x] = 1 - max(boundary[y + a, x + b] for a, b in path_cells(dy, dx))
    return found


@settings(deadline=None, max_examples=40)
@given(
    height=st.sampled_from([1, 2, 7, 13]),
    width=st.sampled_from([1, 3, 11]),
    radius=st.sampled_from([1, 2, 5, 10]),
    levels=st.sampled_from([1, 2, 1000]),
    seed=st.integers(0, 99),
)
def test_affinity_is_one_minus_the_highest_boundary_on_the_path(height, width, radius, levels, seed):
    rng = np.random.default_rng(seed)
    boundary = rng.integers(0, levels + 1, (2, height, width)).astype(np.float32) / levels  # with ties, 0 and 1
    found = path_affinity(torch.from_numpy(boundary), half_disc(radius))
    expected = np.stack([by_hand(part, half_disc(radius)) for part in boundary])
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_the_gradient_of_a_pair_goes_to_the_cell_that_decides_it():
    rng = np.random.default_rng(3)
    boundary = torch.from_numpy(rng.permutation(2 * 5 * 6).reshape(2, 5, 6) / 60).requires_grad_()  # no two are equal
    assert torch.autograd.gradcheck(lambda b: path_affinity(b, half_disc(4)), (boundary,))


def test_a_wall_parts_what_lies_on_its_sides():
    boundary = torch.zeros(1, 9, 9)
    boundary[:, :, 4] = 1
    affinity = path_affinity(boundary, offsets := half_disc(10))[0]
    for p, (dy, dx) in enumerate(offsets.tolist()):
        inside = affinity[p, : 9 - dy, max(0, -dx) : 9 - max(0, dx)]
        columns = np.arange(max(0, -dx), 9 - max(0, dx))
        apart = (np.minimum(columns, columns + dx) <= 4) & (np.maximum(columns, columns + dx) >= 4)
        np.testing.assert_array_equal(inside.numpy(), np.broadcast_to(~apart, inside.shape))


def centred(labels):
    """Return the displacements (1, 2, h, w) that point from each cell to the mean place of its label, 0 on background."""
    field = np.zeros((2, *labels.shape))
    for label in set(np.unique(labels)) - {0, 255}:
        places = np.argwhere(labels == label)
        field[:, labels == label] = (places.mean(axis=0) - places).T
    return torch.from_numpy(field)[None]


def test_perfect_displacements_cost_nothing():
    labels = np.zeros((20, 24), dtype=np.uint8)
    labels[2:9, 3:11], labels[12:19, 14:22], labels[10] = 1, 2, 255
    kinds, offsets = pair_kinds(torch.from_numpy(labels)[None], half_disc(10)), half_disc(10)
    perfect = centred(labels)
    assert displacement_loss(perfect, kinds, offsets).item() == pytest.approx(0, abs=1e-6)
    assert displacement_loss(perfect + torch.tensor([5.0, -3.0])[:, None, None], kinds, offsets).item() < 1e-6
    assert displacement_loss(-perfect, kinds, offsets).item() > 1  # points away from the centre
    assert displacement_loss(torch.zeros_like(perfect), kinds, offsets).item() > 0.5


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_the_displacement_loss_is_the_mean_over_pairs_found_one_by_one(height, width, seed):
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 0, 1, 2, 255], (2, height, width)).astype(np.uint8)
    field, offsets = rng.normal(size=(2, 2, height, width)), half_disc(3)
    wrong = {0: [], 1: []}
    for b, y, x in np.ndindex(2, height, width):
        for dy, dx in offsets.tolist():
            if y + dy < height and 0 <= x + dx < width and labels[b, y, x] == labels[b, y + dy, x + dx] != 255:
                apart = field[b, :, y, x] - field[b, :, y + dy, x + dx]
                of_object = labels[b, y, x] > 0
                wrong[int(of_object)].append(np.abs(apart - of_object * np.array([dy, dx])).sum() / 2)
    expected = sum(np.mean(values) for values in wrong.values() if values) / 2
    kinds = pair_kinds(torch.from_numpy(labels), offsets)
    assert displacement_loss(torch.from_numpy(field), kinds, offsets).item() == pytest.approx(expected)
