"""What a pretraining tells of its measurements."""

from pipeline.training.damsm.worker import PairReporter
from pipeline.training.diagnostics import LEARNING_FROM
from pipeline.training.loop import Job
from ratgan.metrics.retrieval import RPrecision


def test_retrieval_that_has_not_left_chance_is_told_once_and_not_early(tmp_path, capsys):
    reporter = PairReporter(Job(config={}, run=str(tmp_path), versions={}, dataset=""))

    for n, share in enumerate((0.01, 0.02, 0.015, 0.012)):
        reporter.retrieval(n * LEARNING_FROM // 2, RPrecision(share, candidates=100, images=400))

    printed = capsys.readouterr().out
    assert printed.count("R-precision") == 4
    assert printed.count("warning: ") == 1
    assert f"warning: step {LEARNING_FROM:,}: images do not find their captions" in printed
