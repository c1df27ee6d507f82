"""What an algorithm of another package gives back is looked at where it comes in, and named where it cannot be meant.

Tensors that share memory are told apart, and none keeps its graph: a state is written and sent as it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fs_fedmllm.algorithms.client import ClientHalf
from fs_fedmllm.algorithms.server import ServerOptimizer
from fs_fedmllm.algorithms.state import State
from fs_fedmllm.errors import ConfigError, FedMLLMError, UpdateError
from fs_fedmllm.lazy import torch

_DOCS = "(docs/extending.md)"


def _named(algorithm: Any) -> str:
    kind = algorithm if isinstance(algorithm, type) else type(algorithm)
    return f"{kind.__module__}.{kind.__qualname__}"


def is_outside(algorithm: Any) -> bool:
    """Whether another package made it."""
    return not _named(algorithm).startswith(f"{__name__.partition('.')[0]}.")


def fault(algorithm: Any, hook: str, said: str) -> ConfigError:
    """What is wrong with what a hook did."""
    return ConfigError(f"The algorithm {_named(algorithm)}: {hook} {said} {_DOCS}.").telling(
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
    except Exception as error:  # another package's code may raise anything
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
        memory = tensor.untyped_storage().data_ptr()
        state[name] = tensor.detach().clone() if memory in seen else tensor.detach()
        seen.add(memory)
    return state


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
        ConfigError: it fails, or gives anything else.
    """
    with called(algorithm, hook):
        made = getattr(algorithm, hook)(*given)
    if is_outside(algorithm) and (not isinstance(made, torch.Tensor) or made.dim() != 0):
        shape = f" of shape {tuple(made.shape)}" if isinstance(made, torch.Tensor) else ""
        raise fault(algorithm, hook, f"gave {type(made).__name__}{shape}, and a tensor of one number is needed")
    return made  # type: ignore[no-any-return]


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
    if odd := [name for name in sent if name not in params and "/" not in name]:
        raise fault(optimizer, "broadcast", f"gave {odd[0]!r} beside the adapter, and such a name needs a slash in it")
    return sent


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
        if other := sorted(set(new) ^ set(params)):
            told = "lacks the adapter's" if other[0] in params else "gave, beside the adapter,"
            raise fault(optimizer, "step", f"{told} {other[0]!r}")
        for name, tensor in params.items():
            if new[name].shape != tensor.shape or new[name].dtype != tensor.dtype:
                said = f"{new[name].dtype} {tuple(new[name].shape)}"
                raise fault(
                    optimizer, "step", f"gave {name!r} as {said}, and it is {tensor.dtype} {tuple(tensor.shape)}"
                )
        made = {name: new[name] for name in params}, state
    for name, tensor in made[0].items():
        if not bool(tensor.isfinite().all()):
            raise UpdateError(
                f"The server's step (federate.method {optimizer.name}) made values in {name!r} that are not finite. "
                "Take a smaller fedmllm.server.lr."
            )
    return made
