"""Tells a search of a run's epochs, and ends the run when it is a poor one."""

import json
import logging

import lightning as L
from lightning.pytorch.callbacks import Callback

from cifar10.core.errors import one_line
from cifar10.runs.run import Pruned
from cifar10.sweeps.search import open_study
from cifar10.sweeps.space import optuna_module

log = logging.getLogger(__name__)


class Reporter(Callback):
    """Tells the study of each epoch's validation, and ends a run that is not worth its end.

    Args:
        trial: what the variable TRIAL holds.
    """

    def __init__(self, trial: str):
        optuna, settings = optuna_module(), json.loads(trial)
        study = open_study(settings["storage"], settings["seed"], settings)
        known = study.get_trials(deepcopy=False)[settings["trial"]]
        self.metric, self.reported = settings["metric"], set(known.intermediate_values)
        self.trial = optuna.trial.Trial(study, known._trial_id)

    def on_train_epoch_end(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if self.metric not in trainer.callback_metrics:
            return
        try:
            if epoch not in self.reported:  # a resumed run may come through an epoch again
                self.trial.report(float(trainer.callback_metrics[self.metric]), epoch)
            poor = self.trial.should_prune()
        except Exception as error:  # a run is not lost for a storage that is out of reach
            log.warning("the search was not told of epoch %s: %s", epoch, one_line(error))
            return
        if poor and epoch < trainer.max_epochs:
            raise Pruned(f"pruned after epoch {epoch}")
