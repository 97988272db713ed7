"""Errors raised while Hydra composes the settings, as user-facing errors."""

import argparse
import logging.config
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from hydra._internal.utils import get_args_parser as hydra_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import MissingMandatoryValue, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from cifar10.core.errors import (
    SettingError,
    UnknownSetting,
    UserError,
    one_line,
    unknown_setting,
    why_removed,
)
from cifar10.core.secrets import exit_with
from cifar10.core.settings import CONFIGS, compose, compose_config, flatten

LONG = 160  # characters of an override or a reason that an error repeats
EXTRAS = {"joblib": "sweep", "submitit": "slurm"}  # launcher: extra that installs it


@contextmanager
def report_errors(before: Callable[[], None] | None = None) -> Iterator[None]:
    """Print an error that the user can fix as one line, and exit with its code.

    `before` is called first and may raise another exception, such as a signal that the error hides.
    """
    from cifar10.core.own_code import details_of

    try:
        yield
    except Exception as error:
        if before:
            before()
        cause: BaseException | None = error
        seen: list[BaseException] = []
        while isinstance(cause, Exception | SystemExit) and cause not in seen:
            seen.append(cause)
            cause = cause.__cause__ or cause.__context__
        cause = None if cause in seen else cause
        if cause:  # a signal, after which a library's clean-up failed
            raise cause from None
        if (known := to_user_error(error, sys.argv[1:])) is None:
            raise
        if os.environ.get("CIFAR10_TRACEBACK"):
            traceback.print_exc()
        known.details = details_of(known)
        exit_with(known)


