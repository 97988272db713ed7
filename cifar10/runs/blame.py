"""Which setting an error comes from, and the user's own part of its traceback."""

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from cifar10.core.errors import SettingError, UserError, one_line
from cifar10.core.own_code import own_traceback
from cifar10.runs.components import Components
from cifar10.training.hardware import is_out_of_memory


@contextmanager
def user_errors(components: Components, folder: Path) -> Iterator[None]:
    """Turn errors of Lightning, torch and the user's own code into user-facing ones."""
    try:
        yield
    except SystemExit as stop:
        if isinstance(stop.code, int) and stop.code > 128:  # a signal's
            raise
        if blamed := blame(stop, components.named):
            raise blamed from stop
        raise
    except Exception as error:
        if isinstance(error, OSError | UserError) and not folder.is_dir():
            raise UserError(f"{folder} was removed while the run was writing to it") from error
        if isinstance(error, UserError):
            raise
        if is_out_of_memory(error):
            setting = f"data.batch_size={components.data.batch_size}"
            reason = f"out of memory; a smaller batch needs less ({one_line(error)})"
            raise SettingError(f"{setting}: {reason}") from error
        if blamed := blame(error, components.named):
            raise blamed from error
        if isinstance(error, MisconfigurationException):
            raise SettingError(f"trainer or callbacks: {one_line(error)}") from error
        raise


def blame(error: BaseException, named: Mapping[str, Any]) -> SettingError | None:
    """The error of an object that settings name, or of the user's own code; None for any other.

    Args:
        named: the objects, by dotted key.
    """
    frames = list(traceback.walk_tb(error.__traceback__))
    owners = {id(part): key for key, value in named.items() if value for part in parts(value)}
    keys = [owners.get(id(frame.f_locals.get("self"))) for frame, _ in frames]
    key = next(filter(None, reversed(keys)), None)
    details = own_traceback(error)
    if not details and key is None:
        return None
    reason = f"{type(error).__name__}: {one_line(error)}"
    return SettingError(f"{key or 'your code'}: {reason}", details)


def parts(value: Any) -> list[Any]:
    """An object, unless it is a callback of this project, and the layers of a network."""
    found = list(value.modules()) if isinstance(value, nn.Module) else [value]
    return [part for part in found if not type(part).__module__.startswith("cifar10.runs.")]
