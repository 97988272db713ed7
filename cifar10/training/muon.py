"""Muon, parameter groups and learning-rate schedules."""

import math
from typing import Annotated

import torch
from annotated_types import Ge, Interval, Len
from torch import Tensor, nn
from torch.optim import Optimizer

Fraction = Annotated[float, Interval(ge=0, le=1)]
Rate = Annotated[float, Interval(ge=0, lt=math.inf)]


def parameter_groups(network: nn.Module) -> list[dict]:
    """Split the trainable parameters by kind: hidden weights, head, biases, whitening.

    Hidden weights (two or more dimensions) are what Muon orthogonalises; the last weight in
    registration order maps features to logits and is trained by Adam, as in Muon's publication
    (https://kellerjordan.github.io/posts/muon/). Biases and normalisation parameters are never
    decayed unless the optimizer says so; those of a submodule called `whiten` are a kind of their
    own. Any torch optimizer takes the groups and ignores the key `kind`.
    """
    trainable = [p for p in network.parameters() if p.requires_grad]
    weights = [p for p in trainable if p.ndim >= 2]
    whiten = getattr(network, "whiten", None)
    own = {id(p) for p in whiten.parameters()} if isinstance(whiten, nn.Module) else set()
    groups = [
        {"kind": "hidden", "params": weights[:-1]},
        {"kind": "head", "params": weights[-1:]},
        {
            "kind": "bias",
            "params": [p for p in trainable if p.ndim < 2 and id(p) not in own],
            "weight_decay": 0.0,
        },
        {
            "kind": "whiten",
            "params": [p for p in trainable if p.ndim < 2 and id(p) in own],
            "weight_decay": 0.0,
        },
    ]
    return [group for group in groups if group["params"]]


