"""Labels that may be one, or none: said by `data check` and `init`, without accusing those that differ."""

from __future__ import annotations

import pytest

from fs_fedmllm.cli import main
from fs_fedmllm.data.alike_labels import alike_sentences


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"Sick": 1, "sick": 14}, "'Sick' (1 row) and 'sick' (14 rows) may be one"),
        ({"helthy": 1, "healthy": 14}, "'helthy' (1 row) and 'healthy' (14 rows) may be one"),
        ({"not sick": 5, "not_sick": 5}, "may be one"),
        ({"maling": 1, "malign": 20}, "may be one"),
        (
            {"y": 3, "yes": 9, "Yes": 4},
            "'y' (3 rows), 'Yes' (4 rows) and 'yes' (9 rows) may be one, written in 3 ways",
        ),
        ({"n": 3, "no": 9, "maybe": 9}, "'n' (3 rows) and 'no' (9 rows) may be one, written in two ways"),
        ({"M": 3, "male": 9, "female": 9}, "'M' (3 rows) and 'male' (9 rows)"),
        ({"F": 3, "woman": 2, "female": 9, "m": 5}, "'woman' (2 rows), 'F' (3 rows) and 'female' (9 rows)"),
        ({"1": 3, "yes": 9, "no": 9}, "'1' (3 rows) and 'yes' (9 rows)"),
        ({"gerötet": 9, "geroetet": 9, "blaß": 3}, "'geroetet' (9 rows) and 'gerötet' (9 rows)"),
        ({"KIRMIZI": 9, "kırmızı": 9}, "may be one"),
        ({"pos.": 2, "positive": 9, "unclear": 4}, "'pos.' (2 rows) and 'positive' (9 rows)"),
        ({"NA": 3, "a": 4}, "'NA' (3 rows) is what people write where there is nothing"),
    ],
)
def test_what_may_be_one_or_none_is_said(counts, said):
    (sentence,) = alike_sentences(counts, {})
    assert said in sentence


@pytest.mark.parametrize(
    "counts",
    [
        {"typical": 1, "atypical": 20},
        {"BI-RADS 1": 1, "BI-RADS 2": 20},
        {"grade A": 1, "grade B": 20},
        {"HER2+": 5, "HER2-": 5},
        {"-1": 5, "1": 5},
        {"healthy": 9, "wealthy": 9},
        {"sick": 4, "Sick": 0},
        {"0": 5, "1": 5},
        {"f": 5, "m": 5},
        {"A": 5, "B": 5, "AB": 5, "O": 5},
        {"I": 5, "II": 5, "III": 5, "IV": 5},
        {"c": 5, "cat": 5, "car": 5},
        {"yes": 5, "no": 5, "normal": 5},
        {"positive": 5, "negative": 5},
        {"右上肺叶炎症": 1, "右下肺叶炎症": 20},
    ],
)
def test_what_differs_is_left_alone(counts):
    assert not alike_sentences(counts)


def test_data_check_warns(tmp_path, capsys):
    rows = ["note,label", *(f"words number {i},{'sick' if i % 2 else 'healthy'}" for i in range(30)), "more,Sick"]
    (tmp_path / "data.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "t.yaml").write_text("question: Which\noptions: [healthy, sick, Sick]\n")
    words = ["data", "check", str(tmp_path), "template=t.yaml", "columns.text=note"]
    assert main([*words, "split={val: 0.1, test: 0.2}"]) == 0
    assert "'Sick' (1 row) and 'sick' (15 rows) may" in " ".join(capsys.readouterr().out.split())
