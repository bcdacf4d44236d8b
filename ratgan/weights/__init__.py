"""Saved models, published weights, restricted unpickling."""
