"""What a run will need, told before anything heavy starts: sizes, traffic, memory, steps and, after a probe, hours.

The probe alone loads a model (:mod:`fs_fedmllm.tools.planner.probe`); sizes come from the checkpoint's configuration.
"""
