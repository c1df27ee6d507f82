"""From a file of rows to a configuration: `looking` at it, `proposing` what it means, `writing` that down as YAML."""
