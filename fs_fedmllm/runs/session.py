"""The book-keeping of a run, the same on every engine: rounds, evaluations, the best adapter, files, resume."""

from __future__ import annotations

import functools
import logging
import math
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from fs_fedmllm.aggregators import Aggregator
from fs_fedmllm.algorithms import State
from fs_fedmllm.config import config_digest
from fs_fedmllm.config.profiles import profile_switches
from fs_fedmllm.errors import UpdateError
from fs_fedmllm.evaluation.predictions import FILE as PREDICTIONS
from fs_fedmllm.evaluation.predictions import Prediction, of_client, write_predictions
from fs_fedmllm.evaluation.question_only import question_only
from fs_fedmllm.evaluation.slices import slice_figures
from fs_fedmllm.files.atomic import write_atomically
from fs_fedmllm.hub.fetch import fetch_checkpoint, restore
from fs_fedmllm.hub.hook import HubHook
from fs_fedmllm.models.adapter_folder import NAME as DESCRIPTION
from fs_fedmllm.models.adapter_folder import describe
from fs_fedmllm.models.export import adapter_bytes, write_adapter
from fs_fedmllm.privacy.central import CentralPrivacy
from fs_fedmllm.privacy.masked_sum import MaskedSum
from fs_fedmllm.rounds.federation import Federation, Update
from fs_fedmllm.rounds.schedule import evaluation_due, slices_due
from fs_fedmllm.runs.belongings import belongings
from fs_fedmllm.runs.checkpoint import RunState, load_checkpoint, remove_checkpoint, save_checkpoint
from fs_fedmllm.runs.provenance import commit
from fs_fedmllm.runs.resumption import check_fit, identity
from fs_fedmllm.runs.run_folder import RunFolder
from fs_fedmllm.scenarios.federated_data import evaluated_rows
from fs_fedmllm.scenarios.manifest import write_manifest
from fs_fedmllm.version import VERSION

logger = logging.getLogger(__name__)

#: Metrics for which less is better.
LOWER_IS_BETTER = ("loss",)


class Listener(Protocol):
    """Whoever shows the run's progress."""

    def evaluated(self, done_rounds: int, figures: dict[str, float]) -> None:
        """After an evaluation."""

    def trained(self, round_index: int, update: Update) -> None:
        """After a client's turn."""

    def refused(self, round_index: int, client: int, reason: str) -> None:
        """After an update was refused."""

    def round_ended(self, state: RunState, figures: dict[str, Any]) -> None:
        """After the server's step; ``state.round`` rounds are done."""

    def resumed(self, turns: int) -> None:
        """Before a run goes on that has taken so many client turns."""


class Silent:
    """A listener that shows nothing."""

    def resumed(self, turns: int) -> None:
        """Nothing."""

    def evaluated(self, done_rounds: int, figures: dict[str, float]) -> None:
        """Nothing."""

    def trained(self, round_index: int, update: Update) -> None:
        """Nothing."""

    def refused(self, round_index: int, client: int, reason: str) -> None:
        """Nothing."""

    def round_ended(self, state: RunState, figures: dict[str, Any]) -> None:
        """Nothing."""


