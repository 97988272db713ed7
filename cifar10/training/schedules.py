"""Learning-rate schedules, stepped after every batch."""

import math
from collections.abc import Callable
from typing import Annotated

from annotated_types import Ge, Interval
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from cifar10.training.muon import Fraction, Group

Steps = Annotated[int, Ge(1)]


def group_schedules(
    optimizer: Optimizer, total_steps: int, factor: Callable[[int], float]
) -> list[Callable]:
    """Return each group's schedule: `factor`, or a linear decay to 0 at its `until`."""

    def schedule(group: Group) -> Callable[[int], float]:
        if "until" not in group:
            return factor
        end = group["until"] * total_steps
        return lambda step: max(0.0, 1 - step / end) if end else 0.0

    return [schedule(group) for group in optimizer.param_groups]


class Triangle(LambdaLR):
    """Linear warm-up over a fraction of the steps, then linear decay to zero after the last.

    The decay would reach zero at the fraction `end` of the steps, but stops at the factor `floor`.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: Steps,
        warmup: Fraction = 0.2,
        end: Annotated[float, Interval(gt=0, le=1)] = 1.0,
        floor: Fraction = 0.0,
    ):
        peak, last = warmup * total_steps, end * total_steps

        def factor(step: int) -> float:
            # No step has a rate of 0, not even the first or the last.
            falling = (last - step) / max(1.0, last - peak)
            return max(floor, min((step + 1) / (peak + 1), falling))

        super().__init__(optimizer, group_schedules(optimizer, total_steps, factor))


class Cosine(LambdaLR):
    """Linear warm-up, then cosine decay to zero (https://arxiv.org/abs/1608.03983, no restarts)."""

    def __init__(self, optimizer: Optimizer, total_steps: Steps, warmup: Fraction = 0.05):
        peak = warmup * total_steps

        def factor(step: int) -> float:
            if step < peak:
                return (step + 1) / (peak + 1)
            progress = (step - peak) / max(1.0, total_steps - peak)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

        super().__init__(optimizer, group_schedules(optimizer, total_steps, factor))


class Constant(LambdaLR):
    """A constant learning rate."""

    def __init__(self, optimizer: Optimizer, total_steps: Steps):
        super().__init__(optimizer, group_schedules(optimizer, total_steps, lambda step: 1.0))
