"""Live progress of a run, on stderr: a bar on a terminal, else plain lines."""

from __future__ import annotations

import time

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from harness.machine.conditions import read_conditions
from harness.records.machine import Machine
from harness.records.run import Case, Check, Plan, Trial
from harness.reports.machine import machine_card, machine_lines
from harness.reports.terminal import console, show_plan
from harness.units import format_duration
from harness.validity import label


class ProgressListener:
    """Tells on stderr what a run does; use as a context manager."""

    def __init__(self) -> None:
        self.out = console(stderr=True)
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        self.last_phase = ""

    def __enter__(self) -> ProgressListener:
        if self.out.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[left]}"),
                TimeElapsedColumn(),
                console=self.out,
                transient=True,
            )
            self.bar.start()
            self.task = self.bar.add_task("starting", total=None, left="")
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def say(self, text: str) -> None:
        """One line."""
        stamp = time.strftime("%H:%M:%S")
        self.out.print(Text(text if self.out.is_terminal else f"{stamp} {text}"))

    def started(self, machine: Machine, plan: Plan) -> None:
        self.show_machine(machine)
        show_plan(plan, self.out)

    def show_machine(self, machine: Machine) -> None:
        """What it runs on, and in which state that is."""
        if self.out.is_terminal:
            self.out.print(machine_card(machine, read_conditions()))
        else:
            for line in machine_lines(machine, read_conditions()):
                self.say(line)

    def phase(self, text: str, done: float | None = None) -> None:
        if self.bar is not None and self.task is not None:
            total = None if done is None else 1.0
            self.bar.update(self.task, description=text, total=total, completed=done or 0, left="")
        elif text != self.last_phase:
            self.say(text)
        self.last_phase = text

    def checked(self, check: Check) -> None:
        name = check.variant.label
        verdict = {True: "computes the model", False: "DOES NOT COMPUTE THE MODEL", None: "?"}
        reason = f": {check.reason}" if check.reason else ""
        made = f", converted in {format_duration(check.prepare_s)}" if check.prepare_s else ""
        self.say(f"{name} {verdict[check.ok]}{reason}{made}")

    def fitted(self, plan: Plan, seconds: float) -> None:
        self.say(f"{len(plan.order)} trials, about {format_duration(seconds)}")

    def trial_started(self, number: int, total: int, case: Case, repeat: int) -> None:
        text = f"trial {number}/{total}: {label(case)}, repeat {repeat + 1}"
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, description=text, total=total, completed=number - 1)

    def trial_ended(self, number: int, total: int, trial: Trial, seconds_left: float) -> None:
        left = f"about {format_duration(seconds_left)} left" if seconds_left else ""
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, total=total, completed=number, left=left)
        outcome = trial.reason or "; ".join(trial.invalid) or "ok"
        if self.bar is None or outcome != "ok":
            self.say(f"trial {number}/{total} {outcome}{', ' + left if left else ''}")
