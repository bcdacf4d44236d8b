"""Fixtures of tests of storage that fails: a bucket behind a proxy."""

import fsspec
import pytest

from pipeline.storage import s3_retries
from pipeline.storage.folder import Folder
from tests.chaos.proxy import ChaosProxy
from tests.services import KEY, SECRET

CONTENT = bytes(range(256)) * 200
# Client, proxy and server share a process: a busy machine may stop all three for a while, and what
# is asked again for want of an answer would be counted.
PATIENCE_S = 300


@pytest.fixture(scope="module")
def one_proxy(s3_server):
    """One for all tests here: a new address each time would cost a new client each time."""
    with ChaosProxy(*s3_server.address) as proxy:
        yield proxy


@pytest.fixture
def proxy(one_proxy, bucket, monkeypatch):
    """The bucket behind a proxy that fails on demand."""
    monkeypatch.setitem(
        fsspec.config.conf,
        "s3",
        {
            "endpoint_url": one_proxy.url,
            "key": KEY,
            "secret": SECRET,
            "config_kwargs": {"read_timeout": PATIENCE_S, "connect_timeout": PATIENCE_S},
        },
    )
    monkeypatch.setattr(s3_retries, "PAUSE_S", 0.01)
    one_proxy.clear()
    one_proxy.listen()
    return one_proxy


@pytest.fixture
def folder(proxy):
    folder = Folder("s3://lake/runs/small")
    folder.write("model.bin", CONTENT)
    proxy.clear()
    return folder
