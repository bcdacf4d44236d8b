"""Command lines: presets, flags, and what bad ones get."""

import ast
import contextlib
import errno
import io
import os
import re
import runpy
import shlex
import signal
import sys
from pathlib import Path

import pytest

from pipeline.cli.main import PRESETS, difference, parse, run
from pipeline.cli.quickstart_config import QuickstartConfig
from pipeline.common.console import DryRunReport
from pipeline.common.errors import root_cause
from pipeline.common.settings import Settings
from pipeline.config import TrainConfig, flatten, refuse_changes
from pipeline.preparation.config import PrepareConfig
from pipeline.preparation.recognise import AutoConfig
from pipeline.preparation.sources.coco import CocoSource
from pipeline.sweeps.config import AblateConfig, SweepConfig
from pipeline.training.damsm.config import PretrainConfig
from tests.screen import own

CONFIG_TYPES = {
    "ablate": AblateConfig,
    "damsm": PretrainConfig,
    "quickstart": QuickstartConfig,
    "sweep": SweepConfig,
}


def test_every_preset_is_accepted_and_says_its_source_and_command():
    seen = 0
    for path in sorted(PRESETS.glob("*.yaml")):
        config_type = CONFIG_TYPES.get(path.stem.split("_")[0], TrainConfig)
        assert parse(config_type, [], path.stem)
        header = [line for line in path.read_text().splitlines() if line.startswith("#")]
        assert any("arxiv.org/abs/2204.10482" in line for line in header), path.name
        assert any(line.startswith("# Run: python jobs/") for line in header), path.name
        seen += 1
    assert seen == 10


