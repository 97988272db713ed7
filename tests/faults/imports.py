"""What the server of runs imports before it forks."""

import train  # noqa: F401
from cifar10 import run  # noqa: F401
