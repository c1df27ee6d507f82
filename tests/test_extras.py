"""Every extra does its work in an environment that has it and nothing else, and is named where it is missing."""

from __future__ import annotations

import ast
import importlib.util
import re
import runpy
import sys
from pathlib import Path

import pytest
from short_runs import REPOSITORY

from fs_fedmllm.errors import ConfigError, FedMLLMError
from fs_fedmllm.extras import EXTRAS, require_extra
from fs_fedmllm.hosts.federatedscope.checkout import find_federatedscope

SCRIPT = runpy.run_path(str(REPOSITORY / "scripts" / "check_extras.py"))
PROOFS = runpy.run_path(str(REPOSITORY / "scripts" / "extra_works.py"))["PROOFS"]
STATED = SCRIPT["packaging"]()
#: Whose work is a run or several processes, each of which imports torch in an environment of its own. The same work is
#: tested with all extras in the tests of its room; that an extra's list is whole, below.
LONG_PROOFS = (
    *("fs", "distributed", "quant", "hub", "evaluate", "trl", "plot", "privacy", "nvflare", "wandb", "mlflow"),
    *("smolvlm", "real"),
)


@pytest.mark.parametrize(
    "extra", [pytest.param(extra, marks=pytest.mark.slow) if extra in LONG_PROOFS else extra for extra in PROOFS]
)
def test_an_extra_does_its_work_alone(extra: str, tmp_path: Path) -> None:
    if extra == "fs" and find_federatedscope() is None:
        pytest.skip("NOT RUN: no FederatedScope checkout (set FEDERATEDSCOPE_HOME or clone it to ~/FederatedScope)")
    extras = [] if extra == "base" else [extra]
    try:
        python = SCRIPT["linked"](tmp_path / "environment", extras)
    except importlib.metadata.PackageNotFoundError as error:
        pytest.skip(f"NOT RUN: {error}; the extra {extra} is not installed here")
    done = SCRIPT["prove"](python, extra, tmp_path)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert done.stdout.splitlines()[-1] == "done"


def test_every_extra_has_a_proof_and_every_documented_one_exists() -> None:
    assert set(PROOFS) == {"base", *STATED["optional-dependencies"]}
    texts = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("examples/**/*.md"),
             *REPOSITORY.glob("fs_fedmllm/**/*.py"), REPOSITORY / ".ci" / "run"]  # fmt: skip
    for path in texts:
        for line in re.findall(r"(?:fs-fedmllm|'\.)\[([a-z,]+)\]", path.read_text(encoding="utf-8")):
            assert set(line.split(",")) <= set(STATED["optional-dependencies"]), f"{path}: {line}"
    for extra, modules in EXTRAS.items():
        names = {re.split(r"[<>=]", line)[0] for line in STATED["optional-dependencies"][extra]}
        assert set(modules.values()) <= names, f"{extra} does not bring all that it is said to bring"


def test_what_the_package_imports_is_a_requirement() -> None:
    """No import leans on what another package happens to bring along."""
    stated = [*STATED["dependencies"], *(x for lines in STATED["optional-dependencies"].values() for x in lines)]
    required = {re.split(r"[<>=\[]", line)[0].lower().replace("_", "-") for line in stated}
    owners = importlib.metadata.packages_distributions()
    own = {"fs_fedmllm", "federatedscope", "tensorflow"} | set(sys.stdlib_module_names)
    for path in REPOSITORY.glob("fs_fedmllm/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in {name.split(".")[0] for name in names} - own:
                found = {owner.lower().replace("_", "-") for owner in owners.get(name, ())}
                assert not found or found & required, f"{path}:{node.lineno} imports {name}, which nothing requires"


def test_the_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    gone = {"grpc", "cryptography"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in gone else find(name, *a))
    with pytest.raises(ConfigError) as told:
        require_extra("distributed", "fs-fedmllm server")
    assert str(told.value) == (
        "fs-fedmllm server needs the packages grpcio and cryptography, which are not installed: "
        "pip install 'fs-fedmllm[distributed]'."
    )
    gone.remove("grpc")
    with pytest.raises(FedMLLMError, match="needs the package cryptography, which is not installed"):
        require_extra("privacy", "It", "cryptography")
