"""The architectures of byteloom, registered with the Auto classes of transformers by importing this module.

import byteloom.models.architectures
AutoModelForCausalLM.from_pretrained("my-word-pooled-model")
"""

from byteloom.models.byte2word import (
    Byte2WordForMaskedLM,
    Byte2WordForSequenceClassification,
    Byte2WordForTokenClassification,
    Byte2WordModel,
)
from byteloom.models.byteformer import ByteFormerForSequenceClassification, ByteFormerModel
from byteloom.models.mrt5 import MrT5ForConditionalGeneration
from byteloom.models.word_pooled import WordPooledForCausalLM

__all__ = [
    "Byte2WordForMaskedLM",
    "Byte2WordForSequenceClassification",
    "Byte2WordForTokenClassification",
    "Byte2WordModel",
    "ByteFormerForSequenceClassification",
    "ByteFormerModel",
    "MrT5ForConditionalGeneration",
    "WordPooledForCausalLM",
]
