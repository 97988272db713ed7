"""Muon: parameter groups, orthogonalisation and two optimizers."""

import math
from collections.abc import Iterable
from typing import Annotated, Any

import torch
from annotated_types import Ge, Interval, Len
from torch import Tensor, nn
from torch.optim import Optimizer

Fraction = Annotated[float, Interval(ge=0, le=1)]
Rate = Annotated[float, Interval(ge=0, lt=math.inf)]
Steps = Annotated[int, Interval(ge=1, le=100)]
Momentum = Annotated[float, Interval(ge=0, lt=1)]
Betas = Annotated[tuple[Momentum, ...], Len(2, 2)]
Group = dict[str, Any]
Groups = Iterable[Group]


def parameter_groups(network: nn.Module) -> list[Group]:
    """Split the trainable parameters by `kind`: hidden, head, bias, whiten.

    Muon orthogonalises the hidden weights (two or more dimensions). The head is the last weight in
    registration order: it maps features to logits and is left to Adam, as in Muon's publication
    (https://kellerjordan.github.io/posts/muon/). Biases and normalisation parameters have no weight
    decay; those of a submodule named `whiten` form their own group. Every torch optimizer accepts
    the groups and ignores `kind`.
    """
    trainable = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    head = [p for p in network.parameters() if p.ndim >= 2][-1:]  # which may be frozen
    weights = [p for _, p in trainable if p.ndim >= 2]
    biases: dict[str, list[Tensor]] = {"bias": [], "whiten": []}
    for name, p in trainable:
        if p.ndim < 2:
            biases["whiten" if name.startswith("whiten.") else "bias"].append(p)
    groups: list[Group] = [
        {"kind": "hidden", "params": [p for p in weights if p is not head[0]]},
        {"kind": "head", "params": [p for p in weights if p is head[0]]},
        *({"kind": kind, "params": ps, "weight_decay": 0.0} for kind, ps in biases.items()),
    ]
    return [group for group in groups if group["params"]]


def orthogonalise(matrix: Tensor, steps: int) -> Tensor:
    """Push all singular values of a matrix towards 1 by a Newton-Schulz iteration, in float32.

    One step maps X to (aI + bXX' + c(XX')^2) X with the quintic's coefficients from Muon's
    publication, which trade exactness for speed: after 5 steps, singular values are between 0.7 and
    1.2. The polynomials of the small Gram matrix XX' are multiplied first, so the long side of X is
    read twice in total instead of twice per step.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.float()
    x = x / (x.norm() + 1e-7)
    if x.size(0) > x.size(1):
        return orthogonalise(x.T, steps).T
    gram = x @ x.T
    total = identity = torch.eye(len(x), device=x.device)
    for step in range(steps):
        polynomial = a * identity + b * gram + c * (gram @ gram)
        total = polynomial @ total
        if step < steps - 1:
            gram = polynomial @ gram @ polynomial  # symmetric matrices that commute
    return total @ x


def add_settings(params: Groups, **settings: Group) -> list[Group]:
    """Add each kind's settings to its groups; what a group already has takes precedence."""
    return [settings.get(group["kind"], {}) | group for group in params]


