"""Real sweeps of tiny runs: killed and finished, stopped early, failed, taken over."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.cli.main import load_preset
from pipeline.common.failpoints import VARIABLE
from pipeline.config import TrainConfig
from pipeline.distributed.graceful_stop import REQUEST
from pipeline.sweeps.ablation import ablate
from pipeline.sweeps.config import AblateConfig, SweepConfig
from pipeline.sweeps.sweep import sweep
from pipeline.tracking.store_file import store_address
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
PATIENCE_S = 600.0  # for anything at all to come; a busy machine takes minutes to start a command
HELD = {"hang_s": 0}  # a step that a test holds up is no hang, however long that takes


def run(shapes, output: Path, **changes) -> dict:
    """Options of the run that is varied."""
    values = {
        "name": "tiny",
        "output": str(output),
        "workers": 0,
        "total_steps": 24,
        "log_every": 4,
        "sample_every": 8,
        "checkpoint_every": 8,
        "samples": 3,
        "evaluate_images": 12,
        "data": {"path": str(shapes.folder), "flip": False},
        "model": {"image_size": 32, "base_channels": 2, "controller_dim": 8, "affine_dim": 8},
        "optim": {"batch_size": 12},
    }
    return values | changes


def recorded(output: Path, name: str) -> tuple:
    """The run of a sweep in MLflow, and those under it by name."""
    client = MlflowClient(store_address(output / "mlflow.db"))
    runs = client.search_runs([client.get_experiment_by_name("ratgan").experiment_id])
    (parent,) = [each for each in runs if each.info.run_name == name]
    below = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    named = {each.info.run_name: each for each in below}
    assert len(named) == len(below) == len(runs) - 1, "no run is there twice, none beside it"
    return client, parent, named


def steps_of(client: MlflowClient, run_id: str, key: str) -> list[int]:
    return [point.step for point in client.get_metric_history(run_id, key)]


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def started_by(options: dict, preset: Path) -> tuple[list[str], dict[str, str]]:
    """The command of a sweep with a Ray of its own, and its environment."""
    preset.write_text(json.dumps(options))
    return (
        [sys.executable, str(ROOT / "jobs/sweep.py"), f"--preset={preset}"],
        {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
    )


@contextlib.contextmanager
def running(command, environment, log: Path) -> Iterator[subprocess.Popen]:
    """A command beside the test; at the end of `with`, it and all it started are gone."""
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, env=environment, start_new_session=True
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=60)


def wait_for(process: subprocess.Popen, log: Path, condition: Callable[[], object]) -> None:
    """Wait for what a command does before it ends."""
    wait_until(
        lambda: condition() or process.poll() is not None, f"what {log} is of", seconds=PATIENCE_S
    )
    assert condition(), said_in(log)


def said_in(log: Path) -> str:
    return log.read_text(errors="replace")  # it may end in the middle of a letter


def struck(command, environment, log: Path, when: Callable[[], object], number: int) -> int:
    """Start a command, send a signal to all of it (as a terminal does), and return its status."""
    with running(command, environment, log) as process:
        wait_for(process, log, when)
        os.killpg(process.pid, number)
        return process.wait(timeout=PATIENCE_S)


@pytest.mark.thorough
def test_a_killed_sweep_is_finished_by_the_same_command(shapes, tmp_path):
    # By images seen, the second trial is better than the first, and the third is worse.
    options = {
        "name": "batch",
        "space": ["optim.batch_size=choice(12,24,6)"],
        "search": "grid",
        "metric": "images_seen",
        "mode": "max",
        "concurrent": 1,
        "grace": 0.3,
        "train": run(shapes, tmp_path, total_steps=48, health=HELD),
    }
    folder, log = tmp_path / "batch", tmp_path / "first.log"
    command, environment = started_by(options, tmp_path / "batch.yaml")
    marker = folder / "batch-001/checkpoints/step-00000024/COMMITTED"
    # The second trial gets no further than that before it is killed, and the third trains on until
    # it is asked to stop: neither is at its end first.
    last = "hang@storage.before_rename:file=batch-001/checkpoints/step-00000032/state.json"
    asked = f"slow@worker.step:step=20,after={folder}/batch-002/{REQUEST}"
    struck(command, environment | {VARIABLE: last}, log, marker.exists, signal.SIGKILL)
    records = [json.loads((folder / f"trials/00{n}.json").read_text()) for n in range(3)]
    model = folder / "batch-000/model/model.json"
    handed_over = model.stat().st_mtime_ns

    done = subprocess.run(
        command,
        env=environment | {VARIABLE: asked},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )

    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert [each["status"] for each in records] == ["finished", "running", "planned"]
    assert "3 trials, 1 of them done" in said
    assert "trial 1 resumes" in said
    assert "resuming from step 24" in said
    assert model.stat().st_mtime_ns == handed_over, "what was done is not trained again"
    summary = summary_of(folder)
    assert [each["status"] for each in summary["trials"]] == ["finished", "finished", "stopped"]
    curves = [[step for step, _ in each["curve"]] for each in summary["trials"]]
    assert curves[:2] == [list(range(4, 49, 4))] * 2
    assert 16 <= curves[2][-1] < 48
    assert summary["trials"][2]["why"].startswith("at step 16 of 48, images_seen 96")
    assert summary["best"] == {
        "trial": 1,
        "values": {"optim.batch_size": 24},
        "step": 48,
        "value": 48 * 24,
    }
    assert (folder / "batch-002/checkpoints").is_dir(), "of a stopped trial too"
    assert (folder / "learning_curves.png").stat().st_size > 1000
    assert (folder / "parallel_coordinates.png").stat().st_size > 1000
    winner = load_preset(TrainConfig, str(folder / "winner.yaml"))
    assert (winner.name, winner.optim.batch_size) == ("batch-winner", 24)
    _check_record_of_killed_sweep(tmp_path)


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_ctrl_c_and_a_closed_terminal_let_the_trials_save_and_the_same_command_goes_on(
    number, shapes, tmp_path
):
    options = {
        "name": "rates",
        "space": ["optim.generator_lr=choice(1e-4,2e-4)"],
        "search": "grid",
        "metric": "images_seen",
        "mode": "max",
        "scheduler": "none",
        "concurrent": 1,
        "train": run(shapes, tmp_path, total_steps=200, checkpoint_every=200, health=HELD),
    }
    folder, log = tmp_path / "rates", tmp_path / "first.log"
    command, environment = started_by(options, tmp_path / "rates.yaml")
    asked = f"slow@worker.step:step=12,after={folder}/rates-000/{REQUEST}"
    status = struck(
        command,
        environment | {VARIABLE: asked},
        log,
        lambda: "step 8/200" in said_in(log),
        number,
    )

    assert status == 128 + number, said_in(log)
    assert "stopped. The same command resumes the sweep." in said_in(log)
    (saved,) = (folder / "rates-000/checkpoints").glob("step-*/COMMITTED")
    step = int(saved.parent.name.removeprefix("step-"))
    assert 8 <= step < 200

    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"resuming from step {step}" in done.stdout
    assert [each["status"] for each in summary_of(folder)["trials"]] == ["finished", "finished"]


def _check_record_of_killed_sweep(output: Path) -> None:
    client, parent, named = recorded(output, "batch")

    assert parent.info.status == "FINISHED"
    assert parent.data.params["optim.batch_size"] == "24"
    assert parent.data.tags["best.trial"] == "1"
    assert "reached by trial 1" in parent.data.tags["mlflow.note.content"]
    assert steps_of(client, parent.info.run_id, "loss/generator") == [1, 2, 3]
    assert parent.data.metrics["images_seen"] == 48 * 24
    artifacts = {each.path for each in client.list_artifacts(parent.info.run_id)}
    assert {"table.md", "summary.json", "images"} <= artifacts
    assert {name: child.info.status for name, child in named.items()} == {
        "batch-000": "FINISHED",
        "batch-001": "FINISHED",
        "batch-002": "KILLED",
    }
    assert named["batch-002"].data.tags["sweep.status"] == "stopped"
    for name in ("batch-000", "batch-001"):
        steps = steps_of(client, named[name].info.run_id, "loss/generator")
        assert steps == list(range(4, 49, 4)), "a point is there once, whatever was trained again"


@pytest.mark.rest
def test_a_failing_trial_costs_itself_and_is_tried_again_where_it_was_moved(shapes, tmp_path):
    old, new = tmp_path / "my%20runs #1?", tmp_path / "moved [v2]"
    options = {
        "name": "data",
        "space": [f"data.path=choice('{shapes.folder}','{tmp_path}/missing')"],
        "search": "grid",
        "scheduler": "none",
        "concurrent": 1,
        "train": run(shapes, old),
    }

    sweep(SweepConfig.model_validate(options))

    table = (old / "data/table.md").read_text()
    assert "1 finished, 1 failed of 2 trials" in table
    assert "| failed | 0 |" in table
    assert "no manifest.json" in table
    (tmp_path / "missing").symlink_to(shapes.folder.path)
    old.rename(new)
    options["train"] = run(shapes, new)
    sweep(SweepConfig.model_validate(options | {"retry_failed": True}))
    statuses = [each["status"] for each in summary_of(new / "data")["trials"]]
    assert statuses == ["finished", "finished"]
    assert {each.name for each in tmp_path.iterdir()} == {"moved [v2]", "missing"}
    _, parent, named = recorded(new, "data")
    assert parent.info.status == "FINISHED"
    assert {child.info.status for child in named.values()} == {"FINISHED"}
    with pytest.raises(
        ValueError, match=r"with other options:\nmetric: eval/fd_builtin → loss/generator"
    ):
        sweep(SweepConfig.model_validate(options | {"metric": "loss/generator"}))


@pytest.mark.thorough
def test_a_metric_that_no_run_logs_ends_the_sweep_with_the_names_there_are(shapes, tmp_path):
    options = {
        "name": "lost",
        "space": ["seed=choice(1,2)"],
        "search": "grid",
        "metric": "eval/beauty",
        "concurrent": 1,
        "train": run(shapes, tmp_path, total_steps=8),
    }

    with pytest.raises(ValueError, match=r"no point of eval/beauty.*eval/fd_builtin"):
        sweep(SweepConfig.model_validate(options))

    _, parent, named = recorded(tmp_path, "lost")
    assert parent.info.status == "FAILED"
    assert list(named) == ["lost-000"], "the second is not trained in vain"


@pytest.mark.thorough
def test_optuna_and_workers_of_their_own_make_a_sweep_too(shapes, tmp_path):
    options = {
        "name": "optuna",
        "space": ["optim.generator_lr=loguniform(1e-4,1e-2)"],
        "search": "optuna",
        "trials": 2,
        "concurrent": 1,
        "train": run(shapes, tmp_path, workers=1, total_steps=8),
    }

    sweep(SweepConfig.model_validate(options))

    summary = summary_of(tmp_path / "optuna")
    assert [each["status"] for each in summary["trials"]] == ["finished", "finished"]
    assert all(each["best"]["step"] == 8 for each in summary["trials"])


@pytest.mark.thorough
def test_a_population_takes_over_weights_of_its_best(shapes, tmp_path):
    options = {
        "name": "population",
        "space": ["optim.generator_lr=loguniform(1e-5,1e-1)"],
        "scheduler": "pbt",
        "metric": "loss/discriminator",
        "mode": "min",
        "trials": 2,
        "perturb_every": 0.25,
        "concurrent": 2,
        "train": run(shapes, tmp_path, total_steps=96, health=HELD),
    }

    with pytest.raises(ValueError, match=r"capacity for 1 at a time.*fewer --trials"):
        sweep(SweepConfig.model_validate(options | {"concurrent": 1}))
    folder, log = tmp_path / "population", tmp_path / "population.log"
    command, environment = started_by(options, tmp_path / "population.yaml")
    trials = [folder / f"population-00{number}" for number in range(2)]
    # They are compared every 24 steps. None of them gets further ahead of the other than that, and
    # none is at its end before one has taken over from the other.
    gates = {step: tmp_path / f"past-{step}" for step in (24, 48, 72, 88)}
    held = [f"slow@worker.step:step={step + 2},after={gate}" for step, gate in gates.items()]

    def taking_over() -> bool:
        stopping = any((trial / REQUEST).exists() for trial in trials)
        return stopping or "takes over from trial" in said_in(log)

    def are_at(step: int) -> bool:
        markers = [trial / f"checkpoints/step-{step:08d}/COMMITTED" for trial in trials]
        return step < 88 and all(marker.exists() for marker in markers)

    with running(command, environment | {VARIABLE: ";".join(held)}, log) as process:
        for step, gate in gates.items():
            wait_for(process, log, lambda step=step: are_at(step) or taking_over())
            gate.touch()
        status = process.wait(timeout=PATIENCE_S)

    assert status == 0, said_in(log)
    summary = summary_of(folder)
    assert [each["status"] for each in summary["trials"]] == ["finished", "finished"]
    # One that takes over the last checkpoint of the other has no step left to measure.
    assert all(each["curve"][-1][0] == 96 or each["adopted"] for each in summary["trials"])
    taken = [(each, change) for each in summary["trials"] for change in each["adopted"]]
    assert taken, "one of them is poorer than the other"
    for trial, change in taken:
        assert change["of"] == 1 - trial["trial"]
    _, _, named = recorded(tmp_path, "population")
    adopters = {trial["run"] for trial, _ in taken}
    for name in adopters:
        assert any(tag.startswith("sweep.adopted.") for tag in named[name].data.tags)


@pytest.mark.thorough
def test_an_ablation_trains_every_setting_with_every_seed_and_is_moved(shapes, tmp_path):
    old, new = tmp_path / "my%20parts #1", tmp_path / "moved [v2]"
    options = {
        "name": "parts",
        "space": ["model.attention=choice(soft_threshold,none)"],
        "seeds": 2,
        "report": ["loss/"],
        "concurrent": 1,
        "train": run(shapes, old, total_steps=8),
    }

    ablate(AblateConfig.model_validate(options))
    old.rename(new)
    ablate(AblateConfig.model_validate(options | {"train": run(shapes, new, total_steps=8)}))

    assert [each.name for each in tmp_path.iterdir()] == [new.name]
    summary = summary_of(new / "parts")
    assert [each["values"] for each in summary["settings"]] == [
        {"model.attention": "soft_threshold"},
        {"model.attention": "none"},
    ]
    for setting in summary["settings"]:
        assert set(setting["curves"]["eval/fd_builtin"]) == {"0", "1"}
        assert set(setting["curves"]["loss/generator"]) == {"0", "1"}
    table = (new / "parts/table.md").read_text()
    assert "| soft_threshold | 2 |" in table
    _, parent, named = recorded(new, "parts")
    assert parent.info.status == "FINISHED"
    assert len(named) == 4
