"""Tests, speed, time to accuracy and bit-equality on one GPU, in less than ten minutes.

python -m benchmarks.gpu

Needs Linux and CIFAR-10, which is downloaded first if it is missing. A section that fails or takes
too long is recorded with its error; the exit code is then 1.
"""

import argparse
import sys
from pathlib import Path

from benchmarks import gpu_sections
from benchmarks.budget import Record, Section, run_sections
from benchmarks.measure import FOLDER
from benchmarks.subjects import some_images

# What runs, and for how many seconds at most; in a trial, ten times as long.
SECTIONS: dict[str, tuple[Section, float]] = {
    "tests": (gpu_sections.tests, 180),
    "step": (gpu_sections.step, 100),
    "time_to_accuracy": (gpu_sections.time_to_accuracy, 210),
    "bit_equality": (gpu_sections.bit_equality, 90),
}


def describe_gpu() -> Record:
    import torch

    found = torch.cuda.get_device_properties(0)
    return {
        "name": found.name,
        "memory_gib": found.total_memory / 2**30,
        "compute_capability": f"{found.major}.{found.minor}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER / "gpu.json", help="JSON file")
    trial = "run briefly on the CPU, to try out this program; the figures mean nothing"
    parser.add_argument("--trial", type=Path, metavar="OUT", help=trial)
    arguments = parser.parse_args()
    import torch

    from cifar10.runs.environment import environment

    head = {"benchmark": "gpu", "trial": bool(arguments.trial), "gpu": None, **environment()}
    if not arguments.trial:
        if not torch.cuda.is_available():
            print("error: no CUDA device; see --help for a trial on the CPU", file=sys.stderr)
            sys.exit(2)
        head["gpu"] = describe_gpu()
        some_images(1)  # a download does not count
    limits = {
        key: (run, limit * (10 if arguments.trial else 1)) for key, (run, limit) in SECTIONS.items()
    }
    done = run_sections(arguments.trial or arguments.out, head, limits, bool(arguments.trial))
    sys.exit(0 if done else 1)


if __name__ == "__main__":
    main()
