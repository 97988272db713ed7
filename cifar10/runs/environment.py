"""The code, versions and hardware that a result comes from."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "hydra-core")


def cpu_name() -> str:
    return torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or "unknown"


def device_name(device: torch.device, count: int = 1) -> str:
    """Devices as people call them: `8 x NVIDIA A100`, `AMD EPYC, 2 threads`, `mps`."""
    name = str(device)
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    if device.type == "cpu":
        threads = torch.get_num_threads()
        name = f"{cpu_name()}, {threads} {'thread' if threads == 1 else 'threads'}"
    return f"{count} x {name}" if count > 1 else name


def git_state() -> dict[str, Any]:
    """The commit of this code, and whether it has no changes; None where git is missing."""
    command = ["git", "-C", str(Path(__file__).parent), "status", "--porcelain=v2", "--branch"]
    try:
        run = subprocess.run(command, check=True, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "clean": None}
    commit, *lines = run.stdout.splitlines()
    clean = all(line.startswith("# ") for line in lines)
    return {"commit": commit.removeprefix("# branch.oid "), "clean": clean}


def environment() -> dict[str, Any]:
    """Code, versions and hardware that a result comes from, as plain values."""
    return git_state() | {
        "versions": {"python": platform.python_version()} | {p: version(p) for p in PACKAGES},
        "hardware": {
            "cpu": cpu_name(),
            "threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
            "system": platform.platform(terse=True),
        },
    }
