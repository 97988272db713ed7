"""Checked specifications into objects.

A *specification* is a dictionary with the dotted name of a class under `_target_`; its other keys
are the class's arguments. It comes from YAML or from a checkpoint, so it is not trusted.
"""

import contextlib
import importlib
import inspect
import os
import re
import sys
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import ErrorDetails

from cifar10.core.display import short
from cifar10.core.errors import SettingError, UserError, one_line, unknown_setting
from cifar10.core.secrets import as_plain, hide, map_text

T = TypeVar("T")
SEQUENCES = ("list_type", "tuple_type")  # pydantic's errors about a whole value

# Modules of networks, optimizers, schedules, data, transforms, callbacks, loggers and profilers.
# Settings and checkpoints may name classes that these, or modules below them, define.
MODULES = (
    "cifar10.data",
    "cifar10.models",
    "cifar10.runs.last_checkpoint",
    "cifar10.training.ema",
    "cifar10.training.muon",
    "cifar10.training.schedules",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
    "lightning.pytorch.profilers",
    "lightning.pytorch.trainer",
    "torch.nn",
    "torch.optim",
    "torchvision.models",
    "torchvision.ops",
    "torchvision.transforms",
)
PACKAGES = {module.partition(".")[0] for module in MODULES}
# Keyword arguments, by class, that it forwards without naming them and that are safe; the functions
# behind it also take some that run code or write elsewhere.
FORWARDED = {
    "PyTorchProfiler": ("profile_memory", "record_shapes", "with_flops", "with_stack"),
    "TensorBoardLogger": ("comment", "filename_suffix", "flush_secs", "max_queue"),
    "WandbLogger": ("entity", "group", "job_type", "mode", "notes", "tags"),
}
REQUIREMENTS = {  # what a value must be or do, by the type of pydantic's error
    "greater_than_equal": "be at least {ge}",
    "greater_than": "be above {gt}",
    "less_than_equal": "be at most {le}",
    "less_than": "be below {lt}",
    "int_type": "be an integer",
    "float_type": "be a number",
    "bool_type": "be true or false",
    "string_type": "be text",
    "none_required": "be null",
    "list_type": "be a list",
    "tuple_type": "be a list",
    "dict_type": "be a group of settings, as in '{{KEY: VALUE}}'",
    "literal_error": "be {expected}",
    "too_short": "have at least {min_length} values",
    "too_long": "have at most {max_length} values",
    "string_too_short": "not be empty",
    "sequence_str": "be a list",
    "is_instance_of": "be an object of the class {class}",
}


def instantiate(spec: Mapping[str, Any], where: str, kind: type[T], **given: Any) -> T:
    """Check a specification and build its object.

    Args:
        where: its place in the settings, for messages: `model`, `callbacks.best`.
        kind: a class that the object's class must inherit from.
        given: further arguments, from the program; those that the class does not take are dropped.

    Raises:
        SettingError: the class, a key or a value does not fit.
    """
    if not isinstance(spec, Mapping):
        raise SettingError(f"{where}={shown(spec)}: must be a group of settings with a _target_")
    cls = import_class(spec.get("_target_"), where, kind)
    arguments = as_plain({key: value for key, value in spec.items() if key != "_target_"})
    if not is_user_code(cls.__module__):
        map_text({**arguments, **given}, partial(refuse_chain, where=where))
    try:
        return call_checked(cls, arguments, f"{where}.", **given)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # range checks of torch, anything in user code
        its = f"{type(error).__name__}: " if is_user_code(cls.__module__) else ""
        raise SettingError(f"{where}: {its}{one_line(error)}") from error


def shown(value: Any) -> str:
    return short(hide(repr(value)), longest=160)


def refuse_chain(text: str, where: str) -> str:
    """Refuse an address such as `reference::FILE`: Lightning opens paths with fsspec, which would
    run code of that file. The address of a machine may be `[::1]`.
    """
    if "::" in re.sub(r"//([^/\s]*@)?\[[\da-fA-F:.]+\]", "//", text):
        raise SettingError(f"{where}: {text}: addresses with :: are not allowed; name a folder")
    return text


def call_checked(
    function: Callable[..., T], arguments: Mapping[str, Any], prefix: str, **given: Any
) -> T:
    """Call a function or class with arguments from settings, checked against its signature.

    `prefix` is that of the arguments' names in messages: `model.`; `given` as for `instantiate`.
    """
    named, takes_others = signature_parameters(function)
    given = {key: value for key, value in given.items() if key in named}
    for key, value in arguments.items():
        if key in given:
            raise SettingError(f"{prefix}{key}={shown(value)}: set by the program; remove it")
        if key not in named and not (takes_others and may_forward(function, key)):
            known = [f"{prefix}{name}" for name in named if name not in given]
            raise unknown_setting(f"{prefix}{key}", value, known)
    arguments = check_types(function, arguments, prefix)
    for name, parameter in named.items():
        if parameter.default is parameter.empty and name not in given and name not in arguments:
            user = f"; {function.__name__} needs it" if isinstance(function, type) else ""
            raise SettingError(f"{prefix}{name}: missing{user}")
    return function(**given, **arguments)


