"""User-facing errors, each printed as one line."""

import difflib
import sys
from collections.abc import Iterable
from typing import Any, NoReturn


class UserError(Exception):
    """Something the user can fix; the message says what, where and what to do.

    The command line prints the message alone, without a traceback, and exits with `exit_code`.
    """

    exit_code = 1


class SettingError(UserError):
    """A setting that is unknown, of the wrong type or out of range."""

    exit_code = 2


def unknown_setting(key: str, value: Any, known: Iterable[str]) -> SettingError:
    """The error for an unknown key, with the most similar one that exists."""
    known = [name for name in known if not key.startswith(f"{name}.")]
    if close := difflib.get_close_matches(key, known, n=1):
        hint = f"did you mean {close[0]}?"
    else:
        hint = f"choose from {', '.join(sorted(known))}" if len(known) < 12 else "see --help"
    return SettingError(f"{key}={value}: unknown setting; {hint}")


def one_line(error: BaseException) -> str:
    """An error's message on a single line, or the name of its class if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def printable(text: str) -> str:
    """Text with its control characters escaped: file names may contain any."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def exit_with(error: UserError) -> NoReturn:
    """Print an error's message on stderr and exit with its code."""
    lines = [printable(line) for line in f"error: {error}".split("\n")]
    print("\n".join(lines), file=sys.stderr)
    raise SystemExit(error.exit_code)
