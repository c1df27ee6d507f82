"""What an aligned base is asked afterwards: the organ, by forced choice, in wordings that were taught and in others.

python scripts/align_asked.py --base real_base_aligned --data data
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from align_rows import Encoders, apart, learnt_logits, pack
from align_statements import ORGAN, PROPERTIES, WORDINGS, filled, letter_of

from fs_fedmllm.config import ModelOptions
from fs_fedmllm.data.radiographs import ORGANS, PARTS, Picture, read_pictures
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.errors import FedMLLMError
from fs_fedmllm.evaluation.options import option_tokens
from fs_fedmllm.models.encoding import Encoder
from fs_fedmllm.models.loader import load_mllm

HELD_OUT: Sequence[str] = PROPERTIES["organ"]["held_out"]


@dataclass(frozen=True)
class Asking:
    """A way to ask for the organ.

    Attributes:
        questions: the pictures are asked them in turn.
        wording: around a question; one that lists letters is answered with a letter.
        basis: what the product's form says that the answer is based on.
    """

    questions: Sequence[str] = (ORGAN,)
    wording: str = "{question}"
    basis: str = ""

    @property
    def lettered(self) -> bool:
        """Whether the answer is a letter."""
        return "{lettered}" in self.wording

    def asked(self, picture: Picture, place: int) -> tuple[str, list[str]]:
        """What a picture is asked, and the options in the order of the answers.

        Args:
            picture: its name decides the order of the options, so that every base is asked the same.
            place: of the picture among all.
        """
        order = np.random.default_rng(int(picture.digest[:8], 16)).permutation(len(ORGANS))
        options = [ORGANS[int(i)] for i in order]
        return filled(self.wording, self.questions[place % len(self.questions)], options, basis=self.basis), options


_IMAGE = " based on the image"
#: Name -> way to ask. Of those that begin with "held out" no question was taught; where they have a form of their own,
#: that was not taught either.
ASKINGS = {
    "own wording": Asking(),
    "own wording, options in a line": Asking(wording=WORDINGS["plain"][0]),
    "own wording, letters": Asking(wording=WORDINGS["lettered"][0], basis=_IMAGE),
    "held out": Asking(HELD_OUT),
    "held out, options in a line": Asking(HELD_OUT, WORDINGS["plain"][0]),
    "held out, letters": Asking(HELD_OUT, WORDINGS["lettered"][0], _IMAGE),
    "held out, a form of its own": Asking(HELD_OUT, WORDINGS["held_out"]["plain"]),
    "held out, letters in a form of its own": Asking(HELD_OUT, WORDINGS["held_out"]["lettered"]),
}
#: Those of every line of the log.
WATCHED = ("own wording", "held out", "own wording, letters", "held out, letters")


@torch.no_grad()
def answered(
    encoders: Encoders, pictures: Sequence[Picture], askings: Mapping[str, Asking], *, together: bool = True
) -> dict[str, list[bool]]:
    """Whether the organ is the likeliest of three options, by the token in which their words or letters part ways.

    Args:
        encoders: of the model.
        pictures: which.
        askings: how; those of one picture share a row.
        together: whether the model can do that.

    Returns:
        Name of the asking -> an entry for each picture.
    """
    encoder, right = encoders.of(), {name: list[bool]() for name in askings}
    for place, picture in enumerate(pictures):
        rows, options = [], []
        for asking in askings.values():
            question, order = asking.asked(picture, place)
            said = [letter_of(order, organ) if asking.lettered else organ for organ in order]
            tokens = option_tokens([encoder.completion(answer) for answer in said])
            [row] = encoder.encode(
                [Sample(picture.digest, picture.path, None, said[0], question=question)], keep=False
            )
            rows.append(dataclasses.replace(row, completion=(*tokens.prefix, tokens.decisions[0])))
            options.append((tokens.decisions, order))
        packed = pack(encoder, [rows]) if together else apart(encoder, [rows])
        logits = learnt_logits(encoders.mllm, packed)
        ends = itertools.accumulate(len(row.completion) for row in rows)
        for name, end, (decisions, order) in zip(askings, ends, options, strict=True):
            chosen = order[int(logits[end - 1][list(decisions)].argmax())]
            right[name].append(chosen == picture.organ)
    return right


def shares(right: Mapping[str, Sequence[bool]], digits: int = 4) -> dict[str, float]:
    """What :func:`answered` found, as shares of the pictures."""
    return {name: round(sum(found) / max(1, len(found)), digits) for name, found in right.items()}


def unseen(pictures: Sequence[Picture], count: int) -> list[Picture]:
    """Pictures that are not learnt from: ``count``, as many of each organ, or all with 0."""
    found = [picture for picture in pictures if picture.part != "align"]
    most = -(-count // len(ORGANS)) if count else len(found)
    return [p for organ in ORGANS for p in [f for f in found if f.organ == organ][:most]] if count else found


def named(encoder: Encoder, pictures: Sequence[Picture]) -> float:
    """Share of pictures whose organ is named in the first of :data:`ASKINGS`."""
    own = {"own": ASKINGS["own wording"]}
    return shares(answered(Encoders(encoder.mllm, encoder.vision), pictures, own, together=False))["own"]


def main(words: list[str] | None = None) -> int:
    """The command line; exit code 2 with one sentence where something is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="folder of an aligned base")
    parser.add_argument("--data", type=Path, required=True, help="folder above vqa_rad/")
    parser.add_argument("--part", default="test", choices=sorted(PARTS), help="which pictures (default test)")
    parser.add_argument("--asked", type=int, default=0, help="instead, so many of all that were not learnt from")
    parser.add_argument("--image-tokens", type=int, default=70)
    chosen = parser.parse_args(words)
    try:
        found = read_pictures(chosen.data, data_set="align_asked")
        pictures = unseen(found, chosen.asked) if chosen.asked else [p for p in found if p.part == chosen.part]
        mllm = load_mllm(ModelOptions(path=chosen.base, image_tokens=chosen.image_tokens))
    except FedMLLMError as error:
        print(f"align_asked: {error}", file=sys.stderr)
        return 2
    print(
        f"{chosen.base}: {len(pictures)} pictures of the part {chosen.part if not chosen.asked else 'not learnt from'}"
    )
    for name, share in shares(answered(Encoders(mllm, None), pictures, ASKINGS)).items():
        print(f"{name}: {share:.3f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
