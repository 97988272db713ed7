"""Registers the sweeper: Hydra imports this file at every start and finds plugins only here."""

from hydra.core.config_store import ConfigStore

from cifar10.sweeps.sweeper import ResumableSweeper


class Cifar10Sweeper(ResumableSweeper):  # Hydra accepts only classes that this package defines
    pass


node = {"_target_": f"{__name__}.Cifar10Sweeper"}
ConfigStore.instance().store(group="hydra/sweeper", name="cifar10", node=node)
