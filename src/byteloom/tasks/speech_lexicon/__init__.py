"""Speech recognition with subwords: the lexicon, the language model, a small decoder, and the word error rate.

Use it with a dictionary of byteloom.tokenize.subword to recognise words that no list has: `build_lexicon` and `NGram`
write what Kaldi, k2 and WFST tools read; `decode` and `evaluate_systems` show here what a dictionary is worth.
Source: Subword Dictionary Learning and Segmentation Techniques for Automatic Speech Recognition in Tamil and Kannada,
Madhavaraj et al. 2022, arXiv 2207.13331.
"""

from byteloom.tasks.speech_lexicon.acoustics import SimulatedAcoustics
from byteloom.tasks.speech_lexicon.decoder import Decoder, decode
from byteloom.tasks.speech_lexicon.error_rate import WER, word_error_rate
from byteloom.tasks.speech_lexicon.lexicon import Lexicon, build_lexicon, read_lexicon, write_lexicon
from byteloom.tasks.speech_lexicon.ngram import NGram

__all__ = [
    "WER",
    "Decoder",
    "Lexicon",
    "NGram",
    "SimulatedAcoustics",
    "build_lexicon",
    "decode",
    "read_lexicon",
    "word_error_rate",
    "write_lexicon",
]
