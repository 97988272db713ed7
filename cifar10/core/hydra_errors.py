"""Errors raised while Hydra composes the settings, as user-facing errors."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from cifar10.core.errors import (
    SettingError,
    UnknownSetting,
    UserError,
    exit_with,
    one_line,
    unknown_setting,
    why_removed,
)
from cifar10.core.settings import CONFIGS

EXTRAS = {"joblib": "sweep", "submitit": "slurm"}  # launcher: extra that installs it


@contextmanager
def report_errors(words: Sequence[str]) -> Iterator[None]:
    """Print an error that the user can fix as one line, and exit with its code.

    Other errors are raised unchanged. Where HYDRA_FULL_ERROR is set, all of them are.

    Args:
        words: the command line, without the program's name.
    """
    if os.environ.get("HYDRA_FULL_ERROR", "0") != "0":
        yield
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors and prints nothing
    try:
        yield
    except Exception as error:
        if (known := to_user_error(error, words)) is None:
            raise
        exit_with(known)
    finally:
        del os.environ["HYDRA_FULL_ERROR"]


def to_user_error(error: Exception, words: Sequence[str]) -> UserError | None:
    """The user-facing form of an error; None for an error of the program itself."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    if isinstance(error, ValueError) and isinstance(error.__cause__, OSError):
        error = error.__cause__  # a log file that logging cannot open
    if isinstance(error, UserError):
        return error
    if isinstance(error, HydraException | OmegaConfBaseException | YAMLError | UnicodeDecodeError):
        return explain(error, words)
    if isinstance(error, ValueError):  # Hydra accepts only text as the name of a file
        return wrong_option(words)
    if isinstance(error, OSError) and error.strerror:  # a full disk, a file in place of a folder
        return UserError(f"{error.filename or 'a file'}: {error.strerror}")
    return None


def explain(error: Exception, words: Sequence[str]) -> SettingError:
    """What an error of Hydra, OmegaConf or PyYAML means for someone who typed `words`."""
    from hydra.errors import MissingConfigException, OverrideParseException
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue

    if isinstance(error, MissingMandatoryValue):
        return SettingError(f"{error.full_key}: required; add {error.full_key}=VALUE")
    if isinstance(error, OverrideParseException):
        reason = str(error).strip().splitlines()[0]
        return SettingError(f"{error.override}: {reason}; quote special characters: 'KEY=\"A B\"'")
    if mark := getattr(error, "problem_mark", None):  # of PyYAML
        problem = getattr(error, "problem", None)
        return SettingError(f"{mark.name}, line {mark.line + 1}: invalid YAML: {problem}")
    if isinstance(error, UnicodeDecodeError):
        return SettingError(f"a YAML file is not UTF-8 text: {error}")
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        return unknown_option(group, name, error.options)
    cause = error.__cause__
    if isinstance(cause, ConfigAttributeError | ConfigKeyError):
        # OmegaConf names the innermost key that is missing; the user typed a whole one.
        typed = [key for key in assignments(words) if key.startswith(str(cause.full_key))]
        return explain_unknown(typed[0] if typed else str(cause.full_key), words)
    for word in words:
        if word.startswith("~") and (reason := why_removed(word.partition("=")[0][1:])):
            return SettingError(f"{word}: {reason}")
    return SettingError(one_line(error) + (f": {one_line(cause)}" if cause else ""))


def wrong_option(words: Sequence[str]) -> SettingError | None:
    """The error for the first GROUP=NAME that names no file of the group."""
    for key, value in assignments(words).items():
        options = options_of(key)
        if options and value not in options:
            return unknown_option(key, value, options)
    return None


def unknown_option(group: str, name: str, options: Sequence[str]) -> SettingError:
    """The error for GROUP=NAME where the group has no such file."""
    extra = EXTRAS.get(name.partition("_")[0]) if group == "hydra/launcher" else None
    if extra:
        return SettingError(f'{group}={name}: not installed; pip install -e ".[{extra}]"')
    offered = ", ".join(option for option in options if not option.startswith("_"))
    optional = name == "null" and group in ("logger", "callbacks")
    remove = f"; ~{group} leaves the group out" if optional else ""
    return SettingError(f"{group}={name}: unknown {group} '{name}'; choose from {offered}{remove}")


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
    value = assignments(words).get(key, "")
    if reason := why_removed(key):
        return SettingError(f"{key}={value}: {reason}")
    if key.startswith("sweep.params"):
        return SettingError(f"{key}={value}: only presets set it; type the KEY=VALUES themselves")
    if key.startswith("hydra."):
        return SettingError(f"{key}={value}: unknown setting of Hydra; see --hydra-help")
    known = known_keys(words)
    if is_argument(key, known):
        return SettingError(f"{key}={value}: not in the YAML files; add it with +{key}={value}")
    error = unknown_setting(key, value, known)
    if "did you mean" in str(error):
        return error
    return SettingError(f"{error}; +{key}={value} adds a setting that the YAML files do not have")


def explain_leftover(
    error: UnknownSetting, words: Sequence[str], choices: Mapping[str, str]
) -> SettingError:
    """The error for a key of a chosen file that an overridden `_target_` does not take.

    Args:
        choices: the chosen file of each group.
    """
    import yaml

    group, _, name = error.key.partition(".")
    file = CONFIGS / group / f"{choices.get(group)}.yaml"
    if error.key in assignments(words) or not file.is_file():
        return error
    if name.partition(".")[0] not in yaml.safe_load(file.read_text(encoding="utf-8")):
        return error
    return SettingError(
        f"{error.key}={error.value}: unknown setting; it comes from configs/{group}/{file.name}; "
        f"choose another file with {group}=NAME or remove the key with ~{error.key}"
    )


def known_keys(words: Sequence[str]) -> dict[str, str | None]:
    """The keys of the chosen files, dotted; for those of an object, its class.

    Args:
        words: of which the choices of files count.
    """
    from cifar10.core.settings import compose_config

    choices = [f"{key}={value}" for key, value in assignments(words).items() if options_of(key)]
    known: dict[str, str | None] = {"experiment": None}

    def walk(node: dict, prefix: str) -> None:
        for key, child in node.items():
            known[f"{prefix}{key}"] = child.get("_target_") if isinstance(child, dict) else None
            if isinstance(child, dict):
                walk(child, f"{prefix}{key}.")

    walk(compose_config(*choices), "")
    return known


def is_argument(key: str, known: dict[str, str | None]) -> bool:
    """Whether the class that a group of settings builds takes an argument of this name."""
    from cifar10.core.instantiate import import_class, signature_parameters

    group, _, name = key.rpartition(".")
    if not re.fullmatch(r"[\w.]+", key) or not (target := known.get(group)):
        return False
    try:
        named, _ = signature_parameters(import_class(target, group, object))
    except SettingError:
        return False
    return name in named
