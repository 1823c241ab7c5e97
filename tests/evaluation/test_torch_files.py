"""State dicts read without PyTorch: exact, and nothing in a file is called or imported."""

import os
import pickle
import sys
import zipfile

import numpy as np
import pytest
from torch_writer import Reference, references, write_stream, write_zip

from holderjax.evaluation.torch_files import read_state_dict

RNG = np.random.default_rng(0)
STATE = {
    "conv.weight": RNG.normal(size=(4, 3, 2, 5)).astype(np.float32),
    "bn.num_batches_tracked": np.array(7),
    "bn.bias": np.float32([1, -2, 3, 0.5]),
    "empty": np.zeros((0, 3), np.float32),
}
WRITERS = pytest.mark.parametrize("write", [write_zip, write_stream])


@WRITERS
def test_every_tensor_comes_back_as_it_was(write, tmp_path):
    path = tmp_path / "state.pth"
    write(path, references(STATE))
    found = read_state_dict(path)
    assert list(found) == list(STATE)
    for name, x in found.items():
        np.testing.assert_array_equal(x, STATE[name], strict=True)
    assert "torch" not in sys.modules


@WRITERS
def test_views_of_one_storage_are_read_where_they_lie(write, tmp_path):
    numbers = np.arange(24, dtype=np.float32)
    matrix = numbers[4:16].reshape(3, 4)
    state = {
        "matrix": Reference("0", matrix, numbers, offset=4),
        "transposed": Reference("0", matrix.T, numbers, offset=4),
    }
    path = tmp_path / "state.pth"
    write(path, state)
    found = read_state_dict(path)
    np.testing.assert_array_equal(found["matrix"], matrix)
    np.testing.assert_array_equal(found["transposed"], matrix.T)
    found["matrix"][:] = 0
    np.testing.assert_array_equal(found["transposed"], matrix.T)


class Evil:
    """Unpickled by a careless reader, it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@WRITERS
def test_a_pickle_that_calls_anything_else_is_refused_by_name(write, tmp_path):
    path, made = tmp_path / "evil.pth", tmp_path / "made"
    write(path, {**references(STATE), "x": Evil(made)})
    with pytest.raises(ValueError, match=rf"evil.pth.*asks for {os.mkdir.__module__}\.mkdir"):
        read_state_dict(path)
    assert not made.exists()


@pytest.mark.parametrize(
    "name", [("builtins", "eval"), ("torch", "load"), ("torch", "HalfStorage"), ("pickle", "loads")]
)
def test_a_bare_name_is_refused_even_if_nothing_calls_it(name, tmp_path):
    path = tmp_path / "state.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02c" + "\n".join(name).encode() + b"\n.")
    with pytest.raises(ValueError, match=rf"asks for {name[0]}\.{name[1]}"):
        read_state_dict(path)


@WRITERS
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.7, 0.99])
def test_a_truncated_file_is_refused_by_name(write, share, tmp_path):
    path = tmp_path / "state.pth"
    write(path, references(STATE))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"state\.pth: no readable state dict"):
        read_state_dict(path)


@pytest.mark.parametrize(
    "content", [b"PK and no archive", b"<html>", pickle.dumps(STATE["bn.bias"])]
)
def test_a_file_of_another_kind_is_refused(content, tmp_path):
    path = tmp_path / "other.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"other\.pth: no readable state dict"):
        read_state_dict(path)


def test_a_flipped_byte_in_an_archive_is_noticed(tmp_path):
    path = tmp_path / "state.pth"
    write_zip(path, references(STATE))
    damaged = bytearray(path.read_bytes())
    at = damaged.find(STATE["conv.weight"].tobytes())
    damaged[at] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="CRC"):
        read_state_dict(path)


def bad(**changes):
    reference = Reference("0", np.zeros((2, 3), np.float32), np.zeros(6, np.float32))
    for name, value in changes.items():
        setattr(reference, name, value)
    return {"x": reference}


@WRITERS
@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (bad(offset=1), "x: .* reaches beyond"),
        (bad(offset=-1), "x: no description"),
        (bad(strides=(3, 2)), "x: .* reaches beyond"),
        (bad(strides=(-3, 1)), "x: no description"),
        (bad(strides=(0, 0), array=np.broadcast_to(np.float32(0), (100, 100))), "reaches beyond"),
        (bad(strides=(3,)), "x: no description"),
        ({"nested": references(STATE)}, "expected a tensor under each name.*'nested'"),
        ({"epoch": 3}, "expected a tensor under each name.*'epoch'"),
        ([1, 2], "expected a dict of tensors, got list"),
    ],
)
def test_nonsense_is_named(write, state, expected, tmp_path):
    path = tmp_path / "state.pth"
    write(path, state)
    with pytest.raises(ValueError, match=expected):
        read_state_dict(path)


def test_numbers_of_the_other_byte_order_are_refused(tmp_path):
    path = tmp_path / "state.pth"
    write_zip(path, references(STATE), byteorder=b"big")
    with pytest.raises(ValueError, match="expected little-endian numbers, got b'big'"):
        read_state_dict(path)


def test_a_missing_file_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        read_state_dict(tmp_path / "none.pth")
