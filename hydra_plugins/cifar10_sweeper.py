"""Registers the sweeper: Hydra imports this file at every start and finds plugins only here."""

from hydra.core.config_store import ConfigStore

from cifar10.sweeps.sweeper import ResumableSweeper


class Cifar10Sweeper(ResumableSweeper):
    """Hydra only instantiates plugin classes that `hydra_plugins` defines."""


target = f"{Cifar10Sweeper.__module__}.{Cifar10Sweeper.__name__}"
ConfigStore.instance().store(group="hydra/sweeper", name="cifar10", node={"_target_": target})
