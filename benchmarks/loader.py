"""Speed of augmented, normalised batches: this project, torchvision, and the hardware limit.

python -m benchmarks.loader
"""

import time
from collections.abc import Callable, Iterator

from torch.utils.data import DataLoader, Dataset

from benchmarks.measure import alternate, claim, output, ratio, report
from benchmarks.subjects import bare, components, minimal, some_images

BATCH, IMAGES, ROUNDS = 250, 5000, 7


def ours(normalised: bool, *overrides: str) -> Iterator[float]:
    """Yield images per second of this project's loader, with or without normalisation."""
    built = components(*minimal(f"data.batch_size={BATCH}", *overrides))
    built.data.setup()
    loader = built.data.train_dataloader()
    while True:
        seen, start = 0, time.perf_counter()
        for images, labels in loader:
            if normalised:
                built.classifier.normalise(images)
            seen += len(labels)
            if seen >= IMAGES:
                break
        yield seen / (time.perf_counter() - start)


class Images(Dataset):
    """A map-style data set that transforms each image when it is read.

    Args:
        items: arrays (32, 32, 3), converted to PIL images, or tensors (3, 32, 32).
    """

    def __init__(self, items: list, labels: list[int], transform: Callable):
        self.items, self.labels, self.transform = items, labels, transform

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int):
        from PIL import Image

        item = self.items[index]
        image = item if hasattr(item, "dim") else Image.fromarray(item)
        return self.transform(image), self.labels[index]


def torchvision_loader(kind: str, workers: int) -> Iterator[float]:
    """Yield images per second of torch's DataLoader with torchvision's transforms.

    Args:
        kind: `pil` for PIL images, as in `torchvision.datasets.CIFAR10`; `v2` for uint8 tensors.
    """
    import torch
    from torchvision import transforms
    from torchvision.transforms import v2

    from cifar10.data import MEAN, STD

    images, labels = some_images(IMAGES)
    if kind == "pil":
        items = [image.permute(1, 2, 0).contiguous().numpy() for image in images]
        transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=2, padding_mode="reflect"),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )
    else:
        items = list(images.contiguous())
        transform = v2.Compose(
            [
                v2.RandomCrop(32, padding=2, padding_mode="reflect"),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )

    loader: DataLoader = DataLoader(
        Images(items, labels, transform),
        BATCH,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    while True:
        # Starting workers and epochs does not count: time starts after the first batch.
        batches = iter(loader)
        next(batches)
        seen, start = 0, time.perf_counter()
        for batch in batches:
            seen += len(batch[1])
        yield seen / (time.perf_counter() - start)


def copying() -> Iterator[float]:
    """Yield images per second of copying a batch of floats: the hardware limit."""
    import torch

    source, target = torch.randn(2, BATCH, 3, 32, 32)
    while True:
        start = time.perf_counter()
        for _ in range(IMAGES // BATCH):
            target.copy_(source)
        yield IMAGES / (time.perf_counter() - start)


def main() -> None:
    path = output("loader")
    pil = "torchvision DataLoader, PIL, 2 workers"
    figures = alternate(
        {
            "ours": (ours, True),
            "ours, before normalisation": (ours, False),
            "ours, shrunk to 24": (ours, True, "model=airnet", "data.sizes={1:24}"),
            "ours, data=torchvision": (ours, True, "data=torchvision"),
            "torchvision DataLoader, PIL, 0 workers": (torchvision_loader, "pil", 0),
            pil: (torchvision_loader, "pil", 2),
            "torchvision v2 on tensors, 0 workers": (torchvision_loader, "v2", 0),
            "torchvision v2 on tensors, 2 workers": (torchvision_loader, "v2", 2),
            "copying the same bytes": (copying,),
            "training step of convnet, bare loop": (bare, [f"data.batch_size={BATCH}"], 8),
        },
        ROUNDS,
    )
    step = "training step of convnet, bare loop"
    claims = [
        claim("loader / torchvision DataLoader, PIL, 2 workers", ratio(figures, "ours", pil), 20),
        claim(
            "loader's share of a convnet training step",
            ratio(figures, step, "ours"),
            0.02,
            at_most=True,
        ),
    ]
    report(path, "images/s", figures, base=pil, claims=claims, batch_size=BATCH)


if __name__ == "__main__":
    main()
