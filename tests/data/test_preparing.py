"""`prepare` by name: what it reads, fetches, keeps and refuses; and what the command line says."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import shutil
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from PIL import Image
from raw_files import pixels, write_mnist, write_svhn

from holderjax import data
from holderjax.cli import main
from holderjax.data import mnist_svhn, prepared, registry
from holderjax.data.download import MNIST, SVHN, RemoteFile, fetch
from holderjax.data.text import DIGIT_NAMES, LETTERS
from holderjax.likelihoods import Categorical
from holderjax.training import load_run


@pytest.fixture
def raw(tmp_path):
    write_mnist(tmp_path / "raw")
    write_svhn(tmp_path / "raw")
    (tmp_path / "raw" / "backgrounds").mkdir()
    for m in range(10):
        picture = Image.fromarray(pixels(m, 40, 40, 3))
        picture.save(tmp_path / "raw" / "backgrounds" / f"{m}.png")
    return tmp_path / "raw"


@pytest.mark.parametrize("name", ["mnist-svhn", "mnist-svhn-text"])
def test_mnist_svhn_is_loaded_as_it_was_prepared(raw, name):
    data.prepare(name, raw, seed=2, train_repeats=3)
    dataset = data.load(name)
    source = mnist_svhn.read(raw, text=name.endswith("text"), seed=2, train_repeats=3)
    for split, part in (("train", dataset.train), ("test", dataset.test)):
        examples = source.splits[split]
        np.testing.assert_array_equal(part.labels, examples.labels)
        for modality, array in examples.block(slice(0, examples.size)).items():
            np.testing.assert_array_equal(part.arrays[modality], array)
            assert part.arrays[modality].dtype == (np.int32 if modality == "text" else np.uint8)
    assert dataset.num_classes == 10
    assert prepared.options(name) == {"seed": 2, "train_repeats": 3}
    if name.endswith("text"):
        assert dataset.modalities["text"] == (8,)
        text = dataset.vocabularies["text"].decode(dataset.test.arrays["text"][0])
        assert text == DIGIT_NAMES[dataset.test.labels[0]]


def test_by_default_images_occur_twenty_times_in_training_and_five_times_in_the_test(raw):
    data.prepare("mnist-svhn", raw)
    dataset = data.load("mnist-svhn")
    # Of both sets' smaller number of each digit.
    assert len(dataset.train) == 20 * (1 + 1 + 1 + 1 + 1 + 1 + 1 + 2 + 1 + 1)
    assert len(dataset.test) == 5 * 11


def test_the_same_seed_gives_the_same_records_byte_for_byte(raw):
    def records(seed):
        folder = data.prepare("mnist-svhn-text", raw, seed=seed, replace=True)
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    first = records(0)
    assert records(0) == first
    assert records(1) != first


@pytest.mark.slow
def test_what_is_killed_at_any_moment_is_prepared_anew_and_the_same(raw, cache):
    """Nothing that is there before the records are whole can be loaded."""
    code = "import sys; from holderjax.cli import main; sys.exit(main())"
    options = ["--from", str(raw), "--train-repeats", "3000"]
    command = [sys.executable, "-c", code, "data", "prepare", "mnist-svhn", *options]

    def writing() -> subprocess.Popen:
        start = time.time()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seen = False
        while not seen and process.poll() is None:
            time.sleep(0.001)
            # What the last one left is older, until it is removed, which may be now.
            with contextlib.suppress(FileNotFoundError):
                seen = any(x.stat().st_mtime > start for x in cache.glob("datasets/.*"))
        return process

    process = writing()
    start = time.monotonic()
    while not prepared.is_prepared("mnist-svhn") and process.poll() is None:
        time.sleep(0.001)
    to_end = time.monotonic() - start
    assert process.wait() == 0
    whole = data.load("mnist-svhn").fingerprint

    shutil.rmtree(cache)
    rng, stopped = np.random.default_rng(0), 0
    for _ in range(12):
        process = writing()
        time.sleep(rng.uniform(0, 1.2 * to_end))
        process.kill()
        process.wait()
        if prepared.is_prepared("mnist-svhn"):
            assert data.load("mnist-svhn").fingerprint == whole
            shutil.rmtree(prepared.location("mnist-svhn"))
        else:
            stopped += 1
    assert stopped > 1
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0
    assert data.load("mnist-svhn").fingerprint == whole
    assert [path.name for path in (cache / "datasets").iterdir()] == ["mnist_svhn"]


def test_what_is_prepared_is_not_replaced_unasked(raw):
    data.prepare("mnist-svhn", raw)
    before = data.load("mnist-svhn").fingerprint
    with pytest.raises(FileExistsError, match=r"mnist-svhn is prepared already.*--replace"):
        data.prepare("mnist-svhn", raw, seed=1)
    assert data.load("mnist-svhn").fingerprint == before
    data.prepare("mnist-svhn", raw, seed=1, replace=True)
    assert data.load("mnist-svhn").fingerprint != before


def test_damaged_files_prepare_nothing(raw):
    file = raw / "test_32x32.mat"
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"test_32x32\.mat"):
        data.prepare("mnist-svhn", raw)
    assert not data.is_prepared("mnist-svhn")


def test_polymnist_is_prepared_from_either_source(raw, tmp_path):
    composed = data.load("polymnist", mnist=raw, backgrounds=raw / "backgrounds", seed=7)
    data.prepare("polymnist", raw, seed=7)
    assert data.load("polymnist").fingerprint == composed.fingerprint
    root = tmp_path / "tree"
    for split, part in (("train", composed.train), ("test", composed.test)):
        for m in range(5):
            (root / split / f"m{m}").mkdir(parents=True)
            for i, (image, label) in enumerate(zip(part.arrays[f"m{m}"], part.labels, strict=True)):
                Image.fromarray(image).save(root / split / f"m{m}" / f"{i}.{label}.png")
    data.prepare("polymnist", root, replace=True)
    assert data.load("polymnist").fingerprint == composed.fingerprint


def test_ten_modalities_serve_fewer(raw):
    data.prepare("polymnist", raw, num_modalities=10)
    ten = data.load("polymnist", num_modalities=10)
    assert list(ten.modalities) == [f"m{m}" for m in range(10)]
    assert list(data.load("polymnist").modalities) == [f"m{m}" for m in range(5)]
    np.testing.assert_array_equal(data.load("polymnist").train.arrays["m4"], ten.train.arrays["m4"])
    with pytest.raises(ValueError, match="prepared with 10 modalities, expected 11"):
        data.load("polymnist", num_modalities=11)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("mnist-svnh", {}, ValueError, "did you mean 'mnist-svhn'"),
        ("digits", {}, ValueError, "digits needs no preparation"),
        ("mnist-svhn", {"text": True}, ValueError, "unknown option .*'text'"),
        ("mnist-svhn", {"num_modalities": 3}, ValueError, "unknown option .*'num_modalities'"),
        ("polymnist", {"sead": 3}, ValueError, "did you mean 'seed'"),
        ("polymnist", {}, FileNotFoundError, "Put into a folder DIR: either the official tree"),
    ],
)
def test_mistakes_are_named(name, options, error, message):
    with pytest.raises(error, match=message):
        data.prepare(name, **options)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere; it should hold MNIST's"):
        data.prepare("mnist-svhn", tmp_path / "nowhere")


def remote(file: Path) -> RemoteFile:
    content = file.read_bytes()
    return RemoteFile(file.as_uri(), len(content), hashlib.sha256(content).hexdigest())


def put_online(monkeypatch, raw):
    """MNIST-SVHN's files are fetched from a folder of this machine."""
    files = tuple(remote(file) for file in sorted(raw.iterdir()) if file.is_file())
    row = data.DATASETS["mnist-svhn"]
    preparation = dataclasses.replace(row.preparation, remote=files)
    monkeypatch.setitem(
        registry.DATASETS, row.name, dataclasses.replace(row, preparation=preparation)
    )
    return files


