"""The data sets that are known by name."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from holderjax.data import (
    celebamask,
    cubicc,
    digits,
    identifiable,
    linear_gaussian,
    mnist_svhn,
    npz,
    polymnist,
    prepared,
    tfds_data,
)
from holderjax.data.cache import cache_dir
from holderjax.data.dataset import Dataset
from holderjax.data.download import MNIST, SVHN, RemoteFile, fetch
from holderjax.data.examples import Source
from holderjax.naming import unknown

NPZ = ".npz"


@dataclasses.dataclass(frozen=True)
class Preparation:
    """How the raw files of a data set become prepared records.

    Attributes:
        read: folder of the raw files, options -> the examples.
        files: what that folder has to hold, and where to get it.
        remote: the raw files, where anyone may fetch them.
        terms: on which terms they are offered.
    """

    read: Callable[..., Source]
    files: str
    remote: tuple[RemoteFile, ...] = ()
    terms: str = ""


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """A row of the table of data sets.

    Attributes:
        name: what ``load`` and the command line call it.
        description: one line for people.
        modalities: their names and shapes, in words.
        needs: what has to be on disk.
        loader: called with the options of ``load``.
        preparation: how it is prepared; None where there is nothing to prepare.
    """

    name: str
    description: str
    modalities: str
    needs: str
    loader: Callable[..., Dataset]
    preparation: Preparation | None = None


def _prepared(
    name: str, description: str, modalities: str, preparation: Preparation
) -> DatasetInfo:
    """A row that is read from nothing but prepared records."""
    loader = partial(prepared.load, name)
    return DatasetInfo(name, description, modalities, "preparing", loader, preparation)


def _mnist_svhn(text: bool) -> Preparation:
    return Preparation(
        partial(mnist_svhn.read, text=text),
        "MNIST's four IDX files, gzipped or not (train-images-idx3-ubyte, train-labels-idx1-ubyte, "
        "t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte), and SVHN's train_32x32.mat and "
        "test_32x32.mat (http://ufldl.stanford.edu/housenumbers/)",
        MNIST + SVHN,
        "MNIST: CC BY-SA 3.0. SVHN: for non-commercial use only.",
    )


DATASETS = {
    row.name: row
    for row in (
        DatasetInfo(
            "digits",
            "1,797 handwritten digits over five pictures (1,500 in 12,000 train, 297 test)",
            "m0..m4: 16x16x3",
            "nothing: scikit-learn and scikit-image hold it",
            digits.load,
        ),
        DatasetInfo(
            "polymnist",
            "MNIST over five pictures (60,000 train, 10,000 test)",
            "m0..m4: 28x28x3",
            "preparing; or root: the official tree of PNGs; or mnist: the four IDX files, "
            "and backgrounds: a folder of pictures",
            polymnist.load,
            Preparation(
                polymnist.read,
                "either the official tree, {train,test}/m{0..4}/INDEX.LABEL.png "
                "(see https://github.com/thomassutter/MoPoE), or MNIST's four IDX files and a "
                "folder `backgrounds` with a picture for each modality",
            ),
        ),
        _prepared(
            "mnist-svhn",
            "the same digit in MNIST and SVHN (1,121,360 train, 50,000 test)",
            "mnist: 28x28x1, svhn: 32x32x3",
            _mnist_svhn(text=False),
        ),
        _prepared(
            "mnist-svhn-text",
            "mnist-svhn and the digit's English name (1,121,360 train, 50,000 test)",
            "mnist: 28x28x1, svhn: 32x32x3, text: 8 letters",
            _mnist_svhn(text=True),
        ),
        _prepared(
            "cubicc",
            "pictures of birds with captions, eight families (CUB-200-2011's split)",
            "image: 64x64x3, caption: 32 words",
            Preparation(
                cubicc.read,
                "CUB_200_2011 (https://www.vision.caltech.edu/datasets/cub_200_2011/) and "
                "text_c10, ten captions a picture (https://github.com/reedscot/cvpr2016)",
            ),
        ),
        _prepared(
            "celebamask-hq",
            "faces, masks of their parts, attributes (24,000 train, 3,000 test)",
            "image: 128x128x3, face_mask: 128x128x1, attributes: 18",
            Preparation(
                celebamask.read,
                "CelebA-HQ-img, CelebAMask-HQ-mask-anno and CelebAMask-HQ-attribute-anno.txt "
                "(https://github.com/switchablenorms/CelebAMask-HQ)",
            ),
        ),
        DatasetInfo(
            "linear-gaussian",
            "linear views of five Gaussian latents (5,000 train, 1,000 test)",
            "view0..view4: 30 to 59 numbers",
            "nothing: it is generated",
            linear_gaussian.load,
        ),
        DatasetInfo(
            "identifiable",
            "piecewise linear views of a mixture of five Gaussians (5,000 train, 1,000 test)",
            "view0..view4: 25 numbers",
            "nothing: it is generated",
            identifiable.load,
        ),
    )
}


def load(name: str, **options: Any) -> Dataset:
    """The data set called ``name``, read into memory.

    Args:
        name: a key of ``DATASETS``; or the path of an ``.npz`` file of your own, which holds
            ``NAME_train`` and ``NAME_test`` for each modality, and perhaps ``labels_train`` and
            ``labels_test`` (see ``holderjax.data.npz``); or ``tfds:NAME``, for what TFDS has
            prepared (see ``holderjax.data.tfds_data``).
        **options: what its loader takes (``DATASETS[name].loader``).

    Raises:
        ValueError: for an unknown name or option, or damaged files.
        FileNotFoundError: for files that are not where they should be.
    """
    if name.endswith(NPZ):
        loader = partial(npz.load, Path(name).expanduser())
    elif name.startswith(tfds_data.PREFIX):
        loader = partial(tfds_data.load, name.removeprefix(tfds_data.PREFIX))
    else:
        loader = _info(name).loader
    _check_options(name, options, loader)
    return loader(**options)


def is_own(name: str) -> bool:
    """Whether ``load`` takes the name as a user's own data: a file's path, or a TFDS name."""
    return name.endswith(NPZ) or name.startswith(tfds_data.PREFIX)


def prepare(
    name: str,
    source: Path | None = None,
    *,
    replace: bool = False,
    say: Callable[[str], None] = print,
    **options: Any,
) -> Path:
    """Read the raw files of the data set ``name`` once and keep them for ``load``.

    The same files and options give the same records. Whatever stops this leaves what was prepared
    before, or nothing.

    Args:
        name: a key of ``DATASETS``.
        source: folder of the raw files; without, they are fetched into the cache folder, where
            their licence allows that.
        replace: whether to take the place of what is prepared.
        say: told what is fetched, on which terms, and what is written.
        **options: what its reader takes (``DATASETS[name].preparation.read``): seed, ...

    Returns:
        The folder of the prepared records.

    Raises:
        ValueError: for an unknown name or option, a data set that needs no preparation, or damaged
            files.
        FileNotFoundError: for missing files, saying what is needed.
        FileExistsError: if it is prepared and not to be replaced.
    """
    preparation = _info(name).preparation
    if preparation is None:
        raise ValueError(f"{name} needs no preparation: it is ready to load")
    _check_options(name, options, preparation.read)
    if prepared.is_prepared(name) and not replace:
        raise FileExistsError(
            f"{name} is prepared already, in {prepared.location(name)}; to replace it: --replace"
        )
    if source is None:
        source = _fetched(name, preparation, say)
    elif not source.is_dir():
        raise FileNotFoundError(f"there is no folder {source}; it should hold {preparation.files}")
    examples = preparation.read(source, **options)
    sizes = ", ".join(f"{part.size} {split}" for split, part in examples.splits.items())
    say(f"writing {name}: {sizes}")
    return prepared.write(name, examples, options)


def _fetched(name: str, preparation: Preparation, say: Callable[[str], None]) -> Path:
    if not preparation.remote:
        raise FileNotFoundError(
            f"the files of {name} are not fetched for you. Put into a folder DIR: "
            f"{preparation.files}. Then: holderjax data prepare {name} --from DIR"
        )
    folder = cache_dir() / "downloads"
    say(preparation.terms)
    fetch(preparation.remote, folder, say)
    return folder


def _info(name: str) -> DatasetInfo:
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    return DATASETS[name]


def _check_options(name: str, options: Mapping[str, Any], function: Callable[..., Any]) -> None:
    fixed = function.keywords if isinstance(function, partial) else {}
    taken = [
        key
        for key, parameter in inspect.signature(function).parameters.items()
        if key not in fixed and key != "folder"
    ]
    for option in options:
        if option not in taken:
            raise unknown(f"option of data set {name!r},", option, taken)
