from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    LlamaConfig,
    T5Config,
    Trainer,
    TrainingArguments,
)

from byteloom.errors import InvalidInputError
from byteloom.models.byte2word import (
    IGNORED,
    Byte2WordConfig,
    Byte2WordForMaskedLM,
    Byte2WordForSequenceClassification,
    Byte2WordForTokenClassification,
    Byte2WordModel,
    embed,
)
from byteloom.models.word_batch import collate_words
from byteloom.models.word_encoder import WORD_PADDING
from byteloom.tokenize.words import WordSplitter
from tests.reference import byte2word as reference

torch.set_num_threads(1)
WORDS = WordSplitter()
TEXTS = [b"to be or not to be, that is the question", b"", b"Whether 'tis nobler in the mind to suffer \xff\x00", b"to"]
BODY = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def config(kind: str = "modernbert", **changes) -> Byte2WordConfig:
    body = {"model_type": kind, **BODY, "max_position_embeddings": 64, "initializer_range": 0.2}
    if kind == "bert":
        body |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return Byte2WordConfig(**{"body": body, "target_vocab_size": 50, "initializer_range": 0.3, **changes})


def new(kind: type, body: str = "modernbert", **changes):
    torch.manual_seed(0)
    return kind(config(body, **changes)).eval()


@cache
def model(body: str = "modernbert") -> Byte2WordModel:
    return new(Byte2WordModel, body)


def inputs(*texts: bytes, splitter: WordSplitter = WORDS, most: int = 63) -> dict[str, torch.Tensor]:
    return collate_words(texts, splitter, most).inputs()


def states(model: Byte2WordModel, *texts: bytes) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs(*texts)).last_hidden_state


@pytest.mark.parametrize("body", ["modernbert", "bert"])
def test_distinct_words_are_every_place_by_itself(body):
    found = states(model(body), *TEXTS)
    for row, text in enumerate(TEXTS):
        expected = reference.states(model(body), WORDS.split(text))
        assert torch.allclose(found[row, : len(expected)], expected, atol=1e-5)


def test_the_order_of_the_table_does_not_matter():
    batch = inputs(*TEXTS)
    order = torch.randperm(len(batch["table"]), generator=torch.Generator().manual_seed(0))
    turned = batch | {"table": batch["table"][order], "index": order.argsort()[batch["index"]]}
    with torch.no_grad():
        same = model()(**turned).last_hidden_state
    kept = batch["attention_mask"].bool()
    assert torch.allclose(same[kept], states(model(), *TEXTS)[kept], atol=1e-6)


def test_gradients_are_those_of_every_place_by_itself():
    trained = new(Byte2WordModel).train()
    weight = torch.randn(1, len(WORDS.split(TEXTS[0])) + 1, 32)
    (trained(**inputs(TEXTS[0])).last_hidden_state * weight).sum().backward()
    found = {name: value.grad.clone() for name, value in trained.named_parameters() if value.requires_grad}
    trained.zero_grad()
    (reference.states(trained, WORDS.split(TEXTS[0])) * weight[0]).sum().backward()
    for name, value in trained.named_parameters():
        if value.requires_grad:
            assert torch.allclose(value.grad, found[name], atol=1e-4), name


@pytest.mark.parametrize("body", ["modernbert", "bert"])
def test_a_row_alone_is_as_in_a_batch(body):
    together = states(model(body), *TEXTS)
    for row, text in enumerate(TEXTS):
        alone = states(model(body), text)[0]
        assert torch.allclose(together[row, : len(alone)], alone, atol=1e-5)
    batch = inputs(*TEXTS)
    wide = torch.nn.functional.pad(batch["table"], (0, 3), value=WORD_PADDING)
    with torch.no_grad():
        found = model(body)(**batch | {"table": wide}).last_hidden_state
    kept = batch["attention_mask"].bool()
    assert torch.allclose(found[kept], together[kept], atol=1e-6)


