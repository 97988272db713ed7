"""Every YAML file composes and builds; wrong settings are rejected before anything is written."""

from importlib import import_module
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from cifar10.core.errors import SettingError
from cifar10.core.instantiate import signature_parameters
from cifar10.core.settings import CONFIGS
from cifar10.data.module import CIFAR10DataModule
from cifar10.models import NETWORKS
from cifar10.runs.components import build_components
from cifar10.training.classifier import Classifier

FILES = sorted(CONFIGS.rglob("*.yaml"))
NAMES = [file.relative_to(CONFIGS).with_suffix("").as_posix() for file in FILES]
PARTS = {"data/_base"}  # which only others include


@pytest.mark.parametrize("name", [name for name in NAMES if name not in PARTS])
def test_every_file_composes_and_builds(name, settings, tmp_path, photos):
    group, _, option = name.rpartition("/")
    if option in ("mlflow", "wandb"):
        pytest.importorskip(option)
    needed = {"data/folder": [f"data.dir={photos}"], "model/timm": ["model.name=resnet18"]}
    needed["experiment/convnet_best"] = ["teacher=null"]  # which is trained first
    chosen = settings(*([f"{group}={option}"] if group else []), *needed.get(name, []))
    parts = build_components(chosen, tmp_path)
    assert list(tmp_path.iterdir()) == []
    own = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml"), resolve=False)
    if group in chosen:  # the run is built from the values of the file
        for key, value in own.items():
            if key != "defaults" and "${" not in str(value) and value != "???":
                assert chosen[group][key] == value
        if "_target_" in own:
            built = {
                "data": parts.data,
                "model": parts.classifier.network,
                "optimizer": parts.classifier.build_optimizer(10)[0],
                "scheduler": parts.classifier.build_optimizer(10)[1],
                "trainer": parts.trainer,
            }[group]
            assert type(built).__name__ == own["_target_"].rpartition(".")[2]


def specifications(node):
    """The groups with a `_target_` of this project within nested settings."""
    if isinstance(node, dict):
        if str(node.get("_target_", "")).startswith("cifar10."):
            yield node
        for child in node.values():
            yield from specifications(child)


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_constructors_have_the_defaults_of_the_yaml_files(file):
    content = OmegaConf.to_container(OmegaConf.load(file))  # PyYAML takes 2e-3 for text
    if file.name == "_base.yaml":
        content = {"_target_": "cifar10.data.module.InMemoryDataModule"} | content
    for spec in specifications(content):
        module, _, name = spec["_target_"].rpartition(".")
        named, _ = signature_parameters(getattr(import_module(module), name))
        for key in spec.keys() - {"_target_", "defaults"}:
            if "${" not in str(spec[key]) and spec[key] != "???":
                default = named[key].default
                default = list(default) if isinstance(default, tuple) else default
                assert (default or None) == (spec[key] or None), key


def test_what_the_yaml_files_choose_is_the_default_in_python(settings):
    composed, classifier = settings(), Classifier()
    hparams = classifier.hparams
    for group in ("model", "optimizer", "scheduler"):
        assert hparams[group]["_target_"] == composed[group]["_target_"]
    for key in ("label_smoothing", "test_views"):
        assert hparams[key] == composed[key]
    data = composed["data"]
    assert (CIFAR10DataModule().dir, CIFAR10DataModule().seed) == (Path(data["dir"]), data["seed"])
    sample = settings("data=sample")["data"]
    for key in ("batch_size", "val_size"):
        assert getattr(CIFAR10DataModule("sample"), key) == sample[key]
    names = {file.stem for file in (CONFIGS / "model").glob("*.yaml")}
    assert names - set(NETWORKS) == {"timm"}  # which also needs the name of a network
    for name in NETWORKS:
        assert settings(f"model={name}")["model"]["_target_"] == NETWORKS[name]


def test_the_original_recipe_has_the_original_settings(settings, tmp_path):
    original = settings("experiment=original")
    parts = build_components(original, tmp_path)
    assert parts.data.validation == "test"
    assert parts.data.augment.flip == "none"
    assert (parts.data.augment.shift, parts.data.augment.cutout) == (0, 0)
    assert parts.hardware.precision.value == "32-true"
    assert original["model"]["dropout"] == 0.5
    assert original["label_smoothing"] == 0


