"""Draw pictures for captions with a trained model.

python jobs/generate.py --model outputs/quickstart/model "a small red bird" "a large blue one"
"""

from pipeline.cli.config import GenerateConfig
from pipeline.cli.main import Work, run


def _work() -> Work[GenerateConfig]:
    from pipeline.cli.generate import generate, plan_generation

    return generate, plan_generation


if __name__ == "__main__":
    run(_work, GenerateConfig)