def test_flat_ids_are_the_words_of_their_splitter():
    rows = [[0, *WORDS.encode(text).tolist(), 1] for text in TEXTS]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [2] * (longest - len(row)) for row in rows])
    with torch.no_grad():
        assert torch.equal(model()(input_ids=ids).last_hidden_state, states(model(), *TEXTS))
        cut = model()(input_ids=ids[:1, :-3]).last_hidden_state  # an unfinished last word is a word
    assert torch.allclose(cut, states(model(), TEXTS[0][: ids.shape[1] - 4]), atol=1e-6)
    with pytest.raises(InvalidInputError, match="row 1 has an id"):
        model()(input_ids=torch.tensor([[0, 9], [0, 519]]))
    with pytest.raises(InvalidInputError, match="word 0 of row 0 has 17 bytes"):
        model()(input_ids=torch.full((1, 17), 100))


def test_compiled_words_give_the_same():
    known = new(Byte2WordModel)
    before = [states(known, *TEXTS), states(known, b"quite other words, to be sure")]
    table = inputs(*TEXTS)["table"][1:].tolist()
    known.compile_vocabulary(bytes(symbol for symbol in row if symbol < 256) for row in [*table, table[0]])
    calls = []
    hook = known.words.register_forward_hook(lambda *given: calls.append(len(given[1][0])))
    with torch.no_grad():
        vectors = [known.word_vectors(inputs(*texts)["table"]) for texts in (TEXTS, TEXTS[2:3])]
    places = [inputs(*texts)["index"][row] for texts, row in ((TEXTS, 2), (TEXTS[2:3], 0))]
    assert torch.equal(vectors[0][places[0][: len(places[1])]], vectors[1][places[1]])  # bit by bit in any company
    assert torch.allclose(states(known, *TEXTS), before[0], atol=1e-6)
    assert not calls  # nothing went through the bytes
    assert torch.allclose(states(known, b"quite other words, to be sure"), before[1], atol=1e-6)
    assert calls == [4]
    hook.remove()
    known(**inputs(*TEXTS)).last_hidden_state.sum().backward()  # with a gradient, bytes are read
    assert known.words.bytes.weight.grad is not None
    known.train()
    with pytest.raises(InvalidInputError, match=r"call eval\(\)"):
        known.compile_vocabulary([b"word"])
    assert known.eval().known_hashes is None
    with pytest.raises(InvalidInputError, match="1 to 16 bytes"):
        known.compile_vocabulary([b"word", b"a" * 17])
    with pytest.raises(InvalidInputError, match="1 to 16 bytes"):
        known.compile_vocabulary([b""])


def labelled(*pieces: list[int]) -> torch.Tensor:
    """Labels of the first words of one document, from its second place on."""
    labels = torch.full((1, 12, 8), IGNORED)
    for place, some in enumerate(pieces):
        labels[0, place + 1, : len(some)] = torch.tensor(some)
    return labels


def test_right_pieces_cost_nothing_and_uniform_ones_their_logarithm(monkeypatch):
    masked = new(Byte2WordForMaskedLM)
    labels = labelled([4], [], [7, 3, 9], [1])
    targets = labels[labels != IGNORED]
    certain = torch.nn.functional.one_hot(targets, 50).float() * 1000
    monkeypatch.setattr(masked, "piece_logits", lambda states, piece: certain)
    assert masked(**inputs(TEXTS[0]), labels=labels).loss.item() == 0
    monkeypatch.setattr(masked, "piece_logits", lambda states, piece: certain * 0)
    loss = masked(**inputs(TEXTS[0]), labels=labels).loss
    assert loss.item() * len(targets) / 3 == pytest.approx(5 / 3 * np.log(50))  # nats a word


def test_pieces_are_told_by_the_state_of_their_word_and_their_number():
    masked = new(Byte2WordForMaskedLM)
    labels = labelled([4], [], [7, 3, 9])
    with torch.no_grad():
        output = masked(**inputs(TEXTS[0]), labels=labels)
        hidden = masked.byte2word(**inputs(TEXTS[0])).last_hidden_state[0]
        expected = reference.piece_logits(masked, hidden, [(1, 0), (3, 0), (3, 1), (3, 2)])
        assert torch.allclose(output.logits, expected, atol=1e-5)
        targets = torch.tensor([4, 7, 3, 9])
        assert output.loss.item() == pytest.approx(torch.nn.functional.cross_entropy(expected, targets).item())
        twice = masked(**inputs(TEXTS[0]), labels=labels, num_items_in_batch=8).loss
    assert twice.item() == pytest.approx(output.loss.item() / 2)


