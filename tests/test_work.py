"""Results on disk: computed once, resumed by the image, found again by what they depend on."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tagmask.cost import Ledger
from tagmask.data.photos import PerImage
from tagmask.files import read_json, write_json
from tagmask.keys import digest, plain
from tagmask.nets.backbones import build_backbone
from tagmask.nets.classifier import Classifier
from tagmask.nets.storage import load_network, save_network
from tagmask.types import Activation, LabelMap, Photo
from tagmask.work import Results
from tests.conftest import TINY

CALLS: list[str] = []


@pytest.fixture(autouse=True)
def no_calls():
    CALLS.clear()


def brightness(photo: Photo, *, above: int) -> LabelMap:
    CALLS.append(photo.name)
    return LabelMap((photo.pixels.mean(axis=2) > above).astype(np.uint8))


def inverted(labels: LabelMap, photo: Photo) -> LabelMap:
    return LabelMap((1 - labels.labels).astype(np.uint8))


def ramp(photo: Photo) -> Activation:
    height, width = photo.size
    return Activation(np.linspace(0, 1, height * width, dtype=np.float32).reshape(1, height, width), classes=(1,))


def fails_at_the_fifth(photo: Photo) -> LabelMap:
    CALLS.append(photo.name)
    if len(CALLS) == 5:
        raise RuntimeError("the power is gone")
    return LabelMap(np.zeros(photo.size, dtype=np.uint8))


def mean_of(results: Results) -> dict:
    CALLS.append("mean")
    return {"mean": float(np.mean([results[name].labels.mean() for name in results.names]))}


def test_each_is_computed_once_and_lies_under_a_name_one_can_open(work, toy):
    first = work.each("bright", brightness, toy.train, above=100)
    assert sorted(CALLS) == sorted(sample.name for sample in toy.train)
    again = work.each("bright", brightness, toy.train, above=100)
    assert len(CALLS) == len(toy.train)
    assert first.key == again.key
    shown = {path.stem for path in (work.out / "bright").glob("*.png")}
    assert shown == set(first.names)
    assert work.costs[-1].reused == len(toy.train)
    assert work.costs[-1].seconds == pytest.approx(work.costs[0].seconds)


def test_other_options_are_other_results_and_the_folder_shows_the_latest(work, toy):
    low = work.each("bright", brightness, toy.train, above=10)
    high = work.each("bright", brightness, toy.train, above=250)
    assert low.key != high.key
    name = low.names[0]
    assert low[name].labels.mean() > high[name].labels.mean()
    shown = (work.out / "bright" / f"{name}.png").read_bytes()
    assert shown == high._path(high.key_of(name)).read_bytes()


def test_a_stage_of_another_name_finds_the_results(work, toy):
    one = work.each("one", brightness, toy.train, above=90)
    other = work.each("other", brightness, toy.train, above=90)
    assert one.key == other.key
    assert len(CALLS) == len(toy.train)


def test_a_change_of_one_image_recomputes_that_image(work, toy, tmp_path):
    copies = []
    for sample in toy.train:
        copy = tmp_path / sample.image.name
        copy.write_bytes(sample.image.read_bytes())
        copies.append(replace(sample, image=copy))
    work.each("bright", brightness, tuple(copies), above=90)
    CALLS.clear()
    copies[2].image.write_bytes(copies[3].image.read_bytes())
    work.each("bright", brightness, tuple(copies), above=90)
    assert [copies[2].name] == CALLS


def test_a_stage_that_dies_goes_on_where_it_stopped(work, toy):
    with pytest.raises(RuntimeError, match="power"):
        work.each("zero", fails_at_the_fifth, toy.train)
    done = {path.name for path in (work.store / "objects").rglob("*.png")}
    assert 4 <= len(done) < len(toy.train)  # what others had begun may be finished
    assert not [path for path in work.store.rglob(".*") if path.is_file()]  # nothing half-written stays
    CALLS.extend(["x"] * 10)  # the next call is not the fifth
    before = len(CALLS)
    work.each("zero", fails_at_the_fifth, toy.train)
    assert len(CALLS) - before == len(toy.train) - len(done)


def test_stages_follow_their_inputs(work, toy):
    for above in (60, 200):
        labels = work.each("bright", brightness, toy.train, above=above)
        other = work.each("inverted", inverted, labels, toy.train)
        for name in other.names:
            np.testing.assert_array_equal(other[name].labels, 1 - labels[name].labels)


def test_once_keeps_a_value_and_recomputes_when_an_input_changes(work, toy):
    values = []
    for above in (60, 60, 200):
        labels = work.each("bright", brightness, toy.train, above=above)
        CALLS.clear()
        values.append(work.once("mean", mean_of, labels)["mean"])
        assert ([] if len(values) == 2 else ["mean"]) == CALLS
    assert values[0] == values[1] > values[2]
    assert json.loads((work.out / "mean" / "value.json").read_text())["mean"] == values[2]


def test_activations_survive_the_disk_to_half_precision(work, toy):
    maps = work.each("ramp", ramp, toy.train)
    expected = np.linspace(0, 1, 48 * 48, dtype=np.float32).reshape(1, 48, 48)
    np.testing.assert_allclose(maps[maps.names[0]].maps, expected, atol=2**-11)


def test_two_runs_share_a_store(work, toy, tmp_path):
    work.each("bright", brightness, toy.train, above=100)
    other = replace(work, out=tmp_path / "other", costs=[])
    CALLS.clear()
    results = other.each("bright", brightness, toy.train, above=100)
    assert CALLS == []
    assert (other.out / "bright" / f"{results.names[0]}.png").exists()


def test_a_function_must_say_what_it_returns(work, toy):
    def silent(photo):
        return None

    with pytest.raises(ValueError, match="must say that it returns one of: Activation, LabelMap"):
        work.each("silent", silent, toy.train)


def test_a_ledger_with_a_torn_line_still_adds_up(tmp_path):
    ledger = Ledger(tmp_path / "costs.jsonl")
    with ledger.open():
        ledger.add("a", 1.5, 100.0, 0.25)
        ledger.add("b", 0.5, 300.0, 0.0)
        ledger.add("c", 9.0, 900.0, 1.0)
    with ledger.path.open("a") as file:
        file.write('["d", 1.')
    assert ledger.total(["a", "b", "d"]) == (2.0, 300.0, 0.25)


def test_keys_tell_values_apart():
    assert digest(plain((1, 2))) == digest(plain([1, 2]))
    assert digest(plain(1)) != digest(plain(1.5))
    assert plain(brightness).endswith("test_work.brightness#1")
    with pytest.raises(TypeError, match="cannot be part of a key"):
        plain(object())


def test_idle_cores_are_waiting_and_busy_ones_are_not(work, toy, monkeypatch):
    clock = {"wall": 0.0, "cpu": 0.0}
    monkeypatch.setattr("tagmask.cost.time.monotonic", lambda: clock["wall"])
    monkeypatch.setattr("tagmask.cost.time.process_time", lambda: clock["cpu"])

    def tick(photo: Photo, cpu: float) -> dict:
        clock["wall"] += 2.0
        clock["cpu"] += cpu
        return {}

    few = toy.train[:3]
    work.each("busy", tick, few, 2.0)
    work.each("half idle", tick, few, 1.0)
    assert [cost.waited for cost in work.costs] == pytest.approx([0.0, 3.0])


class Shades(PerImage[float]):
    """One number an image in one file of its own, and a network beside."""

    def __init__(self, shades, network, key=""):
        super().__init__(list(shades))
        self.shades, self.network, self._key = shades, network, key

    def key_of(self, name):
        return digest([self._key, name])

    def __getitem__(self, name):
        return self.shades[name]

    def save(self, folder):
        write_json(folder / "shades.json", self.shades)
        save_network(self.network, folder)

    @classmethod
    def load(cls, folder, *, device, key):
        return cls(read_json(folder / "shades.json"), load_network(folder, device=device), key)


def shades_of(photos, *, plus: float) -> Shades:
    CALLS.append("shades")
    shades = {name: float(photos[name].pixels.mean()) + plus for name in photos.names}
    return Shades(shades, Classifier(build_backbone(TINY), classes=2).eval())


def darker_than(shade: float, photo: Photo) -> LabelMap:
    CALLS.append(photo.name)
    return LabelMap((photo.pixels.mean(axis=2) < shade).astype(np.uint8))


def logit(network: Classifier, photo: Photo) -> dict:
    CALLS.append(photo.name)
    return {"weight": network.head.weight.sum().item()}


def test_a_value_that_keeps_itself_is_computed_once_and_read_image_by_image(work, toy):
    first = work.once("shades", shades_of, toy.train, plus=0.0)
    again = work.once("shades", shades_of, toy.train, plus=0.0)
    assert CALLS == ["shades"]
    assert (work.out / "shades" / "shades.json").exists()
    assert first.key == again.key
    assert [cost.reused for cost in work.costs] == [0, 1]
    labels = work.each("darker", darker_than, first, toy.train)
    name = labels.names[0]
    pixels = work.photos(toy.train)[name].pixels
    np.testing.assert_array_equal(labels[name].labels, pixels.mean(axis=2) < pixels.mean())
    CALLS.clear()
    work.each("darker", darker_than, again, toy.train)
    assert CALLS == []
    other = work.once("shades", shades_of, toy.train, plus=40.0)
    work.each("darker", darker_than, other, toy.train)
    assert len(CALLS) == 1 + len(toy.train)


def test_a_network_within_such_a_value_has_its_key(work, toy):
    first = work.once("shades", shades_of, toy.train, plus=0.0)
    work.each("logit", logit, first.network, toy.train)
    CALLS.clear()
    again = work.once("shades", shades_of, toy.train, plus=0.0)
    assert again.network is not first.network
    work.each("logit", logit, again.network, toy.train)
    assert CALLS == []
    other = work.once("shades", shades_of, toy.train, plus=1.0)
    work.each("logit", logit, other.network, toy.train)
    assert len(CALLS) == 1 + len(toy.train)
