"""docs/extending.md: its changes are made in a copy of the tree, and the tests it names are run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
COPIED = ("ratgan", "pipeline", "jobs", "tests", "pyproject.toml")
BLOCK = re.compile(r"^`([^`\n]+)`:\n\n```(python|diff)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^```sh\npython -m pytest (.*)\n```$", re.MULTILINE)
# A server, and a process of 200,000 captions: what they show of all sources, they show in the tree.
LEFT_OUT = (
    "tests/pipeline/preparation/sources/test_all.py::test_what_is_in_a_bucket_is_listed_and_read_as_from_a_disk",
    "tests/pipeline/preparation/sources/test_all.py::test_a_listing_of_many_captions_stays_small_in_memory",
)


def change(tree: Path, file: str, kind: str, block: str) -> None:
    """Make a change of the page: a new file, or new lines in an old one."""
    path = tree / file
    if kind == "python":
        if path.exists():
            raise ValueError(f"the page writes {file} as a new file, and it is there already")
        path.write_text(block)
        return
    text = path.read_text()
    for hunk in re.split(r"^@@\n", block, flags=re.MULTILINE):
        lines = hunk.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] in " -")
        after = "".join(line[1:] for line in lines if line[0] in " +")
        # From the start of a line, or an edit could fit in the middle of another one.
        found = f"\n{text}".count(f"\n{before}")
        if found != 1:
            raise ValueError(f"{file} holds these lines {found} times, not once:\n{before}")
        text = f"\n{text}".replace(f"\n{before}", f"\n{after}")[1:]
    path.write_text(text)


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """The project as it is after all that the page says."""
    tree = tmp_path_factory.mktemp("extended") / "tree"
    for name in COPIED:
        if (ROOT / name).is_dir():
            # With bytecode, which spares a second or two; but what is being written now may be
            # gone before it is copied.
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("*.pyc.*"))
        else:
            shutil.copy2(ROOT / name, tree / name)
    for file, kind, block in BLOCK.findall(PAGE):
        change(tree, file, kind, block)
    return tree


def run(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=tree,
        # Not as a part of the run that this test is of, which may be one of several at a time.
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        | {"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def outcomes(tree) -> tuple[dict[str, list[str]], str]:
    """What became of the tests of each file that the page's commands name, and the screen."""
    report = tree / "report.xml"
    files = [file for command in COMMAND.findall(PAGE) for file in command.split()]
    left_out = [f"--deselect={test}" for test in LEFT_OUT]
    # One process for all: most of the time is spent on imports.
    done = run(tree, "pytest", "-p", "no:cacheprovider", f"--junitxml={report}", *left_out, *files)
    screen = done.stdout + done.stderr
    found: dict[str, list[str]] = {file: [] for file in files}
    if not report.exists():
        return found, screen
    for case in ElementTree.parse(report).iter("testcase"):
        file = case.get("classname", "").replace(".", "/") + ".py"
        found.setdefault(file, []).append(", ".join(each.tag for each in case) or "passed")
    return found, screen


@pytest.mark.rest
@pytest.mark.slow  # ten seconds of imports: the process is a new one
@pytest.mark.parametrize(
    "title",
    ["A source of originals", "A text encoder", "A metric", "Another model"],
    ids=lambda t: t.split()[-1],
)
def test_what_the_page_adds_passes_its_own_tests_and_those_of_the_house(title, outcomes):
    found, screen = outcomes
    section = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]

    (command,) = COMMAND.findall(section)

    own = {file for file, kind, _ in BLOCK.findall(section) if kind == "python"}
    assert len(own & set(command.split())) == 1
    for file in command.split():
        assert found[file], f"no test of {file} was run:\n{screen}"
        assert set(found[file]) == {"passed"}, screen


def test_what_the_page_adds_is_written_as_the_house_writes(tree):
    files = sorted({file for file, _, _ in BLOCK.findall(PAGE)})

    checks = [run(tree, "ruff", *how, *files) for how in (["check"], ["format", "--check"])]

    assert [done.returncode for done in checks] == [0, 0], [done.stdout for done in checks]


def test_every_block_of_code_on_the_page_is_tried():
    blocks = re.findall(r"^```\w+$", PAGE, re.MULTILINE)
    files = re.findall(r"^```(?:python|diff)$", PAGE, re.MULTILINE)

    assert len(BLOCK.findall(PAGE)) == len(files) == 16
    assert len(COMMAND.findall(PAGE)) == len(blocks) - len(files) == 4


def test_every_file_the_page_speaks_of_is_there_and_holds_what_it_says(tree):
    prose = " ".join(re.sub(r"^```.*?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL).split())
    known = {str(path.relative_to(tree)) for path in tree.rglob("*.py")}
    files = {file for file in re.findall(r"`([\w/]+\.py)`", prose) if "NAME" not in file}
    said = re.findall(r"`([\w.]+)`(?:, [^`]*)? in `([\w/]+\.py)`", prose)

    # A path is one from the root; a bare name, of whichever folder.
    places = {f: [f] if f in known else [k for k in known if k.endswith(f"/{f}")] for f in files}

    assert {file: found for file, found in places.items() if len(found) != 1} == {}
    for name, file in said:
        text = (tree / places[file][0]).read_text()
        assert re.search(rf"\b{name.split('.')[-1]}\b", text), f"{file} has no {name}"
    assert (len(files), len(said)) >= (20, 10)


def test_an_edit_of_lines_that_are_no_longer_there_is_refused(tmp_path):
    (tmp_path / "a.py").write_text("one = 1\ntwo = 2\n")

    change(tmp_path, "a.py", "diff", " one = 1\n+more = 3\n")

    assert (tmp_path / "a.py").read_text() == "one = 1\nmore = 3\ntwo = 2\n"
    with pytest.raises(ValueError, match=r"a\.py holds these lines 0 times, not once:\ne = 1"):
        change(tmp_path, "a.py", "diff", " e = 1\n+more = 3\n")
    with pytest.raises(ValueError, match=r"a\.py as a new file, and it is there already"):
        change(tmp_path, "a.py", "python", "")
