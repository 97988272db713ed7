"""The environment variables by which launchers number the processes of a training."""

import os

from cifar10.core.errors import SettingError

# Read by Lightning, some of them when it is imported, and by this project.
RANKS = (
    *("WORLD_SIZE", "RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "MASTER_PORT"),
    *("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "JSM_NAMESPACE_RANK"),
)


def require_ranks() -> None:
    """Raise a SettingError unless these variables are whole numbers."""
    for name in RANKS:
        if not (value := os.environ.get(name, "0")).isdecimal():
            reason = "this environment variable must be a whole number; unset it"
            raise SettingError(f"{name}={value}: {reason} unless torchrun or SLURM sets it")


def launched_rank() -> int | None:
    """The rank of a process that torchrun or SLURM started among several; otherwise None."""
    for count, rank in (("WORLD_SIZE", "RANK"), ("SLURM_NTASKS", "SLURM_PROCID")):
        if int(os.environ.get(count, "1")) > 1 and rank in os.environ:
            return int(os.environ[rank])
    return None
