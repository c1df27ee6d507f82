"""A whole federated run as plain loops over the library's pieces: FedAvg, cross scenario, embedded data and model.

    python examples/minimal.py                 # about a minute on two cores
    python examples/minimal.py --rounds 2 --steps 2 --rows 32

``fs_fedmllm/runs/simulation.py`` is the complete version of the same loop, with a run folder, resume and refusals.
"""

from __future__ import annotations

import argparse

import numpy as np
from tqdm import tqdm

from fs_fedmllm.aggregators import RunningMean
from fs_fedmllm.algorithms import FedAvg
from fs_fedmllm.algorithms.proximal import Penalty, ProximalClient, coefficient, layer_mask
from fs_fedmllm.config import EvaluatorConfig, LocalConfig, ModelOptions, RegularizerConfig
from fs_fedmllm.data.registry import load_dataset
from fs_fedmllm.data.template_file import load_template
from fs_fedmllm.evaluation.evaluator import Evaluator
from fs_fedmllm.models.encoding import Encoder
from fs_fedmllm.models.loader import load_mllm
from fs_fedmllm.rounds.batches import plan_batches
from fs_fedmllm.rounds.lean_trainer import LeanTrainer
from fs_fedmllm.rounds.learning_rate import round_lr
from fs_fedmllm.rounds.trainer import UpdatePlan
from fs_fedmllm.scenarios import ScenarioParams, apply_scenario


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Run it and return the test metrics."""
    parser = argparse.ArgumentParser(description="A federated run as plain loops.")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--steps", type=int, default=6, help="optimizer steps of a client in a round")
    parser.add_argument("--rows", type=int, default=400, help="test rows to evaluate on")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    rng = np.random.default_rng(args.seed)

    # Data: ten clients, three of which hold images only and seven texts only.
    dataset = load_dataset("digits_triage", root=".")
    template = load_template(dataset.template)
    split = apply_scenario(
        "cross", dataset.train, client_num=10, params=ScenarioParams(alpha=0.5, image_clients=3), seed=args.seed
    )
    for client, record in split.manifest.clients.items():
        print(f"client {client}: {record.presence}, beta {record.beta}")

    # Model: one base in memory, frozen; what is trained and sent is the LoRA adapter.
    mllm = load_mllm(ModelOptions(path="tiny"))
    local, regularizer = LocalConfig(batch_size=16), RegularizerConfig(type="adaptive")
    encoder = Encoder(mllm, template, "augmented", None)  # prompt augmentation, one of the paper's two strategies
    trainer = LeanTrainer(mllm, encoder, local)
    evaluator = Evaluator(encoder, EvaluatorConfig())
    mask = layer_mask(mllm.adapter.layers, mllm.adapter.depth, regularizer.skip_layers)  # the other: equation 3

    server = FedAvg()
    params = mllm.adapter.initial_state(args.seed)
    state = server.init(params)

    for round_index in tqdm(range(args.rounds), unit="round"):
        mean = RunningMean(params)
        for client in sorted(int(k) + 1 for k in rng.choice(10, size=2, replace=False)):
            rows = split.clients[client]
            gamma = coefficient(
                regularizer,
                beta=split.manifest.betas[client],
                switch="measured",
                scenario="cross",
            )
            plan = UpdatePlan(
                batches=plan_batches(len(rows), amount=args.steps, unit="batch", batch_size=local.batch_size, rng=rng),
                lr=round_lr(3e-3, round_index, local.lr_horizon, local.warmup_ratio),
                halves=[ProximalClient(Penalty(gamma, mask))],
                dropout_seed=int(rng.integers(2**31)),
            )
            encoded = dict(zip(plan.rows, encoder.encode([rows[i] for i in plan.rows]), strict=True))
            trained, log = trainer.fit(params, encoded, plan)  # from what the server sent
            mean.add(client, float(len(rows)), trained)
        params, state = server.step(params, state, mean.mean())
        if round_index % 10 == 9:
            tqdm.write(f"round {round_index + 1}: client {client}, loss {log.loss:.3f}, penalty {log.penalty:.4f}")

    mllm.adapter.load(params)
    test = dataset.test[: args.rows]
    figures = evaluator.evaluate(test)
    print(f"shown both: accuracy {figures['acc']:.3f}, macro F1 {figures['macro_f1']:.3f}")
    for shown in ("image", "text"):
        print(f"shown the {shown} only: accuracy {evaluator.evaluate(test, shown)['acc']:.3f}")
    return figures


if __name__ == "__main__":
    main()
