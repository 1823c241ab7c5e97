"""The report of several runs: one page that needs nothing else, and numbers that are the runs'."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from holderjax.cli import main
from holderjax.evaluation import page
from holderjax.evaluation.frontier import COHERENCE, frontier, quality_scores
from holderjax.evaluation.page import write_report
from holderjax.evaluation.references import REFERENCES, references_for
from holderjax.evaluation.runs import find_runs, read_runs, sort_runs
from holderjax.models import SYSTEMS
from holderjax.training import TrainConfig

NAMES = ("a<b", "m&n")


def write_run(
    folder: Path,
    system: str = "holder++",
    beta: float = 1.0,
    seed: int = 0,
    coherence: float = 0.5,
    *,
    data: str = "digits",
    fingerprint: str = "f" * 16,
    distances: bool = True,
    step: int = 4,
    **settings,
) -> Path:
    """A run folder as training and evaluation leave it, of made-up numbers."""
    folder.mkdir(parents=True)
    TrainConfig(
        out=folder, system=system, data=data, beta=beta, seed=seed, steps=4, **settings
    ).save(folder)
    shapes = {name: [2, 2, 3] for name in NAMES}
    facts = {"name": data, "fingerprint": fingerprint, "modalities": shapes}
    versions = {"python": "3.11.0", "jax": "0.10.2", "devices": ["TPU <v5>"], "data": facts}
    (folder / "versions.json").write_text(json.dumps(versions))
    line = {"kl_z": 2.0, "kl_private/a<b": 0.5, "kl_private/m&n": 0.25, "weights": [1.0]}
    line |= {"reconstruction/a<b": -10.0, "reconstruction/m&n": -20.0, "seconds": 3.0}
    lines = [{"step": s, "loss": 40.0 - s - seed, "test_loss": 41.0, **line} for s in (2, 4)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    metrics = {
        "system": system,
        "data": data,
        "checkpoint": "last",
        "step": step,
        "examples": 20,
        "seed": 0,
        "device": "TPU <v5>",
        "versions": {"jax": "0.10.2"},
        "classifier": {"accuracy": dict.fromkeys(NAMES, 0.95)},
        "coherence": {
            "leave_one_out": coherence,
            "by_subset_size": {"1": coherence},
            "unconditional": coherence / 2,
        },
        "reconstruction": {"absolute_error": dict.fromkeys(NAMES, 0.1 + 0.01 * beta)},
        "representation": {"joint": 0.9, "z": dict.fromkeys(NAMES, 0.8), "w": {}},
    }
    if distances:
        kinds = ("conditional", "unconditional")
        metrics["classifier_fd"] = {k: dict.fromkeys(NAMES, 10.0 * beta + seed) for k in kinds}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    for name in page.GRIDS:
        Image.fromarray(noise).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two systems at two betas with two seeds each."""
    root = tmp_path_factory.mktemp("runs")
    for i, system in enumerate(("mmvae+", "holder++")):
        for beta in (1.0, 2.5):
            for seed in (0, 1):
                name = f"{system}-{beta}-{seed}"
                write_run(root / system / name, system, beta, seed, 0.4 + 0.1 * i + 0.02 * seed)
    return root


@pytest.fixture(scope="module")
def written(runs):
    """The report of these runs."""
    return write_report([runs], runs.parent / "report" / "out.html")


