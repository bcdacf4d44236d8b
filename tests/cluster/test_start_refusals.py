"""What keeps a cluster from starting or ending, or a job from being sent; no Ray runs for it."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from pipeline.ray_cluster import local_cluster
from pipeline.ray_cluster.local_cluster import (
    ClusterPlan,
    environment_of,
    main,
    own_folders,
    start,
    stop,
)
from pipeline.ray_cluster.port_probe import Answer, Endpoint, knock
from pipeline.ray_cluster.private_ray import LONGEST_FOLDER, LONGEST_TMPDIR
from pipeline.ray_cluster.submit import check_package

TOKEN = "f" * 64
NOBODY = 65534
only_root = pytest.mark.skipif(os.getuid() != 0, reason="only root gives files to another user")


@pytest.fixture
def token(tmp_path, monkeypatch):
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o600)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    return path


def test_no_token_no_cluster(token, tmp_path):
    token.unlink()

    with pytest.raises(ValueError, match=r"no token: .* cannot be read"):
        start(ClusterPlan(1, 1, 25000, tmp_path / "cluster"))

    assert not (tmp_path / "cluster").exists()


def test_ports_that_are_taken_are_named(token, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        # Others may listen on the next of the block: they are named behind it.
        with pytest.raises(ValueError, match=rf"somebody listens on port {port}\b.* already"):
            start(ClusterPlan(1, 1, port, tmp_path / "cluster"))


def test_stopping_where_nothing_runs_touches_nothing(tmp_path):
    (tmp_path / "mine").write_text("mine")

    assert stop(tmp_path) == 0

    assert (tmp_path / "mine").read_text() == "mine"


@pytest.fixture
def victim(tmp_path):
    """A process, and a folder of a cluster's that names it and holds what is precious."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        folder = tmp_path / "cluster"
        (folder / "head").mkdir(parents=True)
        folder.chmod(0o700)
        (folder / "head" / "precious").touch()
        tell(folder, {"head": [process.pid, psutil.Process(process.pid).create_time()]})
        yield process, folder
        process.kill()


def tell(folder: Path, said: object) -> None:
    (folder / "nodes.json").write_text(said if isinstance(said, str) else json.dumps(said))
    (folder / "nodes.json").chmod(0o600)


def refused(victim, match: str) -> None:
    """Stopping is refused, nothing is deleted and nothing is ended."""
    process, folder = victim
    with pytest.raises(ValueError, match=match):
        stop(folder)
    assert (folder / "head" / "precious").exists()
    assert (folder / "nodes.json").exists()
    assert process.poll() is None


@pytest.mark.parametrize("name", [".", "nodes.json"])
@pytest.mark.parametrize("mode", [0o722, 0o720, 0o702])
def test_what_others_may_have_written_ends_no_process_and_deletes_nothing(name, mode, victim):
    (victim[1] / name).chmod(mode)

    refused(
        victim, rf"cluster.* is open to others \(mode {mode:o}\).*not.* touched.*--folder PLACE"
    )


@only_root
@pytest.mark.parametrize("name", [".", "nodes.json"])
def test_what_a_stranger_has_written_ends_no_process_and_deletes_nothing(name, victim):
    os.chown(victim[1] / name, NOBODY, NOBODY)

    refused(victim, r"cluster.* belongs to somebody else \(user 65534\).*touched.*--folder PLACE")


@pytest.mark.parametrize("name", ["", "nodes.json"])
def test_what_a_link_leads_to_ends_no_process_and_deletes_nothing(name, victim, tmp_path):
    place = victim[1] / name
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")

    refused(victim, r"cluster.* is a link, or cannot be opened.*touched.*--folder PLACE")


@pytest.mark.parametrize(
    "said", [[], {"head": 1}, {"head": ["x", 1]}, {"head": [-1, 1]}, '{"head"']
)
def test_a_list_of_processes_that_is_damaged_is_told_and_left(said, victim):
    tell(victim[1], said)

    refused(victim, "does not say what this command writes there, so nothing was touched.* rm ")


@pytest.mark.parametrize("name", ["../kept", "worker-../kept", "worker-", "worker-1/x", "head\n"])
def test_nothing_outside_of_its_folder_is_deleted_whatever_a_list_names(name, victim, tmp_path):
    (tmp_path / "kept").mkdir()
    tell(victim[1], {name: [2**22, 0.0], "head": [2**22, 0.0]})

    refused(victim, "does not say what this command writes there, so nothing was touched.* rm ")
    assert (tmp_path / "kept").exists()


