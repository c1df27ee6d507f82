"""NVFlare runs our rounds: its jobs, certificates and operation, our numbers."""
