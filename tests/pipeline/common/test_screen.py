"""A screen that goes away, or that cannot show a text, ends nothing and loses no line."""

import errno
import io
import logging
import os
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest

from pipeline.common import screen
from pipeline.common.console import print_line
from pipeline.common.errors import show_error
from pipeline.common.redaction import RedactedStream, redact_process, redacted_output
from pipeline.storage.folder import Folder
from pipeline.storage.run_log import LOG, _Log, keep_log

ROOT = Path(__file__).parents[3]
# What a job does: it prints before and after it has its folder, as do the libraries that it uses.
WORK = r"""
import logging, sys, warnings
from pathlib import Path
from pipeline.cli import main
from pipeline.common.console import print_line
from pipeline.common.settings import Settings
from pipeline.storage.folder import Folder
from pipeline.storage.run_log import keep_log

class Config(Settings):
    "Of the test."
    folder: str = ""

def job(config):
    print_line("before")
    print_line("a caf\xe9 at /d\xfcsseldorf \u2764")
    keep_log(Folder(config.folder))
    print("by a library", flush=True)
    logging.warning("logged")
    warnings.warn("warned")
    sys.stderr.write("to standard error\n")
    print_line("finished")
    Path(config.folder, "done").touch()

main.run(lambda: (job, None), Config)
"""


def work(folder: Path, *, shell: str = "", **environment: str) -> subprocess.CompletedProcess:
    """Do it, with redirections of a shell; GONE is a pipe whose reader has left."""
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-c", WORK, f"--folder={folder}"]
    try:
        return subprocess.run(
            ["bash", "-c", f'exec "$@" {shell.replace("GONE", str(writer))}', "bash", *words],
            env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            pass_fds=[writer],
            timeout=300,
            check=False,
        )
    finally:
        os.close(writer)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk is tried with /dev/full")
@pytest.mark.parametrize(
    ("shell", "reason"),
    [
        (">&GONE", "Broken pipe"),
        ("> /dev/full 2>&1", "No space left on device"),
        (">&- 2>&- <&-", "Bad file descriptor"),
        pytest.param(">&GONE 2>&GONE", "Broken pipe", marks=pytest.mark.rest),
        pytest.param("> /dev/full", "No space left on device", marks=pytest.mark.rest),
        pytest.param(">&- <&-", "Bad file descriptor", marks=pytest.mark.rest),
    ],
)
def test_work_goes_on_when_its_screen_is_gone_and_its_lines_are_in_its_log(shell, reason, tmp_path):
    ended = work(tmp_path, shell=shell)

    said = ended.stderr.decode()
    assert ended.returncode == 0, said
    log = (tmp_path / LOG).read_text().splitlines()
    assert (tmp_path / "done").exists()
    assert "Exception ignored" not in said
    assert log[0].endswith(f"stdout takes no more lines ({reason}); they follow here")
    assert {"before", "by a library"} < set(log)
    assert log[-1].endswith("finished")
    if "2>" in shell:
        assert {"WARNING:root:logged", "to standard error"} < set(log)
    else:
        assert "to standard error" in said
        assert f"The work goes on: its lines go to {tmp_path}/{LOG}" in said


