"""What an epoch consists of, on one rank and on many."""

import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms import v2

from cifar10.core.errors import SettingError
from cifar10.data.augment import Augment, pack
from cifar10.data.loader import Loader, downscale

NONE = Augment("none", 0, 0)


@pytest.fixture
def numbered():
    """103 images, each filled with its own number, which is its label too."""
    numbers = torch.arange(103)
    images = numbers.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 32, 32)
    return pack(images), numbers


def flat(batches):
    return [label for batch in batches for label in batch]


def labels(loader, epoch=0):
    loader.set_epoch(epoch)
    return [labels.tolist() for _, labels in loader]


def test_an_evaluation_loader_gives_every_image_once_in_order(numbered):
    loader = Loader(*numbered, torch.arange(103), 25)
    assert [len(batch) for batch in labels(loader)] == [25, 25, 25, 25, 3]
    assert flat(labels(loader)) == list(range(103))
    for (images, _), (again, _) in zip(loader, loader, strict=True):
        assert torch.equal(images, again)


def test_images_stay_with_their_labels(numbered):
    for augment in (None, NONE):
        for images, own in Loader(*numbered, torch.arange(103), 25, augment):
            assert images.dtype == torch.uint8
            assert images.shape[1:] == (3, 32, 32)
            assert torch.equal(images[:, 2, 31, 31].long(), own)


def test_only_the_chosen_images_come(numbered):
    chosen = torch.tensor([7, 11, 90, 102])
    assert sorted(flat(labels(Loader(*numbered, chosen, 3, NONE)))) == chosen.tolist()


def test_order_is_a_function_of_seed_and_epoch(numbered):
    def order(seed, epoch):
        return labels(Loader(*numbered, torch.arange(103), 25, NONE, seed), epoch)

    assert sorted(flat(order(0, 0))) == list(range(103))
    assert order(0, 3) == order(0, 3)
    assert order(0, 3) != order(0, 4)
    assert order(0, 3) != order(1, 3)


@pytest.mark.parametrize("world_size", [2, 3, 5])
@pytest.mark.parametrize("augment", [None, Augment("random", 2, 4)])
def test_ranks_together_give_the_global_batches_of_one(numbered, world_size, augment):
    whole = Loader(*numbered, torch.arange(103), 25, augment, 1)
    shares = [
        Loader(*numbered, torch.arange(103), 25, augment, 1, rank, world_size)
        for rank in range(world_size)
    ]
    if augment:  # no rank may wait for another's batch, so 3 last images are left out for 5 ranks
        assert {len(share) for share in shares} == {4 + (world_size <= 3)}
    else:
        seen = torch.cat([batch for share in shares for _, batch in share])
        assert seen.sort().values.tolist() == list(range(103))
    for parts in zip(whole, *shares, strict=False):
        (images, own), *parts = parts
        for rank, (part_images, part_labels) in enumerate(parts):
            assert torch.equal(part_images, images[rank::world_size])
            assert torch.equal(part_labels, own[rank::world_size])


def test_iteration_waits_for_the_epoch_to_be_set(numbered):
    loader = Loader(*numbered, torch.arange(103), 25, NONE)
    iterator = iter(loader)
    loader.set_epoch(2)
    assert [batch.tolist() for _, batch in iterator] == labels(loader, 2)


def test_images_have_the_size_of_their_epoch(numbered):
    loader = Loader(*numbered, torch.arange(103), 25, NONE, sizes=[16, 24, 32])
    for epoch, size in ((0, 16), (1, 24), (2, 32), (7, 32)):
        loader.set_epoch(epoch)
        for images, own in loader:
            assert images.shape == (len(own), 3, size, size)
            assert images.dtype == torch.uint8
            assert torch.equal(images[:, 1, size // 2, 3].long(), own)


def test_the_centre_is_cut_out_after_the_shift_and_then_shrunk(sample, numbered):
    pixels = pack(sample.train_images[:40].contiguous())
    shifted = Augment("none", 2, 0)
    whole = Loader(pixels, numbered[1][:40], torch.arange(40), 40, shifted)
    part = Loader(pixels, numbered[1][:40], torch.arange(40), 40, shifted, crops=[28])
    small = Loader(
        pixels, numbered[1][:40], torch.arange(40), 40, shifted, crops=[28], sizes=[32, 20]
    )
    (images, _), (cut, _), (kept, _) = next(iter(whole)), next(iter(part)), next(iter(small))
    assert torch.equal(cut, images[..., 2:30, 2:30])
    assert torch.equal(kept, cut)  # 28 is not enlarged to 32
    small.set_epoch(1)
    assert next(iter(small))[0].shape == (40, 3, 20, 20)


def test_shrinking_is_antialiased(sample):
    images = sample.test_images[:20]
    small = downscale(images, 16)
    plain = F.interpolate(images.float(), size=(16, 16), mode="bilinear", antialias=True)
    assert (small - plain).abs().max() < 1.01  # bytes are rounded twice, once for each axis
    assert small.float().mean((2, 3)).sub(images.float().mean((2, 3))).abs().max() < 1


def test_a_transform_replaces_the_augmentation_and_repeats_itself(numbered, sample):
    pixels, numbers = pack(sample.train_images[:103].contiguous()), numbered[1]
    crop = v2.RandomCrop(32, padding=4)

    def epoch(number):
        loader = Loader(pixels, numbers, numbers, 25, NONE, transform=crop)
        loader.set_epoch(number)
        return torch.cat([images for images, _ in loader])

    before = torch.random.get_rng_state()
    assert torch.equal(epoch(1), epoch(1))
    assert not torch.equal(epoch(1), epoch(2))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_transform_that_gives_something_else_is_refused(numbered):
    loader = Loader(*numbered, numbered[1], 25, NONE, transform=v2.Resize(8))
    with pytest.raises(SettingError, match=r"data\.transform: .* it gave uint8 \(3, 8, 8\)"):
        next(iter(loader))
