"""Break-even, fleets and the commands around them: arithmetic that a budget rests on."""

from __future__ import annotations

import datetime
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from harness import binding, breakeven, cost, fleet, prices, store
from harness.breakeven import at_use, break_even
from harness.errors import ArmbenchError, Exit
from harness.fleet import Wish
from harness.load.slo import parse_slo
from harness.prices import adding
from harness.records.load import Capacity, Probe, ServingLoad, Slo
from harness.records.machine import Cloud
from harness.records.money import ApiPrice, BreakEven, Price
from harness.records.run import Estimate, Result
from harness.reports.sheet import cost_text, hosted_of
from tests.inside import armbench
from tests.load.records import request

(RESULT,) = Path(__file__).parents[1].glob("results/*/quick/*.json")
DAY = datetime.date(2026, 7, 2)
AMOUNTS = st.floats(1e-3, 1e3)


@pytest.fixture(autouse=True)
def _no_user_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARMBENCH_PRICES", raising=False)


def server(amount: float, currency: str = "USD") -> Price:
    return Price(
        provider="x",
        sku="s",
        amount=amount,
        currency=currency,
        unit="instance-hour",
        source="test",
        as_of=DAY,
    )


def api(into: float, out: float | None, **more: Any) -> ApiPrice:
    made: dict[str, Any] = {"currency": "USD", "thinking": None} | more
    return ApiPrice(
        provider="p",
        sku="m",
        series="m",
        source="test",
        as_of=DAY,
        region="r",
        input=into,
        output=out,
        **made,
    )


def rate(value: float, low: float | None = None, high: float | None = None) -> Estimate:
    return Estimate(value=value, low=low, high=high, n=3, unit="tok/s", method="test")


def made(*arguments: Any) -> BreakEven:
    found = break_even(*arguments)
    assert isinstance(found, BreakEven)
    return found


# Break-even


@given(AMOUNTS, AMOUNTS, AMOUNTS, st.floats(0.01, 1e5), st.floats(0, 50))
def test_at_the_break_even_both_cost_the_same_a_day(
    amount: float, into: float, out: float, tokens: float, ratio: float
) -> None:
    found = made(server(amount), rate(tokens), api(into, out), ratio)
    assume(found.tokens_per_day is not None)
    assert found.tokens_per_day is not None
    hosted = found.tokens_per_day / 1e6 * (out + ratio * into)
    assert math.isclose(hosted, 24 * amount, rel_tol=1e-9)
    assert found.tokens_per_day <= tokens * 86400 * (1 + 1e-9)


@given(AMOUNTS, AMOUNTS, st.floats(0.01, 1e5))
def test_a_server_that_costs_more_at_full_use_is_never_cheaper(
    amount: float, out: float, tokens: float
) -> None:
    found = made(server(amount), rate(tokens), api(1e-3, out), 0.0)
    full = amount / 3600 / tokens * 1e6
    assert (found.tokens_per_day is None) == (full > out)
    assert found.verdict.startswith("never" if full > out else "cheaper from")


def test_an_interval_that_reaches_over_the_api_price_is_told() -> None:
    close = made(server(3.6), rate(1000, 900, 1100), api(1, 1.05), 0.0)
    assert "interval reaches past" in close.verdict
    clear = made(server(3.6), rate(1000, 990, 1010), api(1, 2.0), 0.0)
    assert "interval" not in clear.verdict


def test_input_tokens_count_as_often_as_the_load_has_them() -> None:
    assert made(server(1), rate(1e4), api(0.5, 2), 4.0).api == 4.0


def test_a_thinking_price_stands_in_and_no_output_price_is_told() -> None:
    assert made(server(1), rate(1e4), api(0.5, None, thinking=3), 0.0).api == 3
    found = break_even(server(1), rate(1e4), api(0.5, None), 0.0)
    assert isinstance(found, str)
    assert "not known" in found


