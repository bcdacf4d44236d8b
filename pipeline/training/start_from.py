"""Start a run from the weights of another: they become its checkpoint of step 0.

So they are taken once, and every start after that resumes, as it does from any other checkpoint.

Dimensions in this file:
    R raw size of the sentence vectors, S their size here, T their size in the source.
"""

import copy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.checkpoint.find_model import find_place
from pipeline.checkpoint.gan_state import gan_files, gan_tensors
from pipeline.checkpoint.host_copy import HostCopy, refuse_not_finite, size
from pipeline.checkpoint.load_model import MODEL_FILES, load_from
from pipeline.checkpoint.optimizer_state import reset_moments
from pipeline.checkpoint.store import FILES, commit, damage, newest_checkpoint, read_tensors
from pipeline.common.console import print_line
from pipeline.config import TrainConfig
from pipeline.data.dataset import PreparedDataset
from pipeline.data.sample_order import SampleOrder
from pipeline.evaluation.networks import TRAINING
from pipeline.storage.folder import Folder, absolute
from pipeline.storage.local_copy import local_copy
from pipeline.storage.safe_path import inside
from pipeline.tracking.run_record import update_record
from pipeline.training.gan_step import build
from pipeline.training.launch import Launch, RunningJob
from pipeline.training.loop import Job, run_state
from ratgan.architectures import architecture_of
from ratgan.step import Gan
from ratgan.text.transform import SentenceTransform
from ratgan.text_to_image import TextToImage
from ratgan.weights.saved_model import (
    DISCRIMINATOR_JSON,
    DISCRIMINATOR_TENSORS,
    load_discriminator,
)
from ratgan.weights.strict import load_strictly
from ratgan.weights.transfer import Account, Network, Sentences, transfer

RECORD = "started_from.json"  # in MLflow
DISCRIMINATOR_FILES = (DISCRIMINATOR_JSON, DISCRIMINATOR_TENSORS)
OTHERS = "start from other weights"
FREE = {"image_size", "sentence_dim"}  # arguments of the networks that may differ


@dataclass(frozen=True)
class Start:
    """Networks as a run begins with them.

    Attributes:
        gan: On the CPU, with the initial weights of the run where none were taken.
        lineage: Where they are from, and how much of it was taken; JSON types.
        accounts: What became of each tensor, by network.
    """

    gan: Gan
    lineage: dict[str, Any]
    accounts: dict[str, Account]

    def __str__(self) -> str:
        place, step = self.lineage["place"], self.lineage["step"]
        # The average has the tensors of the generator.
        counts = {n: str(account) for n, account in self.accounts.items() if n != "average"}
        taken = "; ".join(f"tensors of the {name}: {said}" for name, said in counts.items())
        return f"{place}{f' at step {step:,}' if step else ''}. {taken}"


def find_start(config: TrainConfig, launch: Launch) -> Start | None:
    """Read the weights that a run is to start from; None if it has none, or has begun.

    Args:
        config: Of the run.
        launch: Checked.

    Raises:
        FileNotFoundError: If there are no weights.
        ValueError: If they do not fit the run, or are damaged.
    """
    if config.start_from is None or newest_checkpoint(launch.run / "checkpoints"):
        return None
    place, dataset = Folder(absolute(config.start_from, "start_from")).closed(), launch.dataset
    _, checkpoint, folder = find_place(place, "newest", "start_from")
    beside = checkpoint or folder
    for each, names in ((folder, MODEL_FILES), (beside, (*DISCRIMINATOR_FILES, TRAINING))):
        for name in names:
            inside(each, name)  # whoever made the folder may have laid a link to any file
    if checkpoint and (problem := damage(checkpoint)):
        raise ValueError(f"start_from={place}: {checkpoint} is damaged, {problem}. Name another.")
    model = load_from(folder.location)
    average, sha256 = model.generator, {"average": model.digest}
    generator = copy.deepcopy(average)
    if checkpoint:
        load_strictly(generator, read_tensors(checkpoint, TRAINING), f"{checkpoint}/{TRAINING}")
        sha256["generator"] = checkpoint.read_json(FILES)[TRAINING]
    discriminator: Network | None = None
    if beside.exists(DISCRIMINATOR_JSON):
        with local_copy(beside.location, DISCRIMINATOR_FILES) as path:
            discriminator = load_discriminator(path)
            sha256["discriminator"] = Folder(path).read_json(DISCRIMINATOR_JSON)["tensors_sha256"]

    sentences = _sentences(config, dataset, model)
    gan = build(config, dataset.transform.dim, torch.device("cpu"))
    pairs: dict[str, tuple[Network, Network | None]] = {
        "generator": (gan.generator, generator),
        "average": (gan.average, average),
        "discriminator": (gan.discriminator, discriminator),
    }
    held = {name: source for name, (_, source) in pairs.items() if source is not None}
    refuse_not_finite(
        {name: source.state_dict() for name, source in held.items()},
        f"start_from={place}",
        OTHERS,
    )
    accounts = {}
    for name, (network, source) in pairs.items():
        if source is None:
            why = f"{beside} holds no discriminator"
            accounts[name] = Account(anew=dict.fromkeys(network.state_dict(), why))
            continue
        _refuse_another_network(f"start_from={place}: its {name}", network, source)
        if source.arguments["sentence_dim"] != model.transform.dim:
            raise ValueError(
                f"{beside} is damaged: its {name} reads sentence vectors of "
                f"{source.arguments['sentence_dim']} numbers, not of {model.transform.dim}."
            )
        accounts[name] = transfer(network, source, sentences)
    optimizers = (gan.generator_optimizer, gan.discriminator_optimizer, gan.matcher_optimizer)
    for optimizer in filter(None, optimizers):
        reset_moments(optimizer)
    step = model.origin.get("step") if isinstance(model.origin, dict) else None
    lineage = {
        "place": beside.location,
        "step": step if type(step) is int else None,
        "image_size": average.arguments["image_size"],
        "text": sentences if isinstance(sentences, str) else "refit",
        "sha256": sha256,
        "taken": {name: str(account) for name, account in accounts.items()},
    }
    return Start(gan, lineage, accounts)


