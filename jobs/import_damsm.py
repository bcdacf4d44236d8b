"""Import an AttnGAN text encoder: its weights and its vocabulary into one file.

python jobs/import_damsm.py --weights text_encoder200.pth --captions captions.pickle
"""

from pipeline.cli.config import ImportDamsmConfig
from pipeline.cli.main import Work, run


def _work() -> Work[ImportDamsmConfig]:
    from pipeline.cli.import_damsm import import_encoder, plan_import_encoder

    return import_encoder, plan_import_encoder


if __name__ == "__main__":
    run(_work, ImportDamsmConfig)