def test_a_price_of_thinking_output_is_named_where_it_stands_in() -> None:
    hosted = prices.nearest_hosted("qwen3-0.6b", 0.6e9, DAY)
    found, _ = breakeven.of_hosted(server(0.1), rate(100), hosted, 4.0)
    (own,) = [one for one in found if one.hosted.series == "qwen3-0.6b"]
    assert own.hosted.output is None
    assert own.label.endswith("by its price of thinking output")
    assert not [one for one in found if one.hosted.output and "thinking" in one.label]


def test_currencies_without_a_rate_are_not_compared() -> None:
    found = break_even(server(1, "SEK"), rate(1e4), api(0.5, 1), 0.0)
    assert isinstance(found, str)
    assert "exchange rate" in found


def test_half_the_use_costs_twice_as_much() -> None:
    used = at_use(rate(2.0, 1.5, 2.5), 0.5)
    assert (used.value, used.low, used.high) == (4.0, 3.0, 5.0)


def test_the_documented_cuts_of_a_series_stand_before_and_after() -> None:
    hosted = prices.nearest_hosted("qwen2.5-0.5b", 494e6, DAY)
    found, unknown = breakeven.of_hosted(server(0.1), rate(50), hosted, 4.0)
    labels = [one.label for one in found]
    assert "after the cut of 2024-05-21" in labels
    assert "after the cut of 2024-09-19" in labels
    assert any("not known" in text for text in unknown)  # qwen-turbo's output before 2024-05-21
    after = {one.label: one.api for one in found if one.hosted.series == "qwen-turbo"}
    assert after["after the cut of 2024-09-19"] < after["after the cut of 2024-05-21"]


# Fleets


@given(st.floats(1e-3, 1e4), st.floats(0, 3), st.floats(1e-3, 1e4))
def test_a_fleet_carries_the_rate_and_one_less_does_not(
    wished: float, headroom: float, one: float
) -> None:
    assume(wished * (1 + headroom) / one < 1e6)
    count = fleet.needed(wished, headroom, one)
    assert count * one >= wished * (1 + headroom) * (1 - 1e-8)
    assert count == 1 or (count - 1) * one < wished * (1 + headroom)


def with_capacity(result: Result, value: float) -> Result:
    """The committed result as if a search had found a capacity at its first case."""
    slo = parse_slo("server")
    probe = Probe(
        case=result.plan.cases[0].id,
        rate=value,
        sent=300,
        attained=299,
        low=0.99,
        high=1.0,
        verdict="holds",
    )
    found = Capacity(slo=slo, rate=value, low=value, high=1.2 * value, probes=[probe])
    result.capacities = [found]
    return result


def test_the_slo_capacity_goes_before_what_was_faster_without_one() -> None:
    result = with_capacity(store.load(RESULT), 0.05)
    (found,), left_out = fleet.fleets([result], Wish(rate=1.0, slo=parse_slo("server")))
    assert (found.per_instance, found.count, found.count_low) == (0.05, 26, 22)
    assert not left_out
    (free,), _ = fleet.fleets([store.load(RESULT)], Wish(rate=1.0))
    assert free.per_instance > 0.05
    assert any("no SLO" in text for text in free.doubts)


def test_a_result_without_that_slo_is_left_out_with_the_reason() -> None:
    wish = Wish(rate=1.0, slo=parse_slo("interactive"))
    found, left_out = fleet.fleets([with_capacity(store.load(RESULT), 0.05)], wish)
    assert found == []
    assert "interactive" in left_out[0]


def test_cheaper_fleets_come_first_and_unpriced_ones_last() -> None:
    results = []
    for amount in (3.0, None, 1.0):
        result = store.load(RESULT)
        result.price = None if amount is None else server(amount)
        results.append(result)
    found, _ = fleet.fleets(results, Wish(rate=1.0, spare=2))
    months = [one.per_month for one in found]
    assert months[2] is None
    assert months[0] is not None
    assert months[1] is not None
    assert months[0] * 3 == pytest.approx(months[1])
    assert months[0] == pytest.approx((found[0].count + 2) * 730 * 1.0)


