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

from cifar10.core.settings import compose_settings

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


def is_of(file: Path, recipe: str, seed: int) -> bool:
    """Whether a result.json is that of a recipe as it stands now."""
    from cifar10.runs import result as results
    from cifar10.runs.components import hyperparameters

    if not file.exists():
        return False
    result = results.read_result(file)
    wanted = hyperparameters(compose_settings(*RECIPES[recipe], f"seed={seed}"))
    # A setting that came later does nothing by default, or it would have changed the recipe.
    return result["status"] == "ok" and result["settings"].items() <= wanted.items()


def kept(recipe: str, seed: int) -> Path:
    return RESULTS / recipe / f"seed{seed}" / "result.json"


def trained(recipe: str, seed: int) -> Path:
    return ROOT / "outputs" / "recipes" / recipe / f"seed{seed}" / "result.json"


def train(recipe: str, seed: int) -> None:
    if any(is_of(place(recipe, seed), recipe, seed) for place in (kept, trained)):
        return
    folder = trained(recipe, seed).parent
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was broken off
    overrides = [*RECIPES[recipe], f"seed={seed}", f"hydra.run.dir={folder}"]
    print(f"training {recipe}, seed {seed}", flush=True)
    if subprocess.run([sys.executable, "train.py", *overrides], check=False, cwd=ROOT).returncode:
        sys.exit(f"error: {recipe} with seed {seed} failed; what it said stands above")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="train with seeds 0 to SEEDS - 1")
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help=", ".join(RECIPES))
    arguments = parser.parse_args()
    for name in arguments.recipes:
        if name not in RECIPES:
            parser.error(f"{name}: there are {', '.join(RECIPES)}")
    from cifar10.runs import result as results

    jobs = [(r, s) for s in range(arguments.seeds) for r in arguments.recipes or RECIPES]
    for job in jobs:
        train(*job)
    for job in jobs:  # only now, so that all were trained on a clean checkout
        if trained(*job).exists():
            kept(*job).parent.mkdir(parents=True, exist_ok=True)
            results.write_result(
                kept(*job).parent, results.without_local_paths(results.read_result(trained(*job)))
            )


if __name__ == "__main__":
    main()
