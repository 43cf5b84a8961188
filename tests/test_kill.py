"""Kill -9 at random moments: the same command goes on, and ends with the same bytes as if nothing had happened."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tagmask.data import make_toy

KILLS = 10
OPTIONS = (
    *("--backbone", "test_resnet", "--weights", "none", "--device", "cpu", "--width", "16", "--batch", "8"),
    *("--tag-epochs", "6", "--tag-crop", "64", "--epochs", "6", "--crop", "65"),
)


def start(folder, out):
    command = [sys.executable, "-m", "tagmask.cli", "run", "cam", str(folder), "--out", str(out), *OPTIONS]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, **quiet)


def content(out):
    kept = [*(out / "masks").rglob("*.png"), out / "model.safetensors"]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in kept}


@pytest.mark.slow
def test_a_run_killed_ten_times_ends_with_the_same_bytes(tmp_path):
    folder = make_toy(tmp_path / "toy", images=40, size=64, seed=5)
    begun = time.monotonic()
    assert start(folder, tmp_path / "whole").wait() == 0
    length = time.monotonic() - begun
    scores = json.loads((tmp_path / "whole" / "metrics.json").read_text())["val"]
    moments, killed, tries = random.Random(0), 0, 0
    while killed < KILLS:
        out, tries = tmp_path / f"killed-{tries}", tries + 1
        done = False
        while not done:
            process = start(folder, out)
            try:
                done = process.wait(timeout=length * moments.uniform(0.2, 0.6) if killed < KILLS else None) == 0
                assert done
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed += 1
        assert content(out) == content(tmp_path / "whole")
        assert json.loads((out / "metrics.json").read_text())["val"] == scores
        nothing_was_done_twice(out)


def nothing_was_done_twice(out):
    for ledger in (out / ".store" / "costs").iterdir():
        keys = [json.loads(line)[0] for line in ledger.read_text().splitlines() if line.endswith("]")]
        assert len(keys) == len(set(keys)), f"images of {ledger.stem} were computed twice"
