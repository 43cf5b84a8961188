"""A trained network on disk: ``model.safetensors`` holds the numbers, ``model.json`` what is needed to rebuild it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from tagmask.errors import OptionError, RunError
from tagmask.files import read_json, whole, write_json
from tagmask.nets.affinity import AffinityNet
from tagmask.nets.backbones import Backbone, build_backbone
from tagmask.nets.boundary import BoundaryNet
from tagmask.nets.boxes import BoxNet, FasterBoxNet
from tagmask.nets.classifier import Classifier
from tagmask.nets.decoder import Decoder
from tagmask.nets.embedding import EmbeddingNet
from tagmask.nets.fickle import FickleNet
from tagmask.nets.localiser import Localiser
from tagmask.nets.multi_dilated import MultiDilated
from tagmask.nets.prior import PriorNet
from tagmask.nets.region import RegionNet
from tagmask.nets.relation import RelationNet
from tagmask.nets.seam import SeamClassifier
from tagmask.nets.segmenter import Segmenter, build_segmenter
from tagmask.nets.temporal import TemporalSegmenter
from tagmask.nets.tracker import TrackerNet

FORMAT = 1
DESCRIPTION, NUMBERS = "model.json", "model.safetensors"
# What can be kept. Each has a ``trunk``, the ``options`` of its constructor, JSON-able, and where it has such, ``classes``.
NETWORKS: dict[str, type[nn.Module]] = {
    "affinity": AffinityNet,
    "boundary": BoundaryNet,
    "classifier": Classifier,
    "segmenter": Segmenter,
    "seam": SeamClassifier,
    "multi-dilated": MultiDilated,
    "prior": PriorNet,
    "relation": RelationNet,
    "tracker": TrackerNet,
    "region": RegionNet,
    "fickle": FickleNet,
    "localiser": Localiser,
    "embedding": EmbeddingNet,
    "temporal": TemporalSegmenter,
    "boxes": BoxNet,
    "faster-boxes": FasterBoxNet,
    "decoder": Decoder,
}
WHAT_TO_DO = "run again the command that made it, or give another folder."


def describe(module: nn.Module) -> dict[str, Any]:
    """Return what rebuilds one of ``NETWORKS`` without its pretrained weights: plain values, fit for JSON.

    Keys: ``format``, ``kind``, ``name``, ``classes`` (C-1 tags of a classifier, C of a segmenter, None where there are
    none), ``options`` of the constructor, and ``backbone`` with the norm, mean, std and pad_type in force. Of a weights
    file only the name is kept.
    """
    kinds = [kind for kind, network in NETWORKS.items() if type(module) is network]
    if not kinds:
        raise ValueError(
            f"expected one of {', '.join(n.__name__ for n in NETWORKS.values())}, got {type(module).__name__}"
        )
    kept: Any = module
    backbone = asdict(kept.trunk.description)
    backbone["weights"] = Path(backbone["weights"]).name
    backbone |= {"mean": list(backbone["mean"]), "std": list(backbone["std"])}
    return {
        "format": FORMAT,
        "kind": kinds[0],
        "name": kept.name if isinstance(module, Segmenter) else kinds[0],
        "classes": getattr(kept, "classes", None),
        "options": dict(kept.options),
        "backbone": backbone,
    }


def save_network(module: nn.Module, folder: Path, extra: Mapping[str, Any] | None = None) -> None:
    """Write ``model.safetensors`` and ``model.json`` into ``folder``; the same network gives the same bytes.

    ``extra`` is JSON-able and the caller's own (the names of the classes, say); ``read_extra`` returns it.
    """
    folder = Path(folder)
    description = describe(module)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    content = save(state, metadata={"format": "pt"})  # one key only: more would be written in random order
    with whole(folder / NUMBERS) as temporary:
        temporary.write_bytes(content)
    description |= {"sha256": hashlib.sha256(content).hexdigest(), "extra": dict(extra or {})}
    write_json(folder / DESCRIPTION, description)  # last: with its digest it vouches for the numbers


def load_network(folder: Path, device: str | torch.device = "cpu") -> nn.Module:
    """Rebuild the network saved in ``folder``, in evaluation mode; needs no network and no pretrained weights.

    Raises RunError when a file is missing, damaged, of another format or does not belong to the other.
    """
    folder = Path(folder)
    description = _description(folder)
    try:
        content = (folder / NUMBERS).read_bytes()
    except OSError as error:
        raise RunError(f"{folder / NUMBERS}: cannot be read ({error.strerror}); {WHAT_TO_DO}") from error
    if hashlib.sha256(content).hexdigest() != description.get("sha256"):
        raise RunError(f"{folder / NUMBERS}: damaged, or not of the {DESCRIPTION} beside it; {WHAT_TO_DO}")
    try:
        module = _rebuild(description)
        module.load_state_dict(load(content))
    except (OptionError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RunError(f"{folder}: the network cannot be rebuilt ({reason}); {WHAT_TO_DO}") from error
    return module.to(device).eval()


def read_extra(folder: Path) -> dict[str, Any]:
    """Return what ``save_network`` was given as ``extra``."""
    return dict(_description(Path(folder)).get("extra", {}))


def _description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    if not path.is_file():
        raise RunError(f"{path}: missing, so this folder holds no network; {WHAT_TO_DO}")
    description = read_json(path)
    if not isinstance(description, dict) or description.get("kind") not in NETWORKS:
        raise RunError(f"{path}: not the description of a network; {WHAT_TO_DO}")
    if description.get("format") != FORMAT:
        found = description.get("format")
        raise RunError(f"{path}: format {found!r}, this version reads {FORMAT}; install the tagmask that wrote it.")
    return description


def _rebuild(description: Mapping[str, Any]) -> nn.Module:
    fields = dict(description["backbone"])
    fields |= {"weights": "none", "mean": tuple(fields["mean"]), "std": tuple(fields["std"])}
    backbone, classes, options = Backbone(**fields), description["classes"], dict(description["options"])
    network = NETWORKS[description["kind"]]
    if network is Segmenter:
        return build_segmenter(description["name"], backbone, classes, **options)
    if classes is not None:
        options["classes"] = classes
    return network(build_backbone(backbone), **options)
