"""Sweeps: search for better options of a training on Ray Tune."""

from typing import Any

from pipeline.data.dataset import PreparedDataset
from pipeline.storage.folder import Folder
from pipeline.sweeps.config import SweepConfig
from pipeline.sweeps.parent_run import ParentRun
from pipeline.sweeps.report import (
    SUMMARY,
    TABLE,
    WINNER,
    counted,
    draw,
    how_sure,
    tell,
    trial_records,
    trial_table,
    winner_command,
    write,
)
from pipeline.sweeps.schedulers import Halving, Population
from pipeline.sweeps.search import AtRandom, Grid, Optuna, Proposals
from pipeline.sweeps.study import Study, run_study
from pipeline.sweeps.study_folder import StudyFolder


def sweep(config: SweepConfig) -> Folder:
    """Train trials with different values of some options, and report the best.

    Returns:
        Folder of the sweep: `table.md`, `summary.json`, plots, `winner.yaml`, and a folder for each
        trial's run.

    Raises:
        ValueError: If the sweep was started with other options, or none of its trials can be used.
        StoppedError: If a signal requested a stop.
    """
    if not config.space:
        raise ValueError(
            "space is empty: name the options that vary, for example "
            "--space optim.generator_lr=loguniform(5e-5,5e-4)."
        )
    study = Study(
        config=config,
        count=config.count(),
        proposals=_proposals(config),
        scheduler=_scheduler(config),
        replay=config.scheduler == "asha",
        together=config.scheduler == "pbt",
    )

    def conclude(study: Study, folder: StudyFolder, parent: ParentRun) -> None:
        _conclude(config, folder, parent)

    return run_study(study, conclude)


def _proposals(config: SweepConfig) -> Proposals:
    space = config.domains()
    if config.search == "grid":
        return Grid(space)
    if config.search == "optuna":
        return Optuna(space, config.seed, config.mode)
    return AtRandom(space, config.seed)


def _scheduler(config: SweepConfig) -> Any:
    if config.scheduler == "asha":
        return Halving(config.mode, config.grace, config.reduction)
    if config.scheduler == "pbt":
        return Population(config.domains(), config.mode, config.perturb_every, config.seed)
    return None


def _conclude(config: SweepConfig, study: StudyFolder, parent: ParentRun) -> None:
    space, metric, mode = config.domains(), config.metric, config.mode
    ranked = study.ranked(mode)
    rest = [trial for _, trial in sorted(study.trials.items()) if trial not in ranked]
    table = trial_table([*ranked, *rest], space, metric, mode)
    best = ranked[0]
    step, value = best.best(mode) or (0, 0.0)
    command = winner_command(study.folder, config.train, study.name, best.values)
    pictures = draw(study, parent, space, metric, mode)
    direction = "largest" if mode == "max" else "smallest"
    chosen = ", ".join(f"{name} {value}" for name, value in best.values.items())
    text = (
        f"{counted(list(study.trials.values()))} of {len(study.trials)} trials. "
        f"The {direction} {metric}, {value:.4g}, was reached by trial {best.number} "
        f"({study.run_name(best.number)}) at step {step:,}, with {chosen}."
    )
    held_out = PreparedDataset(config.train.data.path).manifest.rows("validation")
    images = min(config.train.evaluate_images, held_out)
    if sure := how_sure(ranked, metric, mode, images):
        text = f"{text} {sure}"
    note = (
        f"Sweep over {', '.join(space)} ({config.search} search, "
        f"{'no scheduler' if config.scheduler == 'none' else config.scheduler}). {text} This run "
        "has the metrics of the best trial so far, over the number of finished trials. "
        f"Train the winner at full length:\n\n    {command}\n\n{table}\n"
    )
    summary = {
        "sweep": study.name,
        "space": list(config.space),
        "metric": metric,
        "mode": mode,
        "best": {"trial": best.number, "values": best.values, "step": step, "value": value},
        "command": command,
        "pictures": pictures,
        "trials": trial_records(study, mode),
    }
    files = write(study, {TABLE: f"{text}\n\n{table}\n", SUMMARY: summary})
    parent.conclude(best, note, files)
    tell(
        study,
        table,
        [
            text,
            "",
            f"table    {study.folder}/{TABLE}",
            *(f"picture  {study.folder}/{file}" for file in pictures.values()),
            f"record   {study.folder}/{SUMMARY}",
            f"winner   {study.folder}/{WINNER}; train it at full length:",
            f"  {command}",
        ],
    )
