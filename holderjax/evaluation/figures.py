"""Figures that compare runs: the Pareto frontier and the curves of training.

A figure has panels. Each is drawn alone for a page, where panels stand side by side or below one
another, and all of them together for a file.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator

from holderjax.evaluation.frontier import (
    KINDS,
    Kind,
    Point,
    Score,
    coherence_scores,
    frontier,
    quality_scores,
)
from holderjax.evaluation.labels import spread
from holderjax.evaluation.pictures import CHARACTER, COLORS, PALE, STYLE, leave_out_the_start
from holderjax.evaluation.runs import EvaluatedRun, Section, shown

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
LINES = ("-", "--", ":", "-.")
# Inches of a panel without its legend, and of a line of that.
WIDTH, HEIGHT, LEGEND_LINE = 4.9, 3.7, 0.19
# Of panels, in a file.
MOST_COLUMNS = 3
# Beyond this ratio of the largest to the smallest, the axis of quality is logarithmic.
WIDE_RATIO = 20


Finish = Callable[[], None]


@dataclass(frozen=True)
class Panel:
    """A part of a figure.

    Attributes:
      alt: what it shows, for those who do not see it.
      draw: onto axes, with labels for the legend; may return what is to be done once the layout is
        final.
    """

    alt: str
    draw: Callable[[Axes], Finish | None]


@dataclass(frozen=True)
class Comparison:
    """A figure and its numbers.

    Attributes:
      name: for file names.
      panels: at least one.
      columns: of the numbers.
      rows: one for everything drawn.
    """

    name: str
    panels: tuple[Panel, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def csv(self) -> bytes:
        """The numbers, at full precision; empty where there is none."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return text.getvalue().encode()


