"""``fedmllm.judge``: who grades the open answers of a finished run."""

from __future__ import annotations

from dataclasses import dataclass

from fs_fedmllm.keys import NOT_NEGATIVE, ONE_OR_MORE, Range, key


@dataclass(frozen=True)
class JudgeSection:
    """``fedmllm.judge``: what ``fs-fedmllm judge`` asks by default; the run itself asks nobody."""

    model: str = key("", "Dated name of the judge's model (gpt-4o-2024-08-06); empty: name it on the command line.")
    base_url: str = key("", "Any OpenAI-compatible endpoint; empty is OpenAI's own.")
    api_key_env: str = key("OPENAI_API_KEY", "Environment variable that holds the key; it is stored nowhere.")
    prompt: str = key(
        "structured", "Wording: ours, which asks for JSON, or the authors'.", choices=("structured", "upstream")
    )
    price_in: float = key(-1.0, "Price of a million prompt tokens; -1 is unknown.", valid=Range(0, default=-1))
    price_out: float = key(-1.0, "Price of a million reply tokens; -1 is unknown.", valid=Range(0, default=-1))
    max_cost: float = key(0.0, "Most that the verdicts may cost, in the currency of the prices; 0 is no limit.",
                          valid=NOT_NEGATIVE)  # fmt: skip
    max_total_tokens: int = key(
        0, "Most tokens, prompt and reply together; 0 is no limit.", unit="tokens", valid=NOT_NEGATIVE
    )
    concurrency: int = key(8, "Requests in flight at once.", unit="requests", valid=ONE_OR_MORE)
