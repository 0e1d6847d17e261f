"""Asks the cloud's own metadata service what this instance is: only with `--imds`.

Each provider's documented address, never through a proxy, never after a redirect, and the answer
is short and checked before it is believed.
"""

from __future__ import annotations

import http.client
import json
import re
import urllib.request
from typing import NamedTuple

from harness.errors import ArmbenchError
from harness.records.machine import Cloud, Machine

TIMEOUT_S = 0.5
_LONGEST = 65536
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LINK_LOCAL = "http://169.254.169.254"


class _Token(NamedTuple):
    """How a session token is had: PUT to `path`, sent on in `header`."""

    path: str
    ask: tuple[str, str]
    header: str


class _Service(NamedTuple):
    """One provider's service: base address, headers, token, and the paths of type and region.

    A path `a#b.c` is JSON at `a`, of which the entry `c` below `b` is taken.
    """

    base: str
    headers: dict[str, str]
    token: _Token | None
    instance: str
    region: str | None


_AZURE = "/metadata/instance?api-version=2021-08-01"
SERVICES = {
    "aws": _Service(
        _LINK_LOCAL,
        {},
        _Token(
            "/latest/api/token",
            ("X-aws-ec2-metadata-token-ttl-seconds", "60"),
            "X-aws-ec2-metadata-token",
        ),
        "/latest/meta-data/instance-type",
        "/latest/meta-data/placement/region",
    ),
    "alibaba": _Service(
        "http://100.100.100.200",
        {},
        _Token(
            "/latest/api/token",
            ("X-aliyun-ecs-metadata-token-ttl-seconds", "60"),
            "X-aliyun-ecs-metadata-token",
        ),
        "/latest/meta-data/instance/instance-type",
        "/latest/meta-data/region-id",
    ),
    "azure": _Service(
        _LINK_LOCAL,
        {"Metadata": "true"},
        None,
        f"{_AZURE}#compute.vmSize",
        f"{_AZURE}#compute.location",
    ),
    "gcp": _Service(
        _LINK_LOCAL,  # metadata.google.internal; a name could make us wait for a resolver
        {"Metadata-Flavor": "Google"},
        None,
        "/computeMetadata/v1/instance/machine-type",
        "/computeMetadata/v1/instance/zone",
    ),
    "oci": _Service(
        _LINK_LOCAL,
        {"Authorization": "Bearer Oracle"},
        None,
        "/opc/v2/instance/#shape",
        "/opc/v2/instance/#region",
    ),
}


def ask(cloud: Cloud) -> Cloud:
    """`cloud` with type and region from the provider's metadata service.

    Raises ArmbenchError where the provider is unknown or has no such service here, where nothing
    answers within half a second, and where the answer is no instance type.
    """
    service = SERVICES.get(cloud.provider or "")
    if service is None:
        raise ArmbenchError(
            f"--imds: no metadata service is known for {cloud.provider or 'this machine'}",
            hint="say the type with --instance",
        )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())
    headers = dict(service.headers)
    if service.token:
        put = _request(service, service.token.path, {}, "PUT")
        put.add_header(*service.token.ask)
        headers[service.token.header] = _read(opener, put).strip()
    instance = _value(opener, service, service.instance, headers)
    if instance is None:
        raise ArmbenchError(
            "--imds: the answer of the metadata service is no instance type",
            hint="say the type with --instance",
        )
    region = _value(opener, service, service.region, headers) if service.region else None
    return Cloud(
        provider=cloud.provider,
        instance=instance,
        region=_region(cloud.provider, region),
        source=f"metadata service {service.base}",
    )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object, **__: object) -> None:
        return None


def _request(
    service: _Service, path: str, headers: dict[str, str], method: str = "GET"
) -> urllib.request.Request:
    url = service.base + path  # from the table above: always http
    return urllib.request.Request(url, headers=headers, method=method)  # noqa: S310


def _value(
    opener: urllib.request.OpenerDirector, service: _Service, path: str, headers: dict[str, str]
) -> str | None:
    """One word of the service, or None where it answers anything else."""
    path, _, keys = path.partition("#")
    text = _read(opener, _request(service, path, headers)).strip()
    if keys:
        text = _entry(text, keys)
    text = text.rpartition("/")[2]  # GCP: projects/N/machineTypes/c4a-standard-16
    return text if _WORD.fullmatch(text) else None


def _entry(text: str, keys: str) -> str:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    for key in keys.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) else ""


def _read(opener: urllib.request.OpenerDirector, request: urllib.request.Request) -> str:
    try:
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            return str(answer.read(_LONGEST).decode("utf-8", "replace"))
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise ArmbenchError(
            f"--imds: {request.host} does not answer ({reason})",
            hint="containers are often kept from it; say the type with --instance",
        ) from error


def _region(provider: str | None, region: str | None) -> str | None:
    """GCP tells the zone: its last part goes."""
    return region.rpartition("-")[0] or None if provider == "gcp" and region else region


def complete(machine: Machine) -> None:
    """Puts the service's answer into `machine`. Raises ArmbenchError as `ask` does."""
    machine.cloud = ask(machine.cloud)
    machine.unknown.pop("cloud.instance", None)
