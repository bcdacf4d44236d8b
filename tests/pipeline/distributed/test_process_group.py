"""Workers find the network interface that their node's address is on."""

import os

import psutil
import pytest
from torch.distributed import TCPStore

from pipeline.distributed import process_group
from pipeline.distributed.process_group import GLOO, NCCL
from pipeline.ray_cluster.port_audit import listening
from pipeline.ray_cluster.port_probe import Endpoint


@pytest.mark.parametrize(("address", "interface"), [("127.0.0.1", "lo"), ("203.0.113.7", None)])
def test_the_interface_of_an_address_is_found(address, interface):
    assert process_group.interface_of(address) == interface


@pytest.mark.parametrize("told", ["", "eth7"])
@pytest.mark.parametrize("address", ["127.0.0.1", ""])
def test_a_worker_listens_on_the_network_of_the_others_unless_told_where(
    address, told, monkeypatch
):
    monkeypatch.setattr(process_group.ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setattr(process_group.os, "environ", {GLOO: told} if told else {})

    process_group.meet_at(address)

    assert os.environ[GLOO] == (told or "lo")
    assert os.environ.get(NCCL) == ("lo" if address else None), "between machines it looks itself"
    assert os.environ["NCCL_RAS_ENABLE"] == "0"


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_the_store_of_a_group_listens_at_one_address_and_torch_finds_it_there(address):
    own = psutil.Process()
    before = listening([own])

    place, port = process_group.open_store(address)
    TCPStore(place, port, is_master=True, multi_tenant=True).set("key", "value")

    assert set(listening([own])) - set(before) == {Endpoint(address, port)}
    assert place == address
    assert TCPStore(place, port, is_master=False).get("key") == b"value"
