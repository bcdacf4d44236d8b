"""What an address of a registered model may be, and what a wrong one says."""

import pytest

from pipeline.tracking.mlflow_access import open_store
from pipeline.tracking.mlflow_registry import find_version


def test_a_number_is_the_version_and_no_store_is_asked(tmp_path):
    assert find_version("models:/birds/12", f"sqlite:///{tmp_path}/none.db") == "12"


@pytest.mark.parametrize("address", ["models:/birds", "models:/birds@", "models:/a/b@best"])
def test_an_address_of_another_form_is_refused(address, tmp_path):
    with pytest.raises(ValueError, match=r"must be like models:/NAME@best or models:/NAME/3\."):
        find_version(address, f"sqlite:///{tmp_path}/none.db")


def test_a_store_that_does_not_exist_is_not_made(tmp_path):
    with pytest.raises(FileNotFoundError, match="name the store with --tracking-uri"):
        find_version("models:/birds@best", f"sqlite:///{tmp_path}/none.db")

    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.rest  # MLflow makes the tables of a store
def test_a_model_that_the_store_does_not_know_is_named(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    open_store(uri)

    with pytest.raises((ValueError, OSError), match=r"models:/birds@best in sqlite:///.*birds"):
        find_version("models:/birds@best", uri)
