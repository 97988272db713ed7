"""Prediction from memory: images a second, one at a time and a thousand at once.

python -m benchmarks.predict
"""

import time
from collections.abc import Iterator

from benchmarks.measure import alternate, output, report
from benchmarks.subjects import network_of, parts, quiet

ROUNDS = 7
IMAGES = {1: 200, 1000: 2000}


def ours(model: str, batch: int) -> Iterator[float]:
    import torch

    built = parts(*quiet(f"model={model}"))
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
    """As torch does it unasked: float32, NCHW, with gradients recorded off."""
    import torch

    network = network_of(model).eval()
    images = torch.randn(batch, 3, 32, 32)
    with torch.no_grad():
        while True:
            start = time.perf_counter()
            for _ in range(IMAGES[batch] // batch):
                network(images)
            yield IMAGES[batch] / (time.perf_counter() - start)


def main() -> None:
    path = output("predict")
    contenders = {}
    for model in ("convnet", "airnet"):
        for batch in IMAGES:
            contenders[f"{model}, batch {batch:,}: ours"] = (ours, model, batch)
            contenders[f"{model}, batch {batch:,}: naive fp32 NCHW"] = (naive, model, batch)
    report(path, "images/s", alternate(contenders, ROUNDS))


if __name__ == "__main__":
    main()
