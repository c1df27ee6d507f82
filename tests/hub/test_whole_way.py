"""The whole way round: trained by three engines, published, loaded and merged by PEFT and transformers alone, asked.

On a copy of the embedded model, by one engine; and on a real base by all three, where ``FS_FEDMLLM_REAL_BASE`` names
its folder (``scripts/build_real_base.py`` makes one).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import TOKEN, Hub
from PIL import Image, ImageDraw
from short_runs import REPOSITORY

from fs_fedmllm.cli import main
from fs_fedmllm.evaluation.options import options_of
from fs_fedmllm.hosts.federatedscope.checkout import find_federatedscope
from fs_fedmllm.models.encoding import Encoder
from fs_fedmllm.models.loader import TINY
from fs_fedmllm.tools.adapters.opening import open_adapter
from fs_fedmllm.tools.adapters.predict import one_row

REPO = "someone/shapes"
#: Folder of a real base, and the time that a test on it may take.
REAL_BASE = os.environ.get("FS_FEDMLLM_REAL_BASE", "")
OPTIONS = ("disc", "square", "stripes")

#: What a user writes who has PEFT and transformers and nothing of ours; the five lines in the middle are the loading.
ALONE = """
import json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "fs_fedmllm":
            raise ImportError(name)

sys.meta_path.insert(0, Absent())
told = json.load(open(sys.argv[1]))
BASE, REPO, MERGED = told["base"], told["repo"], told["merged"]

from peft import PeftModel
from transformers import AutoModelForImageTextToText
base = AutoModelForImageTextToText.from_pretrained(BASE)
model = PeftModel.from_pretrained(base, REPO)
model.eval()

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer
picture = Image.open(told["image"]).convert("RGB")
ids = torch.tensor([told["ids"]])

def shares(model, pixels):
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels).logits[0, -1]
    return logits[told["decisions"]].softmax(-1).tolist()

def pixels(folder):
    return AutoImageProcessor.from_pretrained(folder)(images=[picture], return_tensors="pt")["pixel_values"]

found = {"adapted": shares(model, pixels(BASE)), "disabled": None}
with model.disable_adapter():
    found["disabled"] = shares(model, pixels(BASE))
merged = model.merge_and_unload()
merged.save_pretrained(MERGED)
for part in (AutoTokenizer, AutoImageProcessor):
    part.from_pretrained(BASE).save_pretrained(MERGED)
del base, model, merged
served = AutoModelForImageTextToText.from_pretrained(MERGED).eval()
found["merged"] = shares(served, pixels(MERGED))
said = served.generate(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels(MERGED),
                       max_new_tokens=3, do_sample=False)
found["said"] = AutoTokenizer.from_pretrained(MERGED).decode(said[0, ids.shape[1]:])
found["ours"] = [name for name in sys.modules if name.startswith("fs_fedmllm")]
json.dump(found, open(told["out"], "w"))
"""


def picture(path: Path, label: int, place: int) -> None:
    """A drawing of one of three things, each at a place of its own."""
    image = Image.new("RGB", (96, 96), (16, 24, 40))
    pen, at, light = ImageDraw.Draw(image), 12 + 3 * (place % 9), (200 + place, 190, 90)
    if label == 0:
        pen.ellipse((at, at, at + 48, at + 48), fill=light)
    elif label == 1:
        pen.rectangle((at, at, at + 44, at + 44), fill=light)
    else:
        for row in range(at, at + 48, 8):
            pen.line((0, row, 96, row), fill=light, width=3)
    image.save(path)


def job(folder: Path, base: Path) -> Path:
    """Rows, template and configuration of a run of two rounds of two steps."""
    folder.mkdir()
    with (folder / "rows.jsonl").open("w") as stream:
        for number in range(36):
            label, split = number % 3, "test" if number < 6 else "val" if number < 12 else "train"
            picture(folder / f"{number}.png", label, number)
            row = {"id": str(number), "image": f"{number}.png", "label": OPTIONS[label], "split": split}
            stream.write(json.dumps(row) + "\n")
    (folder / "ask.yaml").write_text(f"question: What does the picture show\noptions: [{', '.join(OPTIONS)}]\n")
    made = folder / "shapes.yaml"
    made.write_text(
        f"""
data: {{type: own, root: {folder}, splitter: fedmllm_aligned, splitter_args: [{{alpha: 5.0}}]}}
federate: {{method: FedAvg, client_num: 3, sample_client_num: 2, total_round_num: 2}}
train: {{local_update_steps: 2, optimizer: {{lr: 0.003}}}}
eval: {{freq: 2}}
model: {{fedmllm: {{path: {base}, federated: [lora, projector]}}}}
fedmllm:
  data: {{template: ask.yaml, file: rows.jsonl}}
  train: {{batch_size: 4, lr_horizon: 2}}
  eval: {{zero_shot: False, slices: never, batch_size: 4}}
  workers: 1
  threads: 1
