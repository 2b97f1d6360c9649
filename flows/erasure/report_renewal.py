"""Makes the reports of a closed batch again, with its current decisions."""

from __future__ import annotations

import shutil
from pathlib import Path

from flows.pipeline import close_batch, stage_runner
from flows.reports import signing
from flows.workspace import git, shell, signing_keys
from tasks.common import files
from tasks.requests import decisions


def renew(home: Path, batch: str) -> list[Path]:
    """Make the batch's reports again at its tag, with `ledger/decisions/<batch>.json` as it is in
    the workspace, and sign them if there is a key.

    Returns:
        The paths of the workspace that may have changed, for the caller to commit. A batch whose
        people no model saw has no reports.

    Raises:
        WorkspaceError: the batch is not closed, or the stage `report` fails.
    """
    decided = home / decisions.FOLDER / f"{batch}.json"
    name, tag = f"reports/{batch}", close_batch.tag_of(batch)
    if not git.has_path(home, tag, name):
        return [decided]
    lock = home / "dvc.lock"
    with close_batch.checkout(home, tag) as copy:
        for path in (decided, *sorted((home / "ledger/batches").glob(f"{batch}.json"))):
            target = copy / path.relative_to(home)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        stage_runner.Runner(copy, 1, stage_runner.nobody).run("report", force=True)
        key = signing_keys.load_key(home)
        if key is not None:
            signing.sign(copy, batch, key)
        for folder in (name, f"signed/{batch}"):
            if (copy / folder).is_dir():
                with files.whole_folder(home / folder) as draft:
                    shutil.copytree(copy / folder, draft, dirs_exist_ok=True)
        if shell.succeeds(home, "diff", "--quiet", f"release/{batch}", "--", "dvc.lock"):
            files.write_bytes(lock, (copy / "dvc.lock").read_bytes())  # else it is a later batch's
    return [decided, home / name, home / "signed" / batch, lock]
