"""The report page: what it shows, what it must never hold, and how its pictures are drawn."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tagmask.data.pixels import palette
from tagmask.report import ImageRow, Report, page, pictures, write_report
from tagmask.report.curves import line_chart, ticks
from tagmask.report.page import GROUPS

CLASSES = ("background", "cat", "dog", "<bus> & co")
HOSTILE = 'a<script>alert("1")</script>&\'"é猫/\u202e\udcff'
SCORES = {"miou": 0.6127, "iou": [0.8811, 0.3333, None], "precision": [0.9, 0.4, math.nan], "recall": [0.95, 0.55, 0.0]}
METRICS = {
    "method": "cam",
    "command": "tagmask run cam photos/ --out 'a b'",
    "seed": 7,
    "device": "cpu",
    "versions": {"torch": "2.99.1"},
    "extra_supervision": "none",
    "minutes": 18.4,
    "peak_mb": 2480.2,
    "stages": [
        {"name": "masks", "items": 1000, "computed": 640, "reused": 360, "seconds": 412.3, "peak_mb": 512.0},
        {"name": "half-known"},
    ],
    "counts": {"cat": 124},
    "train_masks": SCORES,
    "val": {"miou": 0.5891},
    "activation": {
        "miou_chosen": 0.471,
        "threshold": 0.22,
        "miou_oracle": 0.4834,
        "threshold_oracle": 0.27,
        "price": 0.0124,
        "curve": {"thresholds": [0.1, 0.2, 0.3], "miou": [0.3, 0.47, None]},
    },
    "threshold_choice": {
        "criterion": "agreement of scales & flips",
        "curve": {"thresholds": [0.1, 0.2], "values": [1, 2]},
    },
    "seeds": {"coverage": 0.613, "miou_labelled": None, "something_new": 0.25},
    "steps": {
        "cues & such": {"miou": 0.1427, "seeds": {"coverage": 0.31, "miou_labelled": 0.72}},
        "grown": {"miou": 0.5},
    },
    "saliency": {"precision": 0.6123, "recall": None, "best_cut": 0.4},
    "boxes": {"truth": "masks", "images": 9, "corloc": 0.4321, "ap50": 0.2345},
    "box_steps": {"prior & such": {"corloc": 0.1234, "ap50": None}},
    "val_boxes": {"truth": "masks", "images": 3, "corloc": 0.3579, "ap50": 0.1579},
}
MEASURED = ("train_masks", "val", "activation", "seeds", "steps", "saliency", "boxes", "val_boxes")
CURVES = {
    "classifier": [{"step": step, "loss": 1 / (step + 1), "part": math.nan, "lr": 0.01} for step in range(900)],
    "empty": [],
}


def row(group: str = "best", name: str = "one", *, size: tuple[int, int] = (40, 56), **changes: object) -> ImageRow:
    generator = np.random.default_rng(sum(size))
    labels = np.zeros(size, dtype=np.uint8)
    labels[: size[0] // 2] = 2
    labels[-1] = 255
    known = ImageRow(
        group=group,
        name=name,
        tags=("cat", "dog"),
        photo=generator.integers(0, 256, size=(*size, 3), dtype=np.uint8),
        activation=[(tag, generator.random(size, dtype=np.float32)) for tag in ("cat", "dog")],
        seeds=labels,
        mask=labels,
        truth=labels,
        score=0.9017,
        doubt=0.257,
    )
    return dataclasses.replace(known, **changes)


def page_of(tmp_path: Path, **parts: object) -> str:
    given = {"title": "cam", "method_summary": "From tags.", "data": "photos/", "classes": CLASSES, **parts}
    write_report(tmp_path / "run" / "report.html", Report(**given))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["report.html"]
    text = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert_self_contained(text)
    return text


class Reader(HTMLParser):
    """Collects tags, attributes and visible text; checks that the tags are balanced."""

    VOID = frozenset({"meta", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    reader.text = " ".join(reader.text.split())
    return reader


def assert_self_contained(text: str) -> None:
    assert not re.search(r"https?://|url\(|@import|<link|<script|<iframe", text)
    for tag, attributes in read(text).found:
        assert not any(name.startswith("on") for name in attributes)
        assert tag != "img" or str(attributes["src"]).startswith("data:image/")
        assert tag != "a" or str(attributes["href"]).startswith("#")


def images(text: str) -> list[tuple[str, Image.Image]]:
    """Every picture of the page, decoded, with its alternative text."""
    found = []
    for tag, attributes in read(text).found:
        if tag == "img":
            image = Image.open(io.BytesIO(base64.b64decode(str(attributes["src"]).split(",", 1)[1], validate=True)))
            image.load()
            found.append((str(attributes["alt"]), image))
    return found


def test_everything_is_shown(tmp_path: Path) -> None:
    rows = [row(group, name=f"dir/{group}") for group in GROUPS]
    page = page_of(tmp_path, metrics=METRICS, curves=CURVES, rows=rows, warnings=["2 images left out"])
    text = read(page).text
    for said in (
        "the masks of the training images reach 61.3 % mIoU and the network reaches 58.9 %",
        "tagmask run cam photos/ --out 'a b'", "18 min 24 s", "2.5 GB", "2 images left out", "2.99.1",
        "88.1", "33.3", "124", "agreement of scales & flips", "0.22", "47.1 % mIoU", "0.27", "48.3 % mIoU",
        "1.2 points of mIoU", "1000", "640", "360", "6 min 52 s", "512 MB", "Pixels labelled61.3 %",
        "Something new25.0 %", "cues & such14.331.072.0", "grown50.0100.050.0", "final masks61.3100.061.3",
        "prior & such12.3-", "final boxes43.223.4",
        "on val, without tags35.815.8", "the connected parts of masks",
        "Objects: precision61.2 %", "IoU 90.2 %", "doubt 0.26", "dir/worst", "<bus> & co",
    ):  # fmt: skip
        assert said.lower() in text.lower(), said
    assert "nan" not in text.lower().replace("finite", "").split()
    assert page.count("<svg") == 3  # two of the threshold, one trained stage; the empty stage says so in words
    assert "No finite value was recorded." in text
    assert len(images(page)) == 4 * (1 + 2 + 1 + 1 + 1)
    assert [text.index(GROUPS[group][0]) for group in GROUPS] == sorted(text.index(said) for said, _ in GROUPS.values())


def test_every_metric_may_be_missing_or_null(tmp_path: Path) -> None:
    for key, value in METRICS.items():
        page_of(tmp_path, metrics={name: METRICS[name] for name in METRICS if name != key}, curves=CURVES)
        page_of(tmp_path, metrics={**METRICS, key: None}, curves=CURVES)
        for inner in value if isinstance(value, dict) else ():
            page_of(tmp_path, metrics={**METRICS, key: {**value, inner: None}}, curves=CURVES)


def test_without_masks_the_page_says_so_and_shows_no_score(tmp_path: Path) -> None:
    unmeasured = {key: METRICS[key] for key in METRICS if key not in MEASURED}
    unmeasured["threshold_choice"] = {**METRICS["threshold_choice"], "threshold": 0.37}
    page = page_of(
        tmp_path, metrics=unmeasured, rows=[row(truth=None, score=None), row(name="two", seeds=None, truth=None)]
    )
    text = read(page).text
    assert "No masks were given, so nothing here is measured against truth." in text
    assert "0.37" in text
    assert "mIoU" not in text
    assert "truth, one" not in page  # no column of it
    assert len(images(page)) == (1 + 2 + 1 + 1) + (1 + 2 + 1)


def test_a_page_of_nothing(tmp_path: Path) -> None:
    text = read(page_of(tmp_path)).text
    assert "No masks were given" in text
    assert all(heading not in text for heading in ("Images best", "Training", "Stages", "threshold", "Versions"))


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    hostile = row(name=HOSTILE, tags=(HOSTILE,), activation=[(HOSTILE, np.zeros((4, 4), dtype=np.float32))])
    metrics = {
        **METRICS,
        "command": HOSTILE,
        "versions": {HOSTILE: HOSTILE},
        "stages": [{"name": HOSTILE, "items": HOSTILE}],
        "seeds": {HOSTILE: 0.5},
        "threshold_choice": {**METRICS["threshold_choice"], "criterion": HOSTILE},
        "counts": {HOSTILE: HOSTILE},
    }
    curves = {HOSTILE: [{"step": 1, HOSTILE: 2.0, "other": 3.0}]}
    page = page_of(
        tmp_path,
        title=HOSTILE,
        method_summary=HOSTILE,
        data=HOSTILE,
        classes=("background", HOSTILE, "dog"),
        metrics=metrics,
        curves=curves,
        rows=[hostile],
        warnings=[HOSTILE],
    )
    shown = HOSTILE.replace("\udcff", "\\udcff")  # not valid Unicode: its code is shown
    assert read(page).text.count(shown) >= 15
    assert {f"{what}, {shown}" for what in ("photo", "mask", "seeds", "truth")} <= {alt for alt, _ in images(page)}


def test_pictures_keep_to_their_budget_even_for_noise() -> None:
    noise = np.random.default_rng(0).integers(0, 256, size=(pictures.SIDE, pictures.SIDE, 3), dtype=np.uint8)
    budget = page.PICTURE_BYTES // (24 * 7)
    assert budget / 3 < len(pictures.data_uri(noise, budget)) <= budget
    assert len(pictures.data_uri(noise // 2, 10**6)) > 2 * budget  # where there is room, it is used


def test_a_page_of_24_rows_stays_under_five_megabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "data_uri", lambda pixels, budget: "data:image/webp;base64,".ljust(budget, "A"))
    page_of(tmp_path, metrics=METRICS, rows=[row(group) for group in GROUPS for _ in range(6)])
    assert 4_000_000 < (tmp_path / "run" / "report.html").stat().st_size < 5_000_000


def test_same_report_same_bytes_and_old_page_replaced(tmp_path: Path) -> None:
    first = page_of(tmp_path, metrics=METRICS, rows=[row()])
    assert page_of(tmp_path, metrics=json.loads(json.dumps(METRICS)), rows=[row()]) == first
    assert page_of(tmp_path) != first


@pytest.mark.parametrize("size", [(1, 1), (48, 40), (1, 900), (700, 3), (640, 480)])
def test_thumbnails_of_any_shape(tmp_path: Path, size: tuple[int, int]) -> None:
    page = page_of(tmp_path, rows=[row(size=size, mask=np.full((5, 7), 255, dtype=np.uint8))])
    for _, image in images(page):
        longer = min(pictures.SIDE, 3 * max(size))  # a tiny photo is enlarged three times
        assert max(image.size) == longer
        assert min(image.size) == max(round(longer * min(size) / max(size)), 1)


def test_rows_are_checked_at_birth() -> None:
    with pytest.raises(ValueError, match="group of 'one' must be one of best, middle, worst, doubtful, got 'good'"):
        row(group="good")
    with pytest.raises(ValueError, match="photo must be uint8"):
        row(photo=np.zeros((4, 4), dtype=np.uint8))
    with pytest.raises(ValueError, match="truth must be uint8"):
        row(truth=np.zeros((4, 4), dtype=np.int64))


def test_heat_ramp_lightness_rises_evenly() -> None:
    """Oracle: CIE L* by OpenCV, another perceptual space than the Oklab that made the ramp."""
    ramp = pictures.heat_ramp()
    assert ramp.shape == (256, 3)
    lightness = cv2.cvtColor(ramp[None].astype(np.float32) / 255, code=cv2.COLOR_RGB2Lab)[0, :, 0]
    steps = np.diff(lightness[::15])
    assert steps.min() > 0
    assert steps.max() < 2 * steps.min()
    assert len(np.unique(ramp, axis=0)) > 250


def test_paint_shows_each_label_as_the_legend_says() -> None:
    labels = np.zeros((60, 60), dtype=np.uint8)
    labels[:20], labels[20:40] = 1, 255
    grey = np.full((60, 60, 3), 100, dtype=np.uint8)
    painted = pictures.paint(grey, labels).astype(int)
    red = painted[5, 30]
    assert red[0] > red[1] + 50  # class 1 of VOC is dark red
    assert red[1] == red[2]
    assert np.abs(red - (0.38 * 100 + 0.62 * palette()[1])).max() <= 1
    assert len(np.unique(painted[25:35, :, 0])) == 2  # hatching
    assert painted[25:35].min() > 140  # and whitish
    assert painted[55].max() < 100  # dim background
    assert painted[19].min() > 150  # pale outline


def test_heat_is_brightest_where_the_activation_is() -> None:
    ramp = np.linspace(0, 1, 50, dtype=np.float32)[None].repeat(20, axis=0)
    heated = pictures.heat(np.full((20, 50, 3), 120, dtype=np.uint8), ramp)
    luminance = cv2.cvtColor(heated, code=cv2.COLOR_RGB2GRAY)[10].astype(int)
    assert (np.diff(luminance) >= -1).all()
    assert luminance[-1] - luminance[0] > 90


def points_of(svg: str) -> np.ndarray:
    match = re.search(r'points="([^"]+)"', svg)
    assert match
    return np.array([pair.split(",") for pair in match[1].split()], dtype=float)


def test_chart_puts_values_at_their_ticks() -> None:
    svg = str(line_chart("t", {"a": [(0, 0), (5, 2), (10, 1)]}, x_label="step", marks={"chosen": 5}))
    points = points_of(svg)
    at = dict(re.findall(r'y="(-?[\d.]+)" text-anchor="end">([\d.]+)<', svg))
    tick = {float(label): float(y) - 4 for y, label in at.items()}
    assert points[:, 1] == pytest.approx([tick[0], tick[2], tick[1]], abs=0.11)
    assert points[1, 0] == pytest.approx(points[[0, 2], 0].mean(), abs=0.1)
    assert f'class="mark mark-chosen" d="M{points[1, 0]:.1f} ' in svg


def test_chart_thins_long_lines_and_keeps_their_mean() -> None:
    values = np.random.default_rng(0).random(10_000) + np.linspace(3, 0, 10_000)
    svg = str(line_chart("t", {"a": list(enumerate(values))}, x_label="step"))
    assert len(points_of(svg)) <= 240
    assert len(svg) < 8_000


@pytest.mark.parametrize("value", [0.0, 3.0, -2.5, 1e-9, 1e12])
def test_chart_of_a_constant(value: float) -> None:
    svg = str(line_chart("t", {"a": [(1, value), (2, value)], "b": [(1, value)], "c": [(1, math.inf)]}, x_label="step"))
    assert "nan" not in svg.replace("finite", "")
    assert svg.count("<polyline") == 1
    assert svg.count("<circle") == 1


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 17), (0.001, 0.0012), (5, 123_456), (0.59, 0.6)])
def test_ticks_span_and_are_even(low: float, high: float) -> None:
    found = ticks(low, high)
    assert found[0] <= low
    assert found[-1] >= high
    assert 3 <= len(found) <= 8
    assert np.diff(found) == pytest.approx(np.diff(found)[0])


def test_boxes_are_outlined_over_the_photo_the_surest_on_top(tmp_path):
    small = np.full((40, 60, 3), 90, dtype=np.uint8)
    framed = pictures.frame(small, [(1, 20, 20, 60, 60), (2, 20, 20, 100, 80)], 0.5)
    assert (small == 90).all()
    colours = palette()
    assert (framed[11, 15:25] == colours[1]).all()  # the surest lies over the other, which shares its corner
    assert (framed[35:37, 49 - 1] == colours[2]).all()
    assert (framed[20, 20] == 90).all()
    assert (framed[:8] == 90).all()
    assert pictures.frame(small, [(3, 0, 0, 1, 1)], 0.5).any()
    reader = read(page_of(tmp_path, rows=[row(seeds=None, boxes=[(3, 1, 1, 9, 9)])]))
    assert "boxes" in [
        attributes.get("alt", "").split(",")[0] for _, attributes in reader.found if attributes.get("alt")
    ]
    assert "<bus> & co" in reader.text  # in the legend, though no label map shows it
