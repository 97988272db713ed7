"""What settings of Hydra may build, run and load; YAML files may come from strangers."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.core import utils
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf

from cifar10.core.errors import SettingError
from cifar10.core.instantiate import import_class, trust, trusted_modules
from cifar10.core.secrets import hide
from cifar10.core.settings import as_words

KINDS: dict[str, type] = {"callbacks": Callback, "launcher": Launcher, "sweeper": Sweeper}
# The classes that Hydra builds: its own, this project's, those of the extras. Each in full: Hydra
# would also find what their modules import, such as `hydra.experimental.callbacks.pickle.loads`.
PLUGINS = (
    "cifar10.launch.StartHook",
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
    "hydra.experimental.callbacks.LogJobReturnCallback",
    "hydra.experimental.callbacks.PickleJobInfoCallback",
    "hydra_plugins.cifar10_sweeper.Cifar10Sweeper",
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
)
LOGGING = (
    "cifar10.core.secrets.SafeFormatter",
    "cifar10.launch.StdoutHandler",
    "colorlog.ColoredFormatter",
    "logging.FileHandler",
    "logging.Formatter",
    "logging.NullHandler",
    "logging.StreamHandler",
)
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
# Not `ext://NAME`: logging would import NAME.
FILE_NAME = re.compile(r"(\$\{hydra\.runtime\.output_dir\}/|[a-z]*[^a-z:$]).*\.log")
# Settings that run commands or change what programs do.
COMMANDS = ("job.env_set", "launcher.setup", "launcher.additional_parameters")


compose, append = ConfigLoaderImpl.load_configuration, ConfigSearchPathImpl.append


def guard_hydra() -> None:
    """Have Hydra's settings checked when they are composed, before it builds anything from them."""
    ConfigLoaderImpl.load_configuration = compose_checked  # type: ignore[method-assign]
    ConfigSearchPathImpl.append = append_checked  # type: ignore[method-assign]


def compose_checked(
    self: ConfigLoaderImpl, config_name: str | None, overrides: list[str], *rest: Any, **named: Any
) -> DictConfig:
    config = compose(self, config_name, overrides, *rest, **named)
    check_hydra(config, overrides)
    return config


def append_checked(
    self: ConfigSearchPathImpl, provider: str, path: str, anchor: Any = None
) -> None:
    if provider == "hydra.searchpath in main" and path.startswith("pkg:"):
        raise SettingError(f"hydra.searchpath={path}: would import a module; name a folder")
    append(self, provider, path, anchor)


def save_config(cfg: DictConfig, filename: str, output_dir: Path) -> None:
    """Save settings, unresolved, as Hydra does, but without passwords."""
    output_dir.mkdir(parents=True, exist_ok=True)
    (output_dir / filename).write_text(hide(OmegaConf.to_yaml(cfg)), encoding="utf-8")


def check_hydra(config: DictConfig, words: Sequence[str]) -> None:
    """Raise a SettingError if a setting of Hydra names code that is neither shipped nor trusted.

    `words` are the command line.
    """
    hydra = config.hydra
    written: Any = OmegaConf.to_container(hydra)  # an interpolation may give something else later
    recorded = [as_words(hydra.overrides[name]) for name in ("hydra", "task")]
    if sum(map(len, recorded)) != len(words):  # Hydra appends the command line
        raise SettingError("hydra.overrides: is a record of the command line; remove it")
    for group, kind in KINDS.items():
        targets = dict(leaves(written.get(group), f"hydra.{group}"))
        node = hydra.get(group)
        resolved = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
        for key, value in leaves(resolved, f"hydra.{group}"):
            if key.endswith("._target_"):
                if value not in PLUGINS:
                    import_class(value, key.removesuffix("._target_"), kind)
                if targets.get(key) != value:
                    raise SettingError(f"{key}: write the value itself in place of ${{…}}")
            if group == "launcher" and "\n" in str(value):  # submitit writes it to a shell script
                raise SettingError(f"{key}: must be a single line")
    for group in ("job_logging", "hydra_logging"):  # resolved when the run has its folder
        for key, value in leaves(written.get(group), f"hydra.{group}"):
            check_logging(key, str(value))
    if hydra.job.env_copy:
        reason = "would write the values to .hydra/hydra.yaml; remove it, jobs have them anyway"
        raise SettingError(f"hydra.job.env_copy: {reason}")
    typed: dict[str, str] = {}
    for override in OverridesParser.create().parse_overrides(recorded[0]):
        typed |= {k: str(value) for k, value in leaves(override.value(), override.key_or_group)}
    for name in COMMANDS if "hydra" not in trusted_modules() else ():
        group, key = name.split(".")
        node = written.get(group)
        node = node.get(key) if isinstance(node, dict) else node
        found = {k: str(value) for k, value in leaves(node, f"hydra.{name}")}
        if node and not found.items() <= typed.items():
            reason = "in a YAML file, it could run programs; type it on the command line or, if you"
            raise SettingError(f"hydra.{name}: {reason} trust the file, {trust('hydra')}")


def check_logging(key: str, value: str) -> None:
    """Check one value of a logging configuration."""
    name = key.rpartition(".")[2]
    if name in ("class", "()"):
        if value not in LOGGING:
            raise SettingError(f"{key}={value}: must be one of {', '.join(LOGGING)}")
    elif name == "style":  # "{" reads attributes of whatever is logged
        raise SettingError(f"{key}: remove it; formats have %(name)s alone")
    elif name == "filename" and not FILE_NAME.fullmatch(value):
        start = "a name or ${hydra.runtime.output_dir}/"
        raise SettingError(f"{key}={value}: must start with {start} and end in .log")
    elif name != "filename" and "${" in value:
        raise SettingError(f"{key}={value}: write the value itself in place of ${{…}}")
    elif ".." in key or (re.match(r"[a-z]+://", value) and value not in STREAMS):
        only = f"only {' and '.join(STREAMS)} are allowed of Python's objects; remove it"
        raise SettingError(f"{key}={value}: {only}")


def leaves(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    """The values of nested groups and lists by dotted key."""
    if isinstance(node, dict | list):
        for name, item in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(item, f"{key}.{name}")
    else:
        yield key, node


utils._save_config = save_config  # when imported: jobs of joblib do not call `guard_hydra`
