"""Whether a network takes images, returns logits, and is what its weights say."""

import contextlib
from collections.abc import Callable, Iterable

import torch
from lightning.pytorch.utilities.seed import isolate_rng
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


def check_rebuilt(build: Callable[[], nn.Module]) -> None:
    """Raise a SettingError unless a checkpoint's weights alone decide what a network returns.

    `build` makes a new network. Of two, drawn differently, the second must return the logits of the
    first, which has seen a training batch, once it has loaded its state_dict.
    """
    with isolate_rng(), torch.no_grad():
        torch.manual_seed(1)
        images = torch.randn(8, 3, IMAGE_SIZE, IMAGE_SIZE)
        first = build()
        name = type(first).__name__
        if init := getattr(first, "init_from_images", None):
            init(images)
        with contextlib.suppress(Exception):  # in training, it is reported with its traceback
            first.train()(images)
        torch.manual_seed(2)
        second = build().eval()
        try:
            second(images)  # creates lazy layers
            second.load_state_dict(first.state_dict())
        except Exception as error:  # user code may raise anything
            reason = f"cannot load the weights of another {name}: {one_line(error)}"
            raise SettingError(f"model: {name} {reason}") from error
        if not torch.allclose(first.eval()(images), second(images), rtol=1e-3, atol=1e-5):
            raise SettingError(
                f"model: {name} with the weights of another {name} returns other logits: it is "
                f"random in eval mode, or has a tensor that is neither a parameter nor a buffer; "
                f"use register_buffer"
            )
