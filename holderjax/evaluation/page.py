"""A comparison of runs as one HTML file that needs nothing else, with figures beside it."""

from __future__ import annotations

import base64
import io
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from holderjax.data.images import open_image
from holderjax.evaluation.figures import Comparison, draw, frontier_figure, training_figure
from holderjax.evaluation.frontier import (
    F1,
    Estimate,
    Score,
    best,
    coherence_scores,
    estimate_score,
    quality_scores,
    table_scores,
)
from holderjax.evaluation.references import Reference, references_for
from holderjax.evaluation.runs import (
    EvaluatedRun,
    Group,
    Section,
    differences,
    read_runs,
    shown,
    sort_runs,
)
from holderjax.files import replacing

# Pictures in a run folder, and what they show.
GRIDS = {
    "conditional.png": "samples of every modality given some of them",
    "unconditional.png": "samples of every modality from the prior",
}
PICTURE_COLORS = 256
# Of a section, in order.
PARTS = {
    "frontier": "Pareto frontier",
    "scores": "Scores",
    "published": "Published figures",
    "training": "Training",
    "samples": "Samples",
    "runs": "Runs",
    "versions": "Versions and devices",
}
NONE = "–"
# Nothing may be loaded from anywhere: what is shown is in the file.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_report(runs: Sequence[Path], out: Path) -> list[Path]:
    """Compare runs: write one HTML file, and the figures and their numbers beside it.

    Runs of different data sets get a section each, and then their names are in the figures' names.

    Args:
      runs: evaluated run folders, and folders that contain some.
      out: the HTML file. The figures of ``out.html`` are ``out_frontier.png`` and
        ``out_training.png``, their numbers ``out_frontier.csv`` and ``out_training.csv``.

    Returns:
      The files written, the HTML file first.

    Raises:
      ValueError: for no run, a damaged one, one given twice, or a name that does not end in .html.
      FileNotFoundError: for a folder that is or holds no run, or a run that was not evaluated.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"out: expected a file that ends in .html, got {str(out)!r}")
    sections = sort_runs(read_runs(runs))
    root = common_folder([run.path for section in sections for run in section.runs])
    bodies, files = [], {}
    for section in sections:
        figures = [f for f in (frontier_figure(section), training_figure(section)) if f]
        bodies.append(section_html(section, figures, root))
        for figure in figures:
            words = [out.stem, *([slug(section.name)] if len(sections) > 1 else []), figure.name]
            name = "_".join(words)
            files[out.with_name(f"{name}.png")] = draw(figure.panels, "png")
            files[out.with_name(f"{name}.csv")] = figure.csv()
    page = page_html(sections, bodies).encode()
    # The page comes last: once it is there, so is all that belongs to it.
    for path, content in [*files.items(), (out, page)]:
        with replacing(path) as file:
            file.write(content)
    return [out, *files]


def common_folder(paths: Sequence[Path]) -> Path:
    """The folder that all run folders lie in."""
    return Path(os.path.commonpath([path.absolute().parent for path in paths]))


def slug(name: str) -> str:
    """A name as a part of a file name and of an anchor."""
    return "".join(c if c.isalnum() or c in ".-" else "-" for c in name)


def page_html(sections: Sequence[Section], bodies: Sequence[str]) -> str:
    """The whole file.

    Args:
      sections: for the overview.
      bodies: theirs, as HTML.
    """
    css = resources.files("holderjax.evaluation").joinpath("report.css").read_text("utf-8")
    count = sum(len(section.runs) for section in sections)
    systems = dict.fromkeys(group.system for s in sections for group in s.groups)
    names = ", ".join(section.name for section in sections)
    title = f"{', '.join(systems)} on {names}" if len(systems) <= 4 else f"Systems on {names}"
    links = "".join(
        f'<li><a href="#{anchor}">{escape(text)}</a></li>'
        for anchor, text in contents(sections, bodies)
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>
{css}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<p class="muted">{plural(count, "run")} of {plural(len(systems), "system")}, compared by
holderjax {escape(version("holderjax"))}</p>
<nav aria-label="Contents"><ul>{links}</ul></nav>
</header>
<main>
{"".join(bodies)}</main>
</body>
</html>
"""


def contents(sections: Sequence[Section], bodies: Sequence[str]) -> list[tuple[str, str]]:
    """Anchors and their texts: the parts of a single section, else the sections."""
    if len(sections) > 1:
        return [(slug(section.name), section.name) for section in sections]
    anchors = {f"{slug(sections[0].name)}-{key}": title for key, title in PARTS.items()}
    return [(anchor, title) for anchor, title in anchors.items() if f'id="{anchor}"' in bodies[0]]