def begin(start: Start, config: TrainConfig, launch: Launch, job: RunningJob) -> None:
    """Make them the run's checkpoint of step 0, and record where they are from.

    Raises:
        OSError: If they cannot be kept.
    """
    print_line(f"  starts from {start}")
    # Before the checkpoint: a start that ends here does it again, and one after it never does.
    lists = {name: asdict(account) for name, account in start.accounts.items()}
    update_record(launch.run, started_from=start.lineage | {"tensors": lists})
    job.tracker.json(start.lineage | {"tensors": lists}, RECORD)
    lineage = start.lineage
    tags = {
        "started_from": lineage["place"],
        "started_from.step": lineage["step"],
        "started_from.text": lineage["text"],
        **{f"started_from.sha256.{name}": value for name, value in lineage["sha256"].items()},
        **{f"started_from.taken.{name}": value for name, value in lineage["taken"].items()},
    }
    for key, value in tags.items():
        if value is not None:
            job.tracker.tag(key, str(value))
    job.tracker.flush()

    dataset, batch = launch.dataset, config.optim.batch_size
    order = SampleOrder(dataset.units("train"), batch, config.seed)
    state = run_state(Job(**job.fields), config, dataset, order, None, 0)
    state |= {"step": 0, "spread_samples": True, "started_from": lineage}
    groups = HostCopy().take(gan_tensors(start.gan))
    job.lock.check()
    commit(
        launch.run / "checkpoints",
        gan_files(
            groups,
            state,
            gan=start.gan,
            transform=dataset.transform,
            encoder_file=dataset.encoder_file(),
        ),
        step=0,
        state=state,
        keep=config.keep_checkpoints,
        size=size(groups),
    )


def _sentences(config: TrainConfig, dataset: PreparedDataset, model: TextToImage) -> Sentences:
    """Tell how the sentence vectors of the dataset become those that the weights know.

    Raises:
        ValueError: If they differ, and that was not said.
    """
    encoder, ours, theirs = dataset.manifest.encoder, dataset.transform, model.transform
    known = model.encoder_record
    same_encoder = (known.get("sha256"), len(theirs.mean)) == (encoder.sha256, encoder.dim)
    if same_encoder and _equal(ours, theirs):
        return "same"
    if config.start_text == "same":
        differs = (
            f"sentence vectors of {known.get('name')}, {theirs.kind} to {theirs.dim} numbers, and "
            f"{dataset.folder} has those of {encoder.name}, {ours.kind} to {ours.dim}"
        )
        if not same_encoder:
            differs += ": other weights of the text encoder"
        elif (ours.kind, ours.dim) == (theirs.kind, theirs.dim):
            differs += ", but fitted to other captions"
        raise ValueError(
            f"start_from={config.start_from} knows {differs}. Use --start-text refit, by which "
            + ("words keep their meaning" if same_encoder else "the text is learned anew")
            + "; or train on a dataset whose vectors it knows."
        )
    if not same_encoder:
        return "other"
    what = f"start_from={config.start_from}"
    refuse_not_finite({"transform": theirs.state_dict()}, what, OTHERS)
    # [S, R] [R, T]. The mean caption here stands for the mean one there.
    refit: Tensor = torch.linalg.pinv(ours.projection.double()) @ theirs.projection.double()
    return refit


def _equal(one: SentenceTransform, other: SentenceTransform) -> bool:
    tensors, others = one.state_dict(), other.state_dict()
    return one.kind == other.kind and all(torch.equal(tensors[n], others[n]) for n in tensors)


def _refuse_another_network(what: str, network: Network, source: Network) -> None:
    """Refuse weights of another architecture, or of other widths.

    Raises:
        ValueError: With each option that differs, and the values.
    """
    ours, theirs = (
        {"architecture": architecture_of(each), **each.arguments} for each in (network, source)
    )
    differing = sorted(n for n in ours if n not in FREE and theirs.get(n) != ours[n])
    if differing:
        there = ", ".join(f"model.{n}={theirs.get(n)}, not {ours[n]}" for n in differing)
        raise ValueError(
            f"{what} has {there}. Its weights fit a run with the same options only, but for the "
            "image size."
        )
