"""What a person is told to run can be pasted, whatever the names in it hold."""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.common.commands import MORE, command, job_command
from pipeline.common.environment import ROOT
from pipeline.data.manifest import read_manifest
from pipeline.ray_cluster.local_cluster import _stop_command
from pipeline.ray_cluster.token_file import exposed
from pipeline.storage.folder import Folder
from pipeline.tracking.tracker import sync_command
from pipeline.training.damsm.pretrain import _use

NASTY = [
    "my runs",
    "a#b",
    "it's",
    'say "no"',
    "$HOME",
    "`id`",
    "a;b",
    "(x)",
    "*",
    "~",
    "ünï",
    "a&b",
]
HEAD = re.compile(r"jobs/\w+\.py|cluster/[\w-]+\.sh|\brm\b|mlflow (models|server|ui)")
# What is put in right after one of these is a word of a command.
BEFORE = re.compile(r"(jobs/\w+\.py|cluster/[\w-]+\.sh|\brm|--[a-z][a-z.-]*)[ =]$")
QUOTED = {"command", "job_command", "quote"}


@pytest.mark.parametrize("word", NASTY)
def test_a_shell_gives_each_word_back(word):
    script = command(sys.executable, "-c", "import sys; print(sys.argv[1:])", word, "--x", word)

    said = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout

    assert ast.literal_eval(said) == [word, "--x", word]


def test_what_the_person_adds_is_left_as_it_is():
    assert job_command("generate", "--model", "a b", MORE) == (
        "python jobs/generate.py --model 'a b' …"
    )


@pytest.mark.parametrize("name", NASTY)
def test_commands_of_messages_are_taken_as_they_are_meant(name, tmp_path):
    folder = Folder(f"{tmp_path}/{name}")
    place = f"{tmp_path}/{name}"
    with pytest.raises(ValueError, match="Prepare one first") as missing:
        read_manifest(folder)
    said = {
        "prepare": (str(missing.value).partition("for example: ")[2], ["--output", place]),
        "sync": (
            sync_command(folder, f"sqlite:///{place}.db"),
            ["--run", place, "--uri", f"sqlite:///{place}.db"],
        ),
        "encoder": (_use(f"{place}/e.safetensors"), ["--encoder-path", f"{place}/e.safetensors"]),
        "stop": (_stop_command(Path(place)), ["--stop", "--folder", place]),
        "token": (exposed(Path(place)).splitlines()[1], ["rm", place]),
    }

    for what, (line, end) in said.items():
        assert shlex.split(line)[-len(end) :] == end, what


def unquoted(tree: ast.AST) -> list[str]:
    """The words of commands in the f-strings of a module that no helper quotes."""
    found = []
    for string in (node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)):
        text = ""
        for part in string.values:
            if isinstance(part, ast.Constant):
                text += str(part.value)
                continue
            value = part.value
            name = getattr(getattr(value, "func", None), "id", None) or getattr(
                getattr(value, "func", None), "attr", None
            )
            if HEAD.search(text) and BEFORE.search(text) and name not in QUOTED:
                found.append(f"{string.lineno}: …{text[-40:]}{{{ast.unparse(value)}}}")
            text += "X"
    return found


def test_every_word_that_is_put_into_a_command_is_quoted():
    here = {
        f"{file.relative_to(ROOT)}:{problem}"
        for package in ("pipeline", "ratgan")
        for file in (ROOT / package).rglob("*.py")
        for problem in unquoted(ast.parse(file.read_text()))
    }

    assert here == set()
    bad = 'f"draw: python jobs/generate.py --model {folder} …"'
    assert unquoted(ast.parse(bad)) == ["1: …draw: python jobs/generate.py --model {folder}"]
