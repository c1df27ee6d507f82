"""Fewer bytes on the wire: updates in bfloat16, int8 or 4 bits, with error feedback."""

from fs_fedmllm.compression.codec import Codec, download

__all__ = ["Codec", "download"]
