"""The canonical form by which identities are compared, and forms that are nearly the same.

Everything that compares identities compares canonical forms: the subject directory, the keyed
pseudonyms of the register, and hashes that others send (`spellings`).

| identity | canonical form |
| --- | --- |
| every type | Unicode NFC, no blanks around it |
| e-mail address | lower case |
| telephone number | `+`, country code and digits: `0049 (0)170 12-34` is `+491701234` |
| UUID, in every type | lower case |
| number, in every other type | without `.0`: `7.0` is `7` |

A telephone number without a country code stays as digits: the country is unknown.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_PHONE_WORDS = frozenset({"phone", "telephone", "mobile", "cell", "cellphone", "msisdn", "fax"})
"""Words in the name of an identity type that make it a telephone number."""
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_WHOLE_FLOAT = re.compile(r"(-?[0-9]+)\.0+")
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"
_ADDRESS = re.compile(r"[^\s<>:;,\"]+@[^\s<>:;,\"]+")
"""The address in `Ada <ada@example.org>` and `mailto:ada@example.org`."""
_EXTENSION = re.compile(r"\W*(?:ext\.?|extension|x|#)\W*[0-9]{1,6}$", re.IGNORECASE)
_END_OF_NUMBER = 8
"""Digits at the end of a telephone number that tell people apart within a country."""


def canonical(identity_type: str, value: str) -> str:
    """The one form in which an identity is compared, stored as a pseudonym, and hashed.

    Args:
        identity_type: as the request or `identities.csv` names it.
        value: the identity as somebody wrote it.
    """
    text = _trimmed(unicodedata.normalize("NFC", value))
    if is_email(identity_type):
        return unicodedata.normalize("NFC", text.lower())
    if _is_phone(identity_type):
        return _number(text)
    if _UUID.fullmatch(text):
        return text.lower()
    whole_number = _WHOLE_FLOAT.fullmatch(text)
    return whole_number[1] if whole_number else text


def spellings(identity_type: str, value: str) -> set[str]:
    """Forms of an identity that a sender may have hashed, all with the same canonical form."""
    form = canonical(identity_type, value)
    forms = {form, value, _trimmed(value)}
    if not form.isascii():
        forms |= {unicodedata.normalize(name, text) for name in ("NFC", "NFD") for text in forms}
    if is_email(identity_type) or _UUID.fullmatch(form):
        forms |= {form.upper()}
    return {text for text in forms if canonical(identity_type, text) == form}


def loose(identity_type: str, value: str) -> str:
    """A form that is the same for nearly equal identities: no case, accents, signs or leading
    zeros, no tag of an e-mail address and nothing around it, no country code and no extension."""
    text = canonical(identity_type, value)
    if is_email(identity_type) and (address := _ADDRESS.search(text)):
        text = address[0]
        name, _, domain = text.partition("@")
        return f"{_bare(name.partition('+')[0])}@{_bare(domain)}"
    if _is_phone(identity_type):
        text = canonical(identity_type, _EXTENSION.sub("", value.strip()))
    bare = _bare(text.removeprefix("urn:uuid:"))
    return bare[-_END_OF_NUMBER:] if _is_phone(identity_type) else bare


def near_spellings(identity_type: str, value: str) -> Iterator[str]:
    """Forms of an identity that are nearly the same: for hashes, which have no loose form."""
    text = canonical(identity_type, value)
    for form in (text.lower(), text.upper(), text.lstrip("0"), text.lstrip("+")):
        if form and canonical(identity_type, form) != text:
            yield form


def is_email(identity_type: str) -> bool:
    """Whether a type of identity is that of e-mail addresses."""
    return "email" in re.sub("[^a-z]", "", identity_type.lower())


def _is_phone(identity_type: str) -> bool:
    parts = set(identity_type.lower().split("_"))
    return bool(parts & _PHONE_WORDS) and not parts & {"id", "uuid"}


def _number(text: str) -> str:
    normalised = unicodedata.normalize("NFKC", text)
    signs = (sign for sign in normalised.replace("(0)", "") if sign.isdecimal())
    digits = "".join(str(unicodedata.decimal(sign)) for sign in signs)
    if not digits:
        return text
    if normalised.startswith("+"):
        return f"+{digits}"
    return f"+{digits[2:]}" if digits.startswith("00") else digits


def _trimmed(text: str) -> str:
    return text.strip().strip(_INVISIBLE).strip()


def _bare(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text).casefold()
    return "".join(sign for sign in decomposed if sign.isalnum()).lstrip("0") or "0"
