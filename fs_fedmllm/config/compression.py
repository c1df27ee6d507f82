"""``fedmllm.compression``: what goes over the wire, and in which precision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fs_fedmllm.keys import NOT_NEGATIVE, key

#: What a client may send.
UPLOADS = ("float32", "bfloat16", "int8", "int4")
#: What the server may send.
DOWNLOADS = ("float32", "bfloat16")


@dataclass(frozen=True)
class CompressionConfig:
    """``fedmllm.compression``: the precision of updates on the wire; the server's own adapter stays float32."""

    upload: str = key(
        "float32",
        "What a client sends: its adapter in float32, or the difference to what it received in fewer bits.",
        choices=UPLOADS,
    )
    download: str = key("float32", "What the server sends: its adapter.", choices=DOWNLOADS)
    group: int = key(
        64, "int8 and int4: values that share one scale; 0 gives each tensor one.", unit="values", valid=NOT_NEGATIVE
    )
    error_feedback: bool = key(
        True, "A client adds what rounding lost to its next update (no effect on float32 uploads)."
    )


def compression_faults(config: Any) -> Iterator[str]:
    """A message, naming the keys, where nothing is sent that could be compressed."""
    compression = config.fedmllm.compression
    if not config.method.has_global and (compression.upload, compression.download) != ("float32", "float32"):
        yield (
            "federate.method is local, and nothing is sent in it; leave fedmllm.compression.upload and "
            "fedmllm.compression.download at float32."
        )
