"""The figures of one run."""

import torch
from matplotlib.figure import Figure

from cifar10.reports import figures


def test_figures_accept_empty_and_extreme_input():
    images = torch.zeros(3, 3, 32, 32, dtype=torch.uint8)
    labels = torch.tensor([0, 1, 1])
    certain = torch.eye(10)[labels]
    names = [str(n) for n in range(10)]
    drawn = [
        figures.training_curves([{"epoch": 1}]),
        figures.confident_errors(images, labels, certain, names),  # no errors
        figures.class_samples(images, labels, names),
        figures.confusion_matrix(torch.zeros(10, 10), names),
        figures.calibration(torch.tensor([0.0, 1.0]), torch.tensor([False, True]), 0.0),
        figures.first_layer_filters(torch.zeros(1, 3, 2, 2)),
    ]
    assert all(isinstance(figure, Figure) for figure in drawn)
