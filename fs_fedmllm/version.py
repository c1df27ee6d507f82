"""The version, by itself: the build reads it and every artefact names it."""

VERSION = "0.1.0"
