"""The model card: what a model is, how it was trained, and how to use it."""

from typing import Any

import yaml

from pipeline.common.commands import job_command
from pipeline.config import TrainConfig
from pipeline.data.manifest import Manifest
from ratgan.architectures import find_architecture


def model_card(
    config: TrainConfig, state: dict[str, Any], manifest: Manifest, captions: list[str]
) -> str:
    """Return the card, in Markdown.

    Args:
        state: State of the model's checkpoint.
        captions: Some captions of the training.
    """
    size, architecture = config.model.image_size, find_architecture(config.model.architecture)
    examples = "\n".join(f"* {caption}" for caption in captions)
    versions = ", ".join(f"{name} {value}" for name, value in sorted(state["versions"].items()))
    encoder = manifest.encoder.location
    by = "" if encoder is None else f", encoder_path={encoder!r}"
    options = yaml.safe_dump(config.record(), sort_keys=False)
    return f"""# {config.name}: text-to-image, {size} × {size} px

{architecture.title} generator ({architecture.paper}), moving average of the weights after
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
{manifest.transform.dim} numbers. The permitted use of the images and captions decides the permitted
use of this model: see the licence of the dataset.

{_start(state)}## Quality

{_quality(config, state)}

## Made with

{versions}

```yaml
{options}```
"""


def _start(state: dict[str, Any]) -> str:
    """Return where the weights of step 0 are from; empty if they were random."""
    start = state.get("started_from")
    if not start:
        return ""
    taken = "\n".join(f"* {name}: {counts}" for name, counts in start["taken"].items())
    step = "" if start["step"] is None else f" after {start['step']:,} steps"
    return f"""## Started from

`{start["place"]}`{step}, {start["image_size"]} px, tensors sha256
`{start["sha256"]["average"]}`; sentence vectors: {start["text"]}.

{taken}

"""


def _quality(config: TrainConfig, state: dict[str, Any]) -> str:
    """Return the evaluation of this checkpoint during training, and how to evaluate it fully."""
    score = state.get("score")
    measured = (
        f"During training, with {config.evaluate_images:,} images: `{score['metric']}` "
        f"{score['value']:.4g}. Use it only to compare checkpoints of one run."
        if score
        else "The model was not evaluated during training."
    )
    return (
        f"{measured}\nA number for comparison with others needs a named protocol: "
        f"`{job_command('evaluate', '--model', f'{config.output}/{config.name}')}`."
    )
