"""Hosts: frameworks that run a federation and call the core. Nothing in the core imports from here."""
