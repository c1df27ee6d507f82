"""What a client says when it joins: version, configuration, split, base weights and processor, kinds of rows."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from fs_fedmllm.distributed import protocol as p
from fs_fedmllm.distributed.agreement import differences
from fs_fedmllm.distributed.messages import shown
from fs_fedmllm.version import VERSION


class Joining:
    """What every client of a run must have alike.

    Args:
        agreed: by key, see :mod:`fs_fedmllm.distributed.agreement`.
        manifest: sha256 of the split that the clients' folders come from; empty where nobody dealt rows.
        base: fingerprint of the base's weights; empty takes that of the first client that joins.
        processor: sha256 of the files of chat template, tokenizer and processors, by name; empty takes those of the
            first client that joins.
        told: what clients must say of their rows, see :func:`fs_fedmllm.config.missing_modalities.told_of_rows`.
    """

    def __init__(self, agreed: Mapping[str, Any], manifest: str, base: str, processor: Mapping[str, str], told: str):
        self._agreed = agreed
        self._manifest = manifest
        self._base, self._base_of = base, "the server"
        self._processor, self._processor_of = dict(processor), "the server"
        self._told = told
        self._lock = threading.Lock()

    def other_run(self, client: int, header: Mapping[str, Any]) -> tuple[str, str]:
        """Whether a client comes from another run, by its version, configuration or split.

        Returns:
            One word and a sentence for it; both empty if it does not.
        """
        version = p.text(header, "version", "")
        if version != VERSION:
            return "version", (
                f"Client {client} has version {shown(version) if version else 'that does not say its number'} of "
                f"fs-fedmllm, and the server {VERSION!r}. Install the same version on every site."
            )
        theirs = header.get("agreed")
        found = differences(self._agreed, theirs if isinstance(theirs, dict) else {})
        if found:
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            return "config", (
                f"Client {client} has another configuration: {'; '.join(found[:3])}{more}. Use the server's file on "
                "every site."
            )
        manifest = p.text(header, "manifest", "")
        if manifest and self._manifest and manifest != self._manifest:
            return "data", (
                f"Client {client}'s folder comes from another split ({manifest[:12]}) than the server's "
                f"({self._manifest[:12]}). Write all folders with one data split."
            )
        return "", ""

    def other_base(self, client: int, theirs: str) -> str:
        """What is wrong with a client's base weights; empty if nothing is.

        Args:
            client: id.
            theirs: fingerprint; empty where the client has none to compare.
        """
        with self._lock:
            if theirs and not self._base:
                self._base, self._base_of = theirs, f"client {client}"
            ours, whose = self._base, self._base_of
        if not theirs or theirs == ours:
            return ""
        return (
            f"The base weights of client {client} (fingerprint {shown(theirs[:12])}) are not those of {whose} "
            f"({ours[:12]}), so their adapters cannot be averaged. Compare model.fedmllm.path, model.fedmllm.revision "
            "and the sha256 of the checkpoint's weight files on both; each site's events.jsonl has its fingerprint."
        )

    def other_processor(self, client: int, theirs: Mapping[str, str]) -> str:
        """What is wrong with the files by which a client turns rows into tokens and pixels; empty if nothing is.

        Args:
            client: id.
            theirs: file's name -> sha256, as :func:`fs_fedmllm.models.fingerprint.processor_files` has them. A file
                that one side does not know is not compared.
        """
        with self._lock:
            if theirs and not self._processor:
                self._processor, self._processor_of = dict(theirs), f"client {client}"
            ours, whose = self._processor, self._processor_of
        differing = [name for name in sorted(ours.keys() & theirs.keys()) if ours[name] != theirs[name]]
        if not differing:
            return ""
        names = ", ".join(str(shown(name)).strip("'") for name in differing[:3])
        return (
            f"Client {client} and {whose} differ in {names}, so the same row would be other tokens or pixels for one "
            "than for the other. Give every site the same files in model.fedmllm.path (of a hub's model, the same "
            "model.fedmllm.revision)."
        )

    def presence(self, header: Mapping[str, Any], rows: int) -> dict[str, int]:
        """What a client says that its rows show, where the run asks; empty where it does not.

        Raises:
            ProtocolError: it says nothing, or what cannot be.
        """
        if not self._told:
            return {}
        said = header.get("presence")
        known = ("both", "image", "neither", "text")
        if not isinstance(said, dict) or any(
            name not in known or type(count) is not int or not 0 <= count <= rows for name, count in said.items()
        ):
            raise p.ProtocolError(f"presence must say how many of {rows} rows show {', '.join(known)}.")
        counts = {name: said[name] for name in known if name in said}
        if not sum(counts.values()) or (self._told == "counts" and sum(counts.values()) != rows):
            raise p.ProtocolError(f"presence counts {sum(counts.values())} rows, of {rows}.")
        return counts
