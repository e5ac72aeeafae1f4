"""Which of four continuations is the true one: a multiple-choice test made of any held-out documents.

Use it beside bits per byte to see whether what a model loses in bits also costs it decisions. The likelihood of a
continuation is divided by its bytes, so that neither tokenizer nor segmentation nor length decides; chance is 1/4.
Source: our small stand-in for the ARC and MMLU figures of Train It and Forget It, EMNLP 2025, arXiv 2508.06621.
Cost: five short forward passes a question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from byteloom.errors import InvalidInputError
from byteloom.evaluate.bits_per_byte import Encoder, document_bits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHOICES = 4


@dataclass(frozen=True)
class Question:
    """The bytes before a place of a document, and what may follow: `choices[answer]` does."""

    prompt: bytes
    choices: tuple[bytes, ...]
    answer: int


def continuation_questions(
    documents: Sequence[Any], count: int, *, prompt_bytes: int = 256, choice_bytes: int = 128, seed: int = 0
) -> list[Question]:
    """At most `count` questions from bytes-like documents, drawn by `seed`; text is cut at lines or characters.

    The wrong choices follow other places, mostly of other documents: what the prompt is about tells. Raises
    InvalidInputError when no document has the bytes of a prompt and a choice.
    """
    rng = np.random.default_rng(seed)
    span = prompt_bytes + choice_bytes
    long_enough = [bytes(document) for document in documents if memoryview(document).nbytes >= span]
    if not long_enough:
        raise InvalidInputError(f"no document has the {span} bytes that a question is made of; name longer files")
    sizes = np.array([len(data) for data in long_enough], dtype=np.float64)
    questions: dict[Question, None] = {}
    # Drawn twice as often as needed: places may coincide.
    for numbers in rng.choice(len(long_enough), size=(2 * count, CHOICES), p=sizes / sizes.sum()).tolist():
        places = []
        for data in (long_enough[number] for number in numbers):
            at = _cut(data, int(rng.integers(prompt_bytes, len(data) - choice_bytes + 1)), choice_bytes)
            places.append((data, at))
        choices = tuple(data[at : _character(data, at + choice_bytes)] for data, at in places)
        answer = int(rng.integers(CHOICES))
        if len(set(choices)) == CHOICES and len(questions) < count:
            data, at = places[answer]
            questions[Question(data[_character(data, max(0, at - prompt_bytes)) : at], choices, answer)] = None
    return list(questions)


def choice_accuracy(
    model: PreTrainedModel,
    tokenizer: Encoder,
    questions: Sequence[Question],
    *,
    context: int | None = None,
    batch: int = 32,
) -> float:
    """Share of `questions` whose true continuation the model gives the fewest bits per byte; chance is 1/CHOICES.

    The bits of a continuation are those of prompt and continuation together less those of the prompt alone: a token
    may reach across. context and batch are those of `bits_per_byte`. Raises InvalidInputError without questions.
    """
    if not questions:
        raise InvalidInputError("there are no questions to ask the model; name longer documents")
    texts = [text for q in questions for text in (q.prompt, *(q.prompt + choice for choice in q.choices))]
    bits = [one.bits for one in document_bits(model, tokenizer, texts, context=context, batch=batch)]
    right = 0
    for question, at in zip(questions, range(0, len(bits), 1 + CHOICES), strict=True):
        costs = [
            (whole - bits[at]) / len(choice)
            for choice, whole in zip(question.choices, bits[at + 1 : at + 1 + CHOICES], strict=True)
        ]
        right += int(np.argmin(costs)) == question.answer
    return right / len(questions)


def _cut(data: bytes, at: int, reach: int) -> int:
    """The beginning of the line at `at`, when it is at most `reach` bytes before it; else of the character."""
    return data.rfind(b"\n", max(0, at - reach), at) + 1 or _character(data, at)


def _character(data: bytes, at: int) -> int:
    """The last place up to `at`, and at most 3 bytes before it, at which a UTF-8 character may begin."""
    for back in range(min(4, at + 1)):
        if at - back >= len(data) or data[at - back] & 0xC0 != 0x80:
            return at - back
    return at
