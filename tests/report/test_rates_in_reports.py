"""What a report says of modalities that no row has."""

from __future__ import annotations

from types import SimpleNamespace

from fs_fedmllm.tools.report.modalities import missing_rates


def cells(presence):
    rates = {"nominal": {"image": 0.5, "text": 0.0}, "measured": {"image": 0.4, "text": 1.0}}
    results = {"dataset": "d", "scenario": "missing", "missing_rates": rates, "manifest_sha256": "m"}
    run = SimpleNamespace(results=results | ({"test_rows": {"presence": presence}} if presence else {}))
    (grid,) = missing_rates(SimpleNamespace(runs={(): [run]}, title=lambda _: ""))
    return [cell.figure for cell in grid.rows[0][1]]


def test_a_modality_in_no_row_is_not_called_missing():
    assert cells({"image": 9}) == ["50.0 %", "40.0 %", "0.0 %", "in no row"]
    assert cells({"image": 9, "both": 1})[-1] == cells({})[-1] == "100.0 %"
