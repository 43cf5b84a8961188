import numpy as np
import pytest

from tagmask.data import load_data, make_toy, read_image, read_mask
from tagmask.data.toy import KINDS
from tagmask.errors import OptionError


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_same_seed_draws_the_same_bytes(tmp_path):
    first = content(make_toy(tmp_path / "a", images=6, size=40, seed=3))
    assert first == content(make_toy(tmp_path / "b", images=6, size=40, seed=3))
    assert first != content(make_toy(tmp_path / "c", images=6, size=40, seed=4))


def test_tags_are_what_the_masks_show_and_objects_have_the_promised_size(tmp_path):
    data = load_data(make_toy(tmp_path, images=60, size=64))
    assert data.classes == ("background", "disc", "square", "triangle", "ring", "cross")
    assert len(data.val) == 15
    counts = {0: 0, 1: 0, 2: 0, 3: 0}
    for sample in data.samples:
        labels = read_mask(sample.mask, len(data.classes))
        share = np.bincount(labels.ravel(), minlength=6) / labels.size
        assert tuple(np.flatnonzero(share[1:]) + 1) == sample.tags
        assert all(0.075 < share[tag] < 0.36 for tag in sample.tags)
        counts[len(sample.tags)] += 1
    assert counts[0] == round(0.08 * 60)
    assert all(counts[number] > 3 for number in (1, 2, 3))


def test_no_colour_tells_objects_from_grounds(tmp_path):
    """The best single threshold on any channel, hue included, is hardly better than saying background everywhere."""
    data = load_data(make_toy(tmp_path, images=60, size=48))
    colours = np.concatenate([read_image(sample.image).reshape(-1, 3) for sample in data.samples]).astype(float)
    inside = np.concatenate([read_mask(sample.mask, 6).ravel() > 0 for sample in data.samples])
    features = [*colours.T, colours.max(1) - colours.min(1), colours.mean(1)]
    base = max(inside.mean(), 1 - inside.mean())
    for feature in features:
        for threshold in np.quantile(feature, np.linspace(0.02, 0.98, 49)):
            right = ((feature > threshold) == inside).mean()
            assert max(right, 1 - right) < base + 0.05


def test_shapes_have_about_unit_area():
    row, column = np.mgrid[-1:1:400j, -1:1:400j]
    for kind in KINDS:
        assert 4 * (kind.distance(column, row) < 0).mean() == pytest.approx(1, abs=0.1)


def test_val_as_a_number_and_fewer_classes(tmp_path):
    data = load_data(make_toy(tmp_path, images=10, size=32, val=3, classes=2))
    assert (len(data.train), len(data.val)) == (7, 3)
    assert data.classes == ("background", "disc", "square")


@pytest.mark.parametrize("options", [{"size": 8}, {"images": 1}, {"classes": 9}, {"val": 120}])
def test_what_cannot_be_drawn(tmp_path, options):
    with pytest.raises(OptionError, match="expected"):
        make_toy(tmp_path, **options)
