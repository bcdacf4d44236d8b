"""What keeps a cluster from starting, or a job from being sent; no Ray runs for it."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.ray_cluster.local_cluster import ClusterPlan, start, stop
from pipeline.ray_cluster.port_probe import Answer, Endpoint, knock
from pipeline.ray_cluster.submit import check_package

TOKEN = "f" * 64


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
