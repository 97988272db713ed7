"""Trained classifiers by name, run and checkpoint; and files that are none."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import cifar10
from cifar10 import zoo
from cifar10.core.errors import UserError
from cifar10.runs import result as results
from tools.ship_model import ship


@pytest.fixture
def shipped(trained, tmp_path, monkeypatch):
    """A zoo with one model, made from a run."""
    monkeypatch.setattr(zoo, "FOLDER", tmp_path / "zoo")
    ship(trained, "little")
    return tmp_path / "zoo"


def test_a_run_its_checkpoint_and_a_copy_of_it_are_one_model(trained, tmp_path):
    images = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8)
    copy = shutil.copy(trained / "best.ckpt", tmp_path / "a copy.ckpt")
    expected = cifar10.load(trained).predict(images)
    assert expected.shape == (3, 10)
    torch.testing.assert_close(expected.sum(1), torch.ones(3))
    for place in (trained / "best.ckpt", copy, str(trained)):
        assert torch.equal(cifar10.load(place).predict(images), expected)


def test_many_images_are_predicted_as_few_are(trained):
    images = torch.randint(256, (7, 3, 32, 32), dtype=torch.uint8)
    model = cifar10.load(trained)
    assert not model.training
    torch.testing.assert_close(model.predict(images, batch_size=3), model.predict(images))


def test_loading_leaves_torchs_chance_alone(trained):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    cifar10.load(trained)
    assert torch.equal(torch.rand(2), expected)


def test_a_shipped_model_is_the_run_it_was_made_from(trained, shipped):
    images = torch.randint(256, (50, 3, 32, 32), dtype=torch.uint8)
    model, run = cifar10.load("little"), cifar10.load(trained)
    torch.testing.assert_close(model.predict(images), run.predict(images), atol=5e-3, rtol=0)
    assert (
        zoo.model_card("little")["result"]["test"]
        == results.read_result(trained / results.RESULT_FILE)["test"]
    )


def test_shipped_weights_with_another_digest_are_refused(shipped):
    path = shipped / "little.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="SHA-256"):
        cifar10.load("little")


def test_a_typo_is_answered_by_the_name_that_was_meant(shipped):
    with pytest.raises(UserError, match=r"litle: there is no such model.*did you mean little\?"):
        cifar10.load("litle")


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no checkpoint in this folder"):
        cifar10.load(tmp_path)


class Evil:
    def __reduce__(self):
        return (open, ("evil-was-here", "w"))


@pytest.mark.parametrize("kind", ["other program", "half", "text", "code", "other network"])
def test_a_file_that_is_no_checkpoint_of_ours_is_refused_in_one_line(
    kind, trained, tmp_path, monkeypatch
):
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


def test_a_checkpoint_that_names_a_class_outside_is_not_built(trained, tmp_path):
    state = torch.load(trained / "best.ckpt")
    state["hyper_parameters"]["model"] = {"_target_": "subprocess.Popen", "args": ["true"]}
    torch.save(state, tmp_path / "some.ckpt")
    with pytest.raises(UserError, match=r"subprocess.Popen: only classes of"):
        cifar10.load(tmp_path / "some.ckpt")


def test_a_shipped_model_evaluates_to_the_digits_of_its_cards(shipped, cifar):
    code, _, _ = cifar("evaluate", "little", "--views")
    assert code == 0
    scores = json.loads(Path("little-evaluation-test/evaluation.json").read_text())
    known = zoo.model_card("little")
    assert known["scores"].items() <= scores.items()
    card = (shipped / "little.md").read_text()
    for kind in (scores, scores["mirrored"], scores["six_views"]):
        assert f"| {kind['loss']:.4f} | {kind['top1']:.2%} | {kind['top3']:.2%} |" in card
    assert f"| cat | {scores['per_class']['cat']:.2%} |" in card
    assert known["sha256"] in card
    assert "python train.py data=sample trainer.max_epochs=2" in card
    assert "teacher" not in card


def test_a_card_names_the_teacher(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "FOLDER", tmp_path / "zoo")
    pupil = tmp_path / "pupil"
    shutil.copytree(trained, pupil)
    result = results.read_result(pupil / results.RESULT_FILE)
    result["settings"]["teacher"] = str(trained)
    results.write_result(pupil, result)
    assert "from a teacher that was made by\n\n    python train.py" in ship(pupil, "little")


def test_weights_that_lose_too_much_in_half_precision_are_not_shipped(
    trained, tmp_path, monkeypatch
):
    monkeypatch.setattr(zoo, "FOLDER", tmp_path / "zoo")
    monkeypatch.setattr("tools.ship_model.COST", -1.0)
    with pytest.raises(UserError, match="half precision costs"):
        ship(trained, "little")
    assert zoo.pretrained_names() == []
