"""Tag the single objects of all photos at once: what attention sees of each, and which of them look alike (AISI).

Fan, Hou, Cheng, Yu, Martin, Hu. Associating Inter-Image Salient Instances for Weakly Supervised Semantic Segmentation.
ECCV 2018. https://doi.org/10.1007/978-3-030-01240-3_23
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tagmask.data.photos import PerImage
from tagmask.keys import digest
from tagmask.refine.association import Candidates, Rule, associate
from tagmask.refine.pieces import painted_labels, tagged_instances
from tagmask.types import Boxes, Instances, LabelMap


def rule_of(options: Any) -> Rule:
    """Return the rule of a recipe's ``options``: ``graph lam rescale neighbours mutual keep solver seconds group grouping``.

    Raises OptionError for what is impossible.
    """
    return Rule(
        graph=options.graph, lam=options.lam, rescale=options.rescale, neighbours=options.neighbours, mutual=options.mutual,
        keep=options.keep, solver=options.solver, seconds=options.seconds, group=options.group, grouping=options.grouping,
    )  # fmt: skip


def assign_tags(
    attention: PerImage[dict[str, Any]], features: PerImage[NDArray[np.float32]] | None, *, rule: Rule, seed: int
) -> dict[str, Any]:
    """Return ``tags``: for each photo one tag an instance, 0 for noise, assigned over the whole data set; and its facts.

    ``attention`` is what ``salient_instances.attended`` gives; the graph needs the ``features`` (n, D) of each photo's
    instances. Only numbers of an instance are held, no masks. Instances of photos without tags are noise, and do not
    count. Of the facts see ``associate``.
    """
    owner, tag, score, rows, total = [], [], [], [], 0
    for name in attention.names:
        known = attention[name]
        count, tags = len(known["boxes"]), known["tags"]
        if not (count and tags):
            continue
        owner.append(np.repeat(np.arange(total, total + count), len(tags)))
        tag.append(np.tile(tags, count))
        score.append(np.ravel(known["scores"]))
        rows += [features[name]] if features is not None else []
        total += count
    nothing = np.zeros(0)
    candidates = Candidates(
        np.concatenate([*owner, nothing]).astype(np.int64),
        np.concatenate([*tag, nothing]).astype(np.int64),
        np.concatenate([*score, nothing]),
    )
    answer, facts = associate(candidates, np.concatenate(rows) if rows else None, rule=rule, seed=seed)
    assigned, start = {}, 0
    for name in attention.names:
        known = attention[name]
        count = len(known["boxes"])
        assigned[name] = answer[start : start + count].tolist() if known["tags"] else [0] * count
        start += count if known["tags"] else 0
    return {"tags": assigned, **facts}


class Assigned(PerImage[list[int]]):
    """``assigned[name]`` are the tags of a photo's instances, 0 for noise, out of what ``assign_tags`` returned."""

    def __init__(self, assigned: Mapping[str, Any]):
        self._tags: Mapping[str, list[int]] = assigned["tags"]
        super().__init__(list(self._tags))

    def key_of(self, name: str) -> str:
        """The tags themselves."""
        return digest(self._tags[name])

    def __getitem__(self, name: str) -> list[int]:
        return self._tags[name]


def painted(instances: Boxes, attention: dict[str, Any], assigned: Sequence[int], *, missed: bool) -> LabelMap:
    """Return the labels of one photo (see ``painted_labels``)."""
    return painted_labels(instances, assigned, attention["tags"], missed=missed)


def tagged(instances: Boxes, attention: dict[str, Any], assigned: Sequence[int]) -> Instances:
    """Return the instances of one photo that were assigned a tag, as sure as the attention is of it."""
    tags = attention["tags"]
    pairs = zip(attention["scores"], assigned, strict=True)
    return tagged_instances(instances, assigned, [row[tags.index(tag)] if tag else 0.0 for row, tag in pairs])
