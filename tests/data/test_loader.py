"""The batches of an epoch, on one rank and on many."""

from itertools import chain

import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms import v2

from cifar10.core.errors import SettingError
from cifar10.data.augment import Augment, pack
from cifar10.data.loader import Loader, downscale, side_at_epoch

NO_AUGMENT = Augment("none", 0, 0)


@pytest.fixture
def numbered():
    """103 images, each filled with its index, which is also its label."""
    numbers = torch.arange(103)
    images = numbers.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 32, 32)
    return pack(images), numbers


def epoch_labels(loader, epoch=0):
    loader.set_epoch(epoch)
    return [labels.tolist() for _, labels in loader]


def test_an_evaluation_loader_yields_every_image_once_in_order(numbered):
    loader = Loader(*numbered, torch.arange(103), 25)
    assert [len(batch) for batch in epoch_labels(loader)] == [25, 25, 25, 25, 3]
    assert list(chain(*epoch_labels(loader))) == list(range(103))
    for (images, _), (again, _) in zip(loader, loader, strict=True):
        assert torch.equal(images, again)


def test_images_keep_their_labels(numbered):
    for augment in (None, NO_AUGMENT):
        for images, labels in Loader(*numbered, torch.arange(103), 25, augment):
            assert images.dtype == torch.uint8
            assert images.shape[1:] == (3, 32, 32)
            assert torch.equal(images[:, 2, 31, 31].long(), labels)


def test_only_the_given_indices_are_loaded(numbered):
    indices = torch.tensor([7, 11, 90, 102])
    loader = Loader(*numbered, indices, 3, NO_AUGMENT)
    assert sorted(chain(*epoch_labels(loader))) == indices.tolist()


def test_order_is_a_function_of_seed_and_epoch(numbered):
    def order(seed, epoch):
        return epoch_labels(Loader(*numbered, torch.arange(103), 25, NO_AUGMENT, seed), epoch)

    assert sorted(chain(*order(0, 0))) == list(range(103))
    assert order(0, 3) == order(0, 3)
    assert order(0, 3) != order(0, 4)
    assert order(0, 3) != order(1, 3)


@pytest.mark.parametrize("world_size", [2, 3, 5])
@pytest.mark.parametrize("augment", [None, Augment("random", 2, 4, policy="trivial")])
def test_the_batches_of_all_ranks_add_up_to_the_global_batches(numbered, world_size, augment):
    single = Loader(*numbered, torch.arange(103), 25, augment, 1)
    ranks = [
        Loader(*numbered, torch.arange(103), 25, augment, 1, rank, world_size)
        for rank in range(world_size)
    ]
    if augment:  # no rank may wait for another, so 5 ranks drop the last 3 images
        assert {len(loader) for loader in ranks} == {4 + (world_size <= 3)}
    else:
        seen = torch.cat([labels for loader in ranks for _, labels in loader])
        assert seen.sort().values.tolist() == list(range(103))
    for batches in zip(single, *ranks, strict=False):
        (images, labels), *parts = batches
        for rank, (part_images, part_labels) in enumerate(parts):
            assert torch.equal(part_images, images[rank::world_size])
            assert torch.equal(part_labels, labels[rank::world_size])


def test_iteration_waits_for_the_epoch_to_be_set(numbered):
    loader = Loader(*numbered, torch.arange(103), 25, NO_AUGMENT)
    iterator = iter(loader)
    loader.set_epoch(2)
    assert [labels.tolist() for _, labels in iterator] == epoch_labels(loader, 2)


@pytest.mark.parametrize("position", range(6))
def test_a_restored_loader_continues_after_the_last_processed_batch(numbered, position):
    loader = Loader(*numbered, torch.arange(103), 25, NO_AUGMENT)
    expected = [epoch_labels(loader, epoch) for epoch in (2, 3)]
    loader.set_epoch(2)
    for _ in zip(range(position), loader, strict=False):
        pass
    state = loader.state_dict()
    restored = Loader(*numbered, torch.arange(103), 25, NO_AUGMENT)
    restored.load_state_dict(state)
    if 0 < position < 5:
        assert epoch_labels(restored, 2) == expected[0][position:]
    assert epoch_labels(restored, 3) == expected[1]
    assert len(restored) == 5


def test_a_position_applies_to_its_own_epoch_only(numbered):
    loader = Loader(*numbered, torch.arange(103), 25, NO_AUGMENT)
    for epoch, position in ((1, 3), (2, 5)):
        loader.load_state_dict({"epoch": epoch, "position": position})
        assert len(epoch_labels(loader, 2)) == 5


def test_side_at_epoch_counts_from_the_first_epoch_of_each_size():
    sizes = {1: 24, 13: 28, 20: 32}
    sides = [side_at_epoch(sizes, epoch) for epoch in range(24)]
    assert sides == [24] * 12 + [28] * 7 + [32] * 5
    assert side_at_epoch({3: 16}, 1) == side_at_epoch(None, 1) == 32


def test_images_have_the_size_of_their_epoch(numbered):
    sizes = {1: 16, 2: 24, 3: 32}
    loader = Loader(*numbered, torch.arange(103), 25, NO_AUGMENT, sizes=sizes)
    for epoch, side in ((0, 16), (1, 24), (2, 32), (7, 32)):
        loader.set_epoch(epoch)
        for images, labels in loader:
            assert images.shape == (len(labels), 3, side, side)
            assert images.dtype == torch.uint8
            assert torch.equal(images[:, 1, side // 2, 3].long(), labels)


def test_downscaling_is_antialiased(sample):
    images = sample.test_images[:20]
    small = downscale(images, 16)
    expected = F.interpolate(images.float(), size=(16, 16), mode="bilinear", antialias=True)
    assert (small - expected).abs().max() < 1.01  # bytes are rounded twice, once per axis
    assert small.float().mean((2, 3)).sub(images.float().mean((2, 3))).abs().max() < 1


def test_a_transform_replaces_the_augmentation_and_is_reproducible(numbered, sample):
    pixels, numbers = pack(sample.train_images[:103].contiguous()), numbered[1]
    crop = v2.RandomCrop(32, padding=4)

    def epoch_images(epoch):
        loader = Loader(pixels, numbers, numbers, 25, NO_AUGMENT, transform=crop)
        loader.set_epoch(epoch)
        return torch.cat([images for images, _ in loader])

    before = torch.random.get_rng_state()
    assert torch.equal(epoch_images(1), epoch_images(1))
    assert not torch.equal(epoch_images(1), epoch_images(2))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_transform_that_changes_the_shape_is_an_error(numbered):
    loader = Loader(*numbered, numbered[1], 25, NO_AUGMENT, transform=v2.Resize(8))
    with pytest.raises(SettingError, match=r"data\.transform: .*; got uint8 \(3, 8, 8\)"):
        next(iter(loader))
