"""Metrics and artifacts: spool, sender, and the only modules that know MLflow."""
