"""The settings of configs/: compose, flatten, quote."""

import itertools
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from cifar10.core.secrets import resolve

PACKAGE = Path(__file__).resolve().parents[1]
# A checkout has configs/ beside the package, a wheel has it inside.
CHECKOUT = PACKAGE.parent if (PACKAGE.parent / "train.py").exists() else None
CONFIGS = CHECKOUT / "configs" if CHECKOUT else PACKAGE / "configs"
ROOT = CHECKOUT or Path.home() / ".cache" / "cifar10-trainer"

# Text keys that look like what JSON makes of numbers and other constants.
LITERAL = re.compile(r'-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?|true|false|null|".*"', re.DOTALL)

OmegaConf.register_new_resolver("project", lambda name: str(ROOT / name), replace=True)


def safe_filename(text: object) -> str:
    """Text as a safe file name: unchanged if it is safe, otherwise shortened with a hash."""
    name = re.sub(r"[^\w.,+-]+", "-", str(text))
    if name == text and len(name) <= 100:
        return name
    return f"{name[:91]}-{sha256(str(text).encode()).hexdigest()[:8]}"


def quote_override(text: object) -> str:
    """A value as Hydra's override grammar accepts it."""
    word = str(text)
    if re.fullmatch(r"[\w./+-]+", word, re.ASCII):
        return word
    # A backslash escapes only where a quote follows.
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', word)
    return '"' + re.sub(r"(\\+)$", r"\1\1", escaped) + '"'


def expand_user(path: str | Path) -> Path:
    """A path with `~` replaced by the home folder; `~NAME` of an unknown user is left alone."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises then


def program() -> list[str]:
    """The words of the training command, as it can be typed here."""
    installed = CHECKOUT is None or Path(sys.argv[0]).resolve() == PACKAGE / "train.py"
    return ["cifar10", "train"] if installed else ["python", "train.py"]


def default_folder() -> str:
    """The folder of prepared data, as configs/data/cifar10.yaml has it."""
    return os.environ.get("CIFAR10_DATA_DIR", str(ROOT / "data"))


def config_dirs() -> list[str]:
    """The folders of YAML files that the command line adds with `--config-dir`."""
    if not HydraConfig.initialized():
        return []
    sources = HydraConfig.get().runtime.config_sources
    return [str(source.path) for source in sources if source.provider == "command-line"]


def to_plain(cfg: DictConfig) -> dict[str, Any]:
    """A run's settings as plain values, without those of Hydra, the sweep and resuming."""
    names = [str(key) for key in cfg if key not in ("hydra", "resume", "sweep")]
    return resolve(OmegaConf.masked_copy(cfg, names))


@contextmanager
def referred(config: DictConfig) -> Iterator[None]:
    """Have `${hydra:...}` in settings resolve against a configuration."""
    former = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config.copy())
    try:
        yield
    finally:
        HydraConfig.instance().cfg = former


def as_words(overrides: Any) -> list[str]:
    """Hydra's record of a command line, as typed: each access would resolve interpolations."""
    words: Any = OmegaConf.to_container(overrides)
    return words


def reset_sizes(words: Iterable[str]) -> list[str]:
    """Overrides that replace `data.sizes`: Hydra would merge it with that of an experiment."""
    pairs = (["data.sizes=null"] * word.startswith("data.sizes={") + [word] for word in words)
    return list(itertools.chain.from_iterable(pairs))


def adapt_words(words: Iterable[str]) -> list[str]:
    """Rewrite the words of a command line that Hydra would take otherwise than meant.

    On resume, `~callbacks.NAME` becomes null: a callback that the run added is in no YAML file.
    """
    words = reset_sizes(words)
    if not any(word.startswith("resume=") for word in words):
        return words
    return [re.sub(r"^~callbacks\.([^.=]+)$", r"++callbacks.\1=null", word) for word in words]


def compose(*overrides: str) -> tuple[DictConfig, dict[str, str]]:
    """What `python train.py OVERRIDES` composes, and the chosen file of each group."""
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = hydra.compose("train", reset_sizes(overrides), return_hydra_config=True)
    choices = config.hydra.runtime.choices
    with open_dict(config):
        del config["hydra"]
    return config, {str(group): str(name) for group, name in choices.items()}


def compose_config(*overrides: str) -> dict[str, Any]:
    """All settings that `python train.py OVERRIDES` composes, interpolations unresolved."""
    config: Any = OmegaConf.to_container(compose(*overrides)[0])
    return config


def compose_settings(*overrides: str) -> dict[str, Any]:
    """The settings that `python train.py OVERRIDES` trains with, as plain values."""
    return to_plain(compose(*overrides)[0])


def json_keys(value: Any) -> Any:
    """A nested value for JSON, whose keys are text: numbers unquoted, text like one in quotes."""
    if isinstance(value, dict):
        return {
            key if isinstance(key, str) and not LITERAL.fullmatch(key) else json.dumps(key): (
                json_keys(item)
            )
            for key, item in value.items()
        }
    return [json_keys(item) for item in value] if isinstance(value, list | tuple) else value


def restore_keys(value: Any) -> Any:
    """The inverse of `json_keys`, for a value that was read from JSON."""
    if isinstance(value, dict):
        return {
            json.loads(key) if LITERAL.fullmatch(key) else key: restore_keys(item)
            for key, item in value.items()
        }
    return [restore_keys(item) for item in value] if isinstance(value, list) else value


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key; an empty group, `{1: 24}` and `{a.b: 1}` are values."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        is_group = isinstance(value, Mapping) and value
        if is_group and all(isinstance(name, str) and "." not in name for name in value):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    settings: dict[str, Any] = {}
    for dotted, value in flat.items():
        *groups, key = dotted.split(".")
        group = settings
        for name in groups:
            if not isinstance(group.get(name), dict):  # a group that was left out, as null
                group[name] = {}
            group = group[name]
        group[key] = value
    return settings
