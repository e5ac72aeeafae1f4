import torch

from byteloom.bench import recall


def test_every_question_has_its_answer() -> None:
    ids = recall.recall_texts(5, 20, 8, keys=30, seed=3)
    assert ids.shape == (5, 1 + 40 + 24) and bool((ids[:, 0] == recall.BEGIN).all())
    for row in ids.tolist():
        facts = dict(zip(row[1:41:2], row[2:41:2], strict=True))
        assert len(facts) == 20 and all(3 <= key < 33 and 259 <= value < 512 for key, value in facts.items())
        asked = row[42::3]
        assert row[41::3] == [recall.QUESTION] * 8 and row[43::3] == [facts[key] for key in asked]
        assert len(set(asked)) == 8
    assert torch.equal(ids, recall.recall_texts(5, 20, 8, keys=30, seed=3))
    repeated = recall.recall_texts(5, 2, 8, repeat=True)
    assert repeated.shape == (5, 29)


def test_the_model_is_trained_once() -> None:
    steps = []
    for _ in range(2):
        model = recall.recall_model("smoke", lambda what, done, total: steps.append(done))
        assert model(recall.recall_texts(2, 3, 2)).logits.shape == (2, 13, 512)
    assert steps in ([0, 1, 2], [])
