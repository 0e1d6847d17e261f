"""The cache: conversions are made once, what killed ones leave goes, what is in use stays."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import agreement, cache, conversion, engines, packages
from harness.cache import locks
from harness.cache.listing import read_note
from harness.engine_process import EngineFailed
from harness.errors import ArmbenchError, Exit
from harness.model import checkpoint
from harness.records.run import Variant
from harness.reports.cache import age_text
from harness.units import format_bytes, parse_bytes, parse_duration
from tests.test_run import armbench

NOW = 1_780_000_000.0
DAY = 86400.0
CONVERT = """
import sys
from pathlib import Path
from harness import conversion, engines
from harness.model import checkpoint
from harness.records.run import Variant

opened = checkpoint.open_folder(Path(sys.argv[1]))
key = checkpoint.fingerprint(checkpoint.identify(opened))
options = engines.resolve_options("onnxruntime", {})
variant = Variant(engine="onnxruntime", dtype="float32", threads=1, options=options)
cpus = [int(sys.argv[2])]
print(*conversion.prepare(variant, opened, key, cpus, say=lambda text: print(text, flush=True)))
"""


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with nothing in it."""
    folder = tmp_path / "fresh-cache"
    monkeypatch.setenv("ARMBENCH_CACHE", str(folder))
    return folder


