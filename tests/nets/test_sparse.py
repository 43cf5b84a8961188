"""Sparse attention against dense attention, and the choice of cells against explicit loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from tagmask.errors import OptionError
from tagmask.nets import sparse
from tagmask.nets.sparse import (
    chosen_cells,
    dissimilarity,
    key_radii,
    keys_of,
    window_attention,
    window_means,
    window_offsets,
    window_scores,
)


def drawn(count=2, frames=3, grid=(5, 6), depth=8, seed=0, kind=torch.float32):
    random = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(count, frames, *grid, depth, generator=random, dtype=kind) for _ in range(2))
    cells = grid[0] * grid[1]
    where = torch.stack([torch.randperm(cells, generator=random)[: cells // 2].sort().values for _ in range(count)])
    queries = torch.randn(count, where.shape[1], depth, generator=random, dtype=kind)
    return queries, where, keys, values


def dense(queries, keys, values, heads):
    """Attention to every cell of every frame, by the textbook."""
    q, k, v = (x.flatten(1, -2).unflatten(-1, (heads, -1)).transpose(1, 2).double() for x in (queries, keys, values))
    scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
    return (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(start_dim=2)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])  # compiled, and as other devices compute it
@pytest.mark.parametrize("heads", [1, 4])
def test_with_all_cells_and_windows_over_all_it_is_dense_attention(kind, heads):
    _, _, keys, values = drawn(kind=kind)
    everywhere = torch.arange(30).expand(2, -1)
    queries = torch.randn(2, 30, 8, dtype=kind, generator=torch.Generator().manual_seed(1))
    for learning in (True, False):
        with torch.set_grad_enabled(learning):
            found = window_attention(queries, everywhere, keys, values, (6, 9, 6), heads=heads)
        torch.testing.assert_close(found.double(), dense(queries, keys, values, heads), atol=1e-5, rtol=0)


def test_on_a_larger_grid_too():
    _, _, keys, values = drawn(count=1, frames=2, grid=(23, 30), depth=32)
    queries = torch.randn(1, 690, 32, generator=torch.Generator().manual_seed(1))
    found = window_attention(queries, torch.arange(690)[None], keys, values, (30, 30), heads=4)
    torch.testing.assert_close(found.double(), dense(queries, keys, values, 4), atol=1e-5, rtol=0)


def by_hand(queries, where, keys, values, radii, present):
    """One head, one cell at a time."""
    count, _, _, width, _ = keys.shape
    found = torch.zeros_like(queries)
    for b in range(count):
        for n, cell in enumerate(where[b].tolist()):
            y, x = divmod(cell, width)
            seen_keys, seen_values = [], []
            for t, radius in enumerate(radii):
                if present[b, t]:
                    rows, columns = slice(max(0, y - radius), y + radius + 1), slice(max(0, x - radius), x + radius + 1)
                    seen_keys.append(keys[b, t, rows, columns].flatten(end_dim=1))
                    seen_values.append(values[b, t, rows, columns].flatten(end_dim=1))
            weights = (torch.cat(seen_keys) @ queries[b, n] / keys.shape[-1] ** 0.5).softmax(dim=0)
            found[b, n] = weights @ torch.cat(seen_values)
    return found


@settings(deadline=None, max_examples=25)
@given(
    grid=st.sampled_from([(1, 1), (1, 9), (4, 3), (8, 7)]),
    radii=st.lists(st.integers(0, 4), min_size=1, max_size=3),
    seed=st.integers(0, 99),
)
def test_windows_are_those_around_the_cell_without_what_is_beyond_the_border(grid, radii, seed):
    if grid == (1, 1):
        grid = (1, 2)
    queries, where, keys, values = drawn(frames=len(radii), grid=grid, seed=seed)
    present = torch.rand(2, len(radii), generator=torch.Generator().manual_seed(seed)) > 0.4
    present[:, -1] = True
    expected = by_hand(queries, where, keys, values, radii, present)
    for change in (torch.Tensor.float, torch.Tensor.double):
        found = window_attention(change(queries), where, change(keys), change(values), radii, present=present)
        torch.testing.assert_close(found.float(), expected, atol=1e-5, rtol=1e-5)


def test_the_largest_window_is_in_the_oldest_frame():
    assert key_radii(7, start=1, end=5, growth=1) == (5, 5, 5, 4, 3, 2, 1)
    assert key_radii(3, start=2, end=9, growth=3) == (8, 5, 2)
    queries, _, keys, values = drawn(count=1, grid=(9, 9))
    values = torch.zeros_like(values)
    values[0, 0, 4, 7] = 1  # three cells from the middle: within reach in the oldest frame only
    middle = torch.tensor([[40]])
    assert window_attention(queries[:, :1], middle, keys, values, (3, 2, 1)).abs().sum() > 0
    assert window_attention(queries[:, :1], middle, keys, values, (1, 2, 3)).abs().sum() == 0


def test_rows_and_columns_are_not_confused():
    queries, _, keys, values = drawn(count=1, frames=1, grid=(3, 8))
    seen = torch.zeros(1, 1, 3, 8, 8)
    seen[0, 0, 2, 5] = 1
    weights = window_attention(queries[:, :2], torch.tensor([[12, 13]]), keys, seen, (1,))  # (1, 4) and (1, 5)
    assert (weights[0, :, 0] > 0).all()
    assert window_attention(queries[:, :1], torch.tensor([[11]]), keys, seen, (1,)).abs().sum() == 0  # (1, 3)
    assert values.shape == keys.shape


def test_the_published_numbers_of_keys():
    assert [keys_of(key_radii(frames)) for frames in range(1, 8)] == [9, 34, 83, 164, 285, 406, 527]  # T = 1..7
    # The rows of the paper's ablation, as equation 5 gives them for T = 7.
    choices = [(1, 5, 1), (2, 5, 1), (3, 5, 1), (1, 3, 1), (1, 7, 1), (1, 5, 2), (1, 5, 3)]
    formula = [sum((2 * min(start + age * growth, end) + 1) ** 2 for age in range(7)) for start, end, growth in choices]
    assert [keys_of(key_radii(7, *choice)) for choice in choices] == formula
    assert formula == [527, 639, 735, 279, 679, 663, 695]
    assert len(list(window_offsets(key_radii(7)))) == 527


def test_the_order_of_frames_does_not_matter():
    queries, where, keys, values = drawn()
    order, radii = [2, 0, 1], (3, 1, 2)
    plain = window_attention(queries, where, keys, values, radii, heads=2)
    turned = window_attention(queries, where, keys[:, order], values[:, order], [radii[t] for t in order], heads=2)
    torch.testing.assert_close(plain, turned, atol=1e-6, rtol=0)


def test_nothing_moves_in_a_video_that_stands_still():
    queries, where, keys, values = drawn()
    still = (keys[:, :1].expand_as(keys), values[:, :1].expand_as(values))
    several = window_attention(queries, where, *still, (2, 2, 2), heads=2)
    once = window_attention(queries, where, keys[:, :1], values[:, :1], (2,), heads=2)
    torch.testing.assert_close(several, once, atol=1e-5, rtol=0)


def test_gradients_are_those_of_finite_differences():
    queries, where, keys, values = drawn(count=1, frames=2, depth=4, kind=torch.float64)
    bias = torch.randn(2, keys_of((2, 1)), dtype=torch.float64)
    inputs = [x.requires_grad_() for x in (queries, keys, values, bias)]

    def attend(queries, keys, values, bias):
        return window_attention(queries, where, keys, values, (2, 1), heads=2, bias=bias)

    assert torch.autograd.gradcheck(attend, inputs)


def test_compiled_gradients_are_those_of_torch():
    found = []
    for kind in (torch.float32, torch.float64):
        queries, where, keys, values = drawn(frames=2)
        inputs = [x.to(kind).requires_grad_() for x in (queries, keys, values)]
        present = torch.tensor([[False, True], [True, True]])
        output = window_attention(inputs[0], where, *inputs[1:], (3, 1), heads=2, present=present)
        (output * torch.arange(output.numel()).view_as(output).cos()).sum().backward()
        found.append([x.grad.double() for x in inputs])
    for compiled, plain in zip(*found, strict=True):
        torch.testing.assert_close(compiled, plain, atol=1e-5, rtol=1e-4)


def test_memory_is_bounded_and_parts_change_nothing(monkeypatch):
    queries, where, keys, values = drawn(kind=torch.float64)
    inputs = [x.requires_grad_() for x in (queries, keys, values)]
    whole = window_attention(inputs[0], where, *inputs[1:], (2, 2, 1))
    expected = torch.autograd.grad(whole.square().sum(), inputs)
    monkeypatch.setattr(sparse, "AT_ONCE", 3000)  # a few cells at a time
    gathered = []
    cells = sparse._cells

    def watch(*given):
        found = cells(*given)
        gathered.append(found[0].numel())
        return found

    monkeypatch.setattr(sparse, "_cells", watch)
    parts = window_attention(inputs[0], where, *inputs[1:], (2, 2, 1))
    torch.testing.assert_close(parts, whole)
    for found, wanted in zip(torch.autograd.grad(parts.square().sum(), inputs), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    assert len(gathered) > 4
    assert max(gathered) <= 3000


def test_many_threads_give_the_same(monkeypatch):
    queries, where, keys, values = drawn(count=5)
    monkeypatch.setattr(sparse, "LEAST_SHARED", 2)
    bias = torch.randn(2, keys_of((2, 2, 1)))

    def attend(count):
        monkeypatch.setattr(torch, "get_num_threads", lambda: count)
        return window_attention(queries, where, keys, values, (2, 2, 1), heads=2, bias=bias)

    one = attend(1)
    assert torch.equal(attend(3), one)
    with torch.no_grad():
        for count in (1, 3, 12):  # of images, or of a part of an image
            torch.testing.assert_close(attend(count), one, atol=1e-6, rtol=0)


def dissimilar_by_loops(maps, radius, scale):
    """Equations 1 to 4, cell by cell, with the divergence of the right sign."""
    height, width, depth = maps.shape
    unit = maps / np.linalg.norm(maps, axis=2, keepdims=True)
    found = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            around = np.s_[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
            cosines = unit[around].reshape(-1, depth) @ unit[y, x]
            products = maps[around].reshape(-1, depth) @ maps[y, x]
            logits = {"unit": cosines / 0.1, "root": products / depth**0.5, "none": products}[scale]
            p = np.exp(logits - logits.max())
            p /= p.sum()
            uniform = 1 / len(p)
            found[y, x] = np.sum(uniform * np.log(uniform / p)) + np.mean(1 - cosines)
    return found


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("scale", ["unit", "root", "none"])
@pytest.mark.parametrize("radius", [1, 3, 8])
def test_dissimilarity_is_that_of_explicit_loops(radius, scale, kind):
    maps = np.random.default_rng(radius).normal(size=(2, 6, 7, 5)).astype(kind)
    expected = [dissimilar_by_loops(one.astype(np.float64), radius, scale) for one in maps]
    found = dissimilarity(torch.from_numpy(maps), radius, scale)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-5, rtol=1e-4)


def test_flat_regions_score_nothing_and_their_border_much():
    maps = torch.zeros(1, 9, 12, 4)
    maps[..., :6, 0] = 1
    maps[..., 6:, 1] = 3
    score = dissimilarity(maps, radius=2)[0]
    assert score[:, :4].abs().max() < 1e-5
    assert score[:, 8:].abs().max() < 1e-5
    assert score[:, 5:7].min() > 1
    assert (score >= -1e-5).all()
    assert not dissimilarity(maps.requires_grad_(), radius=2).requires_grad


def test_plain_dot_products_rank_by_length_and_cosines_do_not():
    random = torch.Generator().manual_seed(0)
    maps = torch.randn(1, 12, 12, 8, generator=random)
    lengths = torch.rand(1, 12, 12, 1, generator=random) * 5 + 1
    maps = functional.normalize(maps, dim=3) * lengths
    pairs = [torch.stack([dissimilarity(maps, 2, scale).flatten(), lengths.flatten()]) for scale in ("none", "unit")]
    plain, unit = (float(torch.corrcoef(pair)[0, 1]) for pair in pairs)
    assert plain > 0.8
    assert abs(unit) < 0.3


def test_chosen_cells_are_so_many_of_each_image_in_order():
    score = torch.tensor([[[1.0, 5.0, 2.0], [4.0, 3.0, 0.0]], [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]])
    assert chosen_cells(score, 0.5).tolist() == [[1, 3, 4], [3, 4, 5]]
    assert chosen_cells(score, 0.5, "lowest").tolist() == [[0, 2, 5], [0, 1, 2]]
    assert chosen_cells(score, 0.51).shape == (2, 4)  # ceil
    assert chosen_cells(score, 1.0).tolist() == [[*range(6)]] * 2
    assert chosen_cells(score, 0.0).shape == (2, 0)


def test_random_cells_belong_to_their_number_or_to_torch():
    score = torch.zeros(1, 8, 8)
    assert torch.equal(chosen_cells(score, 0.5, "random", draw=3), chosen_cells(score, 0.5, "random", draw=3))
    assert not torch.equal(chosen_cells(score, 0.5, "random", draw=3), chosen_cells(score, 0.5, "random", draw=4))
    torch.manual_seed(0)
    first = chosen_cells(score, 0.5, "random")
    assert not torch.equal(first, chosen_cells(score, 0.5, "random"))
    torch.manual_seed(0)
    assert torch.equal(first, chosen_cells(score, 0.5, "random"))


def test_unknown_words_are_refused():
    with pytest.raises(OptionError, match=r"choice of cells is 'tob' \(did you mean 'top'\?\)"):
        chosen_cells(torch.zeros(1, 2, 2), 0.5, "tob")
    with pytest.raises(OptionError, match="scale of the dissimilarity is 'rot'"):
        dissimilarity(torch.zeros(1, 2, 2, 2), 1, "rot")


def test_scores_beyond_the_border_and_of_absent_frames_are_minus_infinity():
    queries, where, keys, _ = drawn(count=1, frames=2)
    present = torch.tensor([[False, True]])
    for change in (torch.Tensor.float, torch.Tensor.double):
        scores = window_scores(change(queries), where, change(keys), (1, 1), present=present)
        assert torch.isneginf(scores[..., :9]).all()
        assert torch.isfinite(scores[0, where[0] == 8, 0, 9:]).all()  # (1, 2) is off the border
        zero = torch.zeros_like(scores)
        assert window_means(zero, where, change(keys), (1, 1), present=present).abs().sum() == 0
