"""A file that is being replaced is either the old or the new one."""

from __future__ import annotations

import errno

import pytest

from holderjax.files import replacing


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "new folder" / "file.bin"
    with replacing(path) as file:
        file.write(b"old")
    with pytest.raises(TypeError), replacing(path) as file:
        file.write(b"half of the new", "and a mistake")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]
    with replacing(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device: '.*file.bin'"),
        (FileNotFoundError(errno.ENOENT, "nothing", "there"), "nothing: 'there'"),
        (OSError("a message of our own"), "^a message of our own$"),
    ],
)
def test_errors_of_the_system_name_the_file(tmp_path, error, message):
    with pytest.raises(OSError, match=message), replacing(tmp_path / "file.bin"):
        raise error
