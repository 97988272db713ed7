"""The settings of a sweep."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, MinLen


@dataclass(frozen=True)
class SweepSettings:
    """The group `sweep`; configs/sweep/default.yaml says what each setting means."""

    dir: Annotated[str, MinLen(1)]
    fail_fast: bool
    params: dict[str, Any]
    trials: Annotated[int, Ge(1)] | None
    metric: Literal["val/loss", "val/top1", "val/top3", "val/top5"]
    pruner: Literal["median", "hyperband", "none"]
    storage: str | None
    at_once: Annotated[int, Ge(1)]
    seed: Annotated[int, Ge(0)]
    # The sweeper sets these for its runs, never the user.
    run: None = None
    runs: None = None
    label: None = None
    trial: None = None
