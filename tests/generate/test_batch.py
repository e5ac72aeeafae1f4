import random

import pytest
import torch
from transformers import GPTNeoXConfig, LogitsProcessorList, MambaConfig, RepetitionPenaltyLogitsProcessor
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from byteloom.errors import InvalidInputError
from byteloom.generate import BatchEngine, DraftModel, PromptLookup, Sampling, SuffixCache, speculate_batch
from byteloom.generate.padded_rows import GroupedRows, PaddedRows
from byteloom.generate.rows import RaggedRows
from tests.generate.test_speculation import VOCABULARY, Noisy, make, plain

LAYOUTS = ["ragged", "eqspec", "exspec"]
NEW = 24
ENDS = [7, 11]


def prompts(lengths=(5, 1, 17, 9, 9, 30, 2, 9), seed=0):
    draw = random.Random(seed)
    return [[draw.randrange(2, VOCABULARY) for _ in range(length)] for length in lengths]


def alone(model, rows, new=NEW, **options):
    """What the model writes for each prompt by itself."""
    news = [new] * len(rows) if isinstance(new, int) else new
    options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, **options}
    return [
        plain(model, torch.tensor([ids]), budget, **options)[0, len(ids) :].tolist()
        for ids, budget in zip(rows, news, strict=True)
    ]


def drafters(model, rows, expected):
    truth = [ids + text for ids, text in zip(rows, expected, strict=True)]
    return {
        "true": lambda: Noisy(truth, 4, 0.0),
        "noisy": lambda: Noisy(truth, 7, 0.3),
        "wrong": lambda: Noisy(truth, 1, 1.0),
        "branches": lambda: Noisy(truth, 4, 0.3, branches=True),
        "lookup": PromptLookup,
        "suffix": lambda: SuffixCache(least=0.0, factor=4.0),
        "model": lambda: DraftModel(make("llama", seed=1), least=0.0),
        "itself": lambda: DraftModel(model, tokens=3, least=0.0),
    }


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mistral", "mistral-window"])
def test_texts_are_those_of_each_prompt_alone(name, layout):
    model = make(name).double()
    rows = prompts()
    expected = alone(model, rows)
    for kind, drafter in drafters(model, rows, expected).items():
        if name != "llama" and kind not in ("noisy", "suffix", "model"):
            continue
        if kind in ("model",):
            drafter = lambda: DraftModel(make("llama", seed=1).double(), least=0.0)  # noqa: E731
        for size in (1, 3, 8):
            output = speculate_batch(
                model, rows, drafter=drafter(), max_new_tokens=NEW, batch_size=size, layout=layout, adaptive=False
            )
            assert output.texts == expected, (kind, size)
            assert output.finish == ["length"] * len(rows)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("most", [0, 1, 4, 7])
