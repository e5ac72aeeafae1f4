import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    DynamicCache,
    LlamaConfig,
    LogitsProcessorList,
    PreTrainedModel,
    SuppressTokensLogitsProcessor,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from byteloom.errors import InvalidInputError, ModelOutputError
from byteloom.generate import NgramModel, Superposed, SuperposedConfig, superposed_generate, tune_superposed
from byteloom.generate.superposed import _Drafts, _superposition
from byteloom.models import attach
from byteloom.models.attention import CACHE_KEYWORD
from byteloom.models.kvcache import KVCache
from tests.models.families import build, tiny, tokens
from tests.reference.ngram_model import ReferenceNgramModel

VOCABULARY = 61
FAMILIES = ["Llama", "Qwen2", "Qwen3", "Mistral", "GPTNeoX", "Gemma2", "Phi"]


@pytest.fixture(scope="module")
def documents():
    """Texts with habits, so that n-grams know some histories and not others."""
    rng = np.random.default_rng(0)
    step = rng.integers(2, VOCABULARY, (VOCABULARY, 4))
    texts = []
    for _ in range(30):
        text = [int(rng.integers(2, VOCABULARY))]
        while len(text) < 60:
            text.append(int(step[text[-1], rng.integers(4)]))
        texts.append(text)
    return texts


@pytest.fixture(scope="module")
def ngrams(documents):
    return NgramModel.from_documents(documents, vocab_size=VOCABULARY)


def greedy(model, ids, new):
    return model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, use_cache=True)


def log_prob(model, prompt, draft):
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + draft])).logits[0, len(prompt) - 1 : -1]
    return float(logits.log_softmax(-1).gather(1, torch.tensor(draft)[:, None]).sum())


# 1: one draft is greedy text


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_one_draft_without_ngrams_is_greedy_text(family, attention):
    model = build(family).double()
    if family != "Gemma2":  # which takes eager attention alone
        model.set_attn_implementation(attention)
    ids = tokens(12)
    drafts = superposed_generate(model, ids, config=SuperposedConfig(num_drafts=1))
    assert torch.equal(drafts.sequences[:, 0], greedy(model, ids, 10))
    assert drafts.log_probs.item() == pytest.approx(
        log_prob(model, ids[0].tolist(), drafts.sequences[0, 0, 12:].tolist())
    )


# 2 and 3: what is fed


def test_equal_tokens_superpose_to_their_embedding():
    model = tiny("Llama")
    x = _superposition(model.get_input_embeddings(), np.array([[7, 7, 7]]), np.array([[0.2, 0.5, 0.3]]))
    torch.testing.assert_close(x[0, 0], model.get_input_embeddings().weight[7], atol=1e-6, rtol=0)


class Linear(PreTrainedModel):
    """Logits are a linear map of the last embedding; the cache counts tokens alone."""

    config_class = LlamaConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed = torch.nn.Embedding(config.vocab_size, config.hidden_size)
        self.head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.fed = []
        self.post_init()

    def get_input_embeddings(self):
        return self.embed

    def forward(self, input_ids=None, inputs_embeds=None, cache=None, past_key_values=None, **kwargs):
        hidden = self.embed(input_ids) if inputs_embeds is None else inputs_embeds
        layers = cache if cache is not None else past_key_values
        layers.update(hidden[:, None], hidden[:, None], 0)
        logits = self.head(hidden)
        self.fed.append(logits)
        return CausalLMOutputWithPast(logits=logits)


def linear():
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4}
    return Linear(LlamaConfig(**sizes)).eval()


def test_a_linear_model_gives_the_weighted_sum_of_its_logits(ngrams):
    model = linear()
    config = SuperposedConfig(rescore=False)
    short = superposed_generate(model, tokens(9), max_new_tokens=1, ngrams=ngrams, config=config)
    model.fed.clear()
    superposed_generate(model, tokens(9), max_new_tokens=2, ngrams=ngrams, config=config)
    weights = short.scores[0].softmax(0).float()
    expected = weights @ model.head(model.embed(short.sequences[0, :, -1]))
    torch.testing.assert_close(model.fed[1][0, 0], expected, atol=1e-6, rtol=0)


# 4: one step by brute force


