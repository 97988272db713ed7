"""What a run shows on the terminal, from first line to closing table."""

import logging
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import RichProgressBar

from cifar10.reports import report
from cifar10.runs import result as results
from cifar10.training.hardware import Hardware

log = logging.getLogger(__name__)

PHASES = ("set_up", "training", "evaluation")


class ProgressBar(RichProgressBar):
    """Lightning's rich bar, counting epochs from 1 as everything else here does."""

    def _get_train_description(self, current_epoch: int) -> str:
        return f"epoch {current_epoch + 1}/{self.trainer.max_epochs}"


def announce(result: dict[str, Any], folder: Path) -> None:
    """Log what is about to happen, a line each."""
    data = result["data"]
    sizes = ", ".join(f"{data[split]:,} {split}" for split in ("train", "val", "test"))
    log.info("run folder: %s", folder)
    log.info("data: %s, %s images", data["name"], sizes)
    if data["validation"] == "test":
        log.warning(
            "validation is the TEST SET: it chooses the checkpoint, so no figure of this run is "
            "one of unseen images"
        )
    elif data["validation"]:
        log.info("split: stratified, data.val_seed, SHA-256 %s…", data["val_digest"][:12])
    else:
        log.info("split: nothing held out, so the last epoch is the result")
    log.info("network: %s, %s parameters", result["network"], f"{result['parameters']:,}")
    log.info("device: %s", result["device"])
    for choice in Hardware._fields:
        log.info("%s: %s (%s)", choice, result[choice]["value"], result[choice]["reason"])


def closing_table(result: dict[str, Any], folder: Path) -> str:
    """What a finished run has to say, as lines of text."""
    test, seconds = result["test"], result["seconds"]
    phases = ", ".join(f"{seconds[phase]:.1f} {phase.replace('_', '-')}" for phase in PHASES)
    checkpoint, data = result["checkpoint"], result["data"]
    epoch = "best epoch" if data["validation"] else "last epoch"
    rows = [
        ("test loss", f"{test['loss']:.4f}"),
        *((f"test top-{k}", f"{test[f'top{k}']:.2%}") for k in (1, 3, 5)),
        (epoch, f"{result['best_epoch']} of {result['epochs']}"),
        ("seconds", phases),
        ("checkpoint", str(folder / checkpoint) if checkpoint else "none"),
        ("logs", logs(folder)),
        ("result", str(folder / results.RESULT_FILE)),
    ]
    if (folder / report.NAME).exists():
        rows.append(("report", str(folder / report.NAME)))
    if "test_views" in result:
        rows.insert(2, ("  six views", f"{result['test_views']['top1']:.2%}"))
    if data["tested"] < data["test"]:  # trainer.limit_test_batches
        rows.insert(0, ("tested on", f"{data['tested']:,} of {data['test']:,} images"))
    if data["validation"] == "test":
        rows.insert(0, ("chosen on", "the test set"))
    return "\n".join(f"{name:<12} {value}" for name, value in rows)


def logs(folder: Path) -> str:
    """What to type to see a run's curves, or where its logs are."""
    if not any(folder.glob("events.out.tfevents.*")):
        return str(folder)
    command = ["tensorboard", "--logdir", str(folder.parent)]
    return subprocess.list2cmdline(command) if os.name == "nt" else shlex.join(command)
