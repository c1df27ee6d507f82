# PYTHON_ARGCOMPLETE_OK
"""``python -m fs_fedmllm``."""

import sys

from fs_fedmllm.cli import main

sys.exit(main())
