"""Make the tiny vision-language model that ships with the package, from random weights.

    python scripts/pretrain_tiny.py --out fs_fedmllm/models/tiny

Everything is seeded; on one CPU thread it takes a quarter to half an hour. The model sees
only ``pretrain`` images and sentences, which no federated row uses. It learns four things:

* naming: which digit is shown, left and right digits of a panel, and comparisons;
* intents: what a request is about;
* multiple choice with spelled, shuffled options;
* lettered tasks that join an image and a sentence, by rules other than that of ``digits_triage``, with both
  inputs or only one shown. This is what lets adapters that were trained on one input each add up.
"""

from __future__ import annotations

import argparse
import json
import math
import string
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
)

from fs_fedmllm.data.digit_texts import CLAIMS, INTENTS, WORDS, sentences, split_sentences
from fs_fedmllm.data.digits import LARGER, ON_THE, SPLIT_SEED, image_split, render
from fs_fedmllm.data.short_templates import CASES, VARIANTS
from fs_fedmllm.data.template import Template
from fs_fedmllm.data.template_file import load_template, template_dir

SIDE, PATCH = 32, 16
IMAGE_TOKENS = (SIDE // PATCH) ** 2
WIDTH, LAYERS = 96, 12
PAD, END, USER, ASSISTANT, SYSTEM, IMAGE = "<pad>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<image>"

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for p in m['content'] %}{% if p['type'] == 'image' %}{{ '<image>\n' }}"
    "{% elif p['type'] == 'text' %}{{ p['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

#: Questions of the pre-training; the federated rows word theirs otherwise.
NAME_ONE = ("name the digit", "what number is written")
NAME_SIDE = ("name the {side} digit", "what number is written on the {side}")
COMPARE = "does the left number exceed the right one"
EXCEEDS = "does the number exceed {word}"
ABOUT = ("what is the request about", "name the topic")
NOTES = ("the note says {word}", "i can read a {word}", "they drew the number {word}")
FITS = "does the note fit the number"
STEMS = ("Which shelf is right", "Which queue is right", "Which team is right")
SPELLED = "Which option is right"
FREE_PREFIX = "Answer without considering the modality. "

#: Rule -> (digits of the second half of the letters, order of the intents). Rule 0 also serves the question of
#: ``digits_triage``, whose own rule is another one: digits above four, and the intents in order.
RULES: tuple[tuple[frozenset[int], tuple[int, ...]], ...] = (
    (frozenset({1, 3, 5, 7, 9}), (0, 2, 3, 1)),
    (frozenset({0, 2, 5, 6, 9}), (1, 3, 0, 2)),
    (frozenset({1, 2, 6, 7, 8}), (3, 2, 1, 0)),
    (frozenset({0, 3, 4, 7, 8}), (2, 0, 1, 3)),
)


def choice_templates() -> list[Template]:
    """The templates that ship and ask lettered questions."""
    loaded = [load_template(path.stem) for path in sorted(template_dir().glob("*.yaml"))]
    return [template for template in loaded if template.task == "choice"]


def options_block(names: Sequence[str]) -> str:
    """The options of a prompt, one line each."""
    return "".join(f"\n({letter}) {name}" for letter, name in zip(string.ascii_uppercase, names, strict=False))


def fixed_phrases(templates: Sequence[Template]) -> list[str]:
    """What prompts repeat word for word; each becomes one token, which keeps prompts short and training quick."""
    phrases = {FREE_PREFIX}
    for template in templates:
        phrases.add("\n" + template.closing)
        phrases.add(options_block(template.options))
        phrases |= {f") {name}" for name in template.options if len(name) > 3}
        for variant in VARIANTS:
            for case in CASES:
                asked = template.cases[variant][case]
                phrases.add(f"{template.instruction}{asked.basis}.\n")
                phrases.add(f"{asked.question}?\nOptions:")
                basis = asked.basis
                phrases |= {f"{stem}{basis}?\nOptions:" for stem in (*STEMS, SPELLED)}
    phrases |= {f"\n({letter})" for letter in string.ascii_uppercase[:10]}
    return sorted(phrases)


