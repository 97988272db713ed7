"""Weights of another training in a network, frozen layers, the head's learning rate."""

import pytest
import torch

from cifar10 import AirNet, ConvNet, ResNet18
from cifar10.core.errors import SettingError
from cifar10.training.classifier import Classifier
from cifar10.training.finetune import freeze, head_name, transfer
from tests.network import Small

NETWORKS = {"small": Small, "convnet": ConvNet, "airnet": AirNet, "resnet18": ResNet18}
# How other projects' files name the weights of a network.
NAMES = {
    "same": lambda weights: weights,
    "data parallel": lambda weights: {f"module.{k}": v for k, v in weights.items()},
    "two wrappers": lambda weights: {f"module.net.{k}": v for k, v in weights.items()},
    "compiled": lambda weights: {f"_orig_mod.{k}": v for k, v in weights.items()},
    "beside a loss": lambda weights: (
        {f"model.{k}": v for k, v in weights.items()} | {"criterion.weight": torch.ones(10)}
    ),
    "before num_batches_tracked": lambda weights: {
        k: v for k, v in weights.items() if "num_batches" not in k
    },
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("names", NAMES)
def test_weights_are_found_under_any_prefix(network, names):
    source, target = NETWORKS[network](), NETWORKS[network]()
    taken, new, _ = transfer(target, NAMES[names](source.state_dict()), same_classes=True)
    assert new == []
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value), name
        assert name in taken or names == "before num_batches_tracked"


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("classes", [3, 10])
def test_the_head_of_other_classes_is_new(network, classes):
    source, target = NETWORKS[network](), NETWORKS[network](num_classes=classes)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    _, new, unused = transfer(target, source.state_dict(), same_classes=False)
    head = head_name(target)
    assert {name.rpartition(".")[0] for name in new} == {head}
    for name, value in target.state_dict().items():
        expected = before[name] if name in new else source.state_dict()[name]
        assert torch.equal(value, expected), name
    assert all(name.startswith(head.removeprefix("net.")) for name in unused)


@pytest.mark.parametrize("source", NETWORKS)
@pytest.mark.parametrize("target", NETWORKS)
def test_weights_of_another_network_are_refused(source, target):
    if source != target:
        network = NETWORKS[target]()
        before = {name: value.clone() for name, value in network.state_dict().items()}
        with pytest.raises(SettingError, match=r"another network: .*(is missing|has shape)"):
            transfer(network, NETWORKS[source]().state_dict(), same_classes=True)
        assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


@pytest.mark.parametrize(
    ("network", "names"),
    [
        ("small", ["1"]),
        ("small", ["0.weight", "1"]),
        ("airnet", ["blocks.1", "whiten.bias"]),
        ("resnet18", ["net.layer1", "net.bn1"]),
        ("convnet", ["conv1", "fc4"]),  # the head as well
    ],
)
def test_frozen_layers_do_not_change_in_training(network, names):
    classifier = Classifier(NETWORKS[network](), {"_target_": "torch.optim.SGD", "lr": 0.1})
    classifier.frozen = freeze(classifier.network, names)
    classifier.on_train_start()
    before = {name: value.clone() for name, value in classifier.network.state_dict().items()}
    optimizer, _ = classifier.build_optimizer(total_steps=2)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    classifier(images).logsumexp(1).sum().backward()
    optimizer.step()
    after = classifier.network.state_dict()
    changed = [name for name, value in after.items() if not torch.equal(value, before[name])]
    assert changed
    assert not [name for name in changed if name.startswith(tuple(names))]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["blocks.9"], "freeze: 'blocks.9' is not in AirNet; did you mean blocks"),
        ([""], "is not in AirNet"),
        (["xyz"], "it has whiten, blocks"),
        (["whiten", "blocks", "head"], "leaves nothing to train"),
    ],
)
def test_a_layer_that_cannot_be_frozen_is_named(names, message):
    with pytest.raises(SettingError, match=message):
        freeze(AirNet(), names)


OPTIMIZERS = ["muon", "muon_sgd", "adamw", "sgd"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("scheduler", ["triangle", "cosine", "constant"])
def test_the_head_learns_at_a_multiple_of_its_rate(optimizer, scheduler, settings):
    chosen = settings(f"optimizer={optimizer}", f"scheduler={scheduler}")

    def rates(factor, step):
        classifier = Classifier(ConvNet(), chosen["optimizer"], chosen["scheduler"])
        classifier.head_lr_factor = factor
        built, schedule = classifier.build_optimizer(total_steps=10)
        for _ in range(step):
            built.step()
            schedule.step()
        names = {id(p): name for name, p in classifier.network.named_parameters()}
        groups = built.param_groups
        return {names[id(p)]: group["lr"] for group in groups for p in group["params"]}

    for step in (0, 5):
        plain, scaled = rates(1.0, step), rates(7.0, step)
        expected = {k: v * (7 if k.startswith("fc4.") else 1) for k, v in plain.items()}
        assert scaled == pytest.approx(expected)


def test_a_schedule_that_sets_its_own_rates_is_refused_with_a_factor():
    schedule = {
        "_target_": "torch.optim.lr_scheduler.OneCycleLR",
        "max_lr": 0.1,
        "cycle_momentum": False,
    }
    classifier = Classifier(Small(), scheduler=schedule)
    classifier.build_optimizer(total_steps=10)
    classifier.head_lr_factor = 2.0
    with pytest.raises(SettingError, match=r"head_lr_factor=2\.0: OneCycleLR sets its own"):
        classifier.build_optimizer(total_steps=10)


def test_weights_of_the_layers_before_the_head_are_found():
    source, target = Small(), Small()
    body = {key: value for key, value in source.state_dict().items() if not key.startswith("5.")}
    _, new, _ = transfer(target, body, same_classes=True)
    assert new == ["5.weight", "5.bias"]
    assert torch.equal(target[0].weight, source[0].weight)

    class Features(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.features, self.head = torch.nn.Conv2d(3, 8, 3), torch.nn.Linear(8, 10)

    source, target = Features(), Features()
    body = {k: v for k, v in source.state_dict().items() if k.startswith("features")}
    assert transfer(target, body, same_classes=True).new == ["head.weight", "head.bias"]
    assert torch.equal(target.features.weight, source.features.weight)


def test_a_factor_for_a_frozen_head_is_refused():
    classifier = Classifier(Small())
    classifier.frozen = freeze(classifier.network, ["5"])
    classifier.head_lr_factor = 2.0
    with pytest.raises(SettingError, match="head_lr_factor: the last layer is frozen"):
        classifier.build_optimizer(total_steps=2)
