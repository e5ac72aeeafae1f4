import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from byteloom.errors import InvalidInputError
from byteloom.evaluate.bits_per_byte import bits_per_byte
from byteloom.evaluate.segmentation import compare_inference
from byteloom.tokenize import Segmenter, train_bpe
from byteloom.tokenize.inference import INFERENCES

DOCUMENTS = [b"the cat sat on the mat; the rat ate the bat; " * 4, b"and then the cat ate the rat on the mat"]


def test_every_inference_is_judged_on_the_same_bytes():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = train_bpe([DOCUMENTS[0] * 20], vocab_size=285, min_frequency=2, threads=1)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=300,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=32,
        )
    )
    found = {one.inference: one for one in compare_inference(model, tokenizer, DOCUMENTS)}
    assert list(found) == list(INFERENCES)
    assert {one.judgement.bytes for one in found.values()} == {sum(map(len, DOCUMENTS))}
    assert found["merge"].judgement == bits_per_byte(model, tokenizer, DOCUMENTS)
    assert found["merge"].kept == found["bytes"].kept == 1
    assert 0 < found["shuffle"].kept <= 1
    for inference in INFERENCES:
        segmenter = Segmenter(tokenizer, inference=inference)
        assert found[inference].judgement.tokens == sum(map(segmenter.count, DOCUMENTS))
    with pytest.raises(InvalidInputError, match="no bytes"):
        compare_inference(model, tokenizer, [b""], ["merge"])
