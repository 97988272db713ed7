"""Runs on a GPU; `python -m benchmarks.gpu` includes them."""

import math
import subprocess
import sys
import time

import pytest
import torch
from lightning.pytorch.callbacks import Callback

import cifar10
from cifar10.core.settings import ROOT
from cifar10.runs.checkpoint import LAST, read_checkpoint
from cifar10.runs.components import build_components
from cifar10.runs.result import read_result
from cifar10.runs.run import run

needed = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
pytestmark = [pytest.mark.gpu, needed]

ON_GPU = "trainer.accelerator=gpu"
EXACT = ["data=sample", ON_GPU, "deterministic=true", "report=false"]
EXACT += ["+trainer.limit_train_batches=4"]


class Devices(Callback):
    """Notes where weights, batches and logits are."""

    def __init__(self):
        self.seen = set()

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        tensors = [*module.state_dict().values(), *batch, outputs["loss"]]
        self.seen |= {tensor.device.type for tensor in tensors}


def command(folder, *overrides):
    """train.py in a process of its own: `deterministic` needs one that has not used CUDA yet."""
    return [sys.executable, "train.py", *EXACT, *overrides, f"hydra.run.dir={folder}"]


def train(folder, *overrides):
    subprocess.run(command(folder, *overrides), check=True, cwd=ROOT, timeout=200)
    return read_checkpoint(folder / LAST)


def assert_equal(one, other):
    for key in ("state_dict", "optimizer_states"):
        first, second = (torch.utils._pytree.tree_leaves(each[key]) for each in (one, other))
        for left, right in zip(first, second, strict=True):
            equal = torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right
            assert equal, key


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_a_run_computes_on_the_gpu_and_its_loss_is_finite(tiny, tmp_path, precision):
    settings = tiny(ON_GPU, f"trainer.precision={precision}", "test_views=true", "callbacks=ema")
    devices = Devices()
    result = run(settings, tmp_path, components=build_components(settings, tmp_path, [devices]))
    assert devices.seen == {"cuda"}
    assert result["status"] == "ok"
    assert result["device"] == torch.cuda.get_device_name()
    assert result["precision"]["value"] == precision
    assert math.isfinite(result["test"]["loss"])


@pytest.mark.parametrize("recipe", [[], ["experiment=airnet94", "data.batch_size=50"]])
def test_deterministic_runs_are_bit_identical(tmp_path, recipe):
    one, other = (train(tmp_path / name, *recipe, "trainer.max_epochs=2") for name in "ab")
    assert_equal(one, other)


def test_a_killed_deterministic_run_resumes_bit_identically(tmp_path):
    epochs, folder = "trainer.max_epochs=12", tmp_path / "killed"
    with subprocess.Popen(command(folder, epochs), cwd=ROOT) as process:
        while not (folder / LAST).exists() and process.poll() is None:
            time.sleep(0.01)
        process.kill()
    assert read_result(folder / "result.json")["status"] == "running"
    # The default network has dropout, so the GPU's random state counts.
    assert_equal(train(folder, epochs, "resume=auto"), train(tmp_path / "undisturbed", epochs))


def test_predictions_agree_with_those_of_the_cpu(sample):
    images = sample.test_images
    on_gpu, on_cpu = (cifar10.load("airnet", device=device) for device in ("cuda", "cpu"))
    with torch.inference_mode():
        logits = on_gpu(images.to("cuda")).cpu()
        torch.testing.assert_close(logits, on_cpu(images), rtol=0.02, atol=0.1)  # TensorFloat-32
    same = on_gpu.predict(images).argmax(1) == on_cpu.predict(images).argmax(1)
    assert same.float().mean() >= 0.99  # both rounded to 16 bits, differently
