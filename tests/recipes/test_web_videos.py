"""What only `web_videos` promises."""

import json

import numpy as np
import pytest
from PIL import Image
from tests.recipes.test_contract import first_computed, go

from tagmask.data.pixels import write_mask
from tagmask.errors import DataError, OptionError
from tagmask.footage import open_footage
from tagmask.tagged_clips import moving_view
from tagmask.video.evaluate import score_follow
from tagmask.work import Work


@pytest.fixture(scope="module")
def made(toy, tmp_path_factory):
    """A run with clips made of the photos: its folder and its store."""
    folder = tmp_path_factory.mktemp("web")
    go("web_videos", toy, folder / "run", store=folder / "store")
    return folder


@pytest.fixture(scope="module")
def clips(toy, tmp_path_factory):
    """Folders of frames of two classes with truth, and bad ones."""
    folder = tmp_path_factory.mktemp("clips")
    single = [sample for sample in toy.train if len(sample.tags) == 1][:2]
    for place, sample in enumerate(single):
        pair = np.asarray(Image.open(sample.image)), np.asarray(Image.open(sample.mask)) > 0
        where = folder / "clips" / toy.classes[sample.tags[0]].upper() / f"film{place}"
        where.mkdir(parents=True)
        (folder / f"truth/film{place}").mkdir(parents=True)
        painted = np.repeat(pair[1][..., None] * np.uint8(255), 3, axis=2)
        views = [moving_view(what, 4, np.random.default_rng(place)) for what in (pair[0], painted)]
        for number, (frame, truth) in enumerate(zip(*views, strict=True)):
            Image.fromarray(frame).save(where / f"{number:05d}.png")
            write_mask(folder / f"truth/film{place}/{number:05d}.png", (truth[..., 0] > 127).astype(np.uint8))
    bad = folder / "clips" / toy.classes[1] / "wild"
    bad.mkdir(parents=True)
    for number, size in enumerate([(30, 20), (31, 20)]):
        Image.new("RGB", size).save(bad / f"{number}.png")
    (folder / "clips" / toy.classes[1] / "empty.mp4").touch()
    (folder / "clips" / "zebra").mkdir()
    return folder


def test_the_steps_and_what_lies_in_the_run(toy, made):
    metrics = json.loads((made / "run/metrics.json").read_text())
    assert list(metrics["steps"]) == ["thresholded activation", "decoder", "after segmenter 1"]
    assert list(metrics["val_steps"]) == ["thresholded activation", "decoder"]
    assert metrics["extra_supervision"] == "none"
    single = {sample.name for sample in toy.train if len(sample.tags) == 1}
    for stage in ("clip-masks", "clip-cam"):
        assert {path.name for path in (made / "run" / stage).iterdir() if path.is_dir()} == single
    for name in single:
        cut = open_footage(made / f"run/clip-cuts/{name}.zip")
        assert cut.facts["chunks"] == [[0, 1, 2]]
        assert cut.facts["kept"] == [0, 1, 2]
        for number in range(3):
            shown = np.asarray(Image.open(made / f"run/clip-masks/{name}/{number:05d}.png"))
            np.testing.assert_array_equal(shown, cut.picture("mask", number))
    for sample in toy.train:
        assert set(np.unique(Image.open(made / f"run/decoded/{sample.name}.png"))) <= {0, *sample.tags}


def test_clips_of_the_user_are_scored_from_outside_and_bad_ones_named(toy, clips, tmp_path):
    done = go("web_videos", toy, tmp_path / "run", clips=str(clips / "clips"))
    log, report = ((done.folder / name).read_text() for name in ("log.txt", "report.html"))
    for words in (
        "empty.mp4: no frame of it can be read",
        "zebra: is no class of the data",
        "wild/1.png: frame 1 has 31x20",
    ):
        assert words in log
        assert words in report
    for stage in ("clip-masks", "clip-cam"):
        scores = score_follow(done.folder / stage, clips / "truth", quiet=True)
        assert set(scores["clips"]) == {"film0", "film1"}
        assert 0 <= scores["mean"]["j"]["mean"] <= 1
    again = go("web_videos", toy, tmp_path / "run", clips=str(clips / "clips"))
    assert sum(stage["computed"] for stage in again.metrics["stages"]) == 0


def test_one_more_clip_is_all_that_is_computed_anew(toy, clips, tmp_path):
    store = tmp_path / "store"
    go("web_videos", toy, tmp_path / "run", clips=str(clips / "clips"), store=store)
    more = tmp_path / "clips"
    for path in [*(clips / "clips").rglob("*.png")]:
        new = more / path.relative_to(clips / "clips")
        new.parent.mkdir(parents=True, exist_ok=True)
        new.write_bytes(path.read_bytes())
        if "film0" in path.parts:
            other = new.parent.with_name("film9") / new.name
            other.parent.mkdir(exist_ok=True)
            other.write_bytes(path.read_bytes() if path.stem != "00000" else turned(path, other))
    done = go("web_videos", toy, tmp_path / "more", clips=str(more), store=store)
    computed = {stage["name"]: stage["computed"] for stage in done.metrics["stages"]}
    assert computed["classifier"] == computed["activation"] == 0
    assert computed["clip-attention"] == computed["clip-cuts"] == 1
    assert computed["clip-masks"] == computed["clip-cam"] == 4
    assert computed["decoder"] == 1


