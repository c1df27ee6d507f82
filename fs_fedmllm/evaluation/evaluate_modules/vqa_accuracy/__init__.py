"""See ``vqa_accuracy.py``, which the ``evaluate`` library loads."""
