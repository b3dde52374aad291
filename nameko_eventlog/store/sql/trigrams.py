"""
Trigrams: each three characters that follow each other in a text.

An index by trigrams finds the bodies that may contain a text. Which of them do is tested then, so
that it does not matter which trigrams of the text are looked up: the rarest are the fastest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from nameko_eventlog.store.sql.matching import NUMBER_END, ZERO


_COMPARED = 100  # trigrams of a long text: each is compared with the whole sample
_LOOKED_UP = 4
_CHARACTERS = {ZERO: "0-", NUMBER_END: ",}]."}  # 0 equals -0.0, and 1 equals 1.0


def trigrams_of(texts: Iterable[str]) -> set[str]:
    """
    Return the trigrams of all *texts*.
    """
    return {text[at : at + 3] for text in texts for at in range(len(text) - 2)}


def rarest(trigrams: Collection[str], sample: Sequence[str]) -> list[Sequence[str]]:
    """
    Return the trigrams that are in the fewest texts of *sample*, the rarest first: for each, those
    of which a body must have one.
    """
    compared = sorted(trigrams)
    compared = compared[:: -(-len(compared) // _COMPARED)]
    ordered = sorted(
        (sum(any(one in text for one in some) for text in sample), some)
        for some in map(_alternatives, compared)
    )
    return [some for _, some in ordered[:_LOOKED_UP]]


def _alternatives(trigram: str) -> Sequence[str]:
    last = _CHARACTERS.get(trigram[-1], trigram[-1])
    return [trigram[:-1] + one for one in last]
