"""last.ckpt: the full training state, saved every epoch and on interruption."""

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import lightning as L
import numpy as np
import torch
from annotated_types import Ge
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    GradientAccumulationScheduler,
    ModelCheckpoint,
)
from torch.optim.lr_scheduler import LambdaLR

from cifar10.runs.callbacks import gather
from cifar10.runs.checkpoint import LAST, link_previous
from cifar10.runs.signals import Interrupted, preemption_signals, signals


class RandomStates(Callback):
    """Saves the random states of every rank in checkpoints, for dropout."""

    def __init__(self) -> None:
        self.states: list[dict[str, Any]] = []
        self.world_size = 1

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        self.world_size = trainer.world_size

    def state_dict(self) -> dict[str, Any]:
        kind, words, *rest = np.random.get_state(legacy=True)
        state = {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
            "python": random.getstate(),
            "numpy": [kind, np.asarray(words).tolist(), *rest],
        }
        return {"ranks": gather(self.world_size, state)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.states = state_dict["ranks"]

    def on_train_start(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        # Directly before the first step, so that nothing else draws random numbers in between.
        if len(self.states) != trainer.world_size:  # a new run, or another number of ranks
            return
        state = self.states[trainer.global_rank]
        torch.set_rng_state(state["torch"])
        if len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])
        if state.get("mps") is not None and torch.backends.mps.is_available():
            torch.mps.set_rng_state(state["mps"])
        version, numbers, gauss = state["python"]
        random.setstate((version, tuple(numbers), gauss))
        kind, words, *rest = state["numpy"]
        np.random.set_state((kind, np.array(words, dtype=np.uint32), *rest))


class LastCheckpoint(ModelCheckpoint):
    """Saves `last.ckpt` after every epoch, every `every_n_steps` steps, and on a signal to stop.

    Args:
        every_n_steps: optimizer steps between two saves within an epoch; None for none.
    """

    def __init__(self, dirpath: str, every_n_steps: Annotated[int, Ge(1)] | None = None):
        super().__init__(
            dirpath, Path(LAST).stem, save_on_train_epoch_end=True, enable_version_counter=False
        )
        self.every_n_steps = every_n_steps
        self.patience: dict[EarlyStopping, int] = {}  # of the current settings
        self.seen_step = self.epochs = 0  # epochs: those that the file holds
        self.saved = self.stopping = False
        # Set by the run: the settings that decide when it ends; what is called after each save.
        self.ends: dict[str, Any] = {}
        self.on_saved: Callable[[], None] = lambda: None

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, module, stage)
        # With max_steps, Lightning would resume from the end of an epoch with an empty epoch.
        trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]

    def on_save_checkpoint(self, trainer: L.Trainer, _: L.LightningModule, state: dict) -> None:
        state["should_stop"] = trainer.should_stop  # set by early stopping
        state["ends"] = self.ends

    def on_load_checkpoint(self, trainer: L.Trainer, _: L.LightningModule, state: dict) -> None:
        # An early stop counts as long as nothing that decides the end has changed since.
        trainer.should_stop = state.get("should_stop", False) and state.get("ends") == self.ends
        for callback in trainer.callbacks:  # type: ignore[attr-defined]  # Trainer sets it
            if isinstance(callback, EarlyStopping):  # Lightning restores the former patience
                self.patience[callback] = callback.patience
        self.epochs = len(state["callbacks"]["History"]["epochs"])

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        super().on_train_start(trainer, module)
        for callback, patience in self.patience.items():
            callback.patience = patience
        for config in trainer.lr_scheduler_configs:
            update_rates(config.scheduler)
        if trainer.fit_loop.restarted_mid_epoch:  # then there is no `on_train_epoch_start`
            self.on_train_epoch_start(trainer)
            # Lightning restores the state of loaders that are made after the checkpoint is loaded;
            # `estimated_stepping_batches` makes this one before.
            done: Any = trainer.fit_loop.epoch_loop.batch_progress.current
            loader: Any = trainer.train_dataloader
            loader.load_state_dict({"epoch": trainer.current_epoch, "position": done.processed})
            for callback in trainer.callbacks:  # type: ignore[attr-defined]  # Trainer sets it
                if isinstance(callback, GradientAccumulationScheduler):
                    callback.on_train_epoch_start(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        self.flush_and_stop(trainer)
        signals.defer()
        self.seen_step = trainer.global_step

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        self.flush_and_stop(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        step = trainer.global_step
        if step == self.seen_step or trainer.is_last_batch or step == trainer.max_steps:
            return  # gradients still accumulate, or the end of the epoch saves next
        every = self.every_n_steps or math.inf
        due = step // every > self.seen_step // every
        self.seen_step = step
        if self.stop_requested(trainer) or due:
            self._save_topk_checkpoint(trainer, {})
            self.saved = True
            self.on_saved()

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        super().on_train_epoch_end(trainer, module)
        self.saved, self.epochs = True, trainer.current_epoch + 1
        self.on_saved()
        self.stop_requested(trainer)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        super().on_train_end(trainer, module)
        self.stop_requested(trainer)
        self.flush_and_stop(trainer)
        signals.release()

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        if trainer.is_global_zero:
            link_previous(Path(filepath).parent)
        super()._save_checkpoint(trainer, filepath)

    def stop_requested(self, trainer: L.Trainer) -> bool:
        """Whether any rank received a signal; all of them stop after the same step."""
        received = signals.received is not None
        self.stopping = trainer.strategy.reduce_boolean_decision(received, all=False)
        if self.stopping:
            numbers = filter(None, gather(trainer.world_size, signals.received))
            # SLURM's comes first, whichever rank received it: the first rank requeues the job.
            self.number = min(numbers, key=lambda number: number not in preemption_signals())
        return self.stopping

    def flush_and_stop(self, trainer: L.Trainer) -> None:
        """Write the logs up to the saved checkpoint, which Lightning has logged by now; stop."""
        if self.saved:
            self.saved = False
            for logger in trainer.loggers:
                logger.save()
        if self.stopping:
            signals.release()
            raise Interrupted(self.number, all_ranks=True)


def update_rates(scheduler: Any) -> None:
    """Recompute the learning rates: a checkpoint may hold those of a shorter schedule."""
    if isinstance(scheduler, LambdaLR):
        rates = zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        for group, (base, factor) in zip(scheduler.optimizer.param_groups, rates, strict=True):
            group["lr"] = base * factor(scheduler.last_epoch)
