"""Turn weights of the published RAT-GAN code into a model of ours.

python jobs/import_official.py --generator netG_500.pth --encoder-path outputs/damsm.safetensors
"""

from pipeline.cli.import_official import ImportOfficialConfig, import_official, plan_import_official
from pipeline.cli.main import run

if __name__ == "__main__":
    run(import_official, ImportOfficialConfig, plan=plan_import_official)
