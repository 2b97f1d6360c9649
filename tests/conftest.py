"""Settings for all tests: results do not depend on the machine's speed, and `--bf16` runs them in
bf16."""

from __future__ import annotations

import hypothesis
import pytest

from tasks.common import settings

hypothesis.settings.register_profile(
    "any load", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any load")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--bf16`: the default of `compute.precision` is bf16 in this run (CONTRIBUTING.md)."""
    parser.addoption("--bf16", action="store_true", help="train in bf16 where a test does not say")


def pytest_configure(config: pytest.Config) -> None:
    """Change the default before any test reads it; xdist's workers have the same options."""
    config.addinivalue_line("markers", "float32: says what the default of the precision is")
    if config.getoption("--bf16"):
        settings.Compute.model_fields["precision"].default = "bf16"
        settings.Compute.model_rebuild(force=True)
        settings.Settings.model_fields["compute"].default = settings.Compute()
        settings.Settings.model_rebuild(force=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is about the default itself."""
    if config.getoption("--bf16"):
        for item in items:
            if item.get_closest_marker("float32"):
                item.add_marker(pytest.mark.skip(reason="the default is bf16 in this run"))
