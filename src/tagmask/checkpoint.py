"""Where a training stands, on disk: so that one that was killed ends with the same bytes as one that was not."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tagmask.files import read_json, whole, write_json
from tagmask.work import Job

# What optimizers keep of each parameter, and its name in our files: SGD's, then Adam's.
KEPT = {"momentum_buffer": "momentum", "exp_avg": "first", "exp_avg_sq": "second", "step": "steps"}


class Memory(Protocol):
    """What a loss keeps beside the network and changes as it goes: kept with every checkpoint, and brought back with it.

    Built afresh for each call of ``fit``, it must be as at the start of training.
    """

    def save(self, path: Path) -> None:
        """Write all of it to the one file ``path``, which is then moved to its place."""
        ...

    def restore(self, path: Path) -> None:
        """Take back what ``save`` wrote to ``path``, and leave that file alone."""
        ...


def checkpoint(
    folder: Path, network: nn.Module, optimizer: Any, memory: Memory | None, step: int, cost: Mapping[str, float]
) -> None:
    """Write network, optimizer and position as one safetensors file, atomically; the memory of that step before it."""
    if memory is not None:
        with whole(folder / f"memory-{step}") as temporary:
            memory.save(temporary)
    tensors = {f"network.{name}": value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        for name, kept in KEPT.items():
            if state.get(name) is not None:
                tensors[f"{kept}.{index}"] = state[name].detach().cpu().contiguous()
    with whole(folder / "checkpoint.safetensors") as temporary:
        save_file(tensors, temporary, metadata={"step": str(step)})
    for old in folder.glob("memory-*"):  # no checkpoint names these any more
        if old.name != f"memory-{step}":
            old.unlink()
    write_json(folder / "spent.json", cost)


def restore(job: Job, network: nn.Module, optimizer: torch.optim.Optimizer, memory: Memory | None) -> tuple[int, float]:
    """Load the last checkpoint, if there is one; return the step to go on from and the seconds spent before."""
    folder, path = job.folder, job.folder / "checkpoint.safetensors"
    if not path.exists():
        (folder / "curve.jsonl").unlink(missing_ok=True)
        return 0, 0.0
    with safe_open(path, framework="pt") as held:
        step = int(held.metadata()["step"])
        tensors = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118
    network.load_state_dict({n.removeprefix("network."): t for n, t in tensors.items() if n.startswith("network.")})
    state = optimizer.state_dict()
    state["state"] = _optimizer_state(tensors)
    optimizer.load_state_dict(state)
    if memory is not None:
        memory.restore(folder / f"memory-{step}")
    curve = folder / "curve.jsonl"
    if curve.exists():  # points after the checkpoint will be made again
        kept = [line for line in curve.read_text(encoding="utf-8").splitlines() if _step_of(line) < step]
        curve.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    spent = read_json(folder / "spent.json")
    job.waited += spent["waited"]
    return step, float(spent["seconds"])


def _optimizer_state(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """Return what a checkpoint holds of the optimizer, by the number of the parameter."""
    names = {kept: name for name, kept in KEPT.items()}
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kept, _, index = name.partition(".")
        if kept in names:
            state.setdefault(int(index), {})[names[kept]] = tensor
    return state


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except ValueError:  # a line that a kill cut short
        return math.inf
