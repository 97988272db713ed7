"""Train the recipes of RESULTS.md and save their result.json.

python -m benchmarks.recipes [--seeds 3] [RECIPE ...]

Takes hours on a CPU. Recipes whose result with today's settings is in `results/` are skipped, so
rerunning the command continues after an interruption.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from cifar10.core.settings import compose_settings

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"
# Overrides of each recipe, by its folder in `results/`.
RECIPES: dict[str, list[str]] = {
    "default": [],
    "original": ["experiment=original"],
    "airnet94": ["experiment=airnet94"],
    "airbench94": ["experiment=airbench94"],
    "speedrun94": ["experiment=speedrun94"],
}


def is_of(file: Path, recipe: str, seed: int) -> bool:
    """Whether a result.json has today's settings of a recipe."""
    from cifar10.core.legacy import upgrade_settings
    from cifar10.runs.components import hyperparameters
    from cifar10.runs.result import read_result

    if not file.exists():
        return False
    result = read_result(file)
    wanted = hyperparameters(compose_settings(*RECIPES[recipe], f"seed={seed}"))
    # The result may lack newer settings: their defaults change nothing.
    recorded = upgrade_settings(result["settings"])
    return result["status"] == "ok" and recorded.items() <= wanted.items()


def committed(recipe: str, seed: int) -> Path:
    return RESULTS / recipe / f"seed{seed}" / "result.json"


def trained(recipe: str, seed: int) -> Path:
    return ROOT / "outputs" / "recipes" / recipe / f"seed{seed}" / "result.json"


def train(recipe: str, seed: int) -> None:
    if any(is_of(file(recipe, seed), recipe, seed) for file in (committed, trained)):
        return
    folder = trained(recipe, seed).parent
    shutil.rmtree(folder, ignore_errors=True)  # of an interrupted run
    overrides = [*RECIPES[recipe], f"seed={seed}", f"hydra.run.dir={folder}"]
    print(f"training {recipe}, seed {seed}", flush=True)
    if subprocess.run([sys.executable, "train.py", *overrides], check=False, cwd=ROOT).returncode:
        sys.exit(f"error: {recipe} with seed {seed} failed; its error is above")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="train with seeds 0 to SEEDS - 1")
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help=", ".join(RECIPES))
    arguments = parser.parse_args()
    for name in arguments.recipes:
        if name not in RECIPES:
            parser.error(f"{name}: unknown recipe; choose from {', '.join(RECIPES)}")
    from cifar10.runs.result import read_result, without_local_paths, write_result

    jobs = [(r, s) for s in range(arguments.seeds) for r in arguments.recipes or RECIPES]
    for job in jobs:
        train(*job)
    for job in jobs:  # at the end, so that all are trained on a clean checkout
        if trained(*job).exists():
            folder = committed(*job).parent
            folder.mkdir(parents=True, exist_ok=True)
            write_result(folder, without_local_paths(read_result(trained(*job))))


if __name__ == "__main__":
    main()
