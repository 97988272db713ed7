"""Shared by the tests of sweeps: a sweep in this process, a sweep in another process."""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import train
from tests.processes import TrainProcess

TINY = (
    "data=sample",
    "trainer.max_epochs=1",
    "+trainer.limit_train_batches=2",
    "report=false",
    "threads=1",
    "logger=csv",
)


@pytest.fixture
def sweep(type_in, monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Runs a sweep in this process; returns exit code, stdout and stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["train.py", "--multirun", *TINY, *words])
        code = 0
        try:
            train.cli()
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


def start(folder: Path, *words: str) -> TrainProcess:
    """Start a sweep in a process of its own, with `folder` as its working directory."""
    return TrainProcess(folder, "--multirun", *TINY, *words)


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The result.json of each run of a sweep, by the name of its folder."""
    files = sorted(folder.glob("*/result.json"))
    return {file.parent.name: json.loads(file.read_text()) for file in files}


def read_csv(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "summary.csv").read_text().splitlines()))
