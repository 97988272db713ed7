"""Training time to a target accuracy: each recipe's work divided by its measured speed.

python -m benchmarks.time_to_accuracy

Accuracies come from `results/` (see `benchmarks.recipes`); the epochs that the original recipe
needs are extrapolated from its ten. Speeds are measured here in turns, since wall times of
trainings hours apart on a shared machine cannot be compared; those are recorded as well. Speeds
include the backward pass of the whitening layer, which the recipes skip later in the training.
"""

import math
import statistics
import sys
from collections.abc import Iterator, Sequence

from benchmarks.measure import alternate, claim, output, ratio, report
from benchmarks.recipes import RECIPES, RESULTS
from benchmarks.subjects import naive_steps, some_images, under_trainer
from cifar10.core.settings import compose_settings
from cifar10.data.loader import side_at_epoch

ROUNDS = 3
STEPS = 2
FITTED = 6  # last epochs of a run that ended before its target


def images_by_size(overrides: list[str]) -> dict[int, int]:
    """Count the images that a recipe trains on in each size in pixels."""
    settings = compose_settings(*overrides)
    data, trainer = settings["data"], settings["trainer"]
    total = 50_000 - (data["val_size"] if data["validation"] == "held-out" else 0)
    left = trainer.get("max_steps", sys.maxsize)
    images: dict[int, int] = {}
    for epoch in range(trainer["max_epochs"]):
        steps = min(left, math.ceil(total / data["batch_size"]))
        side = side_at_epoch(data["sizes"], epoch)
        images[side] = images.get(side, 0) + min(steps * data["batch_size"], total)
        left -= steps
    return {side: count for side, count in images.items() if count}


def constant_size(overrides: list[str], side: int) -> str:
    """Return the override that sets all image sizes of a recipe to one value."""
    # Hydra merges dictionaries, so every epoch of the recipe is overridden.
    epochs = compose_settings(*overrides)["data"]["sizes"] or {1: side}
    return f"data.sizes={{{','.join(f'{epoch}:{side}' for epoch in epochs)}}}"


def row_name(recipe: str, side: int) -> str:
    return f"{recipe}, {side} pixels"


def tutorial_loop(
    steps: int, device: str = "cpu", overrides: Sequence[str] = ()
) -> Iterator[float]:
    """Yield training images per second of a tutorial's loop over a DataLoader of PIL images."""
    from torch.utils.data import DataLoader
    from torchvision import transforms

    from benchmarks.loader import Images
    from cifar10.data import MEAN, STD

    batch_size = compose_settings("experiment=original")["data"]["batch_size"]
    images, labels = some_images(10_000, *overrides)
    arrays = [image.permute(1, 2, 0).contiguous().numpy() for image in images]
    to_tensor = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    loader: DataLoader = DataLoader(
        Images(arrays, labels, to_tensor), batch_size, shuffle=True, num_workers=2
    )

    def endless():
        while True:
            yield from loader

    yield from naive_steps("convnet", endless(), steps, device)


def epochs_to(run: dict, target: float) -> float:
    """Return the epochs that a run which validates on the test set needs for a target accuracy.

    If it ended earlier, they are extrapolated by a power law through its last six test errors.
    """
    points = [(e["epoch"], e["val/top1"]) for e in run["history"]]
    for epoch, top1 in points:
        if top1 >= target:
            return epoch
    last = points[-FITTED:]
    slope, level = statistics.linear_regression(
        [math.log(epoch) for epoch, _ in last], [math.log(1 - top1) for _, top1 in last]
    )
    if slope >= 0:
        return math.inf  # it gets no better
    return math.exp((math.log(1 - target) - level) / slope)


def accuracies(runs: list[dict]) -> dict[str, float]:
    """Average a recipe's accuracies over its seeds; its training time is the median."""
    views = [run["test_views"]["top1"] for run in runs if "test_views" in run]
    return {
        "seeds": len(runs),
        "test_top1": statistics.mean(run["test"]["top1"] for run in runs),
        "test_views_top1": statistics.mean(views) if views else None,
        "own_clock_seconds": statistics.median(run["seconds"]["training"] for run in runs),
    }


def main() -> None:
    path = output("time_to_accuracy")
    from cifar10.sweeps.grouping import find_runs

    work = {recipe: images_by_size(RECIPES[recipe]) for recipe in RECIPES if recipe != "original"}
    contenders = {
        row_name(recipe, side): (
            under_trainer,
            [*RECIPES[recipe], constant_size(RECIPES[recipe], side)],
            STEPS,
        )
        for recipe, images in work.items()
        for side in images
    }
    tutorial = "original, a tutorial's loop over torchvision's loader"
    rates = alternate(contenders | {tutorial: (tutorial_loop, STEPS)}, ROUNDS)
    seconds = {
        recipe: [
            sum(count / rates[row_name(recipe, side)][turn] for side, count in images.items())
            for turn in range(ROUNDS)
        ]
        for recipe, images in work.items()
    }
    seconds["original, an epoch"] = [50_000 / rate for rate in rates[tutorial]]
    runs = {recipe: find_runs([RESULTS / recipe]) for recipe in RECIPES}
    reached = {recipe: accuracies(found) for recipe, found in runs.items() if found}

    claims = []
    if ours := reached.get("airnet94"):
        views = "airnet94: mean test top-1, 6-view TTA"
        claims.append(claim("airnet94: mean test top-1", ours["test_top1"], 0.935))
        claims.append(claim(views, ours["test_views_top1"], 0.94))
    speeds = ("airnet94", "airbench94", "speedrun94")
    if all(name in reached for name in speeds):
        sooner = min(ratio(seconds, peer, "airnet94") for peer in speeds[1:])
        equal = all(reached[name]["test_views_top1"] >= 0.94 for name in speeds)
        what = "time to 94%: faster peer recipe / airnet94"
        claims.append(claim(what, sooner, 1.5, provided=equal))
    needed = [epochs_to(run, 0.82) for run in runs["original"]]
    if needed:
        times = statistics.median(needed) * ratio(seconds, "original, an epoch", "default")
        claims.append(claim("time to 82%: original (epochs extrapolated) / default", times, 20))
    more = dict(images_per_second=rates, accuracies=reached, original_epochs=needed)
    report(path, "seconds", seconds, base="default", claims=claims, **more)


if __name__ == "__main__":
    main()
