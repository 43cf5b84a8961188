"""Reading a local file of pretrained weights, and fitting it to a network; every failure names the file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from tagmask.errors import OptionError

PICKLED = (".pth", ".pt", ".bin")
WAYS_OUT = "give a file of weights with timm's names (--weights FILE), or learn from scratch (--weights none)."


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a .safetensors or .pth file, floats as float32, and the metadata (of .safetensors only).

    Raises OptionError when the file is missing, of another kind or damaged. A pickle is read with ``weights_only``.
    """
    if path.suffix not in (".safetensors", *PICKLED):
        raise OptionError(f"weights {str(path)!r}: expected 'default', 'none' or a .safetensors or .pth file.")
    if not path.is_file():
        raise OptionError(f"{path}: no such file of weights; {WAYS_OUT}")
    state, metadata = _read_safetensors(path) if path.suffix == ".safetensors" else (_read_pickle(path), {})
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}, metadata


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise OptionError(f"{path}: not a readable .safetensors file ({error}); fetch it anew or {WAYS_OUT}") from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises nearly anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OptionError(f"{path}: not a readable file of weights ({reason}); fetch it anew or {WAYS_OUT}") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise OptionError(f"{path}: expected a dictionary of tensors (a state dict); {WAYS_OUT}")
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def numbers(text: str, *, key: str, path: Path) -> tuple[float, float, float]:
    """Read ``mean`` or ``std`` from a file's metadata: one number for all channels, or three."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) == 1:
        values *= 3
    if len(values) != 3:
        raise OptionError(f"{path}: metadata {key!r} is {text!r}; expected one number or three, as '0.5,0.5,0.5'.")
    return values


def load_into(body: nn.Module, state: dict[str, Tensor], *, also: Iterable[str], path: Path) -> None:
    """Copy ``state`` into ``body``; names in ``also`` (the classifier of the full network) may be left over.

    timm renames parts when it cuts a network down to features (``stages.0`` becomes ``stages_0``, a wrapper adds
    ``model.``), so names are compared with every dot read as an underscore. Raises OptionError with the first names
    that are missing, strange or of another shape.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in body.state_dict().items()}
    own = {_flat(name.removeprefix("model.")): name for name in shapes}
    given = {_flat(name): name for name in state}
    known = {_flat(name) for name in also}
    missing = [own[f] for f in own if f not in given and not f.endswith("num_batches_tracked")]
    strange = [given[f] for f in given if f not in own and f not in known]
    odd = [
        f"{given[f]} {tuple(state[given[f]].shape)} instead of {shapes[own[f]]}"
        for f in own
        if f in given and tuple(state[given[f]].shape) != shapes[own[f]]
    ]
    complaints = (("misses", missing), ("has the unknown", strange), ("has another shape in", odd))
    found = [f"{words} {_first(names)}" for words, names in complaints if names]
    if found:
        raise OptionError(f"{path} is of another network: it {'; it '.join(found)}. Name the --backbone it belongs to.")
    body.load_state_dict({own[f]: state[given[f]] for f in own if f in given}, strict=False)


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _first(names: list[str], most: int = 3) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