class Session:
    """One run.

    Args:
        federation: the pieces.
        folder: where files go.
        listener: shows progress.
        started: ``time.perf_counter()`` of the command's start, so that loading counts in the closing table.
    """

    def __init__(self, federation: Federation, folder: RunFolder, listener: Listener, started: float | None = None):
        self.federation = federation
        self.config = federation.config
        self.folder = folder
        self.listener = listener
        self._started = time.perf_counter() if started is None else started
        self._digest = config_digest(self.config)
        self._identity = identity(self.config, federation.data)
        self._belongs = belongings(self.config, federation.data)
        self._mean: Aggregator | None = None
        #: The adapter that the round's clients received, and the bytes that they sent back.
        self._start: State = {}
        self._uploaded = 0
        self._sizes: dict[Any, int] = {}
        self._accepted: list[int] = []
        self._kept: dict[int, State] = {}
        #: ``client_state`` of turns that ran here, for an engine whose messages do not hold it.
        self.kept_by_turn: dict[int, State] = {}
        self._carried = {"total": 0.0, "training": 0.0, "evaluation": 0.0}
        self._training_seconds = 0.0
        self._round_started, self._round_training = self._started, 0.0
        self.last_figures: dict[str, float] = {}
        self._predictions: list[Prediction] = []
        # Before the folder is opened: a row that is too long, or a repository that cannot be pushed to, is better
        # known now.
        self._shortened = federation.shortened_rows()
        self.hub = HubHook(federation, folder.path) if self.config.fedmllm.hub.repo else None
        self.state = self._open()
        self.dp: CentralPrivacy | None = None
        if self.config.fedmllm.privacy.dp.enabled:
            self.dp = CentralPrivacy(self.config, folder.path / "privacy.jsonl", self.state.round)

    def _say_deviations(self) -> None:
        """A run that follows anything but the corrected rules says so in its log."""
        fixed = profile_switches("fixed")
        chosen = {name: value for name, value in self.config.switches.items() if value != fixed[name]}
        if self.config.fedmllm.profile != "fixed" or chosen:
            listed = ", ".join(f"{name}: {value}" for name, value in sorted(chosen.items()))
            logger.warning(
                "Profile %s; not as in 'fixed': %s.", self.config.fedmllm.profile, listed or "scenario only"
            )
        if not self.config.federate.share_local_model:
            logger.warning("federate.share_local_model False changes nothing: clients always share the base model.")
        model = self.config.model.fedmllm
        alone = not model.modules_to_save and set(model.federated) == {"lora"}
        if chosen.get("federated_parts") == "lora_and_modules" and alone:
            logger.warning(
                "The authors also train and send the token embeddings and the resampler; model.fedmllm.federated "
                "names neither, so only LoRA is sent. Set it to [lora, embeddings, resampler] where the model has "
                "them."
            )

    def _open(self) -> RunState:
        self._say_deviations()
        if self.config.federate.save_to:  # a folder that cannot be made is better known now than after the last round
            Path(self.config.federate.save_to).parent.mkdir(parents=True, exist_ok=True)
        # Before anything is written: another run's folder must stay as it is.
        origin = self.config.fedmllm.hub.resume_from
        if origin and not (self.folder.path / "checkpoint" / "state.json").is_file():
            logger.info("Going on from %s, commit %s.", origin, fetch_checkpoint(origin, self.folder.path))
        state = self.folder.path / "checkpoint"
        saved = load_checkpoint(state, self._identity, self._belongs)
        params = self.federation.initial_state()
        server = self.federation.server.init(params) if self.federation.server is not None else {}
        if saved is not None:
            check_fit(state, saved, self.config, params, server)
        self.folder.write_config()
        if not self.federation.data.split:  # a server of a distributed run does not know its clients' rows
            write_manifest(self.federation.data.manifest, self.folder.path / "manifest.json")
        if saved is not None:
            if origin:  # a local checkpoint was announced before the model was loaded
                total = self.config.federate.total_round_num
                logger.warning("Resuming after round %d of %d (%s).", saved.round, total, self.folder.path)
            self._carried = saved.figures["seconds"]
            self.folder.keep_lines(saved.lines)
            self.listener.resumed(saved.figures["turns"])
            return saved
        self.folder.keep_lines(0)
        if self.config.federate.restore_from:
            slots = self.federation.mllm.model.peft_config["default"].to_dict()
            params = restore(self.config.federate.restore_from, params, slots)
            server = self.federation.server.init(params) if self.federation.server is not None else {}
        figures: dict[str, Any] = {"evaluations": [], "refused": [], "participants": [], "bytes_sent": 0}
        figures["turns"] = 0
        return RunState(0, params, server, {}, figures)

    @property
    def params(self) -> State:
        """The global adapter."""
        return self.state.params

    def wire_bytes(self, tensors: Mapping[str, torch.Tensor]) -> int:
        """Bytes of tensors on the wire: the size of their safetensors file, which depends on shapes alone."""
        layout = tuple((name, tensor.dtype, tensor.shape) for name, tensor in tensors.items())
        if layout not in self._sizes:
            self._sizes[layout] = len(adapter_bytes(dict(tensors)))
        return self._sizes[layout]

    @property
    def participants(self) -> list[list[int]]:
        """Clients whose updates went into each round's rule, ascending; it may have left some of them out."""
        found: list[list[int]] = self.state.figures["participants"]
        return found

    def last_accepted(self, client: int) -> int:
        """The last round that used an update of this client, or -1."""
        refused = {(entry["round"], entry["client"]) for entry in self.state.figures["refused"]}
        rounds = range(len(self.participants) - 1, -1, -1)
        used = (index for index in rounds if client in self.participants[index] and (index, client) not in refused)
        return next(used, -1)

    @property
    def adapter_size(self) -> int:
        """Bytes of the adapter's safetensors file."""
        return self.wire_bytes(self.state.params)

    @property
    def broadcast(self) -> State:
        """What the server sends to the clients of this round."""
        return self.federation.broadcast(self.state.params, self.state.server)

    @property
    def received(self) -> State:
        """The adapter as the clients of this round receive it, in float32."""
        sent = self.broadcast
        return {name: sent[name].float() for name in self.state.params}

    @property
    def upload_like(self) -> State:
        """The names, dtypes and shapes of what a client of this round may send back."""
        return self.federation.upload_like(self.received)

    def carried(self, client: int) -> State:
        """What a client keeps from its last accepted turn."""
        return self.state.clients.get(client, {})

    def _record(self, kind: str, round_index: int, figures: dict[str, Any]) -> None:
        self.folder.record(kind, round_index, figures)
        self.state.lines += 1

    # Rounds -----------------------------------------------------------------------------------------------------

    def zero_shot(self) -> None:
        """Evaluate before round 0, unless a resumed run has done so."""
        if self.config.fedmllm.eval.zero_shot and not self.state.figures["evaluations"]:
            self.evaluate(0)

    def begin_round(self) -> list[int]:
        """The clients of the next round."""
        self._start = self.received
        self._uploaded = 0
        self._kept, self.kept_by_turn = {}, {}
        self._accepted = []
        self._round_started, self._round_training = time.perf_counter(), self._training_seconds
        # Not a function of the seed under differential privacy: see privacy.sampling.
        clients = self.dp.draw_clients() if self.dp else self.federation.sample_clients(self.state.round)
        self._mean = self.federation.open_mean(self._start, clients)
        return clients

    def turn(self, client: int, start: Mapping[str, torch.Tensor] | None = None) -> Update | None:
        """Let a client take its turn; None if its training failed (it is named and left out).

        Args:
            client: id.
            start: what it starts from; None takes what the server sends in this round.
        """
        try:
            update = self.federation.client_turn(
                client, self.state.round, self.broadcast if start is None else start, self.carried(client)
            )
        except UpdateError as error:
            self._refuse(client, f"client {client}: {error}")
            return None
        if update.client_state:
            self.kept_by_turn[client] = update.client_state
        self.count_turn(update)
        return update

    def take(self, outcome: Update | tuple[int, UpdateError]) -> None:
        """Record a turn that ran elsewhere, and add it to the round's sum. Ascending client order."""
        if isinstance(outcome, Update):
            self.count_turn(outcome)
            self.accept(outcome)
        else:
            self._refuse(outcome[0], f"client {outcome[0]}: {outcome[1]}")

    def count_turn(self, update: Update) -> None:
        """Record a turn's figures: the task loss, the regulariser and the gradient norm (Figures 13 and 14)."""
        log = update.log
        figures = {"loss": log.loss, "penalty": log.penalty, "grad_norm": log.grad_norm}
        figures |= {"steps": log.steps, "rows": log.rows}
        self._training_seconds += log.seconds
        self.state.figures["turns"] += 1
        self._record(
            "turn",
            self.state.round,
            # Under secure aggregation between sites, a client keeps the figures of its own data.
            {"client": update.client, **{name: value for name, value in figures.items() if not math.isnan(value)}},
        )
        self.listener.trained(self.state.round, update)

    def accept(self, update: Update) -> bool:
        """Check an update and add it to the round's sum; False if it is refused. Ascending client order."""
        assert self._mean is not None
        self._uploaded += self.wire_bytes(update.state)
        try:
            self.federation.accept(self._mean, self._start, update)
        except UpdateError as error:
            self._refuse(update.client, str(error))
            return False
        self._accepted.append(update.client)
        if update.client_state:
            self._kept[update.client] = update.client_state
        return True

    def take_sum(self, mean: State, clients: list[int]) -> None:
        """Take a round's mean from clients that only showed their sum.

        Args:
            mean: name -> mean difference to what the clients received.
            clients: whose updates are in it, ascending.
        """
        self._mean = MaskedSum(mean)
        self._accepted = list(clients)

    def _refuse(self, client: int, reason: str) -> None:
        logger.warning("Round %d: update refused: %s", self.state.round, reason)
        self.state.figures["refused"].append({"round": self.state.round, "client": client, "reason": reason})
        self.listener.refused(self.state.round, client, reason)

    def end_round(self, clients: int, sent: int | None = None) -> None:
        """Take the server's step and move on.

        Args:
            clients: how many were sent the adapter.
            sent: bytes that went both ways in this round, where somebody counted them.

        Raises:
            UpdateError: no valid update is left; the last good adapter is saved first.
        """
        assert self._mean is not None
        release = functools.partial(self.dp.release, self.state.round) if self.dp else None
        try:
            params, server = self.federation.server_step(
                self.state.params, self.state.server, self._mean, release, accepted=len(self._accepted)
            )
        except UpdateError as error:
            self.save_adapters()
            names = "; ".join(r["reason"] for r in self.state.figures["refused"] if r["round"] == self.state.round)
            raise UpdateError(
                f"Round {self.state.round}: {error} {names} The last good adapter is in {self.folder.path}/adapter."
            ) from error
        moved = clients * self.wire_bytes(self.broadcast) + self._uploaded if sent is None else sent
        for client, reason in self._mean.refused.items():
            self._kept.pop(client, None)
            self._refuse(client, reason)
        self.state.params, self.state.server = params, server
        # Only now: a client whose update was refused stays where it was, and so does what it keeps.
        self.state.clients = self.state.clients | self._kept
        self.state.figures["bytes_sent"] += moved
        self.state.figures["participants"].append(self._accepted)
        seconds = time.perf_counter() - self._round_started
        # Turns that run side by side add up to more than the time that passes.
        training = min(self._training_seconds - self._round_training, seconds)
        self._training_seconds = self._round_training + training
        figures = {
            "clients": clients,
            "seconds": seconds,
            "training_seconds": training,
            "bytes_sent": moved,
            **self._mean.figures,
            **({"epsilon": self.dp.epsilon()} if self.dp else {}),
        }
        self._record("round", self.state.round, figures)
        self.state.round += 1
        # What the round began with goes too: evaluations and checkpoints need one adapter, not two.
        self._mean, self._kept, self._start = None, {}, {}
        self.listener.round_ended(self.state, figures)

    def evaluation_due(self) -> bool:
        """Whether the round that just ended is to be evaluated; the last one always is."""
        return evaluation_due(self.config, self.state.round)

    def evaluate(self, done_rounds: int) -> dict[str, float]:
        """Evaluate the global adapter and keep it if it is the best so far."""
        kept: list[Prediction] = []
        slices = slices_due(self.config, done_rounds)
        figures = self.federation.evaluate(self.state.params, slices=slices, keep=kept)
        self._predictions = kept
        self.note_evaluation(done_rounds, figures)
        return figures

    def evaluate_local(self, states: Mapping[int, Mapping[str, torch.Tensor]]) -> dict[str, float]:
        """The baseline Local: evaluate each client's own adapter and report the uniform mean of their metrics."""
        done = self.state.round
        per_client, self._predictions = [], []
        for client, state in sorted(states.items()):
            own: list[Prediction] = []
            figures = self.federation.evaluate(state, slices=slices_due(self.config, done), keep=own)
            self._predictions += of_client(own, client)
            self.folder.write_json(f"clients/client_{client}.json", {"rounds": done, **figures})
            write_adapter(self.folder.path / "clients" / f"client_{client}", self.federation.mllm, dict(state))
            per_client.append(figures)
        names = [name for name in per_client[0] if all(name in figures for figures in per_client)]
        means = {name: sum(figures[name] for figures in per_client) / len(per_client) for name in names}
        self.note_evaluation(done, means)
        return means

    def note_evaluation(self, done_rounds: int, figures: dict[str, float]) -> None:
        """Record an evaluation's figures."""
        self._record("evaluation", done_rounds, dict(figures))
        self.last_figures = figures
        entry = {"round": done_rounds, **figures}
        evaluations = self.state.figures["evaluations"]
        best = self.best_entry()
        evaluations.append(entry)
        if best is None or self._better(entry, best):
            self.state.best = dict(self.state.params)
        self.listener.evaluated(done_rounds, figures)

    def _better(self, entry: dict[str, Any], than: dict[str, Any]) -> bool:
        name = self.config.eval.best_res_update_round_wise_key
        if name not in entry:
            known = ", ".join(k for k in entry if k != "round")
            raise UpdateError(f"eval.best_res_update_round_wise_key is {name!r}, but the evaluation has {known}.")
        if name.partition("_")[2] in LOWER_IS_BETTER:
            return bool(entry[name] < than[name])
        return bool(entry[name] > than[name])

    def best_entry(self) -> dict[str, Any] | None:
        """The best evaluation so far; the earliest of equals."""
        best: dict[str, Any] | None = None
        for entry in self.state.figures["evaluations"]:
            if best is None or self._better(entry, best):
                best = entry
        return best

    def checkpoint(self) -> None:
        """Save the run's state, if this round is due."""
        every = self.config.fedmllm.checkpoint_every
        if every and self.state.round % every == 0 and self.state.round < self.config.federate.total_round_num:
            self._save()
        if self.hub is not None:
            self.hub.after_round(
                self.state.round, self.state.params, self.state.best, lambda: self.results(None), self._save
            )

    def _save(self) -> None:
        self.state.figures["seconds"] = self.seconds()
        save_checkpoint(self.folder.path / "checkpoint", self.state, self._identity, self._belongs)

    # The end ----------------------------------------------------------------------------------------------------

    def seconds(self) -> dict[str, float]:
        """Wall time so far: total, training, evaluation; what is left is everything else."""
        return {
            "total": self._carried["total"] + time.perf_counter() - self._started,
            "training": self._carried["training"] + self._training_seconds,
            "evaluation": self._carried["evaluation"] + self.federation.evaluator.seconds,
        }

    def save_adapters(self) -> str | None:
        """Write the last and the best adapter; the sha256 of the last. Local has no global adapter: None."""
        mllm = self.federation.mllm
        if self.federation.server is None:
            return None
        public = self.config.fedmllm.hub.base_model
        digest = write_adapter(self.folder.path / "adapter", mllm, self.state.params, public)
        description = describe(self.config, self.federation.data.template)
        write_atomically(self.folder.path / "adapter" / DESCRIPTION, description)
        if self.config.federate.save_to:
            write_atomically(Path(self.config.federate.save_to), adapter_bytes(self.state.params))
        if self.state.best:
            write_adapter(self.folder.path / "adapter_best", mllm, self.state.best, public)
            write_atomically(self.folder.path / "adapter_best" / DESCRIPTION, description)
        return digest

    def _privacy(self) -> dict[str, Any]:
        """What results.json says about privacy; empty if nothing was promised."""
        said: dict[str, Any] = {}
        if self.dp:
            said["differential_privacy"] = self.dp.report()
        secure = self.config.fedmllm.privacy.secure_aggregation
        if secure.enabled:
            said["secure_aggregation"] = {
                "threshold": secure.threshold,
                "against": "a server that follows the protocol and up to threshold - 1 clients that tell it all",
            }
        return said

    def _test_rows(self) -> dict[str, Any]:
        """How many test rows an evaluation takes, of how many, and what they show."""
        every = self.federation.data.dataset.test
        rows = evaluated_rows(self.config, every)
        presence = Counter(row.presence for row in rows)
        return {"evaluated": len(rows), "all": len(every), "presence": dict(sorted(presence.items()))}

    def results(self, digest: str | None) -> dict[str, Any]:
        """The figures so far, as in results.json.

        Args:
            digest: sha256 of the adapter's tensor file.
        """
        figures = self.state.figures
        evaluations = figures["evaluations"]
        results: dict[str, Any] = {
            "version": VERSION,
            "commit": commit(),
            "profile": self.config.fedmllm.profile,
            "dataset": self.federation.data.dataset.called,
            "test_rows": self._test_rows(),
            "scenario": self.config.scenario,
            "method": self.config.federate.method,
            "seed": self.config.seed,
            "rounds": self.state.round,
            "zero_shot": evaluations[0] if evaluations and evaluations[0]["round"] == 0 else None,
            "evaluations": evaluations,
            "best": self.best_entry(),
            "best_by": self.config.eval.best_res_update_round_wise_key,
            "bytes_sent": figures["bytes_sent"],
            "adapter_bytes": self.adapter_size,
            "refused": figures["refused"],
            "participants": figures["participants"],
            "shortened_rows": self._shortened,
            "adapter_sha256": digest,
            "manifest_sha256": self.federation.data.manifest_sha256,
            "config_sha256": self._digest,
            "seconds": {name: round(value, 3) for name, value in self.seconds().items()},
        }
        if self.federation.data.report:
            results["data"] = self.federation.data.report
        if self.config.fedmllm.clients:
            results["client_settings"] = dict(self.config.fedmllm.clients)
        if privacy := self._privacy():
            results["privacy"] = privacy
        return results

    def close(self) -> dict[str, Any]:
        """Write the adapters and results.json, publish, and return the results."""
        results = self.results(self.save_adapters())
        data = self.federation.data
        if self._predictions:
            write_predictions(self.folder.path / PREDICTIONS, self._predictions)
            binary = data.template.metric == "auc"
            results |= {
                "options": list(data.template.options),
                "positive": data.template.positive if binary else None,
                **slice_figures(
                    self._predictions,
                    metric=data.template.metric,
                    options=data.template.options,
                    positive=data.template.positive if binary else None,
                    clients=data.clients,
                    seed=self.config.seed,
                    further=self.config.fedmllm.eval.metrics,
                ),
            }
        if data.template.task == "vqa" and data.dataset.train and not self.config.fedmllm.eval.limit:
            # What the questions alone give away belongs beside every such result.
            results["question_only"] = question_only(data.dataset.train, data.dataset.test)
        if self.hub is not None and self.federation.server is not None:
            # First without the hub: while a push hangs, the results are there.
            self.folder.write_json("results.json", results)
            results["hub"] = self.hub.close(self.state.params, self.state.best, results)
        self.folder.write_json("results.json", results)
        self.folder.close()
        remove_checkpoint(self.folder.path / "checkpoint")
        return results
