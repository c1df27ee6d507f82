"""Names of the files of a sweep."""

#: In the sweep's folder.
CELLS = "cells"
INDEX = "sweep.json"
WORKERS_LOG = "workers.log"
#: In the sweep's folder and in a cell's.
LOCK = "lock"
#: In a cell's folder, beside the files of its run.
CONFIG = "cell.yaml"
MADE_BY = "made_by.json"
LOG = "cell.log"
#: Written in place of results.json by a run that no client could go on with: it diverged.
ENDED = "ended.json"
