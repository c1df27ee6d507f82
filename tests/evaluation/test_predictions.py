"""What a run predicted, on disk and back."""

from __future__ import annotations

from pathlib import Path

from fs_fedmllm.evaluation.predictions import Prediction, read_predictions, write_predictions


def test_texts_with_unicodes_other_line_ends_come_back(tmp_path: Path) -> None:
    """JSON leaves them as they are, and they end no line of JSON Lines."""
    file = tmp_path / "predictions.jsonl"
    rows = [
        Prediction(f"r{i}", "both", True, question=f"what{end}then?", reference="this", answer=f"this{end}that")
        for i, end in enumerate(("\u2028", "\u2029", "\x85", "\n", "\r\n"))
    ]
    write_predictions(file, rows)
    assert read_predictions(file) == rows
    lines = [line for line in file.read_text(encoding="utf-8").split("\n") if line]
    assert len(lines) == len(rows)
