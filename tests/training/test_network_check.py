"""A network is refused if its weights alone do not decide what it returns."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cifar10.core.errors import SettingError
from cifar10.training.classifier import Classifier
from cifar10.training.network_check import check_network, check_rebuilt


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3072, 10)
        self.add()

    def add(self): ...

    def forward(self, images):
        return self.layer(images.flatten(1))


class Hidden(Net):
    def add(self):
        self.mask = torch.rand(10)

    def forward(self, images):
        return super().forward(images) * self.mask


class NotSaved(Hidden):
    def add(self):
        self.register_buffer("mask", torch.rand(10), persistent=False)


class InAList(Hidden):
    def add(self):
        self.layers = [nn.Linear(10, 10)]

    def forward(self, images):
        return self.layers[0](Net.forward(self, images))


class Counted(Hidden):
    """Changes a plain number in training."""

    def add(self):
        self.mask = 1.0

    def forward(self, images):
        self.mask += self.training
        return super().forward(images)


class AlwaysRandom(Net):
    def forward(self, images):
        return F.dropout(super().forward(images), 0.5)


class Registered(Hidden):
    def add(self):
        self.register_buffer("mask", torch.rand(10))


class Fixed(Hidden):
    def add(self):
        self.mask = torch.arange(10)


class Lazy(Net):
    def add(self):
        self.layer = nn.LazyLinear(10)


class Normalised(Net):
    def add(self):
        self.layer = nn.Sequential(nn.Linear(3072, 10), nn.BatchNorm1d(10), nn.Dropout(0.5))


class OnlyInEval(Net):
    def forward(self, images):
        if self.training:
            raise ValueError("reported by the training")
        return super().forward(images)


@pytest.mark.parametrize("network", [Hidden, NotSaved, InAList, Counted, AlwaysRandom])
def test_what_a_checkpoint_would_lack_is_refused(network):
    with pytest.raises(SettingError, match=f"model: {network.__name__} gives other logits"):
        check_rebuilt(network)


@pytest.mark.parametrize("network", [Net, Registered, Fixed, Lazy, Normalised, OnlyInEval])
def test_a_network_that_its_weights_decide_is_accepted(network):
    before = torch.get_rng_state()
    check_rebuilt(network)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_network_that_loads_no_weights_is_refused():
    class Grows(Net):
        widths = iter((10, 20))

        def add(self):
            self.other = nn.Linear(next(self.widths), 3)

    with pytest.raises(SettingError, match="a new Grows cannot load the state_dict of another"):
        check_rebuilt(Grows)


def test_two_classes_of_one_name_are_refused():
    with pytest.raises(SettingError, match="classes: two have the same name"):
        Classifier(classes=["cat", "dog", "cat"])


def test_a_network_of_one_image_size_refuses_others_by_their_setting():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    check_network(network, 10, {32})
    with pytest.raises(SettingError, match=r"data\.sizes: Sequential cannot take images of 24x24"):
        check_network(network, 10, {24})
