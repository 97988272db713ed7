"""Specifications into objects, and the errors of wrong ones."""

from fractions import Fraction

import pytest
from torch import nn

from cifar10.core.errors import SettingError
from cifar10.core.instantiate import call_checked, instantiate, refuse_chain
from cifar10.runs.signals import Interrupted


def test_a_specification_becomes_its_object():
    layer = instantiate(
        {"_target_": "torch.nn.Linear", "in_features": 3, "bias": False},
        "layer",
        nn.Module,
        out_features=2,
    )
    assert (layer.in_features, layer.out_features, layer.bias) == (3, 2, None)


def test_arguments_of_the_program_that_a_class_does_not_take_are_dropped():
    instantiate({"_target_": "torch.nn.ReLU"}, "layer", nn.Module, total_steps=3)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "layer._target_: missing; set the full name"),
        ({"_target_": "Linear"}, "must be the full name"),
        ({"_target_": 3}, "must be the full name"),
        ("torch.nn.ReLU", "layer='torch.nn.ReLU': must be a group of settings"),
        ({"_target_": "subprocess.Popen", "args": "ls"}, "only classes from .*CIFAR10_TRUST"),
        ({"_target_": "torch.hub.load"}, "certain modules of .*CIFAR10_TRUST=tests,torch.hub"),
        ({"_target_": "lightning.pytorch.LightningModule"}, "only classes from certain modules"),
        ({"_target_": "torch.utils.model_dump.__main__.main"}, "only classes from certain modules"),
        ({"_target_": "cifar10.training.classifier.Classifier"}, "only classes from certain"),
        ({"_target_": "torchvision.models.resnet.WeightsEnum"}, "is not a Module"),
        ({"_target_": "torch.nn.LSTM", "proj": 3}, "layer.proj=3: unknown setting"),
        ({"_target_": "torch.nn.functional.relu"}, "is not a Module"),
        ({"_target_": "torch.nn.Nothing"}, "has no attribute"),
        ({"_target_": "torch.nn.nothing.Nothing"}, "No module named"),
        (
            {"_target_": "torch.nn.Linear", "in_features": 3},
            "layer.out_features: missing; Linear needs it",
        ),
        ({"_target_": "torch.nn.ReLU", "inplac": 1}, "did you mean layer.inplace"),
        ({"_target_": "torch.nn.ReLU", "inplace": "yes"}, "inplace='yes': must be true or false"),
        ({"_target_": "torch.nn.Dropout", "p": 7.0}, "layer: dropout probability .* got 7"),
    ],
)
def test_a_wrong_specification_is_rejected(spec, message):
    with pytest.raises(SettingError, match=message):
        instantiate(spec, "layer", nn.Module)


@pytest.mark.parametrize(
    "text",
    ["reference::/tmp/x.json", "file:///a::reference::b", "x::y]", "//[a::b]/::c", "a::b"],
)
@pytest.mark.parametrize("given", [{}, {"bias": "x"}])
def test_no_address_leads_to_a_file_that_runs_code(text, given):
    """Lightning hands folders to fsspec, whose `reference::` renders templates with code."""
    spec = {"_target_": "torch.nn.Linear", "in_features": {"a": [text]}}
    if given:
        spec, given = {"_target_": "torch.nn.Linear", "in_features": 1}, {"bias": text}
    with pytest.raises(SettingError, match="addresses with :: are not allowed"):
        instantiate(spec, "layer", nn.Module, **given)
    for address in ("http://[::1]:8080/x", "http://user:pw@[fe80::1]:5000"):
        assert refuse_chain(address, "logger") == address


def test_another_package_can_be_trusted(monkeypatch):
    spec = {"_target_": "fractions.Fraction", "numerator": 3}
    with pytest.raises(SettingError, match="CIFAR10_TRUST"):
        instantiate(spec, "thing", Fraction)
    monkeypatch.setenv("CIFAR10_TRUST", "another, fractions")
    assert instantiate(spec, "thing", Fraction) == 3


def test_arguments_of_the_program_cannot_be_set():
    with pytest.raises(SettingError, match=r"layer\.out=3: set by the program"):
        call_checked(lambda out: out, {"out": 3}, "layer.", out=4)


class Stopped(nn.Module):
    def __init__(self):
        raise Interrupted(15)


def test_a_signal_during_building_stays_a_signal(monkeypatch):
    monkeypatch.setenv("CIFAR10_TRUST", "tests")
    with pytest.raises(Interrupted):
        instantiate({"_target_": f"{__name__}.Stopped"}, "model", nn.Module)
