"""What `auto` picks on hardware that this machine need not have."""

import os
import platform
import subprocess
import sys

import pytest
import torch

from cifar10.core.errors import SettingError
from cifar10.runs.run import run
from cifar10.training.hardware import (
    VALUES,
    Hardware,
    choose_layout,
    choose_precision,
    cores,
    device_type,
    flush_denormals,
    keep_freed,
    set_threads,
)


@pytest.fixture
def hardware(monkeypatch):
    def pretend(cuda=None, mps=False, cpu=(), machine="x86_64"):
        monkeypatch.setattr(platform, "machine", lambda: machine)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda is not None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(cpu, True))

    return pretend


@pytest.mark.parametrize(
    ("machine", "value", "channels_last"),
    [
        (dict(cuda=(9, 0)), "bf16-mixed", True),
        (dict(cuda=(8, 0)), "bf16-mixed", True),
        (dict(cuda=(7, 5)), "16-mixed", True),  # emulates bf16, and would say it supports it
        (dict(cuda=(6, 1)), "32-true", False),
        (dict(mps=True), "32-true", False),
        (dict(cpu=["amx_bf16", "avx512_bf16"]), "bf16-mixed", True),
        (dict(cpu=["avx512_bf16"]), "bf16-mixed", True),
        (dict(cpu=["avx2"]), "32-true", True),
        (dict(), "32-true", True),
        (dict(machine="AMD64"), "32-true", True),  # as Windows calls it
        (dict(machine="aarch64"), "32-true", False),  # not measured: as torch has it
    ],
)
def test_auto_picks_what_the_hardware_multiplies(hardware, machine, value, channels_last):
    hardware(**machine)
    device = device_type("auto")
    picked = choose_precision("auto", device)
    layout = choose_layout(device, picked.value)
    assert picked.value == value
    assert (layout.value == "channels last") == channels_last
    assert picked.reason and layout.reason


def test_auto_looks_at_the_device_that_was_asked_for(hardware):
    hardware(cuda=(9, 0), cpu=["avx2"])
    assert choose_precision("auto", device_type("cpu")).value == "32-true"


@pytest.mark.parametrize("value", [*VALUES[1:], 32, "16"])
def test_lightnings_values_are_taken_as_they_are(hardware, value):
    hardware(cuda=(8, 0))
    assert choose_precision(value, "cuda").value == str(value)


def test_on_a_processor_16_mixed_is_what_lightning_makes_of_it():
    assert choose_precision("16-mixed", "cpu").value == "bf16-mixed"


def test_an_unknown_value_names_those_there_are():
    with pytest.raises(SettingError, match=r"trainer\.precision=8-bit: .*bf16-mixed"):
        choose_precision("8-bit", "cpu")


def test_the_real_hardware_gives_an_answer_that_lightning_takes():
    import lightning as L

    precision = choose_precision("auto", device_type("auto"))
    assert L.Trainer(precision=precision.value, logger=False).precision == precision.value


@pytest.mark.parametrize(
    ("value", "device"),
    [("transformer-engine", "cpu"), ("transformer-engine", "mps"), ("64-true", "mps")],
)
def test_what_the_device_cannot_compute_in_is_refused(value, device):
    with pytest.raises(SettingError, match=f"trainer.precision={value}"):
        choose_precision(value, device)


def test_emulation_is_announced(hardware):
    hardware(cpu=["avx2"])
    assert "slow" in choose_precision("bf16-mixed", "cpu").reason
    hardware(cpu=["avx512_bf16"])
    assert "slow" not in choose_precision("bf16-mixed", "cpu").reason


def test_threads_are_set_and_null_gives_back_torchs_own():
    own = torch.get_num_threads()
    try:
        assert set_threads(1).value == "1"
        assert torch.get_num_threads() == 1
        assert set_threads(None).value == str(own)
        assert torch.get_num_threads() == own
    finally:
        torch.set_num_threads(own)


def test_processes_share_the_cores(monkeypatch):
    own = torch.get_num_threads()
    monkeypatch.setattr("cifar10.training.hardware.cores", lambda: 4)
    monkeypatch.setattr("cifar10.training.hardware.TORCHS_THREADS", 4)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    try:
        assert set_threads(None, 2).value == "2"
        assert os.environ["OMP_NUM_THREADS"] == "2"  # for the processes that Lightning starts
        assert set_threads(None, 8).value == "1"
        with pytest.raises(SettingError, match=r"^threads=3: must be at most 2 in each of 2 "):
            set_threads(3, 2)
    finally:
        torch.set_num_threads(own)


def test_a_containers_share_of_time_counts(monkeypatch, tmp_path):
    share = tmp_path / "cpu.max"
    monkeypatch.setattr("cifar10.training.hardware.CPU_SHARE", share)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(64), raising=False)
    for text, expected in (("150000 100000", 2), ("max 100000", 64), ("10000 100000", 1)):
        share.write_text(text)
        assert cores() == expected


def test_memory_is_kept_only_where_it_was_measured(hardware):
    hardware()
    assert keep_freed(False, "cpu").value == "returned to the system"
    assert keep_freed(True, "cuda").value == "returned to the system"
    hardware(machine="aarch64")
    assert keep_freed(True, "cpu").value == "returned to the system"


FAULTS = """
import resource, sys, torch
from cifar10.training.hardware import keep_freed
print(keep_freed(sys.argv[1] == "keep", "cpu").value, file=sys.stderr)
for _ in range(20):  # until small allocations no longer split the freed blocks
    torch.ones(1 << 24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(1 << 24)  # 64 MiB: 16,384 pages
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or platform.machine() != "x86_64", reason="glibc on x86-64"
)
def test_kept_memory_is_not_mapped_anew():
    def faults(word):
        command = [sys.executable, "-c", FAULTS, word]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert faults("keep") < 100 < 10_000 < faults("return")


DENORMALS = """
import torch
from cifar10.training.hardware import flush_denormals
print(flush_denormals("cpu").value)
print(int((torch.full((1 << 22,), 2e-38) * 0.1).count_nonzero()))
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x86-64")
def test_denormals_are_flushed_in_all_threads():
    command = [sys.executable, "-c", DENORMALS]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    assert run.stdout.split("\n")[:2] == ["flushed to zero", "0"]
    assert flush_denormals("cuda").value == "computed"


def test_compile_falls_back_to_eager_with_one_warning(monkeypatch, caplog):
    def no_compiler(*_, **__):
        raise RuntimeError("no C++ compiler\nand much more")

    monkeypatch.setattr(torch, "compile", no_compiler)
    chosen = Hardware.choose("auto", "cpu", None, 1, keep_memory=False, compile=True)
    assert chosen.compile.value == "eager"
    assert [r.getMessage().count("\n") for r in caplog.records] == [0]
    assert "no C++ compiler" in caplog.text


def test_deterministic_sets_what_a_gpu_needs_before_it_starts(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    choose = Hardware.choose  # where CUDA may be asked for the first time

    def look(**settings):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        return choose(**settings)

    monkeypatch.setattr(Hardware, "choose", look)
    try:
        run(tiny("deterministic=true"), tmp_path)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
