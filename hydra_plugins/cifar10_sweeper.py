"""Many runs from one command line: every combination of values, or a search among them.

Hydra looks for plugins in the namespace package `hydra_plugins` alone, and imports all of them at
each start: nothing heavy is imported here before a sweep begins.
"""

import itertools
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from cifar10.core.errors import SettingError, UserError, one_line


def raised_by(error, *names):
    return type(error).__module__.split(".")[0] in names


from cifar10.core.settings import quote_override, safe_filename
from cifar10.runs.signals import Interrupted

log = logging.getLogger(__name__)

BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher"


class Sweep(Sweeper):
    """Runs jobs in a folder of the sweep, each in a folder that its own overrides name.

    The same command goes on where it was: a job whose result.json says `ok` is passed over, one
    that was broken off is resumed. See configs/sweep/default.yaml for the settings.
    """

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        from cifar10.sweeps.search import checked

        settings = checked(OmegaConf.to_container(self.config.sweep))
        folder = Path(self.config.hydra.sweep.dir).absolute()
        if folder.exists() and not folder.is_dir():
            raise SettingError(f"sweep.dir={folder}: is a file; name a folder")
        # What is typed comes after what a preset says, and replaces it.
        preset = [f"{key}={value}" for key, value in settings["params"].items()]
        typed = [word for word in arguments if not is_own(word)]
        parser = OverridesParser.create(self.hydra_context.config_loader)
        overrides = list(
            {
                override.get_key_element(): override
                for override in parser.parse_overrides(preset + typed)
            }.values()
        )
        if settings["trials"] is None:
            failed = self.grid(overrides, folder, settings["fail_fast"])
            again = "tries them again and passes over those that are done"
        else:
            failed = self.search(overrides, folder, settings)
            again = "goes on with the others; a search does not try a trial again"
        from cifar10.sweeps import table as sweeps

        print(sweeps.summarise(folder, settings["metric"]))
        if failed:
            place = f"sweep.dir={quote_override(folder)}"
            jobs = "1 job" if failed == 1 else f"{failed} jobs"
            raise UserError(f"{jobs} failed; the same command with {place} {again}")

    def grid(self, overrides: Sequence[Override], folder: Path, fail_fast: bool) -> int:
        """Run every combination; gives the number of failed jobs."""
        jobs = list(combinations(overrides))
        if not jobs:
            raise SettingError("there is no job: a range or a list of values is empty")
        names = [self.name(job, overrides) for job in jobs]
        self.validate_batch_is_legal(jobs)
        at_once = 1 if fail_fast else len(jobs)
        failed = 0
        for start in range(0, len(jobs), at_once):
            part = slice(start, start + at_once)
            ended = self.launch(jobs[part], names[part], folder, start)
            failed += sum(result["status"] != "ok" for result in ended)
            if failed and fail_fast:
                break
        return failed

    def search(self, overrides: Sequence[Override], folder: Path, settings: dict[str, Any]) -> int:
        """Run the trials that a search asks for; gives the number of failed jobs."""
        from cifar10.sweeps.search import Search, number

        # Before the storage knows of it: a word that was mistyped would be a part of the search.
        self.validate_batch_is_legal(list(each_value(overrides)))
        failed = 0
        # Hydra would count the jobs of each launch anew.
        logging.getLogger(BASIC_LAUNCHER).setLevel(logging.WARNING)
        try:
            search = Search(settings, overrides, folder)
            while trials := search.ask(settings["at_once"]):
                jobs = [search.job(trial) for trial in trials]
                for trial in trials:
                    drawn = " ".join(search.words(trial))
                    log.info("trial %d of %d: %s", trial.number + 1, settings["trials"], drawn)
                names = [
                    number(trial) + self.name(job, overrides)
                    for trial, job in zip(trials, jobs, strict=True)
                ]
                ended = self.launch(jobs, names, folder, trials[0].number)
                for trial, result in zip(trials, ended, strict=True):
                    search.tell(trial, result)
                    failed += result["status"] not in ("ok", "pruned")
                if failed and settings["fail_fast"]:
                    break
        except Exception as error:
            if not raised_by(error, "optuna", "sqlalchemy"):
                raise
            raise UserError(
                f"sweep.storage: {one_line(error)}; the same command with "
                f"sweep.dir={quote_override(folder)} goes on"
            ) from error
        return failed

    def name(self, job: Sequence[str], overrides: Sequence[Override]) -> str:
        """A job's folder: what it alone has, so that a repeated sweep finds it."""
        varied = {each.get_key_element() for each in overrides if each.is_sweep_override()}
        own = [word for word in job if word.partition("=")[0] in varied]
        return "_".join(own or ["run"]).replace("=", "-")

    def launch(
        self, jobs: Sequence[Sequence[str]], names: Sequence[str], folder: Path, first: int
    ) -> list[dict[str, Any]]:
        """Run jobs; gives what their result.json says, or that they failed before it was theirs."""
        from cifar10.runs import result as results

        names = [safe_filename(name) for name in names]
        # The sweep's folder is said too: its default holds the time, which a process reads anew.
        place = f"hydra.sweep.dir={quote_override(folder)}"
        batch = [
            [*job, place, f"hydra.sweep.subdir={quote_override(name)}"]
            for job, name in zip(jobs, names, strict=True)
        ]
        refused = set()
        try:
            done = self.launcher.launch(batch, initial_job_idx=first)
            for name, job in zip(names, done, strict=False):
                error = job._return_value
                if isinstance(error, Exception):  # an older result.json may say `ok`
                    refused.add(name)
                    if not isinstance(error, UserError | OSError):
                        log.error("error: %s: %s", type(error).__name__, one_line(error))
        except Interrupted as stop:
            if type(self.launcher).__module__ != BASIC_LAUNCHER:  # whose jobs say so themselves
                again = f"the same command with sweep.dir={quote_override(folder)}"
                print(f"{stop}; go on with {again}", file=sys.stderr)
            raise
        except Exception as error:  # a job that a cluster has ended
            if not raised_by(error, "submitit", "joblib"):
                raise
            log.error("error: %s", one_line(error))
        ended = []
        for name in names:
            try:
                result = results.read_result(folder / name / results.RESULT_FILE)
            except UserError:
                result = {"status": "failed"}
            ok = result["status"] == "ok" and name in refused
            ended.append({"status": "failed"} if ok else result)
        return ended


