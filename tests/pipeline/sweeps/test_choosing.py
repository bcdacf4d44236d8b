"""Which values trials get and which of them go on, before and after a kill."""

import math
from types import SimpleNamespace

import optuna
import pytest

from pipeline.sweeps.schedulers import PROGRESS, SCORE, Halving, Population, progress
from pipeline.sweeps.search import AtRandom, Grid, Optuna
from pipeline.sweeps.space import parse_space
from pipeline.sweeps.study_folder import TrialRecord

SPACE = parse_space(
    ["optim.generator_lr=loguniform(1e-5,1e-2)", "optim.betas=choice([0.0,0.9],[0.5,0.999])"]
)


def test_random_values_depend_on_seed_and_number_alone():
    drawn = [AtRandom(SPACE, seed=1).propose(number) for number in range(20)]

    assert [AtRandom(SPACE, seed=1).propose(number) for number in reversed(range(20))][
        ::-1
    ] == drawn
    assert AtRandom(SPACE, seed=2).propose(0) != drawn[0]
    assert len({each["optim.generator_lr"] for each in drawn}) == 20


def test_a_grid_is_every_combination_once():
    grid = Grid(parse_space(["seed=choice(1,2)", "model.recurrent=choice(true,false)"]))

    assert len(grid.combinations) == 4
    assert grid.propose(3) == {"seed": 2, "model.recurrent": False}


def distance(values: dict) -> float:
    return abs(math.log10(values["optim.generator_lr"]) + 3) + values["optim.betas"][0]


def trained(number: int, values: dict) -> TrialRecord:
    return TrialRecord(number, values, "finished", curve=[(10, distance(values))])


def test_optuna_goes_where_it_was_good_and_on_after_a_kill_as_if_there_was_none():
    whole = Optuna(SPACE, seed=0, mode="min")
    done = []
    for number in range(20):
        done.append(trained(number, whole.propose(number)))
        whole.learn(done[-1])

    resumed = Optuna(SPACE, seed=0, mode="min")
    for trial in done:
        resumed.learn(trial)

    assert resumed.propose(20) == whole.propose(20)
    first, last = ([distance(t.values) for t in some] for some in (done[:8], done[12:]))
    assert sum(last) < sum(first)


def test_a_failed_trial_teaches_optuna_nothing():
    search = Optuna(SPACE, seed=0, mode="max")
    failed = TrialRecord(0, search.propose(0), "failed", curve=[(10, 5.0)])

    search.learn(failed)

    assert search.study.get_trials(states=[optuna.trial.TrialState.COMPLETE]) == []


def asha() -> Halving:
    return Halving("max", grace=0.1, reduction=3)


def told(scheduler: Halving, name: str, curve: list[tuple[int, float]], total: int = 100) -> str:
    """Tell a scheduler of a trial's points until it stops it; return what it says last."""
    trial = SimpleNamespace(trial_id=name)
    scheduler.on_trial_add(None, trial)
    said = ""
    for step, score in curve:
        said = scheduler.on_trial_result(
            None, trial, {PROGRESS: progress(step, total), SCORE: score}
        )
        if said == "STOP":
            break
    return said


def rising(to: float) -> list[tuple[int, float]]:
    return [(step, to * step / 100) for step in range(10, 101, 10)]


def test_poor_trials_are_stopped_at_a_rung_and_good_ones_reach_the_end():
    scheduler = asha()

    said = [told(scheduler, str(n), rising(to)) for n, to in enumerate([1, 0.9, 2, 0.5])]

    assert said == ["CONTINUE", "STOP", "CONTINUE", "STOP"]


def test_nothing_is_stopped_at_its_last_step():
    scheduler = asha()
    told(scheduler, "good", [(100, 1.0)])

    assert told(scheduler, "poor", [(100, 0.0)]) == "CONTINUE"
    assert told(scheduler, "late", [(95, 0.0), (100, 0.0)]) == "CONTINUE"


def test_trials_done_before_a_kill_are_compared_with_those_after_it():
    before = TrialRecord(0, {}, "finished", total=100, curve=rising(1))
    fresh, resumed = asha(), asha()

    resumed.remember([before])

    assert told(fresh, "x", rising(0.5)) == "CONTINUE"
    assert told(resumed, "x", rising(0.5)) == "STOP"
    assert told(resumed, "y", rising(1.5)) == "CONTINUE"


def test_a_trial_that_takes_over_weights_keeps_its_number_and_changes_the_others_values_a_little():
    population = Population(SPACE, "max", every=0.1, seed=0)
    poor, good = (
        SimpleNamespace(config={"trial": {"number": number, "values": values}})
        for number, values in enumerate(AtRandom(SPACE, 0).propose(n) for n in range(2))
    )

    (changed, _) = population._get_new_config(poor, good)

    assert changed["trial"]["number"] == 0
    assert changed["trial"]["weights"]["of"] == 1
    assert changed["trial"]["values"].keys() == SPACE.keys()
    assert changed["trial"]["values"] != poor.config["trial"]["values"]


def test_without_optuna_the_search_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)

    with pytest.raises(
        ValueError, match=r"search=optuna needs the package optuna.*--search random"
    ):
        Optuna(SPACE, 0, "max")
