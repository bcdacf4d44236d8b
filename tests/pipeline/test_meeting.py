"""Workers find the network interface that their node's address is on."""

import os

import pytest

from pipeline import meeting


@pytest.mark.parametrize(("address", "interface"), [("127.0.0.1", "lo"), ("203.0.113.7", None)])
def test_the_interface_of_an_address_is_found(address, interface):
    assert meeting.interface_of(address) == interface


@pytest.mark.parametrize("told", ["", "eth7"])
def test_a_worker_meets_others_at_its_nodes_address_unless_told_where(told, monkeypatch):
    monkeypatch.setattr(meeting.ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    # Set before it is deleted, so that what is set here is taken back.
    monkeypatch.setenv(meeting.INTERFACE, told)
    monkeypatch.delenv(meeting.INTERFACE)
    if told:
        monkeypatch.setenv(meeting.INTERFACE, told)

    meeting.meet_on_network()

    assert os.environ[meeting.INTERFACE] == (told or "lo")
