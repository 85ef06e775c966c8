"""Where the time goes: one clock, and each moment belongs to the activity last switched to."""

from __future__ import annotations

from time import perf_counter


class Stopwatch:
    """Adds up seconds by activity; the activities never overlap, so they sum to the time watched."""

    def __init__(self) -> None:
        self.spent_s: dict[str, float] = {}
        self._activity = ""
        self._since_s = perf_counter()

    def switch(self, activity: str) -> None:
        """Ends the running activity and starts this one; an empty name only ends."""
        now_s = perf_counter()
        if self._activity:
            self.spent_s[self._activity] = self.spent_s.get(self._activity, 0.0) + now_s - self._since_s
        self._activity, self._since_s = activity, now_s

    def spent_ms(self, activity: str) -> float:
        """Milliseconds spent on an activity up to its last end; 0 for one that never ran."""
        return self.spent_s.get(activity, 0.0) * 1e3
