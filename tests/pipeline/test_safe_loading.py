"""An environment that lets torch run code in files is refused."""

import pytest

from pipeline.config import TrainConfig
from pipeline.loop import begin
from pipeline.safe_loading import VARIABLE, refuse_unsafe_loading
from pipeline.train import train


@pytest.mark.parametrize("value", ["1", "true", "Y"])
def test_a_start_is_refused_where_torch_would_unpickle_anything(value, monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, value)
    config = TrainConfig(total_steps=1, output=str(tmp_path / "runs"))

    for start in (lambda: train(config), lambda: begin({}, TrainConfig)):
        with pytest.raises(ValueError, match=rf"{VARIABLE}={value} makes torch\.load.*unset"):
            start()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("value", [None, "", "0"])
def test_a_usual_environment_is_not(value, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)

    refuse_unsafe_loading()
