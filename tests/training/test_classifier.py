"""Normalisation, metrics, checkpoints and distillation of the LightningModule."""

import json
import subprocess
import sys

import lightning as L
import pytest
import torch
from torch.nn import functional as F

from cifar10.core.errors import SettingError
from cifar10.core.instantiate import instantiate
from cifar10.data import MEAN, STD
from cifar10.data.module import CIFAR10DataModule
from cifar10.runs import result as results
from cifar10.runs.components import build_components
from cifar10.runs.run import run
from cifar10.training.classifier import Classifier, NonFiniteError


@pytest.fixture
def classifier(settings):
    def build(*overrides):
        s = settings(*overrides)
        names = ("model", "optimizer", "scheduler", "label_smoothing", "test_views")
        return Classifier(*(s[name] for name in names))

    return build


def test_the_network_sees_normalised_images(classifier, sample):
    module = classifier().eval()
    images = sample.test_images[:5]
    seen = []
    module.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for channels_last in (False, True):
        module.set_memory_format(channels_last)
        module(images)
    expected = images.float() / 255
    expected = (expected - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    for x in seen:
        torch.testing.assert_close(x, expected)
    assert seen[0].is_contiguous()
    assert seen[1].is_contiguous(memory_format=torch.channels_last)


def test_normalisation_does_not_change_its_input(classifier):
    images = torch.rand(2, 3, 32, 32) * 255
    before = images.clone()
    classifier().normalise(images)
    assert torch.equal(images, before)


def test_validation_with_an_uneven_last_batch_equals_one_pass(settings, classifier, sample):
    module = classifier()
    data = instantiate(
        settings("data=sample", "data.batch_size=77")["data"], "data", CIFAR10DataModule
    )
    quiet = dict(logger=False, enable_progress_bar=False, enable_checkpointing=False)
    trainer = L.Trainer(accelerator="cpu", **quiet)
    measured = trainer.validate(module, data, verbose=False)[0]
    with torch.no_grad():
        logits = module.eval()(sample.train_images[data.val_indices])
    labels = sample.train_labels[data.val_indices]
    loss = F.cross_entropy(logits, labels).item()
    assert measured["val/loss"] == pytest.approx(loss, abs=1e-5)
    assert measured["val/top1"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())


@pytest.mark.slow
def test_a_new_process_loads_a_checkpoint_from_its_path_alone(trained, sample):
    code = (
        "import json, sys, torch\n"
        "from cifar10 import Classifier\n"
        "from cifar10.data import sample\n"
        "model = Classifier.load_from_checkpoint(sys.argv[1]).eval()\n"
        "with torch.no_grad():\n"
        "    print(json.dumps(model(sample.read_sample().test_images[:8]).tolist()))\n"
    )
    path = str(trained / "best.ckpt")
    result = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True, timeout=120
    )
    here = Classifier.load_from_checkpoint(path).eval()
    with torch.no_grad():
        logits = here(sample.test_images[:8])
    torch.testing.assert_close(torch.tensor(json.loads(result.stdout)), logits)
    stored = torch.load(path)  # the safe loader: plain values only
    assert stored["hyper_parameters"]["model"]["_target_"].endswith("ConvNet")
    assert {"mean", "std"} <= stored["state_dict"].keys()


def test_a_checkpoint_that_names_other_code_is_rejected(trained, tmp_path):
    stored = torch.load(trained / "last.ckpt")
    for target in ("os.system", "torch.load", "subprocess.Popen", "cifar10.runs.run.run"):
        stored["hyper_parameters"]["model"] = {"_target_": target, "command": "true"}
        torch.save(stored, tmp_path / "bad.ckpt")
        with pytest.raises(SettingError, match="_target_"):
            Classifier.load_from_checkpoint(tmp_path / "bad.ckpt")


def test_a_non_finite_loss_ends_the_run(tiny, tmp_path):
    parts = build_components(tiny("~logger"), tmp_path)
    with torch.no_grad():
        parts.classifier.network[5].bias.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match=r"nan in epoch 1, step 0: lower optimizer.lr"):
        parts.trainer.fit(parts.classifier, datamodule=parts.data)
    assert not (tmp_path / "best.ckpt").exists()
    settings = tiny("optimizer=sgd", "optimizer.lr=1e38", "trainer.precision=32-true")
    with pytest.raises(NonFiniteError):
        run(settings, tmp_path / "bad")
    result = results.read_result(tmp_path / "bad" / "result.json")
    assert result["status"] == "failed"
    assert result["error"].startswith("NonFiniteError: the ")


def test_targets_are_the_weighted_mean_of_teacher_and_label(classifier, sample):
    student, teacher = classifier().train(), classifier("seed=1").eval()
    student.set_teacher(teacher, 0.75)
    images, labels = sample.test_images[:6], sample.test_labels[:6]
    target = student.targets(images, labels)
    for row, image, label in zip(target, images, labels, strict=True):
        expected = 0.75 * teacher(image[None])[0].softmax(0)
        expected[label] += 0.25
        torch.testing.assert_close(row, expected)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert student.state_dict().keys() == classifier().state_dict().keys()


def test_a_run_with_a_teacher_saves_nothing_of_it(tiny, tmp_path, trained):
    settings = tiny(f"teacher={trained}", "teacher_weight=1")
    result = run(settings, tmp_path)
    assert result["status"] == "ok" and result["settings"]["teacher"] == str(trained)
    other = run(tiny(), tmp_path.with_name("other"))
    loss, without = (r["history"][0]["train/loss"] for r in (result, other))
    assert loss != without
    state = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert "teacher" not in state["hyper_parameters"]
    assert not any("teacher" in key for key in state["state_dict"])


def test_a_missing_teacher_is_reported(settings, tmp_path):
    with pytest.raises(SettingError, match=r"^teacher=nowhere: .*no such model"):
        build_components(settings("teacher=nowhere"), tmp_path)
