"""Read image files of any kind and size as 32x32 pixels."""

import functools
import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from cifar10.core.errors import UserError, one_line
from cifar10.core.settings import expand_user
from cifar10.data import IMAGE_SIZE

# 100 million pixels take up to 1.6 GB while they are resized; a small file can claim far more.
MAX_PIXELS = 100_000_000
# EPS starts Ghostscript, IPTC contains images of any format, the others need programs or plugins.
UNSAFE = {"BUFR", "EPS", "FPX", "GRIB", "HDF5", "IPTC", "MIC", "MPEG", "WMF"}
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")


class UnreadableImage(UserError):
    """A path without a usable image: missing, empty, corrupted, too large or not an image."""

    exit_code = 2


def find_images(paths: Iterable[str | Path]) -> tuple[list[Path], int, list[UnreadableImage]]:
    """List the files named by paths, folders (all images below them) and glob patterns.

    Returns:
        Files without duplicates; number of other files in the folders; an error per faulty path.
    """
    found: dict[Path, Path] = {}  # by resolved path
    others = 0
    errors: list[UnreadableImage] = []
    suffixes = Image.registered_extensions()
    for name in map(str, paths):
        path, faults = expand_user(name), list[str]()
        images: list[Path] = []
        try:
            if name and path.is_dir():
                files = sorted(files_below(path, faults))
                images = [file for file in files if file.suffix.lower() in suffixes]
                others += len(files) - len(images)
                fault = "no images in this folder"
            elif name and path.exists():
                images = [path]
            else:
                matches = glob.glob(str(path), recursive=True)  # noqa: PTH207 - absolute patterns too
                images = [file for file in sorted(map(Path, matches)) if name and file.is_file()]
                fault = "no such file or folder"
            if not images and not faults:
                faults = [f"{name or repr(name)}: {fault}"]
        except OSError as error:  # permission denied, name too long, ...
            faults.append(f"{name}: {error.strerror}")
        errors += map(UnreadableImage, faults)
        for file in images:
            found.setdefault(file.resolve(), file)
    return list(found.values()), others, errors


def files_below(folder: Path, faults: list[str]) -> Iterator[Path]:
    """Yield every file below a folder that is not hidden; unreadable folders add to `faults`."""
    walk = os.walk(folder, onerror=lambda e: faults.append(f"{e.filename}: {e.strerror}"))
    for parent, folders, names in walk:
        folders[:] = [name for name in folders if name[0] != "."]
        files = (Path(parent, name) for name in names if name[0] != ".")  # "._1.jpg" of macOS
        # Reading reports a broken link; pipes and devices are skipped.
        yield from (file for file in files if file.is_file() or not file.exists())


@functools.cache
def safe_formats() -> list[str]:
    """Pillow's formats but those that start other programs, or pass their content to any format."""
    Image.init()
    return [name for name in Image.ID if name not in UNSAFE]


def read_image(path: str | Path, formats: list[str] | None = None) -> Tensor:
    """Read an image file as the network's input, uint8 (3, 32, 32), or raise UnreadableImage.

    `formats` are Pillow's; by default `safe_formats()`.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():  # reading a pipe would block
            raise UnreadableImage("not a file")
        with Image.open(path, formats=formats or safe_formats()) as image:
            return to_32x32(image)
    except UnreadableImage as error:
        raise UnreadableImage(f"{path}: {error}") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"{path}: more than {MAX_PIXELS:,} pixels") from error
    except Image.UnidentifiedImageError as error:
        reason = "not an image, or of a format such as EPS that other programs would have to read"
        reason = reason if path.stat().st_size else "empty file"
        raise UnreadableImage(f"{path}: {reason}") from error
    except OSError as error:
        raise UnreadableImage(f"{path}: {error.strerror or one_line(error)}") from error
    except Exception as error:  # decoders raise anything on corrupted files
        raise UnreadableImage(f"{path}: corrupted ({one_line(error)})") from error


def to_32x32(image: Image.Image) -> Tensor:
    """Convert an image to RGB, resize its shorter side to 32 pixels and crop the centre.

    EXIF orientation is applied. An image of 32x32 pixels is not resampled. Of an animation, the
    first frame is used. Returns uint8 (3, 32, 32), or raises UnreadableImage.
    """
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UnreadableImage(f"{width}x{height} pixels, more than {MAX_PIXELS:,}")
    if image.format == "JPEG":  # decode at reduced size, still four times what is needed
        image.draft("RGB", (4 * IMAGE_SIZE, 4 * IMAGE_SIZE))
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode in DEEP_MODES:
        image = to_eight_bits(image)
    # Pillow resizes these three modes well.
    mode = "RGBA" if image.has_transparency_data else "L" if image.mode in ("1", "L") else "RGB"
    try:
        image = image if image.mode == mode else image.convert(mode)
    except ValueError as error:
        raise UnreadableImage(f"colours ({image.mode}) do not convert to RGB") from error
    if image.size != (IMAGE_SIZE, IMAGE_SIZE):
        image = ImageOps.fit(image, (IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    if image.mode == "RGBA":  # transparent pixels become white
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16- or 32-bit grey levels to 8 bits; full scale is 65,535, or 1 for floats."""
    levels = np.asarray(image)
    highest = levels.max(initial=0)
    full = 1.0 if image.mode == "F" and highest <= 1 else 65_535.0
    if image.mode in ("I", "F") and 1 < highest <= 255:
        full = 255.0
    grey = np.empty(levels.shape, np.uint8)
    step = max(1, 2**20 // max(1, image.width))  # in parts: float64 for all rows takes over 2 GB
    for start in range(0, image.height, step):
        scaled = levels[start : start + step].astype(np.float64) / full
        grey[start : start + step] = (255 * np.nan_to_num(scaled).clip(0, 1)).round()
    return Image.fromarray(grey)


def read_ahead(
    paths: Sequence[Path], size: int
) -> Iterator[list[tuple[Path, Tensor | UnreadableImage]]]:
    """Yield paths, each with its image or error, in batches of `size`.

    Threads read the next batch while the caller works on this one.
    """

    def attempt(path: Path) -> tuple[Path, Tensor | UnreadableImage]:
        try:
            return path, read_image(path)
        except UnreadableImage as error:
            return path, error

    # Each thread may hold a large image, so no more than torch computes with.
    pool = ThreadPoolExecutor(torch.get_num_threads())
    try:
        pending = pool.map(attempt, paths[:size])
        for start in range(size, len(paths) + size, size):
            results, pending = pending, pool.map(attempt, paths[start : start + size])
            yield list(results)
    finally:  # do not wait for a file that hangs
        pool.shutdown(wait=False, cancel_futures=True)
