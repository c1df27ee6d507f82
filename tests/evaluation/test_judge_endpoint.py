"""The judge against a real HTTP server that also misbehaves."""

from __future__ import annotations

import email.utils
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from judge_server import JudgeServer
from waiting import LONG, wait_until

pytest.importorskip("openai")

from fs_fedmllm.tools.judge import JudgeConfig, JudgeRow, judge_answers
from fs_fedmllm.tools.judge.config import JudgeError
from fs_fedmllm.tools.judge.request import retry_after
from fs_fedmllm.tools.judge.runner import _Run

KEY = "sk-test-do-not-print-0123456789"
MODEL = "judge-2024-08-06"


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def some_rows(count: int) -> list[JudgeRow]:
    """Every third answer is wrong; kinds alternate."""
    return [
        JudgeRow(f"r{i}", f"question {i}?", "lung", "liver" if i % 3 == 2 else "left lung", ("open", "closed")[i % 2])
        for i in range(count)
    ]


def config(server: JudgeServer, folder: Path, **changes) -> JudgeConfig:
    values = {"model": MODEL, "cache": folder / "verdicts.jsonl", "base_url": server.url, "first_wait_s": 0.01}
    return JudgeConfig(**{**values, **changes})


def test_verdicts_slices_and_wire_format(tmp_path):
    with JudgeServer() as server:
        report = judge_answers(some_rows(12), config(server, tmp_path))
    assert report.complete and report.output == "json_schema" and not report.stopped
    assert [row.state for row in report.verdicts] == ["correct", "correct", "wrong"] * 4
    assert report.scores.accuracy == report.scores.low == report.scores.high == pytest.approx(2 / 3)
    assert {kind: scores.rows for kind, scores in report.by_kind().items()} == {"open": 6, "closed": 6}
    assert report.requests == 12 and report.usage.prompt == 1200 and report.cost is None
    assert report.served == {MODEL: 12}
    body = server.requests[0]["body"]
    assert body["temperature"] == 0 and body["seed"] == 1 and body["model"] == MODEL
    assert body["response_format"]["json_schema"]["strict"] is True
    assert report.to_dict()["scores"]["counts"]["wrong"] == 4


def test_nothing_is_paid_twice(tmp_path):
    rows = some_rows(6)
    with JudgeServer() as server:
        twice = [*rows, *(JudgeRow(f"again-{r.id}", r.question, r.reference, r.answer) for r in rows)]
        first = judge_answers(twice, config(server, tmp_path))
        second = judge_answers(rows, config(server, tmp_path, base_url="http://127.0.0.1:9/v1"))
        third = judge_answers([*rows, *some_rows(8)], config(server, tmp_path))
    assert len(first.verdicts) == 12 and len(server.requests) == 8
    assert second.requests == 0 and all(row.cached for row in second.verdicts)
    assert [row.state for row in second.verdicts] == [row.state for row in first.verdicts[:6]]
    assert second.usage.total == 660
    assert third.requests == 2


def test_a_cached_run_needs_neither_key_nor_client(tmp_path, monkeypatch):
    with JudgeServer() as server:
        settings = config(server, tmp_path)
        judge_answers(some_rows(2), settings)
    monkeypatch.delenv("OPENAI_API_KEY")
    assert judge_answers(some_rows(2), settings).complete
    with pytest.raises(JudgeError, match="OPENAI_API_KEY"):
        judge_answers(some_rows(3), settings)


def test_it_waits_as_long_as_it_is_told(tmp_path):
    def busy_once(request):
        return {"status": 429, "headers": {"retry-after": "1"}} if len(server.requests) == 1 else {}

    with JudgeServer(busy_once) as server:
        report = judge_answers(some_rows(1), config(server, tmp_path))
    assert report.complete and report.retries == 1 and report.unconfirmed.total == 0
    assert server.requests[1]["at"] - server.requests[0]["at"] >= 1.0


