"""Checks of a client's penalty, on a toy model in plain torch.

A penalty is anything with ``add_gradient(parameters, anchors) -> value``, made by ``factory(gamma, positions)``, as
:class:`fs_fedmllm.algorithms.proximal.Penalty` is: L + gamma sum over the positions of ||w - w_global||^2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch

from fs_fedmllm.algorithms.proximal import Penalty


class ClientPenalty(Protocol):
    """What a penalty must offer."""

    def add_gradient(self, parameters: Sequence[torch.nn.Parameter], anchors: Sequence[torch.Tensor]) -> torch.Tensor:
        """Add the gradient in place and return the value."""


PenaltyFactory = Callable[[float, tuple[int, ...]], ClientPenalty]
PenaltyCheck = Callable[[PenaltyFactory], None]


def toy_training(
    params: Mapping[str, torch.Tensor], steps: Sequence[int], penalty: ClientPenalty | None = None, lr: float = 0.05
) -> dict[str, torch.Tensor]:
    """Least squares by SGD, one seeded batch a step: the smallest client there is.

    Args:
        params: ``weight`` (4 x 3) and ``bias`` (4), the global values.
        steps: which batches, by their seed.
        penalty: added to each gradient.
        lr: learning rate.

    Returns:
        The client's parameters.
    """
    model = torch.nn.Linear(3, 4)
    tensors: list[torch.nn.Parameter] = list(model.parameters())
    anchors = [params["weight"].clone(), params["bias"].clone()]
    with torch.no_grad():
        for tensor, anchor in zip(tensors, anchors, strict=True):
            tensor.copy_(anchor)
    target = torch.linspace(-1, 1, 12).reshape(4, 3)
    for step in steps:
        inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(1000 + step))
        model.zero_grad(set_to_none=True)
        (model(inputs) - inputs @ target.T - 0.5).square().mean().backward()
        if penalty is not None:
            penalty.add_gradient(tensors, anchors)
        with torch.no_grad():
            for tensor in tensors:
                assert tensor.grad is not None
                tensor.sub_(lr * tensor.grad)
    return {"weight": model.weight.detach().clone(), "bias": model.bias.detach().clone()}


def _case() -> tuple[list[torch.nn.Parameter], list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(5)
    shapes = ((2, 3), (4,), (3, 2), (1,))
    parameters = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return parameters, [torch.randn(shape, generator=generator) for shape in shapes]


def check_penalty_off(factory: PenaltyFactory = Penalty) -> None:
    """Coefficient 0 trains to the same bits as no penalty: FedProx with mu = 0 is FedAvg."""
    start = {"weight": torch.full((4, 3), 0.3), "bias": torch.zeros(4)}
    plain, off = toy_training(start, range(10)), toy_training(start, range(10), factory(0.0, (0, 1)))
    assert all(torch.equal(plain[name], off[name]) for name in plain), "a coefficient of 0 changes the training"


def check_penalty_gradient(factory: PenaltyFactory = Penalty) -> None:
    """Value and gradient are those of gamma ||w - w_global||^2 in the loss, on the chosen tensors."""
    gamma, positions = 0.07, (0, 2)
    parameters, anchors = _case()
    before = [p.grad.clone() for p in parameters if p.grad is not None]
    value = factory(gamma, positions).add_gradient(parameters, anchors)
    loss = sum((parameters[i] - anchors[i]).square().sum() for i in positions)
    assert isinstance(loss, torch.Tensor)
    loss = gamma * loss
    wanted = loss.detach()
    torch.testing.assert_close(value, wanted, msg=f"the penalty is {float(value):.6g}, not {float(wanted):.6g}")
    slopes = torch.autograd.grad(loss, [parameters[i] for i in positions])
    for i, slope in zip(positions, slopes, strict=True):
        grad = parameters[i].grad
        assert grad is not None
        torch.testing.assert_close(grad, before[i] + slope, msg=f"tensor {i} has another gradient than autograd's")


def check_penalty_mask(factory: PenaltyFactory = Penalty) -> None:
    """Tensors outside the mask keep their gradient, and no parameter moves."""
    parameters, anchors = _case()
    grads = [p.grad.clone() for p in parameters if p.grad is not None]
    values = [p.detach().clone() for p in parameters]
    factory(0.5, (1,)).add_gradient(parameters, anchors)
    for i, parameter in enumerate(parameters):
        assert parameter.grad is not None
        assert i == 1 or torch.equal(parameter.grad, grads[i]), f"tensor {i} is outside the mask and was penalised"
        assert torch.equal(parameter.detach(), values[i]), f"the penalty moved tensor {i} itself"


def check_penalty_anchor(factory: PenaltyFactory = Penalty) -> None:
    """At the global values the penalty and its gradient are exactly 0, and away from them it pulls back."""
    parameters, _ = _case()
    anchors = [p.detach().clone() for p in parameters]
    grads = [p.grad.clone() for p in parameters if p.grad is not None]
    value = factory(0.5, (0, 1, 2, 3)).add_gradient(parameters, anchors)
    assert float(value) == 0.0, "the penalty is not 0 at the global values"
    for i, parameter in enumerate(parameters):
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, grads[i]), f"the gradient of tensor {i} is not 0 at the global values"
    start = {"weight": torch.zeros(4, 3), "bias": torch.zeros(4)}
    far = [toy_training(start, range(40), factory(gamma, (0, 1)))["weight"].norm() for gamma in (0.0, 0.1, 1.0)]
    assert far[0] > far[1] > far[2], "a larger coefficient does not keep the client closer to the global values"


CLIENT_CHECKS: dict[str, PenaltyCheck] = {
    "penalty_off": check_penalty_off,
    "penalty_gradient": check_penalty_gradient,
    "penalty_mask": check_penalty_mask,
    "penalty_anchor": check_penalty_anchor,
}