def test_passes_are_as_few_as_drafts_are_long(layout, most):
    model = make("llama").double()
    rows = prompts([6] * 4)
    expected = alone(model, rows)
    truth = [ids + text for ids, text in zip(rows, expected, strict=True)]
    output = speculate_batch(
        model,
        rows,
        drafter=Noisy(truth, 100, 0.0),
        max_new_tokens=NEW,
        batch_size=4,
        layout=layout,
        num_draft_tokens=most,
        adaptive=False,
    )
    assert output.texts == expected
    rounds = -(-(NEW - 1) // (most + 1))  # the pass over the prompts writes the first token
    assert output.statistics.forwards == 1 + rounds and output.statistics.steps == 4 * rounds
    if layout == "exspec":
        assert output.grouping == 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ends_budgets_and_padding(layout):
    model = make("llama").double()
    rows = prompts()
    rows[0] = [7, 3, 11]  # an end inside of a prompt is no end
    budgets = [NEW, 1, 5, NEW, 2, 40, 3, 10]
    expected = alone(model, rows, budgets, eos_token_id=ENDS, pad_token_id=ENDS[0])
    assert any(text[-1] in ENDS for text in expected) and any(text[-1] not in ENDS for text in expected)
    truth = [ids + text for ids, text in zip(rows, alone(model, rows, 40), strict=True)]  # drafts go beyond the end
    for size in (3, 8):
        output = speculate_batch(
            model, rows, drafter=Noisy(truth, 6, 0.1), max_new_tokens=budgets, batch_size=size, layout=layout, eos=ENDS
        )
        assert output.texts == expected
        assert [reason == "stop" for reason in output.finish] == [text[-1] in ENDS for text in expected]
    # the same in one tensor that is padded on either side, with an id that is in the texts too
    width = max(map(len, rows))
    padded = torch.full((len(rows), width), ENDS[0])
    mask = torch.zeros_like(padded)
    for at, ids in enumerate(rows):
        place = slice(0, len(ids)) if at % 2 else slice(width - len(ids), width)
        padded[at, place], mask[at, place] = torch.tensor(ids), 1
    output = speculate_batch(
        model, padded, attention_mask=mask, drafter="lookup", max_new_tokens=budgets, layout=layout, eos=ENDS
    )
    assert output.texts == expected
    assert speculate_batch(model, torch.tensor([rows[2]]), max_new_tokens=5, eos=ENDS).texts == [expected[2]]


def test_order_and_company_change_nothing():
    model = make("llama").double()
    rows = prompts()
    greedy = speculate_batch(model, rows, drafter="lookup", max_new_tokens=NEW).texts
    order = [3, 7, 0, 6, 2, 5, 1, 4]
    shuffled = speculate_batch(model, [rows[at] for at in order], drafter="lookup", max_new_tokens=NEW).texts
    assert shuffled == [greedy[at] for at in order]
    sampling = Sampling(temperature=0.9, top_k=20, top_p=0.95, seed=3)
    texts = {
        size: speculate_batch(
            model, rows, drafter="lookup", max_new_tokens=NEW, sampling=sampling, batch_size=size, layout=layout
        ).texts
        for size, layout in ((1, "ragged"), (3, "exspec"), (5, "eqspec"), (8, "ragged"))
    }
    assert len({str(text) for text in texts.values()}) == 1 and texts[1] != greedy
    other = speculate_batch(model, rows, drafter="lookup", max_new_tokens=NEW, sampling=Sampling(0.9, seed=4)).texts
    assert other != texts[1]


def test_sampling_keeps_the_distribution():
    model = make("llama").double()
    ids = prompts([6])[0]
    with torch.no_grad():
        first = (model(torch.tensor([ids])).logits[0, -1] / 0.7).softmax(-1)
    count = 3000
    output = speculate_batch(
        model,
        [ids] * count,
        drafter=Noisy([ids + alone(model, [ids])[0]], 3, 0.0),
        max_new_tokens=2,
        sampling=Sampling(0.7),
        batch_size=500,
    )
    pairs = torch.tensor(output.texts)
    seen = torch.bincount(pairs[:, 0], minlength=VOCABULARY) / count
    assert (seen - first).abs().sum() < 0.15
    token = int(first.argmax())  # and given it, the second one, which a draft proposes
    with torch.no_grad():
        second = (model(torch.tensor([[*ids, token]])).logits[0, -1] / 0.7).softmax(-1)
    given = pairs[pairs[:, 0] == token, 1]
    assert (torch.bincount(given, minlength=VOCABULARY) / len(given) - second).abs().sum() < 6 * len(given) ** -0.5


def test_logits_processors_see_each_text_alone():
    model = make("llama").double()
    rows = prompts([4, 12, 7])
    penalty = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.8)])
    expected = alone(model, rows, repetition_penalty=1.8)
    truth = [ids + text for ids, text in zip(rows, expected, strict=True)]
    output = speculate_batch(
        model, rows, drafter=Noisy(truth, 4, 0.2), max_new_tokens=NEW, logits_processor=penalty, adaptive=False
    )
    assert output.texts == expected != alone(model, rows)


def test_an_engine_takes_prompts_at_any_time():
    model = make("llama").double()
    rows = prompts()
    expected = alone(model, rows)
    told = {}
    engine = BatchEngine(
        model,
        "suffix",
        batch_size=3,
        on_tokens=lambda text: told.setdefault(id(text), []).extend(text.new),
    )
    assert not engine.step()
    texts = [engine.add(ids, max_new_tokens=NEW) for ids in rows[:2]]
    steps = 0
    while engine.step() or len(texts) < len(rows):
        steps += 1
        if steps % 3 == 0 and len(texts) < len(rows):
            texts.append(engine.add(rows[len(texts)], max_new_tokens=NEW))
    assert [text.new_ids for text in texts] == expected
    assert [told[id(text)] for text in texts] == expected
    assert engine.statistics.rows == len(rows) and engine.statistics.tokens == NEW * len(rows)
    left = engine.add(rows[0], max_new_tokens=NEW)
    engine.step()
    engine.close()
    assert not engine.step() and left.finish is None and left.new_ids == expected[0][: len(left.new_ids)]
    assert engine.add(rows[1], max_new_tokens=NEW) and engine.step()  # and it can be used again


