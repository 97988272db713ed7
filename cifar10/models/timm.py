"""Image classifiers of the timm package."""

import difflib
from typing import Any

from torch import Tensor, nn


class FromTimm(nn.Module):
    """Any image classifier of timm (https://github.com/huggingface/pytorch-image-models).

    Takes normalised images, float (N, 3, 32, 32); returns logits (N, num_classes). Most networks
    are designed for 224 pixels and downsample 32 too early; `options` can adapt some of them.

    Args:
        name: timm's model name, such as `resnet18` or `vit_tiny_patch16_224`.
        options: further arguments of the network, such as `img_size` and `patch_size`.

    Raises:
        ValueError: timm is not installed or has no such network.
    """

    def __init__(self, name: str, options: dict[str, Any], num_classes: int = 10):
        super().__init__()
        try:
            import timm
        except ImportError as error:
            raise ValueError("timm is not installed; run pip install -e '.[timm]'") from error
        if not timm.is_model(name):
            close = difflib.get_close_matches(name, timm.list_models(), n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(f"timm has no network {name!r}{hint}")
        self.network = timm.create_model(name, num_classes=num_classes, **options)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)
