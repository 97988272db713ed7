"""The figures of a sweep: which scale an axis gets, and how names are placed on it."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from cifar10.sweeps import figures


@pytest.mark.parametrize(
    ("values", "log"),
    [([0.01, 0.1, 1], True), ([1, 2, 3], False), ([0, 0.1, 1], False), ([0.1, 1], False)],
)
def test_an_axis_is_logarithmic_where_that_spaces_the_values_evenly(values, log):
    assert figures.suits_log_scale(np.array(values)) is log
    rows = [{"lr": value} for value in values]
    figure = figures.loss_by_setting(rows, values, [0.0] * len(rows))
    assert figure.axes[0].get_xscale() == ("log" if log else "linear")


def test_names_are_placed_in_the_order_of_their_first_use():
    positions, names = figures.axis_positions(["b", True, "b", "x" * 30])
    assert positions.tolist() == [0, 1, 0, 2]
    assert names == ["b", "True", "x" * 17 + "…"]
    assert figures.axis_positions([1, 2.5])[1] is None


def test_figures_accept_few_and_equal_values():
    rows = [{"lr": 0.1, "model": "a"}, {"lr": 0.1, "model": "-"}]
    drawn = [
        figures.loss_curves({"stopped": [[]], "finished": [[{"epoch": 1}]]}),
        figures.loss_by_setting(rows, [1.0, 1.0], [0.0, 0.0]),
    ]
    assert all(isinstance(figure, Figure) for figure in drawn)
