"""Which of several processes of one training this is."""

import os

from lightning.pytorch.utilities import rank_zero_only


def launched_rank() -> int | None:
    """The rank of a process that torchrun or SLURM started among several; otherwise None."""
    for count, rank in (("WORLD_SIZE", "RANK"), ("SLURM_NTASKS", "SLURM_PROCID")):
        if int(os.environ.get(count, "1")) > 1 and rank in os.environ:
            return int(os.environ[rank])
    return None


def is_first_process() -> bool:
    """Whether this is the only process of a training or the first of several."""
    return getattr(rank_zero_only, "rank", 0) == 0
