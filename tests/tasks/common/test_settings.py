from __future__ import annotations

from pathlib import Path

import pytest

from tasks.common import settings
from tasks.common.errors import SettingsError


@pytest.fixture
def params(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(settings.defaults_yaml(), encoding="utf-8")
    return path


def test_the_defaults_written_out_are_the_defaults(params: Path) -> None:
    assert settings.load(params) == settings.Settings()
    assert settings.non_defaults(settings.load(params)) == {}


def test_an_unknown_key_is_named() -> None:
    with pytest.raises(SettingsError, match=r"train\.epoch: unknown key"):
        settings.parse({"train": {"epoch": 3}})


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"verify": {"alpha": 0}}, "verify.alpha"),
        ({"verify": {"rho0": 1.0}}, "verify.rho0"),
        ({"references": {"with_blocks": [0, 2]}}, "references.with_blocks"),
        ({"references": {"without_blocks": []}}, "references.without_blocks"),
        ({"split": {"control": 0.8}}, "split"),
        ({"original": {"checkpoint": "model.pkl"}}, "original.checkpoint"),
        ({"batch": "../elsewhere"}, "batch"),
        ({"unlearn": {"method": "hope"}}, "unlearn.method"),
    ],
)
def test_a_value_out_of_range_is_named(values: dict[str, object], key: str) -> None:
    with pytest.raises(SettingsError, match=key.replace(".", r"\.")):
        settings.parse(values)


def test_settings_do_not_change_after_loading(params: Path) -> None:
    with pytest.raises(Exception, match="frozen"):
        settings.load(params).train.epochs = 3  # type: ignore[misc]


def test_an_assignment_changes_one_key_and_keeps_comments(params: Path) -> None:
    before = params.read_text(encoding="utf-8")
    settings.assign(params, ["unlearn.method=retrain", "references.with_blocks=[0, 1, 2]"])
    after = params.read_text(encoding="utf-8")
    assert settings.non_defaults(settings.load(params)) == {
        "unlearn.method": "retrain",
        "references.with_blocks": (0, 1, 2),
    }
    assert before.count("#") == after.count("#")


@pytest.mark.parametrize(
    "wrong", ["unlearn.method", "=3", "unlearn.magic=1", "batch.x=1", "verify.alpha=2", "nothing=1"]
)
def test_a_wrong_assignment_writes_nothing(params: Path, wrong: str) -> None:
    before = params.read_bytes()
    with pytest.raises(SettingsError):
        settings.assign(params, ["train.epochs=3", wrong])
    assert params.read_bytes() == before


def test_a_missing_or_broken_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="init"):
        settings.load(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: [", encoding="utf-8")
    with pytest.raises(SettingsError, match="YAML"):
        settings.load(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("unlearn.metod=retrain", r"unlearn\.method\?"),
        ("epochs=3", r"train\.epochs or unlearn\.epochs"),
        ("reference.with_blocks=[0]", r"references\?"),
        ("method=retrain", r"unlearn\.method\?"),
    ],
)
def test_an_unknown_key_is_answered_with_the_one_that_was_meant(
    params: Path, wrong: str, right: str
) -> None:
    before = params.read_bytes()
    with pytest.raises(SettingsError, match=f"unknown key .did you mean {right}"):
        settings.assign(params, [wrong])
    assert params.read_bytes() == before


def test_null_stays_null_and_comments_stay(params: Path) -> None:
    before = params.read_text().splitlines()
    settings.assign(params, ["seed=3"])
    after = params.read_text().splitlines()
    assert [(old, new) for old, new in zip(before, after, strict=True) if old != new] == [
        ("seed: 0  # root of every random stream", "seed: 3  # root of every random stream")
    ]
    settings.assign(params, ["unlearn.rivals.epochs=2"])
    settings.assign(params, ["unlearn.rivals.epochs=null"])
    assert params.read_text().splitlines() == after
