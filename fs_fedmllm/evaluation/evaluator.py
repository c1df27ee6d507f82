"""Score rows with the live adapter: forced choice in one batched pass, or greedy generation for open answers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from fs_fedmllm.config import EvaluatorConfig
from fs_fedmllm.config.metric_paths import named_metrics
from fs_fedmllm.config.open_names import OUTSIDE_METRICS
from fs_fedmllm.data.joined import group_names
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.evaluation.local_metrics import LocalMetric, load_local_metrics
from fs_fedmllm.evaluation.metrics import (
    MetricError,
    answer_metrics,
    choice_metrics,
    label_metrics,
    right_answers,
    upstream_auc,
)
from fs_fedmllm.evaluation.option_scores import letter_scores, word_scores
from fs_fedmllm.evaluation.options import OptionTokens, options_of
from fs_fedmllm.evaluation.parsing import parse_options
from fs_fedmllm.evaluation.predictions import Prediction
from fs_fedmllm.models.batch import Encoded
from fs_fedmllm.models.encoding import Encoder
from fs_fedmllm.models.mllm import MLLM

#: What of a checkpoint's generation configuration shapes an answer that is not drawn.
_DECODING = ("repetition_penalty", "no_repeat_ngram_size", "stop_strings", "num_beams", "bad_words_ids")
#: What a slice shows of each row.
SHOWN = {"both": (True, True), "image": (True, False), "text": (False, True)}


class Evaluator:
    """Evaluates on the adapter that is loaded at the time of the call.

    Args:
        encoder: turns rows into batches; it knows the model and the template.
        config: ``fedmllm.eval``.
        switches: the profile's; ``decision``, ``auc`` and ``unparsable`` are read.
    """

    def __init__(self, encoder: Encoder, config: EvaluatorConfig, switches: Mapping[str, str] | None = None):
        self.encoder = encoder
        self.config = config
        self.switches = switches or {}
        self.seconds = 0.0
        self._local: tuple[LocalMetric, ...] | None = None
        self._options: OptionTokens | None = options_of(encoder)
        self._known: dict[tuple[tuple[int, ...], str | None], np.ndarray] | None = None

    def load_metrics(self) -> tuple[LocalMetric, ...]:
        """The metrics that the configuration gives by path, loaded at the first call.

        Raises:
            ConfigError: one cannot be loaded, or takes what these rows do not have.
        """
        if self._local is None:
            scores = self.switches.get("decision") != "sampled_text"
            self._local = load_local_metrics(self.config.metrics, self.encoder.template, scores=scores)
        return self._local

    def evaluate(self, samples: Sequence[Sample], shown: str = "both") -> dict[str, float]:
        """Metrics of the rows, showing only what ``shown`` names.

        Args:
            samples: rows of a validation or test set, with labels where the template has options.
            shown: ``both``, ``image`` or ``text``. Rows that would show nothing are left out.

        Returns:
            Metric name -> value; empty if there are no rows.
        """
        return self.predict(samples, shown)[0]

    def predict(
        self, samples: Sequence[Sample], shown: str = "both", group_by: Sequence[str] = ()
    ) -> tuple[dict[str, float], list[Prediction]]:
        """Metrics as :meth:`evaluate` gives them, and the predictions that they are of.

        Args:
            samples: as for :meth:`evaluate`.
            shown: as for :meth:`evaluate`.
            group_by: keys of the rows; those that share a value, or that others join, belong together.
        """
        started = time.perf_counter()
        image, text = SHOWN[shown]
        rows = [s if shown == "both" else s.showing(image=image, text=text) for s in samples]
        groups = group_names([row.keys for row in samples], group_by)
        if shown != "both":
            kept = [i for i, row in enumerate(rows) if row.presence != "neither"]
            rows, groups = [rows[i] for i in kept], [groups[i] for i in kept]
        numbers: dict[str, float] = {}
        answers: list[dict[str, Any]] = []
        if rows:
            numbers, answers = self._choice(rows) if self._options is not None else self._answers(rows)
        self.seconds += time.perf_counter() - started
        predictions = [
            Prediction(row.id, shown, kind=row.kind, group=group, label=row.label, **said)
            for row, group, said in zip(rows, groups, answers, strict=True)
        ]
        for name in named_metrics(self.config.metrics) if rows else ():
            metric = OUTSIDE_METRICS[name](predictions)
            if metric is not None and not np.isnan(metric.value):
                numbers[name] = metric.value
        for local in self.load_metrics() if rows else ():
            figures = local.figures(predictions)
            if twice := sorted(figures.keys() & numbers.keys()):
                raise MetricError(
                    f"The metric {local.path} of fedmllm.eval.metrics gives {twice[0]!r}, which the evaluation has "
                    "already. Rename the file, or what its _compute returns."
                )
            numbers |= figures
        return numbers, predictions

    def right_alone(self, samples: Sequence[Sample], shown: str) -> float:
        """Share of complete rows of a choice that are decided rightly when one modality alone is shown.

        Args:
            samples: at least one, each with a label and both modalities.
            shown: ``image`` or ``text``.
        """
        started = time.perf_counter()
        image, text = SHOWN[shown]
        scores = self.option_log_probs([row.showing(image=image, text=text) for row in samples])
        right = scores.argmax(axis=1) == np.array([row.label for row in samples])
        self.seconds += time.perf_counter() - started
        return float(right.mean())

    def option_log_probs(self, samples: Sequence[Sample]) -> np.ndarray:
        """(rows, options) log-probabilities over the template's options, in the order of the rows.

        The shared opening of the answers is forced. With letters the logits of the next token are normalised over the
        options' deciding tokens, in one pass per batch. In words the prompts are read once, and what options say
        is passed behind them from the model's cache, once for options that begin alike; an option's
        log-likelihood is the sum over its tokens and the end of its turn. Rows that ask the same (those that share a
        picture, when it is shown alone) are asked once.
        """
        assert self._options is not None
        tokens = self._options
        # By letter rows are asked anew: a score's last bit depends on what stands beside a row in its batch.
        known = self._known if self._known is not None and tokens.rests else {}
        rows = self.encoder.encode(samples)
        asked: dict[tuple[tuple[int, ...], str | None], Encoded] = {}
        for row in rows:
            if (row.prompt, row.image) not in known:
                asked.setdefault((row.prompt, row.image), row)
        distinct = list(asked.values())
        scores = np.zeros((len(distinct), len(tokens.decisions)))
        for indices in self._batches(distinct):
            batch = self.encoder.collate([distinct[i] for i in indices], completions=False, suffix=tokens.prefix)
            with torch.no_grad():
                score = word_scores if tokens.rests else letter_scores
                scores[indices] = (
                    F.log_softmax(score(self._model(), batch.inputs, tokens).double(), dim=-1).cpu().numpy()
                )
        known.update(zip(asked, scores, strict=True))
        return np.array([known[row.prompt, row.image] for row in rows]).reshape(len(rows), len(tokens.decisions))

    @contextlib.contextmanager
    def one_adapter(self) -> Iterator[None]:
        """While one adapter stays loaded: what one call has asked in words is not asked by the next.

        A test row that lacks a modality by itself is asked the same in the table and in a slice.
        """
        self._known = {}
        try:
            yield
        finally:
            self._known = None

    def generate(self, samples: Sequence[Sample], *, sampled: bool = False) -> list[str]:
        """Answers as text, batched, in the order of the rows.

        Args:
            samples: rows.
            sampled: draw tokens as the authors' inference library does by default (temperature 0.7, top-p 0.8,
                top-k 100, repetition penalty 1.05; seeded per batch) instead of taking the likeliest.
        """
        style = self._style(sampled)
        encoded = self.encoder.encode(samples, answered=False)
        tokenizer = self.encoder.mllm.tokenizer
        completions = self.encoder.completions
        answers = [""] * len(encoded)
        for indices in self._batches(encoded):
            batch = self.encoder.collate([encoded[i] for i in indices], completions=False, suffix=completions.opening)
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(indices[0])
                new = self._model().generate(
                    batch.inputs,
                    **style,
                    max_new_tokens=self.config.max_new_tokens,
                    eos_token_id=list(completions.stops),
                    pad_token_id=tokenizer.pad_token_id,
                    use_cache=True,
                    **({"tokenizer": tokenizer} if self._stated("stop_strings") else {}),
                )
            for i, text in zip(indices, tokenizer.batch_decode(new, skip_special_tokens=True), strict=True):
                answers[i] = completions.without_opening(text)
        return answers

    def decoding(self) -> dict[str, Any] | None:
        """How answers are written, as it is resolved from the configuration and the checkpoint's generation
        configuration; None where options are scored and nothing is written."""
        sampled = self.switches.get("decision") == "sampled_text"
        if self._options is not None and not sampled:
            return None
        names = self.encoder.mllm.tokenizer.convert_ids_to_tokens(list(self.encoder.completions.stops))
        stated = {name: self._stated(name) for name in _DECODING}
        return {
            **{name: value for name, value in stated.items() if value is not None},
            **self._style(sampled),
            "max_new_tokens": self.config.max_new_tokens,
            "stops": sorted(map(str, names)),
        }

    def _stated(self, name: str) -> Any:
        """An option of the checkpoint's generation configuration."""
        mllm = self.encoder.mllm
        return getattr(mllm.family.generation_config(mllm.inner), name, None)

    @staticmethod
    def _style(sampled: bool) -> dict[str, Any]:
        if not sampled:
            return {"do_sample": False}
        return {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 100, "repetition_penalty": 1.05}

    def row_losses(self, samples: Sequence[Sample]) -> np.ndarray:
        """(rows,) mean negative log-likelihood per token of each row's reference answer, in the order of the rows.

        Args:
            samples: rows, each with an answer.
        """
        encoded = self.encoder.encode(samples)
        losses = np.zeros(len(encoded))
        for indices in self._batches(encoded):
            batch = self.encoder.collate([encoded[i] for i in indices], completions=True)
            with torch.no_grad():
                logits = self._model().last_logits(batch.inputs, batch.labels.shape[1])
                losses[indices] = batch.row_losses(logits).double().cpu().numpy()
        return losses

    def _model(self) -> MLLM:
        self.encoder.mllm.set_training(False)
        return self.encoder.mllm

    def _batches(self, encoded: Sequence[Encoded]) -> Iterator[list[int]]:
        """Rows of similar length share a batch, so little is spent on padding."""
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].prompt))
        for start in range(0, len(order), self.config.batch_size):
            yield order[start : start + self.config.batch_size]

    def _choice(self, rows: Sequence[Sample]) -> tuple[dict[str, float], list[dict[str, Any]]]:
        template = self.encoder.template
        labels = [s.label if s.label is not None else -1 for s in rows]
        positive = template.auc_option
        if self.switches.get("decision") == "sampled_text":
            return self._parsed_choice(rows, labels, positive)
        scores = self.option_log_probs(rows)
        figures = choice_metrics(scores, labels, positive)
        if self.switches.get("auc") == "hard_label" and "auc_hard" in figures:
            figures["auc"] = figures["auc_hard"]
        decisions = scores.argmax(axis=1).tolist()
        return figures, [
            {"correct": decision == label, "decision": decision, "log_probs": tuple(own)}
            for decision, label, own in zip(decisions, labels, scores.tolist(), strict=True)
        ]

    def _parsed_choice(
        self, rows: Sequence[Sample], labels: list[int], positive: int | None
    ) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """The authors' way: sample a text, parse an option out of it."""
        template = self.encoder.template
        mode = "upstream" if self.switches.get("unparsable") == "class_2" else "lenient"
        texts = self.generate(rows, sampled=True)
        parsed = parse_options(texts, template.options, mode if template.lettered else "words")
        figures = label_metrics(parsed.codes, labels)
        figures["unparsable"] = parsed.unparsable_rate
        if positive is not None:
            auc = upstream_auc(parsed.codes, labels)
            if auc is not None:
                figures["auc"] = figures["auc_hard"] = auc
        return figures, [
            {"correct": bool(code == label), "decision": int(code), "answer": text}
            for code, label, text in zip(parsed.codes, labels, texts, strict=True)
        ]

    def _answers(self, rows: Sequence[Sample]) -> tuple[dict[str, float], list[dict[str, Any]]]:
        answers = self.generate(rows)
        correct = right_answers(answers, [row.answer for row in rows])
        figures = answer_metrics(correct, [row.kind for row in rows], self._reference_loss(rows))
        return figures, [
            {"correct": right, "question": row.question, "reference": row.answer, "answer": answer}
            for row, answer, right in zip(rows, answers, correct, strict=True)
        ]

    def _reference_loss(self, rows: Sequence[Sample]) -> float:
        """Mean negative log-likelihood per token of the reference answers."""
        encoded = self.encoder.encode(rows)
        total, count = 0.0, 0
        for indices in self._batches(encoded):
            batch = self.encoder.collate([encoded[i] for i in indices], completions=True)
            with torch.no_grad():
                loss = batch.loss_sum(self._model().last_logits(batch.inputs, batch.labels.shape[1]))
            total += float(loss)
            count += batch.supervised
        return total / max(1, count)
