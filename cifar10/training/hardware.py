"""How this hardware computes fastest: number format, layout, threads, allocator."""

import ctypes
import functools
import logging
import math
import os
import platform
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cifar10.core.errors import SettingError, one_line

log = logging.getLogger(__name__)

# Lightning's values, and the older names it still takes.
VALUES = (
    "auto",
    "32-true",
    "bf16-mixed",
    "16-mixed",
    "bf16-true",
    "16-true",
    "64-true",
)
ALIASES = ("32", "bf16", "16", "64", "transformer-engine", "transformer-engine-float16")


class Choice(NamedTuple):
    """A decision, and why, for people."""

    value: str
    reason: str


class Hardware(NamedTuple):
    """What a run computes in, settled and in force.

    Attributes:
        precision: a value of Lightning's `Trainer(precision=...)`.
        layout: of images and weights, `channels last` or `channels first`.
        threads: how many torch computes with.
        memory: what becomes of freed memory.
        denormals: what becomes of numbers too small for their format's full precision.
        compile: `torch.compile` or `eager`.
    """

    precision: Choice
    layout: Choice
    threads: Choice
    memory: Choice
    denormals: Choice
    compile: Choice

    @classmethod
    def choose(
        cls,
        precision: str | int,
        accelerator: str,
        threads: int | None,
        processes: Any,
        keep_memory: bool,
        compile: bool,
    ) -> "Hardware":
        """Settle everything, and set what holds for the whole process.

        What is not known to pay on this hardware is left as torch has it.

        Args:
            precision, accelerator: Lightning's settings.
            threads: that torch computes with; None for a core each.
            processes: Lightning's `devices`; if a number, that many share a CPU's cores.
            keep_memory, compile: whether to, where it works.

        Raises:
            SettingError: this hardware can't do what was asked for.
        """
        device = device_type(accelerator)
        chosen = choose_precision(precision, device)
        return cls(
            chosen,
            choose_layout(device, chosen.value),
            set_threads(threads, processes if type(processes) is int and processes > 0 else 1),
            keep_freed(keep_memory, device),
            flush_denormals(device),
            choose_compile(compile, device),
        )

    @property
    def channels_last(self) -> bool:
        return self.layout.value == "channels last"


def device_type(accelerator: str) -> str:
    """The kind of device that Lightning's accelerator setting stands for here."""
    if accelerator in ("cuda", "gpu", "auto") and torch.cuda.is_available():
        return "cuda"
    if accelerator in ("mps", "gpu", "auto") and torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def choose_precision(precision: str | int, device: str) -> Choice:
    """Settle `auto`, or take what was asked for.

    bf16 needs no loss scaling and is chosen wherever the hardware multiplies it. A processor
    without the instructions emulates them, many times slower than float32, so it is asked.

    Args:
        precision: `auto`, or any value that Lightning takes.
        device: `cpu`, `cuda` or `mps`.

    Raises:
        SettingError: there is no such precision, or not on this device.
    """
    if str(precision) not in VALUES + ALIASES:
        raise SettingError(f"trainer.precision={precision}: must be one of {', '.join(VALUES)}")
    if device == "cpu" and str(precision) in ("16-mixed", "16"):
        # Lightning would do the same, with a warning.
        return Choice("bf16-mixed", f"{precision} was set, which needs a GPU")
    if device != "cuda" and str(precision).startswith("transformer-engine"):
        raise SettingError(f"trainer.precision={precision}: needs an NVIDIA GPU")
    if device == "mps" and str(precision) in ("64-true", "64"):
        raise SettingError(f"trainer.precision={precision}: MPS has no float64")
    if precision != "auto":
        slow = device == "cpu" and "16" in str(precision) and not bf16_instructions()
        return Choice(str(precision), "as set; emulated here, so slow" if slow else "as set")
    if device == "cuda":
        name, capability = (
            torch.cuda.get_device_name(),
            torch.cuda.get_device_capability(),
        )
        if capability >= (8, 0):
            return Choice("bf16-mixed", f"{name} multiplies bf16 in its tensor cores")
        if capability >= (7, 0):
            return Choice("16-mixed", f"{name} has tensor cores, but none for bf16")
        return Choice("32-true", f"{name} has no tensor cores")
    if device == "cpu":
        if instructions := bf16_instructions():
            return Choice("bf16-mixed", f"the processor has {instructions}")
        return Choice("32-true", "the processor has no bf16 instructions")
    return Choice("32-true", "nothing faster is known to be safe on MPS")


def autocast(device: str, precision: str = "auto") -> torch.autocast:
    """The context in which a device predicts in a precision, as a Trainer's would be.

    Raises:
        SettingError: there is no such precision, or not on this device.
    """
    value = choose_precision(precision, device).value
    dtype = torch.bfloat16 if value.startswith("bf16") else torch.float16
    return torch.autocast(device, dtype, enabled=value.endswith("-mixed"))


