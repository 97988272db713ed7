"""From the command line to a finished run: check, train, report, exit code.

torch and Lightning, which take seconds to import, are imported only once a run starts.
"""

import gc
import logging.config
import math
import os
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from cifar10.core.errors import SettingError, one_line
from cifar10.core.hydra_errors import refuse_options, report_errors
from cifar10.core.hydra_guard import guard_hydra
from cifar10.core.ranks import launched_rank, require_ranks
from cifar10.core.secrets import print_safe
from cifar10.core.settings import (
    adapt_words,
    as_words,
    program,
    quote_override,
    referred,
    to_plain,
)
from cifar10.core.streams import guard_output
from cifar10.runs.signals import Interrupted, preemption_signals, requeue, signals

if TYPE_CHECKING:
    from cifar10.runs.components import Components

log = logging.getLogger(__name__)

STARTED = time.perf_counter()


@dataclass
class Prepared:
    """A run whose settings are checked and whose objects are built."""

    settings: dict[str, Any]
    earlier: dict[str, Any] | None  # the result.json of the run that it resumes
    finished: bool  # that run has nothing left to train
    components: "Components"


def prepare(cfg: DictConfig, folder: Path, overrides: list[str]) -> Prepared:
    """Check a run's settings and build its objects."""
    from cifar10.runs.checkpoint import refuse_existing
    from cifar10.runs.components import build_components
    from cifar10.runs.resume import resolve_settings
    from cifar10.runs.run_dir import has_checkpoint

    callbacks = []
    if None not in (cfg.sweep.get("trial"), cfg.sweep.get("storage")):  # set by the sweeper
        from cifar10.sweeps.search import TrialReporter

        callbacks = [TrialReporter(cfg.sweep)]
    settings, earlier, finished = resolve_settings(to_plain(cfg), cfg.resume, folder, overrides)
    is_start = earlier is None or not has_checkpoint(folder)
    typed = [*(earlier or {}).get("overrides", ()), *overrides]
    trial = cfg.sweep.get("label") or ""  # set by the sweeper
    components = build_components(settings, folder, callbacks, is_start, typed, trial)
    if earlier is None:
        refuse_existing(components.trainer)
    return Prepared(settings, earlier, finished, components)


class StartHook(Callback):
    """Prepares a run before Hydra creates its folder; configs/train.yaml names it."""

    prepared: ClassVar[Prepared | None] = None  # for `launch`, which follows in this process

    def on_multirun_start(self, config: DictConfig, **_: object) -> None:
        print("loading …", flush=True)

    def on_run_start(self, config: DictConfig, **_: object) -> None:
        if "LOCAL_RANK" not in os.environ:
            print("loading …", flush=True)
        with report_errors(signals.raise_again):  # Hydra would only print a warning
            from cifar10.runs import run_dir

            try_logging(config)
            words = [word.lstrip("+") for word in as_words(config.hydra.overrides.hydra)]
            is_named = any(word.startswith("hydra.run.dir=") for word in words)
            folder = run_dir.choose_run_dir(config.resume, config.hydra.run.dir, is_named)
            config.hydra.run.dir = str(folder)
            config.hydra.runtime.output_dir = str(folder.absolute())
            with referred(config):
                StartHook.prepared = prepare(config, folder, as_words(config.hydra.overrides.task))
            if launched_rank() or StartHook.prepared.earlier:
                config.hydra.output_subdir = None  # the run already has its .hydra/
            elif "LOCAL_RANK" not in os.environ:  # the first of several processes
                run_dir.create_run_dir(folder)


def try_logging(config: DictConfig) -> None:
    """Set logging up as Hydra will once there is a folder; its errors are reported by then."""
    logs: Any = OmegaConf.to_container(config.hydra.get("job_logging") or OmegaConf.create())
    for handler in (logs or {}).get("handlers", {}).values():
        if "filename" in handler:
            handler |= {"filename": os.devnull, "delay": True}
    if logs:
        logging.config.dictConfig(logs)


def launch(cfg: DictConfig) -> float:
    """Train one run, or one job of a multirun; returns the validation loss, for a search."""
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    # The sweeper's own overrides are no settings of the run.
    words = as_words(hydra_config.overrides.task)
    overrides = [word for word in words if not word.startswith("sweep.")]
    is_job = hydra_config.mode == RunMode.MULTIRUN
    try:
        if is_job:
            result = run_job(cfg, folder, overrides)
        else:
            with report_errors(signals.raise_again):  # Hydra would print the overrides as well
                result = run_single(cfg, folder, overrides)
    except Interrupted as stop:
        if not is_job:  # otherwise the sweeper says how to continue
            end_interrupted(stop, folder)
        raise
    loss = result.get("val", {}).get("loss")
    return math.nan if loss is None else loss