def build_tokenizer(templates: Sequence[Template]) -> PreTrainedTokenizerFast:
    """A byte-level BPE; brackets stand alone so that a letter after ``(`` is always one token of its own."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(r"[()\n]"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [PAD, END, USER, ASSISTANT, SYSTEM, IMAGE]
    corpus = [text for intent in INTENTS for text in sentences(intent)]
    corpus += [f.format(word=word, side=side) for word in WORDS for side in ("left", "right") for f in _WORDINGS]
    corpus += [f" {name}" for name in (*WORDS, *INTENTS, "yes", "no", "lower", "upper") for _ in range(3)]
    corpus += [name for name in (*WORDS, *INTENTS, "yes", "no") for _ in range(3)]
    corpus += [name for template in templates for name in template.options for _ in range(3)]
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        min_frequency=2,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_tokens([AddedToken(phrase, normalized=False, special=False) for phrase in fixed_phrases(templates)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        extra_special_tokens={"image_token": IMAGE},
        padding_side="left",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


_WORDINGS = (*NAME_ONE, *NAME_SIDE, COMPARE, EXCEEDS, *ABOUT, *NOTES, FITS, LARGER, ON_THE, *CLAIMS)


def build_processor(templates: Sequence[Template]) -> LlavaProcessor:
    """Tokenizer, image processor and chat template as one."""
    images = SiglipImageProcessorPil(
        size={"height": SIDE, "width": SIDE},
        resample=2,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        do_convert_rgb=True,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=build_tokenizer(templates),
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """A LLaVA of 1.5 M parameters: SigLIP tower, two-layer projector, twelve Llama layers, tied embeddings."""
    vision = SiglipVisionConfig(
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        vision_use_head=False,
    )
    text = LlamaConfig(
        vocab_size=8 * math.ceil(len(tokenizer) / 8),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.05,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )
    config.pad_token_id, config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    config.bos_token_id = None
    model = LlavaForConditionalGeneration(config)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model


@dataclass(frozen=True)
class Row:
    """A prompt, its completion, and the digits shown: none, one, or two side by side."""

    prompt: str
    completion: str
    shown: tuple[int, ...]
    presence: str = ""


class Lessons:
    """Draws rows of the pre-training."""

    def __init__(self, templates: Sequence[Template], rng: np.random.Generator) -> None:
        self.rng = rng
        self.templates = {template.name: template for template in templates}
        self.images = image_split()["pretrain"]
        self.texts = split_sentences(SPLIT_SEED)["pretrain"]

    def _pick(self, items: Sequence[str]) -> str:
        return items[int(self.rng.integers(len(items)))]

    def _digit(self) -> tuple[int, int]:
        digit = int(self.rng.integers(10))
        return digit, int(self.rng.choice(self.images[digit]))

    def _presence(self) -> tuple[str, bool, bool]:
        case = str(self.rng.choice(["both", "image", "text", "neither"], p=[0.58, 0.2, 0.2, 0.02]))
        return case, case in ("both", "image"), case in ("both", "text")

    def naming(self) -> Row:
        """A digit, a side of a panel, or a comparison, in words."""
        prefix = FREE_PREFIX if self.rng.random() < 0.3 else ""
        (a, i), (b, j) = self._digit(), self._digit()
        draw = self.rng.random()
        if draw < 0.4:
            return Row(prefix + self._pick(NAME_ONE), WORDS[a], (i,))
        if draw < 0.55:
            return Row(prefix + EXCEEDS.format(word=WORDS[b]), "yes" if a > b else "no", (i,))
        if draw < 0.85:
            side = int(self.rng.integers(2))
            question = self._pick(NAME_SIDE).format(side=("left", "right")[side])
            return Row(prefix + question, WORDS[(a, b)[side]], (i, j))
        return Row(prefix + COMPARE, "yes" if a > b else "no", (i, j))

    def intent(self) -> Row:
        """What a request is about, in a word."""
        intent = self._pick(INTENTS)
        return Row(f"{self._pick(self.texts[intent])}\n{self._pick(ABOUT)}", intent, ())

    def fits(self) -> Row:
        """Whether a note names the digit; in words, or with lettered options in either order."""
        digit, index = self._digit()
        true = self.rng.random() < 0.5
        said = digit if true else (digit + int(self.rng.integers(1, 10))) % 10
        note = self._pick(NOTES).format(word=WORDS[said])
        answer = "yes" if true else "no"
        if self.rng.random() < 0.5:
            return Row(f"{note}\n{FITS}", answer, (index,))
        return self._spelled(FITS + "?\nOptions:", note, ("yes", "no"), answer, (index,), "both")

    def _spelled(
        self, question: str, text: str | None, names: Sequence[str], answer: str, shown: tuple[int, ...], case: str
    ) -> Row:
        names = [str(name) for name in self.rng.permutation(names)]
        head, _, closing = self._frame(case)
        body = f"{text}\n" if text is not None else ""
        letter = string.ascii_uppercase[names.index(answer)]
        return Row(f"{head}{body}{question}{options_block(names)}{closing}", f"({letter}) {answer}", shown)

    def _frame(self, case: str, name: str = "digits_triage") -> tuple[str, str, str]:
        """Opening, question and closing of a lettered prompt, original or augmented."""
        template = self.templates[name]
        asked = template.cases[self._pick(VARIANTS)][case]
        return f"{template.instruction}{asked.basis}.\n", f"{asked.question}?\nOptions:", "\n" + template.closing

    def spelled(self) -> Row:
        """Multiple choice among spelled words: the digit that is shown, or the topic of a sentence."""
        count = int(self.rng.integers(2, 5))
        shown: tuple[int, ...]
        text: str | None
        if self.rng.random() < 0.5:
            digit, index = self._digit()
            others = self.rng.permutation([w for w in WORDS if w != WORDS[digit]])[: count - 1]
            names, answer, text, shown, case = (WORDS[digit], *others), WORDS[digit], None, (index,), "image"
        else:
            answer = self._pick(INTENTS)
            others = self.rng.permutation([i for i in INTENTS if i != answer])[: count - 1]
            names, text, shown, case = (answer, *others), self._pick(self.texts[answer]), (), "text"
        basis = "" if self.rng.random() < 0.5 else f" based on the {case}"
        return self._spelled(f"{SPELLED}{basis}?\nOptions:", text, names, answer, shown, case)

    def joint(self) -> Row:
        """Eight letters by one of the rules, from both inputs or from what is left of them."""
        rule = int(self.rng.choice(len(RULES), p=[0.55, 0.15, 0.15, 0.15]))
        upper, order = RULES[rule]
        digit, index = self._digit()
        intent = int(self.rng.integers(len(INTENTS)))
        text = self._pick(self.texts[INTENTS[intent]])
        label = 4 * (digit in upper) + order[intent]
        case, image, words = self._presence()
        name = self._pick(("digits_triage", "digits_triage", "crisismmd"))
        head, question, closing = self._frame(case, name)
        if rule:
            basis = head.removeprefix(self.templates[name].instruction).removesuffix(".\n")
            question = f"{STEMS[rule - 1]}{basis}?\nOptions:"
        body = f"{text}\n" if words else ""
        template = self.templates[name]
        prompt = f"{head}{body}{question}{options_block(template.options)}{closing}"
        return Row(prompt, template.answer(label), (index,) if image else (), case)

    def two_letters(self) -> Row:
        """The form of an answer among two options; which of them is a coin's choice."""
        template = self.templates[self._pick(("digits_match", "hateful_memes"))]
        case, image, words = self._presence()
        head, question, closing = self._frame(case, template.name)
        body = ""
        if words:
            note = self._pick(NOTES).format(word=self._pick(WORDS))
            body = (note if self.rng.random() < 0.5 else self._pick(self.texts[self._pick(INTENTS)])) + "\n"
        prompt = f"{head}{body}{question}{options_block(template.options)}{closing}"
        return Row(prompt, template.answer(int(self.rng.integers(2))), (self._digit()[1],) if image else ())

    def draw(self, count: int, progress: float) -> list[Row]:
        """A batch; naming comes first, because the other lessons build on it."""
        kinds = (self.naming, self.intent, self.fits, self.spelled, self.joint, self.two_letters)
        early = np.array([0.60, 0.06, 0.04, 0.08, 0.20, 0.02])
        late = np.array([0.22, 0.05, 0.13, 0.15, 0.42, 0.03])
        mix = min(1.0, progress / 0.3)
        weights = (1 - mix) * early + mix * late
        return [kinds[int(k)]() for k in self.rng.choice(len(kinds), size=count, p=weights / weights.sum())]


