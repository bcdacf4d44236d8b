"""Folders in a bucket while S3 fails: what passes is survived, what stays is said soon."""

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import fsspec
import pytest

from pipeline.storage import s3, s3_retries
from pipeline.storage.folder import Folder
from tests.chaos.lake import CONTENT, PATIENCE_S, folder, one_proxy, proxy
from tests.services import SECRET, client
from tests.waiting import wait_until

__all__ = ["folder", "one_proxy", "proxy"]  # fixtures

ROOT = Path(__file__).parents[2]


WANTED = {
    "read": CONTENT,
    "range": CONTENT[250:1000],
    "names": ["model.bin"],
    "walk": [("model.bin", len(CONTENT))],
    "exists": (True, False, True),
    "size": len(CONTENT),
}


@pytest.mark.parametrize("times", [1, 5])
@pytest.mark.parametrize("kind", ["503", "500", "reset", "cut"])
def test_faults_that_pass_are_survived_by_everything(folder, proxy, kind, times):
    calls = {
        "read": lambda: folder.read("model.bin"),
        "range": lambda: folder.read("model.bin", 250, 1000),
        "names": folder.names,
        "walk": lambda: list(folder.walk()),
        "exists": lambda: (folder.exists("model.bin"), folder.exists("other.bin"), folder.exists()),
        "size": lambda: folder.size("model.bin"),
    }

    for what, call in calls.items():
        proxy.clear()
        proxy.inject(kind, times, size=100)
        assert call() == WANTED[what], what
        assert len(proxy.requests) > times or kind == "cut"  # a HEAD has no body to cut

    proxy.clear()
    proxy.inject(kind, times, size=10)
    folder.write("other.bin", CONTENT[::-1])
    folder.delete("model.bin")
    proxy.clear()
    assert folder.read("other.bin") == CONTENT[::-1]
    assert folder.names() == ["other.bin"]


def test_a_server_that_says_nothing_is_given_up_after_the_time_the_user_set(
    folder, proxy, monkeypatch
):
    monkeypatch.setattr(s3_retries, "READ_TIMEOUT_S", PATIENCE_S)  # what the user does not set
    configured = fsspec.config.conf["s3"] | {"config_kwargs": {"read_timeout": 1}}
    monkeypatch.setitem(fsspec.config.conf, "s3", configured)
    proxy.inject("hang", 2)
    started = time.monotonic()

    assert Folder("s3://lake/runs/small").read("model.bin") == CONTENT

    assert time.monotonic() - started < PATIENCE_S
    assert len(proxy.requests) > 2, "it was asked again"


def test_a_slow_server_is_waited_for(folder, proxy):
    proxy.inject("slow", 3, size=300)  # milliseconds

    assert folder.read("model.bin") == CONTENT
    assert folder.names() == ["model.bin"]
    assert len(proxy.requests) == 2, "nothing was asked twice"


def test_a_listing_of_many_pages_survives_a_fault_on_each(folder, proxy, monkeypatch):
    for number in range(7):
        folder.write(f"part/{number}", b"x" * number)
    seen = []
    for page in s3.pages(folder.backend.fs, folder.path, MaxKeys=2):
        seen += [entry["Key"] for entry in page["Contents"]]
        proxy.inject("503")
        proxy.inject("cut", size=20)

    assert seen == ["runs/small/model.bin", *(f"runs/small/part/{n}" for n in range(7))]


def test_one_layer_retries(folder, proxy):
    proxy.inject("503", 1000)

    with pytest.raises(OSError, match=r"reading s3://lake/runs/small/model\.bin failed.*SlowDown"):
        folder.read("model.bin")

    assert len(proxy.requests) == s3_retries.ATTEMPTS


def test_the_retries_a_user_sets_are_the_only_ones(folder, proxy, monkeypatch):
    configured = fsspec.config.conf["s3"]
    retries = {"mode": "standard", "total_max_attempts": 2}
    client = configured["config_kwargs"] | {"retries": retries}
    monkeypatch.setitem(fsspec.config.conf, "s3", configured | {"config_kwargs": client})
    proxy.inject("503", 1000)

    with pytest.raises(OSError, match="SlowDown"):
        Folder("s3://lake/runs/small").read("model.bin")

    assert len(proxy.requests) == 2


@pytest.mark.parametrize("what", ["read", "write", "names", "exists", "size", "check_writable"])
def test_a_refusal_is_said_at_once_and_without_the_secret(folder, proxy, what):
    proxy.inject("403", 1000)
    calls = {
        "write": lambda: folder.write("x", b"1"),
        "read": lambda: folder.read("model.bin"),
        "names": folder.names,
        "exists": lambda: folder.exists("model.bin"),
        "size": lambda: folder.size("model.bin"),
        "check_writable": lambda: folder.check_writable("output"),
    }

    with pytest.raises(OSError, match=r"s3://lake/runs/small.*403.*s3:PutObject") as caught:
        calls[what]()

    assert isinstance(caught.value, PermissionError) or what == "check_writable"
    assert len(proxy.requests) <= 2, "nothing was asked again"
    assert SECRET not in str(caught.value)


