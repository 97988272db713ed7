"""The GPU's code on fake tensors: no step waits for the GPU, and nothing stays on the CPU.

Allowed are the copies at the start of a loop (the data set, the order and augmentation of an
epoch), the reads of logged steps and epochs and, in fp16, PyTorch's read of the overflow flag.
"""

from copy import deepcopy
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from cifar10.data.augment import Augment, pack
from cifar10.data.loader import Loader
from cifar10.data.module import CIFAR10DataModule
from cifar10.models import NETWORKS
from cifar10.models.airnet import AirNet
from cifar10.runs.callbacks import Stopwatch, TestLogits
from cifar10.training.classifier import Classifier
from cifar10.training.ema import EMA
from cifar10.training.hardware import autocast
from cifar10.training.recipe import build_optimizer, build_scheduler
from tests.training.fake_gpu import (
    FakeGPUStrategy,
    Holdings,
    Phases,
    devices,
    fake_gpu,
    make_up_gradients,
    pretend,
    sums,
)

DTYPES = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
VIT = {
    "_target_": "cifar10.models.timm.FromTimm",
    "name": "vit_tiny_patch16_224",
    "options": {"img_size": 32, "patch_size": 8, "depth": 2},
}

built = torch.backends.cuda.is_built()
pytestmark = pytest.mark.skipif(not built, reason="needs a build of torch for GPUs, without a GPU")

# Phase and module of the copies in a run.
ALLOWED = {
    ("start", "library"),  # the weights
    ("start", "module"),  # the data set
    ("between steps", "loader"),  # order and augmentation of an epoch
    ("between steps", "augment"),  # mean colour of the data set, once
    ("between steps", "callbacks"),  # test logits
    ("between steps", "library"),  # speed and metrics of an epoch
    ("first step", "library"),  # sums of what is logged
}


@pytest.fixture(autouse=True)
def without_driver(monkeypatch):
    pretend(monkeypatch)


@pytest.fixture
def overflow_reads(monkeypatch):
    """Counts PyTorch's reads of the overflow flag: one per fp16 step. There is no overflow."""
    step, reads = torch.amp.GradScaler._maybe_opt_step, []

    def without_overflow(self, optimizer, state, *args, **options):
        reads.append(1)
        flag = SimpleNamespace(item=lambda: 0.0)
        return step(self, optimizer, {"found_inf_per_device": {"cuda": flag}}, *args, **options)

    monkeypatch.setattr(torch.amp.GradScaler, "_maybe_opt_step", without_overflow)
    return reads


@pytest.mark.parametrize(
    ("use", "error"),
    [
        (Tensor.item, DataDependentOutputException),
        (bool, DataDependentOutputException),
        (Tensor.nonzero, DynamicOutputShapeException),
        (lambda x: x[x > 0], DynamicOutputShapeException),
        (lambda x: x + torch.ones(1), RuntimeError),
    ],
)
def test_reading_a_fake_value_and_mixing_devices_raise(use, error):
    with fake_gpu(), pytest.raises(error):
        use(torch.ones(1, device="cuda"))


@pytest.mark.parametrize(
    "use",
    [
        Tensor.cpu,
        lambda x: torch.tensor(0.5, device=x.device),
        lambda x: x[torch.tensor([0])],
        lambda x: x.copy_(torch.ones(1)),
        lambda x: x * torch.tensor(0.5),
    ],
)
def test_copies_between_host_and_gpu_are_listed(use):
    with fake_gpu() as copies:
        use(torch.ones(1, device="cuda"))
    assert copies.found


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"flip": "random"},
        {"flip": "none", "shift": 0},
        {"cutout": 8},
        {"brightness": 0.1, "contrast": 0.1},
        {"sizes": {1: 24, 2: 28}},
        {"transform": nn.Identity()},
        None,  # evaluation
    ],
    ids=str,
)
def test_batches_are_made_on_the_gpu(sample, settings):
    given = {"flip": "alternating", "shift": 2, "cutout": 0} | (settings or {})
    others = {key: given.pop(key) for key in ("sizes", "transform") if key in given}
    augment = None if settings is None else Augment(**given)
    pixels, labels, indices = pack(sample.train_images), sample.train_labels, torch.arange(90)
    with fake_gpu() as copies:
        loader = Loader(pixels.to("cuda"), labels.to("cuda"), indices, 40, augment, **others)
        for epoch, side in enumerate((24, 28) if "sizes" in others else (32, 32)):
            loader.set_epoch(epoch)
            copies.phase = "start"
            for (images, targets), size in zip(loader, (40, 40, 10), strict=True):
                assert devices(images, targets) == {"cuda"}
                assert (images.shape, images.dtype) == ((size, 3, side, side), torch.uint8)
                copies.phase = "step"
    assert {copy.phase for copy in copies.found} == {"start"}


