"""Checkpoints: commit, verify, retain, restore."""
