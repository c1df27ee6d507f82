"""Presets on data: partitions of the published sizes, and a smoke run of the choice tasks with the embedded model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fs_fedmllm.data.registry import load_dataset
from fs_fedmllm.scenarios.manifest import read_manifest

#: The authors' file: 5,481 rows of label 0, 3,019 of label 1, the first of label 0.
AUTHORS = [0, *([1, 0] * 3019), *([0] * 2461)]


def _memes(folder: Path, labels: list[int], images: int) -> Path:
    """A folder of the shape of Hateful Memes; no image is written if ``images`` is 0."""
    from PIL import Image

    (folder / "img").mkdir(parents=True)
    for i in range(images):
        Image.new("RGB", (16, 16), (12 * i, 90, 200)).save(folder / f"img/{i:05}.png")

    def row(i: int, label: int) -> str:
        image = f"img/{i % images if images else i:05}.png"
        return json.dumps({"id": i, "img": image, "label": label, "text": f"words {i % 7}"}) + "\n"

    (folder / "train.jsonl").write_text("".join(row(i, label) for i, label in enumerate(labels)))
    for split in ("dev_seen", "test_seen"):
        (folder / f"{split}.jsonl").write_text("".join(row(i, i % 2) for i in range(8)))
    return folder


def _tweets(folder: Path, rows: int) -> Path:
    """A folder of the shape of CrisisMMD, two images to a tweet."""
    from PIL import Image

    from fs_fedmllm.data.template_file import load_template

    names = load_template("crisismmd").options
    (folder / "data_image").mkdir(parents=True)
    for i in range(4):
        Image.new("RGB", (16, 16), (60 * i, 90, 20)).save(folder / f"data_image/{i}.jpg")
    head = "event_name tweet_id image_id tweet_text image label label_text label_image label_text_image"
    for split, count in (("train", rows), ("dev", 8), ("test", 8)):
        lines = ["\t".join(head.split())]
        for i in range(count):
            label, tweet = names[i % 8], f"{split}{i // 2}"
            words = [
                "flood",
                tweet,
                f"{tweet}_{i % 2}",
                f"tweet {i}",
                f"data_image/{i % 4}.jpg",
                label,
                label,
                label,
                "x",
            ]
            lines.append("\t".join(words))
        (folder / f"task_humanitarian_text_img_{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def _split(cli, tmp_path: Path, preset: str, *words: object):
    code, said = cli("data", "split", preset, "--out", tmp_path / "out", *words)
    assert code == 0, said
    return read_manifest(tmp_path / "out/manifest.json")


def test_authors_seed_gives_the_published_client_sizes(cli, tmp_path):
    root = _memes(tmp_path / "memes", AUTHORS, images=0)
    words = ("data.root", root, "fedmllm.data", "{require_images: false}", "fedmllm.profile", "upstream")
    manifest = _split(cli, tmp_path, "configs/hateful_memes/aligned_a05.yaml", *words)
    sizes = [len(record.rows) for record in manifest.clients.values()]
    assert sizes == [523, 1433, 173, 30, 1014, 3, 4285, 123, 507, 409]


@pytest.mark.parametrize("level", ["a50", "a10", "a05"])
def test_crisis_presets_keep_the_real_tweets_whole(cli, real_data, tmp_path, level):
    options = "{annotations: humanitarian_ids_no_text.tsv, allow_missing_text: true, require_images: false}"
    words = ("data.root", real_data / "crisismmd", "fedmllm.data", options)
    manifest = _split(cli, tmp_path, f"configs/crisismmd/aligned_{level}.yaml", *words)
    given = {"annotations": "humanitarian_ids_no_text.tsv", "allow_missing_text": True, "require_images": False}
    tweet = {row.id: row.keys["tweet"] for row in load_dataset("crisismmd", real_data / "crisismmd", given).train}
    owners = [{tweet[row] for row in record.rows} for record in manifest.clients.values()]
    assert sum(len(record.rows) for record in manifest.clients.values()) == 13608
    assert sum(map(len, owners)) == len(set().union(*owners)) == len(set(tweet.values()))


@pytest.mark.parametrize(
    ("preset", "rows", "dev"), [("hateful_memes/missing_b50_10of30", 300, True),
                                ("hateful_memes/cross_i3t7", 80, False), ("crisismmd/hybrid_p60", 240, True)]
)  # fmt: skip
def test_a_choice_preset_runs_with_tiny(cli, tmp_path, preset, rows, dev):
    """Hateful Memes as the paper has it has no validation file: the last round is then the run's."""
    crisis = preset.startswith("crisis")
    root = _tweets(tmp_path / "set", rows) if crisis else _memes(tmp_path / "set", [i % 2 for i in range(rows)], 8)
    if not dev:
        for file in root.glob("*dev*"):
            file.unlink()
    words = ("federate.total_round_num", "1", "fedmllm.eval.zero_shot", str(not dev), "outdir", tmp_path / "exp")
    step = ("train.batch_or_epoch", "batch", "train.local_update_steps", "1", "fedmllm.eval.slices", "never")
    code, said = cli(
        "run", f"configs/{preset}.yaml", "--tiny", "--engine", "embedded", "data.root", root, *words, *step
    )
    assert code == 0, said
    (file,) = (tmp_path / "exp").glob("*/results.json")
    results = json.loads(file.read_text())
    assert ("test_macro_f1" if crisis else "test_auc") in results["evaluations"][-1]
    if dev:
        assert results["best_by"].startswith("val_")
    else:
        assert results["best_by"] == "last round" and results["best"]["round"] == results["rounds"] == 1
        assert len(results["evaluations"]) == 2 and "(best)" not in said
        assert "no validation rows pick a best round: the run's figures are of the last one, round 1\n" in said
        code, said = cli(
            "run",
            f"configs/{preset}.yaml",
            "--tiny",
            "--engine",
            "embedded",
            "data.root",
            root,
            *words,
            *step,
            "--dry-run",
        )
        assert code == 0 and "no validation rows pick a best round, the last round's figures are the run's" in said
        tensors = [file.parent / name / "adapter_model.safetensors" for name in ("adapter", "adapter_best")]
        assert tensors[0].read_bytes() == tensors[1].read_bytes()
