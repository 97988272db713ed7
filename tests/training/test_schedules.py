"""Learning-rate schedules at points computed by hand."""

import math

import pytest
import torch
from torch import nn

from cifar10.training.schedules import Constant, Cosine, Triangle


def factors(schedule, total, **arguments):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = schedule(optimizer, total, **arguments)
    values = []
    for _ in range(total):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


def test_triangle_equals_points_computed_by_hand():
    # Warm-up over 0.3 * 10 = 3 steps of a quarter each, then decay by sevenths.
    expected = [1 / 4, 2 / 4, 3 / 4, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7]
    assert factors(Triangle, 10, warmup=0.3) == pytest.approx(expected)


def test_triangle_may_end_early_and_stay_at_a_floor():
    # Decay by eighths, so that it would be 0 from step 8 on, but not below 0.2.
    expected = [1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 0.2, 0.2, 0.2]
    assert factors(Triangle, 10, warmup=0, end=0.8, floor=0.2) == pytest.approx(expected)


def test_cosine_equals_points_computed_by_hand():
    values = factors(Cosine, 10, warmup=0.2)
    assert values[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert values[6] == pytest.approx(0.5)  # halfway from step 2 to step 10
    assert values[9] == pytest.approx(0.5 * (1 + math.cos(math.pi * 7 / 8)))


def test_constant_does_not_change():
    assert factors(Constant, 5) == [1.0] * 5


@pytest.mark.parametrize("schedule", [Triangle, Cosine])
@pytest.mark.parametrize("warmup", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("total", [1, 2, 97])
def test_schedules_are_above_0_and_at_most_1_in_every_step(schedule, warmup, total):
    values = factors(schedule, total, warmup=warmup)
    assert all(0 < value <= 1 for value in values)