def brute_force(model, twin, weights, texts, scores, logits, candidates, config):
    """The best pairs of a draft and a token: [(total, draft, token)]; first those of better drafts, then likelier.

    Sums are in the order, and shares of n-grams in the float32, of the method: else the last bit decides about what is
    equal, and the texts part.
    """
    ratios = [(x - max(logits)) / config.temperature for x in logits]
    mass = 0.0
    for ratio in ratios:
        mass += math.exp(ratio)
    pairs = []
    for at, (text, score) in enumerate(zip(texts, scores, strict=True)):
        q = model.prob(text, np.array(candidates)).astype(float).tolist()
        np.testing.assert_allclose(q, [twin.prob(text, token, weights) for token in candidates], rtol=1e-5, atol=1e-7)
        for place, (ratio, q_c, token) in enumerate(zip(ratios, q, candidates, strict=True)):
            total = score + (1 - config.alpha) * (ratio - math.log(mass))
            if q_c > 0:
                total += config.alpha * math.log(q_c)
            else:
                total -= config.penalty * (2 if any(q) else 1)
            pairs.append((-total, at, place, token))
    return [(-total, at, token) for total, at, _, token in sorted(pairs)[: config.num_drafts]]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.sampled_from([0.0, 0.3, 1.0]), st.booleans())
def test_a_step_is_that_of_brute_force(seed, keep, alpha, ties):
    rng = np.random.default_rng(seed)
    documents = [rng.integers(0, 9, 12).tolist() for _ in range(3)]
    order = int(rng.integers(2, 7))
    model, twin = NgramModel.from_documents(documents, vocab_size=12, max_order=order), None
    twin = ReferenceNgramModel(documents, order)
    config = SuperposedConfig(num_drafts=keep, alpha=alpha, temperature=0.7, penalty=50.0)
    prompt = rng.integers(0, 12, 6).tolist()
    drafts = _Drafts(torch.tensor([prompt]), None, config, [], model)
    texts, scores = [prompt], [0.0]
    for _ in range(4):
        candidates = rng.permutation(12)[: 3 * keep]
        logits = rng.integers(0, 3, 3 * keep).astype(float) if ties else 3 * rng.normal(size=3 * keep)
        logits = -np.sort(-logits)
        drafts.extend(logits[None], candidates[None])
        best = brute_force(
            model, twin, model.weights.tolist(), texts, scores, logits.tolist(), candidates.tolist(), config
        )
        texts = [[*texts[at], token] for _, at, token in best]
        scores = [total for total, _, _ in best]
        np.testing.assert_allclose(drafts.scores_BK[0], scores, rtol=1e-5, atol=1e-5)
        if not ties:
            assert drafts.text_BKL[0, :, drafts.before :].tolist() == [text[6:] for text in texts]
    assert len({tuple(text) for text in drafts.text_BKL[0].tolist()}) == keep


def test_of_equal_pairs_the_better_draft_goes_first_then_the_likelier_token():
    config = SuperposedConfig(num_drafts=2)
    drafts = _Drafts(torch.tensor([[1]]), None, config, [], None)
    drafts.extend(np.zeros((1, 4)), np.array([[5, 6, 7, 8]]))
    assert drafts.text_BKL[0, :, -1].tolist() == [5, 6]
    drafts.extend(np.zeros((1, 4)), np.array([[5, 6, 7, 8]]))
    assert drafts.text_BKL[0].tolist() == [[5, 5], [5, 6]]


# 6 to 8: drafts differ, are scored exactly, and cost what they should


@pytest.mark.parametrize("family", FAMILIES)
def test_drafts_differ_and_are_rescored_exactly(family, ngrams, documents):
    model = tiny(family)
    prompt = documents[0][:15]
    drafts = superposed_generate(model, torch.tensor([prompt]), ngrams=ngrams, config=SuperposedConfig(num_drafts=4))
    new = drafts.sequences[0, :, 15:].tolist()
    assert len({tuple(draft) for draft in new}) == 4
    assert drafts.log_probs[0].tolist() == pytest.approx([log_prob(model, prompt, draft) for draft in new], abs=1e-4)
    assert (drafts.log_probs[0] / drafts.lengths[0]).diff().le(0).all()
    assert drafts.forwards == 11
    unscored = superposed_generate(
        model, torch.tensor([prompt]), ngrams=ngrams, config=SuperposedConfig(num_drafts=4, rescore=False)
    )
    assert unscored.forwards == 10 and unscored.log_probs is None
    assert unscored.scores[0].diff().le(0).all()
    assert sorted(unscored.sequences[0].tolist()) == sorted(drafts.sequences[0].tolist())


