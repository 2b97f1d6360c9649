"""The command `erasure-audit plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import Jobs, Json, print_json, workspace

if TYPE_CHECKING:
    from flows.pipeline import forecast

app = typer.Typer(rich_markup_mode=None)


@app.command()
def plan(
    batch: Annotated[
        str | None, typer.Argument(help="Name of the batch. Default: the one in params.yaml.")
    ] = None,
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Estimate the cost of a run, and whether it can decide, before it begins. Changes nothing.

    Checks the model, its classes and its accuracy, times a training step on this machine, and
    estimates from earlier audits how detectable each request is. Exits with 1 if a problem keeps
    the run from starting or from deciding.

    Example: erasure-audit plan 2026-11
    """
    from flows.pipeline import forecast

    run_plan = forecast.make(workspace(), batch, jobs)
    if as_json:
        print_json(run_plan.plain())
    else:
        _print_plan(run_plan)
    if run_plan.problems:
        raise typer.Exit(1)


def _print_plan(run_plan: forecast.RunPlan) -> None:
    typer.echo(f"Batch {run_plan.batch}: stages that have to run: {len(run_plan.stages)}")
    typer.echo(f"  {', '.join(run_plan.stages) or 'none'}")
    model = run_plan.model
    accuracy = "" if model.accuracy is None else f", accuracy on its own data {model.accuracy:.1%}"
    state = {"trained": "trained by this run, or already", "sound": "sound", "unusable": "UNUSABLE"}
    typer.echo(
        f"Original model {model.checkpoint}: {state[model.state]}, {model.classes} "
        f"classes{accuracy}"
    )
    if model.note:
        typer.echo(f"  {model.note}")
    counts = ", ".join(f"{count} by {stage}" for stage, count in run_plan.models_to_train.items())
    typer.echo(f"Models to train: {counts or 'none'}")
    if run_plan.step_seconds is not None:
        typer.echo(
            f"  one step takes {run_plan.step_seconds * 1000:.1f} ms here; {run_plan.jobs} at once"
        )
    for request in run_plan.requests:
        detectability = (
            "unknown" if request.detectability is None else f"{request.detectability:.1f} sd"
        )
        records = "?" if request.records is None else str(request.records)
        typer.echo(
            f"  {request.request_id}  {records} records, detectability {detectability}, decides: "
            f"{request.decides} (earlier requests: {request.earlier})"
        )
    for line in run_plan.brief:
        typer.echo(line)
