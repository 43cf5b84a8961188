"""Graph-based global reasoning: far regions of a photo learn of each other through a small graph of nodes.

Chen, Rohrbach, Yan, Yan, Feng, Kalantidis (GloRe). CVPR 2019. https://arxiv.org/abs/1811.12814; as used in NSROM (Yao
et al. CVPR 2021).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from tagmask.errors import OptionError

FORMS = ("code", "paper")


class GlobalReasoning(nn.Module):
    """Features are gathered into ``nodes`` N, the nodes exchange what they hold, and it is laid back onto the features.

    With X (L, channels) the features of the L cells, a projection B (N, L) and states S (L, 2 N) learned from X by 1x1
    convolutions, V = B S are the nodes and X + norm(B^T Z) comes out. ``form`` says how Z follows from V, with A (N, N)
    and W learned: "paper" (I - A) V W; "code" ReLU(V + A V + a) W with a bias a, in the author code. V is not divided
    by L (author code). Raises OptionError for another form or without a node.
    """

    def __init__(self, channels: int, nodes: int = 64, form: str = "code") -> None:
        super().__init__()
        if form not in FORMS or nodes < 1:
            raise OptionError(f"the graph has {nodes} nodes, form {form!r}; expected 1 or more, {' or '.join(FORMS)}.")
        self.form = form
        states = 2 * nodes  # author code
        self.project = _pointwise(channels, nodes, bias=True)
        self.state = _pointwise(channels, states, bias=True)
        self.adjacency = nn.Conv1d(nodes, nodes, kernel_size=1, bias=form == "code")
        self.weight = nn.Conv1d(states, states, kernel_size=1, bias=False)
        self.extend = _pointwise(states, channels, bias=False)
        self.norm = nn.BatchNorm2d(channels, eps=1e-4)  # author code

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, channels, h, w) from features of that shape."""
        projection = self.project(x).flatten(start_dim=2)  # (B, N, L)
        states = self.state(x).flatten(start_dim=2)  # (B, 2N, L)
        nodes = projection @ states.transpose(1, 2)  # (B, N, 2N)
        mixed = self.adjacency(nodes)
        told = functional.relu(nodes + mixed) if self.form == "code" else nodes - mixed
        learned = self.weight(told.transpose(1, 2))  # (B, 2N, N)
        back = (learned @ projection).unflatten(dim=2, sizes=x.shape[2:])  # (B, 2N, h, w)
        return x + self.norm(self.extend(back))


def _pointwise(inputs: int, outputs: int, *, bias: bool) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, kernel_size=1, bias=bias)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")  # author code
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
