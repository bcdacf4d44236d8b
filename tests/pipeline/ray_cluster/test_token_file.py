"""A token is made for its owner alone, and refused where others could have read it."""

import os
import threading
from pathlib import Path

import pytest

from pipeline.ray_cluster.token_file import create_token, exposed, token_file

TOKEN = "f" * 64


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A fresh home folder, and nothing about Ray's authentication in the environment."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def token(home, monkeypatch):
    path = home / "token"
    path.write_text(TOKEN)
    path.chmod(0o600)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    return path


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_missing_token_is_made_for_its_owner_alone_whatever_the_umask(home):
    before = os.umask(0)

    try:
        made = token_file()
    finally:
        os.umask(before)

    assert made == home / ".ray" / "auth_token"
    assert (mode(made), mode(made.parent)) == (0o600, 0o700)
    assert len(made.read_text()) == 64
    assert [path.name for path in made.parent.iterdir()] == ["auth_token"]


def test_a_token_that_is_there_is_never_replaced(home):
    first = token_file().read_text()

    assert token_file().read_text() == first
    with pytest.raises(FileExistsError):
        create_token(home / ".ray" / "auth_token")


def test_of_many_that_make_a_token_at_once_all_get_the_same(home):
    found, barrier = [], threading.Barrier(16)

    def make() -> None:
        barrier.wait()
        found.append(token_file().read_text())

    threads = [threading.Thread(target=make) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 16
    assert len(set(found)) == 1


def test_a_token_that_its_owner_alone_can_read_is_taken(token):
    assert token_file() == token


def test_a_named_file_that_is_missing_is_not_made(token):
    token.unlink()

    with pytest.raises(ValueError, match=f"no token: {token} cannot be read"):
        token_file()

    assert not token.exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620])
def test_a_token_that_others_can_read_is_refused_and_left_as_it_is(token, mode):
    token.chmod(mode)

    with pytest.raises(ValueError, match=r"(?s)read by others.*know it already.*rm ") as error:
        token_file()

    assert str(error.value) == exposed(token)
    assert token.read_text() == TOKEN
    assert token.stat().st_mode & 0o777 == mode


def test_a_token_that_can_be_guessed_is_refused(token):
    token.write_text("secret\n")

    with pytest.raises(ValueError, match="has 6 characters; 32 is the minimum"):
        token_file()


def test_a_token_in_the_environment_is_refused(token, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)

    with pytest.raises(ValueError, match="RAY_AUTH_TOKEN is set"):
        token_file()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="nobody can make files in /proc")
def test_a_home_that_cannot_be_written_to_is_an_error_that_says_what_to_set(monkeypatch):
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.setenv("HOME", "/proc")

    with pytest.raises(ValueError, match=r"cannot be kept in /proc/\.ray/auth_token \(.*Set HOME"):
        token_file()
