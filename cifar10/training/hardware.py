"""The fastest settings for this hardware: precision, layout, threads, allocator."""

import ctypes
import logging
import math
import os
import platform
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cifar10.core.errors import SettingError, one_line

log = logging.getLogger(__name__)

PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")
OTHERS = ("transformer-engine", "transformer-engine-float16")
# Older names that Lightning still accepts.
ALIASES = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed", "64": "64-true"}
FEW = 16  # processes that are allowed even on one core, to try out multi-process training


class Choice(NamedTuple):
    """A setting and the reason for it, both shown to users."""

    value: str
    reason: str


class Hardware(NamedTuple):
    """How a run computes."""

    precision: Choice  # a value of Lightning's `Trainer(precision=...)`
    layout: Choice  # of images and weights: `channels last` or `channels first`
    threads: Choice  # number of torch's CPU threads
    malloc: Choice  # `keep freed memory` or `default`
    denormals: Choice  # `flush to zero` or `default`
    compile: Choice  # `torch.compile` or `eager`

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
        """Choose everything; apply threads, malloc and denormals to the whole process.

        `precision`, `accelerator` and `processes` (`devices`) are Lightning's settings. Options
        that were not measured on this hardware keep torch's defaults.

        Raises:
            SettingError: this hardware does not support a setting.
        """
        device = device_type(accelerator)
        processes = int(processes) if str(processes).isdecimal() else processes  # as Lightning does
        is_number = type(processes) is int
        if device == "cpu" and is_number and processes > (limit := max(FEW, cores())):
            reason = f"must be at most {limit} on this machine ({cores()} cores available)"
            raise SettingError(f"trainer.devices={processes}: {reason}")
        chosen = choose_precision(precision, device)
        return cls(
            chosen,
            choose_layout(device, chosen.value),
            set_threads(threads, processes if is_number and processes > 0 else 1),
            keep_freed_memory(keep_memory, device),
            flush_denormals(device),
            choose_compile(compile, device),
        )


def device_type(accelerator: str) -> str:
    """Return `cpu`, `cuda` or `mps` for Lightning's `accelerator` setting."""
    if accelerator in ("cuda", "gpu", "auto") and torch.cuda.is_available():
        return "cuda"
    if accelerator in ("mps", "gpu", "auto") and torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def choose_device(name: str | torch.device) -> torch.device:
    """A device by its name in torch, such as `cuda:1`, or `auto` for the fastest.

    Raises:
        SettingError: this machine has no such device.
    """
    if name == "auto":
        return torch.device(device_type("auto"))
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise SettingError(f"device={name}: must be auto, cpu, cuda, cuda:N or mps") from error
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": torch.backends.mps.is_available()}
    if (device.index or 0) >= counts.get(device.type, 0):
        raise SettingError(f"device={name}: this machine has no such device")
    return device


def choose_precision(precision: str | int, device: str) -> Choice:
    """Check a value of Lightning's `precision`, or replace `auto` by the fastest for a device."""
    name = ALIASES.get(str(precision), str(precision))
    if name == "auto":
        return fastest_precision(device)
    if name not in PRECISIONS + OTHERS:
        raise SettingError(f"trainer.precision={name}: must be one of {', '.join(PRECISIONS)}")
    if device != "cuda" and name.startswith("transformer-engine"):
        raise SettingError(f"trainer.precision={name}: needs an NVIDIA GPU")
    if device == "mps" and name == "64-true":
        raise SettingError(f"trainer.precision={name}: MPS has no float64")
    if device == "cpu" and name == "16-mixed":  # Lightning does the same, with a warning
        return Choice("bf16-mixed", f"{name} needs a GPU")
    emulated = device == "cpu" and "16" in name and not bf16_instructions()
    return Choice(name, "as set; slow, emulated on this processor" if emulated else "as set")


def fastest_precision(device: str) -> Choice:
    """Prefer bf16: it needs no loss scaling, but emulated it is far slower than float32."""
    if device == "mps":
        return Choice("32-true", "others were not measured on MPS")
    if device == "cpu":
        found = bf16_instructions()
        reason = f"processor has {found}" if found else "no bf16 instructions"
        return Choice("bf16-mixed" if found else "32-true", reason)
    name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    if capability >= (8, 0):
        return Choice("bf16-mixed", f"{name} has bf16 tensor cores")
    if capability >= (7, 0):
        return Choice("16-mixed", f"{name} has fp16 tensor cores only")
    return Choice("32-true", f"{name} has no tensor cores")


