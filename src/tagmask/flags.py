"""The flags of the command line that say on what to work and how; a method's options are flags of their own."""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tagmask.registry import Method, find_method, options_in

if TYPE_CHECKING:
    from tagmask.types import Dataset

MOST_SAID = 10  # lines about odd data before a run; `check` has all


# Registers a verb of the command line: its name, the function that runs it, what it does.
Verb = Callable[[str, Callable[[argparse.Namespace], "int | None"], str], argparse.ArgumentParser]


def data_flags(parser: argparse.ArgumentParser) -> None:
    """Add what says which data set, and how much of it."""
    parser.add_argument("data", type=Path, metavar="DATA", help="folder or table of images and tags (see docs/data.md)")
    parser.add_argument(
        "--train-split", default="train", help="the split to learn from (train; all where there is none)"
    )
    parser.add_argument("--val-split", default="val", help="the split to validate on, never learned from (val)")
    parser.add_argument(
        "--novel",
        default=(),
        help="classes, with commas between, whose masks are not learned from, or a fold such as pascal-5i-0 (none)",
    )
    parser.add_argument("--limit", type=int, help="take only so many photos of each, for a first try")


def data_choice(given: argparse.Namespace) -> dict[str, Any]:
    """What the flags of ``data_flags`` chose."""
    return {name: getattr(given, name) for name in ("train_split", "val_split", "novel", "limit")}


def verified_data(given: argparse.Namespace, out: Path) -> tuple[Dataset, list[str]]:
    """Load the data without what cannot be decoded; return it with what is odd, which is said too."""
    from tagmask.data import load_verified

    data, problems = load_verified(given.data, (given.store or out / ".store") / "verified", **data_choice(given))
    odd = [f"{problem.where}: {problem.message} ({problem.effect})" for problem in problems]
    if odd and not given.quiet:
        print("\n".join(odd[:MOST_SAID]), file=sys.stderr)
        print(f"{len(odd)} oddities in the data; `tagmask check {given.data}` says more.", file=sys.stderr)
    return data, odd


def run_flags(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Add the flags of every run, and those of the method that ``words``, the command line, name."""
    parser.add_argument("method", metavar="METHOD", help="a name that `tagmask methods` lists")
    data_flags(parser)
    parser.add_argument("--out", type=Path, help="the run's folder (runs/METHOD-DATA)")
    training_flags(parser)
    parser.add_argument(
        "--looking",
        default="float32",
        help="numbers of finished networks: float32, or bfloat16, twice as fast or more where the processor knows it",
    )
    method = _method_of(words)
    if method is not None:
        option_flags(parser.add_argument_group(f"options of {method.name}", method.title), method.options)


def saliency_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``fit-saliency``."""
    data_flags(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="SAL", help="folder for the network")
    parser.add_argument("--boxes", action="store_true", help="learn from boxes and not from masks")
    training_flags(parser)
    source = Path(__file__).with_name("saliency_network.py").read_text(encoding="utf-8")
    option_flags(parser.add_argument_group("options of the training"), options_in(source))


def training_flags(parser: argparse.ArgumentParser) -> None:
    """Add what every training has: its network, where it is computed, where results are kept."""
    parser.add_argument("--store", type=Path, help="folder shared by several runs, so that they share finished stages")
    parser.add_argument(
        "--backbone", default="resnet50", help="a timm model, or vgg16 as the early papers use it (resnet50)"
    )
    parser.add_argument(
        "--weights",
        default="default",
        help="FILE of pretrained weights with timm's names; none; default: timm's own download",
    )
    parser.add_argument(
        "--norm", default="auto", help="BatchNorm frozen or trained (auto: frozen with weights, else trained)"
    )
    parser.add_argument("--freeze", type=int, default=0, help="first stages of the backbone that do not learn (0)")
    parser.add_argument("--pad-type", help="padding of timm's convolutions, e.g. same (what the weights say)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (auto)")
    parser.add_argument("--precision", default="32-true", help="of training: 32-true, bf16-mixed or 16-mixed (32-true)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (0)")
    parser.add_argument(
        "--longest", type=int, default=640, help="larger photos are worked on at this longest side; 0: never (640)"
    )
    parser.add_argument("--quiet", action="store_true", help="say nothing but errors")


def training_choice(given: argparse.Namespace) -> dict[str, Any]:
    """What the flags of ``training_flags`` and the options chose, as keywords; the backbone is still loose fields."""
    names = ("store", "device", "precision", "seed", "longest", "quiet")
    backbone = {
        "name": given.backbone,
        **{name: getattr(given, name) for name in ("weights", "norm", "freeze", "pad_type")},
    }
    chosen = {k.removeprefix("option_"): v for k, v in vars(given).items() if k.startswith("option_") and v is not None}
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in chosen.items()}
    return {"backbone": backbone, **{name: getattr(given, name) for name in names}, **options}


def _method_of(words: Sequence[str]) -> Method | None:
    """Return the method that a ``run`` command names, so that its options can be flags; None for a bare ``run --help``."""
    if not words or words[0] != "run" or len(words) < 2 or words[1].startswith("-"):
        return None
    return find_method(words[1])


def option_flags(group: Any, options: Sequence[tuple[str, str, str]]) -> None:
    """Add a flag for each option: its name, default as written, and what it is."""
    for name, default, what in options:
        _option_flag(group, name, ast.literal_eval(default), what)


def _option_flag(group: Any, name: str, default: Any, what: str) -> None:
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
    text = f"{what} ({shown})".replace("%", "%%")
    flag = "--" + name.replace("_", "-")
    if isinstance(default, bool):
        group.add_argument(flag, dest=f"option_{name}", action=argparse.BooleanOptionalAction, default=None, help=text)
    elif isinstance(default, tuple):
        kind = type(default[0])
        group.add_argument(
            flag, dest=f"option_{name}", type=kind, nargs="+", default=None, help=text, metavar=kind.__name__
        )
    else:
        kind = type(default)
        group.add_argument(flag, dest=f"option_{name}", type=kind, default=None, help=text, metavar=kind.__name__)
