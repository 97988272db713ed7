"""The figures of a run: those of its chosen checkpoint file, loaded anew."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cifar10.core.errors import SettingError, UserError
from cifar10.core.instantiate import is_user_code
from cifar10.data.module import InMemoryDataModule
from cifar10.runs.callbacks import to_floats
from cifar10.runs.checkpoint import foreign_start, read_checkpoint
from cifar10.runs.components import Components
from cifar10.runs.load import restore_classifier

log = logging.getLogger(__name__)


def test(components: Components, folder: Path, result: dict[str, Any]) -> None:
    """Evaluate the chosen checkpoint file, loaded anew, on the validation and the test set.

    So the figures are those of the file, whatever callbacks did to the weights meanwhile.
    """
    data, test_logits = components.data, components.test_logits
    trainer: Any = components.trainer
    if result["checkpoint"]:
        state = read_checkpoint(path := folder.resolve() / result["checkpoint"])
        reason = foreign_start(state, result["started"])
        if reason and trainer.is_global_zero:  # start times differ between processes
            raise UserError(f"{path}: {reason}")
        views = {"test_views": components.classifier.hparams["test_views"]}
        arguments = state["hyper_parameters"] | views
        components.classifier = restore_classifier(arguments, state["state_dict"])
        layout = components.hardware.layout.value
        components.classifier.set_memory_format(channels_last=layout == "channels last")
    model, loggers = components.classifier, trainer.loggers
    user_callbacks = [c for c in trainer.callbacks if is_user_code(type(c).__module__)]
    saving = [c for c in trainer.checkpoint_callbacks if c not in user_callbacks]
    trainer.callbacks = [components.stopwatch, test_logits]
    if trainer.enable_validation and data.has_validation:
        trainer.loggers = []  # they have these figures
        try:
            (scored,) = trainer.validate(model, datamodule=data, verbose=False)
        finally:
            trainer.loggers = loggers
        result["data"]["validated"] = images(trainer.num_val_batches, data, result["data"]["val"])
        selected = result["val"].get("loss")
        result["val"] = figures(scored, "val")
        if selected and not math.isclose(selected, result["val"]["loss"], rel_tol=1e-3):
            log.warning(
                "Warning: val/loss was %.4f in training but is %.4f with the weights of %s: a "
                "callback changes them",
                *(selected, result["val"]["loss"], result["checkpoint"]),
            )
    # They may log or draw something, or look for the best checkpoint.
    trainer.callbacks += [*user_callbacks, *saving]
    tested = trainer.test(model, datamodule=data, verbose=False)
    differs = bool(result["checkpoint"]) and test_logits.differs_from(state["state_dict"])
    if user_callbacks and trainer.strategy.reduce_boolean_decision(differs, all=False):
        log.warning("Warning: a callback changes the weights for the test; testing again without")
        trainer.callbacks = [components.stopwatch, test_logits]
        tested = trainer.test(model, datamodule=data, verbose=False)
    if not tested:
        raise SettingError("trainer.limit_test_batches: leaves nothing to test")
    result["data"]["tested"] = images(trainer.num_test_batches, data, result["data"]["test"])
    for split in ("test", "test_views"):
        if found := figures(tested[0], split):
            result[split] = found
    result["seconds"]["evaluation"] = components.stopwatch.evaluation


def images(batches: Sequence[float], data: InMemoryDataModule, total: int) -> int:
    """The number of a split's images that were evaluated: limits may leave some out."""
    return min(int(batches[0]) * data.batch_size, total)


def figures(metrics: Mapping[str, Any], split: str) -> dict[str, float]:
    """The metrics of a split, without its name."""
    found = to_floats(metrics, f"{split}/")
    return {key.removeprefix(f"{split}/"): value for key, value in found.items()}
