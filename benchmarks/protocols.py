"""What `benchmarks.results` measures: rows of a table that share data, schedule and store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """One run: a method, changes to its defaults, and for weak-shot methods the classes that have tags only.

    ``saliency`` is made before: "learned" from the masks of the photos without a novel class, or "true", the masks
    themselves, an oracle. ``clips`` asks for the clips with truth that `benchmarks.results --clips` names.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    novel: str = ""
    saliency: str = ""
    clips: bool = False


@dataclass(frozen=True)
class Protocol:
    """What is the same for every row of a table."""

    what: str
    train_split: str
    freeze: int
    seeds: tuple[int, ...]
    rows: Mapping[str, Row]
    saliency: Mapping[str, Any]


DESK_SEGMENTER = {"epochs": 4.0, "crop": 192, "zoom": (0.6, 1.3), "width": 128}
DESK_TAGS = {"tag_epochs": 4.0, "tag_crop": 224, "scales": (0.5, 1.0, 1.5)}
DESK_CUES = {"output_stride": 16, "one_cue_network": True, "cue_convs": 0, "cue_epochs": 4.0, "cue_rate": 0.01}
DESK_SEC = {
    **DESK_CUES,
    "size": 257,
    "fraction": 0.0,
    "segmenter": "deeplab-v3",
    "epochs": 4.0,
    "rate": 0.0005,
    "policy": "poly",
    "width": 256,
}
DESK_WALK = (
    64  # steps, and not 256: photos of 256 pixels have half of VOC's cells a side, and a walk spreads by the root
)
DESK_AFFINITY = {"affinity_epochs": 4.0, "affinity_crop": 224, "walk_steps": DESK_WALK}
DESK_RETAB = {
    **DESK_SEGMENTER,
    **DESK_AFFINITY,
    "band": 2,
    "boundary_epochs": 4.0,
    "boundary_rate": 0.01,
    "affinity_rate": 0.1,
}
TABLE = {  # the rows of RETAB's table, as options of the recipe
    "plain": {"boundary": False, "affinity_masks": False, "segment_masks": False},
    "SEGGT": {"boundary": False, "affinity_masks": False},
    "AFFGT+SEGGT": {"boundary": False},
    "RETAB": {},
}
NOVEL = ("horse,sheep", "cat,cow")


def weak_shot(common: Mapping[str, Any], activations: str) -> dict[str, Row]:
    """Return the rows of RETAB's table for both choices of novel classes."""
    return {
        f"{name} on {activations}, novel {novel}": Row(
            "retab", {**common, "activations": activations, **switches}, novel
        )
        for novel in NOVEL
        for name, switches in TABLE.items()
    }


