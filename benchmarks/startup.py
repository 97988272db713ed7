"""Startup time: from the command line to the first optimizer step, compared with the imports.

python -m benchmarks.startup
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lightning.pytorch.callbacks import Callback

from benchmarks.measure import claim, output, ratio, report

ROUNDS = 7
ROOT = Path(__file__).parent.parent
IMPORTS = [sys.executable, "-c", "import torch, lightning"]
TRAIN = [
    sys.executable,
    "train.py",
    "+callbacks.stop._target_=benchmarks.startup.StopAtFirstStep",
]


class StopAtFirstStep(Callback):
    """Ends the process just before the first optimizer step."""

    def on_before_optimizer_step(self, trainer, module, optimizer):
        os._exit(0)


def seconds(command: list[str]) -> float:
    """Return the wall time of a command."""
    environment = os.environ | {"CIFAR10_TRUST": "benchmarks", "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:
        if "train.py" in command:
            command = [*command, f"hydra.run.dir={folder}/run"]
        start = time.perf_counter()
        run = subprocess.run(command, check=False, cwd=ROOT, env=environment, capture_output=True)
        elapsed = time.perf_counter() - start
    if run.returncode:
        sys.exit(run.stderr.decode())
    return elapsed


def main() -> None:
    path = output("startup")
    commands = {"import torch, lightning": IMPORTS, "train.py to the first step": TRAIN}
    figures: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(1 + ROUNDS):  # the first fills the disk cache
        for name, command in commands.items():
            elapsed = seconds(command)
            if turn:
                figures[name].append(elapsed)
    base, ours = commands
    claims = [
        claim(
            "train.py to the first step / import torch, lightning",
            ratio(figures, ours, base),
            1.35,
            at_most=True,
        )
    ]
    report(path, "seconds", figures, base=base, claims=claims)


if __name__ == "__main__":
    main()
