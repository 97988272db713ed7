"""From the command line to a finished run: check, train, report, exit code.

torch and Lightning take seconds to import, so they are imported only once a run starts.
"""

import gc
import logging
import math
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, ClassVar, TextIO

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from cifar10.core.errors import SettingError, exit_with, one_line
from cifar10.core.hydra_errors import report_errors, to_user_error
from cifar10.core.settings import quote_override, to_plain
from cifar10.runs.signals import Interrupted, preemption_signals, requeue, signals

if TYPE_CHECKING:
    from cifar10.runs.components import Components
    from cifar10.sweeps.pruning import TrialReporter

log = logging.getLogger(__name__)

STARTED = time.perf_counter()


class StdoutHandler(logging.StreamHandler):
    """Logs to whatever sys.stdout is at the moment: a progress bar replaces it while it lives."""

    @property
    def stream(self) -> TextIO:
        return sys.stdout

    @stream.setter
    def stream(self, _: TextIO) -> None: ...


@dataclass
class Prepared:
    """A run whose settings are checked and whose objects are built.

    Attributes:
        earlier: the result.json of the run that it resumes; None for a new run.
        finished: that run has nothing left to train.
    """

    settings: dict[str, Any]
    earlier: dict[str, Any] | None
    finished: bool
    components: "Components"


def resolve_settings(
    cfg: DictConfig, folder: Path, overrides: list[str]
) -> tuple[dict[str, Any], dict[str, Any] | None, bool]:
    """A run's settings; if it resumes another one, that one's result and whether it is finished.

    Raises:
        UserError: there is no run to resume, or it was started with other settings.
    """
    from cifar10.runs.result import RESULT_FILE, is_finished, read_result, recorded_settings
    from cifar10.runs.resume import merge

    settings, exists = to_plain(cfg), os.path.lexists(folder / RESULT_FILE)
    if cfg.resume is None or (cfg.resume == "auto" and not exists):
        return settings, None, False
    if not exists:
        raise SettingError(f"resume={cfg.resume}: no {RESULT_FILE} there, so no run to resume")
    earlier = read_result(folder / RESULT_FILE)
    recorded = recorded_settings(earlier, folder)
    settings = merge(recorded, settings, overrides, earlier["overrides"])
    return settings, earlier, is_finished(earlier, recorded, settings)


def prepare(
    cfg: DictConfig, folder: Path, overrides: list[str], callbacks: Sequence["TrialReporter"] = ()
) -> Prepared:
    """Check a run's settings and build its objects."""
    from cifar10.runs.components import build_components

    settings, earlier, finished = resolve_settings(cfg, folder, overrides)
    return Prepared(settings, earlier, finished, build_components(settings, folder, callbacks))


class StartHook(Callback):
    """Prepares a run before Hydra creates its folder; configs/train.yaml names it."""

    prepared: ClassVar[Prepared | None] = None  # for `launch`, which follows in this process

    def on_run_start(self, config: DictConfig, **_: object) -> None:
        if launched_rank() in (None, 0) and "LOCAL_RANK" not in os.environ:
            print("loading …", flush=True)
        try:
            folder = choose_run_dir(config)
            overrides = list(config.hydra.overrides.task)
            StartHook.prepared = prepared = prepare(config, folder, overrides)
            claim_or_join(config, folder, new=prepared.earlier is None)
        except Exception as error:  # Hydra would only print a warning
            if (known := to_user_error(error, sys.argv[1:])) is None:
                raise
            exit_with(known)

    def on_multirun_start(self, config: DictConfig, **_: object) -> None:
        print("loading …", flush=True)


def choose_run_dir(config: DictConfig) -> Path:
    """The run's folder; that of the run to resume if there is one.

    Raises:
        SettingError: the folder must be named, or is no run.
    """
    if config.resume == "latest":
        from cifar10.runs.run_dir import latest_run

        config.resume = str(latest_run())
    if config.resume not in (None, "auto"):
        config.hydra.run.dir = str(config.resume)
    elif config.resume and not is_overridden(config, "hydra.run.dir="):
        raise SettingError("resume=auto: also needs hydra.run.dir=FOLDER, the same each time")
    if not config.hydra.run.dir:
        raise SettingError("hydra.run.dir='': must name a folder")
    several = launched_rank() is not None
    if several and config.resume is None and not is_overridden(config, "hydra.run.dir="):
        raise SettingError("hydra.run.dir: required here, or each process would use its own folder")
    return Path(config.hydra.run.dir)


def claim_or_join(config: DictConfig, folder: Path, new: bool) -> None:
    """Create a new run's folder, or leave that to the first of several processes.

    Raises:
        UserError: the folder belongs to another run.
        OSError: it cannot be written to.
    """
    from cifar10.runs.run_dir import refuse_used_dir

    rank = launched_rank()
    if not new or rank:
        config.hydra.output_subdir = None  # the run already has its .hydra/
    if not rank and "LOCAL_RANK" not in os.environ:
        if new:
            refuse_used_dir(folder)
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()  # fails where nothing can be written


def is_overridden(config: DictConfig, prefix: str) -> bool:
    """Whether the command line sets one of Hydra's own settings."""
    return any(word.lstrip("+").startswith(prefix) for word in config.hydra.overrides.hydra)


def launched_rank() -> int | None:
    """The rank of one of several processes that torchrun or SLURM started; otherwise None."""
    for count, rank in (("WORLD_SIZE", "RANK"), ("SLURM_NTASKS", "SLURM_PROCID")):
        if int(os.environ.get(count, "1")) > 1 and rank in os.environ:
            return int(os.environ[rank])
    return None


