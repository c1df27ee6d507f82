"""A table of four runs of seconds."""

from __future__ import annotations

from pathlib import Path

from short_runs import CONFIGS

TABLE = f"""
title: Two methods <b> & two scenarios
source: nobody, 1999
set:
  federate.total_round_num: 3
  train.local_update_steps: 1
  fedmllm.train.batch_size: 2
  fedmllm.eval.limit: 12
  eval.freq: 3
seeds: [0, 1]
axes:
  method:
    values:
      zero: {{title: Zero-shot, at: zero_shot}}
      fedavg: {{title: FedAvg}}
      fedprox: {{title: "Fed <Prox>", set: {{fedmllm.regularizer.type: fedprox}}}}
  scenario:
    values:
      cross: {{config: {CONFIGS}/cross_i3t7.yaml}}
rows: [method]
columns: [scenario]
metrics: [{{name: test_acc, title: accuracy}}, {{name: test_macro_f1, title: F1}}]
curves: [loss, grad_norm, test_acc]
paper: {{fedavg: {{cross: [50.5, 1.5]}}, zero: {{cross: 24.2}}}}
"""


def write(folder: Path, text: str = TABLE) -> Path:
    path = folder / "short.yaml"
    path.write_text(text)
    return path
