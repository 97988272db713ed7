"""The average of the weights equals a plain loop's, also with lookahead."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cifar10.training.ema import EMA


class Net(nn.BatchNorm1d):
    device = torch.device("cpu")


@pytest.mark.parametrize("lookahead", [False, True])
@pytest.mark.parametrize(("start", "every"), [(0, 1), (3, 1), (4, 2), (5, 4)])
def test_the_average_equals_a_plain_loop(start, every, lookahead):
    ema, network, trainer = EMA(0.7, start, every, lookahead), Net(2), SimpleNamespace()
    ema.on_train_start(trainer, network)
    weight, average = torch.ones(2), torch.ones(2)
    for step in range(1, 14):
        network.weight.data += step
        network.num_batches_tracked += 1
        weight = weight + step
        trainer.global_step = step
        for _ in range(2):  # the second batch only accumulates gradients
            ema.on_train_batch_end(trainer, network)
        if step <= max(start, 1):
            average = weight
        elif (step - start) % every == 0:
            average = 0.7 * average + 0.3 * weight
            weight = average if lookahead else weight
        torch.testing.assert_close(ema.average["weight"], average)
        torch.testing.assert_close(network.weight.data, weight)
    ema.on_train_end(trainer, network)
    torch.testing.assert_close(network.weight.data, average)
    last = 13 - (13 - start) % every
    assert network.num_batches_tracked == last
