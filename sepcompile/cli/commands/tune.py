"""``sepcompile tune``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sepcompile.cli import options, output, tuning

_ACTIONS = ("list_records", "export_file", "import_file", "prune")


@click.command("tune", short_help="Search for faster schedules of a layer on a device.")
@click.argument("layer", required=False)
@options.layer_options
@click.option(
    "--target", "-t", "targets", multiple=True, help="Target; repeat or separate by commas (default: native)."
)
@click.option("--layer", "layers", multiple=True, metavar="PATTERN", help="Of a model: only layers so named.")
@click.option("--trials", type=click.IntRange(1), default=64, show_default=True, help="Candidates per layer.")
@click.option("--time-budget", metavar="TIME", help="Stop proposing after 90s, 5m, 1h.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the search.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of one call.")
@click.option(
    "--runner",
    default="local",
    metavar="URL",
    help="Where candidates run: local, ssh://host, dask://host:port?label=NAME.",
)
@click.option(
    "--precision", type=click.Choice(["float32", "tf32"]), default="float32", show_default=True,
    help="As for compile; tf32 is tuned apart from float32.",
)  # fmt: skip
@click.option("--fresh", is_flag=True, help="Measure again what earlier searches have measured.")
@click.option("--database", metavar="FILE", help="The tuning database (default: the user's own).")
@click.option("--list", "list_records", is_flag=True, help="List what the database holds, and do nothing else.")
@click.option("--export", "export_file", metavar="FILE", help="Write what the database holds to a JSON file.")
@click.option("--import", "import_file", metavar="FILE", help="Add the results in such a file to the database.")
@click.option("--prune", is_flag=True, help="Remove from the database what other versions of sepcompile have stored.")
@options.json_option
@click.pass_context
def command(ctx: click.Context, /, layer: str | None, as_json: bool, **values: Any) -> None:
    """Search for faster schedules of LAYER (as `compile` takes it) on this machine or another, and store the best.

    `sepcompile compile` uses what is stored. A search that was ended goes on when it is started again; ^C keeps what
    was found. Candidates run in processes of their own, and their numbers are checked before they are timed.

    \b
    Example:
      sepcompile tune layer.json --input-shape None,112,112,32 --trials 64
      sepcompile tune layer.json --target cortex-a72 --runner ssh://pi@raspberrypi.local
      sepcompile tune --list
    """
    actions = [name for name in _ACTIONS if values[name]]
    if len(actions) > 1 or (actions and layer is not None):
        raise click.UsageError("LAYER, --list, --export, --import and --prune exclude each other")
    if actions:
        _manage(actions[0], values, as_json)
    elif layer is None:
        raise click.UsageError("missing LAYER, or one of --list, --export, --import, --prune")
    else:
        _tune(ctx, layer, values, as_json)


def _tune(ctx: click.Context, layer: str, values: dict[str, Any], as_json: bool) -> None:
    from sepcompile.autotune import tune

    if values["schedule"] is not None:
        raise click.UsageError("--schedule is for compile; tune finds one")
    names = options.split_names(values["targets"] or ("native",))
    with tuning.display() as show:
        report = tune(
            options.read_layer_argument(layer), values["input_shape"], names,
            values["weights"], values["keras_version"], trials=values["trials"], time_budget=values["time_budget"],
            seed=values["seed"], threads=values["threads"], layers=values["layers"] or None,
            database=values["database"] or True, runner=values["runner"], fresh=values["fresh"],
            precision=values["precision"], progress=show,
        )  # fmt: skip
    if as_json:
        output.say_json(tuning.report_json(report))
    else:
        tuning.print_report(report)
        if any(item.record.gain for item in report.tuned):
            output.say(f"next: {output.program()} compile {layer if len(layer) < 60 else 'LAYER'}")
    if any(item.search.interrupted for item in report.tuned):
        ctx.exit(130)


def _manage(action: str, values: dict[str, Any], as_json: bool) -> None:
    """Everything that is done with the database alone."""
    from sepcompile.autotune import database_path
    from sepcompile.tuning.database import Database
    from sepcompile.tuning.exchange import export_records, import_records
    from sepcompile.tuning.key import current_versions

    path = database_path(values["database"] or True)
    assert path is not None
    with Database(path, read_only=action in ("list_records", "export_file")) as database:
        if action == "list_records" and as_json:
            output.say_json(tuning.records_json(database.records(), current_versions()))
        elif action == "list_records":
            tuning.print_records(database.records(), current_versions())
        elif action == "export_file":
            count = export_records(database.records(), Path(values["export_file"]))
            _done(as_json, f"wrote {count} results to {values['export_file']}", exported=count)
        elif action == "import_file":
            added, known = import_records(Path(values["import_file"]), database)
            _done(as_json, f"added {added} results, {known} were there already", added=added, known=known)
        else:
            count = database.prune(current_versions())
            _done(as_json, f"removed {count} results of other versions from {path}", removed=count)


def _done(as_json: bool, text: str, **numbers: int) -> None:
    if as_json:
        output.say_json(numbers)
    else:
        output.say(text)
