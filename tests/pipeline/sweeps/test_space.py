"""What a sweep varies: the grammar, the domains, and names that are checked."""

import numpy as np
import pytest

from pipeline.config import TrainConfig
from pipeline.sweeps.config import check_space, with_values
from pipeline.sweeps.space import (
    Choice,
    Real,
    Whole,
    every_combination,
    parse_domain,
    parse_space,
)

RUN = TrainConfig(total_steps=10)


def test_expressions_are_read_with_their_numbers_words_and_lists():
    assert parse_domain("loguniform(5e-5, 5e-4)", "x") == Real(5e-5, 5e-4, log=True)
    assert parse_domain("quniform(0,1,.3)", "x") == Real(0, pytest.approx(0.9), step=0.3)
    assert parse_domain("randint(1,8)", "x") == Whole(1, 8)
    assert parse_domain("qrandint(8, 32, 8)", "x") == Whole(8, 32, 8)
    assert parse_domain("choice(none, 'a b', true, null, -2, 1.5, [0.0, 0.9])", "x") == Choice(
        ("none", "a b", True, None, -2, 1.5, [0.0, 0.9])
    )


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("__import__('os')", "must start with one of uniform, loguniform"),
        ("uniform(1, 2", r"needs a comma or \) after 2"),
        ("uniform(1, 2) + 3", r"cannot be parsed from ' \+ 3'"),
        ("uniform(1, 2)(3)", "has text after its closing bracket"),
        ("uniform(1e, 2)", "cannot be parsed from '1e, 2"),
        ("uniform(a, b)", r"must be uniform\(LOW, HIGH\)"),
        ("uniform(1, 2, 3)", r"must be uniform\(LOW, HIGH\)"),
        ("uniform(2, 1)", "must have LOW below HIGH"),
        ("loguniform(0, 1)", "must have LOW above 0, for example 1e-5"),
        ("quniform(0, 1, 2)", "must have 0 < STEP <= HIGH - LOW"),
        ("randint(1.5, 3)", "must have whole numbers"),
        ("choice(1)", "must choose between two values or more"),
        ("choice(,)", "needs a value before ,"),
        ("choice(1, [2)", "needs a comma or ]"),
        ("", "must start with one of"),
    ],
)
def test_what_is_no_expression_is_refused_with_its_place(expression, message):
    with pytest.raises(ValueError, match=message):
        parse_domain(expression, "optim.generator_lr")


def test_a_later_entry_for_an_option_replaces_an_earlier_and_dashes_are_underscores():
    space = parse_space(["optim.generator_lr=uniform(1,2)", "optim.generator-lr = uniform(3, 4)"])

    assert space == {"optim.generator_lr": Real(3, 4)}
    with pytest.raises(ValueError, match=r"must be OPTION=EXPRESSION, for example optim\.gen"):
        parse_space(["optim.generator_lr"])


@pytest.mark.parametrize(
    "expression",
    [
        *("uniform(-1,2)", "loguniform(1e-5,1e-2)", "quniform(0,1,0.3)"),
        *("randint(2,5)", "qrandint(2,9,3)", "choice(1,5,9)", "choice(a,b)"),
    ],
)
def test_values_drawn_and_changed_stay_in_their_domain(expression):
    domain, rng = parse_domain(expression, "x"), np.random.default_rng(0)

    drawn = [domain.sample(rng) for _ in range(200)]
    value, changed = drawn[0], []
    for _ in range(200):
        changed.append(value := domain.perturb(value, rng))

    for each in drawn + changed:
        if isinstance(domain, Choice):
            assert each in domain.values
        else:
            low, high = domain.extremes()
            assert low <= each <= high
            if domain.step:
                steps = (each - low) / domain.step
                assert steps == pytest.approx(round(steps))
    assert len(set(drawn)) > 1
    assert len(set(changed)) > 1


def test_logarithmic_values_are_even_over_decades():
    domain, rng = Real(1e-4, 1.0, log=True), np.random.default_rng(0)

    drawn = np.array([domain.sample(rng) for _ in range(4000)])

    counts = np.histogram(np.log10(drawn), bins=4, range=(-4, 0))[0]
    assert counts.min() > 900


def test_all_combinations_are_of_choices_and_the_last_changes_fastest():
    space = parse_space(["model.recurrent=choice(true,false)", "seed=choice(1,2)"])

    assert [tuple(each.values()) for each in every_combination(space)] == [
        (True, 1),
        (True, 2),
        (False, 1),
        (False, 2),
    ]
    with pytest.raises(ValueError, match=r"seed must be choice"):
        every_combination(parse_space(["seed=randint(1,2)"]))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("optim.generator_rl=uniform(1e-5,1e-4)", "Perhaps you meant optim.generator_lr"),
        ("generator_lr=uniform(1e-5,1e-4)", r"Perhaps you meant optim.generator_lr\."),
        ("colour=choice(1,2)", "All options: python jobs/train_coco.py --help"),
        ("optim.generator_lr=uniform(-1,1)", "optim.generator_lr=-1.0: Input should be greater"),
        ("model.attention=choice(none,much)", "model.attention='much'"),
        ("name=choice(a,b)", "name cannot be varied: trials are named after the sweep"),
        ("total_steps=choice(1,2)", "cannot be varied: a comparison needs trials of equal length"),
    ],
)
def test_options_that_are_not_there_or_refuse_their_values_are_named(entry, message):
    with pytest.raises(ValueError, match=message):
        check_space(RUN, parse_space([entry]))


def test_values_go_where_their_option_is_and_leave_the_rest():
    changed = with_values(RUN, {"optim.generator_lr": 0.5, "model.attention": "none", "seed": 3})

    assert (changed.optim.generator_lr, changed.model.attention, changed.seed) == (0.5, "none", 3)
    assert (
        with_values(
            changed, {"optim.generator_lr": 1e-4, "seed": 100, "model.attention": "soft_threshold"}
        )
        == RUN
    )
