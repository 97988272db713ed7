"""The merged training set and its splits."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cifar10.core.instantiate import instantiate
from cifar10.core.settings import ROOT
from cifar10.data import MEAN, STD
from cifar10.data.checksums import CIFAR10
from cifar10.data.module import CIFAR10DataModule, hold_out
from cifar10.data.prepare import PREPARED_FILE, read_prepared
from tools.make_sample import choose_images

DATA = Path(os.environ.get("CIFAR10_DATA_DIR", ROOT / "data")) / PREPARED_FILE


def real_data(test):
    """Mark a test that reads all 60,000 images; .ci/run runs these once the data is prepared."""
    skip = pytest.mark.skipif(not DATA.is_file(), reason="CIFAR-10 is not prepared")
    return pytest.mark.real_data(skip(test))


@pytest.fixture
def module(settings):
    def build(*overrides):
        data = settings("data=sample", *overrides)["data"]
        module = instantiate(data, "data", CIFAR10DataModule)
        module.setup()
        return module

    return build


def test_the_split_is_stratified_and_independent_of_the_training_seed(module):
    first, second, other = module("seed=0"), module("seed=1"), module("data.val_seed=1")
    assert first.labels[first.val_indices].bincount().tolist() == [20] * 10
    assert first.labels[first.train_indices].bincount().tolist() == [80] * 10
    assert first.val_digest == second.val_digest != other.val_digest
    assert not set(first.test_indices.tolist()) & set(first.train_indices.tolist())


@hypothesis_settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=200), st.data())
def test_a_split_is_disjoint_complete_and_stratified(classes, data):
    labels = torch.tensor(classes)
    count = data.draw(st.integers(0, len(labels) - 1))
    rest, held_out = hold_out(labels, count, seed=data.draw(st.integers(0, 9)))
    assert len(held_out) == count
    assert torch.equal(torch.cat([rest, held_out]).sort().values, torch.arange(len(labels)))
    # For one share, each class has its rounded part; their sum errs by up to half an image each.
    kinds = labels.unique()
    for label in kinds:
        share = (labels == label).sum().item() / len(labels)
        held = (labels[held_out] == label).sum().item()
        assert abs(held - count * share) <= 0.5 + len(kinds) * share / 2


def test_only_training_images_are_augmented(module, sample):
    data = module()
    for loader, images in (
        (data.val_dataloader(), sample.train_images[data.val_indices]),
        (data.test_dataloader(), sample.test_images),
    ):
        for _ in range(2):
            assert torch.equal(torch.cat([batch for batch, _ in loader]), images)
    trained = torch.cat([batch for batch, _ in data.train_dataloader()])
    originals = {image.numpy().tobytes() for image in sample.train_images}
    # 1 in 50 images is neither flipped nor shifted.
    assert sum(image.numpy().tobytes() in originals for image in trained) < len(trained) / 10


def test_val_size_0_trains_on_all_images(module):
    data = module("data.val_size=0")
    assert len(data.train_indices) == 1000
    assert not data.has_validation
    assert data.val_dataloader() == []


def test_validation_on_the_test_set_trains_on_all_images(module):
    data = module("data.validation=test")
    assert len(data.train_indices) == 1000
    assert torch.equal(data.val_indices, data.test_indices)


@pytest.mark.parametrize("size", [1, 7, 800])
def test_any_batch_size_yields_every_training_image_once(module, size):
    loader = module(f"data.batch_size={size}").train_dataloader()
    batches = [len(labels) for _, labels in loader]
    assert sum(batches) == 800
    assert set(batches[:-1]) <= {size}
    assert len(batches) == len(loader)


def test_the_environment_variable_overrides_the_sources(settings, monkeypatch):
    monkeypatch.setenv("CIFAR10_SOURCES", "https://one/a.tar.gz npm:b@1")
    module = instantiate(settings()["data"], "data", CIFAR10DataModule)
    assert module.sources == ["https://one/a.tar.gz", "npm:b@1"]


def test_the_environment_variable_overrides_the_data_folder(settings, monkeypatch):
    monkeypatch.delenv("CIFAR10_DATA_DIR", raising=False)
    assert settings()["data"]["dir"] == str(ROOT / "data")
    monkeypatch.setenv("CIFAR10_DATA_DIR", "/some where/else")
    assert settings()["data"]["dir"] == "/some where/else"


@pytest.fixture(scope="module")
def dataset():
    return read_prepared(DATA, CIFAR10)


@real_data
def test_mean_and_std_match_the_training_images(dataset):
    pixels = dataset.train_images.permute(1, 0, 2, 3).flatten(1).double() / 255
    assert pixels.mean(1).tolist() == pytest.approx(MEAN, abs=5e-5)
    assert pixels.std(1).tolist() == pytest.approx(STD, abs=5e-5)


@real_data
def test_the_merged_set_has_5000_images_of_each_class(dataset):
    assert dataset.train_labels.bincount().tolist() == [5000] * 10
    assert dataset.test_labels.bincount().tolist() == [1000] * 10


@real_data
def test_500_of_each_class_are_held_out(dataset):
    rest, held_out = hold_out(dataset.train_labels, 5000, 0)
    assert dataset.train_labels[held_out].bincount().tolist() == [500] * 10
    assert dataset.train_labels[rest].bincount().tolist() == [4500] * 10


@real_data
def test_the_sample_holds_the_first_images_of_each_class(dataset, sample):
    for chosen, bundled in zip(choose_images(dataset), sample, strict=True):
        assert torch.equal(chosen, bundled)
