"""Which run a configuration is: one declaration a key, and what follows from it."""

from __future__ import annotations

import dataclasses

from short_runs import CONFIGS

from fs_fedmllm import config as schema
from fs_fedmllm.config import identity
from fs_fedmllm.config.identity import KeyFacts
from fs_fedmllm.distributed.agreement import agreed_keys
from fs_fedmllm.keys import field_of

#: Values that a key without effect on the numbers may have, other than its default.
OTHER = {
    "federate.mode": "distributed", "eval.metrics": ["acc"], "fedmllm.hub.push": "every",
    "fedmllm.judge.prompt": "upstream", "fedmllm.judge.price_in": 2.0, "fedmllm.judge.price_out": 2.0,
}  # fmt: skip


def _with(config: schema.Config, path: str, value: object) -> schema.Config:
    first, _, rest = path.partition(".")
    field = field_of(first)
    inner = getattr(config, field)
    return dataclasses.replace(config, **{field: _with(inner, rest, value) if rest else value})


def _another(value: object) -> object:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return f"{value}x" if isinstance(value, str) else [*value] if isinstance(value, list) else {**value, "x": 1}


def test_keys_that_change_no_number_change_no_identity_and_all_others_do() -> None:
    config = schema.load(CONFIGS / "cross_i3t7.yaml")
    before = schema.config_digest(config)
    values = identity.flat(config)
    assert set(values) == set(schema.known_keys()) == set(schema.key_facts())
    for path, facts in schema.key_facts().items():
        value = OTHER.get(path, _another(values[path]))
        if isinstance(value, list) and value == values[path]:
            value = [*value, "x"]
        changed = schema.config_digest(_with(config, path, value))
        assert (changed != before) == facts.numbers, path


def test_what_the_issue_names_is_declared() -> None:
    facts = schema.key_facts()
    for path in ("vision_cache.memory_mib", "vision_cache.folder", "eval.batch_size", "workers", "checkpoint_every"):
        assert not facts[f"fedmllm.{path}"].numbers
    assert not facts["outdir"].numbers and not facts["fedmllm.hub.repo"].numbers  # the section's word
    # The order of a sum depends on the count of threads, and a cache that is off lets images share a batch.
    assert facts["fedmllm.threads"].numbers and facts["fedmllm.vision_cache.enabled"].numbers
    assert {fact.owner for fact in facts.values()} == {"run", "site", "server"}


def test_sites_agree_on_what_is_the_runs_and_changes_numbers() -> None:
    config = schema.load(CONFIGS / "cross_i3t7.yaml")
    agreed = set(agreed_keys(config))
    assert {"seed", "federate.method", "train.optimizer.lr", "fedmllm.regularizer.type"} <= agreed
    sites = {"data.root", "fedmllm.threads", "use_gpu", "model.fedmllm.path", "fedmllm.vision_cache.folder"}
    servers = {"federate.total_round_num", "eval.freq", "fedmllm.server.lr", "fedmllm.eval.limit"}
    assert not agreed & (sites | servers | {"fedmllm.train.gradient_checkpointing"})


def test_a_key_that_a_later_version_adds_at_its_default_changes_nothing(monkeypatch) -> None:
    config = schema.load(CONFIGS / "cross_i3t7.yaml")
    before = schema.config_digest(config)
    mapping = schema.to_mapping

    def later(own: schema.Config) -> dict:
        made = mapping(own)
        made["fedmllm"]["new_section"] = {"key": 1}
        return made

    facts = {**schema.key_facts(), "fedmllm.new_section.key": KeyFacts()}
    monkeypatch.setattr(identity, "to_mapping", later)
    monkeypatch.setattr(identity, "key_facts", lambda: facts)
    assert schema.config_digest(config) == before


def test_what_differs_is_named_with_both_values() -> None:
    config = schema.load(CONFIGS / "cross_i3t7.yaml")
    other = dataclasses.replace(config, seed=7)
    assert schema.told_apart(schema.settings(config), schema.settings(other)) == "seed is 0 there and 7 here"
    assert schema.told_apart(schema.settings(config), schema.settings(config)) == ""
    many = schema.told_apart({}, schema.settings(config))
    assert ", and " in many and many.endswith("more")


def test_what_only_names_the_data_or_says_where_to_write_is_no_other_run(short_config) -> None:
    plain = short_config("cross_i3t7")
    titled = {"title": "Our wards", "extract_images": "cache"}
    for name, value in titled.items():
        same = dataclasses.replace(plain, fedmllm=dataclasses.replace(plain.fedmllm, data={name: value}))
        assert schema.config_digest(same) == schema.config_digest(plain) and schema.settings(same) == schema.settings(
            plain
        )
    other = dataclasses.replace(
        plain, fedmllm=dataclasses.replace(plain.fedmllm, data={**titled, "image_root": "images"})
    )
    assert schema.config_digest(other) != schema.config_digest(plain)
    assert schema.settings(other)["fedmllm.data"] == {"image_root": "images"}