def test_amounts_in_several_currencies_are_ordered_by_what_they_are_worth() -> None:
    results = []
    for price in (server(3.0, "CNY"), server(1.0), server(9.0, "CNY"), server(0.1, "SEK")):
        result = store.load(RESULT)
        result.price = price
        results.append(result)
    found, _ = fleet.fleets(results, Wish(rate=1.0))
    assert [one.price.amount for one in found if one.price] == [3.0, 1.0, 9.0, 0.1]
    unordered = [any("not ordered" in text for text in one.doubts) for one in found]
    assert unordered == [False, False, False, True]


def test_a_load_must_have_kept_the_stricter_bound_too_in_whatever_order_it_is_named() -> None:
    asked = parse_slo("ttft:p99<=2s,tpot:p90<=100ms")
    turned = parse_slo("tpot:p90<=100ms,ttft:p99<=2s")
    for late, kept in ((5, 0), (0, 1)):  # of a hundred: 95 % keep all, but 99 % were asked of TTFT
        found, _ = fleet.fleets([with_served_load(late, asked)], Wish(rate=1.0, slo=turned))
        assert len(found) == kept


def with_served_load(late: int, slo: Slo) -> Result:
    """The committed result with its first case served; `late` of 100 requests waited 5 s."""
    result = store.load(RESULT)
    first = result.plan.cases[0]
    load = replace(first.load, kind="closed", serving=ServingLoad(concurrency=1, slo=slo))
    result.plan.cases = [replace(first, load=load)]
    result.trials = [t for t in result.trials if t.case == first.id]
    for trial in result.trials:
        trial.records = [
            request(n, due=n / 10, first=5.0 if n < late else 0.1, done=n / 10 + 6)
            for n in range(100)
        ]
        trial.window_ns = (0, 20 * 10**9)
    binding.derive(result)
    return result


@pytest.mark.parametrize(
    "wish", [Wish(rate=0.0), Wish(rate=math.nan), Wish(rate=1, headroom=-1), Wish(rate=1, spare=-1)]
)
def test_a_wish_without_sense_is_refused(wish: Wish) -> None:
    with pytest.raises(ArmbenchError):
        fleet.fleets([], wish)


# The commands


def test_cost_shows_use_break_even_and_the_cuts() -> None:
    done = armbench("cost", str(RESULT), "--instance", "aws/c8g.large")
    assert done.returncode == Exit.FINE, done.stderr
    for text in ("output at 30% use", "break-even", "after the cut of 2024-09-19", "never:"):
        assert text in done.stdout
    none = armbench("cost", str(RESULT))
    assert none.returncode == Exit.USER
    assert "--price" in none.stderr


def test_the_interval_of_a_cost_is_as_uneven_as_it_is() -> None:
    wide = cost.cost(server(3.6), rate(1000, 250, 4000))
    assert cost_text(wide) == "1 [0.25, 4] USD"
    assert cost_text(cost.cost(server(3.6), rate(1000))) == "1 USD"


def test_a_rate_of_zero_has_no_cost_and_stops_nothing(tmp_path: Path) -> None:
    result = store.load(RESULT)
    for trial in result.trials:
        if trial.case == result.plan.cases[0].id:
            trial.figures = {"output_tok_per_s": 0.0, "prefill_tok_per_s": 0.0}
    result.price = server(1.0)
    path = tmp_path / "zero.json"
    store.save(result, path)
    for command in (["show"], ["cost"], ["report", "-o", str(tmp_path / "r.html")]):
        done = armbench(command[0], str(path), *command[1:])
        assert done.returncode == Exit.FINE, done.stderr


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--term", "nonsense", "--instance", "aws/c7g.4xlarge"], "--term 'nonsense'"),
        (["--term", "spot"], "none was detected"),
        (["--region", "eu-west-1"], "none was detected"),
        (["--price", "1 USD/h", "--term", "spot"], "--price with"),
    ],
)
def test_a_term_or_region_that_cannot_be_used_is_refused(flags: list[str], told: str) -> None:
    done = armbench("cost", str(RESULT), *flags)
    assert done.returncode == Exit.USER
    assert told in done.stderr


