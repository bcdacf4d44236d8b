"""Search for better options of a training: many runs, the poor ones ended early.

python jobs/sweep.py --preset cub --space 'optim.generator_lr=loguniform(5e-5,5e-4)' --trials 16
ray job submit --working-dir . -- python jobs/sweep.py --preset cub --train.output s3://… --space …
"""

from pipeline.cli.main import Work, run
from pipeline.sweeps.config import SweepConfig


def _work() -> Work[SweepConfig]:
    from pipeline.sweeps.dry_run import plan_sweep
    from pipeline.sweeps.sweep import sweep

    return sweep, plan_sweep


if __name__ == "__main__":
    run(_work, SweepConfig, preset="sweep_shapes")
