"""What is to be sent when: open loops, closed loops and conversations, as logic without a clock."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable

from harness.records.load import Planned

NEVER = 1 << 62


class Job:
    """One planned request with what goes over the wire; `due_ns` is set when it is known.

    `following` is the next turn of its conversation, whose request is made when this one's answer
    is there. `closed` says that it belongs to a closed loop, `held_ns` how long a cap on
    concurrency kept it back.
    """

    __slots__ = ("closed", "due_ns", "following", "held_ns", "planned", "request", "slot")

    def __init__(self, planned: Planned, request: bytes, following: Job | None = None) -> None:
        self.planned = planned
        self.request = request
        self.following = following
        self.closed = planned.due_ns is None
        self.due_ns = 0
        self.slot = 0
        self.held_ns = 0


class Agenda:
    """Hands out jobs in the order they fall due.

    Jobs with a due time make an open loop, which nothing holds back unless `concurrency` caps it:
    then a job waits for a slot, and was due when it was. Jobs without make a closed loop of
    `concurrency` slots, each due when a slot became free; a conversation keeps its slot to its
    end, as one user would. Nothing falls due at `stop_ns` or later.
    """

    def __init__(
        self,
        jobs: Iterable[Job],
        *,
        start_ns: int,
        stop_ns: int | None = None,
        concurrency: int | None = None,
    ) -> None:
        """Raises ValueError for a closed loop without concurrency."""
        self.stop_ns = NEVER if stop_ns is None else stop_ns
        timed: list[Job] = []
        self._slotted: deque[Job] = deque()
        for job in jobs:
            if job.planned.due_ns is None:
                self._slotted.append(job)
            else:
                job.due_ns = start_ns + job.planned.due_ns
                timed.append(job)
        if self._slotted and concurrency is None:
            raise ValueError("a closed loop needs a concurrency")
        self._timed = deque(sorted(timed, key=lambda job: job.due_ns))
        self._later: list[tuple[int, int, Job]] = []  # turns after the first, a heap
        self._waiting: deque[Job] = deque()
        self._capped = concurrency is not None
        self.timed = bool(timed)  # whether it is an open loop, in part at least
        self._free = deque((start_ns, slot) for slot in range(concurrency or 0))
        self._expected = 0  # turns that come once the answer before them is read
        self.running = 0
        self.more = False  # whether jobs of the closed loop are yet to be added

    @property
    def next_ns(self) -> int:
        """When a job falls due, as far as is known; NEVER where another must end first."""
        if self._waiting and self._free:
            return self._waiting[0].due_ns
        best = self._later[0][0] if self._later else NEVER
        if self._timed:
            best = min(best, self._timed[0].due_ns)
        if self._slotted and self._free:
            best = min(best, self._free[0][0])
        return best if best < self.stop_ns else NEVER

    @property
    def exhausted(self) -> bool:
        """Whether every job went out."""
        left = self._timed or self._slotted or self._later or self._waiting or self._expected
        return not left and not self.more

    @property
    def finished(self) -> bool:
        """Whether nothing is on its way and nothing more falls due."""
        pending = self.running or self._expected or self._waiting or self.more
        return not pending and self.next_ns == NEVER

    def take(self, now_ns: int) -> Job | None:
        """The next job to send now, its due time and slot set; None where none is."""
        while self.next_ns <= now_ns:
            job = self._next(now_ns)
            if job is not None:
                self.running += 1
                return job
        return None

    def _next(self, now_ns: int) -> Job | None:
        """The job that `next_ns` speaks of, or None where it has to wait for a slot."""
        if self._waiting and self._free:
            job = self._waiting.popleft()
            job.held_ns = now_ns - job.due_ns
            return self._seated(job)
        timed = self._timed[0].due_ns if self._timed else NEVER
        later = self._later[0][0] if self._later else NEVER
        free = self._free[0][0] if self._slotted and self._free else NEVER
        if free < min(timed, later):
            job = self._slotted.popleft()
            job.due_ns = free
            return self._seated(job)
        job = heapq.heappop(self._later)[2] if later < timed else self._timed.popleft()
        if job.closed:
            return job  # has kept its slot
        if self._capped and not self._free:
            self._waiting.append(job)
            return None
        return self._seated(job)

    def _seated(self, job: Job) -> Job:
        if self._capped:
            job.slot = self._free.popleft()[1]
        return job

    def ended(self, job: Job, at_ns: int, *, goes_on: bool = False) -> None:
        """`job` is over. Where its conversation `goes_on`, `later` or `drop` must come."""
        self.running -= 1
        if goes_on:
            self._expected += 1
        if self._capped and not (goes_on and job.closed):
            self._free.append((at_ns, job.slot))

    def later(self, job: Job, due_ns: int) -> None:
        """The turn after `job` is due at `due_ns`."""
        turn = job.following
        assert turn is not None
        self._expected -= 1
        turn.closed, turn.slot, turn.due_ns = job.closed, job.slot, due_ns
        heapq.heappush(self._later, (due_ns, turn.planned.id, turn))

    def drop(self, job: Job, at_ns: int) -> None:
        """The turn after `job`, which was expected, will not come."""
        self._expected -= 1
        if self._capped and job.closed:
            self._free.append((at_ns, job.slot))

    @property
    def slotted(self) -> int:
        """How many jobs of a closed loop have yet to go out."""
        return len(self._slotted)

    def add(self, jobs: Iterable[Job]) -> None:
        """More jobs for the closed loop."""
        self._slotted.extend(jobs)

    def stop(self) -> list[Job]:
        """Nothing more goes out. Returns the jobs that fell due and waited for a slot yet."""
        waiting = list(self._waiting)
        for queue in (self._waiting, self._timed, self._slotted, self._later):
            queue.clear()
        self._expected = 0
        self.more = False
        return waiting
