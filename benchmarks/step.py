"""Speed of a training step: Trainer, bare loop, naive loop, and the hardware limit (peak).

python -m benchmarks.step
"""

from typing import Any

from benchmarks.measure import alternate, claim, output, ratio, report
from benchmarks.subjects import (
    bare,
    components,
    matrix_product,
    minimal,
    naive,
    training_flops,
    under_trainer,
)

BATCH = {"convnet": 512, "airnet": 1000}
STEPS = {"convnet": 12, "airnet": 4}
ROUNDS = 3


def main() -> None:
    path = output("step")
    precision = components(*minimal()).hardware.precision.value
    peak = "matrix product, GFLOP/s"
    contenders: dict[str, tuple[Any, ...]] = {peak: (matrix_product, precision)}
    for model, batch in BATCH.items():
        recipe = ["experiment=airnet94"] if model == "airnet" else []
        ours = [*recipe, f"data.batch_size={batch}", "data.sizes=null"]
        steps = STEPS[model]
        contenders |= {
            f"{model}: Trainer": (under_trainer, ours, steps),
            f"{model}: bare loop": (bare, ours, steps),
            f"{model}: naive fp32 NCHW": (naive, model, batch, steps // 2),
        }
    variants = {
        "convnet: bare, batch 250": "data.batch_size=250",
        "convnet: bare, batch 1,000": "data.batch_size=1000",
        "convnet: bare, keep_memory=false": "keep_memory=false",
        "convnet: bare, compile=true": "compile=true",
    }
    batch_size = f"data.batch_size={BATCH['convnet']}"
    contenders |= {
        name: (bare, [batch_size, override], STEPS["convnet"])
        for name, override in variants.items()
    }
    figures = alternate(contenders, ROUNDS)

    flops = {model: training_flops(model) for model in BATCH}
    for model in BATCH:
        figures[f"{model}: bare loop, GFLOP/s"] = [
            rate * flops[model] / 1e9 for rate in figures[f"{model}: bare loop"]
        ]
    claims = [
        *(
            claim(
                f"{model}: Trainer / bare loop",
                ratio(figures, f"{model}: Trainer", f"{model}: bare loop"),
                0.98,
            )
            for model in BATCH
        ),
        *(
            claim(
                f"{model}: training step, fraction of peak GFLOP/s ({precision})",
                ratio(figures, f"{model}: bare loop, GFLOP/s", peak),
                target,
            )
            for model, target in (("convnet", 0.85), ("airnet", 0.92))
        ),
        claim(
            "convnet: Trainer / naive fp32 NCHW",
            ratio(figures, "convnet: Trainer", "convnet: naive fp32 NCHW"),
            3.2,
        ),
    ]
    report(path, "images/s", figures, claims=claims, precision=precision, flops=flops)


if __name__ == "__main__":
    main()
