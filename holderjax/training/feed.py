"""How training examples reach their devices: put there once, or streamed by Grain.

Either way a step reads the same examples: which they are follows from its number alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import jax
import numpy as np

from holderjax.training import hosts
from holderjax.training.parallel import put, replicate, shard, shares

if TYPE_CHECKING:
    from jaxtyping import Int

    Arrays = Mapping[str, np.ndarray]
    # (first, last) to the examples of the steps between, of each member of a population.
    IndicesOf = Callable[[int, int], Int[np.ndarray, "P S B"]]
    # What `step.make_steps` takes: examples [devices, N, *shape], indices [devices, P, S, b].
    Piece = tuple[dict[str, jax.Array], jax.Array]

# The rest of an accelerator is for the model.
SHARE_OF_MEMORY = 0.5
# At most so much is streamed at once (or one step); the next pieces are read meanwhile.
PIECE_BYTES = 1 << 28
THREADS = 2


@dataclass(frozen=True)
class Feed:
    """Where steps get their examples from.

    Attributes:
      pieces: (first, last) to what the program needs for the steps between, in pieces of them.
      description: for people: where the examples are, and how many bytes.
    """

    pieces: Callable[[int, int], Iterator[Piece]]
    description: str


def make_feed(
    kind: str,
    arrays: Arrays,
    indices_of: IndicesOf,
    spans: Iterable[tuple[int, int]],
    devices: Sequence[jax.Device],
) -> Feed:
    """The feed of a run.

    Args:
      kind: ``device``, ``stream``, or ``auto``: on the devices if every one of them has room.
      arrays: the training split by name, [N, *shape].
      indices_of: which examples the steps between two numbers read.
      spans: the dispatches to come, each from its first step to its last, in order.
      devices: that share a batch.

    Returns:
      The feed, which must be asked for these spans in their order.
    """
    # One process that streams would run other programs than one that does not.
    if kind == "device" or (
        kind == "auto" and not hosts.anywhere(not fits(total_bytes(arrays), devices))
    ):
        return resident(arrays, indices_of, devices)
    return streamed(arrays, indices_of, spans, devices)


def fits(size: int, devices: Sequence[jax.Device]) -> bool:
    """Whether so many bytes leave half of the free memory of every device to the model."""
    # A CPU has no memory of its own: the arrays are where they would go already.
    memories = [stats for device in devices if (stats := device.memory_stats())]
    free = [stats["bytes_limit"] - stats["bytes_in_use"] for stats in memories]
    return all(size <= SHARE_OF_MEMORY * each for each in free)


def resident(arrays: Arrays, indices_of: IndicesOf, devices: Sequence[jax.Device]) -> Feed:
    """All examples on every device; the program gathers its batches from them."""
    examples = replicate(dict(arrays), devices)

    def pieces(first: int, last: int) -> Iterator[Piece]:
        yield examples, shard(indices_of(first, last), devices)

    return Feed(pieces, f"training examples: {megabytes(total_bytes(arrays))} on the device")


def streamed(
    arrays: Arrays,
    indices_of: IndicesOf,
    spans: Iterable[tuple[int, int]],
    devices: Sequence[jax.Device],
    piece_bytes: int = PIECE_BYTES,
) -> Feed:
    """The examples of a few steps at a time, gathered on the host ahead of the devices by Grain."""
    # Half a second that only a streamed run should spend.
    import grain

    spans = list(spans)
    step_bytes = indices_of(*spans[0])[:, 0].size * sum(x[0].nbytes for x in arrays.values())
    steps = max(1, piece_bytes // max(1, step_bytes))
    source = Pieces(
        arrays, indices_of, [part for span in spans for part in cut(*span, steps)], len(devices)
    )
    options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=THREADS)
    read = iter(grain.MapDataset.source(source).to_iter_dataset(options))

    def pieces(first: int, last: int) -> Iterator[Piece]:
        for start, stop in cut(first, last, steps):
            (start_read, stop_read), indices, examples = next(read)
            if (start, stop) != (start_read, stop_read):
                raise ValueError(f"steps {start} to {stop} are not next: {start_read} is")
            yield jax.tree.map(lambda x: put(x, devices), (examples, indices))

    at_once = min(steps, max(last - first for first, last in spans))
    return Feed(
        pieces,
        f"training examples: {megabytes(total_bytes(arrays))}, streamed by Grain, "
        f"{megabytes(at_once * step_bytes)} at a time",
    )


@dataclass(frozen=True)
class Pieces:
    """Grain's source of pieces: the examples of some steps, in the devices' shares.

    Attributes:
      arrays: the training split by name, [N, *shape].
      indices_of: which examples steps read.
      spans: of steps, a piece each.
      devices: how many share a batch.
    """

    arrays: Arrays
    indices_of: IndicesOf
    spans: Sequence[tuple[int, int]]
    devices: int

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, i: int) -> tuple[tuple[int, int], np.ndarray, dict[str, np.ndarray]]:
        """The steps, the indices [devices, P, S, b], and the examples [devices, P S b, *shape]."""
        each = shares(self.indices_of(*self.spans[i]), self.devices)
        rows = each.reshape(self.devices, -1)
        places = np.arange(rows.shape[1], dtype=np.int32).reshape(each.shape[1:])
        places = np.broadcast_to(places, each.shape)
        return self.spans[i], places, {name: x[rows] for name, x in self.arrays.items()}


def cut(first: int, last: int, size: int) -> Iterator[tuple[int, int]]:
    """The steps between in the fewest parts of at most ``size``, as equal as can be."""
    parts = -(-(last - first) // size)
    ends = [first + (last - first) * i // parts for i in range(parts + 1)]
    yield from pairwise(ends)


def total_bytes(arrays: Arrays) -> int:
    """Of a split."""
    return sum(array.nbytes for array in arrays.values())


def megabytes(size: int) -> str:
    """For people."""
    return f"{size / 1e6:,.1f} MB"
