"""Write a prepared dataset in the layout of Hugging Face `datasets` or of `webdataset`.

python jobs/export_data.py --data data/coco-256 --to huggingface --output data/coco-256-hub
"""

from pipeline.cli.export_data import ExportConfig, export_data, plan_export
from pipeline.cli.main import run

if __name__ == "__main__":
    run(lambda: (export_data, plan_export), ExportConfig)
