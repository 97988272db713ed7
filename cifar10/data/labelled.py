"""Labelled images to evaluate on: class folders, a CSV file, CIFAR-10.1, CIFAR-10-C."""

import csv
import difflib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cifar10.core.display import short
from cifar10.core.errors import SettingError, UserError, one_line
from cifar10.core.settings import default_folder, expand_user
from cifar10.data import CLASSES, IMAGE_SIZE
from cifar10.data.image_cache import read_all
from cifar10.data.image_folder import subfolders, unreadable_lines
from cifar10.data.images import find_images
from cifar10.data.loader import Labelled

# Recht et al. 2018, https://arxiv.org/abs/1806.00451; v6 is the version that they recommend.
CIFAR10_1 = {"cifar10.1": "cifar10.1_v6", "cifar10.1-v4": "cifar10.1_v4"}
CIFAR10_C = "cifar10-c"
# Hendrycks and Dietterich 2019, https://arxiv.org/abs/1903.12261; the mean is over these.
CORRUPTIONS = (
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
SEVERITIES = 5  # of 10,000 images each, in one file per corruption


class Stored:
    """Images in files that are read when they are indexed, as uint8 (n, 3, 32, 32)."""

    def __init__(self, arrays: Sequence[np.ndarray]):
        self.arrays, self.each = arrays, len(arrays[0])

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        whole = range(self.each * len(self.arrays))
        positions = whole[index] if isinstance(index, slice) else index.tolist()
        images = [self.arrays[p // self.each][p % self.each] for p in positions]
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def read_labelled(source: str, classes: Sequence[str]) -> Labelled:
    """Read labelled images, resized as `cifar10 predict` does.

    Args:
        source: a folder of class folders; a CSV file with the columns `path`, relative to the
            file, and `label`, a class or its index; `cifar10.1` or `cifar10-c`, whose official
            files are in the data folder or a folder within.
        classes: those of the model. A folder may lack some of them.

    Raises:
        UserError: nothing there, an unknown class, an unreadable image, a damaged file.
    """
    if source in CIFAR10_1 or source == CIFAR10_C:
        if tuple(classes) != tuple(CLASSES):
            raise SettingError(f"--data {source}: the model has other classes than CIFAR-10")
        return open_cifar10_c() if source == CIFAR10_C else read_cifar10_1(CIFAR10_1[source])
    path = expand_user(source)
    if path.is_dir():
        files, labels = list_folder(path, classes)
        root = path
    elif path.is_file():
        files, labels = list_csv(path, classes)
        root = path.parent
    else:
        kinds = ", ".join([*CIFAR10_1, CIFAR10_C])
        raise SettingError(f"--data {source!r}: no such folder or CSV file, and not {kinds}")
    images, readable = read_all(path, files)
    if lines := unreadable_lines(files, readable):
        count = f"{int((~readable).sum())} of {len(files)} images"
        raise UserError(f"{path}: {count} cannot be read", details="".join(lines))
    names = [str(f.relative_to(root) if f.is_relative_to(root) else f) for f in files]
    return Labelled(images, torch.tensor(labels), names)


def list_folder(root: Path, classes: Sequence[str]) -> tuple[list[Path], list[int]]:
    """The images of class folders and their labels; SettingError for one without a class."""
    folders = subfolders(root)
    if unknown := [name for name in folders if name not in classes]:
        splits = [name for name in ("test", "val", "train") if name in folders]
        hint = f"; did you mean {root / splits[0]}?" if splits else ""
        shown = f"{short(unknown[0])} is no class of the model{hint or known(classes)}"
        raise SettingError(f"--data {root}: {shown}")
    suffixes = Image.registered_extensions()
    loose = [file for file in root.iterdir() if file.suffix.lower() in suffixes]
    if loose or not folders:
        fault = f"{loose[0].name} is in no class folder" if loose else "no class folders"
        raise SettingError(f"--data {root}: {fault}; put images into folders named as their class")
    files: list[Path] = []
    labels: list[int] = []
    for name in folders:
        own, _, errors = find_images([root / name])
        if errors:
            raise SettingError(f"--data: {'; '.join(map(str, errors))}")
        files += own
        labels += [classes.index(name)] * len(own)
    return files, labels


def list_csv(path: Path, classes: Sequence[str]) -> tuple[list[Path], list[int]]:
    """The paths of a CSV file and their labels; SettingError for a line that has none."""
    files: list[Path] = []
    labels: list[int] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # Excel marks UTF-8
            rows = csv.DictReader(file, strict=True, skipinitialspace=True)
            if missing := {"path", "label"} - set(rows.fieldnames or ()):
                raise SettingError(f"{path}: no column {' or '.join(sorted(missing))}")
            for row in rows:
                files.append(path.parent / expand_user(row["path"] or ""))
                label = (row["label"] or "").strip()
                labels.append(label_of(label, classes, f"{path}:{rows.line_num}"))
                if not row["path"] or not files[-1].is_file():
                    raise SettingError(f"{path}:{rows.line_num}: {files[-1]}: no such file")
    except (csv.Error, UnicodeDecodeError) as error:
        raise SettingError(f"{path}: not a CSV file in UTF-8 ({one_line(error)})") from error
    if not files:
        raise SettingError(f"{path}: no images")
    return files, labels


def label_of(text: str, classes: Sequence[str], where: str) -> int:
    """The label of a class's name or, where no class has it as its name, index."""
    if text in classes:
        return classes.index(text)
    if text.isascii() and text.isdecimal() and len(text) < 10 and int(text) < len(classes):
        return int(text)
    close = difflib.get_close_matches(text, classes, n=1)
    hint = f"; did you mean {short(close[0])}?" if close else known(classes)
    raise SettingError(f"{where}: {short(text) or repr(text)} is no class of the model{hint}")


def known(classes: Sequence[str]) -> str:
    return f": {', '.join(map(short, classes))}" if len(classes) <= 12 else ""


def read_cifar10_1(name: str) -> Labelled:
    """Read a version of CIFAR-10.1."""
    folder = find_folder(f"{name}_data.npy")
    images = Stored([open_images(folder / f"{name}_data.npy")])
    labels = read_labels(folder / f"{name}_labels.npy", images.each)
    return Labelled(images[:], labels, range(images.each))


def open_cifar10_c() -> Labelled:
    """Open CIFAR-10-C: all corruptions, each from the lowest severity to the highest."""
    folder = find_folder(f"{CORRUPTIONS[0]}.npy")
    arrays = {name: open_images(folder / f"{name}.npy") for name in CORRUPTIONS}
    images = Stored(list(arrays.values()))
    for name, array in arrays.items():
        if len(array) != images.each or len(array) % SEVERITIES:
            needed = f"all files must have the same number, {SEVERITIES} equal parts"
            raise UserError(f"{folder / name}.npy: {len(array):,} images; {needed}")
    labels = read_labels(folder / "labels.npy", images.each)
    parts = labels.view(SEVERITIES, -1)
    if not torch.equal(parts, parts[:1].expand_as(parts)):
        raise UserError(f"{folder / 'labels.npy'}: the labels of the severities differ")
    names = [f"{name}/{index}" for name in CORRUPTIONS for index in range(images.each)]
    return Labelled(images, labels.repeat(len(arrays)), names)


def find_folder(name: str) -> Path:
    """The data folder, or the first folder within, that has a file."""
    folder = expand_user(default_folder() or ".").absolute()
    for path in (folder / name, *sorted(folder.glob(f"*/{name}"))):
        if path.is_file():
            return path.parent
    raise missing(folder / name)


def missing(path: Path) -> SettingError:
    return SettingError(f"{path.parent}: no {path.name}; docs/evaluation.md says where to get it")


def open_images(path: Path) -> np.ndarray:
    """Open a file of images, uint8 (N, 32, 32, 3), which stays on disk."""
    array = open_array(path)
    if array.dtype != np.uint8 or array.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE, 3) or not len(array):
        raise UserError(f"{path}: {array.dtype} {array.shape}; must be uint8 (N, 32, 32, 3)")
    return array


def read_labels(path: Path, count: int) -> Tensor:
    """Read a file of `count` labels, int64 (N,)."""
    array = open_array(path)
    if array.dtype.kind not in "iu" or array.shape != (count,):
        needed = f"must be {count:,} integers, one for each image"
        raise UserError(f"{path}: {array.dtype} {array.shape}; {needed}")
    labels = torch.from_numpy(array.astype(np.int64))
    if int(labels.min()) < 0 or int(labels.max()) >= len(CLASSES):
        raise UserError(f"{path}: has labels outside 0 to {len(CLASSES) - 1}")
    return labels


def open_array(path: Path) -> np.ndarray:
    if not path.is_file():
        raise missing(path)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("an archive of arrays")
        return array
    except Exception as error:  # damaged files raise anything
        reason = one_line(error).partition(". ")[0]  # then NumPy explains how to run their code
        raise UserError(f"{path}: not a NumPy array of numbers ({reason})") from error
