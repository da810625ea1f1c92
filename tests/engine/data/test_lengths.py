"""Captions that are too long are named with the words that are lost."""

from __future__ import annotations

from pathlib import Path

from engine.data.captions import CaptionRules
from engine.data.findings import Finding
from engine.data.images import ImageFact
from engine.data.lengths import cut_captions, lost_words
from engine.data.survey import Item
from engine.planning.lengths import caption_reader

LONG = ", ".join(f"word{n}" for n in range(30))  # Four tokens each: word, two digits, comma.


def items_of(*captions: str) -> list[Item]:
    return [
        Item(n, ImageFact(Path(f"d/{n}.png"), 64, 64, 1), text, True, "", "c", 1, False, False)
        for n, text in enumerate(captions)
    ]


def find(*captions: str, most: int = 75, weighted: bool = False, **rules) -> tuple[Finding, ...]:
    read = caption_reader(weighted=weighted)
    return cut_captions(items_of(*captions), CaptionRules(**rules), read, most)


def test_the_real_tokenizer_counts() -> None:
    text, spans = caption_reader()("A dog, running")
    assert [text[first:last] for first, last in spans] == ["A", "dog", ",", "running"]
    exact = " ".join(["dog"] * 75)
    assert find(exact) == ()
    (finding,) = find(f"{exact} cat", exact)
    assert finding.check == "caption cut" and finding.files == ("0.png",)
    assert finding.details == ("76 tokens, lost: cat",)


def test_a_higher_limit_reads_more() -> None:
    assert find(LONG)[0].details[0].startswith("109 tokens, lost: word")
    assert find(LONG, most=150) == ()


def test_a_word_that_is_cut_in_its_middle_is_lost_as_a_whole() -> None:
    spans = [(0, 3), (3, 4), (5, 8), (8, 10)]
    assert lost_words("dog, wordly", spans, 3) == "wordly"
    assert lost_words("dog, wordly", spans, 1) == ", wordly"
    assert lost_words("dog, wordly", spans, 4) == ""


def test_what_is_drawn_is_measured() -> None:
    near = " ".join(["dog"] * 74)
    assert find(near) == ()
    assert find(near, prefix="vexilo emblem,") != ()
    assert find(f"{near} {{cat|cat cat cat}}", wildcards=True)[0].details[0].startswith("77 tokens")
    assert find(f"short\n{near} cat cat", wildcards=True) != ()


def test_brackets_of_weights_are_no_tokens() -> None:
    text = " ".join(["dog"] * 74) + " (cat:1.3)"
    assert find(text, weighted=True) == ()
    assert find(text)[0].details[0].endswith("lost: cat:1.3)")
    assert find(text + " [bird]", weighted=True)[0].details == ("76 tokens, lost: bird",)
