"""Test-time augmentation: logits averaged over views of an image."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

Classify = Callable[[Tensor], Tensor]


def flip_tta(classify: Classify, images: Tensor, logits: Tensor | None = None) -> Tensor:
    """Average the logits of images, (N, 3, H, W), and their mirror images; `logits` are reused."""
    single_view = classify(images) if logits is None else logits
    return (single_view.float() + classify(images.flip(-1)).float()) / 2


def six_view_tta(classify: Classify, images: Tensor, logits: Tensor | None = None) -> Tensor:
    """Average the logits of six views of each image: three shifts, each also mirrored.

    The unshifted image has half the weight; shifts by one pixel up and left or down and right, with
    reflected borders, a quarter each. Jordan (2024), https://arxiv.org/abs/2404.00498.
    """
    height, width = images.shape[-2:]
    padded = F.pad(images.float(), (1, 1, 1, 1), "reflect").to(images.dtype)
    shifted = padded[..., :height, :width], padded[..., 2:, 2:]
    centred = flip_tta(classify, images, logits)
    return centred / 2 + sum(flip_tta(classify, view) for view in shifted) / 4
