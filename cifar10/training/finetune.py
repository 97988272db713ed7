"""Fine-tuning: weights of another training, frozen layers, a learning rate for the head."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cifar10.core.display import short
from cifar10.core.errors import SettingError

HEAD = "is_head"  # key of a parameter group


class Transfer(NamedTuple):
    """What a network took over, by name."""

    taken: list[str]
    new: list[str]  # its head, if that does not fit
    unused: list[str]  # names in the source


def head_name(network: nn.Module) -> str:
    """The name of the layer that maps features to logits: that of the last weight."""
    weights = [name for name, p in network.named_parameters() if p.ndim >= 2]
    return weights[-1].rpartition(".")[0] if weights else ""


@torch.no_grad()
def transfer(network: nn.Module, weights: Mapping[str, Tensor], same_classes: bool) -> Transfer:
    """Copy weights into a network by name; only the head may be missing or of another shape.

    Prefixes that all names share, such as `module.`, do not count, on both sides.

    Raises:
        SettingError: the weights are those of another network.
    """
    own = network.state_dict()
    prefix, head = common_prefix(own), head_name(network)
    found = aligned(weights, {name.removeprefix(prefix) for name in own})
    taken, new, faults = [], [], []
    for name, value in own.items():
        given = found.get(name.removeprefix(prefix))
        is_head = name.startswith(f"{head}.")
        if given is not None and given.shape == value.shape and (same_classes or not is_head):
            taken.append(name)
        elif is_head:
            new.append(name)
        elif not name.endswith(".num_batches_tracked"):
            shape = "is missing" if given is None else f"has shape {short(str(list(given.shape)))}"
            faults.append(f"{name}, {tuple(value.shape)}, {shape}")
    if faults:
        more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise SettingError(f"these are weights of another network: {faults[0]}{more}")
    for name in taken:
        own[name].copy_(found[name.removeprefix(prefix)])
    return Transfer(
        taken, new, sorted(found.keys() - {name.removeprefix(prefix) for name in taken})
    )


def common_prefix(names: Mapping[str, Any]) -> str:
    """The leading parts, with dots, that all names share: `module.net.`."""
    parts = [name.split(".")[:-1] for name in names]
    shared = ""
    for group in zip(*parts, strict=False):
        if len(set(group)) > 1:
            break
        shared += f"{group[0]}."
    return shared


def aligned(weights: Mapping[str, Tensor], names: set[str]) -> dict[str, Tensor]:
    """The weights, or those below one prefix, without what their names share: the best fit."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in weights.items():
        if "." in name:
            parts.setdefault(name.partition(".")[0], {})[name] = value
    candidates = []
    for part in (weights, *parts.values()):
        depth = common_prefix(part).count(".")
        for count in range(depth + 1):
            candidates.append({name.split(".", count)[-1]: value for name, value in part.items()})
    return max(candidates, key=lambda part: len(names & part.keys()))


def freeze(network: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """Exclude layers or parameters, by their names in the network, from training.

    Returns the layers, which the caller keeps in eval mode, so that running statistics stay.

    Raises:
        SettingError: a name is not in the network, or nothing is left to train.
    """
    modules, parameters = dict(network.named_modules()), dict(network.named_parameters())
    frozen = []
    for name in names:
        if name in parameters:
            parameters[name].requires_grad_(False)
        elif name and name in modules:
            frozen.append(modules[name].requires_grad_(False))
        else:
            known = [*filter(None, modules), *parameters]
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(modules)[2:]}"
            raise SettingError(f"freeze: {name!r} is not in {type(network).__name__}; {hint}")
    if names and not any(p.requires_grad for p in parameters.values()):
        raise SettingError("freeze: leaves nothing to train")
    return frozen


def split_head(groups: list[dict[str, Any]], network: nn.Module) -> list[dict[str, Any]]:
    """Divide parameter groups into those of the head, marked, and those of all other layers."""
    prefix = f"{head_name(network)}."
    head = {id(p) for name, p in network.named_parameters() if name.startswith(prefix)}
    divided = []
    for group in groups:
        others = [p for p in group["params"] if id(p) not in head]
        own = [p for p in group["params"] if id(p) in head]
        divided += [group | {"params": others}] * bool(others)
        divided += [group | {"params": own, HEAD: True}] * bool(own)
    if not any(HEAD in group for group in divided):
        raise SettingError("head_lr_factor: the last layer is frozen")
    return divided


def scale_head(optimizer: Optimizer, factor: float) -> None:
    """Multiply the learning rates of the groups that `split_head` has marked."""
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * (factor if group.pop(HEAD, False) else 1)
