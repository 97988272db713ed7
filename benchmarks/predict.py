"""Prediction speed: images in memory, in batches of 1 and 1,000, and a folder of files.

python -m benchmarks.predict
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import alternate, claim, output, ratio, report
from benchmarks.subjects import build_network, components, minimal

ROUNDS = 7
IMAGES = {1: 200, 1000: 2000}
FILES = 10_000


def ours(model: str, batch: int) -> Iterator[float]:
    """Yield images per second of this project's classifier."""
    import torch

    built = components(*minimal(f"model={model}"))
    classifier = built.classifier.eval()
    images = torch.randint(256, (batch, 3, 32, 32), dtype=torch.uint8)
    bf16 = built.hardware.precision.value == "bf16-mixed"
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        while True:
            start = time.perf_counter()
            for _ in range(IMAGES[batch] // batch):
                classifier(images)
            yield IMAGES[batch] / (time.perf_counter() - start)


def naive(model: str, batch: int) -> Iterator[float]:
    """Yield images per second with torch's defaults: float32, channels first, no_grad."""
    import torch

    network = build_network(model).eval()
    images = torch.randn(batch, 3, 32, 32)
    with torch.no_grad():
        while True:
            start = time.perf_counter()
            for _ in range(IMAGES[batch] // batch):
                network(images)
            yield IMAGES[batch] / (time.perf_counter() - start)


def image_folder() -> Path:
    """Create 10,000 PNG files in one folder per class, as torchvision expects."""
    import numpy as np
    from PIL import Image

    from cifar10.data import CLASSES

    folder = Path(tempfile.gettempdir(), "cifar10-benchmark-images")
    generator = np.random.default_rng(0)
    for number in range(FILES):
        file = folder / CLASSES[number % 10] / f"{number}.png"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file)
    return folder


def our_folder(model: str) -> Iterator[float]:
    """Yield images per second of `cifar10 predict` for a folder."""
    from cifar10.data.images import find_images
    from cifar10.inference.predict import predict_files

    classifier = components(*minimal(f"model={model}")).classifier
    folder = image_folder()
    while True:
        start = time.perf_counter()
        files, *_ = find_images([folder])
        answered = sum(1 for _ in predict_files(files, classifier, top=5, failed=[]))
        yield answered / (time.perf_counter() - start)


def torchvision_folder(model: str) -> Iterator[float]:
    """Yield images per second of ImageFolder and a DataLoader with two workers."""
    import torch
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    from cifar10.data import MEAN, STD
    from cifar10.inference.predict import BATCH

    network = build_network(model).eval()
    folder = image_folder()
    to_tensor = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    while True:
        start = time.perf_counter()
        loader = DataLoader(datasets.ImageFolder(folder, to_tensor), BATCH, num_workers=2)
        with torch.no_grad():
            for images, _ in loader:
                network(images).softmax(1)
        yield FILES / (time.perf_counter() - start)


def main() -> None:
    path = output("predict")
    theirs = "convnet, a folder of 10,000: torchvision ImageFolder, 2 workers"
    contenders: dict[str, tuple[Any, ...]] = {
        "convnet, a folder of 10,000: ours": (our_folder, "convnet"),
        theirs: (torchvision_folder, "convnet"),
    }
    for model in ("convnet", "airnet"):
        for batch in IMAGES:
            contenders[f"{model}, batch {batch:,}: ours"] = (ours, model, batch)
            contenders[f"{model}, batch {batch:,}: naive fp32 NCHW"] = (naive, model, batch)
    rates = alternate(contenders, ROUNDS)
    ahead = ratio(rates, "convnet, a folder of 10,000: ours", theirs)
    what = "convnet, a folder of 10,000: ours / torchvision ImageFolder"
    report(path, "images/s", rates, claims=[claim(what, ahead, 1)])


if __name__ == "__main__":
    main()
