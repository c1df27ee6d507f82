"""Four readings of the same test rows by the same model: joint, product of views, image only, text only.

*Joint* is the prompt with both modalities. The *product of views* multiplies what the image-only and the text-only
prompt say of each option (their log-probabilities are added and normalised again), as if both were independent given
the label, and every option as frequent as any other. Where training never showed both modalities together, the product
can be right where the joint prompt is not: the difference is knowledge that the model has and that the joint form does
not reach. Where it is negative, the joint form knows what no modality tells alone.

It is computed from a run's predictions; no model is asked again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fs_fedmllm.data.template import Template
from fs_fedmllm.evaluation.predictions import Prediction, by_client
from fs_fedmllm.evaluation.slices import RESAMPLES, groups_of, row_metric
from fs_fedmllm.evaluation.statistics import paired_bootstrap

VIEWS = ("joint", "product", "image", "text")
#: Below a table of the four.
EXPLAINED = (
    "The same test rows, asked in four ways. Joint: image and text in one prompt, as in every other table. Image "
    "only, text only: one of them, with the other hidden. Product of views: the option probabilities of these two, "
    "multiplied. Product minus joint: above 0, the model knows more than its joint prompt uses; below 0, the joint "
    "prompt uses a relation of image and text, which neither shows alone; if the interval includes 0, these rows show "
    "no difference."
)
#: What :func:`gap_means` calls the gap, in words for readers who do not know the terms.
_PLAIN = {
    "knowledge that the joint form does not reach": "the model knows more than its joint prompt uses",
    "knowledge that only the joint form has": "the joint prompt uses more than the two views contain",
}


def product_of_views(image: np.ndarray, text: np.ndarray) -> np.ndarray:
    """(..., options) log-probabilities of the product of two views', normalised over the options."""
    added = np.asarray(image, dtype=float) + np.asarray(text, dtype=float)
    highest = added.max(axis=-1, keepdims=True)
    normal = highest + np.log(np.exp(added - highest).sum(axis=-1, keepdims=True))
    return np.asarray(added - normal)


def readings(predictions: Sequence[Prediction]) -> dict[str, list[Prediction]]:
    """The four readings, over the rows that have log-probabilities of all three views, in one order.

    Args:
        predictions: of one model, or of the baseline Local's clients.
    """
    found: dict[str, list[Prediction]] = {view: [] for view in VIEWS}
    for own in by_client(predictions).values():
        by_view: dict[str, dict[str, Prediction]] = {"both": {}, "image": {}, "text": {}}
        for p in own:
            if p.log_probs is not None and p.label is not None:
                by_view[p.shown][p.id] = p
        for name, joint in by_view["both"].items():
            image, text = by_view["image"].get(name), by_view["text"].get(name)
            if image is None or text is None:
                continue
            for view, p in (("joint", joint), ("image", image), ("text", text)):
                found[view].append(p)
            scores = product_of_views(np.array(image.log_probs), np.array(text.log_probs))
            decision = int(scores.argmax())
            found["product"].append(
                Prediction(
                    joint.id, "both", decision == joint.label, joint.kind, joint.group, joint.label, decision,
                    tuple(scores.tolist()), client=joint.client,
                )
            )  # fmt: skip
    return found


def view_figures(predictions: Sequence[Prediction], template: Template, seed: int) -> dict[str, Any]:
    """What results.json says of the four readings; empty without rows that have them all.

    Args:
        predictions: of a run's last evaluation.
        template: their prompts.
        seed: of the resamples.

    Returns:
        ``rows``; for each view, metric -> figure; and ``gap``: product minus joint in ``acc`` with its 95 % interval
        over the test rows, and what it is called.
    """
    found = readings(predictions)
    if not found["joint"]:
        return {}
    figures: dict[str, Any] = {"rows": len({p.id for p in found["joint"]})}
    for view in VIEWS:
        own = {name: row_metric(name, found[view], template.auc_option) for name in template.metrics}
        figures[view] = {name: m.value for name, m in own.items() if m is not None and not np.isnan(m.value)}
    product, joint = (row_metric("acc", found[view]) for view in ("product", "joint"))
    assert product is not None and joint is not None
    first = next(iter(by_client(found["joint"]).values()))
    rng = np.random.default_rng(seed)
    gap = paired_bootstrap(product, joint, rng, resamples=RESAMPLES, groups=groups_of(first)).interval
    figures["gap"] = {"acc": gap.value, "low": gap.low, "high": gap.high, "means": gap_means(gap.low, gap.high)}
    return figures


def gap_means(low: float, high: float) -> str:
    """What product minus joint is, by its interval."""
    if low > 0:
        return "knowledge that the joint form does not reach"
    return "knowledge that only the joint form has" if high < 0 else "no difference that these rows can show"


def plainly(means: str) -> str:
    """The name of a gap for readers who do not know the terms.

    Args:
        means: as :func:`gap_means` calls it.
    """
    return _PLAIN.get(means, means)


def said_views(views: Mapping[str, Any]) -> str:
    """Three lines for the closing table.

    Args:
        views: as :func:`view_figures` gives them.
    """
    joint, product, image, text = (f"{views[view]['acc']:.4f}" for view in VIEWS)
    gap = views["gap"]
    return (
        f"views (acc): joint {joint} (asked with image and text), image only {image}, text only {text}\n"
        f"product of views: {product} (the option probabilities of image only and text only, multiplied)\n"
        f"product - joint: {gap['acc']:+.4f} [{gap['low']:+.4f}, {gap['high']:+.4f}], {plainly(str(gap['means']))}"
    )
