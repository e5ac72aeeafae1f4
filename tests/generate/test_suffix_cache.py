import numpy as np
import pytest

from byteloom.errors import FileError, InvalidInputError
from byteloom.generate import SuffixCache


def proposed(cache, row, budget=64):
    (draft,) = cache.propose([row], [budget])
    return draft


def test_a_draft_comes_from_the_text_or_from_an_earlier_answer():
    cache = SuffixCache()
    cache.start("a", [1, 2, 3, 4, 1, 2])
    draft = proposed(cache, "a")
    assert (draft.tokens, draft.match, draft.source) == ([3, 4], 2, "text")
    cache.observe("a", [9, 8, 7, 6])
    cache.start("b", [1, 9])
    draft = proposed(cache, "b")  # while "a" is still being written
    assert (draft.tokens, draft.source) == ([8], "answers")
    cache.stop("a")
    cache.observe("b", [8, 7])
    assert proposed(cache, "b").tokens == [6]
    assert proposed(cache, "b", budget=0).tokens == []
    cache.stop("b")
    assert cache.tokens == 6


def test_prompts_are_not_remembered():
    cache = SuffixCache(conversations=0)
    cache.start("a", [1, 2, 3])
    cache.stop("a")
    cache.start("b", [1, 2])
    assert proposed(cache, "b").tokens == [] and cache.tokens == 0


def test_a_conversation_goes_on_in_its_tree():
    cache = SuffixCache()
    cache.start("first", [1, 2, 3])
    cache.observe("first", [4, 5])
    cache.stop("first")
    cache.start("other", [1, 2, 9])
    tree = cache._ended[0].tree
    cache.start("second", [1, 2, 3, 4, 5, 6, 2])
    assert cache._rows["second"].tree is tree and not cache._ended
    assert proposed(cache, "second").tokens == [3]
    assert cache._rows["other"].tree is not tree
    for row in ("other", "second"):
        cache.stop(row)
    assert len(cache._ended) == 2
    assert len(cache._ended[0].tree.text(0)) == 3


def test_the_oldest_answers_go_first():
    rng = np.random.default_rng(0)
    answers = rng.permutation(1600).reshape(8, 200)
    cache = SuffixCache(max_requests=3)
    for answer in answers:
        cache.add(answer)
    assert cache.tokens == 600
    cache.start("a", answers[4][:2])
    assert proposed(cache, "a").tokens == []
    cache.start("b", answers[5][:2])
    assert proposed(cache, "b").tokens == answers[5][2:4].tolist()

    roomy = SuffixCache()
    roomy.add(answers[0])
    small = SuffixCache(max_bytes=roomy.nbytes * 3)
    for answer in answers:
        small.add(answer)
        assert small.nbytes <= roomy.nbytes * 3
    assert 200 <= small.tokens <= 800
    tiny = SuffixCache(max_bytes=100)  # less than one answer
    tiny.add(answers[0])
    assert tiny.tokens == 0


def test_a_cache_survives_on_disk(tmp_path):
    cache = SuffixCache()
    cache.add([1, 2, 3, 4])
    cache.add([])
    cache.add([7, 8])
    cache.start("open", [1])
    cache.observe("open", [5, 5])  # not finished: not saved
    cache.save(tmp_path / "cache", tokenizer="a")
    loaded = SuffixCache().load(tmp_path / "cache", tokenizer="a")
    assert loaded.tokens == 6
    loaded.start("b", [2, 3])
    assert proposed(loaded, "b").tokens == [4]
    SuffixCache().save(tmp_path / "empty")
    assert SuffixCache().load(tmp_path / "empty").tokens == 0
    with pytest.raises(InvalidInputError, match="with the tokenizer 'a', not 'b'"):
        SuffixCache().load(tmp_path / "cache", tokenizer="b")


def test_a_damaged_file_is_refused(tmp_path):
    cache = SuffixCache()
    cache.add(list(range(100)))
    path = tmp_path / "cache"
    cache.save(path)
    data = path.read_bytes()
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        with pytest.raises(FileError, match=r"not a suffix cache|damaged"):
            SuffixCache().load(path)
    for at in range(0, len(data), 7):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(FileError, match=r"not a suffix cache|damaged"):
            SuffixCache().load(path)
    with pytest.raises(FileError, match="cannot read"):
        SuffixCache().load(tmp_path / "nothing")


def test_what_a_user_can_get_wrong():
    for options in ({"max_depth": 1}, {"factor": -1}, {"least": 2}, {"max_tokens": -1}, {"max_bytes": -1}):
        with pytest.raises(InvalidInputError):
            SuffixCache(**options)
    cache = SuffixCache()
    with pytest.raises(InvalidInputError, match="no row 'a'"):
        cache.observe("a", [1])
    cache.start("a", [1])
    with pytest.raises(InvalidInputError, match="begun already"):
        cache.start("a", [1])
    for ids in ([-1], [1 << 32], [0.5], [[1]]):
        with pytest.raises(InvalidInputError, match="token ids are"):
            cache.observe("a", ids)
    cache.observe("a", [])
