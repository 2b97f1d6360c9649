"""The commands `erasure-audit agent start` and `erasure-audit agent check`."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.options import workspace

app = typer.Typer(rich_markup_mode=None)

Pool = Annotated[
    str, typer.Option(help="Work pool; stages with `meta: {agent: gpu}` go to the pool gpu.")
]


@app.callback()
def agents() -> None:
    """Let this machine run stages for other workspaces, see docs/agents.md."""


@app.command()
def start(
    pool: Pool = "gpu",
    name: Annotated[
        str | None,
        typer.Option(help="Name of this agent. Default: the machine's name and a random number."),
    ] = None,
) -> None:
    """Take stages from a Prefect work pool, one at a time, until ended.

    PREFECT_API_URL names the server. Run it in a clone of the workspace, or in any folder with a
    `dvc remote`.

    Example: PREFECT_API_URL=http://audit-server:4200/api erasure-audit agent start --pool gpu
    """
    from flows.agents import host

    host.start(workspace(), pool, name, typer.echo)


@app.command()
def check(pool: Pool = "gpu") -> None:
    """Check whether server, pool, remote and device can be used from here. Exit code 1 if not.

    Example: erasure-audit agent check
    """
    from flows.agents import host

    requirements = host.check(workspace(), pool)
    for finding in requirements:
        typer.echo(f"{'ok  ' if finding.usable else 'FAIL'}  {finding.name}: {finding.state}")
    if not all(finding.usable for finding in requirements):
        raise typer.Exit(1)
