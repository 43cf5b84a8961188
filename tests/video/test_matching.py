"""The operators of matching against loops written from the equations, and the isometry against its bounds."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from tagmask.video.matching import (
    aggregate,
    correlate,
    isometric,
    local_maps,
    local_scores,
    neighbours,
    ranked,
    row_weights,
    soft_centres,
    votes,
)


def template(seed, rows=405, channels=64, decades=2.0):
    """Rows whose singular values span some decades."""
    made = torch.Generator().manual_seed(seed)
    left, _ = torch.linalg.qr(torch.randn(rows, channels, generator=made, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(channels, channels, generator=made, dtype=torch.float64))
    sizes = torch.logspace(0, -decades, channels, dtype=torch.float64)
    return (left * sizes) @ right.T


def pixels(seed, count=60, channels=64):
    made = torch.Generator().manual_seed(seed + 1000)
    return functional.normalize(torch.randn(channels, count, generator=made, dtype=torch.float64), dim=0)


def cosines(columns):
    unit = functional.normalize(columns, dim=0)
    return unit.T @ unit


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_without_eps_cosines_of_correlations_are_those_of_pixels(seed, dtype):
    rows, x = template(seed).to(dtype), pixels(seed).to(dtype)
    raw = (cosines(rows @ x) - cosines(x)).abs().max()
    bounded = (cosines(isometric(rows) @ x) - cosines(x)).abs().max()
    assert raw > 0.3
    assert bounded < (1e-4 if dtype == torch.float32 else 1e-9)
    singular = torch.linalg.svdvals(isometric(rows).double())
    torch.testing.assert_close(singular, rows.double().square().sum().div(64).sqrt().expand(64), rtol=1e-4, atol=0)


# The greatest change of a cosine that was measured when the specification was written, at 128 channels.
@pytest.mark.parametrize(("eps", "measured"), [(0.05, 0.03), (0.2, 0.12), (0.5, 0.28), (1.0, 0.44)])
def test_with_eps_angles_stay_within_the_bound_of_wielandt(eps, measured):
    rows, x = template(3, channels=128), pixels(3, channels=128)
    before, after = cosines(x).clamp(-1, 1).arccos(), cosines(isometric(rows, eps=eps) @ x).clamp(-1, 1).arccos()
    apart = ~torch.eye(x.shape[1], dtype=torch.bool)
    ratio = (after / 2).tan()[apart] / (before / 2).tan()[apart]
    kappa = (1 + eps) ** 2
    assert ratio.max() <= kappa * (1 + 1e-9)
    assert ratio.min() >= (1 - 1e-9) / kappa
    assert (after.cos() - before.cos()).abs()[apart].max() < 1.4 * measured


@given(st.integers(1, 30), st.integers(1, 12), st.floats(0, 1), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_singular_values_are_those_clipped_one_by_one(rows, channels, eps, seed):
    y = torch.randn(rows, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    left, sizes, right = torch.linalg.svd(y, full_matrices=False)
    reference = (sizes.square().sum() / channels).sqrt()
    share = sizes / reference
    clipped = torch.where(share < 1e-6, share, share.clamp(1 / (1 + eps), 1 + eps)) * reference
    torch.testing.assert_close(isometric(y, eps=eps), (left * clipped) @ right, rtol=1e-6, atol=1e-7)


def test_the_order_of_rows_and_turns_of_the_channels_do_not_matter():
    rows = template(5, rows=50, channels=12)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    turn, _ = torch.linalg.qr(template(6, rows=12, channels=12))
    for eps in (0.0, 0.3):
        done = isometric(rows, eps=eps)
        torch.testing.assert_close(isometric(rows[order], eps=eps), done[order])
        torch.testing.assert_close(isometric(rows @ turn, eps=eps), done @ turn)


def test_the_same_reference_changes_nothing_more_and_several_templates_are_each_their_own():
    many = torch.stack([template(seed, rows=40, channels=10) for seed in range(3)])
    reference = many.square().sum(dim=(1, 2)).div(10).sqrt()[:, None]
    once = isometric(many, eps=0.2, reference=reference)
    torch.testing.assert_close(isometric(once, eps=0.2, reference=reference), once)
    torch.testing.assert_close(once, torch.stack([isometric(one, eps=0.2) for one in many]))


@pytest.mark.parametrize("rows", [torch.rand(5, 64), torch.zeros(9, 4), torch.ones(1, 6), torch.eye(8)[:3] * 1e-20])
def test_templates_of_too_few_rows_give_numbers(rows):
    for eps in (0.0, 0.5):
        for most in (20.0, math.inf):
            assert isometric(rows, eps=eps, most=most).isfinite().all()


def test_numbers_that_are_none_stay_so_and_raise_nothing():
    assert isometric(torch.full((5, 3), torch.nan)).isnan().all()


def test_weak_directions_are_amplified_no_more_than_told():
    rows = template(0, decades=3.0)
    sizes, bounded = torch.linalg.svdvals(rows), torch.linalg.svdvals(isometric(rows, most=5.0))
    assert (bounded / bounded.max()).min() == pytest.approx(float(5 * sizes.min() / (rows.square().sum() / 64).sqrt()))
    with pytest.raises(ValueError, match="eps"):
        isometric(rows, eps=-0.1)


def test_under_half_precision_it_is_computed_in_full():
    rows = template(1, rows=30, channels=8).float()
    with torch.autocast(device_type="cpu", dtype=torch.bfloat16):
        done = isometric(rows)
    assert done.dtype == torch.float32
    torch.testing.assert_close(done, isometric(rows))


@pytest.mark.parametrize(("eps", "most"), [(0.0, math.inf), (0.2, math.inf), (0.0, 1.5), (5.0, math.inf)])
@pytest.mark.parametrize("reference", [None, torch.tensor([0.7], dtype=torch.float64)])
def test_the_gradient_is_that_of_finite_differences(eps, most, reference):
    rows = template(1, rows=12, channels=4, decades=1.0).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: isometric(rows, eps=eps, most=most, reference=reference), rows)


def test_the_gradient_is_finite_where_directions_are_alike():
    rows = 3 * torch.linalg.qr(torch.randn(12, 4, dtype=torch.float64))[0]  # all singular values are 3
    rows.requires_grad_()
    assert torch.autograd.gradcheck(isometric, rows)
    for few in (torch.zeros(9, 4), torch.ones(1, 6), torch.rand(5, 64)):
        few.requires_grad_()
        (gradient,) = torch.autograd.grad(isometric(few, most=20.0).sum(), few)
        assert gradient.isfinite().all()


def test_correlations_are_products_of_rows_and_cells():
    rows, cells = torch.rand(2, 5, 3), torch.rand(2, 3, 4, 6)
    maps = correlate(rows, cells)
    assert maps.shape == (2, 5, 4, 6)
    for k in range(2):
        for n in range(5):
            for y in range(4):
                for x in range(6):
                    assert maps[k, n, y, x] == pytest.approx(float(rows[k, n] @ cells[k, :, y, x]), rel=1e-5)
    torch.testing.assert_close(correlate(rows, cells[:1])[0], maps[0])


def test_rows_belong_to_the_object_in_shares_and_to_the_background_where_it_is_sure():
    objects, ground = torch.zeros(1, 4, 8), torch.ones(1, 4, 8)
    objects[0, 0, 0] = 1  # a quarter of the first cell
    objects[0, :2, 4] = 1  # half of the third
    ground -= objects
    ground[0, 2:, 6:] = 0  # unknown
    inside, outside = row_weights(objects, ground, (2, 4))
    assert inside.tolist() == [[0.5, 0, 1, 0, 0, 0, 0, 0]]
    assert outside.tolist() == [[0, 1, 0, 1, 1, 1, 1, 0]]
    assert row_weights(torch.zeros(1, 4, 8), torch.ones(1, 4, 8), (2, 4))[0].isfinite().all()


def test_ranked_maps_come_best_first_and_are_filled_up():
    maps, scores = torch.rand(2, 4, 3, 5), torch.tensor([[0.1, 3.0, -1.0, 2.0], [5.0, 4.0, 9.0, 1.0]])
    assert torch.equal(ranked(maps, scores, 3), torch.stack([maps[0, [1, 3, 0]], maps[1, [2, 0, 1]]]))
    more = ranked(maps, scores, 6)
    assert torch.equal(more[0, :4], maps[0, [1, 3, 0, 2]])
    assert not more[:, 4:].any()


def window_by_hand(now, before, radius):
    batch, _, height, width = now.shape
    side = 2 * radius + 1
    scores = torch.full((batch, side * side, height, width), -torch.inf, dtype=now.dtype)
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                for dy in range(-radius, radius + 1):
                    for dx in range(-radius, radius + 1):
                        if 0 <= y + dy < height and 0 <= x + dx < width:
                            d = (dy + radius) * side + dx + radius
                            scores[b, d, y, x] = now[b, :, y, x] @ before[b, :, y + dy, x + dx]
    return scores


@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 3), st.integers(1, 2))
@settings(max_examples=15, deadline=None)
def test_the_window_is_that_of_loops(height, width, radius, batch):
    now, before = torch.rand(batch, 3, height, width), torch.rand(batch, 3, height, width)
    torch.testing.assert_close(local_scores(now, before, radius), window_by_hand(now, before, radius))


def test_the_gradient_of_the_window_is_right():
    now, before = (torch.rand(2, 3, 4, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def finite(now, before):
        return local_scores(now, before, 2).clamp(min=-9)

    assert torch.autograd.gradcheck(finite, (now, before))


def test_what_the_window_says_of_a_mask_is_that_of_loops():
    torch.manual_seed(0)
    now, before = (functional.normalize(torch.randn(1, 4, 5, 6), dim=1) for _ in range(2))
    masks, radius, sharpness = torch.rand(2, 5, 6), 2, 20.0
    scores = window_by_hand(now, before, radius).expand(2, -1, -1, -1)
    found = local_maps(scores, masks, sharpness)
    for k in range(2):
        for y in range(5):
            for x in range(6):
                around = [
                    (float(now[0, :, y, x] @ before[0, :, v, u]), float(masks[k, v, u]))
                    for v in range(max(0, y - radius), min(5, y + radius + 1))
                    for u in range(max(0, x - radius), min(6, x + radius + 1))
                ]
                total = sum(math.exp(sharpness * s) for s, _ in around)
                expected = [
                    max(s * m for s, m in around),
                    max(s * (1 - m) for s, m in around),
                    sum(math.exp(sharpness * s) * m for s, m in around) / total,
                ]
                assert found[k, :, y, x].tolist() == pytest.approx(expected, abs=1e-5)


def test_what_leaves_the_frame_gives_no_gradient_that_is_no_number():
    sharpness = torch.tensor(20.0, requires_grad=True)
    now = torch.rand(1, 3, 3, 3, requires_grad=True)
    local_maps(local_scores(now, now, 2), torch.rand(1, 3, 3), sharpness).sum().backward()
    assert sharpness.grad.isfinite()
    assert now.grad.isfinite().all()


def test_neighbours_are_in_the_order_of_the_window():
    around = neighbours(torch.arange(1.0, 7.0).view(1, 2, 3), 1)
    assert around[0, :, 0, 1].tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 6]


def test_votes_are_those_of_loops():
    torch.manual_seed(1)
    offsets, owner = torch.randn(2, 2, 4, 5) * 2, torch.tensor([0, 0, 1])
    centres = torch.tensor([[1.0, 2.0, 9.0], [3.0, 0.5, 30.0], [0.0, 4.0, 0.0]])
    found = votes(offsets, centres, owner)
    for k, frame in enumerate(owner.tolist()):
        for y in range(4):
            for x in range(5):

                def away(o, y=y, x=x, frame=frame):
                    at = y + float(offsets[frame, 0, y, x]), x + float(offsets[frame, 1, y, x])
                    return math.dist(at, centres[o, :2].tolist())

                spread = max(0.5, 0.5 * math.sqrt(float(centres[k, 2]) / math.pi))
                assert float(found[k, 0, y, x]) == pytest.approx(math.exp(-(away(k) ** 2) / (2 * spread**2)), abs=1e-5)
                others = [o for o in range(3) if owner[o] == frame]
                assert float(found[k, 1, y, x]) == (min(others, key=away) == k)


def test_pixels_that_point_to_the_centre_vote_for_it_whatever_the_axes():
    height, width = 6, 11
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    offsets = torch.stack([2.0 - y, 7.0 - x])[None]
    assert (votes(offsets, torch.tensor([[2.0, 7.0, 12.0]]), torch.tensor([0]))[:, 0] == 1).all()
    assert votes(offsets, torch.tensor([[7.0, 2.0, 12.0]]), torch.tensor([0]))[:, 0].max() < 0.01


def test_centres_of_soft_masks():
    mask = torch.rand(3, 5, 7)
    mask[2] = 0
    for k in range(2):
        total = float(mask[k].sum())
        row = sum(y * float(mask[k, y].sum()) for y in range(5)) / total
        column = sum(x * float(mask[k, :, x].sum()) for x in range(7)) / total
        assert soft_centres(mask)[k].tolist() == pytest.approx([row, column, total], rel=1e-5)
    assert soft_centres(mask)[2].tolist() == [2, 3, 0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_objects_are_merged_by_the_formula(values):
    found = aggregate(torch.tensor(values, dtype=torch.float64).view(-1, 1, 1)).flatten().tolist()
    ground = math.prod(1 - v for v in values)
    clamped = [min(max(v, 1e-7), 1 - 1e-7) for v in [ground, *values]]
    odds = [v / (1 - v) for v in clamped]
    assert found == pytest.approx([o / sum(odds) for o in odds], rel=1e-9)


def test_one_object_is_where_it_is_likelier_than_not():
    p = torch.linspace(0, 1, 11)[None, None]
    assert (aggregate(p).argmax(dim=0) == (p[0] > 0.5)).all()
