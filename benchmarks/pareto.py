"""Draw each method's trade of seconds, share of passes and control accuracy, with the aims.

Drawn from what `benchmarks.methods` measured, one file a world. Time is a share of one exact
retrain, on a logarithmic axis; a method that is further left and higher up, without losing
accuracy, is better. The aims are those of the default method, from what `benchmarks.parts`
measured.

Example: python -m benchmarks.pareto --world digits --world digits-long --page docs/methods.md
"""

from __future__ import annotations

import io
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks import measure
from tasks.common import files, stage_cli
from tasks.common.errors import WorkspaceError

WORLDS = ("digits", "faces", "writers", "digits-long")
AIMED_AT = (*WORLDS, "faces-long", "writers-long")
"""Worlds of the table of aims"""
DEFAULT = "fcalb, the default"
CURVES = {
    "FCALB, reset 0.6, ": ("FCALB with reset", "#0072b2", "o"),
    "short retrain, ": ("short retrain", "#d55e00", "s"),
    "distilled anew, ": ("distilled anew", "#cc79a7", "^"),
}
"""Families whose members differ in length: beginning of the title, name, colour (Okabe and Ito
2008), marker"""
SINGLE = {
    "exact retrain": ("exact retrain", "#000000", "*"),
    "FCALB, as": ("FCALB as published", "#009e73", "D"),
    "fcalb_reset": ("fcalb_reset", "#e69f00", "P"),
}
OTHERS = ("rivals and other balances", "#999999", "x")


def main(
    world: list[str] = list(WORLDS),  # noqa: B006 - typer reads it and nobody changes it
    results: Path = Path("benchmarks/results"),
    out: Path = Path("docs/figures"),
    page: Path | None = None,
) -> None:
    """Draw the trade of the measured worlds, and put aims and results into a page between
    its marks.

    Example: python -m benchmarks.pareto --world digits --page docs/methods.md
    """
    for name in world:
        drawn = out / f"trade-{name}.svg"
        files.write_bytes(drawn, picture(measured("methods", name, results)))
        stage_cli.say(f"{drawn} drawn")
    if page:
        measure.insert(page, "aims", aims([measured("parts", name, results) for name in AIMED_AT]))


def measured(benchmark: str, world: str, results: Path) -> dict[str, Any]:
    """The figures of one world that a benchmark has kept.

    Raises:
        WorkspaceError: it has kept none.
    """
    path = results / f"{benchmark}-{world}.json"
    if not path.exists():
        raise WorkspaceError(
            f"{path}: no such file; run python -m benchmarks.{benchmark} --world {world}"
        )
    return files.read_json(path)  # type: ignore[no-any-return]


def aims(results: list[dict[str, Any]]) -> str:
    """The aims of the default method on each world and its results, as Markdown."""
    ours = [result["parts"][DEFAULT] for result in results]
    exact = [result["parts"]["exact retrain"] for result in results]
    rival = [
        same_seconds(result["parts"], one["time"])
        for result, one in zip(results, ours, strict=True)
    ]

    def against_exact(gates: str) -> list[str]:
        return [
            f"{one[gates]} : {other[gates]} of {one['judged']}"
            for one, other in zip(ours, exact, strict=True)
        ]

    def points(row: dict[str, Any]) -> str:
        return f"{100 * (row['control'][0] - row['control_retrained']):+.1f}"

    rows = {
        "passes under all gates : an exact retrain's (≥ 90 %)": against_exact("all_gates"),
        "passes by the answers : an exact retrain's": against_exact("pass"),
        "fails (≤ 2 %)": [f"{one['fail']} of {one['judged']}" for one in ours],
        "control accuracy less the retrained models' mean (±0.5 points)": [
            points(one) for one in ours
        ],
        "time as a share of a retrain (≤ 40 %, long recipe ≤ 10 %)": [
            f"{one['time']:.0%}" for one in ours
        ],
        "a short retrain with as much time: all gates, points, time": [
            f"{one['all_gates']}, {points(one)}, {one['time']:.0%}" if one else "none"
            for one in rival
        ],
    }
    head = [f"`{DEFAULT.partition(',')[0]}`", *(result["world"] for result in results)]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head))]
    return (
        "\n".join(lines + [f"| {' | '.join([name, *cells])} |" for name, cells in rows.items()])
        + "\n"
    )


def same_seconds(methods: dict[str, Any], time: float) -> dict[str, Any] | None:
    """The shortest of the short retrains that has as much time, or up to a tenth less, if there is
    one."""
    rows = [
        one
        for title, one in methods.items()
        if title.startswith("short retrain, ") and one["control"]
    ]
    return min(
        (one for one in rows if one["time"] >= 0.9 * time),
        key=lambda one: float(one["time"]),
        default=None,
    )


def families(methods: dict[str, Any]) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """The methods that were not diverged in all trials, by family, shortest first."""
    points: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for title, method in methods.items():
        if not method["control"] or title == "unchanged original":
            continue
        styles = [style for start, style in {**CURVES, **SINGLE}.items() if title.startswith(start)]
        points[styles[0] if styles else OTHERS].append(method)
    return {
        style: sorted(rows, key=lambda row: float(row["time"])) for style, rows in points.items()
    }


def picture(result: dict[str, Any]) -> bytes:
    """An SVG: share of passes above, control accuracy below, over the time as a share of a
    retrain."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

    mpl.rcParams.update({"svg.hashsalt": "erasure-audit", "svg.fonttype": "none", "font.size": 9})
    figure = Figure(figsize=(6.4, 5.4), layout="constrained")
    FigureCanvasSVG(figure)
    passes, accuracy = figure.subplots(2, 1, sharex=True)
    target = next(iter(result["methods"].values()))["control_retrained"]
    for (name, colour, marker), rows in families(result["methods"]).items():
        line = "-" if any(name == style[0] for style in CURVES.values()) else ""
        look: dict[str, Any] = {
            "color": colour,
            "marker": marker,
            "linestyle": line,
            "label": name,
            "markersize": 6,
        }
        seconds = [max(row["time"], 0.005) for row in rows]
        passes.plot(seconds, [100 * row["pass"] / row["judged"] for row in rows], **look)
        accuracy.plot(seconds, [100 * (row["control"][0] - target) for row in rows], **look)
    accuracy.axhspan(-0.5, 0.5, color="#0072b2", alpha=0.12, linewidth=0)
    accuracy.set_ylim(-8, 3)
    passes.set_ylim(-3, 103)
    passes.set_xscale("log")
    passes.set_ylabel("requests passed, %")
    accuracy.set_ylabel("control accuracy against\nretrained models, points")
    accuracy.xaxis.set_major_locator(FixedLocator([0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2]))
    accuracy.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    accuracy.xaxis.set_minor_locator(NullLocator())
    accuracy.set_xlabel("CPU seconds as a share of one exact retrain")
    for axes in (passes, accuracy):
        axes.grid(visible=True, alpha=0.3)
        axes.axvline(0.1, color="#555555", linestyle=":", linewidth=1)
    passes.legend(fontsize=8, loc="upper left", framealpha=0.9)
    passes.set_title(f"{result['world']}: {result['about']}", fontsize=8, wrap=True)
    target_file = io.BytesIO()
    figure.savefig(target_file, format="svg", metadata={"Date": None, "Creator": None})
    return target_file.getvalue()


if __name__ == "__main__":
    stage_cli.run(main)
