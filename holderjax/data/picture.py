"""Seeing a data set."""

from __future__ import annotations

import os
import textwrap
from typing import TYPE_CHECKING

import numpy as np

from holderjax.data.dataset import Dataset

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def show(dataset: Dataset, path: str | os.PathLike[str], rows: int = 8) -> None:
    """Write a PNG of test examples: one row each, one column a modality, the label beside it.

    Images (``[H, W]``, ``[H, W, 1]``, ``[H, W, 3]``) are drawn as such, texts are written out,
    anything else is a curve of its values. Classes take turns, so that a few rows show many of
    them.

    Raises:
        ValueError: if ``rows`` is below 1.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if rows < 1:
        raise ValueError(f"rows must be at least 1, got {rows}")
    chosen = _take_turns(dataset, rows)
    names = list(dataset.modalities)
    figure = Figure(figsize=(len(names) + 0.5, len(chosen) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(chosen), len(names), squeeze=False)
    for row, example in zip(axes, chosen, strict=True):
        for axis, name in zip(row, names, strict=True):
            values = dataset.test.arrays[name][example]
            if name in dataset.vocabularies:
                _write(axis, dataset.vocabularies[name].decode(values))
            else:
                _draw(axis, values)
        if dataset.test.labels is not None:
            row[0].set_ylabel(
                str(dataset.test.labels[example]), rotation=0, va="center", ha="right"
            )
    for axis, name in zip(axes[0], names, strict=True):
        axis.set_title(name, fontsize="medium")
    figure.savefig(path, format="png", dpi=100)


def _take_turns(dataset: Dataset, rows: int) -> np.ndarray:
    labels = dataset.test.labels
    if labels is None:
        return np.arange(min(rows, len(dataset.test)))
    # How many examples of its class come before each example.
    turn = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        turn[members] = np.arange(len(members))
    return np.lexsort((labels, turn))[:rows]


def _write(axis: Axes, text: str) -> None:
    axis.set(xticks=[], yticks=[])
    lines = textwrap.fill(text, 18)
    # Smaller where there is more, so that 32 words stay inside their square.
    size = 10 if len(text) <= 10 else 4
    axis.text(0.5, 0.5, lines, fontsize=size, ha="center", va="center", parse_math=False)


def _draw(axis: Axes, example: np.ndarray) -> None:
    axis.set(xticks=[], yticks=[])
    if example.ndim == 2 or (example.ndim == 3 and example.shape[-1] in (1, 3)):
        top = 255 if example.dtype == np.uint8 else 1
        axis.imshow(example, cmap="gray", vmin=0, vmax=top, interpolation="nearest")
    else:
        axis.plot(example.ravel(), linewidth=0.8)