WRONG = {
    "data.batch_size=0": "data.batch_size=0: must be at least 1",
    "data.batch_size=45001": "data.batch_size=45001: must be at most 45000",
    "data.batch_size=1.5": "data.batch_size=1.5: must be an integer",
    "data.batch_size=many": "data.batch_size='many': must be an integer",
    "data.val_size=60000": "data.val_size=60000: must be less than 50000",
    "data.val_size=-1": "data.val_size=-1: must be at least 0",
    "data.validation=train": "data.validation='train': must be 'held-out' or 'test'",
    "data.flip=maybe": "data.flip='maybe': must be 'random', 'alternating' or 'none'",
    "data.shift=32": "data.shift=32: must be below 32",
    "data.download=3": "data.download=3: must be true or false",
    "data.sources=x": "data.sources='x': must be a list",
    "optimizer.lr=-1": "optimizer.lr=-1: must be at least 0",
    "optimizer.lr=inf": "optimizer.lr=inf: must be below inf",
    "optimizer.lr=fast": "optimizer.lr='fast': must be a number",
    "optimizer.momentum=1.5": "optimizer.momentum=1.5: must be at most 1",
    "optimizer.adam_betas=[0.9]": "optimizer.adam_betas=[0.9]: must have at least 2 values",
    "scheduler.warmup=2": "scheduler.warmup=2: must be at most 1",
    "model.dropout=2": "model.dropout=2: must be at most 1",
    "label_smoothing=-0.1": "label_smoothing=-0.1: must be at least 0",
    "seed=-1": "seed=-1: must be at least 0",
    "seed=null": "seed=None: must be an integer",
    "report=3": "report=3: must be true or false",
    "threads=0": "threads=0: must be at least 1",
    "threads=100000": "threads=100000: must be at most ",
    "compile=3": "compile=3: must be true or false",
    "trainer.precision=transformer-engine": "trainer.precision=transformer-engine: needs an NVID",
    "data.sizes=[24]": "data.sizes=[24]: must be a group of settings",
    "data.sizes={0:24}": "data.sizes={0: 24}: must be at least 1",
    "data.sizes={1:64}": "data.sizes={1: 64}: must be at most 32",
    "data.sizes={1:8}": "data.sizes={1: 8}: must be at least 16",
    "data.brightness=2": "data.brightness=2: must be at most 1",
    "data.mixup=-1": "data.mixup=-1: must be at least 0",
    "data.cutmix=inf": "data.cutmix=inf: must be below inf",
    "data.policy=foo": "data.policy='foo': must be 'trivial' or 'randaugment'",
    "data=torchvision data.policy=trivial": "data.policy=trivial: has no effect with data.tra",
    "data.transform=[3]": "data.transform=[3]: must be a group of settings",
    "data.transform=[{_target_:torch.nn.Nothing}]": "data.transform.0._target_=torch.nn.Nothing",
    "model=airnet model.widths=[8,8,8]": "model.widths=[8, 8, 8]: must be at least 24",
    "model=airnet model.widths=[64]": "model.widths=[64]: must have at least 3 values",
    "model=airnet model.activation=tanh": "model.activation='tanh': must be 'gelu' or 'silu'",
    "trainer.precision=float8": "trainer.precision=float8: must be one of auto, 32-true",
    "+trainer.val_check_interval=0.5": "trainer.val_check_interval=0.5: must be 1.0",
    "trainer.max_epochs=0": "trainer.max_epochs=0: must be at least 1",
    "trainer.max_epochs=ten": "trainer.max_epochs='ten': must be an integer",
    "trainer.accelerator=gpu": "trainer: ",
    "trainer.devices=0": "trainer: ",
    "+trainer.colour=red": "trainer.colour=red: unknown setting; see --help",
    "+data.batchsize=8": "data.batchsize=8: unknown setting; did you mean data.batch_size",
    "+anything=1": "anything=1: unknown setting; see --help",
    "model._target_=os.system": "model._target_=os.system: only classes from ",
    "model._target_=cifar10.models.convnet.Nothing": "model._target_=cifar10.models.convnet.Noth",
    "model._target_=torch.optim.SGD": "model._target_=torch.optim.SGD: is not a Module",
    "~optimizer": "optimizer: missing",
    "callbacks.best=3": "callbacks.best=3: must be a group of settings",
    "data.val_seed=100000000000000000000": "data.val_seed=100000000000000000000: must be below 42",
}


@pytest.mark.parametrize("override", WRONG)
def test_a_wrong_setting_is_named_with_its_value_and_the_allowed_ones(
    override, settings, tmp_path, monkeypatch
):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingError) as caught:
        build_components(settings(*override.split(" ", 1)), tmp_path)
    assert str(caught.value).startswith(WRONG[override])
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_range_that_torch_checks_is_reported(settings, tmp_path):
    for override in ("optimizer.lr=-1", "optimizer.weight_decay=-1"):
        with pytest.raises(SettingError, match=r"^optimizer: Invalid .*-1"):
            build_components(settings("optimizer=sgd", override), Path(tmp_path))
