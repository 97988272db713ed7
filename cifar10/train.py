"""The training command: `python train.py` in a checkout, `cifar10 train` everywhere."""

import sys
from pathlib import Path

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


if __name__ == "__main__":  # Lightning starts the other processes of `cifar10 train` so
    if Path(sys.path[0]) == Path(__file__).parent:
        sys.path.pop(0)  # a user's module may be called `data` or `models`
    cli()