def test_without_labels_masks_are_guessed():
    masked = new(Byte2WordForMaskedLM)
    batch = inputs(b"to be or not")
    row = batch["table"].new_full((1, batch["table"].shape[1]), WORD_PADDING)
    row[0, 0] = 258
    batch["table"] = torch.cat([batch["table"], row])
    batch["index"][0, 2] = len(batch["table"]) - 1
    with torch.no_grad():
        logits = masked(**batch).logits
        hidden = masked.byte2word(**batch).last_hidden_state[0]
        expected = reference.piece_logits(masked, hidden, [(2, piece) for piece in range(8)])
    assert torch.allclose(logits[0], expected, atol=1e-5)


def test_the_input_side_is_a_tenth_of_a_vocabulary():
    with torch.device("meta"):
        large = Byte2WordModel(Byte2WordConfig(body={"num_hidden_layers": 1}))
    width, count = 768, sum(value.numel() for value in large.words.parameters())
    assert count == 260 * width + 16 * width + 3 * width**2 + width + 2 * width  # bytes, places, K V O, queries, norm
    assert 0.08 < count / (30_522 * width) < 0.12
    assert sum(value.numel() for value in large.body.get_input_embeddings().parameters()) == width


def test_classifiers():
    batch = inputs(*TEXTS)
    one = new(Byte2WordForSequenceClassification, num_labels=3)
    labels = torch.tensor([0, 2, 1, 1])
    with torch.no_grad():
        output = one(**batch, labels=labels)
        expected = one.classifier(one.byte2word(**batch).last_hidden_state[:, 0])
    assert torch.allclose(output.logits, expected, atol=1e-6)
    assert output.loss.item() == pytest.approx(torch.nn.functional.cross_entropy(expected, labels).item())
    each = new(Byte2WordForTokenClassification, num_labels=3)
    labels = torch.where(batch["attention_mask"].bool(), batch["index"] % 3, IGNORED)
    output = each(**batch, labels=labels)
    assert output.logits.shape == (*labels.shape, 3)
    expected = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), labels.flatten())
    assert output.loss.item() == pytest.approx(expected.item())
    for model, wrong in ((one, torch.tensor([0, 3, 0, 0])), (each, labels.clamp(min=-1))):
        with pytest.raises(InvalidInputError, match="is none of the model's 3"):
            model(**batch, labels=wrong)


HEADS = [
    (AutoModel, Byte2WordModel),
    (AutoModelForMaskedLM, Byte2WordForMaskedLM),
    (AutoModelForSequenceClassification, Byte2WordForSequenceClassification),
    (AutoModelForTokenClassification, Byte2WordForTokenClassification),
]


@pytest.mark.parametrize("auto, kind", HEADS)
def test_save_and_load(auto, kind, tmp_path):
    for body in ("modernbert", "bert"):
        saved = new(kind, body, pooling="transformer" if body == "bert" else "attention")
        saved.save_pretrained(tmp_path / body)
        again = auto.from_pretrained(tmp_path / body).eval()
        assert type(again) is kind and again.config.body.model_type == body
        assert not any(value.is_meta for value in again.state_dict().values())
        for name, value in saved.state_dict().items():
            assert torch.equal(again.state_dict()[name], value), name
    assert AutoConfig.from_pretrained(tmp_path / body).pooling == "transformer"
    other = Byte2WordForSequenceClassification.from_pretrained(tmp_path / "modernbert").eval()
    assert torch.allclose(states(other.byte2word, *TEXTS), states(new(Byte2WordModel), *TEXTS), atol=1e-6)


