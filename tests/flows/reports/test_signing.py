"""Signatures: every byte of a signed report counts, and nobody signs for somebody else."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pikepdf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.pipeline import close_batch, reproduce
from flows.reports import signature_checks
from flows.reports import signing as signing_flow
from flows.workspace import environment, layout, shell, signing_keys
from tasks import report
from tasks.common import files, settings
from tasks.common.errors import SignatureError, WorkspaceError
from tasks.reporting import build_evidence
from tasks.signatures import keys, pdf_signature, time_stamps
from tasks.signatures import statement as statements
from tasks.signatures.statement import seal, unseal
from tests.worlds import authorities, dummy, fabricated

TEMPLATES = Path(__file__).parents[3] / "reports" / "templates"
PIPELINE = """
stages:
  report:
    cmd: mkdir -p reports && cp -r made reports/spring
    deps: [made]
    outs:
      - reports/spring: {cache: false}
"""
PARTS = {"report.pdf", "report.html", "evidence.json"}
LETTER = {"letter.html", "letter.pdf", "letter.txt"}
REQUESTS = (fabricated.FAIL, fabricated.PASS, fabricated.SET_ASIDE)
"""The last one has a letter to the person beside its report."""


def new_key(development: bool = False) -> keys.SigningKey:
    """A key of its own."""
    return keys.read_key(keys.make_key(development))


KEY, OTHER = new_key(), new_key()


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reports of three made-up requests."""
    out = tmp_path_factory.mktemp("reports") / "made"
    found = [
        item
        for item in build_evidence.build_all(fabricated.sources())
        if item["request"]["id"] in REQUESTS
    ]
    report.write(found, TEMPLATES, out)
    return out


@pytest.fixture(scope="module")
def signed(reports: Path) -> bytes:
    """A signed PDF."""
    return pdf_signature.sign((reports / fabricated.PASS / "report.pdf").read_bytes(), KEY)


@pytest.fixture(scope="module")
def at_start(tmp_path_factory: pytest.TempPathFactory, reports: Path) -> Path:
    """A workspace with reports that DVC has on record and KEY has signed."""
    place = tmp_path_factory.mktemp("signing") / "workspace"
    layout.init(place)
    shutil.copytree(reports, place / "made")
    (place / "dvc.yaml").write_text(PIPELINE)
    shell.dvc(place, "repro", "--quiet")
    (place / "trusted-keys" / "clinic.pem").write_bytes(keys.public_pem(KEY))
    signing_flow.sign(place, "spring", KEY)
    return place


@pytest.fixture
def place(at_start: Path, tmp_path: Path) -> Path:
    """A copy of the workspace to spoil."""
    return dummy.copy(at_start, tmp_path / "workspace")


def folder_of(place: Path, request: str = fabricated.PASS) -> Path:
    """The signed files of a request."""
    return place / "signed" / "spring" / request


def check(target: Path, *signers: keys.Signer) -> signature_checks.SignatureFinding:
    """What checking finds, if only KEY is trusted or those given."""
    return signature_checks.verify(target, signers or (KEY.signer,))


def with_byte(data: bytes, position: int, flip: int = 1) -> bytes:
    """The data with one byte changed."""
    changed = bytearray(data)
    changed[position] ^= flip
    return bytes(changed)


def test_the_unsigned_pdf_is_the_beginning_of_the_signed_one_and_its_metadata_stay(
    reports: Path, signed: bytes
) -> None:
    before = (reports / fabricated.PASS / "report.pdf").read_bytes()
    assert signed[: len(before)] == before
    assert len(signed) > len(before)
    with pikepdf.open(BytesIO(before)) as old, pikepdf.open(BytesIO(signed)) as new:
        assert old.Root["/Metadata"].read_bytes() == new.Root["/Metadata"].read_bytes()
        assert dict(old.docinfo) == dict(new.docinfo)
        assert len(old.pages) == len(new.pages)


def test_pyhanko_too_finds_one_pades_signature_over_the_whole_file(signed: bytes) -> None:
    from asn1crypto import pem, x509
    from pyhanko.pdf_utils.reader import PdfFileReader
    from pyhanko.sign.validation import SignatureCoverageLevel, validate_pdf_signature
    from pyhanko_certvalidator import ValidationContext

    reader = PdfFileReader(BytesIO(signed))
    (embedded,) = reader.embedded_signatures
    root = x509.Certificate.load(pem.unarmor(keys.public_pem(KEY))[2])
    found = validate_pdf_signature(
        embedded, ValidationContext(trust_roots=[root], allow_fetching=False)
    )
    assert found.bottom_line
    assert found.coverage == SignatureCoverageLevel.ENTIRE_FILE
    assert embedded.sig_object["/SubFilter"] == "/ETSI.CAdES.detached"
    assert pdf_signature.check(signed).signer == KEY.signer


