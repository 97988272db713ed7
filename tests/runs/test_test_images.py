"""A run on a folder of images keeps its test images."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cifar10.inference.splits import how_tested, read_split
from cifar10.runs.result import RESULT_FILE, read_result
from cifar10.runs.run import run
from cifar10.runs.test_images import TEST_IMAGES


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


def test_a_run_is_evaluated_and_exported_without_its_folder(on_folder, cifar, tmp_path):
    folder, images = on_folder
    expected = read_result(folder / RESULT_FILE)["test"]
    in_folder, _ = read_split(how_tested(folder)._replace(folder=None), "test")
    moved = images.rename(images.with_name("gone"))
    try:
        for name in ("test.csv", "val.csv"):
            code, _, err = cifar(
                *("evaluate", folder, "--out", tmp_path / "out", "--predictions", name),
                *(("--split", "val") if name == "val.csv" else ()),
            )
            assert code == (2 if name == "val.csv" else 0), err
        assert "no such folder" in err
        assert cifar("export", folder, "--to", "torch", "--out", tmp_path / "x.pt2")[0] == 0
    finally:
        moved.rename(images)
    saved = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert {key: saved[key] for key in expected} == expected
    rows = [line.split(",")[0] for line in Path("test.csv").read_text().splitlines()[1:]]
    assert rows == in_folder.names
    kept, _ = read_split(how_tested(folder), "test")
    assert torch.equal(kept.images, in_folder.images)
    assert all((images / name).is_file() for name in rows)


@pytest.mark.parametrize("damage", ["cut", "changed", "pickle", "other data", "short", "names"])
def test_damaged_test_images_are_reported(damage, on_folder, cifar, tmp_path):
    folder = shutil.copytree(on_folder[0], tmp_path / "copy")
    path = folder / TEST_IMAGES
    tensors = {key: value.clone() for key, value in load_file(path).items()}  # not the file
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "pickle":
        torch.save(tensors, path)
    elif damage == "other data":
        result = json.loads((folder / RESULT_FILE).read_text())
        result["data"]["digest"] = "0" * 64
        (folder / RESULT_FILE).write_text(json.dumps(result))
    else:
        if damage == "changed":
            tensors["images"] = 255 - tensors["images"]
        tensors["labels"] = tensors["labels"][: 3 if damage == "short" else None]
        save_file(tensors, path, {"names": "[]" if damage == "names" else "[" * 10**5})
    code, _, err = cifar("evaluate", folder)
    assert code == 2 and "Traceback" not in err
    assert f"{TEST_IMAGES}: " in err


def test_a_run_on_cifar10_keeps_none(trained):
    assert not (trained / TEST_IMAGES).exists()
