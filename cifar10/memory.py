"""How large a batch the memory holds."""

import copy
import re
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from cifar10.classifier import Classifier
from cifar10.errors import SettingError

MACHINE = Path("/proc/meminfo")
CONTAINER = Path("/sys/fs/cgroup")

# Peak memory over what autograd keeps: 1.0 was measured for ConvNet, 1.7 for ResNet-18.
OVERHEAD = 1.7


def require_room(
    classifier: Classifier, images: int, size: int, precision: str, device: torch.device
) -> None:
    """See whether a training step fits into memory, before it is tried.

    Linux promises memory that it does not have, and later kills the process without a word.

    Args:
        classifier: on the CPU, not trained yet.
        images: of a batch that share one memory.
        size: side in pixels of the largest.
        precision: a value of Lightning's `Trainer(precision=...)`.
        device: where it will be trained.

    Raises:
        SettingError: it does not fit; it names how many images would.
    """
    free = available(device)
    if free is None:
        return
    each = needed_per_image(classifier, size, half="16" in precision)
    if images * each > free:
        raise SettingError(
            f"data.batch_size: a training step on {images} images needs about "
            f"{images * each / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; "
            f"{two_digits(free / each)} would fit"
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
            return tensor

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


def available(device: torch.device) -> int | None:
    """Bytes of a device's memory this process can still take; None where nothing says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    try:
        free = int(re.search(r"MemAvailable:\s+(\d+) kB", MACHINE.read_text())[1]) * 1024
    except (OSError, TypeError):  # not Linux
        return None
    try:  # as `docker run --memory=8g` sets it
        limit = int((CONTAINER / "memory.max").read_text())
        return min(free, limit - int((CONTAINER / "memory.current").read_text()))
    except (OSError, ValueError):  # no cgroup, or `max` for no limit
        return free


def two_digits(count: float) -> int:
    """A number of images rounded down to two digits: 2345 to 2300."""
    unit = 10 ** max(0, len(str(int(count))) - 2)
    return max(1, int(count) // unit * unit)


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory could not be had, on a GPU or in main memory."""
    return isinstance(
        error, MemoryError | torch.OutOfMemoryError
    ) or "can't allocate memory" in str(error)
