r"""
Text that others have sent, where people read it: what is invisible in it is made visible.

One table for the terminal and the page. Control characters move a terminal's cursor, set its title
or end a line that should be one; others turn the direction of the text behind them, or have no
shape, so that two names look alike. They are written as escapes, ``\x1b``.
"""

from __future__ import annotations

import re


# a character that the joiners of Arabic, Indic scripts and emoji may stand beside
_JOINABLE = (
    "\u0600-\u115e\u1161-\u17b3\u17b6-\u180a\u1810-\u1fff\u2190-\u2fff\u3040-\u3163\u3165-\ud7ff"
    "\ufb50-\ufdff\ufe0f\ufe70-\ufefe\U00010800-\U0001bc9f\U0001f000-\U0001faff\U00020000-\U000323af"
)
# what has more than one look, and a selector behind it that says which: pictographs, CJK, Burmese
_SELECTABLE = (
    "\xa9\xae\u1000-\u109f\u203c\u2049\u2122\u2139\u2190-\u2bff\u3000-\u3163\u3165-\u9fff"
    "\U0001f000-\U0001faff\U00020000-\U000323af"
)
_INVISIBLE = (
    "\x0b-\x1f\x7f-\x9f"  # C0 but for the first, C1
    "\xad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0"  # without a shape
    "\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\ufff0-\ufffb"  # directions
    "\ud800-\udfff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_ON_A_LINE = re.compile(f"[\x00-\x0a{_INVISIBLE}]")
_ON_LINES = re.compile(f"[\x00-\x08{_INVISIBLE}]")
# of these, what has a use where it stands: a joiner between what joins, one selector behind what
# has several looks, or in a keycap
_JOINS = re.compile(f"(?<=[{_JOINABLE}])[\u200c\u200d](?=[{_JOINABLE}])")
_SELECTS = re.compile(f"(?<=[{_SELECTABLE}])[\ufe00-\ufe0f]|(?<=[0-9#*])\ufe0f(?=\u20e3)")
# marks that stack: more of them than any script has grow over the lines above and below
_MARKS = "\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
_TOWER = re.compile(f"([{_MARKS}]{{4}})([{_MARKS}]+)")


def visible(text: str, *, has_lines: bool = False) -> str:
    r"""
    Write what would change the look of the text around it, or has none itself, as an escape.

    Args:
        text: The text.
        has_lines: Whether tabs and ends of lines stay as they are.

    Returns:
        The text; of marks that stack, four are left, and how many there were.
    """
    if text.isascii() and text.isprintable():
        return text
    text = _TOWER.sub(lambda match: f"{match[1]}… ({len(match[2]):,} characters)", text)
    return (_ON_LINES if has_lines else _ON_A_LINE).sub(_escaped, text)


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