def test_a_limit_on_one_worker_holds_all(tmp_path, monkeypatch):
    """No worker begins a request before the time that the endpoint named to one of them."""
    begun: list[tuple[float, float]] = []
    request_of = _Run._request

    async def watched(self, key):
        begun.append((time.monotonic(), self.not_before))
        return await request_of(self, key)

    monkeypatch.setattr(_Run, "_request", watched)

    def busy(request):
        limited = request["question"] == "question 1?" and request["time"] == 0
        return {"status": 429, "headers": {"retry-after-ms": "700"}} if limited else {"delay": 0.05}

    with JudgeServer(busy) as server:
        report = judge_answers(some_rows(20), config(server, tmp_path, concurrency=2))
    assert report.complete and len(begun) == 21
    assert any(limit for _, limit in begun) and all(at > limit - 0.01 for at, limit in begun)


def test_too_long_a_wait_stops_the_run_for_later(tmp_path):
    with JudgeServer(lambda request: {"status": 429, "headers": {"retry-after": "86400"}}) as server:
        report = judge_answers(some_rows(3), config(server, tmp_path))
        assert "86400 s" in report.stopped and len(server.requests) == 1
        assert {row.state for row in report.verdicts} == {"not_asked"}
        assert (report.scores.accuracy, report.scores.low, report.scores.high) == (None, 0.0, 1.0)
        server.behave = lambda request: {}
        assert judge_answers(some_rows(3), config(server, tmp_path)).complete


@pytest.mark.parametrize(
    ("trouble", "may_be_charged"),
    [
        ({"status": 500}, False),
        ({"status": 503, "raw": b"<html>busy</html>"}, False),
        ({"status": 408}, False),
        ({"raw": b'{"id": "x", "choices": [{"mess'}, True),
        ({"raw": b'{"id"', "cut": 50}, True),
        ({"raw": b""}, True),
        ({"raw": b"[]"}, True),
        ({"raw": b'{"choices": []}'}, True),
    ],
)
def test_trouble_is_tried_again(tmp_path, trouble, may_be_charged):
    with JudgeServer(lambda request: trouble if request["time"] == 0 else {}) as server:
        report = judge_answers(some_rows(2), config(server, tmp_path, timeout_s=LONG))
    assert report.complete and report.retries == 2 and report.requests == 4
    assert (report.unconfirmed.total > 0) == may_be_charged


def test_a_reply_that_does_not_come_is_asked_for_again(tmp_path):
    over = threading.Event()

    def waits(request):
        if request["time"] == 0:
            over.wait(LONG)
        return {}

    with JudgeServer(waits) as server:
        # On a busy machine a later reply may be too late as well, so there may be more than one retry of each.
        report = judge_answers(some_rows(2), config(server, tmp_path, timeout_s=1.0, max_retries=20))
        over.set()
    assert report.complete and report.retries >= 2 and report.requests == 2 + report.retries
    assert report.unconfirmed.total > 0


def test_rows_without_a_reply_are_reported(tmp_path):
    def one_is_cursed(request):
        return {"status": 500} if request["question"] == "question 4?" else {}

    with JudgeServer(one_is_cursed) as server:
        report = judge_answers(some_rows(9), config(server, tmp_path, max_retries=2))
        assert Counter(request["question"] for request in server.requests)["question 4?"] == 3
        assert [row.id for row in report.verdicts if row.state == "failed"] == ["r4"]
        assert not report.complete and not report.stopped
        assert "HTTP 500" in report.verdicts[4].text
        assert report.scores.low < report.scores.high
        server.behave = lambda request: {}
        again = judge_answers(some_rows(9), config(server, tmp_path))
    assert again.complete and again.requests == 1


def test_scattered_failures_are_no_outage(tmp_path):
    def every_third(request):
        return {"status": 500} if int(request["question"].split()[1].strip("?")) % 3 == 0 else {}

    with JudgeServer(every_third) as server:
        report = judge_answers(some_rows(18), config(server, tmp_path, max_retries=0, concurrency=1))
    assert not report.stopped and Counter(row.state for row in report.verdicts)["failed"] == 6


