"""Whether a network takes images and returns logits."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from cifar10.core.errors import SettingError, one_line
from cifar10.data import IMAGE_SIZE


@torch.no_grad()
def check_network(
    network: nn.Module, num_classes: int, sides: Iterable[int] = (IMAGE_SIZE,)
) -> None:
    """Raise a SettingError unless a new network turns blank images of each side into logits."""
    name = type(network).__name__
    network.eval()  # so that nothing in it changes
    for side in sides:
        try:
            output = network(torch.zeros(2, 3, side, side))
        except Exception as error:  # user code may raise anything
            setting = "model" if side == IMAGE_SIZE else "data.sizes"
            raise SettingError(
                f"{setting}: {name} cannot take images of {side}x{side} pixels: {one_line(error)}"
            ) from error
        got = type(output).__name__
        if isinstance(output, Tensor):
            if output.shape == (2, num_classes) and output.is_floating_point():
                continue
            shape = ", ".join(map(str, ["N", *output.shape[1:]]))
            got = f"{str(output.dtype).removeprefix('torch.')} ({shape})"
        raise SettingError(
            f"model: {name} must return one logit per class, float (N, {num_classes}), not {got}"
        )
    network.train()
