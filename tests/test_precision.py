"""What `auto` picks on hardware that this machine need not have."""

import pytest
import torch

from cifar10.errors import SettingError
from cifar10.precision import VALUES, choose


@pytest.fixture
def hardware(monkeypatch):
    def pretend(cuda=None, mps=False, cpu=()):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda is not None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(cpu, True))

    return pretend


@pytest.mark.parametrize(
    ("machine", "value", "channels_last"),
    [
        (dict(cuda=(9, 0)), "bf16-mixed", True),
        (dict(cuda=(8, 0)), "bf16-mixed", True),
        (dict(cuda=(7, 5)), "16-mixed", True),  # emulates bf16, and would say it supports it
        (dict(cuda=(6, 1)), "32-true", False),
        (dict(mps=True), "32-true", False),
        (dict(cpu=["amx_bf16", "avx512_bf16"]), "bf16-mixed", True),
        (dict(cpu=["avx512_bf16"]), "bf16-mixed", True),
        (dict(cpu=["avx2"]), "32-true", True),
        (dict(), "32-true", True),
    ],
)
def test_auto_picks_what_the_hardware_multiplies(hardware, machine, value, channels_last):
    hardware(**machine)
    picked = choose("auto", "auto")
    assert (picked.value, picked.channels_last) == (value, channels_last)
    assert picked.reason


def test_auto_looks_at_the_device_that_was_asked_for(hardware):
    hardware(cuda=(9, 0), cpu=["avx2"])
    assert choose("auto", "cpu").value == "32-true"


@pytest.mark.parametrize("value", [*VALUES[1:], 32, "16"])
def test_lightnings_values_are_taken_as_they_are(hardware, value):
    hardware(cuda=(8, 0))
    assert choose(value, "gpu").value == str(value)


def test_on_a_processor_16_mixed_is_what_lightning_makes_of_it():
    assert choose("16-mixed", "cpu").value == "bf16-mixed"


def test_an_unknown_value_names_those_there_are():
    with pytest.raises(SettingError, match=r"trainer\.precision=8-bit: .*bf16-mixed"):
        choose("8-bit", "cpu")


def test_the_real_hardware_gives_an_answer_that_lightning_takes():
    import lightning as L

    precision = choose("auto", "auto")
    assert L.Trainer(precision=precision.value, logger=False).precision == precision.value
