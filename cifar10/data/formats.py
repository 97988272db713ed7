"""The forms CIFAR-10 is handed around in, each into the official binary batches.

A binary batch is a row of records: one label byte and 3,072 pixel bytes (32x32 R, then G, then B).
"""

import hashlib
import io
import json
import pickle
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cifar10.data.checksums import BATCH_NAMES, PIXEL_BYTES, Checksums, CorruptData, verify_batches


def read_folder(path: Path, edition: Checksums) -> list[bytes]:
    """Read an extracted folder of binary or of pickled batches."""
    suffix = ".bin" if path.name.endswith("-bin") else ""
    files = {}
    for name in BATCH_NAMES:
        file = path / f"{name}{suffix}"
        if not file.is_file():
            raise CorruptData(f"{file} is missing")
        files[file.name] = file.read_bytes()
    return to_binary(files, edition, path)


def read_archive(path: Path, edition: Checksums) -> list[bytes]:
    """Read a known archive in memory; nothing is extracted, so its paths mean nothing."""
    if sha256_of(path) not in edition.archives.values():
        raise CorruptData(f"{path} does not have the SHA-256 of a known archive")
    with tarfile.open(path, "r:gz") as archive:
        files = {
            Path(member.name).name: archive.extractfile(member).read()
            for member in archive
            if member.isfile()
        }
    return to_binary(files, edition, path)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_binary(files: Mapping[str, bytes], edition: Checksums, where: Path) -> list[bytes]:
    """Turn the files of one form, by name, into the six verified binary batches.

    Raises:
        Damaged: a file is not what its form should hold, or a batch's digest is wrong.
    """
    try:
        if f"{BATCH_NAMES[0]}.bin" in files:
            batches = [files[f"{name}.bin"] for name in BATCH_NAMES]
        elif f"{BATCH_NAMES[0]}.png" in files:
            batches = from_png(files, edition)
        else:
            batches = from_pickles(files, edition)
    except (KeyError, ValueError, OSError, pickle.UnpicklingError, EOFError) as error:
        raise CorruptData(f"{where} does not hold the six batches: {error}") from error
    verify_batches(batches, edition, str(where))
    return batches


def from_png(files: Mapping[str, bytes], edition: Checksums) -> list[bytes]:
    """Six pictures, an image of 1,024 RGB pixels in each row, and two JSON lists of labels."""
    from PIL import Image

    # The package's own spelling.
    labels = json.loads(files["train_lables.json"]) + json.loads(files["test_lables.json"])
    batches, start = [], 0
    for name, count in zip(BATCH_NAMES, edition.records, strict=True):
        with Image.open(io.BytesIO(files[f"{name}.png"]), formats=["PNG"]) as picture:
            rows = np.asarray(picture.convert("RGB"))  # (count, 1024, 3)
        batches.append(records(labels[start : start + count], rows.transpose(0, 2, 1)))
        start += count
    return batches


def from_pickles(files: Mapping[str, bytes], edition: Checksums) -> list[bytes]:
    """Six pickled dictionaries, each with `labels` and `data` (N, 3072)."""
    batches = []
    for name, md5 in zip(BATCH_NAMES, edition.md5, strict=True):
        # MD5 keeps out damage and any file that was not made to collide; what it lets in meets
        # an unpickler that runs nothing, and then the published SHA-256 of the result.
        if hashlib.md5(files[name], usedforsecurity=False).hexdigest() != md5:
            raise ValueError(f"{name} does not have its published MD5")
        batch = BatchUnpickler(io.BytesIO(files[name]), encoding="bytes").load()
        batch = {key.decode() if isinstance(key, bytes) else key: batch[key] for key in batch}
        batches.append(records(batch["labels"], np.frombuffer(batch["data"].data, np.uint8)))
    return batches


def records(labels: Sequence[int], pixels: np.ndarray) -> bytes:
    """Binary records from N labels and N times 3,072 pixel bytes in R, G, B planes."""
    column = np.array(labels, np.uint8).reshape(-1, 1)
    return np.hstack([column, pixels.reshape(len(column), PIXEL_BYTES)]).tobytes()


class PickledArray:
    """Stands in for a NumPy array while a batch is unpickled, and keeps only its bytes."""

    data: bytes

    def __setstate__(self, state: tuple) -> None:
        self.data = state[-1]


class Inert:
    """Stands in for a type that an array's pickle names, and does nothing."""

    def __init__(self, *arguments: object): ...

    def __setstate__(self, state: object) -> None: ...


ADMITTED = {"_reconstruct": lambda *_: PickledArray(), "ndarray": Inert, "dtype": Inert}


class BatchUnpickler(pickle.Unpickler):
    """Admits what a batch holds: plain values, and byte arrays, without running NumPy's code."""

    def find_class(self, module: str, name: str) -> object:
        if module.split(".")[0] != "numpy" or name not in ADMITTED:
            raise pickle.UnpicklingError(f"{module}.{name} does not belong in a batch")
        return ADMITTED[name]
