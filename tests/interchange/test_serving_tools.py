"""vLLM, GuideLLM and AIPerf: names differ, definitions decide."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec import structs

from harness import interchange, metrics, store
from harness.errors import ArmbenchError
from harness.interchange import Told
from harness.metrics import Subject
from harness.records.load import Arrivals, ServingLoad
from harness.records.run import LoadPoint, Result

from . import made


def read(tmp_path: Path, value: object, name: str = "run.json", told: Told | None = None) -> Result:
    (found,) = interchange.read([made.put(tmp_path, name, value)], told=told)
    return found


def figure(result: Result, name: str) -> float | None:
    """A metric of the first trial, as every caller gets it."""
    subject = Subject(trial=result.trials[0], case=result.plan.cases[0])
    return metrics.metric(name).value(subject)


def test_vllms_itl_is_our_icl_and_its_requests_give_the_rest(tmp_path: Path) -> None:
    found = read(tmp_path, made.vllm_run())
    assert figure(found, "ttft_from_send_p50_s") == pytest.approx(0.05)
    assert figure(found, "tpot_p50_s") == pytest.approx(0.02)
    assert figure(found, "icl_p50_s") == pytest.approx(0.02)
    assert figure(found, "itl_p50_s") == pytest.approx(0.02)  # a token a chunk
    assert figure(found, "output_tok_per_s") == pytest.approx(30.0)
    assert figure(found, "requests_per_s") == pytest.approx(10.0)
    load = found.plan.cases[0].load
    assert (load.kind, load.input_tokens, load.output_tokens) == ("open", 100, 3)
    assert found.trials[0].extra["spec_decode_acceptance_rate"] == 61.5


def test_a_wait_for_a_slot_counts_from_the_due_time(tmp_path: Path) -> None:
    waited = made.vllm_run(max_concurrency=4, queue_times=[0.4] * 60)
    found = read(tmp_path, waited)
    assert figure(found, "ttft_p50_s") == pytest.approx(0.45)
    assert figure(found, "ttft_from_send_p50_s") == pytest.approx(0.05)
    assert figure(found, "latency_p50_s") == pytest.approx(0.49)


def test_without_queue_times_an_open_loop_tells_nothing_from_the_due_time(tmp_path: Path) -> None:
    run = made.vllm_run(max_concurrency=4)
    del run["queue_times"]
    found = read(tmp_path, run)
    for name in ("ttft_p50_s", "latency_p50_s", "ntpot_p50_s", "send_lag_p50_s", "intended_rate"):
        assert figure(found, name) is None, name
    assert figure(found, "ttft_from_send_p50_s") == pytest.approx(0.05)
    assert found.trials[0].unknown["ttft"]


def test_in_a_closed_loop_the_free_slot_is_the_due_time(tmp_path: Path) -> None:
    run = made.vllm_run(request_rate="inf", max_concurrency=2, queue_times=[5.0] * 60)
    found = read(tmp_path, run)
    load = found.plan.cases[0].load
    assert load.serving is not None
    assert (load.kind, load.serving.concurrency) == ("closed", 2)
    assert figure(found, "ttft_p50_s") == pytest.approx(0.05)


def test_everything_at_once_is_offline_and_due_at_the_start(tmp_path: Path) -> None:
    run = made.vllm_run(request_rate="inf", start_times=[7.0 + 0.01 * n for n in range(60)])
    found = read(tmp_path, run)
    assert found.plan.cases[0].load.kind == "offline"
    assert figure(found, "ttft_p50_s") == pytest.approx(0.05 + 0.295)


def test_chunks_of_several_tokens_leave_the_itl_unknown(tmp_path: Path) -> None:
    found = read(tmp_path, made.vllm_run(output_lens=[5] * 60))
    assert figure(found, "itl_p50_s") is None
    assert figure(found, "tpot_p50_s") == pytest.approx(0.04 / 4)
    assert figure(found, "icl_p50_s") == pytest.approx(0.02)
    assert len(found.trials[0].records[0].token_ns) == 5


def test_an_answer_in_one_piece_has_no_tpot(tmp_path: Path) -> None:
    found = read(tmp_path, made.vllm_run(itls=[[]] * 60))
    assert figure(found, "tpot_p50_s") is None
    assert figure(found, "ttft_from_send_p50_s") == pytest.approx(0.05)


def test_failed_requests_count_as_failed(tmp_path: Path) -> None:
    errors = ["timeout", *[""] * 59]
    out = [0, *[3] * 59]
    found = read(tmp_path, made.vllm_run(errors=errors, output_lens=out, completed=59))
    assert figure(found, "failed_share") == pytest.approx(1 / 60)
    assert found.trials[0].records[0].error == "timeout"


def test_summaries_alone_keep_what_their_requests_can_tell(tmp_path: Path) -> None:
    found = read(tmp_path, made.vllm_run(detailed=False))
    assert found.trials[0].records == []
    assert figure(found, "ttft_from_send_p50_s") == pytest.approx(0.05)
    assert figure(found, "tpot_p50_s") == pytest.approx(0.02)
    assert figure(found, "icl_p50_s") == pytest.approx(0.02)
    assert figure(found, "ttft_p50_s") is None
    assert figure(found, "ttft_from_send_p99_s") is None  # of 60 requests
    assert figure(found, "output_tok_per_s") == pytest.approx(30.0)
    many = read(tmp_path, made.vllm_run(requests=300, detailed=False))
    assert figure(many, "ttft_from_send_p99_s") == pytest.approx(0.05)


def test_older_files_do_not_tell_failures_but_what_was_asked(tmp_path: Path) -> None:
    run = made.vllm_run(detailed=False, completed=45)
    del run["failed"]
    assert figure(read(tmp_path, run), "failed_share") == pytest.approx(0.25)


def test_a_run_without_success_is_failed_not_fast(tmp_path: Path) -> None:
    run = made.vllm_run(detailed=False, completed=0, total_input_tokens=0, total_output_tokens=0)
    found = read(tmp_path, run)
    assert found.trials[0].state == "failed"
    assert found.summary["0"] == {}


def test_appended_runs_are_cases_of_one_result(tmp_path: Path) -> None:
    runs = [made.vllm_run(request_rate=rate) for rate in (2.0, 4.0)]
    found = read(tmp_path, "\n".join(map(json.dumps, runs)))
    rates = [c.load.serving.arrivals.rate for c in found.plan.cases]  # type: ignore[union-attr]
    assert rates == [2.0, 4.0]
    twice = read(tmp_path, "\n".join(map(json.dumps, [runs[0], runs[0]])))
    assert (len(twice.plan.cases), twice.plan.repeats) == (1, 2)


def test_vllm_in_and_out_is_the_same(tmp_path: Path) -> None:
    run = made.vllm_run(requests=300)
    text = interchange.write(read(tmp_path, run), "vllm").text
    (again,) = map(json.loads, text.splitlines())
    for key in ("input_lens", "output_lens", "ttfts", "errors", "queue_times"):
        assert again[key] == pytest.approx(run[key]) if key != "errors" else again[key] == run[key]
    for before, after in zip(run["itls"], again["itls"], strict=True):
        assert after == pytest.approx(before)
    shift = again["start_times"][0] - run["start_times"][0]
    assert again["start_times"] == pytest.approx([t + shift for t in run["start_times"]])
    for key in ("completed", "failed", "total_input_tokens", "model_id", "request_rate"):
        assert again[key] == run[key], key
    for key in ("duration", "output_throughput", "median_ttft_ms", "p99_ttft_ms", "median_tpot_ms"):
        assert again[key] == pytest.approx(run[key]), key
    assert again["spec_decode_acceptance_rate"] == 61.5


def test_a_summary_in_and_out_is_the_same(tmp_path: Path) -> None:
    run = made.vllm_run(detailed=False)
    text = interchange.write(read(tmp_path, run), "vllm").text
    again = json.loads(text)
    for key, value in run.items():
        if isinstance(value, int | float) and key != "p99_ttft_ms":
            assert again[key] == pytest.approx(value), key


def test_our_served_result_is_written_from_the_send(tmp_path: Path) -> None:
    ours = made.served()
    (run,) = map(json.loads, interchange.write(ours, "vllm").text.splitlines())
    assert (run["completed"], run["failed"], run["request_rate"]) == (39, 1, 10.0)
    assert run["median_ttft_ms"] == pytest.approx(50)
    assert run["median_e2el_ms"] == pytest.approx(110)
    assert run["queue_times"][0] == pytest.approx(0.002)
    assert "p99_ttft_ms" not in run  # of 39 requests
    again = read(tmp_path, run)
    assert figure(again, "ttft_p50_s") == pytest.approx(figure(ours, "ttft_p50_s"))
    assert figure(again, "tpot_p50_s") == pytest.approx(figure(ours, "tpot_p50_s"))


def test_an_embedding_run_generated_nothing(tmp_path: Path) -> None:
    run = made.vllm_run(detailed=False)
    del run["total_output_tokens"]
    with pytest.raises(ArmbenchError, match="generated nothing"):
        read(tmp_path, run)


def test_guidellms_instants_give_our_figures(tmp_path: Path) -> None:
    found = read(tmp_path, made.guidellm_report())
    assert figure(found, "ttft_from_send_p50_s") == pytest.approx(0.2, abs=1e-6)
    assert figure(found, "ttft_p50_s") == pytest.approx(0.3, abs=1e-6)
    assert figure(found, "tpot_p50_s") == pytest.approx(0.1, abs=1e-6)
    assert figure(found, "itl_p50_s") is None
    assert figure(found, "icl_p50_s") is None
    assert figure(found, "latency_p50_s") == pytest.approx(0.6, abs=1e-6)
    assert found.plan.seed == 42
    assert found.origin is not None
    assert found.origin.version == "0.6.0"
    load = found.plan.cases[0].load
    assert load.serving is not None
    assert load.serving.arrivals is not None
    assert (load.kind, load.serving.arrivals.process) == ("open", "constant")


def test_a_guidellm_sample_of_requests_is_not_taken_for_all(tmp_path: Path) -> None:
    found = read(tmp_path, made.guidellm_report(keep=5))
    assert found.trials[0].records == []
    assert figure(found, "requests_per_s") == 2.0
    assert figure(found, "output_tok_per_s") == 8.0
    assert figure(found, "ttft_from_send_p50_s") == pytest.approx(0.2)
    assert figure(found, "tpot_p50_s") == pytest.approx(0.1)  # every output is as long
    assert figure(found, "ttft_p50_s") is None


def test_guidellms_weighted_itl_is_no_tpot_where_lengths_differ(tmp_path: Path) -> None:
    report = made.guidellm_report(keep=0)
    report["benchmarks"][0]["metrics"]["output_token_count"]["successful"]["std_dev"] = 2.0
    assert figure(read(tmp_path, report), "tpot_p50_s") is None


def test_what_guidellm_sent_outside_its_window_is_warm_up(tmp_path: Path) -> None:
    report = made.guidellm_report()
    report["benchmarks"][0]["start_time"] += 2.25
    trial = read(tmp_path, report).trials[0]
    assert (len(trial.warmup), len(trial.records)) == (5, 25)


def test_an_unfinished_guidellm_request_failed(tmp_path: Path) -> None:
    report = made.guidellm_report(requests=4)
    lists = report["benchmarks"][0]["requests"]
    lists["incomplete"] = [lists["successful"].pop()]
    found = read(tmp_path, report)
    assert figure(found, "failed_share") == 0.25
    assert [r.finish for r in found.trials[0].records][-1] == "unfinished"


def test_guidellm_before_0_4_is_read_as_well(tmp_path: Path) -> None:
    flat = {
        "type_": "generative_text_response",
        "start_time": 1000.0,
        "first_token_time": 1000.2,
        "last_token_time": 1000.5,
        "end_time": 1000.51,
        "prompt_tokens": 256,
        "output_tokens": 4,
        "scheduler_info": {"targeted_start_time": -1},
    }
    report = made.guidellm_report(requests=1)
    run = report["benchmarks"][0]
    run["requests"]["successful"] = [flat]
    run["args"] = {"strategy": {"type_": "synchronous"}}
    run["worker"] = {"backend_model": "Qwen/Qwen3-0.6B"}
    run["run_stats"] = {"requests_made": run.pop("scheduler_metrics")["requests_made"]}
    del run["config"], run["start_time"], run["end_time"]
    found = read(tmp_path, report)
    assert found.model.name == "Qwen/Qwen3-0.6B"
    assert figure(found, "ttft_from_send_p50_s") == pytest.approx(0.2)


def test_aiperfs_itl_is_our_tpot(tmp_path: Path) -> None:
    found = read(tmp_path, made.aiperf_summary())
    assert figure(found, "tpot_p50_s") == pytest.approx(0.005)
    assert figure(found, "itl_p50_s") is None
    assert figure(found, "ttft_p50_s") == pytest.approx(0.04)  # a closed loop
    assert figure(found, "latency_p50_s") == pytest.approx(0.08)
    assert figure(found, "ttft_from_send_p99_s") is None  # of 60 requests
    assert figure(found, "output_tok_per_s") == 45.0
    assert found.plan.seed == 7
    load = found.plan.cases[0].load
    assert (load.kind, load.input_tokens, load.output_tokens) == ("closed", 550, 9)


def test_units_are_read_not_guessed(tmp_path: Path) -> None:
    micro = {"unit": "us", "p50": 40_000.0}
    assert figure(
        read(tmp_path, made.aiperf_summary(time_to_first_token=micro)), "ttft_p50_s"
    ) == pytest.approx(0.04)
    with pytest.raises(ArmbenchError, match="no unit of time"):
        read(tmp_path, made.aiperf_summary(time_to_first_token={"unit": "tokens", "p50": 40.0}))


def test_aiperfs_requests_take_model_and_load_from_the_summary_beside_them(tmp_path: Path) -> None:
    records = made.lines([made.aiperf_record(n) for n in range(60)])
    paths = [
        made.put(tmp_path, "profile_export.jsonl", records),
        made.put(tmp_path, "profile_export_aiperf.json", made.aiperf_summary()),
    ]
    (found,) = interchange.read(paths)
    assert found.model.name == "Qwen/Qwen3-0.6B"
    assert figure(found, "ttft_p50_s") == pytest.approx(0.043)  # from the credit
    assert figure(found, "ttft_from_send_p50_s") == pytest.approx(0.04)
    assert figure(found, "icl_p50_s") == pytest.approx(0.005)
    assert figure(found, "itl_p50_s") == pytest.approx(0.005)
    assert len(found.trials[0].records) == 60


def test_aiperfs_requests_alone_need_a_model(tmp_path: Path) -> None:
    records = made.lines([made.aiperf_record(n, issued=False) for n in range(3)])
    with pytest.raises(ArmbenchError, match="no model"):
        read(tmp_path, records, "profile_export.jsonl")
    found = read(tmp_path, records, "profile_export.jsonl", Told(model="Qwen/Qwen3-0.6B"))
    assert figure(found, "ttft_p50_s") is None
    assert figure(found, "ttft_from_send_p50_s") == pytest.approx(0.04)


def test_aiperfs_warm_up_and_errors_are_told_apart(tmp_path: Path) -> None:
    records = [made.aiperf_record(n) for n in range(6)]
    records[0]["metadata"]["benchmark_phase"] = "warmup"
    records[5] |= {"error": {"code": 499, "message": "cancelled"}, "metrics": {}}
    found = read(tmp_path, made.lines(records), "p.jsonl", Told(model="m"))
    trial = found.trials[0]
    assert (len(trial.warmup), len(trial.records)) == (1, 5)
    assert trial.records[-1].error == "cancelled"


def test_nothing_secret_or_local_is_stored(tmp_path: Path) -> None:
    for name, value in (
        ("a.json", made.aiperf_summary()),
        ("g.json", made.guidellm_report()),
        ("v.json", made.vllm_run(header="Authorization: Bearer abcdefgh", hf_token="hf_abcdefghi")),
    ):
        store.save(read(tmp_path, value, name), tmp_path / "r.json")
        text = (tmp_path / "r.json").read_text()
        for word in ("sk-", "10.0.0.7", "Bearer", "hf_abc", "secret words", "api_key"):
            assert word not in text, (name, word)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ttfts": [0.05] * 59}, "unequal"),
        ({"itls": [["x", 0.1]] * 60}, "itls"),
        ({"itls": [[-1.0, 0.1]] * 60}, "itls"),
        ({"output_lens": [2_000_000_000] * 60}, "itls|output"),
        ({"output_lens": [1_000_000] * 60}, "output tokens"),
        ({"start_times": [0.0, *[1e9] * 59]}, "100 days"),
        ({"request_rate": "fast"}, "request_rate"),
        ({"duration": "NaN"}, "duration"),
        ({"date": "soon"}, "date"),
        ({"model_id": None}, "no model"),
        ({"completed": 1.5}, "completed"),
    ],
)
def test_a_vllm_run_that_can_not_be_is_refused_by_name(
    tmp_path: Path, change: dict, said: str
) -> None:
    with pytest.raises(ArmbenchError, match=said):
        read(tmp_path, made.vllm_run() | change)


def round_trip(tmp_path: Path, ours: Result) -> tuple[dict, Result]:
    """A served result as vLLM's document, and what is read of it."""
    text = interchange.write(ours, "vllm").text
    return json.loads(text), read(tmp_path, text)


