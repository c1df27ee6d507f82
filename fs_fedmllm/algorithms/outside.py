"""What an algorithm of another package gives back is looked at where it comes in, and named where it cannot be meant.

Tensors that share memory are told apart, and none keeps its graph: a state is written and sent as it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from fs_fedmllm.algorithms.client import ClientHalf
from fs_fedmllm.algorithms.regularizer import Regularizer
from fs_fedmllm.algorithms.server import ServerOptimizer
from fs_fedmllm.algorithms.state import State
from fs_fedmllm.errors import ConfigError, FedMLLMError, UpdateError
from fs_fedmllm.lazy import torch


class AlgorithmError(ConfigError):
    """A hook of another package's algorithm failed, or gave what cannot be meant."""


_DOCS = "(docs/extending.md)"
_NO_CHECKPOINT = "which no checkpoint takes"


def _named(algorithm: Any) -> str:
    kind = algorithm if isinstance(algorithm, type) else type(algorithm)
    return f"{kind.__module__}.{kind.__qualname__}"


def is_outside(algorithm: Any) -> bool:
    """Whether another package made it."""
    return not _named(algorithm).startswith(f"{__name__.partition('.')[0]}.")


def fault(algorithm: Any, hook: str, said: str) -> AlgorithmError:
    """What is wrong with what a hook did."""
    return AlgorithmError(f"The algorithm {_named(algorithm)}: {hook} {said} {_DOCS}.").telling(
        f"its algorithm's {hook} failed"
    )


@contextlib.contextmanager
def called(algorithm: Any, hook: str) -> Iterator[None]:
    """Say of an error inside whose it is; our own algorithms' pass as they are.

    Args:
        algorithm: a method, a regulariser or a client half.
        hook: name of the method that is called.

    Raises:
        ConfigError: names the algorithm, the hook, the error and its line.
    """
    try:
        yield
    except (FedMLLMError, MemoryError):
        raise
    except (Exception, SystemExit) as error:  # another package's code may raise anything
        if not is_outside(algorithm) or isinstance(error, torch.OutOfMemoryError):
            raise
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        line = f", {place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place is not None else ""
        raise fault(algorithm, hook, f"failed ({type(error).__name__}: {error}{line}). Correct it") from error


def ask(algorithm: Any, hook: str, *given: Any) -> State:
    """A hook's flat dictionary of tensors.

    Args:
        algorithm: as in :func:`called`.
        hook: the method.
        given: its arguments.

    Raises:
        ConfigError: it fails, or gives anything else.
    """
    with called(algorithm, hook):
        made = getattr(algorithm, hook)(*given)
    return tensors(made, algorithm, hook)


def tensors(made: Any, algorithm: Any, hook: str) -> State:
    """What a hook gave, which must be tensors by name.

    Raises:
        ConfigError: it is anything else.
    """
    if not is_outside(algorithm):
        return made  # type: ignore[no-any-return]
    if not isinstance(made, Mapping):
        raise fault(algorithm, hook, f"gave {type(made).__name__}, and a dictionary of tensors by name is needed")
    seen: set[int] = set()
    state: State = {}
    for name, tensor in made.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise fault(algorithm, hook, f"gave {type(tensor).__name__} for {name!r}, and each name needs a tensor")
        if tensor.layout != torch.strided or tensor.device.type == "meta":
            raise fault(algorithm, hook, f"gave a tensor of {tensor.layout} on {tensor.device} for {name!r}")
        if tensor.is_quantized or (tensor.is_complex() and tensor.dtype != torch.complex64):
            raise fault(algorithm, hook, f"gave a tensor of {tensor.dtype} for {name!r}, which no file takes")
        plain = tensor.detach().resolve_conj().resolve_neg().contiguous()  # as its bytes will be read again
        memory, whole = plain.untyped_storage(), plain.numel() * plain.element_size()
        state[name] = plain.clone() if memory.data_ptr() in seen or memory.nbytes() > whole else plain
        seen.add(memory.data_ptr())
    return state


