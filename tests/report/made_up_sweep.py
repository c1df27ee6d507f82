"""A finished sweep without a model: files as runs leave them, with drawn answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml

from fs_fedmllm.config import read_yaml, to_mapping
from fs_fedmllm.data.template import Template
from fs_fedmllm.evaluation.metrics import choice_metrics
from fs_fedmllm.evaluation.predictions import FILE, Prediction, write_predictions
from fs_fedmllm.evaluation.slices import slice_figures
from fs_fedmllm.tools.sweeps import grid, runner
from fs_fedmllm.tools.sweeps.files import CELLS
from fs_fedmllm.tools.sweeps.table_file import load_table

OPTIONS = ("yes", "no", "<maybe>")
ASKED = Template("made_up", "choice", "macro_f1", OPTIONS, 1, "", "", {})


def make(table_file: Path, out: Path, *, rows: int = 60, leave_out: int = 0, rounds: int = 12) -> Path:
    """Write the sweep; the last ``leave_out`` cells stay unfinished."""
    table = load_table(table_file)
    cells = grid.cells(table, beside=table_file.parent)
    out.mkdir(parents=True)
    runner.write_index(out, read_yaml(table_file), table.name, cells, tiny=False)
    for number, cell in enumerate(cells[: len(cells) - leave_out]):
        folder = out / CELLS / cell.folder
        folder.mkdir(parents=True)
        (folder / "resolved_config.yaml").write_text(yaml.safe_dump(to_mapping(cell.config)))
        methods = [value.name for value in table.axes[0].values]
        skill = 1.0 + 0.5 * methods.index(cell.coordinates[table.axes[0].name])
        rng = np.random.default_rng([cell.seed, number])
        predictions, evaluation = [], {"round": rounds}
        for shown, prefix in (("both", "test_"), ("image", "test_image_"), ("text", "test_text_")):
            labels = np.arange(rows) % len(OPTIONS)
            scores = rng.normal(size=(rows, len(OPTIONS)))
            scores[np.arange(rows), labels] += skill if shown == "both" else skill / 2
            scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
            figures = choice_metrics(scores, labels.tolist(), None)
            evaluation |= {prefix + name: value for name, value in figures.items()}
            for i in range(rows):
                decision = int(scores[i].argmax())
                predictions.append(
                    Prediction(f"row-{i}", shown, decision == int(labels[i]), label=int(labels[i]), decision=decision,
                               log_probs=tuple(scores[i].tolist()))
                )  # fmt: skip
        write_predictions(folder / FILE, predictions)
        lines = []
        for turn in range(rounds):
            for client in (1, 2):
                loss = 2.0 / (1 + turn * skill / 4) + float(rng.normal(scale=0.05))
                figures = {"loss": loss, "grad_norm": 1 + loss / 3}
                lines.append({"kind": "turn", "round": turn, "client": client, **figures})
        lines.append({"kind": "evaluation", "round": 0, "test_acc": 0.33})
        lines.append({"kind": "evaluation", **evaluation})
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        results = {
            "version": "0.1.0", "commit": "0123456789" * 4, "profile": "fixed", "seed": cell.seed, "rounds": rounds,
            "evaluations": [{"round": 0, "test_acc": 0.33, "test_macro_f1": 0.2}, evaluation], "best": evaluation,
            "zero_shot": {"round": 0, "test_acc": 0.33, "test_macro_f1": 0.2}, "refused": [],
            "model": "tiny", "scenario": "cross", "dataset": "digits",
            "missing_rates": {"nominal": {"image": 0.7, "text": 0.3},
                              "measured": {"image": 0.61 + 0.02 * cell.seed, "text": 0.38}},
            "config_sha256": cell.key, "manifest_sha256": f"{cell.seed:02x}" * 32, "adapter_sha256": "cd" * 32,
            "seconds": {"total": 61.5}, "positive": None,
            **slice_figures(predictions, ASKED, clients={}, seed=0),
        }  # fmt: skip
        results["clients"] = {str(client): {"rows": 10.0, "covered": 1.0, "acc": 0.5} for client in range(1, 11)}
        (folder / "results.json").write_text(json.dumps(results))
    return out