def test_a_written_run_lasts_until_its_last_token_and_its_sums_fit_its_lists(
    tmp_path: Path,
) -> None:
    ours = made.served(requests=20)
    trial = ours.trials[0]
    trial.window_ns = (made.S, 2 * made.S)  # the load ended; half of its answers came later
    run, again = round_trip(tmp_path, ours)
    first, last = made.S + 2 * made.MS, made.S + 1900 * made.MS + 112 * made.MS
    assert run["duration"] == pytest.approx((last - first) / made.S)
    assert run["num_prompts"] == len(run["start_times"]) == 20
    assert run["total_output_tokens"] == sum(run["output_lens"]) == 19 * 4
    rate = sum(run["output_lens"]) / run["duration"]
    assert run["output_throughput"] == pytest.approx(rate)
    assert figure(again, "output_tok_per_s") == pytest.approx(rate)


def test_a_cancelled_request_is_written_as_failed(tmp_path: Path) -> None:
    ours = made.served(requests=20)
    late, never = ours.trials[0].records[-1], ours.trials[0].records[-2]
    late.finish, late.token_ns = "cancelled", late.token_ns[:2]
    never.finish, never.token_ns, never.sent_ns, never.error = "cancelled", [], 0, "never sent"
    run, again = round_trip(tmp_path, ours)
    assert (run["completed"], run["failed"]) == (17, 3)
    assert (run["output_lens"][-2:], run["errors"][-2:]) == ([0, 0], ["never sent", "cancelled"])
    assert run["start_times"][-2] == pytest.approx(never.due_ns / made.S)
    assert figure(again, "failed_share") == pytest.approx(3 / 20)


