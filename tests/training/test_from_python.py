"""Classifier and data module without Hydra: with Lightning's Trainer, any network, any loader."""

import functools

import lightning as L
import pytest
import torch

import cifar10
from cifar10 import CIFAR10DataModule, Classifier, ConvNet, FolderDataModule
from cifar10.core.errors import SettingError, UserError
from cifar10.data import MEAN
from cifar10.training.finetune import freeze
from tests.network import Small

SGD = functools.partial(torch.optim.SGD, lr=0.1)
HALVING = functools.partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.5)
NETWORKS = {
    "by default": Classifier,
    "by name": lambda: Classifier("airnet"),
    "by class name": lambda: Classifier("cifar10.models.convnet.ConvNet"),
    "own": lambda: Classifier(Small()),
    "an object, functions": lambda: Classifier(ConvNet(dropout=0.2), SGD, HALVING),
    "a specification": lambda: Classifier({"_target_": "tests.network.Small", "dropout": 0.1}),
    "an optimizer's specification": lambda: Classifier(
        Small(), {"_target_": "torch.optim.AdamW", "lr": 1e-3}
    ),
}


# Of Lightning, about few steps and a second training in one folder.
EXPECTED = (
    "ignore:.*does not have many workers",
    "ignore:The number of training batches",
    "ignore:Checkpoint directory",
    "ignore:You defined a .validation_step. but have no",
)


@pytest.mark.filterwarnings(*EXPECTED)
@pytest.mark.parametrize(
    ("name", "own_loader"),
    [*((name, False) for name in NETWORKS), ("own", True), ("by name", True)],
)
def test_any_network_trains_with_any_data_and_is_loaded(name, own_loader, trainer, loader):
    classifier, fit = NETWORKS[name](), trainer()
    data = {} if own_loader else {"datamodule": CIFAR10DataModule("sample")}
    if own_loader:
        fit.fit(classifier, loader, loader)
        probabilities = fit.predict(classifier, loader)
    else:
        fit.fit(classifier, **data)
        probabilities = fit.predict(classifier, **data)
    assert probabilities[0].shape == (20 if own_loader else 50, 10)
    torch.testing.assert_close(probabilities[0].sum(1), torch.ones(len(probabilities[0])))
    path = fit.checkpoint_callback.best_model_path
    given = {}
    if "_object_" in classifier.hparams["model"]:
        with pytest.raises(SettingError, match=r"load_from_checkpoint\(PATH, network="):
            Classifier.load_from_checkpoint(path)
        given = {"network": type(classifier.network)()}
    loaded = Classifier.load_from_checkpoint(path, **given)
    for key, value in classifier.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    if not own_loader:  # it resumes, and nothing that a start sets is set again
        trainer(max_epochs=2).fit(NETWORKS[name](), **data, ckpt_path=path)


@pytest.mark.filterwarnings(*EXPECTED)
def test_a_network_starts_from_the_first_images_of_a_loader(trainer, loader):
    classifier = Classifier("airnet", mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    seen = []
    classifier.network.init_from_images = seen.append
    trainer().fit(classifier, loader)
    images = torch.cat([images for images, _ in loader])
    torch.testing.assert_close(seen[0], (images / 255 - 0.5) / 0.2, rtol=1e-4, atol=1e-5)


def test_the_constants_are_those_of_cifar10_unless_given(loader):
    assert torch.equal(Classifier(Small()).mean.flatten(), torch.tensor(MEAN))
    given = Classifier(Small(), mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0))
    data = CIFAR10DataModule("sample")
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False)
    L.Trainer(max_steps=0, enable_model_summary=False, **quiet).fit(given, data)
    assert given.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("airnett", "unknown; choose from convnet, airnet"),
        (torch.nn.Flatten(), r"must return one logit per class"),
        ("os.system", "CIFAR10_TRUST"),
        (Small, r"network: Small is a class; give an object of it, Small\(...\)"),
        (len, "network: must be an nn.Module, a name or a specification, not builtin"),
        (3, "an object of the class int was given; give a specification"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(network, message):
    with pytest.raises(SettingError, match=message):
        Classifier(network)


PARAMETER = torch.nn.Parameter(torch.zeros(2))
PLATEAU = {"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau"}
OPTIMIZER = torch.optim.SGD([PARAMETER], lr=0.1)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("optimizer", OPTIMIZER, "object of the class SGD was given; give a specification or"),
        ("scheduler", HALVING(OPTIMIZER), "object of the class StepLR was given; give a"),
        ("scheduler", PLATEAU, "scheduler: ReduceLROnPlateau needs a metric"),
        ("optimizer", "adamw", "optimizer: must be a specification or a function of the param"),
        ("optimizer", lambda groups: None, "a function of the parameter groups that returns the"),
        ("scheduler", lambda optimizer: optimizer, "a function of the optimizer that returns the"),
    ],
)
def test_an_optimizer_or_scheduler_of_another_kind_is_refused(name, given, message):
    with pytest.raises(SettingError, match=message):
        Classifier(Small(), **{name: given}).build_optimizer(total_steps=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.int8, torch.bool])
