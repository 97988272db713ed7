"""Image classifiers of the timm package."""

import difflib
import functools
from typing import Any

from torch import Tensor, nn

# Arguments of timm's networks that only shape them. A checkpoint may come from a stranger, and
# other arguments of timm.create_model fetch, read or write files.
# fmt: off
ARCHITECTURE = {
    "aa_layer", "act_layer", "attn_drop_rate", "attn_ratio", "avg_down", "base_width", "block_args",
    "block_reduce_first", "cardinality", "channels", "class_token", "conv_bias", "conv_mlp",
    "depth", "depths", "dims", "down_kernel_size", "drop_block_rate", "drop_path_rate", "drop_rate",
    "dynamic_img_pad", "dynamic_img_size", "embed_dim", "embed_dims", "expand_ratio", "final_norm",
    "fc_norm", "global_pool", "groups", "growth_rate", "head_dim", "head_hidden_size",
    "head_init_scale", "head_norm_first", "img_size", "init_values", "kernel_size",
    "layer_scale_init_value", "layers", "ls_init_value", "mlp_ratio", "mlp_ratios",
    "no_embed_class", "norm_eps", "norm_layer", "num_heads", "output_stride", "pad_type",
    "patch_drop_rate", "patch_size", "pool_type", "pos_drop_rate", "pos_embed", "pre_norm",
    "proj_drop_rate", "qk_norm", "qkv_bias", "reg_tokens", "replace_stem_pool", "se_layer",
    "sr_ratios", "stem_kernel_size", "stem_size", "stem_stride", "stem_type", "stem_width",
    "strict_img_size", "swiglu_mlp", "use_abs_pos_emb", "use_grn", "widths", "width_factor",
    "window_size", "zero_init_last",
}
# fmt: on
# What of timm.create_model's pretrained_cfg_overlay may be set: a file of weights and its classes.
OVERLAY = ("file", "num_classes")


class FromTimm(nn.Module):
    """Any image classifier of timm (https://github.com/huggingface/pytorch-image-models).

    Takes normalised images, float (N, 3, 32, 32); returns logits (N, num_classes). Most networks
    are designed for 224 pixels and downsample 32 too early; `options` can adapt some of them.

    Args:
        name: timm's model name, such as `resnet18` or `vit_tiny_patch16_224`.
        options: arguments that shape the network, such as `img_size`. `pretrained: true` starts
            the training from timm's weights, or with `pretrained_cfg_overlay: {file: FILE}` from
            those in a file.

    Raises:
        ValueError: timm is not installed, has no such network or takes no such option.
    """

    def __init__(self, name: str, options: dict[str, Any] | None = None, num_classes: int = 10):
        super().__init__()
        options = options or {}
        try:
            import timm
        except ImportError as error:
            raise ValueError("timm is not installed; run pip install -e '.[timm]'") from error
        if not timm.is_model(name):
            close = difflib.get_close_matches(name, timm.list_models(), n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(f"timm has no network {name!r}{hint}")
        pretrained = options.get("pretrained", False)
        overlay = options.get("pretrained_cfg_overlay", {})
        if not isinstance(pretrained, bool):
            raise ValueError("options.pretrained: must be true or false")
        if not set(OVERLAY).issuperset(overlay):
            raise ValueError(f"options.pretrained_cfg_overlay: takes only {', '.join(OVERLAY)}")
        start = {"pretrained": pretrained, "pretrained_cfg_overlay": overlay}
        shape = {key: value for key, value in options.items() if key not in start}
        for key in sorted(shape.keys() - ARCHITECTURE):
            close = difflib.get_close_matches(key, ARCHITECTURE, n=1)
            only = "only options of the architecture are allowed"
            hint = f"did you mean {close[0]}?" if close else only
            hint = "use pretrained_cfg_overlay: {file: FILE}" if key == "checkpoint_path" else hint
            raise ValueError(f"options.{key}={shape[key]!r}: refused; {hint}")
        build = functools.partial(timm.create_model, name, num_classes=num_classes, **shape)
        self.network = build()
        self.pretrained = functools.partial(build, **start) if pretrained else None

    def load_initial_weights(self) -> None:
        if self.pretrained:
            self.network.load_state_dict(self.pretrained().state_dict())

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)