def orthogonalise(matrix: Tensor, steps: int) -> Tensor:
    """Push all singular values of a matrix towards 1 by a Newton-Schulz iteration.

    One step maps X to (aI + bXX' + c(XX')^2) X with the quintic's coefficients from Muon's
    publication, which trade exactness for speed: singular values end between 0.7 and 1.2. The
    polynomials act on the small Gram matrix XX' alone and are multiplied up before they touch X,
    so the long side of X is read twice in all, not twice a step.

    Args:
        matrix: float (rows, columns), any shape.
        steps: 5 for close to orthogonal; 3 trains as well here.

    Returns:
        A float32 tensor of the same shape.
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
            gram = polynomial @ gram @ polynomial  # all are symmetric and commute
    return total @ x


Steps = Annotated[int, Interval(ge=1, le=100)]
Momentum = Annotated[float, Interval(ge=0, lt=1)]


class OrthogonalMomentum(Optimizer):
    """What Muon does to hidden weights; a subclass trains the other parameters its own way.

    Jordan et al. (2024), https://kellerjordan.github.io/posts/muon/. A convolution weight
    (out, in, h, w) is taken as a matrix (out, in*h*w). Unlike `torch.optim.Muon` it takes
    convolutions, trains the other parameters too, and can hold each weight at a fixed norm, which
    replaces weight decay as in Jordan's `airbench94_muon`.

    Args:
        params: groups of `parameter_groups`.
        settings: for each kind of group, its `lr` and whatever else its update needs.
    """

    def __init__(self, params, settings: dict[str, dict]):
        super().__init__([settings[group["kind"]] | group for group in map(dict, params)], {})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            update = self.update_hidden if group["kind"] == "hidden" else self.update_other
            for p in group["params"]:
                if p.grad is not None:
                    update(p, self.state[p], group)
        return loss

    def update_hidden(self, p: Tensor, state: dict, group: dict) -> None:
        if not state:
            state.update(step=0, momentum=torch.zeros_like(p))
        state["step"] += 1
        buffer = state["momentum"].lerp_(p.grad, 1 - group["momentum"])
        gradient = p.grad.lerp(buffer, group["momentum"])  # Nesterov
        if group["norm_every"] and state["step"] % group["norm_every"] == 0:
            p.mul_(math.sqrt(len(p)) / p.norm())
        p.mul_(1 - group["lr"] * group["weight_decay"])
        update = orthogonalise(gradient.flatten(1), group["ns_steps"])
        p.add_(update.view(p.shape), alpha=-group["lr"])

    def update_other(self, p: Tensor, state: dict, group: dict) -> None:
        raise NotImplementedError


class Muon(OrthogonalMomentum):
    """Orthogonalised momentum for hidden weights, AdamW for everything else.

    Args:
        params: groups of `parameter_groups`; those of kind `hidden` are trained by Muon.
        lr: learning rate of the hidden weights.
        momentum: Nesterov momentum of the hidden weights.
        ns_steps: Newton-Schulz steps.
        norm_every: steps from one rescaling of each hidden weight to Frobenius norm sqrt(out) to
            the next; 0 for never.
        weight_decay: decoupled decay of the hidden weights; of no use with norm_every=1.
        adam_lr: learning rate of the other parameters.
        adam_betas: AdamW's two averaging factors.
        adam_weight_decay: decoupled decay of the last layer's weight.
    """

    def __init__(
        self,
        params,
        lr: Rate,
        momentum: Fraction,
        ns_steps: Steps,
        norm_every: Annotated[int, Ge(0)],
        weight_decay: Rate,
        adam_lr: Rate,
        adam_betas: Annotated[list[Momentum], Len(2, 2)],
        adam_weight_decay: Rate,
    ):
        hidden = dict(
            lr=lr,
            momentum=momentum,
            ns_steps=ns_steps,
            norm_every=norm_every,
            weight_decay=weight_decay,
        )
        adam = dict(lr=adam_lr, betas=list(adam_betas), weight_decay=adam_weight_decay)
        super().__init__(params, dict(hidden=hidden, head=adam, bias=adam, whiten=adam))

    def update_other(self, p: Tensor, state: dict, group: dict) -> None:
        if not state:
            state.update(step=0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
        state["step"] += 1
        beta1, beta2 = group["betas"]
        state["mean"].lerp_(p.grad, 1 - beta1)
        state["square"].lerp_(p.grad.square(), 1 - beta2)
        mean = state["mean"] / (1 - beta1 ** state["step"])
        root = (state["square"] / (1 - beta2 ** state["step"])).sqrt_()
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.addcdiv_(mean, root.add_(1e-8), value=-group["lr"])


class MuonSGD(OrthogonalMomentum):
    """Orthogonalised momentum for hidden weights, Nesterov's for everything else.

    The pair that Jordan's `airbench94_muon` trains with. Its rates are for losses summed over a
    batch; ours are for the mean, so they are its own times the batch size.

    Args:
        params, lr, momentum, ns_steps, norm_every, weight_decay: as for `Muon`.
        head_lr, bias_lr: learning rates of the last layer's weight, and of all biases.
        sgd_momentum: Nesterov momentum of both.
        sgd_weight_decay: what both lose in a step at their full rate, as a fraction.
        whiten_until: fraction of the training after which the biases of a submodule `whiten` are
            frozen; until then their rate falls linearly. Nothing then flows back into that layer.
    """

    def __init__(
        self,
        params,
        lr: Rate,
        momentum: Fraction,
        ns_steps: Steps,
        norm_every: Annotated[int, Ge(0)],
        weight_decay: Rate,
        head_lr: Rate,
        bias_lr: Rate,
        sgd_momentum: Momentum,
        sgd_weight_decay: Fraction,
        whiten_until: Fraction,
    ):
        hidden = dict(
            lr=lr,
            momentum=momentum,
            ns_steps=ns_steps,
            norm_every=norm_every,
            weight_decay=weight_decay,
        )
        head = dict(lr=head_lr, momentum=sgd_momentum, decay=sgd_weight_decay / (head_lr or 1))
        bias = dict(lr=bias_lr, momentum=sgd_momentum, decay=sgd_weight_decay / (bias_lr or 1))
        whiten = bias | dict(until=whiten_until)
        super().__init__(params, dict(hidden=hidden, head=head, bias=bias, whiten=whiten))

    def update_other(self, p: Tensor, state: dict, group: dict) -> None:
        # All ranks of a distributed run must go on with the gradients they started with.
        if group["lr"] == 0 and "until" in group and not torch.distributed.is_initialized():
            p.requires_grad_(False)
            return
        gradient = p.grad.add(p, alpha=group["decay"])
        if not state:
            state["momentum"] = torch.zeros_like(p)
        buffer = state["momentum"].mul_(group["momentum"]).add_(gradient)
        p.sub_(gradient.add_(buffer, alpha=group["momentum"]), alpha=group["lr"])
