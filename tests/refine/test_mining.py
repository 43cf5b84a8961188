"""Mining and masking pixel by pixel, and what neither may touch."""

import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tagmask.errors import OptionError
from tagmask.refine.mining import masked_labels, mined_labels, mining_threshold
from tagmask.types import Activation, LabelMap

few = settings(deadline=None, max_examples=80)


@st.composite
def photos(draw):
    """Labels of up to three classes with 255, and maps in tenths, so that ties are common; some maps are 0."""
    classes = tuple(sorted(draw(st.sets(st.integers(1, 254), max_size=3))))
    size = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    labels = random.choice([0, 0, 255, *classes], size=size).astype(np.uint8)
    maps = random.integers(0, 11, (len(classes), *size)) * random.choice([0, 1, 1, 1], size=(len(classes), 1, 1))
    return LabelMap(labels), Activation((maps / 10).astype(np.float32), classes)


def cut_by_hand(values, labels, klass):
    """The threshold of one class from two lists of pixels."""
    inside = [value for value, label in zip(values, labels, strict=True) if label == klass]
    if sum(inside) > 0:
        return median(inside)
    high = [value for value in values if value > np.float32(0.3)]
    higher = [value for value in high if value > median(high)]
    return median(higher) if higher else 1.0


def median(values):
    return np.float32(statistics.median(values))


def small(labels, share):
    objects = sum(1 <= label <= 254 for label in labels)
    return [255] * len(labels) if objects < share * len(labels) else labels


@few
@given(photos(), st.sampled_from(["unknown", "class"]), st.sampled_from([0.0, 0.5]), st.sampled_from([0.01, 0.3]))
def test_mining_pixel_by_pixel(photo, mined, threshold, smallest):
    labels, activation = photo
    found = mined_labels(labels, activation, mined=mined, threshold=threshold, smallest=smallest).labels
    flat, expected = labels.labels.ravel().tolist(), []
    rows = [plane.ravel().tolist() for plane in activation.maps]
    cuts = [threshold or cut_by_hand(row, flat, c) for row, c in zip(rows, activation.classes, strict=True)]
    for place, label in enumerate(flat):
        above = [k for k in range(len(rows)) if rows[k][place] > cuts[k]]
        if label == 0 and above:
            best = max(above, key=lambda k: (rows[k][place], -k))
            label = 255 if mined == "unknown" else activation.classes[best]
        expected.append(label)
    if activation.classes:
        expected = small(expected, smallest)
    assert found.ravel().tolist() == expected


@few
@given(photos())
def test_mining_only_takes_background_away(photo):
    labels, activation = photo
    found = mined_labels(labels, activation, smallest=0.0).labels
    changed = found != labels.labels
    assert set(labels.labels[changed]) <= {0}
    assert set(found[changed]) <= {255}


def test_the_thresholds_by_hand():
    values = np.array([[0.1, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]], dtype=np.float32)
    inside = np.array([[0, 1, 1, 1, 0, 0, 0, 0]], dtype=bool)
    assert mining_threshold(values, inside) == pytest.approx(0.4)
    nowhere = np.zeros_like(inside)
    # Above 0.3 lie 0.4 .. 0.9, their median is 0.65; above that 0.7, 0.8, 0.9 with median 0.8.
    assert mining_threshold(values, nowhere) == pytest.approx(0.8)
    assert mining_threshold(values, nowhere, floor=0.65) == pytest.approx(0.9)
    assert mining_threshold(values, nowhere, floor=0.9) == 1.0
    assert mining_threshold(np.zeros_like(values), inside) == 1.0


def test_a_photo_without_tags_is_left_alone_and_nonsense_refused():
    nothing = Activation(np.zeros((0, 2, 2), dtype=np.float32), ())
    ground = LabelMap(np.zeros((2, 2), dtype=np.uint8))
    assert mined_labels(ground, nothing) is ground
    with pytest.raises(OptionError, match="expected unknown or class"):
        mined_labels(ground, nothing, mined="all")


def masked_by_hand(predicted, known, tags, masking, saliency, dilation, smallest):
    """Every pixel asks the square of pixels around it: 15 before it and 14 after it, with a dilation of 30."""
    height, width = predicted.shape
    out = predicted.copy()
    if tags > 1 and masking:
        for y, x in np.ndindex(height, width):
            if predicted[y, x] == 0 and 1 <= known[y, x] <= 254:
                out[y, x] = known[y, x]
        objects = [
            (y, x) for y, x in np.ndindex(height, width) if out[y, x] or (saliency is not None and saliency[y, x])
        ]
        before, after = (dilation // 2, dilation - 1 - dilation // 2) if dilation else (0, 0)
        for y, x in np.ndindex(height, width):
            if not any(-before <= v - y <= after and -before <= u - x <= after for v, u in objects):
                out[y, x] = 255
    return np.array(small(out.ravel().tolist(), smallest), dtype=np.uint8).reshape(out.shape)


@few
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)), st.integers(0, 10_000), st.integers(1, 3), st.booleans(),
    st.integers(0, 6), st.sampled_from([0.01, 0.2]),
)  # fmt: skip
def test_masking_pixel_by_pixel(size, seed, tags, salient, dilation, smallest):
    random = np.random.default_rng(seed)
    predicted = random.choice([0, 0, 0, 0, 0, 3, 7], size=size).astype(np.uint8)
    known = random.choice([0, 0, 0, 0, 0, 255, 3, 7], size=size).astype(np.uint8)
    saliency = random.choice([0, 0, 0, 0, 0, 0.2], size=size) if salient else None
    for masking in (True, False):
        found = masked_labels(
            LabelMap(predicted), LabelMap(known), tags=tags, masking=masking, saliency=saliency, dilation=dilation,
            smallest=smallest,
        )  # fmt: skip
        expected = masked_by_hand(predicted, known, tags, masking, saliency, dilation, smallest)
        np.testing.assert_array_equal(found.labels, expected)


def test_masking_six_by_six():
    predicted, known = np.zeros((2, 6, 6), dtype=np.uint8)
    predicted[0, 0] = 1
    known[0, :2], known[5, 5], known[3, 3] = 2, 2, 255  # the first is predicted otherwise, the second unknown to be
    found = masked_labels(LabelMap(predicted), LabelMap(known), tags=2, dilation=3).labels
    assert found.tolist() == [
        [1, 2, 0, 255, 255, 255],
        [0, 0, 0, 255, 255, 255],
        [255] * 6,
        [255] * 6,
        [255, 255, 255, 255, 0, 0],
        [255, 255, 255, 255, 0, 2],
    ]
    saliency = np.zeros((6, 6))
    saliency[3, 0] = 0.01
    found = masked_labels(LabelMap(predicted), LabelMap(known), tags=2, dilation=3, saliency=saliency).labels
    assert found[2:5].tolist() == [[0, 0, 255, 255, 255, 255], [0, 0, 255, 255, 255, 255], [0, 0, 255, 255, 0, 0]]
    np.testing.assert_array_equal(masked_labels(LabelMap(predicted), LabelMap(known), tags=1).labels, predicted)
    assert not masked_labels(LabelMap(predicted), LabelMap(known), tags=0).labels.any()
    nothing = LabelMap(np.zeros((6, 6), dtype=np.uint8))
    assert (masked_labels(nothing, nothing, tags=1).labels == 255).all()
