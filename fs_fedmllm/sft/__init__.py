"""Supervised fine-tuning in TRL's words: a public trainer, and rows in TRL's form, read and written."""
