"""What stands out in every photo, from whatever source: a classical detector, the user's own maps, a trained network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tagmask.augment import resize
from tagmask.data.opening import opened
from tagmask.data.photos import PerImage, Pictures
from tagmask.errors import DataError, OptionError, did_you_mean
from tagmask.files import read_json
from tagmask.nets.segmenter import Segmenter
from tagmask.nets.storage import DESCRIPTION, load_network, read_extra
from tagmask.refine.saliency import DETECTORS
from tagmask.segment import predict_scores
from tagmask.types import Photo, Saliency, Sample
from tagmask.work import Work

NOTE = "supervision.txt"  # beside the user's maps: one line that says what made them


def checked_source(source: str, *, none: bool = False) -> None:
    """Raise OptionError unless ``source`` is a detector, a folder, or with ``none`` the word none."""
    known = (*DETECTORS, *(["none"] if none else []))
    if source not in known and not Path(source).is_dir():
        raise OptionError(
            f"saliency is {source!r}{did_you_mean(source, known)}; expected {', '.join(known)}, a folder of 8-bit maps "
            "NAME.png, or the folder of a network that `tagmask fit-saliency` made."
        )


def saliency_maps(work: Work, samples: Sequence[Sample], source: str) -> PerImage[Saliency]:
    """Return the saliency of every photo, at the size at which it is worked on.

    ``source`` is the name of a detector, a folder of 8-bit maps ``NAME.png`` (0 nothing, 255 surely an object; one for
    every photo), or the folder of a network of two classes, which ``tagmask fit-saliency`` makes. Raises OptionError for
    anything else, DataError where a photo has no map.
    """
    checked_source(source)
    if source in DETECTORS:
        return work.each("saliency", detected, samples, kind=source)
    folder = Path(source)
    if (folder / DESCRIPTION).is_file():
        digest_of_network = str(read_json(folder / DESCRIPTION).get("sha256"))
        network = work.once("saliency-network", opened_network, folder=str(folder.resolve()), sha256=digest_of_network)
        return work.each("saliency", network_saliency, network, samples)
    expected = "; expected an 8-bit grey NAME.png for each"
    own = Pictures(folder, work.photos(samples), read_map, what="saliency map", expected=expected)
    return work.each("saliency", fitted, own, samples)


def supervision_of(source: str) -> str:
    """Return what people had to paint or draw for this saliency: "none" for a detector, else a few words."""
    if source == "none" or source in DETECTORS:
        return "none"
    folder = Path(source)
    if (folder / DESCRIPTION).is_file():
        return f"saliency learned from {read_extra(folder).get('supervision', 'nobody knows what')}"
    note = folder / NOTE
    return f"saliency: {note.read_text(encoding='utf-8').strip()}" if note.is_file() else "saliency maps of the user's"


def detected(photo: Photo, *, kind: str) -> Saliency:
    """Return the saliency that a detector of ``refine.saliency`` finds, without training."""
    return Saliency.of(DETECTORS[kind](photo.pixels))


def network_saliency(network: Segmenter, photo: Photo) -> Saliency:
    """Return the network's probability of being an object, divided by its maximum (guided labelling, author code)."""
    probability = predict_scores(network, photo.pixels)[1]  # (H, W)
    return Saliency.of(probability / max(float(probability.max()), 1e-6))


def opened_network(*, folder: str, sha256: str) -> Segmenter:
    """Return the saliency network kept in ``folder``; raises OptionError for any other network."""
    network = load_network(Path(folder))
    if not isinstance(network, Segmenter) or network.classes != 2:
        raise OptionError(f"{folder}: holds no saliency network; give a folder that `tagmask fit-saliency` made.")
    return network


def fitted(own: Saliency, photo: Photo) -> Saliency:
    """Return the user's map at the size of the photo."""
    return own if own.values.shape == photo.size else Saliency(resize(own.values, *photo.size))


def read_map(path: Path) -> Saliency:
    """Read a map of the user's, 8-bit grey; raises DataError for any other picture."""
    with opened(path) as image:
        if image.mode not in ("L", "1"):
            raise DataError(f"{path}: is a {image.mode} picture; expected 8-bit grey.")
        return Saliency(np.array(image.convert("L")))