def test_a_wrong_endpoint_is_said_within_seconds(folder, proxy, monkeypatch):
    pauses = []
    monkeypatch.setattr(s3_retries, "pause_s", lambda attempts: pauses.append(attempts) or 0.0)
    proxy.refuse()

    with pytest.raises(OSError, match=r"nothing answers there.*AWS_ENDPOINT_URL"):
        folder.read("model.bin")
    with pytest.raises(OSError, match=r"output: nothing can be kept in s3://lake.*writing a probe"):
        folder.check_writable("output")

    # They would take 1.4 s at the longest.
    assert pauses == 2 * [*range(1, s3_retries.UNREACHABLE_ATTEMPTS)]


def test_a_server_that_comes_back_is_found_again(folder, proxy):
    proxy.refuse()
    with pytest.raises(OSError, match="nothing answers there"):
        folder.read("model.bin")

    proxy.listen()

    assert folder.read("model.bin") == CONTENT


@pytest.mark.parametrize("what", ["read", "write", "names", "exists", "size"])
def test_a_missing_bucket_is_not_a_missing_file(proxy, what):
    folder = Folder("s3://laek/runs")
    calls = {
        "write": lambda: folder.write("x", b"1"),
        "read": lambda: folder.read("x"),
        "names": folder.names,
        "exists": lambda: folder.exists("x"),
        "size": lambda: folder.size("x"),
    }

    with pytest.raises(OSError, match="there is no bucket 'laek'") as caught:
        calls[what]()

    assert not isinstance(caught.value, FileNotFoundError)


def test_a_server_that_is_not_s3_is_not_a_missing_file(folder, proxy):
    proxy.inject("404", 1000)

    with pytest.raises(OSError, match=r"writing .* failed.*See to the address") as caught:
        folder.write("x", b"1")

    assert not isinstance(caught.value, FileNotFoundError)


def test_absent_credentials_are_named(proxy, monkeypatch):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": proxy.url})

    with pytest.raises(PermissionError, match=r"no usable credentials.*AWS_ACCESS_KEY_ID"):
        Folder("s3://lake/x").read("y")


def test_the_preflight_is_over_in_its_time_though_nothing_answers(folder, proxy):
    proxy.inject("hang", 1000)
    before = {*threading.enumerate()}

    with pytest.raises(OSError, match=r"writing a probe failed \(no end of it within 1 s"):
        folder.check_writable("output", limit_s=1.2)

    left = [each for each in threading.enumerate() if each.name == "check-writable"]
    proxy.clear()
    for thread in {*left} - before:  # it is still at it, and writes to what the next test finds
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    ("method", "step"), [("PUT", "writing"), ("GET", "reading back"), ("DELETE", "deleting")]
)
def test_the_preflight_says_which_step_failed(folder, proxy, method, step):
    proxy.inject("403", 1000, when=lambda request: request.method == method)

    with pytest.raises(OSError, match=rf"{step} a probe failed.*refuses"):
        folder.check_writable("output")

    proxy.clear()
    assert len(folder.names()) == (2 if method == "DELETE" else 1)


def test_the_preflight_leaves_nothing(folder):
    folder.check_writable("output")

    assert folder.names() == ["model.bin"]


def test_an_upload_that_is_cut_leaves_nothing_and_the_next_one_works(folder, proxy, monkeypatch):
    monkeypatch.setattr(s3_retries, "ATTEMPTS", 2)
    proxy.inject("cut_upload", 1000, size=1000)

    with pytest.raises(OSError, match=r"writing s3://lake/runs/small/large\.bin failed"):
        folder.write("large.bin", os.urandom(2**20))
    proxy.clear()
    assert folder.names() == ["model.bin"]

    content = os.urandom(2**20)
    folder.write("large.bin", content)
    assert folder.read("large.bin") == content


@pytest.fixture
def parts(monkeypatch):
    """Uploads in parts of the smallest size that S3 takes."""
    monkeypatch.setattr(s3, "PART_BYTES", 5 * 2**20)


def pending(folder):
    return folder.backend.fs.list_multipart_uploads("lake")


def is_part(request):
    return "partNumber=2" in request.path


