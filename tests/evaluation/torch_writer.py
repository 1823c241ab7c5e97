"""Files as PyTorch writes them, written without PyTorch."""

from __future__ import annotations

import io
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from contextlib import contextmanager

import numpy as np

STORAGES = {"<f4": "FloatStorage", "<i8": "LongStorage"}


@contextmanager
def fake_torch():
    """Modules that let a pickle name what a state dict's names, and only that."""
    modules = {name: types.ModuleType(name) for name in ("torch", "torch._utils")}

    def _rebuild_tensor_v2(*args):
        raise AssertionError("called while reading")

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    modules["torch._utils"]._rebuild_tensor_v2 = _rebuild_tensor_v2
    for name in STORAGES.values():
        setattr(modules["torch"], name, type(name, (), {"__module__": "torch"}))
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield modules["torch"], _rebuild_tensor_v2
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


class Reference:
    """A tensor on its way into a pickle: how it lies in its storage."""

    def __init__(self, key, array, storage, offset=0, strides=None):
        self.key, self.array, self.storage, self.offset = key, array, storage, offset
        self.strides = strides or tuple(s // array.itemsize for s in array.strides)


def pickled(obj, torch, rebuild, legacy):
    """The pickle of an object whose tensors are `Reference`, and their storages by key."""
    storages = {}

    class StorageOf:
        def __init__(self, reference):
            self.reference = reference

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            if isinstance(obj, StorageOf):
                storage = storages[obj.reference.key] = obj.reference.storage
                kind = getattr(torch, STORAGES[storage.dtype.str])
                view = (None,) if legacy else ()
                return ("storage", kind, obj.reference.key, "cpu", storage.size, *view)
            return None

        def reducer_override(self, obj):
            if isinstance(obj, Reference):
                shape = obj.array.shape
                args = (StorageOf(obj), obj.offset, shape, obj.strides, False, OrderedDict())
                return rebuild, args
            return NotImplemented

    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump(obj)
    return buffer.getvalue(), storages


def references(state):
    """A state dict with the metadata that modules add, each tensor in a storage of its own."""
    found = OrderedDict(
        (name, Reference(str(i), x, np.ascontiguousarray(x).reshape(-1)))
        for i, (name, x) in enumerate(state.items())
    )
    found._metadata = OrderedDict([("", {"version": 1})])
    return found


def write_zip(path, obj, byteorder=b"little"):
    """The format since 1.6, of any object with `Reference` in it."""
    with fake_torch() as (torch, rebuild):
        data, storages = pickled(obj, torch, rebuild, legacy=False)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/byteorder", byteorder)
        for key, storage in storages.items():
            archive.writestr(f"archive/data/{key}", storage.tobytes())
        archive.writestr("archive/version", b"3\n")


def write_stream(path, obj):
    """The format before 1.6, of any object with `Reference` in it."""
    sizes = {"short": 2, "int": 4, "long": 8}
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": sizes}
    with fake_torch() as (torch, rebuild):
        data, storages = pickled(obj, torch, rebuild, legacy=True)
    with path.open("wb") as file:
        for head in (0x1950A86A20F9469CFC6C, 1001, system):
            file.write(pickle.dumps(head, protocol=2))
        file.write(data)
        file.write(pickle.dumps(sorted(storages), protocol=2))
        for key in sorted(storages):
            file.write(struct.pack("<q", storages[key].size) + storages[key].tobytes())
