"""Pictures shrunk once, kept in one file beside them."""

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cifar10.core.files import atomic_write, remove_temporary_files
from cifar10.data import images as pictures
from cifar10.data.checksums import IMAGE_SIZE
from cifar10.data.prepare import acquire_lock

log = logging.getLogger(__name__)

CACHE_FILE = ".prepared-32x32.safetensors"
AHEAD = 500  # pictures that are read while as many are put in place


def load_images(root: Path, files: Sequence[Path]) -> tuple[Tensor, Tensor]:
    """Read all pictures, or what an earlier start has kept of the very same files.

    Any number of processes may call this at once: one reads, the others wait for it.

    Returns:
        Images, uint8 (N, 3, 32, 32), and which of them could be read, bool (N,).
    """
    key = listing_digest(root, files)
    if kept := read_cache(root / CACHE_FILE, key):
        return kept
    try:
        lock = acquire_lock(root)
    except OSError as error:
        log.warning("%s: %s, so every start reads all pictures", root, error.strerror)
        return read_all(root, files)
    try:
        if kept := read_cache(root / CACHE_FILE, key):  # made while this process waited
            return kept
        remove_temporary_files(root)
        images, readable = read_all(root, files)
        metadata = {"listing": key, "content": content_digest(images, readable)}
        try:
            with atomic_write(root / CACHE_FILE) as file:
                file.write(save({"images": images, "readable": readable}, metadata))
        except OSError as error:
            log.warning("%s is not kept: %s", root / CACHE_FILE, error.strerror)
        return images, readable
    finally:
        lock.release()


def listing_digest(root: Path, files: Sequence[Path]) -> str:
    """SHA-256 of names, sizes and times: as long as it stays, so do the pictures."""
    digest = hashlib.sha256(b"alpha premultiplied\n")  # to be changed with how pictures are shrunk
    for path in files:
        state = path.stat() if path.exists() else path.lstat()  # a link that leads nowhere
        digest.update(os.fsencode(path.relative_to(root)))  # a name may be no UTF-8
        digest.update(f"\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def read_cache(path: Path, key: str) -> tuple[Tensor, Tensor] | None:
    """What was kept of the pictures; None if it is of others, damaged or not there."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("listing") != key:
                return None
            images, readable = file.get_tensor("images"), file.get_tensor("readable")
    except (OSError, SafetensorError):
        return None
    return (
        (images, readable) if content_digest(images, readable) == metadata.get("content") else None
    )


def content_digest(*tensors: Tensor) -> str:
    """SHA-256 of tensors' bytes, one after another."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy())
    return digest.hexdigest()


def read_all(root: Path, files: Sequence[Path]) -> tuple[Tensor, Tensor]:
    images = torch.zeros(len(files), 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8)
    readable = torch.zeros(len(files), dtype=torch.bool)
    log.info("reading the %d pictures of %s", len(files), root)
    console, place = Console(stderr=True), 0
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("reading", total=len(files))
        for batch in pictures.read_ahead(files, AHEAD):
            for _, picture in batch:
                if isinstance(picture, Tensor):
                    images[place], readable[place] = picture, True
                place += 1
            progress.advance(task, len(batch))
    return images, readable
