"""The number format and memory layout that this hardware computes fastest."""

from typing import NamedTuple

import torch

from cifar10.errors import SettingError

# Lightning's values, and the older names it still takes.
VALUES = (
    "auto",
    "32-true",
    "bf16-mixed",
    "16-mixed",
    "bf16-true",
    "16-true",
    "64-true",
)
ALIASES = ("32", "bf16", "16", "64", "transformer-engine", "transformer-engine-float16")


class Precision(NamedTuple):
    """What a run computes in.

    Attributes:
        value: a value of Lightning's `Trainer(precision=...)`.
        channels_last: whether images and weights are laid out channels last.
        reason: why, for people.
    """

    value: str
    channels_last: bool
    reason: str


def device_type(accelerator: str) -> str:
    """The kind of device that Lightning's accelerator setting stands for here."""
    if accelerator in ("cuda", "gpu", "auto") and torch.cuda.is_available():
        return "cuda"
    if accelerator in ("mps", "gpu", "auto") and torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def choose(precision: str | int, accelerator: str) -> Precision:
    """Settle `auto`, or take what was asked for.

    bf16 needs no loss scaling and is chosen wherever the hardware multiplies it. A processor
    without the instructions emulates them, many times slower than float32, so it is asked.
    channels_last is what the fast convolutions of CPUs (oneDNN) and of tensor cores (cuDNN) want.

    Args:
        precision: `auto`, or any value that Lightning takes.
        accelerator: Lightning's setting, such as `auto`, `cpu` or `gpu`.

    Raises:
        SettingError: there is no such precision.
    """
    if str(precision) not in VALUES + ALIASES:
        raise SettingError(f"trainer.precision={precision}: must be one of {', '.join(VALUES)}")
    device = device_type(accelerator)
    channels_last = device != "mps"
    if device == "cpu" and str(precision) in ("16-mixed", "16"):
        # Lightning would do the same, with a warning.
        return Precision("bf16-mixed", True, f"{precision} was set, which needs a GPU")
    if precision != "auto":
        return Precision(str(precision), channels_last, "as set")
    if device == "cuda":
        name, capability = (
            torch.cuda.get_device_name(),
            torch.cuda.get_device_capability(),
        )
        if capability >= (8, 0):
            return Precision("bf16-mixed", True, f"{name} multiplies bf16 in its tensor cores")
        if capability >= (7, 0):
            return Precision("16-mixed", True, f"{name} has tensor cores, but none for bf16")
        return Precision("32-true", False, f"{name} has no tensor cores")
    if device == "cpu":
        if instructions := bf16_instructions():
            return Precision("bf16-mixed", True, f"the processor has {instructions}")
        return Precision("32-true", True, "the processor has no bf16 instructions")
    return Precision("32-true", False, "nothing faster is known to be safe on MPS")


def bf16_instructions() -> str | None:
    """The processor's bf16 multiplications that torch's CPU kernels use, or None."""
    has = torch.cpu.get_capabilities()
    if has.get("amx_bf16"):
        return "AMX-BF16"
    return "AVX512-BF16" if has.get("avx512_bf16") else None
