"""Checks that a network takes images, returns logits and follows from its state_dict alone."""

import contextlib
from collections.abc import Callable, Iterable, Sequence

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from cifar10.core.errors import SettingError, one_line
from cifar10.data import IMAGE_SIZE
from cifar10.training.modes import evaluating


def distinct(classes: Sequence[str]) -> tuple[str, ...]:
    """The names of classes; SettingError if two are equal."""
    if len(set(classes)) < len(classes):
        raise SettingError("classes: two have the same name")
    return tuple(classes)


@torch.no_grad()
def check_network(
    network: nn.Module, num_classes: int, sides: Iterable[int] = (IMAGE_SIZE,)
) -> None:
    """Raise a SettingError unless a new network turns blank images of each side into logits."""
    name = type(network).__name__
    for side in sides:
        try:
            with evaluating(network):  # so that nothing in it changes
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
    for key, value in network.state_dict().items():
        if not isinstance(value, Tensor):
            reason = "use a buffer, or return a tensor from get_extra_state()"
            raise SettingError(f"model: {key} of {name}'s state_dict is not a tensor; {reason}")


def check_rebuilt(build: Callable[[], nn.Module]) -> None:
    """Raise a SettingError unless a network's outputs follow from its state_dict alone.

    Builds two networks with different seeds, runs a training batch through the first and loads
    its state_dict into the second; their logits must match.
    """
    with isolate_rng(), torch.no_grad():
        torch.default_generator.manual_seed(1)
        images = torch.randn(8, 3, IMAGE_SIZE, IMAGE_SIZE).clamp(-1.9, 1.9)  # as of pixels
        first = build()
        name = type(first).__name__
        with contextlib.suppress(Exception):  # in training, it is reported with its traceback
            if init := getattr(first, "init_from_images", None):
                init(images)
            first.train()(images)
        torch.default_generator.manual_seed(2)
        second = build().eval()
        try:
            expected, _ = first.eval()(images), second(images)  # which creates lazy layers
        except Exception as error:  # user code may raise anything
            shape = f"float {tuple(images.shape)}"
            raise SettingError(f"model: {name} fails on {shape}: {one_line(error)}") from error
        try:
            second.load_state_dict(first.state_dict())
        except Exception as error:  # user code may raise anything
            raise SettingError(
                f"model: a new {name} cannot load the state_dict of another: {one_line(error)}; "
                f"build it the same way every time"
            ) from error
        if not torch.allclose(expected, second(images), rtol=1e-3, atol=1e-5, equal_nan=True):
            raise SettingError(
                f"model: {name} gives other logits after load_state_dict; keep its state in "
                f"parameters and persistent buffers, and nothing random in eval mode"
            )
