"""Turn weights of the published RAT-GAN code into a model of ours.

python jobs/import_official.py --generator netG_500.pth --encoder-path outputs/damsm.safetensors
"""

from pipeline.cli.config import ImportOfficialConfig
from pipeline.cli.main import Work, run


def _work() -> Work[ImportOfficialConfig]:
    from pipeline.cli.import_official import import_official, plan_import_official

    return import_official, plan_import_official


if __name__ == "__main__":
    run(_work, ImportOfficialConfig)
