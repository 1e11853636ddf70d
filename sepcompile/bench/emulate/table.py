"""The report on a console."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from sepcompile.bench.emulate.loops import KINDS, Figures
from sepcompile.bench.emulate.report import PROXY, EmulationReport, Row, Side

SHORT = {"cortex-a72": "A72", "neoverse-n1": "N1", "sapphirerapids": "x86"}


def render(report: EmulationReport, console: Console | None = None) -> None:
    """Print the ratios, the inner loops, the geometric means, and what these figures are not."""
    console = console or Console()
    cache = f"L1 {report.l1[0] // 1024} KB/{report.l1[1]} ways, L2 {report.l2[0] // 1024} KB/{report.l2[1]} ways"
    console.print(f"{report.target} under emulation ({cache}); {report.peer or 'no peer'}; {report.created}")
    console.print(_ratios(report))
    means = ", ".join(f"{name} {value:.2f}x" for name, value in report.geomeans().items())
    if means:
        console.print(f"geometric means, ours over XNNPACK's: {means}", highlight=False)
    console.print(_loops(report))
    if not report.models:
        console.print("No modelled cycles: LLVM's models of cores in order mislead.", highlight=False)
    console.print(PROXY, style="yellow", highlight=False)
    for row in report.rows:
        for name, side in (("ours", row.ours), ("XNNPACK", row.xnnpack)):
            if side.status in ("failed", "wrong"):
                console.print(f"warning: {row.layer}, {name}: {side.status}: {side.reason}", style="red", markup=False)


def _ratios(report: EmulationReport) -> Table:
    table = Table(title="millions of instructions and of modelled cycles, cache misses: ours (over XNNPACK's)")
    table.add_column("layer")
    columns = ["instructions", *(f"cycles {SHORT[model]}" for model in report.models), "L1 misses", "L2 misses"]
    for name in columns:
        table.add_column(name, justify="right")
    for row in report.rows:
        ratios = row.ratios(report.models)
        lost = any(value is not None and value > 1 for name, value in ratios.items() if name != "L1 misses")
        cells = _own(row.ours, report.models)
        pairs = zip(cells, ratios.values(), strict=True)
        table.add_row(row.layer, *(_cell(text, ratio) for text, ratio in pairs), style="yellow" if lost else None)
    return table


def _cell(text: str, ratio: float | None) -> str:
    return text if ratio is None else f"{text} ({ratio:.2f})"


def _own(side: Side, models: tuple[str, ...]) -> list[str]:
    figures = side.figures
    if figures is None:
        return [side.status] + ["-"] * (len(models) + 2)
    cycles = [f"{figures.cycles[model] / 1e6:.3f}" for model in models]
    return [f"{figures.instructions / 1e6:.3f}", *cycles, f"{figures.l1_misses:,}", f"{figures.l2_misses:,}"]


def _loops(report: EmulationReport) -> Table:
    """Percent of the multiply-add peak in inner loops, ours | XNNPACK's, and what of ours spills."""
    table = Table(title="inner loops: % of multiply-add peak by llvm-mca, ours | XNNPACK's; our stack stores + loads")
    table.add_column("layer")
    for kind in KINDS:
        for model in report.models:
            table.add_column(f"{kind} {SHORT[model]}", justify="right")
        table.add_column("stack", justify="right")
    for row in report.rows:
        table.add_row(row.layer, *(cell for kind in KINDS for cell in _loop_cells(row, kind, report.models)))
    return table


def _loop_cells(row: Row, kind: str, models: tuple[str, ...]) -> list[str]:
    cells = [f"{_peak(row.ours.figures, kind, model)} | {_peak(row.xnnpack.figures, kind, model)}" for model in models]
    loop = next((loop for loop in row.ours.figures.loops if loop.kind == kind), None) if row.ours.figures else None
    return [*cells, "-" if loop is None else f"{loop.stack_stores} + {loop.stack_accesses - loop.stack_stores}"]


def _peak(figures: Figures | None, kind: str, model: str) -> str:
    loops = figures.loops if figures is not None else ()
    return next((f"{loop.peak_percent[model]:.0f}" for loop in loops if loop.kind == kind), "-")
