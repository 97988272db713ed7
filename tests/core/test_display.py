"""Class names that hold anything: shown safely, kept exactly in JSON."""

import csv
import json
import logging
import os

import numpy as np
import pytest
import torch
from PIL import Image

from cifar10.core.display import as_text, csv_cell, safe_table, short, short_names
from cifar10.core.errors import SettingError
from cifar10.core.secrets import SafeFormatter, exit_with
from cifar10.inference.evaluate import evaluate_model, format_scores
from cifar10.inference.predict import print_csv, print_json, print_text
from cifar10.launch import Prepared, train_and_report
from cifar10.runs.components import build_components
from cifar10.runs.load import load

NAMES = (
    "$x^$",
    "$$",
    "\x1b[31mred",
    "😀 emoji",
    "a" * 240,
    "שלום",
    "\u202egnp.exe",
    os.fsdecode(b"caf\xe9"),  # not UTF-8
    "=cmd|'calc'!A0",
    "<b>&",
    "[bold]",
    "two\nlines",
    "a" * 239,
    "0",
    "true",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_shown_without_control_characters(name):
    assert short(name).isprintable()
    assert len(short(name)) <= 40
    cell = csv_cell(name)
    assert cell.isprintable()
    assert cell[0] not in "=+-@"


FORGED = "x\nINFO: verified\n"


def test_no_name_begins_a_line_of_its_own(capsys):
    record = logging.LogRecord("cifar10", 20, "", 0, "opened %s and %d", (FORGED, 3), None)
    assert SafeFormatter("%(message)s").format(record) == r"opened x\nINFO: verified\n and 3"
    library = logging.LogRecord("timm", 20, "", 0, f"opened {FORGED}", (), None)
    assert "\n" not in SafeFormatter("%(message)s").format(library)
    with pytest.raises(SystemExit):
        exit_with(SettingError(f"{FORGED}: unknown", details="a\nb\n"))
    assert capsys.readouterr().err.count("\n") == 3
    text = as_text(safe_table(["", FORGED], [[FORGED, "1"], ["y", "2"]]), 80)
    assert text.count("\n") == 2


def test_what_looks_like_a_formula_is_quoted_in_csv():
    for text in ("=1", " =1", "+1", "\uff1d1", "@x", "-1"):
        assert csv_cell(text) == f"'{text}"
    assert csv_cell("a=1") == "a=1"


def test_numbers_are_left_alone_in_csv():
    assert list(map(csv_cell, (-1.5, None, "plain", "-1"))) == [-1.5, None, "plain", "'-1"]


def test_names_stay_different_when_shortened():
    names = short_names(NAMES)
    assert len(set(names)) == len(NAMES)
    assert names[:2] == ["$x^$", "$$"]


@pytest.mark.slow
def test_classes_with_any_name_are_trained_reported_and_evaluated(
    settings, tmp_path, caplog, capsys, recwarn
):
    rng = np.random.default_rng(0)
    for name in NAMES:
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number}.png")
    typed = ["data=folder", f"data.dir={tmp_path / 'data'}", "trainer.max_epochs=1"]
    typed += ["data.test_size=30", "data.val_size=15", "data.batch_size=10"]
    chosen = settings(*typed, "model._target_=tests.network.Small")
    folder = tmp_path / "run"
    prepared = Prepared(chosen, None, False, build_components(chosen, folder))
    _, page = train_and_report(prepared, folder, typed, 0.0)
    assert page.exists()
    assert "report is incomplete" not in caplog.text
    assert not [warning for warning in recwarn if "matplotlib" in str(warning.filename)]
    classifier = load(folder)
    assert sorted(classifier.classes) == sorted(NAMES)
    scores, saved = evaluate_model(folder)
    assert list(json.loads((saved / "evaluation.json").read_text())["per_class"]) == sorted(NAMES)
    lines = format_scores(scores).splitlines()[-len(NAMES) :]
    assert [line.rsplit(maxsplit=4)[0] for line in lines] == short_names(sorted(NAMES))

    predictions = [(tmp_path / "x.png", list(zip(sorted(NAMES), [1 / 15] * 15, strict=True)))]
    print_csv(predictions)
    rows = list(csv.reader(capsys.readouterr().out.splitlines()))
    assert len(rows) == 1 + len(NAMES)
    print_json(predictions)
    text = capsys.readouterr().out
    assert all(line.isprintable() for line in text.split("\n"))
    listed = json.loads(text)[0]["predictions"]
    assert [each["class"] for each in listed] == sorted(NAMES)
    print_text(predictions)
    assert all(line.isprintable() for line in capsys.readouterr().out.splitlines())
    assert torch.isfinite(torch.tensor(scores["loss"]))
