"""ResNet-18 with the stem for small images."""

import torch

from cifar10.models.resnet import ResNet18


def test_parameters_and_the_resolution_of_each_stage():
    net = ResNet18()
    assert sum(p.numel() for p in net.parameters()) == 11_173_962
    shapes = []
    for stage in (net.net.layer1, net.net.layer2, net.net.layer3, net.net.layer4):
        stage.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape[1:])))
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert shapes == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]
