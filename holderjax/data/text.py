"""Texts as arrays of ids, and back."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

PADDING, UNKNOWN = 0, 1


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """What the ids of a text modality stand for.

    Attributes:
        symbols: the symbol of each id; id 0 is padding, which has none: ``""``.
        separator: between the symbols of a text; ``""`` for characters, ``" "`` for words.
    """

    symbols: tuple[str, ...]
    separator: str = ""

    def __post_init__(self) -> None:
        if not self.symbols or self.symbols[PADDING] != "":
            raise ValueError(f"the first symbol is padding, '', got {self.symbols[:1]}")

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Vocabulary:
        """What `to_json` gave, once it was read back."""
        return cls(tuple(values["symbols"]), values["separator"])

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)

    def decode(self, ids: Int[np.ndarray, " length"]) -> str:
        """The text, without its padding."""
        return self.separator.join(self.symbols[i] for i in ids if i != PADDING)


# The 15 letters of the digits' English names: ids 1 to 15, in alphabetical order.
DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LETTERS = Vocabulary(("", *sorted(set("".join(DIGIT_NAMES)))))
NAME_LENGTH = 8


def digit_names(labels: Int[np.ndarray, " N"], rng: np.random.Generator) -> Int[np.ndarray, "N 8"]:
    """The English name of each digit, in ids of ``LETTERS``, after a random number of paddings.

    The offset is uniform over all at which the name still fits into the eight characters.
    """
    ids = {letter: i for i, letter in enumerate(LETTERS.symbols)}
    names = np.zeros((len(DIGIT_NAMES), NAME_LENGTH), np.int32)
    for digit, name in enumerate(DIGIT_NAMES):
        names[digit, : len(name)] = [ids[letter] for letter in name]
    lengths = np.array([len(name) for name in DIGIT_NAMES])[labels]
    offsets = rng.integers(NAME_LENGTH - lengths + 1)
    # Paddings at the end come around to the front.
    columns = (np.arange(NAME_LENGTH) - offsets[:, None]) % NAME_LENGTH
    return names[labels[:, None], columns]


def words(text: str) -> list[str]:
    """Lower-case words of a text: runs of letters, digits and apostrophes."""
    return re.findall(r"[a-z0-9']+", text.lower())


def build_vocabulary(texts: Iterable[Sequence[str]], least: int) -> Vocabulary:
    """The words that occur at least ``least`` times, most frequent first, ties by alphabet.

    Id 0 is padding, id 1 stands for every other word: ``<unk>``.
    """
    counts = Counter(word for text in texts for word in text)
    kept = sorted((-count, word) for word, count in counts.items() if count >= least)
    return Vocabulary(("", "<unk>", *(word for _, word in kept)), separator=" ")
