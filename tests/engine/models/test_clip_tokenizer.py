"""The tokenizer built from merges: ids that OpenCLIP's own tokenizer gave for the same texts."""

from __future__ import annotations

import pytest

from engine.models.clip_tokenizer import byte_characters, clip_tokenizer

START, END = 49406, 49407
GOLDEN = {
    "a photo of a cat": [320, 1125, 539, 320, 2368],
    "": [],
    "vexilo emblem on a white background": [36187, 14835, 21163, 525, 320, 1579, 5994],
    "1girl, solo, long_hair, (masterpiece:1.2)": [
        *(272, 1611, 267, 5797, 267, 1538, 318, 2225, 267),
        *(263, 12066, 281, 272, 269, 273, 264),
    ],
    "it's we're I'll go": [585, 568, 649, 982, 328, 1342, 861],
    "Café DÉJÀ vu": [15304, 25466, 73, 21259, 13230],
    "日本語のテキスト": [39121, 44353, 34002, 252, 21575, 2429, 228, 47121, 32421, 486],
    "emoji 😀": [16327, 7334],
    "“quotes” — dash": [728, 506, 5808, 728, 507, 2005, 10206],
}


@pytest.mark.parametrize(("text", "ids"), GOLDEN.items(), ids=[repr(text) for text in GOLDEN])
def test_golden_ids(text: str, ids: list[int]) -> None:
    assert clip_tokenizer()(text).input_ids == [START, *ids, END]


def test_vocabulary_is_whole() -> None:
    vocabulary = clip_tokenizer().get_vocab()
    assert len(vocabulary) == 49408
    assert sorted(vocabulary.values()) == list(range(49408))
    assert vocabulary["!"] == 0
    assert (vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]) == (START, END)


def test_every_byte_has_its_character() -> None:
    characters = byte_characters()
    assert len(set(characters)) == 256
    assert characters[:2] == ["!", '"']


@pytest.mark.parametrize(("pad_token", "pad_id"), [("<|endoftext|>", END), ("!", 0)])
def test_padding(pad_token: str, pad_id: int) -> None:
    tokenizer = clip_tokenizer(pad_token)
    ids = tokenizer("cat", padding="max_length", truncation=True).input_ids
    assert ids == [START, 2368, END] + [pad_id] * 74


def test_padding_does_not_leak_between_tokenizers() -> None:
    clip_tokenizer("!")
    assert clip_tokenizer().pad_token_id == END


def test_long_text_is_cut() -> None:
    ids = clip_tokenizer()("cat " * 200, truncation=True).input_ids
    assert len(ids) == 77
    assert ids[-1] == END