def numbers(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class Loads(HTMLParser):
    """Collects what a page refers to, its ids, its tags, and whether they nest."""

    def __init__(self) -> None:
        super().__init__()
        self.references, self.ids, self.tags, self.alts, self.open = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append(tag)
        self.references += [values[k] for k in ("src", "href", "srcset", "data") if k in values]
        self.ids += [values["id"]] if "id" in values else []
        if tag == "img":
            self.alts.append(values.get("alt"))
        if tag not in ("img", "meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(path: Path) -> Loads:
    found = Loads()
    found.feed(path.read_text(encoding="utf-8"))
    found.close()
    assert found.open == []
    return found


def test_the_page_loads_nothing_and_its_links_lead_somewhere(written):
    found, text = parsed(written[0]), written[0].read_text(encoding="utf-8")
    anchors = {r[1:] for r in found.references if r.startswith("#")}
    assert anchors
    assert anchors <= set(found.ids)
    assert len(found.ids) == len(set(found.ids))
    assert all(r.startswith(("data:", "#")) for r in found.references)
    assert not {"script", "iframe", "object", "embed"} & set(found.tags)
    assert not re.search(r"@import|url\(", text)
    assert "default-src 'none'" in text


def test_every_picture_says_what_it_shows(written):
    alts = parsed(written[0]).alts
    # Two panels of the frontier, five of training, two grids of each system and beta.
    assert len(alts) == 2 + 5 + 2 * 4
    assert all(alts)
    assert "Pareto-optimal: holder++ at beta 1 (conditional classifier-fd 10.5" in alts[0]


def test_the_page_has_the_means_the_standard_errors_and_marks_the_best(written):
    text = re.sub(r"<[^>]+>", "", written[0].read_text(encoding="utf-8"))
    # Of 0.50 and 0.52, and of 10 and 11; the standard error is half of the difference.
    assert "★ 0.510 ± 0.010" in text
    assert "★ 10.50 ± 0.50" in text
    assert "0.410 ± 0.010" in text
    assert "★ 0.410" not in text
    assert "FID" not in text.replace("It is not FID", "")


def test_names_are_escaped(written):
    text = written[0].read_text(encoding="utf-8")
    assert "a&lt;b 2×2×3, m&amp;n" in text
    assert "TPU &lt;v5&gt;" in text
    assert not {"v5", "b"} & set(parsed(written[0]).tags)


def test_the_table_of_runs_has_the_fields_that_differ_and_no_others(written):
    text = written[0].read_text(encoding="utf-8")
    table = text[text.index("The runs and the settings in which") : text.index("<details>")]
    heads = re.findall(r'<th scope="col">(.*?)</th>', table)
    assert heads == [
        *("run", "curve", "system", "beta", "seed", "evaluated", "held-out loss", "training")
    ]
    assert table.count('<th scope="row">') == 8
    assert "mmvae+/mmvae+-2.5-1" in table


def test_the_csv_files_hold_the_points_and_the_lines(runs, written):
    assert [path.name for path in written] == [
        *("out.html", "out_frontier.png", "out_frontier.csv"),
        *("out_training.png", "out_training.csv"),
    ]
    section = sort_runs(read_runs([runs]))[0]
    rows = numbers(written[2])
    quality = quality_scores([run.metrics for run in section.runs])
    for kind in ("conditional", "unconditional"):
        found = [row for row in rows if row["kind"] == kind]
        points = frontier(section.seeds, quality[kind], COHERENCE[kind])
        for row, point in zip(found, points, strict=True):
            assert (row["system"], float(row["beta"])) == (point.curve, point.beta)
            assert float(row["quality"]) == point.quality.mean
            assert float(row["quality_standard_error"]) == point.quality.standard_error
            assert float(row["coherence"]) == point.coherence.mean
            assert float(row["coherence_standard_error"]) == point.coherence.standard_error
            assert row["coherence_seeds"] == "2"
            assert bool(int(row["pareto_optimal"])) == point.optimal
    lines = numbers(written[4])
    assert len(lines) == 8 * 2
    assert {row["log_likelihood"] for row in lines} == {"-30.0"}
    assert {row["kl_w"] for row in lines} == {"0.75"}
    for path in (written[1], written[3]):
        assert Image.open(path).format == "PNG"


def test_the_same_runs_give_the_same_figures(runs, written):
    section = sort_runs(read_runs([runs]))[0]
    figure = page.frontier_figure(section)
    assert page.draw(figure.panels, "png") == written[1].read_bytes()
    assert page.data_uri(page.draw([figure.panels[0]], "svg"), "svg") in written[0].read_text()


@pytest.fixture
def undrawn(monkeypatch):
    """Figures that are not drawn, for tests of what stands around them."""
    monkeypatch.setattr(page, "draw", lambda panels, kind: b"a picture")


def test_a_report_that_fails_halfway_leaves_the_old_page(tmp_path, undrawn, monkeypatch):
    folder = write_run(tmp_path / "runs" / "x")
    old = write_report([folder], tmp_path / "out.html")[0].read_bytes()
    monkeypatch.setattr(page, "page_html", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report([write_run(tmp_path / "y", "mmvae+")], tmp_path / "out.html")
    assert (tmp_path / "out.html").read_bytes() == old
    assert "mmvae+" not in (tmp_path / "out_frontier.csv").read_text()


def test_other_settings_make_another_curve_and_seeds_do_not(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / f"small-{seed}", seed=seed, latent_dim=2)
        write_run(tmp_path / f"large-{seed}", seed=seed, latent_dim=4, log_every=2)
    write_run(tmp_path / "other", "mmvae+", latent_dim=4)
    section = sort_runs(read_runs([tmp_path]))[0]
    assert [(g.curve, len(g.runs)) for g in section.groups] == [
        ("mmvae+", 1),
        ("holder++ (latent_dim 2)", 2),
        ("holder++ (latent_dim 4)", 2),
    ]


def test_curves_of_many_settings_are_numbered_and_the_page_says_which(undrawn, tmp_path):
    write_run(tmp_path / "runs" / "x", latent_dim=2, private_dim=2, warmup=1)
    write_run(tmp_path / "runs" / "y", latent_dim=4, private_dim=4, step=2)
    html, _, points, *_ = write_report([tmp_path / "runs"], tmp_path / "out.html")
    text = html.read_text(encoding="utf-8")
    assert "<b>holder++ #2</b>: latent_dim 4, private_dim 4, warmup 0, evaluated at step 2" in text
    assert "Evaluated before the end of training: y at step 2 of 4" in text
    assert {row["settings"] for row in numbers(points)} == {
        "latent_dim 2, private_dim 2, warmup 1, evaluated at the end",
        "latent_dim 4, private_dim 4, warmup 0, evaluated at step 2",
    }


def test_data_sets_get_a_section_and_figures_each(undrawn, tmp_path):
    write_run(tmp_path / "x")
    write_run(tmp_path / "y", fingerprint="0" * 16, distances=False)
    write_run(tmp_path / "z", data="polymnist", polymnist=tmp_path)
    html, *files = write_report([tmp_path], tmp_path / "out.html")
    assert {file.name for file in files if "frontier.csv" in file.name} == {
        "out_digits-ffffffff_frontier.csv",
        "out_digits-00000000_frontier.csv",
        "out_polymnist_frontier.csv",
    }
    found = {row["quality_score"] for row in numbers(tmp_path / "out_polymnist_frontier.csv")}
    assert found == {"conditional classifier-fd", "unconditional classifier-fd"}
    found = {row["quality_score"] for row in numbers(tmp_path / "out_digits-00000000_frontier.csv")}
    assert found == {"reconstruction error"}
    text = html.read_text(encoding="utf-8")
    assert text.count("<h2") == 3
    assert text.count("Published figures and these runs</caption>") == 1


def test_published_figures_stand_beside_the_runs_own(undrawn, tmp_path):
    for beta in (1.0, 2.5):
        write_run(
            tmp_path / f"{beta}", "mmvae+", beta, coherence=0.1 * beta, data="polymnist",
            polymnist=tmp_path,
        )  # fmt: skip
    section = sort_runs(read_runs([tmp_path]))[0]
    rows = references_for("polymnist")
    cells = [page.own_figures(section, row) for row in rows if row.system == "mmvae+"]
    own = ["0.250 (mmvae+, β 2.5, 1 seed)"]
    # Coherence at beta 2.5 alone, and a classifier's distance is never put beside FID.
    assert cells == [own, own, [], []]
    assert not any(page.own_figures(section, row) for row in rows if row.system == "cmvae")
    text = write_report([tmp_path], tmp_path / "out.html")[0].read_text(encoding="utf-8")
    assert "<td>0.886 ± 0.008</td><td>MultiVae 1.0.3</td>" in text


def test_published_figures_are_of_known_systems_and_found_under_either_spelling():
    assert {row.system for row in REFERENCES} <= set(SYSTEMS)
    assert references_for("mnist_svhn") == references_for("mnist-svhn") != []
    assert references_for("digits") == []


def test_a_run_without_pictures_or_curves_is_reported_without_them(undrawn, tmp_path):
    folder = write_run(tmp_path / "x")
    for name in (*page.GRIDS, "metrics.jsonl"):
        (folder / name).unlink()
    files = write_report([folder], tmp_path / "out.html")
    assert [file.name for file in files] == ["out.html", "out_frontier.png", "out_frontier.csv"]
    assert "x holds no conditional.png" in files[0].read_text(encoding="utf-8")


def test_without_classes_the_f1_is_the_coherence_and_without_both_there_is_no_frontier(
    undrawn, tmp_path
):
    folder, bare = (write_run(tmp_path / name, data="celebamask-hq") for name in ("x", "y"))
    for run in (folder, bare):
        metrics = json.loads((run / "metrics.json").read_text())
        for key in ("coherence", "classifier", "representation", "classifier_fd"):
            del metrics[key]
        (run / "metrics.json").write_text(json.dumps(metrics))
    given = {"image,face_mask": {"attributes": 0.75}, "image,attributes": {"face_mask": 0.5}}
    edit(folder, f1={"leave_one_out": 0.625, "by_subset_size": {"2": 0.625}, "by_subset": given})
    html, *files = write_report([folder], tmp_path / "out.html")
    row = numbers(tmp_path / "out_frontier.csv")[0]
    assert (row["kind"], row["coherence"]) == ("conditional", "0.625")
    text = html.read_text(encoding="utf-8")
    assert "leave-one-out F1" in text
    assert "coherence is the F1" in text
    # Beside the published 0.633 and 0.885.
    assert "<td>0.750 (holder++, β 1, 1 seed)</td>" in text
    assert "<td>0.500 (holder++, β 1, 1 seed)</td>" in text
    files = write_report([bare], tmp_path / "bare.html")
    assert [file.suffix for file in files] == [".html", ".png", ".csv"]
    assert "frontier" not in files[1].name
    assert "Pareto frontier" not in files[0].read_text(encoding="utf-8")


def test_a_run_that_is_named_twice_counts_once(tmp_path):
    folder = write_run(tmp_path / "runs" / "x")
    (tmp_path / "runs" / "link").symlink_to(folder)
    (tmp_path / "runs" / "loop").symlink_to(tmp_path / "runs")
    assert len(find_runs([tmp_path / "runs", folder])) == 1


def damage(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)


def edit(folder: Path, **values) -> None:
    path = folder / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda f: (f / "metrics.json").unlink(), "holderjax evaluate {run}"),
        (lambda f: (f / "config.json").unlink(), "{run} is no run folder and contains none"),
        (lambda f: (f / "versions.json").unlink(), "{run} has no versions.json"),
        (lambda f: damage(f, "metrics.json", "{"), "{run}/metrics.json is not readable as JSON"),
        (lambda f: damage(f, "metrics.json", "[]"), "{run}/metrics.json: expected 'system'"),
        (lambda f: damage(f, "versions.json", "{}"), "{run}/versions.json: expected the data's"),
        (lambda f: damage(f, "metrics.jsonl", "{\n"), "{run}/metrics.jsonl is not readable"),
        (lambda f: damage(f, "conditional.png", "?"), "{run}/conditional.png is not readable"),
        (lambda f: damage(f, "config.json", '{"sead": 1}'), "did you mean 'seed'"),
        (lambda f: edit(f, system="mvae"), "is of system 'mvae', but config.json of 'holder++'"),
        (lambda f: edit(f, coherence={}), "expected coherence.leave_one_out in it"),
        (
            lambda f: edit(f, coherence={"leave_one_out": float("nan")}),
            "coherence.leave_one_out: expected finite numbers, got nan",
        ),
        (lambda f: edit(f, f1={"leave_one_out": None}), "expected f1.leave_one_out in it"),
        (lambda f: edit(f, fid={"conditional": {"m": None}}), "fid.conditional: expected finite"),
        (lambda f: edit(f, coherence=[]), "run `holderjax evaluate {run}` again"),
        (lambda f: write_run(f.parent / "twin"), "/x are the same run: holder++, beta 1, seed 0"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(change, expected, undrawn, tmp_path, capsys):
    folder = write_run(tmp_path / "runs" / "x")
    change(folder)
    named = folder if len(list(folder.parent.iterdir())) == 1 else folder.parent
    assert main(["report", str(named), "--out", str(tmp_path / "out.html")]) == 2
    error = capsys.readouterr().err
    assert expected.format(run=folder) in error
    assert error.startswith("holderjax: ")
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_all_runs_that_are_not_evaluated_are_named_with_their_commands(tmp_path):
    for name in ("x", "y z"):
        (write_run(tmp_path / name, seed=len(name)) / "metrics.json").unlink()
    with pytest.raises(FileNotFoundError) as error:
        write_report([tmp_path], tmp_path / "out.html")
    assert f"holderjax evaluate {tmp_path / 'x'}; " in str(error.value)
    assert f"holderjax evaluate '{tmp_path / 'y z'}'" in str(error.value)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--out", "x.html"], "at least one run folder"),
        (["missing", "--out", "x.html"], "missing does not exist"),
        (["missing", "--out", "x.pdf"], "ends in .html, got 'x.pdf'"),
    ],
)
def test_arguments_that_cannot_work_are_refused(argv, expected, capsys):
    assert main(["report", *argv]) == 2
    assert expected in capsys.readouterr().err


def test_the_command_prints_the_files_it_wrote(undrawn, tmp_path, capsys):
    folder = write_run(tmp_path / "x")
    assert main(["report", str(folder), "--out", str(tmp_path / "out.html")]) == 0
    printed = capsys.readouterr().out.split()
    assert printed[0] == str(tmp_path / "out.html")
    assert all(Path(path).stat().st_size > 0 for path in printed)