def test_every_changed_byte_of_a_signed_pdf_is_found(reports: Path, signed: bytes) -> None:
    """All bytes of the signature and behind it, which are those that it cannot cover, and many of
    the others."""
    begin = (reports / fabricated.PASS / "report.pdf").stat().st_size
    field = signed.rindex(b"/Contents")
    padding = signed.index(b"0" * 64, field)
    positions = [*range(0, begin, 997), *range(begin, field, 31), *range(field, padding)]
    positions += [
        *range(padding, signed.index(b">", padding), 8),
        *range(signed.index(b">", padding), len(signed)),
    ]
    unseen = [place for place in positions if _passes(with_byte(signed, place))]
    assert unseen == []


@given(st.data())
def test_a_pdf_with_anything_put_in_cut_out_or_overwritten_is_not_intact(
    signed: bytes, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(signed)), "place")
    removed = data.draw(st.integers(0, 40), "bytes removed")
    put_in = data.draw(st.binary(max_size=40), "put in")
    changed = signed[:place] + put_in + signed[place + removed :]
    assert changed == signed or not _passes(changed)


@pytest.mark.parametrize("more", [b"\n", b"%%EOF\n", b"\x00" * 4096])
def test_bytes_after_the_signature_are_found(signed: bytes, more: bytes) -> None:
    with pytest.raises(SignatureError, match="whole file"):
        pdf_signature.check(signed + more)


def test_an_incremental_update_after_signing_is_found(signed: bytes) -> None:
    """The trick that readers fall for: the signed bytes are all there, and the page shows something
    else."""
    from pyhanko.pdf_utils import generic
    from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter

    writer = IncrementalPdfFileWriter(BytesIO(signed))
    writer.root["/Lang"] = generic.pdf_string("zz")
    writer.update_root()
    target = BytesIO()
    writer.write(target)
    assert target.getvalue().startswith(signed)
    with pytest.raises(SignatureError, match="whole file"):
        pdf_signature.check(target.getvalue())


def test_a_pdf_cut_off_behind_its_first_revision_is_not_signed(
    reports: Path, signed: bytes
) -> None:
    with pytest.raises(SignatureError, match="not signed"):
        pdf_signature.check(signed[: (reports / fabricated.PASS / "report.pdf").stat().st_size])


def test_a_signed_pdf_is_not_signed_again(signed: bytes) -> None:
    with pytest.raises(SignatureError, match="cannot be signed"):
        pdf_signature.sign(signed, OTHER)


def test_a_statement_is_an_in_toto_statement_whose_signature_anybody_can_check() -> None:
    envelope = json.loads(seal({"b.txt": "2" * 64, "a.txt": "1" * 64}, {"verdict": "fail"}, KEY))
    payload = base64.b64decode(envelope["payload"])
    kind = envelope["payloadType"].encode()
    signed = b"DSSEv1 %d %s %d %s" % (
        len(kind),
        kind,
        len(payload),
        payload,
    )  # the protocol's own definition
    (signature,) = envelope["signatures"]
    KEY.signer.public.verify(base64.b64decode(signature["sig"]), signed)
    assert signature["keyid"] == KEY.signer.key_id
    statement = json.loads(payload)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["subject"][0] == {"name": "a.txt", "digest": {"sha256": "1" * 64}}
    assert statement["predicate"] == {"verdict": "fail"}


def test_every_changed_byte_of_a_statement_is_found() -> None:
    data = seal({"a.txt": "1" * 64}, {"verdict": "fail", "who": "Zoë"}, KEY)
    assert unseal(data, [KEY.signer]).predicate == {"verdict": "fail", "who": "Zoë"}
    unseen = []
    for place in range(len(data)):
        for flip in (1, 32):
            try:
                unseal(with_byte(data, place, flip), [KEY.signer])
            except SignatureError:
                continue
            unseen.append(place)
    assert unseen == []


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"null", b'{"payload": 1}', b"\xff", b"[" * 50_000]
)
def test_what_is_no_statement_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(SignatureError):
        unseal(data, [KEY.signer])


def test_a_statement_by_another_key_does_not_count_even_if_it_bears_a_trusted_key_s_name() -> None:
    data = seal({"a.txt": "1" * 64}, {}, OTHER)
    with pytest.raises(keys.UntrustedError):
        unseal(data, [KEY.signer])
    with pytest.raises(SignatureError, match="changed after signing"):
        unseal(data.replace(OTHER.signer.key_id.encode(), KEY.signer.key_id.encode()), [KEY.signer])