def test_first_tokens_differ(ngrams):
    for with_ngrams in (ngrams, None):
        for first in (True, False):
            config = SuperposedConfig(num_drafts=5, first_step_ngrams=first)
            drafts = superposed_generate(
                tiny("Llama"), tokens(8, batch=3), max_new_tokens=1, ngrams=with_ngrams, config=config
            )
            assert all(len(set(row[:, -1].tolist())) == 5 for row in drafts.sequences)
            assert drafts.forwards == 1  # that over the prompts scores drafts of one token too


def test_keys_are_those_of_one_row_a_prompt(ngrams):
    cache = DynamicCache()
    superposed_generate(tiny("Llama"), tokens(8, batch=2), ngrams=ngrams, cache=cache)
    assert cache.layers[0].keys.shape[0] == 2
    assert cache.get_seq_length() == 8  # and the prompts are left


# 9: resets


def test_reset_to_the_best_draft_at_every_step_is_decoding_of_one_draft(ngrams, documents):
    model = build("Qwen2").double()
    ids = torch.tensor([document[:10] for document in documents[:3]])
    one = superposed_generate(model, ids, max_new_tokens=12, ngrams=ngrams, config=SuperposedConfig(num_drafts=1))
    config = SuperposedConfig(num_candidates=3, reset=1, rescore=False)
    three = superposed_generate(model, ids, max_new_tokens=12, ngrams=ngrams, config=config)
    assert torch.equal(three.sequences[:, 0], one.sequences[:, 0])
    assert three.forwards == 12


def test_resets_draw_by_probability_and_keep_the_cache_in_step(ngrams, documents):
    model = build("Llama").double()
    ids = torch.tensor([documents[0][:10]])
    config = SuperposedConfig(reset=4)
    texts = set()
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        drafts = superposed_generate(model, ids, max_new_tokens=30, ngrams=ngrams, config=config, generator=generator)
        new = drafts.sequences[0, :, 10:].tolist()
        assert len({tuple(draft[:28]) for draft in new}) == 1  # the last reset was after 28 tokens
        assert drafts.log_probs[0].tolist() == pytest.approx([log_prob(model, documents[0][:10], d) for d in new])
        texts.add(tuple(new[0]))
    assert len(texts) > 1
    # After a reset the model has read the text itself.
    cut = superposed_generate(model, ids, max_new_tokens=28, ngrams=ngrams, config=config)
    longer = superposed_generate(model, ids, max_new_tokens=29, ngrams=ngrams, config=SuperposedConfig(reset=4))
    best = longer.sequences[0, 0, 10:38].tolist()
    assert best in cut.sequences[0, :, 10:].tolist()
    again = superposed_generate(
        model, torch.tensor([documents[0][:10] + best]), max_new_tokens=1, ngrams=ngrams, config=SuperposedConfig()
    )
    assert sorted(again.sequences[0].tolist()) == sorted(longer.sequences[0].tolist())


# 10: batches


