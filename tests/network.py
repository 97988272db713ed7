"""A network small enough for hundreds of runs, with all that a resumed run must get back."""

from torch import Tensor, nn


class Small(nn.Sequential):
    """A convolution, batch normalisation (running statistics) and dropout (random states)."""

    def __init__(self, dropout: float = 0.2, num_classes: int = 10):
        super().__init__(
            nn.Conv2d(3, 8, 3, stride=4),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(8 * 8 * 8, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)


class Plain(nn.Sequential):
    """Without statistics of a batch and random numbers: several processes train it as one does."""

    def __init__(self, num_classes: int = 10):
        super().__init__(
            nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 8 * 8, num_classes)
        )
