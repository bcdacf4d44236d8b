"""All faults, then some at random, then a table of what came of them: `make chaos`.

    python -m tests.chaos                     all of it
    python -m tests.chaos --only 1 3 17       the tests of some faults
    python -m tests.chaos --every-change      what is shown before each change lands
    python -m tests.chaos --seed 7 --faults 40

A test tells what it measured with `record_property`: `steps_lost`, `recovered_s`, `weights_equal`,
`measured` (anything else).
"""

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Sequence

import pytest

from tests.chaos import schedule
from tests.chaos.faults import EVERY_CHANGE, FAULTS, Fault


def faults_of(nodeid: str) -> list[Fault]:
    """Find the faults that a test shows."""
    name = nodeid.partition("[")[0]
    return [fault for fault in FAULTS if name in (*fault.tests, *fault.thorough)]


class Recorder:
    """Keeps to the tests of some faults, and to what they told.

    Args:
        numbers: Of the faults.
        thorough: Whether to run what `make test-all` leaves out.
        others: Whether to run thorough tests of no fault too.
    """

    def __init__(self, numbers: Sequence[int], *, thorough: bool, others: bool) -> None:
        self.numbers, self.thorough, self.others = set(numbers), thorough, others
        self.told: dict[int, dict[str, list[object]]] = defaultdict(lambda: defaultdict(list))
        self.passed: dict[int, int] = defaultdict(int)
        self.not_passed: dict[int, list[str]] = defaultdict(list)
        self.seconds: dict[int, float] = defaultdict(float)

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list) -> None:
        def wanted(item: pytest.Item) -> bool:
            marked = item.get_closest_marker("thorough") is not None
            if marked and not self.thorough:
                return False
            ours = any(fault.number in self.numbers for fault in faults_of(item.nodeid))
            return ours or (marked and self.others)

        config.hook.pytest_deselected(items=[item for item in items if not wanted(item)])
        items[:] = [item for item in items if wanted(item)]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for fault in faults_of(report.nodeid):
            self.seconds[fault.number] += report.duration
            if report.failed or report.skipped:
                why = "failed" if report.failed else "skipped"
                self.not_passed[fault.number].append(f"{why}: {report.nodeid.split('::')[-1]}")
            elif report.when == "call":
                self.passed[fault.number] += 1
                for name, value in report.user_properties:
                    self.told[fault.number][name].append(value)

    def table(self) -> str:
        """Return what came of each fault, in Markdown."""
        lines = [
            "| | fault | brought about by | outcome | steps lost | recovered in | weights equal "
            "| tests | took |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for fault in FAULTS:
            told, number = self.told[fault.number], fault.number
            bad = self.not_passed[number]
            if not (fault.tests or fault.thorough):
                outcome = "**not covered**"
            elif not self.passed[number] and not bad:
                outcome = "not run"
            else:
                measured = "; ".join(map(str, told.get("measured", [])))
                outcome = "; ".join([f"**{each}**" for each in bad] or [fault.expected])
                outcome += f" ({measured})" * bool(measured)
            equal = told.get("weights_equal", [])
            cells = [
                str(number),
                fault.name,
                fault.injected,
                outcome,
                _most(told.get("steps_lost", []), ""),
                _most(told.get("recovered_s", []), " s"),
                f"{sum(map(bool, equal))} of {len(equal)}" if equal else "",
                f"{self.passed[number]}",
                f"{self.seconds[number]:.0f} s",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)


def _most(values: list, unit: str) -> str:
    """Say a number, or the range of several."""
    if not values:
        return ""
    least, most = round(min(values)), round(max(values))
    return f"{least}{unit}" if least == most else f"{least} to {most}{unit}"


def main() -> int:
    """Run what the flags say; the exit status says whether all was as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    numbers = [fault.number for fault in FAULTS]
    parser.add_argument("--only", type=int, nargs="+", choices=numbers, default=numbers)
    parser.add_argument("--every-change", action="store_true", help="the eight, none thorough")
    parser.add_argument("--seed", type=int, help="of the random schedule")
    parser.add_argument("--faults", type=int, default=20, help="how many at random; 0: none")
    options = parser.parse_args()
    every, partial = options.every_change, len(options.only) < len(numbers)
    chosen = EVERY_CHANGE if every else options.only
    recorder = Recorder(chosen, thorough=not every, others=not (every or partial))
    started = time.monotonic()
    status = pytest.main(
        ["-m", "thorough or not thorough", "-q", "--durations=0", "--durations-min=5", "tests"],
        plugins=[recorder],
    )
    minutes = (time.monotonic() - started) / 60
    sys.stdout.write(f"\nfaults one by one, in {minutes:.1f} minutes\n\n{recorder.table()}\n\n")
    if options.faults and not (every or partial):
        seed = [] if options.seed is None else ["--seed", str(options.seed)]
        return schedule.main(["--faults", str(options.faults), *seed]) or int(status)
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
