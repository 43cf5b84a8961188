"""The tracker's network: every module can be switched, what is saved is loaded, and what is folded gives the same."""

import pytest
import torch

from tagmask.errors import OptionError
from tagmask.nets.backbones import Backbone, build_backbone
from tagmask.nets.folded import folded
from tagmask.nets.storage import load_network, save_network
from tagmask.nets.tracker import Past, Template, TrackerNet, at_grid
from tagmask.video.matching import soft_centres

TINY = Backbone("test_resnet", "none", 16, norm="frozen")
SMALL = {"size": (64, 96), "embed": 8, "width": 8, "keep": 10}


def network(backbone=TINY, **options):
    torch.manual_seed(0)
    return TrackerNet(build_backbone(backbone), **{**SMALL, **options}).eval()


def look(net, objects=3, size=(64, 96)):
    """Two frames and ``objects`` objects in them, all random: the logits and what they were made of."""
    made = torch.Generator().manual_seed(1)
    now, before = (net(torch.rand(2, 3, *size, generator=made)) for _ in range(2))
    views = net(torch.rand(objects, 3, *net.size, generator=made))
    shown = (torch.rand(objects, *net.size, generator=made) > 0.7).float()
    template = net.template(views.embedding, shown, 1 - shown)
    masks = torch.rand(objects, size[0] // 4, size[1] // 4, generator=made)
    owner = torch.arange(objects) % 2
    past = Past(before.embedding, masks, soft_centres(masks))
    return net.decode(now, template, past, owner), (now, template, past, owner)


SWITCHES = [
    {},
    {"isometric": False},
    {"eps": 0.5},
    {"local": 0},
    {"centre": False},
    {"previous": False},
    {"select": "rank"},
    {"select": "rank", "isometric": False},
    {"isometric": False, "local": 0, "centre": False},
    {"stride": 4},
    {"stride": 16},
    {"size": (32, 32)},
    {"embed": 40},  # more channels than rows
]


@pytest.mark.parametrize("options", SWITCHES, ids=str)
@torch.no_grad()
def test_every_row_of_the_ablation_is_saved_and_folded(tmp_path, options):
    net = network(**options)
    assert net.rows == (net.size[0] // 16) * (net.size[1] // 16)
    logits, _ = look(net)
    assert logits.shape == (3, 16, 24)
    assert logits.isfinite().all()
    save_network(net, tmp_path)
    again = load_network(tmp_path)
    assert isinstance(again, TrackerNet)
    assert again.options == net.options
    assert torch.equal(look(again)[0], logits)
    quick = folded(net)
    torch.testing.assert_close(look(quick)[0], logits, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_each_module_has_its_say():
    net = network()
    logits, (now, template, past, owner) = look(net)
    other = Past(torch.roll(past.embedding, 1, dims=3), past.masks, past.centres)
    assert not torch.equal(net.decode(now, template, other, owner), logits)  # the local window
    assert torch.equal(network(local=0).decode(now, template, other, owner), look(network(local=0))[0])
    other = Past(past.embedding, past.masks, past.centres + torch.tensor([3.0, 0, 0]))
    assert not torch.equal(net.decode(now, template, other, owner), logits)  # the votes
    assert torch.equal(network(centre=False).decode(now, template, other, owner), look(network(centre=False))[0])
    other = Template(template.rows, template.inside.roll(1, dims=1), template.outside)
    assert not torch.equal(net.decode(now, other, past, owner), logits)  # the correlation
    alone = {"local": 0, "centre": False, "previous": False}
    other = Past(past.embedding, 1 - past.masks, past.centres)
    assert torch.equal(network(**alone).decode(now, template, other, owner), look(network(**alone))[0])
    assert not torch.equal(network(local=0, centre=False).decode(now, template, other, owner), logits)


@torch.no_grad()
def test_the_template_is_isometric_and_raw_rows_are_of_unit_length():
    made = torch.rand(1, 3, 64, 96)
    for options in ({"isometric": True}, {"isometric": False}):
        net = network(**options, embed=8, gain=1e9)
        rows = net.template(net(made).embedding, torch.ones(1, 64, 96), torch.zeros(1, 64, 96)).rows[0]
        if options["isometric"]:
            singular = torch.linalg.svdvals(rows)
            assert singular.max() / singular.min() == pytest.approx(1, rel=1e-3)
        else:
            torch.testing.assert_close(rows.norm(dim=1), torch.ones(24))


@torch.no_grad()
def test_objects_do_not_see_each_other_but_in_the_votes():
    net = network()
    logits, (now, template, past, owner) = look(net)
    one = Template(*(part[1:2] for part in template))
    alone = net.decode(now, one, Past(past.embedding, past.masks[1:2], past.centres[1:2]), owner[1:2])
    torch.testing.assert_close(alone[0], logits[1], rtol=1e-4, atol=1e-5)


def test_all_that_learns_gets_a_gradient():
    for options in ({}, {"select": "rank"}):
        net = network(**options).train()
        logits, _ = look(net)
        logits.square().sum().backward()
        silent = [name for name, value in net.named_parameters() if value.grad is None or not value.grad.any()]
        known = ("trunk.", "point.1.")  # a ResNet begins with silent branches; the heat has a loss of its own
        assert not [name for name in silent if not name.startswith(known)], silent


def test_frames_of_another_size_than_the_template_are_seen():
    net = network()
    with torch.no_grad():
        assert look(net, size=(96, 64))[0].shape == (3, 24, 16)


def test_centres_on_a_coarser_grid():
    assert at_grid(torch.tensor([[0.0, 3.0, 16.0], [1.5, 3.5, 4.0]]), 2).tolist() == [
        [-0.25, 1.25, 4.0],
        [0.5, 1.5, 1.0],
    ]


def test_a_trunk_without_a_map_of_stride_four_will_do():
    backbone = Backbone("test_vit", "none", 16)
    net = network(backbone)
    with torch.no_grad():
        assert net.skip is None
        assert look(net)[0].shape == (3, 16, 24)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"select": "best"}, "select is 'best'; expected one of none, rank"),
        ({"stride": 6}, "expected 4, 8 or 16"),
        ({"size": (64, 90)}, "multiples of 16"),
        ({"size": (16, 96)}, "32 or more"),
        ({"width": 12}, "multiple of 8"),
    ],
)
def test_impossible_shapes_are_refused(options, words):
    with pytest.raises(OptionError, match=words):
        network(**options)
