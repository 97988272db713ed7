"""A Bayesian search that any number of processes can work on, interrupt and continue."""

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from hydra.core.override_parser.types import Override
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.exceptions import OptunaError
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from cifar10.core.errors import SettingError, one_line
from cifar10.core.settings import quote_override
from cifar10.runs.run_dir import LOCK, is_free
from cifar10.sweeps.settings import SweepSettings

STUDY = "cifar10"
STUDY_LOCK = ".study.lock"
WORKER = "worker"  # attribute of a trial: the process that works on it
STORAGE_ERRORS = (OptunaError, SQLAlchemyError)

optuna.logging.set_verbosity(optuna.logging.WARNING)


def open_study(storage: str, metric: str, pruner: str) -> optuna.Study:
    """Create a study, or load the one that exists.

    Raises:
        SettingError: the storage cannot be opened, or is not Optuna's.
    """
    pruners: dict[str, optuna.pruners.BasePruner] = {
        "median": optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
        "hyperband": optuna.pruners.HyperbandPruner(),
        "none": optuna.pruners.NopPruner(),
    }
    # SQLite's writers wait for each other, by default for 5 s.
    arguments = {"connect_args": {"timeout": 60}} if storage.startswith("sqlite:") else {}
    try:
        return optuna.create_study(
            storage=optuna.storages.RDBStorage(storage, engine_kwargs=arguments),
            study_name=STUDY,
            load_if_exists=True,
            direction="minimize" if metric == "val/loss" else "maximize",
            pruner=pruners[pruner],
        )
    # Without the database's driver, ImportError; for another Optuna's tables, RuntimeError.
    except (*STORAGE_ERRORS, ImportError, RuntimeError) as error:
        # `orig` is the database driver's own error, without SQLAlchemy's links.
        why = one_line(getattr(error, "orig", None) or error).replace(storage, "it")
        raise SettingError(
            f"sweep.storage={without_password(storage)}: {why}; if it is a file that is damaged "
            f"or not Optuna's, move it away"
        ) from error


def without_password(storage: str) -> str:
    return re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", storage)


class Search:
    """Asks an Optuna study for trials and reports their outcome.

    The study holds exactly `sweep.trials` trials, however many processes work on it and however
    often they are killed. Each process locks a file of its own. When it dies, another process
    resumes its trials: same number, same folder, last checkpoint.

    Args:
        settings: the group `sweep`.
        overrides: of the command line; those with several values are searched.
        folder: of the sweep.

    Raises:
        SettingError: no setting has several values, a range is invalid, or the storage belongs to
            another search.
    """

    def __init__(self, settings: SweepSettings, overrides: Sequence[Override], folder: Path):
        self.settings, self.folder, self.trials = settings, folder, settings.trials or 0
        self.fixed = [str(o.input_line) for o in overrides if not o.is_sweep_override()]
        self.space = {
            o.get_key_element(): distribution(o) for o in overrides if o.is_sweep_override()
        }
        if not self.space:
            raise SettingError("sweep.trials: no setting has several values to search")
        folder.mkdir(parents=True, exist_ok=True)
        self.storage = settings.storage or f"sqlite:///{(folder / 'study.db').absolute()}"
        with FileLock(folder / STUDY_LOCK):  # otherwise two processes create the same tables
            self.study = open_study(self.storage, settings.metric, settings.pruner)
            self.claim_study()
        workers = folder / ".workers"
        workers.mkdir(exist_ok=True)
        self.worker = uuid.uuid4().hex
        self.lock = FileLock(workers / self.worker)
        self.lock.acquire()

    def claim_study(self) -> None:
        """Record this search in a new study; raise if the study belongs to another search."""
        space = {key: distribution_to_json(values) for key, values in self.space.items()}
        search = json.dumps([self.settings.metric, sorted(self.fixed), space], sort_keys=True)
        recorded = self.study.user_attrs.get("search")
        if recorded is None and not self.study.trials:
            self.study.set_user_attr("search", search)
        elif recorded != search:
            raise SettingError(
                f"{without_password(self.storage)} holds a search with other settings or values; "
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
        """Whether an unfinished trial has neither a living process nor a running job.

        Processes that do not share the folder are invisible here, so their trials are left alone.
        """
        if trial.state != TrialState.RUNNING:
            return False
        worker = trial.user_attrs.get(WORKER)
        if worker is None:  # its process died between asking and signing
            return True
        lock = self.folder / ".workers" / worker
        runs = self.folder.glob(f"{trial.number:03}_*/{LOCK}")
        return lock.exists() and is_free(lock) and all(map(is_free, runs))

    def job(self, trial: Trial) -> list[str]:
        """The overrides of a trial's run, among them those that connect it with the study."""
        link = {
            "trial": trial.number,
            "storage": self.storage,
            "metric": self.settings.metric,
            "pruner": self.settings.pruner,
        }
        return [
            *self.fixed,
            *(f"{key}={override_value(trial.params[key])}" for key in self.space),
            *(f"sweep.{key}={quote_override(value)}" for key, value in link.items()),
        ]

    def tell(self, trial: Trial, result: Mapping[str, Any]) -> None:
        """Report the outcome of a trial's run.

        An interrupted run is not reported: its trial stays RUNNING and keeps its worker, and once
        that process has ended another one resumes it.
        """
        metric, status = self.settings.metric, result["status"]
        value = result.get("val", {}).get(metric.removeprefix("val/"))
        if status == "ok" and value is not None:
            self.study.tell(trial, value)
        elif status == "pruned":
            self.study.tell(trial, state=TrialState.PRUNED)
        elif status not in ("running", "interrupted"):
            self.study.tell(trial, state=TrialState.FAIL)
        if status == "ok" and value is None:
            raise SettingError(
                f"sweep.metric={metric}: the run has no validation; set data.val_size above 0"
            )


def distribution(override: Override) -> BaseDistribution:
    """The Optuna distribution of a Hydra sweep.

    `interval(a, b)` gives floats; `int(interval(a, b))` and a range of integers give integers;
    `tag(log, interval(a, b))` is uniform in the logarithm; a list gives its values as typed.

    Raises:
        SettingError: the sweep is empty or its limits are invalid.
    """
    sweep: Any = override.value()
    try:
        if override.is_interval_sweep():
            integers = isinstance(sweep.start, int) and isinstance(sweep.end, int)
            numeric = IntDistribution if integers else FloatDistribution
            return numeric(sweep.start, sweep.end, log="log" in sweep.tags)
        if override.is_range_sweep():
            values = sorted(sweep.range())
            numeric = IntDistribution if all(type(v) is int for v in values) else FloatDistribution
            return numeric(values[0], values[-1], step=abs(sweep.step))
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    except (ValueError, IndexError) as error:
        raise SettingError(f"{override.input_line}: {one_line(error)}") from error


def override_value(value: Any) -> str:
    """A suggested value as typed; floats with four digits, so that folder names stay readable."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
