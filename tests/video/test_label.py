"""Labels frame after frame: the same as of whole clips, from little memory, with cuts and new starts."""

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import TINY

from tagmask.data.pixels import read_mask
from tagmask.errors import OptionError, RunError
from tagmask.nets.backbones import build_backbone
from tagmask.nets.folded import folded
from tagmask.nets.segmenter import build_segmenter
from tagmask.nets.storage import save_network
from tagmask.nets.temporal import TemporalSegmenter
from tagmask.video import label_clip as module
from tagmask.video.label import FrameLabeller, load_labeller
from tagmask.video.label_clip import label_clip

PAST = 3


def network(**options):
    torch.manual_seed(0)
    small = {"channels": 16, "hidden": 8, "skip": 4, "heads": 2, "radius": 2, "frames": PAST}
    made = TemporalSegmenter(build_backbone(TINY), 5, **{**small, **options}).eval()
    if made.transformer is not None:
        for last in (made.transformer.write, made.transformer.narrow):
            torch.nn.init.normal_(last.weight)
    torch.nn.init.normal_(made.decoder.score.weight)
    return made


def scene(count, size=(65, 97), seed=0):
    """Frames that drift: the same noise, moved."""
    random = np.random.default_rng(seed)
    wide = random.integers(0, 256, (size[0] + 40, size[1] + 40, 3), dtype=np.uint8)
    return [wide[n : n + size[0], 2 * n : 2 * n + size[1]].copy() for n in range(count)]


def labeller(made=None, **how):
    return FrameLabeller(made or network(), list("abcde"), **how)


def as_clip(frames):
    images = np.ascontiguousarray(np.stack(frames).transpose(0, 3, 1, 2))
    return torch.from_numpy(images).float()[None] / 255


@pytest.mark.parametrize(
    "options", [{}, {"layer_norm": "post"}, {"network": "bisenet", "detail": 8}, {"position": True}]
)
def test_streaming_is_the_same_as_whole_clips(options):
    made = network(**options)
    stream, frames = labeller(made), scene(7)
    for number, frame in enumerate(frames):
        found = stream.scores(frame)
        clip = as_clip(frames[max(0, number - PAST) : number + 1])  # the first frames have fewer before them
        with torch.no_grad():
            expected = folded(made).clip(clip)[0].numpy()
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-4)


def test_each_frame_is_encoded_once_and_memory_does_not_grow(monkeypatch):
    made = network()
    stream, seen = labeller(made), []
    encode = TemporalSegmenter.encode
    monkeypatch.setattr(TemporalSegmenter, "encode", lambda self, x: seen.append(len(x)) or encode(self, x))
    folded(made)
    seen.clear()
    held = []
    for frame in scene(12):
        stream.step(frame)
        held.append(sum(part.numel() for pair in stream._past for part in pair))
    assert seen == [1] * 12
    assert held[PAST - 1 :] == [held[PAST - 1]] * (12 - PAST + 1)
    assert held[0] * PAST == held[-1]


def test_reset_begins_a_new_clip():
    stream, frames = labeller(), scene(5)
    first = [stream.scores(frame) for frame in frames]
    stream.reset()
    for frame, expected in zip(frames, first, strict=True):
        assert np.array_equal(stream.scores(frame), expected)
    assert stream.number == 5


