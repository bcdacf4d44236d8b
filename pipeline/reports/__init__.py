"""One page about some runs: what differs, curves, samples, numbers, and how they were made."""
