"""Federated fine-tuning of multimodal large language models when clients lack modalities.

Importing this package imports neither torch nor transformers: the command line answers
``--help`` and configuration errors without paying for them.
"""

__version__ = "0.1.0"
