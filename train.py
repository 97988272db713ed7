"""Train a CIFAR-10 classifier and evaluate it on the test set.

    python train.py                            the default recipe
    python train.py trainer.max_epochs=100     change a setting
    python train.py --multirun seed=0,1,2      one run per value

`python train.py --help` lists all settings; cifar10/launch.py does the work.
"""

import hydra
from omegaconf import DictConfig

from cifar10.core.settings import CONFIGS
from cifar10.launch import command_line, launch


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def main(cfg: DictConfig) -> float:
    """Train with the composed settings; returns the validation loss, for sweeps."""
    return launch(cfg)


def cli() -> None:
    command_line(main)


if __name__ == "__main__":
    cli()
