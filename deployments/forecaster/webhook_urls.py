"""Which addresses a webhook may have: none of this machine or of a private network."""

from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import SplitResult, urlsplit

from deployments.forecaster.problems import ProblemError
from tasks.edges.settings import read_settings

_NAT64 = int(IPv6Address("64:ff9b::"))


def check_webhook_url(url: str) -> SplitResult:
    """The parts of *url*. Raises ProblemError 422 when a webhook must not have it."""
    rule = "A webhook is an https URL of a public host, without a user or a fragment."
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ProblemError(422, "webhook", f"{url[:100]!r} is no URL", rule, "Correct it.") from error
    schemes = {"https", "http"} if read_settings().webhook_private == "allow" else {"https"}
    if parts.scheme not in schemes or not host or "@" in parts.netloc or parts.fragment or not url.isascii():
        raise ProblemError(422, "webhook", f"{url[:100]!r}", rule, "Correct it.")
    if not is_allowed_host(host):
        fact = f"{host[:100]!r} is of this machine or of a private network"
        raise ProblemError(422, "webhook", fact, rule, "The operator may set TIDEMILL_WEBHOOK_PRIVATE=allow.")
    return parts


def is_allowed_host(host: str) -> bool:
    """Whether *host* may be called, by its text alone; names are resolved later."""
    try:
        return is_allowed_address(host)
    except ValueError:
        is_private = host == "localhost" or host.endswith((".localhost", ".local", ".internal"))
        return not is_private or read_settings().webhook_private == "allow"


def is_allowed_address(address: str) -> bool:
    """Whether a webhook may connect to *address*. Raises ValueError when it is none."""
    found = ip_address(address.partition("%")[0])
    return read_settings().webhook_private == "allow" or all(
        part.is_global and not part.is_multicast for part in _list_addresses(found)
    )


def _list_addresses(address: IPv4Address | IPv6Address) -> list[IPv4Address | IPv6Address]:
    """*address*, and the IPv4 addresses that are within it."""
    if isinstance(address, IPv4Address):
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    inner = [address.sixtofour, *(address.teredo or ())]
    if int(address) >> 32 == _NAT64 >> 32:
        inner.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return [address, *(part for part in inner if part is not None)]