def test_batches_one_after_another_are_not_read_as_due_at_once(tmp_path: Path) -> None:
    ours = made.batched(repeats=1)
    load = LoadPoint(kind="offline", batch=1, input_tokens=100, output_tokens=5, requests=2)
    ours.plan.cases[0].load = load
    run, again = round_trip(tmp_path, ours)
    assert run["max_concurrency"] == 1
    assert figure(again, "ttft_p50_s") == pytest.approx(0.1)
    ours.plan.cases[0].load = structs.replace(load, batch=2)
    assert round_trip(tmp_path, ours)[0]["max_concurrency"] is None
    ours.plan.cases[0].load = structs.replace(load, kind="single_stream")
    ours.plan.cases[0].variant.instances = 2
    assert round_trip(tmp_path, ours)[0]["max_concurrency"] == 2


@pytest.mark.parametrize(
    "arrivals",
    [
        Arrivals(process="constant", rate=10.0),
        Arrivals(process="poisson", rate=10.0),
        Arrivals(process="gamma", rate=10.0, burstiness=0.5),
        Arrivals(process="ramp", rate=1.0, rate_end=20.0),
        Arrivals(process="trace"),
    ],
)
def test_arrivals_survive_vllms_format(tmp_path: Path, arrivals: Arrivals) -> None:
    ours = made.served()
    load = ours.plan.cases[0].load
    serving = ServingLoad(arrivals=arrivals)
    ours.plan.cases[0].load = structs.replace(load, serving=serving)
    _, again = round_trip(tmp_path, ours)
    found = again.plan.cases[0].load
    assert found.serving is not None
    assert (found.kind, found.serving.arrivals) == ("open", arrivals)
    assert figure(again, "ttft_p50_s") == pytest.approx(figure(ours, "ttft_p50_s"))


