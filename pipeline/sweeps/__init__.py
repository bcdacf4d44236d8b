"""Many training runs as one: sweeps over options and ablations, on Ray Tune."""
