"""Image tags in, pixel masks out: weakly-supervised semantic segmentation.

>>> import tagmask
>>> [method.name for method in tagmask.methods() if method.extra_supervision == "masks"]
['full']
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tagmask.data import load_data, make_toy
    from tagmask.nets.backbones import Backbone
    from tagmask.registry import methods
    from tagmask.runs import Run, load_run, run
    from tagmask.saliency_network import fit_saliency
    from tagmask.video.fit_tracker import fit_tracker
    from tagmask.video.fit_video import fit_video
    from tagmask.video.label import load_labeller
    from tagmask.video.track import load_tracker

__all__ = [
    "Backbone",
    "Run",
    "fit_saliency",
    "fit_tracker",
    "fit_video",
    "load_data",
    "load_labeller",
    "load_run",
    "load_tracker",
    "make_toy",
    "methods",
    "run",
]


_HOME = {
    "Backbone": "tagmask.nets.backbones",
    "Run": "tagmask.runs",
    "fit_saliency": "tagmask.saliency_network",
    "fit_tracker": "tagmask.video.fit_tracker",
    "fit_video": "tagmask.video.fit_video",
    "load_data": "tagmask.data",
    "load_labeller": "tagmask.video.label",
    "load_run": "tagmask.runs",
    "load_tracker": "tagmask.video.track",
    "make_toy": "tagmask.data",
    "methods": "tagmask.registry",
    "run": "tagmask.runs",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import tagmask`` costs no torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'tagmask' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