@pytest.mark.parametrize("kind", ["ragged", "eqspec", "exspec"])
def test_cached_keys_are_those_of_a_plain_pass(kind):
    """What the paper calls its invariants: each row's states are those of its tokens at positions 0, 1, 2..."""
    model = make("qwen2").double()
    rows = {"ragged": RaggedRows, "eqspec": PaddedRows, "exspec": lambda model: GroupedRows(model, 2)}[kind](model)
    texts = prompts([3, 8, 5])
    draw = random.Random(1)
    with torch.no_grad():
        rows.add(texts)
        for _ in range(12):
            turn = list(rows.turn())
            new = [prompts([draw.randrange(1, 6)], draw.random())[0] for _ in turn]
            rows.forward(new, [None] * len(turn))
            kept = [draw.randrange(1, len(ids) + 1) for ids in new]
            rows.keep([range(count) for count in kept])
            for row, ids, count in zip(turn, new, kept, strict=True):
                texts[row] = texts[row] + ids[:count]
        for row, ids in enumerate(texts):
            expected = model(torch.tensor([ids]), use_cache=True)
            cache = expected.get("past_key_values", expected.get("cache"))
            for at, layer in enumerate(cache.layers):
                if kind == "ragged":
                    keys = rows.cache.layers[at].keys[row, :, : len(ids)]
                else:
                    keys = (rows._rows[row] if kind == "exspec" else rows.row(row)).keys[at]
                assert torch.allclose(keys, layer.keys[0], atol=1e-9)


def test_exspec_lets_no_row_starve():
    model = make("llama").double()
    rows = GroupedRows(model, 2)
    with torch.no_grad():
        rows.add(prompts([4, 4, 9]))
        turns = []
        for _ in range(20):
            turn = list(rows.turn())
            turns.append(turn)
            rows.forward([[5]] * len(turn), [None] * len(turn))
            rows.keep([[0]] * len(turn))
    waits = [at for at, turn in enumerate(turns) if 2 in turn]
    assert waits and waits[0] <= 8 and rows.grouped < rows.turns == 20


def test_other_families_and_bad_input():
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    neox = AutoModelForCausalLM.from_config(config).eval().double()
    rows = prompts([4, 9])
    for layout in LAYOUTS:
        assert speculate_batch(neox, rows, max_new_tokens=8, layout=layout, eos=[]).texts == alone(neox, rows, 8)
    model = make("llama")
    assert speculate_batch(model, [], max_new_tokens=4).texts == []
    for changes, message in (
        ({"prompts": [[5], []]}, "prompt 1 is empty"),
        ({"prompts": [[5, VOCABULARY]]}, f"outside of 0 to {VOCABULARY - 1}"),
        ({"prompts": [[5, -1]]}, "outside of 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is at least 1"),
        ({"max_new_tokens": [1, 2, 3]}, "each of 2 prompts; got 3"),
        ({"max_new_tokens": 256}, "the model's window is 256"),
        ({"batch_size": 0}, "batch_size is at least 1"),
        ({"num_draft_tokens": -1}, "num_draft_tokens is at least 0"),
        ({"layout": "square"}, "layout is"),
        ({"drafter": "oracle"}, "a drafter is"),
        ({"drafter": make("llama", vocab_size=50)}, "same tokenizer"),
        ({"attention_mask": torch.ones(2, 3)}, "goes with prompts in one tensor"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            speculate_batch(model, **{"prompts": rows, "max_new_tokens": 4, **changes})
    for numbers in ({"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}):
        with pytest.raises(InvalidInputError, match="top_p above 0"):
            Sampling(**numbers)
    recurrent = AutoModelForCausalLM.from_config(
        MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1)
    )
    for layout in LAYOUTS:
        with pytest.raises(InvalidInputError, match="not the keys and values"):
            speculate_batch(recurrent, rows, max_new_tokens=4, layout=layout)


def test_ids_that_the_model_does_not_have_are_not_verified():
    model = make("llama").double()
    rows = prompts([4, 9])

    class Foreign(PromptLookup):
        def propose(self, rows, budgets):
            drafts = super().propose(rows, budgets)
            for draft in drafts[:1]:
                draft.tokens, draft.parents, draft.probabilities = [VOCABULARY + 3], [-1], [1.0]
            return drafts

    with pytest.warns(UserWarning, match="ids that the model does not have"):
        output = speculate_batch(model, rows, drafter=Foreign(), max_new_tokens=6)
    assert output.texts == alone(model, rows, 6)
