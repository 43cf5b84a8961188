"""Compiled attention to the cells around cells, against products, a softmax and sums."""

import numpy as np
import pytest
from tests.refine.test_windows import CASES, drawn

from tagmask.refine.window_attention import attention
from tagmask.refine.windows import ABREAST, dots, mixes


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("biased", [False, True])
def test_attention_is_products_a_softmax_and_sums(case, biased):
    _, _, _, heads = case
    keys, where, queries, radii, present = drawn(*case)
    values = drawn(*case, seed=1)[0]
    present[-1] = True
    scores = dots(queries, where, keys, radii, present, heads, -np.inf).astype(np.float64)
    bias = np.random.default_rng(2).normal(size=scores.shape[1:]).astype(np.float32) if biased else None
    weights = np.exp(scores + (0 if bias is None else bias))
    weights = (weights / weights.sum(axis=2, keepdims=True)).astype(np.float32)
    found = attention(queries, where, keys, values, radii, present, bias, heads)
    np.testing.assert_allclose(found, mixes(weights, where, values, radii, present), atol=1e-5)


def test_large_products_are_no_trouble():
    keys, where, queries, radii, present = drawn((2,), (4, 5), 4, 1)
    found = attention(queries * 1000, where, keys, keys, radii, present, None, 1)
    assert np.isfinite(found).all()


def test_cells_may_ask_in_any_order_and_twice():
    keys, where, queries, radii, present = drawn((1, 2), (5, 2 * ABREAST + 3), 4, 2)
    order = np.random.default_rng(3).integers(len(where), size=2 * len(where))
    plain = attention(queries, where, keys, keys, radii, present, None, 2)
    found = attention(queries[order], where[order], keys, keys, radii, present, None, 2)
    np.testing.assert_allclose(found, plain[order], atol=1e-6)
