"""Load a saved model from a folder or a bucket."""

import ratgan
from pipeline.storage.local_copy import local_copy
from ratgan.options import Device
from ratgan.text_to_image import TextToImage
from ratgan.weights.saved_model import MODEL_JSON, MODEL_TENSORS, TEXT_ENCODER

MODEL_FILES = (MODEL_JSON, MODEL_TENSORS, TEXT_ENCODER)


def load_from(
    location: str, encoder_path: str | None = None, device: Device = "cpu"
) -> TextToImage:
    """Load a saved model from a folder or a bucket."""
    with local_copy(location, MODEL_FILES) as folder:
        return ratgan.load(folder, encoder_path=encoder_path, device=device)
