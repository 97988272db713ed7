"""Whether a checkpoint belongs to a run: its start time, data, settings, network and optimizer."""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cifar10.core.errors import UserError
from cifar10.runs.callback_settings import VAL_METRICS
from cifar10.runs.checkpoint import count_tensors, foreign_start, read_checkpoint
from cifar10.training.classifier import Classifier

MAX_LISTED = 3  # differing settings named in an error
NEWER = "newer than last.ckpt, since the run was killed between two saves"


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of weights and their names."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


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
    restore = "; restore this run's own file"
    if saved and (differing := differences(saved.get("settings", {}), identity["settings"])):
        return f"it belongs to a run with other settings: {differing}{restore}"
    digests = identity["digests"]
    if saved and (changed := changed_keys(saved.get("digests", digests), digests)):
        return f"saved before {', '.join(changed)} changed; undo the change"
    if misfit := network_misfit(state["state_dict"], classifier.state_dict()):
        return misfit + restore
    if saved and saved.get("data") != identity["data"]:
        return f"it belongs to a run on other images{restore}"
    misfit = foreign_start(state, identity["started"]) or optimizer_misfit(state, saved, classifier)
    return misfit and misfit + restore


def differences(saved: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """The first settings that differ, as text: `seed=1 instead of 0`."""
    keys = changed_keys(saved, own)
    texts = [f"{k}={saved.get(k, 'none')} instead of {own.get(k, 'none')}" for k in keys]
    more = f" and {len(texts) - MAX_LISTED} more" if len(texts) > MAX_LISTED else ""
    return ", ".join(texts[:MAX_LISTED]) + more


def changed_keys(saved: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    return sorted(key for key in saved.keys() | own.keys() if saved.get(key) != own.get(key))


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
    states = classifier.build_optimizer(total_steps=1)[0].state_dict()["param_groups"]
    built = [(len(group["params"]), set(group)) for group in states]
    # A callback may have frozen parameters, and the first step may have added keys.
    frozen = sum(count for count, _ in built) - sum(count for count, _ in groups)
    known = all(any(own <= keys for _, own in built) for _, keys in groups)
    if len(groups) > len(built) or frozen < 0 or not known:
        return "its optimizer state is that of another optimizer or network"
    if saved and saved.get("optimizer_tensors") != tensors:
        return "its optimizer state is incomplete"
    return None


def require_best_file(state: Mapping[str, Any], started: str, same_end: bool) -> None:
    """Raise a UserError unless the best checkpoint so far exists and belongs to the run.

    Args:
        state: content of the checkpoint that the run resumes from.
        started: the run's start time.
        same_end: whether what ends the training is as before.
    """
    states = [s for s in state["callbacks"].values() if isinstance(s, dict) and s.get("monitor")]
    for saved in [saved for saved in states if saved.get("best_model_path")][:1]:
        if reason := why_not_best(saved, state, started, same_end):
            path = saved["best_model_path"]
            advice = "resume once with unchanged limits, then change them"
            if reason != NEWER:
                advice = "restore this run's own file or start a new run"
            raise UserError(f"{path}: {reason}; {advice}")


def why_not_best(
    saved: Mapping[str, Any], state: Mapping[str, Any], started: str, same_end: bool
) -> str | None:
    """Why the file that a ModelCheckpoint's state names is not the best so far."""
    path, monitor = Path(saved["best_model_path"]), saved["monitor"]
    if not path.exists():
        # A kill after a newer best checkpoint replaced it: resuming saves that one again.
        found = Path(saved["dirpath"]).rglob(f"*{path.suffix}")
        newer = any(is_newer(other, state["global_step"], started) for other in found)
        return None if newer else "the run's best checkpoint is missing"
    best = read_checkpoint(path)
    if reason := foreign_start(best, started):
        return reason
    step = best.get("global_step", -1)
    if step > state["global_step"]:  # a kill before last.ckpt was replaced
        return None if same_end else NEWER
    metrics = state["callbacks"]["History"].get("by_step", {}).get(step, {})
    value, score = metrics.get(monitor), saved.get("best_model_score")
    if monitor not in VAL_METRICS or value is None or score is None:
        return None
    same = math.isclose(value, score, rel_tol=1e-4, abs_tol=1e-6)
    return None if same else f"its {monitor} is {value:.4f}, but the run's best is {score:.4f}"


def is_newer(path: Path, step: int, started: str) -> bool:
    try:
        state = read_checkpoint(path)
    except UserError:
        return False
    return foreign_start(state, started) is None and state.get("global_step", -1) > step
