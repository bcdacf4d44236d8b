"""Which version of a registered model is called the best, and what is said of it."""

from pipeline.tracking.best_version import Quality, choose, qualities


def measured(value: float, protocol: str = "clean", *, lower: bool = True) -> Quality:
    return Quality("eval/fid", value, 8, protocol, lower)


def test_the_best_measure_under_one_protocol_wins_over_what_is_newer():
    best, why = choose({1: [measured(20.0)], 2: [measured(12.5)], 3: [measured(14.0)], 4: []})

    assert best == 2
    assert why == (
        "version 2 has the lowest eval/fid, 12.5, of the 3 measured under protocol clean; "
        "1 not measured under it"
    )


def test_where_more_is_better_the_highest_wins():
    best, why = choose({1: [measured(0.9, lower=False)], 2: [measured(0.5, lower=False)]})

    assert (best, why.partition(",")[0]) == (1, "version 1 has the highest eval/fid")


def test_without_a_measure_the_newest_is_taken_and_said_to_be_no_more_than_that():
    best, why = choose({1: [], 3: [], 2: []})

    assert best == 3
    assert why == "version 3 is the newest; none was measured under a named protocol"


def test_numbers_of_unlike_protocols_are_not_compared():
    under_both = [measured(30.0), measured(1.0, "quick")]
    best, why = choose({1: [measured(40.0)], 2: under_both, 3: [measured(2.0, "other")]})

    assert best == 2
    assert "of the 2 measured under protocol clean; 1 not measured under it" in why
    assert choose({1: [measured(1.0)], 2: [measured(9.0, "quick")]})[0] == 2, "the one used last"


def test_a_measure_comes_back_from_its_tag():
    key, value = measured(12.5).tag()

    assert key == "quality.clean"
    assert qualities({key: value, "git.commit": "c0ffee"}) == [measured(12.5)]


def test_a_best_that_is_within_the_spread_of_the_next_says_so():
    def sure(value: float, reach: float) -> Quality:
        return Quality("eval/fid", value, 8, "clean-1", True, value - reach, value + reach)

    best, why = choose({1: [sure(12.5, 0.5)], 2: [sure(12.1, 0.5)], 3: [sure(20.0, 0.5)]})
    apart = choose({1: [sure(12.5, 0.1)], 2: [sure(12.1, 0.1)]})[1]
    unknown = choose({1: [sure(12.5, 0.5)], 2: [measured(12.1)]})[1]

    assert best == 2
    assert "version 1 (12.5) is not distinguishable from it" in why
    assert "distinguishable" not in apart + unknown
    assert qualities(dict([sure(12.5, 0.5).tag()])) == [sure(12.5, 0.5)]
    assert '"low"' not in measured(1.0).tag()[1], "as earlier versions read it"