def test_without_a_folder_the_files_are_fetched_once_and_the_terms_said(raw, monkeypatch):
    files = put_online(monkeypatch, raw)
    said = []
    data.prepare("mnist-svhn", say=said.append)
    assert "non-commercial" in said[0]
    assert "fetching 6 files" in said[1]
    assert [file.url for file in files] == [line.split()[0] for line in said[2:-1]]
    assert said[-1] == "writing mnist-svhn: 220 train, 55 test"
    first = data.load("mnist-svhn").fingerprint
    data.prepare("mnist-svhn", raw, replace=True)
    assert data.load("mnist-svhn").fingerprint == first
    said.clear()
    data.prepare("mnist-svhn", replace=True, say=said.append)
    assert len(said) == 2


def test_only_what_is_missing_or_damaged_is_fetched(raw, tmp_path):
    files = [remote(file) for file in sorted(raw.iterdir()) if file.is_file()]
    folder, said = tmp_path / "downloads", []
    fetch(files, folder, said.append)
    (folder / files[1].name).unlink()
    damaged = folder / files[4].name
    damaged.write_bytes(bytes(damaged.stat().st_size))
    said.clear()
    fetch(files, folder, said.append)
    assert "fetching 2 files" in said[0]
    for file in files:
        assert (folder / file.name).read_bytes() == (raw / file.name).read_bytes()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"sha256": "0" * 64}, ValueError, "expected .* of 0000"),
        ({"size": 10}, ValueError, "expected 10 of"),
        ({"size": 10**6}, ValueError, "expected 1000000 of"),
        ({"url": "file:///nowhere/t10k-labels-idx1-ubyte"}, OSError, "could not be fetched"),
    ],
)
def test_what_is_not_what_was_expected_is_not_kept(raw, tmp_path, change, error, message):
    file = dataclasses.replace(remote(raw / "t10k-labels-idx1-ubyte"), **change)
    with pytest.raises(error, match=message) as caught:
        fetch([file], tmp_path / "downloads", print)
    assert file.url in str(caught.value)
    assert list((tmp_path / "downloads").iterdir()) == []


