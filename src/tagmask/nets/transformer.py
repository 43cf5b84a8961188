"""The sparse temporal transformer: cells of a frame's map read from the maps of the frames before.

Li, Wang, Chen, Niu, Si, Qian, Zhang. STT. ACM MM 2021. https://doi.org/10.1145/3474085.3475409
The paper says less than a program must know; what is ours is marked.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tagmask.nets.sparse import chosen_cells, dissimilarity, key_radii, keys_of, window_attention


class TemporalTransformer(nn.Module):
    """Cells of a frame's map that differ from those around them read from the frames before. Starts as the identity.

    Keys, queries and values are made from the map brought to ``reduced`` channels, once a frame. ``layer_norm`` "pre" adds what
    was read, then a small network of the sum, to the cell; "post" normalises after each, as in the paper's figure, and
    then the cells that do not ask too.
    """

    def __init__(
        self,
        channels: int,
        *,
        reduced: int,
        heads: int,
        frames: int,
        start: int,
        end: int,
        growth: int,
        radius: int,
        share: float,
        choice: str,
        scale: str,
        layer_norm: str,
        position: bool,
    ) -> None:
        super().__init__()
        self.heads, self.share, self.choice, self.radius, self.scale, self.layer_norm = (
            heads, share, choice, radius, scale, layer_norm,
        )  # fmt: skip
        self.radii = key_radii(frames, start, end, growth)
        self.reduce = nn.Sequential(nn.Linear(channels, reduced), nn.LayerNorm(reduced))
        self.query, self.key, self.value = (nn.Linear(reduced, reduced) for _ in range(3))
        self.write = nn.Linear(reduced, channels)
        self.widen, self.narrow = nn.Linear(channels, 2 * reduced), nn.Linear(2 * reduced, channels)
        self.norm_read, self.norm_made = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.dropout = nn.Dropout(p=0.1)  # ours
        self.bias = nn.Parameter(torch.zeros(heads, keys_of(self.radii))) if position else None
        for last in (self.write, self.narrow):  # training starts at the image network  # ours
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def memory(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values (B, h, w, reduced) of frames' maps (B, D, h, w), which later frames read."""
        reduced = self.reduce(x.permute(0, 2, 3, 1))
        return self.key(reduced), self.value(reduced)

    def forward(
        self,
        x: Tensor,
        keys: Tensor | None,
        values: Tensor | None,
        present: Tensor | None = None,
        draw: int | None = None,
    ) -> Tensor:
        """Return the map (B, D, h, w) after reading from ``keys`` and ``values`` (B, T, h, w, reduced), the oldest first.

        Fewer frames than the network has are the nearest ones, None is none. Images none of whose frames is ``present``,
        bool (B, T), stay as they are. ``draw`` fixes a random choice of cells.
        """
        count, depth, height, width = x.shape
        cells = x.permute(0, 2, 3, 1)  # (B, h, w, D)
        flat = cells.reshape(count, height * width, depth)
        if keys is None or values is None or not keys.shape[1] or not self.share:
            return self._unasked(flat).view(cells.shape).permute(0, 3, 1, 2)
        radii = self.radii[len(self.radii) - keys.shape[1] :]
        some = torch.ones(count, dtype=torch.bool, device=x.device)
        if present is not None:
            some = present.any(dim=1)
            present = present | ~some[:, None]  # whatever those read is dropped below
        where = self._where(cells, draw)
        place = where[..., None].expand(-1, -1, depth)
        asking = flat.gather(dim=1, index=place)  # (B, k, D)
        bias = None if self.bias is None else self.bias[:, keys_of(self.radii) - keys_of(radii) :]
        read = window_attention(
            self.query(self.reduce(asking)), where, keys, values, radii, heads=self.heads, present=present, bias=bias
        )
        told = self._written(asking, read)
        others = self._unasked(flat)
        told = torch.where(some[:, None, None], told, others.gather(dim=1, index=place)).to(others.dtype)
        return others.scatter(dim=1, index=place, src=told).view(cells.shape).permute(0, 3, 1, 2)

    def _where(self, cells: Tensor, draw: int | None) -> Tensor:
        everything = self.share >= 1
        score = (
            cells[..., 0] if everything or self.choice == "random" else dissimilarity(cells, self.radius, self.scale)
        )
        return chosen_cells(score.detach(), min(1.0, self.share), "top" if everything else self.choice, draw)

    def _written(self, asking: Tensor, read: Tensor) -> Tensor:
        """Return cells (B, k, D) after what they read (B, k, reduced)."""
        cells = asking + self.dropout(self.write(read))
        if self.layer_norm == "post":
            cells = self.norm_read(cells)
            return self.norm_made(cells + self._made(cells))
        return cells + self._made(self.norm_made(cells))

    def _made(self, cells: Tensor) -> Tensor:
        return self.dropout(self.narrow(functional.relu(self.widen(cells))))

    def _unasked(self, cells: Tensor) -> Tensor:
        return self.norm_made(self.norm_read(cells)) if self.layer_norm == "post" else cells
