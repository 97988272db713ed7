"""Whether a checkpoint belongs to a run: its start, data, settings, network and optimizer."""

import ast
import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cifar10.core.instantiate import is_user_code
from cifar10.training.classifier import Classifier

MAX_LISTED = 3  # differing settings named in an error
HOMES = ("site-packages", "dist-packages")  # of installed packages


def code_digest(network: nn.Module) -> str | None:
    """SHA-256 of the user's own source files that define a network; None if there are none.

    Comments and layout do not count.
    """
    modules = {type(layer).__module__ for layer in network.modules()}
    digest = hashlib.sha256()
    own = 0
    for name in sorted(filter(is_user_code, modules)):
        path = sys.modules[name].__file__
        if path and path.endswith(".py") and not any(home in path for home in HOMES):
            digest.update(ast.dump(ast.parse(Path(path).read_text(encoding="utf-8"))).encode())
            own += 1
    return digest.hexdigest() if own else None


def why_foreign(
    state: Mapping[str, Any], identity: Mapping[str, Any], classifier: Classifier
) -> str | None:
    """Why a run cannot resume from a checkpoint; None if it is the run's own and complete.

    Args:
        state: content of the checkpoint; one of version 0.1 has no identity.
        identity: of the run; see `resume.run_identity`.
        classifier: as the run has built it.
    """
    saved = state.get("run")
    if saved and (differing := differences(saved.get("settings", {}), identity["settings"])):
        return f"it belongs to a run with other settings: {differing}"
    if misfit := network_misfit(state["state_dict"], classifier.state_dict()):
        return misfit
    if saved and saved.get("code") != identity["code"]:
        return "the file that defines the network has changed since it was saved"
    if saved and saved.get("data") != identity["data"]:
        return "it belongs to a run on other images"
    if saved and saved.get("started") != identity["started"]:
        return f"it belongs to another run, started {saved.get('started')}"
    return optimizer_misfit(state, saved, classifier)


def differences(saved: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """The first settings that differ, as text: `seed=1 instead of 0`."""
    keys = sorted(key for key in saved.keys() | own.keys() if saved.get(key) != own.get(key))
    texts = [f"{k}={saved.get(k, 'none')} instead of {own.get(k, 'none')}" for k in keys]
    more = f" and {len(texts) - MAX_LISTED} more" if len(texts) > MAX_LISTED else ""
    return ", ".join(texts[:MAX_LISTED]) + more


def network_misfit(saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str | None:
    """The first weight that a checkpoint lacks, has in addition, or has in another shape."""
    for name in sorted(saved.keys() | own.keys()):
        short = name.removeprefix("network.")
        if name not in saved or name not in own:
            return f"it {'lacks' if name in own else 'has an unknown'} weight {short}"
        if not isinstance(saved[name], Tensor) or saved[name].shape != own[name].shape:
            shapes = [tuple(getattr(each[name], "shape", ())) for each in (saved, own)]
            return f"weight {short} has shape {shapes[0]}, in the network {shapes[1]}"
    return None


def optimizer_misfit(
    state: Mapping[str, Any], saved: Mapping[str, Any] | None, classifier: Classifier
) -> str | None:
    """Why the state of the optimizer is not that of this run's optimizer."""
    try:
        (optimizer,) = state["optimizer_states"]
        groups = [(len(group["params"]), set(group)) for group in optimizer["param_groups"]]
        tensors = count_tensors(optimizer)
    except (KeyError, TypeError, ValueError):
        return "its optimizer state is missing or damaged"
    built = classifier.build_optimizer(total_steps=1)[0].state_dict()
    if groups != [(len(group["params"]), set(group)) for group in built["param_groups"]]:
        return "its optimizer state is that of another optimizer or network"
    if saved and saved.get("optimizer_tensors") != tensors:
        return "its optimizer state is incomplete"
    return None


def count_tensors(value: Any) -> int:
    """The number of tensors in nested plain values."""
    if isinstance(value, dict | list | tuple):
        return sum(map(count_tensors, value.values() if isinstance(value, dict) else value))
    return isinstance(value, Tensor)
