"""State dicts that PyTorch has saved, read without PyTorch.

A file of ``torch.save`` holds a pickle that says where each tensor lies, and the bytes of the
storages in which they lie: as records of a zip archive, or before PyTorch 1.6 as one stream.
A pickle can call whatever it names, so here it may name nothing but what a state dict is made of.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

# Storage classes of the module `torch`, as their numbers lie in a file.
DTYPES = {"FloatStorage": "<f4", "LongStorage": "<i8"}
# Opens the stream of the old format; the protocol's version follows.
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
COUNT_BYTES = 8  # before each storage of the old format, how many numbers it holds


class Storage(NamedTuple):
    """Where numbers lie: a record's name, their type and how many there are."""

    key: str
    dtype: str
    length: int

    @property
    def size(self) -> int:
        """In bytes."""
        return self.length * np.dtype(self.dtype).itemsize


class Tensor(NamedTuple):
    """A tensor as its pickle describes it, unchecked; offset and strides count numbers."""

    storage: Any
    offset: Any
    shape: Any
    strides: Any


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Read a dict from names to tensors that ``torch.save`` has written, in either format.

    Args:
      path: of the file.

    Returns:
      Arrays by name, in the file's order: float32 and int64, the types that state dicts of
      single precision hold.

    Raises:
      OSError: if the file cannot be read.
      ValueError: naming the file and what is wrong with it: damaged, or holding anything else than
        a dict of tensors. Nothing that the file names has been imported or called.
    """
    path = Path(path)
    with path.open("rb") as file:
        read = _read_zip if file.peek(2)[:2] == b"PK" else _read_stream
        try:
            state, storages = read(file)
            if not isinstance(state, dict):
                raise ValueError(f"expected a dict of tensors, got {type(state).__name__}")
            return {name: _array(name, x, storages) for name, x in dict.items(state)}
        except OSError:
            raise
        # A damaged pickle can raise nearly anything.
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise ValueError(f"{path}: no readable state dict of PyTorch: {reason}") from error


class _Unpickler(pickle.Unpickler):
    """Makes dicts, lists, tuples, numbers, strings, and descriptions of tensors.

    Attributes:
      storages: by key, those that the pickle has named.
    """

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            # A new function each time: a pickle can set attributes of what it was given.
            return lambda storage, offset, shape, strides, *_: Tensor(
                storage, offset, shape, strides
            )
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        raise ValueError(f"it asks for {module}.{name}, which no state dict needs")

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key, _, count, *view = pid
        if kind != "storage" or dtype not in DTYPES.values() or any(x is not None for x in view):
            raise ValueError(f"expected a storage of {' or '.join(DTYPES)}, got {pid!r}")
        if not (isinstance(key, str) and isinstance(count, int) and count >= 0):
            raise ValueError(f"expected a storage's key and its size, got {key!r} and {count!r}")
        storage = Storage(key, dtype, count)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"storage {key} is described in two ways")
        return storage


def _read_zip(file: BinaryIO) -> tuple[Any, dict[str, np.ndarray]]:
    """The unpickled object and the storages by key, of PyTorch 1.6 and later."""
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        # The archive's one folder is called after the file that was written.
        roots = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ValueError(f"expected one record data.pkl, got {len(roots)}")
        (root,) = roots
        order = root + "byteorder"
        if order in names and archive.read(order) != b"little":
            raise ValueError(f"expected little-endian numbers, got {archive.read(order)!r}")
        with archive.open(root + "data.pkl") as record:
            unpickler = _Unpickler(record)
            state = unpickler.load()

        def read(storage: Storage) -> bytes:
            record = archive.getinfo(f"{root}data/{storage.key}")
            if record.file_size != storage.size:
                raise ValueError(
                    f"storage {storage.key}: expected {storage.size} bytes, got {record.file_size}"
                )
            return archive.read(record)

        return state, _storages(unpickler, read)


def _read_stream(file: BinaryIO) -> tuple[Any, dict[str, np.ndarray]]:
    """The unpickled object and the storages by key, of PyTorch before 1.6."""
    if _Unpickler(file).load() != MAGIC:
        raise ValueError("expected a zip archive, or the number that opens the older format")
    protocol, system = _Unpickler(file).load(), _Unpickler(file).load()
    if protocol != PROTOCOL or not system["little_endian"]:
        raise ValueError(f"expected protocol {PROTOCOL}, little-endian, got {protocol}, {system}")
    unpickler = _Unpickler(file)
    state = unpickler.load()
    keys = _Unpickler(file).load()
    if set(keys) != set(unpickler.storages):
        raise ValueError("the tensors lie in other storages than the file holds")
    unpickler.storages = {key: unpickler.storages[key] for key in keys}
    end = os.fstat(file.fileno()).st_size

    def read(storage: Storage) -> bytes:
        count = int.from_bytes(file.read(COUNT_BYTES), "little")
        left = end - file.tell()
        if count != storage.length or left < storage.size:
            raise ValueError(
                f"storage {storage.key}: expected {storage.length} numbers, {storage.size} bytes, "
                f"got {count} and {left} bytes"
            )
        return file.read(storage.size)

    return state, _storages(unpickler, read)


def _storages(unpickler: _Unpickler, read: Callable[[Storage], bytes]) -> dict[str, np.ndarray]:
    return {key: np.frombuffer(read(x), x.dtype) for key, x in unpickler.storages.items()}


def _array(name: Any, tensor: Any, storages: Mapping[str, np.ndarray]) -> np.ndarray:
    """A copy of the numbers of one tensor, whose description may be any nonsense."""
    if not isinstance(name, str) or not isinstance(tensor, Tensor):
        raise ValueError(f"expected a tensor under each name, got {type(tensor)} under {name!r}")
    storage, offset, shape, strides = tensor
    whole = all(isinstance(n, int) and n >= 0 for n in (offset, *shape, *strides))
    if not isinstance(storage, Storage) or not whole or len(shape) != len(strides):
        raise ValueError(f"{name}: no description of a tensor: {tensor}")
    numbers = storages[storage.key]
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if 0 not in shape and max(last, prod(shape) - 1) >= len(numbers):
        raise ValueError(f"{name}: {tensor} reaches beyond the numbers that are there")
    steps = [step * numbers.itemsize for step in strides]
    return np.lib.stride_tricks.as_strided(numbers[offset:], shape, steps).copy()
