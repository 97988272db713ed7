"""Put a run's network among the shipped models, with its card.

python -m tools.ship_model RUN NAME
"""

import hashlib
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from cifar10 import zoo
from cifar10.core.errors import UserError
from cifar10.core.files import atomic_write
from cifar10.inference import evaluate as evaluation
from cifar10.runs import checkpoint
from cifar10.runs import result as results
from cifar10.runs.load import find_checkpoint, load, restore_classifier
from cifar10.runs.result import repeat_command
from cifar10.training.classifier import Classifier

COST = 0.0002  # of top-1 that half precision may take


def ship(run: Path, name: str) -> str:
    """Put a model's halved weights and its cards, for programs and for people, into the zoo.

    Args:
        run: folder of a finished run.
        name: of the model.

    Returns:
        The card for people.

    Raises:
        UserError: the run is not finished, or half precision costs more than 0.02 points of top-1.
    """
    result = results.read_result(run / results.RESULT_FILE)
    if result["status"] != "ok":
        raise UserError(f"{run} is not finished: its status is {result['status']}")
    teacher = result_of(result["settings"].get("teacher"))
    state = checkpoint.read_checkpoint(find_checkpoint(run))
    weights = halved(state["state_dict"])
    settings, _, _ = evaluation.evaluation_settings(run)
    _, batches = evaluation.open_split(settings, "test")

    def scores(classifier: Classifier, views: bool) -> dict[str, Any]:
        return evaluation.evaluate(classifier, batches, evaluation.PRECISION, views)[0]

    before = scores(load(run, "cpu"), views=False)
    after = scores(restore_classifier(state["hyper_parameters"], weights), views=True)
    cost = before["top1"] - after["top1"]
    if cost > COST:
        raise UserError(f"half precision costs {cost:.2%} of top-1, more than {COST:.2%}")
    data = save(weights)
    known = {
        "sha256": hashlib.sha256(data).hexdigest(),
        "hyper_parameters": state["hyper_parameters"],
        "scores": after,
        "result": without_history(result),
        "teacher": teacher and without_history(teacher),
    }
    text = card(name, known)
    zoo.FOLDER.mkdir(parents=True, exist_ok=True)
    files = {"safetensors": data, "json": results.to_json(known).encode(), "md": text.encode()}
    for suffix, content in files.items():
        with atomic_write(zoo.FOLDER / f"{name}.{suffix}") as file:
            file.write(content)
    return text


def result_of(model: str | None) -> dict[str, Any] | None:
    """The result of the run that trained a model, given as `cifar10 predict` takes it."""
    if model is None or model in zoo.pretrained_names():
        return model and zoo.model_card(model)["result"]
    return results.read_result(find_checkpoint(model).parent / results.RESULT_FILE)


def without_history(result: dict[str, Any]) -> dict[str, Any]:
    """A run's result in short, as it may be handed on."""
    return {k: v for k, v in results.without_local_paths(result).items() if k != "history"}


def halved(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices and convolutions in half precision; all that is small or sums as it is."""
    return {
        key: (value.half() if value.is_floating_point() and value.ndim > 1 else value).contiguous()
        for key, value in weights.items()
    }


def card(name: str, known: dict[str, Any]) -> str:
    """A model's card for people, in Markdown.

    Args:
        known: its card for programs, see `zoo.card`.
    """
    result, shipped = known["result"], known["scores"]
    teacher = []
    if known["teacher"]:
        teacher = ["from a teacher that was made by", "", *made_by(known["teacher"])]
    weakest = sorted(shipped["per_class"], key=shipped["per_class"].get)[:2]
    confused = [
        (count, row, column)
        for row, counts in enumerate(shipped["confusion"])
        for column, count in enumerate(counts)
        if row != column
    ]
    names = list(shipped["per_class"])
    pairs = ", ".join(
        f"{names[row]} taken for {names[column]} ({count})"
        for count, row, column in sorted(confused, reverse=True)[:4]
    )
    lines = [
        f"# {name}",
        "",
        f"{result['network']}, {result['parameters']:,} parameters. Made by",
        "",
        *made_by(result),
        *teacher,
        f"| {shipped['images']:,} test images, float32 | loss | top-1 | top-3 | top-5 |",
        "| --- | --- | --- | --- | --- |",
    ]
    for label, kind in (
        ("as they are", shipped),
        ("mean with the mirror image", shipped["mirrored"]),
        ("mean of six views", shipped["six_views"]),
    ):
        tops = " | ".join(f"{kind[f'top{k}']:.2%}" for k in (1, 3, 5))
        lines.append(f"| {label} | {kind['loss']:.4f} | {tops} |")
    lines += [
        "",
        f"Expected calibration error: {shipped['calibration_error']:.2%} (15 bins).",
        "",
        "| class | top-1 |",
        "| --- | --- |",
        *(f"| {key} | {value:.2%} |" for key, value in shipped["per_class"].items()),
        "",
        f"Weak spots: {' and '.join(weakest)} are missed most; most frequent mistakes: {pairs}."
        " It knows ten classes only, and answers with one of them whatever it is shown.",
        "",
        f"Weights in half precision, SHA-256 `{known['sha256']}`.",
    ]
    return "\n".join(lines) + "\n"


def made_by(result: dict[str, Any]) -> list[str]:
    """The command of a run, and what there is to know of it, as Markdown."""
    data = result["data"]
    held_out = (
        f"{data['val']:,} were held out to choose the epoch"
        if data["val"]
        else ("none was held out, and the last epoch is the result")
    )
    return [
        f"    {repeat_command(result)}",
        "",
        f"at commit {result['commit'][:12]}, on {result['device']}, {result['precision']['value']}:"
        f" {result['epochs']} epochs in {result['seconds']['training'] / 60:.0f} minutes. Seed"
        f" {result['seed']}, one run. {data['train']:,} images were trained on; {held_out}. Its own"
        f" figures: test loss {result['test']['loss']:.4f}, top-1 {result['test']['top1']:.2%}.",
        "",
    ]


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("usage: python -m tools.ship_model RUN NAME")
    try:
        print(ship(Path(sys.argv[1]), sys.argv[2]))
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
