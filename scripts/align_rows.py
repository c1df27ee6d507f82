"""Statements as rows of a forward pass: several about one picture share its tokens, and none sees the others.

A picture takes more tokens than most questions. So statements that begin alike, picture included, become one row: the
shared beginning once, and behind it each statement's own tokens, at the positions that they would have alone. The
attention mask keeps them apart. The head is asked for the tokens that are learnt, and for no others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from align_statements import Statement
from jinja2 import TemplateError

from fs_fedmllm.data.radiographs import Picture
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.data.template_file import build_template
from fs_fedmllm.errors import ConfigError, ModelError
from fs_fedmllm.models.batch import Encoded
from fs_fedmllm.models.completions import asking
from fs_fedmllm.models.encoding import Encoder
from fs_fedmllm.models.mllm import MLLM


class Posed(Encoder):
    """An encoder whose conversations begin with a system's turn, or have the picture behind the question.

    Args:
        mllm: the model.
        vision: as :class:`Encoder` takes it.
        system: what stands before the conversation; empty for nothing.
        image_last: whether the picture stands behind the question.
    """

    def __init__(self, mllm: MLLM, vision: Any, system: str = "", image_last: bool = False) -> None:
        self.system, self.image_last = system, image_last
        super().__init__(mllm, build_template({"task": "vqa"}, "align", "align"), "original", vision)

    def _chat(self, text: str, image: bool) -> str:
        if not self.system and not self.image_last:
            return super()._chat(text, image)
        asked = asking(text + "\n" * (image and self.image_last), image=image)
        if self.image_last:
            asked["content"].reverse()
        told = {"role": "system", "content": [{"type": "text", "text": self.system}]}
        messages = [told, asked] if self.system else [asked]
        return self.mllm.family.render(self.mllm.processor, messages, add_generation_prompt=True)


class Encoders:
    """An encoder for each way to pose a statement, made when the first such statement comes.

    Args:
        mllm: the model.
        vision: as :class:`Encoder` takes it.
    """

    def __init__(self, mllm: MLLM, vision: Any) -> None:
        self.mllm, self._vision = mllm, vision
        self._made: dict[tuple[str, bool], Posed] = {}

    def of(self, system: str = "", image_last: bool = False) -> Posed:
        """The encoder of a layout.

        Raises:
            ConfigError: the model's chat template writes no system's turn.
        """
        if (system, image_last) not in self._made:
            try:
                made = Posed(self.mllm, self._vision, system, image_last)  # it looks at the chat template
            except (ModelError, TemplateError) as error:
                if not system:
                    raise
                raise ConfigError(
                    f"The chat template writes no turn of a system, {system!r}, which is in the table: {error} "
                    "Take systems out of scripts/align_wordings.yaml (shares: system: 0)."
                ) from error
            if self._made:  # a picture goes through the processor once for all of them
                made.images = next(iter(self._made.values())).images
            self._made[system, image_last] = made
        return self._made[system, image_last]

    def rows(self, picture: Picture | None, statements: Sequence[Statement]) -> list[list[Encoded]]:
        """Statements about a picture, or without one, by layout: those of one list begin alike."""
        groups: dict[tuple[str, bool], list[Encoded]] = defaultdict(list)
        for i, said in enumerate(statements):
            name = f"{picture.digest if picture else 'note'}-{i}"
            sample = Sample(name, picture.path if picture else None, None, said.answer, question=said.question)
            layout = said.system, said.image_last and picture is not None
            groups[layout] += self.of(*layout).encode([sample], keep=False)
        # With the picture behind the question nothing of it is shared.
        return [part for (_, last), group in groups.items() for part in ([[r] for r in group] if last else [group])]


@dataclass(frozen=True)
class Packed:
    """Rows of statements.

    Attributes:
        inputs: keyword arguments of ``forward``.
        learnt: (rows, columns), true where the next token is learnt.
        labels: (tokens,) those next tokens, in the order of ``learnt``.
    """

    inputs: dict[str, Any]
    learnt: torch.Tensor
    labels: torch.Tensor


def pack(encoder: Encoder, groups: Sequence[Sequence[Encoded]]) -> Packed:
    """One row of each group.

    Args:
        encoder: knows padding and images.
        groups: rows of one picture, or without any, whose prompts begin alike up to and with the picture.
    """
    made = [_row(group) for group in groups]
    longest = max(len(ids) for ids, *_ in made)
    pad = encoder.mllm.tokenizer.pad_token_id
    ids = torch.full((len(made), longest), pad, dtype=torch.long)
    positions = torch.zeros((len(made), longest), dtype=torch.long)
    branches = torch.full((len(made), longest), -1, dtype=torch.long)
    targets = torch.full((len(made), longest), -1, dtype=torch.long)
    extras: dict[str, torch.Tensor] = {}
    for i, (tokens, places, branch, target, further) in enumerate(made):
        start = longest - len(tokens)
        ids[i, start:], positions[i, start:] = torch.tensor(tokens), torch.tensor(places)
        branches[i, start:], targets[i, start:] = torch.tensor(branch), torch.tensor(target)
        for name, values in further.items():
            extras.setdefault(name, torch.zeros_like(ids))[i, start:] = torch.tensor(values)
    # A token sees those before it of its own branch and of the beginning (0); padding (-1) sees itself and padding.
    mine, theirs = branches[:, :, None], branches[:, None, :]
    sees = ((mine == theirs) | ((theirs == 0) & (mine > 0))) & torch.ones(longest, longest, dtype=torch.bool).tril()
    device = encoder.mllm.device
    inputs = {"input_ids": ids, "attention_mask": sees[:, None], "position_ids": positions, **extras}
    inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
    inputs |= encoder.images.forward_inputs([group[0] for group in groups if group[0].image is not None])
    learnt = targets >= 0
    return Packed(inputs, learnt.to(device), targets[learnt].to(device))


def _row(group: Sequence[Encoded]) -> tuple[list[int], list[int], list[int], list[int], dict[str, list[int]]]:
    """Token ids, positions, branches, learnt next tokens and further inputs of a group's row."""
    prompts = [row.prompt for row in group]
    shared = min(map(len, prompts)) - 1
    shared = next((i for i in range(shared) if len({prompt[i] for prompt in prompts}) > 1), shared)
    ids, positions = list(prompts[0][:shared]), list(range(shared))
    branches, targets = [0] * shared, [-1] * shared
    extras = {name: list(values[:shared]) for name, values in group[0].extras.items()}
    for number, row in enumerate(group, 1):
        own = [*row.prompt[shared:], *row.completion]
        ids += own
        positions += range(shared, shared + len(own))
        branches += [number] * len(own)
        asked = len(row.prompt) - shared
        targets += [-1] * (asked - 1) + [*row.completion] + [-1]
        for name, values in row.extras.items():
            extras[name] += [*values[shared:], *[0] * len(row.completion)]
    return ids, positions, branches, targets, extras


