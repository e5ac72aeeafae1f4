"""The architectures of byteloom, registered with the Auto classes of transformers by importing this module.

import byteloom.models.architectures
AutoModelForCausalLM.from_pretrained("my-word-pooled-model")
"""

from byteloom.models.byteformer import ByteFormerForSequenceClassification, ByteFormerModel
from byteloom.models.mrt5 import MrT5ForConditionalGeneration
from byteloom.models.word_pooled import WordPooledForCausalLM

__all__ = [
    "ByteFormerForSequenceClassification",
    "ByteFormerModel",
    "MrT5ForConditionalGeneration",
    "WordPooledForCausalLM",
]