def test_a_part_that_is_cut_is_sent_again(folder, proxy, parts):
    content = os.urandom(11 * 2**20)
    proxy.inject("cut_upload", 2, size=1000, when=is_part)

    folder.write("large.bin", content)

    assert folder.read("large.bin") == content
    assert folder.read("large.bin", 5 * 2**20 - 1, 5 * 2**20 + 1) == content[5242879:5242881]
    assert pending(folder) == []


def test_an_upload_in_parts_that_fails_leaves_no_object_and_no_parts(folder, proxy, parts):
    proxy.inject("403", 1000, when=is_part)

    with pytest.raises(PermissionError, match=r"large\.bin"):
        folder.write("large.bin", bytes(11 * 2**20))

    assert folder.names() == ["model.bin"]
    assert pending(folder) == []


def test_ctrl_c_in_an_upload_leaves_no_parts(folder, parts, monkeypatch):
    def pipe_file(path, content, chunksize):
        folder.backend.fs.call_s3(
            "create_multipart_upload", Bucket="lake", Key="runs/small/large.bin"
        )
        raise KeyboardInterrupt

    monkeypatch.setattr(folder.backend.fs, "pipe_file", pipe_file)
    with pytest.raises(KeyboardInterrupt):
        folder.write("large.bin", bytes(11 * 2**20))

    assert pending(folder) == []


def test_parts_of_a_killed_writer_go_with_the_next_upload_of_the_same_name(folder, proxy, parts):
    for name in ("large.bin", "large.bin2"):
        folder.backend.fs.call_s3(
            "create_multipart_upload", Bucket="lake", Key=f"runs/small/{name}"
        )

    folder.write("large.bin", bytes(11 * 2**20))

    assert [each["Key"] for each in pending(folder)] == ["runs/small/large.bin2"]


WRITER = """
import sys
from pipeline.storage import s3
from pipeline.storage.folder import Folder
s3.PART_BYTES = 5 * 2**20
Folder("s3://lake/runs/small").write("large.bin", bytes(11 * 2**20))
"""


def test_a_writer_killed_in_an_upload_leaves_no_object_and_the_next_one_clears_its_parts(
    folder, proxy, parts
):
    proxy.inject("hang", 1000, when=is_part)
    with subprocess.Popen(
        [sys.executable, "-c", WRITER], cwd=ROOT, env=os.environ | client(proxy.url)
    ) as writer:
        try:
            wait_until(lambda: any(map(is_part, proxy.requests)), "the second part")
        finally:
            writer.kill()
    proxy.clear()
    assert folder.names() == ["model.bin"]
    assert [each["Key"] for each in pending(folder)] == ["runs/small/large.bin"]

    content = os.urandom(11 * 2**20)
    folder.write("large.bin", content)

    assert folder.read("large.bin") == content
    assert pending(folder) == []


def is_beginning(request):
    return request.method == "POST" and request.path.endswith("?uploads")


def is_completion(request):
    return request.method == "POST" and bool(re.search(r"uploadId=[^&]+$", request.path))


@pytest.mark.parametrize("request_of", [is_beginning, is_completion])
def test_an_upload_that_loses_an_answer_still_leaves_the_object(folder, proxy, parts, request_of):
    content = os.urandom(11 * 2**20)
    proxy.inject("lost_answer", when=request_of)

    folder.write("large.bin", content)

    assert folder.read("large.bin") == content
    assert pending(folder) == []


def test_what_is_written_carries_a_checksum_for_s3_to_verify(folder, proxy):
    folder.write("x", b"content")

    headers = proxy.requests[-1].headers
    assert "x-amz-checksum-crc32" in headers or "x-amz-trailer" in headers


def test_a_file_is_created_once(folder, proxy):
    assert folder.create("only", b"first")
    assert not folder.create("only", b"second")
    assert folder.read("only") == b"first"


def test_an_open_file_survives_answers_that_break_off(folder, proxy):
    with folder.open("model.bin") as stream:
        stream.seek(-1000, os.SEEK_END)
        proxy.inject("cut", 3, size=10)
        assert stream.read() == CONTENT[-1000:]
        stream.seek(0)
        proxy.inject("reset", 2)
        assert stream.read() == CONTENT


def test_reading_past_the_end_gives_what_is_there(folder):
    assert folder.read("model.bin", len(CONTENT) - 3, len(CONTENT) + 10) == CONTENT[-3:]
    assert folder.read("model.bin", len(CONTENT) + 10) == b""
    assert folder.read("model.bin", 5, 5) == b""


def test_what_s3_does_not_delete_is_said(folder, proxy):
    folder.remove()
    assert not folder.exists()

    folder.write("x", b"1")
    proxy.inject("403", 100, when=lambda request: "delete" in request.path)
    with pytest.raises(PermissionError, match="s3:DeleteObject"):
        folder.remove()
