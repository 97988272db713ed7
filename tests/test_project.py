"""The committed results: of today's recipes, of clean commits, without paths of a machine."""

import json
import math
import re

import pytest

from benchmarks import recipes
from benchmarks.time_to_accuracy import epochs_to
from cifar10.core.settings import ROOT
from cifar10.runs.result import read_result, repeat_command
from cifar10.sweeps.grouping import find_runs

FOLDERS = ("results", "benchmarks", "cifar10/zoo")
FILES = sorted(
    path.relative_to(ROOT) for name in FOLDERS for path in ROOT.glob(f"{name}/**/*.json")
)
RESULTS = sorted((ROOT / "results").glob("*/seed*/result.json"))


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: "/".join(file.parts[-3:-1]))
def test_committed_results_are_of_todays_recipes(file):
    recipe, seed = file.parts[-3], int(file.parts[-2].removeprefix("seed"))
    assert recipes.is_of(file, recipe, seed)


def test_a_result_belongs_to_its_recipe_when_settings_that_do_nothing_are_added(tmp_path):
    result = read_result(ROOT / "results/default/seed0/result.json")
    file = tmp_path / "result.json"
    settings = dict(result["settings"])
    settings.popitem()
    file.write_text(json.dumps(result | {"settings": settings}))
    assert recipes.is_of(file, "default", 0)
    file.write_text(json.dumps(result | {"settings": settings | {"no such setting": 1}}))
    assert not recipes.is_of(file, "default", 0)


def test_committed_results_are_finished_and_of_clean_commits():
    committed = find_runs([ROOT / "results"])
    assert all(result["status"] == "ok" and result["clean"] is True for result in committed)
    default = [run["seed"] for run in committed if repeat_command(run) == "python train.py"]
    assert len(set(default)) >= 3


@pytest.mark.parametrize("file", FILES, ids=str)
def test_no_committed_file_names_a_path_of_a_machine(file):
    assert not re.search(r'"(/|[A-Z]:)', (ROOT / file).read_text(encoding="utf-8"))


def test_epochs_to_an_accuracy_are_measured_or_extrapolated():
    # The error is one over the square root of the epoch: 0.18 comes after 1 / 0.18 ** 2 epochs.
    run = {"history": [{"epoch": n, "val/top1": 1 - n**-0.5} for n in range(1, 11)]}
    assert epochs_to(run, 0.5) == 4
    assert epochs_to(run, 0.82) == pytest.approx(1 / 0.18**2)
    flat = {"history": [{"epoch": n, "val/top1": 0.5} for n in range(1, 11)]}
    assert epochs_to(flat, 0.82) == math.inf
