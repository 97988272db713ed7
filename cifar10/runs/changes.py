"""Which settings of a run may change when it resumes."""

from collections.abc import Iterable, Mapping
from typing import Any

from cifar10.core.errors import SettingError
from cifar10.core.settings import flatten, unflatten
from cifar10.runs.callback_settings import names_of_stops

# Taken from the present machine unless they were typed when the run started.
LOCAL_KEYS = ("data.dir", "data.sources", "data.download")
# Duration, place and display of a run may change, never what it computes.
DURATION = ("trainer.max_epochs", "trainer.max_steps", "trainer.max_time")
MAY_CHANGE = (
    *DURATION,
    *(f"trainer.{key}" for key in ("log_every_n_steps", "enable_progress_bar", "profiler")),
    *(f"trainer.{key}" for key in ("devices", "num_nodes", "strategy", "accelerator")),
    *LOCAL_KEYS,
    *("threads", "keep_memory", "compile", "logger", "callbacks.last", "report", "test_views"),
    "teacher",  # its place: a checkpoint has the digest of its weights
)


def is_within(key: str, prefixes: Iterable[str]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def overridden_keys(overrides: Iterable[str]) -> set[str]:
    """The dotted keys that a command line sets."""
    typed = {word.lstrip("+~").partition("=")[0] for word in overrides}
    return {key.partition("@")[0].replace("/", ".") for key in typed}


def merge(
    recorded: Mapping[str, Any],
    current: Mapping[str, Any],
    overrides: Iterable[str],
    first_overrides: Iterable[str] = (),
) -> dict[str, Any]:
    """A run's recorded settings with what the command line may change of them.

    Args:
        recorded, current: nested settings of the run, and those that the command line composes now.
        overrides: of `current` only these count: defaults may have changed since.
        first_overrides: those that the run was started with.

    Raises:
        SettingError: an override differs from the record and would change the result.
    """
    typed = overridden_keys(overrides)
    local = [key for key in LOCAL_KEYS if key not in overridden_keys(first_overrides)]
    before, after = flatten(recorded), flatten(current)
    if before.get("data._target_") != after.get("data._target_"):
        local = []  # another kind of data lies elsewhere
    everything = "experiment" in typed  # an experiment may set any key
    may_change = (*MAY_CHANGE, *early_stops(recorded, current))
    changed = [
        key
        for key in before.keys() | after.keys()
        if (everything or is_within(key, typed) or is_within(key, local))
        and before.get(key, ...) != after.get(key, ...)
    ]
    for key in sorted(changed):
        if not is_within(key, may_change):
            wanted, was = (described(key, flat) for flat in (after, before))
            reason = f"the run has {was}, which cannot change on resume"
            raise SettingError(f"{wanted}: {reason}; leave it out or start a new run")
    unchanged = {key: value for key, value in before.items() if key not in changed}
    return unflatten(unchanged | {key: after[key] for key in changed if key in after})


def described(key: str, flat: Mapping[str, Any]) -> str:
    """What settings by dotted key hold: `a.b=3`, `other a.b` if that is a group, or `no a.b`."""
    if key in flat:
        return f"{key}={flat[key]}"
    return f"{'other' if any(is_within(each, [key]) for each in flat) else 'no'} {key}"


def early_stops(*settings: Mapping[str, Any]) -> set[str]:
    """The dotted names of callbacks that only end training, in any of several nested settings."""
    return {name for each in settings for name in names_of_stops(each.get("callbacks"))}


def duration(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, by dotted key, that decide when a training ends."""
    ends = (*DURATION, *early_stops(settings))
    return {key: value for key, value in flatten(settings).items() if is_within(key, ends)}


def keeps_stop(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> bool:
    """Whether nothing but the number of epochs has changed of what ends a training."""
    before, now = (duration(each) | {"trainer.max_epochs": None} for each in (recorded, current))
    return before == now


def fixed_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, by dotted key, that cannot change on resume."""
    may_change, flat = (*MAY_CHANGE, *early_stops(settings)), flatten(settings)
    return {key: value for key, value in flat.items() if not is_within(key, may_change)}
