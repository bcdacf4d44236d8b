"""Bytes, paths and locks; knows no run."""