def turned(path, scratch):
    Image.open(path).rotate(180).save(scratch)
    return scratch.read_bytes()


@pytest.mark.parametrize(
    ("option", "stage"),
    [
        ({"tag_rate": 0.02}, "classifier"),
        ({"scales": (1.0, 0.5)}, "activation"),
        ({"made_frames": 4}, "clip-attention"),
        ({"frame_stride": 2}, "clip-attention"),
        ({"frame_size": 30}, "clip-attention"),
        ({"frame_score": 0.1}, "clip-attention"),
        ({"frame_others": 0.9}, "clip-attention"),
        ({"frame_run": 2}, "clip-attention"),
        ({"frame_chunk": 2}, "clip-attention"),
        ({"shot_change": 1.0}, "clip-attention"),
        ({"attention_scales": (1.0, 1.5)}, "clip-attention"),
        ({"merge": "sum"}, "clip-attention"),
        ({"calibrate": 0.0}, "clip-cuts"),
        ({"frame_regions": 20}, "clip-cuts"),
        ({"attention_weight": 2.0}, "clip-cuts"),
        ({"colour_weight": 0.0}, "clip-cuts"),
        ({"motion_weight": 0.0}, "clip-cuts"),
        ({"spatial_weight": 2.0}, "clip-cuts"),
        ({"temporal_weight": 0.0}, "clip-cuts"),
        ({"cut_rounds": 2}, "clip-cuts"),
        ({"flow": "fast"}, "clip-cuts"),
        ({"mask_least": 0.1}, "clip-cuts"),
        ({"mask_most": 0.8}, "clip-cuts"),
        ({"mask_inside": 0.1}, "clip-cuts"),
        ({"decoder_width": 16}, "decoder"),
        ({"decoder_stages": 1}, "decoder"),
        ({"decoder_epochs": 2.0}, "decoder"),
        ({"decoder_rate": 0.1}, "decoder"),
        ({"decoder_batch": 2}, "decoder"),
        ({"decoder_crop": 24}, "decoder"),
        ({"decoder_zoom": (1.0, 1.0)}, "decoder"),
        ({"decoder_crf": True}, "decoded"),
        ({"rate": 0.01}, "segmenter-1"),
    ],
)
def test_each_option_reaches_its_stage(toy, tmp_path, made, monkeypatch, option, stage):
    assert first_computed("web_videos", toy, tmp_path / "run", made / "store", monkeypatch, **option) == stage


def test_sums_a_crf_and_several_chunks_run(toy, tmp_path, made):
    more = {
        "motion_weight": 0.0,
        "merge": "sum",
        "decoder_crf": True,
        "frame_chunk": 2,
        "frame_run": 2,
        "cut_rounds": 3,
        "flip": True,
    }
    done = go("web_videos", toy, tmp_path / "run", store=made / "store", **more)
    assert done.metrics["steps"]["decoder"]["images"] == len(toy.train)


def test_a_run_that_was_killed_goes_on_at_the_clip(toy, tmp_path, monkeypatch, made):
    class Killed(Exception):
        pass

    true, calls = Work.each, []

    def each(self, name, function, *inputs, **options):
        if name != "clip-cuts" or calls:
            return true(self, name, function, *inputs, **options)
        calls.append(name)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Work, "each", each)
        with pytest.raises(Killed):
            go("web_videos", toy, tmp_path / "run")
    go("web_videos", toy, tmp_path / "run")
    for part in ("model.safetensors", *(f"masks/{sample.name}.png" for sample in toy.train)):
        assert (tmp_path / "run" / part).read_bytes() == (made / "run" / part).read_bytes()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"clips": ""}, "clips is empty; expected --clips CLIPS"),
        ({"clips": "nowhere/"}, "clips is 'nowhere/'; expected a folder"),
        ({"frame_run": 4, "frame_chunk": 3}, "a run must fit into a chunk"),
        ({"frame_stride": 0}, "stride 0"),
        ({"frame_score": 1.5}, "scores of frames are 1.5"),
        ({"attention_weight": 0.0, "motion_weight": 0.0}, "weight of attention or of motion"),
        ({"flow": "raft"}, "flow of a cut is 'raft'"),
        ({"frame_regions": 0}, "above 0"),
        ({"calibrate": 1.0}, "calibrate is 1.0"),
        ({"merge": "mean"}, "merge is 'mean'; expected max or sum"),
        ({"mask_least": 0.5, "mask_most": 0.4}, "least area below the most"),
        ({"mask_inside": 60.0}, "mask_inside is 60.0"),
        ({"made_frames": 0}, "made_frames is 0"),
        ({"decoder_width": 0}, "decoder_width is 0"),
    ],
)
def test_nonsense_is_refused_before_any_training(toy, tmp_path, wrong, words):
    with pytest.raises(OptionError, match=words):
        go("web_videos", toy, tmp_path / "run", **wrong)
    assert not list((tmp_path / "run").rglob("*.safetensors"))


def test_no_clip_and_no_mask_are_errors(toy, tmp_path, made):
    (tmp_path / "clips/zebra").mkdir(parents=True)
    with pytest.raises(DataError, match="holds no clip of the classes of the data"):
        go("web_videos", toy, tmp_path / "none", clips=str(tmp_path / "clips"))
    with pytest.raises(DataError, match="gives a mask to learn from"):
        go("web_videos", toy, tmp_path / "strict", store=made / "store", frame_score=1.0)
