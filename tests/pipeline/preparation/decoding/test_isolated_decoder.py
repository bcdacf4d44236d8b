"""The child that decodes: whatever happens to it costs one image, and it outlives nobody."""

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from PIL import Image

from pipeline.preparation.decoding import isolated_decoder as decoder_module
from pipeline.preparation.decoding.images import RejectedError, to_square_jpeg
from pipeline.preparation.decoding.isolated_decoder import CHILD, Decoder, end_children
from tests.conftest import encoded, photo
from tests.waiting import wait_until

GOOD = encoded(photo())


def decoders() -> list[psutil.Process]:
    """Decoders among the children of this process, which may have a Ray as well."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # one of the others ended meanwhile
            found += [child] if CHILD in child.cmdline() else []
    return found


@pytest.fixture(autouse=True)
def no_children_are_left():
    end_children()  # of preparations that other tests did in this process
    yield
    end_children()
    assert decoders() == []


def has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_the_child_gives_the_same_bytes_as_this_process():
    decoder = Decoder(32, 90)
    contents = [encoded(photo(seed=n), f) for n in range(3) for f in ("JPEG", "PNG", "WEBP")]

    for content in contents:
        assert decoder(content) == to_square_jpeg(content, 32, 90)
        assert decoder(content, (5, 6, 20, 24)) == to_square_jpeg(content, 32, 90, (5, 6, 20, 24))


def test_one_child_serves_all_images_and_all_copies_of_its_decoder():
    decoder = Decoder(32, 90)
    decoder(GOOD)

    copy = pickle.loads(pickle.dumps(decoder))
    copy(GOOD)

    assert copy.pid == decoder.pid is not None
    assert len(decoders()) == 1


def test_threads_share_the_child_without_a_mix_up():
    decoder = Decoder(32, 90)
    contents = [encoded(photo(seed=n)) for n in range(20)]

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(decoder, contents))

    assert found == [to_square_jpeg(content, 32, 90) for content in contents]
    assert len(decoders()) == 1


def test_an_image_that_kills_the_child_is_rejected_and_the_next_gets_another():
    decoder = Decoder(32, 90)
    decoder(GOOD)
    first = decoder.pid
    os.kill(first, signal.SIGSTOP)
    connection = decoder_module._children[decoder].connection
    receive = connection.recv_bytes

    def after_its_death(*most) -> bytes:
        os.kill(first, signal.SIGSEGV)  # it is sent the image, and has not answered
        os.kill(first, signal.SIGCONT)
        return receive(*most)

    connection.recv_bytes = after_its_death

    with pytest.raises(RejectedError) as refusal:
        decoder(GOOD)

    assert str(refusal.value) == "IMG_CRASH: the decoder ended by signal SIGSEGV"
    assert decoder(GOOD) == to_square_jpeg(GOOD, 32, 90)
    assert decoder.pid != first


def test_a_child_that_dies_between_images_costs_none():
    decoder = Decoder(32, 90)
    decoder(GOOD)
    pid = decoder.pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: has_ended(pid), "the child is dead")

    assert decoder(GOOD) == to_square_jpeg(GOOD, 32, 90)


@pytest.mark.parametrize("content", [GOOD, encoded(photo(2000, 2000), "PNG")])
def test_an_image_that_takes_too_long_is_rejected_and_the_child_ended(content):
    # The deadline is short for the one that is stuck only: the next one takes what time it needs.
    decoder = Decoder(32, 90)
    stuck = decoder_module._start(Decoder(32, 90, deadline_s=0.5))
    decoder_module._children[decoder] = stuck
    os.kill(stuck.process.pid, signal.SIGSTOP)

    with pytest.raises(RejectedError, match=r"IMG_TIMEOUT: not decoded within 0\.5 s"):
        decoder(content)

    assert stuck.process.returncode == -signal.SIGKILL
    assert decoder(GOOD) == to_square_jpeg(GOOD, 32, 90)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is kept on Linux only")
def test_memory_runs_out_in_the_child_only():
    content = encoded(Image.linear_gradient("L").resize((4000, 4000)).convert("RGB"), "PNG")

    with pytest.raises(RejectedError, match="IMG_TOO_LARGE: it takes more memory than there is"):
        Decoder(32, 90, memory_bytes=40 * 2**20)(content)

    assert Decoder(32, 90)(content).original_width == 4000


def test_options_that_cannot_work_are_no_fault_of_the_image():
    with pytest.raises(RuntimeError, match="the image decoder failed: ValueError: height and"):
        Decoder(0, 90)(GOOD)
    with pytest.raises(ValueError, match=r"deadline_s=0 must be 0\.001 s or more; 20 works"):
        Decoder(32, 90, deadline_s=0)


def test_a_child_that_cannot_be_started_is_an_error_and_no_reject(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")

    with pytest.raises(RuntimeError, match=r"cannot be started, twice in a row: it ended with sta"):
        Decoder(32, 90)(GOOD)


def test_an_answer_that_is_none_costs_one_image(monkeypatch):
    decoder = Decoder(32, 90)
    answers = [{"width": "wide"}, {"reason": "IMG_NEW", "detail": ""}, [1], None]

    for answer in answers:
        monkeypatch.setattr(decoder_module._Child, "ask", lambda *_, a=answer: (a, b""))
        with pytest.raises(RejectedError, match="IMG_CRASH"):
            decoder(GOOD)


def test_the_child_needs_pillow_only():
    code = f"import sys, json, {CHILD}; print(json.dumps(list(sys.modules)))"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}

    out = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True)

    loaded = {name.split(".")[0] for name in json.loads(out.stdout)}
    assert "PIL" in loaded
    assert not loaded & {"ray", "torch", "numpy", "mlflow", "pyarrow", "pydantic", "fsspec"}


def test_the_child_inherits_no_files():
    decoder = Decoder(32, 90)
    with open(os.devnull, "rb") as file:
        os.set_inheritable(file.fileno(), True)
        decoder(GOOD)

    open_files = psutil.Process(decoder.pid).num_fds()
    assert open_files <= 6  # three of any process, the line, and where its errors go


PARENT = """
import os, sys, signal, threading
from pipeline.preparation.decoding.isolated_decoder import Decoder, _children
from tests.pipeline.preparation.decoding.test_isolated_decoder import GOOD
decoder = Decoder(32, 90, deadline_s=60)
decoder(GOOD)
print(decoder.pid, flush=True)

