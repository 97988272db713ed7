"""Trainings that start from a pretrained model, a run or a file of weights."""

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from cifar10 import AirNet, ConvNet
from cifar10.core.errors import SettingError
from cifar10.data import MEAN
from cifar10.runs.checkpoint import read_checkpoint
from cifar10.runs.components import START, build_components
from cifar10.runs.load import load
from cifar10.runs.result import read_result
from cifar10.runs.resume import resolve_settings
from cifar10.runs.run import run
from cifar10.runs.weights import read_weights
from tests.processes import train

CHEAP = ("data=sample", "trainer.max_epochs=1", "+trainer.limit_train_batches=2", "report=false")
SMALL = ("model._target_=tests.network.Small", "~model.dropout", "threads=1")


def resolved(settings, folder, *words):
    chosen = settings(*CHEAP, *words)
    return resolve_settings(chosen, None, folder, words)[0]


@pytest.fixture
def files(tmp_path):
    """Files of a ConvNet's weights, as other projects save them, by their name."""
    weights = ConvNet().state_dict()
    prefixed = {f"module.{key}": value for key, value in weights.items()}
    save_file(weights, tmp_path / "plain.safetensors")
    torch.save(weights, tmp_path / "plain.pt")
    torch.save({"net": prefixed, "acc": 93.1, "epoch": 7}, tmp_path / "nested.pth")
    torch.save({"state_dict": prefixed, "best_prec1": 0.9}, tmp_path / "nested.ckpt")
    old = {"state_dict": prefixed}
    torch.save(old, tmp_path / "old.th", _use_new_zipfile_serialization=False)
    return weights, sorted(set(tmp_path.iterdir()))


def test_every_form_of_file_starts_the_network(files, settings, tmp_path):
    weights, paths = files
    assert len(paths) == 5
    for path in paths:
        chosen = resolved(settings, tmp_path / "run", f"weights={path}")
        components = build_components(chosen, tmp_path / "run")
        for name, value in components.classifier.network.state_dict().items():
            assert torch.equal(value, weights[name]), (path, name)
        assert components.start.text == f"{path}: 18 of 18 tensors loaded"


@pytest.mark.filterwarnings(
    "ignore:Checkpoint directory .* exists", "ignore:The number of training"
)
def test_a_pretrained_model_brings_its_network_and_a_folder_its_classes(settings, photos, tmp_path):
    words = ("weights=airnet", "data=folder", f"data.dir={photos}", "freeze=[whiten]")
    chosen = resolved(settings, tmp_path / "run", *words)
    assert chosen["model"]["widths"] == [128, 384, 384]
    components = build_components(chosen, tmp_path / "run")
    classifier, pretrained = components.classifier, load("airnet", "cpu")
    components.trainer.fit(classifier, components.data)  # setup leaves the constants and whitening
    assert torch.equal(classifier.mean, pretrained.mean)
    assert torch.equal(classifier.network.whiten.bias, pretrained.network.whiten.bias)
    assert "; new: head.weight" in components.start.text
    typed = resolved(settings, tmp_path / "run", *words, "model=airnet")
    with pytest.raises(SettingError, match="weights=airnet: these are weights of another") as error:
        build_components(typed, tmp_path / "run")
    advice = "leave out model, or set 'model.widths=[128,384,384]'"
    assert str(error.value).endswith(advice)


def test_a_run_starts_where_another_ended_and_says_so(trained, settings, tmp_path, caplog):
    chosen = resolved(settings, tmp_path / "run", f"weights={trained}", *SMALL)
    if "tests.network" not in str(read_result(trained / "result.json")["config"]["model"]):
        chosen["model"] = read_result(trained / "result.json")["config"]["model"]
    chosen["optimizer"] = {"_target_": "torch.optim.SGD", "lr": 0.0}
    caplog.set_level("INFO", "cifar10")
    result = run(chosen, tmp_path / "run")
    assert "tensors loaded" in result["start"]
    assert f"weights     {trained}" in caplog.text
    assert START in result["digests"]
    before, after = (load(folder, "cpu") for folder in (trained, tmp_path / "run"))
    for (name, value), (_, was) in zip(
        after.network.named_parameters(), before.network.named_parameters(), strict=True
    ):
        assert torch.equal(value, was), name


