"""Images as people have them in Python."""

import numpy as np
import pytest
import torch
from PIL import Image

import cifar10
from cifar10.core.errors import SettingError, UserError
from cifar10.data.images import read_image
from cifar10.data.inputs import to_batch

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
EXPECTED = torch.tensor(PIXELS).permute(2, 0, 1)[None]


@pytest.fixture
def path(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "x.png")
    return tmp_path / "x.png"


FORMS = {
    "path": lambda path: path,
    "text": str,
    "PIL": Image.open,
    "array": lambda _: PIXELS,
    "read-only view": lambda _: np.broadcast_to(PIXELS[:, ::-1][:, ::-1], (32, 32, 3)),
    "flipped view": lambda _: np.ascontiguousarray(PIXELS[:, :, ::-1])[:, :, ::-1],
    "arrays": lambda _: PIXELS[None],
    "tensor": lambda _: EXPECTED[0],
    "tensors": lambda _: EXPECTED,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_an_image_is_the_same_batch(form, path):
    image = FORMS[form](path)
    assert torch.equal(to_batch(image), EXPECTED)
    assert torch.equal(to_batch([image, (path, PIXELS)]), EXPECTED.repeat(3, 1, 1, 1))


def test_an_image_of_another_size_is_resized_and_stays_as_it_was(tmp_path):
    large = Image.fromarray(np.kron(PIXELS, np.ones((7, 9, 1), np.uint8)))
    large.getexif()[0x0112] = 6  # turned by 90 degrees
    large.save(tmp_path / "x.png", exif=large.getexif())
    with Image.open(tmp_path / "x.png") as image:
        assert torch.equal(to_batch(image), read_image(tmp_path / "x.png")[None])
        assert image.size == (288, 224)


UINT8 = torch.uint8
REFUSED = {
    "floats in [0, 1]": (torch.rand(3, 32, 32), "scale floats to 0 to 255"),
    "NaN": (torch.full((3, 32, 32), float("nan")), "must be uint8"),
    "half": (torch.zeros(3, 32, 32, dtype=torch.bfloat16), "scale floats"),
    "bool": (torch.zeros(3, 32, 32, dtype=torch.bool), "bool tensor"),
    "int8": (torch.zeros(3, 32, 32, dtype=torch.int8), "int8 tensor"),
    "int64": (np.zeros((32, 32, 3), np.int64), "int64 array"),
    "float array": (np.zeros((32, 32, 3)), "float64 array"),
    "objects": (np.array([None]), "object array"),
    "224 pixels": (torch.zeros(3, 224, 224, dtype=UINT8), "PIL images and files"),
    "224 pixels, array": (np.zeros((1, 224, 224, 3), np.uint8), "PIL images and files"),
    "channels last": (torch.zeros(32, 32, 3, dtype=UINT8), r"must be uint8 \(3, 32, 32\)"),
    "channels first": (np.zeros((3, 32, 32), np.uint8), r"must be uint8 \(32, 32, 3\)"),
    "grey": (np.zeros((32, 32), np.uint8), r"shape \(32, 32\)"),
    "five dimensions": (torch.zeros(1, 1, 3, 32, 32, dtype=UINT8), "must be uint8"),
    "sparse": (torch.zeros(3, 32, 32, dtype=UINT8).to_sparse(), "plain tensor"),
    "without values": (torch.empty(3, 32, 32, dtype=UINT8, device="meta"), "plain tensor"),
    "empty list": ([], "an empty list"),
    "number": (3, "int: must be a path"),
    "nothing": (None, "NoneType: must be a path"),
    "nested floats": ([[0.5]], "float: must be a path"),
    "bytes": (b"x.png", "bytes: must be a path"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_could_be_misread_is_refused_by_name(case):
    images, message = REFUSED[case]
    with pytest.raises(UserError, match=message) as error:
        to_batch(images)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError):
        to_batch([EXPECTED, images])


def test_predictions_are_an_ordinary_tensor_of_each_form(path):
    model = cifar10.load("convnet", device="cpu")
    probabilities = model.predict([path, PIXELS, EXPECTED])
    assert probabilities.shape == (3, 10)
    torch.testing.assert_close(probabilities[:2], probabilities[1:])
    probabilities *= 2  # an inference tensor could not be changed
    assert model.predict(EXPECTED[:0]).shape == (0, 10)
    model.train()
    model.predict(path)
    assert model.training  # as before


@pytest.mark.parametrize("device", ["banana", "cuda", "cuda:99", "mps", "cpu:3", "", 3, "meta"])
def test_a_device_that_is_not_there_is_refused(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(SettingError, match=f"device={device}"):
        cifar10.load("convnet", device=device)