@pytest.mark.parametrize(
    ("environment", "shown"),
    [
        ({"PYTHONIOENCODING": "ascii"}, rb"a caf\xe9 at /d\xfcsseldorf \u2764"),
        ({"PYTHONIOENCODING": "latin-1"}, b"a caf\xe9 at /d\xfcsseldorf \\u2764"),
        (
            {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
            rb"a caf\xe9 at /d\xfcsseldorf \u2764",
        ),
    ],
    ids=["ascii", "latin-1", "C"],
)
def test_what_a_terminal_cannot_show_is_escaped(environment, shown, tmp_path):
    ended = work(tmp_path, **environment)

    assert ended.returncode == 0, ended.stderr
    assert shown in ended.stdout.splitlines()
    assert not (tmp_path / LOG).exists()


class Gone(io.StringIO):
    """A stream whose reader has left."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error, self.writes = error, 0

    def write(self, text: str) -> int:
        self.writes += 1
        raise self.error


@pytest.fixture
def log(monkeypatch, tmp_path):
    """The path of the log in the folder of a work that has begun."""
    for name, value in {"_log": None, "_keep": None, "_place": ""}.items():
        monkeypatch.setattr(screen, name, value)
    screen._early.clear()
    keep_log(Folder(str(tmp_path)))
    return tmp_path / LOG


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EIO, "gone"), BrokenPipeError(errno.EPIPE, "gone"), ValueError("gone")],
    ids=repr,
)
def test_a_stream_that_fails_is_tried_once_and_its_loss_is_logged_once(error, log, monkeypatch):
    gone, errors = Gone(error), io.StringIO()
    monkeypatch.setattr(sys, "stdout", gone)
    monkeypatch.setattr(sys, "stderr", errors)

    print_line("first")
    print_line("second")
    sys.stdout.write("third\n")

    assert gone.writes == 1
    loss, *lines = log.read_text().splitlines()
    assert "stdout takes no more lines (gone)" in loss
    assert lines == ["first", "second", "third"]
    assert errors.getvalue().count("note: standard output takes no more lines") == 1


def test_an_error_is_in_the_log_when_standard_error_is_gone(log, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Gone(BrokenPipeError(errno.EPIPE, "gone")))

    show_error(ValueError("too small"))

    assert log.read_text().splitlines()[-1] == "error: too small"


def test_lines_wait_for_the_log_of_a_work_that_has_not_begun(tmp_path, monkeypatch, log):
    monkeypatch.setattr(screen, "_log", None)
    monkeypatch.setattr(sys, "stdout", Gone(BrokenPipeError(errno.EPIPE, "gone")))
    monkeypatch.setattr(sys, "stderr", errors := io.StringIO())

    print_line("early")
    assert errors.getvalue() == "", "as for `compare | head`"
    keep_log(Folder(str(tmp_path / "new")))

    assert (tmp_path / "new" / LOG).read_text().splitlines()[-1] == "early"
    assert f"its lines go to {tmp_path}/new/{LOG}" in errors.getvalue()


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path, monkeypatch, log):
    (tmp_path / "file").touch()
    keep_log(Folder(str(tmp_path / "file")))
    monkeypatch.setattr(sys, "stdout", Gone(OSError(errno.ENOSPC, "full")))

    print_line("lost")

    assert (tmp_path / "file").read_bytes() == b""


def test_a_link_in_the_place_of_the_log_of_a_closed_folder_is_not_followed(
    tmp_path, monkeypatch, log
):
    folder, strange = tmp_path / "run", tmp_path / "strange"
    folder.mkdir()
    strange.touch()
    (folder / LOG).symlink_to(strange)
    keep_log(Folder(str(folder)).closed())
    monkeypatch.setattr(sys, "stdout", Gone(OSError(errno.ENOSPC, "full")))

    print_line("lost")

    assert strange.read_bytes() == b""


def test_a_log_in_an_object_store_is_there_at_the_end(log, monkeypatch):
    folder = Folder(f"memory://lake/{os.getpid()}")
    folder.write(LOG, b"of an earlier start\n")
    keep_log(folder)
    monkeypatch.setattr(sys, "stdout", Gone(OSError(errno.ENOSPC, "full")))

    print_line("last")
    screen.end()

    first, _, last = folder.read(LOG).decode().splitlines()
    assert (first, last) == ("of an earlier start", "last")


def test_what_libraries_print_in_a_worker_cannot_fail(log, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Gone(OSError(errno.ENOSPC, "full")))
    monkeypatch.setattr(sys, "stderr", Gone(OSError(errno.ENOSPC, "full")))
    factory = logging.getLogRecordFactory()
    try:
        redact_process()
        redact_process()
        sys.stdout.write("\x1b[36mprinted\x1b[0m with token=hush\n")
        sys.stdout.flush()
        sys.stdout.writelines(iter(["a\n", "b\n"]))
        sys.stderr.write("warned\n")
    finally:
        logging.setLogRecordFactory(factory)

    said = log.read_text()
    assert "printed with token=***\na\nb\n" in said
    assert "\nwarned\n" in said


def test_the_rest_of_a_stream_that_was_lost_leads_nowhere(log):
    """So that the end of the process, which flushes it, does not fail."""
    reader, writer = os.pipe()
    os.close(reader)
    stream = RedactedStream(os.fdopen(writer, "w", closefd=False))

    stream.write("kept\n")
    os.write(writer, b"of a library in C")

    assert os.readlink(f"/proc/self/fd/{writer}") == os.devnull
    assert log.read_text().endswith("\nkept\n")
    os.close(writer)


def test_a_write_that_went_through_does_not_undo_the_loss_another_thread_met(log):
    begun, gone = threading.Event(), threading.Event()

    class Leaving(io.StringIO):
        def write(self, text: str) -> int:
            if text == "in time\n":
                begun.set()
                gone.wait(2)  # or the other thread waits for this one
                return len(text)
            if text:
                gone.set()
                raise OSError(errno.EIO, "gone")
            return 0

    stream = RedactedStream(Leaving())
    thread = threading.Thread(target=stream.write, args=("in time\n",))
    thread.start()
    assert begun.wait(60)

    stream.write("too late\n")
    thread.join(60)
    stream.write("after that\n")

    assert log.read_text().endswith("they follow here\ntoo late\nafter that\n")


def test_a_process_that_is_redirected_at_its_end_is_left_as_it_was(capsys):
    before = sys.stdout, sys.stderr

    with redacted_output():
        print_line("said")

    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr().out == "said\n"


def test_a_pipe_that_is_full_for_a_moment_is_not_lost(monkeypatch):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    read: list[bytes] = []

    def drain() -> None:
        while part := os.read(reader, 2**16):
            read.append(part)

    with open(writer, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        text = "x" * 2**18 + "\n"  # more than a pipe holds
        os.write(writer, b"x" * 2**16)
        thread = threading.Thread(target=drain)
        thread.start()
        print_line(text.strip())
        assert sys.stdout is stream
    thread.join(60)
    os.close(reader)
    assert b"".join(read).endswith(text.encode()[-1000:])


def test_what_a_log_in_a_bucket_could_not_take_is_kept_for_the_next_time(monkeypatch):
    folder = Folder(f"memory://{uuid.uuid4().hex}")
    log = _Log(folder)
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "write", failing)
        log.append("first \ud800\n")
        log.keep()
    log.append("second\n")
    log.keep()

    assert folder.read(LOG) == b"first ?\nsecond\n"


def failing(folder: Folder, name: str, content: bytes) -> str:
    raise OSError("no answer")
