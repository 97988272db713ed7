"""Bytes to floats of mean 0 and standard deviation 1."""

import torch
from torch import Tensor


def normalise(
    images: Tensor, mean: Tensor, std: Tensor, memory_format: torch.memory_format
) -> Tensor:
    """Scale images (N, 3, H, W) of 0 to 255 by `mean` and `std`, float (3, 1, 1) in [0, 1]."""
    scale, shift = 1 / (255 * std), -mean / std
    x = images.to(scale.dtype, memory_format=memory_format, copy=True)
    if memory_format == torch.contiguous_format:
        return torch.addcmul(shift, x, scale, out=x)
    rows = x.permute(0, 2, 3, 1).flatten(2)  # (N, H, 3 * W): loops over 3 channels are slow
    scale, shift = (value.view(3).repeat(images.size(-1)) for value in (scale, shift))
    torch.addcmul(shift, rows, scale, out=rows)  # rows is a view of x
    return x
