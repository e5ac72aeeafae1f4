import numpy as np
import pytest
import torch

from byteloom.errors import InvalidInputError
from byteloom.evaluate.choices import CHOICES, Question, choice_accuracy, continuation_questions
from byteloom.evaluate.text_tokenizer import whole_characters
from byteloom.tokenize import byte_tokenizer

LINES = "".join(f"line {n} says {'ä€🙂'[n % 3] * (n % 7)} and {n * n}\n" for n in range(400)).encode()


class KnowsOneByte(torch.nn.Module):
    """Predicts `byte` after anything, and all other ids alike."""

    def __init__(self, byte: int) -> None:
        super().__init__()
        self.byte, self.device = byte, torch.device("cpu")
        self.config = type("Config", (), {"max_position_embeddings": 64})

    def forward(self, input_ids, use_cache, logits_to_keep):
        logits_BSV = torch.zeros(len(input_ids), logits_to_keep, 263)
        logits_BSV[..., 7 + self.byte] = 5
        return type("Output", (), {"logits": logits_BSV})


def test_questions_are_places_of_the_documents():
    questions = continuation_questions([LINES, b"too short"], 50, seed=3)
    assert len(questions) == 50 == len(set(questions))
    assert {question.answer for question in questions} == set(range(CHOICES))
    for question in questions:
        assert len(set(question.choices)) == CHOICES
        assert question.prompt + question.choices[question.answer] in LINES
        assert all(choice in LINES for choice in question.choices)
        for text in (question.prompt, *question.choices):
            text.decode()  # cut at characters
            assert len(text) <= 256 + 3
        assert question.prompt.endswith(b"\n") and all(choice.startswith(b"line") for choice in question.choices)
    assert continuation_questions([LINES], 50, seed=3) == questions
    assert continuation_questions([LINES], 50, seed=4) != questions


def test_bytes_that_are_no_text_are_cut_anywhere():
    noise = np.random.default_rng(0).bytes(5000)
    for question in continuation_questions([noise], 20):
        assert question.prompt + question.choices[question.answer] in noise


def test_a_continuation_is_chosen_by_its_bits_a_byte():
    choices = (b"xxxx", b"aaxx", b"axxxxxxx", b"aa" * 4)
    asked = [Question(b"prompt", choices, answer) for answer in range(CHOICES)]
    assert choice_accuracy(KnowsOneByte(ord("a")), byte_tokenizer(), asked) == 1 / 4
    assert choice_accuracy(KnowsOneByte(ord("a")), byte_tokenizer(), asked[3:]) == 1
    # Longer, and so of more bits in all, but of fewer a byte.
    longer = (b"aax", b"xx", b"xxxx", b"aaaaaaaaaaaaaax")
    assert choice_accuracy(KnowsOneByte(ord("a")), byte_tokenizer(), [Question(b"", longer, 3)], batch=3) == 1


def test_refusals():
    with pytest.raises(InvalidInputError, match="no document has the 384 bytes"):
        continuation_questions([b"short"], 5)
    with pytest.raises(InvalidInputError, match="no questions"):
        choice_accuracy(KnowsOneByte(0), byte_tokenizer(), [])


@pytest.mark.parametrize("text", ["", "a", "ä", "€", "🙂", "aä€🙂", "🙂€äa", "🙂🙂"])
def test_whole_characters(text):
    data = text.encode()
    assert whole_characters(data) == data
    for start in range(len(data) + 1):
        for end in range(start, len(data) + 1):
            assert whole_characters(data[start:end]).decode() == data[start:end].decode(errors="ignore")


def test_whole_characters_takes_any_bytes():
    for data in (b"\x80" * 9, b"\xff" * 9, b"\xf0", bytes(range(256))):
        assert len(data) - len(whole_characters(data)) <= 6
