"""AirNet: a convolutional network that trains fast."""

from itertools import pairwise
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Interval, Len
from torch import Tensor, nn

WHITEN_SIDE = 2  # pixels, of the patches that the first layer whitens
WHITEN_WIDTH = 2 * 3 * WHITEN_SIDE**2  # channels: each eigenvector and its negative

Width = Annotated[int, Ge(WHITEN_WIDTH)]
ACTIVATIONS = {"gelu": nn.GELU, "silu": nn.SiLU}


class Conv(nn.Conv2d):
    """A 3x3 convolution whose first `in_channels` filters are initialised to the identity."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 3, padding=1, bias=False)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.dirac_(self.weight.data[: self.in_channels])


class Norm(nn.BatchNorm2d):
    """Batch normalisation with a learned shift and no scale."""

    def __init__(self, channels: int, momentum: float):
        super().__init__(channels, eps=1e-12, momentum=momentum)
        self.weight.requires_grad_(False)


class Block(nn.Sequential):
    """Two convolutions, with a 2x2 max-pool after the first."""

    def __init__(self, in_channels: int, channels: int, activation: type, norm_momentum: float):
        super().__init__(
            Conv(in_channels, channels),
            nn.MaxPool2d(2),
            Norm(channels, norm_momentum),
            activation(),
            Conv(channels, channels),
            Norm(channels, norm_momentum),
            activation(),
        )


class AirNet(nn.Module):
    """A whitening layer and three blocks; with widths 64, 256, 256 it has 1,972,792 parameters.

    The network of Jordan (2024), "94% on CIFAR-10 in 3.29 Seconds on a Single GPU",
    https://arxiv.org/abs/2404.00498. Takes normalised images, float (N, 3, H, W) with H, W >= 9;
    returns logits (N, num_classes). The last max-pool covers the whole feature map, so every image
    size works; at 32x32 it is the paper's 3x3.

    Args:
        widths: channels of the three blocks.
        norm_momentum: weight of the newest batch in the running statistics of batch normalisation;
            large because there are few steps.
    """

    def __init__(
        self,
        widths: Annotated[tuple[Width, ...], Len(3, 3)] = (64, 256, 256),
        activation: Literal["gelu", "silu"] = "gelu",
        norm_momentum: Annotated[float, Interval(ge=0, le=1)] = 0.4,
        num_classes: int = 10,
    ):
        super().__init__()
        self.whiten = nn.Conv2d(3, WHITEN_WIDTH, WHITEN_SIDE)
        self.whiten.weight.requires_grad_(False)
        shared = ACTIVATIONS[activation], norm_momentum
        blocks = (Block(*pair, *shared) for pair in pairwise([WHITEN_WIDTH, *widths]))
        self.blocks = nn.Sequential(nn.GELU(), *blocks)
        self.head = nn.Linear(widths[-1], num_classes, bias=False)
        self.head.weight.data /= self.head.weight.data.std()

    def forward(self, images: Tensor) -> Tensor:
        x = self.whiten(images)  # (N, 24, 31, 31)
        x = self.blocks(x)  # (N, 256, 3, 3)
        x = x.amax((2, 3))
        return self.head(x) / x.size(1)  # (N, num_classes)

    @torch.no_grad()
    def init_from_images(self, images: Tensor, eps: float = 5e-4) -> None:
        """Whiten 2x2 patches of normalised training images, float (N, 3, H, W), in the first layer.

        Its filters are the eigenvectors of the patches' covariance, scaled to variance 1; `eps`
        added to the variances keeps noise small. A few thousand images suffice.
        """
        patches = nn.functional.unfold(images.float(), WHITEN_SIDE)  # (N, 12, patches)
        covariance = torch.einsum("nip,njp->ij", patches, patches) / patches[:, 0].numel()
        values, vectors = torch.linalg.eigh(covariance)
        filters = (vectors / (values + eps).sqrt()).T.reshape(-1, 3, WHITEN_SIDE, WHITEN_SIDE)
        self.whiten.weight.copy_(torch.cat([filters, -filters]))
