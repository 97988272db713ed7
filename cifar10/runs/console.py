"""What a run prints: its start, its epochs, a progress bar, the closing summary."""

import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from cifar10.core.display import printable
from cifar10.runs.callback_settings import OWN_STOP
from cifar10.training.hardware import Hardware
from cifar10.training.metrics import wilson_interval

log = logging.getLogger(__name__)

REFRESH = 0.5  # seconds


def format_duration(seconds: float, rough: bool = False) -> str:
    """Seconds as `45 s`, `2 min 43 s` or `1 h 5 min`; roughly, only the larger unit."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    if seconds < 3599.5:
        minutes, rest = divmod(round(seconds), 60)
        return f"{seconds / 60:.0f} min" if rough else f"{minutes} min {rest} s"
    hours, rest = divmod(round(seconds / 60), 60)
    return f"{seconds / 3600:.1f} h" if rough else f"{hours} h {rest} min"


class RunProgress(ProgressBar):
    """One bar for the whole training, with the mean loss and top-1 of the epoch so far."""

    bar: Progress | None = None

    def disable(self) -> None:  # on all ranks but the first
        self.stop()

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        self.bar = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=None, complete_style="magenta", finished_style="magenta"),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[figures]}", table_column=Column(no_wrap=True)),
            transient=True,
            expand=True,
            auto_refresh=False,
        )
        self.steps = self.total_train_batches * (trainer.max_epochs or 1)
        if 0 < trainer.max_steps < self.steps:
            self.steps = trainer.max_steps
        self.task = self.bar.add_task("starting", total=self.steps, figures="")
        self.start, self.images, self.next_refresh = time.perf_counter(), 0, 0.0
        self.first_step = self.step = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        self.bar.start()

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs, batch, index) -> None:
        if self.bar is None:
            return
        self.step += 1
        self.images += len(batch[1]) * trainer.world_size
        seconds = time.perf_counter() - self.start
        if seconds < self.next_refresh:
            return
        self.next_refresh = seconds + REFRESH
        left = seconds / (self.step - self.first_step) * (self.steps - self.step)
        figures = [f"{self.images / seconds:,.0f} img/s", f"{format_duration(left)} left"]
        if trainer.world_size == 1:  # computing a metric of several ranks needs all of them
            loss, top1 = (module.train_metrics[key].compute() for key in ("loss", "top1"))
            figures = [f"loss {loss:.3f}", f"top-1 {top1:.1%}", *figures]
        self.bar.update(
            self.task,
            completed=self.step,
            description=f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}",
            figures="  ".join(figures),
            refresh=True,
        )

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self.bar is not None:
            self.bar.update(self.task, figures="validating", refresh=True)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.stop()

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: Any) -> None:
        self.stop()

    def stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def announce(result: dict[str, Any], folder: Path) -> None:
    """Log what a run is about to do; details go to train.log only."""
    data, precision = result["data"], result["precision"]
    sizes = ", ".join(f"{data[split]:,} {split}" for split in ("train", "val", "test"))
    log.info("data        %s: %s images", data["name"], sizes)
    count, trained = result["parameters"], result["trained_parameters"]
    frozen = f", {trained:,} of them trained" if trained < count else ""
    log.info("network     %s, %s parameters%s", result["network"], f"{count:,}", frozen)
    if start := result.get("start"):
        log.info("weights     %s", start)
    log.info("device      %s, %s (%s)", result["device"], precision["value"], precision["reason"])
    log.info("run folder  %s", folder)
    if data["validation"] == "test":
        log.warning(
            "Warning: data.validation=test selects the checkpoint on the test set, so the test "
            "metrics are optimistic"
        )
    for choice in Hardware._fields:
        log.debug("%s: %s (%s)", choice, result[choice]["value"], result[choice]["reason"])


def epoch_line(epoch: int, max_epochs: int | None, values: dict[str, float]) -> str:
    """An epoch's metrics on one line, within 80 columns up to 99 epochs."""
    split = "val" if "val/top1" in values else "train"
    texts = {
        "train/loss": "train/loss {:.4f}",
        "val/loss": "val/loss {:.4f}",
        f"{split}/top1": f"{split}/top-1 {{:.2%}}",
        "train/images_per_second": "{:,.0f} img/s",
    }
    parts = [f"epoch {epoch:>{len(str(max_epochs))}}/{max_epochs}"]
    parts += [text.format(values[key]) for key, text in texts.items() if key in values]
    return "  ".join(parts)


def summary(
    result: dict[str, Any],
    folder: Path,
    report: Path | None = None,
    curves: Iterable[str] = (),
    profiles: Iterable[Path] = (),
) -> str:
    """The closing summary of a finished run.

    With its report's page, where to look at its curves, and the reports of a profiler.
    """
    test, data, seconds = result["test"], result["data"], result["seconds"]
    low, high = wilson_interval(test["top1"], data["tested"])
    metric = result.get("chosen_by", "val/loss" if data["validation"] else None)
    why = "last epoch" if data["validation"] else "last epoch, no validation images"
    if metric:
        key = metric.removeprefix("val/")
        value = f", {result['val'][key]:.4f}" if key in result["val"] else ""
        why = f"{'highest' if result.get('mode') == 'max' else 'lowest'} {metric}{value}"
        why += " on the TEST SET" * (data["validation"] == "test")
    training, total = map(format_duration, (seconds["training"], seconds["total"]))
    rows = [
        ("test top-1", f"{test['top1']:.2%}  (95% confidence interval {low:.2%} to {high:.2%})"),
        ("test top-3", f"{test['top3']:.2%}"),
        ("test top-5", f"{test['top5']:.2%}"),
        ("test loss", f"{test['loss']:.4f}"),
        ("epoch", f"{result['best_epoch'] or result['epochs']} of {result['epochs']} ({why})"),
        ("parameters", f"{result['parameters']:,}"),
        ("time", f"{total} (training {training})"),
        ("run folder", str(folder)),
    ]
    if stopped := result.get("stopped"):
        rows.insert(5, ("stopped", stopped))
    if result.get("partial"):
        limits = ", ".join(f"{key}={value}" for key, value in result["partial"].items())
        rows.insert(5, ("partial", limits))
    if "test_views" in result:
        rows.insert(1, ("6-view TTA", f"{result['test_views']['top1']:.2%}"))
    if data["tested"] < data["test"]:  # trainer.limit_test_batches
        rows.insert(0, ("tested on", f"{data['tested']:,} of {data['test']:,} images"))
    is_default = folder.parent.resolve() == Path("outputs").resolve()
    predict = f"cifar10 predict --model {'latest' if is_default else folder} photo.jpg"
    rows += [("profile", str(path)) for path in profiles]
    steps = [f"open {report.name} in the run folder"] if report else []
    steps += [*curves, *[predict] * bool(result.get("checkpoint"))]
    rows += zip(("next", *[""] * len(steps)), steps, strict=False)
    return "\n".join(printable(f"{name:<11} {value}") for name, value in rows)


def already_finished(result: dict[str, Any]) -> str:
    """Why there is nothing left to train, and how a run continues."""
    stopped = result.get("stopped")
    how = f"stopped early ({stopped})" if stopped else "already finished"
    change = "raise trainer.max_epochs" if stopped in (None, OWN_STOP) else "change or remove that"
    return f"{how}; to continue, {change}"
