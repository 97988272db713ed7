"""Seconds of training to a target accuracy: each recipe's work times its measured speed.

python -m benchmarks.time_to_accuracy

Accuracies are those of the result.json files in `results/` (see `benchmarks.recipes`); how many
epochs the original's way needs is extrapolated from the ten it was given. Speeds are measured here,
in turns: trainings hours apart on a shared machine cannot be compared by their clocks. What a
training's own clock said is kept beside them. No recipe's whitening is frozen while its speed is
measured, which saves each of them some time later on.
"""

import math
import statistics
import sys
from collections.abc import Iterator

from benchmarks.measure import alternate, claim, output, ratio, report
from benchmarks.recipes import RECIPES, RESULTS
from benchmarks.subjects import naive_steps, some_images, under_trainer
from cifar10.core.settings import compose_settings
from cifar10.data.loader import side_at_epoch, value_at_epoch

ROUNDS = 3
STEPS = 2
FITTED = 6  # last epochs of a run that ended before its target


def phases(overrides: list[str]) -> dict[tuple[int, float], int]:
    """How many images a recipe goes through in each size in pixels, each share of them kept."""
    chosen = compose_settings(*overrides)
    data, trainer = chosen["data"], chosen["trainer"]
    sizes = {int(first): side for first, side in (data["sizes"] or {}).items()}
    total = 50_000 - (data["val_size"] if data["validation"] == "held-out" else 0)
    left = trainer.get("max_steps", sys.maxsize)
    images: dict[tuple[int, float], int] = {}
    for epoch in range(trainer["max_epochs"]):
        steps = min(left, math.ceil(total / data["batch_size"]))
        side = side_at_epoch(sizes, epoch)
        phase = side, value_at_epoch(chosen["keep_hardest"], epoch)
        images[phase] = images.get(phase, 0) + min(steps * data["batch_size"], total)
        left -= steps
    return {phase: count for phase, count in images.items() if count}


def phase_name(recipe: str, size: int, keep: float) -> str:
    return f"{recipe}, {size} pixels" + f", hardest {keep:.0%}" * (keep < 1)


def original_way(steps: int) -> Iterator[float]:
    """Training images a second of a tutorial's loop over torchvision's DataLoader, PIL images."""
    from torch.utils.data import DataLoader
    from torchvision import transforms

    from benchmarks.loader import Images
    from cifar10.data import MEAN, STD

    chosen = compose_settings("experiment=original")
    batch_size = chosen["data"]["batch_size"]
    images, labels = some_images(10_000)
    arrays = [image.permute(1, 2, 0).contiguous().numpy() for image in images]
    to_tensor = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    loader = DataLoader(Images(arrays, labels, to_tensor), batch_size, shuffle=True, num_workers=2)

    def for_ever():
        while True:
            yield from loader

    yield from naive_steps("convnet", for_ever(), steps)


def epochs_to(run: dict, target: float) -> float:
    """After how many epochs a run that validates on the test set has reached a target.

    Where it ended before that: extrapolated, by a power law in the number of epochs through the
    test errors of its last six.
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
    """Means over a recipe's seeds, and the median of what its trainings' own clocks said."""
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

    work = {recipe: phases(RECIPES[recipe]) for recipe in RECIPES if recipe != "original"}
    contenders = {
        phase_name(recipe, size, keep): (
            under_trainer,
            [
                *RECIPES[recipe],
                f"data.sizes={{1:{size}}}",
                f"keep_hardest=[{keep}]",
            ],
            STEPS,
        )
        for recipe, images in work.items()
        for size, keep in images
    }
    way = "original, a tutorial's loop over torchvision's loader"
    rates = alternate(contenders | {way: (original_way, STEPS)}, ROUNDS)
    seconds = {
        recipe: [
            sum(count / rates[phase_name(recipe, *phase)][turn] for phase, count in images.items())
            for turn in range(ROUNDS)
        ]
        for recipe, images in work.items()
    }
    seconds["original, an epoch"] = [50_000 / rate for rate in rates[way]]
    runs = {recipe: find_runs([RESULTS / recipe]) for recipe in RECIPES}
    reached = {recipe: accuracies(found) for recipe, found in runs.items() if found}

    claims = []
    if ours := reached.get("airnet94"):
        views = "airnet94: mean test top-1, six views"
        claims.append(claim("airnet94: mean test top-1", ours["test_top1"], 0.935))
        claims.append(claim(views, ours["test_views_top1"], 0.94))
    speeds = ("airnet94", "airbench94", "speedrun94")
    if all(name in reached for name in speeds):
        sooner = min(ratio(seconds, peer, "airnet94") for peer in speeds[1:])
        equal = all(reached[name]["test_views_top1"] >= 0.94 for name in speeds)
        what = "better peer's time over airnet94's, all at 94 %"
        claims.append(claim(what, sooner, 1.5, provided=equal))
    needed = [epochs_to(run, 0.82) for run in runs["original"]]
    if needed:
        times = statistics.median(needed) * ratio(seconds, "original, an epoch", "default")
        claims.append(
            claim(
                "original's time to 82 % (epochs extrapolated) over the default recipe's", times, 20
            )
        )
    more = dict(images_per_second=rates, accuracies=reached, original_epochs=needed)
    report(path, "seconds", seconds, base="default", claims=claims, **more)


if __name__ == "__main__":
    main()
