"""What a training step costs, ours against the published order of operations.

    python benchmarks/step.py                  counts, CPU time, float64 error
    python benchmarks/step.py --quick          the same in under a minute

The last line is JSON. `benchmarks/gpu.py` measures a GPU.
"""

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.comparison import compare


def main() -> None:
    """Run what the flags ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds of timing")
    options = parser.parse_args()
    table, result = compare(rounds=3 if options.quick else 9)
    print(table)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
