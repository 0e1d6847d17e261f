"""Interleaved comparisons of real commands, environments and commits."""

from __future__ import annotations

import datetime
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness import history
from harness.ab import conduct, planning, schedule, sides, trial
from harness.comparing import margin, question
from harness.comparing.rules import Rules, read
from harness.errors import ArmbenchError, Exit
from harness.records.ab import AbState
from harness.reports.ab import AbLines
from tests.comparing.builders import result

NOW = datetime.datetime(2026, 11, 23, 1, 2, 3, tzinfo=datetime.UTC)

# Writes a result whose decode step is given, with noise from the name of its folder.
BENCH = """
import hashlib, json, pathlib, sys
template, folder, step = sys.argv[1], pathlib.Path(sys.argv[2]), float(sys.argv[3])
body = json.loads(pathlib.Path(template).read_text())
noise = hashlib.sha256(folder.name.encode()).digest()[0] / 255 - 0.5
step *= 1 + 0.01 * noise
for trial in body["trials"]:
    for record in trial["records"]:
        first = record["token_ns"][0]
        record["token_ns"] = [round(first + i * step * 1e6) for i in range(32)]
    trial["window_ns"][1] = record["token_ns"][-1]
if len(sys.argv) > 4:
    body["plan"]["cases"][0]["load"]["input_tokens"] = int(sys.argv[4])
(folder / "result.json").write_text(json.dumps(body))
"""


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    (tmp_path / "template.json").write_bytes(msgspec.json.encode(result([10.0])))
    (tmp_path / "bench.py").write_text(BENCH)
    return tmp_path


@pytest.fixture
def rules() -> Rules:
    found = read()
    found.gate = ["decode_tok_per_s"]
    return found


def command(bench: Path, step: float, *more: str) -> str:
    words = [sys.executable, str(bench / "bench.py"), str(bench / "template.json"), "{results}"]
    return " ".join([*words, str(step), *more])


def like(bench: Path) -> str:
    """Another command that measures the same as `command(bench, 10.0)`."""
    return command(bench, 10.0).replace(" 10.0", " 10.00")


def planned(bench: Path, rules: Rules, a: str, b: str, **more: Any) -> AbState:
    base, head = (sides.parse(n, t, [], [], bench) for n, t in (("base", a), ("head", b)))
    return planning.plan(base, head, rules, **more)


def folder(bench: Path) -> Path:
    return bench / "ab"


def test_a_slower_command_is_found_out(bench: Path, rules: Rules) -> None:
    state = planned(bench, rules, command(bench, 10.0), command(bench, 11.0))
    outcome = conduct.Ab(state, folder(bench)).conduct()
    assert outcome.exit == Exit.REGRESSION
    assert state.looked == [4]
    assert len(state.trials) == 16
    assert outcome.comparison is not None
    row = outcome.comparison.pairs[0].cases[0].metrics[0]
    assert row.ratio.design == "paired"
    assert row.ratio.n == (4, 4)
    assert row.ratio.confidence == pytest.approx(1 - 0.05 / 5)
    assert outcome.comparison.pairs[0].setting == "interleaved"


def test_the_same_command_twice_is_unchanged_and_kept_for_the_margin(
    bench: Path, rules: Rules
) -> None:
    both = command(bench, 10.0)
    state = planned(bench, rules, both, both)
    assert state.looks == [schedule.LEAST_BLOCKS]  # one that ends when it is quiet tells too little
    comparing = conduct.Ab(state, folder(bench))
    outcome = comparing.conduct()
    assert outcome.exit == Exit.FINE
    assert outcome.comparison is not None
    where = bench / "history"
    assert conduct.keep_aa(state, outcome.comparison, comparing.runs("a"), where) == 1
    kept = history.History(where).made()
    assert kept[0].setting == "interleaved"
    key = question.key(comparing.runs("a").runs[0].cases[0].question)
    found = margin.of_metric("decode_tok_per_s", rules, "interleaved", kept * 5, key)
    assert found.n == 5
    assert found.value < 0.03


def test_different_questions_end_after_the_first_block(bench: Path, rules: Rules) -> None:
    state = planned(bench, rules, command(bench, 10.0), command(bench, 10.0, "999"))
    outcome = conduct.Ab(state, folder(bench)).conduct()
    assert outcome.exit == Exit.NOT_COMPARABLE
    assert "input_tokens" in outcome.summary
    assert len(state.trials) == 4


