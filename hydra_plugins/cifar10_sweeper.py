"""Many runs from one command line: every combination of values, or a search among them.

Hydra looks for plugins in the namespace package `hydra_plugins` alone, and imports all of them at
each start: nothing heavy is imported here before a sweep begins.
"""

import itertools
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from cifar10.errors import SettingError, UserError, one_line, raised_by
from cifar10.settings import filename, quoted


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
        settings, folder = self.config.sweep, Path(self.config.hydra.sweep.dir)
        # What is typed comes after what a preset says, and replaces it.
        preset = [f"{key}={value}" for key, value in (settings.params or {}).items()]
        typed = [word for word in arguments if not is_own(word)]
        parser = OverridesParser.create(self.hydra_context.config_loader)
        overrides = {
            override.get_key_element(): override
            for override in parser.parse_overrides(preset + typed)
        }
        if settings.trials is None:
            failed = self.grid(list(overrides.values()), folder)
        else:
            from cifar10.search import Search

            try:
                search = Search(OmegaConf.to_container(settings), [*overrides.values()], folder)
                failed = self.search(search, folder)
            except Exception as error:
                if not raised_by(error, "optuna", "sqlalchemy"):
                    raise
                raise UserError(
                    f"sweep.storage: {one_line(error)}; the same command with "
                    f"sweep.dir={quoted(folder)} goes on"
                ) from error
        from cifar10 import sweeps

        print(sweeps.summarise(folder))
        if failed:
            raise UserError(
                f"{failed} jobs failed; the same command with sweep.dir={quoted(folder)} tries "
                f"them again and passes over those that are done"
            )

    def grid(self, overrides: Sequence[Override], folder: Path) -> int:
        """Run every combination; gives the number of failed jobs."""
        jobs = list(combinations(overrides))
        if not jobs:
            raise SettingError("there is no job: a range or a list of values is empty")
        varied = {each.get_key_element() for each in overrides if each.is_sweep_override()}
        placed = [self.placed(job, varied, folder) for job in jobs]
        self.validate_batch_is_legal(placed)
        at_once = 1 if self.config.sweep.fail_fast else len(jobs)
        failed = 0
        for start in range(0, len(jobs), at_once):
            returns = self.launcher.launch(placed[start : start + at_once], initial_job_idx=start)
            failed += sum(job.status is not JobStatus.COMPLETED for job in returns)
            if failed and self.config.sweep.fail_fast:
                break
        return failed

    def search(self, search: Any, folder: Path) -> int:
        """Run the trials that a search asks for; gives the number of failed jobs."""
        failed = 0
        while trials := search.ask(self.config.sweep.at_once):
            batch = [
                self.placed(search.job(trial), search.space, folder, f"{trial.number:03}_")
                for trial in trials
            ]
            self.validate_batch_is_legal(batch)
            jobs = self.launcher.launch(batch, initial_job_idx=trials[0].number)
            folders = [Path(job.hydra_cfg.hydra.runtime.output_dir) for job in jobs]
            bad = sum(not search.tell(*pair) for pair in zip(trials, folders, strict=True))
            failed += bad
            if bad and self.config.sweep.fail_fast:
                break
        return failed

    def placed(
        self, job: Sequence[str], varied: Collection[str], folder: Path, prefix: str = ""
    ) -> list[str]:
        """A job with its folder, which what it alone has names, so that a repeated sweep finds it.

        The sweep's folder is said as well: its default holds the time, which another process would
        read anew.
        """
        own = [word for word in job if word.partition("=")[0] in varied]
        name = filename(prefix + "_".join(own or ["run"]).replace("=", "-"))
        place = f"hydra.sweep.dir={quoted(folder.absolute())}"
        return [*job, place, f"hydra.sweep.subdir={quoted(name)}"]


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


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="cifar10",
    node={"_target_": "hydra_plugins.cifar10_sweeper.Sweep"},
    provider="cifar10",
)
