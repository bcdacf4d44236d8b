"""What parts of the model are worth: every combination of them, with several seeds, in one table.

python jobs/ablate.py --preset cub --seeds 3
python jobs/ablate.py --preset cub --space 'model.attention=choice(soft_threshold,softmax,none)'
"""

from pipeline.cli.main import Work, run
from pipeline.sweeps.config import AblateConfig


def _work() -> Work[AblateConfig]:
    from pipeline.sweeps.ablation import ablate
    from pipeline.sweeps.dry_run import plan_ablation

    return ablate, plan_ablation


if __name__ == "__main__":
    run(_work, AblateConfig, preset="ablate_shapes")
