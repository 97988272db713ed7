"""Image classifiers of the timm package."""

import difflib
import functools
from typing import Any

from torch import Tensor, nn

# Options that fetch or read weights; a checkpoint holds them already.
WEIGHTS = ("pretrained", "checkpoint_path", "cache_dir")


class FromTimm(nn.Module):
    """Any image classifier of timm (https://github.com/huggingface/pytorch-image-models).

    Takes normalised images, float (N, 3, 32, 32); returns logits (N, num_classes). Most networks
    are designed for 224 pixels and downsample 32 too early; `options` can adapt some of them.

    Args:
        name: timm's model name, such as `resnet18` or `vit_tiny_patch16_224`.
        options: further arguments of timm.create_model, such as `img_size`. `pretrained: true`
            starts the training from timm's weights.

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
        shape = {key: value for key, value in options.items() if key not in WEIGHTS}
        self.network = timm.create_model(name, num_classes=num_classes, **shape)
        arguments = {"num_classes": num_classes, **options}
        loads = options.get("pretrained") or options.get("checkpoint_path")
        self.pretrained = functools.partial(timm.create_model, name, **arguments) if loads else None

    def load_initial_weights(self) -> None:
        if self.pretrained:
            self.network.load_state_dict(self.pretrained().state_dict())

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)
