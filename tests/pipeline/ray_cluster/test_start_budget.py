"""What fails at once is tried a few times, what is slow on a busy machine more often."""

import pytest

from pipeline.ray_cluster.start_budget import StartBudget


@pytest.mark.parametrize(("seconds", "starts"), [(0.5, 5), (40.0, 20)])
def test_errors_end_sooner_than_slow_starts(seconds, starts):
    budget, made = StartBudget(), 1

    while budget.allows_another(seconds):
        made += 1

    assert made == starts
