"""Images as people have them in Python, as one batch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cifar10.core.errors import UserError
from cifar10.core.settings import expand_user
from cifar10.data import IMAGE_SIZE
from cifar10.data.images import read_image, to_32x32

PIXELS = (IMAGE_SIZE, IMAGE_SIZE)


def to_batch(images: Any) -> Tensor:
    """Convert images to uint8 (N, 3, 32, 32); what could be misread is refused.

    Args:
        images: a path or PIL image of any size, resized as `cifar10 predict` does; a NumPy array,
            uint8 (32, 32, 3) or (N, 32, 32, 3); a tensor, uint8 (3, 32, 32) or (N, 3, 32, 32); or a
            list of these.

    Raises:
        UserError: another type, dtype or shape, an unreadable file, an empty list.
    """
    if isinstance(images, str | Path):
        return read_image(expand_user(images))[None]
    if isinstance(images, Image.Image):
        return to_32x32(images.copy())[None]  # it is turned in place
    if isinstance(images, np.ndarray):
        require(images, "array", (*PIXELS, 3))
        channels_first = np.ascontiguousarray(np.moveaxis(images, -1, -3))
        return torch.tensor(channels_first).reshape(-1, 3, *PIXELS)
    if isinstance(images, Tensor):
        require(images, "tensor", (3, *PIXELS))
        return images.reshape(-1, 3, *PIXELS)
    if isinstance(images, list | tuple) and len(images):
        return torch.cat([to_batch(image) for image in images])
    accepted = "must be a path, a PIL image, a uint8 array or tensor, or a list of these"
    given = "an empty list" if isinstance(images, list | tuple) else type(images).__name__
    raise UserError(f"images: {given}: {accepted}")


def require(images: np.ndarray | Tensor, kind: str, shape: Sequence[int]) -> None:
    """Raise a UserError unless an array or tensor is uint8 and of `shape`, or N times that."""
    dtype = str(images.dtype).removeprefix("torch.")
    text = ", ".join(map(str, shape))
    needed = f"must be uint8 ({text}) or (N, {text})"
    given = f"images: {dtype} {kind} of shape {tuple(images.shape)}"
    if isinstance(images, Tensor) and (images.layout != torch.strided or images.is_meta):
        raise UserError(f"{given}: must be a plain tensor")
    if dtype != "uint8":
        is_float = dtype.startswith(("float", "bfloat"))
        advice = "; scale floats to 0 to 255 and round them" if is_float else ""
        raise UserError(f"{given}: {needed}{advice}")
    if tuple(images.shape[-3:]) != tuple(shape) or images.ndim not in (3, 4):
        raise UserError(f"{given}: {needed}; PIL images and files of any size are resized")
