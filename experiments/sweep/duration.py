"""How long jobs take, by what finished jobs of their kind took."""

from collections.abc import Iterable, Sequence

from hies.runs.files import Row

MINUTE, HOUR, DAY = 60, 3600, 86400
Kind = tuple[str, str, str]  # model, task, criterion


class Durations:
    """Means over finished jobs: of the same kind where there are any, else of model and task, else of all."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, ...], list[float]] = {}

    def add(self, kind: Kind, rows: Sequence[Row]) -> None:
        """Count a finished job."""
        for known in (kind, kind[:2], ()):
            self._seconds.setdefault(known, []).append(seconds_of(rows))

    def of(self, kinds: Iterable[Kind]) -> float | None:
        """Seconds that jobs of these kinds take together; None where nothing is known."""
        if not self._seconds:
            return None
        return sum(self._mean(kind) for kind in kinds)

    def _mean(self, kind: Kind) -> float:
        found = next(self._seconds[known] for known in (kind, kind[:2], ()) if known in self._seconds)
        return sum(found) / len(found)


def seconds_of(rows: Sequence[Row]) -> float:
    """Scoring and evaluation of a job; a calibration pass that several rows share counts once."""
    return sum({row["score_seconds"] for row in rows}) + sum(row["eval_seconds"] for row in rows)


def in_words(seconds: float) -> str:
    """A length of time to two units, as in `about 3 h 20 min`."""
    if seconds < MINUTE:
        return "less than a minute"
    if seconds < HOUR:
        return f"about {round(seconds / MINUTE)} min"
    minutes = round(seconds / MINUTE)
    if seconds < DAY:
        return f"about {minutes // 60} h {minutes % 60} min"
    hours = round(seconds / HOUR)
    return f"about {hours // 24} d {hours % 24} h"
