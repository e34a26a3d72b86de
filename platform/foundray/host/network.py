"""This machine's network interfaces."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface

import psutil


def interface_of(address: str) -> str | None:
    """Name of the interface that has the address, or whose network contains it; None if there is none."""
    wanted, containing = ip_address(address), list[str]()
    for name, addresses in psutil.net_if_addrs().items():
        for found in addresses:
            try:
                own = ip_interface(f"{found.address.partition('%')[0]}/{found.netmask}")
            except ValueError:  # a hardware address, or one without a network
                continue
            if own.ip == wanted:
                return name
            if wanted in own.network:
                containing.append(name)
    return containing[0] if containing else None