def test_a_command_that_fails_says_how_and_can_be_resumed(bench: Path, rules: Rules) -> None:
    state = planned(bench, rules, command(bench, 10.0), command(bench, 10.0))
    work = folder(bench)
    (bench / "template.json").rename(bench / "away.json")
    with pytest.raises(ArmbenchError, match="exit code 1") as caught:
        conduct.Ab(state, work).conduct()
    assert "template.json" in caught.value.message
    assert "--resume" in str(caught.value.hint)
    (bench / "away.json").rename(bench / "template.json")
    again = planning.load(work)
    assert conduct.Ab(again, work).conduct().exit == Exit.FINE


def test_a_comparison_goes_on_where_it_stopped(bench: Path, rules: Rules) -> None:
    class Stop:
        def started(self, state: AbState) -> None: ...

        def looked(self, state: AbState, outcome: object) -> None: ...

        def trial_ended(self, state: AbState, done: object) -> None:
            if len(state.trials) == 6:
                raise KeyboardInterrupt

    state = planned(bench, rules, command(bench, 10.0), command(bench, 10.0))
    work = folder(bench)
    with pytest.raises(KeyboardInterrupt):
        conduct.Ab(state, work, listener=Stop()).conduct()
    again = planning.load(work)
    assert len(again.trials) == 6
    assert again.order == state.order
    outcome = conduct.Ab(again, work).conduct()
    assert outcome.exit == Exit.FINE
    assert len(again.trials) == 16  # the block that was cut in two was run again as a whole
    done = conduct.Ab(planning.load(work), work).conduct()
    assert done.exit == Exit.FINE  # what is decided is not measured again
    assert len(planning.load(work).trials) == 16


def test_a_resumed_comparison_is_judged_by_the_rules_it_was_begun_with(
    bench: Path, rules: Rules
) -> None:
    rules.margin.interleaved = 0.3
    state = planned(bench, rules, command(bench, 10.0), command(bench, 11.0))
    assert conduct.Ab(state, folder(bench)).conduct().exit == Exit.FINE
    again = planning.load(folder(bench))
    assert planning.rules_of(again) == rules
    outcome = conduct.Ab(again, folder(bench)).conduct()
    assert outcome.exit == Exit.FINE
    assert [row.metric for row in outcome.rows] == ["decode_tok_per_s"]


# Beside the case that both sides have: what the baseline alone tells.
MORE = """
import copy
if sys.argv[4] == "case":
    case = copy.deepcopy(body["plan"]["cases"][0])
    case["id"], case["load"]["input_tokens"] = 1, 999
    body["plan"]["cases"].append(case)
    body["trials"] += [{**copy.deepcopy(trial), "case": 1} for trial in body["trials"]]
if sys.argv[4] == "metric":
    for trial in body["trials"]:
        counts = ("minor_faults", "major_faults", "voluntary_switches", "involuntary_switches")
        trial["usage"] = {name: 0 for name in (*counts, "user_s", "system_s")}
        trial["usage"]["peak_rss_bytes"] = 10**9
(folder / "result.json").write_text(json.dumps(body))
"""


@pytest.mark.parametrize("lost", ["case", "metric"])
def test_what_the_head_lost_ends_it_at_the_first_look(lost: str, bench: Path, rules: Rules) -> None:
    rules.gate = ["decode_tok_per_s", "peak_rss_bytes"]
    text = BENCH.replace("if len(sys.argv) > 4", "if len(sys.argv) > 5")
    (bench / "bench.py").write_text(text + MORE)
    state = planned(bench, rules, command(bench, 10.0, lost), command(bench, 10.0, "nothing"))
    outcome = conduct.Ab(state, folder(bench)).conduct()
    assert outcome.exit == Exit.INVALID
    assert state.looked == [4]


def test_a_disturbed_case_leaves_it_open_until_most_trials_can_be_believed(
    bench: Path, rules: Rules
) -> None:
    disturb = """
count = int(folder.name.partition("-")[0])
body["trials"][0]["invalid"] = ["steal of 20 %"] if sys.argv[4] == "x" and count < 3 else []
(folder / "result.json").write_text(json.dumps(body))
"""
    text = BENCH.replace("if len(sys.argv) > 4", "if len(sys.argv) > 5")
    (bench / "bench.py").write_text(text + disturb)
    state = planned(bench, rules, command(bench, 10.0, "x"), command(bench, 10.0, "y"))
    outcome = conduct.Ab(state, folder(bench)).conduct()
    assert state.looked[:2] == [4, 6]
    assert outcome.exit == Exit.FINE


