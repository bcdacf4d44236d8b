"""Import an AttnGAN text encoder: its weights and its vocabulary into one file.

python jobs/import_damsm.py --weights text_encoder200.pth --captions captions.pickle
"""

from pipeline.cli.import_damsm import ImportDamsmConfig, import_encoder, plan_import_encoder
from pipeline.cli.main import run

if __name__ == "__main__":
    run(import_encoder, ImportDamsmConfig, plan=plan_import_encoder)
