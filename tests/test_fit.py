"""The training loop: its schedule, its stream of examples, and that a kill leaves no trace."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tagmask.errors import OptionError, RunError
from tagmask.fit import Schedule, _Positions, _Stream, fit
from tagmask.progress import Narrator
from tagmask.work import Job


class Noise:
    """Ten examples; what is drawn depends on the given random numbers alone."""

    def __len__(self):
        return 10

    def example(self, index, random):
        return random.normal(size=4).astype(np.float32), np.float32([index])


def network():
    torch.manual_seed(1)
    made = nn.Module()
    made.trunk = nn.Linear(4, 8)
    made.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 1))
    made.forward = lambda x: made.head(made.trunk(x))
    return made


def squares(net, x, y):
    return {"squares": (net(x) - y).square().mean() / 10}


def job(folder):
    folder.mkdir(exist_ok=True)
    return Job(folder, "cpu", "32-true", Narrator(quiet=True), "test")


def state(net):
    return {name: tensor.numpy().tobytes() for name, tensor in net.state_dict().items()}


def test_learns(tmp_path):
    schedule = Schedule(epochs=60, batch=5, rate=0.01)
    fit(network(), Noise(), squares, schedule, seed=0, job=job(tmp_path / "a"))
    curve = [json.loads(line) for line in (tmp_path / "a" / "curve.jsonl").read_text().splitlines()]
    assert np.mean([p["loss"] for p in curve[-20:]]) < 0.6 * curve[0]["loss"]


@pytest.mark.parametrize("adam", [False, True])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("stop", [1, 7, 19])
def test_a_run_cut_short_ends_with_the_same_bytes(tmp_path, stop, accumulate, adam):
    schedule = Schedule(epochs=8, batch=4, rate=0.02, accumulate=accumulate)
    whole = fit(network(), Noise(), squares, schedule, seed=5, job=job(tmp_path / "whole"), adam=adam)
    calls = 0

    def power_cut(net, x, y):
        nonlocal calls
        calls += 1
        if calls == stop:
            raise KeyboardInterrupt
        return squares(net, x, y)

    cut = job(tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        fit(network(), Noise(), power_cut, schedule, seed=5, job=cut, adam=adam)
    resumed = fit(network(), Noise(), squares, schedule, seed=5, job=cut, adam=adam)
    assert state(resumed) == state(whole)
    points = [json.loads(line)["step"] for line in (cut.folder / "curve.jsonl").read_text().splitlines()]
    assert points == sorted(set(points))


def test_a_training_that_ends_early_is_the_beginning_of_the_whole(tmp_path):
    schedule, passed = Schedule(epochs=8, batch=4, rate=0.02, policy="step"), []

    def watched(net, x, y):
        passed.append(state(net))
        return squares(net, x, y)

    fit(network(), Noise(), watched, schedule, seed=5, job=job(tmp_path / "whole"))
    for until, step in ((0.5, 10), (0.01, 1)):
        early = fit(network(), Noise(), squares, schedule, seed=5, job=job(tmp_path / str(until)), until=until)
        assert state(early) == passed[step]


def test_what_has_no_gradient_is_noted_and_not_minimised(tmp_path):
    def noting(net, x, y):
        return {**squares(net, x, y), "seen": torch.tensor(0.25), "odd": torch.tensor(float("nan"))}

    schedule = Schedule(epochs=2, batch=5, rate=0.01)
    plain = fit(network(), Noise(), squares, schedule, seed=0, job=job(tmp_path / "plain"))
    noted = fit(network(), Noise(), noting, schedule, seed=0, job=job(tmp_path / "noted"))
    assert state(noted) == state(plain)
    curve = [json.loads(line) for line in (tmp_path / "noted" / "curve.jsonl").read_text().splitlines()]
    assert all(point["seen"] == 0.25 and point["loss"] == point["squares"] for point in curve)


def test_adam_takes_steps_of_the_rate_whatever_the_gradient(tmp_path):
    before = state(network())
    schedule = Schedule(epochs=1, batch=1, rate=0.01, steps=1, head_rate=3.0, weight_decay=0.0)
    fit(network(), Noise(), squares, schedule, seed=0, job=job(tmp_path / "a"), adam=True)
    trained = fit(network(), Noise(), squares, schedule, seed=0, job=job(tmp_path / "b"), adam=True)
    for name, rate in (("trunk.weight", 0.01), ("head.1.weight", 0.03)):
        moved = np.abs(np.frombuffer(state(trained)[name], np.float32) - np.frombuffer(before[name], np.float32))
        assert moved.max() == pytest.approx(rate, rel=1e-3)


def test_no_finished_epoch_is_computed_twice(tmp_path):
    schedule, steps = Schedule(epochs=6, batch=5, rate=0.01), []

    def counted(net, x, y):
        steps.append(1)
        if len(steps) == 8:  # in the fourth epoch of two steps
            raise KeyboardInterrupt
        return squares(net, x, y)

    cut = job(tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        fit(network(), Noise(), counted, schedule, seed=5, job=cut)
    fit(network(), Noise(), counted, schedule, seed=5, job=cut)
    assert len(steps) <= 12 + 2  # at most the epoch that was cut is seen again


def test_mixed_precision_learns_too(tmp_path):
    mixed = replace(job(tmp_path / "a"), precision="bf16-mixed")
    net = fit(network(), Noise(), squares, Schedule(epochs=20, batch=5, rate=0.01), seed=0, job=mixed)
    assert all(parameter.dtype == torch.float32 for parameter in net.parameters())
    curve = [json.loads(line)["loss"] for line in (tmp_path / "a" / "curve.jsonl").read_text().splitlines()]
    assert np.mean(curve[-10:]) < 0.8 * curve[0]


def test_stream_shows_every_example_once_an_epoch_and_follows_the_seed():
    stream = _Stream(Noise(), batch=4, seed=2)
    seen = [int(stream[p][1][0]) for p in range(30)]
    for epoch in range(3):
        assert sorted(seen[10 * epoch : 10 * epoch + 10]) == list(range(10))
    assert seen[:10] != seen[10:20]
    np.testing.assert_array_equal(stream[13][0], _Stream(Noise(), batch=4, seed=2)[13][0])
    assert (stream[13][0] != _Stream(Noise(), batch=4, seed=3)[13][0]).any()
    assert list(_Positions(1, 3, 4)) == [[4, 5, 6, 7], [8, 9, 10, 11]]


def test_poly_and_step_rates():
    poly = Schedule(epochs=1, batch=1, rate=2.0)
    assert poly.rate_at(0, 100) == 2.0
    assert poly.rate_at(50, 100) == pytest.approx(2.0 * 0.5**0.9)
    step = Schedule(epochs=1, batch=15, rate=1e-3, policy="step")
    rates = [step.rate_at(s, 8000) for s in (0, 1999, 2000, 4000, 7999)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5, 1e-6])
    warm = Schedule(epochs=1, batch=1, rate=1.0, warm_up=0.1)
    assert warm.rate_at(0, 100) == pytest.approx(0.1)
    assert Schedule(epochs=11.3, batch=15, rate=1).length(10582) == 7972
    assert Schedule(epochs=1, batch=15, rate=1, steps=8000).length(3) == 8000


def test_biases_do_not_decay_and_heads_learn_faster(tmp_path):
    from tagmask.fit import _groups

    groups = _groups(network(), Schedule(epochs=1, batch=1, rate=1, bias_rate=2, head_rate=10, weight_decay=0.5))
    found = {(group["multiple"], group["weight_decay"], len(group["params"])) for group in groups}
    assert found == {(1.0, 0.5, 1), (2.0, 0.0, 1), (10.0, 0.5, 1), (20.0, 0.0, 1)}


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    def broken(net, x, y):
        return {"squares": squares(net, x, y)["squares"] * float("nan")}

    with pytest.raises(RunError, match="the loss became nan at step 0"):
        fit(network(), Noise(), broken, Schedule(epochs=1, batch=2, rate=1), seed=0, job=job(tmp_path / "a"))


def test_nonsense_schedules_are_refused():
    with pytest.raises(OptionError, match="poly or step"):
        Schedule(epochs=1, batch=1, rate=1, policy="cosine")
    with pytest.raises(OptionError, match="must be positive"):
        Schedule(epochs=0, batch=1, rate=1)


def test_the_job_is_told_how_long_batches_were_waited_for(tmp_path, monkeypatch):
    class Slow(Noise):
        def example(self, index, random):
            clock.append(clock[-1] + 0.25)
            return super().example(index, random)

    clock = [100.0]
    monkeypatch.setattr("tagmask.fit.time.monotonic", lambda: clock[-1])
    made = job(tmp_path / "a")
    fit(network(), Slow(), squares, Schedule(epochs=1, batch=5, rate=0.01), seed=0, job=made)
    assert made.waited == pytest.approx(10 * 0.25)


class Echo:
    """A memory that feeds back: the targets drift towards what the network said of each example before."""

    def __init__(self):
        self.said = np.zeros(10)

    def save(self, path):
        path.write_bytes(self.said.tobytes())

    def restore(self, path):
        self.said = np.frombuffer(path.read_bytes()).copy()

    def loss(self, stop=-1):
        calls = []

        def loss(net, x, y):
            answer, which = net(x), y.flatten().long().numpy()
            target = y + torch.from_numpy(self.said[which]).float()[:, None]
            self.said[which] = 0.5 * self.said[which] + 0.5 * answer.detach().flatten().numpy()
            calls.append(1)
            if len(calls) == stop:
                raise KeyboardInterrupt
            return {"squares": (answer - target).square().mean() / 10}

        return loss


@pytest.mark.parametrize("stop", [1, 7, 19])
def test_what_a_loss_remembers_is_cut_and_resumed_with_the_network(tmp_path, stop):
    schedule = Schedule(epochs=8, batch=4, rate=0.02)
    memory = Echo()
    whole = fit(network(), Noise(), memory.loss(), schedule, seed=5, job=job(tmp_path / "whole"), memory=memory)
    cut, lost, found = job(tmp_path / "cut"), Echo(), Echo()
    with pytest.raises(KeyboardInterrupt):
        fit(network(), Noise(), lost.loss(stop), schedule, seed=5, job=cut, memory=lost)
    assert len(list(cut.folder.glob("memory-*"))) == (stop > 1)  # that of the last checkpoint alone
    resumed = fit(network(), Noise(), found.loss(), schedule, seed=5, job=cut, memory=found)
    assert state(resumed) == state(whole)
    np.testing.assert_array_equal(found.said, memory.said)


def test_a_checkpoint_and_its_memory_are_of_one_step_wherever_the_kill_falls(tmp_path, monkeypatch):
    """Killed between the two files of a checkpoint, a run goes on from the one before."""
    schedule, memory = Schedule(epochs=8, batch=4, rate=0.02), Echo()
    whole = fit(network(), Noise(), memory.loss(), schedule, seed=5, job=job(tmp_path / "whole"), memory=memory)
    cut, lost, found, saved = job(tmp_path / "cut"), Echo(), Echo(), []

    def power_cut(*given, **options):
        saved.append(1)
        if len(saved) == 3:
            raise KeyboardInterrupt
        return save_file(*given, **options)

    with monkeypatch.context() as patched:
        patched.setattr("tagmask.checkpoint.save_file", power_cut)
        with pytest.raises(KeyboardInterrupt):
            fit(network(), Noise(), lost.loss(), schedule, seed=5, job=cut, memory=lost)
    assert len(list(cut.folder.glob("memory-*"))) == 2
    resumed = fit(network(), Noise(), found.loss(), schedule, seed=5, job=cut, memory=found)
    assert state(resumed) == state(whole)


@pytest.mark.parametrize("nesterov", [True, False])
def test_momentum_looks_ahead_if_asked(tmp_path, nesterov):
    net = nn.Module()
    net.trunk = nn.Linear(4, 1, bias=False)
    net.forward = lambda x: net.trunk(x)
    weight, velocity = net.trunk.weight.detach().numpy().astype(np.float64).copy(), np.zeros((1, 4))
    schedule = Schedule(epochs=1, batch=2, rate=0.05, weight_decay=0.0, momentum=0.8, nesterov=nesterov)
    stream = _Stream(Noise(), batch=2, seed=4)
    for step in range(5):
        pairs = [stream[2 * step], stream[2 * step + 1]]
        x, y = np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])
        slope = 2 * (x @ weight.T - y).T @ x / 2 / 10
        velocity = 0.8 * velocity + slope
        weight -= schedule.rate_at(step, 5) * (slope + 0.8 * velocity if nesterov else velocity)
    fit(net, Noise(), squares, schedule, seed=4, job=job(tmp_path / "a"))
    np.testing.assert_allclose(net.trunk.weight.detach().numpy(), weight, rtol=1e-4, atol=1e-5)


def test_the_rate_drops_where_it_is_told_to():
    step = Schedule(epochs=15, batch=1, rate=1.0, policy="step", drop_at=(2 / 3,))
    assert [step.rate_at(epoch, 15) for epoch in (0, 9, 10, 14)] == pytest.approx([1.0, 1.0, 0.1, 0.1])
    twice = replace(step, drop_at=(1 / 3, 2 / 3))
    assert [twice.rate_at(epoch, 15) for epoch in (4, 5, 9, 10)] == pytest.approx([1.0, 0.1, 0.1, 0.01])
