"""Line charts as inline SVG: axes, ticks, several lines, marks; no plotting library, no script.

Colours come from the page's style sheet (classes ``line-0`` .. ``line-5``), so charts follow its light and dark scheme.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup, escape

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 440, 240  # ours: user units; about one CSS pixel each on a wide page
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 24, 38  # ours: room for tick labels, names of marks and of the x axis
MOST_POINTS = 240  # ours: more cannot be told apart at this width
COLOURS = 6  # the line colours of the style sheet


def line_chart(
    title: str, lines: Mapping[str, Points], *, x_label: str, marks: Mapping[str, float] | None = None, note: str = ""
) -> Markup:
    """Return a ``<figure>`` with one SVG line for each entry of ``lines`` (name -> (x, y) pairs, sorted by x).

    ``marks`` are named vertical lines. Values that are not finite are left out; long lines are drawn by the means of
    neighbouring points. Every string is escaped.
    """
    marks = {name: x for name, x in (marks or {}).items() if math.isfinite(x)}
    thinned = {name: _thin(points) for name, points in lines.items()}
    drawn = {name: points for name, points in thinned.items() if len(points)}
    caption = Markup("<strong>{}</strong>").format(title)
    if len(drawn) > 1:
        caption += Markup("").join(
            Markup('<span class="key line-{}">{}</span>').format(i % COLOURS, name) for i, name in enumerate(drawn)
        )
    if note:
        caption += Markup('<span class="note">{}</span>').format(note)
    body = _svg(title, drawn, x_label, marks) if drawn else Markup('<p class="note">No finite value was recorded.</p>')
    return Markup('<figure class="chart"><figcaption>{}</figcaption>{}</figure>').format(caption, body)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about ``count`` round numbers (1, 2 or 5 times a power of ten apart) that span ``low`` .. ``high``.

    >>> ticks(0, 0.93)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def _thin(points: Points) -> np.ndarray:
    """Return the finite points, float64 (N, 2), at most ``MOST_POINTS`` of them by averaging neighbours."""
    pairs = np.array(points, dtype=np.float64).reshape(-1, 2)  # (N, 2)
    pairs = pairs[np.isfinite(pairs).all(axis=1)]
    if len(pairs) <= MOST_POINTS:
        return pairs
    return np.stack([chunk.mean(axis=0) for chunk in np.array_split(pairs, MOST_POINTS)])


def _svg(title: str, lines: Mapping[str, np.ndarray], x_label: str, marks: Mapping[str, float]) -> Markup:
    every = np.concatenate(list(lines.values()))
    x_ticks, y_ticks = _axis([*every[:, 0], *marks.values()]), _axis(every[:, 1])
    if 0 < y_ticks[0] < y_ticks[-1] / 2:
        y_ticks = ticks(0, y_ticks[-1])  # a loss reads best from zero, a flat line from close by

    def across(x: float) -> float:
        return LEFT + (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (WIDTH - LEFT - RIGHT)

    def down(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (HEIGHT - TOP - BOTTOM)

    floor = HEIGHT - BOTTOM
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for y in y_ticks:
        parts.append(f'<path class="grid" d="M{LEFT} {down(y):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{down(y) + 4:.1f}" text-anchor="end">{_short(y)}</text>')
    for x in x_ticks:
        parts.append(f'<path class="axis" d="M{across(x):.1f} {floor}v4"/>')
        parts.append(f'<text x="{across(x):.1f}" y="{floor + 17}" text-anchor="middle">{_short(x)}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {floor}H{WIDTH - RIGHT}"/>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 5}" text-anchor="end">{escape(x_label)}</text>')
    for index, (name, points) in enumerate(lines.items()):
        parts.append(_line(name, [(across(x), down(y)) for x, y in points], index % COLOURS))
    for index, (name, x) in enumerate(sorted(marks.items(), key=lambda mark: mark[1])):
        parts.append(_mark(name, across(x), to_the_left=index == 0 and len(marks) > 1))
    return Markup("".join([*parts, "</svg>"]))  # every string above went through escape()


def _line(name: str, points: Sequence[tuple[float, float]], colour: int) -> str:
    if len(points) == 1:
        x, y = points[0]
        return f'<circle class="line-{colour}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{escape(name)}</title></circle>'
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="line-{colour}" points="{path}"><title>{escape(name)}</title></polyline>'


def _mark(name: str, x: float, to_the_left: bool) -> str:
    """Draw a vertical line with its name above the plot, on the side where no other mark stands."""
    side = f'x="{x - 5:.1f}" text-anchor="end"' if to_the_left else f'x="{x + 5:.1f}"'
    return (
        f'<path class="mark mark-{escape(name)}" d="M{x:.1f} {TOP - 16}V{HEIGHT - BOTTOM}"/>'
        f'<text class="mark-name" y="{TOP - 9}" {side}>{escape(name)}</text>'
    )


def _axis(values: Sequence[float] | np.ndarray) -> list[float]:
    """Return ticks around all values; a constant gets room on both sides."""
    low, high = float(min(values)), float(max(values))
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-300):
        room = abs(low) / 2 or 0.5
        low, high = low - room, high + room
    return ticks(low, high)


def _short(value: float) -> str:
    """Write a tick label.

    >>> _short(20000.0), _short(0.05), _short(0.0)
    ('20k', '0.05', '0')
    """
    if 10_000 <= abs(value) < 1_000_000:
        return f"{value / 1000:.6g}k"
    return f"{value:.6g}" if abs(value) < 1e6 else f"{value:.3g}"
