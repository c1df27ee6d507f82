"""A checkpoint whose tokenizer cannot pad or end a text is named, not met by a traceback in the first batch."""

from __future__ import annotations

import copy
import json
import shutil
from types import SimpleNamespace

import pytest

from fs_fedmllm.config import EvaluatorConfig, ModelOptions
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.data.template_file import load_template
from fs_fedmllm.errors import ModelError
from fs_fedmllm.evaluation.evaluator import Evaluator
from fs_fedmllm.models.completions import Completions
from fs_fedmllm.models.encoding import Encoder
from fs_fedmllm.models.loader import _check_tokenizer, load_mllm
from fs_fedmllm.models.row_text import RowText


def _without(source, folder, *names):
    shutil.copytree(source, folder)
    file = folder / "tokenizer_config.json"
    stated = json.loads(file.read_text())
    file.write_text(json.dumps({name: value for name, value in stated.items() if name not in names}))
    return ModelOptions(path=str(folder))


def test_neither_pad_nor_eos_is_told(twin, tmp_path) -> None:
    with pytest.raises(ModelError, match=r"neither a pad token nor an eos token.*tokenizer_config.json"):
        load_mllm(_without(twin("llava"), tmp_path / "bare", "pad_token", "eos_token"))
    with pytest.raises(ModelError, match=r"no processor with a tokenizer \(SimpleNamespace found\)"):
        _check_tokenizer(ModelOptions(path="x"), SimpleNamespace())


@pytest.mark.parametrize("missing", ["pad_token", "eos_token"])
def test_one_of_the_two_is_enough(missing, twin, tmp_path) -> None:
    mllm = load_mllm(_without(twin("llava"), tmp_path / missing, missing))
    assert mllm.tokenizer.pad_token_id is not None
    template = load_template("digits_triage")
    evaluator = Evaluator(Encoder(mllm, template, "original", None), EvaluatorConfig(max_new_tokens=2))
    rows = [Sample(str(i), None, "t" * (i + 1), template.answer(i), label=i) for i in range(2)]
    assert len(evaluator.generate(rows)) == 2


def test_an_answer_that_would_never_end_is_told(twin, tmp_path, monkeypatch) -> None:
    mllm = copy.copy(load_mllm(_without(twin("internvl"), tmp_path / "endless", "eos_token")))
    mllm.processor = copy.copy(mllm.processor)
    assert Completions(mllm.family, mllm.processor, RowText(mllm.processor, mllm.family), ()).stops
    mllm.processor.chat_template = mllm.processor.chat_template.replace("{{'<|im_end|>\n'}}", "")
    monkeypatch.setattr(mllm.inner.generation_config, "eos_token_id", None)
    with pytest.raises(ModelError, match=r"no eos token and its chat template writes nothing after an answer"):
        Encoder(mllm, load_template("digits_triage"), "original", None)