class OrthogonalMomentum(Optimizer):
    """Muon for hidden weights; a subclass updates the other parameters.

    Jordan et al. (2024), https://kellerjordan.github.io/posts/muon/. A convolution weight
    (out, in, h, w) is treated as a matrix (out, in*h*w). Unlike `torch.optim.Muon` it trains
    convolutions and all other parameters, and can rescale each weight to Frobenius norm sqrt(out)
    every `norm_every` steps instead of decaying it, as Jordan's `airbench94_muon` does.

    `params` are groups of `parameter_groups`; configs/optimizer/ describes the other arguments.
    """

    def __init__(
        self,
        params: Groups,
        lr: Rate = 0.07,
        momentum: Fraction = 0.6,
        ns_steps: Steps = 3,
        norm_every: Annotated[int, Ge(0)] = 1,
        weight_decay: Rate = 0.0,
    ):
        hidden = dict(lr=lr, momentum=momentum, ns_steps=ns_steps, norm_every=norm_every)
        hidden |= dict(weight_decay=weight_decay)
        super().__init__(add_settings(params, hidden=hidden), {})

    @torch.no_grad()
    def step(self, closure=None):
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            update = self.update_hidden if group["kind"] == "hidden" else self.update_other
            for p in group["params"]:
                if p.grad is not None:
                    update(p, p.grad, self.state[p], group)
        return loss

    def update_hidden(self, p: Tensor, grad: Tensor, state: Group, group: Group) -> None:
        if not state:
            state.update(step=0, momentum=torch.zeros_like(p))
        state["step"] += 1
        buffer = state["momentum"].lerp_(grad, 1 - group["momentum"])
        gradient = grad.lerp(buffer, group["momentum"])  # Nesterov
        if group["norm_every"] and state["step"] % group["norm_every"] == 0:
            p.mul_(math.sqrt(len(p)) / p.norm().clamp(min=1e-30))  # a zero weight stays zero
        p.mul_(1 - group["lr"] * group["weight_decay"])
        update = orthogonalise(gradient.flatten(1), group["ns_steps"])
        p.add_(update.view(p.shape), alpha=-group["lr"])

    def update_other(self, p: Tensor, grad: Tensor, state: Group, group: Group) -> None:
        raise NotImplementedError


class Muon(OrthogonalMomentum):
    """Muon for hidden weights, AdamW for everything else."""

    def __init__(
        self,
        params: Groups,
        adam_lr: Rate = 2e-3,
        adam_betas: Betas = (0.9, 0.999),
        adam_weight_decay: Rate = 0.01,
        **hidden,
    ):
        adam = dict(lr=adam_lr, betas=list(adam_betas), weight_decay=adam_weight_decay)
        super().__init__(add_settings(params, head=adam, bias=adam, whiten=adam), **hidden)

    def update_other(self, p: Tensor, grad: Tensor, state: Group, group: Group) -> None:
        if not state:
            state.update(step=0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
        state["step"] += 1
        beta1, beta2 = group["betas"]
        state["mean"].lerp_(grad, 1 - beta1)
        state["square"].lerp_(grad.square(), 1 - beta2)
        mean = state["mean"] / (1 - beta1 ** state["step"])
        root = (state["square"] / (1 - beta2 ** state["step"])).sqrt_()
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.addcdiv_(mean, root.add_(1e-8), value=-group["lr"])


class MuonSGD(OrthogonalMomentum):
    """Muon for hidden weights, SGD with Nesterov momentum for everything else.

    The pair of Jordan's `airbench94_muon`. Its learning rates are for losses summed over a batch,
    ours for the mean: multiply its rates by the batch size. The rate of the biases of a submodule
    `whiten` falls linearly to 0 at `whiten_until`; frozen, they end the backward pass before it.
    """

    def __init__(
        self,
        params: Groups,
        lr: Rate = 0.24,
        head_lr: Rate = 1340,
        bias_lr: Rate = 106,
        sgd_momentum: Momentum = 0.85,
        sgd_weight_decay: Fraction = 4e-3,
        whiten_until: Fraction = 0.375,
        **hidden,
    ):
        head = dict(lr=head_lr, momentum=sgd_momentum, decay=sgd_weight_decay / (head_lr or 1))
        bias = dict(lr=bias_lr, momentum=sgd_momentum, decay=sgd_weight_decay / (bias_lr or 1))
        whiten = bias | dict(until=whiten_until)
        params = add_settings(params, head=head, bias=bias, whiten=whiten)
        super().__init__(params, lr=lr, **hidden)

    def update_other(self, p: Tensor, grad: Tensor, state: Group, group: Group) -> None:
        # DDP expects the same gradients in every step.
        if group["lr"] == 0 and "until" in group and not torch.distributed.is_initialized():
            p.requires_grad_(False)
            return
        gradient = grad.add(p, alpha=group["decay"])
        if not state:
            state["momentum"] = torch.zeros_like(p)
        buffer = state["momentum"].mul_(group["momentum"]).add_(gradient)
        p.sub_(gradient.add_(buffer, alpha=group["momentum"]), alpha=group["lr"])
