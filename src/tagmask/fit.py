"""The one training loop. It knows no method: a network, examples, a loss, a schedule.

Everything random follows from ``(seed, position in the stream of examples)``, so that a run which was killed goes on
from its last checkpoint and ends with the same bytes as one that was not.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tagmask.checkpoint import Memory, checkpoint, restore
from tagmask.cost import Meter
from tagmask.errors import OptionError, RunError
from tagmask.nets.groups import parameter_groups
from tagmask.work import Job

Loss = Callable[..., Mapping[str, Tensor]]
CHECKPOINT_EVERY = 300.0  # seconds that a kill may cost at most  # ours
ADAM_SECOND = 0.999  # decay of Adam's second moment; paper (Kingma and Ba)
MOST_READERS = 8  # processes that read images for a GPU  # ours
CURVE_POINTS = 200  # points kept of every training curve  # ours


class Examples(Protocol):
    """What a network learns from: ``example(index, random)`` returns the arrays of one training example."""

    def __len__(self) -> int: ...

    def example(self, index: int, random: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Return example ``index``, augmented with ``random`` alone."""
        ...


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn: ``steps`` (or else ``epochs``) batches of ``batch`` examples, by SGD unless told."""

    epochs: float
    batch: int
    rate: float
    steps: int = 0
    policy: str = "poly"  # poly: rate (1 - step/steps)^power; step: rate * drop_by^(number of drops so far)
    power: float = 0.9  # paper (DeepLab v2)
    drops: int = 3  # paper (DeepLab v1, SEC): every 2000 of 6000 or 8000 steps
    drop_by: float = 0.1  # paper (DeepLab v1, SEC)
    drop_at: tuple[float, ...] = ()  # shares of the steps after which it drops, in place of evenly spread drops
    momentum: float = 0.9  # paper
    nesterov: bool = False  # look ahead along the momentum, as OAA's author code does
    weight_decay: float = 5e-4  # paper; never on biases and normalisation
    head_rate: float = 10.0  # paper (DeepLab v1): new layers learn ten times as fast
    bias_rate: float = 1.0  # 2 in the Caffe-era author code
    accumulate: int = 1
    warm_up: float = 0.0  # share of the steps over which the rate rises from 0

    def __post_init__(self) -> None:
        if self.policy not in ("poly", "step"):
            raise OptionError(f"policy {self.policy!r} is not known; expected poly or step.")
        if self.batch < 1 or self.accumulate < 1 or (self.epochs <= 0 and self.steps <= 0):
            raise OptionError("batch, accumulate and epochs (or steps) must be positive.")

    def length(self, examples: int) -> int:
        """Return the number of steps over ``examples`` examples."""
        return self.steps or max(1, math.ceil(self.epochs * examples / (self.batch * self.accumulate)))

    def rate_at(self, step: int, steps: int) -> float:
        """Return the learning rate of step ``0 <= step < steps``.

        >>> [round(Schedule(epochs=1, batch=1, rate=1.0, policy="step", drops=2).rate_at(s, 6), 3) for s in range(6)]
        [1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
        >>> [Schedule(epochs=1, batch=1, rate=1.0, policy="step", drop_at=(2 / 3,)).rate_at(s, 3) for s in range(3)]
        [1.0, 1.0, 0.1]
        """
        rise = min(1.0, (step + 1) / (self.warm_up * steps)) if self.warm_up else 1.0
        if self.policy == "poly":
            return rise * self.rate * (1 - step / steps) ** self.power
        drops = (
            sum(step / steps >= share for share in self.drop_at) if self.drop_at else step * (self.drops + 1) // steps
        )
        return rise * self.rate * self.drop_by**drops


class Objective(nn.Module):
    """The network and its loss as one module, so that Fabric sees a single forward pass."""

    def __init__(self, network: nn.Module, loss: Loss):
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, *batch: Tensor) -> Mapping[str, Tensor]:
        """Return the named terms of the loss; the sum of those with a gradient is minimised."""
        return self.loss(self.network, *batch)


Network = TypeVar("Network", bound=nn.Module)


def fit(
    network: Network,
    examples: Examples,
    loss: Loss,
    schedule: Schedule,
    *,
    seed: int,
    job: Job,
    memory: Memory | None = None,
    until: float = 1.0,
    adam: bool = False,
) -> Network:
    """Train ``network`` and return it in evaluation mode, on the CPU or the job's device.

    ``loss(network, *batch)`` returns named scalars: the sum of those with a gradient is minimised, the others are only
    noted in the curve. With ``until`` below 1 the training ends after that share of its steps, and the network is what it
    is there on the way of the whole training. Checkpoints go to ``job.folder`` once an epoch (at least ten times,
    and every five minutes); a call that finds one there goes on from it. For a GPU, other processes read the images.
    What the loss itself remembers from step to step is its ``memory``, and goes with the checkpoints. ``adam`` learns by
    AdamW in place of SGD; the schedule's momentum is then that of its first moment.
    """
    fabric = Fabric(
        accelerator="cuda" if job.device.startswith("cuda") else job.device,
        devices=1,
        precision=cast(Any, job.precision),
    )
    steps = schedule.length(len(examples))
    stop = max(1, math.ceil(until * steps))
    torch.manual_seed(seed)
    network.to(device=fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = _optimizer(network, schedule, adam)
    start, spent = restore(job, network, optimizer, memory)
    objective, optimizer = fabric.setup(Objective(network, loss), optimizer)
    objective.train()
    micro = stop * schedule.accumulate
    every = max(1, min(math.ceil(len(examples) / (schedule.batch * schedule.accumulate)), math.ceil(steps / 10)))
    positions = _Positions(start * schedule.accumulate, micro, schedule.batch)
    readers = min(MOST_READERS, os.cpu_count() or 1) if fabric.device.type == "cuda" else 0
    batches = DataLoader(_Stream(examples, schedule.batch, seed), batch_sampler=positions, num_workers=readers)
    with Meter() as meter, job.narrator.stage(f"{job.name} (training)", stop, start, "steps") as counter:
        kept = 0.0
        optimizer.zero_grad()
        for position, batch in enumerate(_waiting(batches, job), start=start * schedule.accumulate):
            step, part = divmod(position, schedule.accumulate)
            torch.manual_seed(_mix(seed, position))  # dropout, the same whether or not the run was interrupted
            terms = dict(objective(*fabric.to_device(list(batch))))
            minimised = [term for term in terms.values() if term.requires_grad]
            fabric.backward(torch.stack(minimised).sum() / schedule.accumulate)
            if part + 1 < schedule.accumulate:
                continue
            rate = schedule.rate_at(step, steps)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["multiple"]
            optimizer.step()
            optimizer.zero_grad()
            counter.advance(note=_note(job.folder, step, steps, terms, rate, every))
            due = (step + 1) % every == 0 or meter.seconds - kept > CHECKPOINT_EVERY
            if due and step + 1 < stop:
                kept = meter.seconds
                cost = {"seconds": spent + meter.seconds, "peak_mb": meter.look(), "waited": job.waited}
                checkpoint(job.folder, network, optimizer, memory, step + 1, cost)
    return network.eval()


def _optimizer(network: nn.Module, schedule: Schedule, adam: bool) -> torch.optim.Optimizer:
    groups = _groups(network, schedule)
    if adam:
        return torch.optim.AdamW(groups, lr=schedule.rate, betas=(schedule.momentum, ADAM_SECOND))
    return torch.optim.SGD(groups, lr=schedule.rate, momentum=schedule.momentum, nesterov=schedule.nesterov)


def _groups(network: nn.Module, schedule: Schedule) -> list[dict[str, Any]]:
    """Return the optimizer's parameter groups: heads learn faster, biases and normalisation do not decay."""
    groups = []
    for group in parameter_groups(network):
        head, bias = "head" in group["name"], "bias" in group["name"]
        multiple = (schedule.head_rate if head else 1.0) * (schedule.bias_rate if bias else 1.0)
        decay = 0.0 if bias else schedule.weight_decay
        groups.append({"params": group["params"], "multiple": multiple, "weight_decay": decay})
    return [group for group in groups if group["params"]]


def _note(folder: Path, step: int, steps: int, terms: Mapping[str, Tensor], rate: float, every: int) -> str:
    """Add a point to the training curve now and then, and return it as a few words; refuse a loss that is no number."""
    if step % max(1, steps // CURVE_POINTS) and step + 1 < steps and (step + 1) % every:
        return ""
    values = {name: round(float(term.detach()), 5) for name, term in terms.items()}
    total = sum(values[name] for name, term in terms.items() if term.requires_grad)
    if not math.isfinite(total):
        raise RunError(f"the loss became {total} at step {step}: {values}; lower the learning rate and run again.")
    with (folder / "curve.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, "loss": round(total, 5), **values, "lr": rate}) + "\n")
    return f"loss {total:.3f}"


def _waiting(batches: Iterable[Any], job: Job) -> Iterator[Any]:
    """Yield the batches, and tell the job how long each was waited for."""
    stream = iter(batches)
    while True:
        start = time.monotonic()
        batch = next(stream, None)
        job.waited += time.monotonic() - start
        if batch is None:
            return
        yield batch


def _mix(seed: int, position: int) -> int:
    """Return a 63-bit seed for one position of one run."""
    return int(np.random.SeedSequence([seed, position]).generate_state(1, np.uint64)[0] >> np.uint64(1))


class _Stream(Dataset[tuple[np.ndarray, ...]]):
    """An endless stream: epoch after epoch, each in its own random order; position p says everything."""

    def __init__(self, examples: Examples, batch: int, seed: int):
        self.examples, self.batch, self.seed = examples, batch, seed
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, dtype=np.int64))

    def __getitem__(self, position: int) -> tuple[np.ndarray, ...]:
        epoch, place = divmod(position, len(self.examples))
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.examples)))
        random = np.random.default_rng([self.seed, epoch, place])
        return self.examples.example(int(self._order[1][place]), random)


@dataclass
class _Positions:
    """The positions of the stream, a batch at a time, from batch ``start`` to ``stop``."""

    start: int
    stop: int
    batch: int

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.stop):
            yield list(range(step * self.batch, (step + 1) * self.batch))

    def __len__(self) -> int:
        return self.stop - self.start
