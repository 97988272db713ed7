"""Scaling: two processes instead of two threads, and training time against data set size.

python -m benchmarks.scaling
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import output, report

ROUNDS = 2
ROOT = Path(__file__).parent.parent
PROCESSES = {
    "1 process, 2 threads": ["threads=2"],
    "2 DDP processes, 1 thread each": [
        "threads=1",
        "trainer.devices=2",
        "+trainer.strategy=ddp",
        "trainer.accelerator=cpu",
    ],
}
SIZES = (10_000, 20_000, 50_000)


def run(overrides: list[str]) -> dict:
    """Return the result.json of a run of one epoch."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "train.py", "trainer.max_epochs=1", *overrides),
            f"hydra.run.dir={folder}/run",
        ]
        process = subprocess.run(command, check=False, cwd=ROOT, capture_output=True)
        if process.returncode:
            sys.exit(process.stderr.decode())
        return json.loads(Path(folder, "run", "result.json").read_text())


def main() -> None:
    path = output("scaling")
    figures: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, overrides in PROCESSES.items():
            few = ["+trainer.limit_train_batches=40", "+trainer.limit_test_batches=1"]
            rate = run(["data.val_size=0", *few, *overrides])["images_per_second"]
            figures.setdefault(name, []).append(rate)
        for size in SIZES:
            overrides = [f"data.val_size={50_000 - size}", "+trainer.limit_val_batches=0"]
            overrides += ["callbacks.best=null", "+trainer.limit_test_batches=1"]
            seconds = run(overrides)["seconds"]["training"]
            figures.setdefault(f"one epoch of {size:,} images", []).append(size / seconds)
    small, *_, large = (statistics.median(figures[f"one epoch of {s:,} images"]) for s in SIZES)
    report(path, "images/s", figures, large_over_small=large / small)


if __name__ == "__main__":
    main()
