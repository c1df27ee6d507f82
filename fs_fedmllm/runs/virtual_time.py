"""What a run says of its asynchronous rounds; of results.json alone, so that reports may ask too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fs_fedmllm.config import Config


def buffered_figures(told: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """What results.json says of asynchronous rounds.

    Args:
        told: ``figures["async"]`` of the run's state.
        config: of the run.

    Returns:
        ``buffer`` and ``in_flight`` (clients that train at once), ``clock`` (virtual seconds of the run), ``clocks``
        (when each round ended), ``staleness`` (updates taken, by age) and ``dropped`` (updates too old, by client).
    """
    return {
        "buffer": config.fedmllm.async_.buffer,
        "in_flight": config.sampled_clients,
        **{name: told[name] for name in ("clock", "clocks", "staleness", "dropped")},
    }


def said_buffered(found: Mapping[str, Any]) -> str:
    """A line for the closing table.

    Args:
        found: ``async`` of results.json.
    """
    ages = ", ".join(f"{age} ({found['staleness'][age]:,})" for age in sorted(found["staleness"], key=int))
    said = f"asynchronous: {found['clock']:,.6g} virtual seconds, {found['buffer']} updates a round; staleness {ages}"
    if dropped := found["dropped"]:
        who = ", ".join(f"client {client}: {dropped[client]:,}" for client in sorted(dropped, key=int)[:5])
        more = f" and {len(dropped) - 5} more clients" if len(dropped) > 5 else ""
        said += f"; {sum(dropped.values()):,} updates were too old and dropped ({who}{more})"
    return said
