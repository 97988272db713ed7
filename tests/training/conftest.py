"""A Trainer and a loader of one's own, without Hydra."""

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset


@pytest.fixture
def trainer(tmp_path):
    def build(**settings):
        limits = {f"limit_{name}_batches": 2 for name in ("train", "val", "test", "predict")}
        quiet = dict(enable_progress_bar=False, enable_model_summary=False, logger=False)
        common = dict(max_epochs=1, default_root_dir=tmp_path, accelerator="cpu")
        return L.Trainer(**common | limits | quiet | settings)

    return build


@pytest.fixture
def loader():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return DataLoader(TensorDataset(images, torch.arange(40) % 10), batch_size=20)
