"""Processes of a test's federation that die as they start; Python imports this first where it is on the path.

Those die whose module is named in a file ``dies`` where they run, which is their site's kit.
"""

import os
import signal
import sys

try:
    with open("dies", encoding="utf-8") as file:
        dies = file.read().strip()
except OSError:
    dies = ""
if dies and dies in sys.orig_argv:
    os.kill(os.getpid(), signal.SIGKILL)
