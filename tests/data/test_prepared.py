"""What is prepared is what was read, whole or not at all; and it needs no TensorFlow."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from raw_files import pixels, write_mnist, write_svhn

from holderjax import data
from holderjax.data import prepared
from holderjax.data.dataset import Split
from holderjax.data.examples import Examples, Source
from holderjax.data.text import LETTERS, Vocabulary

# Two blocks and a part of one.
SIZES = {"train": 2 * prepared.BLOCK + 3, "test": 5}


def make_source(labels=True, **changes):
    splits = {}
    for split, size in SIZES.items():
        arrays = {
            "photo": pixels(size, size, 4, 5, 3),
            "colour": np.random.default_rng(size).normal(size=(size, 18)).astype(np.float32),
            "a": (pixels(size + 1, size, 7) % 16).astype(np.int32),
            "seen": (pixels(size + 2, size, 3) % 2).astype(np.float32),
        }
        classes = np.arange(size, dtype=np.int32) % 3
        splits[split] = Examples.of(Split(arrays, classes if labels else None))
    kept = {"num_classes": 3 if labels else 0, "vocabularies": {"a": LETTERS}, "binary": ("seen",)}
    return Source(splits, **(kept | changes))


def in_memory(source, name="toy"):
    train, test = (
        Split(dict(x.block(slice(0, x.size))), x.labels)
        for x in (source.splits["train"], source.splits["test"])
    )
    facts = source.num_classes, source.vocabularies, source.binary
    return data.Dataset(name, train, test, *facts)


@pytest.mark.parametrize("labels", [True, False])
def test_records_give_back_the_examples_in_their_order(labels):
    source = make_source(labels)
    prepared.write("toy", source, {"seed": 3})
    found, expected = prepared.load("toy"), in_memory(source)
    assert list(found.modalities.items()) == list(expected.modalities.items())
    assert found.fingerprint == expected.fingerprint
    assert (found.name, found.num_classes) == ("toy", expected.num_classes)
    assert found.vocabularies == {"a": LETTERS}
    assert found.binary == ("seen",)
    assert found.train.arrays["photo"].flags.writeable
    assert prepared.options("toy") == {"seed": 3}


@pytest.mark.parametrize("blocks", [0.5, 1, 1.9])
def test_records_in_several_shards_stay_in_order(monkeypatch, blocks):
    example = 4 * 5 * 3 + 4 * 18 + 4 * 7 + 4 * 3 + 4
    monkeypatch.setattr(prepared, "SHARD_BYTES", int(blocks * prepared.BLOCK * example))
    source = make_source()
    folder = prepared.write("toy", source, {})
    assert prepared.load("toy").fingerprint == in_memory(source).fingerprint
    assert len(list(folder.glob("*train.array_record*"))) == 3


def test_more_than_two_gigabytes_would_be_spread_over_shards():
    size = 1_000_000
    examples = Examples(
        size, lambda rows: {"a": np.empty((rows.stop - rows.start, 3856), np.uint8)}
    )
    shards = prepared._shards(examples, prepared._shapes(examples))
    starts = [shard.args[1] for shard in shards]
    stops = [shard.args[2] for shard in shards]
    assert [0, *stops] == [*starts, size]
    lengths = np.subtract(stops, starts)
    assert (lengths[:-1] % prepared.BLOCK == 0).all()
    assert 0.9 * prepared.SHARD_BYTES < lengths.max() * 3856 <= prepared.SHARD_BYTES


def test_splits_of_its_own_are_kept_for_who_reads_the_records():
    import tensorflow_datasets as tfds

    source = make_source()
    source = Source({**source.splits, "validation": source.splits["test"]}, 3, {})
    folder = prepared.write("two-words", source, {})
    assert in_memory(source).fingerprint == prepared.load("two-words").fingerprint
    builder = tfds.builder_from_directory(folder)
    assert set(builder.info.splits) == {"train", "test", "validation"}
    blocks = builder.as_data_source("validation")
    assert [len(block["photo"]) for block in blocks] == [SIZES["test"]]


def files(folder):
    return sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())


def contents(folder):
    return {path: (folder / path).read_bytes() for path in files(folder)}


def stopping(source, after, error):
    """The source, whose training split fails in its block number ``after``."""
    train = source.splits["train"]

    def block(rows):
        if rows.start >= after * prepared.BLOCK:
            raise error
        return train.block(rows)

    splits = {**source.splits, "train": Examples(train.size, block, train.labels)}
    return Source(splits, source.num_classes, source.vocabularies)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("photo.jpg is damaged")])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_stopped_preparation_leaves_nothing(cache, after, error):
    with pytest.raises(type(error), match=str(error) or None):
        prepared.write("toy", stopping(make_source(), after, error), {})
    assert not prepared.is_prepared("toy")
    assert files(cache) == []
    with pytest.raises(FileNotFoundError, match="toy is not prepared"):
        prepared.load("toy")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("photo.jpg is damaged")])
def test_a_stopped_replacement_leaves_what_was_there(cache, error):
    prepared.write("toy", make_source(), {})
    before = contents(cache)
    with pytest.raises(type(error)):
        prepared.write("toy", stopping(make_source(), 1, error), {})
    assert contents(cache) == before


def test_a_replacement_replaces_everything(cache):
    prepared.write("toy", make_source(), {"seed": 0})
    source = make_source(labels=False)
    prepared.write("toy", source, {"seed": 1})
    assert prepared.load("toy").fingerprint == in_memory(source).fingerprint
    assert prepared.options("toy") == {"seed": 1}
    assert [p.name for p in (cache / "datasets").iterdir()] == ["toy"]


KILLED = """
import os, signal
import numpy as np
from holderjax.data import prepared
from holderjax.data.examples import Examples, Source

