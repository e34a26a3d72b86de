"""The interface of an address, on this machine."""

from __future__ import annotations

import psutil
import pytest

from foundray.host.network import interface_of


@pytest.mark.parametrize("address", ["127.0.0.1", "127.7.0.12"])
def test_all_loopback_addresses_are_of_one_interface(address: str) -> None:
    name = interface_of(address)
    assert name is not None
    assert "127.0.0.1" in {found.address for found in psutil.net_if_addrs()[name]}


def test_an_address_of_another_network_has_no_interface() -> None:
    assert interface_of("240.0.0.1") is None
    assert interface_of("2001:db8::1") is None
