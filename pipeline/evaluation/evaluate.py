"""Evaluate a model: captions → images → features → sums → measures.

Nothing passes through image files: a process draws some images, looks at them, and keeps their
features. What is finished is kept, so a stopped evaluation goes on.
"""

import os
import time
from dataclasses import asdict

import torch

from pipeline.common.console import DryRunReport, duration, print_line
from pipeline.common.environment import versions
from pipeline.common.machine import usable_cpus
from pipeline.evaluation.caption_sampling import DIVERSITY, CaptionPlan
from pipeline.evaluation.config import CACHE, EvaluateConfig
from pipeline.evaluation.features import FeatureSet, digest, look, unequal
from pipeline.evaluation.image_sets import DrawnImages, Images
from pipeline.evaluation.measures import Measured, Sums, measure, summed
from pipeline.evaluation.nearest import look_for_copies, training_images, uncompared
from pipeline.evaluation.protocols import Protocol
from pipeline.evaluation.reference_images import column_digest
from pipeline.evaluation.report import (
    NEAREST,
    REPORT,
    REPORT_TEXT,
    EvaluationReport,
    draw_pictures,
    shown_name,
    shown_spread,
    text_of,
    warning,
)
from pipeline.evaluation.shapes_classifier import ShapesReader, unreadable
from pipeline.evaluation.task import Task, check
from pipeline.ray_cluster.connection import connect, is_connected, obtainable, quiet_libraries
from pipeline.storage.disk_space import leaving_nothing
from pipeline.storage.folder import Folder, absolute
from pipeline.storage.lock import Lock
from pipeline.storage.run_log import keep_log
from pipeline.tracking.best_version import Quality
from pipeline.tracking.late_metrics import Findings, record_numbers
from ratgan.metrics.features import TooFewImagesError
from ratgan.metrics.intervals import of_count

FEATURES = "features"  # in the output folder, while it is unfinished


def evaluate(config: EvaluateConfig) -> EvaluationReport:
    """Evaluate as the config says, or find that it is done already.

    Returns:
        The report, as in report.json.

    Raises:
        ValueError: If model, data, weights and protocol do not go together.
        FileNotFoundError: If one of them is not there.
    """
    started = time.monotonic()
    task = check(config)
    done = _done_already(task)
    if done is not None:
        print_line(f"{task.output} is evaluated already.")
        _print_report(task, done)
        return done
    task.output.check_writable("output")
    actors, gpus = _actors(config)
    with Lock(task.output, "evaluate") as lock:
        keep_log(task.output)
        if config.overwrite:
            (task.output / FEATURES).remove()
        _print_what_is_done(task, actors, gpus)
        sets = _sets(task)
        _complete(task, sets, actors, gpus)
        report, pictures = _measured(task, *sets, started)
        lock.check()
        for name, content in pictures.items():
            task.output.write(name, content)
        task.output.write(REPORT_TEXT, text_of(report).encode())
        task.output.write_json(REPORT, report)
        if not config.keep_features:
            (task.output / FEATURES).remove()
    _record(task, report)
    _print_report(task, report)
    return report


def plan_evaluation(config: EvaluateConfig) -> None:
    """Say what would be measured, and how long it takes, after drawing a batch and looking at it.

    Raises:
        ValueError: As evaluating would.
        OSError: As evaluating would.
    """
    task, plan = check(config), DryRunReport()
    protocol, done = task.protocol, _done_already(task)
    plan.line("model", f"{task.model.location}, {task.model.weights} weights")
    plan.line("protocol", f"{protocol.name}: {protocol.count:,} images of {protocol.image_size} px")
    for quirk in protocol.quirks:
        plan.note(quirk)
    plan.line(
        "real",
        f"{protocol.reference_count:,} images, {protocol.reference}"
        if task.real.images
        else "statistics that others took",
    )
    plan.line("output", f"{task.output}{', which is evaluated already' if done else ''}")
    with leaving_nothing(task.output):
        task.output.check_writable("output")
    generated = _sets(task)[1]
    extractor = task.extractor.loaded()
    device = torch.device("cpu")
    started = time.monotonic()
    some = generated.numbers(0)[: config.batch_size]
    for batch in generated.images.opened(device).batches(some):
        extractor(batch.images)
    each = (time.monotonic() - started) / len(some)
    total = (generated.count + protocol.reference_count) * each
    plan.line(
        "ETA",
        f"{duration(total)} for one process on a CPU: "
        f"drawing an image and looking at it took {each:.3f} s",
    )
    plan.end()


