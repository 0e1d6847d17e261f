"""`--imds` asks the provider's own service only, and believes no odd answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from harness.errors import ArmbenchError
from harness.machine import imds
from harness.records.machine import Cloud

from .test_machines import expected


class Handler(BaseHTTPRequestHandler):
    """Answers from the server's `pages` and keeps what was asked."""

    def answer(self) -> None:
        self.server.seen.append((self.command, self.path, self.headers))
        status, body = self.server.pages.get(self.path, (404, ""))
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.end_headers()
        self.wfile.write(body.encode())

    do_GET = do_PUT = answer

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.pages, server.seen = {}, []
    base = f"http://127.0.0.1:{server.server_port}"
    changed = {name: each._replace(base=base) for name, each in imds.SERVICES.items()}
    monkeypatch.setattr(imds, "SERVICES", changed)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # would refuse
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_alibaba_is_asked_with_a_token(service: ThreadingHTTPServer) -> None:
    service.pages = {
        "/latest/api/token": (200, "abc"),
        "/latest/meta-data/instance/instance-type": (200, "ecs.g8y.4xlarge\n"),
        "/latest/meta-data/region-id": (200, "cn-hangzhou"),
    }
    cloud = imds.ask(Cloud(provider="alibaba"))
    assert (cloud.instance, cloud.region, cloud.guess) == ("ecs.g8y.4xlarge", "cn-hangzhou", False)
    assert service.seen[0][0] == "PUT"
    assert service.seen[1][2]["X-aliyun-ecs-metadata-token"] == "abc"


def test_azure_and_gcp_answers_are_taken_apart(service: ThreadingHTTPServer) -> None:
    page = '{"compute": {"vmSize": "Standard_D16ps_v6", "location": "eastus"}}'
    service.pages["/metadata/instance?api-version=2021-08-01"] = (200, page)
    assert imds.ask(Cloud(provider="azure")).instance == "Standard_D16ps_v6"
    base = "/computeMetadata/v1/instance"
    service.pages[f"{base}/machine-type"] = (200, "projects/1/machineTypes/c4a-standard-16")
    service.pages[f"{base}/zone"] = (200, "projects/1/zones/us-central1-a")
    cloud = imds.ask(Cloud(provider="gcp"))
    assert (cloud.instance, cloud.region) == ("c4a-standard-16", "us-central1")


@pytest.mark.parametrize(
    "page",
    [
        (302, ""),
        (404, ""),
        (200, ""),
        (200, "<html>log in</html>"),
        (200, "a b\nc"),
        (200, "x" * 99),
    ],
)
def test_redirects_and_odd_answers_are_refused(
    service: ThreadingHTTPServer, page: tuple[int, str]
) -> None:
    service.pages = {
        "/latest/api/token": (200, "abc"),
        "/latest/meta-data/instance-type": page,
        "/elsewhere": (200, "c8g.4xlarge"),
    }
    with pytest.raises(ArmbenchError, match="--imds"):
        imds.ask(Cloud(provider="aws"))
    assert all(path != "/elsewhere" for _, path, _ in service.seen)


def test_an_answer_replaces_the_guess_and_the_reason(service: ThreadingHTTPServer) -> None:
    service.pages = {
        "/latest/api/token": (200, "abc"),
        "/latest/meta-data/instance/instance-type": (200, "ecs.r8y.4xlarge"),
        "/latest/meta-data/region-id": (200, "cn-hangzhou"),
    }
    machine = expected("yitian-710-16cpu")
    machine.unknown["cloud.instance"] = "DMI does not tell it"
    imds.complete(machine)
    assert (machine.cloud.instance, machine.cloud.guess) == ("ecs.r8y.4xlarge", False)
    assert "cloud.instance" not in machine.unknown


@pytest.mark.parametrize("provider", [None, "hetzner"])
def test_without_a_known_service_the_user_is_told_what_to_do(provider: str | None) -> None:
    with pytest.raises(ArmbenchError) as error:
        imds.ask(Cloud(provider=provider))
    assert "--instance" in (error.value.hint or "")
