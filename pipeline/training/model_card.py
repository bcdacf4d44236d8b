"""The model card: what a model is, how it was trained, and how to use it."""

from typing import Any

import yaml

from pipeline.config import TrainConfig
from pipeline.data.manifest import Manifest


def model_card(
    config: TrainConfig, state: dict[str, Any], manifest: Manifest, captions: list[str]
) -> str:
    """Write the card, in Markdown.

    Args:
        config: Of the run.
        state: Of the checkpoint the model is from.
        manifest: Of the dataset.
        captions: A few that it was trained on.
    """
    size = config.model.image_size
    examples = "\n".join(f"* {caption}" for caption in captions)
    versions = ", ".join(f"{name} {value}" for name, value in sorted(state["versions"].items()))
    encoder = manifest.encoder.location
    by = "" if encoder is None else f", encoder_path={encoder!r}"
    options = yaml.safe_dump(config.record(), sort_keys=False)
    return f"""# {config.name}: text-to-image, {size} × {size} px

RAT-GAN generator (https://arxiv.org/abs/2204.10482), moving average of the weights after
{state["step"]:,} steps and {state["images"]:,} images.

```python
import ratgan

model = ratgan.load("PATH OF THIS FOLDER"{by})
model({captions[0]!r})[0].save("image.png")
```

## Trained on

{manifest.rows("train"):,} images of `{manifest.source["name"]}` with captions such as

{examples}

Dataset digest `{state["dataset"]}`. Text encoder `{manifest.encoder.name}`
(sha256 `{manifest.encoder.sha256}`), sentence vectors {manifest.transform.kind} to
{manifest.transform.dim} numbers. What the images and captions may be used for decides what
this model may be used for: see the licence of the dataset.

## Quality

{_quality(config, state)}

## Made with

{versions}

```yaml
{options}```
"""


def _quality(config: TrainConfig, state: dict[str, Any]) -> str:
    """Say what was measured of this checkpoint while it trained, and how to measure it well."""
    score = state.get("score")
    measured = (
        f"While it trained, {config.evaluate_images:,} images: `{score['metric']}` "
        f"{score['value']:.4g}. That tells checkpoints of one run apart, and no more."
        if score
        else "Nothing was measured while it trained."
    )
    return (
        f"{measured}\nA number that others can be held against needs a named protocol: "
        f"`python jobs/evaluate.py --model {config.output}/{config.name}`."
    )
