"""What `auto` chooses on many kinds of hardware, simulated here."""

import os
import platform
import subprocess
import sys

import pytest
import torch
from lightning.fabric.connector import _PRECISION_INPUT_STR_ALIAS_CONVERSION

from cifar10.core.errors import SettingError
from cifar10.runs.run import run
from cifar10.training.classifier import Classifier
from cifar10.training.hardware import (
    PRECISIONS,
    Hardware,
    choose_layout,
    choose_precision,
    cores,
    device_type,
    flush_denormals,
    is_out_of_memory,
    keep_freed_memory,
    set_threads,
)


@pytest.fixture
def hardware(monkeypatch):
    def simulate(cuda=None, mps=False, cpu=(), machine="x86_64"):
        monkeypatch.setattr(platform, "machine", lambda: machine)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda is not None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(cpu, True))

    return simulate


@pytest.mark.parametrize(
    ("machine", "value", "channels_last"),
    [
        (dict(cuda=(9, 0)), "bf16-mixed", True),
        (dict(cuda=(8, 0)), "bf16-mixed", True),
        (dict(cuda=(7, 5)), "16-mixed", True),  # claims bf16 support but emulates it
        (dict(cuda=(6, 1)), "32-true", False),
        (dict(mps=True), "32-true", False),
        (dict(cpu=["amx_bf16", "avx512_bf16"]), "bf16-mixed", True),
        (dict(cpu=["avx512_bf16"]), "bf16-mixed", True),
        (dict(cpu=["avx2"]), "32-true", True),
        (dict(), "32-true", True),
        (dict(machine="AMD64"), "32-true", True),  # as Windows calls it
        (dict(machine="aarch64"), "32-true", False),  # not measured: torch's default
    ],
)
def test_auto_chooses_what_the_hardware_computes_fastest(hardware, machine, value, channels_last):
    hardware(**machine)
    device = device_type("auto")
    chosen = choose_precision("auto", device)
    layout = choose_layout(device, chosen.value)
    assert chosen.value == value
    assert (layout.value == "channels last") == channels_last
    assert chosen.reason and layout.reason


def test_auto_chooses_for_the_requested_device(hardware):
    hardware(cuda=(9, 0), cpu=["avx2"])
    assert choose_precision("auto", device_type("cpu")).value == "32-true"


@pytest.mark.parametrize("value", [*PRECISIONS[1:], 32, 16, 64, "32", "16", "64", "bf16"])
def test_lightnings_values_are_accepted_under_one_name(hardware, value):
    """Evaluation looks the arithmetic up by the name."""
    hardware(cuda=(8, 0))
    known = _PRECISION_INPUT_STR_ALIAS_CONVERSION.get(str(value), value)
    assert choose_precision(value, "cuda").value == known


def test_16_mixed_becomes_bf16_mixed_on_a_cpu():
    assert choose_precision("16-mixed", "cpu").value == "bf16-mixed"


def test_an_unknown_precision_lists_the_valid_ones():
    with pytest.raises(SettingError, match=r"trainer\.precision=8-bit: .*bf16-mixed"):
        choose_precision("8-bit", "cpu")


def test_lightning_accepts_the_precision_chosen_for_this_machine():
    import lightning as L

    precision = choose_precision("auto", device_type("auto"))
    assert L.Trainer(precision=precision.value, logger=False).precision == precision.value


@pytest.mark.parametrize(
    ("value", "device"),
    [("transformer-engine", "cpu"), ("transformer-engine", "mps"), ("64-true", "mps")],
)
def test_a_precision_the_device_does_not_support_is_rejected(value, device):
    with pytest.raises(SettingError, match=f"trainer.precision={value}"):
        choose_precision(value, device)


def test_emulated_precisions_are_called_slow(hardware):
    hardware(cpu=["avx2"])
    assert "slow" in choose_precision("bf16-mixed", "cpu").reason
    hardware(cpu=["avx512_bf16"])
    assert "slow" not in choose_precision("bf16-mixed", "cpu").reason


def test_threads_are_set_and_null_restores_torchs_default():
    before = torch.get_num_threads()
    try:
        assert set_threads(1).value == "1"
        assert torch.get_num_threads() == 1
        assert set_threads(None).value == str(before)
        assert torch.get_num_threads() == before
    finally:
        torch.set_num_threads(before)


def test_processes_share_the_cores(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr("cifar10.training.hardware.cores", lambda: 4)
    monkeypatch.setattr("cifar10.training.hardware.TORCH_THREADS", 4)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    try:
        assert set_threads(None, 2).value == "2"
        assert os.environ["OMP_NUM_THREADS"] == "2"  # for the processes that Lightning starts
        assert set_threads(None, 8).value == "1"
        with pytest.raises(SettingError, match=r"at most 2 \(4 cores available for 2 processes\)$"):
            set_threads(3, 2)
    finally:
        torch.set_num_threads(before)


def test_a_containers_cpu_quota_limits_the_cores(monkeypatch, tmp_path):
    share = tmp_path / "cpu.max"
    monkeypatch.setattr("cifar10.training.hardware.CPU_QUOTA", share)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(64), raising=False)
    for text, expected in (("150000 100000", 2), ("max 100000", 64), ("10000 100000", 1)):
        share.write_text(text)
        assert cores() == expected


def test_freed_memory_is_kept_only_where_it_was_measured(hardware):
    hardware()
    assert keep_freed_memory(False, "cpu").value == "default"
    assert keep_freed_memory(True, "cuda").value == "default"
    hardware(machine="aarch64")
    assert keep_freed_memory(True, "cpu").value == "default"


FAULTS = """
import resource, sys, torch
from cifar10.training.hardware import keep_freed_memory
print(keep_freed_memory(sys.argv[1] == "keep", "cpu").value, file=sys.stderr)
for _ in range(20):  # until small allocations no longer split the freed blocks
    torch.ones(1 << 24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(1 << 24)  # 64 MiB: 16,384 pages
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or platform.machine() != "x86_64", reason="glibc on x86-64"
)
def test_kept_memory_causes_no_page_faults():
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
@pytest.mark.slow
def test_denormals_are_flushed_in_all_threads():
    command = [sys.executable, "-c", DENORMALS]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    assert run.stdout.split("\n")[:2] == ["flush to zero", "0"]
    assert flush_denormals("cuda").value == "default"


def test_compile_falls_back_to_eager_with_a_one_line_warning(monkeypatch, caplog):
    def no_compiler(*_, **__):
        raise RuntimeError("no C++ compiler\nand much more")

    monkeypatch.setattr(torch, "compile", no_compiler)
    chosen = Hardware.choose("auto", "cpu", None, 1, keep_memory=False, compile=True)
    assert chosen.compile.value == "eager"
    assert [r.getMessage().count("\n") for r in caplog.records] == [0]
    assert "no C++ compiler" in caplog.text


def test_deterministic_configures_cublas_before_cuda_starts(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    choose = Hardware.choose  # may be the first use of CUDA

    def choose_and_check(**settings):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        return choose(**settings)

    monkeypatch.setattr(Hardware, "choose", choose_and_check)
    try:
        run(tiny("deterministic=true"), tmp_path)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_out_of_memory_errors_are_recognised(error, expected):
    assert is_out_of_memory(error) == expected


def test_a_run_out_of_memory_ends_with_one_line(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(
        Classifier, "training_step", lambda *_: torch.empty(1 << 60, dtype=torch.uint8)
    )
    with pytest.raises(SettingError, match=r"^data\.batch_size=\d+: .*memory") as caught:
        run(tiny(), tmp_path / "run")
    assert "\n" not in str(caught.value)
