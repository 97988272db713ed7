"""Resized images, cached in one file beside their originals."""

import hashlib
import logging
import math
import os
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cifar10.core.files import atomic_write, make_once
from cifar10.data import IMAGE_SIZE, images

log = logging.getLogger(__name__)

CACHE_FILE = ".prepared-32x32.safetensors"
AHEAD = 500  # images that are read while as many are stored


def load_images(root: Path, files: Sequence[Path]) -> tuple[Tensor, Tensor]:
    """Read all images, uint8 (N, 3, 32, 32), and which are readable, bool (N,), from the cache.

    Many processes may call this at once: one reads the images, the others wait.
    """
    path = root / CACHE_FILE
    listing = hashlib.sha256(b"alpha premultiplied\n")  # change it when resizing changes
    for file in files:
        state = file.stat() if file.exists() else file.lstat()  # a broken link
        listing.update(os.fsencode(file.relative_to(root)))  # a name may not be UTF-8
        listing.update(f"\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    key = listing.hexdigest()

    def make() -> tuple[Tensor, Tensor]:
        pixels, readable = read_all(root, files)
        metadata = {"listing": key, "content": content_digest(pixels, readable)}
        try:
            with atomic_write(path) as file:
                file.write(save({"images": pixels, "readable": readable}, metadata))
        except OSError as error:
            log.warning("%s: cannot be saved: %s", path, error.strerror)
        return pixels, readable

    try:
        return make_once(root, lambda: read_cache(path, key), make)
    except OSError as error:
        log.warning("%s: %s, so every start reads all images", root, error.strerror)
        return read_all(root, files)


def read_cache(path: Path, key: str) -> tuple[Tensor, Tensor] | None:
    """Read the cache; None if it is missing, corrupted or of other files."""
    if not path.is_file():  # a pipe would block
        return None
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("listing") != key:
                return None
            cached = file.get_tensor("images"), file.get_tensor("readable")
    except (OSError, SafetensorError):
        return None
    return cached if content_digest(*cached) == metadata.get("content") else None


def content_digest(*tensors: Tensor) -> str:
    """SHA-256 of the tensors' bytes, concatenated."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def read_all(root: Path, files: Sequence[Path]) -> tuple[Tensor, Tensor]:
    pixels = torch.zeros(len(files), 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8)
    readable = torch.zeros(len(files), dtype=torch.bool)
    log.info("Reading the %d images of %s …", len(files), root)
    batches, total = images.read_ahead(files, AHEAD), math.ceil(len(files) / AHEAD)
    console, hidden = Console(stderr=True), not sys.stderr.isatty()
    shown = track(batches, "reading", total, console=console, transient=True, disable=hidden)
    for index, (_, image) in enumerate(chain.from_iterable(shown)):
        if isinstance(image, Tensor):
            pixels[index], readable[index] = image, True
    return pixels, readable
