"""See ``macro_f1.py``, which the ``evaluate`` library loads."""
