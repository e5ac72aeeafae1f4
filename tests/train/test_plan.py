import pytest
from transformers import AutoModelForCausalLM

from byteloom.errors import InvalidInputError
from byteloom.train.plan import PASSES, SIZES, TOKENS_PER_PARAMETER, Backbone, Plan, Wish, make_plan

NANO, MINI = SIZES["nano"], SIZES["mini"]


def plan(wish: Wish, *, rate=20_000.0, corpus_tokens=10**9, vocab_size=4096, device="cpu", world_size=1) -> Plan:
    """A plan for a machine that does `rate` tokens a second with the smallest model, and less with larger ones."""

    def measure(backbone, windows, precision):
        speed = rate * NANO.flops_per_token(vocab_size) / backbone.flops_per_token(vocab_size)
        return speed * (1.5 if precision == "bf16" else 1.0)

    return make_plan(
        wish,
        vocab_size=vocab_size,
        corpus_tokens=corpus_tokens,
        device=device,
        threads=1,
        world_size=world_size,
        flops_per_token=lambda backbone: backbone.flops_per_token(vocab_size),
        measure=measure,
    )


@pytest.mark.parametrize("backbone", [NANO, MINI, Backbone(32, 2, 2, 16)])
@pytest.mark.parametrize("vocab_size", [263, 4096])
def test_parameters_are_those_of_the_model(backbone, vocab_size):
    model = AutoModelForCausalLM.from_config(backbone.config(vocab_size))
    assert model.num_parameters() == backbone.parameters(vocab_size)
    assert (model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id) == (0, 1, 2)


def test_two_minutes_on_a_cpu_train_the_smallest_model():
    made = plan(Wish(minutes=2))
    assert made.backbone == NANO
    assert made.precision == "bf16"
    assert made.steps * made.tokens_per_step == pytest.approx(2 * 60 * 30_000, rel=0.01)


def test_more_time_trains_the_largest_model_that_sees_enough_tokens():
    sizes = list(SIZES.values())
    for hours in (1, 24, 24 * 30):
        made = plan(Wish(minutes=60 * hours), rate=60_000)
        tokens = made.steps * made.tokens_per_step
        assert made.backbone == NANO or tokens >= TOKENS_PER_PARAMETER * made.backbone.parameters(4096) * 0.99
        larger = sizes[sizes.index(made.backbone) + 1]
        slower = larger.flops_per_token(4096) / made.backbone.flops_per_token(4096)
        assert tokens / slower < TOKENS_PER_PARAMETER * larger.parameters(4096)
    assert made.backbone != NANO


def test_a_small_corpus_is_not_read_more_than_four_times():
    made = plan(Wish(minutes=600), corpus_tokens=1_000_000)
    assert made.steps * made.tokens_per_step == pytest.approx(PASSES * 1_000_000, rel=0.01)


def test_what_is_wished_is_taken():
    wish = Wish(
        tokens=5_000_000,
        backbone=MINI,
        batch_tokens=16_384,
        micro_batch=4,
        learning_rate=1e-4,
        precision="fp32",
        seed=7,
    )
    made = plan(wish, corpus_tokens=1000, world_size=2)
    assert (made.backbone, made.learning_rate, made.precision, made.seed) == (MINI, 1e-4, "fp32", 7)
    assert (made.micro_batch, made.accumulation, made.tokens_per_step) == (4, 4, 16_384)
    assert made.steps == round(5_000_000 / 16_384)


def test_bf16_is_taken_on_a_cpu_only_where_it_pays():
    def measure(backbone, windows, precision):
        return 1000.0 if precision == "fp32" else 1100.0

    made = make_plan(
        Wish(),
        vocab_size=263,
        corpus_tokens=10**6,
        device="cpu",
        threads=1,
        world_size=1,
        flops_per_token=lambda backbone: backbone.flops_per_token(263),
        measure=measure,
    )
    assert made.precision == "fp32"


def test_equal_compute_is_equal_operations():
    bpe = plan(Wish(minutes=2))
    raw = bpe.with_equal_compute(263, bpe.backbone.flops_per_token(263))
    assert raw.vocab_size == 263
    assert raw.flops == pytest.approx(bpe.flops, rel=1e-3)
    assert raw.steps > bpe.steps
    assert raw.save_steps % raw.log_steps == bpe.save_steps % bpe.log_steps == 0


def test_a_plan_survives_its_file():
    made = plan(Wish(minutes=3))
    assert Plan.from_json(made.to_json()) == made


@pytest.mark.parametrize("wish", [Wish(minutes=0), Wish(minutes=-1), Wish(tokens=0)])
def test_nothing_to_train_is_refused(wish):
    with pytest.raises(InvalidInputError, match="must be positive"):
        plan(wish)


@pytest.mark.parametrize("shape", [(100, 2, 3, 64), (96, 0, 3, 64), (90, 2, 18, 64), (96, 2, 3, 1)])
def test_impossible_shapes_are_refused(shape):
    with pytest.raises(InvalidInputError):
        Backbone(*shape)