def refuse_options() -> None:
    """Have Hydra's parser raise user-facing errors, and take options between settings."""

    def error(message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown == message:
            raise SettingError(message)
        setting = unknown.lstrip("-").replace(" ", "=", 1)
        hint = f"write settings without dashes: {setting}" if "=" in setting else "see --help"
        raise SettingError(f"{unknown}: unknown option; {hint}")

    def get_args_parser() -> argparse.ArgumentParser:
        container: Any = argparse._ActionsContainer
        # From Python 3.14 on, this refuses one of Hydra 1.3's help texts, which is no text.
        check = getattr(container, "_check_help", None)
        container._check_help = lambda *_: None
        try:
            parser = hydra_parser()
        finally:
            container._check_help = check
        parser.error = error  # type: ignore[method-assign]
        parser.parse_args = parser.parse_intermixed_args  # type: ignore[method-assign]
        return parser

    # hydra.main names both a module and the function in it
    sys.modules["hydra.main"].get_args_parser = get_args_parser  # type: ignore[attr-defined]


def to_user_error(error: Exception, words: Sequence[str]) -> UserError | None:
    """The user-facing form of an error; None for an error of the program itself."""
    if isinstance(error, ValueError) and isinstance(error.__cause__, OSError):
        error = error.__cause__  # a log file that logging cannot open
    files = {frame.filename for frame in traceback.extract_tb(error.__traceback__)}
    if logging.config.__file__ in files and isinstance(error, ValueError | TypeError | KeyError):
        return SettingError(f"hydra.job_logging: {one_line(error.__cause__ or error)}")
    if isinstance(error, RecursionError) and not HydraConfig.initialized():
        longest = max(words, key=len, default="")
        return SettingError(f"{longest[:LONG]}…: nested too deeply")
    if isinstance(error, UserError):
        return explain_leftover(error, words) if isinstance(error, UnknownSetting) else error
    if isinstance(error, HydraException | OmegaConfBaseException | YAMLError):
        return explain(error, words)
    if isinstance(error, UnicodeDecodeError) and not HydraConfig.initialized():  # composing
        return SettingError(f"a YAML file is not UTF-8 text: {error}")
    if isinstance(error, ValueError | TypeError):  # Hydra takes only text as the name of a file
        return wrong_option(words)
    if isinstance(error, OSError) and error.strerror:  # a full disk, a file in place of a folder
        return UserError(f"{error.filename or 'a file'}: {error.strerror}")
    return None


def explain(error: Exception, words: Sequence[str]) -> SettingError:
    """What an error of Hydra, OmegaConf or PyYAML means for someone who typed `words`."""
    if isinstance(error, MissingMandatoryValue):
        return SettingError(f"{error.full_key}: required; add {error.full_key}=VALUE")
    if isinstance(error, OverrideParseException):
        reason = str(error).strip().splitlines()[0][:LONG]
        override = str(error.override)
        shown = override if len(override) < LONG else f"{override[:LONG]}…"
        return SettingError(f"{shown}: {reason}; quote special characters: 'KEY=\"A B\"'")
    if isinstance(error, MarkedYAMLError) and (mark := error.problem_mark):
        return SettingError(f"{mark.name}, line {mark.line + 1}: invalid YAML: {error.problem}")
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        return unknown_option(group, name, error.options)
    cause = error.__cause__
    if isinstance(cause, ConfigAttributeError | ConfigKeyError):
        # OmegaConf names the innermost key that is missing; the user typed a whole one.
        typed = [key for key in assignments(words) if key.startswith(str(cause.full_key))]
        return explain_unknown(typed[0] if typed else str(cause.full_key), words)
    for word in words:
        if word.startswith("~") and (why := why_removed(word[1:].partition("=")[0])):
            return SettingError(f"{word}: {why}")
    return SettingError(one_line(error) + (f": {one_line(cause)}" if cause else ""))


def wrong_option(words: Sequence[str]) -> SettingError | None:
    """The error for the first GROUP=NAME or GROUP=[NAME,...] with null, a number or a list."""
    no_name = r"\s*(null|true|false|[-+]?(inf|nan|[.\d][-+.\d_e]*)|[\[{].*)\s*"
    for group, name in assignments(words).items():
        names = name[1:-1].split(",") if name.startswith("[") else [name]
        is_group = name[:1] != "{" and (group.startswith("hydra/") or options_of(group))
        if is_group and any(re.fullmatch(no_name, item, re.IGNORECASE) for item in names):
            return unknown_option(group, name, options_of(group))
    return None


def unknown_option(group: str, name: str, options: Sequence[str]) -> SettingError:
    """The error for GROUP=NAME where the group has no such file."""
    if group == "hydra/launcher" and (extra := EXTRAS.get(name.partition("_")[0])):
        return SettingError(f'{group}={name}: not installed; pip install -e ".[{extra}]"')
    offered = ", ".join(option for option in options if not option.startswith("_"))
    is_optional = name == "null" and group in ("logger", "callbacks")
    remove = f"; use ~{group} to disable it" if is_optional else ""
    hint = f"choose from {offered}{remove}" if offered else "see --hydra-help"
    return SettingError(f"{group}={name}: unknown {group} '{name}'; {hint}")


def options_of(group: str) -> list[str]:
    """The files of a group of configs/, without those that only others include."""
    names = sorted(path.stem for path in (CONFIGS / group).glob("*.yaml")) if group else []
    return [name for name in names if not name.startswith("_")]


def assignments(words: Sequence[str]) -> dict[str, str]:
    """The KEY=VALUE words of a command line."""
    pairs = (word.lstrip("+~").partition("=") for word in words if "=" in word)
    return {key: value for key, _, value in pairs if not key.startswith("-")}


def explain_unknown(key: str, words: Sequence[str]) -> SettingError:
    """The error for a key that the YAML files do not have."""
    from cifar10.core.instantiate import import_class, signature_parameters

    value = assignments(words).get(key, "")
    if reason := why_removed(key):
        return SettingError(f"{key}={value}: {reason}")
    if key.startswith("sweep.params"):
        return SettingError(f"{key}={value}: only for presets; type its KEY=VALUES directly")
    if key.startswith("hydra."):
        return SettingError(f"{key}={value}: unknown setting of Hydra; see --hydra-help")
    composed = compose_config(*choices(words))
    known = flatten(composed)
    group, _, rest = key.partition(".")
    if (name := rest.partition(".")[0]) in options_of(group) and name not in composed[group]:
        return SettingError(f"{key}={value}: {name} is not chosen; add {group}={name}")
    group, _, name = key.rpartition(".")
    target = known.get(f"{group}._target_")
    if target and name in signature_parameters(import_class(target, group, object))[0]:
        return SettingError(f"{key}={value}: not in the YAML files; add it with +{key}={value}")
    error = unknown_setting(key, value, {"experiment", *composed, *known})
    if "did you mean" in str(error):
        return error
    return SettingError(f"{error}; use + to add a setting that is not in the YAML files")


def explain_leftover(error: UnknownSetting, words: Sequence[str]) -> SettingError:
    """The error for a key of a chosen file that an overridden `_target_` does not take."""
    GlobalHydra.instance().clear()  # the one that is running; the program ends with this error
    composed, files = compose(*choices(words))
    keys: Any = OmegaConf.to_container(composed)
    if error.key in assignments(words) or error.key not in flatten(keys):
        return error
    group = error.key.partition(".")[0]
    return SettingError(
        f"{error.key}={error.value}: unknown setting; it comes from "
        f"configs/{group}/{files[group]}.yaml; choose another file with {group}=NAME or remove "
        f"the key with ~{error.key}"
    )


def choices(words: Sequence[str]) -> list[str]:
    """The GROUP=NAME words of a command line."""
    pairs = assignments(words).items()
    return [f"{group}={name}" for group, name in pairs if name in options_of(group)]
