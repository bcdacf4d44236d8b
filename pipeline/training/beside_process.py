"""The child process that evaluates a checkpoint; `beside.py` starts it."""

import json
import os
import signal
import sys

from pipeline.common.parent_process import end_with
from pipeline.common.redaction import redact_process
from pipeline.evaluation.config import EvaluateConfig

LOWEST = 19  # priority: whatever else wants the CPU goes before it


def main() -> None:
    """Evaluate as the argument says."""
    options = json.loads(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this
    end_with(options["parent"])
    os.nice(LOWEST)
    redact_process()
    from pipeline.evaluation.evaluate import evaluate  # takes seconds, in which the parent may end

    evaluate(EvaluateConfig.model_validate(options["config"]))


if __name__ == "__main__":
    main()