def test_an_outage_stops_the_run_early(tmp_path):
    with JudgeServer(lambda request: {"status": 502}) as server:
        report = judge_answers(some_rows(50), config(server, tmp_path, max_retries=1))
    assert "502" in report.stopped and len(server.requests) == 6
    states = Counter(row.state for row in report.verdicts)
    assert states == {"failed": 3, "not_asked": 47}


@pytest.mark.parametrize(
    "garbage", ["", "yes", "{}", '{"correct": "maybe"}', '{"correct": 7}', '{"correct": tr', "[true]"]
)
def test_a_reply_that_cannot_be_read_is_asked_once_more_and_then_reported(tmp_path, garbage):
    def sometimes(request):
        return {"text": garbage} if request["question"] == "question 1?" or request["time"] == 0 else {}

    with JudgeServer(sometimes) as server:
        report = judge_answers(some_rows(3), config(server, tmp_path))
        assert [row.state for row in report.verdicts] == ["correct", "unparsable", "wrong"]
        assert report.complete and report.verdicts[1].text == garbage
        assert report.scores.accuracy == pytest.approx(1 / 3)
        assert report.scores.parsed_accuracy == pytest.approx(1 / 2)
        assert report.usage.total == 6 * 110
        seeds = [r["body"]["seed"] for r in server.requests if r["question"] == "question 1?"]
        assert seeds == [1, 2]
        assert judge_answers(some_rows(3), config(server, tmp_path)).requests == 0


@pytest.mark.parametrize("fenced", ['```json\n{"reason": "a } b", "correct": true}\n```', 'Sure: {"correct": 1}.'])
def test_json_between_words_is_read(tmp_path, fenced):
    with JudgeServer(lambda request: {"text": fenced}) as server:
        assert judge_answers(some_rows(1), config(server, tmp_path)).verdicts[0].state == "correct"


@pytest.mark.parametrize(("accepted", "output"), [("json_object", "json_object"), (None, "text")])
def test_the_form_of_output_falls_back_and_is_remembered(tmp_path, accepted, output):
    def picky(request):
        wanted = request["body"].get("response_format", {}).get("type")
        if wanted in (accepted, None):
            return {}
        return {"status": 400, "error": {"message": f"response_format {wanted} is not supported"}}

    with JudgeServer(picky) as server:
        report = judge_answers(some_rows(6), config(server, tmp_path))
        refused = report.requests - 6
        assert report.complete and report.output == output and refused == (1 if accepted else 2)
        assert [row.state for row in report.verdicts] == ["correct", "correct", "wrong"] * 2
        assert report.prompt.startswith("structured" if accepted else "upstream")
        assert report.usage.total == 660
        more = judge_answers(some_rows(8), config(server, tmp_path))
    assert more.requests == 2 and more.output == output and sum(row.cached for row in more.verdicts) == 6


def test_one_refused_row_is_that_rows_fault(tmp_path):
    def filtered(request):
        return {"status": 400, "error": {"message": "content filter"}} if request["question"] == "question 0?" else {}

    with JudgeServer(filtered) as server:
        report = judge_answers(some_rows(5), config(server, tmp_path))
    assert [row.state for row in report.verdicts] == ["failed", "correct", "wrong", "correct", "correct"]
    assert report.output == "json_schema" and "content filter" in report.verdicts[0].text


