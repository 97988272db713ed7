"""A folder of class folders as a data set."""

import json
import os
import sys
import time
from zlib import crc32

import numpy as np
import pytest
import torch
from PIL import Image

from cifar10.core.errors import SettingError, UserError
from cifar10.core.instantiate import instantiate
from cifar10.data import images
from cifar10.data.image_cache import CACHE_FILE
from cifar10.data.image_folder import FolderDataModule, channel_moments
from cifar10.data.images import read_image

CLASSES = ("ant", "big bee", "wasp")


def write_photo(path, colour, size):
    """Save an image with noise around a colour, so that no two are the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(crc32(os.fsencode(path.name)))
    pixels = np.clip(rng.normal(colour, 20, (*size, 3)), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def photos(tmp_path):
    """Three classes of one colour each, 10 for training, 2 for validation and 4 for testing."""
    root = tmp_path / "my photos"
    for split, count in (("train", 10), ("val", 2), ("test", 4)):
        for label, name in enumerate(CLASSES):
            colour = [40 + 80 * (channel == label) for channel in range(3)]
            for number in range(count):
                write_photo(root / split / name / f"{split}{number}.png", colour, (40 + number, 64))
    return root


@pytest.fixture
def module(settings, photos):
    def build(*overrides, root=photos):
        typed = ("data=folder", f"data.dir='{root}'", "data.batch_size=10", *overrides)
        data = settings(*typed)["data"]
        return instantiate(data, "data", FolderDataModule)

    return build


def set_up(module):
    module.setup()
    return module


def test_splits_follow_the_folders_and_images_equal_those_of_prediction(module, photos):
    data = set_up(module())
    assert data.classes == CLASSES
    assert [len(part) for part in (data.train_indices, data.val_indices, data.test_indices)] == [
        30,
        6,
        12,
    ]
    for split, indices in (
        ("train", data.train_indices),
        ("val", data.val_indices),
        ("test", data.test_indices),
    ):
        expected = [
            (read_image(path), label)
            for label, name in enumerate(CLASSES)
            for path in sorted((photos / split / name).iterdir())
        ]
        assert torch.equal(data.images(indices), torch.stack([image for image, _ in expected]))
        assert data.labels[indices].tolist() == [label for _, label in expected]


def test_missing_val_and_test_are_held_out_stratified_and_reproducible(module, photos):
    data = set_up(module("data.test_size=0.2", "data.val_size=6", root=photos / "train"))
    assert data.labels[data.test_indices].bincount().tolist() == [2, 2, 2]
    assert data.labels[data.val_indices].bincount().tolist() == [2, 2, 2]
    assert data.labels[data.train_indices].bincount().tolist() == [6, 6, 6]
    again = set_up(module("data.test_size=0.2", "data.val_size=6", "seed=1", root=photos / "train"))
    assert (data.digest, data.val_digest) == (again.digest, again.val_digest)
    assert torch.equal(data.images(data.test_indices), again.images(again.test_indices))


def test_mean_and_std_match_the_training_images(module):
    data = set_up(module())
    pixels = data.images(data.train_indices).double() / 255
    mean, std = data.normalisation()
    torch.testing.assert_close(mean, pixels.mean((0, 2, 3)).tolist())
    torch.testing.assert_close(std, pixels.std((0, 2, 3), correction=0).tolist())
    assert min(channel_moments(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))[1]) > 0


def test_images_are_cached_until_one_of_them_changes(module, photos, monkeypatch):
    first = set_up(module())
    calls = []
    ahead = images.read_ahead
    monkeypatch.setattr(
        images, "read_ahead", lambda files, size: calls.append(1) or ahead(files, size)
    )
    assert torch.equal(set_up(module()).pixels, first.pixels)
    assert not calls
    path = photos / "train" / "ant" / "train0.png"
    write_photo(path, (200, 0, 0), (50, 50))
    changed = set_up(module())
    assert calls
    assert changed.digest != first.digest
    corrupted = bytearray((photos / CACHE_FILE).read_bytes())
    corrupted[-1000] ^= 1
    (photos / CACHE_FILE).write_bytes(corrupted)
    assert torch.equal(set_up(module()).pixels, changed.pixels)
    assert len(calls) == 2


def test_a_broken_link_is_reported(module, photos):
    (photos / "train" / "ant" / "gone.png").symlink_to(photos / "nowhere.png")
    with pytest.raises(UserError, match=r"1 of 49 images cannot be read(.|\n)*gone.png"):
        module().setup()


def test_unreadable_images_are_reported_and_skipped_on_request(module, photos, caplog):
    bad = photos / "train" / "ant" / "train3.png"
    bad.write_bytes(bad.read_bytes()[:40])
    (photos / "test" / "wasp" / "test1.png").write_bytes(b"")
    for _ in range(2):  # the second time from the cache
        with pytest.raises(
            UserError, match=r"(?s)2 of 48.*unreadable=skip.*train3\.png.*empty file"
        ):
            module().setup()
    data = set_up(module("data.unreadable=skip"))
    assert "2 of 48" in caplog.text
    assert (len(data.train_indices), len(data.test_indices)) == (29, 11)
    assert len(data.images(data.train_indices)) == 29
    for path in (photos / "train" / "ant").iterdir():
        path.write_bytes(b"not an image")
    with pytest.raises(UserError, match="class ant has no readable training image"):
        module("data.unreadable=skip").setup()


def remove(*names):
    def change(root):
        for name in names:
            for path in (root / name).rglob("*.png"):
                path.unlink()
            (root / name).rmdir()

    return change


def empty(root):
    for path in (root / "train" / "wasp").iterdir():
        path.unlink()


def another(root):
    write_photo(root / "val" / "hornet" / "1.png", (0, 0, 0), (40, 40))


def renamed(old, new):
    return lambda root: (root / old).rename(root / new)


@pytest.mark.parametrize(
    ("change", "overrides", "message"),
    [
        (remove("train/ant", "train/wasp"), [], "1 class folders; at least two are needed"),
        (remove("train/ant", "train/big bee", "train/wasp"), [], "0 class folders"),
        (empty, [], "wasp: no images in this folder"),
        (remove("val/ant"), [], "class ant of val is missing"),
        (another, [], "class hornet of val is not in train"),
        (lambda root: None, ["data.dir=nowhere"], "no such folder"),
        (lambda root: None, ["data.dir=''"], "must name a folder"),
        (renamed("val", "Validation"), [], "rename its folder Validation to val"),
        (renamed("train", "training"), [], "rename its folder training to train"),
        (renamed("train", "TRAIN"), [], "rename its folder TRAIN to train"),
        (lambda root: None, ["data.batch_size=31"], "at most 30"),
        (lambda root: None, ["+data.name=x"], "unknown setting"),
        (remove("test/ant", "test/big bee", "test/wasp", "test"), ["data.test_size=30"], "29"),
    ],
)
def test_an_invalid_folder_is_an_error_of_one_line(module, photos, change, overrides, message):
    change(photos)
    with pytest.raises(SettingError) as error:
        module(*overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have text names")
def test_names_that_are_not_utf8_and_classes_named_like_splits_work(module, tmp_path):
    root = tmp_path / "by class"
    for name in (b"Train/\xff.png", b"valid/b.png"):
        write_photo(root / os.fsdecode(name), (9, 9, 9), (40, 40))
        write_photo(root / os.fsdecode(name.replace(b".", b"2.")), (9, 9, 9), (40, 40))
    data = module("data.test_size=1", "data.val_size=1", "data.batch_size=2", root=root)
    data.setup()
    assert data.classes == ("Train", "valid")


def test_a_read_only_folder_is_read_without_a_cache(module, monkeypatch, caplog):
    def deny(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("cifar10.core.files.FileLock.acquire", deny)
    assert len(set_up(module()).pixels) == 48
    assert "every start reads all images" in caplog.text


def test_an_image_folder_trains_predicts_and_evaluates(photos, tmp_path, cifar, settings):
    from cifar10.launch import Prepared, train_and_report
    from cifar10.runs.components import build_components
    from cifar10.runs.load import load
    from cifar10.runs.run import run

    out = tmp_path / "run"
    typed = ["data=folder", f"data.dir='{photos}'", "data.batch_size=10", "trainer.max_epochs=3"]
    composed = settings(*typed)
    prepared = Prepared(composed, None, False, build_components(composed, out))
    result, _ = train_and_report(prepared, out, typed, time.perf_counter())
    assert (result["data"]["train"], result["data"]["test"]) == (30, 12)
    assert result["test"]["top3"] == result["test"]["top5"] == 1  # of three classes
    drawn = {path.stem for path in (out / "figures").iterdir()}
    assert {"confusion", "per_class", "samples", "reliability"} <= drawn
    classifier = load(out)
    assert classifier.classes == CLASSES
    mean, _ = channel_moments(
        torch.stack([read_image(p) for p in (photos / "train").rglob("*.png")])
    )
    torch.testing.assert_close(classifier.mean.flatten(), torch.tensor(mean))
    code, output, _ = cifar(
        "predict", photos / "test" / "big bee" / "test0.png", "-m", out, "--json"
    )
    assert code == 0
    predictions = json.loads(output[output.index("[") :])[0]["predictions"]
    assert sorted(entry["class"] for entry in predictions) == sorted(CLASSES)
    assert cifar("evaluate", out)[0] == 0
    scores = json.loads((out / "evaluation-test" / "evaluation.json").read_text())
    assert scores["top1"] == pytest.approx(result["test"]["top1"])
    assert list(scores["per_class"]) == list(CLASSES)
    next((photos / "test" / "wasp").iterdir()).unlink()
    code, _, error = cifar("evaluate", out, "--split", "val")
    assert (code, "differs from the data set" in error) == (2, True)
    with pytest.raises(SettingError, match="have changed"):
        run(settings(*typed, "trainer.max_epochs=4"), out, [], earlier=result)
