"""From what was measured to a table and to verdicts on the targets. Nothing here measures or knows a clock."""

import dataclasses
import math
import statistics

from measure import Run

LARGE_OUTPUT = 5e9  # from here on start-up is lost in the rest
SHARE_OF_LIMIT = {"large": 0.9, "small": 0.75}
TIMES_COPY = 3.5
TIMES_PEER = 10.0
PEAK_BYTES = 500e6
SPARE_BYTES = 1.02  # of what has to be read and written: metadata, tokenizers, whole pages


@dataclasses.dataclass
class Row:
    title: str
    kind: str  # "limit", "upmoe", "copy" or "peer"
    runs: list[Run] = dataclasses.field(default_factory=list)
    rival: str = ""  # of a peer: the title of upmoe's row that does the same
    skipped: str = ""  # why there are no runs

    def median(self, field: str) -> float:
        return statistics.median(getattr(run, field) for run in self.runs)

    @property
    def seconds(self) -> float:
        return self.median("seconds")


@dataclasses.dataclass
class Results:
    rows: list[Row]
    source_bytes: int
    source_is_cold: bool = True

    def first(self, kind: str) -> Row | None:
        return next((row for row in self.rows if row.kind == kind and row.runs), None)

    def of_kind(self, kind: str) -> list[Row]:
        return [row for row in self.rows if row.kind == kind]


def table(results: Results) -> str:
    limit, copy = results.first("limit"), results.first("copy")
    lines = [
        "| command | runs | seconds (least, most) | share of the limit | `cp` takes | GB/s | CPU s/GB | peak memory | read | written |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results.rows:
        if not row.runs:
            lines.append(f"| {row.title} | {row.skipped} |")
            continue
        seconds = [run.seconds for run in row.runs]
        gigabytes = row.median("output_bytes") / 1e9
        cells = [
            row.title + (f" ({row.skipped})" if row.skipped else ""),
            str(len(row.runs)),
            f"{row.seconds:.2f} ({min(seconds):.2f}, {max(seconds):.2f})",
            f"{limit.seconds / row.seconds:.2g}" if limit else "-",
            f"{copy.seconds / row.seconds:.2g}x" if copy else "-",
            f"{gigabytes / row.seconds:.2f}",
            f"{row.median('cpu_seconds') / gigabytes:.2f}",
            f"{max(run.peak_bytes for run in row.runs) / 1e6:.0f} MB",
            f"{row.median('read_bytes') / 1e9:.2f} GB",
            f"{row.median('written_bytes') / 1e9:.2f} GB",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def verdicts(results: Results) -> list[str]:
    """One line a target: met, missed or not measured, with the number of each of upmoe's rows."""
    upmoe = [row for row in results.of_kind("upmoe") if row.runs]
    limit, copy = results.first("limit"), results.first("copy")
    output = upmoe[0].median("output_bytes")
    out = []

    def verdict(target: str, numbers: dict[str, float], *, least=None, most=None, digits: int) -> None:
        met = all((least is None or number >= least) and (most is None or number <= most) for number in numbers.values())
        # Rounded away from met, so that what just missed does not look like what was asked.
        rounded = math.ceil if most is not None else math.floor
        shown = (f"{title} {rounded(number * 10**digits) / 10**digits:.{digits}f}" for title, number in numbers.items())
        out.append(f"{'met' if met else 'MISSED'}: {target}: {', '.join(shown)}")

    def times(row: Row) -> dict[str, float]:
        return {mine.title: row.seconds / mine.seconds for mine in upmoe}

    asked = SHARE_OF_LIMIT["large" if output >= LARGE_OUTPUT else "small"]
    if limit:
        verdict(f"at least {asked} of the disk's limit", times(limit), least=asked, digits=2)
    else:
        out.append(f"not measured: share of the disk's limit, and {TIMES_COPY} times cp and sync where it leaves room")
    if copy:
        verdict("never slower than cp and sync", times(copy), least=1, digits=1)
    if copy and limit:
        possible = copy.seconds / limit.seconds
        target = f"{TIMES_COPY} times cp and sync where the limit leaves room (here it is at {possible:.1f} times)"
        if possible * asked >= TIMES_COPY:
            verdict(target, times(copy), least=TIMES_COPY, digits=1)
        else:
            out.append(f"not asked: {target}")
    for peer in results.of_kind("peer"):
        target = f"{TIMES_PEER:.0f} times {peer.title}"
        if not peer.runs:
            out.append(f"not measured: {target}: {peer.skipped}")
            continue
        rival = next(row for row in upmoe if row.title == peer.rival)
        verdict(target, {rival.title: peer.seconds / rival.seconds}, least=TIMES_PEER, digits=1)
    peaks = {row.title: max(run.peak_bytes for run in row.runs) / 1e6 for row in upmoe}
    verdict(f"at most {PEAK_BYTES / 1e6:.0f} MB resident", peaks, most=PEAK_BYTES / 1e6, digits=0)
    once = {"least": 1 / SPARE_BYTES, "most": SPARE_BYTES, "digits": 3}
    if results.source_is_cold:
        read = {row.title: row.median("read_bytes") / results.source_bytes for row in upmoe}
        verdict("the source is read from the disk once", read, **once)
    written = {row.title: row.median("written_bytes") / row.median("output_bytes") for row in upmoe}
    verdict("the output is written to the disk once", written, **once)
    return out
