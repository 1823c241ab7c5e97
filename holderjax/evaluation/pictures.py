"""Pictures of a run: grids of samples, and curves of what its metrics hold."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from holderjax import data
from holderjax.evaluation.coherence import Table, by_subset_size
from holderjax.files import replacing
from holderjax.naming import unknown

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from holderjax.training import Run

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK, MUTED, PALE = "#222222", "#6A6A6A", "#9A9A9A"
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": PALE,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "xtick.color": PALE,
    "ytick.color": PALE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "text.color": INK,
    "figure.dpi": 150,
    "savefig.dpi": 150,
}
# Inches of one tile of a grid and of a character beside it; gaps in tiles.
TILE, CHARACTER = 0.36, 0.076
TILE_GAP, GROUP_GAP, MARGIN = 0.1, 0.6, 0.5


def save(figure: Figure, path: Path) -> Path:
    """Write the figure in the format that the file's suffix names, PNG without one, atomically."""
    with replacing(path) as file:
        figure.savefig(file, format=path.suffix.lstrip(".").lower() or "png")
    return path


def color(index: int) -> str:
    """The colour of modality number ``index``."""
    return COLORS[index % len(COLORS)]


def heading(run: Run, text: str) -> str:
    """What a picture shows, and of which run."""
    return f"{text}: {run.config.system} on {run.config.data}, step {run.step:,}"


class Grid:
    """Images of any size on tiles of one size; positions are in tiles from the top left corner."""

    def __init__(self, width: float, height: float) -> None:
        """A canvas of the given size, in tiles."""
        self.figure = Figure(figsize=(width * TILE, height * TILE), dpi=STYLE["figure.dpi"])
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(height, 0))
        self.axes.set_axis_off()

    def image(self, x: float, y: float, image: Float[np.ndarray, "H W C"]) -> None:
        """An image whose upper left corner is (x, y), in gray if it has one channel."""
        shown = np.clip(image, 0, 1)
        self.axes.imshow(
            shown[..., 0] if shown.shape[-1] == 1 else shown,
            extent=(x, x + 1, y + 1, y),
            cmap="gray",
            vmin=0,
            vmax=1,
            interpolation="nearest",
            aspect="auto",
        )

    def words(self, x: float, y: float, text: str) -> None:
        """A text in the middle of a tile, smaller where there is more of it."""
        size, width = (7, 8) if len(text) <= 8 else (3, 13)
        lines = "\n".join(textwrap.wrap(text, width, max_lines=8, placeholder="…"))
        self.text(x + 0.5, y + 0.5, lines, ha="center", fontsize=size, parse_math=False)

    def value(self, x: float, y: float, value: np.ndarray | str) -> None:
        """An image or a text."""
        if isinstance(value, str):
            self.words(x, y, value)
        else:
            self.image(x, y, value)

    def values(self, x: float, y: float, values: Sequence[np.ndarray | str]) -> None:
        """A row of images or texts."""
        for i, value in enumerate(values):
            self.value(x + offset(i), y, value)

    def observed(self, x: float, y: float, value: np.ndarray | str | None) -> None:
        """An image or a text, or a gray tile in the place of one that was not observed."""
        if value is None:
            self.axes.add_patch(Rectangle((x, y), 1, 1, facecolor="#EAEAEA", edgecolor="none"))
        else:
            self.value(x, y, value)

    def frame(self, x: float, y: float, columns: int, rows: int) -> None:
        """A line around so many tiles."""
        margin = 0.7 * TILE_GAP
        corner, width, height = (x - margin, y - margin), offset(columns), offset(rows)
        self.axes.add_patch(
            Rectangle(
                corner,
                width - TILE_GAP + 2 * margin,
                height - TILE_GAP + 2 * margin,
                facecolor="none",
                edgecolor=INK,
                linewidth=1.2,
            )
        )

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        """Text, by default to the right of (x, y) and in the middle of its height."""
        self.axes.text(x, y, text, **{"va": "center", "fontsize": 8, "color": INK, **style})


def offset(tiles: int) -> float:
    """Where the tile after so many tiles and gaps begins."""
    return tiles * (1 + TILE_GAP)


def conditional_grid(
    run: Run,
    path: Path,
    *,
    observed: Sequence[str],
    samples: int = 4,
    rows: int = 8,
    seed: int = 0,
) -> Path:
    """Samples of every modality given some of them, for test examples of the run's data.

    Args:
      run: whose model and data.
      path: of the picture.
      observed: names of modalities.
      samples: of each modality, for each example.
      rows: how many examples.
      seed: of the samples.

    Returns:
      The path.

    Raises:
      ValueError: for a name that is no modality, for none, and if nothing can be drawn.
    """
    observed_mask(tuple(run.model.modalities), observed)
    split = run.dataset().test
    return conditional_grids(run, path, split, [observed], samples=samples, rows=rows, seed=seed)


