"""What a run prints: duration, epoch lines, closing summary, progress bar."""

import fcntl
import os
import pty
import re
import struct
import termios
import threading
from pathlib import Path

import pytest
from lightning.pytorch.loggers import TensorBoardLogger

from cifar10.reports.loggers import where_to_look
from cifar10.runs.console import announce, epoch_line, format_duration, summary
from cifar10.training.hardware import Hardware
from tests.processes import TINY, TrainProcess

RESULT = {
    "test": {"loss": 0.5012, "top1": 0.84, "top3": 0.9714, "top5": 0.9924},
    "val": {"loss": 0.48, "top1": 0.85},
    "data": {"validation": "held-out", "test": 10_000, "tested": 10_000},
    "seconds": {"training": 163.2, "total": 170.1},
    "parameters": 2_791_434,
    "checkpoint": "best.ckpt",
    "epochs": 4,
    "best_epoch": 4,
}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.6, "1 min 0 s"), (163, "2 min 43 s"), (3900, "1 h 5 min")],
)
def test_times_are_readable(seconds, text):
    assert format_duration(seconds) == text


def test_an_epoch_is_one_line_of_at_most_80_columns():
    values = {"train/loss": 1.65134, "val/loss": 1.1903, "val/top1": 0.5968}
    line = epoch_line(4, 24, values | {"train/images_per_second": 43_210.4})
    assert line == (
        "epoch  4/24  train/loss 1.6513  val/loss 1.1903  val/top-1 59.68%  43,210 img/s"
    )
    assert len(line) <= 80
    assert epoch_line(1, 2, {"train/top1": 0.5}) == "epoch 1/2  train/top-1 50.00%"


def test_the_summary_has_the_wilson_interval_and_fits_80_columns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "outputs" / "2026-11-27_12-00-00-000001"
    folder.mkdir(parents=True)
    curves = where_to_look([TensorBoardLogger(folder, "", "")], folder)
    text = summary(RESULT, folder, folder / "report.html", curves)
    # z = 1.95996: centre (0.84 + 0.000192) / 1.000384, half width 0.007185
    assert "test top-1  84.00%  (95% confidence interval 83.27% to 84.71%)" in text.splitlines()[0]
    for part in ("2,791,434", "2 min 50 s (training 2 min 43 s)", "4 of 4"):
        assert part in text
    assert text.count(str(folder)) == 1
    for step in ("report.html", "tensorboard --logdir", "cifar10 predict --model latest"):
        assert step in text
    assert all(len(line) <= 80 for line in text.splitlines() if str(folder) not in line)
    columns = {re.match(r"(\S+ )*\S* +(?=\S)", line).end() for line in text.splitlines()}
    assert len(columns) <= 2  # aligned


def test_the_summary_names_a_limited_test_and_a_run_without_validation(tmp_path):
    data = {"validation": None, "test": 500, "tested": 100}
    text = summary(RESULT | {"data": data, "val": {}}, tmp_path)
    assert re.search(r"tested on +100 of 500 images", text)
    assert re.search(r"epoch +4 of 4 \(last epoch, no validation images\)", text)
    assert "tested on" not in summary(RESULT, tmp_path)
    nothing_saved = RESULT | {"best_epoch": None, "checkpoint": None}
    text = summary(nothing_saved, tmp_path)
    assert re.search("epoch +4 of 4", text) and "cifar10 predict" not in text
    views = summary(RESULT | {"test_views": {"top1": 0.86}}, tmp_path)
    assert re.search(r"6-view TTA +86\.00%", views)


def on_terminal(folder: Path, columns: int, *arguments: str) -> tuple[TrainProcess, str]:
    """A run on a pseudo-terminal of a width; what it wrote there."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    received: list[bytes] = []

    def read() -> None:
        try:
            while data := os.read(master, 4096):
                received.append(data)
        except OSError:  # the last writer has closed the terminal
            pass

    reader = threading.Thread(target=read)
    reader.start()
    run = TrainProcess(
        folder,
        *arguments,
        stdout=os.ttyname(slave),
        environment={"TERM": "xterm-256color"},
    )
    code = run.wait()
    os.close(slave)
    reader.join(20)
    os.close(master)
    text = b"".join(received).decode()
    assert code == 0, text + run.err
    return run, text


@pytest.mark.parametrize("columns", [80, 120])
def test_the_progress_bar_shows_loss_accuracy_rate_and_time_left(columns, tmp_path):
    more = ("trainer.max_epochs=2", "logger=csv", "threads=1", f"hydra.run.dir={tmp_path / 'run'}")
    _, text = on_terminal(tmp_path, columns, *TINY, *more)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    lines = [line for line in re.split(r"[\r\n]+", plain) if line and "run folder" not in line]
    bars = [line for line in lines if "left" in line]
    assert bars, lines
    figures = r"epoch [12]/2 .*%\s+loss \d\.\d{3}  top-1 \d+\.\d%  [\d,]+ img/s  \d+ s left"
    assert all(re.search(figures, bar) for bar in bars), bars
    assert max(map(len, bars)) <= columns
    assert all(len(line) <= columns for line in lines if str(tmp_path) not in line)


@pytest.mark.parametrize(("trained", "text"), [(10, "10 parameters"), (4, ", 4 of them trained")])
def test_a_run_says_how_many_parameters_it_trains(trained, text, tmp_path, caplog):
    caplog.set_level("INFO", "cifar10")
    data = {"name": "x", "validation": None} | dict.fromkeys(("train", "val", "test"), 1)
    choices = {name: {"value": "x", "reason": "y"} for name in Hardware._fields}
    rest = {"network": "Net", "parameters": 10, "trained_parameters": trained, "device": "CPU"}
    announce({"data": data} | choices | rest, tmp_path)
    line = next(line for line in caplog.messages if line.startswith("network"))
    assert line.endswith(text)
