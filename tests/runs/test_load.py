"""Load trained classifiers by name, run and checkpoint; reject other files."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

import cifar10
from cifar10 import zoo
from cifar10.core.errors import UserError
from cifar10.data.module import InMemoryDataModule
from cifar10.runs.load import find_checkpoint
from cifar10.runs.result import RESULT_FILE, read_result, write_result
from cifar10.runs.run_dir import latest_run
from tools.ship_model import ship


@pytest.fixture(scope="module")
def few_images():
    """Evaluate on 50 test images; two of them may change class in half precision."""

    def setup(module, stage=None):
        original(module, stage)
        module.test_indices = module.test_indices[:50]

    original = InMemoryDataModule.setup
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InMemoryDataModule, "setup", setup)
        patch.setattr("tools.ship_model.COST", 0.04)
        yield


@pytest.fixture(scope="module")
def pretrained_folder(trained, few_images, tmp_path_factory):
    """A folder of pretrained models that holds one, `little`, made from the run."""
    folder = tmp_path_factory.mktemp("zoo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "FOLDER", folder)
        ship(trained, "little")
    return folder


@pytest.fixture
def pretrained(pretrained_folder, tmp_path, monkeypatch):
    folder = shutil.copytree(pretrained_folder, tmp_path / "zoo")
    monkeypatch.setattr(zoo, "FOLDER", folder)
    return folder


def test_a_run_its_checkpoint_and_a_copy_predict_the_same(trained, tmp_path):
    images = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8)
    copy = shutil.copy(trained / "best.ckpt", tmp_path / "a copy.ckpt")
    expected = cifar10.load(trained).predict(images)
    assert expected.shape == (3, 10)
    torch.testing.assert_close(expected.sum(1), torch.ones(3))
    for model in (trained / "best.ckpt", copy, str(trained)):
        assert torch.equal(cifar10.load(model).predict(images), expected)


def test_predictions_do_not_depend_on_the_batch_size(trained):
    images = torch.randint(256, (7, 3, 32, 32), dtype=torch.uint8)
    model = cifar10.load(trained)
    assert not model.training
    torch.testing.assert_close(model.predict(images, batch_size=3), model.predict(images))


def test_loading_keeps_the_random_state(trained):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    cifar10.load(trained)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("name", ["airnet", "convnet"])
def test_the_pretrained_models_load(name):
    assert cifar10.load(name, "cpu").classes == cifar10.CLASSES


def test_a_pretrained_model_predicts_like_the_run_it_was_made_from(trained, pretrained):
    images = torch.randint(256, (50, 3, 32, 32), dtype=torch.uint8)
    model, run = cifar10.load("little"), cifar10.load(trained)
    torch.testing.assert_close(model.predict(images), run.predict(images), atol=5e-3, rtol=0)
    card = zoo.model_card("little")
    assert card["result"]["test"] == read_result(trained / RESULT_FILE)["test"]


def test_pretrained_weights_with_another_digest_are_rejected(pretrained):
    path = pretrained / "little.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="SHA-256"):
        cifar10.load("little")


def test_a_misspelt_name_gets_a_suggestion(pretrained):
    with pytest.raises(UserError, match=r"litle: no such model.*did you mean little\?"):
        cifar10.load("litle")


def test_a_folder_without_a_checkpoint_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no checkpoint in this folder"):
        cifar10.load(tmp_path)


def test_latest_is_the_newest_run_also_inside_sweeps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"latest: no run in outputs/"):
        find_checkpoint("latest")
    for age, name in enumerate(["sweep/lr-0.1", "b", "sweep/lr-0.2", "a"]):
        folder = tmp_path / "outputs" / name
        folder.mkdir(parents=True)
        write_result(folder, {"status": "running", "overrides": []})
        os.utime(folder / RESULT_FILE, (1e9 - age, 1e9 - age))
        (folder / "best.ckpt").touch()
    assert latest_run() == Path("outputs/sweep/lr-0.1")
    assert find_checkpoint("latest") == Path("outputs/sweep/lr-0.1/best.ckpt")
    (tmp_path / "latest").touch()
    assert find_checkpoint("latest") == Path("outputs/sweep/lr-0.1/best.ckpt")
    assert find_checkpoint("./latest") == find_checkpoint(Path("latest")) == Path("latest")


def test_a_run_is_loaded_from_its_recorded_checkpoint_or_its_best(tmp_path):
    for name in ("best.ckpt", "last.ckpt"):
        (tmp_path / name).touch()
    for recorded, found in (("/moved/last.ckpt", "last"), ("best.ckpt", "best"), (None, "best")):
        write_result(tmp_path, {"status": "running", "overrides": [], "checkpoint": recorded})
        assert find_checkpoint(tmp_path) == tmp_path / f"{found}.ckpt"


class Evil:
    def __reduce__(self):
        return (open, ("evil-was-here", "w"))


@pytest.mark.parametrize("kind", ["other program", "half", "text", "code", "other network"])
def test_other_files_are_rejected_in_one_line(kind, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "some.ckpt"
    whole = trained / "best.ckpt"
    if kind == "other program":
        torch.save({"model": {"weight": torch.ones(3)}}, path)
    elif kind == "half":
        path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    elif kind == "text":
        path.write_text("not a checkpoint")
    elif kind == "code":
        torch.save({"state_dict": Evil()}, path)
    else:
        state = torch.load(whole)
        state["hyper_parameters"]["model"] = {
            "_target_": "cifar10.models.airnet.AirNet",
            "widths": [64, 64, 64],
            "activation": "gelu",
            "norm_momentum": 0.4,
        }
        torch.save(state, path)
    with pytest.raises(UserError) as error:
        cifar10.load(path)
    assert "\n" not in str(error.value)
    assert "some.ckpt" in str(error.value)
    assert not (tmp_path / "evil-was-here").exists()


@pytest.mark.parametrize("kind", ["doubling", "deep", "cyclic"])
@pytest.mark.parametrize("key", ["classes", "label_smoothing", "model"])
def test_a_list_that_expands_without_end_is_refused(key, kind, trained, tmp_path):
    state = torch.load(trained / "best.ckpt", weights_only=True)
    value = ["x"]
    for _ in range({"doubling": 40, "deep": 200, "cyclic": 0}[kind]):
        value = [value, value] if kind == "doubling" else [value]
    if kind == "cyclic":
        value.append(value)
    state["hyper_parameters"][key] = {"_target_": value} if key == "model" else value
    torch.save(state, tmp_path / "x.ckpt")
    reason = "more than 100,000 values|not a valid checkpoint|cannot rebuild the network"
    with pytest.raises(UserError, match=reason):
        cifar10.load(tmp_path / "x.ckpt")


def test_a_checkpoint_that_names_an_untrusted_class_is_rejected(trained, tmp_path):
    state = torch.load(trained / "best.ckpt")
    state["hyper_parameters"]["model"] = {"_target_": "subprocess.Popen", "args": ["true"]}
    torch.save(state, tmp_path / "some.ckpt")
    with pytest.raises(UserError, match=r"subprocess.Popen: only classes from"):
        cifar10.load(tmp_path / "some.ckpt")


def test_a_pretrained_model_reproduces_the_scores_on_its_cards(pretrained, cifar):
    code, _, _ = cifar("evaluate", "little", "--views")
    assert code == 0
    scores = json.loads(Path("little-evaluation-test/evaluation.json").read_text())
    card = zoo.model_card("little")
    for key in ("confusion", "confusion_normalized", "per_class"):
        assert card["scores"].pop(key) == scores[key]
    for key, value in card["scores"].items():  # the memory layout may change the last digit
        assert scores[key] == pytest.approx(value, abs=2e-6)
    text = (pretrained / "little.md").read_text()
    for kind in (scores, scores["mirrored"], scores["six_views"]):
        assert f"| {kind['loss']:.4f} | {kind['top1']:.2%} | {kind['top3']:.2%} |" in text
    cat = scores["per_class"]["cat"]["recall"]  # None: the test images are few
    assert cat is None or f"| cat | {cat:.2%} |" in text
    assert card["sha256"] in text
    assert "python train.py data=sample trainer.max_epochs=2" in text
    assert "teacher" not in text


def test_a_card_names_the_teacher(trained, few_images, tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "FOLDER", tmp_path / "zoo")
    student = shutil.copytree(trained, tmp_path / "student")
    result = read_result(student / RESULT_FILE)
    result["settings"]["teacher"] = str(trained)
    write_result(student, result)
    card = ship(student, "little")
    assert "teacher" in card and card.count("    python train.py") == 2


def test_weights_that_lose_accuracy_in_half_precision_are_not_published(
    trained, few_images, tmp_path, monkeypatch
):
    monkeypatch.setattr(zoo, "FOLDER", tmp_path / "zoo")
    monkeypatch.setattr("tools.ship_model.COST", -1.0)
    with pytest.raises(UserError, match="half precision costs"):
        ship(trained, "little")
    assert zoo.pretrained_names() == []
