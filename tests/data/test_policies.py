"""Operations of whole batches against torchvision, image by image."""

import pytest
import torch
from torchvision.transforms import v2

from cifar10.core.errors import SettingError
from cifar10.core.instantiate import instantiate
from cifar10.data.augment import Augment, generator, pack, unpack
from cifar10.data.loader import Loader
from cifar10.data.module import CIFAR10DataModule
from cifar10.data.policies import OPERATIONS, apply_operations, draw_operations
from cifar10.runs.components import build_components

POLICIES = {"trivial": v2.TrivialAugmentWide(), "randaugment": v2.RandAugment()}


@pytest.fixture(scope="module")
def images(sample):
    """12 photographs, one image of one colour, one of two levels, and one of noise."""
    plain = torch.full((1, 3, 32, 32), 77, dtype=torch.uint8)
    two = plain.clone()
    two[..., :16] = 78
    noise = torch.randint(256, (1, 3, 32, 32), generator=generator(0)).byte()
    return torch.cat([sample.train_images[::90], plain, two, noise])


def magnitudes(policy, name):
    """All magnitudes of torchvision's policy."""
    values, signed = POLICIES[policy]._AUGMENTATION_SPACE[name]
    found = values(31, 32, 32)
    found = torch.zeros(1) if found is None else found.float()
    return torch.cat([found, -found]) if signed else found


def by_torchvision(images, operation, magnitude):
    policy, name = POLICIES["trivial"], OPERATIONS[operation]
    settings = policy.interpolation, policy._fill
    return policy._apply_image_or_video_transform(images, name, float(magnitude), *settings)


def assert_like_torchvision(images, operations, magnitudes):
    """Equal but where roundings differ: by one level, or at the border between two pixels.

    Args:
        images: uint8 (k, n, 3, S, S): n for each of k operations and magnitudes.
    """
    each = zip(images, operations.tolist(), magnitudes.tolist(), strict=True)
    expected = torch.stack([by_torchvision(*one) for one in each]).flatten(0, 1)
    operations, magnitudes = (x.repeat_interleave(images.size(1)) for x in (operations, magnitudes))
    result = unpack(
        apply_operations(pack(images.flatten(0, 1)), operations, magnitudes, operations)
    )
    distance = (result.int() - expected.int()).abs()
    moved = (operations >= 1) & (operations <= 5)
    # Both were equal on x86; another processor may add products in another order.
    assert (distance[moved] > 0).sum() <= 1e-3 * distance[moved].numel()
    assert distance[~moved].sum() <= 0.01 * distance[~moved].numel()
    assert not len(distance[~moved]) or distance[~moved].max() <= 1


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_equals_torchvisions_at_every_magnitude(images, policy, name):
    values = magnitudes(policy, name)
    operations = torch.full((len(values),), OPERATIONS.index(name))
    assert_like_torchvision(images.expand(len(values), -1, -1, -1, -1), operations, values)


def test_the_operations_are_those_of_torchvision():
    for policy in POLICIES.values():
        assert tuple(policy._AUGMENTATION_SPACE) == OPERATIONS


@pytest.mark.parametrize("policy", POLICIES)
def test_each_image_of_a_batch_gets_its_own_operation(sample, policy):
    images = sample.train_images[::10]
    drawn, strengths = draw_operations(policy, 100, generator(3))
    for operations, values in zip(drawn.T, strengths.T, strict=True):
        assert len(operations.unique()) == len(OPERATIONS)
        assert_like_torchvision(images[:, None], operations, values)


def test_a_batch_without_some_operations_is_changed_too(sample):
    for index, name in enumerate(OPERATIONS):
        value = torch.tensor([4.0 if name == "Posterize" else 0.5])
        assert_like_torchvision(sample.train_images[None, :1], torch.tensor([index]), value)


def test_the_batch_itself_does_not_change(images):
    pixels = pack(images)
    drawn, strengths = draw_operations("trivial", len(images), generator(0))
    apply_operations(pixels, drawn[:, 0], strengths[:, 0], drawn[:, 0])
    assert torch.equal(unpack(pixels), images)


