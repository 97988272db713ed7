"""What a training needs to know of its data, and weights that need care."""

import pytest
import torch
from torch.utils.data import DataLoader

from cifar10 import Classifier
from cifar10.core.errors import SettingError
from tests.network import Small
from tests.training.test_from_python import EXPECTED


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter([(torch.zeros(3, 32, 32).byte(), 1)] * 40)


@pytest.mark.filterwarnings(*EXPECTED, "ignore:.*max_epochs")
@pytest.mark.parametrize("limits", [{}, {"max_epochs": -1}, {"max_steps": 3}])
def test_a_training_of_unknown_length_is_refused(limits, trainer, loader):
    """Its learning rate would be 0."""
    data = loader if "max_epochs" in limits else DataLoader(Endless(), batch_size=20)
    fit = trainer(limit_train_batches=1.0, **limits)
    if "max_steps" in limits:
        fit.fit(Classifier(Small()), data)
    else:
        with pytest.raises(SettingError, match="number of training steps is unknown"):
            fit.fit(Classifier(Small()), data)


@pytest.mark.filterwarnings(*EXPECTED)
def test_a_classifier_may_get_another_head(trainer, loader):
    classifier = Classifier(Small())
    classifier.network = torch.nn.Sequential(classifier.network, torch.nn.Linear(10, 10))
    trainer().fit(classifier, loader)


@pytest.mark.filterwarnings(*EXPECTED)
def test_a_weight_of_zeros_is_trained(trainer, loader):
    network = Small()
    weight = next(p for p in network.parameters() if p.ndim >= 2)
    weight.data.zero_()
    trainer().fit(Classifier(network), loader)
    assert weight.isfinite().all() and weight.any()
