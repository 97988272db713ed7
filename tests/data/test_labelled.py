"""Labelled images from folders, CSV files and the NumPy files of CIFAR-10.1 and CIFAR-10-C."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cifar10.data import CLASSES
from cifar10.data.labelled import CORRUPTIONS, read_labelled

COUNT = 30


@pytest.fixture
def kinds(sample, tmp_path, monkeypatch):
    """Thirty test images of the sample, none of them a cat, in every kind."""
    chosen = (sample.test_labels != 3).nonzero()[::15, 0][:COUNT]
    images = sample.test_images[chosen].permute(0, 2, 3, 1).numpy()
    labels = sample.test_labels[chosen].numpy()
    rows = []
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = tmp_path / "images" / CLASSES[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        rows.append((path.relative_to(tmp_path), label if number % 2 else CLASSES[label]))
    with (tmp_path / "labels.csv").open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    data = tmp_path / "data"
    (data / "CIFAR-10-C").mkdir(parents=True)
    for version in ("v4", "v6"):
        np.save(data / f"cifar10.1_{version}_data.npy", images)
        np.save(data / f"cifar10.1_{version}_labels.npy", labels.astype(np.int32))
    for name in CORRUPTIONS:
        fades = [(images * (1 - severity / 5)).astype(np.uint8) for severity in range(5)]
        np.save(data / "CIFAR-10-C" / f"{name}.npy", np.concatenate(fades))
    np.save(data / "CIFAR-10-C" / "labels.npy", np.tile(labels.astype(np.uint8), 5))
    monkeypatch.setenv("CIFAR10_DATA_DIR", str(data))
    monkeypatch.chdir(tmp_path)
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels)


@pytest.mark.parametrize("source", ["images", "labels.csv", "cifar10.1", "cifar10.1-v4"])
def test_every_kind_holds_the_same_images_and_labels(source, kinds):
    images, labels = kinds
    found = read_labelled(source, CLASSES)
    order = range(COUNT)
    if source == "images":
        order = [int(Path(name).stem) for name in found.names]
        assert found.names[0] == f"{CLASSES[found.labels[0]]}/{order[0]}.png"
    assert torch.equal(found.images, images[order])
    assert torch.equal(found.labels, labels[order])


def test_corruptions_are_in_the_order_of_the_benchmark(kinds):
    images, labels = kinds
    found = read_labelled("cifar10-c", CLASSES)
    each = 5 * COUNT
    assert found.names[each + 1] == "shot_noise/1"
    assert torch.equal(found.labels, labels.repeat(5 * len(CORRUPTIONS)))
    assert torch.equal(found.images[torch.tensor([3, each])], images[[3, 0]])
    batches = list(found.batches(100))
    assert sum(len(part) for part, _ in batches) == each * len(CORRUPTIONS)
    assert torch.equal(batches[0][0][:COUNT], images)


@pytest.mark.parametrize("source", ["images", "labels.csv", "cifar10.1", "cifar10-c"])
def test_evaluate_scores_and_lists_every_image(source, kinds, cifar):
    code, out, err = cifar("evaluate", "convnet", "--data", source, "--predictions", "each.csv")
    assert (code, "none" in out) == (0, True), err
    (folder,) = Path().glob("convnet-evaluation-*")
    scores = json.loads((folder / "evaluation.json").read_text())
    with Path("each.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == scores["images"]
    right = [row["label"] == row["prediction"] for row in rows]
    assert scores["top1"] == pytest.approx(sum(right) / len(rows), abs=1e-6) and any(right)
    for row in rows[:20]:
        shares = {name: float(row[name]) for name in CLASSES}
        assert max(shares, key=shares.get) == row["prediction"]
        assert sum(shares.values()) == pytest.approx(1, abs=1e-4)
    assert next(iter(rows[0])) == ("index" if source == "cifar10.1" else "path")
    if source == "cifar10-c":
        means = [value for row in scores["corruptions"].values() for value in row]
        assert len(means) == 5 * len(CORRUPTIONS)
        assert sum(means) / len(means) == pytest.approx(scores["top1"], abs=1e-5)
        assert f"{means[0]:.2%}" in next(line for line in out.split("\n") if "gaussian" in line)
    code, _, err = cifar("evaluate", "convnet", "--data", source, "--predictions", "each.csv")
    assert (code, "each.csv: already exists" in err) == (2, True)


def spoil_labels(data: Path) -> None:
    np.save(data / "cifar10.1_v6_labels.npy", np.full(COUNT, 10))


def pickled(data: Path) -> None:
    np.save(data / "cifar10.1_v6_data.npy", np.array([{}, {}]), allow_pickle=True)


def zipped(data: Path) -> None:
    with (data / "cifar10.1_v6_data.npy").open("wb") as file:
        np.savez(file, np.zeros((30, 32, 32, 3), np.uint8))


def negative(data: Path) -> None:
    path = data / "cifar10.1_v6_data.npy"
    path.write_bytes(path.read_bytes().replace(b"(30, 32", b"(-1, 32", 1))


def claims_more(data: Path) -> None:
    path = data / "cifar10.1_v6_data.npy"
    path.write_bytes(path.read_bytes()[:-1])


DAMAGE = {
    "missing labels": (lambda data: (data / "cifar10.1_v6_labels.npy").unlink(), "no cifar10.1_v6"),
    "labels": (spoil_labels, "labels outside 0 to 9"),
    "fewer labels": (
        lambda data: np.save(data / "cifar10.1_v6_labels.npy", np.zeros(3, int)),
        "must be 30 integers",
    ),
    "floats": (
        lambda data: np.save(data / "cifar10.1_v6_data.npy", np.zeros((30, 32, 32, 3))),
        "float64 (30, 32, 32, 3); must be uint8",
    ),
    "pickled": (pickled, "not a NumPy array of numbers (Array"),
    "zipped": (zipped, "not a NumPy array of numbers (an archive of arrays)"),
    "negative": (negative, "not a NumPy array of numbers"),
    "cut": (claims_more, "not a NumPy array of numbers"),
    "empty": (lambda data: (data / "cifar10.1_v6_data.npy").write_bytes(b""), "not a NumPy array"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_files_are_named(kind, kinds, cifar, tmp_path):
    damage, message = DAMAGE[kind]
    damage(tmp_path / "data")
    code, _, err = cifar("evaluate", "convnet", "--data", "cifar10.1")
    assert code and message in err and "Traceback" not in err, err


def test_a_missing_corruption_is_named(kinds, cifar, tmp_path):
    (tmp_path / "data" / "CIFAR-10-C" / "fog.npy").unlink()
    code, _, err = cifar("evaluate", "convnet", "--data", "cifar10-c")
    assert (code, "no fog.npy" in err) == (2, True), err
    path = tmp_path / "data" / "CIFAR-10-C" / "fog.npy"
    np.save(tmp_path / "data" / "fog.npy", np.load(path.with_name("frost.npy")))  # of another set
    code, _, err = cifar("evaluate", "convnet", "--data", "cifar10-c")
    assert (code, "no fog.npy" in err) == (2, True), err
    np.save(path, np.zeros((5, 32, 32, 3), np.uint8))
    code, _, err = cifar("evaluate", "convnet", "--data", "cifar10-c")
    assert (code, "fog.npy: 5 images; all files" in err) == (2, True), err


def test_labels_are_those_beside_the_images_and_the_same_for_each_severity(kinds, cifar, tmp_path):
    _, labels = kinds
    other = tmp_path / "data" / "another set"
    other.mkdir()
    np.save(other / "labels.npy", np.tile(9 - labels.numpy(), 5))
    assert torch.equal(read_labelled("cifar10-c", CLASSES).labels[:COUNT], labels)
    np.save(tmp_path / "data" / "CIFAR-10-C" / "labels.npy", np.arange(5 * COUNT) % 7)
    code, _, err = cifar("evaluate", "convnet", "--data", "cifar10-c")
    assert (code, "the labels of the severities differ" in err) == (2, True), err


def test_spaces_beside_a_label_do_not_count(kinds, tmp_path):
    (tmp_path / "labels.csv").write_text("path, label\nimages/airplane/0.png, cat \n")
    assert read_labelled("labels.csv", CLASSES).labels.tolist() == [CLASSES.index("cat")]


ROWS = {
    "path,label\nimages/x.png,cat\n": "labels.csv:2: images/x.png: no such file",
    "path,label\nimages/airplane/0.png,catt\n": "catt is no class of the model; did you mean cat?",
    "path,label\nimages/airplane/0.png,10\n": "labels.csv:2: 10 is no class of the model",
    "path,label\nimages/airplane/0.png\n": "'' is no class of the model",
    "file,label\nimages/airplane/0.png,0\n": "labels.csv: no column path",
    "path,label\n": "labels.csv: no images",
    "": "no column label or path",
    "path,label\nlabels.csv,0\n": "1 of 1 images cannot be read",
}


@pytest.mark.parametrize("text", ROWS)
def test_a_faulty_line_of_a_csv_file_is_named(text, kinds, cifar, tmp_path):
    (tmp_path / "labels.csv").write_text(text)
    code, _, err = cifar("evaluate", "convnet", "--data", "labels.csv")
    assert code and ROWS[text] in err and "Traceback" not in err, err


def test_a_folder_must_hold_class_folders(kinds, cifar, tmp_path):
    for name in ("outer/test", "outer/train", "photos/train"):
        (tmp_path / name).mkdir(parents=True)
    loose = shutil.copy(next((tmp_path / "images" / "frog").iterdir()), tmp_path / "images")
    odd = tmp_path / "images" / "odd"
    for source, message in (
        ("outer", "test is no class of the model; did you mean outer/test?"),
        ("photos", "train is no class of the model; did you mean photos/train?"),
        ("nosuch", "no such folder or CSV file, and not cifar10.1"),
        ("images", f"{Path(loose).name} is in no class folder"),
        ("outer/test", "no class folders"),
    ):
        code, _, err = cifar("evaluate", "convnet", "--data", source)
        assert (code, message in err) == (2, True), err
    Path(loose).unlink()
    odd.mkdir()
    code, _, err = cifar("evaluate", "convnet", "--data", "images")
    assert (code, "odd is no class of the model" in err) == (2, True), err
    code, _, err = cifar("evaluate", "convnet", "--data", "images", "--split", "val")
    assert "--split and --data: choose one of them" in err


def test_benchmarks_of_cifar10_need_its_classes(kinds):
    with pytest.raises(Exception, match="other classes than CIFAR-10"):
        read_labelled("cifar10.1", ["a", "b"])
