"""Privacy over any engine: client-level differential privacy and secure aggregation (docs/privacy.md)."""
