"""What instances teach the feature network, its training, and the features that it gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tagmask.data.photos import Photos, Truth
from tagmask.embedding import InstanceViews, crop, embedded, fit_embedding, taught_by
from tagmask.errors import DataError, OptionError
from tagmask.files import KINDS
from tagmask.fit import Schedule
from tagmask.nets.backbones import build_backbone
from tagmask.nets.embedding import EmbeddingNet
from tagmask.nets.storage import load_network, save_network
from tagmask.progress import Narrator
from tagmask.refine.boxes import box_of
from tagmask.refine.similarity import neighbour_graph
from tagmask.work import Job
from tests.conftest import TINY
from tests.test_regions import Each


def told(tags, boxes, scores):
    return {"tags": tags, "boxes": boxes, "scores": scores}


def test_labels_are_what_attention_sees_most_of_photos_with_one_tag_first():
    by_name = {
        "one": told([3], [[0, 0, 4, 4], [1, 1, 3, 3]], [[0.1], [0.9]]),
        "two": told([2, 5], [[0, 0, 2, 2], [2, 2, 4, 4]], [[0.3, 0.4], [0.5, 0.5]]),
        "negative": told([], [[0, 0, 1, 1]], [[]]),
        "nothing": told([1], [], []),
    }
    attention = Each(list(by_name), by_name.__getitem__)
    names, boxes, labels = taught_by(attention, single=False)
    assert names == ["one", "one", "two", "two"]
    assert boxes.tolist() == [[0, 0, 4, 4], [1, 1, 3, 3], [0, 0, 2, 2], [2, 2, 4, 4]]
    assert labels.tolist() == [2, 2, 4, 1]
    assert taught_by(attention, single=True)[2].tolist() == [2, 2]
    several = Each(["two", "negative", "nothing"], by_name.__getitem__)
    assert taught_by(several, single=True)[2].tolist() == [4, 1]  # where no photo has one tag, all teach
    assert taught_by(Each(["negative", "nothing"], by_name.__getitem__), single=False)[0] == []


def test_views_are_what_lies_in_the_box(toy):
    photos = Photos(toy.train)
    name = photos.names[0]
    views = InstanceViews(photos, [name], np.array([[4, 10, 20, 40]]), np.array([3]), side=16)
    seen = [views.example(0, np.random.default_rng(seed)) for seed in range(8)]
    expected = crop(photos[name].pixels, (4, 10, 20, 40), 16).transpose(2, 0, 1)
    ways = {np.array_equal(image, expected): image for image, _ in seen}
    assert set(ways) == {True, False}
    np.testing.assert_array_equal(ways[False], expected[:, :, ::-1])
    assert {int(label) for _, label in seen} == {3}
    assert (seen[0][0] == views.example(0, np.random.default_rng(0))[0]).all()


@pytest.fixture
def objects(toy):
    """Every true object of a class in the toy photos, as attention would tell of them."""
    truth = Truth(toy.train, classes=6)

    def tell(name):
        tags = [int(c) for c in np.unique(truth[name].labels) if 0 < c < 255]
        boxes = [list(box_of(truth[name].labels == c)) for c in tags]
        return told(tags, boxes, [[float(c == k) for k in tags] for c in tags])

    return Each([sample.name for sample in toy.train], tell)


LEARN = {
    "classes": 5, "width": 16, "side": 40, "single": False, "pull": 0.1, "move": 0.5, "cosine": True, "seed": 0,
}  # fmt: skip


def trained(toy, objects, folder, start=None, epochs=1.0, **changes):
    folder.mkdir(exist_ok=True)
    job = Job(folder, "cpu", "32-true", Narrator(quiet=True), "features")
    schedule = Schedule(epochs=epochs, batch=8, rate=0.01)
    return fit_embedding(Photos(toy.train), objects, TINY, start, schedule=schedule, job=job, **{**LEARN, **changes})


def state(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("cosine", [True, False])
def test_objects_of_a_class_become_alike(toy, objects, tmp_path, cosine):
    network = trained(toy, objects, tmp_path / "a", epochs=25.0, cosine=cosine)
    photos = Photos(toy.train)
    rows = [embedded(network, photos[name], objects[name], side=40) for name in photos.names]
    kinds = np.concatenate([objects[name]["tags"] for name in photos.names])
    features = np.concatenate(rows)
    assert features.dtype == np.float32
    graph = neighbour_graph(features, 3).tocoo()
    assert (kinds[graph.row] == kinds[graph.col]).mean() > 1.5 * np.mean(kinds[:, None] == kinds)
    known = [c for c in range(5) if (kinds == c + 1).any()]
    lengths = network.centres.norm(dim=1)
    assert all(lengths[c] > 0 for c in known)
    assert not cosine or all(lengths[c] == pytest.approx(1) for c in known)


def test_centres_are_kept_with_the_checkpoint(toy, objects, tmp_path, monkeypatch):
    whole = state(trained(toy, objects, tmp_path / "whole", epochs=3.0))
    seen = []

    def stop(self, x):
        seen.append(1)
        if len(seen) == 5:
            raise KeyboardInterrupt
        return forward(self, x)

    forward = EmbeddingNet.forward
    monkeypatch.setattr(EmbeddingNet, "forward", stop)
    with pytest.raises(KeyboardInterrupt):
        trained(toy, objects, tmp_path / "cut", epochs=3.0)
    monkeypatch.setattr(EmbeddingNet, "forward", forward)
    assert (tmp_path / "cut" / "checkpoint.safetensors").exists()
    again = state(trained(toy, objects, tmp_path / "cut", epochs=3.0))
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert whole["centres"].any()


def test_training_goes_on_from_a_network_and_each_choice_matters(toy, objects, tmp_path):
    first = trained(toy, objects, tmp_path / "first")
    before = state(first)
    results = [
        state(trained(toy, objects, tmp_path / f"{number}", **changes))
        for number, changes in enumerate(
            [
                {},
                {"start": first},
                {"pull": 1.0},
                {"move": 0.1, "pull": 1.0},
                {"cosine": False, "pull": 1.0},
                {"single": True},
            ]
        )
    ]
    assert all(torch.equal(before[name], state(first)[name]) for name in before)
    assert all(torch.equal(before[name], results[0][name]) for name in before)
    for number, one in enumerate(results):
        for other in results[number + 1 :]:
            assert not torch.equal(one["embed.weight"], other["embed.weight"])


def test_nothing_to_learn_from(toy, objects, tmp_path):
    empty = Each(objects.names, lambda name: told([1], [], []))
    with pytest.raises(DataError, match="no photo with a tag has an instance"):
        trained(toy, empty, tmp_path / "a")
    with pytest.raises(OptionError, match="width of features is 0"):
        EmbeddingNet(build_backbone(TINY), 3, width=0)


def test_features_of_many_instances_and_of_none(toy):
    photo = Photos(toy.train)[toy.train[0].name]
    network = EmbeddingNet(build_backbone(TINY), 5, width=8).eval()
    boxes = [[n, n, n + 9, n + 5] for n in range(20)]
    rows = embedded(network, photo, told([1], boxes, []), side=32)
    assert rows.shape == (20, 8)
    for n in (0, 17):
        image = torch.from_numpy(crop(photo.pixels, boxes[n], 32).transpose(2, 0, 1)[None].copy()).float() / 255
        np.testing.assert_allclose(rows[n], network(image)[0].detach().numpy(), atol=1e-4)
    assert embedded(network, photo, told([1], [], []), side=32).shape == (0, 8)


def test_the_network_on_disk(tmp_path):
    network = EmbeddingNet(build_backbone(TINY), 5, width=8).eval()
    network.centres.uniform_()
    save_network(network, tmp_path)
    again = load_network(tmp_path)
    assert torch.equal(again.centres, network.centres)
    images = torch.rand(2, 3, 40, 40)
    assert torch.equal(again(images), network(images))


def test_arrays_on_disk(tmp_path):
    suffix, write, read = KINDS[np.ndarray]
    value = np.random.default_rng(0).random((3, 4)).astype(np.float32)
    write(tmp_path / f"a{suffix}", value)
    np.testing.assert_array_equal(read(tmp_path / f"a{suffix}"), value)
    assert read(tmp_path / f"a{suffix}").dtype == np.float32
