"""Published figures, each on the official data, to put beside one's own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reference:
    """A figure that a paper or the field's PyTorch library reports.

    Attributes:
      data: the data set, words joined by hyphens.
      system: as `holderjax systems` calls it.
      score: what was measured, for people.
      value: as published.
      source: who published it.
      path: where ``metrics.json`` holds the same score.
      beta: that it was measured at, None if that is not stated.
      error: published beside the value, if any.
    """

    data: str
    system: str
    score: str
    value: float
    source: str
    path: tuple[str, ...]
    beta: float | None = None
    error: float | None = None


LIBRARY = "MultiVae 1.0.3"
LEAVE_ONE_OUT = ("leave-one-out coherence", ("coherence", "leave_one_out"))
UNCONDITIONAL = ("unconditional coherence", ("coherence", "unconditional"))
MNIST_TO_SVHN = ("coherence, mnist to svhn", ("coherence", "by_subset", "mnist", "svhn"))
SVHN_TO_MNIST = ("coherence, svhn to mnist", ("coherence", "by_subset", "svhn", "mnist"))


def _row(
    data: str,
    system: str,
    score: tuple[str, tuple[str, ...]],
    value: float,
    source: str,
    beta: float | None = None,
    error: float | None = None,
) -> Reference:
    return Reference(data, system, score[0], value, source, score[1], beta, error)


def _by_size(system: str, values: tuple[float, ...], source: str) -> list[Reference]:
    return [
        _row(
            "polymnist",
            system,
            (f"coherence, {size} observed", ("coherence", "by_subset_size", str(size))),
            value,
            source,
        )
        for size, value in enumerate(values, start=1)
    ]


def _celeba(score: str, path: tuple[str, ...], values: tuple[float, ...]) -> list[Reference]:
    systems = ("mmvae+", "cmvae", "holder+", "holder++")
    return [
        _row("celebamask-hq", system, (score, path), value, "Hölder++ paper")
        for system, value in zip(systems, values, strict=True)
    ]


REFERENCES = (
    _row("polymnist", "mmvae+", LEAVE_ONE_OUT, 0.869, "MMVAE+ paper", 2.5),
    _row("polymnist", "mmvae+", LEAVE_ONE_OUT, 0.886, LIBRARY, 2.5, 0.008),
    _row(
        "polymnist",
        "mmvae+",
        ("conditional FID", ("fid", "conditional")),
        92.81,
        "MMVAE+ paper",
        2.5,
    ),
    _row("polymnist", "mmvae+", ("conditional FID", ("fid", "conditional")), 93, LIBRARY, 2.5, 5),
    _row("polymnist", "cmvae", LEAVE_ONE_OUT, 0.897, "CMVAE paper"),
    _row("polymnist", "cmvae", LEAVE_ONE_OUT, 0.886, LIBRARY),
    _row("polymnist", "cmvae", UNCONDITIONAL, 0.781, "CMVAE paper"),
    _row("polymnist", "cmvae", UNCONDITIONAL, 0.764, LIBRARY),
    *_by_size("mopoe", (0.66, 0.77, 0.81, 0.83), "MoPoE paper"),
    *_by_size("mopoe", (0.67, 0.79, 0.84, 0.85), LIBRARY),
    _row("mnist-svhn", "mmvae", UNCONDITIONAL, 0.86, "MMVAE paper"),
    _row("mnist-svhn", "mmvae", UNCONDITIONAL, 0.88, LIBRARY),
    _row("mnist-svhn", "mmvae", MNIST_TO_SVHN, 0.69, "MMVAE paper"),
    _row("mnist-svhn", "mmvae", MNIST_TO_SVHN, 0.67, LIBRARY),
    _row("mnist-svhn", "mmvae", SVHN_TO_MNIST, 0.42, "MMVAE paper"),
    _row("mnist-svhn", "mmvae", SVHN_TO_MNIST, 0.41, LIBRARY),
    *(
        _row("mnist-svhn", system, (score, ("representation", *path)), value, "Hölder++ paper")
        for system, values in (("holder+", (0.966, 0.479)), ("holder++", (0.970, 0.387)))
        for score, path, value in zip(
            ("class from z of mnist", "class from w of mnist"),
            (("z", "mnist"), ("w", "mnist")),
            values,
            strict=True,
        )
    ),
    _row(
        "mnist-svhn",
        "holder++",
        ("class from joint z", ("representation", "joint")),
        0.977,
        "Hölder++ paper",
    ),
    *_celeba(
        "FID of image given attributes",
        ("fid", "by_subset", "attributes", "image"),
        (110.15, 125.21, 87.19, 90.99),
    ),
    *_celeba(
        "FID of image given mask and attributes",
        ("fid", "by_subset", "face_mask,attributes", "image"),
        (92.63, 95.91, 72.32, 73.64),
    ),
    *_celeba(
        "F1 of attributes given mask and image",
        ("f1", "by_subset", "image,face_mask", "attributes"),
        (0.596, 0.590, 0.632, 0.633),
    ),
    *_celeba(
        "F1 of mask given attributes and image",
        ("f1", "by_subset", "image,attributes", "face_mask"),
        (0.879, 0.874, 0.896, 0.885),
    ),
)


def references_for(data: str) -> list[Reference]:
    """The published figures on a data set, however its name joins words."""
    return [row for row in REFERENCES if row.data == data.replace("_", "-")]
