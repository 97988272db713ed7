"""What settings of Hydra may build, run and load; YAML files may come from strangers."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.core import utils
from omegaconf import DictConfig, OmegaConf

from cifar10.core.errors import SettingError
from cifar10.core.instantiate import trusted_modules
from cifar10.core.secrets import hide
from cifar10.core.settings import as_words

# Where the classes stand that Hydra builds: its own, this project's, those of the extras.
PLUGINS = (
    "cifar10.launch.StartHook",
    "hydra._internal.core_plugins",
    "hydra.experimental.callbacks",
    "hydra_plugins.cifar10_sweeper",
    "hydra_plugins.hydra_joblib_launcher",
    "hydra_plugins.hydra_submitit_launcher",
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
# How a log file's name may begin: logging imports what stands behind `ext://`.
FILE_NAME = re.compile(r"(\$\{hydra\.runtime\.output_dir\}/|[a-z]*[^a-z:$]).*\.log")
# Settings that run commands or change what programs do.
COMMANDS = ("job.env_set", "launcher.setup", "launcher.additional_parameters")


compose, append = ConfigLoaderImpl.load_configuration, ConfigSearchPathImpl.append


def guard_hydra() -> None:
    """Have Hydra's settings checked when they are composed, before it builds anything from them."""
    ConfigLoaderImpl.load_configuration = compose_checked  # type: ignore[method-assign]
    ConfigSearchPathImpl.append = append_checked  # type: ignore[method-assign]
    utils._save_config = save_config


def compose_checked(*arguments: Any, **named: Any) -> DictConfig:
    config = compose(*arguments, **named)
    check_hydra(config)
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


def check_hydra(config: DictConfig) -> None:
    """Raise a SettingError if a setting of Hydra names code that is neither shipped nor trusted."""
    hydra = config.hydra
    for group in ("callbacks", "launcher", "sweeper"):
        for key, value in leaves(hydra.get(group), f"hydra.{group}", resolve=True):
            if key.endswith("._target_"):
                require_one_of(key, value, PLUGINS)
    for group in ("job_logging", "hydra_logging"):  # resolved when the run has its folder
        for key, value in leaves(hydra.get(group), f"hydra.{group}", resolve=False):
            check_logging(key, str(value))
    if hydra.job.env_copy:
        reason = "would write the values to .hydra/hydra.yaml; runs have the environment anyway"
        raise SettingError(f"hydra.job.env_copy: {reason}")
    typed = [word.lstrip("+") for word in as_words(hydra.overrides.hydra)]
    for name in COMMANDS if "hydra" not in trusted_modules() else ():
        is_typed = any(word.startswith(f"hydra.{name}") for word in typed)
        if OmegaConf.select(hydra, name) and not is_typed:
            allow = "if you trust the file, set the environment variable CIFAR10_TRUST=hydra"
            raise SettingError(f"hydra.{name}: in a YAML file, it could run programs; {allow}")


def check_logging(key: str, value: str) -> None:
    """Check one value of a logging configuration."""
    name = key.rpartition(".")[2]
    if name in ("class", "()"):
        require_one_of(key, value, LOGGING)
    elif name == "filename" and not FILE_NAME.fullmatch(value):
        raise SettingError(f"{key}={value}: must be the name of a file that ends in .log")
    elif name != "filename" and "${" in value:
        raise SettingError(f"{key}={value}: must be written out, without an interpolation")
    elif ".." in key or (value.startswith("ext:") and value not in STREAMS):
        raise SettingError(f"{key}={value}: refused; it could reach any code")


def leaves(node: Any, key: str, resolve: bool) -> Iterator[tuple[str, Any]]:
    """The values of nested groups and lists by dotted key."""
    if OmegaConf.is_config(node):
        node = OmegaConf.to_container(node, resolve=resolve)
    if isinstance(node, dict | list):
        for name, item in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(item, f"{key}.{name}", resolve)
    else:
        yield key, node


def require_one_of(key: str, target: Any, allowed: tuple[str, ...]) -> None:
    trusted = (*allowed, *trusted_modules())
    if not any(f"{target}.".startswith(f"{module}.") for module in trusted):
        package = str(target).partition(".")[0]
        reason = f"if you trust this code, set the environment variable CIFAR10_TRUST={package}"
        raise SettingError(f"{key}={target}: neither Hydra's nor this project's; {reason}")
