"""Named results on disk: nothing is ever computed twice or lost.

``work.once`` keeps one value for the whole data set (a network, a threshold), ``work.each`` one file an image. A result
is keyed by its function, the function's options and the keys of its inputs. It lies under its key in the store and,
as the same file under a name a person can open, in the run's folder::

    RUN/activation/2007_000123.npz   is   STORE/objects/3f/9c1e...npz
"""

from __future__ import annotations

import inspect
import shutil
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from tagmask.ahead import computed
from tagmask.cost import Ledger, Meter, StageCost
from tagmask.data.photos import PerImage, Photos
from tagmask.errors import RunError
from tagmask.files import KINDS, link, read_json, whole, write_json
from tagmask.keys import Keyed, digest, name_of, plain
from tagmask.nets.backbones import Backbone
from tagmask.nets.folded import look_in
from tagmask.nets.storage import load_network, save_network
from tagmask.progress import Narrator
from tagmask.together import groups_of, together
from tagmask.types import Sample

Value = TypeVar("Value")


class Results(PerImage[Value]):
    """The values of one ``each`` stage: ``results[name]`` reads one file."""

    def __init__(self, keys: dict[str, str], path: Callable[[str], Path], kind: type):
        super().__init__(list(keys))
        self._keys, self._path, self._kind = keys, path, kind

    def key_of(self, name: str) -> str:
        """The key of one value."""
        return self._keys[name]

    def __getitem__(self, name: str) -> Value:
        return typing.cast(Value, KINDS[self._kind][2](self._path(self._keys[name])))


@dataclass
class Job:
    """What a long function of ``once`` works with: where to leave checkpoints, on what to compute, whom to tell.

    It adds to ``waited`` the seconds in which it waited for data.
    """

    folder: Path
    device: str
    precision: str
    narrator: Narrator
    name: str
    waited: float = 0.0


@typing.runtime_checkable
class KeepsItself(typing.Protocol):
    """A value of ``once`` that writes its own files, such as maps of all images too many for memory."""

    def save(self, folder: Path) -> None:
        """Write everything into ``folder``, which is there and empty."""
        ...

    @classmethod
    def load(cls, folder: Path, *, device: str, key: str) -> KeepsItself:
        """Open what ``save`` wrote. ``key`` names it, and the keys of its parts must follow from that."""
        ...


