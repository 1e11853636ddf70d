"""What a tuner's time goes into."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Activity:
    """How long compiles and measurements took, and for how long neither was under way."""

    compile_s: float = 0.0
    measure_s: float = 0.0
    busy_s: float = 0.0
    _running: int = 0
    _since: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextlib.contextmanager
    def during(self, what: str) -> Iterator[None]:
        """``what`` ("compile_s" or "measure_s") is under way."""
        start = time.monotonic()
        with self._lock:
            self._since = start if self._running == 0 else self._since
            self._running += 1
        try:
            yield
        finally:
            now = time.monotonic()
            with self._lock:
                self._running -= 1
                self.busy_s += now - self._since if self._running == 0 else 0.0
                setattr(self, what, getattr(self, what) + now - start)
