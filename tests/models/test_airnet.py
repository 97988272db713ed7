"""AirNet: shapes, initial weights, whitening."""

import pytest
import torch
from torch.nn import functional as F

from cifar10.data import MEAN, STD
from cifar10.models.airnet import AirNet


@pytest.fixture
def net():
    torch.manual_seed(0)
    return AirNet([64, 256, 256], "gelu", 0.4)


def test_parameters_and_shapes(net):
    assert sum(p.numel() for p in net.parameters()) == 1_972_792
    shapes = []
    for block in list(net.blocks)[1:]:
        block.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape)))
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert shapes == [(2, 64, 15, 15), (2, 256, 7, 7), (2, 256, 3, 3)]


def test_at_32_pixels_the_last_pool_is_the_papers_3x3(net):
    features = {}
    net.blocks.register_forward_hook(lambda _, __, output: features.update(x=output))
    logits = net.eval()(torch.randn(2, 3, 32, 32))
    pooled = F.max_pool2d(features["x"], 3).flatten(1)
    torch.testing.assert_close(logits, F.linear(pooled, net.head.weight) / 256)


@pytest.mark.parametrize("size", [16, 20, 24, 31, 40])
def test_other_image_sizes_work(net, size):
    assert net(torch.randn(2, 3, size, size)).shape == (2, 10)


def test_each_convolution_starts_as_the_identity(net):
    for block in list(net.blocks)[1:]:
        for conv in (block[0], block[4]):
            x = torch.randn(1, conv.in_channels, 6, 6)
            torch.testing.assert_close(conv(x)[:, : conv.in_channels], x)


def test_norms_learn_only_a_shift_and_the_whitening_only_its_bias(net):
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    norms = {f"blocks.{block}.{index}.weight" for block in (1, 2, 3) for index in (2, 5)}
    assert frozen == norms | {"whiten.weight"}
    assert net.head.weight.std().item() == pytest.approx(1, rel=1e-3)


def test_the_first_layer_whitens_patches(net, sample):
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    images = (sample.train_images / 255 - mean) / std
    net.init_from_images(images, eps=0.0)
    assert torch.equal(net.whiten.weight[:12], -net.whiten.weight[12:])
    response = F.conv2d(images, net.whiten.weight[:12]).transpose(0, 1).flatten(1)
    moments = response @ response.T / response.size(1)  # about zero, as in the paper
    torch.testing.assert_close(moments, torch.eye(12), atol=2e-3, rtol=0)


def test_noise_is_not_amplified(net, sample):
    """Without eps the scale of the weakest direction would be unbounded."""
    net.init_from_images(torch.zeros(100, 3, 32, 32))
    assert net.whiten.weight.isfinite().all()
