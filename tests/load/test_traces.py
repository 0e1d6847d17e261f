"""Traces: the formats as published, in samples of our own; anything else ends in a user error."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import ArmbenchError
from harness.load import lines
from harness.load.given import read_prompts
from harness.load.traces import read_trace

AZURE_2023 = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 10:00:00.1234500,400,10
2023-11-16 10:00:00.6234500,30,8
2023-11-16 10:01:00.1234500,1100,27
"""
AZURE_2024 = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-12 23:59:59.500000+00:00,400,10
2024-05-13 00:00:00+00:00,30,8
2024-05-13 02:00:59.500000+02:00,1100,27
"""
BURST_1 = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
7,ChatGPT,400,10,410,Conversation log
8,GPT-4,30,8,38,API log
9,GPT-4,50,0,50,API log
10,ChatGPT,0,0,0,Conversation log
67,ChatGPT,1100,27,1127,Conversation log
"""
BURST_2 = """Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
7000.5,aa-1,3,ChatGPT,400,10,410,Conversation log
7001.0,,3,GPT-4,30,8,38,API log
7060.5,bb-2,3,ChatGPT,1100,27,1127,Conversation log
"""  # noqa: E501 (a header is one line)
MOONCAKE = """{"timestamp": 0, "input_length": 1100, "output_length": 10, "hash_ids": [0, 1, 2]}
{"timestamp": 500, "input_length": 1300, "output_length": 8, "hash_ids": [0, 1, 3]}

{"timestamp": 60000, "input_length": 400, "output_length": 27, "hash_ids": [4]}
"""


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "trace"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    "text", [AZURE_2023, AZURE_2023.replace("\n", "\r\n"), "\ufeff" + AZURE_2023]
)
def test_the_azure_trace_of_2023_is_read(text: str, tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, text))
    assert trace.form == "Azure"
    assert [row[:3] for row in trace.rows] == [
        (0, 400, 10),
        (500_000_000, 30, 8),
        (60_000_000_000, 1100, 27),
    ]


def test_the_azure_trace_of_2024_has_offsets_and_sometimes_no_fraction(tmp_path: Path) -> None:
    rows = read_trace(written(tmp_path, AZURE_2024)).rows
    assert [row.at_ns for row in rows] == [0, 500_000_000, 60_000_000_000]


def test_failed_requests_of_burstgpt_are_left_out_and_counted(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, BURST_1))
    assert (trace.form, trace.left_out) == ("BurstGPT", 2)
    assert [row[:3] for row in trace.rows] == [
        (0, 400, 10),
        (1_000_000_000, 30, 8),
        (60_000_000_000, 1100, 27),
    ]


def test_burstgpt_with_sessions_is_read_by_its_header(tmp_path: Path) -> None:
    rows = read_trace(written(tmp_path, BURST_2)).rows
    assert [row[:3] for row in rows] == [
        (0, 400, 10),
        (500_000_000, 30, 8),
        (60_000_000_000, 1100, 27),
    ]


def test_mooncake_keeps_which_blocks_requests_share(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, MOONCAKE))
    assert trace.form == "Mooncake"
    assert trace.rows[1] == (500_000_000, 1300, 8, (0, 1, 3))


def test_requests_out_of_order_are_sorted(tmp_path: Path) -> None:
    text = "\n".join(reversed(MOONCAKE.splitlines()))
    assert [row.at_ns for row in read_trace(written(tmp_path, text)).rows] == [
        0,
        500_000_000,
        60_000_000_000,
    ]


def test_only_as_much_of_a_long_trace_is_read_as_is_played(tmp_path: Path) -> None:
    path = written(tmp_path, AZURE_2023 + "not a row\n")
    assert len(read_trace(path, most=2).rows) == 2
    assert len(read_trace(path, until_s=60).rows) == 2
    with pytest.raises(ArmbenchError, match="line 5"):
        read_trace(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no request with"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "no request with"),
        ("time,in,out\n1,2,3\n", "begins with 'time,in,out'"),
        (AZURE_2023 + "2023-11-16 10:02:00,1\n", "line 5: 2 fields, the header has 3"),
        (AZURE_2023 + "yesterday,1,1\n", "line 5: .*yesterday"),
        (AZURE_2023 + "2023-11-16 10:02:00,-1,1\n", "line 5: -1 input tokens"),
        (AZURE_2023 + "2023-11-16 10:02:00,1,99999999999\n", "line 5: 99999999999 output"),
        (AZURE_2023 + "2093-11-16 10:02:00,1,1\n", "more than ten years"),
        (BURST_1 + "1e400,GPT-4,1,1,2,API log\n", "line 7"),
        (BURST_1 + "nan,GPT-4,1,1,2,API log\n", "line 7"),
        (MOONCAKE + '{"timestamp": 1}\n', "line 5: .*input_length"),
        (MOONCAKE + '{"timestamp": 1e300, "input_length": 1, "output_length": 1}\n', "ten years"),
        (MOONCAKE + "[" * 100_000 + "\n", "line 5"),
        (AZURE_2023.encode() + b"\xff\xfe\n", "line 5: not UTF-8"),
    ],
)
def test_a_bad_line_is_named(text: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ArmbenchError, match=message):
        read_trace(written(tmp_path, text))


def test_what_is_no_file_or_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (tmp_path, tmp_path / "none", Path("/dev/zero")):
        with pytest.raises(ArmbenchError, match="no trace at"):
            read_trace(path)
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 100)
    with pytest.raises(ArmbenchError, match="line 1: longer than 100 bytes"):
        read_trace(written(tmp_path, "{" * 200))
    monkeypatch.setattr(lines, "MAX_LINES", 2)
    with pytest.raises(ArmbenchError, match="more than 2 lines"):
        read_trace(written(tmp_path, AZURE_2023))


@given(
    head=st.sampled_from([AZURE_2023, BURST_1, BURST_2, MOONCAKE, ""]),
    cut=st.integers(0, 400),
    rest=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode()),
)
def test_no_file_makes_a_reader_raise_anything_but_a_user_error(
    tmp_path_factory: pytest.TempPathFactory, head: str, cut: int, rest: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes(head.encode()[:cut] + rest)
    for read in (read_trace, read_prompts):
        try:
            assert read(path)
        except ArmbenchError as error:
            assert str(path) in error.message


# Prompts that a user brings


def test_prompts_come_as_text_or_messages_with_or_without_a_length(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        '{"prompt": "a b", "output_tokens": 7}\n{"text": "c", "max_tokens": 8, "id": 3}\n'
        '{"messages": [{"role": "user", "content": "d"}]}\n',
    )
    assert [(g.prompt, bool(g.messages), g.output_tokens) for g in read_prompts(path)] == [
        ("a b", False, 7),
        ("c", False, 8),
        (None, True, None),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("{}\n", "line 1: give one of"),
        ('{"prompt": "a", "text": "b"}\n', "line 1: give one of"),
        ('{"prompt": "a"}\n{"prompt": 3}\n', "line 2"),
        ('{"prompt": "a", "output_tokens": 0}\n', "line 1: 0 output tokens"),
        ("hello\n", "line 1"),
    ],
)
def test_a_bad_prompt_is_named(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ArmbenchError, match=message):
        read_prompts(written(tmp_path, text))
