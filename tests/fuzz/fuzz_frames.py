"""Coverage-guided fuzzing of the reader of messages: ``python tests/fuzz/fuzz_frames.py -max_total_time=300``.

Half of the inputs are libFuzzer's own bytes, half are messages whose structure was changed and whose digest was put
right (the digest would otherwise hide everything behind it). Only our own errors may come out, what is let in must
come out of a sender again, and no input may take long or much memory. Needs ``pip install atheris``.
"""

from __future__ import annotations

import hashlib
import random
import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "distributed"))

import torch

with atheris.instrument_imports(include=["fs_fedmllm.distributed"]):
    from fs_fedmllm.distributed.contracts import ANY_TENSORS, Contract, TensorSpec
    from fs_fedmllm.distributed.errors import FrameError, VersionError
    from fs_fedmllm.distributed.frames import PREFIX, decode

from wire_frames import LIMITS, cut, joined, mutant, sample_message

CONTRACT = Contract({f"t{i}": TensorSpec(torch.float32, (2,)) for i in range(3)}, partial=True)


def mend(data: bytes) -> bytes:
    """The same bytes with a right digest at their end."""
    body = data[:-32] if len(data) > PREFIX.size + 32 else data
    return body + hashlib.sha256(body).digest()


def change(data: bytes, max_size: int, seed: int) -> bytes:
    """libFuzzer's mutation of the bytes, or a change of the structure."""
    draw = random.Random(seed)
    if draw.random() < 0.3:
        return mutant(draw)[:max_size]
    changed = atheris.Mutate(data, max_size)
    return mend(changed) if draw.random() < 0.7 else changed


def one_input(data: bytes) -> None:
    for contract in (ANY_TENSORS, CONTRACT):
        try:
            message = decode(cut(data), lambda kind, header, contract=contract: contract, LIMITS)
        except (FrameError, VersionError):
            continue
        again = decode(cut(joined(message)), lambda kind, header: ANY_TENSORS)
        assert again.header == message.header and list(again.tensors) == list(message.tensors)
        for name, tensor in message.tensors.items():
            assert torch.equal(tensor, again.tensors[name])


def main() -> None:
    """Hand over to libFuzzer; its options are the command's."""
    one_input(joined(sample_message()))
    options = ("-max_len=65536", "-rss_limit_mb=2048", "-timeout=10", "-print_final_stats=1")
    atheris.Setup([*sys.argv, *options], one_input, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
