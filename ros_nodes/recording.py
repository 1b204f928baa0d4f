"""A bag of raw messages, written as they come: MCAP in rosbag2's format, by the package rosbags. Plain Python, no ROS."""

from __future__ import annotations

import errno
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

MEGABYTE = 1_000_000
LOOK_EVERY = 100  # messages between two looks at the space that is left
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no space, no quota, a file too large


class RecordingEnded(RuntimeError):
    """Nothing more is recorded.

    Args:
        reason: "disk_full", "write_failed" or "closed".
        text: for a person.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(f"{reason}: {text}")
        self.reason = reason


class Recording:
    """One bag. It is closed, and can be read, before the disk is full.

    Args:
        folder: of the bag; must not exist yet.
        about: texts that the bag carries in its metadata.
        min_free: bytes that must stay free on the disk.
        free: how many are, in a folder.

    Raises:
        FileExistsError, OSError: the folder exists, or cannot be made.
        RecordingEnded: disk_full, before anything was written.
    """

    def __init__(self, folder: Path, about: Mapping[str, str], min_free: int = 200 * MEGABYTE, free: Callable[[Path], int] | None = None) -> None:
        from rosbags.rosbag2 import StoragePlugin, Writer
        from rosbags.typesys import Stores, get_typestore

        if folder.exists():
            raise FileExistsError(f"{folder} exists already, and no bag is written over another")
        self.folder, self._min_free, self._free = folder, min_free, free or (lambda place: shutil.disk_usage(place).free)
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._look(folder.parent)
        self._types = get_typestore(Stores.ROS2_JAZZY)
        self._writer: Any = Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP)
        for name, value in about.items():
            self._writer.set_custom_data(name, value)
        self._writer.open()
        self._connections: dict[str, Any] = {}
        self.counts: Counter[str] = Counter()  # topic -> messages

    def knows(self, kind: str) -> bool:
        """Whether messages of this type, e.g. std_msgs/msg/String, can be recorded."""
        return kind in self._types.fielddefs

    def write(self, topic: str, kind: str, data: bytes, stamp: int | None = None) -> None:
        """Add a message.

        Args:
            topic: absolute.
            kind: e.g. std_msgs/msg/String.
            data: as it came over the wire.
            stamp: ns, when it came; now.

        Raises:
            RecordingEnded: nothing more can be written; the bag is closed.
        """
        if self._writer is None:
            raise RecordingEnded("closed", f"{self.folder} is closed")
        try:
            if topic not in self._connections:
                self._connections[topic] = self._writer.add_connection(topic, kind, typestore=self._types)
            self._writer.write(self._connections[topic], time.time_ns() if stamp is None else stamp, data)
        except OSError as error:
            self._fail(self._writer, error)
        self.counts[topic] += 1
        if self.counts.total() % LOOK_EVERY == 0:
            try:
                self._look(self.folder)
            except RecordingEnded:
                self.close()
                raise

    def close(self) -> None:
        """End the bag, so that it can be read.

        Raises:
            RecordingEnded: its end could not be written.
        """
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            writer.close()
        except OSError as error:
            self._fail(writer, error)

    def _look(self, place: Path) -> None:
        left = self._free(place)
        if left < self._min_free:
            raise RecordingEnded("disk_full", f"{left / MEGABYTE:.0f} MB are left where {self.folder} is, at least {self._min_free / MEGABYTE:.0f} must stay")

    def _fail(self, writer: Any, error: OSError) -> None:
        self._writer = None  # what is there stays; a reader that repairs bags can use it
        with suppress(OSError, AttributeError):
            writer.storage.bio.close()
        reason = "disk_full" if error.errno in FULL else "write_failed"
        raise RecordingEnded(reason, f"{self.folder} cannot be written: {error.strerror or error}") from error
