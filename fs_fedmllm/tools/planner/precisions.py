"""Which precision of the frozen base is quickest on this machine: measured, for no list of processors stays true.

A step is mostly the matrix products of the language layers, forward and back to their inputs. Their shapes are read
off the model without weights, filled with random values and multiplied in float32, bfloat16 and, where bitsandbytes is
installed, NF4. No weight of the model is read, and it takes seconds. Other parts of a step gain less by a precision,
so ratios of whole steps lie nearer to one.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from fs_fedmllm.config import Config, ModelOptions, QuantizationConfig
from fs_fedmllm.models.loader import pick_device, read_config, resolve_path
from fs_fedmllm.models.mllm import MLLM
from fs_fedmllm.models.precision import quantization_of, same_on_every_cpu
from fs_fedmllm.models.skeleton import sizes, skeleton

#: Runs of each product, in turns; the quickest counts, since nothing makes one too quick.
REPEATS = 5
#: Floating-point operations of one product that are enough to time it, by kind of device.
_ENOUGH = {"cpu": 8e9, "cuda": 1e12}
#: A precision is named instead of the configured one if it takes at most this share of its time.
_WORTH = 0.9
NF4 = "nf4"


def language_products(mllm: MLLM) -> Counter[tuple[int, int]]:
    """Linear layers of the language model: (inputs, outputs) -> how many there are; trained ones left out."""
    inside = re.compile(rf"(?:{mllm.family.layers})\.")
    return Counter(
        (module.in_features, module.out_features)
        for name, module in mllm.inner.named_modules()
        if isinstance(module, torch.nn.Linear) and inside.match(name) and not module.weight.requires_grad
    )


def candidates(options: ModelOptions) -> dict[str, ModelOptions]:
    """The options in each precision that they can be had in; none where the checkpoint itself is quantised."""
    if quantization_of(read_config(resolve_path(options.path), options.revision)):
        return {}
    plain = dataclasses.replace(options, quantization=QuantizationConfig())
    found = {name: dataclasses.replace(plain, dtype=name) for name in ("float32", "bfloat16")}
    if options.dtype not in found:
        found[options.dtype] = plain
    if importlib.util.find_spec("bitsandbytes") is not None and options.peft not in ("loha", "lokr"):
        quantization = dataclasses.replace(options.quantization, type=NF4)
        found[NF4] = dataclasses.replace(options, quantization=quantization)
    return found


def configured(options: ModelOptions) -> str:
    """The name of the precision that a configuration asks for."""
    return options.dtype if options.quantization.type == "none" else options.quantization.type


def product(
    name: str, shape: tuple[int, int], tokens: int, options: ModelOptions, device: torch.device
) -> Callable[[], None]:
    """One linear layer, ready to be run forward and back to its inputs.

    Args:
        name: ``nf4``, or a dtype's.
        shape: inputs and outputs.
        tokens: rows of the product.
        options: the model's, in that precision.
        device: of the run.
    """
    width, out = shape
    dtype = getattr(torch, options.dtype)
    values = torch.randn(tokens, width, device=device, dtype=dtype).requires_grad_()
    if name == NF4:
        from bitsandbytes.nn import Linear4bit

        kept = options.quantization
        made: torch.nn.Module = Linear4bit(
            width, out, bias=False, quant_type=NF4, compress_statistics=kept.double,
            compute_dtype=getattr(torch, kept.compute_dtype or options.dtype),
        )  # fmt: skip
        made = made.to(device)
        same_on_every_cpu(made)
    else:
        made = torch.nn.Linear(width, out, bias=False, dtype=dtype, device=device)
    made.requires_grad_(False)

    def run() -> None:
        made(values).sum().backward()
        values.grad = None
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return run


def measured(
    runs: Mapping[str, Callable[[], None]], clock: Callable[[], float], repeats: int = REPEATS
) -> dict[str, float]:
    """Seconds of each, the quickest of several; they take turns, so that a busy moment hits all alike.

    Args:
        runs: by name.
        clock: CPU time on a CPU: on a busy machine a long run is interrupted more often than a short one.
        repeats: runs of each that count.
    """
    best = dict.fromkeys(runs, float("inf"))
    for repeat in range(-1, repeats):
        for name, run in runs.items():
            started = clock()
            run()
            if repeat >= 0:  # the first one warms up
                best[name] = min(best[name], clock() - started)
    return best


@contextmanager
def _threads(wanted: int) -> Iterator[None]:
    from fs_fedmllm.rounds.federation import set_threads

    before = torch.get_num_threads()
    set_threads(wanted)
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.set_num_threads(before)


def free_bytes(device: torch.device) -> int:
    """Memory that is free for a model, or 0 where it cannot be told."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    return 0


def compared(config: Config, row_tokens: int = 256) -> dict[str, Any]:
    """What the precisions cost here, and which to take.

    Args:
        config: the run's.
        row_tokens: tokens of a usual row.

    Returns:
        ``tokens`` (of a pass, as they were timed), ``free_bytes``, ``configured``, ``take``, and ``precisions``: name
        -> ``seconds`` of a step's products, ``relative`` to those of float32, ``base_bytes``. Empty where the
        checkpoint is quantised already, or has no linear layers of the usual kind.

    Raises:
        ModelError: no such accelerator, or the model's configuration cannot be read.
    """
    options = config.model.fedmllm
    found = candidates(options)
    if not found:
        return {}
    device = pick_device(config.use_gpu, config.device)
    skeletons = {name: skeleton(made) for name, made in found.items()}
    shapes = language_products(skeletons["float32"])
    if not shapes:
        return {}
    local = config.fedmllm.train
    rows = local.micro_batch_size or local.batch_size
    # Two products of two operations for each weight and token.
    fitting = int(_ENOUGH.get(device.type, _ENOUGH["cpu"]) / (4 * max(a * b for a, b in shapes)))
    tokens = max(64, min(rows * row_tokens, fitting))
    seconds = dict.fromkeys(found, 0.0)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    with _threads(config.fedmllm.threads):
        for shape, count in shapes.items():
            runs = {name: product(name, shape, tokens, made, device) for name, made in found.items()}
            for name, taken in measured(runs, clock).items():
                seconds[name] += count * taken
    figures = {
        name: {
            "seconds": seconds[name],
            "relative": seconds[name] / seconds["float32"],
            "base_bytes": sizes(skeletons[name], made).base_bytes,
        }
        for name, made in found.items()
    }
    free = free_bytes(device)
    now = configured(options)
    return {
        "tokens": tokens,
        "free_bytes": free,
        "configured": now,
        "take": advised(figures, now, free),
        "precisions": figures,
    }


def advised(figures: Mapping[str, Mapping[str, float]], now: str, free: int) -> str:
    """The precision to take: the quickest whose base fits, or the configured one where that is about as quick.

    Args:
        figures: of the precisions.
        now: the configured one; it need not be among them.
        free: bytes for the base; 0 if that is not known.
    """
    fitting = [name for name in figures if not free or figures[name]["base_bytes"] < free]
    if not fitting:
        return min(figures, key=lambda name: figures[name]["base_bytes"])
    quickest = min(fitting, key=lambda name: figures[name]["relative"])
    if now in fitting and figures[quickest]["relative"] > _WORTH * figures[now]["relative"]:
        return now
    return quickest


def settings(name: str) -> str:
    """The keys that set a precision."""
    return f"model.fedmllm.quantization.type {name}" if name == NF4 else f"model.fedmllm.dtype {name}"
