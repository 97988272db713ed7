"""Pictures of any kind into the 32x32 pixels that the networks know."""

import glob
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from cifar10.data.edition import SIDE
from cifar10.errors import UserError, one_line
from cifar10.settings import at_home

# 100 million pixels take 300 MB once decoded; a small file can claim far more.
MOST_PIXELS = 100_000_000
DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")


class NoPicture(UserError):
    """A file that gives no picture: not one, damaged, empty or too large."""

    exit_code = 2


def find(places: Iterable[str | Path]) -> tuple[list[Path], int, list[NoPicture]]:
    """List the files that are meant by paths, folders (all pictures below them) and globs.

    Returns:
        The files, each once; how many others the folders hold, told by their suffix; what is wrong
        with the places that gave none.

    Raises:
        NoPicture: no place gave any.
    """
    found: dict[Path, Path] = {}  # by where links lead
    others = 0
    faults = []
    suffixes = Image.registered_extensions()
    for place in map(str, places):
        path = at_home(place)
        pictures = []
        if not place:
            faults.append(NoPicture("'': an empty path names no picture"))
        elif path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file())
            pictures = [file for file in files if file.suffix.lower() in suffixes]
            others += len(files) - len(pictures)
            if not pictures:
                faults.append(NoPicture(f"{place}: there is no picture in this folder"))
        elif path.exists():
            pictures = [path]
        else:
            named = glob.glob(str(path), recursive=True)  # noqa: PTH207 - also absolute patterns
            pictures = sorted(map(Path, named))
            pictures = [file for file in pictures if file.is_file()]
            if not pictures:
                faults.append(NoPicture(f"{place}: there is no such file or folder"))
        for file in pictures:
            found.setdefault(file.resolve(), file)
    if faults and not found:
        raise NoPicture("; ".join(map(str, faults)))
    return list(found.values()), others, faults


def read(path: str | Path, formats: Sequence[str] | None = None) -> Tensor:
    """Read a picture file as the network sees it, uint8 (3, 32, 32).

    Args:
        path: of the file.
        formats: Pillow's names of those that are read; all by default, some of which start other
            programs (EPS: Ghostscript).

    Raises:
        NoPicture: it gives none.
    """
    if Path(path).exists() and not Path(path).is_file():  # a pipe would be waited for
        raise NoPicture(f"{path}: is no file")
    try:
        with Image.open(path, formats=formats) as picture:
            return shrink(picture)
    except NoPicture as error:
        raise NoPicture(f"{path}: {error}") from error
    except Image.UnidentifiedImageError as error:
        empty = Path(path).stat().st_size == 0
        raise NoPicture(f"{path}: {'is empty' if empty else 'is no picture'}") from error
    except OSError as error:
        why = error.strerror or f"is damaged ({one_line(error)})"
        raise NoPicture(f"{path}: {why}") from error
    except Exception as error:  # damaged files make decoders raise anything
        raise NoPicture(f"{path}: is damaged ({one_line(error)})") from error


def shrink(picture: Image.Image) -> Tensor:
    """Turn a picture upright, to RGB, and to 32x32: the short side shrunk, the middle kept.

    One that has 32x32 pixels goes through untouched. An animation counts by its first frame.

    Returns:
        uint8 (3, 32, 32).

    Raises:
        NoPicture: it has too many pixels, or colours that cannot be turned into RGB.
    """
    width, height = picture.size
    if width * height > MOST_PIXELS:
        raise NoPicture(f"has {width}x{height} pixels, more than {MOST_PIXELS:,}")
    if picture.format == "JPEG":  # decoded at an eighth or so, still four times what is needed
        picture.draft("RGB", (4 * SIDE, 4 * SIDE))
    upright = rgb(ImageOps.exif_transpose(picture))
    if upright.size != (SIDE, SIDE):
        upright = ImageOps.fit(upright, (SIDE, SIDE), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(upright)).permute(2, 0, 1)


def rgb(picture: Image.Image) -> Image.Image:
    """Any colours as RGB; what is transparent becomes white."""
    if picture.mode in DEEP:
        return eight_bits(picture).convert("RGB")
    if picture.has_transparency_data:
        coloured = picture.convert("RGBA")
        white = Image.new("RGBA", coloured.size, "white")
        return Image.alpha_composite(white, coloured).convert("RGB")
    try:
        return picture.convert("RGB")
    except ValueError as error:
        raise NoPicture(f"has colours ({picture.mode}) that cannot be turned into RGB") from error


def eight_bits(picture: Image.Image) -> Image.Image:
    """Grey levels of 16 or 32 bits as 8: full scale is 65,535, or 1 for floating point."""
    levels = np.asarray(picture).astype(np.float64)
    full = 1.0 if picture.mode == "F" and levels.max(initial=0) <= 1 else 65_535.0
    if picture.mode in ("I", "F") and 1 < levels.max(initial=0) <= 255:
        full = 255.0
    levels = np.nan_to_num(levels / full).clip(0, 1)
    return Image.fromarray((255 * levels).round().astype(np.uint8))


def read_ahead(paths: Sequence[Path], size: int) -> Iterator[list[tuple[Path, Tensor | NoPicture]]]:
    """Read many files, `size` at a time, while the caller works on those before.

    Decoders let go of Python's lock, so threads do.

    Yields:
        Paths, each with its picture or with why there is none.
    """

    def attempt(path: Path) -> Tensor | NoPicture:
        try:
            return read(path)
        except NoPicture as error:
            return error

    parts = [paths[start : start + size] for start in range(0, len(paths), size)]
    pool = ThreadPoolExecutor()
    try:
        coming = pool.map(attempt, parts[0] if parts else [])
        for part, after in zip(parts, [*parts[1:], []], strict=True):
            ready, coming = coming, pool.map(attempt, after)
            yield list(zip(part, ready, strict=True))
    finally:  # whoever stops need not wait for a file that hangs
        pool.shutdown(wait=False, cancel_futures=True)
