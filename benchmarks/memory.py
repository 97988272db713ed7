"""Peak memory of whole runs: their largest resident set size.

python -m benchmarks.memory
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import claim, output, report

ROUNDS = 3
ROOT = Path(__file__).parent.parent
# More steps do not need more memory.
FEW = [
    "trainer.max_epochs=1",
    *(f"+trainer.limit_{split}_batches=3" for split in ("train", "val", "test")),
]
RUNS: dict[str, list[str]] = {
    "python train.py": [],
    "python train.py keep_memory=false": ["keep_memory=false"],
    "python train.py experiment=airnet94": ["experiment=airnet94", "test_views=false"],
    "python train.py experiment=airbench94": ["experiment=airbench94", "test_views=false"],
    "python train.py data.batch_size=1000": ["data.batch_size=1000"],
}


def peak(overrides: list[str]) -> float:
    """Return the peak resident set size of a run in MB."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train.py", *FEW, *overrides, f"hydra.run.dir={folder}/run"]
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        assert process.stderr
        errors = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit(errors.decode())
        assert json.loads(Path(folder, "run", "result.json").read_text())["status"] == "ok"
    return usage.ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)


def main() -> None:
    path = output("memory")
    figures: dict[str, list[float]] = {name: [] for name in RUNS}
    for _ in range(ROUNDS):
        for name, overrides in RUNS.items():
            figures[name].append(peak(overrides))
    worst = max(figures["python train.py"]) / 1000
    claims = [claim("peak memory of a default run, GB", worst, 2.0, at_most=True)]
    report(path, "MB", figures, claims=claims)


if __name__ == "__main__":
    main()
