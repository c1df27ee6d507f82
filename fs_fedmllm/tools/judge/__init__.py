"""Grading of open answers by a language model behind any OpenAI-compatible endpoint.

``openai`` is imported only when a request is made.
"""

from fs_fedmllm.tools.judge.agreement import with_exact_match
from fs_fedmllm.tools.judge.config import JudgeConfig
from fs_fedmllm.tools.judge.rows import JudgeRow
from fs_fedmllm.tools.judge.runner import judge_answers

__all__ = [
    "JudgeConfig",
    "JudgeRow",
    "judge_answers",
    "with_exact_match",
]
