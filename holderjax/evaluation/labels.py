"""Labels of points that keep out of each other's way."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation

# Where a label may go: distances from its point, in points of the page, and directions around it.
DISTANCES = (9.0, 14.0, 20.0, 28.0, 38.0, 50.0, 64.0)
DIRECTIONS = 16
# From here on, a line leads to the point.
FAR = 14.0
# Half the width of a marker, and the room around a label.
MARKER, MARGIN = 4.0, 1.0
# What a label gives up to lie on nothing, in points of distance: a marker or a label must be
# avoided almost at any price, a line is merely better left alone.
OVER_BOX, OVER_LINE = 100.0, 0.7

Box = tuple[float, float, float, float]


def spread(axes: Axes, labels: Sequence[Annotation], start: float) -> None:
    """Move each label to the best free place near its point.

    Call it once the layout of the figure is final: places are measured in pixels.

    Args:
      axes: that the labels are in.
      labels: made with ``textcoords="offset points"``, centred, and with an arrow.
      start: the preferred direction, in degrees, anticlockwise from the right.
    """
    figure = axes.get_figure()
    assert figure is not None
    scale = figure.dpi / 72
    points = [axes.transData.transform(label.xy) / scale for label in labels]
    lines = np.concatenate([np.zeros((0, 2)), *(_samples(axes, scale))])
    frame = np.array(axes.get_window_extent().extents) / scale
    turns = sorted(range(DIRECTIONS), key=lambda i: min(i, DIRECTIONS - i))
    angles = [np.radians(start + 360 * i / DIRECTIONS) for i in turns]
    taken: list[Box] = [(x - MARKER, y - MARKER, x + MARKER, y + MARKER) for x, y in points]
    for label, point in zip(labels, points, strict=True):
        extent = label.get_window_extent()
        # Wider than high: a label beside its point must go further than one above it.
        half = np.array([extent.width, extent.height]) / scale / 2 + MARGIN
        best = None
        for distance, angle in product(DISTANCES, angles):
            way = np.array([np.cos(angle), np.sin(angle)])
            middle = way * (distance + np.abs(way) @ half - half[1])
            (left, bottom), (right, top) = point + middle - half, point + middle + half
            box = (left, bottom, right, top)
            cost = distance + _cost(box, taken, lines, frame)
            if best is None or cost < best[0]:
                best = (cost, distance, middle, box)
        assert best is not None
        _, distance, middle, box = best
        label.set_position(tuple(middle))
        assert label.arrow_patch is not None
        label.arrow_patch.set_visible(distance > FAR)
        taken.append(box)


def _cost(box: Box, taken: Sequence[Box], lines: np.ndarray, frame: np.ndarray) -> float:
    left, bottom, right, top = box
    over = sum(left < x1 and right > x0 and bottom < y1 and top > y0 for x0, y0, x1, y1 in taken)
    over += left < frame[0] or bottom < frame[1] or right > frame[2] or top > frame[3]
    x, y = lines.T
    crossed = ((x > left) & (x < right) & (y > bottom) & (y < top)).sum()
    return OVER_BOX * over + OVER_LINE * float(crossed)


def _samples(axes: Axes, scale: float) -> list[np.ndarray]:
    """Points a few pixels apart along every line of the axes."""
    found = []
    for line in axes.get_lines():
        corners = axes.transData.transform(line.get_xydata()) / scale
        for a, b in pairwise(corners):
            steps = np.linspace(0, 1, 2 + int(np.hypot(*(b - a)) / 3))
            found.append(a + steps[:, None] * (b - a))
    return found