def _done_already(task: Task) -> EvaluationReport | None:
    """Return the report that is there, if it is of the same.

    Raises:
        ValueError: If another one is there.
    """
    if task.config.overwrite or not task.output.exists(REPORT):
        return None
    report: EvaluationReport = task.output.read_json(REPORT)
    if unlike := unequal(report.get("identity"), task.identity):
        raise ValueError(
            f"{task.output} holds another evaluation:\n" + "\n".join(unlike) + "\n"
            "Name another folder with --output, or delete it with --overwrite."
        )
    return report


def _actors(config: EvaluateConfig) -> tuple[int, bool]:
    """Decide how many processes work at most, and whether on GPUs; connect to Ray if it must be."""
    quiet_libraries()
    if config.actors == 0:
        return 0, torch.cuda.is_available()
    alone = (config.actors or 1) == 1 and not torch.cuda.is_available()
    if alone and not os.environ.get("RAY_ADDRESS") and not is_connected():
        return config.actors or usable_cpus(), False
    connect(cpus=config.actors or usable_cpus(), least=config.actors or 1)
    gpus = obtainable("GPU")
    actors = config.actors or gpus or obtainable("CPU")
    if 0 < gpus < actors:
        raise ValueError(
            f"actors={actors}, and the cluster has {gpus} GPUs: some would draw without one. Use "
            f"--actors {gpus}, or leave it out to use them all."
        )
    return actors, gpus > 0


def _complete(task: Task, sets: tuple[FeatureSet | None, ...], actors: int, gpus: bool) -> None:
    """Compute the features that an earlier, interrupted evaluation did not."""
    wanted = [features for features in sets if features is not None]
    missing = [features.begin() for features in wanted]
    kept = sum(f.chunks - len(m) for f, m in zip(wanted, missing, strict=True))
    if kept:
        print_line(f"  {kept:,} of {sum(f.chunks for f in wanted):,} pieces are there already")
    look(wanted, missing, task.extractor, task.pair, actors=actors, gpus=gpus)
    print_line("measuring")


def _sets(task: Task) -> tuple[FeatureSet | None, FeatureSet, FeatureSet, FeatureSet | None]:
    """Return the sets of images.

    They are: real ones, generated ones, several for some captions, and training images.
    """
    config, protocol = task.config, task.protocol
    size = {"chunk_images": config.chunk_images, "batch_size": config.batch_size}
    sees = {
        "extractor": protocol.extractor,
        "weights_sha256": protocol.weights_sha256,
        "resize": protocol.resize,
    }

    def given(images: Images, digest_: str) -> FeatureSet:
        seen = {
            "images": digest_,
            "count": images.count,
            "crop": protocol.reference_crop,
            "image_size": protocol.image_size,
        }
        identity = sees | size | seen
        return FeatureSet(_cache(task) / digest(identity), images, identity, config.chunk_images)

    real = None if task.real.images is None else given(task.real.images, task.real.digest)
    rows = task.dataset.manifest.rows(protocol.captions_of)
    whole = CaptionPlan(
        rows=rows,
        count=protocol.count or 0,
        seed=protocol.seed,
        captions=protocol.captions,
        drop_last=protocol.drop_last,
    )
    some = CaptionPlan(
        rows=rows,
        count=min(protocol.diversity_captions, rows) * protocol.diversity_images,
        seed=protocol.seed,
        captions=protocol.captions,
        repeat=protocol.diversity_images,
        stream=DIVERSITY,
    )

    def drawn(plan: CaptionPlan, name: str, *, logits: bool, pair: bool) -> FeatureSet:
        return FeatureSet(
            folder=task.output / FEATURES / name,
            images=DrawnImages(
                model=task.model,
                data=task.dataset.folder.location,
                split=protocol.captions_of,
                plan=plan,
                rounding=protocol.rounding,
                truncation=protocol.truncation,
                batch_size=config.batch_size,
            ),
            identity=task.identity,
            chunk_images=config.chunk_images,
            logits=logits,
            pair=pair,
        )

    generated = drawn(whole, "generated", logits=task.logits, pair=task.pair is not None)
    varied = drawn(some, "diversity", logits=False, pair=False)
    train = None
    if not uncompared(task):
        images = training_images(task)
        train = given(images, column_digest(task.dataset, images.splits, "digest"))
    return real, generated, varied, train


