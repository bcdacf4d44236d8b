"""Faults that a random schedule draws from: each starts a run, strikes, and says what came."""

import random
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.chaos import invariants
from tests.chaos.commands import KILLED, Command, step_reached, step_resumed
from tests.chaos.world import EVERY, STEPS, World

STOPPED = 128 + signal.SIGTERM
POINTS = (
    *("checkpoint.before_write", "checkpoint.before_marker", "checkpoint.after_marker"),
    *("checkpoint.before_letting_go", "storage.before_fsync", "storage.before_rename"),
)
FILES = (
    *("model/model.safetensors", "generator.safetensors", "discriminator_optimizer.safetensors"),
    *("state.json", "files.json", "COMMITTED"),
)
RECORDS = ("run.json", "spool/sent.json", "spool/start.json", "samples/samples-00000012.png")


@dataclass
class Round:
    """One fault, as it was drawn.

    Attributes:
        number: In the schedule, from 1.
        kind: Name of a function in `KINDS`.
        workers: Of the run, if this round begins one.
        dice: For what else is to be decided, so that rounds do not depend on each other.
    """

    number: int
    kind: str
    workers: int
    dice: random.Random

    def step(self, after: int) -> int:
        """Draw a step of the run that is still to come."""
        return self.dice.randint(min(after + 1, STEPS - 1), STEPS - 1)

    def saved_step(self, after: int) -> int:
        """Draw a step that is saved and still to come."""
        return EVERY * self.dice.randint(min(after // EVERY + 1, STEPS // EVERY), STEPS // EVERY)


@dataclass
class Outcome:
    """What came of a round.

    Attributes:
        what: In a line.
        lost: Steps that were done again.
        recovered_s: Until the next step was done, by a new start or without one.
        wrong: What should not be.
    """

    what: str
    lost: int | None = None
    recovered_s: float | None = None
    wrong: tuple[str, ...] = ()


class Episode:
    """A run, from its first start to its end.

    Args:
        world: It is in.
        output: Folder for it.
        workers: That train; 0: in the command itself.

    Attributes:
        step: That the next start goes on from.
        reached: Step that the last start did.
        resumed: Step that it went on from.
        first_step_s: How long it took to do a step; None if it never did.
        finished: Whether all is done.
    """

    def __init__(self, world: World, output: Path, workers: int) -> None:
        self.world, self.output, self.workers = world, output, workers
        self.run = output / "run"
        self.step = self.reached = self.resumed = 0
        self.first_step_s: float | None = None
        self.finished = False

    def start(self, fault: str = "") -> Command:
        return self.world.start(self.output, self.workers, fault)

    def ended(self, command: Command, outcome: Outcome) -> Outcome:
        """Note how far a start came, and look at what it left."""
        said, first = command.said, command.when(r"step [\d,]+/")
        self.resumed = step_resumed(said)
        self.reached = max(step_reached(command), self.resumed)
        self.first_step_s = first - command.started if first else None
        # The latter where the start before was killed when all was done.
        self.finished = "finished. model" in said or "run run is finished" in said
        self.step = max(self.saved(), default=0)
        if "Traceback" in said:
            outcome.wrong += ("a traceback:\n" + said[said.index("Traceback") :][:2000],)
        outcome.wrong += tuple(invariants.incomplete(self.run))
        return outcome

    def saved(self) -> list[int]:
        """List the steps of committed checkpoints."""
        found = (self.run / "checkpoints").glob("step-*/COMMITTED")
        return sorted(int(path.parent.name.removeprefix("step-")) for path in found)

    def at(self, command: Command, step: int) -> bool:
        """Wait until a start has done a step, or has ended before."""

        def there() -> bool:
            return step_reached(command) >= step or command.process.poll() is not None

        command.wait_for(there)
        return command.process.poll() is None

    def restarted_s(self, command: Command) -> float | None:
        """Return how long a start took to do without a lost worker."""
        lost = command.when("Restarting from the last checkpoint")
        again = command.when(r"step [\d,]+/", after=lost) if lost else None
        return None if lost is None or again is None else again - lost


def kill_at_step(episode: Episode, this: Round) -> Outcome:
    step, rank = this.step(episode.step), this.dice.randrange(max(1, episode.workers))
    flag = episode.output / f"struck-{this.number}"
    bounds = f"step={step},rank={rank},once={flag}"
    with episode.start(f"kill@worker.step:{bounds}") as command:
        status = command.wait()
        return episode.ended(command, _killed(episode, command, status, f"before step {step}"))


def kill_in_save(episode: Episode, this: Round) -> Outcome:
    point, step = this.dice.choice(POINTS), this.saved_step(episode.step)
    where = f"step={step}"
    if point.startswith("storage"):
        where = f"file=step-{step:08d}/{this.dice.choice(FILES)}"
    elif point.endswith("before_write"):
        where = f"step={step},file={this.dice.choice(FILES[:3])}"
    flag = episode.output / f"struck-{this.number}"
    with episode.start(f"kill@{point}:{where},once={flag}") as command:
        status = command.wait()
        what = f"at {point} of step {step}"
        return episode.ended(command, _killed(episode, command, status, what))


def kill_in_record(episode: Episode, this: Round) -> Outcome:
    point = this.dice.choice(("storage.before_fsync", "storage.before_rename"))
    file = this.dice.choice(RECORDS)
    flag = episode.output / f"struck-{this.number}"
    with episode.start(f"kill@{point}:file=run/{file},once={flag}") as command:
        status = command.wait()
        return episode.ended(command, _killed(episode, command, status, f"writing {file}"))


def kill_driver(episode: Episode, this: Round) -> Outcome:
    step, later_s = this.step(episode.step), this.dice.uniform(0, 0.3)
    with episode.start() as command:
        if episode.at(command, step):
            time.sleep(later_s)
            command.kill()
        status = command.wait()
        return episode.ended(command, _killed(episode, command, status, f"at step {step}"))


def kill_at_start(episode: Episode, this: Round) -> Outcome:
    seconds = this.dice.uniform(0.5, 12)
    with episode.start() as command:
        time.sleep(seconds)
        command.kill()
        status = command.wait()
        return episode.ended(command, _killed(episode, command, status, f"after {seconds:.1f} s"))


def terminate(episode: Episode, this: Round) -> Outcome:
    step = this.step(episode.step)
    with episode.start() as command:
        asked = 0
        if episode.at(command, step):
            command.kill(signal.SIGTERM, alone=True)
            asked = step_reached(command)
        status = command.wait()
        outcome = episode.ended(command, Outcome(f"SIGTERM at step {asked}, status {status}"))
    if status == STOPPED and episode.reached > episode.step:
        outcome.wrong += (f"step {episode.reached} was done and is in no checkpoint",)
    if status not in (STOPPED, 0):
        outcome.wrong += (f"status {status}:\n{command.said}",)
    outcome.lost = 0
    return outcome


def full_disk(episode: Episode, this: Round) -> Outcome:
    step, file = this.saved_step(episode.step), this.dice.choice(FILES)
    flag = episode.output / f"struck-{this.number}"
    fault = f"full@storage.before_fsync:file=step-{step:08d}/{file},once={flag}"
    with episode.start(fault) as command:
        status = command.wait()
        what = f"no room for {file} of step {step}, status {status}"
        outcome = episode.ended(command, Outcome(what))
    if flag.exists() and "no room for the checkpoint" not in command.said:
        outcome.wrong += (f"nobody said so:\n{command.said}",)
    if status != (2 if flag.exists() and step == STEPS else 0):
        outcome.wrong += (f"status {status}:\n{command.said}",)
    return outcome


def rot(episode: Episode, this: Round) -> Outcome:
    saved = episode.saved()
    if len(saved) < 2:  # with one, a damaged checkpoint is all that was done
        return kill_driver(episode, this)
    folder = episode.run / "checkpoints" / f"step-{saved[-1]:08d}"
    path = this.dice.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    content = bytearray(path.read_bytes())
    content[this.dice.randrange(len(content))] ^= 1 << this.dice.randrange(8)
    path.write_bytes(content)
    with episode.start() as command:
        status = command.wait()
        what = f"a bit of {path.name} of step {saved[-1]}, status {status}"
        outcome = episode.ended(command, Outcome(what, lost=saved[-1] - saved[-2]))
    if "is damaged" not in command.said or step_resumed(command.said) != saved[-2]:
        outcome.wrong += (f"it was not found:\n{command.said}",)
    for aside in (episode.run / "checkpoints").glob("damaged-*"):
        shutil.rmtree(aside)
    return outcome


def torn_records(episode: Episode, this: Round) -> Outcome:
    step = this.step(episode.step)
    with episode.start() as command:
        if episode.at(command, step):
            command.kill()
        status = command.wait()
        outcome = _killed(episode, command, status, f"at step {step}")
        outcome = episode.ended(command, outcome)
    torn = list((episode.run / "ray").rglob("*.json"))
    for file in torn:
        file.write_bytes(file.read_bytes()[:40])
    outcome.what += f", {len(torn)} records of Ray torn"
    return outcome


def twins(episode: Episode, this: Round) -> Outcome:
    with episode.start() as first, episode.start() as second:
        ended = {command.wait(): command for command in (first, second)}
        winner = ended.get(0, first)
        outcome = episode.ended(winner, Outcome(f"statuses {sorted(ended)}"))
    # One that comes when the other is done finds it finished: that is no error.
    refused = 2 in ended and "is in use already" in ended[2].said
    if 0 not in ended or not (refused or len(ended) == 1):
        outcome.wrong += (f"{first.said}\n--- and ---\n{second.said}",)
    return outcome


def tracker(kind: str) -> Callable[[Episode, Round], Outcome]:
    """Make the fault of a tracker that behaves so during a start, and well after."""

    def strike(episode: Episode, this: Round) -> Outcome:
        proxy = episode.world.proxy
        seconds = this.dice.uniform(2, 20)

        def be_well_again() -> None:
            proxy.clear()
            proxy.listen()

        lock = Locked(episode.world.database, seconds)
        well_again = threading.Timer(seconds, be_well_again)
        if kind == "refused":
            proxy.refuse()
        elif kind != "locked":
            proxy.inject(kind, times=1_000_000)
        try:
            with episode.start() as command:
                command.wait_for("run run: ")
                (lock if kind == "locked" else well_again).start()
                status = command.wait()
                outcome = episode.ended(command, Outcome(f"for {seconds:.0f} s, status {status}"))
        finally:
            be_well_again()
            if lock.is_alive():
                lock.join()
        if status:
            outcome.wrong += (f"status {status}:\n{command.said}",)
        return outcome

    return strike


class Locked(threading.Thread):
    """Holds a database of SQLite for itself for a while."""

    def __init__(self, database: Path, seconds: float) -> None:
        super().__init__(daemon=True)
        self.database, self.seconds = database, seconds

    def run(self) -> None:
        connection = sqlite3.connect(self.database, timeout=60, isolation_level=None)
        try:
            connection.execute("BEGIN EXCLUSIVE")
            time.sleep(self.seconds)
            connection.execute("ROLLBACK")
        finally:
            connection.close()


def end_in_peace(episode: Episode, this: Round) -> Outcome:
    with episode.start() as command:
        status = command.wait()
        outcome = episode.ended(command, Outcome(f"status {status}"))
    if status:
        outcome.wrong += (f"status {status}:\n{command.said}",)
    return outcome


def _killed(episode: Episode, command: Command, status: int, where: str) -> Outcome:
    """Tell a killed command from one that did without the worker it lost, or got by."""
    if status == 0:
        restarted_s = episode.restarted_s(command)
        if restarted_s is None:
            return Outcome(f"{where}: finished before")
        reached = [step_reached_before(command), step_resumed(command.said)]
        return Outcome(f"{where}: worker replaced", reached[0] - reached[1], restarted_s)
    wrong = () if status == KILLED else (f"status {status}:\n{command.said}",)
    return Outcome(f"{where}: killed", wrong=wrong)


def step_reached_before(command: Command) -> int:
    """Return the last step a training told of before it lost a worker."""
    lost = command.when("Restarting from the last checkpoint") or 0
    before = [line for at, line in command.lines if at < lost and "/24  images" in line]
    return int(before[-1].partition("step ")[2].partition("/")[0]) if before else 0


KILLS: dict[str, Callable[[Episode, Round], Outcome]] = {
    "1 worker killed": kill_at_step,
    "2 killed in a save": kill_in_save,
    "2 killed in a record": kill_in_record,
    "3 driver killed": kill_driver,
    "3 killed at the start": kill_at_start,
}
KINDS = {
    **KILLS,
    "4 asked to stop": terminate,
    "7 disk full": full_disk,
    "12 MLflow refused": tracker("refused"),
    "12 MLflow hangs": tracker("hang"),
    "12 MLflow answers 500": tracker("500"),
    "12 MLflow answers 429": tracker("429"),
    "13 database locked": tracker("locked"),
    "17 bit rot": rot,
    "18 Ray's records torn": torn_records,
    "19 started twice": twins,
}
