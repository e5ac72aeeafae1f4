"""A small Hugging Face tokenizer with pre-tokenization and an untrained model over it."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from byteloom.train.plan import Backbone

TEXTS = [
    "the cat sat on the mat; the rat ate the bat. ",
    "le chat était là, über 12 naïve cafés; ",
    "def cat(mat):\n  ",
]


def text_tokenizer(**options: str) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS * 10, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **(options or {"eos_token": "<|endoftext|>"}))


def text_model(context: int = 32) -> LlamaForCausalLM:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return LlamaForCausalLM(Backbone(16, 1, 2, context).config(300))