def test_arrivals_are_written_as_vllm_names_them(tmp_path: Path) -> None:
    ours = made.served()
    load = ours.plan.cases[0].load

    def written(arrivals: Arrivals) -> tuple[dict, list[str]]:
        ours.plan.cases[0].load = structs.replace(load, serving=ServingLoad(arrivals=arrivals))
        export = interchange.write(ours, "vllm")
        return json.loads(export.text), export.left_out

    ramp, _ = written(Arrivals(process="ramp", rate=1.0, rate_end=20.0))
    told = [ramp[f"ramp_up_{key}"] for key in ("strategy", "start_rps", "end_rps")]
    assert (told, ramp["request_rate"]) == (["linear", 1.0, 20.0], "inf")
    assert written(Arrivals(process="constant", rate=2.0))[0]["burstiness"] == "inf"
    trace, left_out = written(Arrivals(process="trace", trace="a.csv"))
    assert trace["request_rate"] == "inf"
    assert any("case 0: its trace" in text for text in left_out)


def test_requests_over_time_without_a_rate_are_a_trace(tmp_path: Path) -> None:
    run = made.vllm_run(request_rate="inf", queue_times=[0.02] * 60)
    found = read(tmp_path, run)
    load = found.plan.cases[0].load
    assert load.serving is not None
    assert (load.kind, load.serving.arrivals) == ("open", Arrivals(process="trace"))
    assert figure(found, "ttft_p50_s") == pytest.approx(0.07)
    waited = [0.1 * n for n in range(60)]  # for a slow client: all came at the start
    assert read(tmp_path, run | {"queue_times": waited}).plan.cases[0].load.kind == "offline"
    del run["queue_times"]
    found = read(tmp_path, run)
    assert found.plan.cases[0].load.kind == "open"
    assert all(r.due_ns == r.sent_ns for r in found.trials[0].records)


