"""README, continuous integration and committed results say the same."""

import json
import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep
from PIL import Image
from typer.core import TyperGroup

from benchmarks import recipes, tables
from benchmarks.time_to_accuracy import epochs_to
from cifar10 import cli
from cifar10.core.settings import ROOT
from cifar10.runs import result as results
from cifar10.runs.result import repeat_command
from cifar10.sweeps.grouping import find_runs

README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))
CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
FILES = sorted(
    path.relative_to(ROOT)
    for folder in ("results", "benchmarks", "cifar10/zoo")
    for path in (ROOT / folder).rglob("*.json")
)


def commands(text: str) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def test_ci_runs_the_readmes_commands():
    install, test = commands(README)[:2]
    assert install == "pip install -e . && python train.py"
    assert test in CI.splitlines()
    assert re.search(r"^python train\.py trainer\.max_epochs=1 ", CI, re.MULTILINE)
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert workflow["jobs"]["test"]["steps"][-1]["run"] == ".ci/run"


@pytest.mark.parametrize("page", tables.PAGES)
def test_tables_are_those_of_the_committed_results(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert len(tables.BLOCK.findall(text)) == text.count(tables.START) > 0
    assert tables.renewed(text) == text


@pytest.mark.parametrize(
    "file", sorted((ROOT / "results").glob("*/seed*/result.json")), ids=lambda f: f.parts[-3]
)
def test_committed_results_are_of_the_recipes_as_they_stand(file):
    recipe, seed = file.parts[-3], int(file.parts[-2].removeprefix("seed"))
    assert recipes.is_of(file, recipe, seed)


def test_epochs_to_an_accuracy_are_read_off_or_extrapolated():
    # Errors of one over the square root of the epoch: 0.18 comes after 1 / 0.18 ** 2 epochs.
    run = {"history": [{"epoch": n, "val/top1": 1 - n**-0.5} for n in range(1, 11)]}
    assert epochs_to(run, 0.5) == 4
    assert epochs_to(run, 0.82) == pytest.approx(1 / 0.18**2)
    flat = {"history": [{"epoch": n, "val/top1": 0.5} for n in range(1, 11)]}
    assert epochs_to(flat, 0.82) == math.inf


def test_a_result_stays_its_recipes_when_settings_that_do_nothing_are_added(tmp_path):
    result = results.read_result(ROOT / "results/default/seed0/result.json")
    file = tmp_path / "result.json"
    later = dict(result["settings"])
    later.popitem()
    file.write_text(json.dumps(result | {"settings": later}))
    assert recipes.is_of(file, "default", 0)
    file.write_text(json.dumps(result | {"settings": later | {"no such setting": 1}}))
    assert not recipes.is_of(file, "default", 0)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_nothing_committed_tells_where_a_machine_keeps_its_files(file):
    assert not re.search(r'"(/|[A-Z]:)', (ROOT / file).read_text(encoding="utf-8"))


def test_committed_results_are_of_clean_commits():
    committed = find_runs([ROOT / "results"])
    for result in committed:
        assert result["status"] == "ok"
        assert result["clean"] is True
    default = [
        result["seed"] for result in committed if repeat_command(result) == "python train.py"
    ]
    assert len(set(default)) >= 3


@pytest.mark.parametrize(
    "command",
    [line for line in commands(README + DOCS) if line.startswith("python train.py ")],
)
def test_the_pages_settings_exist(command, settings, tmp_path, monkeypatch):
    from cifar10.runs.components import build_components

    monkeypatch.chdir(tmp_path)
    for number in range(80):
        path = tmp_path / "my photos" / "train" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40)).save(path)
    words = [word for word in shlex.split(command)[2:] if not word.startswith("-")]
    build_components(settings(*map(first, words)), tmp_path)


@pytest.mark.parametrize(
    "command", [line for line in commands(README + DOCS) if line.startswith("cifar10 ")]
)
def test_the_pages_words_are_those_of_the_program(command):
    program = typer.main.get_command(cli.app)
    words = shlex.split(command)[1:]
    context = program.make_context("cifar10", words[:1], resilient_parsing=True)
    while isinstance(program, TyperGroup):
        name, program, words = program.resolve_command(context, words)
    program.make_context(name, words)


def first(word: str) -> str:
    """An override with the first of its values."""
    override = OverridesParser.create().parse_override(word)
    if not override.is_sweep_override():
        return word
    values = override.value()
    start = values.start if isinstance(values, IntervalSweep) else next(override.sweep_iterator())
    return f"{override.get_key_element()}={start}"


def test_the_readmes_map_has_every_file_and_no_other():
    listed = re.findall(r"^(cifar10/\S+\.py) ", README, re.MULTILINE)
    files = [path.relative_to(ROOT).as_posix() for path in ROOT.glob("cifar10/**/*.py")]
    assert sorted(listed) == sorted(name for name in files if not name.endswith("__init__.py"))
    for line in re.findall(r"^cifar10/\S+\.py +(.*)$", README, re.MULTILINE):
        assert len(line.split()) <= 7


def test_the_readmes_python_runs(tmp_path):
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    code += "assert probabilities.shape == (1, 10)\n"
    Image.new("RGB", (300, 200)).save(tmp_path / "photo.jpg")
    environment = os.environ | {"PYTHONPATH": str(Path(ROOT))}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