def test_a_resumed_run_does_not_need_the_weights_again(files, settings, tmp_path):
    _, paths = files
    folder = tmp_path / "run"
    first = resolved(settings, folder, f"weights={paths[-1]}", "threads=1")
    run(first, folder)
    for path in paths:
        path.unlink()
    longer = settings(*CHEAP, f"weights={paths[-1]}", "trainer.max_epochs=2")
    chosen, earlier, _ = resolve_settings(longer, str(folder), folder, ["trainer.max_epochs=2"])
    components = build_components(chosen, folder, is_start=False)
    result = run(chosen, folder, ["trainer.max_epochs=2"], earlier=earlier, components=components)
    assert result["epochs"] == 2
    assert result["digests"][START] == earlier["digests"][START]
    assert result["start"] == earlier["start"]
    assert read_checkpoint(folder / "last.ckpt")["run"]["digests"] == result["digests"]


WRONG = {
    "nothing": (None, "no such model"),
    "empty": (b"", "cannot be read safely"),
    "text": (b"hello", "cannot be read safely"),
    "pickle": (b"cos\nsystem\n(S'touch ran'\ntR.", "cannot be read safely"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".ckpt"])
def test_a_file_without_weights_is_named(case, suffix, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, _ = WRONG[case]
    if content is not None:
        (tmp_path / f"x{suffix}").write_bytes(content)
    with pytest.raises(SettingError, match=f"weights=x{suffix}: ") as error:
        read_weights(f"x{suffix}")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".ckpt"])
def test_a_pipe_is_refused_without_waiting(suffix, tmp_path):
    os.mkfifo(tmp_path / f"x{suffix}")
    with pytest.raises(SettingError, match="not a regular file"):
        read_weights(str(tmp_path / f"x{suffix}"))


def test_content_that_is_not_weights_is_named(tmp_path):
    torch.save({"epoch": 3, "names": ["a"]}, tmp_path / "x.pt")
    with pytest.raises(SettingError, match="holds no weights"):
        read_weights(str(tmp_path / "x.pt"))
    torch.save(AirNet(), tmp_path / "module.pt")  # a pickled module, which would run code
    with pytest.raises(SettingError, match="cannot be read safely"):
        read_weights(str(tmp_path / "module.pt"))
    assert json.dumps(read_weights("convnet")[1])  # plain values


@pytest.mark.parametrize("shape", [(1,), (3,), (3, 1, 5)])
def test_constants_of_another_shape_are_not_those_of_this_project(shape, settings, tmp_path):
    state = {f"network.{key}": value for key, value in ConvNet().state_dict().items()}
    state |= {"mean": torch.zeros(shape), "std": torch.ones(shape)}
    model = {"_target_": "cifar10.models.convnet.ConvNet"}
    torch.save({"state_dict": state, "hyper_parameters": {"model": model}}, tmp_path / "x.ckpt")
    chosen = resolved(settings, tmp_path / "run", f"weights={tmp_path / 'x.ckpt'}")
    mean = build_components(chosen, tmp_path / "run").classifier.mean
    assert mean.flatten().tolist() == pytest.approx(MEAN)


def test_checkpoints_of_other_lightning_projects_are_files_of_weights(tmp_path):
    state = {f"model.{key}": value for key, value in ConvNet().state_dict().items()}
    for number, arguments in enumerate(({"model": "resnet18"}, {"model": None}, {})):
        path = tmp_path / f"{number}.ckpt"
        torch.save({"state_dict": state, "hyper_parameters": arguments}, path)
        weights, found = read_weights(str(path))
        assert found == {}
        assert weights.keys() == state.keys()


