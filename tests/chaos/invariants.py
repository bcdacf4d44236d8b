"""What must hold of a run after any fault. One library: all tests of faults ask it.

Each check returns what is wrong, one line each; an empty list is what is wanted.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from mlflow import MlflowClient

from pipeline.checkpoint.store import MARKER, PREFIX, damage
from pipeline.data.dataset import PreparedDataset
from pipeline.data.sample_order import SampleOrder
from pipeline.storage.folder import Folder
from pipeline.storage.lock import LOCK_NAME
from pipeline.tracking.run_record import read_record
from pipeline.tracking.sender import Delivery
from pipeline.tracking.spool import read

TEMPORARY = re.compile(r".*\.tmp|\.probe-.*|stop\.json")


def weights(run: Path, step: int) -> dict[str, str]:
    """Hash every file of tensors in a checkpoint: G, its average, D, and the moments of Adam."""
    folder = run / "checkpoints" / f"{PREFIX}{step:08d}"
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*.safetensors"))
    }


def other_weights(run: Path, reference: Path, step: int) -> list[str]:
    """Compare a run with one that nothing happened to, bit for bit."""
    ours, theirs = weights(run, step), weights(reference, step)
    if not theirs:
        return [f"{reference} has no checkpoint of step {step}"]
    names = ours.keys() | theirs.keys()
    return [
        f"{name} of step {step} is another than without faults"
        for name in sorted(names)
        if ours.get(name) != theirs.get(name)
    ]


def incomplete(run: Path) -> list[str]:
    """Look through every checkpoint that is visible: what has its marker must verify."""
    return [
        f"{folder.name} is visible and damaged: {problem}"
        for folder in sorted((run / "checkpoints").glob(f"{PREFIX}*"))
        if (folder / MARKER).exists()
        if (problem := damage(Folder(str(folder))))
    ]


def broken_curves(
    uri: str, run: Path, steps: Sequence[int], key: str = "loss/generator"
) -> list[str]:
    """Compare curves in MLflow with what the run told: all of it, each point once, none other.

    Args:
        uri: Of the server or store.
        run: Folder of the run.
        steps: At which `key` must have a point.
        key: A curve that has one at each interval.
    """
    folder = Folder(str(run))
    told: dict[str, set[tuple[int, float, int]]] = {}
    for entry in read(folder / "spool/records", {}):
        if entry.record and entry.record["kind"] == "points":
            for name, value in entry.record["values"].items():
                point = (entry.record["step"], value, entry.record["time"])
                told.setdefault(name, set()).add(point)
    client, run_id = MlflowClient(uri), read_record(folder).get("mlflow_run_id")
    if run_id is None:
        return ["the run has never been in MLflow"]
    problems = []
    for name, points in sorted(told.items()):
        history = client.get_metric_history(run_id, name)
        counts = Counter(point.step for point in history)
        problems += [f"{name}: step {n} is there {c} times" for n, c in counts.items() if c > 1]
        missing = {step for step, *_ in points} - counts.keys()
        problems += [f"{name}: step {n} is missing" for n in sorted(missing)]
        strange = {(point.step, point.value, point.timestamp) for point in history} - points
        problems += [f"{name}: step {n} was never told so" for n, *_ in sorted(strange)]
        if name == key and sorted(counts) != list(steps):
            problems.append(f"{name}: has steps {sorted(counts)}, not {list(steps)}")
    if key not in told:
        problems.append(f"{key} was never told")
    # One run, however often its sender was killed between creating it and noting its id.
    experiment = client.get_run(run_id).info.experiment_id
    start = folder.read_json("spool/start.json")
    twins = client.search_runs([experiment], f"tags.`ratgan.run` = '{start['id']}'")
    if len(twins) != 1:
        problems.append(f"there are {len(twins)} runs of it in MLflow")
    left = Delivery(folder, uri).left()
    return problems + [f"{count} {lane} were not sent" for lane, count in left.items()]


def left_over(run: Path) -> list[str]:
    """Find what a run leaves that it should not: temporary files, Ray's records, a lock."""
    problems = [
        f"{path.relative_to(run)} is left"
        for path in sorted(run.rglob("*"))
        if TEMPORARY.fullmatch(path.name)
    ]
    if (run / "ray").exists():
        problems.append("ray/ is left")
    locks = sorted(path for path in run.iterdir() if LOCK_NAME.fullmatch(path.name))
    if locks and not json.loads(locks[-1].read_text())["released"]:
        problems.append(f"{locks[-1].name} is held")
    return problems + [f"{path.name} is an old lock" for path in locks[:-1]]


def unequal_epochs(data: str, batch_size: int, seed: int, worlds: Sequence[int]) -> list[str]:
    """Follow three epochs of a dataset through a change of workers: each image once in each.

    Which images a step sees is a function of the step alone (`pipeline/data/sample_order.py`),
    and a resumed run that ends with the same weights has seen them; this holds that function to
    its word.

    Args:
        data: Prepared dataset.
        batch_size: Images of a step over all workers.
        seed: Of the run.
        worlds: Numbers of workers that follow each other, each for its part of the steps.
    """
    dataset = PreparedDataset(data)
    plan = SampleOrder(dataset.units("train"), batch_size, seed)
    steps = -(-3 * plan.images // batch_size)
    bounds = [round(steps * n / len(worlds)) for n in range(len(worlds) + 1)]
    seen: Counter[tuple[int, int, int]] = Counter()
    for world, first, last in zip(worlds, bounds, bounds[1:], strict=False):
        for rank in range(world):
            samples = plan.resolve(plan.positions(rank, world, first, last))
            seen.update(
                zip(
                    samples.epoch.tolist(), samples.unit.tolist(), samples.row.tolist(), strict=True
                )
            )
    problems = []
    for epoch in range(3):
        once = {(u, r): c for (e, u, r), c in seen.items() if e == epoch}
        if len(once) != plan.images or set(once.values()) != {1}:
            problems.append(f"epoch {epoch}: {len(once)} of {plan.images} images, {once.values()}")
    return problems


def secrets_in(places: Iterable[Path], secrets: Iterable[str]) -> list[str]:
    """Search every byte of files and folders."""
    wanted = [secret.encode() for secret in secrets]
    return [
        f"{file} holds {secret.decode()}"
        for place in places
        for file in ([place] if place.is_file() else sorted(place.rglob("*")))
        if file.is_file() and not file.is_symlink()
        for content in [file.read_bytes()]
        for secret in wanted
        if secret in content
    ]
