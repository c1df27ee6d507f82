"""An OpenAI-compatible endpoint on 127.0.0.1 that counts what it is asked and misbehaves on demand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class JudgeServer:
    """Answers by ``behave(request)``, a mapping with any of the keys below.

    ``status``, ``headers``, ``error`` (a refusal); ``text`` (the judge's message); ``usage`` (None leaves it out);
    ``raw`` (the body as it is); ``cut`` (bytes announced and not sent); ``delay`` (seconds before the reply).
    Every request has ``question`` (what was asked), ``time`` (how often that was asked before) and ``body``.
    """

    def __init__(self, behave: Callable[[dict[str, Any]], dict[str, Any]] | None = None):
        self.behave = behave or (lambda request: {})
        self.requests: list[dict[str, Any]] = []
        self.paid: list[str] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                pass

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with outer.lock:
                    question = question_of(body)
                    times = sum(r["question"] == question for r in outer.requests)
                    request = {
                        "question": question,
                        "time": times,
                        "body": body,
                        "headers": {k.lower(): v for k, v in self.headers.items()},
                    }
                    request["at"] = time.monotonic()
                    outer.requests.append(request)
                    outer.in_flight += 1
                    outer.most_in_flight = max(outer.most_in_flight, outer.in_flight)
                try:
                    self.answer(question, outer.behave(request), body)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True
                finally:
                    with outer.lock:
                        outer.in_flight -= 1

            def answer(self, question: str, how: dict[str, Any], body: dict[str, Any]) -> None:
                time.sleep(how.get("delay", 0))
                status = how.get("status", 200)
                if "raw" in how:
                    data = how["raw"]
                elif status != 200:
                    data = json.dumps({"error": how.get("error", {"message": "no"})}).encode()
                else:
                    data = json.dumps(completion(body, how)).encode()
                    with outer.lock:
                        outer.paid.append(question)
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data) + how.get("cut", 0)))
                for name, value in how.get("headers", {}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)
                if how.get("cut"):
                    self.close_connection = True

        class Server(ThreadingHTTPServer):
            request_queue_size = 256
            daemon_threads = True

            def handle_error(self, *args: Any) -> None:
                pass  # a client that was killed or ran out of patience

        self.server = Server(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self) -> JudgeServer:
        self.thread.start()
        return self

    def __exit__(self, *args: Any) -> None:
        self.server.shutdown()
        self.server.server_close()


def question_of(body: dict[str, Any]) -> str:
    content = body["messages"][-1]["content"]
    if content.startswith("{"):
        return json.loads(content)["question"]
    return content.split("Question: ")[1].split("\n")[0]


def completion(body: dict[str, Any], how: dict[str, Any]) -> dict[str, Any]:
    """By default an answer is right if it contains its reference."""
    content = body["messages"][-1]["content"]
    if content.startswith("{"):
        fields = json.loads(content)
        right = fields["correct_answer"] in fields["answer_to_grade"]
        text = json.dumps({"reason": "because", "correct": right})
    else:
        reference = content.split("correct answer(ground truth): ")[1].split("\n")[0]
        answer = content.split("answer to be determined: ")[1].split("\n")[0]
        text = f"Correctness: {int(reference in answer)}"
    reply: dict[str, Any] = {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": how.get("model", body["model"]),
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": how.get("text", text)},
            }
        ],
        "usage": how.get("usage", {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}),
    }
    if reply["usage"] is None:
        del reply["usage"]
    return reply
