"""What a round costs beside its local training, and what the same work costs elsewhere; ratios of one run.

    python benchmarks/rounds.py overhead     ours against a bare PyTorch loop over the same steps, embedded engine
    python benchmarks/rounds.py host         the same inside FederatedScope (needs a checkout)
    python benchmarks/rounds.py rival        against a loop in the style of the authors' code and OpenFedLLM
    python benchmarks/rounds.py vision       the vision-feature cache on and off, two vision-to-language ratios
    python benchmarks/rounds.py evaluation   forced choice against generating 32 tokens, one row at a time
    python benchmarks/rounds.py memory       growth from 2 to 100 clients

Each prints the median of alternating repetitions. Nothing here is asserted by a test.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PRESET = HERE.parent / "configs" / "cross_i3t7.yaml"
REPEATS = 5
STEPS = 20


def _config(*overrides: Any) -> Any:
    from fs_fedmllm import config as schema

    words = ["train.local_update_steps", STEPS, "fedmllm.eval.zero_shot", "False", "fedmllm.eval.slices", "never"]
    return schema.load(PRESET, [str(w) for w in (*words, *overrides)])


def _federation(config: Any) -> Any:
    from fs_fedmllm.federation import Federation, prepare_data

    return Federation.build(config, prepare_data(config))


def _alternating(**contestants: Callable[[int], float]) -> dict[str, list[float]]:
    """Seconds of each contestant, in turns, so that a slow minute hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for repeat in range(-1, REPEATS):
        for name, contestant in contestants.items():
            seconds = contestant(repeat % 3)
            if repeat >= 0:  # the first is a warm-up
                times[name].append(seconds)
    return times


def _medians(times: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in times.items()}


