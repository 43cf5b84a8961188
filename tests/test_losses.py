"""The losses against loops written from the equations, their gradients, and their empty sets."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.autograd import gradcheck

from tagmask.losses import (
    balanced_seed_loss,
    centre_loss,
    clamped_softmax,
    constrain_loss,
    expand_loss,
    global_weighted_rank_pool,
    integral_attention_loss,
    moved_centres,
    multi_label_soft_margin,
    pixel_cross_entropy,
    resize_labels,
    seed_loss,
)

few = settings(deadline=None, max_examples=20)
shapes = st.tuples(st.integers(1, 3), st.integers(2, 4), st.integers(1, 4), st.integers(1, 4))  # B, C, h, w
seeds = st.integers(0, 10_000)


def scores_of(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


def labels_of(shape, seed):
    batch, classes, height, width = shape
    known = torch.randint(0, classes, (batch, height, width), generator=torch.Generator().manual_seed(seed))
    unknown = torch.rand(known.shape, generator=torch.Generator().manual_seed(seed + 1)) < 0.4
    return known.masked_fill(unknown, 255).to(torch.uint8)


def rank_pool_by_hand(values, decay):
    ranked = sorted(values, reverse=True)
    weights = [decay**j for j in range(len(ranked))]  # Python's 0 ** 0 is 1 too
    return sum(w * v for w, v in zip(weights, ranked, strict=True)) / sum(weights)


@few
@given(shape=shapes, seed=seeds)
def test_clamped_softmax_adds_the_floor_and_renormalises(shape, seed):
    scores = scores_of(shape, seed)
    p = clamped_softmax(scores, floor=0.01)
    for b, i, j in np.ndindex(shape[0], shape[2], shape[3]):
        exp = [math.exp(s) for s in scores[b, :, i, j].tolist()]
        floored = [e / sum(exp) + 0.01 for e in exp]
        assert p[b, :, i, j].tolist() == pytest.approx([f / sum(floored) for f in floored], abs=1e-12)


def test_clamped_softmax_keeps_certain_scores_off_zero_and_one():
    p = clamped_softmax(torch.tensor([1e4, -1e4]).reshape(1, 2, 1, 1).to(torch.float16))
    assert p.dtype == torch.float32
    assert p.flatten().tolist() == pytest.approx([1.0001 / 1.0002, 0.0001 / 1.0002], rel=1e-5)


@few
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 12)),
    seed=seeds,
    decay=st.sampled_from([0.0, 0.3, 0.996, 1.0]),
)
def test_rank_pool_is_the_sorted_loop(shape, seed, decay):
    p = scores_of(shape, seed)
    pooled = global_weighted_rank_pool(p, decay)
    for b, c in np.ndindex(*shape[:2]):
        assert pooled[b, c].item() == pytest.approx(rank_pool_by_hand(p[b, c].tolist(), decay), abs=1e-12)


def test_rank_pool_spans_maximum_to_mean():
    p = torch.tensor([[[0.1, 0.7, 0.4]]])
    assert global_weighted_rank_pool(p, decay=0.0).item() == pytest.approx(0.7)
    assert global_weighted_rank_pool(p, decay=1.0).item() == pytest.approx(0.4)
    assert global_weighted_rank_pool(p, decay=0.5).item() == pytest.approx((0.7 + 0.4 / 2 + 0.1 / 4) / 1.75)


def test_rank_pool_refuses_a_decay_above_one_and_no_pixels():
    with pytest.raises(ValueError, match="decay"):
        global_weighted_rank_pool(torch.ones(1, 1, 2), decay=1.1)
    with pytest.raises(ValueError, match="N above 0"):
        global_weighted_rank_pool(torch.ones(1, 1, 0), decay=0.5)


@few
@given(shape=shapes, seed=seeds)
def test_seed_loss_is_the_pixel_loop(shape, seed):
    p, labels = clamped_softmax(scores_of(shape, seed)), labels_of(shape, seed)
    total = 0.0
    for b in range(shape[0]):
        logs = [
            math.log(p[b, labels[b, i, j].item(), i, j].item())
            for i, j in np.ndindex(*shape[2:])
            if labels[b, i, j] != 255
        ]
        total -= sum(logs) / max(len(logs), 1)
    assert seed_loss(p, labels).item() == pytest.approx(total / shape[0], abs=1e-12)
    assert seed_loss(p, labels.long()).item() == seed_loss(p, labels).item()


@few
@given(shape=shapes, seed=seeds)
def test_balanced_seed_loss_is_the_pixel_loop_of_ground_and_objects_apart(shape, seed):
    p, labels = clamped_softmax(scores_of(shape, seed)).requires_grad_(), labels_of(shape, seed)
    total = 0.0
    for b in range(shape[0]):
        logs = {True: [], False: []}
        for i, j in np.ndindex(*shape[2:]):
            label = labels[b, i, j].item()
            if label != 255:
                logs[label == 0].append(math.log(p[b, label, i, j].item()))
        total -= sum(sum(kind) / max(len(kind), 1e-4) for kind in logs.values())
    loss = balanced_seed_loss(p, labels)
    assert loss.item() == pytest.approx(total / shape[0], abs=1e-12)
    loss.backward()
    assert torch.isfinite(p.grad).all()
    with pytest.raises(ValueError, match="labels must be"):
        balanced_seed_loss(p, labels[:, :, :-1])


@few
@given(shape=shapes, seed=seeds)
def test_constrain_loss_with_a_clip_is_the_loop_over_bounded_ratios(shape, seed):
    p, q = clamped_softmax(scores_of(shape, seed)), clamped_softmax(scores_of(shape, seed + 1), floor=0.01)
    total = 0.0
    for b, c, i, j in np.ndindex(*shape):
        ratio = q[b, c, i, j].item() / p[b, c, i, j].item()
        total += q[b, c, i, j].item() * math.log(min(max(ratio, 0.5), 1.5))
    cells = shape[0] * shape[2] * shape[3]
    assert constrain_loss(p, q, clip=(0.5, 1.5)).item() == pytest.approx(total / cells, abs=1e-9)
    assert constrain_loss(p, q, clip=(1e-9, 1e9)).item() == pytest.approx(constrain_loss(p, q).item(), abs=1e-12)


@few
@given(shape=shapes, seed=seeds)
def test_expand_loss_is_the_class_loop(shape, seed):
    batch, classes = shape[:2]
    p = clamped_softmax(scores_of(shape, seed))
    tags = torch.rand((batch, classes - 1), generator=torch.Generator().manual_seed(seed)) < 0.5
    total = 0.0
    for b in range(batch):
        pixels = [p[b, c].flatten().tolist() for c in range(classes)]
        present = [c for c in range(1, classes) if tags[b, c - 1]]
        absent = [c for c in range(1, classes) if not tags[b, c - 1]]
        if present:
            total -= sum(math.log(rank_pool_by_hand(pixels[c], 0.996)) for c in present) / len(present)
        if absent:
            total -= sum(math.log(1 - max(pixels[c])) for c in absent) / len(absent)
        total -= math.log(rank_pool_by_hand(pixels[0], 0.999))
    assert expand_loss(p, tags).item() == pytest.approx(total / batch, abs=1e-10)


@few
@given(shape=shapes, seed=seeds)
def test_constrain_loss_is_the_divergence_from_the_floored_crf(shape, seed):
    p, q = clamped_softmax(scores_of(shape, seed)), (scores_of(shape, seed + 1) * 5).softmax(dim=1)
    total = 0.0
    for b, i, j in np.ndindex(shape[0], shape[2], shape[3]):
        floored = [max(v, 1e-4) for v in q[b, :, i, j].tolist()]
        for v, r in zip(floored, p[b, :, i, j].tolist(), strict=True):
            v /= sum(floored)
            total += v * math.log(v / r)
    assert constrain_loss(p, q).item() == pytest.approx(total / (shape[0] * shape[2] * shape[3]), abs=1e-10)


def test_constrain_loss_is_zero_where_both_agree_and_teaches_p_only():
    q = torch.full((1, 2, 2, 2), 0.5, requires_grad=True)
    p = torch.full((1, 2, 2, 2), 0.5, requires_grad=True)
    loss = constrain_loss(p, q)
    loss.backward()
    assert loss.item() == 0
    assert q.grad is None
    assert (p.grad < 0).all()


@few
@given(seed=seeds, batch=st.integers(1, 3), classes=st.integers(1, 4), weighted=st.booleans())
def test_soft_margin_is_the_mean_of_sigmoid_cross_entropies(seed, batch, classes, weighted):
    logits = scores_of((batch, classes), seed)
    targets = scores_of((batch, classes), seed + 1) > 0
    weights = torch.arange(1, classes + 1, dtype=torch.float64) if weighted else None
    total = 0.0
    for b, c in np.ndindex(batch, classes):
        sigmoid = 1 / (1 + math.exp(-logits[b, c].item()))
        total -= (c + 1 if weighted else 1) * math.log(sigmoid if targets[b, c] else 1 - sigmoid)
    loss = multi_label_soft_margin(logits, targets, class_weights=weights)
    assert loss.item() == pytest.approx(total / (batch * classes), abs=1e-9)


@few
@given(
    seed=seeds,
    old=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    new=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_resized_labels_are_pillows_nearest(seed, old, new):
    labels = torch.randint(0, 256, (1, *old), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    wanted = np.asarray(Image.fromarray(labels[0].numpy()).resize(new[::-1], Image.Resampling.NEAREST))
    # Where a new centre falls on an old border the two neighbours are as near, and Pillow's rounding errors choose.
    on_border = [
        [(2 * i + 1) * before % (2 * after) == 0 for i in range(after)] for before, after in zip(old, new, strict=True)
    ]
    clear = np.ix_(*(~np.array(axis) for axis in on_border))
    np.testing.assert_array_equal(resize_labels(labels, size=new)[0].numpy()[clear], wanted[clear])


def test_labels_shrink_by_their_centres_not_their_corners():
    labels = torch.tensor([[[0, 1, 2, 3, 4, 5, 6, 7, 8]]])
    assert resize_labels(labels, size=(1, 3)).flatten().tolist() == [1, 4, 7]  # torch's "nearest" says 0, 3, 6


@few
@given(shape=shapes, seed=seeds)
def test_pixel_cross_entropy_sums_maps_of_several_grids(shape, seed):
    batch, classes, height, width = shape
    labels = labels_of((batch, classes, 2 * height, 2 * width), seed)
    maps = [scores_of(shape, seed), scores_of((batch, classes, 2 * height, 2 * width), seed + 1)]
    total = 0.0
    for logits in maps:
        h, w = logits.shape[2:]
        losses = []
        for b, i, j in np.ndindex(batch, h, w):
            label = labels[b, int((i + 0.5) * 2 * height / h), int((j + 0.5) * 2 * width / w)].item()
            if label != 255:
                exp = [math.exp(s) for s in logits[b, :, i, j].tolist()]
                losses.append(-math.log(exp[label] / sum(exp)))
        total += sum(losses) / max(len(losses), 1)
    assert pixel_cross_entropy(maps, labels).item() == pytest.approx(total, abs=1e-9)


def test_gradients_are_those_of_the_values():
    scores = scores_of((2, 3, 2, 2), seed=3).requires_grad_()
    labels = torch.tensor([[[0, 255], [2, 1]], [[255, 255], [255, 255]]])
    tags = torch.tensor([[True, False], [False, False]])
    q = scores_of((2, 3, 2, 2), seed=4).softmax(dim=1)
    assert gradcheck(lambda s: seed_loss(clamped_softmax(s), labels), scores)
    assert gradcheck(lambda s: expand_loss(clamped_softmax(s), tags), scores)
    assert gradcheck(lambda s: constrain_loss(clamped_softmax(s), q), scores)
    assert gradcheck(lambda s: pixel_cross_entropy([s, s[:, :, :1]], labels), scores)
    assert gradcheck(lambda s: multi_label_soft_margin(s[:, 1:, 0, 0], tags), scores)
    assert gradcheck(lambda s: global_weighted_rank_pool(s.flatten(start_dim=2), decay=0.7), scores)


@pytest.mark.parametrize("batch", [0, 2])
def test_empty_sets_cost_nothing_and_keep_a_gradient_path(batch):
    scores = torch.zeros((batch, 3, 2, 2), requires_grad=True)
    p = clamped_softmax(scores)
    unknown = torch.full((batch, 2, 2), 255, dtype=torch.uint8)
    nothing = [seed_loss(p, unknown), pixel_cross_entropy([scores, scores], unknown)]
    if not batch:
        nothing += [
            expand_loss(p, torch.zeros((0, 2), dtype=torch.bool)),
            constrain_loss(p, p),
            multi_label_soft_margin(scores[:, 1:, 0, 0], torch.zeros(0, 2)),
        ]
    for loss in nothing:
        (gradient,) = torch.autograd.grad(loss, scores, retain_graph=True)
        assert loss.item() == 0
        assert not gradient.any()


@pytest.mark.parametrize("tagged", [False, True])
def test_expand_loss_without_present_or_absent_classes_is_finite(tagged):
    scores = torch.zeros((1, 3, 2, 2), requires_grad=True)
    loss = expand_loss(clamped_softmax(scores), torch.full((1, 2), tagged))
    loss.backward()
    # All probabilities are 1/3: the background costs log 3, and the classes log 3 when present, log 3/2 when absent.
    assert loss.item() == pytest.approx(math.log(3) + math.log(3 if tagged else 1.5), abs=1e-4)
    assert scores.grad.isfinite().all()


def test_expand_loss_is_finite_when_an_absent_class_is_certain():
    scores = (torch.eye(3)[:, :, None, None] * 1e4).requires_grad_()
    loss = expand_loss(clamped_softmax(scores), torch.zeros((3, 2), dtype=torch.bool))
    loss.backward()
    assert loss.isfinite()
    assert scores.grad.isfinite().all()


def test_shapes_that_would_broadcast_are_refused():
    p = torch.full((2, 3, 4, 4), 1 / 3)
    with pytest.raises(ValueError, match="labels"):
        seed_loss(p, torch.zeros((1, 4, 4), dtype=torch.uint8))
    with pytest.raises(ValueError, match="tags"):
        expand_loss(p, torch.ones((2, 1), dtype=torch.bool))
    with pytest.raises(ValueError, match="q must"):
        constrain_loss(p, p[:1])
    with pytest.raises(ValueError, match="targets"):
        multi_label_soft_margin(torch.zeros(2, 3), torch.zeros(2, 1))
    with pytest.raises(ValueError, match="at least one"):
        pixel_cross_entropy([], torch.zeros((1, 4, 4), dtype=torch.uint8))


@few
@given(shapes, seeds)
def test_integral_attention_loss_against_the_equations(shape, seed):
    logits = scores_of(shape, seed)
    random = np.random.default_rng(seed)
    targets = torch.from_numpy(random.random(shape) * random.integers(0, 2, shape))
    targets[0, 0, 0, 0] = random.choice([0.0, 0.001, 0.0011])
    rise, fall = [], []
    for place in np.ndindex(*shape):
        q, t = 1 / (1 + math.exp(-float(logits[place]))), float(targets[place])
        (rise if t > 0.001 else fall).append(t * math.log(q) if t > 0.001 else math.log(1 - q))
    enhance, constrain = integral_attention_loss(logits, targets)
    assert float(enhance) == pytest.approx(-np.mean(rise) if rise else 0.0, rel=1e-6, abs=1e-12)
    assert float(constrain) == pytest.approx(-np.mean(fall) if fall else 0.0, rel=1e-6, abs=1e-12)


def test_weak_attention_is_never_held_down_as_cross_entropy_would():
    targets = torch.full((1, 1, 2, 2), 0.1)
    logits = torch.full((1, 1, 2, 2), 1.0, requires_grad=True)  # a sigmoid far above the target
    (up,) = torch.autograd.grad(sum(integral_attention_loss(logits, targets)), logits)
    (down,) = torch.autograd.grad(multi_label_soft_margin(logits, targets), logits)
    assert (up < 0).all()
    assert (down > 0).all()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_integral_attention_loss_of_one_kind_of_cell_only(value):
    logits = torch.full((1, 2, 3, 3), 200.0, requires_grad=True)  # where 1 - sigmoid is 0
    enhance, constrain = integral_attention_loss(logits, torch.full((1, 2, 3, 3), value))
    (gradient,) = torch.autograd.grad(enhance + constrain, logits)
    assert (enhance.item(), constrain.item()) == (0.0, 200.0 if value == 0 else 0.0)
    assert gradient.isfinite().all()
    with pytest.raises(ValueError, match="targets must be"):
        integral_attention_loss(logits, torch.zeros(1, 2, 3))


def test_soft_margin_of_maps_is_the_mean_over_cells():
    logits, targets = scores_of((2, 3, 4, 5), 0), torch.rand(2, 3, 4, 5, dtype=torch.float64)
    q = 1 / (1 + (-logits).exp())
    expected = -(targets * q.log() + (1 - targets) * (1 - q).log()).mean()
    assert float(multi_label_soft_margin(logits, targets)) == pytest.approx(float(expected))


def features_of(batch, classes, width, seed):
    """Features, labels and centres, of which some are not known yet."""
    random = np.random.default_rng(seed)
    features, centres = random.normal(size=(batch, width)), random.normal(size=(classes, width))
    centres[random.random(classes) < 0.3] = 0
    labels = random.integers(0, classes, batch)
    return torch.from_numpy(features), torch.from_numpy(labels), torch.from_numpy(centres)


@few
@given(st.integers(1, 6), st.integers(1, 4), st.integers(2, 5), st.booleans(), seeds)
def test_centre_loss_against_the_equations(batch, classes, width, cosine, seed):
    features, labels, centres = features_of(batch, classes, width, seed)
    total = 0.0
    for f, y in zip(features.numpy(), labels.numpy(), strict=True):
        c = centres.numpy()[y]
        if c.any():
            cos = f @ c / (np.linalg.norm(f) * np.linalg.norm(c))
            total += 1 - cos if cosine else 0.5 * ((f - c) ** 2).sum()
    assert float(centre_loss(features, labels, centres, cosine=cosine)) == pytest.approx(total / batch, abs=1e-9)
    assert gradcheck(lambda f: centre_loss(f, labels, centres, cosine=cosine), (features.requires_grad_(),))


@few
@given(st.integers(1, 6), st.integers(1, 4), st.integers(2, 5), st.booleans(), seeds)
def test_centres_move_towards_the_mean_of_their_features(batch, classes, width, cosine, seed):
    features, labels, centres = features_of(batch, classes, width, seed)
    moved = moved_centres(features, labels, centres, rate=0.3, cosine=cosine).numpy()
    for c in range(classes):
        own = [f / np.linalg.norm(f) if cosine else f for f in features.numpy()[labels.numpy() == c]]
        expected = before = centres.numpy()[c]
        if own:
            mean = np.mean(own, axis=0)
            expected = before + 0.3 * (mean - before) if before.any() else mean
            expected = expected / np.linalg.norm(expected) if cosine else expected
        np.testing.assert_allclose(moved[c], expected, atol=1e-9)


def test_centre_loss_of_nothing_and_of_shapes_that_would_broadcast():
    features = torch.zeros(0, 3, requires_grad=True)
    loss = centre_loss(features, torch.zeros(0, dtype=torch.int64), torch.ones(2, 3))
    loss.backward()
    assert loss == 0
    with pytest.raises(ValueError, match="expected features"):
        centre_loss(torch.zeros(2, 3), torch.zeros(1, dtype=torch.int64), torch.zeros(2, 3))
    still = torch.zeros(1, 3, requires_grad=True)  # a feature of zeros has no direction, and no infinite gradient
    centre_loss(still, torch.zeros(1, dtype=torch.int64), torch.ones(1, 3)).backward()
    assert still.grad.isfinite().all()