@dataclass
class Work:
    """Where results are kept and on what they are computed.

    ``precision`` is that of training (Fabric's names), ``looking`` that of the trunks of finished networks.
    Its one law: a result exists whole or not at all, and its key says everything that it depends on.
    """

    out: Path
    backbone: Backbone
    store: Path
    seed: int = 0
    device: str = "cpu"
    precision: str = "32-true"
    looking: str = "float32"
    longest: int = 0
    narrator: Narrator = field(default_factory=Narrator)
    costs: list[StageCost] = field(default_factory=list)
    _made: dict[int, tuple[Any, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.batches = self.device.startswith("cuda")  # photos of one size go through networks together

    def photos(self, samples: Sequence[Sample]) -> Photos:
        """The images of ``samples``, read when asked for, at the working size of this run."""
        return Photos(samples, longest=self.longest)

    def once(self, name: str, function: Callable[..., Value], *inputs: Any, **options: Any) -> Value:
        """Return ``function(*inputs, **options)``, from disk where it was computed before.

        The function's return annotation says how the value is kept: an ``nn.Module`` as ``model.safetensors``, what
        ``KeepsItself`` by its own ``save``, anything else as JSON. A function with a ``job`` parameter is given a folder
        for checkpoints that survives a kill.
        """
        inputs = tuple(self._collection(value) for value in inputs)
        kind = _returns(function)
        takes_job = "job" in inspect.signature(function).parameters
        setting = self.precision if takes_job else ""
        key = digest([name_of(function), [self._key(v) for v in inputs], self._options(options), setting])
        place = self._object(key, "")
        reused = place.is_dir()
        if not reused:
            partial = self.store / "partial" / key
            partial.mkdir(parents=True, exist_ok=True)
            if takes_job:
                options["job"] = Job(partial, self.device, self.precision, self.narrator, name)
            self._compute_once(name, function, inputs, options, kind, place, partial)
        cost = read_json(place / "cost.json")
        self.costs.append(StageCost(name, 1, int(not reused), int(reused), **cost))
        link(place, self.out / name)
        return typing.cast(Value, self._open(place, kind, key))

    def _open(self, place: Path, kind: type, key: str) -> Any:
        """Read a value of ``once``; a network that it is or holds is known by its key from now on."""
        value: Any
        if issubclass(kind, KeepsItself):
            value = kind.load(place, device=self.device, key=key)
            networks = {digest([key, name]): part for name, part in vars(value).items() if isinstance(part, nn.Module)}
        elif issubclass(kind, nn.Module):
            value = load_network(place, device=self.device)
            networks = {key: value}
        else:
            return read_json(place / "value.json")
        for its_key, network in networks.items():
            look_in(network, self.looking)
            self._made[id(network)] = (network, its_key)
        return value

    def _compute_once(
        self, name: str, function: Callable[..., Any], inputs: Any, options: Any, kind: type, place: Path, partial: Path
    ) -> None:
        self.narrator.say(f"{name} ...")
        spent = _spent(partial)
        with Meter() as meter:
            value = function(*inputs, **options)
        with whole(place) as temporary:
            temporary.mkdir()
            if issubclass(kind, KeepsItself):
                value.save(temporary)
            elif issubclass(kind, nn.Module):
                save_network(value, temporary)
            else:
                write_json(temporary / "value.json", plain(value))
            if (partial / "curve.jsonl").exists():
                shutil.copyfile(partial / "curve.jsonl", temporary / "curve.jsonl")
            peak = max(meter.peak_mb, spent["peak_mb"])
            waited = options["job"].waited if "job" in options else 0.0
            cost = {"seconds": meter.seconds + spent["seconds"], "peak_mb": peak, "waited": waited}
            write_json(temporary / "cost.json", cost)
        shutil.rmtree(partial)

    def each(self, name: str, function: Callable[..., Value], *inputs: Any, **options: Any) -> Results[Value]:
        """Return ``function(*inputs, **options)`` for every image, computing only what is not on disk.

        Inputs that hold one value an image (samples, photos, earlier results) are passed value by value, others as they
        are. Threads share the images, so the function must not change what it shares with others.
        """
        inputs = tuple(self._collection(value) for value in inputs)
        kind = _returns(function)
        suffix = KINDS[kind][0]
        per_image = [value for value in inputs if isinstance(value, PerImage)]
        if not per_image:
            raise ValueError(f"stage {name!r} has no input with one value an image")
        names = list(per_image[0].names)
        shared = [None if isinstance(value, PerImage) else self._key(value) for value in inputs]
        stage = digest([name_of(function), shared, self._options(options)])
        keys = {n: digest([stage, [value.key_of(n) for value in per_image]]) for n in names}
        missing = [n for n in names if not self._object(keys[n], suffix).exists()]

        def compute(image: str) -> None:
            arguments = (value[image] if isinstance(value, PerImage) else value for value in inputs)
            value = function(*arguments, **options)
            if not self._object(keys[image], suffix).exists():  # of a group some may be there
                with whole(self._object(keys[image], suffix)) as temporary:
                    KINDS[kind][1](temporary, value)

        if missing:
            photos = [value for value in per_image if isinstance(value, Photos)]
            groups = groups_of(names, photos[0].size_of) if photos and self.batches else [[n] for n in missing]
            self._compute_each(name, names, [g for g in groups if {*g} & {*missing}], {*missing}, keys, compute)
        spent = self._ledger(name).total(keys.values())
        reused = len(names) - len(missing)
        self.costs.append(StageCost(name, len(names), len(missing), reused, *spent))
        results: Results[Value] = Results(keys, lambda key: self._object(key, suffix), kind)
        self._show(name, results, suffix)
        return results

    def _compute_each(
        self,
        name: str,
        names: list[str],
        groups: list[list[str]],
        missing: set[str],
        keys: dict[str, str],
        compute: Callable[[str], None],
    ) -> None:
        ledger = self._ledger(name)
        done = len(names) - len(missing)
        with Meter() as meter, self.narrator.stage(name, len(names), done) as counter, ledger.open():
            seconds = idle = 0.0
            for group in computed(groups, lambda group: together(group, compute)):
                now, idle_now, new = meter.seconds, meter.idle, [image for image in group if image in missing]
                for image in new:
                    ledger.add(
                        keys[image], (now - seconds) / len(new), meter.look(), max(0.0, idle_now - idle) / len(new)
                    )
                    counter.advance()
                seconds, idle = now, idle_now

    def _show(self, name: str, results: Results[Any], suffix: str) -> None:
        """Lay the results under the run's folder; those of an earlier choice of options are taken away."""
        folder = self.out / name
        shown = folder / ".key"
        if shown.exists() and shown.read_text() == results.key:
            return
        if folder.exists():
            shutil.rmtree(folder)
        for image in results.names:
            link(self._object(results.key_of(image), suffix), folder / (image + suffix))
        folder.mkdir(parents=True, exist_ok=True)
        with whole(shown) as temporary:
            temporary.write_text(results.key)

    def _collection(self, value: Any) -> Any:
        """Samples are passed on as the photos that they name."""
        if isinstance(value, tuple | list) and all(isinstance(part, Sample) for part in value):
            return self.photos(value)
        return value

    def _key(self, value: Any) -> Any:
        made = self._made.get(id(value))
        if made is not None and isinstance(value, nn.Module):
            return {"key": made[1], **({} if self.looking == "float32" else {"looking": self.looking})}
        if isinstance(value, Keyed):
            return {"key": value.key}
        return plain(value)

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        return {name: self._key(value) for name, value in options.items()}

    def _object(self, key: str, suffix: str) -> Path:
        return self.store / "objects" / key[:2] / (key[2:] + suffix)

    def _ledger(self, name: str) -> Ledger:
        return Ledger(self.store / "costs" / f"{name.replace('/', '-')}.jsonl")


def _returns(function: Callable[..., Any]) -> type:
    """Return the annotated type of what a stage function returns; it decides how the value is kept."""
    kind = typing.get_type_hints(function).get("return")
    kind = typing.get_origin(kind) or kind
    if not isinstance(kind, type) or not (issubclass(kind, nn.Module | KeepsItself) or kind in KINDS):
        known = ", ".join(k.__name__ for k in KINDS)
        raise ValueError(f"{function.__name__} must say that it returns one of: {known}, or a network; it says {kind}")
    return kind


def _spent(partial: Path) -> dict[str, float]:
    """What the killed sessions of a job cost, as its checkpoints tell."""
    path = partial / "spent.json"
    if not path.exists():
        return {"seconds": 0.0, "peak_mb": 0.0}
    try:
        return typing.cast(dict[str, float], read_json(path))
    except RunError:
        return {"seconds": 0.0, "peak_mb": 0.0}
