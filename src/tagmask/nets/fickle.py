"""FickleNet's classifier: at every look each window of the feature map sees other cells of it, chosen by chance.

Lee, Kim, Lee, Lee, Yoon. FickleNet. CVPR 2019. https://arxiv.org/abs/1902.10421
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from tagmask.errors import OptionError
from tagmask.nets.backbones import Trunk


class FickleNet(nn.Module):
    """A trunk, chance, a convolution of ``kernel`` x ``kernel`` cells to class maps, and their mean as logits.

    ``classes`` is C-1. A window loses each of its cells with probability ``dropout``, in all channels at once, while
    learning and while looking; those that stay count 1 / (1 - dropout) times, and the cell at the centre stays always and
    counts once, unless ``keep_centre`` is off, which treats it like the others (general dropout). Raises OptionError for
    an even kernel, or a dropout not in [0, 1).

    What each cell answers to each place of a window that it may have, ``responses``, is the same at every look; chance
    only chooses among these. So the windows need not be laid out side by side (the paper's expansion), which would take
    kernel^2 times the memory, and the score of a photo needs no class maps: a mask says which cell answers to which place.
    """

    def __init__(
        self, trunk: Trunk, classes: int, kernel: int = 9, dropout: float = 0.9, keep_centre: bool = True
    ) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0 or not 0 <= dropout < 1:
            raise OptionError(
                f"the kernel is {kernel} and the dropout {dropout}; expected an odd number and one in 0..1."
            )
        self.trunk = trunk
        self.classes = classes
        self.kernel, self.dropout, self.keep_centre = kernel, dropout, keep_centre
        self.options = {"kernel": kernel, "dropout": dropout, "keep_centre": keep_centre}
        self.head = nn.Parameter(torch.empty(classes, kernel**2, trunk.channels[-1]))
        nn.init.normal_(self.head, std=0.01 / kernel)  # a whole window weighs as a cell of the plain classifier  # ours

    def forward(self, x: Tensor) -> Tensor:
        """Return one logit a tag, (B, C-1), of RGB images (B, 3, H, W) in [0, 1], another one at every call."""
        features = self.trunk(x)[-1]  # (B, D, h, w)
        return self.logits_of(features, self.draw(len(x), (features.shape[2], features.shape[3]), features.device))

    def logits_of(self, features: Tensor, seen: Tensor) -> Tensor:
        """Return the logits (B, C-1) of features (B, D, h, w) when ``seen`` (B, s*s, h, w) counts cells (see ``draw``).

        The mean of the class maps is linear in features and weights, so that the features are summed first.
        """
        cells = features.shape[2] * features.shape[3]
        sums = seen.flatten(start_dim=2) @ features.flatten(start_dim=2).transpose(1, 2).to(seen.dtype)  # (B, s*s, D)
        return torch.einsum("bkd,ckd->bc", sums / cells, self.head)

    def draw(self, batch: int, grid: tuple[int, int], device: torch.device) -> Tensor:
        """Return float32 (B, s*s, h, w): how often cell (h, w) counts where it lies at place k of a window.

        Every cell lies at each place of one window at most, so that a mask by windows and places is one by cells and
        places; chance does not tell them apart.
        """
        kept = torch.rand(batch, self.kernel**2, *grid, device=device) >= self.dropout
        counts = kept / (1 - self.dropout)
        if self.keep_centre:
            counts[:, self.kernel**2 // 2] = 1
        return counts * reached(self.kernel, grid, device)

    def responses(self, x: Tensor) -> Tensor:
        """Return what each cell answers to each place of a window: (B, C-1, s*s, h, w), 0 where there is no such window."""
        return self.responses_of(self.trunk(x)[-1], range(self.classes))

    def responses_of(self, features: Tensor, channels: Sequence[int]) -> Tensor:
        """Return the responses (B, K, s*s, h, w) of K channels 0..C-2, of features (B, D, h, w)."""
        places, grid = self.kernel**2, (features.shape[2], features.shape[3])
        weight = self.head[list(channels)].flatten(end_dim=1)[:, :, None, None]  # (K*s*s, D, 1, 1)
        answers = functional.conv2d(features.float(), weight).unflatten(dim=1, sizes=(len(channels), places))
        return answers * reached(self.kernel, grid, features.device)

    def answers(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return all that can be asked of the network and does not change."""
        return (self.responses(x),)


def reached(kernel: int, grid: tuple[int, int], device: torch.device) -> Tensor:
    """Return float32 (s*s, h, w): 1 where the window in which the cell lies at place k has its centre inside the grid."""
    sides = []
    for length in grid:
        centre = (
            torch.arange(length, device=device) - torch.arange(kernel, device=device)[:, None] + kernel // 2
        )  # (s, n)
        sides.append((centre >= 0) & (centre < length))
    rows, columns = sides
    return (rows[:, None, :, None] & columns[None, :, None, :]).flatten(end_dim=1).float()