def test_another_kind_of_statement_by_a_trusted_key_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(statements, "PREDICATE", "https://slsa.dev/provenance/v1")
        data = seal({"a.txt": "1" * 64}, {}, KEY)
    with pytest.raises(SignatureError, match="another kind"):
        unseal(data, [KEY.signer])


def test_all_files_of_a_request_are_signed_for_and_all_of_them_are_compared(at_start: Path) -> None:
    found = check(folder_of(at_start))
    assert found
    assert set(found.covered) == PARTS
    assert found.signers == [KEY.signer]
    assert found.about["request_id"] == fabricated.PASS
    statement = unseal((folder_of(at_start) / "statement.dsse.json").read_bytes(), [KEY.signer])
    item = json.loads((folder_of(at_start) / "evidence.json").read_text())
    for model in item["models"]:
        assert statement.subjects[model["file"]] == model["weights_sha256"]
    for name in (
        f"reports/spring/{fabricated.PASS}/report.pdf",
        f"signed/spring/{fabricated.PASS}/report.pdf",
    ):
        assert statement.subjects[name] == files.sha256(at_start / name)
    assert statement.subjects["dvc.lock"] == files.sha256(at_start / "dvc.lock")


def test_the_line_says_who_signed_what_and_what_was_not_compared(
    at_start: Path, tmp_path: Path
) -> None:
    line = check(folder_of(at_start)).line
    assert line.startswith(
        f"intact: {fabricated.PASS}, batch spring, request id {fabricated.PASS}, outcome pass"
    )
    assert KEY.signer.key_id[:16] in line
    assert "\n" not in line
    assert "models (not at hand)" in line
    assert "dvc.lock" not in line  # it is there, and the same
    handed_over = shutil.copytree(folder_of(at_start), tmp_path / fabricated.PASS)
    (handed_over / "report.html").unlink()
    line = check(handed_over / "report.pdf").line
    assert "report.html (not at hand)" in line
    assert "dvc.lock (not at hand)" in line


@pytest.mark.parametrize("name", sorted(PARTS))
def test_one_file_alone_is_checked_with_the_statement_beside_it(place: Path, name: str) -> None:
    found = check(folder_of(place) / name)
    assert found.covered == [name]
    assert any("not looked at" in part for part in found.not_covered)
    path = folder_of(place) / name
    path.write_bytes(with_byte(path.read_bytes(), 1000))
    assert not check(path)
    assert name in check(path).line
    assert check(path).line.startswith("NOT INTACT")
    assert not check(folder_of(place))


def test_the_unsigned_reports_are_checked_by_the_statement_of_the_signed_ones(place: Path) -> None:
    source = place / "reports" / "spring" / fabricated.PASS
    assert set(check(source).covered) == PARTS
    files.write_text(source / "report.html", "<p>pass, of course")
    assert not check(source)
    assert check(source / "evidence.json")


def test_a_signed_pdf_needs_nothing_but_itself_and_vouches_for_its_evidence(
    at_start: Path, tmp_path: Path
) -> None:
    for name in ("report.pdf", "evidence.json"):
        shutil.copy(folder_of(at_start) / name, tmp_path)
    found = check(tmp_path / "report.pdf")
    assert found.covered == ["report.pdf"]
    assert found.about == {"batch": "spring", "request_id": fabricated.PASS, "outcome": "pass"}
    assert "no statement at hand" in found.line
    assert check(tmp_path / "evidence.json").covered == ["evidence.json"]
    renamed = shutil.copy(tmp_path / "report.pdf", tmp_path / "Deletion request.pdf")
    assert check(renamed).covered == ["Deletion request.pdf"]
    shutil.copy(folder_of(at_start, fabricated.FAIL) / "evidence.json", tmp_path)
    assert (
        "evidence.json is not the one that report.pdf vouches for"
        in check(tmp_path / "evidence.json").line
    )


def test_a_pdf_that_was_changed_is_not_intact_by_itself(signed: bytes, tmp_path: Path) -> None:
    (tmp_path / "mail.pdf").write_bytes(with_byte(signed, 7000))
    assert (
        check(tmp_path / "mail.pdf").line
        == "NOT INTACT: mail.pdf: mail.pdf: the PDF was changed after signing"
    )


def test_evidence_alone_or_an_unsigned_pdf_alone_is_not_intact(
    reports: Path, tmp_path: Path
) -> None:
    for name in ("evidence.json", "report.pdf"):
        shutil.copy(reports / fabricated.PASS / name, tmp_path)
        assert "no signature covers it" in check(tmp_path / name).line


