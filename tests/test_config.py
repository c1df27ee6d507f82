"""The schema: what a file may say, what is refused and in which words."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import pytest
from short_runs import CONFIGS

from fs_fedmllm import config as schema
from fs_fedmllm.config.checks import numbers
from fs_fedmllm.config.profiles import SCENARIO_SWITCHES
from fs_fedmllm.config.schema import SCENARIO_ARGS
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.keys import Range
from fs_fedmllm.scenarios.switches import SWITCHES, ScenarioParams

CROSS = CONFIGS / "cross_i3t7.yaml"


def refused(*words: str) -> str:
    """The message for a preset with these overrides."""
    with pytest.raises(ConfigError) as caught:
        schema.load(CROSS, words)
    message = str(caught.value)
    assert message.startswith(str(CROSS)) and "\n" not in message
    return message.removeprefix(f"{CROSS}: ")


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("seeed", "'seed'"),
        ("federate.methd", "'federate.method'"),
        ("fedmllm.regularizer.gama_max", "'fedmllm.regularizer.gamma_max'"),
        ("model.fedmllm.lora.rank", "'model.fedmllm.lora.r'"),
        ("federat.method", "'federate'"),
        ("fedmllm.client_num", "'federate.client_num'"),  # right name, wrong section
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(path: str, nearest: str) -> None:
    said = refused(path, "1")
    assert said.startswith("unknown key '") and f"did you mean {nearest}" in said


def test_a_section_of_federatedscope_that_we_do_not_honour_is_refused_as_such() -> None:
    assert "Run it with --engine federatedscope" in refused("wandb.use", "True")
    assert "Set fedmllm.privacy.secure_aggregation.enabled: True" in refused("federate.use_ss", "True")


def test_on_the_host_its_other_keys_keep_their_meaning() -> None:
    words = ("wandb.use", "True", "wandb.name_user", "me", "eval.count_flops", "False", "somebody.else", "1")
    assert schema.load(CROSS, words, host=True) == schema.load(CROSS)
    with pytest.raises(ConfigError, match="gamma_max"):  # our own sections are checked there too
        schema.load(CROSS, ("fedmllm.regularizer.gama_max", "1"), host=True)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("seed", "seven", "seed must be a whole number, got 'seven'"),
        ("seed", "2.5", "seed must be a whole number, got 2.5"),
        ("seed", "null", "seed must be a whole number, got None"),
        ("train.optimizer.lr", "fast", "train.optimizer.lr must be a number, got 'fast'"),
        ("use_gpu", "perhaps", "use_gpu must be true or false, got 'perhaps'"),
        ("data.splitter_args", "3", "data.splitter_args must be a list, got 3"),
        ("data.splitter_args", "[3]", "data.splitter_args must hold one mapping"),
        ("data.splitter_args", "[{alpha: 1}, {}]", "data.splitter_args must hold one mapping"),
        ("fedmllm.switches", "3", "fedmllm.switches must be a mapping, got 3"),
        ("data.type", "[a]", "data.type must be a text, got ['a']"),
    ],
)
def test_a_wrong_type_is_refused(path: str, value: str, said: str) -> None:
    assert said in refused(path, value)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("federate.client_num", "0", "at least 1"),
        ("federate.sample_client_num", "0", "at least 1, or -1"),
        ("federate.sample_client_rate", "1.5", "in (0, 1], or -1"),
        ("federate.total_round_num", "0", "at least 1"),
        ("seed", "-1", "in [0, 4294967295]"),
        ("train.optimizer.lr", ".nan", "at least 0"),
        ("train.optimizer.lr", ".inf", "at least 0"),
        ("model.fedmllm.lora.dropout", "1", "in [0, 1)"),
        ("fedmllm.train.beta2", "1.0", "in [0, 1)"),
        ("fedmllm.train.eps", "0", "above 0"),
        ("fedmllm.server.tau", "0", "above 0"),
        ("fedmllm.server.lr", "-3", "at least 0, or -1"),
        ("fedmllm.eval.batch_size", "0", "at least 1"),
        ("fedmllm.threads", "-2", "in [0, 1024]"),
    ],
)
def test_a_number_outside_its_range_is_refused(path: str, value: str, said: str) -> None:
    message = refused(path, value)
    assert message.startswith(f"{path} is ") and f"it must be {said}." in message


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("data.splitter_args", "[{image_clients: 3, text_clients: 7}]", "federate.client_num", "12"),
            "3 image + 7 text clients, but federate.client_num is 12",
        ),
        (("federate.sample_client_num", "11"), "sample_client_num is 11, which is above federate.client_num (10)"),
        (("data.splitter_args", "[{alpha: 0.5}]"), "the cross scenario needs image_clients"),
        (("data.splitter_args", "[{image_clients: three}]"), "image_clients must be a whole number"),
        (("data.splitter_args", "[{image_client: 3}]"), "'image_client' in data.splitter_args; did you mean 'image_c"),
        (("federate.method", "fedadagard"), "not one of fedavg, fedavgm, fedadagrad"),
        (("federate.method", "fedprox"), "federate.method is 'fedprox', which is not one of"),
        (("federate.method", "''"), "federate.method is '', which is not one of"),
        (("data.splitter", "fedmllm_corss"), "did you mean 'fedmllm_cross'?"),
        (("data.splitter", "''"), "data.splitter is not set"),
        (("data.type", "''"), "data.type is not set"),
        (("fedmllm.profile", "paperr"), "did you mean 'paper'?"),
        (("fedmllm.switches.lr_inne", "cosine"), "unknown switch 'fedmllm.switches.lr_inne'; did you mean 'lr_inner'"),
        (("fedmllm.switches.lr_inner", "steep"), "'steep', which is not one of constant, cosine"),
        (("model.type", "lr"), "model.type is 'lr'"),
        (("trainer.type", "general"), "trainer.type is 'general'"),
        (("early_stop.patience", "5"), "early_stop.patience must be 0"),
        (("eval.best_res_update_round_wise_key", "accuracy"), "must be a split and a metric"),
        (("eval.best_res_update_round_wise_key", "train_acc"), "must be a split and a metric"),
        (("eval.best_res_update_round_wise_key", "val_macrof1"), "no evaluation has a metric 'macrof1'; did you mean"),
        (("eval.best_res_update_round_wise_key", "test_text_acc"), "needs fedmllm.eval.slices: always"),
    ],
)
def test_what_cannot_mean_anything_is_refused(words: tuple[str, ...], said: str) -> None:
    assert said in refused(*words)


def test_odd_overrides_and_overrides_through_a_value() -> None:
    with pytest.raises(ConfigError, match=r"come in pairs.*'seed' has no value"):
        schema.load(CROSS, ("eval.freq", "5", "seed"))
    with pytest.raises(ConfigError, match=r"Override 'trainer\.type\.name': 'type' is a value, not a section"):
        schema.load(CROSS, ("trainer.type.name", "x"))
    for words in (("federate", "3"), ("federate={client_num: 3}",), ("model.fedmllm.lora={r: 4}",), ("grad", "{}")):
        with pytest.raises(ConfigError, match=r"is a section. Give its keys one by one, for example \S+\.\w+=\.\.\."):
            schema.load(CROSS, words)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Cannot read the configuration .*No such file"):
        schema.load(tmp_path / "absent.yaml")
    for name, text, said in (
        ("broken.yaml", "federate:\n  method: [fedavg\nseed: 3\n", r"not valid YAML at line 3"),
        ("list.yaml", "- 1\n- 2\n", "must be a mapping"),
        ("empty.yaml", "", "must be a mapping"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match=said):
            schema.load(tmp_path / name)
    (tmp_path / "latin.yaml").write_bytes(b"# caf\xe9\nseed: 1\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        schema.load(tmp_path / "latin.yaml")


def test_a_number_that_yaml_reads_as_text_is_accepted(tmp_path: Path) -> None:
    """YAML 1.1 has no number ``2e-5``; a person has."""
    assert schema.load(CROSS, ("train.optimizer.lr", "2e-5")).train.optimizer.lr == 2.0e-5
    text = re.sub(r"lr: \S+", "lr: 2e-5", CROSS.read_text())
    (tmp_path / "text.yaml").write_text(text)
    assert schema.load(tmp_path / "text.yaml").train.optimizer.lr == 2.0e-5


@pytest.mark.parametrize("word", ["007", "no", "1.10", "2024-05-01", "2024_05", "1:30", "0x10", "1e5"])
def test_a_word_of_the_command_line_is_the_text_that_it_is(word: str) -> None:
    assert schema.load(CROSS, (f"expname={word}",)).expname == word


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("expname: no", "expname must be a text, and YAML reads False. Put it into quotes"),
        ("expname: 1.10", "expname must be a text, and YAML reads 1.1. Put it into quotes"),
        ("expname: 2024-05-01", "expname must be a text, and YAML reads 2024-05-01. Put it into quotes"),
        ("expname: 2024_05", "at line 3: 2024_05 would be read as 202405. Write 202405, or put a text into quotes"),
        ("seed: 010", "at line 3: 010 would be read as 8. Write 8, or put a text into quotes"),
        ("seed: 1:30", "at line 3: 1:30 would be read as 90"),
        ("outdir: 0x10", "at line 3: 0x10 would be read as 16"),
        (
            "\tseed: 1",
            "at line 3: found character '\\t' that cannot start any token. Indent with blanks",
        ),
        ("---\nseed: 3", "at line 3: found another document. A file holds one"),
        ("expname: a: b", "Put a text that holds a colon into quotes"),
    ],
)
def test_what_yaml_reads_otherwise_than_it_is_written(given: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(
        f"data: {{type: digits_triage, splitter: fedmllm_aligned}}\nfederate: {{client_num: 2}}\n{given}\n"
    )
    with pytest.raises(ConfigError, match=re.escape(said)):
        schema.load(path)


@pytest.mark.parametrize("number", ["0", "-5", "+5", "1.0e+3", ".5", "2.5E-1"])
def test_plain_numbers_are_what_they_were(number: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"x: {number}\n")
    assert schema.read_yaml(tmp_path / "a.yaml") == {"x": float(number)}


@pytest.mark.parametrize(
    "words",
    [("outdir", "~/exp"), ("outdir", "~"), ("federate.save_to", "~/a.safetensors"), ("model.fedmllm.path", "~/base"),
     ("fedmllm.data", "{template: ~/t.yaml}"), ("fedmllm.vision_cache.folder", "~me/cache")],
)  # fmt: skip
def test_no_folder_is_called_tilde(words: tuple[str, str]) -> None:
    assert "a shell alone puts your folder in place of ~" in refused(*words)


@pytest.mark.parametrize("key", ["outdir", "fedmllm.hub.licence", "federate.save_to"])
def test_a_text_that_no_file_can_hold_is_refused(key: str) -> None:
    assert f"{key} holds bytes that are not UTF-8 text ('caf\\udce9')" in refused(key, "caf\udce9")


def test_overrides_reach_every_level_and_leave_the_rest() -> None:
    words = ("seed", "7", "federate.method", "FedYogi", "model.fedmllm.lora.r", "4", "data.splitter_args",
             "[{alpha: 5.0, image_clients: 5}]", "federate.sample_client_rate", "0.5")  # fmt: skip
    config = schema.load(CROSS, words)
    assert (config.seed, config.federate.method, config.model.fedmllm.lora.r) == (7, "fedyogi", 4)
    assert config.scenario_args == {"alpha": 5.0, "image_clients": 5}
    assert config.sampled_clients == 5
    assert config.train == schema.load(CROSS).train


def test_a_resolved_configuration_resolves_to_itself(tmp_path: Path) -> None:
    import yaml

    config = schema.load(CROSS, ("fedmllm.switches.lr_inner", "cosine"))
    (tmp_path / "resolved.yaml").write_text(yaml.safe_dump(schema.to_mapping(config)))
    assert schema.load(tmp_path / "resolved.yaml") == config
    assert config.switches["lr_inner"] == "cosine"


def test_the_arguments_of_a_splitter_are_those_of_the_scenarios() -> None:
    """The schema imports nothing of ours, so it names them a second time."""
    assert sorted(SCENARIO_ARGS) == sorted(
        f.name for f in dataclasses.fields(ScenarioParams) if f.name not in (*SWITCHES, "own")
    )
    assert sorted(SCENARIO_SWITCHES) == sorted(SWITCHES)


def test_every_default_is_within_its_range_and_every_key_is_explained() -> None:
    described = {name: doc for name, _, _, doc in schema.describe()}
    assert sorted(described) == sorted(schema.known_keys())
    assert all(len(doc) > 5 for doc in described.values())
    outside = [path for path, value, valid in numbers(schema.Config()) if not valid.holds(value)]
    assert outside == []
    assert "Must be in [0, 1)" in described["fedmllm.train.beta1"]


@pytest.mark.parametrize(
    ("valid", "text", "inside", "outside"),
    [
        (Range(1), "at least 1", (1, 5.5), (0, math.inf, math.nan)),
        (Range(0, open_low=True), "above 0", (1e-9,), (0, -1)),
        (Range(0, 1, open_high=True), "in [0, 1)", (0, 0.99), (1, -0.1)),
        (Range(0, 1, open_low=True, default=-1), "in (0, 1], or -1", (-1, 1), (0, -2, 1.1)),
        (Range(), "finite", (-3, 0), (math.inf,)),
    ],
)
def test_ranges(valid: Range, text: str, inside: tuple[float, ...], outside: tuple[float, ...]) -> None:
    assert str(valid) == text
    assert all(valid.holds(x) for x in inside) and not any(valid.holds(x) for x in outside)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("federate.rounds", "'federate.total_round_num'"),
        ("rounds", "'federate.total_round_num'"),
        ("epochs", "'train.local_update_steps' (with train.batch_or_epoch=epoch)"),
        ("federate.nums", "'federate.client_num' or 'federate.sample_client_num'"),
        ("federate.methd", "'federate.method'"),
        ("gpu", "'use_gpu'"),
    ],
)
def test_an_unknown_key_is_told_what_has_its_word(given: str, meant: str) -> None:
    from fs_fedmllm.config.known_keys import unknown_key

    assert meant in unknown_key(given)


def test_a_key_with_dots_in_a_file_is_told_to_be_nested(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("federate.total_round_num: 3\n")
    with pytest.raises(ConfigError, match=r"nest it: federate: \{total_round_num: \.\.\.\}"):
        schema.load(tmp_path / "c.yaml")


@pytest.mark.parametrize("key", ["threads", "workers"])
def test_more_threads_or_processes_than_a_system_bears_are_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"fedmllm\.{key} is 100000; it must be in \[0, 1024\]"):
        schema.load(CONFIGS / "cross_i3t7.yaml", [f"fedmllm.{key}", "100000"])