def choose_layout(device: str, precision: str) -> Choice:
    """Channels last where convolutions are known to run faster so."""
    if device == "cuda" and "16" in precision and torch.cuda.get_device_capability() >= (7, 0):
        return Choice("channels last", "tensor cores compute in it")
    if device == "cpu" and x86_64():
        return Choice("channels last", "oneDNN's convolutions are faster in it on x86-64")
    return Choice("channels first", f"torch's own, nothing else was measured on {device}")


def x86_64() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64")


def bf16_instructions() -> str | None:
    """The processor's bf16 multiplications that torch's CPU kernels use, or None."""
    has = torch.cpu.get_capabilities()
    if has.get("amx_bf16"):
        return "AMX-BF16"
    return "AVX512-BF16" if has.get("avx512_bf16") else None


TORCHS_THREADS = torch.get_num_threads()
CPU_SHARE = Path("/sys/fs/cgroup/cpu.max")


def cores() -> int:
    """Processor cores that this process may use: its affinity, and a container's share of time."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        allowed = os.cpu_count() or 1
    try:  # as `docker run --cpus=2` sets it; torch counts all cores of the host
        quota, period = CPU_SHARE.read_text().split()
        return max(1, min(allowed, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup, or `max` for no limit
        return allowed


def set_threads(threads: int | None, processes: int = 1) -> Choice:
    """Set how many threads torch computes with; None takes torch's own number, a core each.

    Args:
        threads: of each process.
        processes: that share the cores.

    Raises:
        SettingError: more threads than cores, which would only wait for each other.
    """
    available = cores()
    if threads is not None and threads > max(1, available // processes):
        each = f" in each of {processes} processes" if processes > 1 else ""
        raise SettingError(
            f"threads={threads}: must be at most {max(1, available // processes)}{each}, "
            f"for there are {available} cores"
        )
    chosen = threads or max(1, min(TORCHS_THREADS, available) // processes)
    torch.set_num_threads(chosen)
    if processes > 1:  # else Lightning sets a number of its own when it starts the others
        os.environ["OMP_NUM_THREADS"] = str(chosen)
    many = "s" * (available > 1)
    reason = f"{available} core{many} may be used" + f" by {processes} processes" * (processes > 1)
    return Choice(str(chosen), "as set" if threads else reason)


# mallopt's parameters, numbered in glibc's malloc.h: never give the top of the heap back, take
# 1 GiB more than asked for, never map a block on its own.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
KEEP = {M_TRIM_THRESHOLD: -1, M_TOP_PAD: 1 << 30, M_MMAP_MAX: 0}


def keep_freed(wanted: bool, device: str) -> Choice:
    """Have malloc keep what is freed for the next step, for the life of the process.

    Activations of tens of megabytes are otherwise mapped, zeroed page by page and unmapped in
    every step; `benchmarks/step.py` measures what that costs.

    Args:
        device: kind of device that computes: `cpu`, `cuda`, `mps`.
    """
    if not wanted:
        return Choice("returned to the system", "keep_memory=false")
    if device != "cpu":
        return Choice("returned to the system", f"activations are in the memory of {device}")
    if platform.libc_ver()[0] != "glibc" or not x86_64():
        return Choice("returned to the system", "nothing else was measured on this system")
    malloc = ctypes.CDLL(None)
    for parameter, value in KEEP.items():
        malloc.mallopt(parameter, value)
    return Choice("kept", "glibc's malloc would map and clear activations anew in every step")


def flush_denormals(device: str) -> Choice:
    """Count numbers below 1e-38 as zero, for the life of the process, on x86-64 processors.

    Many of them compute such numbers in microcode, many times slower; averages of
    squared gradients (Adam's) fall that low, and nothing here depends on them. Torch's threads take
    it over when they start, at its first larger computation.
    """
    if device != "cpu" or not x86_64():
        return Choice("computed", f"torch's own, nothing else was measured on {device}")
    if not torch.set_flush_denormal(True):
        return Choice("computed", "the processor cannot flush them")
    return Choice("flushed to zero", "many x86-64 processors compute them in microcode")


def choose_compile(wanted: bool, device: str) -> Choice:
    """See, if it is wanted, whether `torch.compile` works here: it needs a C++ compiler or Triton.

    It is off by default; `benchmarks/step.py` measures it beside eager.
    """
    if not wanted:
        return Choice("eager", "compile=false")
    try:
        try_compiler(device)
    except Exception as error:  # a zoo of the compilers' own classes
        why = one_line(error).partition(" Set TORCH")[0]  # then come hints for debugging torch
        log.warning("compile=true: torch.compile does not work here, so eager: %s", why)
        return Choice("eager", "torch.compile does not work here")
    return Choice("torch.compile", "as set")


@functools.cache
def try_compiler(device: str) -> None:
    """Have a kernel generated and run, forwards and backwards; raises whatever is missing."""
    x = torch.ones(64, device=device, requires_grad=True)
    torch.compile(lambda x: (x.sin() * 2).sum())(x).backward()
