"""A folded network gives what the network gave, without its BatchNorms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tagmask.errors import OptionError
from tagmask.nets.backbones import Backbone, build_backbone
from tagmask.nets.classifier import Classifier
from tagmask.nets.folded import folded, look_in
from tagmask.nets.segmenter import build_segmenter


def lively(network: nn.Module) -> nn.Module:
    """Give every BatchNorm statistics of its own, so that folding has something to do."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias, 0, 0.2)
    return network.eval()


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize("name", ["mobilenetv2_050", "resnet18", "efficientnet_lite0"])
@torch.no_grad()
def test_a_folded_classifier_has_no_norm_and_the_same_maps(name):
    network = lively(Classifier(build_backbone(Backbone(name, weights="none", output_stride=16)), classes=3))
    quick, image = folded(network), torch.rand(1, 3, 65, 49)
    assert norms(network) > 0 == norms(quick)
    assert folded(network) is quick
    torch.testing.assert_close(quick.maps(image), network.maps(image), rtol=1e-3, atol=1e-4)
    assert next(quick.parameters()).data_ptr() != next(network.parameters()).data_ptr()


@torch.no_grad()
def test_a_folded_segmenter_gives_the_same_scores():
    backbone = Backbone("mobilenetv2_050", weights="none", output_stride=16)
    network = lively(build_segmenter("deeplab-v3", backbone, 4, width=16))
    image = torch.rand(1, 3, 65, 49)
    torch.testing.assert_close(folded(network)(image), network(image), rtol=1e-3, atol=1e-4)


class Shared(nn.Module):
    """A convolution that is used with and without its norm: it must not be folded."""

    def __init__(self, twice: bool) -> None:
        super().__init__()
        self.conv, self.norm, self.twice = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), twice

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        once = self.conv(x)
        return self.norm(once) + (self.conv(x) if self.twice else once)


@pytest.mark.parametrize("twice", [True, False])
@torch.no_grad()
def test_what_cannot_be_folded_is_left_alone(twice):
    network = lively(Shared(twice))
    image = torch.rand(2, 3, 9, 11)
    assert norms(folded(network)) == 1
    torch.testing.assert_close(folded(network)(image), network(image))


@torch.no_grad()
def test_looking_in_bfloat16_is_looking_with_fewer_digits():
    network = lively(Classifier(build_backbone(Backbone("resnet18", weights="none", output_stride=16)), classes=3))
    image = torch.rand(1, 3, 65, 49)
    exact = folded(network).maps(image)
    look_in(network, "bfloat16")
    rounded = folded(network).maps(image)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.05 * exact.abs().max()
    look_in(network, "float32")
    assert torch.equal(folded(network).maps(image), exact)
    with pytest.raises(OptionError, match=r"float16.*expected one of float32, bfloat16"):
        look_in(network, "float16")


@pytest.mark.parametrize("padding", [0, 1])
@torch.no_grad()
def test_pointwise_convolutions_are_those_of_torch(padding):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 1, padding=padding),
        nn.Conv2d(8, 8, 1, stride=2),
        nn.Conv2d(8, 4, 1, groups=2),
        nn.Conv2d(4, 5, 1, bias=False),
    ).eval()
    image = torch.rand(2, 3, 9, 31).contiguous(memory_format=torch.channels_last)
    quick = folded(network)
    torch.testing.assert_close(quick(image), network(image), rtol=1e-5, atol=1e-6)
    if torch.backends.mkldnn.is_available():
        plain = [type(module) is nn.Conv2d for module in quick]
        assert plain == [padding == 1, True, True, False]