@pytest.mark.parametrize("family", ["Llama", "Qwen3", "Mistral", "GPTNeoX"])
@pytest.mark.parametrize("reset", [None, 3])
def test_a_padded_row_has_the_drafts_that_it_has_alone(family, reset, ngrams, documents):
    model = build(family).double()
    prompts = [documents[0][:3], documents[1][:12], documents[2][:7]]
    config = SuperposedConfig(reset=reset)
    ids = torch.tensor([[0] * (12 - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (12 - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    ends = [documents[3][5], documents[3][8], documents[4][7]]
    together = superposed_generate(
        model, ids, ngrams=ngrams, config=config, attention_mask=mask, eos_token_id=ends, pad_token_id=0
    )
    for row, prompt in enumerate(prompts):
        alone = superposed_generate(
            model, torch.tensor([prompt]), ngrams=ngrams, config=config, eos_token_id=ends, pad_token_id=0
        )
        size = alone.sequences.shape[2] - len(prompt)
        assert torch.equal(together.sequences[row, :, 12 : 12 + size], alone.sequences[0, :, len(prompt) :])
        assert not together.sequences[row, :, 12 + size :].any()
        torch.testing.assert_close(together.log_probs[row], alone.log_probs[0])
        torch.testing.assert_close(together.scores[row], alone.scores[0])


# Ends


def test_end_tokens_end_drafts(ngrams, documents):
    model = tiny("Llama")
    ids = torch.tensor([documents[0][:12]])
    free = superposed_generate(model, ids, ngrams=ngrams)
    end = int(free.sequences[0, 0, 15])  # the fourth token of the best draft
    drafts = superposed_generate(model, ids, ngrams=ngrams, eos_token_id=end, pad_token_id=0)
    seen = set()
    for sequence, length, score in zip(drafts.sequences[0], drafts.lengths[0], drafts.log_probs[0], strict=True):
        draft = sequence[12 : 12 + length].tolist()
        assert end not in draft[:-1] and not sequence[12 + length :].any()
        assert draft[-1] == end or length == 10
        assert float(score) == pytest.approx(log_prob(model, documents[0][:12], draft), abs=1e-4)
        seen.add(draft[-1] == end)
    assert True in seen
    default = superposed_generate(model, ids, ngrams=ngrams, eos_token_id=[end])
    for sequence, length in zip(default.sequences[0], default.lengths[0], strict=True):
        assert (sequence[12 + length :] == end).all()


def test_all_drafts_may_end():
    config = SuperposedConfig(num_drafts=3, num_candidates=3)
    drafts = superposed_generate(tiny("Llama"), tokens(8), config=config, eos_token_id=list(range(VOCABULARY)))
    assert drafts.sequences.shape == (1, 3, 9) and drafts.lengths.tolist() == [[1, 1, 1]]
    assert drafts.forwards == 1


# Caches, generate and logits processors


def test_a_filled_cache_and_a_cache_of_ours(ngrams):
    model, ids = build("Llama").double(), tokens(14)
    expected = superposed_generate(model, ids, ngrams=ngrams)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=ids[:, :9], use_cache=True, **{CACHE_KEYWORD: cache})
    drafts = superposed_generate(model, ids, ngrams=ngrams, cache=cache)
    assert torch.equal(drafts.sequences, expected.sequences)
    assert cache.get_seq_length() == 14
    with attach(model):
        ours = KVCache.for_model(model)
        drafts = superposed_generate(model, ids, ngrams=ngrams, cache=ours)
        assert torch.equal(drafts.sequences, expected.sequences)
        torch.testing.assert_close(drafts.log_probs, expected.log_probs)
        assert ours.get_seq_length() == 14
    with pytest.raises(InvalidInputError, match="the cache holds 14 tokens"):
        superposed_generate(model, ids, ngrams=ngrams, cache=cache)


@pytest.mark.parametrize("family", ["Mistral", "Gemma2"])
def test_models_with_windows(family, ngrams, documents):
    model = build(family, sliding_window=6).double()
    prompt = documents[0][:15]
    whole = superposed_generate(model, torch.tensor([prompt]), ngrams=ngrams)
    for cache in (None, DynamicCache(config=model.config)):
        drafts = superposed_generate(model, torch.tensor([prompt]), ngrams=ngrams, cache=cache)
        assert torch.equal(drafts.sequences, whole.sequences)
        new = drafts.sequences[0, :, 15:].tolist()
        assert drafts.log_probs[0].tolist() == pytest.approx([log_prob(model, prompt, draft) for draft in new])
        config = SuperposedConfig(reset=3)
        cache = None if cache is None else DynamicCache(config=model.config)
        drafts = superposed_generate(model, torch.tensor([prompt]), ngrams=ngrams, cache=cache, config=config)
        plain = superposed_generate(model, torch.tensor([prompt]), ngrams=ngrams, config=config)
        assert torch.equal(drafts.sequences, plain.sequences)


def test_a_model_with_a_state_decodes_and_refuses_resets(ngrams):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    mamba = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 8, "attn_layer_indices": [1]}
    model = build("Bamba", **sizes, num_key_value_heads=2, **mamba)
    ids = tokens(9)
    drafts = superposed_generate(model, ids, max_new_tokens=4, ngrams=ngrams)
    new = drafts.sequences[0, :, 9:].tolist()
    assert drafts.log_probs[0].tolist() == pytest.approx([log_prob(model, ids[0].tolist(), d) for d in new], abs=1e-4)
    with pytest.raises(InvalidInputError, match="cannot be rolled back; leave reset out"):
        superposed_generate(model, ids, max_new_tokens=4, ngrams=ngrams, config=SuperposedConfig(reset=2))


def test_as_a_method_of_generate(ngrams, documents):
    model = tiny("Llama")
    ids = torch.tensor([[0, 0, *documents[0][:8]], documents[1][:10]])
    mask = (ids != 0).long()
    method = Superposed(ngrams, SuperposedConfig(num_drafts=2))
    options = {"max_new_tokens": 6, "do_sample": False, "custom_generate": method}
    rows = model.generate(ids, attention_mask=mask, **options)
    drafts = superposed_generate(model, ids, max_new_tokens=6, ngrams=ngrams, config=method.config, attention_mask=mask)
    assert torch.equal(rows, drafts.sequences.flatten(0, 1))
    assert torch.equal(method.output.scores, drafts.scores)
    full = model.generate(ids, attention_mask=mask, return_dict_in_generate=True, **options)
    assert torch.equal(full.sequences, drafts.sequences)
    end = int(drafts.sequences[0, 0, 12])
    ended = model.generate(ids, attention_mask=mask, eos_token_id=end, **options)
    direct = superposed_generate(
        *(model, ids), max_new_tokens=6, ngrams=ngrams, config=method.config, attention_mask=mask, eos_token_id=end,
        pad_token_id=0,
    )  # fmt: skip
    assert torch.equal(ended, direct.sequences.flatten(0, 1))
    for wrong in ({"num_beams": 2}, {"num_return_sequences": 2}):
        with pytest.raises(InvalidInputError, match="set num_drafts"):
            model.generate(ids, attention_mask=mask, **{**options, "do_sample": True}, **wrong)
    with pytest.raises(InvalidInputError, match="leave other stopping criteria out"):
        model.generate(ids, attention_mask=mask, max_time=9.0, **options)


def test_logits_processors_see_the_best_draft(ngrams, documents):
    model, ids = tiny("Llama"), torch.tensor([documents[0][:8]])
    texts = []

    def spy(text, scores):
        texts.append(text)
        return scores

    free = superposed_generate(model, ids, ngrams=ngrams, config=SuperposedConfig(rescore=False))
    banned = sorted(set(free.sequences[0, :, 8:].flatten().tolist()))
    processors = LogitsProcessorList([SuppressTokensLogitsProcessor(banned), spy])
    for alpha in (0.3, 1.0):
        drafts = superposed_generate(
            model, ids, ngrams=ngrams, config=SuperposedConfig(alpha=alpha), logits_processor=processors
        )
        assert not set(drafts.sequences[0, :, 8:].flatten().tolist()) & set(banned)
    assert [text.shape[1] for text in texts] == [*range(8, 18)] * 2
    # Two tokens are left: there cannot be three drafts at once, and the third is told by its score.
    few = LogitsProcessorList([SuppressTokensLogitsProcessor([t for t in range(VOCABULARY) if t not in (5, 6)])])
    drafts = superposed_generate(model, ids, max_new_tokens=1, config=SuperposedConfig(), logits_processor=few)
    assert drafts.scores[0].isfinite().tolist() == [True, True, False]
    assert sorted(drafts.sequences[0, :2, -1].tolist()) == [5, 6]


def test_alpha_0_is_no_smoothing_and_ngrams_none_is_too(ngrams):
    model, ids = tiny("Llama"), tokens(9)
    plain = superposed_generate(model, ids)
    assert torch.equal(
        superposed_generate(model, ids, ngrams=ngrams, config=SuperposedConfig(alpha=0)).sequences, plain.sequences
    )


def test_tuning_finds_the_best_drafts(ngrams, documents):
    model = tiny("Llama")
    prompts = [document[:size] for document, size in zip(documents, (5, 9, 9), strict=False)]
    grid = {"temperatures": (0.2, 1.0), "alphas": (0.1, 0.9)}
    means = {}
    for temperature in grid["temperatures"]:
        for alpha in grid["alphas"]:
            config = SuperposedConfig(temperature=temperature, alpha=alpha, rescore=False)
            ids = [torch.tensor([prompt]) for prompt in prompts]
            scored = [
                superposed_generate(model, row, max_new_tokens=5, ngrams=ngrams, config=replace(config, rescore=True))
                for row in ids
            ]
            means[config] = sum(float(drafts.log_probs.mean()) for drafts in scored)
    first = SuperposedConfig(rescore=False)
    best = tune_superposed(model, prompts, ngrams, config=first, max_new_tokens=5, **grid)
    assert best == max(means, key=means.get)
    seen = []
    last = tune_superposed(model, prompts, ngrams, judge=lambda drafts: seen.append(drafts) or len(seen), **grid)
    assert len(seen) == 4 and last == SuperposedConfig(temperature=1.0, alpha=0.9)
    assert tune_superposed(model, prompts, None, **grid).alpha == SuperposedConfig().alpha
    with pytest.raises(InvalidInputError, match="tuning needs prompts"):
        tune_superposed(model, [], ngrams)


def test_what_a_user_can_get_wrong(ngrams, documents):
    for wrong, message in (
        ({"num_drafts": 0}, "num_drafts is at least 1"),
        ({"num_drafts": 4, "num_candidates": 3}, "num_candidates is at least num_drafts"),
        ({"alpha": 1.5}, "alpha is 0 to 1"),
        ({"temperature": 0.0}, "temperature is above 0"),
        ({"temperature": math.nan}, "temperature is above 0"),
        ({"penalty": -1.0}, "penalty is at least 0"),
        ({"reset": 0}, "reset is at least 1"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            SuperposedConfig(**wrong)
    model, ids = tiny("Llama"), tokens(6, batch=2)
    other = NgramModel.from_documents([[1, 2]], vocab_size=100)
    for options, message in (
        ({"max_new_tokens": 0}, "max_new_tokens is at least 1"),
        ({"ngrams": other}, "the n-grams have 100 tokens and the model 61"),
        ({"attention_mask": torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0]])}, "padded on the right"),
        ({"attention_mask": torch.tensor([[1] * 6, [0] * 6])}, "a prompt is empty"),
        ({"attention_mask": torch.ones(2, 5)}, "the mask is as large as the ids"),
        ({"config": SuperposedConfig(num_drafts=62)}, "62 drafts are more than there are tokens"),
        ({"max_new_tokens": 4091}, "exceed the model's window of 4,096"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            superposed_generate(model, ids, **options)
    for wrong_ids in (torch.zeros(1, 0, dtype=torch.long), torch.tensor([1, 2])):
        with pytest.raises(InvalidInputError, match="at least one token"):
            superposed_generate(model, wrong_ids)
    for token in (61, -1):
        with pytest.raises(InvalidInputError, match="ids outside the vocabulary"):
            superposed_generate(model, torch.tensor([[token]]))
    with pytest.warns(UserWarning, match="after about 10 tokens, and 21"):
        superposed_generate(model, ids, max_new_tokens=21, ngrams=ngrams)
    with pytest.warns(UserWarning, match="so that 90 cannot be candidates"):
        superposed_generate(model, ids, max_new_tokens=2, ngrams=ngrams, config=SuperposedConfig(num_drafts=30))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        superposed_generate(model, ids, max_new_tokens=21, config=SuperposedConfig(reset=8))
        superposed_generate(model, ids, max_new_tokens=21, config=SuperposedConfig(num_drafts=1))
    encoder = T5ForConditionalGeneration(
        T5Config(vocab_size=61, d_model=16, num_layers=1, num_heads=2, d_kv=8, d_ff=16)
    )
    with pytest.raises(InvalidInputError, match="T5ForConditionalGeneration does not take embeddings"):
        superposed_generate(encoder, ids)
    broken = linear()
    broken.head.weight.data[3] = math.nan
    with pytest.raises(ModelOutputError, match="not finite at step 0"):
        superposed_generate(broken, ids)
    deep = build("Llama")
    deep.config.hidden_size_per_layer_input = 8
    with pytest.raises(InvalidInputError, match="LlamaForCausalLM embeds tokens in every layer"):
        superposed_generate(deep, ids)