def test_a_region_that_is_known_has_its_own_price_or_says_that_it_is_another() -> None:
    cloud = Cloud(provider="alibaba", instance="ecs.g8y.4xlarge", region="cn-hongkong")
    assert prices.cloud_price(cloud).amount == 4.8397
    assert prices.cloud_price(replace(cloud, region=None)).region == "cn-hangzhou"
    unknown = prices.cloud_price(replace(cloud, region="xx-nowhere-1"))
    assert unknown.region == "cn-hangzhou"
    assert any("none is known in xx-nowhere-1" in text for text in prices.caveats(unknown))


@pytest.mark.parametrize(
    ("name", "family", "parameters", "series"),
    [
        ("my-finetune", "qwen2", 494e6, "qwen2.5-7b-instruct"),
        ("qwen1.5-0.5b", None, 464e6, "qwen1.5-0.5b"),
        ("qwen1.5-4b", None, 3.95e9, "qwen1.5-4b"),
    ],
)
def test_the_nearest_hosted_model_goes_by_name_and_else_by_family(
    name: str, family: str | None, parameters: float, series: str
) -> None:
    result = store.load(RESULT)
    result.model = replace(result.model, name=name, family=family, parameters=int(parameters))
    assert hosted_of(result).references[0].series == series


def test_capacity_says_what_its_figure_rests_on() -> None:
    done = armbench("capacity", str(RESULT), "--rate", "20", "--json")
    (found,) = json.loads(done.stdout)["fleets"]
    assert found["basis"].startswith("measured here")
    assert "synthetic weights" in found["doubts"]
    refused = armbench("capacity", str(RESULT), "--rate", "20", "--slo", "server")
    assert refused.returncode == Exit.USER


def test_prices_of_a_day_are_those_of_that_day() -> None:
    done = armbench("prices", "--model", "qwen-turbo", "--on", "2024-06-01", "--json")
    (row,) = json.loads(done.stdout)["prices"]
    assert (row["input"], row["output"], row["currency"]) == (2.0, 6.0, "CNY")
    spot = armbench("prices", "--instance", "gcp/c4a-highcpu-64", "--json")
    assert {row["price"]["term"] for row in json.loads(spot.stdout)} == {"on-demand", "spot"}


ROW = adding.Row(
    name="lab/n2.8",
    price=server(0.25, "EUR"),
    region="here",
    vcpus=8,
    memory_gib=32.0,
    cpu="altra",
    arch="aarch64",
    source="https://example.org/prices",
)


def test_an_added_row_is_read_back_and_a_second_one_joins_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from msgspec.structs import replace

    adding.add(ROW, tmp_path)
    adding.add(replace(ROW, name="lab/n2.16", vcpus=16, price=server(0.5, "EUR")), tmp_path)
    monkeypatch.setenv("ARMBENCH_PRICES", str(tmp_path))
    assert prices.check(tmp_path) == []
    found = [prices.instance_price(name).price.amount for name in ("lab/n2.8", "lab/n2.16")]
    assert found == [0.25, 0.5]


@given(st.text(min_size=1, max_size=40), st.text(min_size=1, max_size=40))
def test_whatever_is_added_reads_back_or_is_refused_whole(sku: str, cpu: str) -> None:
    import tempfile

    from msgspec.structs import replace

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        try:
            file = adding.add(replace(ROW, name=f"lab/{sku}", cpu=cpu), folder)
        except ArmbenchError:
            assert list(folder.iterdir()) == []
            return
        from harness.prices.tables import InstanceFile, parse

        read = parse(file, file.read_text())
        assert isinstance(read, InstanceFile)
        assert [(row.sku, row.cpu) for row in read.rows()] == [(sku, cpu)]


def test_a_bad_row_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    from msgspec.structs import replace

    file = adding.add(ROW, tmp_path)
    before = file.read_text()
    for bad in (
        replace(ROW, source="not a url"),
        replace(ROW, price=replace(server(1), as_of=datetime.date(2999, 1, 1))),
        replace(ROW, term="forever"),
        ROW,  # twice
        replace(ROW, name="../../etc/x"),
    ):
        with pytest.raises(ArmbenchError):
            adding.add(bad, tmp_path)
    assert file.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["lab.toml"]
