r"""
Make invisible characters in received text visible, for the terminal and for web pages.

Control characters move a terminal's cursor, set its title or break lines. Other characters change
the direction of the text that follows, or have no glyph, so that two names look alike. They are
written as escapes, such as ``\x1b``.
"""

from __future__ import annotations

import re


# characters that may be next to a joiner: Arabic, Indic scripts, emoji
_JOINABLE = (
    "\u0600-\u115e\u1161-\u17b3\u17b6-\u180a\u1810-\u1fff\u2190-\u2fff\u3040-\u3163\u3165-\ud7ff"
    "\ufb50-\ufdff\ufe0f\ufe70-\ufefe\U00010800-\U0001bc9f\U0001f000-\U0001faff\U00020000-\U000323af"
)
# characters with several glyphs, chosen by a variation selector: pictographs, CJK, Burmese
_SELECTABLE = (
    "\xa9\xae\u1000-\u109f\u203c\u2049\u2122\u2139\u2190-\u2bff\u3000-\u3163\u3165-\u9fff"
    "\U0001f000-\U0001faff\U00020000-\U000323af"
)
_INVISIBLE = (
    "\x0b-\x1f\x7f-\x9f"  # C0 except the first, C1
    "\xad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0"  # without a shape
    "\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\ufff0-\ufffb"  # directions
    "\ud800-\udfff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_ON_A_LINE = re.compile(f"[\x00-\x0a{_INVISIBLE}]")
_ON_LINES = re.compile(f"[\x00-\x08{_INVISIBLE}]")
# allowed where they have a meaning: a joiner between joinable characters, a variation selector
# after a character with several glyphs or in a keycap
_JOINS = re.compile(f"(?<=[{_JOINABLE}])[\u200c\u200d](?=[{_JOINABLE}])")
_SELECTS = re.compile(f"(?<=[{_SELECTABLE}])[\ufe00-\ufe0f]|(?<=[0-9#*])\ufe0f(?=\u20e3)")
# combining marks: more of them than any script uses would cover the lines above and below
_MARKS = "\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
_TOWER = re.compile(f"([{_MARKS}]{{4}})([{_MARKS}]+)")


def visible(text: str, *, has_lines: bool = False) -> str:
    r"""
    Escape characters that are invisible, or that change how the text around them is shown.

    Args:
        text: The text.
        has_lines: Whether tabs and line breaks stay as they are.

    Returns:
        The text. Of more than four combining marks, four are left, with the number of the others.
    """
    if text.isascii() and text.isprintable():
        return text
    text = _TOWER.sub(lambda match: f"{match[1]}… ({len(match[2]):,} characters)", text)
    return (_ON_LINES if has_lines else _ON_A_LINE).sub(_escaped, text)


def escape_in_json(text: str) -> str:
    r"""
    Escape in JSON what `visible` escapes, as ``\u001b``: the JSON's value remains the same.
    """
    if text.isascii() and text.isprintable():
        return text
    return _ON_A_LINE.sub(_escaped_in_json, text)


def _escaped_in_json(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def _escaped(match: re.Match[str]) -> str:
    one = match[0]
    has_use = {"\u200c": _JOINS, "\u200d": _JOINS}.get(one) or (
        _SELECTS if "\ufe00" <= one <= "\ufe0f" else None
    )
    if has_use is not None and has_use.match(match.string, match.start()):
        return one
    code = ord(one)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
