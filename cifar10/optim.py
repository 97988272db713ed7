"""Muon, parameter groups and learning-rate schedules."""

import math
from typing import Annotated

import torch
from annotated_types import Ge, Interval, Len
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

Fraction = Annotated[float, Interval(ge=0, le=1)]
Rate = Annotated[float, Interval(ge=0, lt=math.inf)]


def parameter_groups(network: nn.Module) -> list[dict]:
    """Split the trainable parameters into hidden weights, the last layer's weight, and the rest.

    Hidden weights (two or more dimensions) are what Muon orthogonalises; the last weight in
    registration order maps features to logits and is trained by Adam, as in Muon's publication
    (https://kellerjordan.github.io/posts/muon/). Biases and normalisation parameters are never
    decayed. Any torch optimizer takes the groups and ignores the key `kind`.
    """
    trainable = [p for p in network.parameters() if p.requires_grad]
    weights = [p for p in trainable if p.ndim >= 2]
    groups = [
        {"kind": "hidden", "params": weights[:-1]},
        {"kind": "head", "params": weights[-1:]},
        {
            "kind": "bias",
            "params": [p for p in trainable if p.ndim < 2],
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


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum for hidden weights, AdamW for everything else.

    Jordan et al. (2024), https://kellerjordan.github.io/posts/muon/. A convolution weight
    (out, in, h, w) is taken as a matrix (out, in*h*w). Unlike `torch.optim.Muon` it takes
    convolutions, trains the other parameters too, and can hold each weight at a fixed norm, which
    replaces weight decay as in Jordan's `airbench94_muon`.

    Args:
        params: groups of `parameter_groups`; those of kind `hidden` are trained by Muon.
        lr: learning rate of the hidden weights.
        momentum: Nesterov momentum of the hidden weights, in [0, 1].
        ns_steps: Newton-Schulz steps.
        keep_norm: rescale each hidden weight to Frobenius norm sqrt(out) before its update.
        weight_decay: decoupled decay of the hidden weights; without effect under `keep_norm`.
        adam_lr: learning rate of the other parameters.
        adam_betas: AdamW's two averaging factors.
        adam_weight_decay: decoupled decay of the last layer's weight.
    """

    def __init__(
        self,
        params,
        lr: Rate,
        momentum: Fraction,
        ns_steps: Annotated[int, Interval(ge=1, le=100)],
        keep_norm: bool,
        weight_decay: Rate,
        adam_lr: Rate,
        adam_betas: Annotated[list[Annotated[float, Interval(ge=0, lt=1)]], Len(2, 2)],
        adam_weight_decay: Rate,
    ):
        muon = dict(
            lr=lr,
            momentum=momentum,
            ns_steps=ns_steps,
            keep_norm=keep_norm,
            weight_decay=weight_decay,
        )
        adam = dict(lr=adam_lr, betas=list(adam_betas), weight_decay=adam_weight_decay)
        groups = [
            {**(muon if group["kind"] == "hidden" else adam), **group}
            for group in map(dict, params)
        ]
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            update = self._muon if group["kind"] == "hidden" else self._adamw
            for p in group["params"]:
                if p.grad is not None:
                    update(p, self.state[p], group)
        return loss

    def _muon(self, p: Tensor, state: dict, group: dict) -> None:
        if not state:
            state["momentum"] = torch.zeros_like(p)
        buffer = state["momentum"].lerp_(p.grad, 1 - group["momentum"])
        gradient = p.grad.lerp(buffer, group["momentum"])  # Nesterov
        if group["keep_norm"]:
            p.mul_(math.sqrt(len(p)) / p.norm())
        else:
            p.mul_(1 - group["lr"] * group["weight_decay"])
        update = orthogonalise(gradient.flatten(1), group["ns_steps"])
        p.add_(update.view(p.shape), alpha=-group["lr"])

    def _adamw(self, p: Tensor, state: dict, group: dict) -> None:
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


class Triangle(LambdaLR):
    """Rise linearly from 0 over the first steps, then fall linearly to 0 at the last.

    Args:
        total_steps: optimizer steps of the whole training.
        warmup: fraction in [0, 1] of the steps spent rising.
    """

    def __init__(self, optimizer, total_steps: Annotated[int, Ge(1)], warmup: Fraction):
        peak = warmup * total_steps

        def factor(step: int) -> float:
            # Counted from 1: neither the first nor the last step is wasted at a rate of 0.
            rising = (step + 1) / (peak + 1)
            falling = (total_steps - step) / (total_steps - peak + 1)
            return max(0.0, min(rising, falling))

        super().__init__(optimizer, factor)


class Cosine(LambdaLR):
    """Rise linearly from 0 over the first steps, then fall to 0 along half a cosine.

    Loshchilov and Hutter (2017), https://arxiv.org/abs/1608.03983, without restarts.

    Args:
        total_steps: optimizer steps of the whole training.
        warmup: fraction in [0, 1] of the steps spent rising.
    """

    def __init__(self, optimizer, total_steps: Annotated[int, Ge(1)], warmup: Fraction):
        peak = warmup * total_steps

        def factor(step: int) -> float:
            if step < peak:
                return (step + 1) / (peak + 1)
            progress = (step - peak) / max(1.0, total_steps - peak)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

        super().__init__(optimizer, factor)


class Constant(LambdaLR):
    """Keep the learning rate as it is."""

    def __init__(self, optimizer, total_steps: Annotated[int, Ge(1)]):
        super().__init__(optimizer, lambda step: 1.0)