def test_an_endpoint_that_refuses_everything(tmp_path):
    with JudgeServer(lambda request: {"status": 400, "error": {"message": "no such thing"}}) as server:
        with pytest.raises(JudgeError, match=r"3 rows.*no such thing"):
            judge_answers(some_rows(50), config(server, tmp_path))
        assert len(server.requests) == 9


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, {"message": f"Incorrect API key provided: {KEY}", "code": "invalid_api_key"}),
        (404, {"message": "no such model", "code": "model_not_found"}),
        (429, {"message": "You exceeded your quota", "code": "insufficient_quota"}),
    ],
)
def test_what_cannot_succeed_costs_one_request(tmp_path, status, error):
    with JudgeServer(lambda request: {"status": status, "error": error}) as server:
        with pytest.raises(JudgeError, match=f"HTTP {status}") as caught:
            judge_answers(some_rows(30), config(server, tmp_path))
        assert len(server.requests) == 1
    assert KEY not in str(caught.value)


def test_credit_that_ends_midway_keeps_what_was_paid(tmp_path):
    def ends(request):
        return {} if len(server.requests) <= 5 else {"status": 401}

    with JudgeServer(ends) as server:
        with pytest.raises(JudgeError, match="5 of 30 verdicts"):
            judge_answers(some_rows(30), config(server, tmp_path, concurrency=3))
        server.behave = lambda request: {}
        assert judge_answers(some_rows(30), config(server, tmp_path)).requests == 25


def test_the_upstream_prompt(tmp_path):
    with JudgeServer(lambda r: {"text": "Correctness: 1.0"} if r["question"] == "question 0?" else {}) as server:
        report = judge_answers(some_rows(3), config(server, tmp_path, prompt="upstream"))
    assert [row.state for row in report.verdicts] == ["unparsable", "correct", "wrong"]
    body = server.requests[0]["body"]
    assert "response_format" not in body and len(body["messages"]) == 1
    assert body["messages"][0]["content"].count("Given a question about an medical image") == 2


def test_the_server_sees_no_more_requests_at_once_than_allowed(tmp_path):
    eight = threading.Event()

    def waits(request):
        if server.in_flight >= 8:
            eight.set()
        assert len(server.requests) == 1 or eight.wait(LONG)  # the first is asked alone
        return {}

    with JudgeServer(waits) as server:
        report = judge_answers(some_rows(41), config(server, tmp_path, concurrency=8))
    assert report.complete and server.most_in_flight == 8


def test_the_ceiling_is_not_passed_and_can_be_raised(tmp_path):
    prices = {"price_in": 10.0, "price_out": 30.0}
    each = (100 * 10 + 10 * 30) / 1e6
    with JudgeServer(lambda request: {"delay": 0.01}) as server:
        report = judge_answers(some_rows(200), config(server, tmp_path, max_cost=0.1, **prices))
        assert "ceiling" in report.stopped
        asked = len(server.paid)
        assert report.cost == pytest.approx(asked * each) and report.cost <= 0.1
        assert report.cost > 0.07, "it may stop early by no more than one request's worst case"
        assert Counter(row.state for row in report.verdicts)["not_asked"] == 200 - asked
        again = judge_answers(some_rows(200), config(server, tmp_path, max_cost=0.1, **prices))
        assert again.requests == 0 and "ceiling" in again.stopped
        rest = judge_answers(some_rows(200), config(server, tmp_path, max_cost=1.0, **prices))
    assert rest.complete and rest.requests == 200 - asked and len(set(server.paid)) == len(server.paid) == 200


def test_the_ceiling_counts_the_worst_where_the_endpoint_says_nothing(tmp_path):
    with JudgeServer(lambda request: {"usage": None}) as server:
        report = judge_answers(some_rows(50), config(server, tmp_path, max_total_tokens=10_000))
        assert "ceiling" in report.stopped and report.usage.total <= 10_000
    with JudgeServer(lambda request: {"delay": 1}) as server:
        settings = config(server, tmp_path, cache=tmp_path / "slow.jsonl", timeout_s=0.1, max_total_tokens=5000)
        report = judge_answers(some_rows(50), settings)
    assert "ceiling" in report.stopped
    assert 0 < report.unconfirmed.total <= 5000 and report.usage.total == 0


