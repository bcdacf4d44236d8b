"""The card that lies beside a model: what it is, what made it, and how to use it."""

from typing import Any

import yaml

from pipeline.config import TrainConfig
from pipeline.manifest import Manifest


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
    options = yaml.safe_dump(config.record(), sort_keys=False)
    return f"""# {config.name}: text-to-image, {size} × {size} px

RAT-GAN generator (https://arxiv.org/abs/2204.10482), moving average of the weights after
{state["step"]:,} steps and {state["images"]:,} images.

```python
import ratgan

model = ratgan.load("PATH OF THIS FOLDER")
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

Not measured under a named protocol. Look at the sample grids of the run.

## Made with

{versions}

```yaml
{options}```
"""
