"""Whether a checkpoint belongs to a run: its start, data, settings, network and optimizer."""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cifar10.core.errors import UserError
from cifar10.core.own_code import source_digests
from cifar10.runs.callback_settings import names_of_stops
from cifar10.runs.checkpoint import count_tensors, read_checkpoint
from cifar10.training.classifier import Classifier

MAX_LISTED = 3  # differing settings named in an error


def input_digests(settings: Mapping[str, Any], classifier: Classifier) -> dict[str, str]:
    """SHA-256 of what settings only name: the user's own modules, a teacher's weights."""
    callbacks = dict(settings.get("callbacks") or {})
    for name in names_of_stops(callbacks):  # which may change on resume
        del callbacks[name.removeprefix("callbacks.")]
    sources = source_digests({**settings, "callbacks": callbacks})
    digests = {f"module {name}": digest for name, digest in sources.items()}
    for teacher, _ in classifier.teachers:
        weights = hashlib.sha256()
        for name, value in sorted(teacher.state_dict().items()):
            weights.update(name.encode())
            weights.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        digests["teacher"] = weights.hexdigest()
    return digests


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
    if saved and (changed := changed_keys(saved.get("inputs", {}), identity["inputs"])):
        return f"since it was saved, {', '.join(changed)} changed"
    if misfit := network_misfit(state["state_dict"], classifier.state_dict()):
        return misfit
    if saved and saved.get("data") != identity["data"]:
        return "it belongs to a run on other images"
    if saved and saved.get("started") != identity["started"]:
        return f"it belongs to another run, started {saved.get('started')}"
    return optimizer_misfit(state, saved, classifier)


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
    built = classifier.build_optimizer(total_steps=1)[0].state_dict()
    if groups != [(len(group["params"]), set(group)) for group in built["param_groups"]]:
        return "its optimizer state is that of another optimizer or network"
    if saved and saved.get("optimizer_tensors") != tensors:
        return "its optimizer state is incomplete"
    return None


def require_best_files(state: Mapping[str, Any], started: str) -> None:
    """Raise a UserError unless each best checkpoint that a training state names is there and own.

    Args:
        state: content of the checkpoint that a run resumes from.
        started: when the run did.
    """
    for key, saved in state["callbacks"].items():
        best = saved.get("best_model_path") if isinstance(saved, dict) else None
        if not best or key.startswith("LastCheckpoint"):
            continue
        if reason := why_not_best(Path(best), saved, state, started):
            advice = "restore the run's own file or start a new run"
            raise UserError(f"{best}: {reason}; {advice}")


def why_not_best(
    path: Path, saved: Mapping[str, Any], state: Mapping[str, Any], started: str
) -> str | None:
    """Why a file is not the best checkpoint, as a ModelCheckpoint's state names it."""
    if not path.exists():
        # A kill after the next best one replaced it; the resumed run will save that again.
        found = path.parent.glob(f"*{path.suffix}")
        newer = any(is_newer(other, state["global_step"], started) for other in found)
        return None if newer else "the best checkpoint of the run so far is missing"
    best = read_checkpoint(path)
    if best.get("run", {}).get("started", started) != started:
        return f"it belongs to another run, started {best['run']['started']}"
    metrics = state["callbacks"]["History"].get("by_step", {}).get(best["global_step"], {})
    value = metrics.get(monitor := saved.get("monitor"))
    is_later = best["global_step"] > state["global_step"]  # a kill before last.ckpt was replaced
    if value is None or saved.get("best_model_score") is None or is_later:
        return None
    score = float(saved["best_model_score"])
    same = math.isclose(value, score, rel_tol=1e-4)
    return None if same else f"its {monitor} is {value:.4f}, that of the best so far {score:.4f}"


def is_newer(path: Path, step: int, started: str) -> bool:
    try:
        state = read_checkpoint(path)
    except UserError:
        return False
    return state.get("run", {}).get("started") == started and state["global_step"] > step