def test_a_cut_begins_anew_and_an_ordinary_frame_does_not():
    frames, other = scene(4), [255 - frame // 3 for frame in scene(4, seed=9)]
    alone = labeller().scores(other[0])
    stream = labeller()
    for frame in frames:
        stream.step(frame)
    assert len(stream._past) == PAST
    assert np.array_equal(stream.scores(other[0]), alone)
    assert len(stream._past) == 1
    never = labeller(cut=1.0)
    for frame in frames:
        never.step(frame)
    assert not np.array_equal(never.scores(other[0]), alone)


def test_another_size_begins_anew():
    stream, small = labeller(), scene(1, size=(48, 64))[0]
    stream.step(scene(1)[0])
    assert np.array_equal(stream.scores(small), labeller().scores(small))


def test_labels_have_the_size_of_the_frame_whatever_is_looked_at():
    frame = scene(1, size=(60, 111))[0]
    for longest in (0, 64):
        labels = labeller(longest=longest).step(frame)
        assert labels.shape == (60, 111)
        assert labels.dtype == np.uint8
        assert labels.max() < 5
    half, whole = labeller(longest=56), labeller()
    assert half.scores(frame).shape < whole.scores(frame).shape


def test_seen_frames_count_as_labelled_ones():
    frames, stream, quick = scene(5), labeller(), labeller()
    for frame in frames[:-1]:
        stream.step(frame)
        quick.see(frame)
    assert np.array_equal(stream.step(frames[-1]), quick.step(frames[-1]))


def test_a_random_choice_belongs_to_the_number_of_the_frame():
    made, frames = network(choice="random"), scene(4)
    one, other = labeller(made), labeller(made)
    other.reset(number=10)
    first = [one.scores(frame) for frame in frames]
    again = [other.scores(frame) for frame in frames]
    assert np.array_equal(first[0], again[0])  # alone, nobody asks
    assert not np.array_equal(first[2], again[2])
    other.reset()
    assert np.array_equal(other.scores(frames[0]), first[0])
    assert np.array_equal(other.scores(frames[1]), first[1])


def test_frame_by_frame_networks_keep_nothing():
    stream = labeller(network(frames=0))
    frames = scene(2)
    first = stream.scores(frames[1])
    stream.step(frames[0])
    assert np.array_equal(stream.scores(frames[1]), first)
    assert not stream._past


def test_what_is_no_frame_is_refused():
    with pytest.raises(ValueError, match=r"RGB uint8 \(H, W, 3\), got float64"):
        labeller().step(np.zeros((8, 8, 3)))
    with pytest.raises(OptionError, match="cut is 0"):
        labeller(cut=0)


@pytest.fixture
def run_folder(tmp_path):
    save_network(network(), tmp_path / "run", extra={"classes": list("abcde"), "longest": 0})
    return tmp_path / "run"


@pytest.fixture
def clip_folder(tmp_path):
    (tmp_path / "clip").mkdir()
    for number, frame in enumerate(scene(9)):
        Image.fromarray(frame).save(tmp_path / "clip" / f"{number}.png")
    return tmp_path / "clip"


def test_a_saved_network_is_opened(run_folder, tmp_path):
    stream = load_labeller(run_folder)
    assert stream.classes == tuple("abcde")
    assert np.array_equal(stream.step(scene(1)[0]), labeller().step(scene(1)[0]))
    save_network(build_segmenter("deeplab-v1", TINY, 3, width=8), tmp_path / "other")
    with pytest.raises(RunError, match="holds a Segmenter; expected the folder of `tagmask fit-video"):
        load_labeller(tmp_path / "other")


def contents(out):
    return {path.name: path.read_bytes() for path in sorted((out / "masks").iterdir())}


@pytest.mark.parametrize("stop", [1, 5, 9])
def test_a_clip_whose_labelling_was_killed_ends_with_the_same_files(
    run_folder, clip_folder, tmp_path, stop, monkeypatch
):
    assert label_clip(clip_folder, run_folder, tmp_path / "whole", device="cpu", quiet=True) == 9
    step, labelled = FrameLabeller.step, []

    def power_cut(self, frame):
        if len(labelled) == stop - 1:
            raise KeyboardInterrupt
        labelled.append(1)
        return step(self, frame)

    with monkeypatch.context() as patch:
        patch.setattr(FrameLabeller, "step", power_cut)
        with pytest.raises(KeyboardInterrupt):
            label_clip(clip_folder, run_folder, tmp_path / "cut", device="cpu", quiet=True)
    assert len(list((tmp_path / "cut").glob("masks/*.png"))) == stop - 1
    assert not (tmp_path / "cut/overlay.mp4").exists()
    done = []
    monkeypatch.setattr(FrameLabeller, "step", lambda self, frame: done.append(1) or step(self, frame))
    label_clip(clip_folder, run_folder, tmp_path / "cut", device="cpu", quiet=True)
    assert len(done) == 9 - stop + 1  # nothing is labelled twice
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert (tmp_path / "cut/overlay.mp4").stat().st_size > 0


def test_masks_have_the_names_of_their_frames_and_the_labels_of_the_stream(run_folder, clip_folder, tmp_path):
    label_clip(clip_folder, run_folder, tmp_path / "out", device="cpu", draw=False, quiet=True)
    stream = labeller()
    for number, frame in enumerate(scene(9)):
        found = read_mask(tmp_path / "out/masks" / f"{number}.png", classes=5)
        assert np.array_equal(found, stream.step(frame))
    assert not (tmp_path / "out/overlay.mp4").exists()


def test_another_clip_network_or_way_is_refused(run_folder, clip_folder, tmp_path):
    out = tmp_path / "out"
    label_clip(clip_folder, run_folder, out, device="cpu", draw=False, quiet=True)
    with pytest.raises(RunError, match=r"made with another cut \(0.35, now 1.0\)"):
        label_clip(clip_folder, run_folder, out, device="cpu", cut=1.0, quiet=True)
    save_network(network(share=1.0), tmp_path / "run2", extra={"classes": list("abcde"), "longest": 0})
    with pytest.raises(RunError, match="another model"):
        label_clip(clip_folder, tmp_path / "run2", out, device="cpu", quiet=True)
    with pytest.raises(RunError, match="holds no masks of a clip"):
        label_clip(clip_folder, run_folder, clip_folder, device="cpu", quiet=True)


def test_frames_of_a_video_are_numbered():
    video = module.Clip(module.Path("a.mp4"), (4, 4), 25.0, 3)
    names = module.frame_names(video)
    assert [next(names) for _ in range(3)] == ["000000", "000001", "000002"]
