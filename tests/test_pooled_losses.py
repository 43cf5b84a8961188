"""The losses of the built-in prior against loops written from the equations, their gradients, and their empty sets."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from tagmask.losses import (
    COMPLEMENT_FLOOR,
    classes_first_loss,
    log_sum_exp_pool,
    pooled_tags_loss,
    prior_loss,
)

few = settings(deadline=None, max_examples=40)
shapes = st.tuples(st.integers(1, 3), st.integers(2, 5), st.integers(1, 4), st.integers(1, 4))  # B, C, h, w
seeds = st.integers(0, 10_000)
shares = st.sampled_from([0.0, 0.3, 0.7, 1.0])
sharpnesses = st.sampled_from([0.5, 5.0, 30.0])


def drawn(shape, seed, tagged=0.5, objects=0.5, padded=0.2):
    """Draw probabilities, tags, objects and ground; some pixels are neither."""
    random = np.random.default_rng(seed)
    batch, classes, height, width = shape
    p = torch.from_numpy(random.normal(0, 3, shape)).softmax(dim=1)
    tags = torch.from_numpy(random.random((batch, classes - 1)) < tagged)
    inside = random.random((batch, height, width)) >= padded
    mask = random.random((batch, height, width)) < objects
    return p, tags, torch.from_numpy(mask & inside), torch.from_numpy(~mask & inside)


def pool(values, r):
    return math.log(sum(math.exp(r * v) for v in values) / len(values)) / r


def log_of_rest(p):
    """Return log(1 - p), from the floor on that the loss has, for float32 does not tell less from 0."""
    return math.log(max(1 - p, COMPLEMENT_FLOOR))


def sets_of(p, tags, objects, ground, b):
    """Return of one image: the values of class k on a set of pixels, the tags and the absent classes, both as ids."""

    def on(k, pixels):
        return [p[b, k, y, x].item() for y, x in np.argwhere(pixels[b].numpy())]

    classes = range(1, p.shape[1])
    return on, [k for k in classes if tags[b, k - 1]], [k for k in classes if not tags[b, k - 1]]


@few
@given(shape=shapes, seed=seeds, r=sharpnesses)
def test_pooling_is_the_loop_over_the_chosen_pixels(shape, seed, r):
    p, _, chosen, _ = drawn(shape, seed)
    p, chosen = p.flatten(2), chosen.flatten(1)
    pooled = log_sum_exp_pool(p, chosen, r)
    for b, k in np.ndindex(*shape[:2]):
        values = p[b, k][chosen[b]].tolist() or p[b, k].tolist()  # nothing chosen: all, for the caller to drop
        assert pooled[b, k].item() == pytest.approx(pool(values, r), abs=1e-12)


def test_pooling_leads_from_the_mean_to_the_maximum():
    p, chosen = torch.tensor([[[0.1, 0.7, 0.4, 0.9]]]), torch.tensor([[True, True, True, False]])
    assert log_sum_exp_pool(p, chosen, 1e-3).item() == pytest.approx(0.4, abs=1e-4)
    assert log_sum_exp_pool(p, chosen, 1e4).item() == pytest.approx(0.7, abs=2e-4)
    assert 0.4 < log_sum_exp_pool(p, chosen).item() < 0.7


def test_small_probabilities_are_not_rounded_away():
    p, chosen = torch.full((1, 1, 1681), 3e-6), torch.ones(1, 1681, dtype=torch.bool)
    assert log_sum_exp_pool(p, chosen).item() == pytest.approx(3e-6, rel=1e-3)


def test_pooling_refuses_no_pixels_and_other_sharpness():
    with pytest.raises(ValueError, match="above 0"):
        log_sum_exp_pool(torch.ones(1, 1, 0), torch.ones(1, 0, dtype=torch.bool))
    for r in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="sharpness"):
            log_sum_exp_pool(torch.ones(1, 1, 2), torch.ones(1, 2, dtype=torch.bool), r)


@few
@given(shape=shapes, seed=seeds, tagged=shares, objects=shares, padded=shares, r=sharpnesses, joint=st.booleans())
def test_prior_loss_is_the_published_sum(shape, seed, tagged, objects, padded, r, joint):
    drawing = drawn(shape, seed, tagged, objects, padded)
    expected = np.zeros(3)
    for b in range(shape[0]):
        on, present, absent = sets_of(*drawing, b)
        mask, rest = drawing[2], drawing[3]
        share = 1 / (len(present) + 1)
        if present and on(0, mask):
            total = -sum(math.log(pool(on(k, mask), r)) for k in present)
            expected[0] += total * share if joint else total / len(present)
        if on(0, rest):
            expected[1] -= math.log(pool(on(0, rest), r)) * (share if joint else 1)
        if absent and on(0, mask | rest):
            expected[2] -= sum(log_of_rest(pool(on(k, mask | rest), r)) for k in absent) / len(absent)
    got = [term.item() for term in prior_loss(*drawing, sharpness=r, joint=joint)]
    assert got == pytest.approx((expected / shape[0]).tolist(), rel=1e-9, abs=1e-9)


@few
@given(shape=shapes, seed=seeds, tagged=shares, padded=shares, r=sharpnesses)
def test_the_weak_loss_pools_everything_over_all_pixels(shape, seed, tagged, padded, r):
    p, tags, objects, ground = drawn(shape, seed, tagged, padded=padded)
    seen, expected = objects | ground, 0.0
    for b in range(shape[0]):
        on, present, absent = sets_of(p, tags, objects, ground, b)
        if not on(0, seen):
            continue
        expected -= sum(math.log(pool(on(k, seen), r)) for k in (0, *present)) / (len(present) + 1)
        expected -= sum(log_of_rest(pool(on(k, seen), r)) for k in absent) / max(len(absent), 1)
    got = sum(term.item() for term in pooled_tags_loss(p, tags, seen, sharpness=r))
    assert got == pytest.approx(expected / shape[0], rel=1e-9, abs=1e-9)


@few
@given(shape=shapes, seed=seeds, tagged=shares, objects=shares, padded=shares, r=sharpnesses)
@example(shape=(1, 2, 2, 4), seed=3, tagged=0.0, objects=0.0, padded=0.0, r=0.5)  # a probability next to 1
def test_classes_first_is_the_published_alternative(shape, seed, tagged, objects, padded, r):
    drawing = drawn(shape, seed, tagged, objects, padded)
    p, _, mask, rest = drawing
    expected = np.zeros(3)
    for b in range(shape[0]):
        _, present, absent = sets_of(*drawing, b)
        on, off = (np.argwhere(pixels[b].numpy()) for pixels in (mask, rest))
        if present and len(on):
            pixels = [pool([p[b, k, y, x].item() for k in present], r) for y, x in on]
            expected[0] -= sum(map(math.log, pixels)) / len(on)
        if len(off):
            expected[1] -= sum(math.log(p[b, 0, y, x].item()) for y, x in off) / len(off)
        both = [*on, *off]
        if absent and both:
            logs = [log_of_rest(p[b, k, y, x].item()) for y, x in both for k in absent]
            expected[2] -= sum(logs) / (len(both) * len(absent))
    got = [term.item() for term in classes_first_loss(*drawing, sharpness=r)]
    assert got == pytest.approx((expected / shape[0]).tolist(), rel=1e-9, abs=1e-9)


LOSSES = {
    "mask": prior_loss,
    "joint": lambda *given: prior_loss(*given, joint=True),
    "weak": lambda p, tags, objects, ground: pooled_tags_loss(p, tags, objects | ground),
    "classes-first": classes_first_loss,
}


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("tagged", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("objects", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("padded", [0.0, 1.0])
@pytest.mark.parametrize("certain", [0.0, 1e3])
def test_empty_sets_and_certain_scores_stay_finite(kind, tagged, objects, padded, certain):
    shape = (2, 4, 3, 5)
    _, tags, mask, rest = drawn(shape, 0, tagged, objects, padded)
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * certain
    scores.requires_grad_()
    terms = LOSSES[kind](scores.softmax(dim=1), tags, mask, rest)
    torch.stack(terms).sum().backward()
    assert all(math.isfinite(term.item()) for term in terms)
    assert torch.isfinite(scores.grad).all()
    if padded == 1:
        assert [term.item() for term in terms] == [0, 0, 0]


@pytest.mark.parametrize("kind", LOSSES)
def test_a_tag_that_has_all_but_vanished_is_still_learned(kind):
    """With a floor of 1e-7 it would not be: the training of the first real photos ended there."""
    _, tags, objects, ground = drawn((1, 3, 4, 4), 1, tagged=1.0, padded=0.0)
    scores = torch.zeros(1, 3, 4, 4)
    scores[:, 0] = 40.0  # the tags have e^-40
    torch.stack(LOSSES[kind](scores.requires_grad_().softmax(dim=1), tags, objects, ground)).sum().backward()
    pulled = scores.grad[:, 1:].sum().item()
    assert pulled == pytest.approx({"joint": -2 / 3, "weak": -2 / 3}.get(kind, -1), rel=1e-3)


@pytest.mark.parametrize("kind", LOSSES)
def test_gradients_are_those_of_the_equations(kind):
    p, tags, objects, ground = drawn((2, 4, 2, 3), 3)
    scores = p.log().requires_grad_()
    assert gradcheck(lambda s: torch.stack(LOSSES[kind](s.softmax(dim=1), tags, objects, ground)), scores)


def test_one_image_without_mask_takes_nothing_from_another():
    p, tags, objects, ground = drawn((2, 3, 4, 4), 5, tagged=1.0, padded=0.0)
    objects[1], ground[1] = False, True
    on, _, _ = prior_loss(p, tags, objects, ground)
    alone, _, _ = prior_loss(p[:1], tags[:1], objects[:1], ground[:1])
    assert on.item() == pytest.approx(alone.item() / 2)


@pytest.mark.parametrize("loss", [prior_loss, classes_first_loss])
def test_what_does_not_fit_is_refused(loss):
    p, tags, objects, ground = drawn((2, 4, 3, 3), 0)
    for wrong in ((p, tags[:, 1:], objects, ground), (p, tags, objects[:, 1:], ground), (p, tags, objects, ground[:1])):
        with pytest.raises(ValueError, match="expected tags"):
            loss(*wrong)


def test_half_precision_is_computed_in_float32():
    p, tags, objects, ground = drawn((1, 4, 3, 3), 0)
    half, whole = prior_loss(p.half(), tags, objects, ground), prior_loss(p.half().float(), tags, objects, ground)
    assert [t.item() for t in half] == [t.item() for t in whole]
