"""The command line as a user meets it."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tagmask.cli import _parser, main
from tagmask.data import image_size

QUICK = [
    "--backbone",
    "test_resnet",
    "--weights",
    "none",
    "--epochs",
    "1",
    "--crop",
    "33",
    "--width",
    "8",
    "--batch",
    "4",
    "--quiet",
    "--device",
    "cpu",
]


def test_methods_answers_without_torch():
    code = (
        "import sys; from tagmask.cli import main; main(['methods', '--json']);"
        "sys.exit(bool({'torch', 'numpy', 'timm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    listed = json.loads(done.stdout)
    assert {"cam", "full", "sec"} <= {method["name"] for method in listed}
    assert all(option["what"] for method in listed for option in method["options"].values())


def test_show_and_methods(capsys):
    assert main(["methods"]) == 0
    assert "extra supervision: masks" in capsys.readouterr().out
    assert main(["show", "sec"]) == 0
    assert "--seed-weight" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["run", "cam", "--help"], ["run", "--help"], ["predict", "--help"], ["--help"]])
def test_help_explains_every_flag(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 0
    assert "usage: tagmask" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run", "cma", "x"], "method 'cma' is not known (did you mean 'cam'?)"),
        (["run", "cam", "nowhere"], "nowhere: no such file or folder"),
        (["run", "cam", "TOY", "--tag-epocs", "3"], "unrecognized arguments: --tag-epocs"),
        (["run", "cam", "TOY", "--tag-epochs", "many"], "invalid float value: 'many'"),
        (["run", "cam", "TOY", "--out", "OUT", "--backbone", "resnet5", "--weights", "none"], "did you mean 'resnet50'?"),
        (["run", "cam", "TOY", "--out", "OUT", "--weights", "no.pth", *QUICK[:2]], "no.pth"),
        (["run", "cam", "TOY", "--out", "OUT", "--device", "tpu", *QUICK], "device"),
        (["run", "full", "TOY", "--out", "OUT", "--segmenter", "deeplab-v4", *QUICK], "did you mean 'deeplab-v"),
        (["run", "cam", "TOY", "--out", "OUT", *QUICK, "--rounds", "0"], "rounds is 0; expected a positive number, 1 or more"),
        (["run", "cam", "TOY", "--out", "OUT", *QUICK, "--crop", "0"], "crop is 0; expected a positive number"),
        (["run", "cam", "TOY", "--out", "OUT", *QUICK, "--scales", "-1"], "scales is (-1.0,); expected no negative number"),
        (["run", "full", "TOY", "--out", "OUT", *QUICK, "--batch", "1"], "batch"),
        (["run", "cam", "TOY", "--out", "TOY", *QUICK], "is not empty and holds no run"),
        (["predict", "nowhere", "x.jpg", "--out", "OUT"], "nowhere"),
        (["evaluate", "nowhere", "TOY"], "holds no NAME.png"),
        (["export", "nowhere", "--out", "OUT"], "holds no finished run"),
        (["dance"], "invalid choice: 'dance'"),
        ([], "the following arguments are required: VERB"),
        (["show", "seg"], "did you mean 'sec'?"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_code_2(words, expected, toy_folder, tmp_path, capsys):
    places = {"TOY": str(toy_folder), "OUT": str(tmp_path / "out")}
    words = [places.get(word, word) for word in words]
    if words.count("--device") == 2:
        words = words[: words.index("--device", words.index("--device") + 1)]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert expected in error.splitlines()[-1]
    assert "Traceback" not in error


def test_the_whole_way(toy_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["check", str(toy_folder)]) == 0
    assert "native" in capsys.readouterr().out
    assert main(["run", "full", str(toy_folder), "--out", "RUN", *QUICK]) == 0
    assert "mIoU" in capsys.readouterr().out
    assert main(["run", "cam", str(toy_folder), "--out", "RUN", *QUICK]) == 2
    assert "holds a run of full" in capsys.readouterr().err
    photos = sorted((toy_folder / "images").iterdir())
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no photo")
    assert main(["predict", "RUN", str(photos[0]), str(broken), "--out", "new", "--device", "cpu"]) == 2
    assert "broken.jpg" in capsys.readouterr().err
    assert Path("new", f"{photos[0].stem}.png").exists()
    assert main(["predict", "RUN", str(toy_folder / "images"), "--out", "all", "--crf", "--longest", "32"]) == 0
    assert len(list(Path("all").glob("*.png"))) == len(photos)
    capsys.readouterr()
    assert main(["evaluate", "RUN", str(toy_folder), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["images"] == 16
    assert main(["evaluate", "all", str(toy_folder), "--split", "val", "--only", "background", "disc"]) == 0
    assert "mIoU" in capsys.readouterr().out
    assert main(["evaluate", "all", str(toy_folder), "--only", "disk"]) == 2
    assert "did you mean 'disc'" in capsys.readouterr().err
    assert main(["export", "RUN", "--format", "coco", "--out", "coco"]) == 0
    assert json.loads(Path("coco/annotations.json").read_text())["images"]
    assert main(["export", "RUN", "--format", "png", "--out", "png"]) == 0
    assert main(["export", "RUN", "--format", "pnk", "--out", "png"]) == 2


def test_a_nasty_folder_is_named_and_run_all_the_same(nasty, tmp_path, capsys):
    assert main(["check", str(nasty)]) == 0
    said = capsys.readouterr().out
    assert all(
        word in said for word in ("cut.jpg", "text.jpg", "empty.jpg", "tiny.png", "no_row", "gone", "Cat", "small_mask")
    )
    out = tmp_path / "run"
    loud = [word for word in QUICK if word != "--quiet"]
    quick = ["--tag-epochs", "1", "--tag-crop", "32", "--rounds", "1", "--longest", "200"]
    assert main(["run", "cam", str(nasty), "--out", str(out), *loud, *quick]) == 0
    error = capsys.readouterr().err
    assert "cut.jpg" in error
    assert "Traceback" not in error
    masks = {path.stem for path in (out / "masks").glob("*.png")}
    assert masks == {
        "good",
        "other",
        "Ärger",
        "twice",
        "contrary",
        "no_row",
        "small_mask",
        "rgb_mask",
        "wild_mask",
        "huge",
    }
    assert image_size(out / "masks" / "huge.png") == (9000, 12000)


def test_the_public_names_stay_what_they_are():
    import tagmask

    for _ in range(2):
        assert callable(tagmask.run)
        assert callable(tagmask.methods)
        assert len(tagmask.methods()) >= 3
    assert set(dir(tagmask)) == set(tagmask.__all__)
    with pytest.raises(AttributeError, match="no attribute 'runs_'"):
        _ = tagmask.runs_


def commands_of_the_docs():
    root = Path(__file__).parents[1]
    for page in (root / "README.md", *sorted((root / "docs").glob("*.md"))):
        for line in page.read_text().splitlines():
            words = shlex.split(line.partition("#")[0]) if line.startswith("    tagmask ") else []
            if words and "METHOD" not in words:
                yield pytest.param(words[1:], id=" ".join(words[1:4]))


@pytest.mark.parametrize("words", list(commands_of_the_docs()))
def test_every_command_of_the_docs_is_one(words):
    assert callable(_parser(words).parse_args(words).verb)


def test_the_files_that_the_readme_names_are_there():
    root = Path(__file__).parents[1]
    named = re.findall(r"\]\(([^)#:]+)\)", (root / "README.md").read_text())
    assert len(named) > 5
    assert not [name for name in named if not (root / name).exists()]


def test_waiting_threads_leave_their_core_to_others_before_torch_is_loaded():
    code = (
        "import os, sys; from tagmask.cli import main; main(['methods']); assert 'torch' not in sys.modules;"
        "sys.exit(os.environ['OMP_WAIT_POLICY'] != 'PASSIVE')"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environment)
