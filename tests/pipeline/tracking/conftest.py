"""A store of MLflow that tests of tracking copy."""

import pytest
from mlflow import MlflowClient


@pytest.fixture(scope="session")
def made_store(tmp_path_factory):
    """MLflow makes its tables for seconds: once."""
    folder = tmp_path_factory.mktemp("store")
    MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
    return folder / "mlflow.db"
