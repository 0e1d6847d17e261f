"""How a search begins, or goes on: its space, its result file, its engines' run."""

from __future__ import annotations

import datetime
from pathlib import Path

from msgspec import Struct

from harness import begin, plan, store
from harness.engine_run import EngineRun
from harness.errors import ArmbenchError
from harness.machine import placement
from harness.machine.detect import machine_slug
from harness.machine.wish import parse_wish
from harness.model import checkpoint as checkpoints
from harness.records.machine import Machine
from harness.records.run import Plan
from harness.records.tune import Asked, Left, Tune
from harness.tune import space
from harness.tune.conduct import Listener, Tuning
from harness.tune.search import BARRED
from harness.tune.space import Space, Wanted


class Money(Struct, kw_only=True):
    """What the instance costs: given, by its name, or by what is detected where both are None."""

    price: str | None = None
    instance: str | None = None


def survey(asked: Asked, wanted: Wanted, machine: Machine) -> Space:
    """The space on this machine; nothing is loaded. Raises ArmbenchError for what is unknown."""
    _, d = checkpoints.peek(asked.model)
    if sum(asked.lengths) > d.context:
        raise ArmbenchError(
            f"{asked.lengths[0]} input and {asked.lengths[1]} output tokens exceed the model's "
            f"context of {d.context}",
            hint="give a shorter --workload",
        )
    if asked.objective == "latency" and asked.lengths[1] == 1:
        raise ArmbenchError(
            "the latency is the time per output token after the first, and one output token has "
            "none",
            hint="give a --workload of two output tokens or more, or --objective throughput",
        )
    return space.enumerate_space(asked, wanted, space.room_of(machine, asked.placement), d)


def new_plan(asked: Asked, found: Space, machine: Machine) -> Plan:
    """The plan of the result's file: its cases come with the trials.

    Every shape has the CPUs and the driver that the plan written of the winner will give it.
    """
    shapes = {(one.threads, one.instances) for one in (found.candidates[i] for i in found.plans)}
    wish = parse_wish(asked.placement)
    where = placement.lay_out_each(machine, shapes, wish)
    fake = all(found.candidates[index].engine == "fake" for index in found.plans)
    return Plan(
        name="tune",
        model=asked.model,
        cases=[],
        repeats=1,
        seed=asked.seed,
        cpus=where.cpus,
        driver_cpus=where.driver,
        placement=wish.name,
        time_budget_s=asked.budget_s,
        trial_timeout_s=None,
        notes=[*where.notes, *found.notes],
        ceilings=not fake,
        places=where.places,
    )


def new_tuning(
    asked: Asked,
    wanted: Wanted,
    machine: Machine,
    results: Path,
    listener: Listener,
    money: Money,
) -> Tuning:
    """A new search, its result file not yet written.

    Raises ArmbenchError where nothing can be tried, or the objective needs a price and there is
    none.
    """
    found = survey(asked, wanted, machine)
    if not found.plans:
        raise ArmbenchError(
            f"none of {len(found.candidates)} candidates can be tried: {_reasons(found.left)}",
            hint="see `armbench tune --dry-run` for every reason",
        )
    price, reason = begin.choose_price(money.price, money.instance, machine)
    if price is None and asked.objective == "cost":
        raise ArmbenchError(f"the cost needs a price: {reason}", hint="or --objective throughput")
    resolved = new_plan(asked, found, machine)
    now = datetime.datetime.now(datetime.UTC)
    path = store.new_path(results, machine_slug(machine), resolved.name, now)
    listener.started(machine, resolved)
    model = begin.open_checkpoint(asked.model, listener)
    spec = plan.Spec(model=asked.model, price=money.price, instance=money.instance)
    result = begin.new_result(spec, resolved, machine, model)
    result.tune = Tune(
        asked=asked, candidates=found.candidates, lengths=asked.lengths, left=found.left
    )
    return Tuning(EngineRun(result, path, model, listener), found.plans, listener)


def _reasons(left: list[Left]) -> str:
    return "; ".join(dict.fromkeys(one.reason for one in left))


def resume_tuning(path: Path, machine: Machine, listener: Listener) -> Tuning:
    """The search in `path`, to go on with.

    One that stopped, but was interrupted before its last ceilings, goes on with these. Raises
    ArmbenchError where there is none in it or it is finished, NotComparable where machine or
    weights are not those of the result.
    """
    result = store.load(path)
    if result.tune is None:
        raise ArmbenchError(
            f"{path} holds no search", hint="`armbench run --resume FILE` finishes a run"
        )
    if result.finished:
        raise ArmbenchError(
            f"the search in {path} has ended: {result.tune.stopped}",
            hint="`armbench show FILE` prints what it found",
        )
    run = begin.resume_run(path, machine, listener)
    run.remaining()  # forgets a trial that was interrupted
    kept = {(trial.case, trial.repeat) for trial in run.result.trials}
    run.plan.order = [pair for pair in run.plan.order if tuple(pair) in kept]
    assert run.result.tune is not None
    tune = run.result.tune
    gone = {c for left in tune.left if left.why in BARRED for c in left.candidates}
    plans: dict[int, Plan] = {}
    for index, one in enumerate(tune.candidates):
        if index not in gone:
            plans[index] = space.resolve(tune.asked, one, machine, run.model.dimensions)
    return Tuning(run, plans, listener)