class Empty(Settings):
    """Nothing to choose."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_job_in_order_with_its_status(number, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["job"])
    ended = []

    def job(config: Empty) -> None:
        try:
            os.kill(os.getpid(), number)
        finally:
            ended.append("in order")
            if number == signal.SIGHUP:  # a terminal that closes sends several
                os.kill(os.getpid(), number)
                ended.append("and in peace")

    before = signal.signal(number, signal.SIG_DFL)  # a Ray of an earlier test took it over
    try:
        with pytest.raises(SystemExit) as end:
            run(lambda: (job, None), Empty)
    finally:
        signal.signal(number, before)

    assert end.value.code == 128 + number
    assert ended == ["in order", "and in peace"][: 1 + (number == signal.SIGHUP)]


def test_a_job_under_nohup_does_not_notice_that_the_terminal_is_closed(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    monkeypatch.setattr(sys, "argv", ["job"])
    try:
        run(lambda: (lambda config: os.kill(os.getpid(), signal.SIGHUP), None), Empty)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


class Gone(io.StringIO):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, text: str) -> int:
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize(
    "flags", [["--print-config"], ["--dry-run"], ["--help"]], ids=lambda flags: flags[0]
)
def test_a_command_that_only_prints_ends_quietly_when_its_reader_has_left(
    flags, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "argv", ["job", *flags])
    monkeypatch.setattr(sys, "stdout", Gone(errno.EPIPE))

    ends = pytest.raises(SystemExit) if flags == ["--help"] else contextlib.nullcontext()
    with ends as end:
        run(lambda: (lambda config: None, lambda config: DryRunReport().end()), Empty)

    assert end is None or not end.value.code
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("flags", [["--print-config"], ["--dry-run"]], ids=lambda flags: flags[0])
def test_a_command_that_only_prints_fails_when_the_disk_is_full(flags, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["job", *flags])
    monkeypatch.setattr(sys, "stdout", Gone(errno.ENOSPC))

    with pytest.raises(SystemExit) as end:
        run(lambda: (lambda config: None, lambda config: DryRunReport().end()), Empty)

    assert end.value.code == 2
    assert "error: standard output takes no more lines ([Errno 28]" in capsys.readouterr().err


def test_flags_win_over_the_preset_and_the_preset_over_defaults():
    config = parse(TrainConfig, ["--optim.generator-lr", "2e-4", "--workers", "2"], "coco")

    assert config.optim.generator_lr == 2e-4
    assert config.workers == 2
    assert config.optim.batch_size == 48
    assert config.model.noise_dim == 100


def test_steps_given_by_flag_take_the_place_of_the_presets_epochs():
    config = parse(TrainConfig, ["--total-steps", "7"], "coco")

    assert config.steps(images=1000) == 7
    assert parse(TrainConfig, [], "coco").steps(images=480) == 300 * 10


def test_sources_are_chosen_by_name_and_their_flags_follow():
    config = parse(PrepareConfig, ["coco", "--root", "/x", "--train", "t", "--output", "/y"])

    assert config.source == CocoSource(root="/x", train="t")
    assert (config.output, config.cache_size) == ("/y", 304)


WRONG_FLAGS = {
    "typing error": (["--optim.genrator-lr", "1e-4"], "--optim.generator-lr"),
    "wrong type": (["--optim.batch-size", "many"], "batch-size"),
    "out of range": (["--optim.generator-lr", "-1"], "generator_lr"),
    "not a size": (["--model.image-size", "100"], "image-size"),
    "odd affines": (["--model.affines-per-block", "3"], "affines_per_block"),
    "bad name": (["--name", "../other"], "name"),
}


@pytest.mark.parametrize("case", WRONG_FLAGS)
def test_wrong_flags_are_refused_by_name(case, capsys):
    flags, named = WRONG_FLAGS[case]

    with pytest.raises(SystemExit) as exit_:
        parse(TrainConfig, flags, "coco")

    assert exit_.value.code == 2
    screen = "".join(capsys.readouterr())
    assert named in screen
    assert "Traceback" not in screen


def test_unknown_keys_and_bad_values_in_a_preset_are_named(tmp_path):
    preset = tmp_path / "mine.yaml"
    preset.write_text("total_steps: 5\noptim: {generator_lr: -1.0, lr_g: 0.1}\n")

    with pytest.raises(ValueError, match="mine") as error:
        parse(TrainConfig, [], str(preset))

    assert "optim.generator_lr=-1.0: Input should be greater than 0" in str(error.value)
    assert "optim.lr_g: there is no such option" in str(error.value)
    assert "written for" not in str(error.value)


@pytest.mark.parametrize(
    ("preset", "job"), [("quickstart", "quickstart"), ("ablate_shapes", "ablate")]
)
def test_a_preset_of_another_job_is_refused_with_that_job(preset, job):
    with pytest.raises(ValueError, match=rf"(?s)no such option.*is written for jobs/{job}\.py\."):
        parse(TrainConfig, [], preset)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a: &a0 [x, x, x, x, x, x, x, x, x]\n"
            + "".join(f"b{n}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(9))
            + "name: *a9\n",
            "holds over 10,000 values",
        ),
        ("name: &a [*a]\n", "holds over 10,000 values|is not valid YAML: maximum recursion"),
    ],
    ids=["grows", "holds itself"],
)
def test_a_preset_that_grows_when_it_is_read_is_refused(tmp_path, text, message):
    preset = tmp_path / "mine.yaml"
    preset.write_text(text)

    with pytest.raises(ValueError, match=rf"preset .*mine\.yaml ({message})"):
        parse(TrainConfig, [], str(preset))


def test_an_unknown_preset_lists_those_there_are():
    presets = "ablate_shapes, coco, cub, damsm, damsm_coco, damsm_shapes, emoji, oxford102, quick"
    with pytest.raises(ValueError, match=rf"preset 'imagenet' does not exist.*{presets}"):
        parse(TrainConfig, [], "imagenet")


def test_a_run_without_a_length_is_refused(tmp_path):
    preset = tmp_path / "endless.yaml"
    preset.write_text("name: endless\n")

    with pytest.raises(ValueError, match="one of total_epochs and total_steps is needed"):
        parse(TrainConfig, [], str(preset))


def test_another_job_is_chosen_by_the_first_word_and_named_in_the_help(monkeypatch, capsys):
    def job(config: TrainConfig) -> None:
        raise RuntimeError("must not run")

    def other(config: AutoConfig) -> None:
        raise ValueError(f"the other one got {config.root}")

    words = {"other": (lambda: (other, other), AutoConfig)}
    monkeypatch.setattr(sys, "argv", ["job", "--dry-run", "other", "--root", "/x"])
    with pytest.raises(SystemExit, match="2"):
        run(lambda: (job, None), TrainConfig, preset="coco", words=words)
    said = capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["job", "--help"])
    with pytest.raises(SystemExit, match="0"):
        run(lambda: (job, None), TrainConfig, preset="coco", words=words)

    assert own(said) == "\nerror: the other one got /x\n"
    assert "other: " in capsys.readouterr().out


def start(monkeypatch, job, *flags: str, plan=None) -> int:
    monkeypatch.setattr(sys, "argv", ["job", *flags])
    try:
        run(lambda: (job, plan), TrainConfig, preset="coco")
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return 0


def test_a_users_mistake_is_one_message_without_a_traceback(monkeypatch, capsys):
    def job(config: TrainConfig) -> None:
        raise ValueError("the value 3 must be 4")

    code = start(monkeypatch, job)

    assert code == 2
    assert own(capsys.readouterr().err) == "\nerror: the value 3 must be 4\n"


def test_debug_shows_where_a_mistake_was_found(monkeypatch, capsys):
    def job(config: TrainConfig) -> None:
        raise ValueError("the value 3 must be 4")

    start(monkeypatch, job, "--debug")

    assert "test_main.py" in capsys.readouterr().err


def test_a_fault_of_ours_keeps_its_traceback_and_another_status(monkeypatch, capsys):
    def job(config: TrainConfig) -> None:
        raise KeyError("surprise")

    assert start(monkeypatch, job) == 1
    assert "Traceback" in capsys.readouterr().err


def test_print_config_prints_a_preset_and_runs_nothing(monkeypatch, capsys, tmp_path):
    def job(config: TrainConfig) -> None:
        raise RuntimeError("must not run")

    code = start(monkeypatch, job, "--print-config", "--optim.batch-size", "12")

    printed = tmp_path / "printed.yaml"
    printed.write_text(own(capsys.readouterr().out))
    assert code == 0
    assert parse(TrainConfig, [], str(printed)).optim.batch_size == 12


def test_a_dry_run_says_what_differs_from_the_preset_and_runs_the_plan_alone(monkeypatch, capsys):
    planned = []

    def job(config: TrainConfig) -> None:
        raise RuntimeError("must not run")

    def plan(config: TrainConfig) -> None:
        planned.append(config.optim.batch_size)

    code = start(monkeypatch, job, "--dry-run", "--optim.batch-size=12", "--workers=2", plan=plan)

    assert (code, planned) == (0, [12])
    assert own(capsys.readouterr().out) == (
        "# preset coco with changes:\n#   workers: not set → 2\n#   optim.batch_size: 48 → 12\n"
    )


def test_a_dry_run_ends_with_the_status_that_the_job_would_end_with(monkeypatch, capsys):
    def plan(config: TrainConfig) -> None:
        raise ValueError("the value 3 must be 4")

    assert start(monkeypatch, pytest.fail, "--dry-run", plan=plan) == 2
    assert "error: the value 3 must be 4" in capsys.readouterr().err
    assert start(monkeypatch, pytest.fail, "--dry-run") == 2
    assert "this job has no --dry-run" in capsys.readouterr().err


def test_without_a_preset_options_are_compared_with_the_defaults():
    changed = parse(TrainConfig, ["--total-steps", "5", "--model.base-channels", "16"])

    assert difference(changed, None) == (
        "# different from the defaults:\n"
        "#   total_steps: not set → 5\n#   model.base_channels: 64 → 16"
    )
    assert difference(parse(TrainConfig, [], "cub"), "cub") == "# as in preset cub"
    secret = ["--tracking.uri", "http://user:hush@host"]
    assert "hush" not in difference(parse(TrainConfig, secret, "cub"), "cub")


def test_the_cause_is_found_behind_what_is_wrapped_around_it():
    cause = ValueError("the cause")
    wrapped = RuntimeError("a worker failed")
    wrapped.worker_failures = {0: RuntimeError("in between")}
    wrapped.worker_failures[0].__cause__ = cause

    assert root_cause(wrapped) is cause


def test_changed_options_are_refused_with_old_and_new_value():
    before = TrainConfig(total_steps=10).record()
    longer = TrainConfig(total_steps=99, workers=2, log_every=7)
    wider = TrainConfig.model_validate({"total_steps": 10, "model": {"base_channels": 16}})

    assert refuse_changes(before, longer) == []
    with pytest.raises(ValueError, match=r"model\.base_channels: 64 → 16"):
        refuse_changes(before, wider)
    named = wider.model_copy(update={"allow_changes": ("model.base_channels",), "compile": True})
    assert refuse_changes(before, named) == [
        "compile: False → True",
        "model.base_channels: 64 → 16",
    ]


def test_an_option_newer_than_the_checkpoint_had_its_default():
    before = TrainConfig(total_steps=10).record()
    del before["model"]["attention"]
    other = TrainConfig.model_validate({"total_steps": 10, "model": {"attention": "none"}})

    refuse_changes(before, TrainConfig(total_steps=10))
    with pytest.raises(ValueError, match=r"model\.attention: soft_threshold → none"):
        refuse_changes(before, other)
    with pytest.raises(ValueError, match="another version of this program"):
        refuse_changes(before | {"gone": 1}, other)


def test_the_trackers_address_is_in_no_record():
    secret = TrainConfig.model_validate(
        {"total_steps": 1, "tracking": {"uri": "http://user:secret@host"}}
    )

    assert "secret" not in str(secret.record())


def test_options_without_effect_are_refused():
    with pytest.raises(ValueError, match="controller_dim=64 has no effect without"):
        TrainConfig.model_validate(
            {"total_steps": 1, "model": {"recurrent": False, "controller_dim": 64}}
        )


def test_options_are_flattened_to_dotted_names():
    flat = flatten(TrainConfig(total_steps=1).model_dump(mode="json"))

    assert flat["optim.betas"] == [0.0, 0.9]
    assert flat["tracking.uri"] is None
    assert not any(isinstance(value, dict) for value in flat.values())


def test_every_job_is_imports_and_one_call_under_its_command():
    seen = 0
    for path in sorted((Path(__file__).parents[3] / "jobs").glob("*.py")):
        tree = ast.parse(path.read_text())
        imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        _docstring, *statements = [node for node in tree.body if node not in imports]
        assert f"python jobs/{path.name}" in (ast.get_docstring(tree) or ""), path.name
        *late, _call = statements
        assert [node.name for node in late] in ([], ["_work"]), path.name
        assert all(node.module.startswith("pipeline.") for node in imports), path.name
        changes_something = path.name != "compare.py"
        assert (", plan_" in path.read_text()) == changes_something, f"{path.name}: --dry-run"
        seen += 1
    assert seen == 18


def _commands(page: Path) -> list[list[str]]:
    """Return the commands of a page of docs that start a job, cut into words."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [words for line in lines if len(words := shlex.split(line)) > 1 and "jobs/" in words[1]]


def test_every_command_of_the_page_on_reproducing_is_one_that_its_job_takes():
    root, seen = Path(__file__).parents[3], 0
    for _python, file, *flags in _commands(root / "docs" / "reproduce.md"):
        if file == "jobs/evaluate.py" and not (root / file).exists():
            continue  # comes with the metrics
        names = runpy.run_path(str(root / file), run_name="not started")
        (call,) = [n for n in ast.walk(ast.parse((root / file).read_text())) if _starts(n)]
        (preset,) = [k.value.value for k in call.keywords if k.arg == "preset"] or [None]

        config = parse(names[call.args[1].id], [f for f in flags if f != "--dry-run"], preset)

        assert "s3://my-bucket" in str(config), "what it names is what the page speaks of"
        seen += 1
    assert seen >= 11


def _starts(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "run"
