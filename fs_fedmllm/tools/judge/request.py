"""One request to the endpoint, with everything that can go wrong sorted into four outcomes."""

from __future__ import annotations

import asyncio
import email.utils
import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fs_fedmllm.extras import require_extra
from fs_fedmllm.tools.judge.budget import Usage
from fs_fedmllm.tools.judge.config import MAX_TOKENS, TEMPERATURE, JudgeConfig, JudgeError
from fs_fedmllm.tools.judge.prompts import Message, Step

_REFUSED = (400, 413, 415, 422, 501)
_RETRIED = (408, 409, 425, 429)


@dataclass(frozen=True)
class Answered:
    """The endpoint answered; ``usage`` is None if it did not say what it charged."""

    text: str
    usage: Usage | None
    served: str


@dataclass(frozen=True)
class Troubled:
    """Worth another try.

    Attributes:
        what: short description.
        status: HTTP status; 0 if no whole reply arrived, in which case the request may have been charged.
        wait_s: seconds that the endpoint asks to wait; None if it does not say.
    """

    what: str
    status: int
    wait_s: float | None


@dataclass(frozen=True)
class Refused:
    """The endpoint does not accept this request; the same request will not fare better."""

    what: str
    status: int


@dataclass(frozen=True)
class Hopeless:
    """No request will succeed until the user changes something: key, model name, credit."""

    what: str
    status: int


Outcome = Answered | Troubled | Refused | Hopeless


class Endpoint:
    """The ``openai`` client, used without its own retries so that each request is accounted for.

    Args:
        config: model, address and limits. The key is read from the environment here.

    Raises:
        JudgeError: ``openai`` is not installed, or the key is not in the environment.
    """

    def __init__(self, config: JudgeConfig):
        require_extra("judge", "The judge", error=JudgeError)
        import openai

        key = os.environ.get(config.api_key_env, "") if config.api_key_env else "none"
        if not key:
            raise JudgeError(
                f"The judge's key is not in the environment variable {config.api_key_env}. Set it, or set "
                "api_key_env to nothing for an endpoint that wants no key."
            )
        self._openai = openai
        self._key = key
        self.config = config
        self._client = openai.AsyncOpenAI(
            api_key=key,
            base_url=config.base_url or "https://api.openai.com/v1",
            max_retries=0,
            timeout=config.timeout_s,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def body(self, step: Step, messages: list[Message], seed: int) -> dict[str, Any]:
        """The request as it goes on the wire."""
        body: dict[str, Any] = {
            "model": self.config.model,
            "messages": messages,
            "seed": seed,
            "max_tokens": MAX_TOKENS,
            "temperature": TEMPERATURE,
        }
        if step.response_format is not None:
            body["response_format"] = step.response_format
        return body

    async def ask(self, body: dict[str, Any], request_id: str) -> Outcome:
        """Send one request.

        Args:
            body: from :meth:`body`.
            request_id: sent as ``Idempotency-Key``, for gateways that honour it; the same when a request without a
                reply is repeated, another when a reply could not be read.
        """
        openai = self._openai
        try:
            async with asyncio.timeout(self.config.timeout_s):  # the client's own limit is per read
                completion = await self._client.chat.completions.create(
                    **body, extra_headers={"Idempotency-Key": request_id}
                )
        except (TimeoutError, openai.APITimeoutError):
            return Troubled(f"no reply within {self.config.timeout_s:g} s", 0, None)
        except openai.APIStatusError as error:
            return self._status(error)
        except openai.APIConnectionError as error:
            return Troubled(self._clean(f"connection failed ({error.__cause__ or error})"), 0, None)
        except (ValueError, openai.OpenAIError) as error:  # a body that is no JSON, or not of the API
            return Troubled(self._clean(f"broken reply ({error})"), 0, None)
        return _answer(completion)

    def _status(self, error: Any) -> Outcome:
        status = int(error.status_code)
        what = self._clean(f"HTTP {status}: {error.message}")
        if status == 429 and error.code == "insufficient_quota":
            return Hopeless(what, status)
        if status in _REFUSED:
            return Refused(what, status)
        if status in _RETRIED or status >= 500:
            return Troubled(what, status, retry_after(error.response.headers, time.time()))
        return Hopeless(what, status)

    def _clean(self, message: str) -> str:
        """One short line without the key, which endpoints like to repeat in their messages."""
        return " ".join(message.replace(self._key, "[key]").split())[:300]


def prompt_bound(body: dict[str, Any]) -> int:
    """The most prompt tokens a request can have: one for each byte on the wire.

    A byte-level tokenizer has no token shorter than a byte, and the JSON around the messages is longer than what a
    chat template puts there. In practice it is about four times too high, which matters only near the ceiling.
    """
    return len(json.dumps(body, ensure_ascii=False).encode("utf-8", errors="replace"))


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait by ``retry-after-ms`` or ``Retry-After`` (seconds or an HTTP date); None if not said.

    Args:
        headers: of the reply.
        now: seconds since the epoch.
    """
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * scale
        except ValueError:
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
    except (TypeError, ValueError):
        return None
    return max(0.0, date.timestamp() - now)


def _answer(completion: Any) -> Outcome:
    """The first choice's text; a refusal or an empty message is an empty text, which no protocol can read."""
    choices = getattr(completion, "choices", None)
    if not isinstance(choices, list) or not choices or getattr(choices[0], "message", None) is None:
        return Troubled("broken reply (no choices in it)", 0, None)
    message, usage = choices[0].message, getattr(completion, "usage", None)
    text = message.content if isinstance(message.content, str) else (getattr(message, "refusal", None) or "")
    prompt, completed = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
    known = Usage(prompt, completed) if isinstance(prompt, int) and isinstance(completed, int) else None
    return Answered(text, known, str(getattr(completion, "model", None) or ""))
