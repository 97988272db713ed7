"""Reports a run's epochs to its search, and ends the run early if it is poor."""

import logging

import lightning as L
import optuna
from lightning.pytorch.callbacks import Callback

from cifar10.core.errors import one_line
from cifar10.runs.run import Pruned
from cifar10.sweeps.search import STORAGE_ERRORS, open_study

log = logging.getLogger(__name__)


class TrialReporter(Callback):
    """Reports the validation metric of each epoch to a trial; raises Pruned for a poor trial.

    Args:
        storage: URL of the Optuna storage.
        number: of the trial, from 0.
        metric, pruner: as in configs/sweep/default.yaml.
    """

    def __init__(self, storage: str, number: int, metric: str, pruner: str):
        study = open_study(storage, metric, pruner)
        trial = study.get_trials(deepcopy=False)[number]
        self.metric, self.reported = metric, set(trial.intermediate_values)
        self.trial = optuna.trial.Trial(study, trial._trial_id)

    def on_train_epoch_end(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if self.metric not in trainer.callback_metrics:
            return
        try:
            if epoch not in self.reported:  # a resumed run may repeat an epoch
                self.trial.report(float(trainer.callback_metrics[self.metric]), epoch)
            poor = self.trial.should_prune()
        except STORAGE_ERRORS as error:  # an unreachable storage must not end the run
            log.warning("epoch %s was not reported to the search: %s", epoch, one_line(error))
            return
        if poor and epoch < (trainer.max_epochs or 0):
            raise Pruned(f"pruned after epoch {epoch}")
