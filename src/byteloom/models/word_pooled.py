"""A language model whose sequence is words and whose alphabet is bytes.

A small encoder makes a vector of each word's bytes, a causal Transformer runs over the words, and a small decoder
spells the next word byte by byte. Use it where a vocabulary does not fit, as for noisy text, rare words, many scripts
and numbers, and where bytes alone are too slow: the large model takes one step a word. Ids are those of
`byteloom.tokenize.words.WordSplitter`, one a byte.
Source: Learn Your Tokens, Thawani et al., Findings of EMNLP 2023, arXiv 2310.11628; narrow byte modules around a wide
body as in Hierarchical Autoregressive Transformers, Neitemeier et al., ICLR 2025, arXiv 2501.10322. The probability of
a text is that of its own words, an upper bound of its bits: other cuts of the same bytes have some too.
Cost: the backbone on bytes / 4.8 positions (English), and two to four narrow layers on every byte; each distinct word
of a batch is encoded once.
"""

# Shape suffixes: B rows, N ids of a row, T words of a row, W bytes of a word, R words of all rows, U distinct words,
# P vectors of a word, D hidden size of the backbone, E of the byte modules, V vocabulary.

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from byteloom.errors import InvalidInputError
from byteloom.models.word_encoder import BUCKETS, WORD_PADDING, WordVectors, byte_layers, distinct_words
from byteloom.tokenize.words import FIRST, LAST, MAX_BYTES

