"""The sweeper behind --multirun: every combination of values, or a search among them.

Hydra imports this file at every start, so heavy imports wait until a sweep begins.
"""

import contextlib
import itertools
import logging
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, MinLen
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from cifar10.core.errors import SettingError, UserError, one_line
from cifar10.core.secrets import hide
from cifar10.core.settings import program, quote_override, reset_sizes, safe_filename
from cifar10.runs.signals import Interrupted, preemption_signals, requeue

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepSettings:
    """The group `sweep`; configs/sweep/default.yaml explains each setting."""

    dir: Annotated[str, MinLen(1)]
    fail_fast: bool
    params: dict[str, Any]
    trials: Annotated[int, Ge(1)] | None
    metric: Literal["val/loss", "val/top1", "val/top3", "val/top5"]
    pruner: Literal["median", "hyperband", "none"]
    storage: str | None
    at_once: Annotated[int, Ge(1)]
    seed: Annotated[int, Ge(0)]
    # The sweeper sets these for its runs, never the user.
    run: None = None
    runs: None = None
    label: None = None
    trial: None = None


class ResumableSweeper(Sweeper):
    """Runs each job in a folder named by its values, so that the same command can continue."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        for package in ("hydra", "hydra_plugins"):  # each launcher announces jobs in its own way
            logging.getLogger(package).setLevel(logging.WARNING)

    def sweep(self, arguments: list[str]) -> None:
        from cifar10.core.instantiate import call_checked
        from cifar10.sweeps import table

        assert self.config and self.hydra_context
        given: Any = OmegaConf.to_container(self.config.sweep)
        self.settings: SweepSettings = call_checked(SweepSettings, given, "sweep.")
        self.folder = Path(self.config.hydra.sweep.dir)
        # The command line replaces overrides of the preset.
        words = [word for word in arguments if not re.match(r"[+~]*(sweep|resume)\b", word)]
        parser = OverridesParser.create(self.hydra_context.config_loader)
        presets = parser.parse_overrides([f"{k}={v}" for k, v in self.settings.params.items()])
        if hydra := [o.input_line for o in presets if o.is_hydra_override()]:
            raise SettingError(f"sweep.params: {hydra[0]}: a setting of Hydra; type it instead")
        parsed = [*presets, *parser.parse_overrides(words)]
        overrides = list({o.get_key_element(): o for o in parsed}.values())
        self.varied = {o.get_key_element() for o in overrides if o.is_sweep_override()}
        self.typed = {word.partition("=")[2] for o in overrides for word in listed_values(o)}
        self.models: dict[str, str] = {}  # the runs that `latest` stands for, once needed, by key
        search = self.settings.trials
        try:
            failed = self.run_search(overrides) if search else self.run_grid(overrides)
        except Interrupted as stop:
            print(f"{stop}; resume with: {self.command()}", file=sys.stderr)
            if stop.number in preemption_signals():
                requeue()
            raise
        print(f"\n{table.summarise([self.folder], self.settings.metric, partial=True)}")
        if failed:
            advice = "a search does not retry them" if search else f"to retry: {self.command()}"
            raise UserError(f"{failed} run{'s' if failed > 1 else ''} failed; {advice}")

    def name_model(self, word: str) -> str:
        """Replace `teacher=latest` by one run, the same for all jobs and when a sweep continues."""
        from cifar10.runs.result import RESULT_FILE, read_result
        from cifar10.runs.run_dir import LATEST, NAME_MODELS, latest_run

        key, _, value = word.partition("=")
        key = key.lstrip("+")
        if key not in NAME_MODELS or value.strip("'\"") != LATEST:
            return word
        if key not in self.models:
            for file in sorted(self.folder.glob(f"*/{RESULT_FILE}")):
                with contextlib.suppress(UserError):
                    model = read_result(file).get("config", {}).get(key)
                    if model and model not in self.typed:
                        self.models.setdefault(key, model)
            self.models.setdefault(key, str(latest_run().absolute()))
        return f"{key}={quote_override(self.models[key])}"

    def run_grid(self, overrides: Sequence[Override]) -> int:
        """Run every combination of values; returns the number of failed runs."""
        if words := [o.input_line for o in overrides if o.is_interval_sweep()]:
            raise SettingError(f"{words[0]}: no list of values; add sweep.trials=N to search it")
        jobs = list(map(list, itertools.product(*map(listed_values, overrides))))
        if not jobs:
            raise SettingError("nothing to run: a range or a list of values is empty")
        self.validate_batch_is_legal([reset_sizes(job) for job in jobs])
        count = 1 if self.settings.fail_fast else len(jobs)
        failed = 0
        for first in range(0, len(jobs), count):
            batch = dict(enumerate(jobs[first : first + count], first))
            failed += sum(result["status"] != "ok" for result in self.launch(batch, len(jobs)))
            if failed and self.settings.fail_fast:
                break
        return failed

    def run_search(self, overrides: Sequence[Override]) -> int:
        """Run the trials of an Optuna search; returns the number of failed runs."""
        if find_spec("optuna") is None:
            raise SettingError('sweep.trials: a search needs Optuna: pip install -e ".[sweep]"')
        from cifar10.sweeps.search import STORAGE_ERRORS, Search

        # Each value once, before there is a study, so that a mistyped one is no part of it.
        columns = [values for override in overrides if (values := listed_values(override))]
        rows = range(max(map(len, columns), default=0))
        self.validate_batch_is_legal([[c[row % len(c)] for c in columns] for row in rows])
        failed = 0
        try:
            search = Search(self.settings, overrides, self.folder)
            while trials := search.ask(self.settings.at_once):
                jobs = {trial.number: search.job(trial) for trial in trials}
                results = self.launch(jobs, search.trials)
                for trial, result in zip(trials, results, strict=True):
                    search.tell(trial, result)
                    failed += result["status"] not in ("ok", "pruned")
                if failed and self.settings.fail_fast:
                    break
        except STORAGE_ERRORS as error:
            raise UserError(
                f"sweep.storage: {one_line(error)}; resume with: {self.command()}"
            ) from error
        return failed

    def launch(self, jobs: Mapping[int, list[str]], total: int) -> list[dict[str, Any]]:
        """Run jobs, by number from 0; returns their results, `failed` where there is none."""
        from cifar10.runs.result import RESULT_FILE, read_result

        folders, batch = [], []
        for number, job in jobs.items():
            varied = [hide(word) for word in job if word.partition("=")[0] in self.varied]
            name = "_".join(varied).replace("=", "-") or "run"
            prefix = f"{number:03}_" if self.settings.trials else ""
            folders.append(safe_filename(prefix + name))
            extra = {
                "sweep.run": number + 1,
                "sweep.runs": total,
                # Text alone: `${…}` would be evaluated.
                "sweep.label": " ".join(map(short_name, varied)).replace("$", ""),
                # The default folder contains the time, which another process would evaluate anew.
                "hydra.sweep.dir": self.folder.absolute(),
                "hydra.sweep.subdir": folders[-1],
                # The terminal shows the sweep's own lines; the log file has all.
                "++hydra.job_logging.handlers.console.level": "WARNING",
            }
            added = [f"{key}={quote_override(value)}" for key, value in extra.items()]
            batch.append([*reset_sizes(map(self.name_model, job)), *added])
        returned: Sequence[JobReturn] = []
        try:
            returned = self.launcher.launch(batch, initial_job_idx=min(jobs))
        except Exception as error:
            if isinstance(self.launcher, BasicLauncher):
                raise
            log.error("error: %s", one_line(error))  # a worker or a cluster job has died
        results = []
        for name, ended in itertools.zip_longest(folders, returned):
            result = {"status": "failed"}
            with contextlib.suppress(UserError):
                result = read_result(self.folder / name / RESULT_FILE)
            if ended and ended.status == JobStatus.FAILED and result["status"] == "ok":
                result = {"status": "failed"}  # another run has finished in this folder
            results.append(result)
        return results

    def command(self) -> str:
        """The command that continues this sweep."""
        words = [word for word in sys.argv[1:] if not re.match(r"(hydra\.)?sweep\.dir=", word)]
        words.append(f"sweep.dir={quote_override(self.folder)}")
        return shlex.join([*program(), *words])


def listed_values(override: Override) -> list[str]:
    """An override once for each of its values; of an interval, with its start."""
    if not override.is_sweep_override():
        return [str(override.input_line)]
    key, sweep = override.get_key_element(), override.value()
    if isinstance(sweep, IntervalSweep):
        return [f"{key}={sweep.start}"]
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def short_name(setting: str) -> str:
    """A setting or override without its group: `lr=0.1` for `optimizer.lr=0.1`."""
    key, equals, value = setting.partition("=")
    return (key.partition(".")[2] or key) + equals + value
