"""``model.fedmllm.quantization``, and which of PEFT's methods can be federated."""

from __future__ import annotations

from dataclasses import dataclass

from fs_fedmllm.keys import key

#: Values of ``model.fedmllm.quantization.type``.
QUANTIZATIONS = ("none", "int8", "nf4", "fp4")

#: Values of ``model.fedmllm.peft``. Their tensors mean the same on every client, so a mean of them means something.
PEFT_METHODS = ("lora", "rslora", "dora", "ia3", "vera", "loha", "lokr")

_CHANGES_BASE = (
    "it moves a part of the base weights into the adapter, so an adapter fits only the base that its own client "
    "computed, and the mean of clients' adapters fits none"
)
#: Methods that are refused, and why.
REFUSED_METHODS = {
    "pissa": _CHANGES_BASE,
    "olora": _CHANGES_BASE,
    "corda": _CHANGES_BASE + "; it also starts from the client's own data",
    "loftq": _CHANGES_BASE,
    "eva": "it starts from directions and ranks of the client's own data, so clients' factors are not comparable",
    "adalora": (
        "it prunes ranks by what the client's own data need, so a rank that one client keeps is gone on another, and "
        "its singular directions are not comparable between clients"
    ),
    "xlora": "it mixes several trained adapters; there is one adapter here",
}


@dataclass(frozen=True)
class QuantizationConfig:
    """``model.fedmllm.quantization``: the frozen base in 8 or 4 bits, with bitsandbytes (extra ``quant``)."""

    type: str = key(
        "none",
        "Precision of the language model's frozen linear maps. A checkpoint that is quantised already says so itself.",
        choices=QUANTIZATIONS,
    )
    double: bool = key(True, "4 bits: quantise the scales too (0.4 bits a parameter less).")
    compute_dtype: str = key(
        "", "4 bits: precision of the products; empty takes model.fedmllm.dtype.",
        choices=("", "float32", "bfloat16", "float16"),
    )  # fmt: skip
    skip: list = key([], "Modules to leave as they are beside the family's own (vision tower, projector, head).")
