"""The contenders of the benchmarks: this project, plain loops, and hardware limits."""

import itertools
import time
from collections.abc import Iterator

from cifar10.core.settings import compose_settings

WARM_STEPS = 2


def components(*overrides: str):
    """Build the objects of a run."""
    import tempfile
    from pathlib import Path

    from cifar10.runs.components import build_components

    return build_components(compose_settings(*overrides), Path(tempfile.gettempdir()))


def some_images(count: int, *overrides: str):
    """Return the first training images, uint8 (count, 3, 32, 32), and a list of their labels."""
    from cifar10.core.instantiate import instantiate
    from cifar10.data.module import CIFAR10DataModule

    # Only the data: a whole run would change threads and allocator of the peers' processes.
    data = instantiate(compose_settings(*overrides)["data"], "data", CIFAR10DataModule)
    data.setup()
    return data.images(data.train_indices[:count]), data.labels[:count].tolist()


def minimal(*overrides: str, accelerator: str = "cpu") -> list[str]:
    """Add overrides for a run without files and validation."""
    return [
        *overrides,
        f"trainer.accelerator={accelerator}",
        "~logger",
        "~callbacks",
        "data.val_size=0",
        "+trainer.enable_checkpointing=false",
    ]


def finish_queue() -> float:
    """Return the time once a GPU has done all work that was queued."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def under_trainer(overrides: list[str], steps: int, accelerator: str = "cpu") -> Iterator[float]:
    """Yield training images per second with Lightning's Trainer, metrics and logging."""
    from lightning.pytorch.callbacks import Callback

    class Clock(Callback):
        def on_train_batch_start(self, trainer, module, batch, index):
            if index == WARM_STEPS:
                self.start, self.images = finish_queue(), 0
            if index >= WARM_STEPS:
                self.images += len(batch[1])

        def on_train_batch_end(self, trainer, module, outputs, batch, index):
            if trainer.is_last_batch:
                self.end = finish_queue()

    total = steps + WARM_STEPS
    limited = [*overrides, f"+trainer.limit_train_batches={total}"]
    while True:
        built = components(*minimal(*limited, accelerator=accelerator))
        built.trainer.fit_loop.max_epochs = 1
        # The same total as the bare loop, so that nothing is frozen late in the training.
        optimizer, scheduler = built.classifier.build_optimizer(1000)
        by_step = {"scheduler": scheduler, "interval": "step"}
        built.classifier.configure_optimizers = lambda o=optimizer, s=by_step: {
            "optimizer": o,
            "lr_scheduler": s,
        }
        clock = Clock()
        built.trainer.callbacks.append(clock)
        built.trainer.fit(built.classifier, datamodule=built.data)
        yield clock.images / (clock.end - clock.start)


def bare(overrides: list[str], steps: int, accelerator: str = "cpu") -> Iterator[float]:
    """Yield training images per second of the same objects in a loop of 10 lines."""
    from torch.nn import functional as F

    from cifar10.training.hardware import autocast

    built = components(*minimal(*overrides, accelerator=accelerator))
    device = built.trainer.strategy.root_device
    data = built.data
    data.setup()
    classifier = built.classifier.train()
    if hasattr(classifier.network, "init_from_images"):
        images = data.images(data.train_indices[:5000])
        classifier.network.init_from_images(classifier.normalise(images))
    classifier.to(device)
    data.pixels, data.labels = data.pixels.to(device), data.labels.to(device)  # as a Trainer does
    optimizer, scheduler = classifier.build_optimizer(1000)
    smoothing = classifier.hparams.label_smoothing
    precision = built.hardware.precision.value
    loader = data.train_dataloader()
    while True:
        for step, (images, labels) in zip(range(steps + WARM_STEPS), loader, strict=False):
            if step == WARM_STEPS:
                start, seen = finish_queue(), 0
            with autocast(device.type, precision):
                loss = F.cross_entropy(classifier(images), labels, label_smoothing=smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            seen = seen + len(labels) if step >= WARM_STEPS else 0
        yield seen / (finish_queue() - start)


def naive(model: str, batch_size: int, steps: int) -> Iterator[float]:
    """Yield training images per second of a tutorial's loop on one prepared batch."""
    import torch

    batch = torch.randn(batch_size, 3, 32, 32), torch.randint(10, (batch_size,))
    yield from naive_steps(model, itertools.repeat(batch), steps)


def naive_steps(model: str, batches: Iterator, steps: int, device: str = "cpu") -> Iterator[float]:
    """Yield training images per second of a tutorial's loop: float32, channels first, SGD."""
    import torch
    from torch.nn import functional as F

    torch.manual_seed(0)
    network = build_network(model).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    while True:
        for step in range(steps + WARM_STEPS):
            if step == WARM_STEPS:
                start, seen = finish_queue(), 0
            images, labels = (part.to(device) for part in next(batches))
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()
            seen = seen + len(labels) if step >= WARM_STEPS else 0
        yield seen / (finish_queue() - start)


def build_network(model: str):
    from torch import nn

    from cifar10.core.instantiate import instantiate

    return instantiate(compose_settings(f"model={model}")["model"], "model", nn.Module)


def matrix_product(precision: str, size: int = 2048) -> Iterator[float]:
    """Yield GFLOP/s of a large matrix product: the hardware limit (peak)."""
    import torch

    dtype = torch.bfloat16 if precision == "bf16-mixed" else torch.float32
    left, right = torch.randn(2, size, size).to(dtype)
    while True:
        best = 0.0
        for _ in range(5):
            start = time.perf_counter()
            left @ right
            best = max(best, 2 * size**3 / (time.perf_counter() - start) / 1e9)
        yield best


def training_flops(model: str) -> float:
    """Count the floating-point operations of a training step per image."""
    import torch
    from torch.nn import functional as F
    from torch.utils.flop_counter import FlopCounterMode

    network = build_network(model)
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(network(torch.randn(8, 3, 32, 32)), torch.zeros(8).long()).backward()
    return counter.get_total_flops() / 8
