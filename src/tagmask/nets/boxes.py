"""Detectors: networks that say which boxes of an image hold which class, by proposals given or found by themselves.

Girshick. Fast R-CNN. ICCV 2015; Ren, He, Girshick, Sun. Faster R-CNN. NeurIPS 2015.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from tagmask.nets.backbones import Trunk
from tagmask.nets.heads import hidden, scoring
from tagmask.nets.roi import POINTS, BoxLayers, cut_out

ANCHORS = (16, 32, 64, 128, 256)  # pixels of a side of the first guesses  # ours (torchvision: 32 to 512)
SHAPES = (0.5, 1.0, 2.0)  # their heights over widths  # recalled (Faster R-CNN)
MOST_FOUND = 300  # boxes that are found in an image  # ours


class BoxNet(nn.Module):
    """A trunk and a head that says of boxes of an image which class each shows, and how it must move to be right.

    ``classes`` is C with the background. Boxes are cut out of the last map in ``cells`` x ``cells`` parts, two hidden
    layers of ``width`` follow (see ``BoxLayers``). ``side`` is the longest side of the photos that it was trained on, which it
    wants to see. Training it on a GPU is not repeatable to the last bit, for RoIAlign sums there in no order.
    """

    def __init__(self, trunk: Trunk, classes: int, cells: int = 7, width: int = 1024, side: int = 512) -> None:
        super().__init__()
        self.trunk = trunk
        self.classes = classes
        self.options: dict[str, Any] = {"cells": cells, "width": width, "side": side}
        self.side = side
        self.layers = BoxLayers(trunk, cells, width)
        self.score = scoring(width, classes)
        self.move = scoring(width, 4 * classes)
        nn.init.normal_(self.move.weight, std=0.001)  # recalled (Fast R-CNN)

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the trunk's maps, from shallow to deep, of images (B, 3, H, W)."""
        return self.trunk(x)

    def scores_of(self, features: Sequence[Tensor], boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return logits (B, R, C) and moves (B, R, C, 4) for boxes (B, R, 4) in pixels of images of ``size`` (H, W)."""
        batch, count = boxes.shape[:2]
        image = torch.arange(batch, device=boxes.device).repeat_interleave(count)
        x = self.layers(cut_out(features[-1], boxes.flatten(end_dim=1), image, size, self.options["cells"]))
        return self.score(x).view(batch, count, self.classes), self.move(x).view(batch, count, self.classes, 4)

    def forward(self, x: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return what ``scores_of`` says of RGB images (B, 3, H, W) in [0, 1]."""
        return self.scores_of(self.features(x), boxes, (x.shape[2], x.shape[3]))

    def answers(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return what can be asked of the network, for the four quarters of the image."""
        height, width = x.shape[2:]
        quarters = [
            [a * width / 2, b * height / 2, (a + 1) * width / 2, (b + 1) * height / 2] for a in (0, 1) for b in (0, 1)
        ]
        return self(x, x.new_tensor(quarters).expand(len(x), -1, -1))


class FasterBoxNet(nn.Module):
    """A trunk with torchvision's Faster R-CNN behind it: it proposes boxes by itself, and says which class each shows.

    ``classes`` is C with the background, ``width`` that of the one map from which it all comes, ``side`` the longest side of
    the photos that it was trained on. Of two boxes of a class that overlap by more than ``overlap`` one is left.
    """

    def __init__(self, trunk: Trunk, classes: int, width: int = 256, side: int = 512, overlap: float = 0.3) -> None:
        super().__init__()
        self.trunk = trunk
        self.classes = classes
        self.options: dict[str, Any] = {"width": width, "side": side, "overlap": overlap}
        self.side = side
        self.neck = hidden(trunk.channels[-1], width)
        stub = nn.Identity()
        stub.out_channels = width  # type: ignore[assignment]  # all that torchvision wants to know of a trunk
        built = FasterRCNN(
            backbone=stub, num_classes=classes,
            rpn_anchor_generator=AnchorGenerator(sizes=(ANCHORS,), aspect_ratios=(SHAPES,)),
            box_roi_pool=MultiScaleRoIAlign(featmap_names=["0"], output_size=7, sampling_ratio=POINTS),
            box_score_thresh=0.0, box_nms_thresh=overlap, box_detections_per_img=MOST_FOUND,
        )  # fmt: skip
        self.rpn, self.roi_heads = built.rpn, built.roi_heads

    def forward(self, x: Tensor, targets: list[dict[str, Tensor]] | None = None) -> Any:
        """Return the losses by name while training, else of each image (B, 3, H, W) its ``boxes scores labels``."""
        sizes = [(x.shape[2], x.shape[3])] * len(x)
        features = {"0": functional.relu(self.neck(self.trunk(x)[-1].float()))}
        proposed, losses = self.rpn(ImageList(x, sizes), features, targets)
        found, more = self.roi_heads(features, proposed, sizes, targets)
        return {**losses, **more} if self.training else found


DETECTORS: dict[str, type[BoxNet | FasterBoxNet]] = {"rcnn": BoxNet, "faster-rcnn": FasterBoxNet}
