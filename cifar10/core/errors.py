"""User-facing errors, each printed as one line."""

import difflib
from collections.abc import Iterable
from typing import Any

REMOVED = {  # settings of version 0.1
    "keep_hardest": "removed in 0.2: every epoch trains on all images",
    "data.crops": "removed in 0.2: data.sizes trains on smaller images",
    "callbacks.gallery": "replaced in 0.2 by report=true or report=false",
}


class UserError(Exception):
    """Something the user can fix: the command line prints the message alone and exits."""

    exit_code = 1

    def __init__(self, message: str = "", details: str = ""):
        super().__init__(message)
        self.details = details  # lines to print before the message
        if details:
            self.add_note(details)  # where Python prints the error


class SettingError(UserError):
    """A setting that is unknown, of the wrong type or out of range."""

    exit_code = 2


class UnknownSetting(SettingError):
    """A setting that nothing takes; `key` is dotted."""

    def __init__(self, key: str, value: Any, hint: str):
        super().__init__(f"{key}={value}: unknown setting; {hint}")
        self.key, self.value = key, value


def why_removed(key: str) -> str | None:
    """What replaced a setting of version 0.1; None for any other key."""
    reasons = (why for name, why in REMOVED.items() if f"{key}.".startswith(f"{name}."))
    return next(reasons, None)


def unknown_setting(key: str, value: Any, known: Iterable[str]) -> UnknownSetting:
    """The error for an unknown key, with what replaced it or the most similar key."""
    if reason := why_removed(key):
        return UnknownSetting(key, value, reason)
    known = [name for name in known if not key.startswith(f"{name}.")]
    if close := difflib.get_close_matches(key, known, n=1, cutoff=0.8):
        hint = f"did you mean {close[0]}?"
    else:
        hint = f"choose from {', '.join(sorted(known))}" if len(known) < 12 else "see --help"
    return UnknownSetting(key, value, hint)


def one_line(error: BaseException) -> str:
    """An error's message on a single line, or the name of its class if it has none."""
    return " ".join(str(error).split()) or type(error).__name__
