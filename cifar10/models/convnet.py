"""ConvNet: the original network."""

from typing import Annotated

from annotated_types import Interval
from torch import Tensor, nn
from torch.nn import functional


class ConvNet(nn.Module):
    """Five 3x3 convolutions, then four linear layers: 2,791,434 parameters with ten classes.

    Takes normalised images, float (N, 3, S, S) with S >= 16; returns logits (N, num_classes).
    Max-pool and ReLU commute, so pooling comes first: ReLU then has a quarter of the values.
    `dropout` zeroes whole channels after the second max-pool; the original used 0.5. The linear
    layers need 6x6 features, those of 32x32 images; the features of others are resized.
    """

    def __init__(
        self, dropout: Annotated[float, Interval(ge=0, le=1)] = 0.1, num_classes: int = 10
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 32, 3, padding=1)
        self.conv3 = nn.Conv2d(32, 64, 3, padding=1)
        self.conv4 = nn.Conv2d(64, 128, 3, padding=1)
        self.conv5 = nn.Conv2d(128, 256, 3)
        self.fc1 = nn.Linear(6 * 6 * 256, 256)
        self.fc2 = nn.Linear(256, 128)
        self.fc3 = nn.Linear(128, 64)
        self.fc4 = nn.Linear(64, num_classes)
        self.pool = nn.MaxPool2d(2)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.conv1(images))  # (N, 8, 32, 32)
        x = self.relu(self.pool(self.conv2(x)))  # (N, 32, 16, 16)
        x = self.relu(self.conv3(x))  # (N, 64, 16, 16)
        x = self.dropout(self.relu(self.pool(self.conv4(x))))  # (N, 128, 8, 8)
        x = self.relu(self.conv5(x))  # (N, 256, 6, 6)
        if x.shape[2:] != (6, 6):
            x = functional.interpolate(x, 6)  # the nearest ones
        x = self.relu(self.fc1(x.flatten(1)))  # (N, 256)
        x = self.relu(self.fc2(x))  # (N, 128)
        x = self.relu(self.fc3(x))  # (N, 64)
        return self.fc4(x)  # (N, num_classes)
