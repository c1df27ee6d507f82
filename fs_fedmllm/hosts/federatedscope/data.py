"""The data closure: FederatedScope asks it first for every job, and it answers for ours only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fs_fedmllm.config import Config
from fs_fedmllm.config.clients import site_client
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.hosts.federatedscope import runtime
from fs_fedmllm.hosts.federatedscope.config_bridge import OURS, is_ours, to_config, write_back
from fs_fedmllm.hosts.federatedscope.given import keep_texts


def build_data(config: Any, client_cfgs: Any) -> tuple[dict[int, Any], Any] | None:
    """FederatedScope's data function.

    Returns:
        ``{0: server rows, 1..K: client rows}`` and the modified config, or None for jobs that are not ours.

    Raises:
        FedMLLMError: bad configuration or data.
    """
    if not is_ours(config):
        return None
    from federatedscope.core.data import ClientData

    class Rows(ClientData):
        """Rows of one worker; without loaders, since the trainer makes its own."""

        def setup(self, new_client_cfg: Any = None) -> bool:
            self.client_cfg = new_client_cfg
            return True

    def holder(train: Sequence[Sample], val: Sequence[Sample], test: Sequence[Sample]) -> Any:
        rows = Rows(config, train=train, val=val, test=test)
        for name, part in (("train", train), ("val", val), ("test", test)):
            # A dictionary without a key "x": FederatedScope's shape probe leaves it alone.
            rows[name] = {"rows": part}
        return rows

    ours = to_config(config, client_cfgs)
    if client_cfgs:
        # Ours from here on. FederatedScope would merge them into each client's tree, and stops at a client without.
        client_cfgs.clear()
    if config.federate.mode == "distributed":
        return _site(config, ours, holder)
    run = runtime.start(ours, config.outdir)
    dataset, clients = run.data.dataset, run.data.clients
    data = {0: holder((), dataset.val, dataset.test)}
    for client in sorted(clients):
        data[client] = holder(clients[client], (), ())
    modified = _modified(config, run.config)
    if run.config.method.pooled:
        modified.federate.client_num = 1
    modified.federate.sample_client_num = run.config.updates_per_round
    modified.federate.sample_client_rate = -1.0
    return data, modified


def _modified(config: Any, ours: Config) -> Any:
    modified = config.clone()
    write_back(ours, modified)
    modified.trainer.type = modified.model.type = OURS
    # What FederatedScope's runner needs of our workers, whatever the method.
    modified.federate.make_global_eval = modified.federate.share_local_model = True
    keep_texts(modified)
    return modified


def _site(config: Any, ours: Config, holder: Callable[..., Any]) -> tuple[Any, Any]:
    """The rows of this site only, as FederatedScope's distributed runner wants them."""
    client = site_client(config.distribute.data_idx)
    run = runtime.start_site(ours, config.distribute.role, client, config.outdir)
    dataset = run.data.dataset
    data = holder(run.data.clients.get(run.client, ()), dataset.val, dataset.test)
    modified = _modified(config, run.config)
    modified.federate.share_local_model = False  # with it, FederatedScope's client asks for the server's device
    return data, modified
