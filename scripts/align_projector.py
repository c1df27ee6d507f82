"""The projector: what goes into it is computed once a picture, and least squares gives its last map a start."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from fs_fedmllm.data.radiographs import Picture
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.files.atomic import write_atomically
from fs_fedmllm.models.encoding import Encoder
from fs_fedmllm.models.mllm import MLLM
from fs_fedmllm.models.vision import VisionEntry


@dataclass(frozen=True)
class Kept:
    """What goes into the projector for one picture, and the form in which the model takes what comes out."""

    given: torch.Tensor
    shape: tuple[int, ...]
    listed: bool
    side: Mapping[str, torch.Tensor]


class Projected:
    """In the place of a vision cache: what goes into the projector is kept, what comes out is computed each time.

    Args:
        mllm: a model whose projector is trained.

    Raises:
        ConfigError: the model has none.
    """

    def __init__(self, mllm: MLLM) -> None:
        endings = mllm.family.groups.get("projector", ())
        found = [module for name, module in mllm.inner.named_modules() if name.endswith(tuple(endings)) and endings]
        if len(found) != 1:
            raise ConfigError(f"The family {mllm.family.name} has no projector of its own that could be trained.")
        self.mllm, self.projector = mllm, found[0]
        self.kept: dict[str, Kept] = {}

    def get(self, image_key: str) -> VisionEntry | None:
        """What the language model takes in of a picture, with the projector as it is now."""
        kept = self.kept.get(image_key)
        return None if kept is None else VisionEntry(_formed(self.projector(kept.given), kept), kept.side)

    def compute(self, image_key: str, inputs: Mapping[str, torch.Tensor]) -> VisionEntry:
        """Run the tower on a picture and keep what it gives the projector."""
        seen: list[torch.Tensor] = []
        hook = self.projector.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach().clone()))
        try:
            with torch.no_grad():
                found = self.mllm.family.features(self.mllm.inner, inputs)
        finally:
            hook.remove()
        listed = isinstance(found.pooled, list)
        pooled = found.pooled[0] if isinstance(found.pooled, list) else found.pooled
        side = {name: tensor for name, tensor in inputs.items() if name not in self.mllm.family.pixels}
        kept = Kept(seen[0], tuple(pooled.shape), listed, side) if len(seen) == 1 else None
        with torch.no_grad():
            whole = kept is not None and not found.deep and (not listed or len(found.pooled) == 1)
            if not whole or kept is None or not torch.allclose(self.projector(kept.given).reshape(kept.shape), pooled):
                raise ConfigError(
                    f"In the family {self.mllm.family.name} more than a projector stands between tower and language "
                    "model, which this pass cannot train."
                )
        self.kept[image_key] = kept
        entry = self.get(image_key)
        assert entry is not None
        return entry

    def write(self, file: Path) -> None:
        """Keep what was computed on the disk."""
        forms = {key: [list(kept.shape), kept.listed] for key, kept in self.kept.items()}
        tensors = {f"{key}|": kept.given.contiguous() for key, kept in self.kept.items()}
        for key, kept in self.kept.items():
            tensors |= {f"{key}|{name}": tensor.contiguous() for name, tensor in kept.side.items()}
        said = {"forms": json.dumps(forms), "model": self.mllm.identity}
        write_atomically(file, save(tensors, said), private=True)

    def read(self, file: Path) -> None:
        """Take up what was written; a torn file is none, and so is another model's."""
        try:
            with safe_open(file, "pt") as stream:
                said = stream.metadata()
                if said["model"] != self.mllm.identity:
                    return
                forms = json.loads(said["forms"])
                tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return
        for key, (shape, listed) in forms.items():
            side = {
                name.rpartition("|")[2]: tensor
                for name, tensor in tensors.items()
                if name.startswith(f"{key}|") and not name.endswith("|")
            }
            self.kept[key] = Kept(tensors[f"{key}|"], tuple(shape), bool(listed), side)


def _formed(projected: torch.Tensor, kept: Kept) -> list[torch.Tensor] | torch.Tensor:
    tensor = projected.reshape(kept.shape)
    return [tensor] if kept.listed else tensor


def warm_start(encoder: Encoder, projected: Projected, pictures: Sequence[Picture]) -> None:
    """Set the projector's last map so that a picture's tokens lie near the embeddings of the words that name it.

    Ridge regression, in closed form: from what the last map takes in to the mean embedding of the picture's organ,
    modality and plane, as far as its annotations say them, at the length that embeddings have.
    """
    last = [m for m in projected.projector.modules() if isinstance(m, torch.nn.Linear) and m.weight.requires_grad][-1]
    table = encoder.mllm.inner.get_input_embeddings().weight.detach().double()
    length = table.norm(dim=1).mean()
    gram = torch.zeros(last.in_features + 1, last.in_features + 1, dtype=torch.float64)
    product = torch.zeros(last.in_features + 1, last.out_features, dtype=torch.float64)
    seen: list[torch.Tensor] = []
    hook = last.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    try:
        for picture in pictures:
            words = [word for word in (picture.organ, picture.modality, picture.plane) if word]
            mean = torch.stack([table[list(encoder.tokens(f" {word}"))].mean(0) for word in words]).mean(0)
            seen.clear()
            with torch.no_grad():
                projected.get(encoder.images.key(picture.path))
            rows = seen[0].reshape(-1, last.in_features).double()
            rows = torch.cat([rows, torch.ones(len(rows), 1, dtype=torch.float64)], dim=1)
            gram += rows.T @ rows
            product += rows.T @ (mean * length / mean.norm()).expand(len(rows), -1)
    finally:
        hook.remove()
    gram += torch.eye(len(gram), dtype=torch.float64) * gram.diagonal().mean() * 1e-2
    solved = torch.linalg.solve(gram, product)
    with torch.no_grad():
        last.weight.copy_(solved[:-1].T)
        if last.bias is not None:
            last.bias.copy_(solved[-1])
