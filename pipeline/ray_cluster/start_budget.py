"""How often a Ray that did not start is started again."""

# A raylet ends if its agent takes more than 15 s to start, or GCS does not answer in 30 s, as on a
# busy machine; Ray has no option for either. A Ray that ends sooner has an error.
SOON_S = 10.0
AFTER_SOON, AFTER_LATE = 1.0, 0.25
BUDGET = 5.0


class StartBudget:
    """Permits 5 starts that fail early, or 20 that fail late."""

    def __init__(self) -> None:
        self.spent = 0.0

    def allows_another(self, seconds: float) -> bool:
        """Count a start that failed after `seconds`; return whether to retry."""
        self.spent += AFTER_SOON if seconds < SOON_S else AFTER_LATE
        return self.spent < BUDGET
