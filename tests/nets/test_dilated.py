"""The rearranged dilated convolution against PyTorch's own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tagmask.nets.backbones import Backbone, build_backbone
from tagmask.nets.dilated import DilatedDepthwise


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(1, 23),
    st.integers(1, 23),
    st.integers(2, 5),
    st.sampled_from([3, 5]),
)
def test_equals_the_plain_convolution_forward_and_backward(batch, depth, height, width, rate, kernel):
    plain = nn.Conv2d(
        depth, depth, kernel_size=kernel, padding=rate * (kernel // 2), dilation=rate, groups=depth, bias=True
    )
    fast = DilatedDepthwise(plain)
    x = torch.randn(batch, depth, height, width, requires_grad=True)
    expected, got = plain(x), fast(x)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    weights = torch.randn_like(expected)
    for output in (expected, got):
        x.grad, plain.weight.grad = None, None
        output.mul(weights).sum().backward()
        if output is expected:
            image, kernel_gradient = x.grad.clone(), plain.weight.grad.clone()
    torch.testing.assert_close(x.grad, image, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(plain.weight.grad, kernel_gradient, atol=1e-3, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pad_type", ["same", ""])
def test_networks_use_it_and_answer_as_before(pad_type, monkeypatch):
    torch.manual_seed(0)
    description = Backbone("mobilenetv2_035", weights="none", output_stride=8, pad_type=pad_type)
    fast = build_backbone(description).eval()
    assert sum(isinstance(m, DilatedDepthwise) for m in fast.modules()) > 3
    monkeypatch.setattr("tagmask.nets.backbones.use_fast_dilation", lambda body: None)
    plain = build_backbone(description).eval()
    plain.load_state_dict(fast.state_dict())
    x = torch.rand(1, 3, 75, 60)
    torch.testing.assert_close(fast(x)[-1], plain(x)[-1], atol=1e-4, rtol=1e-4)
