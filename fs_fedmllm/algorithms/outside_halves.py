"""What a client half of another package says and does in an update, looked at before it can do harm.

A value that is not finite where everything that the half was given is finite is the half's fault, and ends the run;
where training itself has diverged, the client's update is refused as any other's.
"""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from fs_fedmllm.algorithms.client import ClientHalf
from fs_fedmllm.algorithms.outside import (
    AlgorithmError,
    called,
    fault,
    finite,
    is_outside,
    same_names,
    tensors,
    term,
    two,
)
from fs_fedmllm.algorithms.state import State
from fs_fedmllm.lazy import torch
from fs_fedmllm.text_columns import cut

#: Owner of what rounding took, in what a client keeps.
RESIDUAL = "compression/"


@contextlib.contextmanager
def placed(client: int, round_index: int) -> Iterator[None]:
    """Say of an algorithm's fault inside in which update it came up.

    Raises:
        AlgorithmError: with the client and the round.
    """
    try:
        yield
    except AlgorithmError as error:
        raise AlgorithmError(f"Round {round_index}, client {client}: {error.args[0]}").telling(error.told) from error


def settle(halves: Sequence[ClientHalf], tensors: int, options: int) -> None:
    """Look at what client halves freeze and shift, once they have begun.

    Args:
        halves: of the update.
        tensors: of the adapter.
        options: that an answer chooses from; 0 where answers are open.

    Raises:
        AlgorithmError: one of another package names what is not there, or leaves nothing to train.
    """
    outside = [half for half in halves if is_outside(half)]
    for half in outside:
        _positions(half, tensors)
        _shifts(half, options)
    if outside and len({position for half in halves for position in half.frozen}) == tensors:
        raise fault(outside[-1], "frozen", "leaves no tensor of the adapter to train")


def _positions(half: ClientHalf, count: int) -> None:
    with called(half, "frozen"):
        given: Any = half.frozen
    if not isinstance(given, Collection) or isinstance(given, str | bytes | Mapping):
        raise fault(half, "frozen", f"is {_shown(given)}, and a list of positions in the adapter's names is needed")
    for position in given:
        try:
            index = -1 if isinstance(position, bool) else operator.index(position)
        except TypeError:
            index = -1
        if not 0 <= index < count:
            raise fault(
                half, "frozen", f"has {_shown(position)}, and positions are whole numbers from 0 to {count - 1}"
            )


def _shifts(half: ClientHalf, count: int) -> None:
    with called(half, "option_shift"):
        given: Any = half.option_shift
    if not isinstance(given, Collection) or isinstance(given, str | bytes | Mapping):
        raise fault(half, "option_shift", f"is {_shown(given)}, and a number for each option is needed")
    try:
        numbers = [float(shift) for shift in given]
    except (TypeError, ValueError, RuntimeError):
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise fault(half, "option_shift", f"is {_shown(given)}, and its numbers must be finite")
    if numbers and not count:
        raise fault(half, "option_shift", "is given, and answers are open in this run, so no option is there to shift")
    if len(numbers) not in (0, count):
        raise fault(half, "option_shift", f"has {len(numbers)} numbers, and there are {count} options")


def begun(half: ClientHalf, made: State, before: State) -> State:
    """What training starts from: the adapter's names and shapes, as float32.

    Args:
        half: that made it.
        made: by its ``begin``.
        before: what it was given.

    Raises:
        AlgorithmError: it is another adapter.
    """
    if not is_outside(half):
        return made
    same_names(made, before, half, "begin")
    _like(half, "begin", made, before)
    return {name: tensor.float() for name, tensor in made.items()}


def finished(half: ClientHalf, trained: State, sent: State, keeps: Mapping[str, Any]) -> tuple[State, State]:
    """What ``finish`` of a client half gives: what is sent, and what the client keeps.

    Args:
        half: the half.
        trained: the adapter after training.
        sent: so far.
        keeps: what halves before it keep.

    Raises:
        AlgorithmError: it fails, sends other tensors under the adapter's names, or keeps what no checkpoint could hold
            or what would take another owner's place.
    """
    if not is_outside(half):
        return half.finish(trained, sent)
    given = [{name: tensor.clone() for name, tensor in part.items()} for part in (trained, sent)]
    with called(half, "finish"):
        made = half.finish(*given)
    gives, own = (tensors(part, half, "finish") for part in two(made, half, "finish"))
    _like(half, "finish", gives, sent)
    finite(own, half, "finish", "which no checkpoint takes")
    inherits = [kind for kind in type(half).__mro__ if kind not in (ClientHalf, object) and not is_outside(kind)]
    for name in own:
        owner = name.partition("/")[0]
        if "/" not in name or not owner:
            raise fault(half, "finish", f"keeps {name!r}, and such a name needs its owner and a slash before it")
        if name in keeps or f"{owner}/" == RESIDUAL or (owner in _our_names() and not inherits):
            raise fault(half, "finish", f"keeps {name!r}, and {owner!r} is another's: take a name of your own")
    return gives, own