@pytest.mark.parametrize(("policy", "count"), [("trivial", 1), ("randaugment", 2)])
def test_draws_are_uniform_over_operations_magnitudes_and_signs(policy, count):
    operations, values = draw_operations(policy, 50_000, generator(0))
    assert operations.shape == values.shape == (50_000, count)
    share = operations.flatten().bincount(minlength=14) / operations.numel()
    assert (share - 1 / 14).abs().max() < 0.006  # five standard deviations
    for index, name in enumerate(OPERATIONS):
        found, counts = values[operations == index].unique(return_counts=True)
        every = magnitudes(policy, name)
        if policy == "randaugment" and len(every) > 1:
            every = every[9::31]
        assert torch.equal(found, every.unique()), name
        expected = (every == found[:, None]).sum(1) / len(every)
        assert (counts / counts.sum() - expected).abs().max() < 0.05, name


def test_no_policy_draws_nothing():
    operations, values = draw_operations(None, 7, generator(0))
    assert operations.shape == values.shape == (7, 0)


def test_a_policy_comes_after_flip_and_shift_and_before_cutout(sample):
    images = pack(sample.train_images[::10])
    every = torch.arange(len(images))
    augment = Augment("random", 4, 8, policy="randaugment")
    draw = augment.draw(len(images), 32, 1, 2)
    plain = Augment("random", 4, 8).draw(len(images), 32, 1, 2)
    assert all(torch.equal(*pair) for pair in zip(draw[:4], plain[:4], strict=True))
    moved = pack(Augment("random", 4, 0).apply(images, every, every, plain))
    for operations, values in zip(draw.operations.T, draw.magnitudes.T, strict=True):
        moved = apply_operations(moved, operations, values, operations)
    cut = plain._replace(flip=plain.flip & False, shift=plain.shift * 0)
    expected = Augment("none", 0, 8).apply(moved, every, every, cut)
    assert torch.equal(augment.apply(images, every, every, draw), expected)


def test_batches_depend_on_seed_and_epoch_and_resume_within_an_epoch(sample):
    pixels, labels = pack(sample.train_images), sample.train_labels

    def batches(seed=0, epoch=0, position=0):
        indices = torch.arange(0, 1000, 9)
        augment = Augment("random", 2, 4, policy="trivial")
        loader = Loader(pixels, labels, indices, 25, augment, seed, sizes={2: 24})
        loader.load_state_dict({"epoch": epoch, "position": position})
        loader.set_epoch(epoch)
        return [images for images, _ in loader]

    first = batches()
    assert all(torch.equal(*pair) for pair in zip(first, batches(), strict=True))
    assert all(torch.equal(*pair) for pair in zip(first[2:], batches(position=2), strict=True))
    assert not torch.equal(first[0], batches(seed=1)[0])
    assert not torch.equal(first[0], batches(epoch=2)[0])
    assert batches(epoch=1)[0].shape == (25, 3, 24, 24)


def test_draws_depend_on_seed_and_epoch():
    augment = Augment("none", 0, 0, policy="trivial")
    keys = ((0, 1), (0, 1), (0, 2), (1, 1))
    first, again, *others = (augment.draw(1000, 32, *key) for key in keys)
    assert torch.equal(first.operations, again.operations)
    assert torch.equal(first.magnitudes, again.magnitudes)
    for other in others:
        assert (first.operations == other.operations).float().mean() < 0.2  # 1 in 14 by chance


def test_only_training_images_are_changed(settings, sample):
    data = instantiate(
        settings("data=sample", "data.policy=trivial")["data"], "data", CIFAR10DataModule
    )
    data.setup()
    assert torch.equal(
        torch.cat([batch for batch, _ in data.test_dataloader()]), sample.test_images
    )


@pytest.mark.parametrize(
    "word",
    ["policy=trivial", "cutout=8", "brightness=0.1", "contrast=0.2", "flip=random", "shift=4"],
)
def test_a_transform_excludes_what_it_replaces(word, settings, tmp_path):
    words = "data=torchvision", f"data.{word}"
    with pytest.raises(SettingError) as caught:
        build_components(settings(*words), tmp_path, typed=words)
    shown = "data." + (word.partition("=")[0] if word[0] in "fs" else word)
    assert str(caught.value) == (
        f"{shown}: has no effect with data.transform, which replaces the augmentation"
    )


@pytest.mark.parametrize("policy", ["trivial", "randaugment"])
def test_a_policy_reads_no_value_of_the_device(sample, policy):
    images, augment = pack(sample.train_images), Augment("random", 2, 8, policy=policy)
    on_device, labels = images.to("meta"), sample.train_labels.to("meta")  # without values
    loader = Loader(on_device, labels, torch.arange(len(images)), 250, augment)
    assert {(batch.device.type, batch.shape) for batch, _ in loader} == {
        ("meta", torch.Size([250, 3, 32, 32]))
    }