DESK_RELATION = {
    "relation_epochs": 4.0,
    "relation_crop": 224,
    "relation_batch": 16,
    "relation_rate": 0.03,
    "relation_momentum": 0.9,
    "walk_steps": DESK_WALK,
    "walk_threshold": 0.0,
}
DESK_SEAM = {
    "tag_epochs": 8.0,
    "tag_crop": 224,
    "scales": (0.5, 1.0, 1.5),
    "calibrate": 0.26,
    "affinity_rate": 0.1,
}
DESK_OAA = {
    **DESK_SEGMENTER,
    "tag_epochs": 8.0,
    "tag_rate": 0.01,
    "tag_batch": 16,
    "policy": "poly",
    "tag_stride": 16,
    "tag_convs": 0,
    "integral_epochs": 6.0,
    "integral_rate": 0.003,
}
DESK_RDC = {
    **DESK_SEGMENTER,
    "output_stride": 16,
    "tag_epochs": 4.0,
    "tag_crop": 224,
    "tag_rate": 0.01,
    "tag_policy": "poly",
    "branch_width": 256,
    "batch": 16,
    "scales": (0.5, 1.0, 1.5),
    "flip": True,
    "segmenter": "deeplab-v3",
    "rate": 0.002,
    "test_crf": False,
    "online_epochs": 2.0,
}
DESK_PRIOR = {
    "output_stride": 16,
    "segmenter": "deeplab-v3",
    "width": 256,
    "crop": 257,
    "batch": 16,
    "epochs": 6.0,
    "rate": 0.0005,
}
DESK_MCOF = {
    **DESK_SEGMENTER,
    **DESK_TAGS,
    "flip": True,
    "batch": 16,
    "output_stride": 16,
    "segmenter": "deeplab-v3",
    "rate": 0.002,
    "test_crf": False,
    "rounds": 2,
    "region_scale": 100.0,
    "region_least": 30,
    "region_crop": 224,
    "region_rate": 0.0002,
    "wrong": "tags",
}
DESK_NSROM = {
    **DESK_SEGMENTER,
    "tag_epochs": 8.0,
    "tag_rate": 0.01,
    "tag_batch": 16,
    "policy": "poly",
    "size": 224,
    "tag_stride": 16,
    "tag_convs": 0,
    "integral_epochs": 6.0,
    "integral_rate": 0.003,
    "dilation": 15,
}
DESK_GROWING = {
    **DESK_SEGMENTER,
    "size": 257,
    "grow_stride": 16,
    "grow_epochs": 4.0,
    "grow_rate": 0.001,
    "grow_policy": "poly",
    "grow_batch": 16,
    "top": 0.2,
    "output_stride": 16,
    "segmenter": "deeplab-v3",
    "rate": 0.002,
    "batch": 16,
    "test_scales": (1.0,),
    "test_crf": False,
}
DESK_FICKLE = {**DESK_GROWING, "tag_epochs": 8.0, "tag_crop": 224, "tag_stride": 16, "kernel": 5}
DESK_FEEDBACK = {
    **DESK_SEGMENTER,
    **DESK_TAGS,
    "flip": True,
    "batch": 16,
    "output_stride": 16,
    "segmenter": "deeplab-v3",
    "rate": 0.002,
    "test_crf": False,
    "rounds": 3,
    "most": 500,
    "box_size": 256,
    "box_cells": 3,
    "box_width": 512,
    "box_batch": 8,
    "box_samples": 32,
    "box_rate": 0.002,
}
DESK_INSTANCES = {
    **DESK_SEGMENTER,
    **DESK_TAGS,
    "flip": True,
    "batch": 16,
    "output_stride": 16,
    "segmenter": "deeplab-v3",
    "rate": 0.002,
    "test_scales": (1.0,),
    "test_crf": False,
    "single_epochs": 10.0,
    "feature_epochs": 10.0,
    "feature_rate": 0.002,
}
DESK_BOXES = {
    **DESK_SEGMENTER,
    **DESK_TAGS,
    "most_proposals": 500,
    "candidates": 80,
    "mask_side": 128,
    "feature_side": 128,
    "box_side": 256,
    "box_epochs": 6.0,
    "box_samples": 32,
    "box_width": 128,
    "box_cells": 5,
    "cuts": 3,
    "pseudo_boxes": 1,
    "rounds": 1,
}
DESK_VIDEOS = {
    **DESK_TAGS,
    **DESK_SEGMENTER,
    "clips": "made",
    "made_frames": 30,
    "frame_run": 3,
    "frame_regions": 250,
    "decoder_width": 128,
    "decoder_epochs": 4.0,
    "decoder_crop": 192,
    "flow": "fast",
}
DESK_GUIDED = {
    **DESK_SEGMENTER,
    **DESK_TAGS,
    "tag_rate": 0.01,
    "tag_stride": 16,
    "tag_convs": 0,
    "policy": "poly",
    "flip": True,
    "threshold": 0.0,
    "batch": 16,
    "output_stride": 16,
    "segmenter": "deeplab-v3",
    "rate": 0.002,
    "test_crf": False,
}


def guided(saliency: str, novel: str = "") -> dict[str, Row]:
    """Return the rows of the rules of guided labelling on one kind of saliency."""
    rules = ("G2", "G1", "G0") if saliency == "learned" else ("G2",)
    return {
        f"guided_labelling {rule}, {saliency} saliency": Row(
            "guided_labelling", {**DESK_GUIDED, "guide": rule}, novel, saliency
        )
        for rule in rules
    }


