"""What a scalar without quotes means, where YAML's versions and readers agree, and where they do not."""

import math
import re
from dataclasses import dataclass

from pydantic import JsonValue

TAG = "tag:yaml.org,2002:"
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_WORDS_OF_1_1 = re.compile(r"y|Y|yes|Yes|YES|n|N|no|No|NO|on|On|ON|off|Off|OFF")
_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_OTHER_BASE = re.compile(r"0o[0-7]{1,20}|0x[0-9a-fA-F]{1,15}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]")
_NUMBER_OF_1_1 = re.compile(r"[-+]?(0[0-9]+|0b[01_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?)")
_NOT_JSON = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


@dataclass(frozen=True, slots=True)
class Scalar:
    """A scalar's value, and what is doubtful about how it is written, if anything."""

    value: JsonValue
    doubt: str | None = None


def plain(text: str) -> Scalar:
    """Read a scalar that stands without quotes and tag."""
    if text in _NULLS:
        return Scalar(None)
    if text in _BOOLS:
        return Scalar(_BOOLS[text])
    if _WORDS_OF_1_1.fullmatch(text):
        return Scalar(
            text, f'{text} is text to some readers of YAML and true or false to others: write "{text}", true or false'
        )
    if _NOT_JSON.fullmatch(text):
        return Scalar(text, f"{text} is no JSON number")
    return _number(text) or Scalar(text)


def _number(text: str) -> Scalar | None:
    if _INT.fullmatch(text) or _OTHER_BASE.fullmatch(text):
        return Scalar(int(text, 0))
    shown = text if len(text) <= 40 else f"{text[:39]}…"
    if _FLOAT.fullmatch(text) and not _LEADING_ZERO.match(text):
        number = float(text)
        return Scalar(number) if math.isfinite(number) else Scalar(text, f"{shown} is no JSON number")
    if _NUMBER_OF_1_1.fullmatch(text):
        return Scalar(
            text, f'{shown} is read differently by different readers of YAML: write "{shown}" or a plain number'
        )
    return None


def tagged(text: str, tag: str) -> Scalar:
    """Read a scalar that carries a tag other than that of text."""
    scalar = plain(text)
    value = scalar.value
    fits = {
        TAG + "int": isinstance(value, int) and not isinstance(value, bool),
        TAG + "float": isinstance(value, int | float) and not isinstance(value, bool),
        TAG + "bool": isinstance(value, bool),
        TAG + "null": value is None,
    }
    if tag not in fits:
        return Scalar(value, f"the tag {tag} is not supported")
    return scalar if fits[tag] or scalar.doubt else Scalar(value, f"the value does not fit its tag {tag}")
