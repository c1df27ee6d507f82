"""What can be answered without looking: a bag of 1-2-grams of the question and logistic regression.

The score to show beside any result of visual question answering. A model that does not beat it may not have looked
at the image (Goyal et al., CVPR 2017). On VQA-RAD it answers about 57 % of the closed and 16 % of the open questions.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

from fs_fedmllm.data.sample import Sample
from fs_fedmllm.evaluation.metrics import answer_metrics, right_answers
from fs_fedmllm.evaluation.normalise import normalise


def question_only(train: Sequence[Sample], test: Sequence[Sample]) -> dict[str, float]:
    """Accuracy of the baseline: ``acc``, and ``<kind>_acc`` for each kind of question.

    Each kind (open, closed) has its own classifier over the answers of the training rows of that kind. Where some
    training rows have an image, only those count: flashcards beside them ask other questions.

    Args:
        train: rows before any scenario.
        test: rows to answer; those without a question are left out.

    Returns:
        The accuracies; empty where there is nothing to train on or to answer.
    """
    asked = [row for row in test if row.question]
    taught = [row for row in train if row.question]
    taught = [row for row in taught if row.image is not None] or taught
    if not asked or not taught:
        return {}
    answers: dict[int, str] = {}
    for kind in sorted({row.kind for row in asked}):
        own = [row for row in taught if row.kind == kind] or taught
        places = [i for i, row in enumerate(asked) if row.kind == kind]
        answers |= dict(zip(places, _answers(own, [asked[i] for i in places]), strict=True))
    correct = right_answers([answers[i] for i in range(len(asked))], [row.answer for row in asked])
    figures = answer_metrics(correct, [row.kind for row in asked], 0.0)
    return {name: value for name, value in figures.items() if name.endswith("acc")}


def _answers(train: Sequence[Sample], test: Sequence[Sample]) -> list[str]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    given = [normalise(row.answer) for row in train]
    if len(set(given)) == 1:
        return [given[0]] * len(test)
    words = CountVectorizer(ngram_range=(1, 2))
    try:
        features = words.fit_transform([row.question or "" for row in train])
    except ValueError:  # no word of two letters anywhere: the commonest answer is all there is to learn
        return [max(sorted(set(given)), key=given.count)] * len(test)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", UserWarning)  # many answers occur once
        model = LogisticRegression(max_iter=200).fit(features, given)
    return [str(answer) for answer in model.predict(words.transform([row.question or "" for row in test]))]


def beside(figures: Mapping[str, float], baseline: Mapping[str, float]) -> str:
    """A table of a run's test accuracies and the baseline's, in percent.

    Args:
        figures: of an evaluation, ``test_acc`` and so on, as in results.json.
        baseline: as :func:`question_only` gives it.
    """
    lines = [f"{'':<8}  {'run':>6}  {'question only':>13}"]
    for name, called in (("open_acc", "open"), ("closed_acc", "closed"), ("acc", "overall")):
        if f"test_{name}" in figures and name in baseline:
            lines.append(f"{called:<8}  {100 * figures[f'test_{name}']:>4.1f} %  {100 * baseline[name]:>11.1f} %")
    return "\n".join(lines)