def test_the_table_of_remote_files_is_well_formed():
    for file in MNIST + SVHN:
        assert len(file.sha256) == 64
        assert int(file.sha256, 16)
    assert sum(file.size for file in MNIST) == 11_594_722
    assert {file.name for file in SVHN} == {"train_32x32.mat", "test_32x32.mat"}


def test_gzipped_mnist_files_do_as_well(raw):
    data.prepare("mnist-svhn", raw)
    first = data.load("mnist-svhn").fingerprint
    for file in raw.glob("*ubyte"):
        file.with_name(file.name + ".gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    data.prepare("mnist-svhn", raw, replace=True)
    assert data.load("mnist-svhn").fingerprint == first


def listed_as_prepared(capsys):
    """What the last column says of each data set, in the order of the table."""
    assert main(["data", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = [line.split("│")[-2].strip() for line in lines if line.count("│") > 2]
    return [cell for cell in cells if cell]


def test_the_command_line_prepares_lists_and_shows(raw, tmp_path, capsys):
    preparable = [name for name, row in data.DATASETS.items() if row.preparation is not None]
    assert listed_as_prepared(capsys) == ["no"] * len(preparable)
    picture = tmp_path / "picture.png"
    assert main(["data", "show", "mnist-svhn-text", "--out", str(picture)]) == 2
    assert "mnist-svhn-text is not prepared" in capsys.readouterr().err
    command = ["data", "prepare", "mnist-svhn-text", "--from", str(raw)]
    assert main([*command, "--seed", "3", "--train-repeats", "2"]) == 0
    assert str(prepared.location("mnist-svhn-text")) in capsys.readouterr().out
    assert len(data.load("mnist-svhn-text").train) == 2 * 11
    assert data.state("mnist-svhn-text") == "yes, seed 3, train_repeats 2"
    assert listed_as_prepared(capsys) != ["no"] * len(preparable)
    (prepared.location("mnist-svhn-text") / "metadata.json").write_text("{")
    assert data.state("mnist-svhn-text") == "damaged"
    assert main(["data", "list"]) == 0
    assert "damaged" in capsys.readouterr().out
    assert main(["data", "show", "mnist-svhn-text", "--out", str(picture)]) == 2
    assert "prepare it anew" in capsys.readouterr().err
    assert main([*command, "--replace"]) == 0
    assert data.state("mnist-svhn-text") == "yes"
    assert str(prepared.location("mnist-svhn-text")) in capsys.readouterr().out
    assert main(["data", "show", "mnist-svhn-text", "--out", str(picture)]) == 0
    assert matplotlib.image.imread(picture).std() > 0
    assert main(command) == 2
    assert "prepared already" in capsys.readouterr().err
    assert main([*command, "--replace", "--modalities", "3"]) == 2
    assert "num_modalities" in capsys.readouterr().err


def test_texts_are_written_into_the_picture(tmp_path, raw, monkeypatch):
    from matplotlib.axes import Axes

    written = []
    monkeypatch.setattr(Axes, "text", lambda self, x, y, text, **_: written.append(text))
    data.prepare("mnist-svhn-text", raw)
    data.show(data.load("mnist-svhn-text"), tmp_path / "picture.png", rows=10)
    assert written == list(DIGIT_NAMES)


def test_a_missing_file_is_named_by_the_command_line(raw, capsys):
    (raw / "train_32x32.mat").unlink()
    assert main(["data", "prepare", "mnist-svhn", "--from", str(raw)]) == 2
    assert capsys.readouterr().err == f"holderjax: {raw} holds no train_32x32.mat\n"


@pytest.mark.slow
def test_a_model_of_what_is_prepared_reads_and_writes_texts(raw, tmp_path):
    data.prepare("mnist-svhn-text", raw)
    out, picture = tmp_path / "run", tmp_path / "grid.png"
    settings = ["--steps", "2", "--log-every", "2", "--checkpoint-every", "2", "--batch-size", "4"]
    sizes = ["--system", "mmvae", "--latent-dim", "2"]
    assert main(["train", "--data", "mnist-svhn-text", "--out", str(out), *settings, *sizes]) == 0
    run = load_run(out)
    assert run.vocabularies == {"text": LETTERS}
    assert run.model.modalities["text"].likelihood == Categorical(16)
    command = ["generate", str(run.path), "--observed", "text", "--out", str(picture)]
    assert main([*command, "--rows", "2", "--samples", "2"]) == 0
    assert matplotlib.image.imread(picture).std() > 0


def test_polymnist_without_a_folder_is_what_was_prepared():
    with pytest.raises(FileNotFoundError, match=r"polymnist is not prepared.*prepare polymnist"):
        data.load("polymnist")
