"""Load a saved model from a folder or a bucket."""

import ratgan
from pipeline.checkpoint.find_model import find_place
from pipeline.storage.folder import Folder
from pipeline.storage.local_copy import local_copy
from pipeline.storage.safe_path import inside
from ratgan.options import Device
from ratgan.text_to_image import TextToImage
from ratgan.weights.saved_model import MODEL_JSON, MODEL_TENSORS, TEXT_ENCODER

MODEL_FILES = (MODEL_JSON, MODEL_TENSORS, TEXT_ENCODER)


def load_from(
    location: str, encoder_path: str | None = None, device: Device = "cpu"
) -> TextToImage:
    """Load the model in the folder or bucket address of a model, a checkpoint or a run.

    Raises:
        FileNotFoundError: If there is no model.
        ValueError: If it is damaged or of another version, a link leads out of the run, or the
            device is not there.
    """
    return load_saved(saved_in(location), encoder_path, device)


def load_saved(
    folder: Folder, encoder_path: str | None = None, device: Device = "cpu"
) -> TextToImage:
    """Load the model in the folder of a saved model; raises as `load_from`."""
    if folder.root is not None:
        for name in MODEL_FILES:
            inside(folder, name)  # they are opened by paths, where a link may lead anywhere
    with local_copy(str(folder), MODEL_FILES) as path:
        return ratgan.load(path, encoder_path=encoder_path, device=device)


def saved_in(location: str) -> Folder:
    """Return the folder of a model; of a run, the model of its end, else of its newest checkpoint.

    That of a run or a checkpoint is closed: a stranger may have made it.

    Raises:
        FileNotFoundError: If there is no model.
        ValueError: If a link leads out of the run.
    """
    folder = Folder(location)
    if folder.exists(MODEL_JSON):
        return folder
    model = folder.closed() / "model"
    return model if model.exists(MODEL_JSON) else find_place(folder, "newest")[2]