def conditional_grids(
    run: Run,
    path: Path,
    split: data.Split,
    subsets: Sequence[Sequence[str]],
    *,
    samples: int = 4,
    rows: int = 3,
    seed: int = 0,
) -> Path:
    """Samples of every modality given each of several subsets: a block of rows for each.

    On the left of a row is what was observed of an example, then come several samples of every
    modality. Framed samples are of a modality that was observed, so they are reconstructions.
    Modalities that are neither images nor texts may be observed but are not drawn.

    Args:
      run: whose model.
      path: of the picture.
      split: whose examples are shown, one of each class in turn.
      subsets: names of modalities.
      samples: of each modality, for each example.
      rows: how many examples in each block.
      seed: of the samples.

    Returns:
      The path.

    Raises:
      ValueError: for a name that is no modality, for none, and if nothing can be drawn.
    """
    names = tuple(run.model.modalities)
    shown = shown_modalities(run)
    masks = [observed_mask(names, subset) for subset in subsets]
    index = rows_of_all_classes(split, rows)
    batch = {name: np.asarray(data.to_float(split.arrays[name][index])) for name in names}
    generate = jax.jit(partial(run.model.generate, num_samples=samples))
    keys = jax.random.split(jax.random.key(seed), len(masks))

    labels = [", ".join(np.array(names)[mask]) for mask in masks]
    left = 2 * MARGIN + max(map(len, [*labels, "observed "])) * CHARACTER / TILE
    inner = offset(samples) + GROUP_GAP
    starts = [left + offset(len(shown)) + GROUP_GAP + i * inner for i in range(len(shown))]
    top, block = 2.5, offset(len(index)) + GROUP_GAP
    bottom = top + len(masks) * block - GROUP_GAP
    grid = Grid(starts[-1] + inner - GROUP_GAP + MARGIN, bottom + 1.2)
    _conditional_headings(grid, heading(run, "Conditional samples"), shown, left, starts)
    for i, (mask, key) in enumerate(zip(masks, keys, strict=True)):
        y = top + i * block
        grid.text(MARGIN, y + offset(len(index)) / 2, labels[i], fontsize=9)
        generated = jax.device_get(generate(run.params, key, batch, mask))
        samples_of = {name: readable(run, name, generated[name]) for name in shown}
        for j, name in enumerate(shown):
            seen = mask[names.index(name)]
            for row in range(len(index)):
                value = readable(run, name, batch[name][row]) if seen else None
                grid.observed(left + offset(j), y + offset(row), value)
                grid.values(starts[j], y + offset(row), samples_of[name][:, row])
            if seen:
                grid.frame(starts[j], y, samples, len(index))
    note = "gray: not observed.  framed: reconstructions of what was observed"
    grid.text(left, bottom + 0.55, note, color=MUTED)
    return save(grid.figure, path)


def _conditional_headings(
    grid: Grid, title: str, shown: Sequence[str], left: float, starts: Sequence[float]
) -> None:
    grid.text(MARGIN, 0.8, title, fontsize=10.5, weight="bold")
    y = 1.85
    grid.text(MARGIN, y, "observed", fontsize=9, weight="bold")
    longest = max(map(len, shown))
    for i, (name, start) in enumerate(zip(shown, starts, strict=True)):
        size = 8 * min(1, 4 / longest)
        grid.text(left + offset(i) + 0.5, y, name, ha="center", color=MUTED, fontsize=size)
        grid.text(start, y, f"samples of {name}", fontsize=9, weight="bold")


def drawable(run: Run) -> list[str]:
    """The modalities that can be drawn: images and texts."""
    return [
        name
        for name, modality in run.model.modalities.items()
        if name in run.vocabularies or (len(modality.shape) == 3 and modality.shape[-1] in (1, 3))
    ]


def shown_modalities(run: Run) -> list[str]:
    """What is `drawable`; ValueError if nothing is."""
    shown = drawable(run)
    if not shown:
        shapes = {name: modality.shape for name, modality in run.model.modalities.items()}
        raise ValueError(
            f"pictures: expected a modality [H, W, 1] or [H, W, 3], or a text, got {shapes}"
        )
    return shown