def send_myself(number):  # in the middle of an image, which the child has, and is stopped
    os.kill(decoder.pid, signal.SIGSTOP)
    connection = _children[decoder].connection
    receive = connection.recv_bytes
    def meanwhile(*most):
        threading.Timer(0.2, os.kill, (os.getpid(), number)).start()
        return receive(*most)
    connection.recv_bytes = meanwhile

"""
ENDS = {
    "by itself": "",
    "without a goodbye": "os._exit(0)",
    "by SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
    "by SIGKILL in the middle of an image": """
send_myself(signal.SIGKILL)
decoder(GOOD)
""",
    "by Ctrl-C in the middle of an image": """
send_myself(signal.SIGINT)
try:
    decoder(GOOD)
except KeyboardInterrupt:
    print("interrupted", decoder.pid)
    decoder(GOOD)
""",
}


@pytest.mark.parametrize("end", ENDS)
def test_the_child_ends_with_its_parent(end):
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
    code = PARENT + ENDS[end]

    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, timeout=300)

    pid, *interrupted = out.stdout.decode().split()
    assert interrupted == (["interrupted", "None"] if "Ctrl-C" in end else [])
    wait_until(lambda: has_ended(int(pid)), f"the child ends, {out.stderr.decode()}")


def test_ctrl_c_leaves_the_child_to_its_parent():
    decoder = Decoder(32, 90)
    decoder(GOOD)
    pid = decoder.pid

    os.kill(pid, signal.SIGINT)
    decoder(GOOD)

    assert decoder.pid == pid


def test_a_thread_that_starts_the_child_may_end_before_it():
    decoder = Decoder(32, 90)
    starter = threading.Thread(target=decoder, args=(GOOD,))
    starter.start()
    starter.join()
    pid = decoder.pid
    # Python has joined it before the kernel has ended it.
    task = f"/proc/self/task/{starter.native_id}"
    wait_until(lambda: not os.path.exists(task), "the thread is gone")

    decoder(GOOD)

    assert decoder.pid == pid
