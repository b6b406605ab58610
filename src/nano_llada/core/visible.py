"""Text for people to read: what a terminal would obey instead of showing is made visible."""

from __future__ import annotations

KEPT = (9, 10)  # tab, end of line
SHOWN = {code: 0x2400 + code for code in range(32) if code not in KEPT} | {127: 0x2421}  # Unicode's control pictures
SHOWN |= dict.fromkeys(range(0x80, 0xA0), 0xFFFD)


def visible(text: str) -> str:
    """The text with control characters (escape sequences of terminals begin with one) as visible characters."""
    return text.translate(SHOWN)