DESK_SALIENCY = {"epochs": 4.0, "crop": 192, "zoom": (0.6, 1.3), "width": 128}
DESK = {
    "full": Row("full", DESK_SEGMENTER),
    "cam": Row("cam", {**DESK_SEGMENTER, **DESK_TAGS}),
    "sec": Row("sec", DESK_SEC),
    "affinitynet": Row("affinitynet", {**DESK_SEGMENTER, **DESK_TAGS, **DESK_AFFINITY}),
    "affinitynet with a CRF": Row(
        "affinitynet", {**DESK_SEGMENTER, **DESK_TAGS, **DESK_AFFINITY, "walk_crf": True, "rounds": 1}
    ),
    "irn": Row("irn", {**DESK_SEGMENTER, **DESK_TAGS, **DESK_RELATION}),
    "seam": Row("seam", {**DESK_SEGMENTER, **DESK_AFFINITY, **DESK_SEAM}),
    "oaa": Row("oaa", DESK_OAA),
    "oaa, at three scales": Row("oaa", {**DESK_OAA, "scales": (0.5, 1.0, 1.5), "flip": True}),
    "rdc": Row("rdc", DESK_RDC),
    "builtin_prior": Row("builtin_prior", DESK_PRIOR),
    "builtin_prior, without the mask": Row("builtin_prior", {**DESK_PRIOR, "loss": "weak"}),
    "builtin_prior, deepest stage alone": Row("builtin_prior", {**DESK_PRIOR, "fuse": False}),
    "dsrg": Row("dsrg", {**DESK_GROWING, **DESK_TAGS, "flip": True}),
    "dsrg, learned saliency": Row("dsrg", {**DESK_GROWING, **DESK_TAGS, "flip": True}, NOVEL[0], "learned"),
    "dsrg, mbd": Row("dsrg", {**DESK_GROWING, **DESK_TAGS, "flip": True, "saliency": "mbd"}),
    "dsrg, three scales and a CRF at the end": Row(
        "dsrg",
        {**DESK_GROWING, **DESK_TAGS, "flip": True, "test_scales": (0.75, 1.0, 1.25), "test_crf": True},
    ),
    "dsrg, true saliency": Row("dsrg", {**DESK_GROWING, **DESK_TAGS, "flip": True}, saliency="true"),
    "ficklenet": Row("ficklenet", DESK_FICKLE),
    "ficklenet, mbd": Row("ficklenet", {**DESK_FICKLE, "saliency": "mbd"}),
    "ficklenet, without chance, mbd": Row("ficklenet", {**DESK_FICKLE, "saliency": "mbd", "dropout": 0.0, "looks": 1}),
    "augmented_feedback": Row("augmented_feedback", DESK_FEEDBACK),
    "augmented_feedback, two rounds": Row("augmented_feedback", {**DESK_FEEDBACK, "rounds": 2}),
    "augmented_feedback, without GrabCut": Row("augmented_feedback", {**DESK_FEEDBACK, "middle": "none"}),
    "augmented_feedback, boxes": Row("augmented_feedback", {**DESK_FEEDBACK, "proposals": "selective-search"}),
    "inter_image_instances": Row("inter_image_instances", DESK_INSTANCES),
    "inter_image_instances, without noise": Row("inter_image_instances", {**DESK_INSTANCES, "keep": 1.0}),
    "inter_image_instances, without graph and noise": Row(
        "inter_image_instances", {**DESK_INSTANCES, "keep": 1.0, "graph": False}
    ),
    "inter_image_instances, learned saliency": Row("inter_image_instances", DESK_INSTANCES, NOVEL[0], "learned"),
    "inter_image_instances, learned saliency, without noise": Row(
        "inter_image_instances", {**DESK_INSTANCES, "keep": 1.0}, NOVEL[0], "learned"
    ),
    "inter_image_instances, learned saliency, without graph and noise": Row(
        "inter_image_instances", {**DESK_INSTANCES, "keep": 1.0, "graph": False}, NOVEL[0], "learned"
    ),
    "c_spcl": Row("c_spcl", DESK_BOXES),
    "c_spcl, plain": Row("c_spcl", {**DESK_BOXES, "pacing": "none", "prior": False}),
    "web_videos": Row("web_videos", DESK_VIDEOS),
    "web_videos, clips with truth": Row(
        "web_videos",
        {**DESK_VIDEOS, "frame_stride": 1, "frame_score": 0.0, "frame_others": 1.0, "decoder_epochs": 32.0},
        clips=True,
    ),
    "mcof": Row("mcof", DESK_MCOF),
    "mcof, one round": Row("mcof", {**DESK_MCOF, "rounds": 1}),
    "nsrom": Row("nsrom", DESK_NSROM),
    "guided_labelling": Row("guided_labelling", DESK_GUIDED),
    "guided_labelling, rbd": Row("guided_labelling", {**DESK_GUIDED, "saliency": "rbd"}),
    "guided_labelling, seeds alone": Row("guided_labelling", {**DESK_GUIDED, "guide": "seeds"}),
    **guided("learned", NOVEL[0]),
    **guided("true"),
    "nsrom, without masking": Row("nsrom", {**DESK_NSROM, "masking": False}),
    **weak_shot({**DESK_RETAB, **DESK_TAGS}, "cam"),
    **{f"oracle, novel {novel}": Row("full", DESK_SEGMENTER, novel) for novel in NOVEL},
    **weak_shot({**DESK_RETAB, **DESK_SEAM, "tag_momentum": 0.0005, "tag_batch": 8, "walk_power": 6.0}, "seam"),
}
LARGE_SEGMENTER = {"epochs": 30.0, "crop": 257, "zoom": (0.5, 2.0)}
LARGE_TAGS = {"tag_epochs": 5.0, "tag_crop": 256}
FULL = {
    "full": Row("full", LARGE_SEGMENTER),
    "cam": Row("cam", {**LARGE_SEGMENTER, **LARGE_TAGS}),
    "sec": Row("sec", {"rate": 0.005, "cue_rate": 0.005}),
    "affinitynet": Row("affinitynet", {**LARGE_SEGMENTER, **LARGE_TAGS, **DESK_AFFINITY, "affinity_epochs": 8.0}),
    "irn": Row("irn", {**LARGE_SEGMENTER, **LARGE_TAGS, **DESK_RELATION}),
    "seam": Row("seam", {**LARGE_SEGMENTER, **DESK_AFFINITY, **DESK_SEAM}),
    "rdc": Row("rdc", {**DESK_RDC, **LARGE_SEGMENTER}),
}
PROTOCOLS = {
    "desk": Protocol(
        "1000 photos with the classes balanced; sized for 2 CPU cores", "train1000", 2, (0,), DESK, DESK_SALIENCY
    ),
    "full": Protocol("all photos, three seeds; wants a GPU", "train", 2, (0, 1, 2), FULL, LARGE_SEGMENTER),
}