def signature_parameters(function: Callable) -> tuple[dict[str, inspect.Parameter], bool]:
    """A function's parameters by name, those of forwarded `**kwargs` too; if it takes others."""
    parameters = inspect.signature(function).parameters.values()
    named = {p.name: p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    takes_others = any(p.kind is p.VAR_KEYWORD for p in parameters)
    if takes_others and forwards_kwargs(function):
        inherited, takes_others = signature_parameters(function.__base__)
        named = inherited | named
    return named, takes_others


def forwards_kwargs(function: Callable) -> typing.TypeGuard[Any]:
    """Whether this is a class of the project: they pass `**kwargs` on to their base class."""
    return isinstance(function, type) and function.__module__.startswith("cifar10.")


def may_forward(function: Callable, key: str) -> bool:
    """Whether a function may be given an argument that it does not name."""
    return is_user_code(function.__module__) or key in FORWARDED.get(function.__name__, ())


def import_class(target: Any, where: str, kind: type[T]) -> type[T]:
    """Import the class that a specification names, if it is trusted and its kind fits."""
    name = f"{where}._target_" + (f"={target}" if target is not None else "")
    if not isinstance(target, str) or "." not in target:
        fault = "missing; set" if target is None else "must be"
        raise SettingError(f"{name}: {fault} the full name of a class: package.module.Class")
    module, _, attribute = target.rpartition(".")
    if module != "lightning.pytorch":  # imported anyway, for the Trainer
        refuse_untrusted(module, name)
    if is_user_code(target) and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # the user's own file, in the folder they work in
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # the user's file may raise anything
        raise SettingError(f"{name}: {type(error).__name__}: {one_line(error)}") from error
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise SettingError(f"{name}: is not a {kind.__name__}")
    if not is_user_code(target):
        refuse_untrusted(found.__module__, name)  # a module also exposes what it imports
    return found


def refuse_untrusted(module: str, name: str) -> None:
    """Raise a SettingError about `name` unless `MODULES` or `CIFAR10_TRUST` hold a module."""
    allowed = (*MODULES, *trusted_modules())
    if not any(f"{module}.".startswith(f"{prefix}.") for prefix in allowed):
        needed = module.partition(".")[0] if is_user_code(module) else module
        only = f"only classes from certain modules of {', '.join(sorted(PACKAGES))} are allowed"
        raise SettingError(f"{name}: {only}; if you trust this code, {trust(needed)}")


def trust(module: str) -> str:
    return f"set the environment variable CIFAR10_TRUST={','.join([*trusted_modules(), module])}"


def trusted_modules() -> list[str]:
    """The modules of the environment variable CIFAR10_TRUST, whose code may run."""
    return os.environ.get("CIFAR10_TRUST", "").replace(",", " ").split()


def is_user_code(target: Any) -> bool:
    """Whether a specification's class is the user's own, which `CIFAR10_TRUST` admits."""
    return isinstance(target, str) and target.partition(".")[0] not in PACKAGES


def check_types(function: Callable, arguments: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Check arguments against a function's annotations; one that cannot be checked accepts any.

    Returns them with tuples where a function takes no lists, which YAML and JSON have alone.
    """
    hints: dict[str, Any] = {}
    classes = function.__mro__ if forwards_kwargs(function) else [function]
    for cls in reversed(classes):
        with contextlib.suppress(NameError, TypeError):
            annotated = cls.__init__ if isinstance(cls, type) else cls  # type: ignore[misc] # class
            hints |= typing.get_type_hints(annotated, include_extras=True)
    checked = dict(arguments)
    for key in arguments.keys() & hints.keys():
        with contextlib.suppress(PydanticUserError):
            adapter = TypeAdapter(hints[key], config=ConfigDict(arbitrary_types_allowed=True))
            try:
                adapter.validate_python(checked[key], strict=True)  # "3" and true are no numbers
            except ValidationError as error:
                checked[key] = to_tuples(checked[key])
                try:
                    adapter.validate_python(checked[key], strict=True)
                except ValidationError as second:
                    errors = (*error.errors(), *second.errors())  # as a list, as a tuple
                    details = [e for e in errors if e["loc"] or e["type"] not in SEQUENCES]
                    given, needed = shown(arguments[key]), requirement(details or error.errors())
                    raise SettingError(f"{prefix}{key}={given}: {needed}") from error
    return checked


def to_tuples(value: Any) -> Any:
    """A value with tuples for its lists, nested ones too."""
    return tuple(map(to_tuples, value)) if isinstance(value, list) else value


def requirement(details: Iterable[ErrorDetails]) -> str:
    """What a value must be, from pydantic's errors about it: `must be at least 1 or be null`."""
    needs = []
    for detail in details:
        kind, limits = detail["type"], detail.get("ctx", {})
        text = REQUIREMENTS.get("list_type" if limits.get("class") == "Sequence" else kind)
        limits = {key: f"{n:g}" if type(n) is float else n for key, n in limits.items()}
        fallback = detail["msg"].partition(" should ")[2] or detail["msg"]
        needs.append(text.format(**limits) if text else fallback)
    return f"must {' or '.join(dict.fromkeys(needs))}"
