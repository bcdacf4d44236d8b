"""Dry run of a sweep or an ablation."""

from pipeline.common.console import DryRunReport
from pipeline.storage.disk_space import leaving_nothing
from pipeline.storage.folder import Folder
from pipeline.sweeps.check import check_study
from pipeline.sweeps.config import RESUMABLE, AblateConfig, StudyConfig, SweepConfig, with_values
from pipeline.sweeps.space import every_combination
from pipeline.sweeps.study_folder import StudyFolder
from pipeline.tracking.tracker import tracking_uri
from pipeline.training.dry_run import plan_training


def plan_sweep(config: SweepConfig) -> None:
    """Print the trials of a sweep, and the cost of one; raises the errors of its trials."""
    scheduler = "no scheduler" if config.scheduler == "none" else config.scheduler
    count = config.count()
    _plan(config, count, f"{count} trials by {config.search} search, {scheduler}")


def plan_ablation(config: AblateConfig) -> None:
    """Print the runs of an ablation, and the cost of one; raises the errors of its runs."""
    combinations = len(every_combination(config.domains()))
    count = combinations * config.seeds
    _plan(config, count, f"{combinations} combinations with {config.seeds} seeds: {count} runs")


def _plan(config: StudyConfig, count: int, what: str) -> None:
    with leaving_nothing(Folder(config.train.output)):
        train = check_study(config)
        study = StudyFolder(Folder(train.output) / config.study, config.study)
        study.read(config.record(train), RESUMABLE)
        trials = study.trials
        done = [number for number, trial in trials.items() if trial.is_done]
        left = [number for number in range(max(count, len(trials))) if number not in done]

        report = DryRunReport()
        report.line("study", f"{what}, by {config.metric} ({config.mode})")
        report.line("space", "\n".join(f"{name}: {d}" for name, d in config.domains().items()))
        report.line("folder", f"{study.folder}: {f'{len(done)} of them done' if trials else 'new'}")
        if not left:
            report.end()
            return
        report.line("each", "a run as below")
        values = trials[left[0]].values if left[0] in trials else {}
        own = {
            "name": study.run_name(left[0]),
            "output": study.folder.location,
            "tracking": train.tracking.model_copy(
                update={"uri": tracking_uri(train.tracking.uri, Folder(train.output))}
            ),
        }
        plan_training(with_values(train, values).model_copy(update=own))
