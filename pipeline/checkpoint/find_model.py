"""Find the saved model that a user means by the folder of a run, a checkpoint or a model."""

from pipeline.checkpoint.store import (
    MARKER,
    PREFIX,
    STATE,
    best_checkpoint,
    newest_checkpoint,
)
from pipeline.storage.folder import Folder
from ratgan.weights.saved_model import MODEL_JSON


def find_place(
    folder: Folder, checkpoint: str, option: str = "model"
) -> tuple[Folder | None, Folder | None, Folder]:
    """Find the folder of the saved model a user means.

    Args:
        folder: Of a run, of one of its checkpoints, or of a saved model.
        checkpoint: Of a run: ``newest``, ``best``, or a step.
        option: What the user calls the folder.

    Returns:
        The run, if it is one; the checkpoint the model is in, if it is in one; and its folder.

    Raises:
        FileNotFoundError: If there is no model.
        ValueError: If there is no such checkpoint.
    """
    run = folder.closed() if folder.exists("checkpoints") else None
    inside: Folder | None = None
    if run is not None:
        inside = _checkpoint_of(run, checkpoint)
    elif folder.exists(f"model/{MODEL_JSON}") and folder.exists(STATE):
        inside = folder.closed()
    model = inside / "model" if inside is not None else folder
    if inside is None and folder.exists(f"model/{MODEL_JSON}"):
        model = folder.closed() / "model"
    if not model.exists(MODEL_JSON):
        raise FileNotFoundError(
            f"{option}={folder} holds no {MODEL_JSON}: it is neither a run (outputs/NAME) with a "
            "complete checkpoint, nor a checkpoint, nor a saved model (outputs/NAME/model)."
        )
    return run, inside, model


def _checkpoint_of(run: Folder, wanted: str) -> Folder | None:
    """Return a checkpoint of a run; None if it has a saved model only."""
    checkpoints = run / "checkpoints"
    if wanted.isdigit():
        folder = checkpoints / f"{PREFIX}{int(wanted):08d}"
        if not folder.exists(MARKER):
            kept = ", ".join(name for name in checkpoints.names() if name.startswith(PREFIX))
            raise ValueError(f"checkpoint={wanted}: {run} holds {kept or 'none'}.")
        return folder
    if wanted not in ("newest", "best"):
        raise ValueError(f"checkpoint={wanted!r} must be newest, best, or a step such as 4000.")
    found = newest_checkpoint(checkpoints)
    if found is None:
        return None
    if wanted == "newest":
        return found[0]
    best = best_checkpoint(checkpoints)
    if best is None:
        raise ValueError(
            f"checkpoint=best: {run} was not measured while it trained (--evaluate-every, "
            "--evaluate-beside.protocol), so none of its checkpoints is known to be the best. Use "
            "--checkpoint newest."
        )
    return checkpoints / f"{PREFIX}{best[0]:08d}"
