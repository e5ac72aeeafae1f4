import random

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LogitsProcessorList,
    MambaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteriaList,
)
from transformers.generation import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from byteloom.errors import InvalidInputError
from byteloom.generate import Draft, DraftModel, Hybrid, PromptLookup, Speculation, SuffixCache
from byteloom.generate.pace import Pace
from byteloom.generate.rows import OneRow
from byteloom.models.attention import CACHE_KEYWORD

VOCABULARY = 60
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,  # large logits: no near ties
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=8),
    "mistral": MistralConfig(**SIZES, sliding_window=None),
    "mistral-window": MistralConfig(**SIZES, sliding_window=8),
}


def make(name, seed=0, **changes):
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    config = type(CONFIGS[name]).from_dict(CONFIGS[name].to_dict() | changes)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(scope="module")
def llama():
    return make("llama")


class Noisy:
    """Proposes the true continuation, of which some tokens are wrong, and optionally branches."""

    def __init__(self, truth, length, noise, branches=False):
        self.truth, self.length, self.noise, self.branches = truth, length, noise, branches
        self.seen = {}
        self.random = random.Random(0)

    def start(self, row, prompt_ids):
        self.seen[row] = list(prompt_ids)

    def propose(self, rows, budgets):
        drafts = []
        for row, budget in zip(rows, budgets, strict=True):
            text = self.seen[row]
            truth = next((true for true in self.truth if true[: len(text)] == text), text)
            draft = Draft(source="noisy")
            parent = -1
            for token in truth[len(text) : len(text) + min(self.length, budget)]:
                wrong = self.random.randrange(VOCABULARY)
                true = self.random.random() >= self.noise
                for branch in [wrong, token] if self.branches else [token if true else wrong]:
                    draft.tokens.append(branch)
                    draft.parents.append(parent)
                    draft.probabilities.append(0.5)
                parent = len(draft.tokens) - 1
            drafts.append(draft)
        return drafts

    def observe(self, row, new_ids):
        self.seen[row] += new_ids

    def stop(self, row):
        del self.seen[row]


def prompt(length=12, seed=0):
    return torch.tensor([[random.Random(seed + i).randrange(2, VOCABULARY) for i in range(length)]])