def test_a_spent_budget_is_inconclusive_not_passed(bench: Path, rules: Rules) -> None:
    state = planned(bench, rules, command(bench, 10.0), command(bench, 10.0), budget_s=0.001)
    outcome = conduct.Ab(state, folder(bench)).conduct()
    assert outcome.exit == Exit.INCONCLUSIVE
    assert "before the first look" in outcome.summary
    assert len(state.trials) == 4


def test_a_spent_budget_leaves_what_the_last_look_said(bench: Path, rules: Rules) -> None:
    class Stop(conduct.Silent):
        def trial_ended(self, state: AbState, done: object) -> None:
            if len(state.trials) == 20:
                raise KeyboardInterrupt

    rules.margin.interleaved = 0.0  # nothing is ever unchanged, and nothing changed
    state = planned(bench, rules, command(bench, 10.0), like(bench))
    with pytest.raises(KeyboardInterrupt):
        conduct.Ab(state, folder(bench), listener=Stop()).conduct()
    again = planning.load(folder(bench))
    again.budget_s = 0.001
    outcome = conduct.Ab(again, folder(bench)).conduct()
    assert outcome.exit == Exit.INCONCLUSIVE
    assert outcome.rows[0].row is not None
    assert outcome.rows[0].row.ratio.n == (4, 4)  # of the look after 4 blocks, not of 5


def test_no_block_is_begun_that_no_look_would_count(bench: Path, rules: Rules) -> None:
    both = command(bench, 10.0)
    state = planned(bench, rules, both, both, budget_s=10.0)
    comparing = conduct.Ab(state, folder(bench))
    state.trials = [None] * 16  # type: ignore[list-item]
    state.spent_s = 8.0
    assert comparing.worth(1)
    assert not comparing.worth(2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("true", "wrote no result"),
        ("sh -c 'kill -9 $$'", "killed by SIGKILL"),
        ("sh -c 'echo boom >&2; exit 3'", "boom"),
    ],
)
def test_a_command_that_gives_nothing_is_named(
    text: str, words: str, bench: Path, rules: Rules
) -> None:
    state = planned(bench, rules, text, text)
    with pytest.raises(ArmbenchError, match=words):
        conduct.Ab(state, folder(bench)).conduct()


def test_a_command_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    words = ["sh", "-c", f"sleep 60 & echo $! > {tmp_path}/pid; wait"]
    with pytest.raises(ArmbenchError, match="did not end within"):
        trial.run(words, {}, tmp_path / "results", timeout_s=0.5)
    child = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    while running(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running(child)


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.fixture
def repository(bench: Path) -> Path:
    """A repository whose two commits differ in how long a step takes."""
    home = bench / "repository"
    home.mkdir()
    git(home, "init", "-q", "-b", "main")
    git(home, "config", "user.email", "a@b.c")
    git(home, "config", "user.name", "x")
    for step in ("10.0", "12.0"):
        (home / "bench.py").write_text(BENCH.replace("float(sys.argv[3])", step))
        git(home, "add", ".")
        git(home, "commit", "-qm", step)
    return home


def git(home: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(home), *words], check=True, capture_output=True)
    return done.stdout.decode()


def commits(bench: Path, repository: Path, rules: Rules) -> AbState:
    words: Sequence[str] = ("{python}", "bench.py", str(bench / "template.json"), "{results}", "0")
    base, head = (
        sides.parse(n, t, words, [], repository) for n, t in (("base", "HEAD~1"), ("head", "main"))
    )
    return planning.plan(base, head, rules, repository=repository)


def test_two_commits_are_compared_in_checkouts_that_are_gone_afterwards(
    bench: Path, repository: Path, rules: Rules
) -> None:
    state = commits(bench, repository, rules)
    assert (state.a.kind, state.b.kind) == ("git", "git")
    assert state.a.commit == git(repository, "rev-parse", "HEAD~1").strip()
    outcome = conduct.Ab(state, folder(bench)).conduct()
    assert outcome.exit == Exit.REGRESSION
    assert len(git(repository, "worktree", "list").splitlines()) == 1
    assert not any(Path(text).parent.exists() for text in state.checkouts)


