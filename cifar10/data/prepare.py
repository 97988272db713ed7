"""Find or download the six batches of CIFAR-10, and verify them.

They are converted to the official binary batches, each of which must have its published SHA-256.
The prepared file is these batches, concatenated, so every later start can verify it again.
"""

import logging
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from cifar10.core.display import printable
from cifar10.core.errors import UserError
from cifar10.core.files import atomic_write, make_once
from cifar10.data import IMAGE_SIZE
from cifar10.data.checksums import CIFAR10, RECORD_BYTES, Checksums, CorruptData, verify_batches
from cifar10.data.download import SourceFailed, download
from cifar10.data.formats import read_archive, read_folder

log = logging.getLogger(__name__)

PREPARED_FILE = "cifar-10.bin"


class Dataset(NamedTuple):
    """Images, uint8 (N, 3, 32, 32), and labels, int64 (N,), in official order."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    # CIFAR-10 has no validation images; image folders may.
    val_images: Tensor = torch.empty(0, 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8)
    val_labels: Tensor = torch.empty(0, dtype=torch.int64)


def prepare_dataset(
    directory: Path,
    sources: Sequence[str],
    allow_download: bool,
    checksums: Checksums = CIFAR10,
    fetch: Callable[..., Path] = download,
) -> Dataset:
    """Read the data set from the prepared file, from another form on disk, or from a download.

    Many processes may call this at once: one prepares, the others wait. `sources` are those of
    `download`.

    Raises:
        UserError: no intact form is on disk and no source works, or the folder is unusable.
    """
    prepared = directory / PREPARED_FILE
    faults: list[str] = []

    def make() -> Dataset:
        if prepared.exists():
            log.warning("%s is corrupted; rebuilding it", prepared)
            faults.append(f"{prepared} is corrupted")
        archive, batches = None, find_on_disk(directory, checksums, faults)
        try:
            if batches is None:
                if not allow_download:
                    raise SourceFailed("data.download=false: no source was tried")
                archive = fetch(sources, directory, checksums.archives)
                batches = read_archive(archive, checksums)
            with atomic_write(prepared) as file:
                file.writelines(batches)
        except OSError as error:
            raise UserError(
                f"the data folder {directory} is not writable: {error.strerror}; free 400 MB, or "
                f"set data.dir or CIFAR10_DATA_DIR to another folder"
            ) from error
        log.info("Prepared %s; all six batches have their published SHA-256", prepared)
        if archive:
            archive.unlink(missing_ok=True)
        return to_dataset(bytearray().join(batches), checksums)

    try:
        directory.mkdir(parents=True, exist_ok=True)
        return make_once(directory, lambda: read_prepared(prepared, checksums), make)
    except SourceFailed as failure:
        faults += str(failure).splitlines()
    except OSError as error:
        faults.append(f"the folder is not writable: {error.strerror}")
        if batches := find_on_disk(directory, checksums, faults):
            log.warning("%s is not writable, so every start converts the data again", directory)
            return to_dataset(bytearray().join(batches), checksums)
    raise UserError(
        f"CIFAR-10 is not in {directory} and could not be downloaded; put one of "
        f"{', '.join(checksums.archives)} into {directory}, set data.dir or CIFAR10_DATA_DIR to "
        f"another folder, or train on the bundled sample: data=sample",
        details="".join(f"{printable(fault)}\n" for fault in faults),
    )


def read_prepared(path: Path, checksums: Checksums) -> Dataset | None:
    """Read the prepared file; None if it is missing or corrupted, a UserError if unreadable."""
    ends = [RECORD_BYTES * end for end in accumulate(checksums.records)]
    try:
        is_whole = path.is_file() and path.stat().st_size == ends[-1]
        if not is_whole and not path.is_dir():  # a pipe would block
            return None
        data = bytearray(ends[-1])  # writable, as torch needs it
        with path.open("rb") as file:
            file.readinto(data)
        batches = [memoryview(data)[start:end] for start, end in pairwise([0, *ends])]
        verify_batches(batches, checksums, path)
    except (FileNotFoundError, NotADirectoryError, CorruptData):
        return None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    return to_dataset(data, checksums)


def to_dataset(data: bytearray, checksums: Checksums) -> Dataset:
    """View verified binary batches, five for training and one for testing, as tensors."""
    records = torch.frombuffer(data, dtype=torch.uint8).view(-1, RECORD_BYTES)
    images = records[:, 1:].unflatten(1, (3, IMAGE_SIZE, IMAGE_SIZE))
    labels = records[:, 0].long()
    train = sum(checksums.records[:5])
    return Dataset(images[:train], labels[:train], images[train:], labels[train:])


def find_on_disk(directory: Path, checksums: Checksums, faults: list[str]) -> list[bytes] | None:
    """Read the six batches from the first intact form; `faults` collects the corrupted ones."""
    for name in ("cifar-10-batches-bin", "cifar-10-batches-py", *checksums.archives):
        path = directory / name
        try:
            if path.is_dir() or path.is_file():  # a pipe would block
                batches = (read_folder if path.is_dir() else read_archive)(path, checksums)
                log.info("Found CIFAR-10 in %s", path)
                return batches
        except (CorruptData, OSError) as fault:
            log.warning("skipped %s: %s", name, fault)
            faults.append(str(fault))
    return None