@pytest.fixture(scope="module", params=[*NETWORKS, VIT], ids=[*NETWORKS, "timm"])
def classifier(request):
    return Classifier(request.param)


@pytest.mark.parametrize("precision", DTYPES)
def test_the_steps_of_a_network_stay_on_the_gpu(classifier, monkeypatch, precision):
    classifier = deepcopy(classifier)
    classifier.set_memory_format(channels_last=precision != "32-true")
    optimizers, logged = [SimpleNamespace(param_groups=[{"lr": 0.1}])], []
    classifier._trainer = SimpleNamespace(log_every_n_steps=10, optimizers=optimizers)
    monkeypatch.setattr(Classifier, "log", lambda self, name, value, **_: logged.append(value))
    with fake_gpu() as copies:
        classifier.to("cuda:0")
        images, labels = torch.zeros(4, 3, 32, 32, device="cuda"), torch.zeros(4, device="cuda")
        batch = images.byte(), labels.long()
        copies.found.clear()
        with autocast("cuda", precision):
            loss = classifier.training_step(batch, 1)
            with torch.no_grad():
                classifier.eval().validation_step(batch, 1)
                logits = classifier.test_step(batch, 1)
        assert (logits.dtype, loss.dtype) == (DTYPES[precision], torch.float32)
        assert devices(loss, logits) == devices(logged) == {"cuda"}
        for split in ("train", "val", "test"):
            assert devices(sums(getattr(classifier, f"{split}_metrics"))) == {"cuda"}
    assert not copies.found


@pytest.mark.parametrize(
    ("optimizer", "scheduler"),
    [("muon", "triangle"), ("muon_sgd", "cosine"), ("sgd", "constant"), ("adamw", "triangle")],
)
def test_optimizers_stay_on_the_gpu(settings, overflow_reads, optimizer, scheduler):
    composed = settings(f"optimizer={optimizer}", f"scheduler={scheduler}")
    network = AirNet()
    with fake_gpu() as copies:
        built = build_optimizer(composed["optimizer"], network.to("cuda:0"))
        schedule = build_scheduler(composed["scheduler"], built, total_steps=4)
        scaler = torch.amp.GradScaler("cuda")
        for step in (1, 2):
            scaler.scale(torch.ones((), device="cuda"))
            make_up_gradients(network)
            copies.phase = f"step {step}"
            scaler.step(built)
            scaler.update()
            schedule.step()
            copies.phase = "start"
        states = built.state_dict()["state"].values()
        for state in states:
            state.pop("step", None)  # torch counts on the CPU
        assert devices(built.param_groups) == {"cuda"}
        assert optimizer == "sgd" or devices(*states) == {"cuda"}
    assert {copy.phase for copy in copies.found} == {"start"}
    assert len(overflow_reads) == 2


@pytest.mark.parametrize(
    ("precision", "network", "optimizer"),
    [("bf16-mixed", "airnet", "muon_sgd"), ("16-mixed", "convnet", "muon")],
)
def test_no_step_of_a_run_waits_for_the_gpu(
    settings, monkeypatch, overflow_reads, precision, network, optimizer
):
    composed = settings(f"optimizer={optimizer}", f"model={network}")
    classifier = Classifier(
        composed["model"], composed["optimizer"], test_views=network == "airnet"
    )
    classifier.set_teacher(deepcopy(classifier).eval(), 0.5)
    data = CIFAR10DataModule("sample", brightness=0.1, contrast=0.1, cutout=4)
    data.setup()
    reads, waits, ema = [], [], EMA()
    holdings = Holdings(ema)

    def note_read(self, loss, name):
        reads.append((name, self.global_step))

    monkeypatch.setattr(Classifier, "backward", make_up_gradients)
    monkeypatch.setattr(Classifier, "require_finite", note_read)
    with fake_gpu() as copies:
        monkeypatch.setattr(torch.cuda, "synchronize", lambda _: waits.append(copies.phase))
        trainer = L.Trainer(
            strategy=FakeGPUStrategy(),
            plugins=[MixedPrecision(precision, "cuda")],
            callbacks=[Phases(copies), Stopwatch(), ema, TestLogits(), holdings],
            max_epochs=1,
            limit_train_batches=3,
            limit_val_batches=2,
            limit_test_batches=2,
            num_sanity_val_steps=0,
            log_every_n_steps=2,
            inference_mode=False,  # which fake tensors lack
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(classifier, datamodule=data)
        trainer.test(classifier, datamodule=data, verbose=False)
    assert holdings.seen == {"cuda"}
    assert [copy for copy in copies.found if copy.phase == "step"] == []
    assert {(copy.phase, copy.module) for copy in copies.found} <= ALLOWED
    assert set(waits) == {"between steps"}  # for the clock
    logged = [("training loss", 0), ("training loss", 2), ("val/loss", 3), ("test/loss", 3)]
    assert reads == logged
    assert len(overflow_reads) == (3 if precision == "16-mixed" else 0)
