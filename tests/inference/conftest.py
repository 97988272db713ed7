import math
import shutil

import pytest
import torch


@pytest.fixture
def broken_run(trained, tmp_path):
    """A run whose weights are NaN."""
    broken = shutil.copytree(trained, tmp_path / "broken")
    state = torch.load(broken / "best.ckpt")
    name = next(key for key in reversed(state["state_dict"]) if key.endswith("weight"))
    state["state_dict"][name] *= math.nan
    torch.save(state, broken / "best.ckpt")
    return broken
