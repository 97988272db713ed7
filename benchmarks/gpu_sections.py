"""The sections of `benchmarks.gpu`: tests, speed, time to accuracy, bit-equality.

Each yields what it has measured so far, as plain values. A trial runs on the CPU with few images.
"""

import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.measure import alternate
from benchmarks.recipes import RECIPES, ROOT
from benchmarks.subjects import bare, under_trainer
from benchmarks.time_to_accuracy import tutorial_loop

Record = dict[str, Any]

ROUNDS = 5
SAMPLE = ["data=sample", "data.batch_size=50", "threads=1"]  # of a trial
# Mean top-1 that a recipe is for, of the single view or of 6-view TTA.
TARGETS = {"default": ("test", 0.82), "original": ("test", 0.82)}
TARGET_94 = ("test_views", 0.94)


def spread(values: Sequence[float]) -> Record:
    return {
        "n": len(values),
        "mean": statistics.mean(values),
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "values": list(values),
    }


def tests(seconds: float, trial: bool) -> Iterator[Record]:
    """Run the tests that need a GPU; in a trial they are skipped."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        options = ["-q", "-n", "0", "-m", "gpu", "tests/training", f"--junitxml={report}"]
        subprocess.run([sys.executable, "-m", "pytest", *options], check=False, cwd=ROOT)
        cases = list(ET.parse(report).getroot().iter("testcase"))
    outcomes = {str(case.get("name")): case[0].tag if len(case) else "passed" for case in cases}
    yield {"outcomes": outcomes}
    if not trial and set(outcomes.values()) != {"passed"}:
        raise RuntimeError("not all tests passed")


def step(seconds: float, trial: bool) -> Iterator[Record]:
    """Training images per second, each contender in a process of its own."""
    accelerator, device = ("cpu", "cpu") if trial else ("gpu", "cuda")
    contenders: dict[str, tuple[Any, ...]] = {}
    for recipe, steps in (("default", 150), ("airnet94", 40)):
        overrides = [*RECIPES[recipe], "data.sizes=null", *(SAMPLE if trial else [])]
        work = (overrides, 2 if trial else steps, accelerator)
        contenders |= {f"{recipe}: Trainer": (under_trainer, *work)}
        contenders |= {f"{recipe}: bare loop": (bare, *work)}
    loop = (tutorial_loop, 2 if trial else 150, device, SAMPLE if trial else [])
    contenders["original: a tutorial's loop over torchvision's loader"] = loop
    rates = alternate(contenders, 1 if trial else ROUNDS)
    yield {"unit": "images/s", "rows": {name: spread(values) for name, values in rates.items()}}


def train(folder: Path, overrides: Sequence[str], trial: bool) -> Record:
    """Train a recipe in a new process, as a user does, and return its result.json."""
    from cifar10.runs.result import read_result

    short = [*SAMPLE, "trainer.accelerator=cpu", "trainer.max_epochs=1"] if trial else []
    command = [*overrides, *short, "report=false", f"hydra.run.dir={folder}"]
    print(f"training {folder.name}", flush=True)
    run = subprocess.run(
        [sys.executable, "train.py", *command], check=False, cwd=ROOT, stdout=subprocess.DEVNULL
    )
    if run.returncode:
        raise RuntimeError(f"{folder.name}: train.py failed; its error is above")
    return read_result(folder / "result.json")


def time_to_accuracy(seconds: float, trial: bool) -> Iterator[Record]:
    """Train each recipe with as many seeds as there is time for, in turns."""
    end, longest = time.monotonic() + seconds, 0.0
    runs: dict[str, list[Record]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(1) if trial else count():
            for recipe, overrides in RECIPES.items():
                begin = time.monotonic()
                if begin + 1.2 * longest > end:
                    return
                named = Path(folder, f"{recipe}-seed{seed}")
                result = train(named, [*overrides, f"seed={seed}"], trial)
                runs.setdefault(recipe, []).append(result)
                longest = max(longest, time.monotonic() - begin)
                yield {name: accuracy(name, found) for name, found in runs.items()}


def accuracy(recipe: str, runs: Sequence[Record]) -> Record:
    """Accuracies, training times and speeds of a recipe; times count if the target is reached."""
    split, target = TARGETS.get(recipe, TARGET_94)
    reached = statistics.mean(run[split]["top1"] for run in runs) >= target
    times = spread([run["seconds"]["training"] for run in runs])
    return {
        "precision": runs[0]["precision"]["value"],
        "target": {"split": split, "top1": target, "reached": reached},
        "seconds_to_target": times["median"] if reached else None,
        "training_seconds": times,
        "total_seconds": spread([run["seconds"]["total"] for run in runs]),
        "images_per_second": spread([run["images_per_second"] for run in runs]),
    } | {
        f"{key}_top1": spread([run[key]["top1"] for run in runs])
        for key in ("test", "test_views")
        if key in runs[0]
    }


def bit_equality(seconds: float, trial: bool) -> Iterator[Record]:
    """Train twice with `deterministic=true` and compare all weights."""
    from cifar10.runs.checkpoint import LAST, read_checkpoint
    from cifar10.runs.identity import weights_digest

    found: Record = {}
    with tempfile.TemporaryDirectory() as folder:
        for recipe in ("default", "airnet94"):
            digests, speeds = [], []
            for number in (1, 2):
                named = Path(folder, f"{recipe}-deterministic{number}")
                result = train(named, [*RECIPES[recipe], "deterministic=true"], trial)
                digests.append(weights_digest(read_checkpoint(named / LAST)["state_dict"]))
                speeds.append(result["images_per_second"])
            found[recipe] = {"equal": len(set(digests)) == 1, "sha256": digests}
            found[recipe]["images_per_second"] = spread(speeds)
            yield found
    if not all(row["equal"] for row in found.values()):
        raise RuntimeError("runs with deterministic=true differ")