@pytest.mark.parametrize("name", sorted({*PARTS, "statement.dsse.json"}))
def test_files_of_another_request_do_not_pass(place: Path, name: str) -> None:
    """Each of them is rightly signed, for another request."""
    shutil.copy(folder_of(place, fabricated.FAIL) / name, folder_of(place) / name)
    assert not check(folder_of(place))


def test_a_file_that_nobody_signed_for_does_not_pass(place: Path) -> None:
    shutil.copy(folder_of(place) / "report.html", folder_of(place) / "report.zh.html")
    assert "report.zh.html: no signature covers it" in check(folder_of(place)).line


@pytest.mark.parametrize("name", sorted(PARTS))
def test_a_missing_file_is_named_and_no_pass(place: Path, name: str) -> None:
    (folder_of(place) / name).unlink()
    found = check(folder_of(place))
    assert not found
    assert f"{name} is missing" in found.line


def test_a_missing_statement_is_named_and_no_pass(place: Path) -> None:
    (folder_of(place) / "statement.dsse.json").unlink()
    (folder_of(place) / "report.html").unlink()
    found = check(folder_of(place))
    assert not found
    assert "statement.dsse.json is missing" in found.line


def test_an_additional_file_is_named_and_no_pass(place: Path) -> None:
    (folder_of(place) / "verdict.txt").write_text("pass")
    found = check(folder_of(place))
    assert not found
    assert "verdict.txt is not part of the signed report" in found.line


def test_a_renamed_folder_is_named_and_no_pass(place: Path) -> None:
    folder = folder_of(place)
    other = folder.rename(folder.with_name("7" + fabricated.PASS[1:]))
    assert "was signed as" in check(other).line
    assert not check(other)
    batch = folder.parent.rename(folder.parent.with_name("autumn"))
    assert "autumn" in check(batch / other.name).line


def test_a_letter_is_signed_with_its_report(place: Path, tmp_path: Path) -> None:
    folder = folder_of(place, fabricated.SET_ASIDE)
    assert set(check(folder).covered) == PARTS | LETTER
    handed_over = shutil.copy(folder / "letter.pdf", tmp_path / "to the person.pdf")
    assert check(handed_over).covered == ["to the person.pdf"]
    assert check(handed_over).signers == [KEY.signer]


