"""MixUp and CutMix: batches by hand and against torchvision, and runs that train on them."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms import v2

from cifar10.core.instantiate import instantiate
from cifar10.data.augment import Augment, pack, unpack
from cifar10.data.image_folder import FolderDataModule
from cifar10.data.loader import Loader
from cifar10.data.mixing import Mix, blend, paste_box
from cifar10.data.module import CIFAR10DataModule
from cifar10.runs.run import run
from cifar10.training.classifier import Classifier
from cifar10.training.metrics import metrics

MIXES = {"mixup": (0.4, 0.0), "cutmix": (0.0, 1.0), "both": (0.2, 1.0)}
COUNT, BATCH = 90, 20


@pytest.fixture(params=MIXES)
def mix(request):
    return Mix(*MIXES[request.param], classes=COUNT)


def load(sample, mix, seed=0, epoch=0, position=0, **settings):
    """The batches of an epoch; each image is a class, so that labels name the images."""
    pixels, labels = pack(sample.train_images[::11]), torch.arange(91)
    augment = Augment("random", 2, 0, policy=settings.pop("policy", None))
    loader = Loader(pixels, labels, torch.arange(COUNT), BATCH, augment, seed, mix=mix, **settings)
    loader.load_state_dict({"epoch": epoch, "position": position})
    loader.set_epoch(epoch)
    return list(loader)


def assert_equal(batches, others):
    for batch, other in zip(batches, others, strict=True):
        assert all(map(torch.equal, batch, other))


@pytest.mark.parametrize("sizes", [None, {2: 24}])
@pytest.mark.parametrize("policy", [None, "trivial"])
def test_batches_are_a_function_of_seed_and_epoch_at_any_start(sample, mix, sizes, policy):
    settings = dict(sizes=sizes, policy=policy)
    for epoch in (0, 1):
        whole = load(sample, mix, epoch=epoch, **settings)
        assert_equal(load(sample, mix, epoch=epoch, **settings), whole)
        assert_equal(load(sample, mix, epoch=epoch, position=3, **settings), whole[3:])
    for other in (load(sample, mix, **settings), load(sample, mix, 1, 1, **settings)):
        larger = [torch.stack([labels.max() for _, labels in each]) for each in (whole, other)]
        assert (larger[0] != larger[1]).sum() >= 3  # of 5 batches


@pytest.mark.parametrize("sizes", [None, {1: 24}])
@pytest.mark.parametrize("policy", [None, "randaugment"])
def test_images_are_the_mix_that_their_labels_name(sample, mix, sizes, policy):
    plain = load(sample, None, sizes=sizes, policy=policy)
    kinds = set()
    for (images, shares), (before, labels) in zip(
        load(sample, mix, sizes=sizes, policy=policy), plain, strict=True
    ):
        assert (images.dtype, shares.dtype) == (torch.uint8, torch.float32)
        assert (images.shape, shares.shape) == (before.shape, (len(labels), COUNT))
        assert images.stride()[1] == 1  # channels last
        torch.testing.assert_close(shares.sum(1), torch.ones(len(labels)))
        own = shares[range(len(labels)), labels]
        assert len(own.unique()) == 1
        partner = shares[range(len(labels)), labels.roll(1)]
        torch.testing.assert_close(own + partner, torch.ones(len(labels)))
        one, other = before.double(), before.roll(1, 0).double()
        expected = own[0].double() * one + (1 - own[0].double()) * other
        is_blend = (images - expected).abs().max() <= 0.5 + 1e-4
        kinds.add("mixup" if is_blend else "cutmix")
        if not is_blend:
            replaced = (images == before.roll(1, 0)).all(1)
            assert (replaced | (images == before).all(1)).all()
            box = (images != before).any(1).any(0).nonzero()
            height, width = (box.amax(0) - box.amin(0) + 1).tolist()
            assert height * width == round((1 - own[0].item()) * images.size(-1) ** 2)
    assert kinds == {name for name in ("mixup", "cutmix") if getattr(mix, name)}


def test_ranks_mix_their_own_share_of_a_batch_alike(sample, mix):
    def own(rank):
        ranks = dict(rank=rank, world_size=2)
        pairs = zip(load(sample, mix, **ranks), load(sample, None, **ranks), strict=True)
        found = []
        for (_, shares), (_, labels) in pairs:
            torch.testing.assert_close(shares[:, labels].sum(1), torch.ones(len(labels)))
            found.append(shares[0, labels[0]].item())
        return found

    assert own(0) == own(1)


def test_a_blend_equals_torchvisions(sample):
    images, labels = sample.train_images[:50], sample.train_labels[::20]
    for own in (0.0, 0.3, 0.5, 0.81, 1.0):
        params = {"labels": labels, "batch_size": 50, "lam": own}
        theirs = v2.MixUp(num_classes=10)
        torch.testing.assert_close(
            blend(images.float(), own), theirs.transform(images.float(), params)
        )
        shares = theirs.transform(labels, params)
        torch.testing.assert_close(blend(F.one_hot(labels, 10).float(), own), shares)


def test_a_box_equals_torchvisions(sample, monkeypatch):
    images, labels = sample.train_images[:8], torch.arange(8)
    theirs = v2.CutMix(num_classes=8)
    cases = [
        (own, x, y) for own in (0.0, 0.03, 0.4, 0.9, 0.9999, 1.0) for x, y in ((0, 31), (9, 17))
    ]
    for own, column, row in cases:
        with monkeypatch.context() as patch:
            drawn = iter([column, row])
            patch.setattr(theirs._dist, "sample", lambda _, own=own: torch.tensor([own]))
            patch.setattr(
                torch, "randint", lambda *_, drawn=drawn, **__: torch.tensor([next(drawn)])
            )
            params = {"labels": labels, "batch_size": 8} | theirs.make_params([images])
        mixed = pack(images)
        left = paste_box(mixed, own, column, row)
        assert left == pytest.approx(params["lam_adjusted"], abs=1e-12)
        assert torch.equal(unpack(mixed), theirs.transform(images, params))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_shares_have_the_beta_distribution_of_alpha(alpha):
    images, labels = torch.zeros(2, 3, 1, 1, dtype=torch.uint8), torch.tensor([0, 1])
    mix = Mix(alpha, 0.0, 2)
    own = np.array([mix.apply(images, labels, 7, n)[1][0, 0].item() for n in range(3000)])
    assert own.mean() == pytest.approx(0.5, abs=0.04)
    assert own.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_extreme_alphas_and_single_images_are_mixed(sample):
    for alpha in (5e-324, 1e-9, 1e9, 1e300):
        for mix in (Mix(alpha, 0.0, 10), Mix(0.0, alpha, 10)):
            images = sample.train_images[:1].clone()
            mixed, shares = mix.apply(images, sample.train_labels[:1], 0, 0)
            assert torch.equal(mixed, sample.train_images[:1])
            assert shares.tolist() == [[1.0, *[0.0] * 9]]


@pytest.mark.parametrize("name", MIXES)
def test_only_training_batches_are_mixed(settings, sample, name):
    mixup, cutmix = MIXES[name]
    words = ("data=sample", f"data.mixup={mixup}", f"data.cutmix={cutmix}")
    data = instantiate(settings(*words)["data"], "data", CIFAR10DataModule)
    data.setup()
    assert {labels.shape for _, labels in data.train_dataloader()} == {(50, 10)}
    for _ in range(2):
        tested = list(data.test_dataloader())
        assert torch.equal(torch.cat([images for images, _ in tested]), sample.test_images)
        assert torch.equal(torch.cat([labels for _, labels in tested]), sample.test_labels)
    assert all(labels.dtype == torch.int64 for _, labels in data.val_dataloader())


def test_a_transform_can_be_mixed(sample, mix):
    batches = load(sample, mix, transform=v2.TrivialAugmentWide())
    assert_equal(load(sample, mix, transform=v2.TrivialAugmentWide()), batches)
    plain = load(sample, None, transform=v2.TrivialAugmentWide())
    assert [len(labels) for _, labels in batches] == [len(labels) for _, labels in plain]


def test_folders_of_two_classes_have_two_shares(photos):
    data = FolderDataModule(str(photos), batch_size=10, mixup=1.0, cutmix=1.0)
    data.setup()
    shares = torch.cat([labels for _, labels in data.train_dataloader()])
    assert shares.shape == (len(data.train_indices), 2)
    torch.testing.assert_close(shares.sum(1), torch.ones(len(shares)))


def test_metrics_take_shares_of_classes():
    torch.manual_seed(0)
    logits, shares = torch.randn(60, 10), torch.rand(60, 10).softmax(1)
    measured = metrics("train/", (1, 3), 10)
    for part in (slice(0, 40), slice(40, 60)):
        measured.update(logits[part], shares[part])
    values = {name: value.item() for name, value in measured.compute().items()}
    loss = -(shares * logits.log_softmax(1)).sum(1).mean().item()
    assert values["train/loss"] == pytest.approx(loss, rel=1e-5)
    largest = shares.argmax(1)
    for k in (1, 3):
        hits = (logits.topk(k).indices == largest[:, None]).any(1)
        assert values[f"train/top{k}"] == pytest.approx(hits.float().mean().item())


def test_a_teacher_takes_its_weight_from_the_shares(sample):
    student, teacher = Classifier("convnet"), Classifier("convnet").eval()
    images, shares = sample.test_images[:6], torch.rand(6, 10).softmax(1)
    assert student.targets(images, shares) is shares
    student.set_teacher(teacher, 0.75)
    expected = 0.75 * teacher(images).softmax(1) + 0.25 * shares
    torch.testing.assert_close(student.targets(images, shares), expected)


BOTH = ("data.mixup=0.2", "data.cutmix=1")
AIRNET = ("model=airnet", "model._target_=cifar10.models.airnet.AirNet", "model.widths=[24,24,24]")
FEW = ("+trainer.limit_val_batches=1", "+trainer.limit_test_batches=1")
RUNS = {
    "mixup": ("data.mixup=0.2",),
    "cutmix": ("data.cutmix=1",),
    "both, policy": (*BOTH, "data.policy=randaugment"),
    "trivial": ("data.policy=trivial",),
    "bf16 weights": (*BOTH, "trainer.precision=bf16-true"),
    "bf16": (*BOTH, "trainer.precision=bf16-mixed"),
    "double": (*BOTH, "trainer.precision=64-true"),
    "small images": (*BOTH, *AIRNET, *FEW, "data.sizes={1:24}"),
    "teacher": (*BOTH, "teacher=convnet"),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_trains(tiny, tmp_path, name):
    result = run(tiny(*RUNS[name]), tmp_path)
    assert result["status"] == "ok"
    (epoch,) = result["history"]
    assert math.isfinite(epoch["train/loss"]) and 0 <= epoch["train/top1"] <= 1
    assert math.isfinite(result["test"]["loss"])
