"""`python train.py --help`, and the comment that each setting has in configs/."""

import json
import re

import pytest
import yaml

from cifar10.core.help import comments, help_text
from cifar10.core.settings import CONFIGS, compose_config, flatten
from tests.processes import run_python

FILES = sorted(CONFIGS.rglob("*.yaml"))


def keys(node, prefix=""):
    """The keys of a YAML file, dotted; those of a value such as `{1: 24}` are none."""
    for key, child in (node or {}).items():
        yield f"{prefix}{key}"
        if isinstance(child, dict) and all(isinstance(name, str) for name in child):
            yield from keys(child, f"{prefix}{key}.")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONFIGS)))
def test_every_key_of_a_yaml_file_has_a_comment(file):
    meaning = comments(file)
    found = keys(yaml.safe_load(file.read_text(encoding="utf-8")))
    assert [key for key in found if key != "defaults" and not meaning.get(key)] == []


def test_comments_are_read_by_dotted_key(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("# header\na: 1 # one\nb: # group\n  c: x#y # deep\n  d: 2\ne: 3 #four\n")
    assert comments(file) == {"a": "one", "b": "group", "b.c": "deep", "e": "four"}


@pytest.mark.parametrize("words", [[], ["data=folder", "data.dir=x"], ["experiment=airnet94"]])
def test_the_help_lists_every_setting_with_its_value_and_meaning(words):
    text = help_text([*words, "--help"])
    assert all(len(line) <= 100 for line in text.splitlines())
    without_meaning = []
    for key, value in flatten(compose_config(*words)).items():
        shown = json.dumps(value) if value is None or isinstance(value, bool) else value
        start = re.escape(f"{key}={shown}"[:40])
        line = re.search(rf"^  {start}.*(\n {{30,}}.*)?", text, re.MULTILINE)
        assert line, key
        if not re.search(r"  \S", line[0].strip()):
            without_meaning.append(key)
    assert without_meaning == []


def test_the_help_offers_the_files_of_each_group_but_not_those_that_others_include():
    text = help_text([])
    for group in ("data", "model", "optimizer", "scheduler", "trainer", "sweep"):
        offered = re.search(rf"^{group}=\w+ \(choose from (.*)\)$", text, re.MULTILINE)[1]
        names = {path.stem for path in (CONFIGS / group).glob("*.yaml")}
        assert set(offered.split(", ")) == {name for name in names if not name.startswith("_")}
    assert "experiment (airbench94, airnet94, " in text
    assert not re.search(r"[ (]_\w+[,)]", text)
    assert not re.search(r"^ {0,2}hydra\b", text, re.MULTILINE)


def test_help_and_printed_settings_need_no_torch(tmp_path):
    """Importing torch and Lightning takes seconds."""
    code = """
import sys, train
for flags in (["--help"], ["--cfg", "job"], ["--info", "config"]):
    sys.argv = ["train.py", *flags]
    train.cli()
heavy = {"torch", "lightning", "matplotlib", "numpy"} & set(sys.modules)
assert not heavy, heavy
"""
    shown = run_python(code, tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "python train.py experiment=airnet94" in shown.stdout
    assert "optimizer=muon (choose from adamw, muon, muon_sgd, sgd)" in shown.stdout
    assert "ns_steps: 3" in shown.stdout
    assert list(tmp_path.iterdir()) == []


def test_words_of_a_sweep_are_ignored():
    assert "optimizer.lr=0.07" in help_text(["-m", "optimizer.lr=0.05,0.1", "--config-dir", "mine"])