def draw(panels: Sequence[Panel], kind: Literal["svg", "png"]) -> bytes:
    """Panels over one legend, the same bytes each time for the same numbers."""
    columns = min(len(panels), MOST_COLUMNS)
    rows = -(-len(panels) // columns)
    width, height = WIDTH * columns, HEIGHT * rows
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "holderjax"}):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        handles: dict[str, Any] = {}
        finishes = []
        for panel, ax in zip(panels, axes, strict=False):
            finishes.append(panel.draw(ax))
            found, labels = ax.get_legend_handles_labels()
            handles |= dict(zip(labels, found, strict=True))
        for ax in axes[len(panels) :]:
            ax.set_axis_off()
        longest = max(map(len, handles), default=0)
        across = max(1, int(width / (longest * CHARACTER + 0.5)))
        lines = -(-len(handles) // across)
        figure.set_size_inches(width, height + LEGEND_LINE * lines)
        figure.legend(
            list(handles.values()), list(handles), loc="outside lower center", ncols=across
        )
        figure.draw_without_rendering()
        for finish in finishes:
            if finish is not None:
                finish()
        file = io.BytesIO()
        figure.savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return file.getvalue()


def style(index: int) -> dict[str, Any]:
    """Colour, marker and line of curve number ``index``, which together tell it from the others."""
    return {
        "color": COLORS[index % len(COLORS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": LINES[index // len(COLORS) % len(LINES)],
    }


def frontier_figure(section: Section) -> Comparison | None:
    """Quality against coherence, conditional and unconditional: a curve over beta per system.

    Args:
      section: runs of one data set.

    Returns:
      A panel for each kind of coherence that the runs have; None if they have none.
    """
    metrics = [run.metrics for run in section.runs]
    qualities, coherences = quality_scores(metrics), coherence_scores(metrics)
    panels, rows = [], []
    for kind in KINDS:
        quality, coherence = qualities[kind], coherences[kind]
        points = frontier(section.seeds, quality, coherence)
        if points:
            panels.append(_frontier_panel(section, kind, points, quality, coherence))
        rows += [
            (section.name, kind, point.curve, section.traits[point.curve], *_row(point, quality))
            for point in points
        ]
    columns = (
        *("data", "kind", "system", "settings", "beta", "quality_score"),
        *("quality", "quality_standard_error", "quality_seeds"),
        *("coherence", "coherence_standard_error", "coherence_seeds", "pareto_optimal"),
    )
    return Comparison("frontier", tuple(panels), columns, tuple(rows)) if panels else None


def _row(point: Point, quality: Score) -> tuple[Any, ...]:
    q, c = point.quality, point.coherence
    return (
        *(point.beta, quality.label),
        *(q.mean, q.standard_error, q.count),
        *(c.mean, c.standard_error, c.count, int(point.optimal)),
    )


def _frontier_panel(
    section: Section, kind: Kind, points: Sequence[Point], quality: Score, coherence: Score
) -> Panel:
    optimal = "; ".join(
        f"{p.curve} at beta {shown(p.beta)} ({quality.label} {p.quality.mean:.4g}, "
        f"coherence {p.coherence.mean:.3f})"
        for p in points
        if p.optimal
    )
    alt = (
        f"{kind.capitalize()} Pareto frontier on {section.name}: {quality.label}, lower is better, "
        f"against {coherence.label}, higher is better, for {len(points)} points. "
        f"Pareto-optimal: {optimal}."
    )

    betas = {point.beta for point in points}
    title = kind.capitalize() + (f", β {shown(*betas)}" if len(betas) == 1 else "")

    def draw_panel(axes: Axes) -> Finish:
        means = [p.quality.mean for p in points]
        wide = min(means) > 0 and max(means) > WIDE_RATIO * min(means)
        if wide:
            axes.set_xscale("log")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5))
        best = sorted((p.quality.mean, p.coherence.mean) for p in points if p.optimal)
        axes.step(*zip(*best, strict=True), where="post", color=PALE, linewidth=5, alpha=0.35)
        for i, curve in enumerate(section.curves):
            _draw_curve(axes, [p for p in points if p.curve == curve], style(i))
        labels = []
        for point in points:
            # Where all have the same beta, the title has it.
            text = point.curve if len(betas) == 1 else f"β {shown(point.beta)}"
            color = style(section.curves.index(point.curve))["color"]
            labels.append(_label(axes, point, text, color))
        axes.set_title(title)
        axes.set_title("better: up and to the left ↖", loc="right", fontsize=8.5, weight="normal")
        scale = ", log scale" if wide else ""
        axes.set_xlabel(f"← {quality.label} (lower is better{scale})")
        axes.set_ylabel(f"{coherence.label} (higher is better) →")
        axes.margins(0.09)
        # Coherence mostly grows with beta and distance: the lines leave the upper left free.
        return lambda: spread(axes, labels, start=135)

    return Panel(alt, draw_panel)


def _draw_curve(axes: Axes, points: Sequence[Point], look: dict[str, Any]) -> None:
    if not points:
        return
    x = [p.quality.mean for p in points]
    y = [p.coherence.mean for p in points]
    axes.errorbar(
        *(x, y),
        xerr=[p.quality.standard_error or 0 for p in points],
        yerr=[p.coherence.standard_error or 0 for p in points],
        fmt="none",
        ecolor=look["color"],
        elinewidth=0.9,
        alpha=0.6,
    )
    axes.plot(x, y, **look, markersize=5.5, label=points[0].curve)
    for point in points:
        at = (point.quality.mean, point.coherence.mean)
        if not point.optimal:
            axes.plot(*at, **look, markersize=5.5, markerfacecolor="white")


def _label(axes: Axes, point: Point, text: str, color: str) -> Annotation:
    # Darker, for letters need more contrast than lines.
    dark = 0.6 * np.array(to_rgb(color))
    return axes.annotate(
        text,
        (point.quality.mean, point.coherence.mean),
        xytext=(0, 9),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=7.5,
        color=dark,
        path_effects=[withStroke(linewidth=2, foreground="white")],
        arrowprops={"arrowstyle": "-", "color": dark, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3},
    )


# Of the curves of training: the title, and where a line of metrics holds it.
TRAINING = (
    ("loss", "Loss (negative bound, nats)", ("loss",)),
    ("held_out_loss", "Held-out loss (nats)", ("test_loss",)),
    ("log_likelihood", "Log-likelihood, summed over modalities (nats)", ("reconstruction",)),
    ("kl_z", "KL of z (nats)", ("kl_z",)),
    ("kl_w", "KL of w, summed over modalities (nats)", ("kl_private",)),
)


def training_figure(section: Section) -> Comparison | None:
    """Loss, log-likelihood and KLs over the steps of training: a line for each run.

    Args:
      section: runs of one data set.

    Returns:
      A panel for each quantity that a run has logged; None if there is none.
    """
    lines = {id(run): run.training() for run in section.runs}
    found: dict[str, list[tuple[int, EvaluatedRun, list[int], list[float]]]] = {}
    rows: list[tuple[Any, ...]] = []
    for group in section.groups:
        index = section.curves.index(group.curve)
        for run in group.runs:
            table = [[total(line, keys) for *_, keys in TRAINING] for line in lines[id(run)]]
            steps = [line["step"] for line in lines[id(run)]]
            facts = (section.name, group.curve, group.traits, group.beta, run.config.seed)
            rows += [(*facts, step, *row) for step, row in zip(steps, table, strict=True)]
            for k, (name, *_) in enumerate(TRAINING):
                pairs = [(s, r[k]) for s, r in zip(steps, table, strict=True) if r[k] is not None]
                if pairs:
                    x, y = zip(*pairs, strict=True)
                    found.setdefault(name, []).append((index, run, list(x), list(y)))
    if not rows:
        return None
    panels = tuple(
        _training_panel(section, title, found[name]) for name, title, _ in TRAINING if name in found
    )
    names = [name for name, *_ in TRAINING]
    columns = ("data", "system", "settings", "beta", "seed", "step", *names)
    return Comparison("training", panels, columns, tuple(rows))


def total(line: dict[str, Any], keys: tuple[str, ...]) -> float | None:
    """The sum of a line's metrics by these names, or by these names and any modality's."""
    values = [value for name, value in line.items() if name.split("/")[0] in keys]
    return float(np.sum(values)) if values else None


def _training_panel(
    section: Section,
    title: str,
    lines: Sequence[tuple[int, EvaluatedRun, list[int], list[float]]],
) -> Panel:
    ends: dict[str, list[float]] = {}
    for index, _, _, y in lines:
        ends.setdefault(section.curves[index], []).append(y[-1])
    told = "; ".join(
        f"{curve} {min(y):,.4g} to {max(y):,.4g}" if len(y) > 1 else f"{curve} {y[0]:,.4g}"
        for curve, y in ends.items()
    )

    def draw_panel(axes: Axes) -> None:
        for index, _, x, y in lines:
            look = {**style(index), "marker": ""}
            axes.plot(x, y, **look, linewidth=1.1, alpha=0.75, label=section.curves[index])
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.margins(x=0.02)
        leave_out_the_start(axes)

    return Panel(f"{title} over the steps of training on {section.name}. Last: {told}.", draw_panel)
