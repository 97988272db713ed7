"""Scaling: processes for threads, and time as the set grows.

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
    """What a run of one epoch without validation leaves in its result.json."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "train.py", "trainer.max_epochs=1", *overrides),
            f"hydra.run.dir={folder}/run",
        ]
        done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True)
        if done.returncode:
            sys.exit(done.stderr.decode())
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
            left = [f"data.val_size={50_000 - size}", "+trainer.limit_val_batches=0"]
            none = [*left, "callbacks.best=null", "+trainer.limit_test_batches=1"]
            seconds = run(none)["seconds"]["training"]
            figures.setdefault(f"one epoch of {size:,} images", []).append(size / seconds)
    small, *_, large = (statistics.median(figures[f"one epoch of {s:,} images"]) for s in SIZES)
    report(path, "images/s", figures, large_over_small=large / small)


if __name__ == "__main__":
    main()
