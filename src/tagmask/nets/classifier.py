"""The network that learns which tags an image has, and by its class maps shows where it sees them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tagmask.nets.backbones import Trunk
from tagmask.nets.heads import hidden as hidden_layer
from tagmask.nets.reasoning import GlobalReasoning


class Classifier(nn.Module):
    """A trunk, a 1x1 convolution without bias, and the global average of its maps as logits (CAM, Zhou et al. 2016).

    ``classes`` is C-1: the tags, without background. ``convs`` puts that many 3x3 convolutions of ``width`` with ReLU
    and dropout before the head (SEC's foreground network has two of 1024). ``hidden`` puts that many fully connected
    layers of ``width`` *after* the average instead (SEC's background network has two; there they follow VGG16's fifth
    pool directly, which fixes the image size  # ours); such a network has no class maps. ``dropout`` is that of both
    kinds of layers. ``nodes`` puts a unit of global reasoning (see ``GlobalReasoning``, ``graph`` is its form) behind the
    last convolution and before its ReLU, or with ``relu_first`` behind that (NSROM).
    """

    def __init__(
        self,
        trunk: Trunk,
        classes: int,
        convs: int = 0,
        width: int = 1024,
        hidden: int = 0,
        dropout: float = 0.5,
        nodes: int = 0,
        graph: str = "code",
        relu_first: bool = False,
    ) -> None:
        super().__init__()
        if classes < 1 or ((convs or nodes) and hidden):
            raise ValueError(
                f"expected 1 class or more, and convs, nodes or hidden; got {classes=}, {convs=}, {hidden=}"
            )
        self.trunk = trunk
        self.classes = classes
        self.options: dict[str, Any] = {"convs": convs, "width": width, "hidden": hidden, "dropout": dropout}
        if nodes:  # not written for networks without, whose descriptions stay what they were
            self.options |= {"nodes": nodes, "graph": graph, "relu_first": relu_first}
        inputs = trunk.channels[-1]
        layers: list[nn.Module] = []
        for _ in range(convs + hidden):
            layers += [
                hidden_layer(inputs, width, kernel=3 if convs else 1),
                nn.ReLU(inplace=True),
                nn.Dropout(p=dropout),
            ]
            inputs = width
        if nodes:
            place = len(layers) if relu_first else max(0, len(layers) - 2)  # before the last ReLU and dropout
            layers.insert(place, GlobalReasoning(inputs, nodes, graph))
            if not (convs or relu_first):
                layers.append(nn.ReLU(inplace=True))
        self.neck = nn.Sequential(*layers)
        self.head = nn.Conv2d(inputs, classes, kernel_size=1, bias=False)
        nn.init.normal_(self.head.weight, std=0.01)  # author code (SEC)

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the trunk's maps, from shallow to deep, of images (B, 3, H, W)."""
        return self.trunk(x)

    def maps(self, x: Tensor) -> Tensor:
        """Return the raw class maps (B, C-1, h, w), without ReLU; their mean over h and w is the logits."""
        return self.maps_of(self.features(x))

    def maps_of(self, features: list[Tensor]) -> Tensor:
        """Return the raw class maps of what ``features`` gave."""
        if self.options["hidden"]:
            raise ValueError("a classifier with hidden layers after its average has no class maps")
        return self.head(self.neck(features[-1]))

    def logits_of(self, features: list[Tensor]) -> Tensor:
        """Return the logits (B, C-1) of what ``features`` gave: their gradient can be asked of any of these maps."""
        if not self.options["hidden"]:
            return self.maps_of(features).mean(dim=(2, 3))
        average = features[-1].mean(dim=(2, 3), keepdim=True)  # (B, channels, 1, 1)
        return self.head(self.neck(average)).flatten(start_dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return one logit a tag, (B, C-1), of RGB images (B, 3, H, W) in [0, 1]."""
        return self.logits_of(self.features(x))
