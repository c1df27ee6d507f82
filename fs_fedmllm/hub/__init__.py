"""Adapters that people share: pushed to a hub and fetched from one, with a card that says how they were made.

Everything goes through ``huggingface_hub``; tokens come from its own store and are neither configured nor logged. A
push is one commit: a repository has the old files or all of the new ones. Only safetensors and JSON are written or
read.
"""
