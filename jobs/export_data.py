"""Write a prepared dataset in the layout of Hugging Face `datasets` or of `webdataset`.

python jobs/export_data.py --data data/coco-256 --to huggingface --output data/coco-256-hub
"""

from pipeline.cli.config import ExportConfig
from pipeline.cli.main import Work, run


def _work() -> Work[ExportConfig]:
    from pipeline.cli.export_data import export_data, plan_export

    return export_data, plan_export


if __name__ == "__main__":
    run(_work, ExportConfig)
