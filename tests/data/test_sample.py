"""The shipped picture."""

import numpy as np
import pytest
import torch
from PIL import Image

from cifar10.core.errors import UserError
from cifar10.data.sample import SAMPLE_FILE, draw, read_sample


def test_it_holds_100_and_50_images_of_each_class(sample):
    assert sample.train_images.shape == (1000, 3, 32, 32)
    assert sample.train_labels.bincount().tolist() == [100] * 10
    assert sample.test_labels.bincount().tolist() == [50] * 10


def test_reading_undoes_drawing(sample):
    with Image.open(SAMPLE_FILE) as picture:
        assert np.array_equal(draw(sample), np.asarray(picture))


def test_all_images_differ(sample):
    images = torch.cat([sample.train_images, sample.test_images])
    assert len({image.numpy().tobytes() for image in images}) == 1500


def test_another_picture_or_none_is_refused(tmp_path):
    Image.new("RGB", (1600, 960)).save(tmp_path / "other.png")
    (tmp_path / "text.png").write_text("no picture")
    for name in ("other.png", "text.png", "missing.png"):
        with pytest.raises(UserError, match=name):
            read_sample(tmp_path / name)
