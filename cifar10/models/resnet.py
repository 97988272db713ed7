"""ResNet-18 for small images."""

from torch import Tensor, nn
from torchvision.models import resnet18


class ResNet18(nn.Module):
    """torchvision's ResNet-18 with a stem for 32x32: 11,173,962 parameters with ten classes.

    He et al. (2015), https://arxiv.org/abs/1512.03385. As usual on CIFAR-10, the stem is a 3x3
    convolution of stride 1 without max-pool; the four stages of 64 to 512 channels work on 32x32,
    16x16, 8x8 and 4x4 pixels.

    Takes normalised images, float (N, 3, H, W); returns logits (N, num_classes).
    """

    def __init__(self, num_classes: int = 10):
        super().__init__()
        self.net = resnet18(num_classes=num_classes)
        self.net.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.net.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.net.maxpool = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)