def run_single(cfg: DictConfig, folder: Path, overrides: list[str]) -> dict[str, Any]:
    from cifar10.inference.report import finish_report
    from cifar10.reports.loggers import where_to_look
    from cifar10.runs.console import already_finished, summary
    from cifar10.runs.run_dir import is_first_process
    from cifar10.runs.trainer_settings import profile_files

    prepared = StartHook.prepared or prepare(cfg, folder, overrides)
    StartHook.prepared = None
    if prepared.finished and prepared.earlier:
        print_safe(f"{folder}: {already_finished(prepared.earlier)}")
        if is_first_process():
            finish_report(prepared.settings, prepared.earlier, folder)
        return prepared.earlier
    trainer: Any = prepared.components.trainer
    result, page = train_and_report(prepared, folder, overrides, STARTED)
    if is_first_process():
        curves = where_to_look(trainer.loggers, folder)
        print_safe(f"\n{summary(result, folder, page, curves, profile_files(trainer.profiler))}")
    return result


def run_job(cfg: DictConfig, folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Run a job of a multirun; a finished one is skipped, an interrupted one resumes."""
    from cifar10.core.own_code import details_of
    from cifar10.runs.result import record_failure
    from cifar10.sweeps.progress import begin_line, end_line, name_run

    started = time.perf_counter()
    gc.collect()  # cycles of the run before hold hundreds of megabytes
    name = name_run(cfg.sweep)
    print(begin_line(cfg.sweep, folder.parent), flush=True)
    cfg.resume = "auto"
    try:
        if (devices := cfg.trainer.get("devices")) != 1:
            # Lightning starts its other processes with the same command line: the whole sweep.
            reason = "must be 1 in a multirun; use a loop in the shell to train on several devices"
            raise SettingError(f"trainer.devices={devices}: {reason}")
        prepared = prepare(cfg, folder, overrides)
        if prepared.finished and prepared.earlier:
            print_safe(f"{name}: already finished, skipped")
            return prepared.earlier
        result, _ = train_and_report(prepared, folder, overrides, started)
    except Exception as error:
        signals.raise_again()
        print_safe(f"{details_of(error)}{name}: failed: {one_line(error)}")
        log.debug("failed", exc_info=True)  # the traceback goes to train.log only
        record_failure(folder, overrides, error)  # for the sweep's summary
        raise error.with_traceback(None) from None  # frames would keep the run's data alive
    print(end_line(cfg.sweep, result), flush=True)
    return result


def train_and_report(
    prepared: Prepared, folder: Path, overrides: list[str], started: float
) -> tuple[dict[str, Any], Path | None]:
    """Run; then draw the report. Returns the result and the report's page, if any."""
    from cifar10.reports.loggers import end_loggers
    from cifar10.reports.run_report import write_report
    from cifar10.runs.result import repeat_command
    from cifar10.runs.run import run

    parts, trainer = prepared.components, prepared.components.trainer
    result: dict[str, Any] = {"status": "failed"}
    try:
        result = run(prepared.settings, folder, overrides, started, prepared.earlier, parts)
        wanted = prepared.settings["report"] and result["status"] == "ok"
        if not (wanted and trainer.is_global_zero):
            return result, None
        log.info("drawing the report …")
        command = repeat_command(result, str(folder), with_seed=True)
        classifier, data, logits = parts.classifier, parts.data, parts.test_logits.batches
        written = (folder, result, command, classifier, data, logits)
        return result, write_report(*written, trainer.loggers, trainer.global_step)
    finally:
        end_loggers(trainer.loggers, failed=result["status"] == "failed")


def end_interrupted(stop: Interrupted, folder: Path) -> None:
    """Print how to resume, requeue a SLURM job, end the other ranks quietly."""
    from cifar10.runs.run_dir import is_first_process

    if is_first_process():
        command = [*program(), f"resume={quote_override(folder)}"]
        print(f"{stop}; resume with: {shlex.join(command)}", file=sys.stderr)
        if stop.number in preemption_signals():
            requeue()
    elif stop.all_ranks:  # another exit code makes Lightning kill the first rank at its work
        raise SystemExit(0) from None


def command_line(main: Callable[[], Any]) -> None:
    """Run Hydra's main function: `--help`, signals, errors in one line, exit codes."""
    guard_output()
    sys.argv[1:] = adapt_words(sys.argv[1:])
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors and prints nothing
    for name in ("matplotlib", "httpx"):  # they log font caches and every request
        logging.getLogger(name).setLevel(logging.WARNING)
    refuse_options()
    guard_hydra()
    signals.listen()
    try:
        with report_errors(signals.raise_again):
            require_ranks()
            if {"--help", "-h"} & set(sys.argv):
                from cifar10.core.help import help_text

                print(help_text(sys.argv[1:]))
            else:
                main()
    except Interrupted as stop:
        sys.exit(stop.exit_code)
