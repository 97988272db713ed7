"""What settings of Hydra may build, run and load; YAML files may come from strangers."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.core import utils
from hydra.experimental.callback import Callback
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf

from cifar10.core.errors import SettingError
from cifar10.core.instantiate import import_class, trust, trusted_modules
from cifar10.core.secrets import hide
from cifar10.core.settings import CONFIGS

KINDS: dict[str, type] = {"callbacks": Callback, "launcher": Launcher, "sweeper": Sweeper}
# The classes that Hydra builds: its own, this project's, those of the extras. Each in full: Hydra
# would also find what their modules import, such as `hydra.experimental.callbacks.pickle.loads`.
PLUGINS: dict[str, tuple[str, ...]] = {
    "callbacks": (
        "cifar10.launch.StartHook",
        "hydra.experimental.callbacks.LogJobReturnCallback",
    ),
    "launcher": (
        "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
        "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
        "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
        "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
    ),
    "sweeper": ("hydra_plugins.cifar10_sweeper.Cifar10Sweeper",),
}
CHOICES = (None, "basic", "cifar10", "default")  # files of the groups hydra/… in configs/train.yaml

MAX_VALUES = 10_000  # of a YAML file

compose_node = yaml.SafeLoader.get_single_node
compose, load = ConfigLoaderImpl.load_configuration, ConfigLoaderImpl._load_single_config
append = ConfigSearchPathImpl.append


def guard_hydra() -> None:
    """Have Hydra's settings checked when they are composed, before it builds anything from them."""
    yaml.SafeLoader.get_single_node = compose_small  # type: ignore[method-assign, assignment]
    ConfigLoaderImpl.load_configuration = compose_checked  # type: ignore[method-assign]
    ConfigLoaderImpl._load_single_config = load_checked  # type: ignore[method-assign]
    ConfigSearchPathImpl.append = append_checked  # type: ignore[method-assign]


def compose_small(self: Any) -> yaml.Node | None:
    """Parse a YAML file whose aliases do not expand without end: OmegaConf copies each."""
    sizes: dict[yaml.Node, float] = {}

    def expanded(node: yaml.Node) -> float:
        if node not in sizes:
            sizes[node] = math.inf  # of a node within itself
            parts = node.value if isinstance(node, yaml.CollectionNode) else []
            if isinstance(node, yaml.MappingNode):
                parts = list(itertools.chain.from_iterable(parts))
            sizes[node] = 1 + sum(map(expanded, parts))
        return sizes[node]

    if (root := compose_node(self)) and expanded(root) > MAX_VALUES + len(sizes):
        reason = f"its aliases expand to more than {MAX_VALUES:,} values"
        raise yaml.composer.ComposerError(None, None, reason, root.start_mark)
    return root


def load_checked(self: ConfigLoaderImpl, default: Any, repo: Any) -> ConfigResult:
    """Load a YAML file, which may not set what Hydra builds, runs and loads unless it is ours."""
    result = load(self, default, repo)
    scheme, _, folder = result.path.partition("://")
    ours = Path(folder).resolve() == CONFIGS
    if scheme != "file" or (ours and default.config_path == "train"):
        return result  # `pkg:` and `structured:` are installed
    for key, _ in leaves(OmegaConf.to_container(result.config), ""):
        named = key.removeprefix(".")
        # Submitit would load pickles that lie in the folder of a sweep.
        if named.partition(".")[0] == "hydra" or (named == "sweep.dir" and not ours):
            refuse(f"{default.config_path}.yaml: {named}")
    return result


def compose_checked(
    self: ConfigLoaderImpl, config_name: str | None, overrides: list[str], *rest: Any, **named: Any
) -> DictConfig:
    config = compose(self, config_name, overrides, *rest, **named)
    typed = [word.lstrip("+~ ").partition("=")[0] for word in overrides]
    for group, name in config.hydra.runtime.choices.items():
        if group.startswith("hydra/") and name not in CHOICES and group not in typed:
            refuse(f"{group}={name}")
    check_hydra(config)
    return config


def refuse(setting: str) -> None:
    """Raise a SettingError for a setting of Hydra in a file, unless CIFAR10_TRUST has `hydra`."""
    if "hydra" not in trusted_modules():
        reason = "in a YAML file, it could run programs; type it on the command line"
        raise SettingError(f"{setting}: {reason} or, if you trust the file, {trust('hydra')}")


def append_checked(
    self: ConfigSearchPathImpl, provider: str, path: str, anchor: Any = None
) -> None:
    is_file = "://" not in path or path.startswith("file://")
    if provider == "hydra.searchpath in main" and not is_file:
        raise SettingError(f"hydra.searchpath={path}: would import a module; name a folder")
    append(self, provider, path, anchor)


def save_config(cfg: DictConfig, filename: str, output_dir: Path) -> None:
    """Save settings, unresolved, as Hydra does, but without passwords."""
    output_dir.mkdir(parents=True, exist_ok=True)
    (output_dir / filename).write_text(hide(OmegaConf.to_yaml(cfg)), encoding="utf-8")


def check_hydra(config: DictConfig) -> None:
    """Raise a SettingError if a setting of Hydra names a class that is not shipped or trusted."""
    for group, kind in KINDS.items():
        node = config.hydra.get(group)
        written = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
        if group != "callbacks" and not (isinstance(written, dict) and "_target_" in written):
            raise SettingError(f"hydra.{group}={written}: must name a class under _target_")
        for key, value in leaves(written, f"hydra.{group}"):
            if key.endswith("._target_") and value not in PLUGINS[group]:
                import_class(value, key.removesuffix("._target_"), kind)
    if config.hydra.job.env_copy:
        reason = "would write the values to .hydra/hydra.yaml; remove it, jobs have them anyway"
        raise SettingError(f"hydra.job.env_copy: {reason}")


def leaves(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    """The values of nested groups and lists by dotted key."""
    if isinstance(node, dict | list) and node:
        for name, item in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(item, f"{key}.{name}")
    else:
        yield key, node


utils._save_config = save_config  # when imported: jobs of joblib do not call `guard_hydra`
