"""How far a long loop is: a bar on a terminal, a line from time to time in a log."""

import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

LOG_EVERY = 30.0  # seconds between two lines of a log


class ProgressBar(tqdm):
    """tqdm, but where standard error is no terminal it writes a line every `LOG_EVERY` seconds, with the time left.

    The line comes whether or not a step was done since the last one, so that a log never stands still.

    Args:
        items, options: as tqdm takes them.
        shown: False writes nothing anywhere.
    """

    def __init__(self, items: Any = None, *options: Any, shown: bool = True, **named: Any) -> None:
        self._in_log = shown and not sys.stderr.isatty()
        self._closed = threading.Event()
        # In a log tqdm counts and never gets to the time of its first drawing.
        super().__init__(items, *options, **named, disable=not shown, delay=float("inf") if self._in_log else 0)
        if self._in_log:
            lines = threading.Thread(target=_write_lines, args=(weakref.ref(self), self._closed), daemon=True)
            lines.name = "progress"
            lines.start()

    def line(self) -> str:
        """Returns what a log says: `rte his seed 0: mask 3 of 12, 00:31 so far, 01:33 left`."""
        done, seconds = self.n, self._time() - self.start_t
        steps = f"{self.unit} {done} of {self.total}" if self.total else f"{self.unit} {done}"
        left = f", {self.format_interval(seconds * (self.total - done) / done)} left" if self.total and done else ""
        title = f"{self.desc.removesuffix(': ')}: " if self.desc else ""
        return f"{title}{steps}, {self.format_interval(seconds)} so far{left}"

    def __iter__(self) -> Iterator[Any]:
        """Yields the items; tqdm itself would count them only when it draws."""
        if not self._in_log:
            yield from super().__iter__()
            return
        try:
            for item in self.iterable:
                yield item
                self.n += 1
        finally:
            self.close()

    def clear(self, *options: Any, **named: Any) -> None:
        """Takes the bar away for a line above it; in a log there is none."""
        if not self._in_log:
            super().clear(*options, **named)

    def display(self, *options: Any, **named: Any) -> Any:
        """Draws the bar; in a log there is none."""
        return None if self._in_log else super().display(*options, **named)

    def close(self) -> None:
        """Ends the bar, and the lines."""
        self._closed.set()
        super().close()


def _write_lines(bar: "weakref.ref[ProgressBar]", closed: threading.Event) -> None:
    """Holds no bar itself: one that a loop was thrown out of goes, and is closed thereby."""
    while not closed.wait(LOG_EVERY):
        if (open_bar := bar()) is not None:
            print(open_bar.line(), file=sys.stderr, flush=True)
        del open_bar
