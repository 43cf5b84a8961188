"""PSPNet and BiSeNet in two parts, and the transformer between them."""

from __future__ import annotations

import pytest
import torch
from tests.conftest import TINY

from tagmask.errors import OptionError
from tagmask.nets.backbones import Backbone, build_backbone
from tagmask.nets.folded import folded
from tagmask.nets.groups import parameter_groups
from tagmask.nets.scene import Bilateral, PyramidPooling
from tagmask.nets.storage import load_network, save_network
from tagmask.nets.temporal import TemporalSegmenter

SMALL = {"channels": 16, "hidden": 8, "skip": 4, "detail": 8, "heads": 2, "radius": 2, "frames": 3}


def network(backbone=TINY, *, awake=True, **options):
    """Return a network whose transformer, unless it is to be as at the start, does something."""
    torch.manual_seed(0)
    made = TemporalSegmenter(build_backbone(backbone), 5, **{**SMALL, **options}).eval()
    if awake and made.transformer is not None:
        for last in (made.transformer.write, made.transformer.narrow):
            torch.nn.init.normal_(last.weight)
    return made


def frames(count=2, length=4, size=(65, 97), seed=1):
    return torch.rand(count, length, 3, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["pspnet", "bisenet"])
@pytest.mark.parametrize("skip", [0, 4])
def test_scores_have_the_grid_of_the_decoder(kind, skip):
    made = network(network=kind, skip=skip)
    images = frames()[:, 0]
    scores = made(images)
    grid = (17, 25) if skip else (9, 13) if kind == "bisenet" else (5, 7)
    assert scores.shape == (2, 5, *grid)
    encoded = made.encode(images)
    assert torch.equal(made.decode(encoded.map, encoded.fine), scores)
    assert encoded.map.shape[1] == 16
    maps = made.training_maps(images)
    assert torch.equal(maps[0], scores)
    assert [m.shape[1] for m in maps] == [5] * (2 if kind == "pspnet" else 3)


def test_the_published_pyramid_has_twice_the_channels_of_the_trunk():
    pooling = PyramidPooling((8, 32), width=0).eval()
    assert pooling.channels == 64
    found, auxiliary = pooling(torch.zeros(1, 3, 9, 9), [torch.rand(1, 8, 9, 9), torch.rand(1, 32, 9, 9)])
    assert found.shape == (1, 64, 9, 9)
    assert [m.shape[1] for m in auxiliary] == [8]
    assert network(channels=0, heads=4).encode(frames()[:, 0]).map.shape[1] == 2 * build_backbone(TINY).channels[-1]


def test_the_pyramid_tells_every_cell_what_the_whole_frame_shows():
    pooling = PyramidPooling((8, 16), width=8).eval()
    x = torch.rand(1, 16, 12, 12)
    changed = x.clone()
    changed[..., 0, 0] += 5
    before, after = (pooling(torch.zeros(1), [x[:, :8], m])[0] for m in (x, changed))
    assert (before - after)[..., 6:, 6:].abs().max() > 0


def test_bisenet_sees_detail_that_the_trunk_does_not():
    bilateral = Bilateral((8, 16), width=8, detail=8).eval()
    maps = [torch.rand(1, 8, 2, 2), torch.rand(1, 16, 1, 1)]
    images = torch.rand(2, 3, 32, 32)
    one, other = (bilateral(images[i : i + 1], maps)[0] for i in range(2))
    assert one.shape == (1, 8, 4, 4)
    assert (one - other).abs().max() > 0


@pytest.mark.parametrize("kind", ["pspnet", "bisenet"])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_the_past_matters_and_only_the_past_that_is_there(kind, norm):
    made, clip = network(network=kind, layer_norm=norm), frames()
    full = made.clip(clip)
    assert (full - made.clip(clip[:, -1:])).abs().max() > 1e-3
    present = torch.tensor([[False, False, True], [False, False, False]])
    found = made.clip(clip, present=present)
    torch.testing.assert_close(found[:1], made.clip(clip[:1, -2:]), atol=1e-5, rtol=1e-4)  # nearest frames stay nearest
    torch.testing.assert_close(found[1:], made.clip(clip[1:, -1:]), atol=1e-5, rtol=1e-4)


def test_it_starts_as_the_image_network():
    made, image = network(awake=False), network(frames=0)
    image.load_state_dict(made.state_dict(), strict=False)
    clip = frames()
    assert torch.equal(made.clip(clip), made(clip[:, -1]))
    torch.testing.assert_close(made(clip[:, -1]), image(clip[:, -1]))
    torch.testing.assert_close(image.clip(clip), image(clip[:, -1]), atol=1e-5, rtol=1e-4)  # T = 0 is the identity


