"""How long MLflow waits, and what of that is left in the environment."""

import os

from pipeline.tracking.mlflow_access import waiting_at_most

TIMEOUT, RETRIES = "MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"


def test_no_name_is_taken_out_of_the_environment_that_others_go_through(monkeypatch):
    for name in (TIMEOUT, RETRIES):
        monkeypatch.setenv(name, "")  # to be as before after the test
        del os.environ[name]

    for _ in range(2):
        with waiting_at_most(5):
            assert (os.environ[TIMEOUT], os.environ[RETRIES]) == ("5", "0")
        assert (os.environ[TIMEOUT], os.environ[RETRIES]) == ("120", "7"), "MLflow's own"


def test_who_waits_longer_waits_longer(monkeypatch):
    monkeypatch.setenv(TIMEOUT, "60")
    monkeypatch.setenv(RETRIES, "2")

    with waiting_at_most(5):
        assert (os.environ[TIMEOUT], os.environ[RETRIES]) == ("60", "2")
    with waiting_at_most(90):
        assert os.environ[TIMEOUT] == "90"

    assert (os.environ[TIMEOUT], os.environ[RETRIES]) == ("60", "2")