def section_html(section: Section, figures: Sequence[Comparison], root: Path) -> str:
    """All about the runs of one data set.

    Args:
      section: the runs.
      figures: the frontier and the curves of training, if there are any.
      root: what the run folders' names are relative to.
    """
    drawn = {figure.name: figure for figure in figures}
    anchor = slug(section.name)
    references = references_for(section.data)
    parts = {
        "frontier": frontier_html(section, drawn["frontier"]) if "frontier" in drawn else "",
        "scores": scores_html(section),
        "published": references_html(section, references),
        "training": training_html(drawn["training"]) if "training" in drawn else "",
        "samples": samples_html(section, root),
        "runs": runs_html(section, root),
        "versions": versions_html(section),
    }
    body = "".join(
        f'<h3 id="{anchor}-{key}">{PARTS[key]}</h3>\n{content}\n'
        for key, content in parts.items()
        if content
    )
    return (
        f"<section>\n<h2>{escape(section.name)}</h2>\n{overview_html(section)}\n{body}</section>\n"
    )


def overview_html(section: Section) -> str:
    """What was compared on what, and what the reader must know before the numbers."""
    first = section.runs[0]
    shapes = ", ".join(
        f"{name} {'×'.join(map(str, shape))}"
        for name, shape in first.versions["data"].get("modalities", {}).items()
    )
    betas = sorted({group.beta for group in section.groups})
    counts = sorted({len(group.runs) for group in section.groups})
    seeds = (
        f"{counts[0]} to {plural(counts[-1], 'seed')}" if counts[1:] else plural(counts[0], "seed")
    )
    examples = sorted({run.metrics["examples"] for run in section.runs})
    text = (
        f"Modalities {shapes or NONE}. β {', '.join(map(shown, betas))}; {seeds} each. "
        f"Scored on {' or '.join(f'{n:,}' for n in examples)} test examples"
    )
    accuracies = [
        accuracy
        for run in section.runs
        for accuracy in run.metrics.get("classifier", {}).get("accuracy", {}).values()
    ]
    if accuracies:
        text += f", with classifiers that are right on {min(accuracies):.1%} or more of real images"
    curves = "".join(
        f"<li><b>{escape(curve)}</b>: {escape(traits)}</li>"
        for curve, traits in section.traits.items()
        if traits and traits not in curve
    )
    told = f"<p>Systems with several settings:</p><ul>{curves}</ul>" if curves else ""
    return f"<p>{escape(text)}.</p>{told}{notices_html(section)}"


def notices_html(section: Section) -> str:
    """Warnings of runs that were evaluated before the end of their training."""
    early = [
        f"{run.path.name} at step {run.metrics['step']:,} of {run.config.steps:,}"
        for run in section.runs
        if run.metrics["checkpoint"] == "last" and run.metrics["step"] < run.config.steps
    ]
    if not early:
        return ""
    return (
        f'<p class="notice">Evaluated before the end of training: {escape("; ".join(early))}.</p>'
    )


def frontier_html(section: Section, figure: Comparison) -> str:
    """The frontier's panels and how to read them."""
    metrics = [run.metrics for run in section.runs]
    quality = quality_scores(metrics)["conditional"].label
    caption = (
        "Means over seeds, bars of one standard error; a line joins the betas of a system. Up and "
        "to the left is better. Filled: Pareto-optimal by the means, no other point is at least as "
        "good in both scores and better in one; the broad line joins these."
    )
    if "classifier-fd" in quality:
        caption += (
            " Classifier-fd is the Fréchet distance in the features of the classifiers that judge "
            "coherence, averaged over modalities. It is not FID, and no figure to compare with it."
        )
    if coherence_scores(metrics)["conditional"] is F1:
        caption += (
            " The data has no classes: coherence is the F1 of the modalities of yes and no, given "
            "all others."
        )
    if "error" in quality:
        caption += (
            " Quality is the mean absolute error of reconstructions, the same in both panels: not "
            "every run has a Fréchet distance."
        )
    return figure_html(figure, caption, "svg")


def training_html(figure: Comparison) -> str:
    """The curves of training and how to read them."""
    caption = (
        "A line for each run, all seeds and betas of a system in its colour. Losses at different "
        "betas or of different bounds are not comparable. The first steps may lie outside of a "
        "panel."
    )
    return figure_html(figure, caption, "png")


def figure_html(figure: Comparison, caption: str, kind: Literal["svg", "png"]) -> str:
    """A figure's panels, each a picture of its own that finds its place on the screen."""
    panels = "".join(
        f'<img alt="{escape(panel.alt)}" src="{data_uri(draw([panel], kind), kind)}">'
        for panel in figure.panels
    )
    return (
        f'<figure><div class="panels">{panels}</div><figcaption>{escape(caption)}</figcaption>'
        "</figure>"
    )


