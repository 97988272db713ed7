"""MixUp and CutMix of whole batches."""

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Interval
from torch import Tensor
from torch.nn import functional as F

from cifar10.data.augment import repack, unpack

Alpha = Annotated[float, Interval(ge=0, lt=math.inf)]


@dataclass
class Mix:
    """Mixes each image of a batch with the previous one, as torchvision does.

    Args:
        mixup: alpha of the Beta distribution of MixUp (Zhang et al. 2018,
            https://arxiv.org/abs/1710.09412); 0 for none.
        cutmix: the same of CutMix (Yun et al. 2019, https://arxiv.org/abs/1905.04899). With both,
            each batch draws one.
        classes: number of classes.
    """

    mixup: Alpha
    cutmix: Alpha
    classes: int

    def apply(self, images: Tensor, labels: Tensor, *seed: int) -> tuple[Tensor, Tensor]:
        """Mix images, uint8 (n, 3, s, s), and labels, int64 (n,), drawing from a seed.

        Returns images, which may share the memory of those given, and the share of each class,
        float32 (n, classes).
        """
        rng = np.random.default_rng(seed)
        cuts = self.mixup == 0 or (self.cutmix > 0 and rng.random() < 0.5)
        alpha = self.cutmix if cuts else self.mixup
        alpha = max(alpha, 1e-9)  # a denormal is 0 once torch flushes them
        own = rng.beta(alpha, alpha)  # the share of the image itself
        pixels = repack(images)
        if cuts:
            own = paste_box(pixels, own, *rng.integers(images.size(-1), size=2).tolist())
        else:
            channels = pixels.unsqueeze(-1).view(torch.uint8)
            # Floats become bytes several times as fast by way of int16.
            channels.copy_(blend(channels.float(), own).round_().to(torch.int16))
        return unpack(pixels), blend(F.one_hot(labels, self.classes).float(), own)


def blend(batch: Tensor, own: float) -> Tensor:
    """Blend each row of floats with the previous one; `own` is the share of the row itself."""
    return batch.roll(1, 0).lerp_(batch, own)


def paste_box(pixels: Tensor, own: float, column: int, row: int) -> float:
    """Paste a box of the previous image into packed images, int32 (n, s, s), in place.

    Around its centre it covers 1 - `own` of the area, less what is outside. Returns the true share.
    """
    side = pixels.size(-1)
    half = int(0.5 * (1 - own) ** 0.5 * side)
    rows, columns = (slice(max(at - half, 0), at + half) for at in (row, column))
    box = pixels[:, rows, columns]
    box.copy_(box.roll(1, 0))
    return 1 - box[0].numel() / side**2
