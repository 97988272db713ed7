"""Text from the environment, and passwords in URLs: kept out of what a run writes."""

import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cifar10.core.display import printable
from cifar10.core.errors import SettingError, one_line

PUBLIC = ("data.dir", "trainer.devices", "trainer.num_nodes")  # paths and numbers of machines
SAVED = ("model", "optimizer", "scheduler", "data")  # groups that a trained model is rebuilt from
SHORTEST = 6  # characters of a variable's value that messages hide
REFERENCE = re.compile(r"\$\{(\.*\w[\w.\[\]]*)\}")
VARIABLE = re.compile(r"\benv:\s*(\w+)")
USER = re.compile(r"(?<=://)[^/@\s'\"]+(?=@)")  # user name and password of a URL

hidden: dict[str, str] = {}  # values of environment variables that settings name; what stands there


class FromEnvironment(str):
    """A setting's text that interpolates the environment; records show `typed` in its place."""

    typed: str


class SafeFormatter(logging.Formatter):
    """Formats a log record, its traceback too, without secrets and control characters."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(printable, hide(super().format(record)).split("\n")))


def hide(text: str) -> str:
    """A message without the values that settings read from the environment, and URL passwords."""
    for value, name in hidden.items():
        text = text.replace(value, name)
    return USER.sub("***", text)


def as_typed(value: Any) -> Any:
    """A nested value as records show it."""
    return map_text(value, lambda text: USER.sub("***", getattr(text, "typed", text)))


def as_plain(value: Any) -> Any:
    """A nested value with plain text for `FromEnvironment`, which checkpoints could not hold."""
    return map_text(value, str)


def map_text(value: Any, function: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {key: map_text(item, function) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map_text(item, function) for item in value)
    return function(value) if isinstance(value, str) else value


def resolve_again(recorded: dict[str, Any]) -> dict[str, Any]:
    """A run's recorded settings with the present values of the environment."""

    def resolve(text: str) -> str:
        if not (VARIABLE.search(text) and "${" in text):
            return text
        try:
            return str(OmegaConf.create({**recorded, "_": text})["_"])
        except OmegaConfBaseException as error:
            raise SettingError(f"{text}: {one_line(error)}") from error

    return mark(map_text(recorded, resolve), recorded)


def mark(plain: dict[str, Any], unresolved: dict[str, Any]) -> dict[str, Any]:
    """Resolved settings with `FromEnvironment` for text that interpolates the environment.

    Raises:
        SettingError: a trained model could not be rebuilt without the environment.
    """

    def marked(value: Any, *path: str) -> Any:
        if isinstance(value, dict):
            return {key: marked(item, *path, str(key)) for key, item in value.items()}
        if isinstance(value, list):
            return [marked(item, *path, str(index)) for index, item in enumerate(value)]
        if not isinstance(value, str) or (name := ".".join(path)) in PUBLIC:
            return value
        typed = list(texts(unresolved, path))
        if not (variables := VARIABLE.findall(" ".join(typed))):
            return value
        if path[0] in SAVED and path[:2] != ("data", "sources"):
            reason = "is saved with the model; write its value in place of an interpolation"
            raise SettingError(f"{name}: {reason}")
        for variable in variables:
            if len(secret := os.environ.get(variable, "")) >= SHORTEST:
                hidden[secret] = f"${{oc.env:{variable}}}"
        text = FromEnvironment(value)
        text.typed = next(each for each in typed if VARIABLE.search(each))
        return text

    return marked(plain)


def texts(tree: Any, path: Sequence[str]) -> Iterator[str]:
    """The text at a path of an unresolved tree, and of the nodes that it refers to, in turn."""
    value = tree
    for index, key in enumerate(path):
        if isinstance(value, str):  # a reference to a group
            for reference in REFERENCE.findall(value):
                yield from texts(tree, (*absolute(reference, path[:index]), *path[index:]))
            return
        if not isinstance(value, dict | list):
            return
        value = value[int(key)] if isinstance(value, list) else value.get(key)
    if isinstance(value, str):
        yield value
        for reference in REFERENCE.findall(value):
            yield from texts(tree, absolute(reference, path))


def absolute(reference: str, path: Sequence[str]) -> tuple[str, ...]:
    """The path that an interpolation at `path` refers to; leading dots count from its parent."""
    name = reference.lstrip(".")
    dots = len(reference) - len(name)
    return (*(path[: len(path) - dots] if dots else ()), *filter(None, re.split(r"[.\[\]]+", name)))
