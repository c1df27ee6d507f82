"""Runs across institutions: messages, the wire, identities; nothing of it knows a host.

Import the modules, not this package: it imports nothing, so that ``fs-fedmllm certs`` needs no torch.
"""

import os

# Before anything imports gRPC, whose core writes a line for every handshake that fails: whoever reaches the port could
# fill the log.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
