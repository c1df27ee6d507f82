"""Bad input inside the real FederatedScope: the embedded engine's paragraph, exit code 2, no traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from host_environment import ForkedEnvironment
from short_runs import CONFIGS, SHORT

MAIN = "federatedscope/main.py"
CROSS = CONFIGS / "cross_i3t7.yaml"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("federate.sample_client_num", "11"), "which is above federate.client_num (10)"),
        (
            ("data.splitter_args", "[{'image_clients':3,'text_clients':7}]", "federate.client_num", "12"),
            "3 image + 7 text clients",
        ),
        (("federate.method", "fedadagard"), "did you mean 'fedadagrad'?"),
        (("fedmllm.regularizer.type", "adaptive", "fedmllm.regularizer.skip_layers", "6"), "leaves no layer"),
        (("fedprox.use", "True"), "fedmllm.regularizer.type: fedprox"),
    ],
    ids=["sample", "counts", "method", "mask", "fedprox"],
)
def test_main_ends_with_2_and_a_paragraph(
    plugged: Path, host: ForkedEnvironment, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    done = host.run(MAIN, "--cfg", CROSS, *SHORT, "outdir", tmp_path / "fs", *words, cwd=plugged)
    assert done.returncode == 2, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    _, mark, paragraph = done.stderr.rpartition("fs-fedmllm: ")
    assert mark and said in paragraph and "\n" not in paragraph.strip()


def test_a_key_that_neither_knows_through_our_command_line(
    fs_checkout: Path, host: ForkedEnvironment, tmp_path: Path
) -> None:
    """FederatedScope's KeyError becomes our paragraph; a key of FederatedScope's alone is left to it."""
    command = ("-m", "fs_fedmllm", "run", CROSS, "--engine", "federatedscope", *SHORT, "outdir", tmp_path / "fs")
    path = {"PYTHONPATH": str(fs_checkout)}
    misspelt = tmp_path / "misspelt.yaml"
    misspelt.write_text(CROSS.read_text().replace("  method:", "  methd:"))
    in_file = ("-m", "fs_fedmllm", "run", misspelt, "--engine", "federatedscope")
    for words in ((*command, "federate.methd", "fedavg"), in_file):
        done = host.run(*words, cwd=tmp_path, **path)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr[-3000:]
        assert "unknown key 'federate.methd'; did you mean 'federate.method'?" in done.stderr
    lists = ("data.splitter_args", "[{alpha: 5.0, image_clients: 4}]", "fedmllm.eval.zero_shot", "false")
    done = host.run(*command, "wandb.use", "False", "eval.count_flops", "False", *lists, cwd=tmp_path, **path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "adapter sha256" in done.stdout
