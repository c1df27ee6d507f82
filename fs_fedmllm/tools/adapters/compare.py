"""Two adapters side by side: are they of one base, and how far apart is what they do.

The factors of LoRA are not unique (B A = (B R)(R^-1 A)), so beside the tensors themselves their products are compared:
||s1 B1 A1 - s2 B2 A2|| in the Frobenius norm, from r x r matrices, without ever making a product.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fs_fedmllm.errors import ModelError
from fs_fedmllm.hub.fetch import TENSORS, read_config
from fs_fedmllm.models.adapter_folder import read_description, same_name
from fs_fedmllm.models.export import tensors_in

_LAYER = re.compile(r"layers\.(\d+)\.")
#: Settings that are told apart; the rest of PEFT's configuration says nothing about what was trained.
SETTINGS = (
    *("peft_type", "base_model_name_or_path", "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "bias"),
    *("target_modules", "modules_to_save", "rank_pattern", "alpha_pattern"),
)


@dataclass(frozen=True)
class Distance:
    """How far apart two sets of tensors are.

    Attributes:
        first, second: their norms.
        distance: norm of the difference.
        cosine: of the angle between them; None where one is zero.
    """

    first: float
    second: float
    distance: float
    cosine: float | None

    @property
    def relative(self) -> float | None:
        """Distance in units of the first's norm."""
        return self.distance / self.first if self.first else None


@dataclass
class Comparison:
    """What :func:`compare` finds.

    Attributes:
        same_base: whether both were trained on the same base; None where nothing tells.
        told_by: what tells: ``weights`` (fingerprints, which both have), ``names`` or nothing.
        bases: what each calls its base; empty where it does not.
        settings: setting -> (first, second), where they differ.
        only_first, only_second: names of tensors that one lacks.
        shapes: name -> both shapes, where they differ.
        layers: layer index, or ``other`` -> distance of its tensors.
        products: the same of the products B A, scaled; empty where there are no LoRA pairs.
        total: of all tensors together.
        product_total: of all products together, or None.
    """

    same_base: bool | None
    told_by: str
    bases: tuple[str, str]
    settings: dict[str, tuple[Any, Any]]
    only_first: list[str]
    only_second: list[str]
    shapes: dict[str, tuple[list[int], list[int]]]
    layers: dict[str, Distance] = field(default_factory=dict)
    products: dict[str, Distance] = field(default_factory=dict)
    total: Distance | None = None
    product_total: Distance | None = None


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """An adapter's tensors, as float32.

    Raises:
        ModelError: the file is missing or damaged, or a value is not finite.
    """
    file = folder / TENSORS
    state = {name: tensor.float() for name, tensor in tensors_in(file).items()}
    for name, tensor in state.items():
        if not bool(tensor.isfinite().all()):
            raise ModelError(f"{file}: {name!r} holds values that are not finite.")
    return state


class _Sums:
    """Inner products <a, a>, <b, b>, <a, b>, added up."""

    def __init__(self) -> None:
        self.aa = self.bb = self.ab = 0.0

    def add(self, aa: float, bb: float, ab: float) -> None:
        self.aa, self.bb, self.ab = self.aa + aa, self.bb + bb, self.ab + ab

    def distance(self) -> Distance:
        both = math.sqrt(self.aa) * math.sqrt(self.bb)
        return Distance(
            math.sqrt(self.aa),
            math.sqrt(self.bb),
            math.sqrt(max(0.0, self.aa + self.bb - 2 * self.ab)),
            self.ab / both if both else None,
        )


def _layer(name: str) -> str:
    found = _LAYER.search(name)
    return found.group(1) if found else "other"


def scale(config: Mapping[str, Any]) -> float:
    """What B A is multiplied with."""
    r, alpha = float(config.get("r") or 1), float(config.get("lora_alpha") or 1)
    return alpha / math.sqrt(r) if config.get("use_rslora") else alpha / r


def _inner(b1: torch.Tensor, a1: torch.Tensor, b2: torch.Tensor, a2: torch.Tensor) -> float:
    """<B1 A1, B2 A2> = trace((B1' B2)(A2 A1')) from r x r matrices."""
    return float(((b1.T.double() @ b2.double()) * (a1.double() @ a2.T.double())).sum())


def compare(first: Path, second: Path) -> Comparison:
    """Compare two adapter folders.

    Raises:
        ModelError: one cannot be read.
    """
    configs, states = (read_config(first), read_config(second)), (read_tensors(first), read_tensors(second))
    a, b = states
    shared = [name for name in a if name in b]
    fitting = [name for name in shared if a[name].shape == b[name].shape]
    found = Comparison(
        **_bases((first, second), configs),
        settings={
            name: (configs[0].get(name), configs[1].get(name))
            for name in SETTINGS
            if _plain(configs[0].get(name)) != _plain(configs[1].get(name))
        },
        only_first=[name for name in a if name not in b],
        only_second=[name for name in b if name not in a],
        shapes={n: (list(a[n].shape), list(b[n].shape)) for n in shared if a[n].shape != b[n].shape},
    )
    layers: dict[str, _Sums] = {}
    whole = _Sums()
    for name in fitting:
        x, y = a[name].double().flatten(), b[name].double().flatten()
        sums = float(x @ x), float(y @ y), float(x @ y)
        layers.setdefault(_layer(name), _Sums()).add(*sums)
        whole.add(*sums)
    found.layers = {name: layers[name].distance() for name in sorted(layers, key=_order)}
    found.total = whole.distance() if fitting else None
    products: dict[str, _Sums] = {}
    whole = _Sums()
    scales = scale(configs[0]), scale(configs[1])
    for name in shared:
        other = name.replace(".lora_A.", ".lora_B.")
        if other == name or other not in a or other not in b:
            continue
        # Ranks may differ; the products' shapes may not.
        if a[name].dim() != 2 or a[name].shape[1] != b[name].shape[1] or a[other].shape[0] != b[other].shape[0]:
            continue
        one, two = (a[other] * scales[0], a[name]), (b[other] * scales[1], b[name])
        sums = _inner(*one, *one), _inner(*two, *two), _inner(*one, *two)
        products.setdefault(_layer(name), _Sums()).add(*sums)
        whole.add(*sums)
    found.products = {name: products[name].distance() for name in sorted(products, key=_order)}
    found.product_total = whole.distance() if products else None
    return found


def _bases(folders: Sequence[Path], configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Whether two adapters are of one base: fingerprints of weights decide where both have one, names elsewhere."""
    described = [read_description(folder) for folder in folders]
    one, two = (
        str(config.get("base_model_name_or_path") or "") or (own.base if own is not None else "")
        for config, own in zip(configs, described, strict=True)
    )
    prints = [own.base_sha256 if own is not None else "" for own in described]
    if all(prints):
        same, by = prints[0] == prints[1], "weights"
    elif one and two:
        same, by = same_name(one, two), "names"
    else:
        return {"same_base": None, "told_by": "", "bases": (one, two)}
    return {"same_base": same, "told_by": by, "bases": (one, two)}


def _plain(value: Any) -> Any:
    return sorted(map(str, value)) if isinstance(value, list) else (value or None)


def _order(name: str) -> tuple[bool, int]:
    return name == "other", int(name) if name.isdigit() else 0
