"""The decoder: it learns, its trunk does not; from shallow networks and deep ones, on disk and folded."""

import pytest
import torch
from tests.conftest import TINY

from tagmask.nets.backbones import Backbone, build_backbone
from tagmask.nets.decoder import Decoder
from tagmask.nets.folded import folded
from tagmask.nets.storage import load_network, save_network


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    return Decoder(build_backbone(TINY), width=16)


def inputs(size=(40, 56), batch=2):
    torch.manual_seed(1)
    return torch.rand(batch, 3, *size), torch.rand(batch, 1, *size)


@pytest.mark.parametrize(("stages", "stride"), [(0, 16), (1, 8), (2, 4), (9, 2)])
def test_each_stage_is_twice_as_fine(stages, stride):
    decoder = Decoder(build_backbone(TINY), width=16, stages=stages).eval()
    x, attention = inputs((64, 96))
    logits = decoder(x, attention)
    assert logits.shape[:2] == (2, 2)
    assert logits.shape[2] >= 64 // stride if stages < 9 else logits.shape[2] >= 16
    assert len(decoder.places) <= stages + 1


def test_the_trunk_does_not_learn_and_everything_else_does(decoder):
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    decoder.train()
    assert not decoder.trunk.training
    assert decoder.skips[0].training
    optimizer = torch.optim.SGD([p for p in decoder.parameters() if p.requires_grad], lr=0.1)
    decoder(*inputs())[:, 1].mean().backward()
    optimizer.step()
    for name, value in decoder.state_dict().items():
        if name.startswith("trunk."):
            assert torch.equal(value, before[name])
        elif name.endswith("weight"):
            assert not torch.equal(value, before[name]), name


def test_the_attention_matters(decoder):
    x, attention = inputs()
    decoder.eval()
    assert (decoder(x, attention) - decoder(x, 1 - attention)).abs().max() > 1e-4


@pytest.mark.parametrize("size", [(7, 5), (33, 90)])
def test_any_size_and_folded_and_from_disk(decoder, tmp_path, size):
    x, attention = inputs(size, batch=1)
    decoder.train()
    decoder(*inputs())  # statistics of its own
    decoder.eval()
    expected = decoder(x, attention)
    save_network(decoder, tmp_path)
    again = load_network(tmp_path)
    torch.testing.assert_close(again(x, attention), expected)
    quick = folded(decoder)
    torch.testing.assert_close(quick.decode(quick.features(x), attention), expected, atol=1e-4, rtol=1e-3)


def test_vgg_and_mobile_networks():
    for name, stride in (("vgg16", 8), ("mobilenetv2_100", 16)):
        network = Decoder(build_backbone(Backbone(name, "none", stride)), width=8, stages=1).eval()
        with torch.no_grad():
            assert network(*inputs((64, 64), batch=1)).shape[:2] == (1, 2)
