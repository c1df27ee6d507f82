"""``fs-fedmllm run``."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fs_fedmllm.commands.config import add_client_cfg, overrides_of
from fs_fedmllm.commands.output import print_document
from fs_fedmllm.errors import ConfigError, printable
from fs_fedmllm.shipped import find_config

if TYPE_CHECKING:
    from fs_fedmllm.config import Config


def add(commands: Any) -> None:
    """Add ``run`` to the command line's grammar."""
    run = commands.add_parser("run", help="run a configuration")
    run.add_argument("config", help="a .yaml, or the name of one that ships, e.g. configs/cross_i3t7.yaml")
    run.add_argument("overrides", nargs="*", help="key=value or key value, e.g. federate.total_round_num=3 seed 7")
    run.add_argument("--engine", choices=("auto", "embedded", "federatedscope", "nvflare"), default="auto",
                     help="auto: federatedscope where it can be imported, else embedded")  # fmt: skip
    add_client_cfg(run)
    run.add_argument("--tiny", action="store_true", help="use the embedded model instead, to try a preset on a CPU")
    run.add_argument("--dry-run", action="store_true",
                     help="check all that can be known before the model is loaded, say what, and stop")  # fmt: skip
    run.add_argument(
        "--json", action="store_true", help="print results.json (of a dry run: its checks) and nothing else"
    )
    run.set_defaults(function=_run)


def _run(args: argparse.Namespace) -> int:
    started = time.perf_counter()
    path, words = find_config(args.config), overrides_of(args)
    engine = args.engine
    if engine == "auto":
        from fs_fedmllm.hosts.federatedscope.checkout import is_importable

        engine = "federatedscope" if is_importable() else "embedded"
    from fs_fedmllm import config as schema

    raw = schema.given_mapping(path, words, args.client_cfg)
    config = schema.from_mapping(raw, str(path), host=engine == "federatedscope")
    if engine == "embedded" and config.federate.mode != "standalone":
        raise ConfigError(
            "federate.mode must be standalone: each site of a run across machines is started by itself, with "
            "fs-fedmllm server and fs-fedmllm client."
        )
    if engine == "federatedscope" and (fault := schema.host_fault(config)):
        raise ConfigError(f"{path}: {fault}")
    if args.dry_run:
        return _dry_run(args, config, path.stem, engine)
    if engine == "federatedscope":
        if args.json:
            raise ConfigError("--json: FederatedScope prints what it likes. Take --engine embedded, the same adapter.")
        from fs_fedmllm.hosts.federatedscope.launch import run_in_federatedscope

        return run_in_federatedscope(schema.host_mapping(config, raw), path)
    if engine == "nvflare":
        from fs_fedmllm.hosts.nvflare.simulate import run_simulated
        from fs_fedmllm.runs.console import closing_table

        found, place = run_simulated(config, raw, path)
        print_document(results_json(found, Path(place)) if args.json else closing_table(found, str(place)))
        return 0
    from fs_fedmllm.runs.console import closing_table
    from fs_fedmllm.runs.progress import ConsoleProgress
    from fs_fedmllm.runs.simulation import run
    from fs_fedmllm.scenarios.federated_data import counted

    config, dataset = counted(config)
    progress = ConsoleProgress(config)
    try:
        results, folder = run(config, listener=progress, started=started, label=path.stem, dataset=dataset)
    finally:
        progress.close()
    print_document(results_json(results, folder.path) if args.json else closing_table(results, str(folder.path)))
    return 0


def results_json(results: dict[str, Any], folder: Path) -> str:
    """A run's results as one JSON document, with the folder that they are in."""
    return json.dumps({"folder": str(folder), **results}, indent=2)


def _dry_run(args: argparse.Namespace, config: Config, label: str, engine: str) -> int:
    """Say what was checked, a line each as it is done; 2 if the run would be refused."""
    from fs_fedmllm.runs.dry_run import NOT_CHECKED, Checked, dry_run

    def told(check: Checked) -> None:
        if not args.json:
            print(f"{'ok' if check.passed else 'NO':<4}{check.what}: {printable(check.found)}", flush=True)

    checks = dry_run(config, label, told=told)
    if engine == "federatedscope":
        from fs_fedmllm.hosts.federatedscope.checkout import find_federatedscope, is_importable

        here = is_importable() or find_federatedscope() is not None
        found = "FederatedScope is found" if here else "There is no FederatedScope here; see --engine embedded."
        checks.append(Checked("engine", found, here))
        told(checks[-1])
    failed = [check for check in checks if not check.passed]
    if args.json:
        document = {"passed": not failed, "checked": [vars(check) for check in checks], "not_checked": NOT_CHECKED}
        print_document(json.dumps(document, indent=2))
    else:
        print(f"not checked: {'; '.join(NOT_CHECKED)}")
    if failed:
        raise ConfigError(f"The run would be refused: {failed[0].found}" + _more(len(failed) - 1))
    return 0


def _more(count: int) -> str:
    return f" ({count} more above)" if count else ""
