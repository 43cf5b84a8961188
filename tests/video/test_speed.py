"""The protocol of measuring, with a step that counts instead of computing. No time is asserted."""

from __future__ import annotations

import pytest
import torch

from tagmask.video import speed
from tagmask.video.speed import Speed, measure


class Step:
    """Remembers what it was called with, and moves a clock by hand."""

    def __init__(self, monkeypatch, milliseconds):
        self.seen, self.starts, self.clock, self.left = [], 0, 0.0, iter(milliseconds)
        monkeypatch.setattr(speed.time, "perf_counter", lambda: self.clock)

    def start(self):
        self.starts += 1
        self.clock += 0.25

    def __call__(self, frame):
        assert torch.is_inference_mode_enabled()
        self.seen.append((frame, torch.get_num_threads()))
        self.clock += next(self.left) / 1000


def test_warm_up_then_frames_that_count_and_the_fastest_run(monkeypatch):
    slow, fast = (50, 40, 40, 9, 9, 9, 30), (40, 30, 30, 4, 5, 6, 25)
    step = Step(monkeypatch, slow + fast)
    found = measure(step, "ab", start=step.start, warm_up=3, count=4, runs=2)
    assert [frame for frame, _ in step.seen] == list("abababa") * 2
    assert step.starts == 2
    assert found.median == pytest.approx(5.5)
    assert found.p95 == pytest.approx(6 + 0.85 * 19)
    assert (found.first, found.once) == pytest.approx((40, 250))
    assert (found.frames, found.runs, found.device, found.peak_mb) == (4, 2, "cpu", None)
    assert found.fps == pytest.approx(1000 / 5.5)
    assert found.spread(frames=50) == pytest.approx(10.5)
    assert found.to_json()["fps"] == found.fps


def test_threads_are_set_and_put_back(monkeypatch):
    before = torch.get_num_threads()
    step = Step(monkeypatch, [1] * 20)
    assert measure(step, [0], threads=before + 1, warm_up=1, count=2, runs=1).threads == before + 1
    assert {threads for _, threads in step.seen} == {before + 1}
    assert torch.get_num_threads() == before

    def broken(_):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        measure(broken, [0], threads=before + 1)
    assert torch.get_num_threads() == before
    assert not torch.is_inference_mode_enabled()


def test_a_real_clock_runs():
    found = measure(lambda frame: frame + 1, [torch.zeros(4)], warm_up=2, count=5)
    assert isinstance(found, Speed)
    assert 0 < found.median <= found.p95
    assert found.runs == 3


@pytest.mark.parametrize("given", [{"frames": []}, {"frames": [1], "count": 0}, {"frames": [1], "warm_up": -1}])
def test_nothing_to_measure(given):
    with pytest.raises(ValueError, match="cannot measure"):
        measure(lambda frame: frame, **given)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_queue_is_waited_for():
    frame = torch.zeros(2048, 2048, device="cuda")
    found = measure(lambda x: x @ x, [frame], device="cuda", warm_up=2, count=5)
    assert found.runs == 1
    assert found.peak_mb > 16
    assert found.device == torch.cuda.get_device_name()