def test_lists_without_the_times_of_sending_are_left_out_whole_and_that_is_said(
    tmp_path: Path,
) -> None:
    run = made.vllm_run(requests=3000)
    del run["start_times"]
    found = read(tmp_path, run)
    assert not {"ttfts", "itls", "errors", "latencies"} & found.trials[0].extra.keys()
    assert any("without the time each was sent" in note for note in found.plan.notes)
    found.trials[0].extra["ttfts"] = [0.05] * 1000  # as a result of an older version has it
    export = interchange.write(found, "vllm")
    again = json.loads(export.text)
    assert again["completed"] == 3000
    assert not {"ttfts", "itls", "errors"} & again.keys()
    assert any("lists of requests" in text for text in export.left_out)


def test_a_throughput_run_of_guidellm_with_a_cap_is_due_as_its_slots_become_free(
    tmp_path: Path,
) -> None:
    report = made.guidellm_report()
    run = report["benchmarks"][0]
    run["config"]["strategy"] = {"type_": "throughput", "max_concurrency": 1}
    for request in run["requests"]["successful"]:
        request["info"]["timings"]["targeted_start"] = run["start_time"]
    found = read(tmp_path, report)
    assert found.plan.cases[0].load.kind == "closed"
    assert figure(found, "ttft_p50_s") == pytest.approx(0.2, abs=1e-6)
    del run["config"]["strategy"]["max_concurrency"]
    found = read(tmp_path, report)
    assert found.plan.cases[0].load.kind == "offline"
    assert figure(found, "ttft_p50_s") > 5
