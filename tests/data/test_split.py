"""The stratified split."""

import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cifar10.data.split import hold_out


@hypothesis_settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=200), st.data())
def test_a_split_is_disjoint_complete_and_stratified(classes, data):
    labels = torch.tensor(classes)
    count = data.draw(st.integers(0, len(labels) - 1))
    rest, held_out = hold_out(labels, count, seed=data.draw(st.integers(0, 9)))
    assert len(held_out) == count
    assert torch.equal(torch.cat([rest, held_out]).sort().values, torch.arange(len(labels)))
    for label in labels.unique():
        size = (labels == label).sum().item()
        held = (labels[held_out] == label).sum().item()
        assert abs(held - count * size / len(labels)) <= 1
