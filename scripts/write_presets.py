"""The presets of the paper's Tables 2 to 7 (arXiv 2411.14717), written from one table.

Their model is the paper's first one's successor; Table 7's four settings also stand there with the two that the paper
took, ``missing_b50_minicpm_..._int4*.yaml``. Those bring Python code of their own, which a preset never turns on.

``python scripts/write_presets.py`` writes ``configs/<dataset>/<level>.yaml`` anew; a test checks that the
files are what this table says. A preset is one setting of the paper; the rows of its tables are the server method, an
override: ``federate.method fedyogi | fedadam | fedavgm | fedadagrad``, or
``federate.method local federate.total_round_num 5`` for the baseline Local.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: Native in transformers, so that no code of the checkpoint runs. It succeeds the paper's MiniCPM-V-2_6-int4, which
#: was written for transformers 4.
MODEL = "openbmb/MiniCPM-V-4.6"


@dataclass(frozen=True)
class PaperModel:
    """A checkpoint of the paper, as it was published.

    Attributes:
        file: what the names of its presets end with.
        path: its id on the hub.
    """

    file: str
    path: str


#: The two models of Table 7, the first of which is that of every other table.
PAPER_MODELS = (
    PaperModel("minicpm_v_2_6_int4", "openbmb/MiniCPM-V-2_6-int4"),
    PaperModel("minicpm_llama3_v_2_5_int4", "openbmb/MiniCPM-Llama3-V-2_5-int4"),
)


@dataclass(frozen=True)
class Level:
    """A scenario at one level.

    Attributes:
        file: name of the preset, without ``.yaml``.
        splitter: the scenario.
        args: its parameters, as YAML inside the braces of ``splitter_args``.
        table: where the paper reports it.
        says: one sentence for the head of the file.
    """

    file: str
    splitter: str
    args: str
    table: int
    says: str


@dataclass(frozen=True)
class Task:
    """A data set with the paper's protocol.

    Attributes:
        folder: folder of the presets.
        type: ``data.type``.
        root: ``data.root``.
        rounds: rounds after which the paper reports; the learning rate's horizon is 50 everywhere.
        best: the metric that picks the best round.
        metrics: ``eval.metrics``.
        note: further lines for the head of the file.
        together: group key whose rows stay with one client, or empty.
        options: lines of ``fedmllm``.
    """

    folder: str
    type: str
    root: str
    rounds: int
    best: str
    metrics: str
    note: str = ""
    together: str = ""
    options: str = ""


LEVELS = (
    *(
        Level(f"aligned_a{alpha * 10:02.0f}", "aligned", f"alpha: {alpha}", 2, "Every client holds both modalities.")
        for alpha in (5.0, 1.0, 0.5)
    ),
    *(
        Level(f"missing_b{beta}", "missing", f"alpha: 0.5, beta: 0.{beta // 10}", 3,
              f"Each row loses each modality with probability 0.{beta // 10}.")
        for beta in (30, 40, 50)
    ),
    *(
        Level(f"cross_i{k}t{10 - k}", "cross", f"alpha: 0.5, image_clients: {k}, text_clients: {10 - k}", 4,
              f"{k} clients hold images and {10 - k} hold texts.")
        for k in (3, 5, 7)
    ),
    *(
        Level(f"hybrid_p{p}", "hybrid", f"alpha: 0.5, p: 0.{p // 10}", 5,
              f"Each client holds each modality with probability 0.{p // 10}.")
        for p in (80, 70, 60)
    ),
)  # fmt: skip

TASKS = (
    Task("hateful_memes", "hateful_memes", "data/hateful_memes", 25, "val_auc", "auc, acc"),
    Task("crisismmd", "crisismmd", "data/crisismmd", 40, "val_macro_f1", "macro_f1, acc",
         note="All images of a tweet stay with one client; take keep_together out for the authors' partition.",
         together="tweet"),
    Task("medical", "medical", "data", 50, "test_acc", "acc, open_acc, closed_acc",
         note="VQA-RAD gives the images and the flashcards the text; the data root holds vqa_rad/ and flashcards/.\n"
              "# With slake/ there too, SLAKE is a further test set of the same run, as in tables/table6.yaml:\n"
              "# fedmllm.test_sets.slake.type slake fedmllm.test_sets.slake.root slake. No validation rows exist:\n"
              "# report the last round.",
         options="  eval:\n    max_new_tokens: 32\n"),
)  # fmt: skip

#: Table 7: (clients in a round, clients), beside the 2 of 10 of every other table.
SCALE = ((4, 10), (5, 20), (10, 30))


def render(
    task: Task,
    level: Level,
    *,
    drawn: int = 2,
    clients: int = 10,
    method: str = "fedyogi",
    model: PaperModel | None = None,
) -> str:
    """The text of one preset; without a model it is that of today's transformers."""
    args = level.args + (f", keep_together: {task.together}" if task.together else "")
    note = f"# {task.note}\n" if task.note else ""
    model_lines = f"    path: {MODEL}\n    dtype: bfloat16\n"
    if model is not None:
        note += (
            f"# The model is the paper's own {model.path}; environment and limits: docs/models.md. It comes with\n"
            "# Python code, which runs only if you have read it and set trust_remote_code to True below.\n"
        )
        model_lines = f"    path: {model.path}\n    dtype: float16\n    trust_remote_code: False\n"
    table = 7 if clients != 10 or drawn != 2 or model is not None else 6 if task.folder == "medical" else level.table
    return f"""\
# {level.says} Table {table} of arXiv 2411.14717: {drawn} of {clients} clients a round.
# Written by scripts/write_presets.py; other rows of the table: federate.method fedadam, local ...
{note}use_gpu: True
federate:
  method: {method}
  client_num: {clients}
  sample_client_num: {drawn}
  total_round_num: {task.rounds}
  make_global_eval: True
  share_local_model: True
data:
  type: {task.type}
  root: {task.root}
  splitter: fedmllm_{level.splitter}
  splitter_args: [{{{args}}}]
model:
  type: fedmllm
  fedmllm:
{model_lines}trainer:
  type: fedmllm
train:
  local_update_steps: 1
  batch_or_epoch: epoch
  optimizer:
    type: AdamW
    lr: 2.0e-5
eval:
  freq: 5
  metrics: [{task.metrics}]
  best_res_update_round_wise_key: {task.best}
early_stop:
  patience: 0
fedmllm:
  train:
    batch_size: 4
    micro_batch_size: 1
    lr_horizon: 50
    gradient_checkpointing: True
{task.options}"""


def presets() -> Iterator[tuple[str, str]]:
    """(path below ``configs/``, text) of every preset."""
    for task in TASKS:
        for level in LEVELS:
            if task.folder != "medical" or level.splitter in ("cross", "hybrid"):
                yield f"{task.folder}/{level.file}.yaml", render(task, level)
    worst = next(level for level in LEVELS if level.file == "missing_b50")
    for drawn, clients in SCALE:
        text = render(TASKS[0], worst, drawn=drawn, clients=clients, method="fedadam")
        yield f"hateful_memes/missing_b50_{drawn}of{clients}.yaml", text
    for model in PAPER_MODELS:
        for drawn, clients in ((2, 10), *SCALE):
            text = render(TASKS[0], worst, drawn=drawn, clients=clients, method="fedadam", model=model)
            end = "" if (drawn, clients) == (2, 10) else f"_{drawn}of{clients}"
            yield f"hateful_memes/missing_b50_{model.file}{end}.yaml", text


def write(folder: Path) -> int:
    """Write every preset; returns how many."""
    made = list(presets())
    for name, text in made:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return len(made)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1] / "configs"
    print(f"{write(target)} presets in {target}")