def plain(model, ids, new=60, **options):
    return model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, **options)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_greedy_text_is_that_of_the_model(name, attention):
    model = make(name)
    model.set_attn_implementation(attention)
    ids = prompt()
    expected = plain(model, ids, do_sample=False)
    truth = [expected[0].tolist()]
    small = make(name, seed=1, num_hidden_layers=1, layer_types=None)
    drafters = {
        "suffix": SuffixCache(least=0.0, factor=4.0),
        "suffix-tree": SuffixCache(least=0.0, factor=4.0, trees=True),
        "lookup": PromptLookup(),
        "model": DraftModel(small, least=0.0),
        "itself": DraftModel(model, tokens=3, least=0.0),
        "hybrid": Hybrid(SuffixCache(), DraftModel(small), 2.0),
        "true": Noisy(truth, 5, 0.0),
        "noisy": Noisy(truth, 7, 0.3),
        "wrong": Noisy(truth, 4, 1.0),
        "branches": Noisy(truth, 4, 0.3, branches=True),
    }
    for kind, drafter in drafters.items():
        method = Speculation(drafter, adaptive=False)
        for _ in range(2):  # a cache knows the answer the second time
            assert torch.equal(plain(model, ids, do_sample=False, custom_generate=method), expected), kind
        statistics = method.statistics
        assert statistics.rows == 2 and statistics.tokens == 120
        assert statistics.steps + statistics.rows + statistics.accepted.total() >= statistics.tokens
        if kind in ("true", "itself", "suffix", "suffix-tree"):
            assert statistics.tokens_per_step > 1.7, kind
        if kind == "true":
            assert statistics.steps == 2 * -(-59 // 6) and statistics.calls_saved == 118 - statistics.steps


def test_useless_drafts_cost_no_pass(llama):
    ids = prompt()
    truth = [plain(llama, ids, do_sample=False)[0].tolist()]
    method = Speculation(Noisy([[*truth[0][:12], *[0] * 200]], 4, 0.0), adaptive=False)
    plain(llama, ids, do_sample=False, custom_generate=method)
    assert method.statistics.forwards == 60 and method.statistics.calls_saved == 0


@pytest.mark.parametrize("padding", ["left", "right"])
def test_rows_of_a_batch_are_decoded_as_alone(llama, padding):
    prompts = [prompt(length, seed=length)[0].tolist() for length in (3, 9, 1, 6)]
    expected = [plain(llama, torch.tensor([ids]), 30, do_sample=False)[0, len(ids) :].tolist() for ids in prompts]
    pads = [[0] * (9 - len(ids)) for ids in prompts]
    join = (lambda a, b: a + b) if padding == "left" else (lambda a, b: b + a)
    ids_BL = torch.tensor([join(pad, ids) for pad, ids in zip(pads, prompts, strict=True)])
    mask_BL = torch.tensor([join([0] * len(pad), [1] * len(ids)) for pad, ids in zip(pads, prompts, strict=True)])
    for drafter in (
        SuffixCache(),
        PromptLookup(),
        Noisy([[*p, *e] for p, e in zip(prompts, expected, strict=True)], 5, 0.4),
    ):
        method = Speculation(drafter)
        output = llama.generate(
            ids_BL, attention_mask=mask_BL, max_new_tokens=30, do_sample=False, custom_generate=method
        )
        assert output[:, :9].equal(ids_BL)
        assert output[:, 9:].tolist() == expected


def test_rows_end_at_different_times(llama):
    ids_BL = torch.cat([prompt(seed=seed) for seed in (0, 100, 200)])
    mask_BL = torch.ones_like(ids_BL)
    longest = llama.generate(ids_BL, attention_mask=mask_BL, max_new_tokens=40, do_sample=False)
    ends = [int(longest[0, 20]), int(longest[1, 30])]
    options = {
        "attention_mask": mask_BL,
        "max_new_tokens": 40,
        "do_sample": False,
        "eos_token_id": ends,
        "pad_token_id": 0,
    }
    expected = llama.generate(ids_BL, **options)
    drafter = Noisy(longest.tolist(), 6, 0.1)  # an end lies within drafts
    assert torch.equal(llama.generate(ids_BL, custom_generate=Speculation(drafter), **options), expected)
    assert drafter.seen == {}


def test_sampled_text_is_that_of_plain_sampling_with_the_seed(llama):
    ids = prompt()
    for options in ({"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.8, "repetition_penalty": 1.3}):
        for seed in range(3):
            torch.manual_seed(seed)
            expected = plain(llama, ids, do_sample=True, **options)
            for drafter in (SuffixCache(), Noisy([expected[0].tolist()], 6, 0.3)):
                torch.manual_seed(seed)
                got = plain(llama, ids, do_sample=True, custom_generate=Speculation(drafter, adaptive=False), **options)
                assert torch.equal(got, expected)


def test_the_distribution_of_samples_in_a_batch():
    model = make("llama", vocab_size=5, bos_token_id=1, initializer_range=0.1)
    rows = 1500
    ids_BL = torch.tensor([[2, 3]]).repeat(rows, 1)
    wrong = Noisy([[2, 3, 4, 4, 4]], 2, 0.0)
    torch.manual_seed(0)
    output = model.generate(
        ids_BL, attention_mask=torch.ones_like(ids_BL), max_new_tokens=2, do_sample=True, top_k=0,
        custom_generate=Speculation(wrong, adaptive=False),
    )  # fmt: skip
    with torch.no_grad():
        first_V = model(ids_BL[:1]).logits[0, -1].softmax(-1)
        second_VV = model(torch.tensor([[2, 3, token] for token in range(5)])).logits[:, -1].softmax(-1)
    expected_VV = rows * first_V[:, None] * second_VV
    counts_VV = torch.zeros(5, 5)
    counts_VV.index_put_((output[:, 2], output[:, 3]), torch.ones(rows), accumulate=True)
    statistic = float(((counts_VV - expected_VV) ** 2 / expected_VV).sum())
    assert statistic < 51.2  # chi-square of 24 degrees of freedom: p > 0.001


def test_processors_and_stopping_criteria_see_what_they_would(llama):
    class Recorder(RepetitionPenaltyLogitsProcessor):
        def __init__(self):
            super().__init__(1.5)
            self.lengths = []

        def __call__(self, input_ids, scores):
            self.lengths.append(input_ids.shape[1])
            return super().__call__(input_ids, scores)

    class Sum(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return torch.tensor([int(row[12:].sum()) > 900 for row in input_ids])

    ids = prompt()
    recorders = Recorder(), Recorder()
    outputs = [
        plain(
            llama,
            ids,
            do_sample=False,
            logits_processor=LogitsProcessorList([recorder]),
            stopping_criteria=StoppingCriteriaList([Sum()]),
            custom_generate=method,
        )
        for recorder, method in zip(recorders, (None, Speculation(SuffixCache(), adaptive=False)), strict=True)
    ]
    assert torch.equal(*outputs) and outputs[0].shape[1] < 72
    assert recorders[0].lengths == recorders[1].lengths


def test_tokens_stream(llama):
    class Streamer(BaseStreamer):
        def __init__(self):
            self.got, self.ended = [], False

        def put(self, value):
            self.got.append(value.flatten().tolist())

        def end(self):
            self.ended = True

    ids, mine, theirs = prompt(), Streamer(), Streamer()
    plain(llama, ids, do_sample=False, streamer=theirs)
    plain(llama, ids, do_sample=False, custom_generate=Speculation(SuffixCache(), streamer=mine))
    assert mine.got == theirs.got and mine.ended
    with pytest.raises(InvalidInputError, match="a streamer shows one row"):
        plain(llama, ids.repeat(2, 1), custom_generate=Speculation(SuffixCache(), streamer=mine))


def test_a_cache_goes_on_with_the_next_turn(llama):
    ids = prompt()
    method = Speculation(SuffixCache())
    options = {"do_sample": False, "return_dict_in_generate": True, "custom_generate": method}
    first = plain(llama, ids, 20, **options)
    keyword = "cache" if "cache" in first else "past_key_values"
    cache = first[keyword]
    assert cache.get_seq_length() == first.sequences.shape[1] - 1
    longer = torch.cat([first.sequences, prompt(4, seed=50)], dim=1)
    second = plain(llama, longer, 20, **options, **{keyword: cache})
    assert torch.equal(second.sequences, plain(llama, longer, 20, do_sample=False))


def test_drafts_stay_within_the_window():
    model = make("llama", max_position_embeddings=24)
    ids = prompt()
    expected = plain(model, ids, 12, do_sample=False)
    drafter = DraftModel(make("llama", num_hidden_layers=1, max_position_embeddings=24), least=0.0)
    assert torch.equal(plain(model, ids, 12, do_sample=False, custom_generate=Speculation(drafter)), expected)


def test_ids_that_the_model_does_not_have_are_ignored(llama):
    ids = prompt()
    expected = plain(llama, ids, do_sample=False)
    drafter = Noisy([[*expected[0, :13].tolist(), *[VOCABULARY] * 100]], 3, 0.0)
    with pytest.warns(UserWarning, match="ids that the model does not have"):
        method = Speculation(drafter, adaptive=False)
        assert torch.equal(plain(llama, ids, do_sample=False, custom_generate=method), expected)


def test_a_pace_verifies_what_pays():
    draft = Draft(list(range(16)), list(range(-1, 15)), [0.9] * 16, source="x")
    pace = Pace()
    assert pace.size([draft]) == 16
    for tokens in range(1, 33):
        pace.learn_cost(1, tokens, 1.0)
    assert pace.size([draft]) == 16  # a pass costs the same, whatever its size
    for tokens in range(1, 33):
        for _ in range(50):
            pace.learn_cost(1, tokens, float(tokens))
    assert pace.size([draft]) == 0  # every token costs more than it may bring
    for _ in range(100):
        pace.learn_yield(draft, draft, 0, 99)
    for tokens in range(1, 33):
        for _ in range(50):
            pace.learn_cost(1, tokens, 1 + 0.01 * tokens)
    assert pace.size([draft]) == 0  # nothing of it is accepted
    for _ in range(100):
        pace.learn_yield(draft, Draft(source="x"), 0, 0)  # but its first token would have been
    assert pace.size([draft]) == 16
    assert pace.size([Draft()]) == 0


def test_what_cannot_be_decoded(llama):
    method = Speculation(SuffixCache())
    ids = prompt()
    with pytest.raises(InvalidInputError, match="no beam search"):
        plain(llama, ids, num_beams=2, custom_generate=method)
    with pytest.raises(InvalidInputError, match="use_cache=True"):
        plain(llama, ids, use_cache=False, custom_generate=method)
    with pytest.raises(InvalidInputError, match="prompt 1 is empty"):
        llama.generate(
            ids.repeat(2, 1),
            attention_mask=torch.tensor([[1] * 12, [0] * 12]),
            custom_generate=method,
            max_new_tokens=3,
        )
    other = DraftModel(make("llama", vocab_size=50))
    with pytest.raises(InvalidInputError, match="50 tokens and the model 60"):
        plain(llama, ids, custom_generate=Speculation(other))
    mamba = AutoModelForCausalLM.from_config(
        MambaConfig(vocab_size=60, hidden_size=16, num_hidden_layers=1, state_size=4, pad_token_id=0, eos_token_id=None)
    )
    with pytest.raises(InvalidInputError, match="cannot be rolled back"):
        plain(mamba, ids, custom_generate=method)


def test_what_is_returned_may_meet_gradients(llama):
    ids = prompt()
    output = plain(llama, ids, 8, custom_generate=Speculation(PromptLookup()), return_dict_in_generate=True)
    cache = output.get("past_key_values", output.get("cache"))
    logits = llama(output.sequences[:, -1:], **{CACHE_KEYWORD: cache}).logits
    logits.sum().backward()
    assert llama.get_input_embeddings().weight.grad is not None
    llama.zero_grad()


def test_a_drafter_that_costs_more_than_it_gives_rests():
    pace = Pace()
    assert not pace.asks(1)  # what a plain step costs is learned first
    pace.learn_cost(1, 1, 0.010)
    rests = []
    for _ in range(6):
        assert pace.asks(1)
        pace.learn_step(1, 1, 0.015)
        rests.append(0)
        while not pace.asks(1):
            rests[-1] += 1
    assert rests == [1, 2, 4, 8, 16, 16]
    pace.learn_step(1, 5, 0.015)  # one good step, and it is asked again
    assert pace.asks(1) and pace.asks(1)
    for _ in range(30):
        pace.learn_step(1, 3, 0.015)
    pace.learn_step(1, 1, 0.015)  # one bad step among good ones is no reason
    assert pace.asks(1) and pace.asks(1)


def test_a_model_with_windows_gets_no_trees():
    """The mask of a tree does not know windows: a branching draft is verified along its best path."""
    row = OneRow(make("mistral-window"))
    assert not row.takes_trees
    row.forward(prompt(20)[0].tolist())
    assert not row.takes_trees