@pytest.mark.parametrize("name", sorted(LETTER))
def test_a_letter_that_was_changed_or_taken_away_is_named_and_no_pass(
    place: Path, name: str
) -> None:
    path = folder_of(place, fabricated.SET_ASIDE) / name
    content = path.read_bytes()
    path.write_bytes(with_byte(content, len(content) // 2))
    assert not check(path)
    assert name in check(path.parent).line
    path.unlink()
    assert f"{name} is missing" in check(path.parent).line


def test_a_letter_put_beside_the_report_of_another_request_does_not_pass(place: Path) -> None:
    letter = folder_of(place, fabricated.SET_ASIDE) / "letter.txt"
    shutil.copy(letter, folder_of(place))
    assert "letter.txt: no signature covers it" in check(folder_of(place)).line


ODD: dict[str, Callable[[Path], None]] = {
    "a pipe": lambda path: os.mkfifo(path),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a loop": lambda path: path.symlink_to(path),
    "a link": lambda path: path.symlink_to("/etc/hostname"),
    "a folder": lambda path: path.mkdir(),
    "a huge file": lambda path: os.truncate(_empty(path), signature_checks.LARGEST + 1),
}


def _empty(path: Path) -> Path:
    path.touch()
    return path


@pytest.mark.parametrize("name", [*sorted(PARTS), "statement.dsse.json", "report.zz.pdf", "extra"])
@pytest.mark.parametrize("kind", ODD)
def test_what_is_not_a_plain_file_is_named_and_not_read(place: Path, name: str, kind: str) -> None:
    path = folder_of(place) / name
    path.unlink(missing_ok=True)
    ODD[kind](path)
    found = check(folder_of(place))
    assert not found
    assert name in found.line
    if name != "extra":
        assert not check(path)


def test_a_development_key_does_not_hold_beside_a_real_one_unless_told(place: Path) -> None:
    shutil.rmtree(place / "signed")
    own = signing_keys.load_key(place)
    assert own
    signing_flow.sign(place, "spring", own)
    assert check(folder_of(place), own.signer)
    both = [own.signer, KEY.signer]
    for target in (folder_of(place), folder_of(place) / "report.pdf"):
        found = check(target, *both)
        assert not found
        assert found.line.startswith("NOT TRUSTED")
        assert "development key" in found.line
        assert signature_checks.verify(target, both, development=True)
    refused = dummy.command(place, "verify-report", str(folder_of(place)))
    assert refused.returncode == 1, refused.stdout
    told = dummy.command(place, "verify-report", str(folder_of(place)), "--allow-development")
    assert told.returncode == 0, told.stdout


def test_an_empty_folder_is_not_intact(tmp_path: Path) -> None:
    assert not check(tmp_path)


def test_a_report_signed_by_somebody_else_is_not_trusted(place: Path) -> None:
    """A forger can do everything but sign with the clinic's key."""
    (place / "signed").rename(place / "was-signed")
    signing_flow.sign(place, "spring", OTHER)
    for target in (folder_of(place), *(folder_of(place) / name for name in PARTS)):
        found = check(target)
        assert not found
        assert found.line.startswith("NOT TRUSTED")
        assert OTHER.signer.key_id in found.line
        assert check(target, OTHER.signer)
    mixed = folder_of(place)
    shutil.copy(place / "was-signed" / "spring" / fabricated.PASS / "statement.dsse.json", mixed)
    assert not check(mixed)
    assert not check(mixed, KEY.signer, OTHER.signer)


def test_another_state_of_dvc_lock_is_said_and_is_no_fault_of_the_report(place: Path) -> None:
    (place / "dvc.lock").write_text("another batch")
    found = check(folder_of(place))
    assert found
    assert "dvc.lock (not the one signed" in found.line


def test_what_is_signed_already_is_left_alone(place: Path) -> None:
    before = {path: path.read_bytes() for path in (place / "signed").rglob("*") if path.is_file()}
    assert not any(item.new for item in signing_flow.sign(place, "spring", KEY))
    assert not any(
        item.new for item in signing_flow.sign(place, "spring", OTHER)
    )  # KEY's signature is trusted here
    assert before == {
        path: path.read_bytes() for path in (place / "signed").rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("name", sorted({*PARTS, "statement.dsse.json"}))
def test_what_was_spoilt_is_signed_anew(place: Path, name: str) -> None:
    path = folder_of(place) / name
    path.write_bytes(with_byte(path.read_bytes(), 50))
    done = {item.request: item.new for item in signing_flow.sign(place, "spring", KEY)}
    assert done == {request: request == fabricated.PASS for request in REQUESTS}
    assert check(folder_of(place))


def test_a_development_key_s_signature_gives_way_and_never_takes_over(place: Path) -> None:
    own = signing_keys.load_key(place)
    assert own
    assert own.signer.development
    assert not any(item.new for item in signing_flow.sign(place, "spring", own))
    shutil.rmtree(place / "signed")
    assert all(item.new for item in signing_flow.sign(place, "spring", own))
    found = check(folder_of(place), own.signer)
    assert found
    assert "DEVELOPMENT key, which vouches for nobody" in found.line
    assert found.plain()["signers"][0]["development"]
    assert all(item.new for item in signing_flow.sign(place, "spring", KEY))


def test_reports_that_are_not_those_on_record_are_not_signed(place: Path) -> None:
    (place / "reports" / "spring" / fabricated.FAIL / "report.html").write_text(
        "<p>pass, of course"
    )
    with pytest.raises(WorkspaceError, match=r"not what dvc\.lock records"):
        signing_flow.sign(place, "spring", KEY)
    with pytest.raises(WorkspaceError, match="erasure-audit run summer"):
        signing_flow.sign(place, "summer", KEY)


def test_the_integrity_of_a_closed_batch_includes_its_signatures(place: Path) -> None:
    for name, value in {"user.email": "auditor@example.org", "user.name": "Auditor"}.items():
        shell.git(place, "config", name, value)
    shell.git(place, "add", "made")
    shell.git(place, "commit", "--quiet", "-m", "what the reports are made from", "--", "made")
    close_batch.close(place, "spring")
    found = reproduce.reproduce(place, "spring", "integrity")
    assert found, found
    assert f"signed/spring/{fabricated.PASS}" in found.identical
    (place / "trusted-keys" / "clinic.pem").unlink()
    (different, _, *_) = reproduce.reproduce(place, "spring", "integrity").different
    assert "NOT TRUSTED" in different


def test_the_command_checks_without_a_workspace_and_its_exit_code_tells(
    at_start: Path, tmp_path: Path
) -> None:
    mail = fabricated.PASS
    handed_over = shutil.copytree(folder_of(at_start), tmp_path / mail)
    (tmp_path / "clinic.pem").write_bytes(_public_key(KEY))
    right = dummy.command(tmp_path, "verify-report", mail, "--key", "clinic.pem")
    assert right.returncode == 0, right.stderr
    assert right.stdout.startswith(f"intact: {mail}, batch spring")
    stranger = dummy.command(tmp_path, "verify-report", f"{mail}/report.pdf", "--json")
    assert stranger.returncode == 1
    assert json.loads(stranger.stdout)["holds"] is False
    assert json.loads(stranger.stdout)["intact"] is True
    (handed_over / "evidence.json").write_text("{}")
    wrong = dummy.command(tmp_path, "verify-report", f"{mail}/evidence.json", "--key", "clinic.pem")
    assert (wrong.returncode, wrong.stdout.split(":")[0]) == (1, "NOT INTACT")


def test_the_command_signs_with_the_key_that_the_environment_names(
    place: Path, tmp_path: Path
) -> None:
    path = tmp_path / "key.pem"
    path.touch(mode=0o600)
    path.write_bytes(keys.make_key(development=False))
    shutil.rmtree(place / "signed")
    done = dummy.command(place, "sign", "spring", "--json", ERASURE_AUDIT_KEY=str(path))
    assert [item["new"] for item in json.loads(done.stdout)] == [True] * len(REQUESTS), done.stderr
    assert "trusted-keys/" in done.stderr  # nobody trusts this key yet
    assert check(folder_of(place), keys.read_key(path.read_bytes()).signer)


def test_reports_that_name_the_development_key_are_made_anew_before_a_real_key_signs_them(
    place: Path, tmp_path: Path
) -> None:
    for path in (place / "made").glob("*/evidence.json"):
        evidence = json.loads(path.read_text())
        evidence["provenance"]["signing"] = {"development": True}
        path.write_text(json.dumps(evidence))
    shell.dvc(place, "repro", "--quiet")
    pem = tmp_path / "key.pem"
    pem.touch(mode=0o600)
    pem.write_bytes(keys.make_key(development=False))
    refused = dummy.command(place, "sign", "spring", ERASURE_AUDIT_KEY=str(pem))
    assert refused.returncode == 1
    assert "`erasure-audit run spring` makes them again for this key" in refused.stderr
    assert dummy.command(place, "sign", "spring").returncode == 0  # the development key may
    # a closed batch is not changed: it is signed, and the contradiction is said
    for name, value in {"user.email": "auditor@example.org", "user.name": "Auditor"}.items():
        shell.git(place, "config", name, value)
    shell.git(place, "add", "made")
    shell.git(place, "commit", "--quiet", "-m", "Closed")
    shell.git(place, "tag", "audit/spring")
    signed = dummy.command(place, "sign", "spring", ERASURE_AUDIT_KEY=str(pem))
    assert signed.returncode == 0, signed.stderr
    assert "was closed with the development key" in signed.stderr


def test_a_fresh_workspace_has_a_development_key_that_git_never_sees(at_start: Path) -> None:
    key = at_start / "keys" / "development.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert " keys/" not in shell.git(at_start, "status", "--porcelain", "--untracked-files=all")
    assert shell.succeeds(at_start, "check-ignore", "--quiet", "keys/development.pem")
    public = [path.read_bytes() for path in (at_start / "trusted-keys").glob("development-*.pem")]
    assert len(public) == 1
    assert b"PRIVATE" not in public[0]


def test_the_record_names_the_key_and_not_the_secret(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(signing_keys.FILE, raising=False)
    own = signing_keys.load_key(place)
    assert own
    assert signing_keys.described(own) == {
        "algorithm": "ed25519",
        "key_id": own.signer.key_id,
        "development": True,
    }
    (place / "keys" / "development.pem").unlink()
    assert signing_keys.described(signing_keys.load_key(place)) is None


def test_a_key_comes_from_the_environment_before_a_file_before_the_workspace(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem, path = keys.make_key(development=False), tmp_path / "key.pem"
    path.touch(mode=0o600)
    path.write_bytes(pem)
    monkeypatch.setenv(signing_keys.FILE, str(path))
    assert signer_at_hand(place) == keys.read_key(pem).signer
    later = keys.make_key(development=False)
    monkeypatch.setenv(signing_keys.PEM, later.decode())
    assert signer_at_hand(place) == keys.read_key(later).signer


def test_no_stage_sees_the_key(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (signing_keys.PEM, signing_keys.PASSPHRASE):
        monkeypatch.setenv(name, "secret")
    assert "secret" not in environment.child(place).values()


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_key_that_others_may_read_is_refused(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(keys.make_key(development=False))
    path.chmod(mode)
    monkeypatch.setenv(signing_keys.FILE, str(path))
    with pytest.raises(SignatureError, match="chmod 600"):
        signing_keys.load_key(place)
    monkeypatch.setenv(signing_keys.FILE, str(tmp_path / "none.pem"))
    with pytest.raises(SignatureError, match="cannot be read"):
        signing_keys.load_key(place)


def test_an_encrypted_key_needs_its_passphrase() -> None:
    from cryptography.hazmat.primitives import serialization as forms

    locked = KEY.private.private_bytes(
        forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.BestAvailableEncryption(b"open sesame")
    )
    assert keys.read_key(locked, "open sesame").signer == KEY.signer
    for wrong in (None, "", "sesame"):
        with pytest.raises(SignatureError, match="passphrase"):
            keys.read_key(locked, wrong)


def test_keys_that_are_none_or_of_another_kind_are_refused_without_being_quoted() -> None:
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric import ec

    curve = ec.generate_private_key(ec.SECP256R1())
    other = curve.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption())
    with pytest.raises(SignatureError, match="Ed25519"):
        keys.read_key(other)
    spoilt = keys.make_key(development=False).replace(b"\nM", b"\n!")
    with pytest.raises(SignatureError) as caught:
        keys.read_key(spoilt)
    assert spoilt.decode().splitlines()[1] not in str(caught.value)
    assert caught.value.__cause__ is None
    for text in (b"", b"secret", keys.make_key(development=False).split(b"-----BEGIN CERT")[0]):
        with pytest.raises(SignatureError):
            keys.read_signer(text)


def test_a_certificate_of_another_key_is_refused() -> None:
    secret = keys.make_key(development=False).split(b"-----BEGIN CERT")[0]
    assert keys.read_key(secret).signer.subject.startswith("CN=Erasure Audit key ")
    with pytest.raises(SignatureError, match="another key"):
        keys.read_key(secret + keys.public_pem(OTHER))


def test_a_key_does_not_show_its_secret() -> None:
    assert "private" not in repr(KEY)
    assert repr(KEY).count("key_id") == 1


@pytest.fixture
def authority(place: Path) -> Iterator[authorities.Authority]:
    """A time-stamping authority that the workspace asks and trusts; nothing is signed yet."""
    with authorities.serving(authorities.make()) as authority:
        settings.assign(place / "params.yaml", [f"operate.time_stamps={authority.url}"])
        (place / "trusted-tsa").mkdir()
        (place / "trusted-tsa" / "authority.pem").write_bytes(authority.pem)
        shutil.rmtree(place / "signed")
        yield authority


def stamped(place: Path, required: bool = True) -> signature_checks.SignatureFinding:
    """What checking finds where time stamps are required."""
    policy = signing_keys.stamp_policy(place, required=required)
    return signature_checks.verify(folder_of(place), (KEY.signer,), stamps=policy)


def test_pdf_and_statement_are_time_stamped_where_an_authority_is_set(
    place: Path, authority: authorities.Authority
) -> None:
    assert all(item.new for item in signing_flow.sign(place, "spring", KEY))
    finding = stamped(place)
    assert finding
    assert set(finding.stamps) == {"report.pdf", "statement.dsse.json"}
    assert "time stamp of 2" in finding.line
    assert "Test TSA" in finding.line
    json.dumps(finding.plain())
    asked = authority.asked
    assert not any(item.new for item in signing_flow.sign(place, "spring", KEY))
    assert authority.asked == asked  # what is signed and stamped is left alone


def test_what_was_signed_without_a_time_stamp_does_not_count_where_one_is_required(
    place: Path,
) -> None:
    assert stamped(place, required=False)
    finding = stamped(place)
    assert not finding
    assert "no time stamp, and one is required" in finding.line
    assert not finding.faults


@pytest.mark.parametrize("mood", ["talks nonsense", "is broken", "another imprint", "redirects"])
def test_nothing_is_half_signed_where_no_time_stamp_can_be_had(
    place: Path, authority: authorities.Authority, mood: str
) -> None:
    authority.mood = mood
    with pytest.raises(SignatureError, match="time"):
        signing_flow.sign(place, "spring", KEY)
    assert not list((place / "signed").rglob("*.*"))


def test_a_removed_a_changed_and_another_reports_time_stamp_are_found(
    place: Path, authority: authorities.Authority
) -> None:
    signing_flow.sign(place, "spring", KEY)
    path = folder_of(place) / "statement.tst"
    sound = path.read_bytes()
    others = (folder_of(place, fabricated.FAIL) / "statement.tst").read_bytes()
    for content in (others, with_byte(sound, 300), sound[:-1], b""):
        path.write_bytes(content)
        assert "statement.tst: " in stamped(place, required=False).line
        assert stamped(place, required=False).faults
    path.unlink()
    assert "statement.tst is missing" in stamped(place, required=False).line
    path.symlink_to("report.pdf")
    assert "not a plain file" in stamped(place, required=False).line
    path.unlink()
    path.write_bytes(sound)
    assert stamped(place)


def test_an_authority_that_nobody_trusts_does_not_count(
    place: Path, authority: authorities.Authority
) -> None:
    signing_flow.sign(place, "spring", KEY)
    (place / "trusted-tsa" / "authority.pem").write_bytes(authorities.make("Another").pem)
    for required in (True, False):
        finding = stamped(place, required=required)
        assert not finding
        assert not finding.faults
        assert "Test TSA, which is not trusted" in finding.line


def test_a_statement_that_claims_another_time_than_its_stamp_is_not_intact(
    place: Path, authority: authorities.Authority
) -> None:
    """A signer who dates a report back has a stamp of today."""
    signing_flow.sign(place, "spring", KEY)
    folder = folder_of(place)
    content = unseal((folder / "statement.dsse.json").read_bytes(), [KEY.signer])
    predicate = content.predicate | {"signed_at": "2025-01-01T00:00:00Z"}
    sealed = seal(content.subjects, predicate, KEY)
    (folder / "statement.dsse.json").write_bytes(sealed)
    token = time_stamps.Stamper(authority.url).stamp(hashlib.sha256(sealed).digest())
    (folder / "statement.tst").write_bytes(token)
    assert "claims to be of 2025-01-01T00:00:00Z" in stamped(place).line


def test_the_command_can_require_time_stamps(
    place: Path, authority: authorities.Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from flows.cli import main

    (tmp_path / "key.pem").write_bytes(keys.public_pem(KEY))
    (tmp_path / "tsa.pem").write_bytes(authority.pem)
    plain = [str(folder_of(place)), "--key", str(tmp_path / "key.pem")]
    signing_flow.sign(place, "spring", KEY)
    monkeypatch.chdir(tmp_path)
    for more, code in (
        ([], 0),
        (["--require-time-stamp"], 1),
        (["--require-time-stamp", "--tsa", str(tmp_path / "tsa.pem")], 0),
    ):
        assert CliRunner().invoke(main.app, ["verify-report", *plain, *more]).exit_code == code


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_makes_a_key_names_it_alike_and_finds_its_signature_right(
    reports: Path, tmp_path: Path
) -> None:
    """The way that docs/signing.md shows to somebody without this tool."""
    openssl(tmp_path, "genpkey", "-algorithm", "ed25519", "-out", "key.pem")
    named = ("-subj", "/O=Example Clinic/CN=Data Protection Officer", "-days", "3650")
    openssl(tmp_path, "req", "-x509", "-new", "-key", "key.pem", *named, "-out", "certificate.pem")
    openssl(tmp_path, "pkey", "-in", "key.pem", "-pubout", "-outform", "DER", "-out", "public.der")
    key = keys.read_key(
        (tmp_path / "key.pem").read_bytes() + (tmp_path / "certificate.pem").read_bytes()
    )
    assert key.signer.subject == "CN=Data Protection Officer,O=Example Clinic"
    assert key.signer.key_id == hashlib.sha256((tmp_path / "public.der").read_bytes()).hexdigest()
    (tmp_path / "public.pem").write_bytes(_public_key(key))
    content = pdf_signature.sign((reports / fabricated.PASS / "report.pdf").read_bytes(), key)
    assert pdf_signature.check(content).signer == key.signer
    _, head, tail, _ = (int(number) for number in pdf_signature.BYTE_RANGE.findall(content)[-1])
    container = bytes.fromhex(content[head + 1 : tail - 1].decode())
    attributes, signature = _attributes_and_signature(container)
    assert hashlib.sha512(content[:head] + content[tail:]).digest() in attributes
    (tmp_path / "attributes").write_bytes(attributes)
    (tmp_path / "signature").write_bytes(signature)
    command = ["pkeyutl", "-verify", "-pubin", "-inkey", "public.pem", "-rawin"]
    command += ["-in", "attributes", "-sigfile", "signature"]
    openssl(tmp_path, *command)
    (tmp_path / "attributes").write_bytes(with_byte(attributes, 9))
    with pytest.raises(subprocess.CalledProcessError):
        openssl(tmp_path, *command)


def _attributes_and_signature(container: bytes) -> tuple[bytes, bytes]:
    """What the signature signs, and the signature."""
    from asn1crypto import cms

    (info,) = cms.ContentInfo.load(container)["content"]["signer_infos"]
    return info["signed_attrs"].untag().dump(), info["signature"].native


def openssl(folder: Path, *arguments: str) -> None:
    """Run openssl in a folder."""
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def signer_at_hand(place: Path) -> keys.Signer | None:
    """Who would sign now."""
    key = signing_keys.load_key(place)
    return key.signer if key else None


def _passes(content: bytes) -> bool:
    try:
        return pdf_signature.check(content).signer == KEY.signer
    except SignatureError:
        return False


def _public_key(key: keys.SigningKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.signer.public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
