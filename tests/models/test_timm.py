"""Networks of the timm package."""

import builtins

import pytest
import torch

from cifar10.core.errors import SettingError
from cifar10.training.classifier import Classifier


def build(settings, *overrides):
    composed = settings("model=timm", *overrides)
    return Classifier(
        composed["model"],
        composed["optimizer"],
        composed["scheduler"],
        0.0,
        False,
        ["a", "b", "c"],
    )


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.name=resnet18"],
        ["model.name=vit_tiny_patch16_224", "++model.options={img_size:32,patch_size:4}"],
    ],
)
def test_a_timm_network_trains(settings, overrides):
    classifier = build(settings, *overrides)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    loss = classifier(images).logsumexp(1).sum()
    loss.backward()
    assert classifier(images).shape == (4, 3)
    assert all(p.grad is not None for p in classifier.network.parameters())
    classifier.build_optimizer(total_steps=1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.name=resnt18"], "did you mean resnet18"),
        (["model.name=vit_tiny_patch16_224"], "cannot take images"),
        (["model.name=resnet18", "++model.options={foo:1}"], "foo"),
    ],
)
def test_what_timm_cannot_build_is_reported_in_one_line(settings, overrides, message):
    with pytest.raises(SettingError, match=message) as error:
        build(settings, *overrides)
    assert "\n" not in str(error.value)


def test_a_missing_timm_is_reported_with_how_to_install_it(settings, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "timm":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SettingError, match=r"pip install -e '\.\[timm\]'"):
        build(settings, "model.name=resnet18")