def data_uri(content: bytes, kind: str) -> str:
    """A picture as an address that holds it."""
    mime = {"svg": "image/svg+xml", "png": "image/png"}[kind]
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def scores_html(section: Section) -> str:
    """The tables of scores, a row for each system and beta."""
    tables = table_scores([run.metrics for run in section.runs])
    note = (
        "Mean ± standard error over seeds; the star marks the best mean of a column. (n = …) where "
        "not all seeds of a row have the score. Conditional scores are of one modality given all "
        "others; scores by modality are averaged over these."
    )
    return f"<p>{note}</p>" + "".join(
        score_table_html(section.groups, title, scores) for title, scores in tables.items()
    )


def score_table_html(groups: Sequence[Group], title: str, scores: Sequence[Score]) -> str:
    """One table of scores."""
    columns = []
    for score in scores:
        estimates = [estimate_score([run.metrics for run in g.runs], score.path) for g in groups]
        decimals = decimals_for([e.mean for e in estimates if e is not None])
        columns.append(
            [
                estimate_cell(e, len(group.runs), decimals, mark)
                for e, group, mark in zip(
                    estimates, groups, best(estimates, score.better), strict=True
                )
            ]
        )
    rows = [
        [escape(g.curve), cell(shown(g.beta)), cell(str(len(g.runs))), *(c[i] for c in columns)]
        for i, g in enumerate(groups)
    ]
    heads = [score_head(score) for score in scores]
    return table_html(title, ["system", "β", "seeds", *heads], rows)


def score_head(score: Score) -> str:
    """A column's heading, with the side that is better."""
    arrow = {"higher": "↑", "lower": "↓"}[score.better]
    return (
        f'{escape(score.label)}&nbsp;<span aria-hidden="true">{arrow}</span>'
        f'<span class="sr">, {score.better} is better</span>'
    )


def decimals_for(values: Sequence[float]) -> int:
    """Decimals that give the largest value four digits, fractions three decimals."""
    largest = max((abs(value) for value in values), default=0.0)
    if largest <= 1:
        return 3
    return max(0, 3 - math.floor(math.log10(largest)))


def estimate_cell(found: Estimate | None, seeds: int, decimals: int, best: bool) -> str:
    """A table's cell with an estimate."""
    if found is None:
        return cell(NONE)
    text = found.text(decimals)
    if found.count != seeds:
        text += f" (n = {found.count})"
    if not best:
        return cell(text)
    return f'<td class="best"><span role="img" aria-label="best:">★</span> {escape(text)}</td>'


def cell(text: str) -> str:
    """A table's cell with plain text."""
    return f"<td>{escape(text)}</td>"


def table_html(
    caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]], kind: str = ""
) -> str:
    """A table in a box that scrolls by itself.

    Args:
      caption: plain text.
      heads: HTML of the columns' headings.
      rows: HTML of the row's heading, then whole cells.
      kind: a class, ``words`` for tables of more text than numbers.
    """
    head = "".join(f'<th scope="col">{text}</th>' for text in heads)
    body = "".join(f'<tr><th scope="row">{row[0]}</th>{"".join(row[1:])}</tr>\n' for row in rows)
    return (
        f'<div class="scroll {kind}" role="region" aria-label="{escape(caption)}" tabindex="0">'
        f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>\n"
        f"<tbody>{body}</tbody></table></div>\n"
    )


def references_html(section: Section, references: Sequence[Reference]) -> str:
    """Published figures beside the runs' own; nothing for data without any."""
    if not references:
        return ""
    rows = []
    for row in references:
        beta = f" at β {shown(row.beta)}" if row.beta is not None else ""
        published = f"{row.value:g}" + (f" ± {row.error:g}" if row.error is not None else "")
        rows.append(
            [
                escape(row.system),
                *map(cell, (f"{row.score}{beta}", published, row.source)),
                f"<td>{'<br>'.join(map(escape, own_figures(section, row))) or NONE}</td>",
            ]
        )
    note = (
        "The publications trained on the official data with their own networks and budgets; the "
        "runs here are as the tables below say. Only FID is compared with FID."
    )
    heads = ["system", "score", "published", "by", "here"]
    return f"<p>{note}</p>" + table_html("Published figures and these runs", heads, rows, "words")


