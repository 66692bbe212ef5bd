"""Functions on ranges of IP addresses."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network

from infra.emulator.template.context import Function
from infra.emulator.template.functions import arguments
from infra.emulator.template.functions.arguments import failed
from infra.emulator.template.values import Value


def _network(function: str, value: Value) -> IPv4Network | IPv6Network:
    text = arguments.text(function, value)
    try:
        if "/" not in text:
            raise ValueError
        return ip_network(text, strict=False)
    except ValueError:
        raise failed(function, f"the string '{text}' is not an address range in CIDR notation.") from None


def _parse_cidr(given: list[Value]) -> Value:
    network = _network("parseCidr", given[0])
    first, last = network.network_address, network.broadcast_address
    parsed: dict[str, Value] = {"network": str(first), "netmask": str(network.netmask)}
    if isinstance(network, IPv4Network):
        # Ranges of one or two addresses have none to spare for the network and the broadcast.
        spare = 1 if network.num_addresses > 2 else 0
        parsed |= {"broadcast": str(last), "firstUsable": str(first + spare), "lastUsable": str(last - spare)}
    else:
        parsed |= {"firstUsable": str(first), "lastUsable": str(last)}
    return {**parsed, "cidr": network.prefixlen}


def _cidr_subnet(given: list[Value]) -> Value:
    network = _network("cidrSubnet", given[0])
    length, index = arguments.integer("cidrSubnet", given[1]), arguments.integer("cidrSubnet", given[2])
    if not network.prefixlen <= length <= network.max_prefixlen:
        raise failed("cidrSubnet", f"the prefix length '{length}' does not fit into the range '{network}'.")
    if not 0 <= index < 1 << (length - network.prefixlen):
        raise failed("cidrSubnet", f"the range '{network}' has no subnet '{index}' of prefix length '{length}'.")
    address = network.network_address + (index << (network.max_prefixlen - length))
    return f"{address}/{length}"


def _cidr_host(given: list[Value]) -> Value:
    network, index = _network("cidrHost", given[0]), arguments.integer("cidrHost", given[1])
    # The address of the network is no host, nor is the broadcast address of an IPv4 range.
    hosts = network.num_addresses - (2 if isinstance(network, IPv4Network) else 1)
    if not 0 <= index < hosts:
        raise failed("cidrHost", f"the range '{network}' has no host '{index}'.")
    return str(network.network_address + 1 + index)


FUNCTIONS = (
    Function("parseCidr", 1, 1, pure=_parse_cidr),
    Function("cidrSubnet", 3, 3, pure=_cidr_subnet),
    Function("cidrHost", 2, 2, pure=_cidr_host),
)
