"""Pushing through huggingface_hub to a server that fails: a repository has the old files or all of the new ones."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest
from hub_server import TOKEN, Hub
from waiting import LONG

from fs_fedmllm.config import HubConfig
from fs_fedmllm.errors import HubError
from fs_fedmllm.hub.publisher import Publisher, PushRefused, Release, push

REPO = "someone/adapter"
CONFIG = HubConfig(repo=REPO)


def release(round_index: int, **extra: bytes) -> Release:
    files = {
        "adapter_model.safetensors": b"tensors %d " % round_index * 50,
        "adapter_config.json": b'{"round": %d}' % round_index,
        "README.md": b"---\nlibrary_name: peft\n---\n\n# round %d\n" % round_index,
    }
    return Release(round_index, f"Round {round_index}", files | {k.replace("__", "/"): v for k, v in extra.items()})


def put(hub: Hub, given: Release, config: HubConfig = CONFIG, waits: list[float] | None = None) -> str:
    """Push without waiting."""
    return push(config, given, sleep=(waits if waits is not None else []).append)


def ours(hub: Hub, revision: str = "main") -> dict[str, bytes]:
    return {name: data for name, data in hub.repos[REPO].files(revision).items() if name != ".gitattributes"}


def test_a_push_makes_a_private_repository_and_one_commit(hub: Hub) -> None:
    commit = put(hub, release(1))
    repo = hub.repos[REPO]
    assert repo.private and repo.messages == ["initial commit", "Round 1"] and repo.branches["main"] == commit
    assert ours(hub) == release(1).files
    # What is gone from a release goes in the same commit; a branch of its own leaves main alone.
    put(hub, release(2, **{"checkpoint__state.json": b"{}", "checkpoint__round-2.safetensors": b"state 2"}))
    put(hub, release(3, **{"checkpoint__state.json": b"{}", "checkpoint__round-3.safetensors": b"state 3"}))
    assert "checkpoint/round-2.safetensors" not in ours(hub) and "checkpoint/round-3.safetensors" in ours(hub)
    put(hub, release(4))
    assert ours(hub) == release(4).files and len(repo.messages) == 5
    put(hub, release(5), HubConfig(repo=REPO, revision="trial"))
    assert ours(hub) == release(4).files and ours(hub, "trial") == release(5).files


def test_the_same_release_again_makes_no_commit(hub: Hub) -> None:
    first = put(hub, release(1))
    assert put(hub, release(1)) == first
    assert hub.repos[REPO].messages == ["initial commit", "Round 1"]


#: Every request of a push, and what can befall it.
PLACES = {
    "create": ("POST", "/api/repos/create"),
    "look": ("GET", f"/api/models/{REPO}"),
    "card": ("POST", "/api/validate-yaml"),
    "preupload": ("POST", "/preupload/"),
    "batch": ("POST", "/objects/batch"),
    "upload": ("PUT", "/lfs/"),
    "verify": ("POST", "/lfs-verify"),
    "commit": ("POST", "/commit/"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["500", "429", "cut", "cut_after"])
def test_a_passing_failure_anywhere_ends_with_the_new_state(hub: Hub, place: str, kind: str) -> None:
    put(hub, release(1))
    method, path = PLACES[place]
    fault = hub.fail(method, path, int(kind)) if kind.isdigit() else hub.fail(method, path, kind=kind)
    waits: list[float] = []
    put(hub, release(2), waits=waits)
    assert fault.met == 1
    assert ours(hub) == release(2).files
    # A commit whose answer was lost is found to be there, and not made twice.
    assert hub.repos[REPO].messages == ["initial commit", "Round 1", "Round 2"]


# "verify" apart: what was uploaded in the first attempt is there in the second, which needs no verification.
@pytest.mark.parametrize("place", [place for place in PLACES if place != "verify"])
@pytest.mark.parametrize("kind", ["500", "cut"])
def test_a_lasting_failure_anywhere_leaves_the_old_state(hub: Hub, place: str, kind: str) -> None:
    put(hub, release(1))
    method, path = PLACES[place]
    if kind == "cut":
        hub.fail(method, path, kind="cut", times=999)
    else:
        hub.fail(method, path, int(kind), times=999)
    with pytest.raises(HubError, match="could not be pushed to in 2 attempts") as raised:
        put(hub, release(2), HubConfig(repo=REPO, attempts=2))
    assert not isinstance(raised.value, PushRefused)
    assert ours(hub) == release(1).files
    assert "secret" not in str(raised.value) and TOKEN not in str(raised.value)


@pytest.mark.parametrize("place", ["look", "preupload", "batch", "commit"])
@pytest.mark.parametrize("status", [401, 403])
def test_missing_rights_are_not_tried_again(hub: Hub, place: str, status: int) -> None:
    put(hub, release(1))
    method, path = PLACES[place]
    hub.fail(method, path, status, times=999)
    waits: list[float] = []
    with pytest.raises(PushRefused, match="hf auth login"):
        put(hub, release(2), waits=waits)
    assert not waits and ours(hub) == release(1).files


def test_a_commit_of_somebody_else_in_between_is_kept(hub: Hub) -> None:
    put(hub, release(1))
    repo = hub.repos[REPO]

    def other() -> None:
        repo.commit("main", repo.files() | {"NOTES.md": b"by another hand"}, "Notes")

    hub.fail("POST", "/commit/", kind="call", call=other)
    waits: list[float] = []
    put(hub, release(2), waits=waits)
    assert len(waits) == 1 and repo.messages[-2:] == ["Notes", "Round 2"]
    assert ours(hub) == {**release(2).files, "NOTES.md": b"by another hand"}


def test_a_public_repository_is_not_pushed_to_by_default(hub: Hub) -> None:
    put(hub, release(1), HubConfig(repo=REPO, private=False))
    assert not hub.repos[REPO].private
    with pytest.raises(PushRefused, match="is public"):
        put(hub, release(2))
    assert ours(hub) == release(1).files


def test_the_token_is_the_store_s_and_is_told_nowhere(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        put(hub, release(1))
    sent = [headers for headers in hub.headers if headers.get("authorization", headers.get("Authorization"))]
    assert sent and TOKEN not in caplog.text
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PushRefused):
        put(hub, release(2))
    assert ours(hub) == release(1).files


def test_the_publisher_never_raises_and_names_what_failed(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    hub.fail("POST", "/commit/", 500, times=2)
    quick: Callable[[HubConfig, Release], str] = lambda config, given: push(config, given, sleep=lambda s: None)  # noqa: E731
    publisher = Publisher(HubConfig(repo=REPO, attempts=2), quick)
    publisher.offer(release(1))
    publisher.close()
    assert publisher.failed[0]["round"] == 1 and not publisher.published
    assert "HubPushFailed" in caplog.text and "Training continues" in caplog.text
    again = Publisher(HubConfig(repo=REPO, attempts=2), quick)
    again.offer(release(2))
    again.close()
    assert [entry["round"] for entry in again.published] == [2] and ours(hub) == release(2).files


def test_after_a_failure_only_the_newest_is_tried_and_after_a_refusal_none() -> None:
    started, go_on = threading.Event(), threading.Event()
    tried: list[int] = []

    def pushing(config: HubConfig, given: Release) -> str:
        tried.append(given.round)
        started.set()
        go_on.wait(LONG)
        if given.round == 1:
            raise HubError("down")
        raise PushRefused("no rights")

    publisher = Publisher(CONFIG, pushing)
    publisher.offer(release(1))
    assert started.wait(LONG)
    for number in (2, 3, 4):
        publisher.offer(release(number))
    go_on.set()
    publisher.close()
    assert tried == [1, 4] and [entry["round"] for entry in publisher.failed] == [1, 4]
    publisher.offer(release(5))
    assert tried == [1, 4]