def block(rows):
    if rows.start:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"a": np.zeros((rows.stop - rows.start, 2), np.uint8)}

split = Examples(2 * prepared.BLOCK, block)
prepared.write("toy", Source({"train": split, "test": split}), {})
"""


def test_a_killed_preparation_leaves_nothing_that_loads_and_the_next_one_cleans_up(cache):
    done = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, env=os.environ)
    assert done.returncode < 0
    assert not prepared.is_prepared("toy")
    source = make_source()
    prepared.write("toy", source, {})
    assert prepared.load("toy").fingerprint == in_memory(source).fingerprint
    assert [p.name for p in (cache / "datasets").iterdir()] == ["toy"]


FULL_DISK = """
import resource
import numpy as np
from holderjax.data import prepared
from holderjax.data.examples import Examples, Source

noise = np.random.default_rng(0).integers(0, 256, (64 * 40, 1000), dtype=np.uint8)
split = Examples(len(noise), lambda rows: {"a": noise[rows]})
import tensorflow_datasets
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    prepared.write("toy", Source({"train": split, "test": split}), {})
except OSError as error:
    print("refused:", error)
"""


def test_a_full_disk_leaves_nothing(cache):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK], capture_output=True, text=True, env=os.environ
    )
    assert "refused: " in done.stdout, done.stderr
    assert not prepared.is_prepared("toy")
    assert files(cache) == []


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 4] ^= 0xFF
    file.write_bytes(bytes(content))


@pytest.mark.parametrize("pattern", ["*train.array_record*", "*test.array_record*"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda f: f.unlink(),
        lambda f: f.write_bytes(b""),
        lambda f: f.write_bytes(f.read_bytes()[:-10]),
        lambda f: f.write_bytes(f.read_bytes()[: f.stat().st_size // 2]),
    ],
)
def test_damaged_records_are_refused(damage, pattern):
    folder = prepared.write("toy", make_source(), {})
    (file,) = folder.glob(pattern)
    damage(file)
    with pytest.raises(ValueError, match=r"toy.*is damaged .*prepare toy --replace"):
        prepared.load("toy")


def test_a_flipped_byte_in_the_records_is_refused():
    folder = prepared.write("toy", make_source(), {})
    (file,) = folder.glob("*train.array_record*")
    content = bytearray(file.read_bytes())
    content[1000] ^= 0xFF
    file.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="is damaged"):
        prepared.load("toy")


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json", "metadata.json"])
@pytest.mark.parametrize("damage", [lambda f: f.unlink(), lambda f: f.write_text("{"), flip])
def test_damaged_descriptions_are_refused(name, damage):
    folder = prepared.write("toy", make_source(), {})
    damage(folder / name)
    with pytest.raises(ValueError, match="is damaged"):
        prepared.load("toy")


def test_a_modality_may_not_be_called_like_the_labels_or_the_mask():
    for name in ("labels", "mask"):
        split = Examples(2, lambda rows, name=name: {name: np.zeros((2, 2), np.uint8)})
        with pytest.raises(ValueError, match=f"no modality may be called '{name}'"):
            prepared.write("toy", Source({"train": split, "test": split}), {})


def test_preparing_and_loading_import_no_tensorflow_and_importing_imports_no_tfds(tmp_path):
    write_mnist(tmp_path / "raw")
    write_svhn(tmp_path / "raw")
    code = f"""
import sys
from pathlib import Path
from holderjax import data
assert "tensorflow_datasets" not in sys.modules
assert "scipy.io" not in sys.modules
data.prepare("mnist-svhn", Path({str(tmp_path / "raw")!r}))
data.load("mnist-svhn")
assert "tensorflow_datasets" in sys.modules
assert "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)


def test_what_is_said_of_a_modality_must_fit_it():
    dataset = in_memory(make_source())
    for vocabularies, message in (
        ({"b": LETTERS}, "no such modality"),
        ({"photo": LETTERS}, r"is a text, expected int32 ids \[N, length\], got uint8"),
        ({"a": Vocabulary(("", "x"))}, "holds the id 15, but its vocabulary ends at 1"),
    ):
        with pytest.raises(ValueError, match=message):
            data.Dataset("toy", dataset.train, dataset.test, 3, vocabularies)
    for binary, message in (
        (("b",), "said to be binary, but there is no such modality"),
        (("colour",), r"train 'colour' is binary, expected values of 0 and 1 alone"),
        (("photo",), r"train 'photo' is binary, expected values of 0 and 255 alone"),
    ):
        with pytest.raises(ValueError, match=message):
            data.Dataset("toy", dataset.train, dataset.test, 3, binary=binary)
    with pytest.raises(ValueError, match="first symbol is padding"):
        Vocabulary(("a", "b"))
