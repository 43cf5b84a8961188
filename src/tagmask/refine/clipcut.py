"""An object cut out of a few frames of a clip at once: the cheapest of all ways to call superpixels object or ground.

Superpixels are the nodes of a graph. Each says by how much it is attended to, by its colour and by how it moves what it is;
neighbours in a frame, and those that the optical flow joins over time, would rather be the same. Arrays in, arrays out.
Hong, Yeo, Kwak, Lee, Han. CVPR 2017. https://arxiv.org/abs/1701.00352
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tagmask.errors import OptionError
from tagmask.refine.flow import PRESETS, consistent, optical_flow
from tagmask.refine.graphcut import graph_cut
from tagmask.refine.mixture import fit_mixture, log_density
from tagmask.refine.motion import inside_motion
from tagmask.refine.superpixels import adjacency, region_means, slic

FLOOR = 0.02  # of the probabilities: nearer to 0 they would decide alone  # ours (source: 1e-6)
DENSITY_FLOOR = -20.0  # of the logarithm of a colour's density  # ours

Pixels = NDArray[np.uint8]
Flow = tuple[NDArray[np.float32], NDArray[np.bool_]]  # (H, W, 2), and (H, W) where it can be trusted


@dataclass(frozen=True)
class CutOptions:
    """What the cut weighs. Not published but for the kinds of terms; values are ours.

    ``attention``, ``colour`` and ``motion`` multiply the terms of a superpixel (0: without). ``spatial`` and ``temporal``
    multiply those of pairs, in units of what a superpixel's own terms differ by on average. ``rounds`` cuts are made, each
    with the colours of the one before. ``regions`` superpixels are sought in a frame.
    """

    attention: float = 1.0
    colour: float = 0.5
    motion: float = 0.0
    spatial: float = 1.0
    temporal: float = 1.0
    rounds: int = 3
    components: int = 5
    regions: int = 400
    compactness: float = 10.0
    flow: str = "medium"

    def __post_init__(self) -> None:
        if min(self.rounds, self.components, self.regions) < 1 or not self.compactness > 0:
            raise OptionError(f"a cut needs rounds, components, regions and compactness above 0, got {self}.")
        if min(self.attention, self.colour, self.motion, self.spatial, self.temporal) < 0:
            raise OptionError(f"the weights of a cut must not be negative, got {self}.")
        if self.attention + self.motion <= 0:
            raise OptionError(
                "a cut needs a weight of attention or of motion above 0: nothing else says what is object."
            )
        if self.flow not in PRESETS:
            raise OptionError(f"the flow of a cut is {self.flow!r}; expected one of {', '.join(PRESETS)}.")


@dataclass(frozen=True)
class ClipGraph:
    """The superpixels of T frames as N nodes: ``nodes`` int32 (T, H, W) says which a pixel is in.

    ``sizes`` float64 (N,) in pixels, ``colours`` (N, 3) means in 8-bit CIELAB; ``spatial`` and ``temporal`` int32 (E, 2)
    are pairs of nodes with ``spatial_weights`` and ``temporal_weights`` float64 (E,), which say how alike they are.
    """

    nodes: NDArray[np.int32]
    sizes: NDArray[np.float64]
    colours: NDArray[np.float64]
    spatial: NDArray[np.int32]
    spatial_weights: NDArray[np.float64]
    temporal: NDArray[np.int32]
    temporal_weights: NDArray[np.float64]


def cut_frames(frames: Pixels, attention: NDArray[np.float32], options: CutOptions) -> NDArray[np.bool_]:
    """Return what the object is, bool (T, H, W), in RGB frames uint8 (T, H, W, 3) with attention (T, H, W) in [0, 1]."""
    regions = [slic(frame, options.regions, options.compactness) for frame in frames]
    ways = [  # there and back again
        (optical_flow(first, second, options.flow), optical_flow(second, first, options.flow))
        for first, second in pairwise(frames)
    ]
    graph = clip_graph(frames, regions, [(forward, consistent(forward, backward)) for forward, backward in ways])
    attended = _means(attention, graph.nodes)
    moving = None
    if options.motion and ways:
        flows = [*(forward for forward, _ in ways), ways[-1][1]]
        moving = _means(np.stack([inside_motion(flow) for flow in flows]), graph.nodes)
    return cut_graph(graph, attended, moving, options)[graph.nodes]


def clip_graph(frames: Pixels, regions: Sequence[NDArray[np.int32]], flows: Sequence[Flow]) -> ClipGraph:
    """Return the graph of T frames, their regions (H, W) from 0, and the T - 1 flows from each to the next.

    Neighbours in a frame weigh exp(-b |c_i - c_j|^2) / distance of their centres, those in time the share of i whose pixels
    the flow carries into j, times the same exp; c are mean colours, and 1/b is twice the mean of |c_i - c_j|^2 in frames.
    """
    starts = np.cumsum([0, *(int(ids.max()) + 1 for ids in regions)])
    nodes = np.stack([ids + start for ids, start in zip(regions, starts[:-1], strict=True)]).astype(np.int32)
    lab = np.stack([cv2.cvtColor(frame, code=cv2.COLOR_RGB2LAB) for frame in frames])
    sizes = np.bincount(nodes.ravel(), minlength=starts[-1]).astype(np.float64)
    colours = _means(lab, nodes)
    y, x = np.mgrid[: nodes.shape[1], : nodes.shape[2]]
    places = np.broadcast_to(np.stack([y, x], axis=2)[None], (*nodes.shape, 2))
    centres = _means(np.ascontiguousarray(places), nodes)
    spatial = np.concatenate([adjacency(ids) + start for ids, start in zip(regions, starts[:-1], strict=True)])
    apart = _square_distances(colours, spatial)
    sharpness = 1 / (2 * apart.mean()) if apart.any() else 0.0
    distance = np.sqrt(_square_distances(centres, spatial))
    temporal, overlap = _joined(nodes, sizes, flows)
    return ClipGraph(
        nodes, sizes, colours,
        spatial.astype(np.int32), np.exp(-sharpness * apart) / np.maximum(distance, 1),
        temporal, overlap * np.exp(-sharpness * _square_distances(colours, temporal)),
    )  # fmt: skip


def _joined(
    nodes: NDArray[np.int32], sizes: NDArray[np.float64], flows: Sequence[Flow]
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return the pairs of nodes that flows join, (E, 2), and the share of the first that goes to the second, (E,)."""
    height, width = nodes.shape[1:]
    y, x = np.mgrid[:height, :width]
    pairs, shares = [np.zeros((0, 2), dtype=np.int32)], [np.zeros(0)]
    for before, after, (flow, trusted) in zip(nodes[:-1], nodes[1:], flows, strict=True):
        to_x, to_y = np.rint(x + flow[..., 0]).astype(np.int64), np.rint(y + flow[..., 1]).astype(np.int64)
        good = trusted & (to_x >= 0) & (to_x < width) & (to_y >= 0) & (to_y < height)
        i, j = before[good].astype(np.int64), after[to_y[good], to_x[good]]
        found, counts = np.unique(i * len(sizes) + j, return_counts=True)
        pair = np.stack([found // len(sizes), found % len(sizes)], axis=1).astype(np.int32)
        pairs.append(pair)
        shares.append(counts / sizes[pair[:, 0]])
    return np.concatenate(pairs), np.concatenate(shares)


def _means(values: NDArray[Any], nodes: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the means of values (T, H, W) or (T, H, W, D) in each node: (N,) or (N, D)."""
    frames, height, width = nodes.shape
    tall = frames * height, width  # the frames one below the other
    return region_means(values.reshape(*tall, *values.shape[3:]), nodes.reshape(tall))


def _square_distances(values: NDArray[np.float64], pairs: NDArray[np.integer]) -> NDArray[np.float64]:
    return np.asarray(((values[pairs[:, 0]] - values[pairs[:, 1]]) ** 2).sum(axis=1))


def cut_graph(
    graph: ClipGraph,
    attention: NDArray[np.floating],
    motion: NDArray[np.floating] | None,
    options: CutOptions,
) -> NDArray[np.bool_]:
    """Return which nodes are object, bool (N,); ``attention`` and ``motion`` (N,) are their means, in [0, 1].

    Colours are two mixtures of Gaussians, fitted to the nodes by size times attention and size times what lacks of it;
    after a cut to the nodes of its two sides. The cuts end where one repeats the one before, or leaves a side empty.
    """
    fixed = options.attention * _surprise(attention)
    if motion is not None and options.motion:
        fixed = fixed + options.motion * _surprise(motion)
    belief = attention.astype(np.float64)
    before: NDArray[np.bool_] | None = None
    for _ in range(options.rounds):
        objects = graph_cut(*clip_energy(graph, fixed, belief, options))
        if objects.all() or not objects.any() or (before is not None and (before == objects).all()):
            return objects
        before, belief = objects, objects.astype(np.float64)
    return objects


def clip_energy(
    graph: ClipGraph, fixed: NDArray[np.float64], belief: NDArray[np.float64], options: CutOptions
) -> tuple[NDArray[np.float64], NDArray[np.int32], NDArray[np.float64]]:
    """Return costs (N, 2) of being ground and object, pairs (E, 2) and weights (E,), as ``graph_cut`` takes them.

    ``fixed`` (N, 2) are the costs without colour; ``belief`` (N,) in [0, 1] says how much a node's colour is the object's.
    """
    costs = fixed
    sides = (graph.sizes * (1 - belief), graph.sizes * belief)
    if options.colour and all(side.sum() > 0 for side in sides):
        models = (fit_mixture(graph.colours, side, components=options.components) for side in sides)
        densities = np.stack([log_density(model, graph.colours) for model in models], axis=1)
        costs = fixed - options.colour * np.maximum(densities, DENSITY_FLOOR)
    unit = float(np.abs(costs[:, 1] - costs[:, 0]).mean())
    mean = 2 * graph.spatial_weights.sum() / len(costs)  # of the weights at a node, together
    spatial = graph.spatial_weights * (options.spatial * unit / mean if mean else 0.0)
    temporal = graph.temporal_weights * options.temporal * unit  # these shares sum to 1 at a node at most, each way
    return costs, np.concatenate([graph.spatial, graph.temporal]), np.concatenate([spatial, temporal])


def _surprise(probability: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return -log of the probabilities (N,) of being object, floored, as costs (N, 2) of ground and object."""
    p = np.clip(probability.astype(np.float64), FLOOR, 1 - FLOOR)
    return -np.log(np.stack([1 - p, p], axis=1))


def frames_to_keep(
    masks: NDArray[np.bool_], attention: NDArray[np.float32], *, area: tuple[float, float], inside: float
) -> NDArray[np.bool_]:
    """Say, bool (T,), which masks (T, H, W) are to be learned from.

    They cover a share of the frame within ``area``, and hold at least the share ``inside`` of all attention (T, H, W) in
    the frame. Source: ours.
    """
    share = masks.mean(axis=(1, 2))
    total = attention.sum(axis=(1, 2), dtype=np.float64)
    held = (attention * masks).sum(axis=(1, 2), dtype=np.float64)
    return (share >= area[0]) & (share <= area[1]) & (held >= inside * total)
