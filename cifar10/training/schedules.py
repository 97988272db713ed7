"""Learning-rate schedules, stepped after every batch."""

import math
from collections.abc import Callable
from typing import Annotated

from annotated_types import Ge
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from cifar10.training.muon import Fraction


def rates(optimizer: Optimizer, total_steps: int, factor: Callable[[int], float]) -> list[Callable]:
    """The schedule of each parameter group: `factor`, or a line to 0 for one with an `until`."""

    def until(end: float) -> Callable[[int], float]:
        return lambda step: max(0.0, 1 - step / end) if end else 0.0

    return [
        until(group["until"] * total_steps) if "until" in group else factor
        for group in optimizer.param_groups
    ]


class Triangle(LambdaLR):
    """Rise linearly from 0 over the first steps, then fall linearly to 0 after the last.

    Args:
        total_steps: optimizer steps of the whole training.
        warmup: fraction in [0, 1] of the steps spent rising.
    """

    def __init__(self, optimizer, total_steps: Annotated[int, Ge(1)], warmup: Fraction):
        peak = warmup * total_steps

        def factor(step: int) -> float:
            # Neither the first nor the last step is wasted at a rate of 0.
            rising = (step + 1) / (peak + 1)
            falling = (total_steps - step) / max(1.0, total_steps - peak)
            return max(0.0, min(rising, falling))

        super().__init__(optimizer, rates(optimizer, total_steps, factor))


class Cosine(LambdaLR):
    """Rise linearly from 0 over the first steps, then fall to 0 along half a cosine.

    Loshchilov and Hutter (2017), https://arxiv.org/abs/1608.03983, without restarts.

    Args:
        total_steps: optimizer steps of the whole training.
        warmup: fraction in [0, 1] of the steps spent rising.
    """

    def __init__(self, optimizer, total_steps: Annotated[int, Ge(1)], warmup: Fraction):
        peak = warmup * total_steps

        def factor(step: int) -> float:
            if step < peak:
                return (step + 1) / (peak + 1)
            progress = (step - peak) / max(1.0, total_steps - peak)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

        super().__init__(optimizer, rates(optimizer, total_steps, factor))


class Constant(LambdaLR):
    """Keep the learning rate as it is."""

    def __init__(self, optimizer, total_steps: Annotated[int, Ge(1)]):
        super().__init__(optimizer, rates(optimizer, total_steps, lambda step: 1.0))