def _our_names() -> frozenset[str]:
    from fs_fedmllm import algorithms  # which imports the algorithms

    return algorithms.METHODS.ours | algorithms.REGULARIZERS.ours


def _like(half: ClientHalf, hook: str, made: State, before: State) -> None:
    for name in set(made) & set(before):
        tensor, like = made[name], before[name]
        if tensor.shape != like.shape or not tensor.dtype.is_floating_point:
            said = f"{tensor.dtype} {tuple(tensor.shape)}"
            raise fault(half, hook, f"gave {name!r} as {said}, and it is {like.dtype} {tuple(like.shape)}")
    if all(bool(like.isfinite().all()) for like in before.values()):
        finite({name: made[name] for name in made if name in before}, half, hook, "and was given finite ones")


def own_anchors(
    halves: Sequence[ClientHalf], anchors: list[torch.Tensor]
) -> list[tuple[ClientHalf, list[torch.Tensor]]]:
    """Halves that correct gradients with their anchors; a half of another package writes into its own."""
    return [(half, [a.clone() for a in anchors] if is_outside(half) else anchors) for half in halves if half.corrects]


def watched(half: ClientHalf, representations: torch.Tensor) -> torch.Tensor:
    """The same representations; a half of another package has its own, whose gradient is looked at on its way back.

    Raises:
        AlgorithmError: in the backward pass, of a gradient that is not finite though the representations are.
    """
    if not is_outside(half):
        return representations
    own = representations.clone()  # it may write into them, and other halves are shown them too
    if not own.requires_grad or not _finite([own]):
        return own

    def look(gradient: torch.Tensor) -> None:
        if not _finite([gradient]):
            raise fault(half, "row_loss", "gave a finite number whose gradient is not finite")

    own.register_hook(look)
    return own


def corrected(
    half: ClientHalf,
    parameters: Sequence[torch.nn.Parameter],
    anchors: Sequence[torch.Tensor],
    step: int,
    steps: int,
) -> torch.Tensor:
    """What ``correct`` of a client half gives; arguments as there.

    Raises:
        AlgorithmError: it fails, gives no finite number, makes gradients that are not finite, or changes what the
            parameters are; then these are put back, since other runs of the process use them.
    """
    if not is_outside(half):
        return half.correct(parameters, anchors, step, steps)
    before = [(p.data, p.requires_grad) for p in parameters]
    sound = _finite([p.grad for p in parameters])
    changed = False
    try:
        value = term(half, "correct", tuple(parameters), anchors, step, steps)
    finally:
        for parameter, (data, grad) in zip(parameters, before, strict=True):
            now = parameter.data
            if (now.shape, now.dtype, now.device) != (data.shape, data.dtype, data.device):
                parameter.grad, parameter.data, changed = None, data, True
            if parameter.requires_grad != grad:
                changed = True
                parameter.requires_grad_(grad)
    if changed:
        raise fault(
            half, "correct", "changed the shape, precision, device or requires_grad of a parameter; it may add to "
            "gradients. Set frozen for what is not to be trained",
        )  # fmt: skip
    if sound and not _finite([p.grad for p in parameters]):
        raise fault(half, "correct", "made gradients that are not finite of finite ones")
    return value


def _finite(found: Sequence[torch.Tensor | None]) -> bool:
    tensors = [tensor.detach() for tensor in found if tensor is not None]
    if not tensors:
        return True
    # One answer is waited for, and not one for each tensor.
    return bool(torch.stack([tensor.isfinite().all().to(tensors[0].device) for tensor in tensors]).all())


def _shown(value: Any) -> str:
    return cut(repr(value), 60)