def launch(cfg: DictConfig) -> float:
    """Train one run, or one job of a multirun.

    Returns:
        The validation loss; never the test loss, which a sweep would otherwise optimise.
    """
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    if hydra_config.mode == RunMode.MULTIRUN:
        return launch_job(cfg, folder, list(hydra_config.overrides.task))
    try:
        prepared, StartHook.prepared = StartHook.prepared, None
        prepared = prepared or prepare(cfg, folder, list(hydra_config.overrides.task))
        if prepared.finished:
            log.info("%s: already finished; raise trainer.max_epochs to continue", folder)
            return val_loss(prepared.earlier or {})
        result, page = train_and_report(prepared, folder, hydra_config.overrides.task, STARTED)
    except Interrupted as stop:
        command = ["python", "train.py", f"resume={quote_override(folder)}"]
        end_interrupted(stop, shlex.join(command))
        raise
    except Exception as error:
        if (known := to_user_error(error, sys.argv[1:])) is None:
            raise
        exit_with(known)
    from cifar10.runs.console import summary
    from cifar10.runs.run import is_first_process

    if is_first_process():
        print(f"\n{summary(result, folder, page)}", flush=True)
    return val_loss(result)


def launch_job(cfg: DictConfig, folder: Path, overrides: list[str]) -> float:
    """Train one job of a multirun; a finished one is skipped, an interrupted one resumes."""
    from cifar10.sweeps import progress

    started = time.perf_counter()
    gc.collect()  # cycles of the run before hold hundreds of megabytes
    cfg.resume = "auto"
    overrides = [word for word in overrides if not word.startswith("sweep.")]
    print(progress.begin_line(cfg.sweep, folder.parent), flush=True)
    try:
        settings, earlier, finished = resolve_settings(cfg, folder, overrides)
        if settings["trainer"].get("devices") != 1:
            # Lightning starts its other processes with the same command line: the whole sweep.
            raise SettingError(
                "trainer.devices: must be 1 in a multirun; run trainings on several devices one "
                "after another, with a loop in the shell"
            )
        if finished:
            print(f"{progress.name_run(cfg.sweep)}: already finished, skipped", flush=True)
            return val_loss(earlier or {})
        prepared = prepare(cfg, folder, overrides, trial_callbacks(cfg.sweep))
        result, _ = train_and_report(prepared, folder, overrides, started)
    except Exception as error:
        print(f"{progress.name_run(cfg.sweep)}: failed: {one_line(error)}", flush=True)
        log.info("failed", exc_info=True)  # the traceback goes to train.log only
        raise error.with_traceback(None) from None  # frames would keep the run's data alive
    print(progress.end_line(cfg.sweep, result), flush=True)
    return val_loss(result)


def trial_callbacks(sweep: DictConfig) -> list["TrialReporter"]:
    """The callback that reports to a search, if the run is a trial of one."""
    if sweep.trial is None:
        return []
    from cifar10.sweeps.pruning import TrialReporter

    return [TrialReporter(sweep.storage, sweep.trial, metric=sweep.metric, pruner=sweep.pruner)]


def train_and_report(
    prepared: Prepared, folder: Path, overrides: list[str], started: float
) -> tuple[dict[str, Any], Path | None]:
    """Run; then draw the report. Returns the result and the report's page, if any."""
    from cifar10.reports.run_report import write_report
    from cifar10.runs.result import repeat_command
    from cifar10.runs.run import run

    parts = prepared.components
    result = run(prepared.settings, folder, overrides, started, prepared.earlier, parts)
    if result["status"] != "ok" or not prepared.settings["report"]:
        return result, None
    if not parts.trainer.is_global_zero:
        return result, None
    log.info("drawing the report …")
    page = write_report(
        folder,
        result,
        repeat_command(result, str(folder)),
        parts.classifier,
        parts.data,
        parts.test_logits.batches,
        parts.trainer.loggers,
        parts.trainer.global_step,
    )
    return result, page


def val_loss(result: dict[str, Any]) -> float:
    loss = result.get("val", {}).get("loss")
    return math.nan if loss is None else loss


def end_interrupted(stop: Interrupted, command: str) -> None:
    """Print how to resume, requeue a SLURM job; end the other ranks quietly."""
    from cifar10.runs.run import is_first_process

    if is_first_process():
        print(f"{stop}; resume with: {command}", file=sys.stderr)
        if stop.number in preemption_signals():
            requeue()
    elif stop.all_ranks:  # another exit code makes Lightning kill the first rank at its work
        raise SystemExit(0) from None


def report_thread_error(thread: threading.ExceptHookArgs) -> None:
    """Print a thread's traceback, unless the main thread reports the same error.

    TensorBoard's writer is a thread; a full disk is raised again when it gets its next point.
    """
    if not isinstance(thread.exc_value, OSError):
        threading.__excepthook__(thread)


def command_line(main: Callable[[], Any]) -> None:
    """Run Hydra's main function: `--help`, signals, errors in one line, exit codes."""
    words = sys.argv[1:]
    for name in ("matplotlib", "httpx"):  # they log font caches and every request
        logging.getLogger(name).setLevel(logging.WARNING)
    threading.excepthook = report_thread_error
    signals.listen()
    try:
        with report_errors(words):
            if {"--help", "-h"} & set(words):
                from cifar10.core.help import help_text

                print(help_text(words))
            else:
                main()
    except Interrupted as stop:
        sys.exit(stop.exit_code)
