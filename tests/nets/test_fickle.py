"""The fickle classifier against the paper's expansion: windows laid side by side, masked, convolved with their stride."""

import pytest
import torch
from tests.nets.test_folded import lively
from torch.nn import functional

from tagmask.errors import OptionError
from tagmask.nets.backbones import Backbone, build_backbone
from tagmask.nets.fickle import FickleNet, reached
from tagmask.nets.folded import folded
from tagmask.nets.storage import load_network, save_network

TINY = Backbone("test_resnet", "none", 16)


def network(classes=3, **options):
    return FickleNet(build_backbone(TINY), classes=classes, **{"kernel": 3, **options}).eval()


def expanded(features, kernel):
    """The h w windows of s x s cells, side by side: (B, D, s h, s w)."""
    batch, channels, height, width = features.shape
    padded = functional.pad(features, (kernel // 2,) * 4)
    out = torch.empty(batch, channels, kernel * height, kernel * width)
    for row in range(height):
        for column in range(width):
            window = padded[:, :, row : row + kernel, column : column + kernel]
            out[:, :, row * kernel : (row + 1) * kernel, column * kernel : (column + 1) * kernel] = window
    return out


def class_maps(net, features, mask):
    """S (B, C-1, h, w) of a mask (B, s*s, h, w) by the window's centre, as the paper computes it."""
    kernel = net.kernel
    side_by_side = functional.pixel_shuffle(mask, kernel)  # (B, 1, s h, s w): place k of each window in its own cell
    weight = net.head.unflatten(1, (kernel, kernel)).permute(0, 3, 1, 2)  # (C-1, D, s, s)
    return functional.conv2d(expanded(features, kernel) * side_by_side, weight, stride=kernel)


def by_cell(mask, kernel):
    """The mask of windows and places as one of cells and places."""
    seen = torch.zeros_like(mask)
    _, _, height, width = mask.shape
    for k in range(kernel**2):
        down, right = k // kernel - kernel // 2, k % kernel - kernel // 2
        for row in range(height):
            for column in range(width):
                if 0 <= row - down < height and 0 <= column - right < width:
                    seen[:, k, row, column] = mask[:, k, row - down, column - right]
    return seen


@pytest.mark.parametrize(("kernel", "grid"), [(3, (4, 6)), (9, (7, 5)), (5, (2, 1)), (1, (3, 3))])
def test_logits_are_those_of_the_expanded_map(kernel, grid):
    net = network(kernel=kernel)
    features, mask = torch.rand(2, net.trunk.channels[-1], *grid), torch.rand(2, kernel**2, *grid)
    maps = class_maps(net, features, mask)
    seen = by_cell(mask, kernel)
    torch.testing.assert_close(net.logits_of(features, seen), maps.mean(dim=(2, 3)), rtol=1e-4, atol=1e-5)
    answers = net.responses_of(features, range(3))  # (B, C-1, s*s, h, w)
    torch.testing.assert_close(
        (answers * seen[:, None]).sum(dim=(2, 3, 4)) / (grid[0] * grid[1]), maps.mean(dim=(2, 3)), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(net.responses_of(features, [2]), answers[:, 2:])
    torch.testing.assert_close(by_cell(torch.ones_like(mask), kernel)[0], reached(kernel, grid, torch.device("cpu")))


@pytest.mark.parametrize("grid", [(4, 6), (1, 3)])
def test_the_seen_responses_are_features_times_gradient(grid):
    net, mask = network(), torch.rand(1, 9, *grid)
    features = torch.rand(1, net.trunk.channels[-1], *grid).requires_grad_()
    scores = class_maps(net, features, mask).mean(dim=(2, 3))[0]  # (C-1,)
    answers = net.responses_of(features, range(3))[0]
    for k in range(3):
        (gradient,) = torch.autograd.grad(scores[k], features, retain_graph=True)
        expected = (features * gradient).sum(dim=1)[0]  # (h, w)
        seen = (by_cell(mask, 3)[0] * answers[k]).sum(dim=0) / (grid[0] * grid[1])
        torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("keep_centre", [True, False])
def test_chance_keeps_the_mean_and_the_centre(keep_centre):
    net = network(kernel=5, dropout=0.7, keep_centre=keep_centre)
    seen = net.draw(4000, (3, 4), torch.device("cpu"))
    reach = reached(5, (3, 4), torch.device("cpu"))
    torch.testing.assert_close(seen.mean(dim=0), reach, rtol=0, atol=0.15)  # 6 deviations
    torch.testing.assert_close(seen.unique(), torch.tensor([0.0, 1.0, 1 / 0.3] if keep_centre else [0.0, 1 / 0.3]))
    assert bool((seen[:, 12] == 1).all()) == keep_centre
    features = torch.rand(1, net.trunk.channels[-1], 3, 4)
    scores = net.logits_of(features.expand(4000, -1, -1, -1), seen)
    torch.testing.assert_close(scores.mean(dim=0), net.logits_of(features, reach[None])[0], rtol=0, atol=2e-3)


@torch.no_grad()
def test_every_look_and_every_photo_of_a_batch_differs_and_the_seed_says_how():
    net, image = network(), torch.rand(1, 3, 64, 64).expand(2, -1, -1, -1)
    for mode in (True, False):
        net.train(mode)
        torch.manual_seed(3)
        first, second = net(image), net(image)
        assert (first != second).all()
        assert (first[0] != first[1]).all()
        torch.manual_seed(3)
        assert torch.equal(net(image), first)
    still = network(dropout=0.0)
    assert torch.equal(still(image), still(image))


@torch.no_grad()
def test_it_is_kept_and_looks_fast(tmp_path):
    net, image = lively(network(kernel=5, dropout=0.5, keep_centre=False)), torch.rand(1, 3, 65, 49)
    save_network(net, tmp_path)
    again = load_network(tmp_path)
    assert isinstance(again, FickleNet)
    assert again.options == net.options
    torch.testing.assert_close(again.responses(image), net.responses(image))
    assert net.responses(image).shape == (1, 3, 25, 5, 4)
    torch.testing.assert_close(folded(net).responses(image), net.responses(image), rtol=1e-3, atol=1e-4)
    assert len(list(folded(net).modules())) != len(list(net.modules())), "the copy is folded, in spite of the chance"


@pytest.mark.parametrize("wrong", [{"kernel": 4}, {"kernel": 0}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_impossible_windows_are_refused(wrong):
    with pytest.raises(OptionError, match="expected an odd number"):
        network(**wrong)
