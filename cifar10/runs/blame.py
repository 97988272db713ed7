"""Which setting an error comes from, and the user's own part of its traceback."""

import sysconfig
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from cifar10.core.errors import SettingError, one_line
from cifar10.core.settings import PACKAGE

LIBRARIES = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]
OURS = (PACKAGE, PACKAGE.with_name("hydra_plugins"), PACKAGE.with_name("train.py"))


def blame(error: BaseException, named: Mapping[str, Any]) -> SettingError | None:
    """The error of an object that settings name, or of the user's own code; None for any other.

    Args:
        named: the objects, by dotted key.
    """
    frames = list(traceback.walk_tb(error.__traceback__))
    own = next((i for i, (frame, _) in enumerate(frames) if is_own(frame.f_code.co_filename)), None)
    owners = {id(part): key for key, value in named.items() if value for part in parts(value)}
    keys = [owners.get(id(frame.f_locals.get("self"))) for frame, _ in frames]
    key = next(filter(None, reversed(keys)), None)
    if own is None and key is None:
        return None
    blamed = SettingError(f"{key or 'your code'}: {type(error).__name__}: {one_line(error)}")
    if own is not None:
        stack = traceback.StackSummary.extract(iter(frames[own:]))
        blamed.details = "".join(["Traceback (most recent call last):\n", *stack.format()])
    return blamed


def parts(value: Any) -> list[Any]:
    """An object, unless it is a callback of this project, and the layers of a network."""
    found = list(value.modules()) if isinstance(value, nn.Module) else [value]
    return [part for part in found if not type(part).__module__.startswith("cifar10.runs.")]


def is_own(file: str) -> bool:
    """Whether a file is neither this project's nor that of a library."""
    path = Path(file)
    return path.is_absolute() and not any(map(path.is_relative_to, (*LIBRARIES, *OURS)))