def _bare_turn(federation: Any, client: int, round_index: int, state: dict[str, Any]) -> None:
    """The same steps as a client's turn, as anyone would write them in PyTorch."""
    import torch

    rows = federation.data.clients[client]
    turn = federation.plan(client, round_index, len(rows))
    model, parameters = federation.mllm.inner, federation.mllm.adapter.parameters
    for parameter, value in zip(parameters, state.values(), strict=True):
        parameter.data.copy_(value)
    optimizer = torch.optim.AdamW(parameters, lr=turn.lr, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    federation.mllm.set_training(True)
    for indices in turn.batches:
        batch = federation.encoder.collate(federation.encoder.encode([rows[i] for i in indices]), completions=True)
        logits = model(**batch.inputs, logits_to_keep=batch.labels.shape[1], use_cache=False).logits
        (batch.loss_sum(logits) / batch.supervised).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    federation.mllm.set_training(False)


def overhead() -> None:
    """Round time over the time of the same steps in a bare loop."""
    from fs_fedmllm.run_folder import RunFolder
    from fs_fedmllm.session import Session, Silent

    config = _config()
    federation = _federation(config)
    folder = tempfile.mkdtemp()
    session = Session(federation, RunFolder(Path(folder), config), Silent())
    start = federation.initial_state()
    for round_index in range(3):
        for client in federation.sample_clients(round_index):
            federation.encoder.encode(federation.data.clients[client])

    def ours(round_index: int) -> float:
        session.state.round = round_index
        session.state.params = start
        started = time.perf_counter()
        clients = session.begin_round()
        for client in clients:
            update = session.turn(client)
            session.accept(update)
        session.end_round(len(clients))
        session.checkpoint()
        return time.perf_counter() - started

    def bare(round_index: int) -> float:
        started = time.perf_counter()
        for client in federation.sample_clients(round_index):
            _bare_turn(federation, client, round_index, start)
        return time.perf_counter() - started

    medians = _medians(_alternating(bare=bare, ours=ours))
    extra = medians["ours"] - medians["bare"]
    print(f"bare loop {medians['bare']:.3f} s, a round of ours {medians['ours']:.3f} s")
    print(f"overhead {100 * extra / medians['bare']:+.1f} %, {extra / 2:+.3f} s a client turn ({STEPS} steps)")


def host() -> None:
    """What FederatedScope adds to a round: its wall time less the local training, and the bare loop beside it."""
    config = _config()
    federation = _federation(config)
    start = federation.initial_state()
    rounds = REPEATS + 2
    for round_index in range(rounds):
        for client in federation.sample_clients(round_index):
            federation.encoder.encode(federation.data.clients[client])
    with tempfile.TemporaryDirectory() as folder:
        seconds: dict[str, list[dict[str, float]]] = {}
        for engine in ("embedded", "federatedscope"):
            words = ["train.local_update_steps", STEPS, "federate.total_round_num", rounds, "eval.freq", rounds]
            words += ["fedmllm.eval.zero_shot", "False", "outdir", folder, "expname", engine, "fedmllm.eval.limit", 8]
            command = [sys.executable, "-m", "fs_fedmllm", "run", str(PRESET), "--engine", engine]
            subprocess.run([*command, *map(str, words)], check=True, capture_output=True)
            lines = [json.loads(x) for x in (Path(folder) / engine / "metrics.jsonl").read_text().splitlines()]
            seconds[engine] = [line for line in lines if line["kind"] == "round"][2:]
    for engine, lines in seconds.items():
        wall = statistics.median(line["seconds"] for line in lines)
        rest = statistics.median(line["seconds"] - line["training_seconds"] for line in lines)
        print(f"{engine}: round {wall:.3f} s, of it not local training {rest:.3f} s = {100 * rest / wall:.1f} %, "
              f"{rest / 2:.3f} s a client turn (first encoding of rows included)")  # fmt: skip
    del start


def rival() -> None:
    """A round with evaluation, against a faithful loop in the authors' style on the same model, rows and steps."""
    import copy

    import torch
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from transformers import Trainer, TrainingArguments

    from fs_fedmllm.training.encoding import Encoder

    config = _config("fedmllm.eval.limit", 32)
    federation = _federation(config)
    plain = Encoder(federation.mllm, federation.data.template, "original", None)  # vision tower every time
    start = federation.initial_state()
    model = federation.mllm.model
    test = federation._evaluated("test")

    class AuthorsTrainer(Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None):
            labels = inputs.pop("labels")
            logits = model(**inputs).logits[:, -labels.shape[1] :]
            return torch.nn.functional.cross_entropy(
                logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1)
            )

    def collate(rows: list[Any]) -> dict[str, Any]:
        batch = plain.collate(rows, completions=True)
        return {"labels": batch.labels, **batch.inputs}

    def theirs(round_index: int) -> float:
        started = time.perf_counter()
        local_states = []
        for client in federation.sample_clients(round_index):
            set_peft_model_state_dict(model, copy.deepcopy(start))
            rows = federation.data.clients[client]
            turn = federation.plan(client, round_index, len(rows))
            chosen = plain.encode([rows[i] for batch in turn.batches for i in batch])
            arguments = TrainingArguments(
                output_dir=tempfile.gettempdir(), per_device_train_batch_size=1, gradient_accumulation_steps=16,
                max_steps=STEPS, learning_rate=turn.lr, report_to=[], save_strategy="no", disable_tqdm=True,
                logging_strategy="no", remove_unused_columns=False, use_cpu=True, dataloader_pin_memory=False,
                weight_decay=0.1, adam_beta2=0.95, lr_scheduler_type="cosine", warmup_steps=1,
            )  # fmt: skip
            AuthorsTrainer(model=model, args=arguments, train_dataset=chosen, data_collator=collate).train()
            local_states.append(copy.deepcopy(get_peft_model_state_dict(model)))
        set_peft_model_state_dict(
            model, {name: torch.stack([s[name] for s in local_states]).mean(0) for name in start}
        )
        model.eval()
        for row in plain.encode(test):
            batch = plain.collate([row], completions=False)
            with torch.no_grad():
                federation.mllm.inner.generate(**batch.inputs, max_new_tokens=32, do_sample=True, temperature=0.7)
        return time.perf_counter() - started

    def ours(round_index: int) -> float:
        from fs_fedmllm.aggregation import RunningMean

        started = time.perf_counter()
        mean = RunningMean(start)
        for client in federation.sample_clients(round_index):
            federation.accept(mean, start, federation.client_turn(client, round_index, start))
        params, _ = federation.server_step(start, {}, mean)
        federation.mllm.adapter.load(params)
        federation.evaluator.evaluate(test)
        return time.perf_counter() - started

    medians = _medians(_alternating(theirs=theirs, ours=ours))
    print(f"authors' style {medians['theirs']:.2f} s, ours {medians['ours']:.2f} s a round with {len(test)} test rows")
    print(f"ratio {medians['theirs'] / medians['ours']:.1f} x")


def _realistic() -> Any:
    """A LLaVA of random weights with a vision tower as heavy, beside its language model, as in small real MLLMs."""
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    torch.manual_seed(0)
    vision = CLIPVisionConfig(hidden_size=384, intermediate_size=1536, num_hidden_layers=12, num_attention_heads=6,
                              image_size=224, patch_size=16, projection_dim=384)  # fmt: skip
    text = LlamaConfig(hidden_size=384, intermediate_size=1024, num_hidden_layers=10, num_attention_heads=6,
                       num_key_value_heads=6, vocab_size=4096)  # fmt: skip
    return LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=5, vision_feature_layer=-1)
    )


