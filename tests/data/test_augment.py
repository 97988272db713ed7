"""Augmentation, compared with plain slices image by image."""

import numpy as np
import pytest
import torch

from cifar10.data import MEAN, STD
from cifar10.data.augment import Augment, pack, recolour, reflect, repack, unpack


@pytest.fixture
def images(sample):
    return sample.train_images[::5].contiguous()  # 200 of all classes


def augmented(images, augment, seed=0, epoch=0):
    draw = augment.draw(len(images), images.size(-1), seed, epoch)
    every = torch.arange(len(images))
    return augment.apply(pack(images), every, every, draw), draw


def test_pack_and_unpack_are_inverse(images):
    assert torch.equal(unpack(pack(images)), images)


def test_repack_copies_only_images_that_were_not_unpacked(images):
    for pixels in (pack(images), pack(images[:1]), pack(images[..., :24, :24])):
        again = repack(unpack(pixels))
        assert torch.equal(again, pixels) and again.data_ptr() == pixels.data_ptr()
        dense = unpack(pixels).contiguous(memory_format=torch.channels_last)
        assert torch.equal(repack(dense), pixels)


def test_reflect_equals_numpy():
    ours = torch.arange(32)[reflect(torch.arange(-5, 37), 32)]
    assert ours.tolist() == np.pad(np.arange(32), 5, mode="reflect").tolist()


def test_flip_gives_the_image_or_its_mirror_image(images):
    result, draw = augmented(images, Augment("random", 0, 0))
    for image, before, flipped in zip(result, images, draw.flip, strict=True):
        assert torch.equal(image, before.flip(-1) if flipped else before)
    assert 60 < draw.flip.sum() < 140  # 200 fair coins: six standard deviations


def test_shift_equals_a_slice_of_the_padded_image(images):
    result, draw = augmented(images, Augment("none", 4, 0))
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (4, 4), (4, 4)), mode="reflect")
    for image, wide, (down, right) in zip(result, padded, draw.shift + 4, strict=True):
        assert np.array_equal(image, wide[:, down : down + 32, right : right + 32])
    assert draw.shift.unique().tolist() == list(range(-4, 5))


def test_shift_and_flip_together_mirror_the_slice(images):
    result, draw = augmented(images, Augment("random", 2, 0))
    shifted, _ = augmented(images, Augment("none", 2, 0))
    for image, slice_, flipped in zip(result, shifted, draw.flip, strict=True):
        assert torch.equal(image, slice_.flip(-1) if flipped else slice_)


def test_cutout_fills_one_square_with_the_mean_colour(images):
    result, draw = augmented(images, Augment("none", 0, 8))
    grey = torch.tensor([round(255 * m) for m in MEAN], dtype=torch.uint8).view(3, 1, 1)
    for image, before, (top, left) in zip(result, images, draw.hole.tolist(), strict=True):
        expected = before.clone()
        expected[:, max(top, 0) : top + 8, max(left, 0) : left + 8] = grey
        assert torch.equal(image, expected)


def test_alternating_flip_shows_both_orientations_in_any_two_epochs(images):
    augment = Augment("alternating", 0, 0)
    flips = [augment.draw(200, 32, 0, epoch).flip for epoch in range(4)]
    assert torch.equal(flips[0], ~flips[1])
    assert torch.equal(flips[0], flips[2])
    assert torch.equal(flips[1], flips[3])


def test_draws_depend_only_on_seed_and_epoch(images):
    augment = Augment("random", 2, 8)
    first, _ = augmented(images, augment, 3, 5)
    torch.manual_seed(99)
    again, _ = augmented(images, augment, 3, 5)
    assert torch.equal(first, again)
    for other in ((3, 6), (4, 5)):
        assert not torch.equal(first, augmented(images, augment, *other)[0])


def test_recolour_equals_the_change_of_normalised_images(images):
    brightness, contrast = torch.full((200,), 0.1), torch.full((200,), 0.9)
    result = recolour(images, torch.stack([brightness, contrast], 1))
    mean = 255 * torch.tensor(MEAN).view(3, 1, 1)
    std = 255 * torch.tensor(STD).view(3, 1, 1)
    expected = ((images - mean) / std + 0.1) * 0.9 * std + mean
    assert (result - expected.clamp(0, 255)).abs().max() <= 0.5 + 1e-3
    assert torch.equal(recolour(images, torch.tensor([[0.0, 1.0]]).expand(200, 2)), images)


def test_each_image_draws_its_own_colour_change_within_the_range(images):
    _, draw = augmented(images, Augment("none", 0, 0, 0.2, 0.1))
    brightness, contrast = draw.colour.unbind(1)
    assert 0.15 < brightness.abs().max() <= 0.2
    assert 0.05 < (contrast - 1).abs().max() <= 0.1
    assert abs(torch.corrcoef(draw.colour.T)[0, 1]) < 0.3