def begin(model: Path) -> subprocess.Popen[str]:
    cpu = min(os.sched_getaffinity(0))
    command = [sys.executable, "-c", CONVERT, str(model), str(cpu)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def conversions() -> list[cache.Entry]:
    return [e for e in cache.entries() if e.kind == "conversions"]


def convert(model: Path) -> tuple[Path | None, float | None]:
    opened = checkpoint.open_folder(model)
    key = checkpoint.fingerprint(checkpoint.identify(opened))
    options = engines.resolve_options("onnxruntime", {})
    variant = Variant(engine="onnxruntime", dtype="float32", threads=1, options=options)
    return conversion.prepare(variant, opened, key, [min(os.sched_getaffinity(0))])


@pytest.mark.engine
def test_two_processes_that_want_one_conversion_make_it_once(qwen3: Path, fresh: Path) -> None:
    both = [begin(qwen3), begin(qwen3)]
    said = [process.communicate(timeout=240)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(text.split()[-1] == "None" for text in said) == [False, True]  # seconds it took
    assert sum("another process converts the same" in text for text in said) == 1
    assert sum("of disk and" in text for text in said) == 1
    made = list((fresh / "conversions").iterdir())
    assert len(made) == 1
    note = read_note(made[0])
    assert note is not None
    assert (note.engine, note.dtype, note.checkpoint) == ("onnxruntime", "float32", "qwen3")
    assert note.seconds > 0
    assert note.peak_rss_bytes is not None
    assert note.peak_rss_bytes > 2**26
    assert note.packages["onnx_ir"][0].isdigit()
    assert note.bytes == sum(f.stat().st_size for f in made[0].iterdir() if f.name != cache.NOTE)


def key_of(engine: str, model: Path) -> str:
    """The name of the conversion of `model` for `engine` in its smallest dtype."""
    opened = checkpoint.open_folder(model)
    fingerprint = checkpoint.fingerprint(checkpoint.identify(opened))
    options = engines.resolve_options(engine, {})
    dtype = "q8_0" if engine == "llamacpp" else "int4"
    variant = Variant(engine=engine, dtype=dtype, threads=1, options=options)
    folder = conversion.folder_for(variant, opened, fingerprint)
    assert folder is not None
    return folder.name


CONVERTING = ["llamacpp", "onnxruntime", "onnxruntime_genai", "openvino"]


@pytest.mark.parametrize("engine", CONVERTING)
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_another_tokenizer_makes_another_conversion(
    engine: str, name: str, qwen3: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(qwen3, tmp_path / "copy"))
    before = key_of(engine, qwen3)
    assert key_of(engine, copy) == before
    with (copy / name).open("a") as file:
        file.write(" ")
    assert key_of(engine, copy) != before


@pytest.mark.parametrize(
    ("engine", "number"),
    [
        ("llamacpp", "llamacpp.WRITER"),
        ("onnxruntime", "onnxruntime.GRAPH"),
        ("onnxruntime_genai", "onnxruntime.GRAPH"),
    ],
)
def test_what_is_written_differently_is_another_conversion(
    engine: str, number: str, qwen3: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key_of(engine, qwen3)
    monkeypatch.setattr(f"harness.engines.{number}", 99)
    assert key_of(engine, qwen3) != before


@pytest.mark.parametrize("engine", ["onnxruntime", "onnxruntime_genai"])
def test_another_onnxruntime_makes_another_conversion(
    engine: str, qwen3: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its quantisers write the products."""
    before, real = key_of(engine, qwen3), packages.version
    monkeypatch.setattr(packages, "version", lambda n: "9.9" if n == "onnxruntime" else real(n))
    assert key_of(engine, qwen3) != before


@pytest.mark.engine
def test_two_first_runs_on_one_model_make_its_reference_once(
    qwen3: Path, fresh: Path, tmp_path: Path
) -> None:
    command = [
        *(sys.executable, "-m", "harness", "run", "--model", str(qwen3), "--engine", "fake"),
        *("--threads", "1", "--input-tokens", "8", "--output-tokens", "4", "--repeats", "1"),
    ]
    both = [
        subprocess.Popen(
            [*command, "--results", str(tmp_path / name)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("a", "b")
    ]
    said = [process.communicate(timeout=240)[1] for process in both]
    assert {process.returncode for process in both} <= {Exit.FINE, Exit.INVALID}, said
    assert sum("reference logits: transformers float32" in text for text in said) == 1
    assert sum("another process makes the reference logits" in text for text in said) == 1
    (made,) = (fresh / "references").iterdir()
    assert made.suffix == ".npz"


@pytest.mark.engine
def test_the_draft_of_a_reference_whose_maker_was_killed_is_a_leftover(
    qwen3: Path, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = fresh / "references" / "aa.npz"
    file.parent.mkdir(parents=True)
    monkeypatch.setattr(Path, "replace", lambda *_: None)  # as if killed just before
    monkeypatch.setattr(os, "getpid", lambda: 999999999)
    agreement.make_reference(qwen3, agreement.samples(qwen3, 4096, synthetic=True), file)
    (left,) = cache.entries()
    assert (left.kind, left.owner, left.leftover) == ("references", 999999999, True)


@pytest.mark.engine
def test_what_a_killed_conversion_leaves_is_found_and_the_next_one_removes_it(
    qwen3: Path, fresh: Path
) -> None:
    process = begin(qwen3)
    folder = fresh / "conversions"
    deadline = time.monotonic() + 120
    while not list(folder.glob(".*/*")):  # the converter writes
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (busy,) = conversions()
    assert (busy.owner, busy.leftover, busy.busy) == (process.pid, False, True)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    (left,) = conversions()
    assert (left.owner, left.leftover) == (process.pid, True)
    target, seconds = convert(qwen3)
    assert target is not None
    assert seconds is not None
    assert [p.name for p in folder.iterdir()] == [target.name]
    (entry,) = conversions()
    assert entry.belongs is not None
    assert entry.belongs.startswith("qwen3 for onnxruntime float32")
    assert entry.busy  # this process has it until it ends
    assert cache.chosen([entry], cache.Wish(older_s=0.0), time.time() + 1) == []


def test_a_conversion_that_fails_keeps_its_last_words(
    qwen3: Path, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONSTARTUP", "")
    broken = fresh.parent / "onnxruntime_genai" / "models"
    broken.mkdir(parents=True)
    (broken.parent / "__init__.py").write_text("")
    (broken / "__init__.py").write_text("")
    (broken / "builder.py").write_text("print('about to fail'); raise RuntimeError('no builder')")
    paths = [str(fresh.parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    with pytest.raises(EngineFailed, match=r"no builder.*its last output: .*failed\.txt"):
        convert(qwen3)
    (file,) = (fresh / "conversions").iterdir()
    assert "no builder" in file.read_text()
    assert "builder.py" in file.read_text()


def put(root: Path, name: str, size: int, days: float) -> Path:
    """A file or, for a name that ends in a slash, a folder, last changed `days` before NOW."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith("/"):
        path.mkdir()
        (path / "data").write_bytes(b"x" * size)
        os.utime(path / "data", (NOW - days * DAY, NOW - days * DAY))
    else:
        path.write_bytes(b"x" * size)
    os.utime(path, (NOW - days * DAY, NOW - days * DAY))
    return path


@pytest.fixture
def tree(fresh: Path) -> Path:
    put(fresh, "models/qwen2.5-0.5b-ed6bc324a7d7/", 5000, 40)
    put(fresh, "conversions/onnxruntime-0123456789abcdef/", 3000, 40)
    put(fresh, "conversions/torch-0123456789abcdef/", 2000, 10)
    put(fresh, "references/aa.npz", 700, 50)
    put(fresh, "conversions/.torch-fedcba9876543210.999999999/", 100, 1)
    put(fresh, "digests.json", 10, 90)
    return fresh


def names(found: list[cache.Entry]) -> set[str]:
    return {e.name.partition("-")[0] for e in found}


def test_the_list_has_every_entry_with_its_kind_size_and_age(tree: Path) -> None:
    found = cache.entries()
    assert [e.kind for e in found] == [
        *("models", "conversions", "conversions", "conversions", "references", "other")
    ]
    assert found[0].bytes == 5000
    assert found[0].belongs == "qwen2.5-0.5b"
    assert found[0].used == pytest.approx(NOW - 40 * DAY)
    assert [e.owner for e in found if e.leftover] == [999999999]
    assert not any(e.busy for e in found)


def test_a_use_is_noted_and_keeps_an_entry_young(tree: Path) -> None:
    path = tree / "references" / "aa.npz"
    cache.use(path)
    locks._used.pop(path).close()
    entry = next(e for e in cache.entries() if e.name == "aa.npz")
    assert entry.use_noted
    assert entry.used > NOW - 90 * DAY
    assert abs(entry.used - time.time()) < 60


@pytest.mark.parametrize(
    ("wish", "gone"),
    [
        (cache.Wish(), {".torch"}),
        (cache.Wish(older_s=30 * DAY), {"qwen2.5", "onnxruntime", "aa.npz", ".torch"}),
        (cache.Wish(kinds=["conversions"], older_s=30 * DAY), {"onnxruntime", ".torch"}),
        (cache.Wish(kinds=["references"]), {"aa.npz"}),
        (cache.Wish(kinds=["other"]), {"digests.json"}),
        (cache.Wish(older_s=0.0), {"qwen2.5", "onnxruntime", "torch", "aa.npz", ".torch"}),
        (cache.Wish(most_bytes=5000), {".torch", "aa.npz", "qwen2.5"}),
        (cache.Wish(most_bytes=0), {"qwen2.5", "onnxruntime", "torch", "aa.npz", ".torch"}),
        (cache.Wish(most_bytes=10**9), {".torch"}),
    ],
)
def test_what_goes_is_what_was_asked_for_and_the_oldest_first(
    tree: Path, wish: cache.Wish, gone: set[str]
) -> None:
    assert names(cache.chosen(cache.entries(), wish, NOW)) == gone


def test_what_a_live_process_uses_is_never_removed(tree: Path) -> None:
    used = tree / "conversions" / "torch-0123456789abcdef"
    opened = tree / "models" / "qwen2.5-0.5b-ed6bc324a7d7" / "data"
    code = (
        "import sys\nfrom pathlib import Path\nfrom harness import cache\n"
        "cache.use(Path(sys.argv[1]))\nkept = open(sys.argv[2])\n"
        "print('ready', flush=True)\nsys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(used), str(opened)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        found = cache.entries()
        done = armbench("cache", "prune", "--older-than", "0s")
        assert done.returncode == Exit.FINE
        late = [e for e in found if e.name == used.name]
        assert cache.prune(late) == ([], late)  # a use that began after the list was made
        assert used.is_dir()
        assert opened.is_file()
        process.communicate()
    assert armbench("cache", "prune", "--older-than", "0s").returncode == Exit.FINE
    assert not used.exists()
    assert not opened.exists()
    assert [p.name for p in (tree / "locks").rglob("*") if p.is_file()] == []


def test_prune_says_what_it_frees_and_a_dry_run_only_says_it(tree: Path) -> None:
    dry = armbench("cache", "prune", "--kind", "references", "--dry-run")
    assert dry.stderr == "would free 700 B in 1 entries\n"
    assert (tree / "references" / "aa.npz").is_file()
    done = armbench("cache", "prune", "--kind", "references", "--json")
    assert json.loads(done.stdout)["freed_bytes"] == 700
    assert not (tree / "references" / "aa.npz").exists()
    assert (tree / "digests.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--older-than", "yesterday"], "'yesterday' is not a duration"),
        (["--keep-bytes", "much"], "'much' is not a size"),
        (["--kind", "model"], "unknown kind of cache entry 'model'"),
    ],
)
def test_a_wish_that_says_nothing_removes_nothing(
    tree: Path, arguments: list[str], words: str
) -> None:
    done = armbench("cache", "prune", *arguments)
    assert done.returncode == Exit.USER
    assert words in done.stderr
    assert len(cache.entries()) == 6


def test_the_list_as_a_table_and_as_json(tree: Path) -> None:
    shown = armbench("cache", "list").stdout
    assert "left by process 999999999, which is dead" in shown
    assert "conversions: 3 of 4.98 KiB" in shown
    assert len(json.loads(armbench("cache", "list", "--json").stdout)["entries"]) == 6


def test_a_cache_that_is_not_there_is_empty(fresh: Path) -> None:
    assert json.loads(armbench("cache", "list", "--json").stdout)["entries"] == []


@given(st.integers(0, 2**50))
def test_a_size_that_was_printed_reads_as_about_itself(count: int) -> None:
    assert parse_bytes(format_bytes(count)) == pytest.approx(count, rel=0.01)


@given(st.integers(2, 100_000))
def test_an_age_in_days_reads_as_itself(days: int) -> None:
    assert parse_duration(age_text(days * DAY)) == days * DAY


@given(st.text(max_size=12))
def test_a_text_is_a_duration_or_the_users_error(text: str) -> None:
    try:
        assert parse_duration(text) >= 0
    except ArmbenchError as error:
        assert error.hint is not None


@given(
    st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 100), st.booleans()), max_size=12),
    st.integers(0, 5000),
)
def test_what_is_left_fits_or_is_all_in_use(made: list[tuple[int, int, bool]], most: int) -> None:
    found = [
        cache.Entry(
            kind="conversions", name=str(i), path=str(i), bytes=size, changed=0, used=at, busy=busy
        )
        for i, (size, at, busy) in enumerate(made)
    ]
    gone = cache.chosen(found, cache.Wish(most_bytes=most), NOW)
    left = [e for e in found if e not in gone]
    assert not any(e.busy for e in gone)
    assert sum(e.bytes for e in left) <= most or all(e.busy for e in left)
    free = [e.used for e in left if not e.busy]
    assert not gone or not free or max(e.used for e in gone) <= min(free)