def vision() -> None:
    """A turn with the cache on and off."""
    import torch
    from peft import LoraConfig, get_peft_model

    from fs_fedmllm.training.encoding import Encoder
    from fs_fedmllm.training.trainer import LocalTrainer

    config = _config("data.splitter", "fedmllm_aligned", "data.splitter_args", "[{alpha: 5.0}]")
    federation = _federation(config)
    pixels = Encoder(federation.mllm, federation.data.template, "original", None)
    rows = federation.data.clients[1]
    turn = federation.plan(1, 0, len(rows))
    trainers = {
        name: (LocalTrainer(federation.mllm, encoder, config.fedmllm.train), encoder.encode(rows))
        for name, encoder in (("off", pixels), ("on", federation.encoder))
    }

    def timed(name: str) -> Callable[[int], float]:
        trainer, encoded = trainers[name]

        def run(_: int) -> float:
            federation.mllm.adapter.load(federation.initial_state())
            started = time.perf_counter()
            trainer.fit(encoded, turn)
            return time.perf_counter() - started

        return run

    medians = _medians(_alternating(off=timed("off"), on=timed("on")))
    print(
        f"embedded model: off {medians['off']:.2f} s, on {medians['on']:.2f} s, {medians['off'] / medians['on']:.2f} x"
    )

    inner = _realistic()
    sizes = [
        sum(p.numel() for p in part.parameters()) / 1e6
        for part in (inner.model.vision_tower, inner.model.language_model)
    ]
    get_peft_model(
        inner, LoraConfig(r=8, target_modules=r".*language_model\.layers\.(\d+)\.self_attn\.(q_proj|v_proj)")
    )
    tokens = (224 // 16) ** 2
    ids = torch.randint(10, 4000, (4, tokens + 60))
    ids[:, :tokens] = 5
    images = torch.randn(4, 3, 224, 224)
    with torch.no_grad():
        features = inner.get_image_features(pixel_values=images, return_dict=True)

    def step(**inputs: Any) -> float:
        started = time.perf_counter()
        inner(input_ids=ids, logits_to_keep=4, **inputs).logits.sum().backward()
        return time.perf_counter() - started

    medians = _medians(
        _alternating(
            off=lambda _: step(pixel_values=images), on=lambda _: step(mm_encoder_outputs={"image": features})
        )
    )
    print(f"vision {sizes[0]:.0f} M, language {sizes[1]:.0f} M, {tokens} image tokens: off {medians['off']:.2f} s, "
          f"on {medians['on']:.2f} s a step of 4 rows, {medians['off'] / medians['on']:.2f} x")  # fmt: skip


def evaluation() -> None:
    """Forced choice against generation, and whether both decide alike."""
    import torch

    federation = _federation(_config())
    federation.mllm.adapter.load(federation.initial_state())
    rows = federation.data.dataset.test[:64]
    encoded = federation.encoder.encode(rows)
    answers: list[str] = []

    def forced(_: int) -> float:
        started = time.perf_counter()
        federation.evaluator.option_log_probs(rows)
        return time.perf_counter() - started

    def generated(_: int) -> float:
        started = time.perf_counter()
        answers.clear()
        for row in encoded:
            batch = federation.encoder.collate([row], completions=False)
            with torch.no_grad():
                output = federation.mllm.inner.generate(
                    **batch.inputs, max_new_tokens=32, min_new_tokens=32, do_sample=False, use_cache=True
                )
            answers.append(federation.mllm.tokenizer.decode(output[0, batch.inputs["input_ids"].shape[1] :]))
        return time.perf_counter() - started

    medians = _medians(_alternating(generated=generated, forced=forced))
    letters = [answer.strip()[1:2] for answer in answers]
    chosen = ["ABCDEFGH"[i] for i in federation.evaluator.option_log_probs(rows).argmax(axis=1)]
    same = sum(a == b for a, b in zip(letters, chosen, strict=True))
    print(f"generate {medians['generated']:.2f} s, forced choice {medians['forced']:.3f} s for {len(rows)} rows: "
          f"{medians['generated'] / medians['forced']:.0f} x; same decision in {same} of {len(rows)}")  # fmt: skip


def memory() -> None:
    """Bytes of live tensors after the model is loaded, by number of clients."""
    import torch

    def tensor_bytes() -> int:
        gc.collect()
        seen = {}
        for thing in gc.get_objects():
            if isinstance(thing, torch.Tensor) and thing.device.type == "cpu":
                storage = thing.untyped_storage()
                seen[storage.data_ptr()] = storage.nbytes()
        return sum(seen.values())

    from fs_fedmllm.run_folder import RunFolder
    from fs_fedmllm.session import Session, Silent

    sizes = {}
    for clients in (2, 10, 100):
        words = ["federate.client_num", clients, "data.splitter", "fedmllm_aligned", "train.local_update_steps", 1]
        words += ["data.splitter_args", "[{alpha: 5.0}]", "fedmllm.vision_cache.memory_mib", 0]
        config = _config(*words)
        federation = _federation(config)
        before = tensor_bytes()
        session = Session(federation, RunFolder(Path(tempfile.mkdtemp()), config), Silent())
        for _ in range(2):
            drawn = session.begin_round()
            for client in drawn:
                update = session.turn(client)
                session.accept(update)
            session.end_round(len(drawn))
        sizes[clients] = (tensor_bytes() - before) / session.adapter_size
        del session, federation, update
    for clients, adapters in sizes.items():
        print(f"{clients} clients: {adapters:.2f} adapters above the loaded model")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("overhead", "host", "rival", "vision", "evaluation", "memory"))
    globals()[parser.parse_args().what]()
