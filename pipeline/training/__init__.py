"""One training run: driver, loop, worker and reporting."""
