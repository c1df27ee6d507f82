"""The version, by itself: setup.py reads it and every artefact names it."""

VERSION = "0.1.0"
