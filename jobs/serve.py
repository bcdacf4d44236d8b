"""Serve a page and an API that draw pictures with trained models.

python jobs/serve.py --model outputs/quickstart
"""

from pipeline.cli.main import Work, run
from pipeline.serving.config import ServeConfig


def _work() -> Work[ServeConfig]:
    from pipeline.serving.serve import plan_serving, serve

    return serve, plan_serving


if __name__ == "__main__":
    run(_work, ServeConfig)
