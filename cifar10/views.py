"""Logits averaged over views of an image."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F


def over_views(
    classify: Callable[[Tensor], Tensor], images: Tensor, logits: Tensor | None = None
) -> Tensor:
    """Average the logits of six views of each image: three places, each with its mirror image.

    Half the weight is on the image where it is, a quarter on it moved by one pixel up and left,
    and a quarter on it moved down and right, the border reflected; in each place half is on the
    mirror image. These are the test-time augmentation and the weights of Jordan (2024),
    https://arxiv.org/abs/2404.00498.

    Args:
        classify: images to logits, float (N, 10).
        images: uint8 or float (N, 3, H, W).
        logits: those of the images as they are, where they are known already.
    """
    height, width = images.shape[-2:]
    padded = F.pad(images.float(), (1, 1, 1, 1), "reflect").to(images.dtype)
    up_left = padded[..., :height, :width]
    down_right = padded[..., 2:, 2:]
    middle = (classify(images) if logits is None else logits).float()

    def mirrored(view: Tensor) -> Tensor:
        return classify(view.flip(-1)).float()

    moved = sum(classify(view).float() + mirrored(view) for view in (up_left, down_right))
    return (middle + mirrored(images)) / 4 + moved / 8