def readable(run: Run, name: str, values: np.ndarray) -> np.ndarray:
    """Images as they are; ids [..., L] or probabilities [..., L, S] of a text as strings [...]."""
    if name not in run.vocabularies:
        return values
    ids = values.argmax(axis=-1) if np.issubdtype(values.dtype, np.floating) else values
    decode = run.vocabularies[name].decode
    texts = [decode(text) for text in ids.reshape(-1, ids.shape[-1])]
    return np.array(texts, object).reshape(ids.shape[:-1])[()]


def observed_mask(names: Sequence[str], observed: Sequence[str]) -> Bool[np.ndarray, " M"]:
    """The mask of a subset of the modalities; ValueError for unknown names and for none."""
    for name in observed:
        if name not in names:
            raise unknown("modality", name, names)
    if not observed:
        raise ValueError(f"observed: expected at least one of {', '.join(names)}")
    return np.isin(names, observed)


def nested_subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    """The first modality, the first two, ..., all but the last: at most four subsets of these."""
    sizes = np.unique(np.linspace(1, len(names) - 1, 4).round().astype(int))
    return [tuple(names[:size]) for size in sizes if size]


def rows_of_all_classes(split: data.Split, count: int) -> np.ndarray:
    """Indices of the first example of each class, then of the second of each, and so on."""
    if split.labels is None:
        return np.arange(min(count, len(split)))
    seen: dict[int, int] = {}
    turn = []
    for label in split.labels.tolist():
        turn.append(seen.setdefault(label, 0))
        seen[label] += 1
    return np.lexsort((split.labels, turn))[:count]


def unconditional_grid(run: Run, path: Path, *, samples: int = 20, seed: int = 0) -> Path:
    """Samples from the prior: a row for each modality, a column for each draw of z.

    Args:
      run: whose model.
      path: of the picture.
      samples: columns.
      seed: of the samples.

    Returns:
      The path.

    Raises:
      ValueError: if nothing can be drawn.
    """
    shown = shown_modalities(run)
    sample = jax.jit(partial(run.model.sample, num_samples=samples))
    generated = jax.device_get(sample(run.params, jax.random.key(seed)))
    left, top = 2 * MARGIN + max(map(len, shown)) * CHARACTER / TILE, 1.6
    title = heading(run, "Samples from the prior, one draw of z a column")
    width = max(left + offset(samples), len(title) * 1.3 * CHARACTER / TILE) + MARGIN
    grid = Grid(width, top + offset(len(shown)) + MARGIN)
    grid.text(MARGIN, 0.8, title, fontsize=10.5, weight="bold")
    for i, name in enumerate(shown):
        grid.text(MARGIN, top + offset(i) + 0.5, name, fontsize=9)
        grid.values(left, top + offset(i), readable(run, name, generated[name]))
    return save(grid.figure, path)


def panels(title: str, widths: Sequence[float]) -> tuple[Figure, list[Axes]]:
    """A figure with a title and axes of the given widths, in inches, side by side."""
    figure = Figure(figsize=(sum(widths), 3.6), layout="constrained", dpi=STYLE["figure.dpi"])
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, weight="bold")
    axes = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)
    return figure, list(axes[0])


def series(metrics: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[Any]]:
    """The steps at which a metric was logged, and its values."""
    lines = [line for line in metrics if name in line]
    return [line["step"] for line in lines], [line[name] for line in lines]


@matplotlib.rc_context(STYLE)
def training_curves(run: Run, path: Path, metrics: Sequence[Mapping[str, Any]]) -> Path:
    """The loss, the reconstructions' log-likelihoods and the KLs over the steps of training.

    Args:
      run: whose training.
      path: of the picture.
      metrics: the lines of ``metrics.jsonl``.

    Returns:
      The path.
    """
    figure, (loss, reconstruction, kl) = panels(heading(run, "Training"), (3.8, 3.8, 3.8))
    loss.set_title("Loss (negative bound, nats)")
    loss.plot(*series(metrics, "loss"), color=COLORS[0], label="training")
    steps, held_out = series(metrics, "test_loss")
    if steps:
        loss.plot(steps, held_out, "o-", ms=4, color=COLORS[1], label="held out")
    reconstruction.set_title("Log-likelihood of each modality (nats)")
    kl.set_title("KL (nats)")
    kl.plot(*series(metrics, "kl_z"), color=INK, label="z", linewidth=2.2)
    for i, name in enumerate(run.model.modalities):
        reconstruction.plot(*series(metrics, f"reconstruction/{name}"), color=color(i), label=name)
        steps, values = series(metrics, f"kl_private/{name}")
        if steps:
            kl.plot(steps, values, color=color(i), label=f"w of {name}")
    for axes in (loss, reconstruction, kl):
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.margins(x=0.02)
        leave_out_the_start(axes)
        axes.legend(ncols=2 if len(axes.lines) > 3 else 1)
    return save(figure, path)