def own_figures(section: Section, row: Reference) -> list[str]:
    """The runs' own values of a published score, by each curve and beta that compares."""
    found = []
    for group in section.groups:
        if group.system != row.system or row.beta not in (None, group.beta):
            continue
        value = estimate_score([run.metrics for run in group.runs], row.path)
        if value is not None:
            text = value.text(decimals_for([value.mean]))
            seeds = plural(value.count, "seed")
            found.append(f"{text} ({group.curve}, β {shown(group.beta)}, {seeds})")
    return found


def samples_html(section: Section, root: Path) -> str:
    """The grids of samples of the first seed of each system and beta."""
    figures = []
    for group in section.groups:
        run = group.runs[0]
        what = f"{group.curve}, β {shown(group.beta)}, seed {run.config.seed}"
        shown_grids = {name: text for name, text in GRIDS.items() if (run.path / name).is_file()}
        for name, text in shown_grids.items():
            figures.append(picture_html(run.path / name, f"{what}: {text}"))
        if not shown_grids:
            told = f"{what}: {relative(run, root)} holds no {' and no '.join(GRIDS)}."
            figures.append(f'<p class="muted">{escape(told)}</p>')
    note = "Of the first seed of each system and β; the others are in the run folders."
    return f"<p>{note}</p>" + "".join(figures)


def picture_html(path: Path, caption: str) -> str:
    """A picture file, in a palette to save space, in a box that scrolls by itself."""
    image, file = open_image(path), io.BytesIO()
    width, height = image.size
    image.convert("RGB").quantize(PICTURE_COLORS).save(file, "PNG", optimize=True)
    uri = data_uri(file.getvalue(), "png")
    return (
        f'<figure><div class="scroll grid" role="region" aria-label="{escape(caption)}" '
        f'tabindex="0"><img alt="{escape(caption)}" width="{width}" height="{height}" '
        f'style="min-width: min({width}px, 52rem)" src="{uri}">'
        f"</div><figcaption>{escape(caption)}</figcaption></figure>"
    )


def runs_html(section: Section, root: Path) -> str:
    """The runs, what their settings differ in, and what they share."""
    runs = section.runs
    settings = [
        {k: v for k, v in run.config.to_json().items() if k not in ("out", "resume")}
        for run in runs
    ]
    differing = differences(settings)
    curves = {id(run): group.curve for group in section.groups for run in group.runs}
    heads = ["run", "curve", *map(escape, differing), "evaluated", "held-out loss", "training"]
    rows = []
    for run, values in zip(runs, settings, strict=True):
        lines = run.training()
        held_out = [line["test_loss"] for line in lines if "test_loss" in line]
        facts = (
            curves[id(run)],
            *(shown(values[name]) for name in differing),
            run.evaluated(),
            f"{held_out[-1]:,.1f}" if held_out else NONE,
            duration(lines[-1]["seconds"]) if lines and "seconds" in lines[-1] else NONE,
        )
        rows.append([escape(relative(run, root)), *map(cell, facts)])
    shared = [
        [escape(name), cell(shown(value))]
        for name, value in settings[0].items()
        if name not in differing
    ]
    return (
        table_html("The runs and the settings in which they differ", heads, rows)
        + f"<details><summary>The {plural(len(shared), 'setting')} that they share</summary>"
        + table_html("Shared settings", ["setting", "value"], shared, "words")
        + "</details>"
    )


def relative(run: EvaluatedRun, root: Path) -> str:
    """The run folder's name, as far as it tells it from the others."""
    return run.path.absolute().relative_to(root).as_posix()


def duration(seconds: float) -> str:
    """A time, for people."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def versions_html(section: Section) -> str:
    """Versions and devices of training and of evaluation."""
    training = [
        {
            **{k: v for k, v in run.versions.items() if isinstance(v, str)},
            "device": ", ".join(run.versions.get("devices", [])) or None,
            "data": str(run.versions["data"]["fingerprint"])[:12],
        }
        for run in section.runs
    ]
    evaluation = [
        {**run.metrics.get("versions", {}), "device": run.metrics.get("device")}
        for run in section.runs
    ]
    names = dict.fromkeys(key for row in (*training, *evaluation) for key in row)
    rows = [
        [
            escape({"data": "data (fingerprint)"}.get(name, name)),
            *(cell(tally([row.get(name) for row in side])) for side in (training, evaluation)),
        ]
        for name in names
    ]
    return table_html(
        "What the runs depended on", ["what", "training", "evaluation"], rows, "words"
    )


def tally(values: Sequence[Any]) -> str:
    """A value, or each of several with the number of runs that have it."""
    counts: Mapping[str, int] = Counter(NONE if value is None else str(value) for value in values)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{value} ({plural(n, 'run')})" for value, n in counts.items())


def plural(count: int, noun: str) -> str:
    """A count and its noun."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
