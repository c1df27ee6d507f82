"""Commands and YAML that messages propose are pasted as they stand, whatever columns and folders are called."""

from __future__ import annotations

import shlex
import subprocess

import pytest
import yaml

from fs_fedmllm.quoting import shell_option, shell_word, spreadsheet_cell, yaml_list, yaml_mapping, yaml_word

NAMES = ("label", "what we saw", "it's", '"', "$(touch x)", "`id`", "a;b|c", "*", "-x", "~", "#1", "a\\b", "é 🩹", "",
         "ev\x1b[31mil", "two\nlines", "tab\there", "\u202eright", "\\x1b'", "bell\x07", "\u2028")  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_one_word_of_a_shell(name):
    word = shell_word(name)
    assert word.isprintable()
    said = subprocess.run(
        ["bash", "-c", f"printf '%s|' {word}"], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"}
    )
    assert said.stdout.decode() == f"{name}|"
    if name.isprintable():
        assert shlex.split(shell_option("label", name)) in (["--label", name], [f"--label={name}"])


@pytest.mark.parametrize("name", [*NAMES, "no", "1.0", "{x: 1} # c", "a: b", "- a", "2026-01-01", "\udc80", "null"])
def test_a_name_is_one_text_of_yaml(name):
    assert yaml.safe_load(f"key: {yaml_word(name)}") == {"key": name}
    assert yaml.safe_load(f"{{a: {yaml_list([name, 'b'])}, c: {yaml_mapping({'d': name})}}}") == {
        "a": [name, "b"], "c": {"d": name}
    }  # fmt: skip


def test_a_cell_of_a_table_is_no_formula():
    assert [spreadsheet_cell(value) for value in ("=1+1", "+1", "-x", "@a", "\t=1", "a=1", "", -0.5, 3, None)] == [
        "'=1+1", "'+1", "'-x", "'@a", "'\t=1", "a=1", "", -0.5, 3, None
    ]  # fmt: skip
