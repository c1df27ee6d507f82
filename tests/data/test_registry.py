from __future__ import annotations

import subprocess
import sys

import pytest

from fs_fedmllm.data import registry
from fs_fedmllm.data.registry import ADAPTERS, cache_dir, known_options, load_dataset
from fs_fedmllm.errors import ConfigError


def test_an_unknown_name_gets_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match=r"no data set 'hatefull_meme'; did you mean 'hateful_memes'\?"):
        load_dataset("hatefull_meme", tmp_path)


def test_an_unknown_option_gets_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match=r"no option 'langauge'; did you mean 'language'\?.*require_images"):
        load_dataset("slake", tmp_path, {"langauge": "en"})


@pytest.mark.parametrize("options", [{"require_images": "no"}, {"language": 3}])
def test_an_option_of_the_wrong_type(tmp_path, options):
    with pytest.raises(ConfigError, match=r"slake: option .* must be of type"):
        load_dataset("slake", tmp_path, options)


def test_a_needed_option_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"own needs the option 'template'\. template=NAME\.yaml .* init writes one"):
        load_dataset("own", tmp_path)


def test_a_root_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.root: .*nowhere is not a folder"):
        load_dataset("slake", tmp_path / "nowhere")


@pytest.mark.parametrize("name", list(ADAPTERS))
def test_options_are_keywords_with_documented_names(name):
    load = registry._loader(name)
    for option in known_options(name):
        assert f"{option}:" in (load.__doc__ or ""), option


def test_the_cache_can_be_moved(monkeypatch, tmp_path):
    monkeypatch.setenv("FS_FEDMLLM_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path


def test_adapters_import_nothing_heavy():
    modules = ", ".join(sorted(set(ADAPTERS.values())))
    code = f"import sys, {modules}; heavy = 'torch pandas pyarrow PIL datasets numpy transformers'.split(); "
    code += "print([name for name in heavy if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
