#!/usr/bin/env python3
"""Teach a base whose projector is random to name what it sees, from pictures and annotations that are free.

    python scripts/build_real_base.py --from wheels --out real_base
    python scripts/align_real_base.py --base real_base --data data --out real_base_aligned

``data`` holds ``vqa_rad/`` (and ``slake/`` with its images, if ``--slake slake`` says so). Annotations become short
statements: which part of the body, which modality, which plane, in wordings that are drawn from a table.
The vision tower is frozen, and what it makes of each picture is computed once and kept; what is trained is the
projector and a small LoRA on the language half, which is merged at the end. The projector's last map begins where
least squares puts it: at the embeddings of the words that are to be named.

Pictures of the part ``align`` are learnt from (``fs_fedmllm.data.radiographs``); the organ of all others is asked for
by forced choice, and they are what the data set ``real_triage`` is made of. The same command resumes a stopped
pass, and the result has the bytes of an uninterrupted one; ``--minutes`` stops it by itself, and ``--finish`` ends a
stopped one where it stands. Exit code 0: done; 1: stopped, to be resumed; 2: refused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from align_asked import ASKINGS, WATCHED, answered, shares, unseen
from align_projector import Projected, warm_start
from align_rows import Encoders, apart, learnt_logits, of_like_length, pack, packs_alike, separate
from align_statements import ORGAN, WORDINGS, about, practised
from safetensors import safe_open
from safetensors.torch import load_file, save

from fs_fedmllm.config import LoraConfig, ModelOptions
from fs_fedmllm.data.findings import Findings
from fs_fedmllm.data.radiographs import ORGANS, Picture, read_pictures
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.errors import ConfigError, FedMLLMError
from fs_fedmllm.files.atomic import write_atomically
from fs_fedmllm.models.batch import Encoded
from fs_fedmllm.models.families import GENERIC
from fs_fedmllm.models.peft_methods import ADAPTER
from fs_fedmllm.tools.adapters.merge import merge
from fs_fedmllm.tools.adapters.opening import Opened, _alone

#: Where the LoRA goes: every linear map of the language layers.
_TARGET = rf"{GENERIC.layers}\.(self_attn|mlp)\.\w+_proj"


@dataclass(frozen=True)
class Settings:
    """What a pass is; another one does not go on from its state.

    Attributes:
        steps: optimizer steps.
        batch: pictures of a step.
        statements: about each of them; none sees the others.
        notes: statements of a step about a note in a picture's place.
        lr: of the projector, at its highest; a cosine leads from there to a twentieth.
        lora_lr: the same of the LoRA; 0 leaves the language half as it is.
        rank: of the LoRA, on every linear map of the language layers.
        seed: of everything that is drawn.
        image_tokens: as ``model.fedmllm.image_tokens``.
        warm: whether least squares sets the projector's last map first.
    """

    steps: int = 240
    batch: int = 3
    statements: int = 4
    notes: int = 5
    lr: float = 1e-4
    lora_lr: float = 1e-3
    rank: int = 16
    seed: int = 0
    image_tokens: int = 70
    warm: bool = True


# Training ------------------------------------------------------------------------------------------------------------


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


def statements_of(
    encoders: Encoders, pictures: Sequence[Picture], settings: Settings, step: int
) -> list[list[Encoded]]:
    """The statements of a step, as rows that begin alike: about its pictures, and about notes."""
    rng = np.random.default_rng([settings.seed, 1, step])
    groups = []
    for picture in drawn(pictures, settings, step):
        groups += encoders.rows(picture, about(picture, settings.statements, rng))
    notes = [practised(rng) for _ in range(settings.notes)]
    # As many in a row as make it about as long as a picture's.
    for start in range(0, len(notes), settings.statements + 1):
        groups += encoders.rows(None, notes[start : start + settings.statements + 1])
    return groups


class Pass:
    """A pass in a folder of its own: state, features and log, whole at every moment.

    Args:
        encoders: of the model, with :class:`Projected` as their vision part.
        settings: of the pass.
        work: the folder.
        belongs: digest of everything that the result depends on.
        started: ``time.monotonic()`` when this call began.

    Attributes:
        together: whether the statements of a picture share a row.

    Raises:
        ConfigError: the folder holds another pass.
    """

    def __init__(self, encoders: Encoders, settings: Settings, work: Path, belongs: str, started: float) -> None:
        self.encoders, self.settings, self.work, self.belongs = encoders, settings, work, belongs
        self.together = True
        adapter = encoders.mllm.adapter
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
        groups = statements_of(self.encoders, pictures, self.settings, self.step)
        learnt = sum(len(row.completion) for group in groups for row in group)
        loss = 0.0
        for alike in of_like_length(groups if self.together else separate(groups)):
            packed = pack(self.encoders.of(), alike) if self.together else apart(self.encoders.of(), alike)
            logits = learnt_logits(self.encoders.mllm, packed).float()
            part = F.cross_entropy(logits, packed.labels, reduction="sum") / learnt
            part.backward()  # type: ignore[no-untyped-call]
            loss += float(part.detach())
        torch.nn.utils.clip_grad_norm_(list(self.trained.values()), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return loss


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
    finish: bool = False,
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
        finish: end a stopped pass at the step where it stands, before its learning rate has come down.

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
    others = unseen(pictures, 0)
    for part, name in ((learnt, "to learn from"), (others, "to ask about")):
        lacking = sorted(set(ORGANS) - {picture.organ for picture in part})
        if lacking:
            raise ConfigError(f"{data} has no picture of the {lacking[0]} {name}; take the whole data set.")
    if asked:
        others = unseen(pictures, asked)
        pictures = [*learnt, *others]
    options = ModelOptions(
        path=base, image_tokens=settings.image_tokens, federated=["lora", "projector"], init_seed=settings.seed,
        lora=LoraConfig(r=settings.rank, alpha=settings.rank, dropout=0.0, target=_TARGET),
    )  # fmt: skip
    mllm = _alone(options, False)
    mllm.adapter.load(mllm.adapter.initial_state(settings.seed))
    projected = Projected(mllm)
    encoders = Encoders(mllm, projected)
    encoder = encoders.of()
    digest = hashlib.sha256(json.dumps([asdict(settings), mllm.identity, WORDINGS]).encode())
    for picture in pictures:
        digest.update(repr((picture.digest, picture.organ, picture.modality, picture.plane, picture.part)).encode())
    work = out.with_name(f"{out.name}.work")
    run = Pass(encoders, settings, work, digest.hexdigest(), started)
    resumed = run.resume()
    if finish and not resumed:
        raise ConfigError(f"{work} holds no stopped pass that could be ended; leave --finish out to begin one.")
    last = run.step if finish else settings.steps
    projected.read(work / "features.safetensors")
    for place in range(0, len(pictures), 32):
        known = len(projected.kept)
        asked = pictures[place : place + 32]
        encoder.encode([Sample(p.digest, p.path, None, p.organ, question=ORGAN) for p in asked])
        if len(projected.kept) > known:
            projected.write(work / "features.safetensors")
    # Every n-th of each organ, so that what is watched is as even as what there is. The part of a task's test rows is
    # not among them: what a log shows may be chosen by.
    by_organ = sorted((p for p in others if p.part != "test"), key=lambda picture: (picture.organ, picture.digest))
    watch = by_organ[:: max(1, -(-len(by_organ) // watched))]
    run.together = packs_alike(encoders, learnt[0], about(learnt[0], 4, np.random.default_rng(0)))

    def asked_watched(names: Sequence[str] = WATCHED) -> dict[str, float]:
        ways = {name: ASKINGS[name] for name in names}
        return shares(answered(encoders, watch, ways, together=run.together), 3)

    if not resumed:
        run.note(
            what="features",
            learnt=len(learnt),
            unseen=len(others),
            watched=len(watch),
            threads=torch.get_num_threads(),
            together=run.together,
        )
        run.note(what="random projector", watched=asked_watched(WATCHED[:1]))
        if settings.warm:
            warm_start(encoder, projected, learnt)
            run.note(what="least squares", watched=asked_watched(WATCHED[:1]))
        run.keep()
    losses: list[float] = []
    while run.step < last:
        losses.append(run.one(learnt))
        if run.step % every == 0 or run.step == settings.steps:
            run.note(loss=round(sum(losses) / len(losses), 4), watched=asked_watched())
            losses = []
            run.keep()
            if run.step < settings.steps and time.monotonic() - started > 60 * minutes:
                print(
                    f"stopped after {run.step} of {settings.steps} steps; the same command resumes it.",
                    file=sys.stderr,
                )
                return False
    right = answered(encoders, others, ASKINGS, together=run.together)
    tested = {
        name: [r for r, p in zip(found, others, strict=True) if p.part == "test"] for name, found in right.items()
    }
    if count := sum(p.part == "test" for p in others):
        run.note(what="pictures of the part test", pictures=count, asked=shares(tested))
    run.note(what="all that were not learnt from", pictures=len(others), asked=shares(right))
    _write(base, run, learnt, others, out)
    return True


def _write(base: str, run: Pass, learnt: Sequence[Picture], unseen: Sequence[Picture], out: Path) -> None:
    """The merged base with its processor, the base's card with a section more, and the log."""
    made = run.work / "made"
    shutil.rmtree(made, ignore_errors=True)
    done = merge(Opened(run.work, run.encoders.mllm, base, None), made)
    print(f"merged: a logit differs by at most {done.reloaded:.1e} after reading back", flush=True)
    log = "".join(json.dumps(line) + "\n" for line in run.log)
    write_atomically(made / "alignment.jsonl", log.encode())
    said = {"settings": asdict(run.settings), "learnt_from": [p.digest for p in learnt], **run.log[-1]}
    write_atomically(made / "alignment.json", (json.dumps(said, indent=1) + "\n").encode())
    card = Path(base) / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else "# An aligned base\n"
    text += (
        f"\n## Alignment\n\n`scripts/align_real_base.py` of fs-fedmllm trained the projector, and the language half "
        f"by a LoRA that is merged, on {len(learnt)} "
        f"radiology pictures and their annotations (VQA-RAD, CC0; SLAKE, CC BY 4.0, where named). Of "
        f"{len(unseen)} others it names the organ by forced choice among head, chest and abdomen, asked as "
        "`scripts/align_wordings.yaml` has it (what is held out was not taught):\n\n"
        + "".join(f"- {name}: {share:.1%}\n" for name, share in run.log[-1]["asked"].items())
        + "\nIt is no medical device.\n"
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
    parser.add_argument("--statements", type=int, default=default.statements, help="about each picture of a step")
    parser.add_argument("--notes", type=int, default=default.notes, help="statements of a step without a picture")
    parser.add_argument("--lr", type=float, default=default.lr, help="of the projector")
    parser.add_argument("--lora-lr", type=float, default=default.lora_lr, help="0 trains no LoRA")
    parser.add_argument("--rank", type=int, default=default.rank, help="of the LoRA")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--image-tokens", type=int, default=default.image_tokens)
    parser.add_argument("--no-warm", action="store_true", help="begin at the random projector")
    parser.add_argument("--every", type=int, default=40, help="steps between two lines of the log")
    parser.add_argument("--watched", type=int, default=48, help="unseen pictures asked about in each line of the log")
    parser.add_argument("--asked", type=int, default=0, help="unseen pictures asked about at the end (default: all)")
    parser.add_argument("--minutes", type=float, default=30.0, help="stop after so many, to be continued")
    parser.add_argument("--finish", action="store_true", help="end a stopped pass at the step where it stands")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(words)
    settings = Settings(
        args.steps, args.batch, args.statements, args.notes, args.lr, args.lora_lr, args.rank, args.seed,
        args.image_tokens, not args.no_warm,
    )  # fmt: skip
    for name in ("steps", "batch", "statements", "notes", "rank", "every", "threads", "watched", "asked"):
        least = 0 if name in ("steps", "notes", "asked") else 1
        if getattr(args, name) < least:
            parser.error(f"--{name} must be {least} or more")
    torch.set_num_threads(args.threads)
    try:
        done = align(
            args.base, args.data, args.out, settings, vqa_rad=args.vqa_rad, slake=args.slake, every=args.every,
            minutes=args.minutes, watched=args.watched, asked=args.asked, finish=args.finish,
        )  # fmt: skip
    except FedMLLMError as error:
        print(f"align_real_base: {error}", file=sys.stderr)
        return 2
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
