"""What the hub would refuse is said before a model is loaded, on every engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub_server import Hub, Repo

from fs_fedmllm import config as schema
from fs_fedmllm.distributed.run_site import run_server
from fs_fedmllm.errors import HubError, ModelError
from fs_fedmllm.hosts.federatedscope import runtime
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.runs.simulation import run

REPO = "someone/triage"
Make = Callable[..., schema.Config]


class Loaded(Exception):
    """The model would be loaded now."""


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*_: Any) -> None:
        raise Loaded

    monkeypatch.setattr(Federation, "build", build)
    monkeypatch.setattr(runtime, "_current", None)


def refused(config: schema.Config, said: str, tmp_path: Path) -> None:
    with pytest.raises(HubError, match=said) as error:
        run(config)
    assert "\n" not in str(error.value) and "hf_t" not in str(error.value)
    with pytest.raises(HubError, match=said):
        runtime.start(config, str(tmp_path / "host"))
    federate = dataclasses.replace(config.federate, mode="distributed")
    with pytest.raises(HubError, match=said):
        run_server(dataclasses.replace(config, federate=federate, expname="server"))


def test_a_token_and_a_name_that_fit_let_the_run_begin(hub: Hub, short_config: Make, tmp_path: Path) -> None:
    config = short_config("cross_i3t7", "fedmllm.hub.repo", REPO)
    with pytest.raises(Loaded):
        run(config)
    assert runtime.start(config, str(tmp_path / "host"))._federation is None
    assert not hub.repos, "asking makes nothing"
    hub.repos[REPO] = Repo(True)
    hub.repos[REPO].commit("main", {}, "first")
    with pytest.raises(Loaded):
        run(config)


def test_a_hub_that_cannot_tell_is_no_reason_to_stop(hub: Hub, short_config: Make) -> None:
    hub.fail("GET", "/api/whoami-v2", 404)
    with pytest.raises(Loaded):
        run(short_config("cross_i3t7", "fedmllm.hub.repo", REPO))


def test_no_token_a_reader_s_token_and_a_foreign_name(
    hub: Hub, short_config: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = short_config("cross_i3t7", "fedmllm.hub.repo", REPO)
    hub.who["auth"]["accessToken"]["role"] = "read"
    refused(config, "may read only", tmp_path)
    hub.who["auth"]["accessToken"]["role"] = "write"
    refused(short_config("cross_i3t7", "fedmllm.hub.repo", "else/triage"), "cannot make it.*someone", tmp_path)
    hub.who["orgs"] = [{"name": "else"}]
    with pytest.raises(Loaded):
        run(short_config("cross_i3t7", "fedmllm.hub.repo", "else/triage"))
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    refused(config, "would refuse the push.*Log in", tmp_path)
    monkeypatch.delenv("HF_TOKEN")
    refused(config, "no token to push with", tmp_path)


def test_a_repository_that_others_own_or_everybody_sees(hub: Hub, short_config: Make, tmp_path: Path) -> None:
    hub.repos[REPO] = Repo(True)
    hub.repos[REPO].commit("main", {}, "first")
    config = short_config("cross_i3t7", "fedmllm.hub.repo", REPO)
    hub.fail("GET", "/auth-check/write", 403, times=3)
    refused(config, "would refuse the push", tmp_path)
    hub.repos[REPO].private = False
    refused(config, "is public", tmp_path)


def test_a_hub_that_is_not_there(
    hub: Hub, short_config: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    refused(short_config("cross_i3t7", "fedmllm.hub.repo", REPO), "does not answer.*fs-fedmllm push", tmp_path)
    refused(short_config("cross_i3t7", "fedmllm.hub.resume_from", REPO), "cannot be fetched", tmp_path)


def test_what_a_run_starts_from_is_looked_up_too(hub: Hub, short_config: Make, tmp_path: Path) -> None:
    hub.repos[REPO] = Repo(True)
    hub.repos[REPO].commit("main", {"README.md": b""}, "first")
    refused(short_config("cross_i3t7", "fedmllm.hub.resume_from", REPO), "holds no checkpoint", tmp_path)
    refused(short_config("cross_i3t7", "federate.restore_from", f"hub:{REPO}"), "only adapters in", tmp_path)


def test_a_base_without_a_public_name(hub: Hub, short_config: Make, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    words = ["fedmllm.hub.repo", REPO, "model.fedmllm.path", str(tmp_path / "base")]
    refused(short_config("cross_i3t7", *words), "fedmllm.hub.base_model", tmp_path)


def test_an_adapter_of_this_machine_that_is_not_there(short_config: Make, tmp_path: Path) -> None:
    config = short_config("cross_i3t7", "federate.restore_from", str(tmp_path / "absent"))
    with pytest.raises(ModelError, match="cannot be read as a safetensors adapter"):
        run(config)