@pytest.mark.parametrize("choice", ["top", "lowest", "random"])
def test_cells_that_do_not_ask_stay_as_they_are(choice):
    made = network(choice=choice, share=0.25, skip=0)
    maps = made.encode(frames(count=1)[0]).map
    keys, values = (part[None, :3] for part in made.remember(maps))
    changed = (made.look_back(maps[3:], keys, values, draw=0) != maps[3:]).any(dim=1)
    assert changed.sum() == 9  # ceil(35 / 4)
    assert torch.equal(made.look_back(maps[3:], keys, values, draw=0), made.look_back(maps[3:], keys, values, draw=0))
    nobody = network(share=0.0)
    assert torch.equal(nobody.look_back(maps[3:], keys, values), maps[3:])


def test_gradients_are_numbers_even_where_an_image_has_no_past():
    made, clip = network(), frames()
    made.train()
    present = torch.tensor([[False, False, False], [True, True, True]])
    made.clip(clip, present=present).square().mean().backward()
    for name, parameter in made.named_parameters():
        if not name.startswith("auxiliary") and parameter.grad is not None:
            assert torch.isfinite(parameter.grad).all(), name
    assert made.transformer.key.weight.grad.abs().sum() > 0


def test_a_bias_for_each_place_belongs_to_the_nearest_frames_when_there_are_fewer():
    made = network(position=True)
    torch.nn.init.normal_(made.transformer.bias)
    clip = frames(count=1)
    present = torch.tensor([[False, False, True]])
    torch.testing.assert_close(made.clip(clip, present=present), made.clip(clip[:, -2:]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["pspnet", "bisenet"])
def test_folded_it_gives_the_same(kind):
    made = network(Backbone("mobilenetv2_035", "none", 16, norm="frozen"), network=kind)
    for norm in (m for m in made.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.running_mean.uniform_(-0.1, 0.1)
    clip, quick = frames(), folded(made)
    with torch.no_grad():
        torch.testing.assert_close(quick.clip(clip), made.clip(clip), atol=2e-3, rtol=1e-3)
    left = [name for name, m in quick.named_modules() if type(m) is torch.nn.BatchNorm2d and "auxiliary" not in name]
    assert left == []


@pytest.mark.parametrize("kind", ["pspnet", "bisenet"])
def test_it_is_kept_with_all_its_options(tmp_path, kind):
    options = {"network": kind, "layer_norm": "post", "position": True, "choice": "random", "share": 0.3, "end": 2}
    saved = network(**options)
    save_network(saved, tmp_path)
    loaded = load_network(tmp_path)
    clip = frames()
    assert torch.equal(saved.clip(clip, draw=1), loaded.clip(clip, draw=1))
    assert loaded.options == saved.options
    assert loaded.options["end"] == 2
    assert loaded.classes == 5


def test_what_is_settled_keeps_its_statistics_and_what_is_slow_is_named():
    made = network()
    made.settled = ("trunk", "context")
    made.train()
    assert not any(m.training for part in (made.trunk, made.context) for m in part.modules())
    assert made.decoder.training
    made.slow = ("trunk", "context")
    heads = {id(p) for group in parameter_groups(made) if "head" in group["name"] for p in group["params"]}
    learned = [*made.transformer.parameters(), *made.decoder.parameters(), *made.auxiliary.parameters()]
    assert heads == {id(p) for p in learned}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"network": "pspnett"}, r"network is 'pspnett' \(did you mean 'pspnet'\?\)"),
        ({"choice": "best"}, "choice is 'best'.*expected one of top, random, lowest"),
        ({"layer_norm": "both"}, "layer_norm is 'both'"),
        ({"scale": "two"}, "scale is 'two'"),
        ({"share": 1.5}, "share is 1.5"),
        ({"heads": 3}, "which 3 heads cannot share"),
        ({"radius": 0}, "radius is 0"),
        ({"end": 0}, "an end that is not below the start"),
        ({"network": "bisenet", "channels": 0}, "bisenet needs 1 and 4 or more"),
    ],
)
def test_impossible_options_are_refused(options, words):
    with pytest.raises(OptionError, match=words):
        network(**options)


def test_a_batch_of_one_cannot_be_learned_from():
    made = network().train()
    with pytest.raises(OptionError, match="batch is 1"):
        made(frames(count=1)[:, 0])
