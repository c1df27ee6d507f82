"""Grading of open answers by a language model behind any OpenAI-compatible endpoint.

``openai`` is imported only when a request is made.
"""

from fs_fedmllm.tools.judge.agreement import Agreement, agreement, with_exact_match
from fs_fedmllm.tools.judge.config import JudgeConfig, JudgeError
from fs_fedmllm.tools.judge.report import JudgeReport, RowVerdict, Scores
from fs_fedmllm.tools.judge.rows import JudgeRow
from fs_fedmllm.tools.judge.runner import judge_answers

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
    "with_exact_match",
]
