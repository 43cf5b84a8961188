"""SEAM's losses against its equations, written down in numpy over all classes, pixel by pixel."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tagmask import equivariance
from tagmask.equivariance import (
    compared,
    equivariance_terms,
    grown,
    hardest_difference,
    normalised,
    quiet_loss,
    winners,
    with_background,
)

E = 1e-5
SIDES = st.integers(1, 7)


def bilinear(plane, size):
    """Corner on corner: pixel i of n lies at i (m - 1) / (n - 1) among the m it is drawn from."""
    (h, w), (height, width) = plane.shape, size
    out = np.empty(size)
    for i in range(height):
        for j in range(width):
            y = i * (h - 1) / (height - 1) if height > 1 else 0
            x = j * (w - 1) / (width - 1) if width > 1 else 0
            top, left = int(y), int(x)
            down, right = min(top + 1, h - 1), min(left + 1, w - 1)
            fy, fx = y - top, x - left
            out[i, j] = (1 - fy) * ((1 - fx) * plane[top, left] + fx * plane[top, right]) + fy * (
                (1 - fx) * plane[down, left] + fx * plane[down, right]
            )
    return out


def resized(maps, size):
    return np.stack([bilinear(plane, size) for plane in maps])


def norm(maps):
    out = np.empty_like(maps)
    for c, plane in enumerate(maps):
        plane = np.maximum(plane, 0)
        out[c] = np.maximum(plane - plane.min() - E, 0) / (plane.max() - plane.min() + E)
    return out


def one_hot(scores):
    out = scores.copy()
    for c in range(1, len(scores)):
        for place in np.ndindex(*scores.shape[1:]):
            if scores[(c, *place)] < max(scores[(d, *place)] for d in range(1, len(scores))):
                out[(c, *place)] = 0
    return out


def soft_margin(logits, labels):
    p = 1 / (1 + np.exp(-logits))
    return -np.mean(labels * np.log(p) + (1 - labels) * np.log(1 - p))


def least_quarter(maps):
    loudest = np.sort(maps.max(axis=0).ravel())
    return np.maximum(loudest[: max(1, int(0.25 * loudest.size))], 0).mean()


def hardest(aim, maps, share):
    apart = np.sort(np.abs(aim - maps).ravel())[::-1]
    return apart[: max(1, int(share * apart.size))].mean()


def by_hand(maps, refined, tags, sizes, share):
    """The terms of one image; maps (C-1, h, w) and refined (C, h, w) of the two views."""
    y = np.array([1, *tags])[:, None, None]
    terms = {"tags": np.mean([soft_margin(m.mean(axis=(1, 2)), tags) for m in maps])}
    seen, shown, quiet = [], [], []
    for view in range(2):
        maps_, refined_ = (resized(m[view], sizes[view]) for m in (maps, refined))
        quiet.append(least_quarter((refined_ * y)[1:]))
        maps_, refined_ = norm(maps_), norm(refined_)
        if view == 0:  # A is applied after the norm, and only to the first view
            maps_, refined_ = resized(maps_, sizes[1]), resized(refined_, sizes[1])
        seen.append(maps_ * y[1:])
        shown.append(refined_ * y)
    terms["er"] = np.abs(seen[0] - seen[1]).mean()
    terms["quiet"] = np.mean(quiet)
    aims = [one_hot(np.concatenate([1 - m.max(axis=0, keepdims=True), m])) for m in seen]
    terms["ecr"] = hardest(aims[1], shown[0], share) + hardest(aims[0], shown[1], share)
    return terms


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.tuples(SIDES, SIDES),
    st.tuples(SIDES, SIDES),
    st.sampled_from([0.01, 0.2, 0.5, 1.0]),
    st.integers(0, 999),
)
def test_the_terms_are_those_of_the_paper(batch, classes, grid, small_grid, share, seed):
    random = np.random.default_rng(seed)
    sizes = ((grid[0] + 6, grid[1] + 4), (small_grid[0] + 1, small_grid[1] + 2))
    maps = [random.normal(size=(batch, classes, *g)) for g in (grid, small_grid)]
    refined = [random.random(size=(batch, classes + 1, *g)) for g in (grid, small_grid)]
    tags = random.integers(0, 2, size=(batch, classes))
    tensors = [[torch.from_numpy(m).float() for m in pair] for pair in (maps, refined)]
    got = equivariance_terms(*tensors, torch.from_numpy(tags).float(), sizes, hardest=share)
    images = [
        by_hand([m[b] for m in maps], [m[b] for m in refined], tags[b], sizes, share) for b in range(batch)
    ]  # every term of the batch is the mean over its images
    assert set(got) == {"tags", "er", "quiet", "ecr"}
    for name, value in got.items():
        assert value.item() == pytest.approx(np.mean([image[name] for image in images]), abs=2e-4), name


def test_weights_scale_their_term_and_without_refined_maps_there_are_two():
    torch.manual_seed(0)
    maps, refined = (torch.rand(2, 3, 5, 5), torch.rand(2, 3, 2, 2)), (torch.rand(2, 4, 5, 5), torch.rand(2, 4, 2, 2))
    tags, sizes = torch.tensor([[1.0, 0, 1], [0, 0, 1]]), ((9, 9), (3, 3))
    plain = equivariance_terms(maps, refined, tags, sizes)
    weighed = equivariance_terms(maps, refined, tags, sizes, er_weight=0.0, ecr_weight=3.0)
    assert weighed["er"] == 0 < plain["er"]
    torch.testing.assert_close(weighed["ecr"], 3 * plain["ecr"])
    assert weighed["tags"] == plain["tags"]
    alone = equivariance_terms(maps, (), tags, sizes)
    assert {name: alone[name].item() for name in alone} == {name: plain[name].item() for name in ("tags", "er")}


def test_the_first_view_is_normalised_before_it_is_resized_and_the_second_is_not_resized(monkeypatch):
    maps = torch.tensor([[[[0.0, 8.0, 0.0], [0.0, 0.0, 0.0], [2.0, 0.0, 4.0]]]])
    right, wrong = (
        compared(maps, (2, 2)),
        normalised(grown(maps, (2, 2))),
    )  # the middle is lost, and with it the maximum
    torch.testing.assert_close(right[0, 0], torch.tensor([[0.0, 0.0], [0.25, 0.5]]), rtol=0, atol=1e-4)
    assert wrong.max() > 0.99
    resizes = []
    monkeypatch.setattr(
        equivariance.functional, "interpolate", lambda x, size, **_: resizes.append(size) or x[:, :, :2, :2]
    )
    equivariance_terms((maps, maps[:, :, :2, :2]), (), torch.ones(1, 1), ((3, 3), (2, 2)))
    assert resizes == [(2, 2)]  # that of the first view, after which nothing is left to be resized


def test_winners_are_a_copy_and_the_background_stays():
    scores = torch.tensor([[0.1, 0.9], [0.5, 0.2], [0.4, 0.3], [0.5, 0.1]]).view(1, 4, 1, 2)
    before = scores.clone()
    expected = torch.tensor([[0.1, 0.9], [0.5, 0.0], [0.0, 0.3], [0.5, 0.0]]).view(1, 4, 1, 2)
    assert torch.equal(winners(scores), expected)
    assert torch.equal(scores, before)
    assert torch.equal(with_background(scores)[:, :1].flatten(), 1 - torch.tensor([0.5, 0.9]))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_quiet_loss_is_the_mean_of_the_least_quarter(classes, height, width, seed):
    maps = np.random.default_rng(seed).normal(size=(2, classes, height, width))
    expected = np.mean([least_quarter(image) for image in maps])
    assert quiet_loss(torch.from_numpy(maps)).item() == pytest.approx(expected)


def test_left_out_elements_count_as_equal():
    aim, maps = torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([[[[0.25, 0.5]]]])
    assert hardest_difference(aim, maps, count=1) == 0.5
    assert hardest_difference(aim, maps, count=2) == 0.375
    assert hardest_difference(aim, maps, count=3) == 0.25  # two elements and a third that is 0


def test_each_term_teaches_what_the_paper_says():
    torch.manual_seed(0)
    maps = [torch.rand(1, 2, 4, 4, requires_grad=True), torch.rand(1, 2, 2, 2, requires_grad=True)]
    refined = [torch.rand(1, 3, 4, 4, requires_grad=True), torch.rand(1, 3, 2, 2, requires_grad=True)]
    terms = equivariance_terms(maps, refined, torch.ones(1, 2), ((8, 8), (4, 4)))
    for name, taught in {"tags": maps, "er": maps, "quiet": refined, "ecr": refined}.items():
        gradients = torch.autograd.grad(terms[name], [*maps, *refined], retain_graph=True, allow_unused=True)
        moved = [g is not None and bool((g != 0).any()) for g in gradients]
        assert moved == [any(p is t for t in taught) for p in (*maps, *refined)], name