VOCABULARY = FIRST + 2 * LAST
START, END, PAD = 0, 1, 2
NO_VOCABULARY = {"vocab_size": 1, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
"""What the configuration of a backbone says of its own embeddings, which nothing uses."""


class WordPooledConfig(PretrainedConfig):
    """backbone: the configuration of any decoder-only model. byte_hidden_size, encoder_layers, decoder_layers,
    num_heads: of the byte modules. num_prefix: vectors of a word. max_position_embeddings: bytes that surely fit.

    Raises InvalidInputError for an encoder or an encoder-decoder as the backbone, and for heads that do not divide.
    """

    model_type = "word_pooled"
    sub_configs = {"backbone": AutoConfig}  # noqa: RUF012 - so transformers declares it

    backbone: dict[str, Any] | PretrainedConfig | None = None
    byte_hidden_size: int = 128
    encoder_layers: int = 1
    decoder_layers: int = 2
    num_heads: int = 4
    num_prefix: int = 1
    max_word_bytes: int = MAX_BYTES
    vocab_size: int = VOCABULARY
    max_position_embeddings: int = 0
    bos_token_id: int | None = START
    eos_token_id: int | list[int] | None = END
    pad_token_id: int | None = PAD
    tie_word_embeddings: bool = False
    use_cache: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        backbone: Any = self.backbone
        if backbone is None:
            backbone = AutoConfig.for_model("llama", **NO_VOCABULARY)
        elif isinstance(backbone, dict):
            backbone = AutoConfig.for_model(**{"model_type": "llama", **backbone})
        if backbone.is_encoder_decoder or type(backbone) not in AutoModelForCausalLM._model_mapping:
            raise InvalidInputError(f"a backbone of the type {backbone.model_type} is no decoder-only model")
        if self.byte_hidden_size % self.num_heads:
            raise InvalidInputError(
                f"byte_hidden_size {self.byte_hidden_size} is no multiple of the {self.num_heads} heads"
            )
        self.backbone = backbone
        self.max_position_embeddings = backbone.max_position_embeddings // self.num_prefix
        super().__post_init__(**kwargs)


@dataclass(frozen=True)
class Words:
    """The words of a batch of ids. count: of each row, an unfinished last one included.

    table: int64 [R, W], the symbols of all words as `WordVectors` takes them. row, place: int64 [R], in which row each
    lies and the how manieth it is. start, length: int64 [R], in ids. is_whole: bool [R], whether it has ended.
    """

    table: Tensor
    row: Tensor
    place: Tensor
    start: Tensor
    length: Tensor
    is_whole: Tensor
    count: Tensor


class WordPooledForCausalLM(PreTrainedModel, GenerationMixin):
    """Word encoder, backbone and word decoder; a causal language model over the ids of a WordSplitter."""

    config_class = WordPooledConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _supports_sdpa = True
    _no_split_modules: list[str] = []  # noqa: RUF012 - as transformers has it

    def __init__(self, config: WordPooledConfig) -> None:
        super().__init__(config)
        size, prefix = config.byte_hidden_size, config.num_prefix
        self.backbone = AutoModel.from_config(config.backbone)
        width = self.backbone.config.hidden_size
        self.encoder: Any = WordVectors(
            size, config.num_heads, config.max_word_bytes, "transformer", config.encoder_layers, prefix
        )
        self.up, self.down = nn.Linear(size, width), nn.Linear(width, size)
        self.begin = nn.Parameter(torch.empty(prefix, width))
        self.bytes = nn.Embedding(256, size)
        self.places = nn.Embedding(prefix + config.max_word_bytes, size)
        self.decoder = byte_layers(size, config.num_heads, config.decoder_layers)
        self.norm = nn.LayerNorm(size)
        self.head = nn.Linear(size, config.vocab_size)
        self.post_init()
        if self.generation_config is not None:
            self.generation_config.use_cache = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = getattr(self.config.backbone, "initializer_range", 0.02)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=1.0 if module.embedding_dim == self.config.byte_hidden_size else std)
        elif isinstance(module, nn.MultiheadAttention):
            module._reset_parameters()
        elif isinstance(module, WordPooledForCausalLM):
            nn.init.normal_(module.begin)
            nn.init.normal_(module.encoder.pool.first)

    @classmethod
    def with_backbone(cls, model: PreTrainedModel, **byte_modules: Any) -> Self:
        """New byte modules around the trained body of a causal language model, whose weights stay as they are.

        The body's own embeddings are left out: words come in as vectors. byte_modules: fields of the configuration.
        """
        body = model.base_model
        settings = body.config.to_dict() | NO_VOCABULARY
        with torch.random.fork_rng():
            pooled = cls(WordPooledConfig(backbone=settings, **byte_modules))
        state = {name: value for name, value in body.state_dict().items() if not name.startswith("embed_tokens.")}
        pooled.backbone.load_state_dict(state, strict=False)
        return pooled.to(body.dtype)

    def get_input_embeddings(self) -> nn.Module:
        """The embeddings of bytes that the decoder reads."""
        return self.bytes

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace them."""
        self.bytes = value

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """logits [B, N, V]: position i says what id i + 1 is. Rows may be padded on either side.

        A row need not begin with <|start|>: its first word then begins with bytes that are given. It may end inside a
        word. Raises InvalidInputError for ids that are none, words that are too long, more words than the backbone has
        positions, and left padding without a mask.
        """
        if not input_ids.numel():
            raise InvalidInputError(f"the ids are {list(input_ids.shape)}; give every row one id at least")
        shift_B = _left_padding(input_ids, attention_mask)
        ids_BN = _rolled(input_ids, -shift_B)
        words = self.words(ids_BN)
        states_BTPD = self._backbone_states(words)
        logits_BNV = self._spell(words, states_BTPD, ids_BN)
        logits_BNV = _rolled(logits_BNV, shift_B)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits_BNV, labels, self.config.vocab_size, **_loss_arguments(kwargs))
        return CausalLMOutputWithPast(loss=loss, logits=logits_BNV[:, -logits_to_keep:])

    def words(self, ids_BN: Tensor) -> Words:
        """The words of rows of ids. Raises InvalidInputError for ids that are none and words that are too long."""
        if ids_BN.min() < 0 or ids_BN.max() >= self.config.vocab_size:
            wrong = ids_BN[(ids_BN < 0) | (ids_BN >= self.config.vocab_size)][0].item()
            raise InvalidInputError(f"id {wrong} is none of the {self.config.vocab_size} of a WordSplitter")
        batch, count = ids_BN.shape
        is_special_BN = ids_BN < FIRST
        ends_BN = is_special_BN | (ids_BN >= FIRST + LAST)
        begins_BN = torch.cat([ends_BN.new_ones(batch, 1), ends_BN[:, :-1] | is_special_BN[:, 1:]], 1)
        word_N = begins_BN.flatten().cumsum(0) - 1  # of all rows, one after another
        start_R = begins_BN.flatten().nonzero()[:, 0]
        length_R = torch.diff(start_R, append=start_R.new_tensor([batch * count]))
        row_R = start_R // count
        if int(length_R.max()) > self.config.max_word_bytes:
            word = int(length_R.argmax())
            raise InvalidInputError(
                f"row {int(row_R[word])} has a word of {int(length_R[word])} bytes at {int(start_R[word]) % count}; "
                f"the longest has {self.config.max_word_bytes}"
            )
        symbols_N = torch.where(
            is_special_BN, 256 + ids_BN.clamp(max=2), torch.where(ends_BN, ids_BN - LAST, ids_BN) - FIRST
        )
        table_RW = symbols_N.new_full((len(start_R), int(length_R.max())), WORD_PADDING)
        table_RW[word_N, torch.arange(batch * count, device=ids_BN.device) - start_R[word_N]] = symbols_N.flatten()
        first_B = torch.searchsorted(row_R, torch.arange(batch, device=ids_BN.device))
        return Words(
            table=table_RW,
            row=row_R,
            place=torch.arange(len(row_R), device=ids_BN.device) - first_B[row_R],
            start=start_R - row_R * count,
            length=length_R,
            is_whole=ends_BN.flatten()[start_R + length_R - 1],
            count=torch.bincount(row_R, minlength=batch),
        )

    def encode(self, table_RW: Tensor) -> Tensor:
        """[R, P, D]: what the backbone reads of words; each distinct one is encoded once."""
        table_UW, which_R = distinct_words(table_RW)
        return self.up(self.encoder(table_UW).unflatten(-1, (self.config.num_prefix, -1)))[which_R]

    def decode(self, state_RPD: Tensor, bytes_RW: Tensor) -> Tensor:
        """[R, W + 1, V]: logits of the first byte of words, and of the one behind each of `bytes_RW`, 0..255."""
        prefix = self.config.num_prefix
        x_RWE = torch.cat([self.down(state_RPD), self.bytes(bytes_RW).to(state_RPD.dtype)], 1)
        x_RWE = x_RWE + self.places.weight[: x_RWE.shape[1]]
        size = x_RWE.shape[1]
        later = torch.ones(size, size, dtype=torch.bool, device=x_RWE.device).triu(1)
        for layer in self.decoder:
            x_RWE = layer(x_RWE, src_mask=later)
        return self.head(self.norm(x_RWE[:, prefix - 1 :])).masked_fill(self._impossible(size - prefix + 1), -torch.inf)

    def _impossible(self, count: int) -> Tensor:
        """bool [W, V]: special ids are words of their own, and the last byte that fits ends the word."""
        device = self.head.weight.device
        place_W1 = torch.arange(count, device=device)[:, None]
        id_V = torch.arange(self.config.vocab_size, device=device)
        inside_V = (id_V >= FIRST) & (id_V < FIRST + LAST)
        return ((place_W1 > 0) & (id_V < FIRST)) | ((place_W1 >= self.config.max_word_bytes - 1) & inside_V)

    def _backbone_states(self, words: Words) -> Tensor:
        """[B, T + 1, P, D]: the state from which each word of a row is spelled, and the one behind its last word."""
        prefix, batch = self.config.num_prefix, len(words.count)
        most = int(words.count.max())
        limit = getattr(self.config.backbone, "max_position_embeddings", None)
        if limit is not None and (most + 1) * prefix > limit:
            raise InvalidInputError(
                f"{most} words of {prefix} vectors do not fit in the {limit} positions of the backbone; "
                "shorten the text"
            )
        vectors_RPD = self.encode(words.table[words.is_whole])
        inputs_BTPD = vectors_RPD.new_zeros(batch, most + 1, prefix, self.begin.shape[1])
        inputs_BTPD[:, 0] = self.begin.to(vectors_RPD.dtype)
        inputs_BTPD[words.row[words.is_whole], words.place[words.is_whole] + 1] = vectors_RPD
        flat = self.backbone(inputs_embeds=inputs_BTPD.flatten(1, 2), use_cache=False).last_hidden_state
        return flat.unflatten(1, (most + 1, prefix))

    def _spell(self, words: Words, states_BTPD: Tensor, ids_BN: Tensor) -> Tensor:
        """[B, N, V]: the logits of every id, one place before it, by words of like lengths together."""
        batch, count = ids_BN.shape
        logits_BNV = states_BTPD.new_zeros(batch, count, self.config.vocab_size)
        last_B = words.count.cumsum(0) - 1
        is_open_R = ~words.is_whole  # its last byte is followed by one more of the same word
        is_spelled_R = ~torch.cat([is_open_R.new_zeros(1), is_open_R[:-1] & (words.row[1:] == words.row[:-1])])
        known_R = words.length - words.is_whole.int()  # bytes that the decoder reads
        for first, last in zip((0, *BUCKETS), (*BUCKETS, self.config.max_word_bytes), strict=True):
            rows_R = (is_spelled_R & (known_R + 1 > first) & (known_R + 1 <= last)).nonzero()[:, 0]
            if not len(rows_R):
                continue
            size = min(last - 1, words.table.shape[1])
            bytes_RW = words.table[rows_R, :size].clamp(max=255)
            state_RPD = states_BTPD[words.row[rows_R], words.place[rows_R]]
            found_RWV = self.decode(state_RPD, bytes_RW)
            place_W = torch.arange(found_RWV.shape[1], device=ids_BN.device)
            target_RW = words.start[rows_R][:, None] + place_W - 1
            is_asked_RW = (place_W <= known_R[rows_R][:, None]) & (target_RW >= 0)  # nothing tells the first id
            row_RW = words.row[rows_R][:, None].expand_as(is_asked_RW)
            logits_BNV[row_RW[is_asked_RW], target_RW[is_asked_RW]] = found_RWV[is_asked_RW].to(logits_BNV.dtype)
        ended_B = (~is_open_R[last_B]).nonzero()[:, 0]
        if len(ended_B):
            state_RPD = states_BTPD[ended_B, words.count[ended_B]]
            found_RV = self.decode(state_RPD, ids_BN.new_zeros(len(ended_B), 0))[:, 0]
            logits_BNV[ended_B, count - 1] = found_RV.to(logits_BNV.dtype)
        return logits_BNV

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> dict[str, Any]:
        """The whole text each time: `generate` is correct and slow; `word_synchronous` is fast."""
        return {"input_ids": input_ids, "attention_mask": attention_mask}


def _left_padding(ids_BN: Tensor, mask_BN: Tensor | None) -> Tensor:
    """int64 [B]: the padding before each row. Raises InvalidInputError for masks of another shape or with holes."""
    if mask_BN is None:
        if (ids_BN[:, 0] == PAD).any():
            raise InvalidInputError("a row begins with padding; give the attention_mask too")
        return ids_BN.new_zeros(len(ids_BN))
    if mask_BN.shape != ids_BN.shape:
        raise InvalidInputError(f"the attention_mask is {list(mask_BN.shape)}, but the ids {list(ids_BN.shape)}")
    if (mask_BN.sum(1) == 0).any():
        raise InvalidInputError(f"row {int((mask_BN.sum(1) == 0).int().argmax())} holds padding only")
    return mask_BN.int().argmax(1)


def _rolled(rows_BN: Tensor, shift_B: Tensor) -> Tensor:
    """Each row moved to the right by its shift, around the end."""
    if not shift_B.any():
        return rows_BN
    count = rows_BN.shape[1]
    from_BN = (torch.arange(count, device=rows_BN.device) - shift_B[:, None]) % count
    return rows_BN[torch.arange(len(rows_BN), device=rows_BN.device)[:, None], from_BN]


def _loss_arguments(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {"num_items_in_batch": kwargs.get("num_items_in_batch")}


AutoConfig.register(WordPooledConfig.model_type, WordPooledConfig, exist_ok=True)
AutoModelForCausalLM.register(WordPooledConfig, WordPooledForCausalLM, exist_ok=True)
