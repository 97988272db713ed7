"""Errors that their reader can mend."""

import difflib
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

LAUNCHERS = {"joblib": "sweep", "submitit": "slurm"}  # and the extra that has each


class UserError(Exception):
    """Something the user can put right; the message says what, where and what to do.

    The command line prints the message alone and exits with `exit_code`; no traceback.
    """

    exit_code = 1


class SettingError(UserError):
    """A setting that is unknown, of the wrong type or out of range."""

    exit_code = 2


def unknown_setting(key: str, value: Any, known: Iterable[str]) -> SettingError:
    """The error for a key that nothing knows, with the nearest one that exists."""
    known = [name for name in known if not key.startswith(f"{name}.")]
    close = difflib.get_close_matches(key, known, n=1)
    few = (
        f"there are {', '.join(sorted(known))}"
        if len(known) < 12
        else "--help lists those there are"
    )
    hint = f"did you mean {close[0]}?" if close else few
    return SettingError(f"{key}={value}: there is no such setting; {hint}")


def one_line(error: BaseException) -> str:
    """An error's message with its line breaks folded, or its name where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def printable(text: str) -> str:
    """Text whose control characters are shown, not obeyed: a file's name may hold any."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


@contextmanager
def report_errors(configs: Path) -> Iterator[None]:
    """Turn an error that its reader can mend into one line on stderr and an exit code.

    Hydra prints its own errors over many lines, unless HYDRA_FULL_ERROR makes it raise them;
    where the user has set that, they get the whole traceback they asked for.

    Args:
        configs: the folder of the Hydra configuration, for naming settings that exist.
    """
    if os.environ.get("HYDRA_FULL_ERROR", "0") != "0":
        yield
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    except Exception as error:
        exit_with(error, configs)
    finally:
        del os.environ["HYDRA_FULL_ERROR"]


def exit_with(error: Exception, configs: Path) -> NoReturn:
    """Print an error's line and exit; an error that is no user's raises again."""
    if raised_by(error, "logging") and isinstance(error.__cause__, OSError):
        error = error.__cause__  # "unable to configure handler", whose file cannot be opened
    if isinstance(error, OSError) and error.strerror:  # a full disk, a folder that is a file, ...
        error = UserError(f"{error.filename or 'a file'}: {error.strerror}")
    elif not isinstance(error, UserError):
        if not raised_by(error, "hydra", "omegaconf", "yaml"):
            raise error
        error = explain(error, configs)
    lines = [printable(line) for line in f"error: {error}".split("\n")]
    print("\n".join(lines), file=sys.stderr)
    raise SystemExit(error.exit_code)


def raised_by(error: Exception, *packages: str) -> bool:
    """Whether the code of one of the packages raised it, so that it is about their settings."""
    if type(error).__module__.split(".")[0] in packages:
        return True
    module = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        name = frame.f_globals.get("__name__", "")
        module = module if name == "codecs" else name  # that decodes for whoever reads
    return module.split(".")[0] in packages


def explain(error: Exception, configs: Path) -> SettingError:
    """Say what Hydra's error means for someone who typed an override."""
    from hydra.errors import MissingConfigException, OverrideParseException
    from omegaconf import MissingMandatoryValue

    message = str(error)
    if isinstance(error, MissingMandatoryValue):
        return SettingError(f"{error.full_key} must be given: {error.full_key}=VALUE")
    if mark := getattr(error, "problem_mark", None):  # of PyYAML's errors
        return SettingError(f"{mark.name}, line {mark.line + 1}: no valid YAML: {error.problem}")
    if isinstance(error, UnicodeDecodeError):
        return SettingError(f"a YAML file in {configs} is no UTF-8 text: {error}")
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        if extra := LAUNCHERS.get(name.partition("_")[0]) if group == "hydra/launcher" else None:
            return SettingError(f'{group}={name}: must be installed: pip install -e ".[{extra}]"')
        return SettingError(f"{group}={name}: there are {', '.join(error.options)}")
    if message.startswith("Config group override must be"):
        typed = next((word for word in sys.argv[1:] if word.endswith("=null")), "null")
        return SettingError(f"{typed}: a group needs one of its files; ~GROUP leaves it out")
    if isinstance(error, OverrideParseException):
        why = message.strip().splitlines()[0]
        return SettingError(f"{error.override}: {why}; quote special characters: 'KEY=\"VALUE\"'")
    if found := re.match("Could not override '([^']+)'", message):
        key = found[1]
        if key.startswith("sweep.params"):
            return SettingError(f"{key}: is for presets; type their KEY=VALUES by themselves")
        typed = [word for word in sys.argv[1:] if word.lstrip("~").startswith(f"{key}=")]
        value = typed[0].partition("=")[2] if typed else ""
        error = unknown_setting(key, value, known_keys(configs))
        if "did you mean" in str(error):
            return error
        return SettingError(f"{error}; a library's setting that is not there is added by +{key}=")
    cause = f": {one_line(error.__cause__)}" if message.startswith("Error merging") else ""
    return SettingError(one_line(error) + cause)


def known_keys(configs: Path) -> list[str]:
    """The settings that the chosen files name, dotted."""
    from hydra import compose, initialize_config_dir
    from omegaconf import DictConfig

    groups = [word for word in sys.argv[1:] if re.fullmatch(r"\w+=\w+", word)]
    groups = [word for word in groups if (configs / word.partition("=")[0]).is_dir()]
    with initialize_config_dir(str(configs), version_base="1.3"):
        config = compose("train", groups)

    def walk(node: DictConfig, prefix: str) -> Iterator[str]:
        for key in node:
            yield f"{prefix}{key}"
            if isinstance(child := node._get_node(key), DictConfig):
                yield from walk(child, f"{prefix}{key}.")

    return ["experiment", *walk(config, "")]
