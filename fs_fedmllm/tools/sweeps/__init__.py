"""Grids of runs: a table file, its cells, and their side-by-side, resumable execution (``fs-fedmllm sweep``)."""