RUN = """
import json
import sys
from pathlib import Path
from fs_fedmllm.tools.judge import JudgeConfig, JudgeRow, judge_answers
config = JudgeConfig({model!r}, Path(sys.argv[2]), base_url=sys.argv[3], concurrency=4)
judge_answers([JudgeRow(**json.loads(line)) for line in open(sys.argv[1])], config)
"""


@pytest.mark.parametrize("after", [3, 11, 24])
def test_a_killed_run_resumes_and_pays_nothing_twice(tmp_path, after):
    rows = some_rows(40)
    source, cache = tmp_path / "rows.jsonl", tmp_path / "verdicts.jsonl"
    source.write_text("".join(json.dumps(vars(row)) + "\n" for row in rows))
    killed = threading.Event()

    def behave(request):
        if len(server.paid) >= after:
            killed.wait(LONG)
        return {}

    with JudgeServer(behave) as server:
        command = [sys.executable, "-c", RUN.format(model=MODEL), str(source), str(cache), server.url]
        process = subprocess.Popen(command, cwd=Path(__file__).resolve().parents[2])
        wait_until(lambda: len(server.paid) >= after or process.poll() is not None)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        killed.set()
        wait_until(lambda: not server.in_flight)
        events = [json.loads(line) for line in cache.read_bytes().splitlines()]
        kept = sum(event["event"] == "reply" for event in events)
        assert after - 4 <= kept < 40
        report = judge_answers(rows, config(server, tmp_path, concurrency=4))
    assert report.complete and report.requests == 40 - kept
    assert sum(row.cached for row in report.verdicts) == kept
    # What was in flight when the process died could not be kept; it is at most the concurrency, and it is counted.
    times = Counter(request["question"] for request in server.requests)
    again = sum(count - 1 for count in times.values())
    assert again <= 4 and max(times.values()) <= 2
    sent = sum(event["event"] == "sent" for event in events)
    assert (report.unconfirmed.total > 0) == (sent > kept) and again <= sent - kept
    # A gateway that honours idempotency keys sees that it is the same request.
    assert len({request["headers"]["idempotency-key"] for request in server.requests}) == 40


def test_the_key_is_written_nowhere(tmp_path, caplog):
    def leaky(request):
        return {"status": 500, "error": {"message": f"bad key {KEY}"}} if request["time"] == 0 else {}

    with caplog.at_level("INFO"), JudgeServer(leaky) as server:
        report = judge_answers(some_rows(3), config(server, tmp_path, max_retries=0))
        (tmp_path / "report.json").write_text(json.dumps(report.to_dict()))
    assert {row.state for row in report.verdicts} == {"failed"}
    assert server.requests[0]["headers"]["authorization"] == f"Bearer {KEY}"
    assert all(KEY not in path.read_text() for path in tmp_path.iterdir())
    assert KEY not in caplog.text and KEY not in repr(report)


def test_retry_after_in_all_its_forms():
    now = 1_700_000_000.0
    assert retry_after({"retry-after": "2.5"}, now) == 2.5
    assert retry_after({"retry-after-ms": "1500", "retry-after": "9"}, now) == 1.5
    assert retry_after({"retry-after": email.utils.formatdate(now + 30, usegmt=True)}, now) == 30
    assert retry_after({"retry-after": email.utils.formatdate(now - 30, usegmt=True)}, now) == 0
    for nonsense in ({}, {"retry-after": "soon"}, {"retry-after": "-3"}, {"retry-after": "nan"}):
        assert retry_after(nonsense, now) is None


def test_progress_reaches_the_end_and_no_rows_are_no_error(tmp_path):
    seen: list[tuple[int, int]] = []
    with JudgeServer() as server:
        judge_answers(some_rows(7), config(server, tmp_path), lambda done, total: seen.append((done, total)))
        empty = judge_answers([], config(server, tmp_path))
    assert seen[-1] == (7, 7) and [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert empty.complete and empty.scores.accuracy is None and empty.by_kind() == {}
