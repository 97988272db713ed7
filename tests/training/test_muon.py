"""Muon and its parameter groups against independent implementations."""

import math
from itertools import chain

import pytest
import torch
from torch import nn

from cifar10.models.airnet import AirNet
from cifar10.models.convnet import ConvNet
from cifar10.training.muon import Muon, MuonSGD, orthogonalise, parameter_groups
from cifar10.training.schedules import Triangle


def muon(network, **changes):
    arguments = dict(
        lr=0.1,
        momentum=0.6,
        ns_steps=5,
        norm_every=0,
        weight_decay=0.0,
        adam_lr=2e-3,
        adam_betas=[0.9, 0.999],
        adam_weight_decay=0.01,
    )
    return Muon(parameter_groups(network), **(arguments | changes))


def muon_sgd(network, **changes):
    arguments = dict(
        lr=0.2,
        momentum=0.6,
        ns_steps=3,
        norm_every=1,
        weight_decay=0.0,
        head_lr=1.5,
        bias_lr=0.5,
        sgd_momentum=0.85,
        sgd_weight_decay=0.03,
        whiten_until=0.5,
    )
    return MuonSGD(parameter_groups(network), **(arguments | changes))


def test_each_trainable_parameter_is_in_one_group():
    net = ConvNet(0.5)
    net.conv1.weight.requires_grad_(False)
    groups = {group["kind"]: group["params"] for group in parameter_groups(net)}
    trainable = [p for p in net.parameters() if p.requires_grad]
    assert sorted(map(id, chain(*groups.values()))) == sorted(map(id, trainable))
    assert groups["head"] == [net.fc4.weight]
    assert net.conv5.weight in set(groups["hidden"])
    assert {p.ndim for p in groups["bias"]} == {1}


def assert_same_steps(ours, theirs, optimizer, reference):
    """Twenty steps with the same gradients leave two networks equal."""
    for _ in range(20):
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        optimizer.step()
        reference.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


def test_muon_sgd_equals_torchs_sgd_on_other_parameters():
    torch.manual_seed(0)
    ours, theirs = nn.Linear(8, 4), nn.Linear(8, 4)
    theirs.load_state_dict(ours.state_dict())
    optimizer = muon_sgd(ours)
    reference = torch.optim.SGD(
        [
            {"params": [theirs.weight], "lr": 1.5, "weight_decay": 0.03 / 1.5},
            {"params": [theirs.bias], "lr": 0.5, "weight_decay": 0.03 / 0.5},
        ],
        momentum=0.85,
        nesterov=True,
    )
    assert_same_steps(ours, theirs, optimizer, reference)


def test_the_whitening_bias_decays_and_is_then_frozen():
    torch.manual_seed(0)
    net = AirNet([24, 24, 24], "gelu", 0.4)
    optimizer = muon_sgd(net)
    scheduler = Triangle(optimizer, 10, warmup=0.0)
    groups = {group["kind"]: group for group in optimizer.param_groups}
    whiten, head = groups["whiten"], groups["head"]
    assert whiten["params"] == [net.whiten.bias]
    rates, moved = [], []
    for _ in range(10):
        rates.append((whiten["lr"] / 0.5, head["lr"] / 1.5))
        before = net.whiten.bias.detach().clone()
        net.zero_grad()
        net(torch.randn(4, 3, 32, 32)).square().mean().backward()
        optimizer.step()
        scheduler.step()
        moved.append(not torch.equal(before, net.whiten.bias))
    assert [a for a, _ in rates] == pytest.approx([1, 0.8, 0.6, 0.4, 0.2, 0, 0, 0, 0, 0], abs=1e-9)
    assert [b for _, b in rates] == pytest.approx([(10 - step) / 10 for step in range(10)])
    assert moved == [True] * 5 + [False] * 5
    assert net.whiten.bias.grad is None


def test_weights_are_rescaled_every_norm_every_steps():
    net = nn.Sequential(nn.Linear(6, 4, bias=False), nn.Linear(4, 2, bias=False))
    optimizer = muon(net, norm_every=3, lr=0.0)
    norms = []
    for _ in range(4):
        net[0].weight.data.mul_(2)
        net[0].weight.grad = torch.randn(4, 6)
        optimizer.step()
        norms.append(net[0].weight.norm().item())
    assert norms[2] == pytest.approx(2)
    assert norms[1] == pytest.approx(2 * norms[0])
    assert norms[3] == pytest.approx(4)


