"""An epsilon that says little is not shown without a word."""

from __future__ import annotations

from fs_fedmllm.commands.sites import status_table
from fs_fedmllm.privacy.accountant import hollow
from fs_fedmllm.runs.console import privacy_line


def test_epsilon_0_at_a_delta_of_a_half_says_that_it_promises_little() -> None:
    assert hollow(0.0, 1e-5) == hollow(3.0, 0.079) == ""
    assert "probability 0.467" in hollow(0.0, 0.467) and "only because" in hollow(0.0, 0.467)
    assert hollow(3.0, 8**-1.1) and not hollow(3.0, 9**-1.1)  # docs/privacy.md: eight clients or fewer
    assert "promises little" in hollow(4.0, 0.467) and "only because" not in hollow(4.0, 0.467)
    dp = {"epsilon": 0.0, "delta": 0.467, "neighbouring": "n", "sampling": "s", "releases": 2}
    assert "this promises little" in privacy_line({"differential_privacy": dp})
    assert "this promises little" not in privacy_line({"differential_privacy": dp | {"epsilon": 2.0, "delta": 1e-3}})
    status = {
        "site": "server", "doing": "x", "round": 1, "rounds": 2, "updated": "now", "clients": [], "waiting_for": [],
        "bytes_received": 0, "bytes_sent": 0, "refused": 0, "last_error": "", "privacy": dp,
    }  # fmt: skip
    assert "this promises little" in status_table(status)
