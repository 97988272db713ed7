"""How large a batch is let through, and what is said of one that is not."""

import pytest
import torch

from cifar10.core.errors import SettingError
from cifar10.runs import memory
from cifar10.runs.components import build_components


def test_what_autograd_keeps_is_counted_by_hand(settings, tmp_path):
    """A network of known activations: a convolution keeps its input, a ReLU its output."""
    classifier = build_components(settings("data=sample"), tmp_path).classifier
    classifier.network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(8 * 32 * 32, 10),
    )
    classifier.set_memory_format(channels_last=False)  # else Flatten copies
    images, activations, logits = 3 * 32 * 32, 8 * 32 * 32, 10
    floats = images + activations + logits  # the loss keeps log-probabilities and labels
    counted = memory.needed_per_image(classifier, 32) / memory.OVERHEAD
    assert counted == pytest.approx(4 * floats, rel=0.01)
    smaller = memory.needed_per_image(classifier, 32, half=True) / memory.OVERHEAD
    assert smaller < 0.75 * counted


def test_counting_changes_nothing(settings, tmp_path):
    classifier = build_components(settings(), tmp_path).classifier
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    chance = torch.get_rng_state()
    memory.needed_per_image(classifier, 32)
    assert torch.equal(torch.get_rng_state(), chance)
    for name, value in classifier.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_batch_too_large_for_memory_is_refused_with_one_that_fits(
    settings, tmp_path, monkeypatch
):
    monkeypatch.setattr(memory, "capacity", lambda: 2_000_000_000)
    with pytest.raises(
        SettingError, match=r"^data\.batch_size=10000: .* 2\.0 GB; (\d+) would fit$"
    ) as caught:
        build_components(settings("data.batch_size=10000"), tmp_path)
    fits = str(caught.value).split()[-3]
    build_components(settings(f"data.batch_size={fits}"), tmp_path)


def test_a_containers_limit_counts(monkeypatch, tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal:       2000 kB\nMemAvailable:   1000 kB\n")
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "MACHINE", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CONTAINER_LIMIT", limit)
    assert memory.capacity() == 2_048_000
    for text, expected in (("max", 2_048_000), ("5000", 5000), ("9000000", 2_048_000)):
        limit.write_text(f"{text}\n")
        assert memory.capacity() == expected
    monkeypatch.setattr(memory, "MACHINE", tmp_path / "none")
    assert memory.capacity() is None


@pytest.mark.parametrize(("count", "shown"), [(0.4, 1), (7.9, 7), (23.9, 23), (2345.6, 2300)])
def test_two_digits_are_kept(count, shown):
    assert memory.two_digits(count) == shown


def test_memory_that_runs_out_while_training_is_one_line(tiny, tmp_path, monkeypatch):
    from cifar10.runs.run import run
    from cifar10.training.classifier import Classifier

    def training_step(self, batch, index):
        torch.empty(1 << 60, dtype=torch.uint8)

    monkeypatch.setattr(Classifier, "training_step", training_step)
    with pytest.raises(SettingError, match=r"^data\.batch_size=\d+: memory ran out") as caught:
        run(tiny(), tmp_path / "run")
    assert "\n" not in str(caught.value)
