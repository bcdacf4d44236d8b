"""Draw pictures for captions with a trained model.

python jobs/generate.py --model outputs/quickstart/model "a small red bird" "a large blue one"
"""

from pipeline.cli.generate import GenerateConfig, generate, plan_generation
from pipeline.cli.main import run

if __name__ == "__main__":
    run(generate, GenerateConfig, plan=plan_generation)
