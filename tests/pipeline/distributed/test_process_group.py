"""Workers find the network interface that their node's address is on."""

import os

import pytest

from pipeline.distributed import process_group


@pytest.mark.parametrize(("address", "interface"), [("127.0.0.1", "lo"), ("203.0.113.7", None)])
def test_the_interface_of_an_address_is_found(address, interface):
    assert process_group.interface_of(address) == interface


@pytest.mark.parametrize("told", ["", "eth7"])
def test_a_worker_meets_others_at_its_nodes_address_unless_told_where(told, monkeypatch):
    monkeypatch.setattr(process_group.ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    # Set before it is deleted, so that what is set here is taken back.
    monkeypatch.setenv(process_group.INTERFACE, told)
    monkeypatch.delenv(process_group.INTERFACE)
    if told:
        monkeypatch.setenv(process_group.INTERFACE, told)

    process_group.meet_on_network()

    assert os.environ[process_group.INTERFACE] == (told or "lo")