@pytest.mark.parametrize("steps", [1, 3, 5])
@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (32, 32)])
def test_the_gram_form_equals_the_plain_iteration(shape, steps):
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    x = matrix.double() / matrix.double().norm()
    if shape[0] > shape[1]:
        x = x.T
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    if shape[0] > shape[1]:
        x = x.T
    torch.testing.assert_close(orthogonalise(matrix, steps).double(), x, atol=1e-5, rtol=1e-4)


def test_orthogonalise_moves_singular_values_near_1_and_keeps_singular_vectors():
    torch.manual_seed(0)
    u, _ = torch.linalg.qr(torch.randn(20, 20))
    v, _ = torch.linalg.qr(torch.randn(50, 20))
    matrix = u @ torch.diag(torch.logspace(0, -1.5, 20)) @ v.T
    middle = u.T @ orthogonalise(matrix, 5) @ v
    assert ((middle.diag() > 0.5) & (middle.diag() < 1.3)).all()
    assert (middle - middle.diag().diag()).abs().max() < 1e-4


def test_muon_equals_torchs_muon_on_2d_weights():
    """torch's iteration runs in bfloat16, ours in float32: equal up to bfloat16's rounding."""
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(40, 30, bias=False), nn.Linear(30, 2, bias=False))
    theirs = nn.Parameter(ours[0].weight.detach().clone())
    optimizer = muon(ours, lr=0.05, momentum=0.9, weight_decay=0.1)
    reference = torch.optim.Muon(
        [theirs], lr=0.05, momentum=0.9, weight_decay=0.1, nesterov=True, ns_steps=5
    )
    start = theirs.detach().clone()
    for _ in range(10):
        gradient = torch.randn(30, 40)
        ours[0].weight.grad, theirs.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        reference.step()
    moved = (theirs - start).norm()
    assert (ours[0].weight - theirs).norm() < 0.02 * moved
    assert moved > 1


def test_muon_equals_torchs_adamw_on_other_parameters():
    torch.manual_seed(0)
    ours = nn.Linear(8, 4)  # its weight is the head
    theirs = nn.Linear(8, 4)
    theirs.load_state_dict(ours.state_dict())
    optimizer = muon(ours)
    reference = torch.optim.AdamW(
        [{"params": [theirs.weight]}, {"params": [theirs.bias], "weight_decay": 0.0}],
        lr=2e-3,
        weight_decay=0.01,
    )
    assert_same_steps(ours, theirs, optimizer, reference)


def test_a_convolution_is_updated_as_a_matrix_and_keeps_its_norm():
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, bias=False).to(memory_format=torch.channels_last)
    net = nn.Sequential(conv, nn.Flatten(), nn.Linear(6, 2, bias=False))
    optimizer = muon(net, norm_every=1, momentum=0.0)
    before = conv.weight.detach().clone()
    conv.weight.grad = torch.randn_like(conv.weight)
    update = orthogonalise(conv.weight.grad.reshape(6, 36), 5).view(6, 4, 3, 3)
    optimizer.step()
    expected = before * (math.sqrt(6) / before.norm()) - 0.1 * update
    torch.testing.assert_close(conv.weight.detach(), expected)


def test_a_saved_state_resumes_exactly(tmp_path):
    torch.manual_seed(0)
    net = ConvNet(0.0)
    optimizer = muon(net)
    gradients = [[torch.randn_like(p) for p in net.parameters()] for _ in range(4)]

    def step(net, optimizer, gradient):
        for p, g in zip(net.parameters(), gradient, strict=True):
            p.grad = g.clone()
        optimizer.step()

    for gradient in gradients[:2]:
        step(net, optimizer, gradient)
    torch.save((net.state_dict(), optimizer.state_dict()), tmp_path / "state")
    weights, state = torch.load(tmp_path / "state")  # the safe loader
    resumed = ConvNet(0.0)
    resumed.load_state_dict(weights)
    second = muon(resumed)
    second.load_state_dict(state)
    for gradient in gradients[2:]:
        step(net, optimizer, gradient)
        step(resumed, second, gradient)
    for p, q in zip(net.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q)
