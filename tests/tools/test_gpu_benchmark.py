"""The benchmark of a GPU, without one."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu, gpu_sections
from benchmarks.gpu_sections import accuracy
from cifar10.core.settings import ROOT


def test_without_a_gpu_it_ends_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(tmp_path / "gpu.json")])
    with pytest.raises(SystemExit) as end:
        gpu.main()
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: no CUDA device; see --help for a trial on the CPU\n"
    assert not any(tmp_path.iterdir())


def test_the_sections_take_less_than_ten_minutes_in_total():
    assert sum(seconds for _, seconds in gpu.SECTIONS.values()) <= 580


def result(top1, seconds):
    return {
        "precision": {"value": "bf16-mixed"},
        "seconds": {"training": seconds, "total": 2 * seconds},
        "images_per_second": 1000.0,
        "test": {"top1": 0.9},
        "test_views": {"top1": top1},
    }


def test_time_counts_if_the_mean_accuracy_reaches_the_target():
    reached = accuracy("airnet94", [result(0.945, 3.0), result(0.939, 2.0), result(0.94, 4.0)])
    assert reached["seconds_to_target"] == 3.0
    assert reached["training_seconds"]["n"] == 3
    assert reached["test_views_top1"]["std"] == pytest.approx(0.00321, abs=1e-5)
    missed = accuracy("airnet94", [result(0.93, 3.0)])
    assert missed["seconds_to_target"] is None
    assert missed["training_seconds"]["median"] == 3.0


def test_recipes_are_trained_in_turns_while_there_is_time(monkeypatch):
    now = [0.0]

    def train(folder, overrides, trial):
        now[0] += 10
        return result(0.94, 3.0)

    monkeypatch.setattr(gpu_sections, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(gpu_sections, "train", train)
    *_, last = gpu_sections.time_to_accuracy(100, trial=False)
    counts = {recipe: found["training_seconds"]["n"] for recipe, found in last.items()}
    assert counts == dict(zip(gpu_sections.RECIPES, (2, 2, 2, 2, 1), strict=True))
    assert now[0] <= 100


@pytest.mark.slow
def test_a_trial_runs_everything_on_the_cpu(tmp_path):
    path = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--trial", str(path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, cwd=ROOT, env=environment, timeout=1500)
    record = json.loads(path.read_text())
    sections = record["sections"]
    assert record["trial"] and record["gpu"] is None and record["versions"]["torch"]
    assert set(sections["tests"]["outcomes"].values()) == {"skipped"}
    assert len(sections["step"]["rows"]) == 5
    assert all(row["n"] == 1 and row["median"] > 0 for row in sections["step"]["rows"].values())
    recipes = {"default", "original", "airnet94", "airbench94", "speedrun94"}
    assert sections["time_to_accuracy"].keys() == recipes | {"seconds"}
    for recipe in ("default", "airnet94"):
        assert sections["bit_equality"][recipe]["equal"]