def finite(state: Mapping[str, Any], algorithm: Any, hook: str, why: str) -> None:
    """Refuse values of another package's algorithm that are not finite.

    Args:
        state: what a hook gave.
        algorithm: as in :func:`called`.
        hook: the method.
        why: what is wrong with that; part of a sentence.

    Raises:
        AlgorithmError: names the tensor.
    """
    if is_outside(algorithm):
        for name, tensor in state.items():
            wide = tensor.float() if tensor.is_floating_point() and tensor.element_size() == 1 else tensor
            if not bool(wide.isfinite().all()):
                raise fault(algorithm, hook, f"gave values in {name!r} that are not finite, {why}")


def two(made: Any, algorithm: Any, hook: str) -> tuple[Any, Any]:
    """What a hook gave, which must be two things.

    Raises:
        ConfigError: it is anything else.
    """
    if not isinstance(made, tuple | list) or len(made) != 2:
        raise fault(algorithm, hook, f"gave {type(made).__name__}, and two dictionaries are needed, in a tuple")
    return made[0], made[1]


def term(algorithm: Any, hook: str, *given: Any) -> torch.Tensor:
    """A hook's one number, which is added to a loss or beside it.

    Raises:
        AlgorithmError: it fails, gives anything else, or a number that is not finite though all that it was given is.
    """
    with called(algorithm, hook):
        made = getattr(algorithm, hook)(*given)
    if not is_outside(algorithm):
        return made  # type: ignore[no-any-return]
    if not isinstance(made, torch.Tensor) or made.dim() != 0:
        shape = f" of shape {tuple(made.shape)}" if isinstance(made, torch.Tensor) else ""
        raise fault(algorithm, hook, f"gave {type(made).__name__}{shape}, and a tensor of one number is needed")
    if made.layout != torch.strided or made.device.type == "meta" or made.is_complex() or made.is_quantized:
        said = f"{made.dtype} ({made.layout}) on {made.device}"
        raise fault(algorithm, hook, f"gave a number of {said}, and a real one with a value is needed")
    if not bool(made.isfinite()) and all(bool(tensor.isfinite().all()) for tensor in _within(given)):
        raise fault(algorithm, hook, f"gave {float(made)}, and what it was given is finite")
    return made


def _within(given: Iterable[Any]) -> Iterator[torch.Tensor]:
    for part in given:
        if isinstance(part, torch.Tensor):
            yield part
        elif isinstance(part, tuple | list):
            yield from _within(part)


def client_half(made: Any, algorithm: Any) -> ClientHalf | None:
    """What ``client`` gave.

    Raises:
        ConfigError: it is neither a client half nor None.
    """
    if made is not None and not isinstance(made, ClientHalf):
        raise fault(algorithm, "client", f"gave {type(made).__name__}, and a ClientHalf is needed, or None")
    return made


def faults_of(algorithm: Any, config: Any) -> list[str]:
    """What it finds at fault in a configuration.

    Raises:
        ConfigError: it fails, or gives anything but texts.
    """
    with called(algorithm, "faults"):
        made = algorithm.faults(config)
        found = [] if isinstance(made, str) else list(made)
    if isinstance(made, str) or not all(isinstance(said, str) for said in found):
        raise fault(algorithm, "faults", "gave no sequence of texts: yield one for each fault")
    return found


def built(method: Any, build: Callable[[], Any]) -> ServerOptimizer | None:
    """What ``build`` gives: a server half, or None for a method without a server.

    Raises:
        ConfigError: it fails, or gives anything else.
    """
    with called(method, "build"):
        made = build()
    if is_outside(method) and not isinstance(made, ServerOptimizer) and (made is not None or method.federated):
        raise fault(method, "build", f"gave {type(made).__name__}, and a ServerOptimizer is needed")
    if isinstance(made, ServerOptimizer) and made.weighting not in ("samples", "uniform"):
        raise fault(method, "weighting", f"is {made.weighting!r}, and it must be 'samples' or 'uniform'")
    return made  # type: ignore[no-any-return]


def broadcast(optimizer: ServerOptimizer, params: State, state: State) -> State:
    """What a round's clients are sent.

    Raises:
        ConfigError: a tensor of the adapter is not in it, or a further name could be one of the adapter's.
    """
    sent = ask(optimizer, "broadcast", params, state)
    if missing := [name for name in params if name not in sent]:
        raise fault(optimizer, "broadcast", f"lacks the adapter's {missing[0]!r}")
    _beside(optimizer, "broadcast", sent, params)
    finite(sent, optimizer, "broadcast", "which no client takes")
    return sent


