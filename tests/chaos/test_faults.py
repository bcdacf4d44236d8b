"""The list of faults is whole, and each test that it names is there and where it says."""

import ast
from pathlib import Path

import pytest

from tests.chaos.faults import EVERY_CHANGE, FAULTS, Fault, table

ROOT = Path(__file__).parents[2]


def marks(nodeid: str) -> list[str]:
    """Return the decorators of a test and the marks of its file; fails if it is not there."""
    file, _, name = nodeid.partition("::")
    tree = ast.parse((ROOT / file).read_text())
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            found = [ast.unparse(each) for each in node.decorator_list]
            break
    else:
        raise AssertionError(f"{nodeid} is not there")
    return found + [
        ast.unparse(node)
        for node in tree.body
        if isinstance(node, ast.Assign) and "pytestmark" in ast.unparse(node.targets[0])
    ]


def is_thorough(nodeid: str) -> bool:
    return any("mark.thorough" in mark and "parametrize" not in mark for mark in marks(nodeid))


def test_all_faults_are_listed():
    assert [fault.number for fault in FAULTS] == list(range(1, 27))


@pytest.mark.parametrize("fault", FAULTS, ids=[f"{fault.number}" for fault in FAULTS])
def test_each_has_tests_that_are_there_and_run_when_it_says(fault: Fault):
    assert fault.tests or fault.thorough
    for test in fault.tests:
        assert not is_thorough(test), f"{test} is run by make chaos only"
    for test in fault.thorough:
        assert is_thorough(test), f"{test} is run by make test-all too"
    if fault.number in EVERY_CHANGE:
        assert fault.tests, "nothing of it is run before a change lands"


def test_the_documentation_has_the_table():
    assert table() in (ROOT / "docs" / "faults.md").read_text()
