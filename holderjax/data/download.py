"""Fetching raw files whose licence lets anyone fetch them."""

from __future__ import annotations

import dataclasses
import hashlib
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from holderjax.files import replacing

_CHUNK = 1 << 20
_TIMEOUT_SECONDS = 60


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """A file to fetch.

    Attributes:
        url: where from; its last part is the file's name.
        size: in bytes.
        sha256: of its content, hex.
    """

    url: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """What the file is called."""
        return self.url.rsplit("/", 1)[1]


# Sizes and hashes: as TensorFlow Datasets lists them (url_checksums/mnist.txt, svhn_cropped.txt).
_MNIST_URL = "https://storage.googleapis.com/cvdf-datasets/mnist/"
_SVHN_URL = "http://ufldl.stanford.edu/housenumbers/"
MNIST = (
    RemoteFile(
        _MNIST_URL + "train-images-idx3-ubyte.gz",
        9_912_422,
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    ),
    RemoteFile(
        _MNIST_URL + "train-labels-idx1-ubyte.gz",
        28_881,
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    ),
    RemoteFile(
        _MNIST_URL + "t10k-images-idx3-ubyte.gz",
        1_648_877,
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    ),
    RemoteFile(
        _MNIST_URL + "t10k-labels-idx1-ubyte.gz",
        4_542,
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
)
SVHN = (
    RemoteFile(
        _SVHN_URL + "train_32x32.mat",
        182_040_794,
        "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
    ),
    RemoteFile(
        _SVHN_URL + "test_32x32.mat",
        64_275_384,
        "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
    ),
)


def fetch(files: Sequence[RemoteFile], folder: Path, say: Callable[[str], None]) -> None:
    """Fetch the files that the folder does not hold whole; a stopped fetch leaves whole files.

    Args:
        files: to fetch.
        folder: where to; made if missing.
        say: told what will be fetched, before it is.

    Raises:
        OSError: naming the address that could not be read.
        ValueError: naming the address whose content is not what was expected.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [file for file in files if not _holds(folder / file.name, file)]
    if missing:
        megabytes = sum(file.size for file in missing) / 1e6
        say(f"fetching {len(missing)} files, {megabytes:.1f} MB in all, into {folder}")
    for file in missing:
        say(f"{file.url} ({file.size / 1e6:.1f} MB)")
        _fetch(file, folder / file.name)


def _holds(path: Path, file: RemoteFile) -> bool:
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest() == file.sha256


def _fetch(file: RemoteFile, path: Path) -> None:
    digest, size = hashlib.sha256(), 0
    with replacing(path) as local:
        try:
            with urllib.request.urlopen(file.url, timeout=_TIMEOUT_SECONDS) as remote:
                # One byte more than expected is enough to know.
                while size <= file.size and (chunk := remote.read(_CHUNK)):
                    digest.update(chunk)
                    size += len(chunk)
                    local.write(chunk)
        except OSError as error:
            raise OSError(f"{file.url} could not be fetched: {error}") from error
        if size != file.size or digest.hexdigest() != file.sha256:
            raise ValueError(
                f"{file.url} sent {size} bytes of SHA-256 {digest.hexdigest()}, expected "
                f"{file.size} of {file.sha256}"
            )
