"""A Bayesian search that any number of processes can work on, interrupt and continue."""

import json
import logging
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import optuna
from filelock import FileLock
from hydra.core.override_parser.types import Override
from optuna import distributions
from optuna.exceptions import OptunaError
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from cifar10.core.errors import SettingError, one_line
from cifar10.core.secrets import hide
from cifar10.core.settings import quote_override
from cifar10.runs.run import Pruned
from cifar10.runs.run_dir import LOCK, is_free
from cifar10.sweeps.sweeper import SweepSettings

log = logging.getLogger(__name__)

STUDY_LOCK = ".study.lock"
WORKER = "worker"  # attribute of a trial: the process that works on it
STORAGE_ERRORS = (OptunaError, SQLAlchemyError)

optuna.logging.set_verbosity(optuna.logging.WARNING)


def open_study(storage: str, metric: str, pruner: str) -> optuna.Study:
    """Create a study or load the existing one; SettingError if the storage cannot be opened."""
    pruners: dict[str, optuna.pruners.BasePruner] = {
        "median": optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
        "hyperband": optuna.pruners.HyperbandPruner(),
        "none": optuna.pruners.NopPruner(),
    }
    engine: dict[str, Any] = {}
    if storage.startswith("sqlite:"):
        # Writers wait for each other, by default for 5 s. A pool would keep connections open.
        engine = {"connect_args": {"timeout": 60}, "poolclass": NullPool}
    try:
        return optuna.create_study(
            storage=optuna.storages.RDBStorage(storage, engine_kwargs=engine),
            study_name="cifar10",
            load_if_exists=True,
            direction="minimize" if metric == "val/loss" else "maximize",
            pruner=pruners[pruner],
        )
    # A missing driver is an ImportError, the tables of another Optuna a RuntimeError, braces are a
    # KeyError or ValueError: Optuna formats the address.
    except (*STORAGE_ERRORS, ImportError, RuntimeError, KeyError, ValueError) as error:
        # `orig` is the database driver's own error, without SQLAlchemy's links.
        why = one_line(getattr(error, "orig", None) or error).replace(storage, "it")
        raise SettingError(
            f"sweep.storage={hide(storage)}: {why}; if this file is corrupted "
            f"or not an Optuna database, move it away"
        ) from error


