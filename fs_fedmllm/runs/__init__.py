"""A whole run: its folder, its checkpoints and resumption, its results, and the embedded engine."""
