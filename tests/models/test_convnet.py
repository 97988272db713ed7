"""ConvNet against the description of the original."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cifar10.models.convnet import ConvNet

SHAPES = {
    "conv1": (2, 8, 32, 32),
    "conv2": (2, 32, 32, 32),
    "conv3": (2, 64, 16, 16),
    "conv4": (2, 128, 16, 16),
    "conv5": (2, 256, 6, 6),
    "fc1": (2, 256),
    "fc2": (2, 128),
    "fc3": (2, 64),
    "fc4": (2, 10),
}


def test_parameters_and_the_shape_after_each_stage():
    net = ConvNet(dropout=0.5)
    assert sum(p.numel() for p in net.parameters()) == 2_791_434
    shapes = {}
    for name in SHAPES:
        net.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: shapes.update({name: tuple(output.shape)})
        )
    net(torch.randn(2, 3, 32, 32))
    assert shapes == SHAPES


def test_outputs_equal_the_original_description():
    torch.manual_seed(0)
    net = ConvNet(dropout=0.5).eval()
    images = x = torch.randn(4, 3, 32, 32)
    for name in ("conv1", "conv2", "conv3", "conv4", "conv5"):  # ReLU, then pooling
        conv = net.get_submodule(name)
        x = F.relu(F.conv2d(x, conv.weight, conv.bias, padding=0 if name == "conv5" else 1))
        if name in ("conv2", "conv4"):
            x = F.max_pool2d(x, 2)
    x = x.reshape(4, -1)
    for name in ("fc1", "fc2", "fc3"):
        layer = net.get_submodule(name)
        x = F.relu(F.linear(x, layer.weight, layer.bias))
    x = F.linear(x, net.fc4.weight, net.fc4.bias)
    torch.testing.assert_close(net(images), x)


@pytest.mark.parametrize("side", [16, 20, 24, 28])
def test_features_of_smaller_images_are_repeated_to_6x6(side):
    net, seen = ConvNet().eval(), []
    net.conv5.register_forward_hook(lambda _, __, output: seen.append(output.relu()))
    net.fc1.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    net(torch.randn(2, 3, side, side))
    features, used = seen[0], seen[1].view(2, 256, 6, 6)
    index = torch.arange(6) * features.size(-1) // 6
    assert torch.equal(used, features[:, :, index][..., index])


def test_dropout_zeroes_whole_channels_after_the_second_pool_in_training_only():
    net = ConvNet(dropout=0.5)
    seen = []
    net.dropout.register_forward_hook(lambda _, before, after: seen.append((before[0], after)))
    net(torch.randn(8, 3, 32, 32))
    before, after = seen[0]
    assert before.shape == (8, 128, 8, 8)
    alive = before.abs().amax((2, 3)) > 0
    alive_after = (after.abs().amax((2, 3)) > 0)[alive]
    assert 0.4 < alive_after.float().mean() < 0.6
    torch.testing.assert_close(
        after[:, :, 0, 0][after[:, :, 0, 0] != 0] / 2, before[:, :, 0, 0][after[:, :, 0, 0] != 0]
    )
    net.eval()
    images = torch.randn(8, 3, 32, 32)
    assert torch.equal(net(images), net(images))


@pytest.mark.parametrize("dropout", [-0.1, 1.5])
def test_dropout_outside_0_to_1_is_rejected(dropout):
    with pytest.raises(ValueError, match="dropout"):
        ConvNet(dropout)


def test_it_has_the_originals_layers():
    kinds = [type(m) for m in ConvNet(0.5).children()]
    assert kinds.count(nn.Conv2d) == 5
    assert kinds.count(nn.Linear) == 4
