"""Plain settings into objects, checked first.

A *specification* is a dictionary with the dotted name of a class under `_target_`; its other keys
are the class's arguments. It comes from YAML or from a checkpoint, so nothing is taken on trust:
only classes of known packages and of the expected kind are built.
"""

import importlib
import inspect
import os
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import ErrorDetails

from cifar10.core.errors import SettingError, UserError, one_line, unknown_setting

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

LIMITS = {  # pydantic's error types
    "greater_than": "be above {gt}",
    "greater_than_equal": "be at least {ge}",
    "less_than": "be below {lt}",
    "less_than_equal": "be at most {le}",
    "none_required": "be null",
}
PACKAGES = {"cifar10", "lightning", "torch", "torchvision"}


def instantiate(spec: Mapping[str, Any], where: str, kind: type[T], **given: Any) -> T:
    """Check a specification and construct its object.

    Args:
        spec: the specification.
        where: its place in the settings, for messages: `model`, `callbacks.best`.
        kind: the class that the object must be an instance of.
        given: further arguments, from the program; those that the class does not know are left out.

    Raises:
        SettingError: an unknown class, an unknown or missing key, a wrong type, a value out of
            range.
    """
    if not isinstance(spec, Mapping):
        raise SettingError(f"{where}={spec!r}: must be a group of settings with a _target_")
    cls = import_class(spec.get("_target_"), where, kind)
    arguments = {key: value for key, value in spec.items() if key != "_target_"}
    try:
        return call_checked(cls, arguments, f"{where}.", **given)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # torch's range checks, what a file of one's own does
        raise SettingError(f"{where}: {one_line(error)}") from error


def call_checked(
    function: Callable[..., T], arguments: Mapping[str, Any], prefix: str, **given: Any
) -> T:
    """Call a function or class with arguments from settings, checked against its signature.

    Args:
        prefix: what stands before the arguments' names in messages: `model.`.
        given: as for `build`.

    Raises:
        SettingError: as for `build`.
    """
    named, open_ended = signature_parameters(function)
    given = {key: value for key, value in given.items() if key in named}
    for key, value in arguments.items():
        if key in given:
            raise SettingError(f"{prefix}{key}={value!r}: the program itself sets this")
        if key not in named and not open_ended:
            known = [f"{prefix}{name}" for name in named if name not in given]
            raise unknown_setting(f"{prefix}{key}", value, known)
    check_types(function, arguments, prefix)
    for name, parameter in named.items():
        if parameter.default is parameter.empty and name not in given and name not in arguments:
            raise SettingError(f"{prefix}{name} is missing: {function.__name__} needs it")
    return function(**given, **arguments)


def signature_parameters(function: Callable) -> tuple[dict[str, inspect.Parameter], bool]:
    """A function's parameters by name, and whether it takes others besides.

    Where a class of this program takes `**common`, that are its base class's parameters.
    """
    own = inspect.signature(function).parameters.values()
    named = {p.name: p for p in own if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in own)
    if open_ended and forwards_kwargs(function):
        inherited, open_ended = signature_parameters(function.__base__)
        named = inherited | named
    return named, open_ended


def forwards_kwargs(function: Callable) -> bool:
    return isinstance(function, type) and function.__module__.startswith("cifar10.")


def import_class(target: Any, where: str, kind: type[T]) -> type[T]:
    """Import the class that a specification names.

    Raises:
        SettingError: it is outside the trusted packages, does not exist or is of another kind.
    """
    own = os.environ.get("CIFAR10_TRUST", "").replace(",", " ").split()
    trusted = PACKAGES.union(own)
    name = f"{where}._target_={target}"
    if not isinstance(target, str) or "." not in target:
        raise SettingError(f"{name}: must be the full name of a class, as in package.module.Class")
    if target.split(".")[0] not in trusted:
        wanted = ",".join([*own, target.split(".")[0]])
        raise SettingError(
            f"{name}: only classes of {', '.join(sorted(trusted))} are built; if you know whose "
            f"code this is and trust it, set the environment variable CIFAR10_TRUST={wanted}"
        )
    if target.split(".")[0] not in PACKAGES and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # a file of one's own, beside which one works
    module, _, attribute = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # whatever a file of one's own does when imported
        raise SettingError(f"{name}: {type(error).__name__}: {one_line(error)}") from error
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise SettingError(f"{name}: is not a {kind.__name__}")
    return found


def check_types(function: Callable, arguments: Mapping[str, Any], prefix: str) -> None:
    """Compare arguments with the types, and the ranges, that a function's annotations state.

    Raises:
        SettingError: a value does not fit; an annotation that can't be checked lets all pass.
    """
    hints = {}
    for cls in reversed(function.__mro__) if forwards_kwargs(function) else [function]:
        annotated = cls.__init__ if isinstance(cls, type) else cls
        try:
            hints |= typing.get_type_hints(annotated, include_extras=True)
        except (NameError, TypeError):
            continue
    for key in arguments.keys() & hints.keys():
        try:
            adapter = TypeAdapter(hints[key], config=ConfigDict(arbitrary_types_allowed=True))
        except PydanticUserError:
            continue
        try:
            adapter.validate_python(arguments[key], strict=True)  # "3" and true are no numbers
        except ValidationError as error:
            message = f"{prefix}{key}={arguments[key]!r}: must {requirement(error.errors())}"
            raise SettingError(message) from error


def validate_settings(model: type[M], values: Any, prefix: str) -> M:
    """Build a pydantic model from settings.

    Args:
        prefix: what stands before the settings' names in messages, such as `sweep.`.

    Raises:
        SettingError: a setting is unknown, missing, of the wrong type or out of range.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        errors = error.errors()
    key = errors[0]["loc"][0]
    if errors[0]["type"] == "extra_forbidden":
        known = [f"{prefix}{name}" for name in model.model_fields]
        raise unknown_setting(f"{prefix}{key}", values[key], known)
    if errors[0]["type"] == "missing":
        raise SettingError(f"{prefix}{key} is missing")
    same_key = [each for each in errors if each["loc"][0] == key]
    raise SettingError(f"{prefix}{key}={values[key]!r}: must {requirement(same_key)}")


def requirement(errors: Sequence[ErrorDetails]) -> str:
    """What pydantic's errors ask of a value, such as `be at least 1 or be null`."""
    wanted = []
    for error in errors:
        if error["type"] in LIMITS:
            wanted.append(LIMITS[error["type"]].format(**error["ctx"]))
        else:  # "Input should be a valid integer", "List should have at least 2 items"
            wanted.append(error["msg"].partition(" should ")[2].replace("be a valid ", "be "))
    return " or ".join(dict.fromkeys(wanted))
