"""Train the recipes that are compared, and keep their result.json.

python -m benchmarks.recipes [--seeds 3] [RECIPE ...]

Takes hours on a CPU. What `results/` holds with the same settings is not trained again, so that the
same command goes on where it was stopped.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.subjects import settings

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"
# A recipe's folder in `results/`, and what its command line changes.
RECIPES = {
    "default": [],
    "original": ["experiment=original"],
    "airnet94": ["experiment=airnet94"],
    "airbench94": ["experiment=airbench94"],
    "speedrun94": ["experiment=speedrun94"],
}


def is_kept(file: Path, recipe: str, seed: int) -> bool:
    """Whether a result.json is that of the recipe as it stands now."""
    from cifar10 import results
    from cifar10.assemble import hyperparameters

    wanted = hyperparameters(settings(*RECIPES[recipe], f"seed={seed}"))
    return file.exists() and results.read(file)["settings"] == wanted


def train(recipe: str, seed: int) -> None:
    kept = RESULTS / recipe / f"seed{seed}" / "result.json"
    if is_kept(kept, recipe, seed):
        return
    folder = ROOT / "outputs" / "recipes" / recipe / f"seed{seed}"
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was broken off
    overrides = [*RECIPES[recipe], f"seed={seed}", f"hydra.run.dir={folder}"]
    print(f"training {recipe}, seed {seed}", flush=True)
    if subprocess.run([sys.executable, "train.py", *overrides], check=False, cwd=ROOT).returncode:
        sys.exit(f"error: {recipe} with seed {seed} failed; what it said stands above")
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "result.json", kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="train with seeds 0 to SEEDS - 1")
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help=", ".join(RECIPES))
    arguments = parser.parse_args()
    for name in arguments.recipes:
        if name not in RECIPES:
            parser.error(f"{name}: there are {', '.join(RECIPES)}")
    for seed in range(arguments.seeds):
        for recipe in arguments.recipes or RECIPES:
            train(recipe, seed)


if __name__ == "__main__":
    main()
