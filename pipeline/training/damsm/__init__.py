"""Pretraining of the DAMSM text and image encoders."""
