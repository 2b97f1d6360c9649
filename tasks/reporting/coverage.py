"""What an audit does not cover, from the facts of its evidence."""

from __future__ import annotations

from typing import Any, Literal

Gap = Literal["handed_on", "holders_unknown", "backups_unknown"]


def gaps(item: dict[str, Any]) -> list[Gap]:
    """What the test and the receipts say nothing about. The decision names it in a sentence, and
    the annex where it stands.

    Args:
        item: the evidence.

    Returns:
        `handed_on`: models that others have, as the settings list them; else `holders_unknown`:
        nobody recorded whether others have any. `backups_unknown`: nobody recorded a backup.
    """
    models: Gap = "handed_on" if item["organisation"]["derived_models"] else "holders_unknown"
    has_backups = any(copy["kind"] == "backup" for copy in item["copies"])
    return [models] if has_backups else [models, "backups_unknown"]


HELPERS = {"gaps": gaps}
"""By the names that the templates call them."""
