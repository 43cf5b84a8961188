"""J and F against loops written from their definition and against vos-benchmark; what becomes of them over a clip."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tagmask.data import write_mask
from tagmask.video.evaluate import score_follow
from tagmask.video.metrics import (
    ClipScores,
    ObjectScores,
    Statistics,
    boundary,
    outline,
    region,
    score_clip,
    tolerance,
)

SHAPES = st.tuples(st.integers(1, 14), st.integers(1, 14))
SHARES = st.sampled_from([0.0, 0.05, 0.5, 0.95, 1.0])


def drawn(size, share, seed):
    return np.random.default_rng(seed).random(size) < share


def looped_outline(mask):
    """The boundary of the definition: a pixel and its three neighbours, outside is 0, then the rims."""
    height, width = mask.shape
    at = lambda y, x: bool(mask[y, x]) if y < height and x < width else False  # noqa: E731
    edge = np.zeros_like(mask)
    for y, x in np.ndindex(height, width):
        edge[y, x] = any(at(y, x) != at(v, u) for v, u in ((y, x + 1), (y + 1, x), (y + 1, x + 1)))
    for x in range(width):
        edge[-1, x] = at(height - 1, x) != at(height - 1, x + 1)
    for y in range(height):
        edge[y, -1] = at(y, width - 1) != at(y + 1, width - 1)
    edge[-1, -1] = False
    return edge


def looped_boundary(prediction, truth, radius):
    """F from the distance of every boundary pixel to every other one."""
    ours, theirs = (np.argwhere(looped_outline(mask)).tolist() for mask in (prediction, truth))
    if not ours and not theirs:
        return 1.0

    def near(points, others):
        hits = [any((y - v) ** 2 + (x - u) ** 2 <= radius**2 for v, u in others) for y, x in points]
        return sum(hits) / len(hits) if hits else 1.0

    precision, recall = near(ours, theirs), near(theirs, ours)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@settings(deadline=None, max_examples=150)
@given(size=SHAPES, shares=st.tuples(SHARES, SHARES), radius=st.integers(0, 5), seed=st.integers(0, 999))
def test_a_frame_is_scored_as_the_definition_says(size, shares, radius, seed):
    prediction, truth = drawn(size, shares[0], seed), drawn(size, shares[1], seed + 1)
    np.testing.assert_array_equal(outline(prediction), looped_outline(prediction))
    assert boundary(prediction, truth, radius) == pytest.approx(looped_boundary(prediction, truth, radius), abs=1e-12)
    pairs = list(zip(prediction.ravel().tolist(), truth.ravel().tolist(), strict=True))
    union = sum(p or t for p, t in pairs)
    assert region(prediction, truth) == (sum(p and t for p, t in pairs) / union if union else 1.0)


def square(size=(120, 160), top=40, left=50, side=30, value=1):
    labels = np.zeros(size, dtype=np.uint8)
    labels[top : top + side, left : left + side] = value
    return labels


def test_identical_and_empty_masks():
    one, none = square() == 1, np.zeros((120, 160), dtype=bool)
    assert (region(one, one), boundary(one, one)) == (1, 1)
    assert (region(none, none), boundary(none, none)) == (1, 1)
    for pair in ((one, none), (none, one)):
        assert (region(*pair), boundary(*pair)) == (0, 0)
    everything = ~none  # has no boundary
    assert (region(everything, everything), boundary(everything, everything), boundary(everything, one)) == (1, 1, 0)


def test_boundaries_may_be_apart_by_the_radius():
    one = square() == 1
    reach = tolerance(one.shape)
    assert reach == 2
    assert boundary(square(left=50 + reach) == 1, one) == 1.0
    assert boundary(square(left=50 + reach + 1) == 1, one) < 1.0
    assert (tolerance((480, 854)), tolerance((360, 480)), tolerance((240, 427))) == (8, 5, 4)


def test_the_tolerance_is_a_disk_not_a_square():
    one, other = np.zeros((40, 40), dtype=bool), np.zeros((40, 40), dtype=bool)
    one[10, 10] = other[13, 13] = True  # 3 across and 3 down: within a square of 3, not within a disk of 3
    square_says = all(
        min(max(abs(y - v), abs(x - u)) for v, u in np.argwhere(outline(other))) <= 3
        for y, x in np.argwhere(outline(one))
    )
    assert square_says
    assert boundary(one, other, radius=3) < 1.0


def test_a_hole_has_a_boundary_too():
    full, ring = square(side=40) == 1, square(side=40) == 1
    ring[55:65, 65:75] = False
    assert outline(ring).sum() > outline(full).sum()
    assert boundary(ring, full) < 1.0


@pytest.mark.parametrize("count", [5, 8, 40, 300, 1000])
def test_the_decay_of_a_ramp(count):
    """The mean of the first quarter of a straight ramp less that of the last: three quarters of its height."""
    ramp = np.linspace(1, 0, count)
    found = Statistics.of(ramp)
    ids = [round(1 + k * (count - 1) / 4 + 1e-10) - 1 for k in range(5)]
    bins = [ramp[ids[k] : ids[k + 1] + 1] for k in range(4)]
    assert found.decay == pytest.approx(sum(bins[0]) / len(bins[0]) - sum(bins[3]) / len(bins[3]))
    assert found.decay == pytest.approx(0.75, abs=1 / count)
    assert found.mean == pytest.approx(0.5)
    assert found.recall == (count // 2) / count  # exactly half is not above half


def test_one_frame_is_a_clip_and_none_is_not():
    assert Statistics.of([0.7]) == Statistics(0.7, 1.0, 0.0)
    with pytest.raises(ValueError, match="no frame to sum up"):
        Statistics.of([])


def test_the_first_and_the_last_frame_do_not_count():
    right, wrong = square(), np.zeros((120, 160), dtype=np.uint8)
    assert score_clip([(wrong, right), (right, right), (right, right), (wrong, right)])[1].both == 1.0
    half = score_clip([(right, right), (wrong, right), (right, right), (right, right)])[1]
    assert half.region == half.boundary == Statistics(mean=0.5, recall=0.5, decay=-1.0)


def test_the_order_of_objects_does_not_matter():
    rng = np.random.default_rng(0)
    frames = [
        (rng.integers(0, 4, (20, 30), dtype=np.uint8), rng.integers(0, 4, (20, 30), dtype=np.uint8)) for _ in range(6)
    ]
    other = np.array([0, 3, 1, 2], dtype=np.uint8)
    plain, moved = score_clip(frames), score_clip([(other[p], other[t]) for p, t in frames])
    assert {int(other[known]): scores for known, scores in plain.items()} == moved


def test_an_object_counts_from_when_it_is_first_seen_or_from_the_start():
    nothing, there = np.zeros((120, 160), dtype=np.uint8), square()
    frames = [(nothing, nothing)] * 3 + [(there, there), (nothing, there), (there, there)]
    assert score_clip(frames)[1].region.mean == 0.5  # of two frames
    assert score_clip(frames, from_start=True)[1].region.mean == 0.75  # of four
    early = [(nothing, nothing), (there, nothing), (there, there), (there, there)]  # predicted before it is there
    assert score_clip(early)[1].region.mean == score_clip(early, from_start=True)[1].region.mean == 0.5


def test_ids_that_only_the_prediction_has_count_for_nothing():
    assert list(score_clip([(square(value=2) + square(top=80), square(top=80))] * 4)) == [1]


def test_frames_of_two_sizes_or_types_are_refused():
    scores = ClipScores()
    for other in (np.zeros((5, 4), np.uint8), np.zeros((4, 5), np.int32), np.zeros((4, 5), bool)):
        with pytest.raises(ValueError, match="uint8"):
            scores.add(np.zeros((4, 5), np.uint8), other)


def test_means():
    a, b = (ObjectScores(Statistics(x, x, x), Statistics(y, y, y)) for x, y in ((0.2, 0.4), (0.6, 1.0)))
    both = ObjectScores.mean_of([a, b])
    assert both.region == Statistics(0.4, 0.4, 0.4)
    assert both.both == pytest.approx(0.55)


def random_clip(rng, frames=5, size=(60, 80), objects=3):
    """Blobs of ids, so that boundaries are near each other but not the same."""
    for _ in range(frames):
        labels = np.zeros(size, dtype=np.uint8)
        for known in range(1, objects + 1):
            y, x, side = rng.integers(0, size[0]), rng.integers(0, size[1]), rng.integers(3, 40)
            labels[y : y + side, x : x + side] = known
        yield labels


def test_frames_are_scored_as_vos_benchmark_does():
    peer = pytest.importorskip("vos_benchmark.evaluator", reason="the peer brings another OpenCV, so no test needs it")
    rng = np.random.default_rng(1)
    for objects in (1, 3):
        frames = list(zip(random_clip(rng, 12, objects=objects), random_clip(rng, 12, objects=objects), strict=True))
        judge = peer.Evaluator()
        for prediction, truth in frames[1:-1]:
            judge.feed_frame(prediction, truth)
        theirs_j, theirs_f = judge.conclude()
        ours = score_clip(frames)
        assert set(ours) == {int(known) for known in theirs_j}
        for known, scores in ours.items():
            assert 100 * scores.region.mean == pytest.approx(theirs_j[known], abs=1e-9)
            assert 100 * scores.boundary.mean == pytest.approx(theirs_f[known], abs=1e-9)


def test_folders_are_scored_as_vos_benchmark_does(tmp_path):
    peer = pytest.importorskip("vos_benchmark.benchmark", reason="the peer brings another OpenCV, so no test needs it")
    rng = np.random.default_rng(2)
    for objects, name in ((1, "one"), (3, "three")):
        for side in ("ours", "truth"):
            (tmp_path / side / name).mkdir(parents=True)
            for number, labels in enumerate(random_clip(rng, objects=objects)):
                write_mask(tmp_path / side / name / f"{number:05}.png", labels)
    told = score_follow(tmp_path / "ours", tmp_path / "truth", quiet=True)
    judge = peer.VideoEvaluator(str(tmp_path / "truth"), str(tmp_path / "ours"))
    theirs = {name: (all_j, all_f) for name, all_j, all_f in map(judge, ("one", "three"))}
    for place, letter in enumerate("jf"):
        everything = [value for both in theirs.values() for value in both[place].values()]
        assert 100 * told["mean"][letter]["mean"] == pytest.approx(np.mean(everything), abs=1e-9)
        for name, both in theirs.items():
            found = told["clips"][name]["objects"]
            assert {int(known) for known in found} == {int(known) for known in both[place]}
            for known, value in both[place].items():
                assert 100 * found[str(known)][letter]["mean"] == pytest.approx(value, abs=1e-9)
    assert told["objects"] == 4


def test_davis_2016_masks_are_one_object(tmp_path):
    """0/255 in grey, as DAVIS 2016 has them, and 0/1 mean the same."""
    for side, value in (("ours", 1), ("truth", 255)):
        (tmp_path / side / "a").mkdir(parents=True)
        for number in range(4):
            labels = square(left=40 + number + 3 * (side == "ours"), value=value)
            Image.fromarray(labels).save(tmp_path / side / "a" / f"{number}.png")
    told = score_follow(tmp_path / "ours", tmp_path / "truth", quiet=True)
    assert list(told["clips"]["a"]["objects"]) == ["1"]
    assert told["mean"]["j"]["mean"] == pytest.approx(27 / 33)