@only_root
def test_a_process_of_another_user_is_not_ended(tmp_path):
    tmp_path.chmod(0o700)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, user=NOBODY) as process:
        tell(tmp_path, {"head": [process.pid, psutil.Process(process.pid).create_time()]})

        assert stop(tmp_path) == 0
        assert process.poll() is None


def test_a_process_with_the_number_of_one_that_has_ended_is_not_ended(victim):
    process, folder = victim
    tell(folder, {"head": [process.pid, psutil.Process(process.pid).create_time() - 5]})

    assert stop(folder) == 0

    assert process.poll() is None
    assert not folder.exists(), "what the cluster left is removed"


def test_without_a_folder_named_only_folders_of_ones_own_are_looked_at(
    victim, tmp_path, monkeypatch, capsys
):
    process, folder = victim
    monkeypatch.delenv("HOME")
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("long" * 30)))
    monkeypatch.setattr(local_cluster, "PREFIX", f"{tmp_path}/ratgan-cluster.")
    monkeypatch.setattr(sys, "argv", ["start-local.sh", "--stop"])
    folder.rename(tmp_path / "ratgan-cluster.open")
    (tmp_path / "ratgan-cluster.open").chmod(0o777)
    (tmp_path / "ratgan-cluster.link").symlink_to(tmp_path)
    (tmp_path / "ratgan-cluster.file").touch()
    (tmp_path / "ratgan-cluster.mine").mkdir(mode=0o700)
    if os.getuid() == 0:
        (tmp_path / "ratgan-cluster.theirs").mkdir(mode=0o700)
        os.chown(tmp_path / "ratgan-cluster.theirs", NOBODY, NOBODY)

    found = own_folders()
    main()

    assert found == [tmp_path / "ratgan-cluster.mine"]
    assert capsys.readouterr().out == "0 processes ended\n"
    assert process.poll() is None
    assert (tmp_path / "ratgan-cluster.open" / "head" / "precious").exists()


@pytest.mark.parametrize("length", [20, LONGEST_TMPDIR, LONGEST_TMPDIR + 1, 300])
def test_the_folders_of_a_cluster_are_short_enough_for_sockets_whatever_tmpdir_is(
    length, monkeypatch
):
    named = "/".ljust(length, "x")
    monkeypatch.setenv("TMPDIR", named)
    monkeypatch.setattr(tempfile, "tempdir", named)
    folder = Path(f"{local_cluster.PREFIX}01234567")

    environment = environment_of(ClusterPlan(1, 1, 25000, folder), Path("token"))

    assert environment["TMPDIR"] == (named if length <= LONGEST_TMPDIR else "/tmp")
    assert len(f"{folder}/head") <= LONGEST_FOLDER


def test_a_folder_that_others_can_enter_is_refused_before_anything_is_started(
    token, tmp_path, monkeypatch
):
    monkeypatch.setattr(local_cluster, "_is_free", lambda port: True)
    tmp_path.chmod(0o755)

    with pytest.raises(ValueError, match=r"is open to others \(mode 755\).*of mode 700"):
        start(ClusterPlan(1, 1, 25000, tmp_path))

    assert [path.name for path in tmp_path.iterdir()] == ["token"]


def test_a_server_that_answers_strangers_or_says_nothing_is_not_taken_for_one_that_refuses():
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        port = int(server.stdout.readline().split(" port ")[1].split()[0])
        answers = knock(Endpoint("127.0.0.1", port))
        server.kill()
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # taken, so that nobody else listens there, and not listening
        says_nothing = knock(Endpoint("127.0.0.1", silent.getsockname()[1]))
        not_listening = knock(Endpoint("127.0.0.1", deaf.getsockname()[1]))

    assert answers is Answer.OPEN
    assert says_nothing is Answer.UNCLEAR
    assert not_listening is Answer.CLOSED


def test_a_folder_too_large_to_send_is_refused_with_its_largest_files(tmp_path):
    for name, mib in (("code.py", 0), ("data/images.bin", 90), ("model.bin", 20)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            file.truncate(mib * 2**20)

    with pytest.raises(ValueError, match=r"(?s)holds 110 MiB.*90 MiB  data/images.bin.*/data$"):
        check_package(tmp_path)
    (tmp_path / ".rayignore").write_text("/data/\n")
    check_package(tmp_path)


def test_what_is_sent_of_this_project_is_its_code():
    root = Path(__file__).parents[2]

    check_package(root)