def is_own(word: str) -> bool:
    """Whether an override is about the sweep, and so about none of its jobs."""
    return word.lstrip("+~").partition("=")[0].partition(".")[0] in ("sweep", "resume")


def combinations(overrides: Sequence[Override]) -> Iterator[list[str]]:
    """Every combination of the values that the overrides have, in the order they were typed."""
    values = []
    for override in overrides:
        if not override.is_sweep_override():
            values.append([override.input_line])
        elif override.is_discrete_sweep():
            key = override.get_key_element()
            values.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            raise SettingError(
                f"{override.input_line}: an interval has no end of values to try all of; "
                f"sweep.trials=N searches it"
            )
    for combination in itertools.product(*values):
        yield list(combination)


def each_value(overrides: Sequence[Override]) -> Iterator[list[str]]:
    """Jobs in which each value of a list comes once, and of a range or an interval its start."""
    values = []
    for override in overrides:
        key, value = override.get_key_element(), override.value()
        if not override.is_sweep_override():
            values.append([override.input_line])
        elif override.is_choice_sweep():
            values.append([f"{key}={each}" for each in override.sweep_string_iterator()])
        else:
            values.append([f"{key}={value.start}"])
    for place in range(max(map(len, values), default=0)):
        yield [each[min(place, len(each) - 1)] for each in values]


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="cifar10",
    node={"_target_": "hydra_plugins.cifar10_sweeper.Sweep"},
    provider="cifar10",
)
