"""Chunks of 75 tokens: what each holds, and how the answers are joined."""

from __future__ import annotations

import pytest
import torch

from engine.models.clip_tokenizer import FIRST_WORD, clip_tokenizer
from engine.models.text import apply_weights, join_chunks, tokenize

START, END, CAT = 49406, 49407, 2368


def words(count: int) -> str:
    return " ".join(["cat"] * count)


@pytest.mark.parametrize(("pad_token", "pad"), [("<|endoftext|>", END), (FIRST_WORD, 0)])
@pytest.mark.parametrize("count", [0, 3, 74, 75, 76, 149, 150, 160, 225, 300])
def test_each_chunk_has_start_end_and_padding_of_its_own(
    pad_token: str, pad: int, count: int
) -> None:
    ids_BNT = tokenize(clip_tokenizer(pad_token), [words(count)], max_tokens=225).ids_BNT
    assert ids_BNT.shape == (1, 3, 77)
    for number, row in enumerate(ids_BNT[0].tolist()):
        held = min(max(count - 75 * number, 0), 75)
        assert row == [START, *[CAT] * held, END, *[pad] * (75 - held)]


def test_one_chunk_is_what_the_tokenizer_makes_of_it() -> None:
    for pad_token in ("<|endoftext|>", FIRST_WORD):
        tokenizer = clip_tokenizer(pad_token)
        captions = ["a photo of a cat", "", words(200), "!!! 猫 :)"]
        stock = tokenizer(
            captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        ).input_ids
        assert torch.equal(tokenize(tokenizer, captions).ids_BNT[:, 0], stock)


@pytest.mark.parametrize("length", [0, 74, 76, 100])
def test_a_length_that_is_no_multiple_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="multiple of 75"):
        tokenize(clip_tokenizer(), ["a"], max_tokens=length)


def test_chunks_are_joined_without_what_lies_between() -> None:
    hidden_BNTD = torch.arange(2 * 3 * 77.0).reshape(2, 3, 77, 1)
    joined_BT = join_chunks(hidden_BNTD)[..., 0]
    assert joined_BT.shape == (2, 227)
    inner = [row for chunk in range(3) for row in range(77 * chunk + 1, 77 * chunk + 76)]
    assert joined_BT[0].tolist() == [0, *inner, 230]
    assert joined_BT[1].tolist() == [231 + value for value in (0, *inner, 230)]
    assert torch.equal(join_chunks(hidden_BNTD[:, :1]), hidden_BNTD[:, 0])


def test_weights_stand_at_their_tokens_and_nowhere_else() -> None:
    tokenizer = clip_tokenizer()
    chunks = tokenize(
        tokenizer, [f"{words(74)} (cat cat:1.5) cat", "dog"], max_tokens=150, weighted=True
    )
    assert chunks.weights_BT is not None and chunks.weights_BT.shape == (2, 152)
    heavy = chunks.weights_BT[0].ne(1).nonzero()[:, 0].tolist()
    assert heavy == [75, 76], "the last of the first chunk and the first of the second"
    assert bool(chunks.weights_BT[1].eq(1).all())
    plain = tokenize(tokenizer, [words(77), "dog"], max_tokens=150)
    assert torch.equal(chunks.ids_BNT, plain.ids_BNT) and plain.weights_BT is None


def test_a_caption_without_weights_is_read_the_same_way() -> None:
    captions = ["a photo of a cat", words(200), ""]
    for length in (75, 225):
        plain = tokenize(clip_tokenizer(), captions, max_tokens=length)
        weighted = tokenize(clip_tokenizer(), captions, max_tokens=length, weighted=True)
        assert torch.equal(plain.ids_BNT, weighted.ids_BNT) and weighted.weights_BT is None


def test_brackets_are_tokens_where_weights_are_not_asked_for() -> None:
    tokenizer = clip_tokenizer()
    plain = tokenize(tokenizer, ["(cat:1.3)"])
    assert plain.weights_BT is None and int(plain.ids_BNT.ne(END).sum()) > 3


def test_states_are_multiplied_and_the_mean_is_left() -> None:
    hidden_BTD = torch.ones(1, 4, 2)
    weighted = apply_weights(hidden_BTD, torch.tensor([[1.0, 2.0, 0.5, 1.0]]))
    assert weighted[0, :, 0].tolist() == [1.0, 2.0, 0.5, 1.0]
    assert apply_weights(hidden_BTD, None) is hidden_BTD
