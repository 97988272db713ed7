"""Pictures of any kind into the 32x32 pixels that the networks know."""

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
from cifar10.data.checksums import IMAGE_SIZE
from cifar10.training.hardware import cores

# 100 million pixels take up to 1.6 GB until they are shrunk; a small file can claim far more.
MAX_PIXELS = 100_000_000
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")


class UnreadableImage(UserError):
    """A file that gives no picture: not one, damaged, empty or too large."""

    exit_code = 2


def find_images(places: Iterable[str | Path]) -> tuple[list[Path], int, list[UnreadableImage]]:
    """List the files that are meant by paths, folders (all pictures below them) and globs.

    Returns:
        The files, each once; how many others the folders hold, told by their suffix; what is wrong
        with the places that gave none.
    """
    found: dict[Path, Path] = {}  # by where links lead
    others = 0
    faults = []
    suffixes = Image.registered_extensions()
    for place in map(str, places):
        path, before, pictures = expand_user(place), len(faults), []
        try:
            if not place:
                faults.append(UnreadableImage("'': an empty path names no picture"))
            elif path.is_dir():
                files = sorted(files_below(path, faults))
                pictures = [file for file in files if file.suffix.lower() in suffixes]
                others += len(files) - len(pictures)
                if not pictures and len(faults) == before:
                    faults.append(UnreadableImage(f"{place}: there is no picture in this folder"))
            elif path.exists():
                pictures = [path]
            else:
                named = glob.glob(str(path), recursive=True)  # noqa: PTH207 - also absolute patterns
                pictures = [file for file in sorted(map(Path, named)) if file.is_file()]
                if not pictures:
                    faults.append(UnreadableImage(f"{place}: there is no such file or folder"))
        except OSError as error:  # locked, too long a name, ...
            faults.append(UnreadableImage(f"{place}: {error.strerror}"))
        for file in pictures:
            found.setdefault(file.resolve(), file)
    return list(found.values()), others, faults


def files_below(folder: Path, faults: list[UnreadableImage]) -> Iterator[Path]:
    """Every file below a folder that is not hidden; folders that cannot be read become faults."""

    def fail(error: OSError) -> None:
        faults.append(UnreadableImage(f"{error.filename}: {error.strerror}"))

    for place, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if name[0] != "."]
        files = (Path(place, name) for name in names if name[0] != ".")  # "._1.jpg" of macOS
        # A link that leads nowhere is told of when it is read; pipes and devices are not read.
        yield from (file for file in files if file.is_file() or not file.exists())


def read_image(path: str | Path, formats: Sequence[str] | None = None) -> Tensor:
    """Read a picture file as the network sees it, uint8 (3, 32, 32).

    Args:
        path: of the file.
        formats: Pillow's names of those that are read; all by default, some of which start other
            programs (EPS: Ghostscript).

    Raises:
        NoPicture: it gives none.
    """
    if Path(path).exists() and not Path(path).is_file():  # a pipe would be waited for
        raise UnreadableImage(f"{path}: is no file")
    try:
        with Image.open(path, formats=formats) as picture:
            return to_32x32(picture)
    except UnreadableImage as error:
        raise UnreadableImage(f"{path}: {error}") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"{path}: has more than {MAX_PIXELS:,} pixels") from error
    except Image.UnidentifiedImageError as error:
        empty = Path(path).stat().st_size == 0
        raise UnreadableImage(f"{path}: {'is empty' if empty else 'is no picture'}") from error
    except OSError as error:
        why = error.strerror or one_line(error)
        raise UnreadableImage(f"{path}: cannot be read ({why})") from error
    except Exception as error:  # damaged files make decoders raise anything
        raise UnreadableImage(f"{path}: is damaged ({one_line(error)})") from error


def to_32x32(picture: Image.Image) -> Tensor:
    """Turn a picture upright, to RGB, and to 32x32: the short side shrunk, the middle kept.

    One that has 32x32 pixels goes through untouched. An animation counts by its first frame.

    Returns:
        uint8 (3, 32, 32).

    Raises:
        NoPicture: it has too many pixels, or colours that cannot be turned into RGB.
    """
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise UnreadableImage(f"has {width}x{height} pixels, more than {MAX_PIXELS:,}")
    if picture.format == "JPEG":  # decoded at an eighth or so, still four times what is needed
        picture.draft("RGB", (4 * IMAGE_SIZE, 4 * IMAGE_SIZE))
    ImageOps.exif_transpose(picture, in_place=True)
    upright = to_eight_bit_mode(picture)
    if upright.size != (IMAGE_SIZE, IMAGE_SIZE):
        upright = ImageOps.fit(upright, (IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    if upright.mode == "RGBA":  # what is transparent becomes white
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
    return torch.from_numpy(np.array(upright.convert("RGB"))).permute(2, 0, 1)


def to_eight_bit_mode(picture: Image.Image) -> Image.Image:
    """Any colours as grey, RGB, or RGBA where some are transparent: what can be shrunk well."""
    if picture.mode in DEEP_MODES:
        return eight_bits(picture)
    mode = "RGBA" if picture.has_transparency_data else "L" if picture.mode in ("1", "L") else "RGB"
    try:
        return picture if picture.mode == mode else picture.convert(mode)
    except ValueError as error:
        raise UnreadableImage(
            f"has colours ({picture.mode}) that cannot be turned into RGB"
        ) from error


def eight_bits(picture: Image.Image) -> Image.Image:
    """Grey levels of 16 or 32 bits as 8: full scale is 65,535, or 1 for floating point."""
    levels = np.asarray(picture)
    highest = levels.max(initial=0)
    full = 1.0 if picture.mode == "F" and highest <= 1 else 65_535.0
    if picture.mode in ("I", "F") and 1 < highest <= 255:
        full = 255.0
    grey = np.empty(levels.shape, np.uint8)
    step = max(1, 2**20 // max(1, picture.width))  # doubles of all rows at once take 2 GB and more
    for start in range(0, picture.height, step):
        shares = levels[start : start + step].astype(np.float64) / full
        grey[start : start + step] = (255 * np.nan_to_num(shares).clip(0, 1)).round()
    return Image.fromarray(grey)


def read_ahead(
    paths: Sequence[Path], size: int
) -> Iterator[list[tuple[Path, Tensor | UnreadableImage]]]:
    """Read many files, `size` at a time, while the caller works on those before.

    Decoders let go of Python's lock, so threads do.

    Yields:
        Paths, each with its picture or with why there is none.
    """

    def attempt(path: Path) -> Tensor | UnreadableImage:
        try:
            return read_image(path)
        except UnreadableImage as error:
            return error

    parts = [paths[start : start + size] for start in range(0, len(paths), size)]
    pool = ThreadPoolExecutor(cores())  # each may have a large picture in memory
    try:
        coming = pool.map(attempt, parts[0] if parts else [])
        for part, after in zip(parts, [*parts[1:], []], strict=True):
            ready, coming = coming, pool.map(attempt, after)
            yield list(zip(part, ready, strict=True))
    finally:  # whoever stops need not wait for a file that hangs
        pool.shutdown(wait=False, cancel_futures=True)
