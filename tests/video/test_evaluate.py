"""`tagmask evaluate-video` as a user meets it: folders of one clip or many, what is odd named, tables and JSON."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tagmask.cli import main
from tagmask.data import write_mask
from tagmask.data.video import ClipWriter
from tagmask.errors import DataError, OptionError
from tagmask.evaluate import Confusion
from tagmask.video.consistency import VideoConsistency, motions, temporal_consistency
from tagmask.video.evaluate import score_follow, score_label
from tagmask.video.metrics import score_clip

SIZE = (48, 64)


def mask(number, value=1, extra=0):
    labels = np.zeros(SIZE, dtype=np.uint8)
    labels[10:30, 4 + 2 * number + extra : 20 + 2 * number + extra] = value
    return labels


def write(folder, masks, first=0):
    folder.mkdir(parents=True, exist_ok=True)
    for number, labels in enumerate(masks, start=first):
        Image.fromarray(labels).save(folder / f"{number:05}.png")
    return folder


def several(number):
    labels = mask(number)
    labels[34:44, 30:40] = 2
    return labels


@pytest.fixture
def clips(tmp_path):
    """Two clips, one with two objects, whose predictions are two pixels off."""
    write(tmp_path / "truth/a", [mask(n) for n in range(6)])
    write(tmp_path / "truth/b", [several(n) for n in range(6)])
    write(tmp_path / "ours/a", [mask(n, extra=2) for n in range(6)])
    write(tmp_path / "ours/b", [np.maximum(mask(n, extra=2), several(n) // 2 * 2) for n in range(6)])
    return tmp_path


def test_objects_and_means(clips):
    told = score_follow(clips / "ours", clips / "truth", quiet=True)
    frames = [(mask(n, extra=2), mask(n)) for n in range(6)]
    assert (
        told["clips"]["a"]["objects"]["1"]["j"]["mean"] == score_clip(frames)[1].region.mean == pytest.approx(14 / 18)
    )
    assert list(told["clips"]["b"]["objects"]) == ["1", "2"]
    j = [one["j"]["mean"] for clip in told["clips"].values() for one in clip["objects"].values()]
    assert told["objects"] == 3
    assert told["mean"]["j"]["mean"] == pytest.approx(sum(j) / 3)
    assert told["mean_of_clips"]["j"]["mean"] == pytest.approx((j[0] + (j[1] + j[2]) / 2) / 2)
    assert told["mean"]["jf"] == pytest.approx((told["mean"]["j"]["mean"] + told["mean"]["f"]["mean"]) / 2)


def test_one_clip_directly_or_in_masks(clips):
    whole = score_follow(clips / "ours", clips / "truth", quiet=True)["clips"]["a"]["mean"]
    (clips / "renamed").mkdir()
    (clips / "ours/a").rename(clips / "renamed/masks")  # as a run leaves them
    for ours, truth in (("renamed", "truth/a"), ("renamed/masks", "truth/a")):
        assert score_follow(clips / ours, clips / truth, quiet=True)["mean"] == whole
    (clips / "data").mkdir()
    (clips / "truth").rename(clips / "data/masks")  # as a data set has them
    (clips / "renamed").rename(clips / "a")
    assert score_follow(clips / "a", clips / "data", quiet=True)["mean"] == whole


def test_table_and_json(clips, capsys):
    assert main(["evaluate-video", str(clips / "ours"), str(clips / "truth"), "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["objects"] == 3
    (clips / "truth/c").mkdir()
    write(clips / "truth/c", [mask(n) for n in range(4)])
    assert main(["evaluate-video", str(clips / "ours"), str(clips / "truth")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["clip", "object", "J&F", "J", "recall", "decay", "F", "recall", "decay"]
    assert lines[1].split()[:2] == ["a", "1"]
    assert lines[1].split()[3] == "77.8"
    assert [line.split()[:2] for line in lines[2:6]] == [["b", "1"], ["b", "2"], ["b", "mean"], ["all", "mean"]]
    assert lines[6].endswith("mean over 3 objects in 2 clips")
    assert lines[7].endswith("mean over the means of clips")
    assert lines[8] == "1 clips have a truth but no prediction here (c); they are not counted."


def test_the_given_first_mask_and_the_last_may_lack(clips):
    for name in ("00000", "00005"):
        (clips / f"ours/a/{name}.png").unlink()
    assert score_follow(clips / "ours", clips / "truth", quiet=True)["objects"] == 3


def smoothed(path):
    image = Image.fromarray(mask(2, value=255)).resize((70, 50), Image.Resampling.BILINEAR)
    image.resize((64, 48), Image.Resampling.BILINEAR).save(path)


FOLLOW = {
    "lacks": (
        lambda root: (root / "ours/a/00002.png").unlink(),
        r"ours/a: has no 00002.png; expected a mask for every frame",
    ),
    "size": (
        lambda root: write(root / "ours/a", [np.zeros((9, 8), np.uint8)], first=3),
        r"a/00003.png: has 8x9 pixels, its truth 64x48",
    ),
    "smooth": (
        lambda root: smoothed(root / "ours/a/00002.png"),
        r"ours/a/00002.png: holds the value \d+ in a clip whose masks also have 255",
    ),
    "smooth truth": (lambda root: smoothed(root / "truth/a/00002.png"), r"truth/a/00002.png: holds the value"),
    "id": (
        lambda root: write(root / "ours/b", [mask(1, value=7)], first=4),
        r"ours/b/00004.png: holds the id 7; the truth has 1, 2",
    ),
    "one for two": (
        lambda root: write(root / "ours/b", [mask(n, value=255) for n in range(6)]),
        r"holds 0 and 255, which is one object; the truth has 2",
    ),
    "mixed": (
        lambda root: write(root / "truth/b", [mask(1, value=255)], first=4),
        r"truth/b/00000.png: holds the value 2 in a clip whose masks also have 255",
    ),
    "colour": (lambda root: Image.new("RGB", (64, 48)).save(root / "ours/a/00001.png"), r"00001.png: is a RGB picture"),
    "broken": (lambda root: (root / "ours/a/00001.png").write_bytes(b"no"), r"00001.png: is not a picture"),
    "short": (
        lambda root: [(root / f"truth/a/0000{n}.png").unlink() for n in range(4)],
        r"truth/a: has 2 masks; expected 3 or more",
    ),
    "nothing": (lambda root: write(root / "truth/a", [mask(0) * 0] * 6), r"holds the id 1; the truth has no object"),
    "nothing at all": (
        lambda root: [write(root / f"{side}/a", [mask(0) * 0] * 6) for side in ("ours", "truth")],
        r"truth/a: shows no object",
    ),
    "other names": (
        lambda root: [(root / f"ours/{name}").rename(root / f"ours/x{name}") for name in "ab"],
        r"have no clip in common \(they hold xa, xb; a, b\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLLOW)
def test_what_is_wrong_with_followed_objects_is_named(clips, case):
    spoil, said = FOLLOW[case]
    spoil(clips)
    with pytest.raises(DataError, match=said):
        score_follow(clips / "ours", clips / "truth", quiet=True)


def test_0_and_255_in_the_predictions_of_one_object(clips):
    whole = score_follow(clips / "ours/a", clips / "truth/a", quiet=True)["mean"]
    write(clips / "ours/a", [mask(n, extra=2, value=255) for n in range(6)])
    assert score_follow(clips / "ours/a", clips / "truth/a", quiet=True)["mean"] == whole


def textured(number):
    noise = np.random.default_rng(0).integers(0, 60, (*SIZE, 3)).astype(np.uint8)
    patch = np.random.default_rng(1).integers(120, 250, (20, 16, 3), dtype=np.uint8)
    noise[10:30, 4 + 2 * number : 20 + 2 * number] = patch
    return noise


@pytest.fixture
def labelled(tmp_path):
    """Two labelled clips with their frames, whose predictions are one pixel off and flicker once."""
    for clip, count in (("a", 12), ("b", 9)):
        write(tmp_path / "truth" / clip, [mask(n, value=2) for n in range(count)])
        ours = [mask(n, value=2, extra=1) for n in range(count)]
        ours[4] = np.where(ours[4] > 0, 1, 0).astype(np.uint8)
        write(tmp_path / "ours" / clip, ours)
        write(tmp_path / "frames" / clip, [textured(n) for n in range(count)])
    (tmp_path / "classes.txt").write_text("ground\ndog\ncat\n")
    return tmp_path


def read(folder):
    return [np.array(Image.open(path)) for path in sorted(folder.iterdir())]


def test_labels_are_scored_as_their_parts_are(labelled):
    told = score_label(
        labelled / "ours", labelled / "truth", frames=labelled / "frames", classes=("ground", "dog", "cat"), quiet=True
    )
    confusion, steady, pairs, motion = Confusion(3), VideoConsistency(8), [], []
    for clip in "ab":
        ours, truth, frames = (read(labelled / part / clip) for part in ("ours", "truth", "frames"))
        steady.cut()
        for prediction, true in zip(ours, truth, strict=True):
            confusion.add(true, prediction)
            steady.add(prediction, true)
        pairs.append((ours, truth))
        motion.append(list(motions(frames)))
    assert told["miou"] == confusion.scores().miou
    assert told["vc_8"] == pytest.approx(steady.score)
    assert (told["frames"], told["tc"]["pairs"], told["tc"]["classes"]) == (21, 11 + 8, 3)
    assert told["flow"].startswith("DIS medium (OpenCV")
    one = score_label(labelled / "ours/a", labelled / "truth/a", frames=labelled / "frames/a", quiet=True)
    assert one["tc"]["tc"] == temporal_consistency(pairs[0][0], motion[0], classes=3).tc
    assert one["tc_of_truth"]["tc"] == temporal_consistency(pairs[0][1], motion[0], classes=3).tc
    assert one["tc"]["tc"] < one["tc_of_truth"]["tc"]
    assert one["classes"] == ["0", "1", "2"]


def test_the_table_of_labels(labelled, capsys):
    words = ["evaluate-video", "--task", "label", str(labelled / "ours"), str(labelled / "truth")]
    assert main([*words, "--classes", str(labelled / "classes.txt")]) == 0
    plain = capsys.readouterr().out
    assert "TC" not in plain
    assert "VC8 " in plain
    assert plain.splitlines()[1].startswith("ground")
    frames = ["--frames", str(labelled / "frames"), "--flow", "fast"]
    assert main([*words, *frames, "--occlusion"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["class", "IoU", "precision", "recall", "TC"]
    assert "19 pairs of frames, flow DIS fast (OpenCV" in lines[-2]
    assert "without what is hidden" in lines[-2]
    assert "the truth itself has" in lines[-2]


def test_truth_may_be_sparse(labelled):
    for number in range(12):
        if number != 6:
            (labelled / f"truth/a/{number:05}.png").unlink()
    told = score_label(labelled / "ours/a", labelled / "truth/a", frames=labelled / "frames/a", quiet=True)
    assert (told["frames"], told["tc"]["pairs"]) == (1, 11)
    assert told["vc_8"] is told["tc_of_truth"] is None


def video_of(path, count):
    with ClipWriter(path) as writer:
        for number in range(count):
            writer.write(textured(number))


def test_frames_may_be_a_video_or_more_than_was_labelled(labelled):
    whole = score_label(labelled / "ours/a", labelled / "truth/a", frames=labelled / "frames/a", quiet=True)
    (labelled / "videos").mkdir()
    video_of(labelled / "videos/a.avi", 12)
    video = score_label(labelled / "ours/a", labelled / "truth/a", frames=labelled / "videos", quiet=True)
    assert video["tc"]["pairs"] == 11
    assert abs(video["tc"]["tc"] - whole["tc"]["tc"]) < 0.2
    for number in (0, 1, 11):
        for side in ("ours", "truth"):
            (labelled / f"{side}/a/{number:05}.png").unlink()
    less = score_label(labelled / "ours/a", labelled / "truth/a", frames=labelled / "frames/a", quiet=True)
    assert less["tc"]["pairs"] == 8
    (labelled / "images").mkdir()
    (labelled / "frames").rename(labelled / "images")
    assert score_label(labelled / "ours/a", labelled / "truth/a", frames=labelled, quiet=True) == less


LABEL = {
    "lacks": (lambda root: (root / "ours/a/00005.png").unlink(), r"ours/a: has no 00005.png"),
    "gap": (
        lambda root: [(root / f"{side}/a/00005.png").unlink() for side in ("ours", "truth")],
        r"ours/a: has no 00005.png",
    ),
    "no frame": (
        lambda root: (root / "frames/a/00005.png").unlink(),
        r"frames/a: has no frame 00005, of which .*ours/a has a mask",
    ),
    "no clip": (
        lambda root: (root / "frames/a").rename(root / "frames/c"),
        r"frames: has no clip a; expected a folder a/ of frames",
    ),
    "short video": (
        lambda root: (video_of(root / "frames/a.avi", 10), (root / "frames/a").rename(root / "x")),
        r"a.avi: has 10 frames, .*ours/a 12 masks",
    ),
    "long video": (
        lambda root: (video_of(root / "frames/a.avi", 15), (root / "frames/a").rename(root / "x")),
        r"a.avi: has 15 frames, .*ours/a 12 masks",
    ),
    "size of frames": (
        lambda root: write(root / "frames/a", [np.zeros((50, 64, 3), np.uint8)] * 12),
        r"ours/a/00001.png: has 64x48 pixels, its frame 64x50",
    ),
    "size": (
        lambda root: write(root / "ours/a", [np.zeros((9, 8), np.uint8)], first=3),
        r"ours/a/00003.png: has 8x9 pixels, its truth 64x48",
    ),
    "ids": (
        lambda root: write(root / "ours/a", [mask(0, value=3)], first=3),
        r"ours/a/00003.png: holds the ids 3; expected 0..2 or 255",
    ),
    "ids of truth": (
        lambda root: write(root / "truth/a", [mask(0, value=3)], first=3),
        r"truth/a/00003.png: holds the ids 3",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LABEL)
def test_what_is_wrong_with_labels_is_named(labelled, case):
    spoil, said = LABEL[case]
    spoil(labelled)
    with pytest.raises(DataError, match=said):
        score_label(
            labelled / "ours",
            labelled / "truth",
            frames=labelled / "frames",
            classes=("ground", "dog", "cat"),
            quiet=True,
        )


def test_masks_of_two_sizes_in_one_clip(labelled):
    for side in ("ours", "truth"):
        write(labelled / side / "a", [np.zeros((9, 8), np.uint8)], first=3)
    with pytest.raises(DataError, match=r"00003.png: has 8x9 pixels, the mask before 64x48"):
        score_label(labelled / "ours", labelled / "truth", quiet=True)


def test_mistakes_of_the_command_are_one_line(labelled, tmp_path, capsys):
    ours, truth = str(labelled / "ours"), str(labelled / "truth")
    (tmp_path / "none.txt").touch()
    for words, said in (
        ([ours, "nowhere"], "nowhere: no such folder"),
        ([str(labelled / "classes.txt"), truth], "is a file; expected a folder of masks"),
        ([ours, truth, "--frames", ours], "--frames says nothing of followed objects; add --task label"),
        ([ours, truth, "--task", "lable"], "invalid choice: 'lable'"),
        ([ours, truth, "--task", "label", "--classes", "gone.txt"], "gone.txt: cannot be read"),
        ([ours, truth, "--task", "label", "--classes", str(tmp_path / "none.txt")], "names 0 classes; expected 1 to 255"),
        ([ours, truth, "--task", "label", "--frames", str(labelled / "frames"), "--flow", "slow"], "expected one of ultrafast"),
    ):  # fmt: skip
        assert main(["evaluate-video", *words]) == 2
        assert said in capsys.readouterr().err.splitlines()[-1]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no PNG masks; expected a folder of PNGs for each clip"):
        score_follow(tmp_path / "empty", labelled / "truth")
    with pytest.raises(OptionError, match="expected one of ultrafast"):
        score_label(labelled / "ours", labelled / "truth", frames=labelled / "frames", preset="slow", quiet=True)


def test_long_clips_are_named_in_the_order_of_their_numbers(tmp_path):
    """9 comes before 10, so the frame left out at the end is 10."""
    for side in ("ours", "truth"):
        (tmp_path / side).mkdir()
        for number in range(11):
            write_mask(
                tmp_path / side / f"{number}.png", mask(number, extra=20 * (side == "ours" and number in (0, 10)))
            )
    assert score_follow(tmp_path / "ours", tmp_path / "truth", quiet=True)["mean"]["jf"] == 1.0


def test_scoring_needs_no_torch(clips):
    code = (
        "import sys; from tagmask.cli import main; "
        "main(['evaluate-video', *sys.argv[1:], '--json']); sys.exit('torch' in sys.modules)"
    )
    words = [sys.executable, "-c", code, str(clips / "ours"), str(clips / "truth")]
    assert json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)["task"] == "follow"
