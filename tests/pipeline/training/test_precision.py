"""How a run is set up to compute."""

import pytest
import torch

from pipeline.training.device import autocast, configure_precision

GPU = torch.device("cuda:0")


@pytest.fixture
def settings(monkeypatch):
    """What was set, of a GPU that is not there."""
    found = {"capability": (9, 0)}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: found["capability"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda to: found.update(products=to))
    for name in ("allow_tf32", "benchmark", "deterministic"):
        monkeypatch.setattr(torch.backends.cudnn, name, getattr(torch.backends.cudnn, name))
    monkeypatch.setattr(
        torch,
        "use_deterministic_algorithms",
        lambda mode, warn_only: found.update(deterministic=mode),
    )
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    return found


@pytest.mark.parametrize(("tf32", "products"), [(True, "high"), (False, "highest")])
def test_tf32_is_set_for_products_and_convolutions_and_said(tf32, products, settings):
    said = configure_precision("bfloat16", tf32=tf32, deterministic=False, device=GPU)

    assert settings["products"] == products
    assert torch.backends.cudnn.allow_tf32 is tf32
    assert said.startswith("layers in bfloat16, float32 products " + ("round" if tf32 else "exact"))


@pytest.mark.parametrize("deterministic", [True, False])
def test_kernels_are_deterministic_or_the_fastest_and_said(deterministic, settings):
    said = configure_precision("float32", tf32=True, deterministic=deterministic, device=GPU)

    assert settings["deterministic"] is deterministic
    assert torch.backends.cudnn.deterministic is deterministic
    assert torch.backends.cudnn.benchmark is not deterministic
    assert said.endswith("deterministic kernels" if deterministic else "the fastest kernels")


def test_a_gpu_without_bfloat16_is_refused(settings):
    settings["capability"] = (7, 5)

    with pytest.raises(
        ValueError, match=r"Ampere and later.*Some GPU does not.*--precision float32"
    ):
        configure_precision("bfloat16", tf32=True, deterministic=False, device=GPU)


def test_on_a_cpu_nothing_is_set(settings):
    said = configure_precision("float32", tf32=True, deterministic=True, device=torch.device("cpu"))

    assert said == "layers in float32"
    assert "products" not in settings


@pytest.mark.parametrize(
    ("name", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_layers_compute_in_the_chosen_precision(name, dtype):
    with autocast(name, torch.device("cpu")):
        result = torch.nn.Linear(2, 2)(torch.ones(1, 2))

    assert result.dtype == dtype
