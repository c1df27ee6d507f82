"""Samples, the adapters of the data sets, and the prompt templates."""
