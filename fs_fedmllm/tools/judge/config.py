"""What a judge is asked with, and the limits on what it may cost."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from fs_fedmllm.errors import FedMLLMError

PROMPTS = ("structured", "upstream")
#: Sent with each request and part of every verdict's key; a second question about a row adds 1 to the seed.
TEMPERATURE, SEED = 0.0, 1
#: Longest reply, in tokens.
MAX_TOKENS = 200

_DATED = re.compile(r"(?:^|[-_@:./])(\d{4}-\d{2}-\d{2}|\d{8}|\d{2}-\d{4}|\d{2}-\d{2}|\d{4})(?=$|[-_])")
_REVISION = re.compile(r"@[0-9a-f]{7,64}$|@sha256:[0-9a-f]{64}$")


class JudgeError(FedMLLMError):
    """The judge cannot be asked, or its cache cannot be used. Verdicts already paid for stay in the cache."""


@dataclass(frozen=True)
class JudgeConfig:
    """One judge.

    The key for the endpoint is read from the environment when the judge is asked and is kept nowhere.

    Attributes:
        model: dated name (``gpt-4o-2024-08-06``, ``gpt-4-0613``) or one with a revision (``name@1a2b3c4``). An alias
            such as ``gpt-4`` changes its meaning over time, so that verdicts could not be repeated.
        cache: JSON Lines file of verdicts; made if absent. A run that was stopped goes on from it.
        base_url: of any OpenAI-compatible endpoint (``http://127.0.0.1:8000/v1``); empty for OpenAI's own.
        api_key_env: environment variable that holds the key; empty for an endpoint that wants none.
        allow_undated_model: accept any model name.
        prompt: ``structured`` (ours, asks for JSON: by a schema, else as ``json_object``, and in the ``upstream`` way
            where the endpoint refuses both) or ``upstream`` (the authors' free text).
        concurrency: requests in flight at once.
        timeout_s: seconds until one request is given up.
        max_retries: further tries of one request after 408, 409, 429, 5xx, a time-out or a broken reply.
        first_wait_s: seconds before the first retry where the endpoint names none; doubles with each further one, to
            at most 60, less up to a quarter by chance.
        longest_wait_s: the run stops (and can go on later) if the endpoint asks to wait for more seconds than this.
        price_in: price of a million prompt tokens, in your currency; None if unknown.
        price_out: price of a million reply tokens, in the same currency.
        max_cost: ceiling on what the verdicts of the rows given may cost in all, earlier runs included, in the
            currency of the prices. A request is sent only if the ceiling holds even if it costs the most it can.
        max_total_tokens: the same ceiling in tokens, prompt and reply together.
    """

    model: str
    cache: Path
    base_url: str = ""
    api_key_env: str = "OPENAI_API_KEY"
    allow_undated_model: bool = False
    prompt: str = "structured"
    concurrency: int = 8
    timeout_s: float = 60.0
    max_retries: int = 5
    first_wait_s: float = 1.0
    longest_wait_s: float = 120.0
    price_in: float | None = None
    price_out: float | None = None
    max_cost: float | None = None
    max_total_tokens: int | None = None

    def __post_init__(self) -> None:
        if not self.model:
            raise JudgeError("The judge needs the name of a model.")
        if not self.allow_undated_model and not is_dated(self.model):
            raise JudgeError(
                f"The judge's model {self.model!r} has no date or revision in its name, so what it stands for can "
                "change and its verdicts cannot be repeated. Name a dated one (gpt-4o-2024-08-06), or set "
                "allow_undated_model if the endpoint serves fixed weights under this name."
            )
        if self.prompt not in PROMPTS:
            raise JudgeError(f"The judge's prompt is one of {', '.join(PROMPTS)}, not {self.prompt!r}.")
        for name in ("concurrency", "timeout_s"):
            if not getattr(self, name) > 0:
                raise JudgeError(f"The judge's {name} must be above 0, not {getattr(self, name)}.")
        for name in ("max_retries", "first_wait_s", "longest_wait_s", "price_in", "price_out"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise JudgeError(f"The judge's {name} cannot be negative; it is {value}.")
        if (self.price_in is None) != (self.price_out is None):
            raise JudgeError("Give the judge both prices, price_in and price_out, or none.")
        if self.max_cost is not None and self.price_in is None:
            raise JudgeError("A ceiling max_cost needs the prices price_in and price_out per million tokens.")
        self._check_url()

    def _check_url(self) -> None:
        if not self.base_url:
            return
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise JudgeError(f"The judge's base_url must be an http or https address, not {self.base_url!r}.")
        if parts.username or parts.password or parts.query:
            raise JudgeError(
                "The judge's base_url must not carry a user, password or query; put the key in the environment "
                f"variable {self.api_key_env or 'named by api_key_env'}."
            )


def is_dated(model: str) -> bool:
    """Whether a model's name holds a date (yyyy-mm-dd, yyyymmdd, mmdd, yymm, mm-dd, mm-yyyy) or a revision."""
    return bool(_REVISION.search(model)) or any(_is_date(found[1]) for found in _DATED.finditer(model))


def _is_date(text: str) -> bool:
    digits = text.replace("-", "")
    if len(digits) == 8:
        return 2018 <= int(digits[:4]) <= 2099 and _month_day(digits[4:])
    if len(digits) == 6:
        return 1 <= int(digits[:2]) <= 12 and 2018 <= int(digits[2:]) <= 2099
    year_month = "-" not in text and 20 <= int(digits[:2]) <= 39 and 1 <= int(digits[2:]) <= 12
    return _month_day(digits) or year_month


def _month_day(digits: str) -> bool:
    return 1 <= int(digits[:2]) <= 12 and 1 <= int(digits[2:]) <= 31
