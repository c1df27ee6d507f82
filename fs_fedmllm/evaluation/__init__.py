"""Scores and answers of a global adapter, and the numbers made from them."""