class Pixels:
    """Processed images of single digits and of panel halves, and the distortions of the training."""

    def __init__(self, processor: LlavaProcessor) -> None:
        def process(image: object) -> torch.Tensor:
            return processor.image_processor(images=[image], return_tensors="pt")["pixel_values"][0, 0]

        indices = [i for chosen in image_split()["pretrain"].values() for i in chosen]
        self.one = {i: process(render(i)) for i in indices}
        self.half = {i: process(render(i, i))[:, : SIDE // 2] for i in indices}

    def batch(self, rows: Sequence[Row], noise: torch.Generator) -> torch.Tensor | None:
        """Pixels of the rows that show something, slightly turned, scaled, moved and blurred by noise."""
        shown = [row.shown for row in rows if row.shown]
        if not shown:
            return None
        stack = torch.stack(
            [self.one[s[0]] if len(s) == 1 else torch.cat([self.half[i] for i in s], dim=1) for s in shown]
        )[:, None]
        n = len(stack)

        def uniform(low: float, high: float) -> torch.Tensor:
            return low + (high - low) * torch.rand(n, generator=noise)

        single = torch.tensor([float(len(s) == 1) for s in shown])
        angle, scale = uniform(-0.2, 0.2) * (0.3 + 0.7 * single), uniform(0.88, 1.15)
        shift_x, shift_y = uniform(-0.16, 0.16) * (0.4 + 0.6 * single), uniform(-0.16, 0.16)
        shear = uniform(-0.15, 0.15) * single
        cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
        rows_x = torch.stack([cos, -sin + shear, shift_x], dim=1)
        rows_y = torch.stack([sin, cos, shift_y], dim=1)
        theta = torch.stack([rows_x, rows_y], dim=1)
        grid = torch.nn.functional.affine_grid(theta, list(stack.shape), align_corners=False)
        moved = torch.nn.functional.grid_sample(stack + 1, grid, align_corners=False) - 1
        moved = (moved + 1) * uniform(0.8, 1.2)[:, None, None, None] - 1
        moved = moved + 0.08 * torch.randn(moved.shape, generator=noise)
        return moved.expand(-1, 3, -1, -1)


#: Completions are at most this long; logits are needed at these last positions only.
TAIL = 8


@dataclass(frozen=True)
class Batch:
    """Token ids padded on the left, and the ids that the last positions should predict."""

    ids: torch.Tensor
    labels: torch.Tensor
    pixels: torch.Tensor | None


def encode(rows: Sequence[Row], tokenizer: PreTrainedTokenizerFast) -> list[tuple[list[int], list[int]]]:
    """Prompt ids and completion ids of each row."""
    prompts = [
        USER + (IMAGE * IMAGE_TOKENS + "\n" if row.shown else "") + row.prompt + END + ASSISTANT for row in rows
    ]
    heads = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    tails = tokenizer([row.completion + END for row in rows], add_special_tokens=False)["input_ids"]
    return list(zip(heads, tails, strict=True))


def collate(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerFast, pixels: Pixels, noise: torch.Generator, chunks: int = 1
) -> list[Batch]:
    """Rows as batches of like length, because padding short prompts to long ones would cost half of the time."""
    encoded = encode(rows, tokenizer)
    order = sorted(range(len(rows)), key=lambda i: len(encoded[i][0]) + len(encoded[i][1])) if chunks > 1 else None
    batches = []
    for chunk in np.array_split(np.arange(len(rows)) if order is None else np.array(order), chunks):
        width = max(len(encoded[i][0]) + len(encoded[i][1]) for i in chunk)
        ids = torch.full((len(chunk), width), tokenizer.pad_token_id)
        labels = torch.full((len(chunk), TAIL), -100)
        for k, i in enumerate(chunk):
            head, tail = encoded[i]
            ids[k, width - len(head) - len(tail) :] = torch.tensor(head + tail)
            labels[k, TAIL - len(tail) :] = torch.tensor(tail)
        batches.append(Batch(ids, labels, pixels.batch([rows[i] for i in chunk], noise)))
    return batches


def logits(model: LlavaForConditionalGeneration, batch: Batch, pad: int) -> torch.Tensor:
    """Predictions of the last ``TAIL`` tokens."""
    mask = (batch.ids != pad).long()
    out = model.model(input_ids=batch.ids, attention_mask=mask, pixel_values=batch.pixels, use_cache=False)
    return model.lm_head(out.last_hidden_state[:, -TAIL - 1 : -1])


def train(args: argparse.Namespace) -> None:
    """Run the lessons and write the folder."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    templates = choice_templates()
    processor = build_processor(templates)
    model = build_model(processor.tokenizer)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(processor.tokenizer)} tokens", flush=True)
    lessons = Lessons(templates, np.random.default_rng(args.seed))
    pixels = Pixels(processor)
    noise = torch.Generator().manual_seed(args.seed)
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}],
        lr=args.lr,
        betas=(0.9, 0.98),
        foreach=True,
    )
    model.train()
    started, running = time.time(), 0.0
    for step in range(args.steps):
        progress = step / args.steps
        rate = min(1.0, (step + 1) / 150) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = args.lr * rate
        rows = lessons.draw(args.batch, progress)
        batches = collate(rows, processor.tokenizer, pixels, noise, chunks=2)
        supervised = sum(int((batch.labels != -100).sum()) for batch in batches)
        for batch in batches:
            guess = logits(model, batch, processor.tokenizer.pad_token_id).flatten(0, 1)
            summed = torch.nn.functional.cross_entropy(guess, batch.labels.flatten(), reduction="sum")
            loss = summed / supervised
            loss.backward()
            running += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 50 == 0:
            print(f"{step + 1:5d} loss {running / 50:.3f} {time.time() - started:5.0f} s", flush=True)
            running = 0.0
        if (step + 1) % 500 == 0 or step + 1 == args.steps:
            save(model, processor, args.out)
            print(json.dumps(report(model, lessons, pixels, processor)), flush=True)
            model.train()


def save(model: LlavaForConditionalGeneration, processor: LlavaProcessor, out: Path) -> None:
    """Write what ``AutoProcessor`` and ``AutoModelForImageTextToText`` read."""
    model.save_pretrained(out)
    processor.save_pretrained(out)


@torch.no_grad()
def report(
    model: LlavaForConditionalGeneration, lessons: Lessons, pixels: Pixels, processor: LlavaProcessor
) -> dict[str, float]:
    """Share of completions whose tokens are all the most likely ones, per lesson, on fresh draws."""
    model.eval()
    noise = torch.Generator().manual_seed(1)
    shares = {}
    for kind in (lessons.naming, lessons.intent, lessons.fits, lessons.spelled, lessons.joint):
        rows = [kind() for _ in range(96)]
        (batch,) = collate(rows, processor.tokenizer, pixels, noise)
        guess = logits(model, batch, processor.tokenizer.pad_token_id).argmax(-1)
        right = ((guess == batch.labels) | (batch.labels == -100)).all(dim=1)
        if kind == lessons.joint:
            right = right[torch.tensor([row.presence == "both" for row in rows])]
        shares[kind.__name__] = round(float(right.float().mean()), 3)
    return shares


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
