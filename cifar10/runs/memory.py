"""How large a batch the memory holds."""

import copy
import re
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from cifar10.core.errors import SettingError
from cifar10.training.classifier import Classifier

MACHINE = Path("/proc/meminfo")
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")

# Peak memory over what autograd keeps, with room to spare: gradients and copies in other layouts.
OVERHEAD = 1.7


def require_room(
    classifier: Classifier, batch_size: int, nodes: int, size: int, precision: str
) -> None:
    """See whether a training step fits into main memory, before it is tried.

    Linux promises memory that it does not have, and later kills the process without a word. A GPU
    says so itself (see `ran_out`).

    Args:
        classifier: not trained yet.
        batch_size: images in a global batch.
        nodes: machines that share it.
        size: side in pixels of the largest image.
        precision: a value of Lightning's `Trainer(precision=...)`.

    Raises:
        SettingError: it does not fit; it names a batch size that would.
    """
    memory = capacity()
    if memory is None:
        return
    each = needed_per_image(classifier, size, half="16" in precision) / nodes
    if batch_size * each > memory:
        raise SettingError(
            f"data.batch_size={batch_size}: a training step needs about "
            f"{batch_size * each / 1e9:.1f} GB and there are {memory / 1e9:.1f} GB; "
            f"{two_digits(memory / each)} would fit"
        )


def needed_per_image(classifier: Classifier, size: int, half: bool = False) -> float:
    """Bytes that a training step needs for each image of its batch.

    Runs the network on two and on four images and compares what autograd keeps for the backward
    pass: weights, and copies of them in other formats, do not grow with the batch.
    """
    network = copy.deepcopy(classifier.network).train()  # running statistics would change

    def kept(count: int) -> int:
        sizes: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor.detach()  # the tensor itself would hold the graph that holds it

        images = torch.zeros(count, 3, size, size, dtype=torch.uint8)
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=half),
            torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        ):
            loss = F.cross_entropy(
                network(classifier.normalise(images)), images.new_zeros(count).long()
            )
        del loss  # alive until here, so that no storage is counted under another's address
        return sum(sizes.values())

    with torch.random.fork_rng(devices=[]):
        return OVERHEAD * (kept(4) - kept(2)) / 2


def capacity() -> int | None:
    """Bytes of main memory that this process may take at most; None where nothing says.

    Not what is free just now: caches count as taken there, and so does the memory that an earlier
    run of a multirun left to this one.
    """
    try:
        total = int(re.search(r"MemTotal:\s+(\d+) kB", MACHINE.read_text())[1]) * 1024
    except (OSError, TypeError):  # not Linux
        return None
    try:  # as `docker run --memory=8g` sets it
        return min(total, int(CONTAINER_LIMIT.read_text()))
    except (OSError, ValueError):  # no cgroup, or `max` for no limit
        return total


def two_digits(count: float) -> int:
    """A number of images rounded down to two digits: 2345 to 2300."""
    unit = 10 ** max(0, len(str(int(count))) - 2)
    return max(1, int(count) // unit * unit)


OUT_OF_MEMORY = re.compile(
    "can't allocate memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED"
)


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory could not be had, on a GPU or in main memory."""
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or OUT_OF_MEMORY.search(str(error)) is not None
