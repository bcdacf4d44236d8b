"""Every option of a training run; a preset fills some in, flags the rest."""

import inspect
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from pipeline.common.settings import Settings
from ratgan.options import (
    STANDARD,
    STANDARD_OPTIONS,
    AttentionKind,
    Augmentation,
    Output,
    Precision,
)

if TYPE_CHECKING:
    from ratgan.architectures import Architecture

PositiveInt = Annotated[int, Field(ge=1)]
LearningRate = Annotated[float, Field(gt=0, lt=1)]
RunName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
ReaderName = Literal["auto", "resident", "threads", "ray"]
ProtocolName = Literal[
    "builtin",
    "efficientnet-lite0",
    "clip",
    "clean",
    "dfgan",
    "paper-cub",
    "paper-oxford102",
    "paper-coco",
]
PROFILED = 10  # steps at most, or parts of steps; a GPU's trace of one has some 20,000 events


def _architecture(name: str) -> "Architecture":
    from ratgan.architectures import find_architecture  # torch takes seconds to import

    return find_architecture(name)


class DataConfig(Settings):
    """What to train on."""

    path: str = "data/coco-256"
    """Prepared dataset: a folder or bucket address that jobs/prepare.py wrote."""
    flip: bool = True
    """Mirror half of the images. Not for captions that say left and right."""
    reader: ReaderName = "auto"
    """How images come to a worker; always the same ones. resident: from its memory, where it holds
    all of them decoded; threads: its own threads read and decode; ray: any CPU of the cluster does.
    auto: resident where that takes at most a quarter of the free memory, else threads."""
    decode_threads: PositiveInt = 2
    """Threads of each worker that decode images."""


