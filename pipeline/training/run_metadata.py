"""Log the metadata of a training run at its start."""

from pipeline.common.environment import git_state, versions
from pipeline.common.redaction import redacted
from pipeline.config import RunConfig, flatten
from pipeline.data.dataset import PreparedDataset
from pipeline.ray_cluster.connection import job_tags
from pipeline.storage.folder import Folder
from pipeline.tracking.mlflow_access import context_tags
from pipeline.tracking.run_record import update_record
from pipeline.tracking.tracker import PartOf, Tracker


def introduce(
    config: RunConfig,
    run: Folder,
    dataset: PreparedDataset,
    uri: str,
    part_of: PartOf | None = None,
) -> Tracker:
    """Log options, dataset and tags of a new run, or that a run resumes.

    Args:
        part_of: The parent run, if any.
    """
    tracker = Tracker(run)
    update_record(run, mlflow_uri=redacted(uri), status="RUNNING")
    if not tracker.is_new():
        tracker.resume()
        tracker.options({}, job_tags())
        return tracker
    manifest, encoder = dataset.manifest, dataset.manifest.encoder
    source = str(manifest.source["name"])
    tags = {
        "dataset.digest": dataset.digest,
        "dataset.path": dataset.folder.location,
        "dataset.source": source,
        "text_encoder": encoder.name,
        "text_encoder.sha256": encoder.sha256,
        "sentence_transform": f"{dataset.transform.kind} to {dataset.transform.dim}",
        **git_state(),
        **job_tags(),
        **{f"version.{name}": value for name, value in versions().items()},
    }
    tracker.options(flatten(config.record()), tags)
    tracker.dataset(
        source,
        dataset.digest,
        dataset.folder.location,
        manifest.rows("train"),
        validation_rows=manifest.rows("validation"),
        captions=manifest.captions,
        image_size_px=manifest.cache_size,
        text_encoder=encoder.name,
    )
    tracker.json(config.record(), "config.json")
    tracker.json(manifest.model_dump(mode="json"), "dataset_manifest.json")
    tracker.begin(
        experiment=config.tracking.experiment,
        name=config.name,
        tags=context_tags(),
        part_of=part_of,
    )
    return tracker


def in_words(dataset: PreparedDataset) -> str:
    """Return a description of a dataset, in Markdown."""
    manifest = dataset.manifest
    return (
        f"{manifest.rows('train'):,} images of `{manifest.source['name']}` (`{dataset.folder}`), "
        f"with captions encoded by `{manifest.encoder.name}`"
    )
