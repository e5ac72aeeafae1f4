"""Bytes to token ids and back: training, encoding, files. No torch here.

`ByteTokenizer`, the transformers face of these tokenizers, is in `byteloom.tokenize.hf`.
"""

from byteloom.tokenize.bpe import BPE, byte_tokenizer, train_bpe
from byteloom.tokenize.dna import DNATokenizer, train_dna
from byteloom.tokenize.equal_info import EqualInfoTokenizer, train_equal_info
from byteloom.tokenize.inference import Segmenter
from byteloom.tokenize.loading import load_tokenizer
from byteloom.tokenize.marks import join, mark
from byteloom.tokenize.subword import SubwordDictionary
from byteloom.tokenize.subword_tokenizer import SubwordTokenizer, train_subword_tokenizer
from byteloom.tokenize.subword_training import train_subwords
from byteloom.tokenize.token_set import Leakage, TokenSet, export_unordered, leakage
from byteloom.tokenize.tokenizer import Codec, Tokenizer, Training, available_threads
from byteloom.tokenize.tokenizer_json import SPECIAL_TOKENS, TokenizerTables

__all__ = [
    "BPE",
    "SPECIAL_TOKENS",
    "Codec",
    "DNATokenizer",
    "EqualInfoTokenizer",
    "Leakage",
    "Segmenter",
    "SubwordDictionary",
    "SubwordTokenizer",
    "TokenSet",
    "Tokenizer",
    "TokenizerTables",
    "Training",
    "available_threads",
    "byte_tokenizer",
    "export_unordered",
    "join",
    "leakage",
    "load_tokenizer",
    "mark",
    "train_bpe",
    "train_dna",
    "train_equal_info",
    "train_subword_tokenizer",
    "train_subwords",
]