class ModelConfig(Settings):
    """The networks."""

    architecture: str = STANDARD
    """Architecture of both networks, by its name in ratgan/architectures.py."""
    image_size: Literal[32, 64, 128, 256, 512] = 256
    """Height and width of the images in pixels."""
    base_channels: PositiveInt = 64
    """Width of both networks: channels at full size. 64 in the published model."""
    noise_dim: PositiveInt = 100
    """Size of the noise vector; 100 in the published model."""
    controller_dim: PositiveInt = 256
    """Size of the recurrent controller's state; 256 in the published model."""
    affine_dim: PositiveInt = 256
    """Hidden size of the MLPs that make scales and shifts; 256 in the published model."""
    affines_per_block: Annotated[int, Field(ge=2, multiple_of=2)] = 4
    """Affine transformations in a generator block; 4 in the published model."""
    recurrent: bool = True
    """Let the recurrent controller condition the affine blocks; without it each block sees noise
    and sentence alone, the paper's ablation."""
    attention: AttentionKind = "soft_threshold"
    """Spatial attention of the discriminator: the paper's, the published code's former one, or
    none, which that code trains with."""
    output: Output = "tanh"
    """Last operation of the generator: tanh as published, or none: values beyond black and white
    are then clamped when images are drawn."""
    residual_start: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Initial value of the residual scales of both networks; 0 in the published code."""

    @model_validator(mode="after")
    def _check_architecture(self) -> Self:
        standard = self.architecture == STANDARD
        taken = STANDARD_OPTIONS if standard else _architecture(self.architecture).options()
        fields = type(self).model_fields.items()
        unused = [
            f"{name}={getattr(self, name)}"
            for name, field in fields
            if name not in {"architecture"} | taken and getattr(self, name) != field.default
        ]
        if unused:
            raise ValueError(
                f"{', '.join(unused)}: no option of architecture {self.architecture}. Leave it out."
            )
        return self

    @model_validator(mode="after")
    def _check_controller(self) -> Self:
        standard = type(self).model_fields["controller_dim"].default
        if not self.recurrent and self.controller_dim != standard:
            raise ValueError(
                f"controller_dim={self.controller_dim} has no effect without the recurrent "
                "controller: leave it out, or use --model.recurrent."
            )
        return self


class OptimConfig(Settings):
    """The updates."""

    batch_size: Annotated[int, Field(ge=2)] = 24
    """Images per step over all workers; 24 in the paper, 48 for COCO."""
    accumulate: PositiveInt = 1
    """Parts in which each worker takes its share of a batch, for a device that cannot hold it: the
    same result to rounding, with the memory of one part, 7 % slower."""
    generator_lr: LearningRate = 1e-4
    """Learning rate of the generator; 1e-4 in the paper."""
    discriminator_lr: LearningRate = 4e-4
    """Learning rate of the discriminator; 4e-4 in the paper."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps in which the learning rates of G and D rise from 0 to their values; 0 in the paper.
    Higher rates are stable with it: 200 on shapes."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (
        0.0,
        0.9,
    )
    """Of both Adam optimizers; 0.0 0.9 in the paper's code."""
    penalty_weight: Annotated[float, Field(ge=0)] = 2.0
    """Factor of the matching-aware gradient penalty; 2 in DF-GAN."""
    penalty_power: Annotated[float, Field(ge=2)] = 6.0
    """Its exponent; 6 in DF-GAN."""
    mismatched: Literal["other_class", "published"] = "other_class"
    """Whose sentences do not match: those of another class (or image), at random; or the next in
    the batch sorted by caption length, as in the published code, be it of the same class or not."""
    matching_weight: Annotated[float, Field(ge=0)] = 0.0
    """Factor of the matching loss of the generator; 0, as in the paper, for none. A small network
    learns on real images which caption of a batch is theirs, and should find those of generated
    images too. 1 on shapes."""
    matching_lr: LearningRate = 2e-3
    """Learning rate of that network."""
    update: Literal["fused", "separate"] = "fused"
    """How D learns in a step: once from both of its losses, or from one after the other as
    in the published code."""
    average_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Share that stays in the moving average of the generator's weights at each step; less in the
    first steps, so that the untrained weights are soon forgotten."""

    @model_validator(mode="after")
    def _check_matching(self) -> Self:
        standard = type(self).model_fields["matching_lr"].default
        if not self.matching_weight and self.matching_lr != standard:
            raise ValueError(
                f"matching_lr={self.matching_lr:g} has no effect without a matching loss: leave it "
                "out, or use --optim.matching-weight."
            )
        return self


class RunHealthConfig(Settings):
    """What happens when a worker hangs."""

    hang_s: Annotated[float, Field(ge=0)] = 120.0
    """Seconds that a step may always take. A worker whose step takes longer, and ten times as long
    as usual, hangs: its stacks are kept, and training starts again from the last checkpoint. 0
    looks for none. A busy S3 alone can take a minute."""


class HealthConfig(RunHealthConfig):
    """When a worker hangs, numbers are not finite (the step is always left out), or G is dead."""

    skipped_in_a_row: PositiveInt = 10
    """So many steps in a row left out send the run back to its last checkpoint, and on with the
    batches after them. Looked at whenever a line is written."""
    rollbacks: Annotated[int, Field(ge=0)] = 3
    """Times that a run may go back before it stops."""
    on_dead_generator: Literal["stop", "warn"] = "stop"
    """What happens when the generator has had no gradient for 200 steps, as when its output is
    pure white: such a run does not come back. stop: it ends with an error and a checkpoint."""


class EvaluateBesideConfig(Settings):
    """Measure checkpoints by a named protocol while training goes on."""

    protocol: ProtocolName | None = None
    """Measure each kept checkpoint by it, in a process of low priority that training does not wait
    for, if training leaves a CPU of the machine it was started on. Default: none."""
    weights: str | None = None
    """Weights of the protocol's extractor, as in jobs/evaluate.py."""
    reference_images: str | None = None
    """Folder of original images, for protocols that compare with one."""
    reference_statistics: str | None = None
    """File of published statistics (.npz), for protocols that compare with one."""
    count: PositiveInt | None = None
    """In place of the protocol's: images to draw."""
    few_images: bool = False
    """Measure with fewer images than the extractor has features, too."""

    @model_validator(mode="after")
    def _check_protocol(self) -> Self:
        fields = type(self).model_fields.items()
        given = [name for name, field in fields if getattr(self, name) != field.default]
        if given and self.protocol is None:
            raise ValueError(
                f"{', '.join(given)}: no effect without a protocol to measure by. Name one with "
                "--evaluate-beside.protocol, for example builtin."
            )
        return self


