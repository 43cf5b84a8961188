"""The command line: ``tagmask VERB``. Our errors become one line on standard error and exit code 2."""

from __future__ import annotations

import argparse
import ast
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tagmask.errors import OptionError, RunError, TagmaskError
from tagmask.registry import Method, find_method, methods

if TYPE_CHECKING:
    from tagmask.types import Dataset

MOST_SAID = 10  # lines about odd data before a run; `check` has all
HINT = "`tagmask VERB --help` explains every flag."


class _Parser(argparse.ArgumentParser):
    """argparse, with our kind of error."""

    def error(self, message: str) -> NoReturn:
        """Raise what the main function prints as one line."""
        raise OptionError(f"{message}; see `{self.prog} --help`.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code: 0, or 2 where the user has something to mend."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        parsed = _parser(words).parse_args(words)
        parsed.words = words
        return int(parsed.verb(parsed) or 0)
    except TagmaskError as error:
        print(f"tagmask: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("tagmask: stopped; the same command goes on from here.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    from tagmask import __doc__ as summary

    parser = _Parser(prog="tagmask", description=(summary or "").partition("\n")[0], epilog=HINT)
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    def verb(name: str, function: Callable[[argparse.Namespace], int | None], what: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=what, description=what, allow_abbrev=False)
        made.set_defaults(verb=function)
        return made

    demo = verb(
        "demo", _demo, "Draw a sample set, run `cam` and `full` on it, and compare them; needs no data and no GPU."
    )
    demo.add_argument("--out", type=Path, default=Path("demo"), help="folder for the drawn photos and the runs (demo)")
    listing = verb("methods", _methods, "List the methods.")
    listing.add_argument("--json", action="store_true", help="as JSON, with every option")
    show = verb("show", _show, "Say what a method is, what it needs and what its options are.")
    show.add_argument("method", metavar="METHOD", help="a name that `tagmask methods` lists")
    check = verb("check", _check, "Say what a data set holds, what is odd, and what a run would train on.")
    _data_flags(check)
    check.add_argument("--json", action="store_true", help="as JSON, with every problem")
    run = verb("run", _run, "Run a method: from tags to masks, a network and a report.")
    _run_flags(run, words)
    predict = verb("predict", _predict, "Label new photos with the network of a finished run.")
    predict.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run")
    predict.add_argument("images", type=Path, nargs="+", metavar="IMAGES", help="files and folders")
    predict.add_argument("--out", type=Path, required=True, help="folder for the masks (PNG, one label a pixel)")
    predict.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (auto)")
    predict.add_argument(
        "--longest", type=int, help="longest side at which a photo is looked at; 0: its own (as trained)"
    )
    predict.add_argument(
        "--crf", action=argparse.BooleanOptionalAction, default=None, help="refine along edges (as the method does)"
    )
    evaluate = verb("evaluate", _evaluate, "Score masks against the masks of a data set.")
    evaluate.add_argument("masks", type=Path, metavar="MASKS", help="folder of NAME.png, or of a finished run")
    _data_flags(evaluate)
    evaluate.add_argument("--split", help="only the images of this split")
    evaluate.add_argument("--only", nargs="+", metavar="CLASS", help="average over these classes (all that occur)")
    evaluate.add_argument("--json", action="store_true", help="as JSON")
    export = verb("export", _export, "Hand the masks of a run to other tools.")
    export.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run")
    export.add_argument("--format", default="png", help="png (label images) or coco (annotations.json)")
    export.add_argument("--out", type=Path, required=True, help="folder for what is written")
    export.add_argument("--rle", action="store_true", help="coco: exact run-length masks instead of polygons")
    return parser


def _data_flags(parser: argparse.ArgumentParser) -> None:
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


def _run_flags(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    parser.add_argument("method", metavar="METHOD", help="a name that `tagmask methods` lists")
    _data_flags(parser)
    parser.add_argument("--out", type=Path, help="the run's folder (runs/METHOD-DATA)")
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
    parser.add_argument(
        "--looking",
        default="float32",
        help="numbers of finished networks: float32, or bfloat16, twice as fast or more where the processor knows it",
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything random (0)")
    parser.add_argument(
        "--longest", type=int, default=640, help="larger photos are worked on at this longest side; 0: never (640)"
    )
    parser.add_argument("--quiet", action="store_true", help="say nothing but errors")
    method = _method_of(words)
    if method is not None:
        group = parser.add_argument_group(f"options of {method.name}", method.title)
        for name, default, what in method.options:
            _option_flag(group, name, ast.literal_eval(default), what)


def _method_of(words: Sequence[str]) -> Method | None:
    """Return the method that a ``run`` command names, so that its options can be flags; None for a bare ``run --help``."""
    if not words or words[0] != "run" or len(words) < 2 or words[1].startswith("-"):
        return None
    return find_method(words[1])


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


def _methods(given: argparse.Namespace) -> None:
    if given.json:
        listed = [
            {
                "name": m.name,
                "title": m.title,
                "paper": m.paper,
                "extra_supervision": m.extra_supervision,
                "options": {name: {"default": default, "what": what} for name, default, what in m.options},
            }
            for m in methods()
        ]
        print(json.dumps(listed, indent=1, ensure_ascii=False))
        return
    width = max(len(m.name) for m in methods())
    for m in methods():
        print(
            f"{m.name:<{width}}  {m.title.partition(' - ')[2] or m.title}  [extra supervision: {m.extra_supervision}]"
        )


def _show(given: argparse.Namespace) -> None:
    method = find_method(given.method)
    print(f"{method.title}\n\n{method.paper}\nextra supervision: {method.extra_supervision}\nsource: {method.path}\n")
    print(f"options of `tagmask run {method.name} DATA`:")
    for name, default, what in method.options:
        print(f"  --{name.replace('_', '-'):<18} {default:<22} {what}")


def _check(given: argparse.Namespace) -> int:
    from tagmask.data import check_as_json, inspect_data, render_check

    dataset, findings = inspect_data(given.data, deep=True, **_choice(given))
    print(check_as_json(dataset, findings) if given.json else render_check(dataset, findings), end="")
    return 0 if dataset is not None else 2


def _load(given: argparse.Namespace) -> Dataset:
    from tagmask.data import load_data

    return load_data(given.data, **_choice(given))


def _choice(given: argparse.Namespace) -> dict[str, Any]:
    """What the flags of ``_data_flags`` chose."""
    return {name: getattr(given, name) for name in ("train_split", "val_split", "novel", "limit")}


def _run(given: argparse.Namespace) -> None:
    from tagmask.data import load_verified
    from tagmask.nets.backbones import Backbone
    from tagmask.runs import claim, run

    out = given.out or Path("runs") / f"{given.method}-{given.data.resolve().stem}"
    claim(out, given.method)
    data, problems = load_verified(given.data, (given.store or out / ".store") / "verified", **_choice(given))
    odd = [f"{problem.where}: {problem.message} ({problem.effect})" for problem in problems]
    if odd and not given.quiet:
        print("\n".join(odd[:MOST_SAID]), file=sys.stderr)
        print(f"{len(odd)} oddities in the data; `tagmask check {given.data}` says more.", file=sys.stderr)
    backbone = Backbone(
        name=given.backbone, weights=given.weights, norm=given.norm,
        freeze=given.freeze,
        pad_type=given.pad_type,
    )  # fmt: skip
    chosen = {k.removeprefix("option_"): v for k, v in vars(given).items() if k.startswith("option_") and v is not None}
    changes = {name: tuple(value) if isinstance(value, list) else value for name, value in chosen.items()}
    done = run(
        given.method, data, out, backbone=backbone, store=given.store, device=given.device, precision=given.precision,
        looking=given.looking, seed=given.seed, longest=given.longest, quiet=given.quiet,
        command=shlex.join(["tagmask", *given.words]),
        warnings=odd, **changes,
    )  # fmt: skip
    print(done.verdict())


def _demo(given: argparse.Namespace) -> None:
    from tagmask.demo import demo

    print(demo(given.out))


def _predict(given: argparse.Namespace) -> int:
    from tagmask.predict import predict_files

    failed = predict_files(
        given.run, given.images, given.out, device=given.device, longest=given.longest, crf=given.crf
    )
    for problem in failed:
        print(f"tagmask: {problem}", file=sys.stderr)
    return 2 if failed else 0


def _evaluate(given: argparse.Namespace) -> None:
    from tagmask.predict import evaluate_folder, render_scores

    scores = evaluate_folder(given.masks, _load(given), split=given.split, only=given.only)
    print(json.dumps(scores, indent=1) if given.json else render_scores(scores), end="\n" if given.json else "")


def _export(given: argparse.Namespace) -> None:
    from tagmask.export import export_masks
    from tagmask.files import label_maps
    from tagmask.instances import instances_of_run
    from tagmask.runs import load_run

    done = load_run(given.run)
    if not (done.folder / "masks").is_dir():
        raise RunError(f"{done.folder}: has no masks; run it to its end first.")
    masks, instances = label_maps(done.folder / "masks"), instances_of_run(done.folder)
    print(export_masks(masks, done.classes, given.out, given.format, rle=given.rle, instances=instances))


if __name__ == "__main__":
    sys.exit(main())
