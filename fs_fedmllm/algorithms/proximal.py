"""The client regulariser: FedMLLM's layer-masked adaptive penalty (equation 3), and FedProx.

    L = L_task + gamma_k * || mask * (w - w_global) ||^2

FedProx (Li et al. 2020) is the same with gamma = mu / 2 and every layer. The gradient 2 gamma (w - w_global) is
added before clipping, which equals having the penalty in the loss and costs a tenth of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from fs_fedmllm.algorithms.client import ClientContext, ClientHalf
from fs_fedmllm.algorithms.regularizer import Regularizer
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.lazy import torch

#: Half of the authors' prox_mu (0.01), the factor that their code puts in front of mu_w.
UPSTREAM_HALF_MU = 0.005


def layer_mask(
    layers: Sequence[int | None], depth: int, skip: int, block: str = "middle", *, fixed_27: bool = False
) -> tuple[int, ...]:
    """Positions of the tensors in language layers S .. L-1-S, both included, or in as many early or late ones.

    Args:
        layers: layer index of each tensor, None outside the language layers (never penalised).
        depth: L.
        skip: S.
        block: ``middle`` as in the paper; ``early`` are the first L - 2S layers, ``late`` the last.
        fixed_27: take 27 for L-1 whatever the model, as the authors' code does.

    Raises:
        ConfigError: no tensor is left.
    """
    shift = {"early": -skip, "middle": 0, "late": skip}[block]
    first, last = skip + shift, (27 if fixed_27 else depth - 1) - skip + shift
    positions = tuple(i for i, layer in enumerate(layers) if layer is not None and first <= layer <= last)
    if not positions:
        raise ConfigError(
            f"fedmllm.regularizer.skip_layers is {skip}, which leaves no layer of a model with {depth} language "
            f"layers to regularise. Use at most {max(0, (depth - 1) // 2)}."
        )
    return positions


def coefficient(config: Any, *, beta: float, switch: str, scenario: str) -> float:
    """gamma_k, the factor in front of the squared distance.

    Args:
        config: ``fedmllm.regularizer``.
        beta: the client's measured missing rate: the largest share, over modalities, of its rows that lack it.
        switch: ``measured`` (gamma_max * beta), ``by_scenario`` (the paper's three rules) or ``constant``
            (the authors' code: prox_mu / 2 * mu_w for every client).
        scenario: name of the scenario, for ``by_scenario``.
    """
    if config.type not in ("fedprox", "adaptive"):
        return 0.0
    if config.type == "fedprox":
        return config.mu / 2
    if switch == "constant":
        return UPSTREAM_HALF_MU * config.gamma_max
    if switch == "by_scenario":
        if scenario == "aligned":
            return 0.0
        # The supplement's section 4: beta is "calculated from the client's private dataset", also where the scenario
        # has a level of that name.
        return config.gamma_max if scenario == "cross" else config.gamma_max * beta
    return config.gamma_max * beta


@dataclass(frozen=True)
class Penalty:
    """A penalty ready for the inner loop.

    Attributes:
        gamma: coefficient; 0 switches the penalty off.
        positions: which of the adapter's tensors it covers.
    """

    gamma: float
    positions: tuple[int, ...]

    def add_gradient(self, parameters: Sequence[torch.nn.Parameter], anchors: Sequence[torch.Tensor]) -> torch.Tensor:
        """Add the penalty's gradient to the parameters' and return its value (a scalar tensor, no synchronisation).

        A parameter that the batch does not reach (an expert that no token was sent to) has the penalty's gradient
        alone, as it would with the penalty in the loss.

        Args:
            parameters: the adapter's parameters, with gradients or without.
            anchors: the global values that the turn started from, same order.
        """
        if self.gamma == 0.0:
            return torch.zeros(())
        chosen = [parameters[i] for i in self.positions]
        with torch.no_grad():
            differences = torch._foreach_sub([p.data for p in chosen], [anchors[i] for i in self.positions])
            norms = [n.square().to(anchors[0].device) for n in torch._foreach_norm(differences)]
            value = self.gamma * torch.stack(norms).sum()
            for parameter in chosen:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            gradients = [p.grad for p in chosen]
            torch._foreach_add_(gradients, differences, alpha=2 * self.gamma)  # type: ignore[arg-type]
        return value

    def value(self, parameters: Sequence[torch.Tensor], anchors: Sequence[torch.Tensor]) -> torch.Tensor:
        """The penalty as a term of a loss: a scalar tensor through which gradients flow.

        Args:
            parameters: the adapter's parameters.
            anchors: the global values, same order.
        """
        terms = [(parameters[i].float() - anchors[i]).square().sum().to(anchors[0].device) for i in self.positions]
        if self.gamma == 0.0 or not terms:
            return torch.zeros((), device=anchors[0].device)
        return self.gamma * torch.stack(terms).sum()


class ProximalClient(ClientHalf):
    """The pull of one update."""

    corrects: ClassVar[bool] = True

    def __init__(self, penalty: Penalty):
        self.penalty = penalty

    def correct(
        self, parameters: Sequence[torch.nn.Parameter], anchors: Sequence[torch.Tensor], step: int, steps: int
    ) -> torch.Tensor:
        return self.penalty.add_gradient(parameters, anchors)


class _Proximal(Regularizer):
    #: Whether all layers are pulled.
    every_layer: ClassVar[bool] = False

    @classmethod
    def client(cls, parameters: Any, context: ClientContext) -> ClientHalf | None:
        mask = layer_mask(
            context.layers,
            context.depth,
            0 if cls.every_layer else parameters.skip_layers,
            "middle" if cls.every_layer else parameters.block,
            fixed_27=not cls.every_layer and context.switches.get("regularizer_layers") == "fixed_27",
        )
        gamma = coefficient(
            parameters,
            beta=context.missing_rate,
            switch=context.switches.get("regularizer_coefficient", "measured"),
            scenario=context.scenario,
        )
        if not gamma:
            return None
        return ProximalClient(Penalty(gamma, tuple(i for i in mask if i not in context.frozen)))


class FedProx(_Proximal):
    """FedProx: fixed, on every layer."""

    name: ClassVar[str] = "fedprox"
    every_layer: ClassVar[bool] = True


class Adaptive(_Proximal):
    """FedMLLM's regulariser: adapted to the client's missing rate, on the middle layers."""

    name: ClassVar[str] = "adaptive"
