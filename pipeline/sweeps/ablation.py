"""Ablations: every combination of some options with several seeds, in a table with spreads."""

from collections.abc import Sequence
from typing import Any

from pipeline.storage.folder import Folder
from pipeline.sweeps.config import AblateConfig
from pipeline.sweeps.parent_run import ParentRun
from pipeline.sweeps.report import (
    SUMMARY,
    TABLE,
    counted,
    draw,
    spread,
    tell,
    trial_records,
    write,
)
from pipeline.sweeps.search import Grid
from pipeline.sweeps.space import Choice
from pipeline.sweeps.study import Study, run_study
from pipeline.sweeps.study_folder import StudyFolder, TrialRecord


def ablate(config: AblateConfig) -> Folder:
    """Train every combination with every seed, and compare.

    Returns:
        Folder of the ablation: `table.md`, `summary.json`, plots, and a folder for each run.

    Raises:
        ValueError: If it was started with other options, or none of its runs can be used.
        StoppedError: If a signal requested a stop.
    """
    # The seed varies slowest: the table of an unfinished ablation then compares equal seeds.
    space = {"seed": Choice(tuple(range(config.seeds))), **config.domains()}
    grid = Grid(space)
    study = Study(config, len(grid.combinations), grid, scheduler=None)

    def conclude(study: Study, folder: StudyFolder, parent: ParentRun) -> None:
        _conclude(config, folder, parent)

    return run_study(study, conclude)


def settings(config: AblateConfig, trials: Sequence[TrialRecord]) -> list[dict[str, Any]]:
    """Group the results of runs by their options.

    Returns:
        For each combination its values, and for each metric the last value of every run by seed.
    """
    groups: dict[str, dict[str, Any]] = {}
    for trial in sorted(trials, key=lambda trial: trial.number):
        values = {name: trial.values[name] for name in config.domains()}
        group = groups.setdefault(str(values), {"values": values, "curves": {}, "failed": []})
        if trial.status != "finished":
            group["failed"].append(trial.values["seed"])
            continue
        for name, value in sorted(trial.latest.items()):
            if name == config.metric or name.startswith(config.report):
                group["curves"].setdefault(name, {})[str(trial.values["seed"])] = value
    return list(groups.values())


def setting_table(config: AblateConfig, groups: Sequence[dict[str, Any]]) -> str:
    """Format median (lowest–highest) over seeds as Markdown; `groups` are those of `settings`."""
    options = list(config.domains())
    curves = sorted({name for group in groups for name in group["curves"]})
    curves = [config.metric, *(name for name in curves if name != config.metric)]
    rows = [[*options, "seeds", *curves]]
    rows.append(["---"] * len(rows[0]))
    for group in groups:
        measured = group["curves"].get(config.metric, {})
        rows.append(
            [
                *(str(group["values"][name]) for name in options),
                f"{len(measured)}" + f" ({len(group['failed'])} failed)" * bool(group["failed"]),
                *(spread(list(group["curves"].get(name, {}).values())) for name in curves),
            ]
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _conclude(config: AblateConfig, study: StudyFolder, parent: ParentRun) -> None:
    trials = list(study.trials.values())
    groups = settings(config, trials)
    table = setting_table(config, groups)
    pictures = draw(study, parent, config.domains(), config.metric, config.mode)
    text = (
        f"{counted(trials)} of {len(trials)} runs: median (lowest–highest) over seeds, at the last "
        "step of each run."
    )
    summary = {
        "ablation": study.name,
        "space": {name: list(domain.extremes()) for name, domain in config.domains().items()},
        "seeds": config.seeds,
        "metric": config.metric,
        "settings": groups,
        "pictures": pictures,
        "trials": trial_records(study, config.mode),
    }
    files = write(study, {TABLE: f"{text}\n\n{table}\n", SUMMARY: summary})
    best = next(iter(study.ranked(config.mode)), None)
    note = f"Ablation of {', '.join(config.domains())} with {config.seeds} seeds. {text}\n\n{table}"
    parent.conclude(best, note, files)
    tell(study, table, [text, f"table    {study.folder}/{TABLE}"])