class Search:
    """Asks an Optuna study for trials and reports their outcome.

    The study holds exactly `sweep.trials` trials, however many processes work on it and however
    often they are killed. Each process locks a file of its own. When it dies, another process
    resumes its trials: same number, same folder, last checkpoint.

    Raises:
        SettingError: no override has several values, or the storage belongs to another search.
    """

    def __init__(self, settings: SweepSettings, overrides: Sequence[Override], folder: Path):
        self.settings, self.folder, self.trials = settings, folder, settings.trials or 0
        self.fixed = [str(o.input_line) for o in overrides if not o.is_sweep_override()]
        searched = filter(Override.is_sweep_override, overrides)
        self.space = {override.get_key_element(): distribution(override) for override in searched}
        if not self.space:
            raise SettingError("sweep.trials: nothing to search; give a setting several values")
        workers = folder / ".workers"
        workers.mkdir(parents=True, exist_ok=True)
        self.storage = settings.storage or f"sqlite:///{(folder / 'study.db').absolute()}"
        with FileLock(folder / STUDY_LOCK):  # otherwise two processes create the same tables
            self.study = open_study(self.storage, settings.metric, settings.pruner)
            self.claim_study()
        self.worker = uuid.uuid4().hex
        self.lock = FileLock(workers / self.worker)
        self.lock.acquire()

    def claim_study(self) -> None:
        """Record this search in a new study; raise if the study belongs to another search."""
        space = {
            key: distributions.distribution_to_json(values) for key, values in self.space.items()
        }
        search = json.dumps([self.settings.metric, sorted(self.fixed), space], sort_keys=True)
        if not self.study.user_attrs and not self.study.trials:
            self.study.set_user_attr("search", search)
        elif self.study.user_attrs.get("search") != search:
            raise SettingError(
                f"{hide(self.storage)} holds a search with other settings or values; "
                f"choose another sweep.dir or sweep.storage"
            )

    def ask(self, count: int) -> list[Trial]:
        """Take up to `count` trials, those of dead processes first; none when all are done."""
        taken: list[Trial] = []
        with FileLock(self.folder / STUDY_LOCK):  # one process at a time counts, asks and signs
            for frozen in self.study.get_trials(deepcopy=False):
                if len(taken) < count and self.is_abandoned(frozen):
                    taken.append(Trial(self.study, frozen._trial_id))
            while len(taken) < count and len(self.study.get_trials(deepcopy=False)) < self.trials:
                trial = self.study.ask()
                if trial.number >= self.trials:  # another machine asked at that moment
                    self.study.tell(trial, state=TrialState.FAIL)
                    break
                taken.append(trial)
            for trial in taken:
                trial.set_user_attr(WORKER, self.worker)
        for trial in taken:  # has its values already if it was taken over
            # Processes that sampled with one seed would all suggest the same values. With
            # `constant_liar` unfinished trials count as poor, so nobody repeats their values.
            seed = self.settings.seed + trial.number
            self.study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
            for key, values in self.space.items():
                trial._suggest(key, values)
        return taken

    def is_abandoned(self, trial: FrozenTrial) -> bool:
        """Whether an unfinished trial has neither a living process nor a running job."""
        if trial.state != TrialState.RUNNING or WORKER not in trial.user_attrs:
            return trial.state == TrialState.RUNNING  # its process died before it signed
        lock = self.folder / ".workers" / trial.user_attrs[WORKER]
        runs = self.folder.glob(f"{trial.number:03}_*/{LOCK}")
        # A lock that is not here belongs to a process that does not share this folder.
        return lock.exists() and is_free(lock) and all(map(is_free, runs))

    def job(self, trial: Trial) -> list[str]:
        """The overrides of a trial's run, among them those that connect it with the study."""
        values = {key: trial.params[key] for key in self.space}
        # Four digits keep the names of folders readable.
        typed = (f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in values.items())
        link = {"trial": trial.number, "storage": self.storage}
        link |= {"metric": self.settings.metric, "pruner": self.settings.pruner}
        linked = (f"sweep.{key}={quote_override(value)}" for key, value in link.items())
        return [*self.fixed, *typed, *linked]

    def tell(self, trial: Trial, result: Mapping[str, Any]) -> None:
        """Report the outcome of a trial's run; an interrupted trial stays RUNNING, to resume it."""
        metric, status = self.settings.metric, result["status"]
        value = result.get("val", {}).get(metric.removeprefix("val/"))
        if status == "ok" and value is not None:
            self.study.tell(trial, value)
        elif status not in ("running", "interrupted"):
            state = TrialState.PRUNED if status == "pruned" else TrialState.FAIL
            self.study.tell(trial, state=state)
        if status == "ok" and value is None:
            raise SettingError(
                f"sweep.metric={metric}: the run has no validation; set data.val_size above 0"
            )


def distribution(override: Override) -> distributions.BaseDistribution:
    """The Optuna distribution of a Hydra sweep; SettingError if it is empty or invalid."""
    sweep: Any = override.value()
    options: dict[str, Any]
    try:
        if override.is_interval_sweep():
            values, options = [sweep.start, sweep.end], {"log": "log" in sweep.tags}
        elif override.is_range_sweep():
            values, options = sorted(sweep.range()), {"step": abs(sweep.step)}
        else:
            return distributions.CategoricalDistribution(list(override.sweep_string_iterator()))
        integers = all(type(value) is int for value in values)
        numeric = distributions.IntDistribution if integers else distributions.FloatDistribution
        return numeric(values[0], values[-1], **options)
    except (ValueError, IndexError) as error:
        raise SettingError(f"{override.input_line}: {one_line(error)}") from error


class TrialReporter(L.Callback):
    """Reports the validation metric of each epoch to a trial; raises Pruned for a poor trial."""

    def __init__(self, sweep: Mapping[str, Any]):
        self.metric = sweep["metric"]
        study = open_study(sweep["storage"], self.metric, sweep["pruner"])
        trial = study.get_trials(deepcopy=False)[sweep["trial"]]
        self.trial, self.reported = Trial(study, trial._trial_id), set(trial.intermediate_values)

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
