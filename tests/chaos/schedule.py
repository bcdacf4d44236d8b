"""Faults at random, from a seed: what a run bears one by one, it must bear in any order.

    python -m tests.chaos.schedule --seed 7 --faults 20
    python -m tests.chaos.schedule --minutes 360    kills only, on and on: a soak

A small run is started again and again, each time into another fault, until it is finished; then
all invariants are checked, and the next run begins. The same seed draws the same faults. Each
checkpoint that is visible is looked through after every fault.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.chaos.strikes import KILLS, KINDS, Episode, Outcome, Round, end_in_peace
from tests.chaos.world import World


def draw(seed: int, kinds: list[str], workers: tuple[int, ...]) -> Iterator[Round]:
    """Draw rounds without end; the same ones from the same seed."""
    dice, number = random.Random(seed), 0
    while True:
        number += 1
        kind, crew = dice.choice(kinds), dice.choice(workers)
        yield Round(number, kind, crew, random.Random(f"{seed} {number}"))


class Report:
    """All that came of a schedule."""

    def __init__(self) -> None:
        self.rows: list[tuple[Round, int, Outcome]] = []
        self.runs = self.equal = 0
        self.wrong: list[str] = []

    def table(self) -> str:
        """Return what happened, in Markdown."""
        lines = [
            "| | fault | workers | what happened | steps lost | recovered in |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for this, workers, outcome in self.rows:
            lost = "" if outcome.lost is None else outcome.lost
            seconds = "" if outcome.recovered_s is None else f"{outcome.recovered_s:.0f} s"
            what = outcome.what + " **WRONG**" * bool(outcome.wrong)
            kind = f"{this.number} | {this.kind} | {workers}"
            lines.append(f"| {kind} | {what} | {lost} | {seconds} |")
        told = f"{self.runs} runs came to their end, {self.equal} of them as if nothing had been"
        return "\n".join([*lines, "", told, *(f"WRONG: {line}" for line in self.wrong)])


def play(
    world: World, rounds: Iterator[Round], more: Callable[[int], bool], tell: Callable[[str], None]
) -> Report:
    """Play rounds for as long as there are to be more, and end the last run in peace.

    Args:
        world: In which to.
        rounds: Drawn.
        more: Given how many were played.
        tell: Takes a line after each.
    """
    report = Report()
    episode: Episode | None = None
    died: Outcome | None = None  # a round whose start ended without the run being finished
    while more(len(report.rows)) or episode is not None:
        peace = not more(len(report.rows))
        this = Round(0, "in peace", 0, random.Random(0)) if peace else next(rounds)
        if episode is None:
            world.reference(this.workers)
            episode = Episode(world, world.folder / f"run-{this.number}", this.workers)
            episode.output.mkdir()
        reached = episode.reached
        try:
            outcome = (end_in_peace if peace else KINDS[this.kind])(episode, this)
        except AssertionError as error:
            outcome = Outcome("it hung", wrong=(str(error),))
        if died is not None and episode.first_step_s is not None:
            died.recovered_s = episode.first_step_s
            died.lost = max(0, reached - episode.resumed)
            died = None
        if not episode.finished and outcome.recovered_s is None:
            died = outcome
        if not peace:
            report.rows.append((this, episode.workers, outcome))
        report.wrong += [f"round {this.number}, {this.kind}: {line}" for line in outcome.wrong]
        tell(f"{this.number:4}  {this.kind:22} {episode.workers} workers  {outcome.what}")
        for line in outcome.wrong:
            tell(f"      WRONG: {line}")
        if episode.finished or peace or outcome.what == "it hung":
            problems = world.broken(episode.output, episode.workers)
            report.runs += 1
            report.equal += not problems
            report.wrong += [f"{episode.output}: {line}" for line in problems]
            tell(f"      {episode.output.name}: {'; '.join(problems) or 'as if nothing had been'}")
            if not problems:
                shutil.rmtree(episode.output)
            episode = died = None
    return report


def main(flags: list[str] | None = None) -> int:
    """Draw and play as the flags say; 1 if anything was not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--faults", type=int, default=20, help="how many")
    parser.add_argument("--minutes", type=float, help="kills only, for so long")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 0, 1, 2])
    parser.add_argument("--kinds", nargs="+", choices=[*KINDS], help="draw from these only")
    parser.add_argument("--folder", type=Path, help="work there, and leave it")
    options = parser.parse_args(flags)
    kinds = options.kinds or [*(KILLS if options.minutes else KINDS)]
    end = time.monotonic() + 60 * (options.minutes or 0)

    def tell(line: str) -> None:
        sys.stdout.write(f"{time.strftime('%H:%M:%S')} {line}\n")
        sys.stdout.flush()

    def more(played: int) -> bool:
        return time.monotonic() < end if options.minutes else played < options.faults

    tell(f"seed {options.seed}: the same faults again with --seed {options.seed}")
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        with World(folder.resolve()) as world:
            rounds = draw(options.seed, kinds, tuple(options.workers))
            report = play(world, rounds, more, tell)
    sys.stdout.write(f"\nrandom schedule, seed {options.seed}\n\n{report.table()}\n")
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