def expected(optimizer: ServerOptimizer, params: State) -> State:
    """What clients send.

    Raises:
        AlgorithmError: a further name could be one of the adapter's.
    """
    made = ask(optimizer, "expected", params)
    _beside(optimizer, "expected", made, params)
    return made


def _beside(optimizer: ServerOptimizer, hook: str, made: State, params: State) -> None:
    if odd := [name for name in made if name not in params and "/" not in name]:
        raise fault(optimizer, hook, f"gave {odd[0]!r} beside the adapter, and such a name needs a slash in it")


def state_of(optimizer: ServerOptimizer, hook: str, *given: Any) -> State:
    """A server optimizer's state, which a checkpoint holds.

    Raises:
        AlgorithmError: it is none, or a value of it is not finite.
    """
    made = ask(optimizer, hook, *given)
    finite(made, optimizer, hook, _NO_CHECKPOINT)
    return made


def begun_by(regularizer: Any, state: State, base_weights: Callable[[], Mapping[str, Any]]) -> State:
    """The global adapter before the first round, as a regulariser wants it.

    Args:
        regularizer: of the run.
        state: a fresh adapter.
        base_weights: gives the frozen weights, for one that reads them.

    Raises:
        AlgorithmError: it fails, or gives another adapter.
    """
    hook = getattr(regularizer.initial_state, "__func__", None)  # none of a static method's
    if not regularizer.reads_base and hook is Regularizer.initial_state.__func__:  # type: ignore[attr-defined]
        return state
    like = dict(state)
    own = {name: tensor.clone() for name, tensor in state.items()} if is_outside(regularizer) else state
    made = ask(regularizer, "initial_state", own, base_weights() if regularizer.reads_base else {})
    if is_outside(regularizer):
        made = adapter_as(made, like, regularizer, "initial_state")
        finite(made, regularizer, "initial_state", "and the run begins with them")
    return made


def same_names(made: State, like: State, algorithm: Any, hook: str) -> None:
    """Refuse what has other names than the adapter.

    Raises:
        AlgorithmError: names the first one.
    """
    if other := sorted(set(made) ^ set(like)):
        told = "lacks the adapter's" if other[0] in like else "gave, beside the adapter,"
        raise fault(algorithm, hook, f"{told} {other[0]!r}")


def adapter_as(made: State, like: State, algorithm: Any, hook: str) -> State:
    """What a hook gave as the adapter, by the names, shapes and precision of another.

    Raises:
        AlgorithmError: it has others.
    """
    same_names(made, like, algorithm, hook)
    for name, tensor in like.items():
        if made[name].shape != tensor.shape or made[name].dtype != tensor.dtype:
            said = f"{made[name].dtype} {tuple(made[name].shape)}"
            raise fault(algorithm, hook, f"gave {name!r} as {said}, and it is {tensor.dtype} {tuple(tensor.shape)}")
    return {name: made[name] for name in like}


def step(optimizer: ServerOptimizer, params: State, state: State, deltas: State) -> tuple[State, State]:
    """A server optimizer's step: the new adapter, by the names of the old one, and the new state.

    Raises:
        ConfigError: it gives anything else.
        UpdateError: a value of the new adapter is not finite.
    """
    given = (params, state, deltas)
    if is_outside(optimizer):  # what it writes into is its own: the best adapter may be this one
        given = tuple({name: tensor.clone() for name, tensor in part.items()} for part in given)  # type: ignore[assignment]
    with called(optimizer, "step"):
        made = optimizer.step(*given)
    if is_outside(optimizer):
        new, state = two(made, optimizer, "step")
        new, state = tensors(new, optimizer, "step"), tensors(state, optimizer, "step")
        made = adapter_as(new, params, optimizer, "step"), state
    for name, tensor in made[0].items():
        if not bool(tensor.isfinite().all()):
            raise UpdateError(
                f"The server's step (federate.method {optimizer.name}) made values in {name!r} that are not finite. "
                "Take a smaller fedmllm.server.lr."
            )
    finite(made[1], optimizer, "step", _NO_CHECKPOINT)
    return made
