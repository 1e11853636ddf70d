"""The report on a console."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from sepcompile.bench.peers import OURS
from sepcompile.bench.report import BenchReport, PeerStatus, Result, Row

# Columns that are always there, and one peer's.
FIXED_WIDTH, PEER_WIDTH = 92, 23
MARKS = {"unsupported": "-", "failed": "failed", "wrong": "WRONG"}


def number(value: float | None, digits: int = 1) -> str:
    """A time or a ratio, or a dash."""
    return "-" if value is None else f"{value:,.{digits}f}"


def render_table(report: BenchReport, console: Console | None = None) -> None:
    """Print one table per thread count, the geometric means, who took part, and every warning."""
    console = console or Console()
    console.print(_headline(report))
    for threads in dict.fromkeys(row.threads for row in report.rows):
        console.print(_table(report, threads, console.width))
        for summary in report.summaries:
            if summary.threads == threads and summary.rows:
                console.print(
                    f"  {summary.group}: {number(summary.geomean_min, 3)}x (minima), "
                    f"{number(summary.geomean_median, 3)}x (medians); ahead on {summary.ahead} of {summary.rows} rows; "
                    f"{number(summary.geomean_at_peak, 3)}x at the FMA peak on each"
                )
    console.print("who took part:")
    for peer in report.peers:
        console.print(f"  {_peer(peer)}", markup=False, highlight=False)
    for warning in report.warnings:
        console.print(f"warning: {warning}", style="red", markup=False)


def _headline(report: BenchReport) -> str:
    peaks = ", ".join(f"{n} threads {peak:.0f} GFLOP/s" for n, peak in report.ceilings.fma_gflops.items())
    cpu = report.machine.get("cpu", "")
    peak_text = peaks or f"not measured ({report.ceilings.reason})"
    return f"{cpu}, {report.machine.get('cpus_usable')} CPUs, FMA peak: {peak_text}; {report.created}"


def _table(report: BenchReport, threads: int, width: int) -> Table:
    """Every peer has a column where the console is wide enough; else the fastest one is what fits."""
    peers = [name for name in report.peer_names(threads) if name != OURS]
    peers = peers if width >= FIXED_WIDTH + PEER_WIDTH * len(peers) else []
    table = Table(title=f"{threads} thread{'s' if threads > 1 else ''}: microseconds per call, minimum (median)")
    table.add_column("layer")
    for name in ("MMAC", OURS, "% peak"):
        table.add_column(name, justify="right")
    for peer in peers:
        table.add_column(peer, justify="right")
    table.add_column("speedup", justify="right")
    table.add_column("over")
    table.add_column("its time", justify="right")
    for row in report.rows:
        if row.threads == threads:
            cells = {result.peer: _cell(result) for result in report.results_of(row.layer, threads)}
            table.add_row(*_cells(row, cells, peers), style=None if (row.speedup_min or 1) > 1 else "yellow")
    return table


def _cells(row: Row, cells: dict[str, str], peers: list[str]) -> list[str]:
    percent = "-" if row.peak_fraction is None else f"{100 * row.peak_fraction:.0f}"
    own = [row.layer, f"{row.macs / 1e6:.2f}", cells.get(OURS, "-"), percent]
    speedup = f"{number(row.speedup_min, 2)} ({number(row.speedup_median, 2)})"
    return [*own, *(cells.get(peer, "-") for peer in peers), speedup, row.best_peer, number(row.best_min_us)]


def _cell(result: Result) -> str:
    if result.status != "ok":
        return MARKS[result.status]
    return f"{number(result.min_us)} ({number(result.median_us)})"


def _peer(peer: PeerStatus) -> str:
    """One line about a participant, or why it is none."""
    parts = (peer.reason, peer.precision, peer.affinity if peer.status == "ok" else "", peer.isa, peer.notes)
    count = f"{peer.threads} thread{'s' if peer.threads > 1 else ''}"
    return f"{peer.name} {peer.version} ({count}, {peer.status}): {'; '.join(filter(None, parts))}"
