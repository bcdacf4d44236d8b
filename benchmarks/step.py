"""What a training step costs, ours against the published order of operations.

    python benchmarks/step.py                  counts, CPU time, float64 error
    python benchmarks/step.py --quick          the same in under a minute
    python benchmarks/step.py --device cuda    images/s, share of the roofline, memory

The last line is JSON. On a GPU it needs torch, numpy, pillow, safetensors and this repository,
nothing installed; results go to benchmarks/results/.
"""

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.comparison import compare
from benchmarks.throughput import BATCH_SIZES, write_throughput


def main() -> None:
    """Run what the flags ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds of timing")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--batch-sizes", type=int, nargs="+", default=list(BATCH_SIZES), help="with --device cuda"
    )
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    if options.device == "cuda":
        result = write_throughput(
            options.results,
            device="cuda",
            batch_sizes=options.batch_sizes,
            steps=5 if options.quick else 20,
        )
    else:
        table, result = compare(rounds=3 if options.quick else 9)
        print(table)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
