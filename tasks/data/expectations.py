"""Validate the rules with Great Expectations.

The results say only whether a rule holds, so that they contain no personal data; the rules name the
faulty rows (`tasks.data.rules`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tasks.common.errors import DataError
from tasks.data.rules import Rule

if TYPE_CHECKING:
    import pandas as pd


def validate(table: pd.DataFrame, suite: Sequence[Rule], name: str) -> list[bool]:
    """Validate rules as one suite, since Great Expectations hashes the whole table for each suite.

    Args:
        table: has the columns of all rules.
        suite: the rules.
        name: name of the suite.

    Returns:
        (rules,) whether each holds.

    Raises:
        DataError: an expectation could not be evaluated.
    """
    with _great_expectations() as (context, expectations):
        from great_expectations import ExpectationSuite  # after its settings are made

        expected = []
        for rule in suite:
            kind, arguments = rule.expectation()
            expected.append(getattr(expectations, kind)(**arguments, meta={"rule": rule.name}))
        asset = context.data_sources.add_pandas(name).add_dataframe_asset(name)
        definition = asset.add_batch_definition_whole_dataframe(name)
        batch = definition.get_batch({"dataframe": table})
        results = batch.validate(
            ExpectationSuite(name=name, expectations=expected), result_format="BOOLEAN_ONLY"
        ).results
    answers = {result.expectation_config.meta["rule"]: result for result in results}
    for rule in suite:
        if _raised(answers[rule.name].exception_info):
            raise DataError(
                f"the check {rule.name} could not be made by Great Expectations; is its version "
                "that of the lock file?"
            )
    return [bool(answers[rule.name].success) for rule in suite]


def _raised(info: dict[str, Any]) -> bool:
    """Whether an expectation raised an error; Great Expectations files it at the top or per
    metric."""
    parts = [info, *(part for part in info.values() if isinstance(part, dict))]
    return any(part.get("raised_exception") for part in parts)


@contextlib.contextmanager
def _great_expectations() -> Iterator[tuple[Any, Any]]:
    """An ephemeral context of Great Expectations without network calls, progress bars or files."""
    import logging

    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # read when it is imported
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    import great_expectations
    from great_expectations import expectations

    context: Any = great_expectations.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    yield context, expectations
