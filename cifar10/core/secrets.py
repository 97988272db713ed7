"""Text from the environment, and passwords in URLs: kept out of what a run writes."""

import copy
import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from cifar10.core.display import printable, printable_lines
from cifar10.core.errors import SettingError, UserError

PUBLIC = ("data.dir", "trainer.devices", "trainer.num_nodes")  # paths and numbers of machines
SAVED = ("model", "optimizer", "scheduler", "data")  # groups that a trained model is rebuilt from
SHORTEST = 6  # characters of a variable's value that messages hide
# User name and password of a URL; a password may contain any character but a space. HOST:80/ is no
# user where the scheme is http or https, which write a slash in a password as %2F.
USER = re.compile(
    r"(?<=://)(?!(?<=http://|ttps://)[^/@:\s]*:\d+/)"
    r"(?:[^/@:\s]*:[^@\s]*|[^/@\s]+)(?:@[^/@\s]*)*(?=@)",
    re.ASCII,
)
MASKED = "://***@"

hidden: dict[str, str] = {}  # value of an environment variable: text that replaces it
used: dict[str, str] = {}  # variables that `${oc.env:…}` has read since this was last emptied


class FromEnvironment(str):
    """A setting's text that interpolates the environment; records contain `typed` instead."""

    typed: str


class SafeFormatter(logging.Formatter):
    """Formats a log record, its traceback too, without secrets and control characters."""

    def format(self, record: logging.LogRecord) -> str:
        record = copy.copy(record)
        if isinstance(record.args, tuple):  # names in it may contain line ends
            texts = (str, Path, Exception)
            record.args = tuple(
                safe_line(str(a)) if isinstance(a, texts) else a for a in record.args
            )
        if not record.name.startswith(("cifar10", "lightning")):
            record.msg, record.args = safe_line(record.getMessage()), None
        return safe(super().format(record))


def safe(text: str) -> str:
    """A message without secrets and control characters."""
    return printable_lines(hide(text))


def safe_line(text: str) -> str:
    """A message on a single line, without secrets and control characters."""
    return printable(hide(text))


def exit_with(error: UserError) -> NoReturn:
    """Print an error's message on stderr and exit with its code."""
    print(f"{safe(error.details)}error: {safe_line(str(error))}", file=sys.stderr)
    raise SystemExit(error.exit_code)


def print_safe(text: str) -> None:
    print(safe(text), flush=True)


def read_variable(name: str, *default: Any) -> Any:
    """OmegaConf's `${oc.env:NAME,DEFAULT}`; notes that it was used."""
    if name in os.environ:
        used[name] = os.environ[name]
    return oc.env(name, *default)


OmegaConf.register_new_resolver("oc.env", read_variable, replace=True)


def hide(text: str) -> str:
    """Mask URL passwords and the values that settings read from the environment in a message."""
    for value in sorted(hidden, key=len, reverse=True):  # one may begin with another
        text = text.replace(value, hidden[value])
    return mask(text)


def mask(text: str) -> str:
    """Mask users and passwords in URLs, unless an interpolation stands for the password."""

    def masked(user: re.Match[str]) -> str:
        literal = re.sub(r"\$\{[^}]*\}", "", user[0])
        return user[0] if "${" in user[0] and re.fullmatch(r"([^:]*:)?", literal) else "***"

    return USER.sub(masked, text)


def as_typed(value: Any) -> Any:
    """A nested value for records: `FromEnvironment` as typed, URL passwords masked."""
    return map_text(value, lambda text: mask(getattr(text, "typed", text)))


def as_plain(value: Any) -> Any:
    """A nested value for checkpoints, which cannot hold `FromEnvironment`."""
    return map_text(value, str)


def map_text(value: Any, function: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {map_text(k, function): map_text(item, function) for k, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map_text(item, function) for item in value)
    return function(value) if isinstance(value, str) else value


def resolve(config: DictConfig) -> dict[str, Any]:
    """Settings as plain values; text that reads the environment becomes `FromEnvironment`.

    Raises:
        SettingError: a trained model could not be rebuilt without the environment.
        OmegaConfBaseException: a value is missing, or an interpolation cannot be resolved.
    """

    def values(node: Any, path: tuple[str, ...]) -> Any:
        if isinstance(node, DictConfig):
            return {key: value_of(node, key, (*path, str(key))) for key in node}
        if isinstance(node, ListConfig):
            return [value_of(node, i, (*path, str(i))) for i in range(len(node))]
        return node

    def value_of(parent: Any, key: Any, path: tuple[str, ...]) -> Any:
        used.clear()
        value, name = parent[key], ".".join(path)
        found = dict(used)
        if not found or name in PUBLIC:
            return values(value, path)
        if isinstance(value, dict | list | DictConfig | ListConfig):
            raise SettingError(f"{name}: reads a group from the environment; write its values")
        if not isinstance(value, str):
            return value
        if path[0] in SAVED and path[:2] != ("data", "sources"):
            reason = "must not read the environment, since it is saved with the model"
            raise SettingError(f"{name}: {reason}; write the value in place of ${{oc.env:…}}")
        secrets = {secret: f"${{oc.env:{variable}}}" for variable, secret in found.items()}
        hidden.update({secret: text for secret, text in secrets.items() if len(secret) >= SHORTEST})
        text = FromEnvironment(value)
        text.typed = str(parent._get_node(key)._value())
        return text

    plain: dict[str, Any] = values(config, ())
    return plain


def resolve_again(recorded: dict[str, Any]) -> dict[str, Any]:
    """A run's recorded settings with the current values of the environment."""
    try:
        return resolve(OmegaConf.create(recorded))
    except OmegaConfBaseException as error:
        raise SettingError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
