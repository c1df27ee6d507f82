"""Grading of open answers by a language model behind any OpenAI-compatible endpoint.

``openai`` is imported only when a request is made.
"""

from fs_fedmllm.tools.judge.agreement import Agreement, agreement, with_exact_match, with_second_judge
from fs_fedmllm.tools.judge.config import JudgeConfig, JudgeError
from fs_fedmllm.tools.judge.report import JudgeReport, RowVerdict, Scores
from fs_fedmllm.tools.judge.rows import JudgeRow, read_rows
from fs_fedmllm.tools.judge.runner import judge_answers, judge_answers_async

__all__ = [
    "Agreement",
    "JudgeConfig",
    "JudgeError",
    "JudgeReport",
    "JudgeRow",
    "RowVerdict",
    "Scores",
    "agreement",
    "judge_answers",
    "judge_answers_async",
    "read_rows",
    "with_exact_match",
    "with_second_judge",
]
