"""Runs across institutions: messages, the wire, identities; nothing of it knows a host.

Import the modules, not this package: it is empty so that ``fs-fedmllm certs`` needs no torch.
"""
