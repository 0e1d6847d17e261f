"""Prices: what the committed rows say, what money follows from them, and what bad input gets."""

from __future__ import annotations

import json
import math
import re
from datetime import date, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import prices
from harness.errors import ArmbenchError
from harness.places import config_dir
from harness.prices.files import MAX_FILE_BYTES
from harness.records.money import ApiPrice, InstancePrice, Price

TODAY = date(2026, 11, 22)
HOURLY = Price(
    provider="p",
    sku="s",
    amount=1.0,
    currency="USD",
    unit="instance-hour",
    source="here",
    as_of=date(2026, 1, 1),
)
SERVERS = """
kind = "instances"
provider = "{provider}"
default_region = "here"

[sources.own]
note = "our contract"

[[lists]]
source = "own"
as_of = {as_of}
regions = ["here"]
currency = "{currency}"
unit = "{unit}"
families = [
  {{ sku = "{sku}", cpu = "altra", arch = "aarch64", gib_per_vcpu = 4, amounts = {amounts} }},
]
"""
FINE = {
    "provider": "lab",
    "as_of": "2026-01-01",
    "currency": "EUR",
    "unit": "instance-hour",
    "sku": "n1-{size}",
    "amounts": "{ 2 = 0.1, 4 = 0.2, 8 = 0.4 }",
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of prices."""
    monkeypatch.setenv("ARMBENCH_PRICES", str(tmp_path))
    return tmp_path


@pytest.fixture(autouse=True)
def _no_user_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARMBENCH_PRICES", raising=False)


def servers(**changed: str) -> str:
    return SERVERS.format(**FINE | changed)


# The committed files


def test_the_committed_files_have_no_fault() -> None:
    assert prices.check() == []


def test_every_instance_has_a_date_a_source_and_a_size() -> None:
    rows = prices.instances()
    assert len({row.name for row in rows}) > 300
    for row in rows:
        assert row.price.as_of <= date.today()
        assert row.price.source.startswith("https://")
        assert row.vcpus is not None
        assert row.vcpus > 0
        assert row.memory_gib > 0


@pytest.mark.parametrize(
    ("name", "region", "price", "size"),
    [
        ("aws/c8g.4xlarge", "us-east-1", (0.63808, "USD"), (16, 32)),
        ("aws/m9g.48xlarge", "us-east-1", (9.39264, "USD"), (192, 768)),
        ("azure/Standard_D16ps_v6", "eastus", (0.562, "USD"), (16, 64)),
        ("azure/standard_e96ps_v6", "eastus", (4.426, "USD"), (96, 768)),
        ("alibaba/ecs.g8y.4xlarge", "cn-hangzhou", (3.2, "CNY"), (16, 64)),
        ("gcp/c4a-highcpu-16", "us-central1", (0.60608, "USD"), (16, 32)),
        ("gcp/c4-standard-96", "us-central1", (4.74408, "USD"), (96, 360)),
        ("gcp/t2a-standard-16", "europe-west4", (0.64658, "USD"), (16, 64)),
    ],
)
def test_a_named_instance_costs_what_its_source_says(
    name: str, region: str, price: tuple[float, str], size: tuple[int, float]
) -> None:
    row = prices.instance_price(name)
    assert row.price.amount == pytest.approx(price[0])
    assert row.price.currency == price[1]
    assert (row.region, row.vcpus, row.memory_gib) == (region, *size)


def test_a_sku_alone_is_enough_where_one_provider_has_it() -> None:
    assert prices.instance_price("c8g.4xlarge") == prices.instance_price("aws/c8g.4xlarge")


def test_a_region_changes_the_price() -> None:
    near, far = (
        prices.instance_price("ecs.c8y.4xlarge", region=region).price
        for region in ("cn-beijing", "eu-central-1")
    )
    assert near.amount == pytest.approx(2.1355, rel=1e-4)
    assert far.amount == pytest.approx(3.6536, rel=1e-4)


def test_a_flexible_shape_costs_its_cores_and_its_memory() -> None:
    row = prices.instance_price("oci/VM.Standard.E5.Flex:8:64")
    assert row.price.amount == pytest.approx(8 * 0.03 + 64 * 0.002)
    assert (row.vcpus, row.memory_gib) == (16, 64)


def test_cores_that_no_source_states_stay_unknown() -> None:
    assert prices.instance_price("oci/VM.Standard.A4.Flex:8:64").vcpus is None


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("azure/Standard_D2as_v5", "twice the price"),
        ("oci/VM.Standard.A1.Flex:4:24", "unverified"),
        ("alibaba/ecs.g8y.large", "CNY is inferred"),
        ("gcp/c4a-standard-4", "2025, undated"),
    ],
)
def test_a_doubtful_price_says_so(name: str, word: str) -> None:
    assert any(word in line for line in prices.caveats(prices.instance_price(name).price, TODAY))


def test_a_price_without_doubt_has_no_caveat() -> None:
    assert prices.caveats(prices.instance_price("aws/c8g.4xlarge").price, TODAY) == []
    assert prices.caveats(prices.instance_price("azure/Standard_D8as_v5").price, TODAY) == []


def test_a_price_older_than_a_year_says_so() -> None:
    assert prices.caveats(HOURLY, HOURLY.as_of + timedelta(days=365)) == []
    late = prices.caveats(HOURLY, HOURLY.as_of + timedelta(days=366))
    assert ["more than a year old" in line for line in late] == [True]


def test_an_instance_price_survives_json() -> None:
    row = prices.instance_price("alibaba/ecs.g8y.large")
    assert msgspec.json.decode(msgspec.json.encode(row), type=InstancePrice) == row
    assert json.loads(msgspec.json.encode(row))["price"]["as_of"] == "2024-12-31"


# Names that are wrong


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("aws/c8g.4xlarg", "unknown instance 'aws/c8g.4xlarg'", "aws/c8g.4xlarge"),
        ("c8g.4xlarg", "unknown instance 'c8g.4xlarg'", "c8g.4xlarge"),
        ("azure/Standard_D16ps_v9", "unknown instance", "Standard_D16ps_v"),
        ("asw/c8g.4xlarge", "unknown price provider 'asw'", "did you mean 'aws'"),
        ("", "unknown instance", "known"),
        ("oci/VM.Standard.A1.Flex", "needs a size", "oci/VM.Standard.A1.Flex:4:24"),
        ("oci/VM.Standard.A1.Flex:0:24", "needs a size", "OCPUs and GiB"),
        ("oci/VM.Standard.A1.Flex:4:-1", "needs a size", "OCPUs and GiB"),
        ("aws/c8g.4xlarge:4:24", "unknown instance", "c8g.4xlarge"),
    ],
)
def test_an_unknown_instance_names_the_nearest(name: str, message: str, hint: str) -> None:
    with pytest.raises(ArmbenchError, match=re.escape(message)) as caught:
        prices.instance_price(name)
    assert hint in (caught.value.hint or "")


def test_an_unknown_region_names_the_priced_ones() -> None:
    with pytest.raises(ArmbenchError, match="mars-1") as caught:
        prices.instance_price("ecs.c8y.large", region="mars-1")
    assert "eu-central-1" in (caught.value.hint or "")


def test_a_date_before_the_first_row_is_refused() -> None:
    with pytest.raises(ArmbenchError, match="on or before 2020-01-01") as caught:
        prices.instance_price("aws/c8g.4xlarge", on=date(2020, 1, 1))
    assert "2026-07-20" in (caught.value.hint or "")


# A price given by hand


@pytest.mark.parametrize(
    ("text", "amount", "currency"),
    [
        ("0.638 USD/h", 0.638, "USD"),
        ("$0.638/h", 0.638, "USD"),
        ("0.638USD/hour", 0.638, "USD"),
        ("USD 0.638/hr", 0.638, "USD"),
        ("3.2 cny per hour", 3.2, "CNY"),
        ("€1/h", 1.0, "EUR"),
        ("730 EUR/month", 1.0, "EUR"),
        ("$.5/mo", 0.5 / 730, "USD"),
    ],
)
def test_a_price_is_read_as_written(text: str, amount: float, currency: str) -> None:
    price = prices.parse_price(text, today=TODAY)
    assert price.amount == pytest.approx(amount)
    assert (price.currency, price.unit) == (currency, "instance-hour")
    assert (price.provider, price.source, price.as_of) == ("user", "given by the user", TODAY)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a price"),
        ("cheap", "is not a price"),
        ("0.638", "is not a price"),
        ("0.638 USD", "is not a price"),
        ("0,638 USD/h", "is not a price"),
        ("nan USD/h", "is not a price"),
        ("inf USD/h", "is not a price"),
        ("1e3 USD/h", "is not a price"),
        ("9" * 400 + " USD/h", "is not a price"),
        ("٣ USD/h", "is not a price"),
        ("0 USD/h", "not above zero"),
        ("-1 USD/h", "not above zero"),
        ("$-1/h", "not above zero"),
        ("0.638/h", "names no currency"),
        ("¥3/h", "names no one currency"),
        ("$3 EUR/h", "two currencies"),
        ("3 USB/h", "unknown currency 'USB'"),
        ("3 USD/parsec", "unknown unit of a price 'parsec'"),
        ("3 USD/year", "unknown unit of a price 'year'"),
    ],
)
def test_what_is_no_price_is_refused_with_a_hint(text: str, message: str) -> None:
    with pytest.raises(ArmbenchError, match=re.escape(message)) as caught:
        prices.parse_price(text)
    assert caught.value.hint


def test_a_price_per_month_keeps_what_was_given() -> None:
    assert prices.parse_price("466 EUR/month").note == "466 EUR per month of 730 h"


amounts = st.decimals(min_value="0.000001", max_value="999999", places=6)


@given(amount=amounts, currency=st.sampled_from(["USD", "EUR", "CNY"]))
def test_any_amount_comes_back_whichever_way_it_is_written(amount: object, currency: str) -> None:
    hourly = prices.parse_price(f"{amount} {currency}/h")
    assert hourly.amount == pytest.approx(float(str(amount)))
    assert hourly == prices.parse_price(f"  {currency.lower()}{amount}  per hour ")
    monthly = prices.parse_price(f"{amount} {currency}/month")
    assert monthly.amount * 730 == pytest.approx(hourly.amount)


@given(text=st.text(max_size=40))
def test_any_text_is_a_price_above_zero_or_a_user_error(text: str) -> None:
    try:
        price = prices.parse_price(text)
    except ArmbenchError:
        return
    assert math.isfinite(price.amount)
    assert price.amount > 0


# What tokens cost


def test_a_million_tokens_cost_an_hour_where_a_million_come_in_an_hour() -> None:
    price = prices.parse_price("0.638 USD/h")
    assert prices.cost_per_million(price, 1e6 / 3600) == pytest.approx(0.638)
    assert prices.cost_per_million(price, 100) == pytest.approx(1.77222, rel=1e-5)


@given(
    amount=st.floats(min_value=1e-3, max_value=1e3),
    rate=st.floats(min_value=1e-3, max_value=1e6),
    factor=st.floats(min_value=1e-2, max_value=1e2),
)
def test_cost_grows_with_the_price_and_falls_with_the_rate(
    amount: float, rate: float, factor: float
) -> None:
    price = msgspec.structs.replace(HOURLY, amount=amount)
    dearer = msgspec.structs.replace(HOURLY, amount=amount * factor)
    cost = prices.cost_per_million(price, rate)
    assert prices.cost_per_million(dearer, rate) == pytest.approx(cost * factor)
    assert prices.cost_per_million(price, rate * factor) == pytest.approx(cost / factor)
    assert cost * rate * 3600 / 1e6 == pytest.approx(amount)


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf])
def test_no_rate_no_cost(rate: float) -> None:
    with pytest.raises(ArmbenchError, match="no cost per token"):
        prices.cost_per_million(HOURLY, rate)


def test_a_price_per_token_is_not_the_cost_of_a_server() -> None:
    with pytest.raises(ArmbenchError, match="per million-tokens"):
        prices.cost_per_million(msgspec.structs.replace(HOURLY, unit="million-tokens"), 1.0)


# Currency


def test_a_price_is_converted_at_the_dated_rate_and_says_so() -> None:
    price = prices.instance_price("ecs.g8y.4xlarge").price
    dollars = prices.convert(price, "USD", TODAY)
    assert dollars.amount == pytest.approx(3.2 * 0.1435)
    assert dollars.currency == "USD"
    assert "0.1435, 2026-07-02" in (dollars.note or "")
    assert prices.convert(dollars, "CNY", TODAY).amount == pytest.approx(3.2)


def test_a_price_in_the_wished_currency_is_left_alone() -> None:
    assert prices.convert(HOURLY, "USD") is HOURLY


def test_nothing_is_converted_at_a_guessed_rate() -> None:
    with pytest.raises(ArmbenchError, match="no exchange rate from USD to EUR"):
        prices.convert(HOURLY, "EUR", TODAY)
    with pytest.raises(ArmbenchError, match="on or before 2024-12-31"):
        prices.exchange_rate("CNY", "USD", date(2024, 12, 31))


def test_an_api_price_is_converted_in_all_its_amounts() -> None:
    (row,) = prices.api_prices("qwen3-0.6b", TODAY)
    dollars = prices.convert(row, "USD", TODAY)
    assert dollars.input == pytest.approx(0.3 * 0.1435)
    assert dollars.output is None
    assert dollars.thinking == pytest.approx(3 * 0.1435)


# Hosted models


def in_china(name: str, on: date) -> ApiPrice:
    (row,) = (row for row in prices.api_prices(name, on) if row.region == "cn")
    return row


@pytest.mark.parametrize(
    ("name", "on", "expected"),
    [
        ("qwen-turbo", date(2024, 5, 20), (8, None)),
        ("qwen-turbo", date(2024, 5, 21), (2, 6)),
        ("qwen-turbo", date(2024, 9, 18), (2, 6)),
        ("qwen-turbo", date(2024, 9, 19), (0.3, 0.6)),
        ("qwen-max", date(2025, 1, 24), (20, 60)),
        ("qwen-max", date(2025, 1, 25), (2.4, 9.6)),
        ("qwen-vl-max", date(2025, 1, 1), (3, None)),
        ("qwen3-max", date(2026, 9, 10), (2.5, 10)),
        ("qwen3-max", date(2026, 9, 11), (9, 54)),
    ],
)
def test_the_price_of_a_hosted_model_is_that_of_its_day(
    name: str, on: date, expected: tuple[float, float | None]
) -> None:
    row = in_china(name, on)
    assert (row.input, row.output) == expected
    assert row.source


def test_before_its_first_row_a_hosted_model_has_no_price() -> None:
    assert prices.api_prices("qwen-turbo", date(2020, 1, 1)) == []


def test_the_history_of_a_hosted_model_is_in_order_of_dates() -> None:
    dates = [row.as_of for row in prices.api_prices("QWEN-MAX")]
    assert len(dates) > 4
    assert dates == sorted(dates)


def test_an_unknown_hosted_model_names_the_nearest() -> None:
    with pytest.raises(ArmbenchError, match="unknown hosted model") as caught:
        prices.api_prices("qwen-turbi")
    assert "qwen-turbo" in (caught.value.hint or "")


def test_every_documented_change_of_a_model_has_the_rows_around_it() -> None:
    changes = prices.price_changes("qwen-max")
    around = [(c.before and c.before.input, c.after and c.after.input) for c in changes]
    assert around == [(120, 40), (40, 20), (20, 2.4)]
    (rise,) = prices.price_changes("qwen3-max")
    assert rise.direction == "rise"
    assert rise.before is not None
    assert rise.after is not None
    assert rise.before.input < rise.after.input


def test_the_documented_changes_of_the_cloud_and_of_all_models_are_listed() -> None:
    dates = [change.date for change in prices.price_changes()]
    assert dates == sorted(dates)
    assert {date(2024, 2, 29), date(2024, 5, 21), date(2024, 12, 31)} <= set(dates)


@pytest.mark.parametrize(
    ("model", "parameters", "series", "relation"),
    [
        ("qwen2.5-0.5b", None, "qwen2.5-7b-instruct", "larger"),
        ("Qwen/Qwen2.5-1.5B-Instruct", None, "qwen2.5-7b-instruct", "larger"),
        ("qwen2.5-3b", None, "qwen2.5-7b-instruct", "larger"),
        ("qwen2.5-7b", None, "qwen2.5-7b-instruct", "same"),
        ("qwen3-0.6b", None, "qwen3-0.6b", "same"),
        ("qwen3-1.7b", None, "qwen3-1.7b", "same"),
        ("qwen3-4b", None, "qwen3-4b", "same"),
        ("/models/Qwen3-8B/", None, "qwen3-8b", "same"),
        ("qwen3", 596e6, "qwen3-0.6b", "same"),
        ("qwen2", 494e6, "qwen2.5-7b-instruct", "larger"),
        ("Qwen3-30B-A3B-Instruct-2507", None, "qwen3-30b-a3b", "same"),
        ("Qwen2.5-VL-7B-Instruct", None, "qwen-vl-plus", "commercial"),
    ],
)
def test_the_nearest_hosted_model_is_the_same_or_the_next_larger(
    model: str, parameters: float | None, series: str, relation: str
) -> None:
    hosted = prices.nearest_hosted(model, parameters, TODAY)
    first = hosted.references[0]
    assert (first.series, first.relation) == (series, relation)
    assert first.prices
    assert first.reason


def test_a_small_checkpoint_is_held_against_prices_from_before_the_cuts() -> None:
    hosted = prices.nearest_hosted("qwen2.5-0.5b", None, TODAY)
    changes = [change for near in hosted.references for change in near.changes]
    assert {date(2024, 5, 21), date(2024, 9, 19)} <= {change.date for change in changes}
    assert all(change.before and change.after for change in changes)


@pytest.mark.parametrize("model", ["llama-3-8b", "qwen3", "my-finetune", "", "qwen3-999b"])
def test_a_model_without_a_hosted_one_gets_a_reason(model: str) -> None:
    hosted = prices.nearest_hosted(model)
    assert hosted.references == []
    assert hosted.reason


# The user's own files


def test_the_users_rows_are_read_in_addition(own: Path) -> None:
    (own / "lab.toml").write_text(servers())
    row = prices.instance_price("lab/n1-4")
    assert (row.price.amount, row.price.currency, row.memory_gib) == (0.2, "EUR", 16)
    assert row.price.source == "our contract"
    assert prices.instance_price("aws/c8g.4xlarge").vcpus == 16
    assert prices.check() == []


def test_the_newest_row_not_later_than_the_date_counts(own: Path) -> None:
    (own / "old.toml").write_text(servers())
    (own / "new.toml").write_text(
        servers(as_of="2026-03-01", amounts="{ 2 = 0.3, 4 = 0.6, 8 = 1.2 }")
    )
    assert prices.instance_price("lab/n1-2").price.amount == pytest.approx(0.3)
    early = prices.instance_price("lab/n1-2", on=date(2026, 2, 28))
    assert early.price.amount == pytest.approx(0.1)


def test_a_sku_of_two_providers_is_ambiguous(own: Path) -> None:
    (own / "a.toml").write_text(servers(sku="c8g.{size}xlarge", amounts="{ 4 = 0.5 }"))
    with pytest.raises(ArmbenchError, match=r"2 providers have an instance.*aws, lab"):
        prices.instance_price("c8g.4xlarge")
    assert prices.instance_price("lab/c8g.4xlarge").price.currency == "EUR"


def test_the_users_row_wins_over_a_shipped_one_of_its_date(own: Path) -> None:
    text = servers(provider="aws", sku="c8g.{size}xlarge", as_of="2026-07-20", currency="USD")
    (own / "a.toml").write_text(text.replace('"here"', '"us-east-1"'))
    assert prices.instance_price("aws/c8g.4xlarge").price.amount == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"unit": "instance-day"}, "instance-day"),
        ({"currency": "EURO"}, "unknown currency 'EURO'"),
        ({"as_of": "2999-01-01"}, "2999-01-01 lies in the future"),
        ({"as_of": '"last year"'}, "as_of"),
        ({"as_of": "2026-01-01\nlicense = 1"}, "unknown field `license`"),
        ({"sku": "n1"}, "needs {size}"),
        ({"amounts": "{ 2 = 0 }"}, "amounts"),
        ({"amounts": "{ 2 = -0.1 }"}, "amounts"),
        ({"amounts": "{ 2 = nan }"}, "amounts"),
        ({"amounts": "{ 2 = inf }"}, "amounts"),
        ({"amounts": '{ 2 = "0.1" }'}, "amounts"),
        ({"amounts": "{ big = 0.1 }"}, "size 'big' is neither in [sizes] nor a number"),
        ({"amounts": "{ 2 = 0.1, 4 = 0.2, 8 = 0.8 }"}, "n1-8: +100% per vCPU"),
        ({"amounts": "{ 2 = 0.1, 2 = 0.2 }"}, "lab.toml"),
        ({"amounts": "[" * 5000}, "lab.toml"),
        ({"provider": 'lab"\nextra = "1'}, "unknown field `extra`"),
    ],
)
def test_a_bad_file_is_named_with_its_fault(
    own: Path, changed: dict[str, str], message: str
) -> None:
    (own / "lab.toml").write_text(servers(**changed))
    assert any("lab.toml" in fault and message in fault for fault in prices.check())
    with pytest.raises(ArmbenchError, match=re.escape(message)) as caught:
        prices.instance_price("lab/n1-2")
    assert caught.value.hint


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"kind = 'nothing'\n", b"x" * 2_000_000])
def test_a_file_that_is_no_price_file_is_refused(own: Path, content: bytes) -> None:
    (own / "lab.toml").write_bytes(content)
    assert len(prices.check()) == 1
    with pytest.raises(ArmbenchError, match=r"lab\.toml"):
        prices.instances()


def test_a_folder_in_place_of_a_file_is_refused(own: Path) -> None:
    (own / "lab.toml").mkdir()
    with pytest.raises(ArmbenchError, match="not a regular file"):
        prices.instances()


def test_a_missing_folder_of_prices_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARMBENCH_PRICES", "/nowhere/at/all")
    with pytest.raises(ArmbenchError, match="/nowhere/at/all") as caught:
        prices.instances()
    assert "ARMBENCH_PRICES" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("name", "old", "new", "fault"),
    [
        ("aws.toml", 'source = "karpenter"', 'source = "hearsay"', "[sources.hearsay]"),
        ("aws.toml", 'default_region = "us-east-1"', 'default_region = "moon"', "'moon'"),
        ("azure.toml", 'flags = { 2 = "doubled", ', "flags = { ", "Standard_D2as_v5: +107%"),
        ("alibaba.toml", 'regions = ["cn-hongkong"]', 'regions = ["cn-hangzhou"]', "twice"),
        ("qwen-api.toml", 'series = ["qwen3-max"]', 'series = ["qwen9"]', "'qwen9'"),
        ("currency.toml", 'to = "USD"', 'to = "CNY"', "one currency"),
    ],
)
def test_a_fault_put_into_a_shipped_file_is_found(
    tmp_path: Path, name: str, old: str, new: str, fault: str
) -> None:
    text = (config_dir() / "prices" / name).read_text()
    assert old in text
    (tmp_path / "lab.toml").write_text(text.replace(old, new))
    assert any(fault in line for line in prices.check(tmp_path))


def test_a_hosted_row_without_a_price_is_found(tmp_path: Path) -> None:
    for name in ("qwen-api.toml", "open-hosts.toml", "hosted.toml"):
        text = (config_dir() / "prices" / name).read_text()
        (tmp_path / name).write_text(text.replace("Qwen1.5-1.8B", "Qwen1.5-9B"))
    (fault,) = prices.check(tmp_path)
    assert "qwen1.5-1.8b" in fault


def test_shipped_files_stay_below_the_limit_for_users_files() -> None:
    for path in (config_dir() / "prices").glob("*.toml"):
        assert path.stat().st_size < MAX_FILE_BYTES / 10
