"""Train a CIFAR-10 classifier: compose the settings, run, say how it went.

python train.py --help
"""

import signal
import time
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from cifar10.errors import UserError, clear_errors, end

ROOT = Path(__file__).resolve().parent
CONFIGS = ROOT / "configs"
OmegaConf.register_new_resolver("project", lambda name: str(ROOT / name), replace=True)


def plain(cfg: DictConfig) -> dict:
    """The job's settings as plain values."""
    job = OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])
    return OmegaConf.to_container(job, resolve=True, throw_on_missing=True)


class Check(Callback):
    """Checks all settings before Hydra makes the run's folder; configs/train.yaml names it."""

    def on_run_start(self, config: DictConfig, **_: object) -> None:
        from cifar10.run import assemble

        try:
            assemble(plain(config), Path(config.hydra.run.dir))
        except Exception as error:  # Hydra would only warn about it
            end(error, CONFIGS)


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(cfg: DictConfig) -> float:
    # torch and Lightning take seconds to import; --help and --cfg do without them.
    started = time.perf_counter()
    from cifar10.run import run
    from cifar10.terminal import closing_table

    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    try:
        result = run(plain(cfg), folder, list(hydra_config.overrides.task), started)
    except UserError as error:
        if hydra_config.mode == RunMode.MULTIRUN:
            raise  # the other jobs go on
        end(error, CONFIGS)
    print(closing_table(result, folder), flush=True)
    return result["val"].get("loss", result["test"]["loss"])


def cli() -> None:
    """The command line: errors a user can mend end in one line, signals in an exit code."""

    def stop(number: int, _: object) -> None:
        raise SystemExit(128 + number)  # 130 for Ctrl-C, 143 for SIGTERM

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    with clear_errors(CONFIGS):
        main()


if __name__ == "__main__":
    cli()
