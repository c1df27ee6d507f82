"""Everything of a run that can be known before its model is loaded, checked in the order in which a run would meet it.

Nothing is written, no folder is made, and no weights are read; of the model, its configuration and its processor are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from fs_fedmllm.config import Config
from fs_fedmllm.data.sample import Dataset
from fs_fedmllm.data.shapes import check_shapes
from fs_fedmllm.errors import FedMLLMError, LockedError, ModelError
from fs_fedmllm.extras import check_extras
from fs_fedmllm.files.locks import is_held
from fs_fedmllm.runs.run_folder import LOCK, check_copy, check_output, next_folder
from fs_fedmllm.scenarios.federated_data import FederatedData, counted, prepare_data
from fs_fedmllm.scenarios.fitting import LAST_ROUND, best_metric
from fs_fedmllm.scenarios.judged import evaluated_rows
from fs_fedmllm.scenarios.rates import said_rates
from fs_fedmllm.scenarios.test_sets import naming_set


@dataclass(frozen=True)
class Checked:
    """One check.

    Attributes:
        what: was looked at.
        found: what there is to say of it; where it failed, the error's paragraph.
        passed: whether the run could go past it.
    """

    what: str
    found: str
    passed: bool = True


#: What only the run itself can tell.
NOT_CHECKED = (
    "the model's weights and whether they fit into memory (fs-fedmllm plan --probe measures that)",
    "every image's pixels (fs-fedmllm data check decodes them)",
)


def dry_run(config: Config, label: str = "", *, told: Callable[[Checked], None] = lambda _: None) -> list[Checked]:
    """Check a run without beginning it.

    Args:
        config: of the run.
        label: name of the configuration, for the run folder's name.
        told: of each check, as soon as it is done.

    Returns:
        Every check; those that need what an earlier one did not find are left out.
    """
    return _DryRun(config, label, told).run()


class _DryRun:
    def __init__(self, config: Config, label: str, told: Callable[[Checked], None]):
        self.config = config
        self.label = label
        self.told = told
        self.checked: list[Checked] = []
        self.data: FederatedData | None = None
        self.dataset: Dataset | None = None

    def run(self) -> list[Checked]:
        self._check("configuration", self._configuration)
        self._check("packages", self._packages)
        if self.config.counts_clients:  # how many there are is a part of the run's name
            self._check("clients", self._clients)
        if not self.config.counts_clients or self.dataset is not None:
            self._check("run folder", self._folder)
            self._check("data", self._data)
        if self.data is not None:
            self._check("test rows", self._test_rows)
            self._check("metrics", self._metrics)
            self._check("checkpoint and hub", self._ahead)
        self._check("privacy", self._privacy)
        self._check("model", self._model)
        return self.checked

    def _check(self, what: str, look: Callable[[], str]) -> None:
        try:
            found = look()
            if not found:
                return
            done = Checked(what, found)
        except FedMLLMError as error:
            done = Checked(what, str(error), False)
        except OSError as error:
            if error.filename is None:
                raise
            done = Checked(what, f"{error.filename} cannot be read or written: {error.strerror}.", False)
        self.checked.append(done)
        self.told(done)

    def _configuration(self) -> str:
        config = self.config
        clients = f"{config.updates_per_round} of {config.federate.client_num} clients a round, "
        if config.fedmllm.async_.buffer:
            clients = f"a step for {config.updates_per_round} updates, {config.sampled_clients} clients at once, "
        return (
            f"{config.federate.method}, {config.data.splitter}, {'' if config.counts_clients else clients}"
            f"{config.federate.total_round_num} rounds, profile {config.fedmllm.profile}, seed {config.seed}"
        )

    def _packages(self) -> str:
        check_extras(self.config)
        return "everything that the configuration needs is installed"

    def _clients(self) -> str:
        self.config, self.dataset = counted(self.config)
        return f"{self.config.federate.client_num} clients, as the rows name them"

    def _folder(self) -> str:
        check_output(self.config.outdir)
        check_copy(self.config.federate.save_to)
        folder, passed = next_folder(self.config, self.label)
        if is_held(folder / LOCK):
            raise LockedError(
                f"{folder} is in use by another process. Wait until it has ended, or give this run another expname."
            )
        return f"{folder}" + (f" ({passed[-1]})" if passed else "")

    def _data(self) -> str:
        self.data = data = prepare_data(self.config, self.dataset)
        rows = data.dataset
        sizes = [len(own) for own in data.clients.values()]
        said = (
            f"{rows.called}: {len(rows.train):,} training, {len(rows.val):,} validation, {len(rows.test):,} test "
            f"rows; {len(sizes)} clients of {min(sizes):,} to {max(sizes):,} rows; prompts of {data.template.name}"
        )
        tested = Counter(row.presence for row in rows.test)
        missing = said_rates(data.manifest.missing_rates, tested) if data.manifest.clients else ""
        return f"{said}; missing modalities: {missing}" if missing else said

    def _test_rows(self) -> str:
        assert self.data is not None
        every = self.data.dataset.test
        rows = evaluated_rows(self.config, every)
        shown = Counter(row.presence for row in rows)
        limited = f", of {len(every):,} (fedmllm.eval.limit)" if len(rows) < len(every) else ""
        listed = ", ".join(f"{count:,} show {case}" for case, count in sorted(shown.items()))
        further = "".join(
            f"; test set {name}: {len(evaluated_rows(self.config, test_set.rows)):,} of {len(test_set.rows):,}"
            for name, test_set in self.data.test_sets.items()
        )
        return f"{len(rows):,} are evaluated{limited}: {listed}{further}"

    def _metrics(self) -> str:
        from fs_fedmllm.evaluation.local_metrics import load_local_metrics

        assert self.data is not None
        scores = self.config.switches["decision"] != "sampled_text"
        local = load_local_metrics(self.config.fedmllm.eval.metrics, self.data.template, scores=scores)
        for name, test_set in self.data.test_sets.items():
            with naming_set(name):
                load_local_metrics(self.config.fedmllm.eval.metrics, test_set.template, scores=scores)
        further = f"; {len(local)} local metrics load" if local else ""
        picks = best_metric(self.config, self.data.dataset)
        if picks == LAST_ROUND:
            return f"no validation rows pick a best round, the last round's figures are the run's{further}"
        return f"{picks} picks the best round{further}"

    def _ahead(self) -> str:
        from fs_fedmllm.runs.opening import look_ahead
        from fs_fedmllm.runs.resumption import resumes_at

        assert self.data is not None
        folder, _ = next_folder(self.config, self.label)
        look_ahead(self.config, folder, self.data)
        done = resumes_at(folder, self.config, self.data)
        said = "the run starts from the beginning" if done is None else f"the run resumes after round {done}"
        hub = self.config.fedmllm.hub.repo
        return f"{said}; the hub would take {hub}" if hub else said

    def _privacy(self) -> str:
        if not self.config.fedmllm.privacy.dp.enabled:
            return ""
        from fs_fedmllm.privacy.central import CentralPrivacy

        folder, _ = next_folder(self.config, self.label)
        total, dp = self.config.federate.total_round_num, self.config.fedmllm.privacy.dp
        if (folder / "privacy.jsonl").is_file():
            return f"{folder / 'privacy.jsonl'} holds releases; the run counts on from them"
        clients, sampled = self.config.federate.client_num, self.config.sampled_clients
        planned = CentralPrivacy(dp, clients, sampled, folder / "privacy.jsonl", left=total, done=0)
        return f"differential privacy at delta {planned.delta:.3g}; its epsilon is in the warning"

    def _model(self) -> str:
        from fs_fedmllm.evaluation.evaluator import Evaluator
        from fs_fedmllm.models.encoding import Encoder
        from fs_fedmllm.models.lengths import configured_lengths
        from fs_fedmllm.models.skeleton import find_checkpoint, sizes, skeleton
        from fs_fedmllm.rounds.client_halves import ClientAlgorithms
        from fs_fedmllm.rounds.replay import recorded_participants

        config, options = self.config, self.config.model.fedmllm
        recorded_participants(config)
        there = find_checkpoint(options)
        if there.folder is None or not there.weights:
            raise ModelError(
                f"The model {options.path!r} has no safetensors on this machine: name a folder that holds it "
                "(model.fedmllm.path), or download it first."
            )
        mllm = skeleton(options)
        counted = sizes(mllm, options)
        tensors = len(mllm.adapter.names)
        said = f"{options.path}: {counted.base:,} parameters, an adapter of {counted.adapter:,} in {tensors} tensors"
        if self.data is None:
            return said
        data, lengths = self.data, configured_lengths(config, mllm)
        for template in (data.template, *(test_set.template for test_set in data.test_sets.values())):
            encoder = Encoder(mllm, template, config.fedmllm.prompt, None, lengths)
            Evaluator(encoder, config.fedmllm.eval, config.switches)
        halves = ClientAlgorithms.of(config, data.manifest.params)
        halves.halves(1, data.clients.get(1, ()), data.template, mllm.adapter)
        check_shapes(data.shown(), mllm.family.widest, mllm.family.name)
        return said
