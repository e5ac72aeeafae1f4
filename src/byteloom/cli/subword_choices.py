"""How subwords are learned, as options of `byteloom lexicon train` and `byteloom tokenizer train --method subword`."""

from enum import StrEnum


class SubwordMethod(StrEnum):
    """How units are found; `tokenize.subword_training.Method`, whose import would slow --help down."""

    bpe = "bpe"
    extended_bpe = "extended_bpe"
    morfessor = "morfessor"


class Estimation(StrEnum):
    """How the probabilities of units are found."""

    none = "none"
    ml = "ml"
    viterbi = "viterbi"


class Unit(StrEnum):
    """What is never cut."""

    akshara = "akshara"
    grapheme = "grapheme"
    codepoint = "codepoint"