ODD = {
    "sparse": torch.ones(8).to_sparse(),
    "meta": torch.empty(8, device="meta"),
    "complex": torch.ones(8, dtype=torch.complex64),
    "expanded": torch.ones(1).expand(2**40),
}


@pytest.mark.filterwarnings("ignore")  # of torch, about its old kinds of tensors
@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", ["conv1.bias", "surplus"])
def test_tensors_that_no_network_has_are_refused(kind, name, tmp_path):
    torch.save(ConvNet().state_dict() | {name: ODD[kind]}, tmp_path / "x.pt")
    with pytest.raises(SettingError, match=f"{name}: is not a plain tensor|cannot be read safely"):
        read_weights(str(tmp_path / "x.pt"))


@pytest.mark.parametrize("name", ["." * 100_000, "x" * 501, "a\nb", "\ud800"])
def test_names_that_no_network_has_are_refused(name, tmp_path):
    torch.save({name: torch.ones(1)}, tmp_path / "x.pt")
    with pytest.raises(SettingError, match="a name that is too long or not printable"):
        read_weights(str(tmp_path / "x.pt"))


def test_too_many_tensors_are_refused(tmp_path):
    save_file({f"a{n}": torch.ones(0) for n in range(10_001)}, tmp_path / "x.safetensors")
    with pytest.raises(SettingError, match="has 10,001 tensors; at most 10,000"):
        read_weights(str(tmp_path / "x.safetensors"))


@pytest.mark.parametrize("value", ["[1]", "{a:1}", "3"])
def test_weights_that_are_no_text_are_refused(value, settings, tmp_path):
    with pytest.raises(SettingError, match=r"weights=.*must be text"):
        build_components(resolved(settings, tmp_path, f"weights={value}"), tmp_path / "run")


def test_content_that_expands_without_end_is_refused(tmp_path):
    value = [torch.ones(1)]
    for _ in range(40):
        value = [value, value]
    torch.save({"state_dict": {}, "x": value}, tmp_path / "x.pt")
    with pytest.raises(SettingError, match="holds too many values"):
        read_weights(str(tmp_path / "x.pt"))


def test_seeds_of_fine_tuning_share_the_digest_of_the_start(files, settings, tmp_path):
    _, paths = files
    digests = set()
    for seed in (0, 1):
        chosen = resolved(settings, tmp_path / "run", f"weights={paths[0]}", f"seed={seed}")
        digests.add(build_components(chosen, tmp_path / "run").digests[START])
    assert len(digests) == 1


def test_every_process_of_a_start_finds_the_network_of_the_weights(settings, tmp_path):
    """The first has written result.json when Lightning starts the others."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "result.json").write_text('{"status": "running", "overrides": []}')
    chosen = resolved(settings, tmp_path / "run", "weights=airnet")
    assert chosen["model"]["_target_"] == "cifar10.models.airnet.AirNet"


@pytest.mark.slow
def test_the_command_fine_tunes_a_pretrained_model_on_a_folder(photos, tmp_path):
    words = ("weights=airnet", "data=folder", f"data.dir={photos}", "hydra.run.dir=run")
    quick = ("trainer.max_epochs=1", "report=false", "threads=1", "freeze=[whiten,blocks.1]")
    output = train(tmp_path, *words, *quick, "head_lr_factor=10").out
    assert "weights     airnet: " in output and "; new: head.weight" in output
    result = read_result(tmp_path / "run" / "result.json")
    assert result["config"]["model"]["widths"] == [128, 384, 384]
    before, after = (load(model, "cpu").network for model in ("airnet", tmp_path / "run"))
    assert torch.equal(before.blocks[1][0].weight, after.blocks[1][0].weight)
    assert torch.equal(before.blocks[1][2].running_mean, after.blocks[1][2].running_mean)
    assert not torch.equal(before.blocks[2][0].weight, after.blocks[2][0].weight)
