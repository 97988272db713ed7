"""A Bayesian search that any number of processes can work on, stop and go on with."""

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, MinLen
from filelock import FileLock
from hydra.core.override_parser.types import Override

from cifar10.core.errors import SettingError, one_line
from cifar10.core.instantiate import call_checked
from cifar10.core.settings import quote_override
from cifar10.runs.run_dir import LOCK, is_free
from cifar10.sweeps.space import distribution, optuna_module, text

if TYPE_CHECKING:
    import optuna

STUDY = "cifar10"
TRIAL = "CIFAR10_TRIAL"  # environment variable that tells a run of its trial
WORKER = "worker"  # attribute of a trial: the process that works on it


def checked(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The group `sweep`, if it is what configs/sweep/default.yaml says.

    Raises:
        SettingError: a setting is unknown, of the wrong type or out of range.
    """

    def sweep(
        dir: Annotated[str, MinLen(1)],
        fail_fast: bool,
        params: dict[str, Any],
        trials: Annotated[int, Ge(1)] | None,
        metric: Literal["val/loss", "val/top1", "val/top3", "val/top5"],
        pruner: Literal["median", "hyperband", "none"],
        storage: str | None,
        at_once: Annotated[int, Ge(1)],
        seed: Annotated[int, Ge(0)],
    ) -> dict[str, Any]:
        return locals()

    return call_checked(sweep, settings, "sweep.")


def direction(metric: str) -> str:
    return "minimize" if metric == "val/loss" else "maximize"


def open_study(storage: str, seed: int, settings: Mapping[str, Any]) -> "optuna.Study":
    """Make a study, or go on with the one there is.

    Raises:
        SettingError: the storage cannot be opened, or is no storage of Optuna's.
    """
    optuna = optuna_module()
    pruner = {
        "median": optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
        "hyperband": optuna.pruners.HyperbandPruner(),
        "none": optuna.pruners.NopPruner(),
    }[settings["pruner"]]
    try:
        patient = {}
        if storage.startswith("sqlite:"):  # whose writers wait for each other, 5 s by default
            patient = {"connect_args": {"timeout": 60}}
        return optuna.create_study(
            storage=optuna.storages.RDBStorage(storage, engine_kwargs=patient),
            study_name=STUDY,
            load_if_exists=True,
            direction=direction(settings["metric"]),
            # Trials that others are working on count as poor, so that nobody tries their points.
            sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True),
            pruner=pruner,
        )
    except Exception as error:  # whatever a database's own driver raises
        why = one_line(error).partition("(Background on")[0]
        raise SettingError(
            f"sweep.storage={without_password(storage)}: {why.replace(storage, 'it')}; a file that "
            f"is damaged or not Optuna's must be moved away"
        ) from error


def without_password(storage: str) -> str:
    return re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", storage)


class Search:
    """Asks an Optuna study for trials and tells it how their jobs ended.

    The study counts: however many processes work on it, and however often they are killed, it ends
    with `sweep.trials` trials. Each process holds the lock of a file of its own; the trials of one
    that has died are run again, under their own number and in their own folder, where they go on
    from their last checkpoint.

    Args:
        settings: the group `sweep`.
        overrides: of the jobs, those with several values among them.
        folder: of the sweep.

    Raises:
        SettingError: a setting does not fit, there is nothing to search, or the storage is of
            another search.
    """

    def __init__(self, settings: Mapping[str, Any], overrides: Sequence[Override], folder: Path):
        self.settings, self.folder = settings, folder
        self.fixed = [o.input_line for o in overrides if not o.is_sweep_override()]
        self.space = {
            o.get_key_element(): distribution(o) for o in overrides if o.is_sweep_override()
        }
        if not self.space:
            raise SettingError("sweep.trials: no setting has several values, so nothing is sought")
        folder.mkdir(parents=True, exist_ok=True)
        self.storage = settings["storage"] or f"sqlite:///{(folder / 'study.db').absolute()}"
        with FileLock(folder / ".study.lock"):  # or two would make the same tables
            self.study = open_study(self.storage, settings["seed"], settings)
            self.claim_study()
        workers = folder / ".workers"
        workers.mkdir(exist_ok=True)
        self.worker = uuid.uuid4().hex
        self.lock = FileLock(workers / self.worker)
        self.lock.acquire()

    def claim_study(self) -> None:
        """See that the study is of this search; a new one becomes it."""
        from optuna.distributions import distribution_to_json

        space = {key: distribution_to_json(values) for key, values in self.space.items()}
        own = json.dumps([self.settings["metric"], sorted(self.fixed), space], sort_keys=True)
        there = self.study.user_attrs.get("search")
        if there is None and not self.study.trials:
            self.study.set_user_attr("search", own)
        elif there != own:
            raise SettingError(
                f"{self.storage} holds another search, of other settings or values: give this one "
                f"another sweep.dir or sweep.storage"
            )

    def ask(self, count: int) -> list["optuna.Trial"]:
        """Take up to `count` trials: those of dead processes first; none when all are done."""
        optuna = optuna_module()
        taken: list[optuna.Trial] = []
        with FileLock(self.folder / ".study.lock"):  # counting, asking and signing go together
            for frozen in self.study.get_trials(deepcopy=False):
                if len(taken) < count and frozen.state.name == "RUNNING" and self.is_left(frozen):
                    taken.append(optuna.trial.Trial(self.study, frozen._trial_id))
            while len(taken) < count:
                if len(self.study.get_trials(deepcopy=False)) >= self.settings["trials"]:
                    break
                trial = self.study.ask()
                if trial.number >= self.settings["trials"]:  # on another machine, at that moment
                    self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
                    break
                taken.append(trial)
            for trial in taken:
                trial.set_user_attr(WORKER, self.worker)
        for trial in taken:
            self.draw(trial)
        return taken

    def is_left(self, trial: "optuna.trial.FrozenTrial") -> bool:
        """Whether nobody works on a trial: its process has ended, and no job of it goes on.

        Of one that works elsewhere nothing is known.
        """
        worker = trial.user_attrs.get(WORKER)
        if worker is None:  # its process ended between asking and signing
            return True
        signed = self.folder / ".workers" / worker
        jobs = self.folder.glob(f"{number(trial)}*/{LOCK}")
        return signed.exists() and is_free(signed) and all(map(is_free, jobs))

    def draw(self, trial: "optuna.Trial") -> None:
        """Choose a trial's settings, where they are not chosen yet.

        A seed for each trial: processes with one seed for all would draw the same points.
        """
        optuna = optuna_module()
        seed = self.settings["seed"] + trial.number
        self.study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        kinds = optuna.distributions
        for key, values in self.space.items():
            if isinstance(values, kinds.CategoricalDistribution):
                trial.suggest_categorical(key, values.choices)
            elif isinstance(values, kinds.IntDistribution):
                trial.suggest_int(key, values.low, values.high, step=values.step, log=values.log)
            else:
                trial.suggest_float(key, values.low, values.high, step=values.step, log=values.log)

    def words(self, trial: "optuna.Trial") -> list[str]:
        """What was drawn for a trial, as overrides."""
        return [f"{key}={text(trial.params[key])}" for key in self.space]

    def job(self, trial: "optuna.Trial") -> list[str]:
        """A trial's overrides, and how its run finds the trial."""
        own = {key: self.settings[key] for key in ("metric", "pruner", "seed")}
        own |= {"storage": self.storage, "trial": trial.number}
        return [
            *self.fixed,
            *self.words(trial),
            f"hydra.job.env_set.{TRIAL}={quote_override(json.dumps(own, ensure_ascii=False))}",
        ]

    def tell(self, trial: "optuna.Trial", result: Mapping[str, Any]) -> None:
        """Tell the study how a trial's run ended.

        One that was broken off is not told of: it stays the trial of this process, and once that
        has ended the next one goes on with it.
        """
        states = optuna_module().trial.TrialState
        value = result.get("val", {}).get(self.settings["metric"].removeprefix("val/"))
        if result["status"] == "ok" and value is not None:
            self.study.tell(trial, value)
        elif result["status"] == "pruned":
            self.study.tell(trial, state=states.PRUNED)
        elif result["status"] not in ("running", "interrupted"):
            self.study.tell(trial, state=states.FAIL)
        if result["status"] == "ok" and value is None:
            raise SettingError(
                f"sweep.metric={self.settings['metric']}: a run gave no such figure, for which "
                f"data.val_size must be above 0"
            )


def number(trial: "optuna.trial.BaseTrial") -> str:
    """What the folder of a trial's run begins with."""
    return f"{trial.number:03}_"
