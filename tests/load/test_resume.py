"""Which runs of `armbench load` can be finished, and with what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from harness import managed_run
from harness.endpoint_spec import EndpointSpec, make_spec
from harness.errors import ArmbenchError, NotComparable
from harness.machine.detect import detect
from harness.managed_run import ManagedRun, begin_managed, resume_managed
from harness.records.machine import Machine


class Silent:
    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *given, **more: None


def spec(**changes: Any) -> EndpointSpec:
    asked = {"server": "llama-server", "model": "m.gguf", "concurrency": [1], **changes}
    return make_spec(asked, headers={}, verify=True, ignore_eos=True)


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Machine, Path]:
    """A run of a managed server that was interrupted while its second server ran."""
    monkeypatch.setattr(managed_run, "Managed", lambda *given, **more: None)
    machine = detect()
    run = begin_managed(spec(), machine, tmp_path, Silent())
    assert run.result.target is not None
    run.result.target.url = "http://127.0.0.1:40123/v1"
    run.path.parent.mkdir(parents=True, exist_ok=True)
    run.save()
    return machine, run.path


def test_a_run_of_a_managed_server_is_finished_though_its_port_is_another(
    begun: tuple[Machine, Path],
) -> None:
    machine, path = begun
    run = resume_managed(spec(), path, machine, Silent())
    assert isinstance(run, ManagedRun)
    assert run.remaining() == [(0, 0)]


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"seed": 2}, "another seed"),
        ({"model": "n.gguf"}, "another model"),
        ({"concurrency": [2]}, "another load"),
    ],
)
def test_a_run_is_not_finished_with_other_flags(
    begun: tuple[Machine, Path], changes: dict[str, Any], differs: str
) -> None:
    machine, path = begun
    with pytest.raises(NotComparable, match=differs):
        resume_managed(spec(**changes), path, machine, Silent())


def test_a_run_is_not_finished_on_another_machine(begun: tuple[Machine, Path]) -> None:
    machine, path = begun
    cpu = structs.replace(machine.cpu, product="Some other CPU")
    with pytest.raises(NotComparable, match="another machine"):
        resume_managed(spec(), path, structs.replace(machine, cpu=cpu), Silent())


def test_a_server_on_this_machine_is_not_asked_through_a_proxy(tmp_path: Path) -> None:
    with pytest.raises(ArmbenchError, match="--proxy"):
        begin_managed(spec(proxy="http://proxy:3128"), detect(), tmp_path, Silent())
