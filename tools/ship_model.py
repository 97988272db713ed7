"""Publish the model of a run as a pretrained model, with its cards.

python -m tools.ship_model RUN NAME
python -m tools.ship_model --cards     rewrite the Markdown cards from the JSON cards
"""

import argparse
import hashlib
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from cifar10 import zoo
from cifar10.core.errors import UserError
from cifar10.core.files import atomic_write
from cifar10.inference.evaluate import evaluate
from cifar10.inference.splits import PRECISION, how_tested, open_data
from cifar10.runs.checkpoint import read_checkpoint
from cifar10.runs.load import find_checkpoint, load, restore_classifier
from cifar10.runs.result import (
    RESULT_FILE,
    read_result,
    repeat_command,
    to_json,
    without_local_paths,
)

COST = 0.0002  # largest loss of top-1 by half precision
REMOVED = ("keep_hardest", "data.crops")  # settings of version 0.1
VIEWS = (("single view", None), ("flip TTA", "mirrored"), ("6-view TTA", "six_views"))


def ship(run: Path, name: str) -> str:
    """Write a model's half-precision weights, JSON card and Markdown card to the zoo.

    Args:
        run: folder of a finished run.
        name: of the pretrained model.

    Returns:
        The Markdown card.

    Raises:
        UserError: the run is not finished, or half precision costs more than 0.02% top-1.
    """
    result = read_result(run / RESULT_FILE)
    if result["status"] != "ok":
        raise UserError(f"{run}: not finished, its status is {result['status']}")
    teacher = teacher_result(result)
    state = read_checkpoint(find_checkpoint(run))
    weights = to_half(state["state_dict"])
    batches = open_data(how_tested(run)).test_dataloader()

    original = load(run, "cpu")
    half = restore_classifier(state["hyper_parameters"], weights)
    half.set_memory_format(original.memory_format == torch.channels_last)  # as `load` does
    before, _ = evaluate(original, batches, PRECISION, views=False)
    after, _ = evaluate(half, batches, PRECISION, views=True)
    cost = before["top1"] - after["top1"]
    if cost > COST:
        raise UserError(f"{run}: half precision costs {cost:.2%} top-1, more than {COST:.2%}")
    data = save(weights)
    card = {
        "sha256": hashlib.sha256(data).hexdigest(),
        "hyper_parameters": state["hyper_parameters"],
        "scores": after,
        "result": published(result),
        "teacher": teacher and published(teacher),
    }
    zoo.FOLDER.mkdir(parents=True, exist_ok=True)
    markdown = markdown_card(name, card)
    files = {"safetensors": data, "json": to_json(card).encode(), "md": markdown.encode()}
    for suffix, content in files.items():
        with atomic_write(zoo.FOLDER / f"{name}.{suffix}") as file:
            file.write(content)
    return markdown


def teacher_result(result: dict[str, Any]) -> dict[str, Any] | None:
    """Return the result of the run that trained a run's teacher, if it had one."""
    teacher = result["settings"].get("teacher")
    if teacher is None:
        return None
    if zoo.is_pretrained(teacher):
        return zoo.model_card(teacher)["result"]
    return read_result(find_checkpoint(teacher).parent / RESULT_FILE)


def published(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result without its history and the paths of this machine."""
    return {k: v for k, v in without_local_paths(result).items() if k != "history"}


def to_half(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert matrices and convolutions to half precision; vectors are small and stay."""
    return {
        key: (value.half() if value.is_floating_point() and value.ndim > 1 else value).contiguous()
        for key, value in weights.items()
    }


def markdown_card(name: str, card: dict[str, Any]) -> str:
    """Format a model's JSON card (see `zoo.model_card`) as Markdown."""
    result, scores = card["result"], card["scores"]
    lines = [f"# {name}", "", f"{result['network']}, {result['parameters']:,} parameters.", ""]
    lines += ["Training command:", "", *training(result), ""]
    if card["teacher"]:
        lines += ["Training command of its teacher:", "", *training(card["teacher"]), ""]
    lines += [
        f"| {scores['images']:,} test images, float32 | loss | top-1 | top-3 | top-5 |",
        "| --- | --- | --- | --- | --- |",
    ]
    for label, key in VIEWS:
        view = scores[key] if key else scores
        tops = " | ".join(f"{view[f'top{k}']:.2%}" for k in (1, 3, 5))
        lines.append(f"| {label} | {view['loss']:.4f} | {tops} |")
    classes = list(scores["per_class"])
    recalls = {label: own["recall"] for label, own in scores["per_class"].items() if own["images"]}
    weakest = sorted(recalls, key=lambda label: recalls[label])[:2]
    errors = sorted(
        (
            (count, row, column)
            for row, counts in enumerate(scores["confusion"])
            for column, count in enumerate(counts)
            if row != column
        ),
        reverse=True,
    )
    pairs = [
        f"{classes[row]} predicted as {classes[column]} ({count})"
        for count, row, column in errors[:4]
    ]
    lines += [
        "",
        f"Expected calibration error: {scores['calibration_error']:.2%} (15 bins).",
        "",
        "| class | top-1 |",
        "| --- | --- |",
        *(f"| {label} | {top1:.2%} |" for label, top1 in recalls.items()),
        "",
        f"Weakest classes: {' and '.join(weakest)}. Most frequent errors: {', '.join(pairs)}.",
        f"The model always predicts one of these {len(classes)} classes, "
        "even for images of something else.",
        "",
        f"Weights in half precision, SHA-256 `{card['sha256']}`.",
    ]
    return "\n".join(lines) + "\n"


def training(result: dict[str, Any]) -> list[str]:
    """Format the command, circumstances and metrics of a training run as Markdown."""
    data = result["data"]
    device = result["device"].replace(" 1 threads", " 1 thread")  # as version 0.1 wrote it
    first, *resumed = repeat_command(result).split(" && ")
    command = " && ".join([f"{first} seed={result['seed']}", *resumed])
    chosen = f"the epoch was selected on {data['val']:,} validation images"
    if not data["val"]:
        chosen = "no validation set, so the last epoch is used"
    note = ""
    if any(f"{name}=" in command for name in REMOVED):
        names = " and ".join(f"`{name}`" for name in REMOVED)
        note = f"Recorded with version 0.1; {names} were removed in 0.2. "
    return [
        f"    {command}",
        "",
        f"{note}Trained at commit {result['commit'][:12]} on {device}, "
        f"{result['precision']['value']}: "
        f"{result['epochs']} epochs in {result['seconds']['training'] / 60:.0f} minutes, one run. "
        f"{data['train']:,} training images; {chosen}.",
        "",
        f"Metrics recorded during training: test loss {result['test']['loss']:.4f}, top-1 "
        f"{result['test']['top1']:.2%}.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", nargs="?", type=Path, help="folder of a finished run")
    parser.add_argument("name", nargs="?", help="name of the pretrained model")
    parser.add_argument("--cards", action="store_true", help="rewrite the Markdown cards")
    arguments = parser.parse_args()
    if arguments.cards:
        for name in zoo.pretrained_names():
            text = markdown_card(name, zoo.model_card(name))
            (zoo.FOLDER / f"{name}.md").write_text(text, encoding="utf-8")
    elif arguments.name:
        try:
            print(ship(arguments.run, arguments.name))
        except UserError as error:
            sys.exit(f"error: {error}")
    else:
        parser.error("RUN and NAME are needed")


if __name__ == "__main__":
    main()
