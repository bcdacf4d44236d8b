"""No pickle is loaded: refused environments, no such call in the code, none met in a training."""

import ast
import pickle
import re
import sys
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.common.environment import VARIABLE, refuse_unsafe_loading
from pipeline.config import TrainConfig
from pipeline.training.loop import begin
from pipeline.training.train import train

ROOT = Path(__file__).parents[3]
ALLOWED = (
    "ratgan/weights/restricted_pickle.py"  # the one place that reads pickles, by an allow-list
)


@pytest.mark.parametrize("value", ["1", "true", "Y"])
def test_a_start_is_refused_where_torch_would_unpickle_anything(value, monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, value)
    config = TrainConfig(total_steps=1, output=str(tmp_path / "runs"))

    for start in (lambda: train(config), lambda: begin({}, TrainConfig)):
        with pytest.raises(ValueError, match=rf"{VARIABLE}={value} makes torch\.load.*unset"):
            start()
    assert not (tmp_path / "runs").exists()


def test_every_command_is_refused_there(monkeypatch, capsys):
    monkeypatch.setenv(VARIABLE, "1")
    monkeypatch.setattr(sys, "argv", ["job", "--total-steps=1"])

    with pytest.raises(SystemExit) as exit_:
        main.run(lambda: pytest.fail("it is imported"), TrainConfig)

    assert exit_.value.code == 2
    assert f"error: {VARIABLE}=1 makes torch.load run the code" in capsys.readouterr().err
    jobs = sorted((ROOT / "jobs").glob("*.py"))
    assert len(jobs) >= 11
    for job in jobs:
        assert re.search(r"from pipeline\.cli\.main import (Work, )?run\n", job.read_text()), (
            f"{job.name} starts otherwise"
        )


@pytest.mark.parametrize("value", [None, "", "0"])
def test_a_usual_environment_is_not(value, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)

    refuse_unsafe_loading()


READERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
# Calls by their last two names, and what they must say to be harmless; None: nothing would do.
CALLS = {
    "torch.load": "weights_only=True",
    "np.load": "allow_pickle=False",
    "numpy.load": "allow_pickle=False",
    **dict.fromkeys(["hub.load", "jit.load", "yaml.load", "yaml.full_load", "yaml.unsafe_load"]),
}
ANYWHERE = {"read_pickle", "Unpickler"}  # whatever they are called on
HUB = "from_pretrained"  # of transformers: the code beside the weights is run, or asked about
ALONE = {"eval", "exec"}  # `network.eval()` is another one


def unsafe(source: str) -> list[str]:
    """Name each line of a program that could run the code in a file it reads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        bad = False
        if isinstance(node, ast.Import):
            bad = any(alias.name.split(".")[0] in READERS for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".")[0]
            loads = any(alias.name == "load" for alias in node.names)
            bad = module in READERS or (loads and module in ("torch", "numpy", "yaml"))
        elif isinstance(node, ast.Call):
            names = ast.unparse(node.func).split(".")
            said = {ast.unparse(keyword) for keyword in node.keywords}
            call = ".".join(names[-2:])
            bad = names[-1] in ANYWHERE or (len(names) == 1 and names[0] in ALONE)
            bad |= call in CALLS and CALLS[call] not in said
            bad |= names[-1] == HUB and "trust_remote_code=False" not in said
        if bad:
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def test_no_code_outside_of_one_file_reads_pickles():
    files = [
        file
        for folder in ("ratgan", "pipeline", "jobs", "benchmarks", "cluster")
        for file in sorted((ROOT / folder).rglob("*.py"))
    ]

    found = {
        str(file.relative_to(ROOT)): lines for file in files if (lines := unsafe(file.read_text()))
    }

    assert len(files) > 110
    assert found.keys() == {ALLOWED}, found


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from cloudpickle import loads",
        "from torch import load",
        "torch.load(path)",
        "AutoTokenizer.from_pretrained(path)",
        "kind.from_pretrained(path, trust_remote_code=flag)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "np.load(path)",
        "numpy.load(path, allow_pickle=True)",
        "yaml.load(text, yaml.Loader)",
        "pandas.read_pickle(path)",
        "torch.hub.load(name)",
        "torch.jit.load(path)",
        "eval(text)",
    ],
)
def test_such_a_line_would_be_found(line):
    assert unsafe(f"import os\n{line}") != []
    assert not unsafe("torch.load(p, weights_only=True); yaml.safe_load(t); network.eval()")


READS_ITS_OWN = {"ray"}  # between its processes, which a token guards


@pytest.fixture
def unpicklers():
    """Whose code looks up a class for a pickle, and which."""
    found: set[tuple[str, str]] = set()
    watching = [True]

    def watch(event: str, arguments: tuple) -> None:
        if event != "pickle.find_class" or not watching[0]:
            return
        frame = sys._getframe(1)
        while frame.f_back and frame.f_code.co_filename.endswith("/pickle.py"):
            frame = frame.f_back
        _, _, inside = frame.f_code.co_filename.rpartition("/site-packages/")
        package = inside.partition("/")[0] or frame.f_code.co_filename
        found.add((package, ".".join(map(str, arguments))))

    sys.addaudithook(watch)  # for good: Python has no way to take it back
    yield found
    watching[0] = False


@pytest.mark.rest
@pytest.mark.slow
def test_a_whole_training_unpickles_nothing(shapes, tmp_path, unpicklers):
    from tests.pipeline.training.test_train import config

    train(config(shapes, tmp_path, total_steps=4))
    train(config(shapes, tmp_path, total_steps=6))  # resumed, and its model logged

    others = {each for each in unpicklers if each[0] not in READS_ITS_OWN}
    assert not others
    pickle.loads(pickle.dumps(Path("x")))
    assert any("pathlib" in name for _, name in unpicklers), "it would have been seen"
