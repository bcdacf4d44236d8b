"""Metrics and artifacts: spool, sender, and the only modules that know MLflow."""

import os

# Before anything of this package imports MLflow, which reads some of them when it is imported.
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")  # ours are safetensors
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # twenty lines where there is no git
