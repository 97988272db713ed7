"""Exponential moving average of the weights."""

from typing import Annotated, Any

import lightning as L
import torch
from annotated_types import Ge, Interval
from lightning.pytorch.callbacks import Callback
from torch import Tensor

TRAINED = "trained_weights"  # key in a checkpoint


class EMA(Callback):
    """Validates and saves an exponential moving average of the weights in place of the weights.

    After each optimizer step the average moves towards the weights; floating-point buffers such as
    batch-norm statistics are averaged too, others copied. A checkpoint's `state_dict` is the
    average; the trained weights are saved beside it, for exact resume.

    Args:
        decay: weight of the old average, in [0, 1).
        start: optimizer steps during which the average equals the weights.
        every: optimizer steps from one update of the average to the next.
        lookahead: whether training continues from the average after each update (Zhang et al. 2019,
            https://arxiv.org/abs/1907.08610).
    """

    def __init__(
        self,
        decay: Annotated[float, Interval(ge=0, lt=1)] = 0.98,
        start: Annotated[int, Ge(0)] = 0,
        every: Annotated[int, Ge(1)] = 1,
        lookahead: bool = False,
    ):
        self.decay, self.start, self.every, self.lookahead = decay, start, every, lookahead
        self.step = 0  # at which the average was last updated
        self.average: dict[str, Tensor] = {}  # the trained weights while `swapped`
        self.swapped = False

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.step = state_dict["step"]

    def on_load_checkpoint(
        self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if TRAINED in checkpoint and trainer.training:
            self.average = checkpoint["state_dict"]
            module.load_state_dict(checkpoint[TRAINED])

    def on_save_checkpoint(
        self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self.average:
            weights = checkpoint["state_dict"], self.average
            average, trained = weights if self.swapped else reversed(weights)
            checkpoint |= {"state_dict": average, TRAINED: trained}

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        average = self.average or module.state_dict()
        self.average = {key: value.to(module.device, copy=True) for key, value in average.items()}

    @torch.no_grad()
    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step:  # gradients still accumulate
            return
        self.step = trainer.global_step
        has_begun = self.step > max(self.start, 1)
        if has_begun and (self.step - self.start) % self.every:
            return
        for key, value in module.state_dict().items():
            if has_begun and value.is_floating_point():
                self.average[key].lerp_(value, 1 - self.decay)
                if self.lookahead:
                    value.copy_(self.average[key])
            else:
                self.average[key].copy_(value)

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.swap(module)

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.swap(module)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        module.load_state_dict(self.average)
        self.average = {}

    @torch.no_grad()
    def swap(self, module: L.LightningModule) -> None:
        """Exchange the weights for their average, in place, if there is one."""
        self.swapped = bool(self.average) and not self.swapped
        for key, value in module.state_dict().items() if self.average else ():
            held = value.clone()
            value.copy_(self.average[key])
            self.average[key].copy_(held)
