"""What a run will need, told before anything heavy starts: sizes, traffic, memory, steps and, after a probe, hours.

Nothing here allocates a model: shapes come from the checkpoint's configuration, and a training step is walked through
with tensors that have sizes and no values (:mod:`fs_fedmllm.tools.planner.activations`).
"""