class TrackingConfig(Settings):
    """Where runs are recorded."""

    experiment: str = "ratgan"
    """MLflow experiment."""
    uri: str | None = None
    """MLflow server or store. Default: MLFLOW_TRACKING_URI, else sqlite in the output folder."""
    registered_model: RunName | None = None
    """Registered model of which the trained model becomes a version; its alias `best` names the
    best of all versions. Default: ratgan-SOURCE-SIZE."""


class RunConfig(Settings):
    """What every training run has. Running the same command again goes on where it stopped."""

    name: RunName = "run"
    """Name of the run; its folder in the output folder has the same name."""
    output: str = "outputs"
    """Folder or bucket address for runs."""
    workers: Annotated[int, Field(ge=0)] | None = None
    """Training processes. Default: one for each GPU; without a GPU 0: in this process."""
    min_workers: PositiveInt | None = None
    """Minimum number of workers; the run grows when capacity returns. Only numbers that divide the
    batch are used. Default: all workers are needed."""
    wait_for_room_s: Annotated[float, Field(ge=0)] = 300.0
    """Seconds to wait until the cluster has room for the workers, at the start or after a loss."""
    threads: PositiveInt | None = None
    """CPU threads of each training process. Default: what torch takes."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 100
    """Decides initial weights, noise, order, captions, crops; 100 in the published code."""
    total_epochs: Annotated[float, Field(gt=0)] | None = None
    """Passes over the training images."""
    total_steps: PositiveInt | None = None
    """Steps, in place of epochs."""
    extend: Annotated[float, Field(ge=0)] = 0
    """How much longer a finished run is to be: in epochs, or in steps if its length is in steps.
    Counted from total_epochs or total_steps, so that the same command adds it once."""
    log_every: PositiveInt = 50
    """Steps between two lines on the screen and two points of a curve."""
    checkpoint_every: PositiveInt = 1000
    """Steps between two checkpoints."""
    keep_checkpoints: Annotated[int, Field(ge=2)] = 2
    """Newest checkpoints that are kept."""
    max_restarts: Annotated[int, Field(ge=0)] = 3
    """Times that training starts again from the last checkpoint because a worker was lost."""
    allow_changes: tuple[str, ...] = ()
    """Options that a resumed run may have otherwise than before, by name, for example
    optim.generator_lr. The weights are then not those of one run any more."""
    data: DataConfig = DataConfig()
    health: RunHealthConfig = RunHealthConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _check_length(self) -> Self:
        if self.total_epochs is None and self.total_steps is None:
            raise ValueError("one of total_epochs and total_steps is needed: how long to train.")
        return self

    @model_validator(mode="after")
    def _check_min_workers(self) -> Self:
        if self.min_workers and self.workers is not None and self.min_workers > self.workers:
            raise ValueError(
                f"min_workers={self.min_workers} is more than workers={self.workers}: it is the "
                "least to go on with when the cluster has no room for all of them, for example 1."
            )
        return self

    def record(self) -> dict[str, Any]:
        """Return the options as JSON types, without the tracker's address: it may hold a secret."""
        return self.model_dump(mode="json", exclude={"tracking": {"uri"}})

    def length(self, images: int, batch_size: int) -> int:
        """Return the number of steps for a training split of this many images."""
        if self.total_steps is not None:
            return self.total_steps + round(self.extend)
        return max(1, round(((self.total_epochs or 0) + self.extend) * images / batch_size))


