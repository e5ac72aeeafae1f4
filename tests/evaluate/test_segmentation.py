import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from byteloom.errors import InvalidInputError
from byteloom.evaluate.bits_per_byte import bits_per_byte
from byteloom.evaluate.choices import continuation_questions
from byteloom.evaluate.segmentation import compare_inference
from byteloom.evaluate.text_tokenizer import TextTokenizer
from byteloom.tokenize import Segmenter, byte_tokenizer, train_bpe
from byteloom.tokenize.hf import ByteTokenizer
from byteloom.tokenize.inference import INFERENCES
from byteloom.tokenize.swap import swap_inference
from tests.evaluate.text_models import TEXTS, text_model, text_tokenizer

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


def test_a_text_tokenizer_is_judged_word_by_word():
    tokenizer, model = text_tokenizer(), text_model()
    documents = [text.encode() * 3 for text in TEXTS]
    questions = continuation_questions([b"".join(documents) * 9], 5)
    found = {one.inference: one for one in compare_inference(model, tokenizer, documents, questions=questions)}
    assert list(found) == list(INFERENCES)
    assert {one.judgement.bytes for one in found.values()} == {sum(map(len, documents))}
    assert found["merge"].kept == found["merge"].same_words == 1
    for inference, one in found.items():
        assert one.accuracy is not None and 0 <= one.accuracy <= 1
        swapped = swap_inference(tokenizer, inference)
        assert one.judgement.tokens == sum(len(swapped.tokenize(d.decode())) for d in documents)
        assert one.same_words == pytest.approx(slow_same_words(tokenizer, swapped, documents))


def slow_same_words(tokenizer, swapped, documents) -> float:
    """Every pre-token by itself: are its tokens the same? Characters of several tokens are all alike here."""
    split = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str
    same = []
    for document in documents:
        for _, (start, end) in split(document.decode()):
            word = document.decode()[start:end]
            ends = [
                {stop for _, stop in use(word, return_offsets_mapping=True)["offset_mapping"]}
                for use in (tokenizer, swapped)
            ]
            same.append(ends[0] == ends[1])
    return sum(same) / len(same)


def test_text_tokenizers_that_cannot_be_judged():
    model = text_model()
    with pytest.raises(InvalidInputError, match=r"not UTF-8 .*at byte 1"):
        compare_inference(model, text_tokenizer(), [b"a\xff"], ["merge"])
    with pytest.raises(InvalidInputError, match="set its bos_token"):
        compare_inference(model, text_tokenizer(pad_token="<|endoftext|>"), [b"a"], ["merge"])
    with pytest.raises(InvalidInputError, match="ByteTokenizer is slow"):
        compare_inference(model, ByteTokenizer(tokenizer=byte_tokenizer()), [b"a"], ["merge"])


def test_a_document_in_blocks_is_one_text():
    encoder = TextTokenizer(text_tokenizer())
    data = TEXTS[1].encode()
    assert [ids.tolist() for ids in encoder.encode_blocks([data[:10], data[10:]])] == [encoder.encode(data).tolist()]
    assert encoder.encode_batch([]) == []
    assert encoder.special_tokens["<|start|>"] == 0