def _cache(task: Task) -> Folder:
    """Return where features of real images are kept."""
    if task.config.cache is not None:
        return Folder(absolute(task.config.cache, "cache"))
    beside = task.model.run or task.output.location
    return Folder(beside.rpartition("/")[0]).closed() / CACHE


def _measured(
    task: Task,
    real: FeatureSet | None,
    generated: FeatureSet,
    varied: FeatureSet,
    train: FeatureSet | None,
    started: float,
) -> tuple[EvaluationReport, dict[str, bytes]]:
    """Sum the sets, take all measures, and draw what is shown."""
    protocol = task.protocol
    began = time.perf_counter()
    sums = summed(generated, protocol)
    real_sums = None if real is None else summed(real, protocol)
    statistics = task.real.statistics if real_sums is None else real_sums.statistics
    if statistics is None:
        raise ValueError("there is nothing to compare with.")
    some = summed(varied, protocol)
    each = some.sample.view(-1, protocol.diversity_images, some.sample.shape[1])
    summing = time.perf_counter() - began
    found = measure(sums, real_sums, statistics, each, protocol)
    _agreement(task, found)
    if not isinstance(generated.images, DrawnImages):
        raise TypeError("generated images are drawn.")
    pictures = draw_pictures(generated.images, found, sums.chosen)
    copies = None
    if train is None or real_sums is None:
        found.missing["memorised"] = uncompared(task)
    else:
        try:
            began = time.perf_counter()
            copies, pictures[NEAREST] = look_for_copies(
                task, sums, summed(train, protocol), real_sums, generated.images
            )
            found.seconds["memorised"] = time.perf_counter() - began
        except TooFewImagesError as error:  # as in a first try
            found.missing["memorised"] = str(error)
    report = _report(task, found, sums, statistics.rank, list(pictures))
    if copies is not None:
        report["memorised"] = copies
    report["seconds"] = {
        "generate": sums.seconds[0],
        "features": sums.seconds[1],
        "real images": sum(real_sums.seconds) if real_sums else 0.0,
        "sums": summing,
        **found.seconds,
        "in all": time.monotonic() - started,
    }
    return report, pictures


def _agreement(task: Task, found: Measured) -> None:
    """Measure exactly who follows a caption, where captions have a known meaning."""
    reason = unreadable(task.dataset.manifest, task.protocol.image_size)
    model = task.model.loaded()
    if not reason and not torch.equal(
        model.transform.projection, task.dataset.transform.projection
    ):
        reason = "the model was trained on another preparation of the captions"
    if reason:
        found.missing["agreement"] = reason
        return
    started = time.perf_counter()
    reader = ShapesReader(task.dataset, cache=_cache(task))
    agreed = reader.agreement_of(model.generator, seed=task.protocol.seed)
    found.values |= {f"agreement_{name}": share for name, share in agreed.items()}
    found.values |= {f"agreement_real_{name}": share for name, share in reader.accuracy.items()}
    count = len(reader.held_out)
    found.spread |= {
        kind: of_count(value, count)
        for kind, value in found.values.items()
        if kind.startswith("agreement_")
    }
    found.seconds["agreement"] = time.perf_counter() - started


