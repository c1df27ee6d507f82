"""FederatedScope as a host: thin adapters that register the core with it, and the plug into a checkout."""
