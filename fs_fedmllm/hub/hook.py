"""What a run's session does about the hub: it offers a release when one is due."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from fs_fedmllm.config import Config, to_mapping
from fs_fedmllm.errors import FedMLLMError
from fs_fedmllm.hub.names import parse_reference
from fs_fedmllm.hub.publisher import Publisher
from fs_fedmllm.hub.release import make_release, read_manifest, require_public_base
from fs_fedmllm.models.adapter_folder import describe
from fs_fedmllm.models.export import adapter_bytes, adapter_config_bytes, base_name
from fs_fedmllm.rounds.federation import Federation

logger = logging.getLogger(__name__)


class HubHook:
    """Publishes from the server's session.

    Args:
        federation: the run's pieces.
        folder: the run folder.
        publisher: pushes; None makes one.

    Raises:
        HubError: the repository's name is none, or the base has no public id: known before the first round.
    """

    def __init__(self, federation: Federation, folder: Path, publisher: Publisher | None = None):
        self.config: Config = federation.config
        self._hub = hub = self.config.fedmllm.hub
        parse_reference(hub.repo, "fedmllm.hub.repo")
        require_public_base(base_name(federation.mllm.source, hub.base_model))
        self.federation = federation
        self.folder = folder
        self.publisher = publisher or Publisher(hub)
        self._best_pushed: int | None = None

    def publish(
        self,
        done: int,
        params: Mapping[str, torch.Tensor],
        best: Mapping[str, torch.Tensor],
        results: Callable[[], dict[str, Any]],
        save: Callable[[], None],
        *,
        closing: dict[str, Any] | None = None,
        average: Mapping[str, torch.Tensor] = MappingProxyType({}),
    ) -> dict[str, Any]:
        """Offer a release, if this round is due; at the end offer the closing one and wait for the publisher.

        Args:
            done: rounds done.
            params: the global adapter.
            best: the best one so far.
            results: gives the figures so far, as in results.json.
            save: saves the run's state in its checkpoint folder.
            closing: the results at the end, as in results.json; None while the run goes on.
            average: the mean of the last rounds' adapters at the end; empty where the run keeps none.

        Returns:
            At the end, what results.json says of the hub.
        """
        if closing is not None:
            return self._close(params, best, closing, average)
        hub = self._hub
        if hub.push == "end" or done >= self.config.federate.total_round_num:
            return {}
        figures = results()
        if hub.push == "every":
            if done % hub.every == 0:
                self._offer(done, params, figures, save)
            return {}
        entry = figures["best"]
        if entry is not None and entry["round"] > 0 and entry["round"] != self._best_pushed:
            self._best_pushed = entry["round"]
            self._offer(entry["round"], best, figures, save)
        return {}

    def _close(
        self,
        params: Mapping[str, torch.Tensor],
        best: Mapping[str, torch.Tensor],
        results: dict[str, Any],
        average: Mapping[str, torch.Tensor],
    ) -> dict[str, Any]:
        hub, entry = self._hub, results["best"]
        if hub.average and average:
            self._offer(results["rounds"], average, results, None, averaged=True)
        elif hub.push == "every" or entry is None or not best:
            self._offer(results["rounds"], params, results, None)
        else:
            self._offer(entry["round"], best, results, None)
        self.publisher.close()
        return {"repo": hub.repo, "published": self.publisher.published, "failed": self.publisher.failed}

    def _offer(
        self,
        done: int,
        state: Mapping[str, torch.Tensor],
        results: dict[str, Any],
        save: Callable[[], None] | None,
        averaged: bool = False,
    ) -> None:
        hub = self._hub
        try:
            extra: dict[str, bytes] = {}
            if hub.checkpoint and save is not None:
                save()
                files = [f for f in (self.folder / "checkpoint").iterdir() if f.suffix in (".json", ".safetensors")]
                extra = {f"checkpoint/{file.name}": file.read_bytes() for file in files}
                extra["metrics.jsonl"] = (self.folder / "metrics.jsonl").read_bytes()
            closing = save is None and done == results["rounds"] and not averaged
            release = make_release(
                repo=hub.repo,
                config=to_mapping(self.config),
                results=results,
                manifest=read_manifest(self.folder),
                round_index=done,
                tensors=adapter_bytes(dict(state)),
                adapter_config=adapter_config_bytes(self.federation.mllm, hub.base_model),
                description=describe(self.config, self.federation.data.template),
                licence=hub.licence,
                predictions=self.folder / "predictions.jsonl" if closing else None,
                extra=extra,
                averaged=averaged,
            )
        except (FedMLLMError, OSError) as error:  # a card that cannot be written must not end a run either
            logger.warning("HubPushFailed: round %d was not prepared for %s: %s", done, hub.repo, error)
            self.publisher.failed.append({"round": done, "reason": str(error)})
            return
        self.publisher.offer(release)