def learnt_logits(mllm: MLLM, packed: Packed) -> torch.Tensor:
    """Logits of the tokens that are learnt, (tokens, vocabulary)."""
    head = mllm.inner.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda module, given: (given[0][packed.learnt],))
    try:
        return mllm.inner(**packed.inputs, use_cache=False).logits  # type: ignore[no-any-return]
    finally:
        hook.remove()


@torch.no_grad()
def packs_alike(encoders: Encoders, picture: Picture, statements: Sequence[Statement]) -> bool:
    """Whether a model gives packed statements the logits that it gives each of them alone."""
    groups = encoders.rows(picture, statements)
    alone = learnt_logits(encoders.mllm, apart(encoders.of(), groups))
    try:
        packed = learnt_logits(encoders.mllm, pack(encoders.of(), groups))
    except (RuntimeError, TypeError, ValueError, IndexError):  # a model that takes no such mask
        return False
    return torch.allclose(packed, alone, atol=1e-2, rtol=1e-3)


def apart(encoder: Encoder, groups: Sequence[Sequence[Encoded]]) -> Packed:
    """As :func:`pack`, a row for each statement, for a model that takes no mask which keeps them apart."""
    rows = [row for group in groups for row in group]
    inputs = encoder.collate(rows, completions=True).inputs
    targets = torch.full(inputs["input_ids"].shape, -1, dtype=torch.long)
    for i, row in enumerate(rows):
        targets[i, -len(row.completion) - 1 : -1] = torch.tensor(row.completion)
    learnt = targets >= 0
    return Packed(inputs, learnt.to(encoder.mllm.device), targets[learnt].to(encoder.mllm.device))


def separate(groups: Sequence[Sequence[Encoded]]) -> list[list[Encoded]]:
    """Each row by itself."""
    return [[row] for group in groups for row in group]


def of_like_length(groups: Sequence[Sequence[Encoded]], padding: float = 0.15) -> list[list[Sequence[Encoded]]]:
    """Groups in passes in which at most so large a share of any row is padding; padding costs as much as tokens."""
    passes: list[list[Sequence[Encoded]]] = []
    longest = 0
    for group in sorted(groups, key=lambda group: -len(_row(group)[0])):
        length = len(_row(group)[0])
        if not passes or length < (1 - padding) * longest:
            passes.append([])
            longest = length
        passes[-1].append(group)
    return passes