def test_checkouts_are_removed_when_a_command_fails(
    bench: Path, repository: Path, rules: Rules
) -> None:
    state = commits(bench, repository, rules)
    (bench / "template.json").unlink()
    with pytest.raises(ArmbenchError):
        conduct.Ab(state, folder(bench)).conduct()
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_checkouts_that_a_kill_left_behind_are_removed_on_resuming(
    bench: Path, repository: Path, rules: Rules
) -> None:
    state = commits(bench, repository, rules)
    left = sides.new_checkout(state.a)
    sides.check_out(state.a, repository, left)
    state.checkouts = [str(left)]
    conduct.Ab(state, folder(bench)).conduct()
    assert not left.parent.exists()
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_a_folder_that_is_not_ours_is_never_removed(tmp_path: Path) -> None:
    precious = tmp_path / "precious" / "checkout"
    precious.mkdir(parents=True)
    sides.remove(tmp_path, precious)
    assert precious.exists()


def test_sigterm_ends_it_cleanly() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), trial.interruptible():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_environment_runs_its_own_armbench(bench: Path, rules: Rules) -> None:
    python = bench / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    found = sides.parse("base", str(bench / "venv"), [], ["quick"], bench)
    assert found.kind == "venv"
    assert found.command[:5] == [str(python), "-m", "harness", "run", "quick"]
    words, variables = sides.command(found, Path("/r"), None)
    assert words[-2:] == ["--results", "/r"]
    assert variables["ARMBENCH_RESULTS"] == "/r"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("git:no-such-branch", "no commit, branch or tag"),
        ("git:--help", "no commit, branch or tag"),
        ("venv:/nowhere", "no virtual environment"),
        ("cmd:", "--base is empty"),
        ("cmd:'unclosed", "can't be read"),
        ("mian", "no program here, no virtual environment, and no branch"),
        ("HEAD", "it is no commit of armbench"),
    ],
)
def test_a_side_that_is_nothing_is_refused(text: str, words: str, repository: Path) -> None:
    with pytest.raises(ArmbenchError, match=words):
        sides.parse("base", text, [], [], repository)


def test_the_looks_are_fixed_before_the_start() -> None:
    assert schedule.looks() == [4, 6, 9, 14, 20]
    assert schedule.looks(3, 3) == [3]
    assert schedule.level(0.05, [4, 6, 9, 14, 20]) == pytest.approx(0.01)
    assert schedule.order(20, 7) == schedule.order(20, 7)
    assert schedule.order(20, 7) != schedule.order(20, 8)
    assert [schedule.blocks_to_next(n, [4, 6]) for n in (0, 4, 5, 6)] == [4, 2, 1, None]
    for least, most in ((2, 9), (5, 4), (4, 5000)):
        with pytest.raises(ArmbenchError, match="can't be planned"):
            schedule.looks(least, most)


def test_a_dry_run_says_what_would_run(bench: Path, rules: Rules) -> None:
    both = command(bench, 10.0)
    state = planned(bench, rules, both, like(bench), budget_s=60.0)
    text = "\n".join(planning.describe(state))
    assert "20 blocks of 4 trials" in text
    assert "at most 60 s" in text
    assert "each at 1.00%" in text
    assert "A/A" not in text
    assert "A/A" in "\n".join(planning.describe(planned(bench, rules, both, both)))
    assert not folder(bench).exists()


def test_a_state_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArmbenchError, match="cannot be read"):
        planning.load(tmp_path)
    (tmp_path / planning.STATE).write_text("{}")
    with pytest.raises(ArmbenchError, match="no interleaved comparison"):
        planning.load(tmp_path)


def test_what_happens_is_told_line_by_line(bench: Path, rules: Rules) -> None:
    lines: list[str] = []
    state = planned(bench, rules, command(bench, 10.0), like(bench), budget_s=600.0)
    conduct.Ab(state, folder(bench), listener=AbLines(lines.append)).conduct()
    assert any(line.startswith("block 1/20, trial 1/4") for line in lines)
    assert "of the budget left" in lines[-2]
    assert lines[-1] == "after 4 blocks: passed: of 1 gated metrics 1 unchanged"
    assert planning.new_folder(bench, NOW) == bench / "ab" / "20261123T010203Z"
