"""The bundled sample."""

import numpy as np
import pytest
import torch
from PIL import Image

from cifar10.core.errors import UserError
from cifar10.data.sample import SAMPLE_FILE, read_sample
from tools.make_sample import draw


def test_the_sample_holds_100_training_and_50_test_images_of_each_class(sample):
    assert sample.train_images.shape == (1000, 3, 32, 32)
    assert sample.train_labels.bincount().tolist() == [100] * 10
    assert sample.test_labels.bincount().tolist() == [50] * 10
    images = torch.cat([sample.train_images, sample.test_images])
    assert len({image.numpy().tobytes() for image in images}) == 1500


def test_reading_is_the_inverse_of_drawing(sample):
    with Image.open(SAMPLE_FILE) as image:
        assert np.array_equal(draw(sample), np.asarray(image))


def test_a_missing_or_different_file_is_an_error(tmp_path):
    Image.new("RGB", (1600, 960)).save(tmp_path / "other.png")
    (tmp_path / "text.png").write_text("not an image")
    for name in ("other.png", "text.png", "missing.png"):
        with pytest.raises(UserError, match=name):
            read_sample(tmp_path / name)
