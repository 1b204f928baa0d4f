"""Stamps that fall or leap: a reading that is late, or a clock that was set. Plain Python, no ROS, no torch."""

from __future__ import annotations

from collections import deque

CONSISTENT = 10  # readings in a row, none older than the one before, of so many different stamps, that are believed
LEAP = 0.25  # s by which a clock may gain on the steady one from one reading to the next


class Fallen:
    """Readings of one source that are stamped earlier than its newest one.

    A late one stands alone, and the next is newer than all again. Where a driver was started anew with another clock, or its clock was set back, all that
    come are earlier than the newest, but grow among themselves: CONSISTENT of them in a row are believed. Until then they are as good as silence.
    """

    def __init__(self) -> None:
        self._stamp, self.count = 0, 0

    def set_back(self, stamp: int) -> bool:
        """Whether the source's clock was set back, now that one more reading (ns) is earlier than its newest."""
        if not self.count or stamp < self._stamp:
            self.count = 1
        elif stamp > self._stamp:  # a driver may send the same one twice, which says neither
            self.count += 1
        self._stamp = stamp
        if self.count < CONSISTENT:
            return False
        self.count = 0
        return True

    def goes_on(self) -> None:
        """A reading came that is not earlier than the newest."""
        self.count = 0


class Leaps:
    """Readings of one source that are stamped too late for the time that has passed: the clock that they are of was set ahead.

    On its way a reading is held up, for long on a busy machine, but none comes before its time: it is the least held up of the last ones that counts.
    """

    def __init__(self) -> None:
        self._offsets = deque[float](maxlen=CONSISTENT)

    def set_ahead(self, stamp: int, now: float) -> bool:
        """Whether the source's clock was set ahead, now (s on the steady clock) that one more reading (ns) is here."""
        offset = stamp * 1e-9 - now
        leapt = bool(self._offsets) and offset - max(self._offsets) > LEAP
        if leapt:
            self._offsets.clear()
        self._offsets.append(offset)
        return leapt
