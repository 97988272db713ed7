"""`cifar10 predict`: classify images."""

import csv
import io
import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import cifar10
from cifar10.data import CLASSES
from cifar10.data.images import read_image


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "my photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(3):
        pixels = generator.integers(0, 256, (40 + number, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_predictions_are_printed_as_text_json_and_csv(cifar, photos, trained):
    paths = [str(photos / f"{number}.png") for number in range(3)]
    images = torch.stack([read_image(path) for path in paths])
    expected = cifar10.load(trained).predict(images)
    best = [CLASSES[label] for label in expected.argmax(1)]

    code, out, err = cifar("predict", photos, "-m", trained, "--json", "--top", 10)
    assert (code, err) == (0, "")
    rows = json.loads(out)
    assert [row["path"] for row in rows] == paths
    assert [row["predictions"][0]["class"] for row in rows] == best
    for row, probabilities in zip(rows, expected, strict=True):
        printed = {p["class"]: p["probability"] for p in row["predictions"]}
        assert list(printed.values()) == sorted(printed.values(), reverse=True)
        for name, probability in zip(CLASSES, probabilities.tolist(), strict=True):
            assert printed[name] == pytest.approx(probability, abs=2e-3)

    code, out, _ = cifar("predict", *paths, "-m", trained / "best.ckpt", "--csv", "--top", 2)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert [row["class"] for row in rows if row["rank"] == "1"] == best
    assert len(rows) == 6

    code, out, _ = cifar("predict", f"{photos}/*.png", "-m", trained, "--top", 1)
    lines = out.splitlines()
    assert lines[::2] == paths
    assert [line.split()[0] for line in lines[1::2]] == best


def test_unreadable_files_are_reported_and_skipped(cifar, photos, trained):
    (photos / "empty.jpg").touch()
    (photos / "notes.txt").touch()
    code, out, err = cifar("predict", photos, "-m", trained, "--json")
    assert code == 1
    assert len(json.loads(out)) == 3
    error, *rest = err.splitlines()
    assert error.startswith(f"error: {photos}/empty.jpg: ")
    assert rest == ["skipped 1 file that is not an image", "1 of 4 files could not be read"]


def test_a_missing_path_does_not_stop_the_others(cifar, photos, trained):
    image = sorted(photos.iterdir())[0]
    code, out, err = cifar("predict", "nowhere.jpg", image, "-m", trained, "--json")
    assert code == 1
    assert [row["path"] for row in json.loads(out)] == [str(image)]
    assert err.startswith("error: nowhere.jpg: ") and err.count("\n") == 1
    code, out, err = cifar("predict", "nowhere.jpg", "", "-m", trained)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1 and "nowhere.jpg" in err and "''" in err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_are_not_opened_and_control_characters_are_escaped(cifar, trained, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "red\x1b[31m.png").touch()
    code, _, err = cifar("predict", *sorted(tmp_path.glob("*.png")), "-m", trained)
    assert code == 1
    assert f"error: {tmp_path}/pipe.png: " in err
    assert f"error: {tmp_path}/red\\x1b[31m.png: " in err


def test_a_network_that_outputs_nan_is_an_error(cifar, photos, broken_run):
    code, _, err = cifar("predict", photos, "-m", broken_run)
    assert code == 2
    assert err.startswith("error: the network ") and err.count("\n") == 1


def test_kaggle_rows_are_in_the_order_of_numbers(cifar, trained, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for number in (10, 2, 1, 300):
        Image.new("RGB", (32, 32), (number % 256, 0, 0)).save(images / f"{number}.png")
    code, out, _ = cifar("predict", "images", "-m", trained, "--kaggle")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert (code, [row["id"] for row in rows]) == (0, ["1", "2", "10", "300"])
    assert {row["label"] for row in rows} <= set(CLASSES)
    shutil.copy(images / "1.png", images / "01.png")
    assert "two images have the same number" in cifar("predict", "images", "--kaggle")[2]
    (images / "01.png").rename(images / "cat.png")
    code, _, err = cifar("predict", "images", "--kaggle")
    assert (code, "cat.png: --kaggle needs images named by a number" in err) == (2, True)