def autocast(device: str, precision: str = "auto") -> torch.autocast:
    """Return the context in which a Trainer of this precision runs the network."""
    value = choose_precision(precision, device).value
    dtype = torch.bfloat16 if value.startswith("bf16") else torch.float16
    return torch.autocast(device, dtype, enabled=value.endswith("-mixed"))


def choose_layout(device: str, precision: str) -> Choice:
    if device == "cuda" and "16" in precision and torch.cuda.get_device_capability() >= (7, 0):
        return Choice("channels last", "faster on tensor cores")
    if device == "cpu" and is_x86_64():
        return Choice("channels last", "faster on x86-64")
    return Choice("channels first", "torch's default")


def is_x86_64() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64")


def bf16_instructions() -> str | None:
    """Name the processor's bf16 multiplication that torch's kernels use, if it has one."""
    supported = torch.cpu.get_capabilities()
    names = ("amx_bf16", "avx512_bf16")
    return next((n.upper().replace("_", "-") for n in names if supported.get(n)), None)


TORCH_THREADS = torch.get_num_threads()  # torch's default: one per physical core
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def cores() -> int:
    """Count the cores this process may use, by its affinity and its container's CPU quota."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    allowed = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:  # set by `docker run --cpus=2`; torch ignores it
        quota, period = CPU_QUOTA.read_text().split()
        return max(1, min(allowed, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup, or `max` for no limit
        return allowed


def set_threads(threads: int | None, processes: int = 1) -> Choice:
    """Set torch's number of threads; None for torch's default, shared between processes."""
    available = cores()
    limit = max(1, available // processes)
    cores_text = f"{available} core{'s' * (available > 1)} available"
    cores_text += f" for {processes} processes" * (processes > 1)
    if threads is not None and threads > limit:  # these would slow each other down
        raise SettingError(f"threads={threads}: must be at most {limit} ({cores_text})")
    chosen = threads or max(1, min(TORCH_THREADS, available) // processes)
    torch.set_num_threads(chosen)
    if processes > 1:  # Lightning would set its own number in the processes it starts
        os.environ["OMP_NUM_THREADS"] = str(chosen)
    return Choice(str(chosen), "as set" if threads else cores_text)


# glibc's M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_MAX for mallopt: never shrink the heap, grow it by
# 1 GiB more than needed, never map single blocks.
KEEP_FREED_MEMORY = {-1: -1, -2: 1 << 30, -4: 0}


def keep_freed_memory(wanted: bool, device: str) -> Choice:
    """Make malloc keep freed memory until the process ends: `benchmarks/step.py` measures it.

    By default glibc maps, clears and unmaps tens of megabytes of activations in every step.
    """
    if not wanted or device != "cpu":
        return Choice("default", f"activations are on {device}" if wanted else "keep_memory=false")
    if platform.libc_ver()[0] != "glibc" or not is_x86_64():
        return Choice("default", "not measured on this system")
    for parameter, value in KEEP_FREED_MEMORY.items():
        ctypes.CDLL(None).mallopt(parameter, value)
    return Choice("keep freed memory", "saves mapping it again in every step")


def flush_denormals(device: str) -> Choice:
    """Round numbers below 1e-38, such as Adam's averages, to zero, until the process ends.

    Torch's threads inherit the mode when they start.
    """
    if device != "cpu" or not is_x86_64() or not torch.set_flush_denormal(True):
        return Choice("default", "not measured on this system")
    return Choice("flush to zero", "slow on many x86-64 processors")


def choose_compile(wanted: bool, device: str) -> Choice:
    """Try `torch.compile`, if wanted, on a small kernel: it needs a C++ compiler or Triton."""
    if not wanted:
        return Choice("eager", "compile=false")
    try:
        x = torch.ones(64, device=device, requires_grad=True)
        torch.compile(lambda x: (x.sin() * 2).sum())(x).backward()
    except Exception as error:  # compilers raise many classes
        why = one_line(error).partition(" Set TORCH")[0]  # torch's debugging hints follow
        log.warning("compile=true: torch.compile failed, using eager mode: %s", why)
        return Choice("eager", "torch.compile failed")
    return Choice("torch.compile", "as set")


# torch raises a plain RuntimeError for these.
OUT_OF_MEMORY = "can't allocate memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that GPU or main memory ran out."""
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or re.search(OUT_OF_MEMORY, str(error)) is not None
