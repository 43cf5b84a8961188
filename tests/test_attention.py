"""Attention gathered over epochs: every rule against loops over cells, and the file that survives a kill."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tagmask.attention import EPSILON, Accumulated, AttentionMemory, Rule, among_top, attention, updated, wiped
from tagmask.errors import OptionError
from tagmask.nets.backbones import build_backbone
from tagmask.nets.classifier import Classifier
from tests.conftest import TINY

one = np.float32


def draw_maps(seed, shape):
    """Raw maps with negative values, an exact zero map now and then, and flat ones."""
    random = np.random.default_rng(seed)
    maps = random.normal(size=shape).astype(np.float32)
    maps[random.random(shape[0]) < 0.2] = random.choice([-1, 0, 2])
    return maps


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 4), st.integers(1, 7), st.integers(1, 7), st.sampled_from(["max", "min-max"]), st.integers(0, 99))
def test_attention_cell_by_cell(classes, height, width, scale, seed):
    maps = draw_maps(seed, (classes, height, width))
    found = attention(maps, scale)
    assert found.dtype == np.float32
    assert found.shape == maps.shape
    for k in range(classes):
        cells = [max(0.0, float(maps[k, y, x])) for y, x in np.ndindex(height, width)]
        low = min(cells) if scale == "min-max" else 0.0
        expected = [(cell - low) / (max(cells) - low + EPSILON) for cell in cells]
        np.testing.assert_allclose(found[k].ravel(), expected, atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=9), st.data())
def test_a_rank_is_how_many_are_better(values, data):
    scores = np.array(values, dtype=np.float32)
    chosen = data.draw(st.lists(st.integers(0, len(values) - 1), unique=True))
    found = among_top(scores, chosen)
    for c, passed in zip(chosen, found, strict=True):
        assert passed == (sum(other > scores[c] for other in scores) < len(chosen))


class Naive:
    """The pseudo code of the paper for one photo and tag, on lists of cells; halves where the file has halves."""

    def __init__(self, rule, least=0.0):
        self.least = least
        self.rule, self.seen, self.taken, self.kept, self.last = rule, 0, 0, None, None

    def see(self, raw, rank, tags):
        positive = [max(one(0), cell) for cell in raw]
        now = self.stretched(positive) if self.rule.scale == "min-max" else self.scaled(positive)
        probability = 1 / (1 + np.exp(-np.mean(raw, dtype=np.float64)))
        if self.seen >= self.rule.start and (rank < tags or not self.rule.ranked) and probability >= self.least:
            if self.taken == 0:
                new = now
            elif self.rule.update == "ave":
                new = [
                    (self.taken * old + cell) / one(self.taken + 1) for old, cell in zip(self.kept, now, strict=True)
                ]
            else:
                before = self.stretched(self.kept) if self.rule.scale == "min-max" else self.kept
                new = [max(old, cell) for old, cell in zip(before, now, strict=True)]
            self.taken, self.last = self.taken + 1, now
            self.kept = [one(np.float16(cell)) for cell in new]
        elif self.taken == 0:
            self.kept = [one(np.float16(cell)) for cell in now]
        self.seen += 1

    def scaled(self, cells):
        return [cell / (max(cells) + one(EPSILON)) for cell in cells]

    def stretched(self, cells):
        return [(cell - min(cells)) / (max(cells) - min(cells) + one(EPSILON)) for cell in cells]


RULES = [
    Rule(update=update, scale=scale, ranked=ranked, drop_rate=drop, start=start)
    for (update, scale, ranked), (drop, start) in zip(
        itertools.product(["max", "ave"], ["max", "min-max"], [True, False]),
        itertools.cycle([(0, 1), (0.5, 2), (0, 0)]),
    )
]


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_what_is_gathered_follows_the_pseudo_code(rule, seed, tmp_path):
    least = (0.0, 0.5, 0.6)[seed]
    random = np.random.default_rng(seed)
    tags = [(1, 4), (), (2,), (1, 2, 3, 5)]
    memory = AttentionMemory(tmp_path / "maps.npy", tags, (3, 4), rule, least)
    naive = {(photo, tag): Naive(rule, least) for photo, its in enumerate(tags) for tag in its}
    for turn in range(40):
        photo = int(random.integers(len(tags)))
        maps = draw_maps([seed, turn], (5, 3, 4))
        memory.see(photo, maps)
        means = maps.mean(axis=(1, 2))
        for tag in tags[photo]:
            rank = sum(mean > means[tag - 1] for mean in means)
            naive[photo, tag].see(list(maps[tag - 1].ravel()), rank, len(tags[photo]))
    for row, (photo, tag) in zip(memory.rows, [(p, t) for p, its in enumerate(tags) for t in its], strict=True):
        expected = naive[photo, tag]
        assert (row["seen"], row["taken"]) == (expected.seen, expected.taken)
        np.testing.assert_allclose(row["map"].ravel(), expected.kept, atol=2e-3)
    if rule.drop_rate:
        for photo, its in enumerate(tags):
            lasts = [naive[photo, tag].last or [0.0] * 12 for tag in its] or [[0.0] * 12]
            np.testing.assert_allclose(memory.last(photo).ravel(), np.max(lasts, axis=0), atol=1e-3)


def test_gathering_the_largest_never_falls_and_the_mean_is_the_mean():
    maps = np.random.default_rng(0).random((6, 2, 3, 3)).astype(np.float32)
    for rule, expected in ((Rule(update="max"), maps.max(axis=0)), (Rule(update="ave"), maps.mean(axis=0))):
        gathered = maps[0]
        for taken, now in enumerate(maps[1:], start=1):
            gathered = updated(gathered, np.full(2, taken, dtype=np.int32), now, rule)
        np.testing.assert_allclose(gathered, expected, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 13), st.integers(1, 13), st.integers(0, 9))
def test_what_was_attended_to_is_wiped_out_pixel_by_pixel(h, w, height, width, seed):
    random = np.random.default_rng(seed)
    last, images = random.random((2, h, w)).astype(np.float32), random.random((2, 3, height, width)).astype(np.float32)
    colour = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
    found = wiped(torch.from_numpy(images), torch.from_numpy(last), colour, 0.6).numpy()
    for b, y, x in np.ndindex(2, height, width):
        value = bilinear(last[b], (y + 0.5) * h / height - 0.5, (x + 0.5) * w / width - 0.5)
        if abs(value - 0.6) > 1e-4:
            expected = [0.1, 0.2, 0.3] if value > 0.6 else images[b, :, y, x]
            np.testing.assert_allclose(found[b, :, y, x], expected, atol=1e-6)


def bilinear(plane, y, x):
    y, x = max(0.0, y), max(0.0, x)
    top, left = int(y), int(x)
    below, right = min(top + 1, plane.shape[0] - 1), min(left + 1, plane.shape[1] - 1)
    upper = plane[top, left] * (1 - (x - left)) + plane[top, right] * (x - left)
    lower = plane[below, left] * (1 - (x - left)) + plane[below, right] * (x - left)
    return upper * (1 - (y - top)) + lower * (y - top)


def test_a_memory_goes_on_from_its_copy(tmp_path):
    def fill(memory, turns):
        for turn in turns:
            memory.see(turn % 2, draw_maps(turn, (3, 2, 5)))

    tags, rule = [(1, 3), (2,)], Rule(drop_rate=0.5)
    whole = AttentionMemory(tmp_path / "whole.npy", tags, (2, 5), rule)
    fill(whole, range(9))
    before = AttentionMemory(tmp_path / "cut.npy", tags, (2, 5), rule)
    fill(before, range(5))
    before.save(tmp_path / "copy")
    copy = (tmp_path / "copy").read_bytes()
    fill(before, range(50, 60))  # what a kill would lose
    after = AttentionMemory(tmp_path / "cut.npy", tags, (2, 5), rule)
    assert not after.rows["seen"].any()
    after.restore(tmp_path / "copy")
    fill(after, range(5, 9))
    assert after.finished().read_bytes() == whole.finished().read_bytes()
    assert (tmp_path / "copy").read_bytes() == copy


def test_accumulated_maps_on_disk_are_those_of_the_memory(tmp_path):
    tags = {"a/b": (2, 3), "negative": (), "c": (1,)}
    memory = AttentionMemory(tmp_path / "maps.npy", list(tags.values()), (2, 3), Rule(start=0, ranked=False))
    raws = {photo: draw_maps(photo, (3, 2, 3)) for photo in range(3)}
    for photo, raw in raws.items():
        memory.see(photo, raw)
    network = Classifier(build_backbone(TINY), classes=3).eval()
    (tmp_path / "kept").mkdir()
    Accumulated(network, memory.finished(), tags).save(tmp_path / "kept")
    memory.path.unlink()
    opened = Accumulated.load(tmp_path / "kept", device="cpu", key="k")
    other = Accumulated.load(tmp_path / "kept", device="cpu", key="other")
    assert opened.names == list(tags)
    for photo, (name, its) in enumerate(tags.items()):
        assert opened[name].classes == its
        expected = attention(raws[photo][[tag - 1 for tag in its]])
        np.testing.assert_allclose(opened[name].maps, expected, atol=1e-3)
        assert opened.key_of(name) != other.key_of(name)
    assert len({opened.key_of(name) for name in opened.names}) == 3
    image = torch.rand(1, 3, 40, 40)
    assert torch.equal(network(image), opened.network(image))


@pytest.mark.parametrize("wrong", [{"update": "min"}, {"scale": "sum"}, {"drop_rate": 1.5}, {"drop_threshold": 2.0}])
def test_nonsense_rules_are_refused(wrong):
    with pytest.raises(OptionError, match=f"{next(iter(wrong))} is .*; expected"):
        Rule(**wrong)
