"""Dry run of a sweep or an ablation."""

from pipeline.common.console import DryRunReport
from pipeline.sweeps.config import AblateConfig, StudyConfig, SweepConfig
from pipeline.sweeps.space import every_combination
from pipeline.training.dry_run import plan_training


def plan_sweep(config: SweepConfig) -> None:
    """Print the trials of a sweep, and the cost of one; raises the errors of its trials."""
    scheduler = "no scheduler" if config.scheduler == "none" else config.scheduler
    _plan(config, f"{config.count()} trials by {config.search} search, {scheduler}")


def plan_ablation(config: AblateConfig) -> None:
    """Print the runs of an ablation, and the cost of one; raises the errors of its runs."""
    count = len(every_combination(config.domains()))
    _plan(config, f"{count} combinations with {config.seeds} seeds: {count * config.seeds} runs")


def _plan(config: StudyConfig, what: str) -> None:
    report = DryRunReport()
    report.line("study", f"{what}, by {config.metric} ({config.mode})")
    report.line("space", "\n".join(f"{name}: {d}" for name, d in config.domains().items()))
    report.line("each", "a run as below")
    plan_training(config.run())