def test_it_learns_in_the_trainer(tmp_path):
    rows = [{"text": text, "label": number % 2} for number, text in enumerate(TEXTS * 2)]

    def collate(items):
        return inputs(*[item["text"] for item in items]) | {"labels": torch.tensor([item["label"] for item in items])}

    trained = new(Byte2WordForSequenceClassification, num_labels=2)
    settings = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=30,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=3e-3,
        remove_unused_columns=False,
        report_to="none",
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
    )
    Trainer(trained, settings, train_dataset=rows, data_collator=collate).train()
    with torch.no_grad():
        assert trained.eval()(**collate(rows)).loss < 0.1


@pytest.mark.parametrize("pooling", ["attention", "transformer"])
def test_bf16_is_finite(pooling):
    half = new(Byte2WordForSequenceClassification, pooling=pooling).to(torch.bfloat16)
    assert half(**inputs(*TEXTS), labels=torch.tensor([0, 1, 0, 1])).loss.isfinite()


def test_every_script_and_random_bytes_run():
    texts = [
        "Tous les êtres humains",
        "सभी मनुष्यों को",
        "人人生而自由",
        "인간은",
        "كل الناس",
        "ทุกคน",
    ]
    documents = [*(text.encode() for text in texts), np.random.default_rng(0).bytes(300), bytes(50), b"\n\n"]
    assert np.isfinite(embed(model(), documents)).all()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.binary(max_size=80), min_size=1, max_size=5))
def test_vectors_of_documents_are_the_means_of_their_words(documents):
    found = embed(model(), documents, batch_bytes=100)
    for vector, data in zip(found, documents, strict=True):
        words = WORDS.split(data)
        expected, count = np.zeros(32), 0
        for at in range(0, max(1, len(words)), 63):
            some = reference.states(model(), words[at : at + 63]).detach().numpy()
            some = some[1:] if words else some
            expected, count = expected + some.sum(0), count + len(some)
        assert np.allclose(vector, expected / count, atol=1e-4)


def test_words_of_fixed_length():
    fixed = new(Byte2WordModel, rule="fixed:4")
    data = bytes(range(100))
    assert np.allclose(embed(fixed, [data])[0], states(fixed, b"")[0].numpy(), atol=9)
    batch = inputs(data, splitter=fixed.config.splitter())
    with torch.no_grad():
        expected = fixed(**batch).last_hidden_state[0, 1:].mean(0).numpy()
    assert batch["index"].shape == (1, 26) and np.allclose(embed(fixed, [data])[0], expected, atol=1e-5)


def test_bad_input_is_refused():
    with pytest.raises(InvalidInputError, match="32 is not divisible by 5"):
        config(pooling_heads=5)
    for body in (LlamaConfig(vocab_size=9), T5Config()):
        with pytest.raises(InvalidInputError, match="is no encoder"):
            Byte2WordConfig(body=body)
    batch = inputs(*TEXTS)
    with pytest.raises(InvalidInputError, match=r"row 2 has an index outside the table of \d+ words"):
        index = batch["index"].clone()
        index[2, 1] = len(batch["table"])
        model()(**batch | {"index": index})
    with pytest.raises(InvalidInputError, match="word 3 of the table has no bytes"):
        table = batch["table"].clone()
        table[3] = WORD_PADDING
        model()(**batch | {"table": table})
    with pytest.raises(InvalidInputError, match="70 words do not fit in the 63 places"):
        model()(**inputs(b"a " * 70, most=70))
    with pytest.raises(InvalidInputError, match="give table and index"):
        model()()
    with pytest.raises(TypeError, match="document 1 is a str"):
        embed(model(), [b"word", "word"])
    with pytest.raises(InvalidInputError, match=r"call eval\(\)"):
        embed(new(Byte2WordModel).train(), [b"word"])
    masked = new(Byte2WordForMaskedLM)
    with pytest.raises(InvalidInputError, match="piece 50 is none of the model's 50"):
        masked(**inputs(TEXTS[0]), labels=labelled([50]))
    with pytest.raises(InvalidInputError, match="labels are"):
        masked(**inputs(TEXTS[0]), labels=labelled([5])[:, :4])


def test_a_bert_has_its_own_weights():
    assert isinstance(model("bert").config.body, BertConfig)
    assert model("bert").body.pooler is None
