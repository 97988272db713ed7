"""Speed of each layer with weights alone, forward and backward: an upper bound for a step.

python -m benchmarks.layers

A step also has normalisation, activations, pooling, loss and optimizer, which take time but do
little arithmetic.
"""

import time
from collections.abc import Iterator
from typing import Any

from benchmarks.measure import alternate, claim, output, ratio, report
from benchmarks.step import BATCH
from benchmarks.subjects import build_network, components, matrix_product, minimal

ROUNDS = 5
REPEATS = 3


def layer_shapes(model: str) -> list[tuple[str, tuple[int, ...], float]]:
    """List each layer's name, input shape per image and multiplications per image, in order."""
    import torch
    from torch import nn

    network = build_network(model)
    layers = []

    def record(layer, inputs, output):
        work = layer.weight.numel() * output[0].numel() / output.size(1)
        layers.append((names[layer], tuple(inputs[0].shape[1:]), work))

    names = {m: n for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    for layer in names:
        layer.register_forward_hook(record)
    network(torch.zeros(2, 3, 32, 32))
    return layers


def layer_seconds(
    model: str, name: str, shape: tuple[int, ...], batch: int, bf16: bool
) -> Iterator[float]:
    """Yield the seconds of a layer's forward and backward pass over a batch."""
    import torch

    components(*minimal())  # sets threads, malloc and denormals like a run
    layer = build_network(model).get_submodule(name)
    images = torch.randn(batch, *shape, dtype=torch.bfloat16 if bf16 else None)
    if len(shape) == 3:
        layer.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    images.requires_grad_(shape[0] != 3)  # the first layer needs no input gradient
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        gradient = torch.ones_like(layer(images))
    while True:
        start = time.perf_counter()
        for _ in range(REPEATS):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                layer(images).backward(gradient)
        yield (time.perf_counter() - start) / REPEATS


def main() -> None:
    path = output("layers")
    precision = components(*minimal()).hardware.precision.value
    bf16 = precision == "bf16-mixed"
    contenders: dict[str, tuple[Any, ...]] = {"matrix product": (matrix_product, precision)}
    work = {}
    for model, batch in BATCH.items():
        for name, shape, multiplications in layer_shapes(model):
            row = f"{model}: {name}, {shape[0]} x {shape[-1]} x {shape[-1]}"
            row = row if len(shape) == 3 else f"{model}: {name}, {shape[0]}"
            contenders[row] = (layer_seconds, model, name, shape, batch, bf16)
            passes = 2 if shape[0] == 3 else 3  # forward, weights, images
            work[row] = 2 * passes * multiplications * batch / 1e9
    measured = alternate(contenders, ROUNDS)
    figures = {"matrix product": measured.pop("matrix product")}
    figures |= {row: [work[row] / seconds for seconds in times] for row, times in measured.items()}
    claims = []
    for model, target in (("convnet", 0.85), ("airnet", 0.92)):
        rows = [row for row in measured if row.startswith(f"{model}:")]
        total = sum(work[row] for row in rows)
        rates = [total / sum(turn) for turn in zip(*(measured[row] for row in rows), strict=True)]
        figures[f"{model}: all its layers"] = rates
        over = ratio(figures, f"{model}: all its layers", "matrix product")
        claims.append(claim(f"{model}: layers only, fraction of peak", over, target))
    report(path, "GFLOP/s", figures, claims=claims, precision=precision, work=work)


if __name__ == "__main__":
    main()
