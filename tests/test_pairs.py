import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tagmask.pairs import EPSILON, PairKinds, affinity_loss, mean_where, pair_kinds, partners
from tagmask.refine.walk import half_disc

LABELS = st.sampled_from([0, 0, 1, 7, 254, 255])


def by_hand(labels, offsets):
    """Sort pairs one by one."""
    height, width = labels.shape
    kinds = np.zeros((3, len(offsets), height, width), dtype=bool)
    for p, (dy, dx) in enumerate(offsets.tolist()):
        for y in range(height):
            for x in range(width):
                if not (0 <= y + dy < height and 0 <= x + dx < width):
                    continue
                a, b = int(labels[y, x]), int(labels[y + dy, x + dx])
                if 255 not in (a, b):
                    kinds[2 if a != b else int(a > 0), p, y, x] = True
    return kinds


@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 5), st.data())
@settings(max_examples=60, deadline=None)
def test_kinds_are_those_found_one_by_one(height, width, radius, data):
    values = data.draw(st.lists(LABELS, min_size=height * width, max_size=height * width))
    labels = np.array(values, dtype=np.uint8).reshape(height, width)
    found = pair_kinds(torch.from_numpy(labels)[None], half_disc(radius))
    expected = by_hand(labels, half_disc(radius))
    for kind, name in zip(expected, ("background", "foreground", "different"), strict=True):
        np.testing.assert_array_equal(getattr(found, name)[0].numpy(), kind)


def test_partners_outside_have_the_value_given():
    values = torch.arange(6.0).reshape(1, 2, 3)
    (shifted,) = partners(values, np.array([[1, -1]]), outside=-5)[0]
    assert shifted.tolist() == [[-5, 3, 4], [-5, -5, -5]]


def test_the_loss_is_a_quarter_a_quarter_and_a_half_of_three_means():
    labels = torch.tensor([[[0, 0, 3, 3, 255]]])
    affinity = torch.tensor([[[[0.9, 0.2, 0.7, 0.5, 0.1]]]], dtype=torch.float64)  # with the cell to the right
    loss = affinity_loss(affinity, pair_kinds(labels, np.array([[0, 1]])))
    expected = -np.log(0.9 + EPSILON) / 4 - np.log(0.7 + EPSILON) / 4 - np.log(1 + EPSILON - 0.2) / 2
    assert float(loss) == pytest.approx(expected, abs=1e-12)


def test_nothing_known_gives_zero_and_a_finite_gradient():
    affinity = torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2).requires_grad_()
    nothing = torch.zeros(1, 1, 1, 2, dtype=torch.bool)
    loss = affinity_loss(affinity, PairKinds(nothing, nothing, nothing))
    loss.backward()
    assert float(loss.detach()) == 0
    assert affinity.grad.abs().sum() == 0
    assert float(mean_where(torch.ones(2, dtype=torch.float64), torch.tensor([True, False]))) == 1