def leave_out_the_start(axes: Axes) -> None:
    """Fit the height to all but the first twentieth of each line, which dwarfs the rest."""
    values = [y for line in axes.lines for y in line.get_ydata()[len(line.get_ydata()) // 20 :]]
    if values:
        low, high = min(values), max(values)
        margin = 0.06 * (high - low) or 1.0
        axes.set_ylim(low - margin, high + margin)


@matplotlib.rc_context(STYLE)
def pi_over_training(
    run: Run,
    path: Path,
    metrics: Sequence[Mapping[str, Any]],
    members: Bool[np.ndarray, "K M"],
) -> Path:
    """The mean weight pi of every component over training, by how many experts it joins.

    Args:
      run: whose training.
      path: of the picture.
      metrics: the lines of ``metrics.jsonl``.
      members: which experts each component joins.

    Returns:
      The path.
    """
    names, sizes = np.array(list(run.model.modalities)), members.sum(axis=1)
    steps, weights = series(metrics, "weights")
    order = np.argsort(sizes, kind="stable")
    stacked = np.array(weights).T[order]
    kinds = {size: COLORS[i % len(COLORS)] for i, size in enumerate(np.unique(sizes))}
    colors = [kinds[size] for size in sizes[order]]

    figure, (area, bars) = panels(heading(run, "Weights pi of the components"), (5.6, 3.8))
    area.set_title("Over training")
    area.stackplot(steps, stacked, colors=colors, edgecolor="white", linewidth=0.5, alpha=0.85)
    area.set(xlabel="step", ylim=(0, 1), xlim=(steps[0], max(steps[-1], steps[0] + 1)))
    area.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    shares = {size: stacked[sizes[order] == size, -1].sum() for size in kinds}
    handles = [Rectangle((0, 0), 1, 1, color=kinds[size], alpha=0.85) for size in kinds]
    texts = [f"{kind_of_component(size)}: {share:.0%} at the end" for size, share in shares.items()]
    area.legend(handles, texts, loc="lower left", frameon=True, framealpha=0.9, edgecolor="white")

    largest = np.sort(np.argsort(-stacked[:, -1], kind="stable")[:20])
    bars.set_title("At the end")
    labels = ["·".join(names[members[k]]) for k in order[largest]]
    bars.barh(labels, stacked[largest, -1], color=[colors[k] for k in largest], alpha=0.85)
    bars.set(xlabel="mean weight")
    bars.xaxis.set_major_locator(MaxNLocator(5))
    bars.invert_yaxis()
    bars.grid(axis="y", visible=False)
    bars.tick_params(axis="y", length=0, labelsize=min(8.0, 140 / len(labels)))
    return save(figure, path)


def kind_of_component(size: int) -> str:
    """What a component that joins so many experts is called."""
    return {1: "unimodal", 2: "pairwise"}.get(int(size), f"{size} experts")


@matplotlib.rc_context(STYLE)
def subset_curves(
    run: Run, path: Path, title: str, label: str, table: Table, levels: Mapping[str, float | None]
) -> Path:
    """Scores of samples, between 0 and 1, against the number of observed modalities.

    Args:
      run: whose training.
      path: of the picture.
      title: what it shows.
      label: of the scores.
      table: by observed names, then by target.
      levels: drawn as lines across, by their names, where there are any.

    Returns:
      The path.
    """
    figure, (axes,) = panels(heading(run, title), (6.4,))
    for i, name in enumerate(run.model.modalities):
        points = [(o.count(",") + 1, row[name]) for o, row in table.items() if name in row]
        if not points:
            continue
        sizes = sorted({size for size, _ in points})
        means = [np.mean([value for s, value in points if s == size]) for size in sizes]
        axes.scatter(*zip(*points, strict=True), s=9, color=color(i), alpha=0.45, linewidths=0)
        axes.plot(sizes, means, color=color(i), linewidth=1.1, label=f"target {name}")
    mean = by_subset_size(table)
    axes.plot([int(size) for size in mean], list(mean.values()), "o-", color=INK, linewidth=2.4)
    axes.lines[-1].set_label("mean over targets")
    for (name, level), style in zip(levels.items(), ("--", ":"), strict=False):
        if level is not None:
            axes.axhline(level, color=PALE, linestyle=style, label=f"{name} ({level:.2f})")
    axes.set(xlabel="observed modalities", ylabel=label)
    axes.set(ylim=(0, 1), xticks=[int(size) for size in mean])
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return save(figure, path)
