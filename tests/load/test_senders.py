"""Client processes: one schedule among them, their end, and what they say of themselves."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import ArmbenchError
from harness.load import messages
from harness.load.bodies import Bodies
from harness.load.offering import client_seen
from harness.load.selfcheck import check_client
from harness.load.senders import Senders
from harness.records.load import Target
from harness.records.run import RequestRecord
from tests.load.scripted import CHUNKED, DONE, Say, Scripted, Talk, asked, chunk, event

CPU = min(os.sched_getaffinity(0))


def answer(talk: Talk) -> None:
    talk.stream(event("a"), event("b", "length"), DONE)


@pytest.fixture
def server() -> Iterator[Scripted]:
    with Scripted(answer) as running:
        yield running


def target(server: Scripted) -> Target:
    return Target(url=server.url, endpoint="completions", model="m")


def test_two_processes_share_one_schedule_and_every_request_goes_out_once(
    server: Scripted,
) -> None:
    with Senders(target(server), cpus=[CPU], processes=2, key="secret-key") as senders:
        pids = senders.pids
        for pid in pids:
            assert "secret-key" not in Path(f"/proc/{pid}/cmdline").read_text()
            assert os.sched_getaffinity(pid) == {CPU}
        ran = senders.run([asked("x", n, 2.0 * n) for n in range(40)], Say(), drain_s=10)
        again = senders.run([asked("x", n, None) for n in range(9)], Say(), concurrency=3)
    assert [record.id for record in ran.records] == list(range(40))
    assert {record.http.sender for record in ran.records if record.http} == {0, 1}
    assert [record.error for record in ran.records] == [None] * 40
    assert all(record.due_ns == ran.start_ns + record.id * 2_000_000 for record in ran.records)
    keys = [talk.headers["x-request-id"] for talk in server.requests]
    assert sorted(keys[:40]) == sorted(f"{ran.tag}-{n}" for n in range(40))
    assert {talk.headers["authorization"] for talk in server.requests} == {"Bearer secret-key"}
    assert sorted({record.slot for record in again.records}) == [0, 1, 2]
    assert again.tag != ran.tag
    for pid in pids:
        assert not Path(f"/proc/{pid}").exists()


def test_the_client_tells_what_it_saw_of_itself(server: Scripted) -> None:
    with Senders(target(server), cpus=[CPU]) as senders:
        seen = senders.run([asked("x", n, 5.0 * n) for n in range(20)], Say()).client
    assert (seen.processes, seen.cpus, seen.events) == (1, [CPU], 60)
    assert seen.reads >= 20
    assert seen.wire_bytes > 20 * len(CHUNKED)
    assert seen.seconds >= 0.095
    assert seen.cpu_share is not None
    assert 0 < seen.cpu_share <= 1.1
    assert seen.loop_lag_s is not None
    assert seen.stamps == "kernel" or seen.stamps_reason
    assert seen.merged_share is not None


def test_without_kernel_stamps_the_client_says_so(server: Scripted) -> None:
    with Senders(target(server), cpus=[CPU], kernel_stamps=False) as senders:
        ran = senders.run([asked("x")], Say())
    assert ran.client.stamps == "user"
    assert "had no kernel stamp" in str(ran.client.stamps_reason)
    assert len(ran.records[0].token_ns) == 2


def test_a_load_can_be_ended_by_what_came_so_far(server: Scripted) -> None:
    def stop(records: list[RequestRecord]) -> str | None:
        return "enough" if len(records) >= 5 else None

    planned = [asked("x", n, 10.0 * n) for n in range(2000)]
    with Senders(target(server), cpus=[CPU]) as senders:
        ran = senders.run(planned, Say(), stop=stop, stop_every_s=0.05)
    assert ran.stopped == "enough"
    assert 5 <= len(ran.records) < 2000
    assert [record.error for record in ran.records] == [None] * len(ran.records)


def test_a_conversation_says_what_was_answered_whichever_process_has_it() -> None:
    def play(talk: Talk) -> None:
        heard = [one["content"] for one in talk.body["messages"]]
        choice = {"delta": {"content": f"to {heard[-1]}"}, "finish_reason": "stop"}
        talk.stream(b"data: %s\n\n" % json.dumps({"choices": [choice]}).encode(), DONE)

    planned = [
        asked(f"{talk}.{turn}", 10 * talk + turn, None, conversation=talk, turn=turn)
        for turn in range(3)
        for talk in range(4)
    ]
    with Scripted(play) as server:
        chat = Target(url=server.url, endpoint="chat", model="m")
        with Senders(chat, cpus=[CPU], processes=2) as senders:
            ran = senders.run(planned, Bodies(chat), concurrency=2)
    assert [(record.id, record.error) for record in ran.records] == [
        (10 * talk + turn, None) for talk in range(4) for turn in range(3)
    ]
    said = {
        talk.headers["x-request-id"].rpartition("-")[2]: [
            m["content"] for m in talk.body["messages"]
        ]
        for talk in server.requests
    }
    assert said["32"] == ["3.0", "to 3.0", "3.1", "to 3.1", "3.2"]
    by_id = {record.id: record for record in ran.records}
    assert by_id[11].http.sender == by_id[10].http.sender  # type: ignore[union-attr]
    assert by_id[11].slot == by_id[10].slot


def test_neither_end_waits_for_the_other_while_both_have_much_to_say() -> None:
    ours, theirs = socket.socketpair()
    desk = messages.Desk(theirs)
    order = messages.Batch("s", [], [b"x" * (8 << 20)])
    telling = threading.Thread(target=messages.send, args=(ours, order))
    telling.start()
    word = messages.Refused("y" * (8 << 20), None)
    desk.put(word)
    heard: list[messages.Word] = []

    def hear() -> None:
        telling.join()
        heard.append(messages.receive(ours))

    hearing = threading.Thread(target=hear)
    hearing.start()
    desk.post(wait=True)
    hearing.join()
    assert heard == [word]
    assert desk.take() == order
    assert desk.take() is None
    ours.close()
    with pytest.raises(messages.Closed):
        desk.take(wait=True)
    theirs.close()


def test_a_long_closed_loop_gets_its_bodies_on_the_way(
    server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "BATCH", 7)
    made = []

    class Counting(Say):
        def body(self, planned, said=()):  # type: ignore[no-untyped-def]
            made.append(planned.id)
            return super().body(planned, said)

    count = 2 * messages.FEW + 30
    with Senders(target(server), cpus=[CPU]) as senders:
        planned = [asked("x", n, None) for n in range(count)]
        ran = senders.run(planned, Counting(), concurrency=4, stop_after_s=0.3)
        few = len(made)
        all_of_them = senders.run(planned[-60:], Say(), concurrency=4)
    assert few < count or len(ran.records) > messages.FEW
    assert [record.error for record in ran.records] == [None] * len(ran.records)
    assert len(all_of_them.records) == 60


def test_ctrl_c_in_mid_run_brings_what_there_is() -> None:
    def play(talk: Talk) -> None:
        if len(server.requests) == 3:
            talk.send(CHUNKED, chunk(event("a")))
            time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)
            over.wait(10)
        answer(talk)

    over = threading.Event()
    with Scripted(play) as server, Senders(target(server), cpus=[CPU]) as senders:
        pids = senders.pids
        ran = senders.run([asked("x", n, None) for n in range(99)], Say(), concurrency=1)
        over.set()
    assert ran.interrupted
    assert [record.finish for record in ran.records] == ["length", "length", "unfinished"]
    assert ran.records[2].error == "interrupted, 1 tokens so far"
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_requests_of_a_sender_that_was_killed_are_errors_not_gaps() -> None:
    def play(talk: Talk) -> None:
        os.kill(senders.pids[0], signal.SIGKILL)
        time.sleep(0.1)
        answer(talk)

    with Scripted(play) as server, Senders(target(server), cpus=[CPU], processes=2) as senders:
        ran = senders.run([asked("x", n, 0.0) for n in range(4)], Say())
    assert len(ran.faults) == 1
    assert "killed by SIGKILL" in ran.faults[0]
    assert [record.id for record in ran.records] == [0, 1, 2, 3]
    assert {record.id for record in ran.records if record.finish == "error"} == {0, 2}


def test_senders_die_with_their_parent() -> None:
    code = (
        "import os, sys\n"
        "from harness.load.senders import Senders\n"
        "from harness.records.load import Target\n"
        "t = Target(url='http://127.0.0.1:9', endpoint='chat', model='m')\n"
        f"s = Senders(t, cpus=[{CPU}])\n"
        "print(s.pids[0], flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=False)
    stat = Path(f"/proc/{int(done.stdout)}/stat")
    for _ in range(500):
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.01)
    raise AssertionError("the sender outlived its parent")


@pytest.mark.parametrize(
    ("planned", "options", "says"),
    [
        ([], {}, "without requests"),
        ([asked("x", 0, None)], {}, "without a concurrency"),
        ([asked("x", 0, None)], {"concurrency": 0}, "a concurrency of 0"),
    ],
)
def test_a_load_that_cannot_be_is_refused(server, planned, options, says) -> None:  # type: ignore
    with (
        Senders(target(server), cpus=[CPU]) as senders,
        pytest.raises(ArmbenchError, match=says),
    ):
        senders.run(planned, Say(), **options)


def test_a_cpu_that_is_not_ours_is_an_error_for_the_user(server: Scripted) -> None:
    with pytest.raises(ArmbenchError):
        Senders(target(server), cpus=[100_000])


def test_a_dead_endpoint_is_an_error_for_the_user_and_the_senders_go_on() -> None:
    dead = Target(url="http://127.0.0.1:9", endpoint="chat", model="m")
    with Senders(dead, cpus=[CPU]) as senders:
        for _ in range(2):
            with pytest.raises(ArmbenchError, match="no connection to"):
                senders.run([asked("x")], Say())


def test_what_several_processes_saw_is_put_together() -> None:
    def part(**changes):  # type: ignore[no-untyped-def]
        empty = ([0] * 4096, [0] * 4096, 0)
        values = {
            **dict.fromkeys(messages.Ended.__struct_fields__, 0),
            "start_ns": 0,
            "end_ns": 2_000_000_000,
            "cpu_s": 0.5,
            "reads": 100,
            "token_events": 50,
            "read_lags": empty,
            "loop_lags": empty,
        }
        return messages.Ended(**(values | changes))

    seen = client_seen([part(), part(cpu_s=1.0, merged=10, unstamped=1, steps=2)], [3, 4])
    assert (seen.cpu_share, seen.merged_share, seen.reads, seen.seconds) == (0.5, 0.1, 200, 2.0)
    assert seen.stamps == "kernel"
    assert seen.stamps_reason == (
        "1 of 200 reads had no kernel stamp, the wall clock was set 2 times"
    )
    assert client_seen([part(unstamped=100)], [3]).stamps == "user"


def test_the_self_check_finds_a_rate_and_says_what_stopped_it() -> None:
    rates: list[str] = []
    found = check_client([CPU], say=rates.append, stage_s=0.05, most_events_per_s=2000)
    assert rates
    assert 0 < found.events_per_s <= 2000
    assert found.reason
    assert found.cpu == CPU
    assert all(stage.client.events > 0 for stage in found.stages)
    assert [stage.fault for stage in found.stages if stage.events_per_s <= found.events_per_s]