"""
    )
    return made


def results(place: Path) -> dict:
    return json.loads((place / "results.json").read_text())


def environment_of(hub: Hub, home: Path, **more: str) -> dict[str, str]:
    """As a user's who knows the hub by its address."""
    left_out = ("HF_", "PYTHONPATH")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    return inherited | {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1",
                        "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", **more}  # fmt: skip


def way_round(run: Path, base: Path, hub: Hub, folder: Path, capsys: pytest.CaptureFixture[str]) -> dict:
    """Publish a run's adapter, ask it here, and ask it where there is nothing of ours.

    Args:
        run: the run folder.
        base: folder of the base.
        hub: where it is published.
        folder: for what is written.
        capsys: reads what ``predict`` says.
    """
    assert main(["push", str(run), REPO, "--which", "last", "--base-model", "someone/base"]) == 0
    photo = folder / "photo.jpg"
    Image.open(folder / "shapes" / "4.png").save(photo)
    capsys.readouterr()
    assert main(["predict", f"hub:{REPO}", "--base", str(base), "--image", str(photo)]) == 0
    said = capsys.readouterr().out.splitlines()
    told = {line.split()[1]: float(line.split()[0].rstrip("%")) / 100 for line in said[1:]}
    assert set(told) == set(OPTIONS) and said[0] == max(told, key=lambda name: told[name])
    assert sum(told.values()) == pytest.approx(1, abs=3e-4)
    opened = open_adapter(f"hub:{REPO}", base=str(base))
    assert opened.description is not None and opened.description.template is not None
    encoder = Encoder(opened.mllm, opened.description.template, "original", None)
    options, row = options_of(encoder), one_row(str(photo), "", "")
    assert options is not None
    asked = {
        "base": str(base), "repo": REPO, "merged": str(folder / "merged"), "image": str(photo),
        "ids": [*encoder.encode([row], answered=False)[0].prompt, *options.prefix], "decisions": options.decisions,
        "out": str(folder / "found.json"),
    }  # fmt: skip
    del opened, encoder
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "asked.json").write_text(json.dumps(asked))
    (elsewhere / "alone.py").write_text(ALONE)
    done = afresh([elsewhere / "alone.py", elsewhere / "asked.json"], elsewhere, environment_of(hub, folder / "home"))
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((folder / "found.json").read_text())
    assert found["ours"] == [] and found["said"]
    by_option = [told[name] for name in OPTIONS]
    for which in ("adapted", "merged"):
        assert found[which] == pytest.approx(by_option, abs=2e-4), which
    assert found["disabled"] != pytest.approx(by_option, abs=2e-3)  # it is the adapter that answers
    return found


def afresh(arguments: list[object], cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )


def test_an_adapter_answers_the_same_without_this_package(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "tiny"
    base.mkdir()
    for file in TINY.iterdir():
        if file.suffix in (".json", ".jinja", ".safetensors"):
            shutil.copy2(file, base)
    assert main(["run", str(job(tmp_path / "shapes", base)), "outdir", str(tmp_path / "exp"), "expname", "run"]) == 0
    way_round(tmp_path / "exp" / "run", base, hub, tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.skipif(not REAL_BASE, reason="NOT RUN: set FS_FEDMLLM_REAL_BASE to the folder of a real base")
def test_a_real_base_all_the_way_round(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("nvflare", reason="NOT RUN: the extra nvflare is not installed")
    checkout = find_federatedscope()
    if checkout is None:
        pytest.skip("NOT RUN: no FederatedScope checkout (set FEDERATEDSCOPE_HOME or clone it to ~/FederatedScope)")
    base, config = Path(REAL_BASE).resolve(), job(tmp_path / "shapes", Path(REAL_BASE).resolve())
    words = ["outdir", str(tmp_path / "exp"), "model.fedmllm.image_tokens", "70", "train.local_update_steps", "1"]
    words += ["fedmllm.train.batch_size", "2", "fedmllm.eval.limit", "3"]
    digests = {}
    for engine in ("embedded", "federatedscope", "nvflare"):  # each in processes of its own: a base is large
        more = {"PYTHONPATH": str(REPOSITORY), "FEDERATEDSCOPE_HOME": str(checkout)}
        done = afresh(
            ["-m", "fs_fedmllm", "run", config, "--engine", engine, *words, "expname", engine],
            tmp_path, environment_of(hub, tmp_path / "home", **more),
        )  # fmt: skip
        assert done.returncode == 0, f"{engine}: {done.stderr[-3000:]}"
        digests[engine] = results(tmp_path / "exp" / engine)["adapter_sha256"]
    assert len(set(digests.values())) == 1, digests
    way_round(tmp_path / "exp" / "embedded", base, hub, tmp_path, capsys)
