"""A hub on 127.0.0.1 that speaks the protocol of huggingface_hub 2.4, keeps repositories in memory, and can fail.

Repositories, branches, commits on top of a named parent, the preupload question, the LFS batch with its uploads and
verification, model information and downloads by revision. A fault waits for the first request that it fits.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "t" * 34


@dataclass
class Repo:
    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        oid = hashlib.sha1(f"{len(self.commits)} {message} {sorted(files)}".encode()).hexdigest()
        self.commits[oid] = files
        self.branches[branch] = oid
        self.messages.append(message)
        return oid

    def at(self, revision: str) -> str | None:
        return self.branches.get(revision) or (revision if revision in self.commits else None)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches[revision]]


@dataclass
class Fault:
    """What happens to the first ``times`` requests whose method and path match.

    ``status`` answers with an error; ``cut`` closes the connection before anything is done, ``cut_after`` when it is
    done and nobody has been told; ``call`` does something and lets the request go on.
    """

    method: str
    path: str
    status: int = 0
    kind: str = "status"
    times: int = 1
    call: Callable[[], None] | None = None
    met: int = 0


class Hub:
    """The state behind the server."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.lfs: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.seen: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.lock = threading.RLock()
        self.url = ""
        #: Whose token it is.
        self.who: dict[str, Any] = {"name": "someone", "orgs": [], "auth": {"accessToken": {"role": "write"}}}

    def fail(
        self, method: str, path: str, status: int = 0, kind: str = "status", times: int = 1, **more: Any
    ) -> Fault:
        fault = Fault(method, path, status, kind, times, **more)
        self.faults.append(fault)
        return fault

    def fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.method == method and re.search(fault.path, path):
                    fault.times -= 1
                    fault.met += 1
                    return fault
        return None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *arguments: Any) -> None:
        pass

    def _json(self, status: int, value: Any, **headers: str) -> None:
        self._bytes(status, json.dumps(value).encode(), **{"Content-Type": "application/json"} | headers)

    def _bytes(self, status: int, data: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _error(self, status: int, message: str, code: str = "") -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self._json(status, {"error": message}, **headers)

    def _cut(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(2)

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        hub = self.hub
        hub.seen.append((self.command, path))
        hub.headers.append(dict(self.headers))
        fault = hub.fault(self.command, path)
        if fault is not None:
            if fault.call is not None:
                fault.call()
            elif fault.kind == "cut":
                return self._cut()
            elif fault.kind == "status":
                return self._error(fault.status, f"made to fail with {fault.status}")
        with hub.lock:
            if fault is not None and fault.kind == "cut_after":
                self._bytes = lambda *a, **k: None  # type: ignore[method-assign]
                self._route(path, body)
                return self._cut()
            self._route(path, body)

    do_GET = do_HEAD = do_POST = do_PUT = _serve

    def _route(self, path: str, body: bytes) -> None:
        hub, method = self.hub, self.command
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if method == "PUT" and path.startswith("/lfs/"):
            oid = path.rpartition("/")[2]
            if hashlib.sha256(body).hexdigest() != oid:
                return self._error(400, "wrong content")
            hub.lfs[oid] = body
            return self._bytes(200, b"")
        if path == "/api/validate-yaml":
            return self._json(200, {"errors": [], "warnings": []})
        if path == "/api/whoami-v2":
            return self._json(200, hub.who) if known else self._error(401, "Invalid user token.")
        if method != "GET" and method != "HEAD" and not known:
            return self._error(401, "Invalid username or password.")
        if path == "/lfs-verify":
            asked = json.loads(body)
            return self._json(200 if len(hub.lfs.get(asked["oid"], b"")) == asked["size"] else 404, {})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else f"me/{asked['name']}"
            if name in hub.repos:
                return self._json(409, {"error": "You already created this model repo", "url": f"{hub.url}/{name}"})
            hub.repos[name] = Repo(asked.get("visibility") == "private" or bool(asked.get("private")))
            hub.repos[name].commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
            return self._json(200, {"url": f"{hub.url}/{name}", "name": name, "id": "1"})
        found = re.fullmatch(r"/(?:api/models/)?([\w.-]+/[\w.-]+?)(?:\.git)?(/.*)?", path)
        repo = hub.repos.get(found.group(1)) if found else None
        if repo is None or (repo.private and not known):
            return self._error(404 if known else 401, "Repository not found", "RepoNotFound")
        rest = found.group(2) or "" if found else ""
        if rest == "/info/lfs/objects/batch":
            return self._batch(json.loads(body))
        action, _, revision = rest.strip("/").partition("/")
        if action == "auth-check":
            return self._json(200, {}) if known else self._error(401, "Invalid username or password.")
        if action == "resolve":
            return self._resolve(repo, revision)
        if action == "branch":
            if revision in repo.branches:
                return self._error(409, "Reference already exists")
            repo.branches[revision] = repo.branches["main"]
            return self._json(201, {})
        revision = revision or "main"
        commit = repo.at(revision)
        if commit is None:
            return self._error(404, "Invalid rev id", "RevisionNotFound")
        if action in ("", "revision"):
            return self._info(found.group(1) if found else "", repo, commit)
        if action == "preupload":
            return self._preupload(repo, commit, json.loads(body))
        if action == "commit":
            return self._commit(repo, revision, commit, body)
        return self._error(404, f"no such thing: {method} {path}")

    def _info(self, name: str, repo: Repo, commit: str) -> None:
        siblings = [{"rfilename": file} for file in sorted(repo.commits[commit])]
        self._json(200, {"id": name, "modelId": name, "sha": commit, "private": repo.private, "gated": False,
                         "siblings": siblings, "tags": [], "downloads": 0, "likes": 0})  # fmt: skip

    def _preupload(self, repo: Repo, commit: str, asked: dict[str, Any]) -> None:
        files = []
        for item in asked["files"]:
            lfs = item["path"].endswith(".safetensors")
            there = repo.commits[commit].get(item["path"])
            oid = None
            if there is not None:
                blob = b"blob %d\0" % len(there) + there
                oid = hashlib.sha256(there).hexdigest() if lfs else hashlib.sha1(blob).hexdigest()
            files.append({"path": item["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False,
                          "oid": oid})  # fmt: skip
        self._json(200, {"files": files})

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = []
        for item in asked["objects"]:
            entry: dict[str, Any] = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.lfs:
                entry["actions"] = {
                    "upload": {"href": f"{self.hub.url}/lfs/{item['oid']}?signature=secret"},
                    "verify": {"href": f"{self.hub.url}/lfs-verify"},
                }
            objects.append(entry)
        self._json(200, {"transfer": "basic", "objects": objects})

    def _commit(self, repo: Repo, branch: str, head: str, body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines()]
        header = lines[0]["value"]
        if header.get("parentCommit") not in (None, head):
            return self._error(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repo.commits[head])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.lfs:
                    return self._error(400, "LFS pointer pointed to a file that does not exist")
                files[value["path"]] = self.hub.lfs[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        oid = repo.commit(branch, files, header["summary"])
        self._json(200, {"commitUrl": f"{self.hub.url}/some/repo/commit/{oid}", "commitOid": oid, "hookOutput": ""})

    def _resolve(self, repo: Repo, rest: str) -> None:
        names = [name for name in (*repo.branches, *repo.commits) if rest.startswith(name + "/")]
        if not names:
            return self._error(404, "Invalid rev id", "RevisionNotFound")
        name = max(names, key=len)
        commit = repo.at(name)
        assert commit is not None
        data = repo.commits[commit].get(rest[len(name) + 1 :])
        if data is None:
            return self._json(404, {}, **{"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        self._bytes(200, data, ETag=f'"{hashlib.sha256(data).hexdigest()}"', **{"X-Repo-Commit": commit})


@contextlib.contextmanager
def serve() -> Iterator[Hub]:
    """Run a hub for a block."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(
        target=server.serve_forever, args=(0.01,), daemon=True
    )  # seconds until a shutdown is seen
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
