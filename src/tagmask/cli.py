"""The command line: ``tagmask VERB``. Our errors become one line on standard error and exit code 2."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tagmask.allocator import keep_memory
from tagmask.errors import OptionError, RunError, TagmaskError
from tagmask.flags import data_choice, data_flags, run_flags, saliency_flags, training_choice, verified_data
from tagmask.registry import find_method, methods

if TYPE_CHECKING:
    from tagmask.types import Dataset

HINT = "`tagmask VERB --help` explains every flag."


class _Parser(argparse.ArgumentParser):
    """argparse, with our kind of error."""

    def error(self, message: str) -> NoReturn:
        """Raise what the main function prints as one line."""
        raise OptionError(f"{message}; see `{self.prog} --help`.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code: 0, or 2 where the user has something to mend."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    # A thread that waits for the others of its layer must not burn its core: beside any other work on the machine, training
    # was ten times as slow. Read when torch is loaded, which no verb has done yet.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_memory()
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
    from tagmask.video import verbs_evaluate, verbs_label, verbs_track

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
    data_flags(check)
    check.add_argument("--json", action="store_true", help="as JSON, with every problem")
    run = verb("run", _run, "Run a method: from tags to masks, a network and a report.")
    run_flags(run, words)
    saliency = verb(
        "fit-saliency", _fit_saliency, "Train a network that says what stands out, from masks or boxes of any classes."
    )
    saliency_flags(saliency)
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
    data_flags(evaluate)
    evaluate.add_argument("--split", help="only the images of this split")
    evaluate.add_argument("--only", nargs="+", metavar="CLASS", help="average over these classes (all that occur)")
    evaluate.add_argument("--json", action="store_true", help="as JSON")
    export = verb("export", _export, "Hand the masks of a run to other tools.")
    export.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run")
    export.add_argument("--format", default="png", help="png (label images) or coco (annotations.json)")
    export.add_argument("--out", type=Path, required=True, help="folder for what is written")
    export.add_argument("--rle", action="store_true", help="coco: exact run-length masks instead of polygons")
    verbs_evaluate.add_verbs(verb)
    verbs_label.add_verbs(verb)
    verbs_track.add_verbs(verb)
    return parser


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

    dataset, findings = inspect_data(given.data, deep=True, **data_choice(given))
    print(check_as_json(dataset, findings) if given.json else render_check(dataset, findings), end="")
    return 0 if dataset is not None else 2


def _load(given: argparse.Namespace) -> Dataset:
    from tagmask.data import load_data

    return load_data(given.data, **data_choice(given))


def _run(given: argparse.Namespace) -> None:
    from tagmask.nets.backbones import Backbone
    from tagmask.runs import claim, run

    out = given.out or Path("runs") / f"{given.method}-{given.data.resolve().stem}"
    claim(out, given.method)
    data, odd = verified_data(given, out)
    chosen = training_choice(given)
    done = run(
        given.method, data, out, backbone=Backbone(**chosen.pop("backbone")), looking=given.looking,
        command=shlex.join(["tagmask", *given.words]), warnings=odd, **chosen,
    )  # fmt: skip
    print(done.verdict())


def _fit_saliency(given: argparse.Namespace) -> None:
    from tagmask.nets.backbones import Backbone
    from tagmask.runs import claim
    from tagmask.saliency_network import METHOD, fit_saliency

    claim(given.out, METHOD)
    data, _ = verified_data(given, given.out)
    chosen = training_choice(given)
    fitted = fit_saliency(
        data, given.out, boxes=given.boxes, backbone=Backbone(**chosen.pop("backbone")),
        command=shlex.join(["tagmask", *given.words]), **chosen,
    )  # fmt: skip
    print(fitted.verdict())


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