def test_batches_of_another_type_are_refused(dtype):
    """Floats in [0, 1], as `ToTensor` makes them, would be taken for almost black images."""
    images = torch.zeros(2, 3, 32, 32, dtype=dtype)
    with pytest.raises(UserError, match=r"must be uint8, 0 to 255"):
        Classifier(Small())(images)


@pytest.mark.filterwarnings(*EXPECTED)
@pytest.mark.parametrize("source", ["load", "load_from_checkpoint"])
def test_a_loaded_model_goes_on_from_its_weights(source, trainer, tmp_path):
    data = CIFAR10DataModule("sample")
    if source == "load":
        classifier = cifar10.load("airnet", device="cpu")
    else:
        first = trainer()
        first.fit(Classifier("airnet", mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0)), data)
        path = first.checkpoint_callback.best_model_path
        classifier = Classifier.load_from_checkpoint(path)
    kept = {
        name: classifier.state_dict()[name].clone() for name in ("mean", "network.whiten.weight")
    }
    trainer().fit(classifier, data)
    assert classifier.training
    for name, value in kept.items():
        assert torch.equal(classifier.state_dict()[name], value), name


@pytest.mark.filterwarnings(*EXPECTED)
def test_frozen_layers_keep_their_statistics_in_a_fit_and_in_a_resumed_one(trainer):
    def frozen():
        classifier = Classifier(Small(), SGD)
        classifier.frozen = freeze(classifier.network, ["1"])
        return classifier

    data, first, classifier = CIFAR10DataModule("sample"), trainer(), frozen()
    before = {key: value.clone() for key, value in classifier.network[1].state_dict().items()}
    first.fit(classifier, data)
    again = frozen()
    trainer(max_epochs=2).fit(again, data, ckpt_path=first.checkpoint_callback.best_model_path)
    for key, value in before.items():
        assert torch.equal(classifier.network[1].state_dict()[key], value), key
        assert torch.equal(again.network[1].state_dict()[key], value), key
    assert again.network[3].training  # dropout


@pytest.mark.filterwarnings(*EXPECTED)
def test_a_second_fit_does_not_start_anew(trainer):
    data, classifier = CIFAR10DataModule("sample"), Classifier("airnet")
    trainer().fit(classifier, data)
    filters = classifier.network.whiten.weight.clone()
    classifier.network.whiten.weight.data += 1
    trainer().fit(classifier, data)
    assert torch.equal(classifier.network.whiten.weight, filters + 1)


def test_classes_of_the_data_and_the_classifier_are_the_same(trainer, photos):
    with pytest.raises(SettingError, match=r"give classes=data\.classes"):
        trainer().fit(Classifier(Small()), FolderDataModule(str(photos)))


@pytest.mark.filterwarnings(*EXPECTED)
@pytest.mark.parametrize("name", ["optimizer", "scheduler"])
def test_an_optimizer_given_as_an_object_is_given_again(name, trainer, loader):
    fit = trainer()
    given = {"optimizer": SGD, "scheduler": HALVING}
    fit.fit(Classifier("convnet", **given), loader)
    del given[name]
    path = fit.checkpoint_callback.best_model_path
    loaded = Classifier.load_from_checkpoint(path, **given)
    with pytest.raises(SettingError, match=f"{name}: was given as an object"):
        trainer().fit(loaded, loader)


def test_modes_of_a_given_network_are_kept():
    network = Small()
    network[1].eval()
    classifier = Classifier(network)
    classifier.predict(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    assert (network[1].training, network[3].training) == (False, True)
