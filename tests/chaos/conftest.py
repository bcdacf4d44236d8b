"""What the tests of faults hold their runs against."""

import pytest


@pytest.fixture(scope="session")
def two_workers_through(shapes, tmp_path_factory):
    """Weights, by step, of two workers that nothing happens to."""
    from pipeline.training.train import train
    from tests.chaos.test_training_faults import options
    from tests.pipeline.training.test_train import weights

    output = tmp_path_factory.mktemp("two-workers")
    train(options(shapes, output, workers=2, checkpoint_every=4, total_steps=12))
    return {step: weights(output / "run", step) for step in (8, 12)}
