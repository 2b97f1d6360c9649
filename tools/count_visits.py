"""Count how often a test's control flow changes the module.

A visit begins when a function of the product is entered from another module of the product, or when
control returns to one. Fewer visits in fewer modules are easier to follow.

Example: python -m tools.count_visits tests/flows/operations/test_night_run.py -k
audited_in_a_checkout
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

PRODUCT = ("tasks", "flows")


class Visits:
    """A plugin of pytest that counts visits by module while a test's own function runs."""

    def __init__(self, root: Path) -> None:
        self.by_module: Counter[str] = Counter()
        self._folders = {str(root / top) + "/": top for top in PRODUCT}
        self._root = root
        self._here: list[str] = []

    @pytest.hookimpl(hookwrapper=True)
    def pytest_pyfunc_call(self) -> Any:
        """Count from the first line of the test to its last."""
        sys.setprofile(self._profile)
        yield
        sys.setprofile(None)

    def _profile(self, frame: FrameType, event: str, _: object) -> None:
        if event not in ("call", "return"):
            return
        name = frame.f_code.co_filename
        if not name.startswith(tuple(self._folders)):
            return
        module = name.removeprefix(f"{self._root}/")
        if event == "call":
            if not self._here or self._here[-1] != module:
                self.by_module[module] += 1
            self._here.append(module)
        elif self._here:
            self._here.pop()
            if self._here and self._here[-1] != module:
                self.by_module[self._here[-1]] += 1


def main() -> int:
    """Run pytest with the arguments given and print the visits."""
    visits = Visits(Path.cwd())
    code = pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]], plugins=[visits])
    for module, count in visits.by_module.most_common():
        print(f"{count:6} {module}")
    print(f"{visits.by_module.total()} visits in {len(visits.by_module)} modules")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
