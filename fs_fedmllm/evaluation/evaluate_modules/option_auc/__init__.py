"""See ``option_auc.py``, which the ``evaluate`` library loads."""
