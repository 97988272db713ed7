"""Logits averaged over views of an image: test-time augmentation."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

Classify = Callable[[Tensor], Tensor]


def flip_tta(classify: Classify, images: Tensor, logits: Tensor | None = None) -> Tensor:
    """Average the logits of each image and its mirror image.

    Args:
        classify: images to logits, float (N, 10).
        images: uint8 or float (N, 3, H, W).
        logits: those of the images as they are, where they are known already.
    """
    straight = classify(images) if logits is None else logits
    return (straight.float() + classify(images.flip(-1)).float()) / 2


def six_view_tta(classify: Classify, images: Tensor, logits: Tensor | None = None) -> Tensor:
    """Average the logits of six views of each image: three places, each with its mirror image.

    Half the weight is on the image where it is, a quarter on it moved by one pixel up and left,
    and a quarter on it moved down and right, the border reflected; in each place half is on the
    mirror image. These are the test-time augmentation and the weights of Jordan (2024),
    https://arxiv.org/abs/2404.00498. Arguments as for `mirrored`.
    """
    height, width = images.shape[-2:]
    padded = F.pad(images.float(), (1, 1, 1, 1), "reflect").to(images.dtype)
    moved = padded[..., :height, :width], padded[..., 2:, 2:]
    middle = flip_tta(classify, images, logits)
    return middle / 2 + sum(flip_tta(classify, view) for view in moved) / 4