def _report(
    task: Task, found: Measured, sums: Sums, real_rank: int, pictures: list[str]
) -> EvaluationReport:
    protocol = task.protocol
    names = {kind: protocol.measure(kind, task.published) for kind in found.values}
    return {
        "name": task.model.name,
        "model": asdict(task.model),
        "protocol": protocol.model_dump(mode="json"),
        "published_weights": task.published,
        "pair": None if task.pair is None else {"name": task.pair.name, "sha256": task.pair_sha256},
        "data": {"location": task.dataset.folder.location, "digest": task.dataset.digest},
        "numbers": {names[kind]: value for kind, value in found.values.items()},
        "kinds": {name: kind for kind, name in names.items()},
        "missing": found.missing,
        "spread": {names[kind]: each.record() for kind, each in found.spread.items()},
        "spread_missing": found.spread_missing,
        "rank": {
            "features": task.features,
            "generated": sums.statistics.rank,
            "real": real_rank,
        },
        "pictures": pictures,
        "versions": versions(),
        "identity": task.identity,
    }


def _record(task: Task, report: EvaluationReport) -> None:
    """Add the numbers to the run's record, where the evaluated weights are of a run."""
    if task.model.run is None or not task.config.record:
        return
    run = Folder(task.model.run).closed()
    became = record_numbers(run, findings(report, run, task.output), uri=task.config.tracking_uri)
    print_line(f"  mlflow {became}")


def findings(report: EvaluationReport, run: Folder, output: Folder) -> Findings:
    """Return what the record of a run says of an evaluation.

    Args:
        report: Of the evaluation.
        run: Folder of the run whose model was evaluated.
        output: Folder of the report.
    """
    protocol = Protocol.model_validate(report["protocol"])
    name, step, inside = protocol.name, int(report["model"]["step"]), f"{run.location}/"
    pictures = {}
    if output.location.startswith(inside):
        place = output.location.removeprefix(inside)
        pictures = {
            f"evaluation_{name}_{file.removesuffix('.png')}": f"{place}/{file}"
            for file in report["pictures"]
        }
    distance = protocol.measure("distance", report["published_weights"])
    sure = report["spread"].get(distance, {})
    return Findings(
        step,
        {_curve(protocol, key): value for key, value in report["numbers"].items()},
        tags={
            f"eval.protocol.{name}": protocol.model_dump_json(
                exclude={"quirks"}, exclude_none=True
            ),
            f"eval.report.{name}": output.location,
        }
        | ({f"eval.memorised.{name}": said} if (said := warning(report)) else {}),
        pictures=pictures,
        quality=Quality(
            metric=_curve(protocol, distance),
            value=report["numbers"][distance],
            step=step,
            protocol=protocol.label(),
            lower_is_better=True,
            low=sure.get("low"),
            high=sure.get("high"),
        ),
    )


def _curve(protocol: Protocol, number: str) -> str:
    """Name the curve a number goes to.

    ``eval/fd_builtin`` is the curve of the quick evaluations in training, of fewer images.
    """
    quick = protocol.name == protocol.extractor
    return f"eval/{number}_{protocol.count}" if quick else f"eval/{number}"


def _print_what_is_done(task: Task, actors: int, gpus: bool) -> None:
    protocol = task.protocol
    at_work = f"{actors} process{'es' if actors > 1 else ''}" if actors else "this process"
    if actors > 1 and not is_connected():
        at_work = f"up to {at_work}"
    print_line(
        f"evaluating {task.model.location} ({task.model.weights} weights) by protocol "
        f"{protocol.name}: {protocol.count:,} images of {protocol.image_size} px, "
        f"{protocol.reference_count:,} real ones, features of {protocol.extractor}\n"
        f"  {at_work}{' on GPU' if gpus else ''}, "
        f"report {task.output}"
    )


def _print_report(task: Task, report: EvaluationReport) -> None:
    width = max(len(shown_name(name)) for name in report["numbers"]) + 2
    lines = [
        f"{shown_name(name):{width}}{value:>10.4g}  {shown_spread(report, name)}".rstrip()
        for name, value in report["numbers"].items()
    ]
    seconds = report["seconds"]
    if said := warning(report):
        lines += ["", f"warning: {said}"]
    lines += [
        "",
        f"report   {task.output}/{REPORT_TEXT}",
        f"pictures {task.output}",
        f"time     {duration(seconds['in all'])}: drawing {seconds['generate']:.1f} s, features "
        f"{seconds['features']:.1f} s over all processes",
    ]
    print_line("\n".join(lines))