class TrainConfig(RunConfig):
    """Train a text-to-image GAN. Running the same command again goes on where it stopped."""

    start_from: str | None = None
    """Run, checkpoint or saved model, imported ones too, whose weights training starts from, at
    step 0 with fresh optimizers. Default: random weights."""
    start_text: Literal["same", "refit"] = "same"
    """Refit what reads the sentences to the vectors of this dataset, where those weights know
    others: with the same encoder words keep their meaning, with another one they are learned anew.
    same: the vectors must be those that the weights know."""
    sample_every: PositiveInt = 1000
    """Steps between two sample grids."""
    samples: Annotated[int, Field(ge=1, le=64)] = 16
    """Captions of the validation split in the sample grid, from all over it."""
    evaluate_every: Annotated[int, Field(ge=0)] = 0
    """Steps between two quick evaluations with the built-in extractor, a multiple of log_every; 0
    for none. Worker 0 draws alone and the others wait so long (speed/evaluation_s)."""
    evaluate_images: Annotated[int, Field(ge=2, le=10_000)] = 500
    """Images drawn for each of them, for captions of the validation split."""
    evaluate_extractor: Literal["builtin", "efficientnet-lite0"] = "builtin"
    """What looks at these images. efficientnet-lite0 is for photographs: kernel distance, precision
    and recall by it beside the distance by the built-in one, and from 1,281 images on its Fréchet
    distance. Needs the extra ratgan[perceptual]."""
    keep_best: bool = True
    """Keep the best of the checkpoints that were evaluated beside the newest ones."""
    best_by: Literal["fd_builtin", "kd_efficientnet-lite0", "agreement"] = "fd_builtin"
    """What makes a checkpoint the best: the smallest distance to real images, or on shapes the
    largest agreement with the captions; as evaluate_beside measures it where there is that."""
    evaluate_beside: EvaluateBesideConfig = EvaluateBesideConfig()
    augment: tuple[Augmentation, ...] = ()
    """For few images: changes of all that the discriminator sees, so that it does not learn the
    images by heart. translation moves them by up to an eighth, not for captions that say where;
    cutout hides a square; colour is for captions that name none."""
    augment_adaptive: bool = False
    """Change only so large a share of the images that the discriminator is right about real ones in
    80 %."""
    precision: Precision = "float32"
    """Of the layers; the discriminator's score, losses, penalty and updates are in float32 always.
    bfloat16 is for GPUs since Ampere; a CPU mostly imitates it, and is slower."""
    tf32: bool = True
    """Let a GPU round the factors of its float32 products to TF32, 10 bits of 23, for speed."""
    deterministic: bool = True
    """Let a GPU use only kernels that give the same bits each time, so that a run that is resumed
    ends with the weights of one that was not. Else cuDNN tries out the fastest at the start.
    A CPU repeats itself in any case."""
    compile: bool = False
    """Compile the generator's blocks at the start, in seconds to minutes; needs a C++ compiler."""
    profile_steps: str | None = None
    """Steps whose operators and kernels are traced, as FIRST:END, for example 100:105 for the five
    after step 100: a trace and a table in the run's folder and in MLflow. 10 steps at most."""
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    health: HealthConfig = HealthConfig()

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        share = max(1, self.optim.batch_size // (self.workers or 1))
        if self.optim.accumulate > share:
            raise ValueError(
                f"optim.accumulate={self.optim.accumulate} is more than the {share} images that "
                f"optim.batch_size={self.optim.batch_size} gives a worker; {share} is the most."
            )
        return self

    @model_validator(mode="after")
    def _check_profile(self) -> Self:
        most = max(1, PROFILED // self.optim.accumulate)
        text = self.profile_steps
        is_range = text is None or re.fullmatch(r"\d{1,9}:\d{1,9}", text, re.ASCII)
        if not is_range or (text is not None and not 1 <= len(self.profiled()) <= most):
            parts = f" in {self.optim.accumulate} parts each" * (most < PROFILED)
            raise ValueError(
                f"profile_steps={text} must be FIRST:END, for 1 to {most} steps{parts}; 100:"
                f"{100 + min(most, 5)} is."
            )
        return self

    @model_validator(mode="after")
    def _check_best(self) -> Self:
        if self.best_by == "kd_efficientnet-lite0" and self.evaluate_extractor == "builtin":
            raise ValueError(
                "best_by=kd_efficientnet-lite0 is not measured by evaluate_extractor=builtin: add "
                "--evaluate-extractor efficientnet-lite0, or use --best-by fd_builtin."
            )
        return self

    @model_validator(mode="after")
    def _check_start(self) -> Self:
        if self.start_from is None and self.start_text != "same":
            raise ValueError(
                f"start_text={self.start_text} has no effect without --start-from, which names the "
                "weights: leave it out."
            )
        return self

    @field_validator("augment")
    @classmethod
    def _sort(cls, value: tuple[Augmentation, ...]) -> tuple[Augmentation, ...]:
        return tuple(sorted(set(value)))  # their order has no effect

    @model_validator(mode="after")
    def _check_augmentation(self) -> Self:
        if self.augment_adaptive and not self.augment:
            raise ValueError(
                "augment_adaptive has no effect without changes to adapt: leave it out, or name "
                "some with --augment, for example translation cutout."
            )
        return self

    @model_validator(mode="after")
    def _check_step(self) -> Self:
        name = self.model.architecture
        needs: tuple[tuple[str, str, object], ...] = (
            ("augment", "views", self.augment),
            ("optim.matching_weight", "choice", self.optim.matching_weight),
        )
        for option, argument, used in needs:
            if not used or name == STANDARD:
                continue
            if argument not in inspect.signature(_architecture(name).step).parameters:
                raise ValueError(
                    f"{option}: the step of {name} has no argument `{argument}` for it."
                )
        return self

    @model_validator(mode="after")
    def _check_evaluation(self) -> Self:
        if self.evaluate_every % self.log_every:
            nearest = -(-self.evaluate_every // self.log_every) * self.log_every
            raise ValueError(
                f"evaluate_every={self.evaluate_every} must be a multiple of "
                f"log_every={self.log_every}, whose line says what was measured; {nearest} is."
            )
        return self

    def steps(self, images: int) -> int:
        """Return the number of steps for a training split of this many images."""
        return self.length(images, self.optim.batch_size)

    def profiled(self) -> range:
        """Return the steps to profile, each by the number of steps done before it."""
        first, _, end = (self.profile_steps or "0:0").partition(":")
        return range(int(first), int(end))


# Changing one of these between start and resume changes no weight that training would reach, but by
# rounding; those of health, and the intervals, what happens when it reaches none.
RESUMABLE_CHANGES = frozenset(
    {
        "output",
        "workers",
        "min_workers",
        "wait_for_room_s",
        "threads",
        "total_epochs",
        "total_steps",
        "extend",
        "log_every",
        "sample_every",
        "checkpoint_every",
        "keep_checkpoints",
        "max_restarts",
        "allow_changes",
        "keep_best",
        "evaluate_every",
        "evaluate_images",
        "evaluate_extractor",
        "best_by",
        "samples",
        "compile",
        "profile_steps",
        "optim.accumulate",
        "health.hang_s",
        "health.skipped_in_a_row",
        "health.rollbacks",
        "health.on_dead_generator",
        "data.path",
        "data.decode_threads",
        "data.reader",
        "held_out",
        "tracking.experiment",
        "tracking.registered_model",
        *(f"evaluate_beside.{name}" for name in EvaluateBesideConfig.model_fields),
    }
)
# Of these, what changes in which order numbers are added up.
ROUNDING = frozenset({"compile", "optim.accumulate"})


def flatten(config: dict[str, object], prefix: str = "") -> dict[str, object]:
    """Turn nested options into dotted names: ``{"optim.generator_lr": 1e-4, …}``."""
    flat: dict[str, object] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def refuse_changes(before: dict[str, object], now: RunConfig) -> list[str]:
    """Refuse to resume a run with options that would make it another one.

    Args:
        before: Config of the checkpoint, as JSON types. An option that it does not
            have is newer than the checkpoint and had its default.
        now: Config of this start.

    Returns:
        Each option, with its old and its new value, that does so and was let through by name, or
        that makes numbers round otherwise.

    Raises:
        ValueError: With each changed option, its old and its new value.
    """
    try:
        old = flatten(type(now).model_validate(before).record())
    except ValidationError as error:
        raise ValueError(
            f"run {now.name} was started by another version of this program: {error}. "
            "Resume it with that version, or start a new run with another --name."
        ) from error
    new = flatten(now.record())
    changes = {
        name: f"{name}: {old.get(name)} → {new.get(name)}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
        and (name not in RESUMABLE_CHANGES or name in ROUNDING)
        # What a run started from may have moved: the weights are its own by now.
        and not (name == "start_from" and old.get(name) and new.get(name))
    }
    through = ROUNDING.union(now.allow_changes)
    if changed := [said for name, said in changes.items() if name not in through]:
        raise ValueError(
            f"run {now.name} was started with other options:\n" + "\n".join(changed) + "\n"
            "Take them back to resume it, name them with --allow-changes, or start a new run with "
            "another --name."
        )
    return list(changes.values())
