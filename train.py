"""Train a CIFAR-10 classifier: compose the settings, run, say how it went.

python train.py --help
"""

import gc
import logging
import math
import os
import shlex
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryFile

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from cifar10.core.errors import SettingError, UserError, exit_with, one_line, report_errors
from cifar10.core.settings import CONFIGS, quote_override, to_plain
from cifar10.runs.signals import Interrupted, pre_emption, requeue, signals

STARTED = time.perf_counter()


def settled(cfg: DictConfig, folder: Path, overrides: list[str]) -> tuple[dict, dict | None]:
    """A run's settings, and the result.json of the run that it goes on with, if it does."""
    from cifar10.runs import result as results
    from cifar10.runs import resume

    there = os.path.lexists(folder / results.RESULT_FILE)
    if cfg.resume is None or (cfg.resume == "auto" and not there):
        return to_plain(cfg), None
    if not there:
        raise SettingError(
            f"resume={cfg.resume}: there is no {results.RESULT_FILE}, so no run to resume"
        )
    earlier = results.read_result(folder / results.RESULT_FILE)
    config = results.recorded_settings(earlier, folder)
    return resume.merge(config, to_plain(cfg), overrides, earlier["overrides"]), earlier


def typed(config: DictConfig, start: str) -> bool:
    """Whether the command line sets one of Hydra's own settings."""
    return any(word.lstrip("+").startswith(start) for word in config.hydra.overrides.hydra)


def started_as() -> int | None:
    """The rank of one of several processes that torchrun or SLURM has started; else None."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ:
        return int(os.environ["RANK"])
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ:
        return int(os.environ["SLURM_PROCID"])
    return None


def resume_command(folder: Path) -> str:
    """What to type to go on with a run."""
    return shlex.join(["python", "train.py", f"resume={quote_override(folder)}"])


class Check(Callback):
    """Checks all settings before Hydra makes the run's folder; configs/train.yaml names it."""

    def on_run_start(self, config: DictConfig, **_: object) -> None:
        from cifar10.runs.components import build_components
        from cifar10.runs.run_dir import refuse_used_dir

        try:
            if config.resume not in (None, "auto"):
                config.hydra.run.dir = str(config.resume)
            elif config.resume and not typed(config, "hydra.run.dir="):
                raise SettingError("resume=auto: needs hydra.run.dir=FOLDER, the same each time")
            if not config.hydra.run.dir:
                raise SettingError("hydra.run.dir='': must name a folder")
            rank = started_as()
            if rank is not None and config.resume is None and not typed(config, "hydra.run.dir="):
                raise SettingError(
                    "hydra.run.dir: name it, for each of the processes would take another folder"
                )
            folder = Path(config.hydra.run.dir)
            settings, earlier = settled(config, folder, list(config.hydra.overrides.task))
            build_components(settings, folder)
            if earlier or rank:
                config.hydra.output_subdir = None  # the run has its own
            if not rank and "LOCAL_RANK" not in os.environ:  # else the first of several has it
                if not earlier:
                    refuse_used_dir(folder)
                folder.mkdir(parents=True, exist_ok=True)
                TemporaryFile(dir=folder).close()  # fails where nothing can be written
        except Exception as error:  # Hydra would only warn about it
            exit_with(error, CONFIGS)


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def main(cfg: DictConfig) -> float:
    # torch and Lightning take seconds to import; --help and --cfg do without them.
    started = time.perf_counter()
    from lightning.pytorch.utilities import rank_zero_only

    from cifar10.runs import result as results
    from cifar10.runs.console import closing_table
    from cifar10.runs.run import run
    from cifar10.sweeps import progress

    hydra_config = HydraConfig.get()
    single = hydra_config.mode == RunMode.RUN
    folder = Path(hydra_config.runtime.output_dir)
    # What the sweeper adds for its own use is no setting of the run.
    overrides = [word for word in hydra_config.overrides.task if not word.startswith("sweep.")]
    try:
        if not single:
            gc.collect()  # of the run before; its cycles hold hundreds of megabytes
            cfg.resume = "auto"  # a repeated sweep goes on with its runs
            print(progress.begin_line(cfg.sweep, Path(hydra_config.sweep.dir)), flush=True)
        settings, earlier = settled(cfg, folder, overrides)
        if not single and settings["trainer"].get("devices") != 1:
            # Lightning starts its other processes with the same command line: the whole sweep.
            raise SettingError(
                "trainer.devices: must be 1 in a multirun; a loop in the shell runs several "
                "trainings of many devices each, one after another"
            )
        if earlier and results.is_finished(earlier, settings):
            if single:
                print(f"{folder} is finished; a higher trainer.max_epochs trains on")
            else:
                print(f"{progress.name_run(cfg.sweep)}: already finished, skipped", flush=True)
            return earlier["val"].get("loss", math.nan)
        watchers = []
        if not single and cfg.sweep.trial is not None:
            from cifar10.sweeps.pruning import TrialReporter

            sweep = cfg.sweep
            watchers.append(
                TrialReporter(sweep.storage, sweep.trial, metric=sweep.metric, pruner=sweep.pruner)
            )
        start = STARTED if single else started
        result = run(settings, folder, overrides, start, earlier, watchers)
    except Exception as error:
        if single:
            if isinstance(error, UserError | OSError):
                exit_with(error, CONFIGS)
            raise
        print(f"{progress.name_run(cfg.sweep)}: failed: {one_line(error)}", flush=True)
        logging.getLogger(__name__).info("failed", exc_info=True)  # to the log file alone
        raise error.with_traceback(None) from None  # the frames would keep the run's data alive
    except Interrupted as stop:
        if rank_zero_only.rank == 0:
            if single:  # else the sweeper says how to continue
                print(f"{stop}; go on with: {resume_command(folder)}", file=sys.stderr)
            if stop.number in pre_emption():
                requeue()
        elif stop.together:  # anything but 0 has Lightning kill the first rank at its work
            raise SystemExit(0) from None
        raise
    if not single:
        print(progress.end_line(cfg.sweep, result), flush=True)
    elif result["status"] == "pruned":
        print(result["error"])
    elif rank_zero_only.rank == 0:
        print(closing_table(result, folder), flush=True)
    return result["val"].get("loss", math.nan)  # never the test loss: a sweep would tune on it


def in_thread(thread: threading.ExceptHookArgs) -> None:
    """Leave out a thread's own traceback where the error comes back to the main one.

    TensorBoard's writer is a thread, and tells of a full disk at the next point it is given.
    """
    if not isinstance(thread.exc_value, OSError):
        threading.__excepthook__(thread)


def interruption(error: BaseException | None) -> Interrupted | None:
    """The signal that led to an error, if one did."""
    while error and not isinstance(error, Interrupted):
        error = error.__cause__ or error.__context__
    return error


def cli() -> None:
    """The command line: errors a user can mend end in one line, signals in an exit code."""

    for name in ("matplotlib", "httpx"):  # they tell of font caches and of every request
        logging.getLogger(name).setLevel(logging.WARNING)

    threading.excepthook = in_thread
    sys.unraisablehook = signals.ignored
    signals.listen()
    with report_errors(CONFIGS):
        try:
            main()
        except Exception as error:
            if not (stop := interruption(error)):
                raise
            # Hydra makes an error of its own of whatever is raised while it composes.
            sys.exit(stop.exit_code)
        except Interrupted as stop:
            sys.exit(stop.exit_code)


if __name__ == "__main__":
    cli()
