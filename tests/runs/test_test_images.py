"""A run on a folder of images keeps its test images."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cifar10.data.image_cache import content_digest
from cifar10.inference.splits import how_tested, read_split
from cifar10.runs.result import RESULT_FILE, read_result
from cifar10.runs.run import run
from cifar10.runs.test_images import TEST_IMAGES, read_test_images


@pytest.fixture(scope="module")
def on_folder(photos, tmp_path_factory):
    """A run on a copy of photos, and the copy."""
    from cifar10.core.settings import compose_settings
    from tests.processes import TINY

    base = tmp_path_factory.mktemp("kept")
    copy = shutil.copytree(photos, base / "photos")
    settings = compose_settings(*TINY, "data=folder", f"data.dir='{copy}'", "data.batch_size=10")
    run(settings, base / "run", [])
    return base / "run", copy


def test_a_run_is_evaluated_and_exported_without_its_folder(on_folder, cifar, tmp_path, caplog):
    folder, images = on_folder
    expected = read_result(folder / RESULT_FILE)["test"]
    in_folder, origin = read_split(how_tested(folder), "test")
    assert "file" not in origin
    moved = images.rename(images.with_name("gone"))
    try:
        for name in ("test.csv", "val.csv"):
            code, _, err = cifar(
                *("evaluate", folder, "--out", tmp_path / "out", "--predictions", name),
                *(("--split", "val") if name == "val.csv" else ()),
            )
            assert code == (2 if name == "val.csv" else 0), err
            kept = "using the test images that the run kept" in caplog.text
            assert kept == (name == "test.csv")
            caplog.clear()
        assert "no such folder" in err
        assert cifar("export", folder, "--to", "torch", "--out", tmp_path / "x.pt2")[0] == 0
    finally:
        moved.rename(images)
    saved = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert {key: saved[key] for key in expected} == expected
    assert saved["file"] == TEST_IMAGES
    rows = [line.split(",")[0] for line in Path("test.csv").read_text().splitlines()[1:]]
    assert rows == in_folder.names
    kept = read_test_images(folder, how_tested(folder).digest)
    assert torch.equal(kept.images, in_folder.images)
    assert all((images / name).is_file() for name in rows)


def forged(tensors, folder, **metadata):
    """Save other test images in a run, with a digest that fits."""
    result = read_result(folder / RESULT_FILE)
    count = len(tensors["labels"])
    names = json.dumps([str(number) for number in range(count)])
    content = content_digest(tensors["images"], tensors["labels"])
    given = {"names": names, "content": content, "data": result["data"]["digest"]} | metadata
    save_file(tensors, folder / TEST_IMAGES, given)


LABELS = {
    "negative": lambda labels: labels - 1,
    "ignored": lambda labels: labels * 0 - 100,
    "beyond": lambda labels: labels + 4,
    "floats": lambda labels: labels.double(),
    "bools": lambda labels: labels.bool(),
    "a column": lambda labels: labels[:, None].contiguous(),
    "one-hot": torch.nn.functional.one_hot,
    "none": lambda labels: labels[:0],
}
DAMAGE = ["cut", "changed", "pickle", "other data", "short", "names", "odd names", "pipe", "folder"]


@pytest.mark.parametrize("damage", [*DAMAGE, *LABELS])
def test_damaged_test_images_are_reported(damage, on_folder, cifar, tmp_path):
    folder = shutil.copytree(on_folder[0], tmp_path / "copy")
    path = folder / TEST_IMAGES
    tensors = {key: value.clone() for key, value in load_file(path).items()}  # not the file
    images, labels = tensors["images"], tensors["labels"]
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "pickle":
        torch.save(tensors, path)
    elif damage == "other data":
        change_data(folder, digest="0" * 64)
    elif damage in LABELS:
        labels = LABELS[damage](labels)
        forged({"images": images[: len(labels)].contiguous(), "labels": labels}, folder)
    elif damage == "odd names":
        forged(tensors, folder, names=json.dumps([None] * len(labels)))
    elif damage in ("pipe", "folder"):
        path.unlink()
        (os.mkfifo if damage == "pipe" else os.mkdir)(path)
    else:
        images = 255 - images if damage == "changed" else images
        labels = labels[: 3 if damage == "short" else None]
        names = "[]" if damage == "names" else "[" * 10**5
        save_file({"images": images, "labels": labels}, path, {"names": names})
    moved = on_folder[1].rename(on_folder[1].with_name("gone"))
    try:
        code, _, err = cifar("evaluate", folder)
    finally:
        moved.rename(on_folder[1])
    assert code == 2 and "Traceback" not in err
    assert f"{TEST_IMAGES}: " in err or "labels of no class" in err
    assert not [*folder.glob("evaluation-*")]


def change_data(folder, digest=None, **settings):
    result = json.loads((folder / RESULT_FILE).read_text())
    result["data"]["digest"] = digest or result["data"]["digest"]
    result["config"]["data"] |= settings
    (folder / RESULT_FILE).write_text(json.dumps(result))


def test_kept_images_replace_those_of_a_damaged_folder(on_folder, cifar, tmp_path, caplog):
    folder, images = on_folder
    broken = next(images.rglob("*.png"))
    content = broken.read_bytes()
    try:
        broken.write_bytes(b"no image")
        assert cifar("evaluate", folder, "--out", tmp_path / "out")[0] == 0
    finally:
        broken.write_bytes(content)
    assert "using the test images that the run kept" in caplog.text


def test_kept_images_replace_no_data_set_that_is_here(on_folder, trained, cifar, tmp_path, caplog):
    """Otherwise a stranger's run would choose what it is tested on."""
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    tensors = {"images": images, "labels": torch.zeros(5, dtype=torch.int64)}
    for name, run_folder, count in (("own", on_folder[0], 8), ("sample", trained, 500)):
        copy = shutil.copytree(run_folder, tmp_path / name)
        assert read_result(copy / RESULT_FILE)["data"]["test"] == count
        forged(tensors, copy)
        assert cifar("evaluate", copy)[0] == 0
        assert f"{count} test images" in caplog.text and "the run kept" not in caplog.text


def test_kept_images_are_only_those_of_a_folder(trained, cifar, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "copy")
    forged(
        {"images": torch.zeros(1, 3, 32, 32).byte(), "labels": torch.zeros(1).long()},
        copy,
        data="0" * 64,
    )
    change_data(copy, digest="0" * 64)
    code, _, err = cifar("evaluate", copy)
    assert (code, "differs from the data set of the run" in err) == (2, True), err


def test_a_run_on_cifar10_keeps_none(trained):
    assert not (trained / TEST_IMAGES).exists()
