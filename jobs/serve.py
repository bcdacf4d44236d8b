"""Serve a page and an API that draw pictures with trained models.

python jobs/serve.py --model outputs/quickstart
"""

from pipeline.cli.main import run
from pipeline.serving.config import ServeConfig
from pipeline.serving.serve import plan_serving, serve

if __name__ == "__main__":
    run(serve, ServeConfig, plan=plan_serving)
