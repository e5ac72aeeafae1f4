"""Byte2Word: an encoder like BERT whose words come from their bytes; there is no vocabulary on its input side.

Use it to classify, tag or embed text that is noisy or of many kinds, such as logs, OCR, user input and identifiers: no
word is unknown, a misspelt one is almost the same, and the sequence has one place a word. With words of fixed length it
reads firmware or DNA. What it guesses of a hidden word are sub-word pieces, so that the output side needs no table of
words either (`byteloom.train.masked_words`).
Source: Word-Level Representation From Bytes For Language Modeling, Lee, Guo and Qiu 2022, arXiv 2211.12677, of which
the abstract could be read: the details are ours, such as a body with rotary positions.
Cost: 2 W D^2 multiplications for each distinct word of a batch, none for those of `compile_vocabulary`, and a body on
words.
"""

# Shape suffixes: B documents, T places of a row ([CLS] and words), U distinct words, W bytes of a word, D hidden size,
# C labels, H hidden words, J pieces of a word, M pieces of all hidden words, V pieces, K known words.

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import (
    BaseModelOutput,
    MaskedLMOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

from byteloom.errors import InvalidInputError
from byteloom.models.word_batch import MASK, as_bytes, batch_words, collate_ids, table_of
from byteloom.models.word_encoder import WORD_PADDING, WordVectors
from byteloom.tokenize.words import MAX_BYTES, WordSplitter

if TYPE_CHECKING:
    from typing_extensions import Buffer

IGNORED = -100  # a label that is none
_NO_VOCABULARY = {
    "vocab_size": 1,
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")),
}


class Byte2WordConfig(PretrainedConfig):
    """body: the configuration of an encoder that takes embeddings; a ModernBERT by default.

    rule, max_word_bytes: how text is split; see `byteloom.tokenize.words`. pooling, pooling_heads: how bytes become a
    word, see `byteloom.models.word_encoder`; as many heads as the body by default. target_vocab_size: pieces of hidden
    words. max_pieces: of one word, that are guessed.
    Raises InvalidInputError for a body that is a decoder or has no embeddings, and for heads that do not divide.
    """

    model_type = "byte2word"
    sub_configs = {"body": AutoConfig}  # noqa: RUF012 - so transformers declares it

    body: dict[str, Any] | PretrainedConfig | None = None
    rule: str = "text"
    max_word_bytes: int = MAX_BYTES
    pooling: str = "attention"
    pooling_heads: int | None = None
    target_vocab_size: int = 8000
    max_pieces: int = 8
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        body: Any = self.body
        if body is None or isinstance(body, dict):
            body = AutoConfig.for_model(**{"model_type": "modernbert", **_NO_VOCABULARY, **(body or {})})
        if body.is_encoder_decoder or type(body) not in AutoModelForMaskedLM._model_mapping:
            raise InvalidInputError(f"a body of the type {body.model_type} is no encoder, such as bert or modernbert")
        self.body = body
        self.pooling_heads = self.pooling_heads or body.num_attention_heads
        if body.hidden_size % self.pooling_heads:
            raise InvalidInputError(
                f"the hidden size {body.hidden_size} is not divisible by {self.pooling_heads} pooling heads"
            )
        super().__post_init__(**kwargs)

    @property
    def max_words(self) -> int:
        """Words that fit behind [CLS]."""
        return self.body.max_position_embeddings - 1  # type: ignore[union-attr]

    def splitter(self) -> WordSplitter:
        """What makes words of documents."""
        return WordSplitter(self.rule, self.max_word_bytes)


class Byte2WordPreTrainedModel(PreTrainedModel):
    """How Byte2Words begin: normal weights as BERT's, but in attention pooling scaled by width; the body as its own.

    With BERT's 0.02 there, every word would begin as the plain mean of its bytes.
    """

    config_class = Byte2WordConfig
    base_model_prefix = "byte2word"
    main_input_name = "table"
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=std)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.MultiheadAttention):
            module._reset_parameters()
        elif isinstance(query := getattr(module, "query", None), nn.Parameter):  # of attention pooling
            nn.init.normal_(query)
            for layer in module.children():
                if isinstance(layer, nn.Linear):
                    nn.init.normal_(layer.weight, std=layer.in_features**-0.5)


class Byte2WordModel(Byte2WordPreTrainedModel):
    """Words in, the hidden states of words out."""

    known_hashes: Tensor | None
    known_table: Tensor
    known_vectors: Tensor

    def __init__(self, config: Byte2WordConfig) -> None:
        super().__init__(config)
        body: Any = config.body
        self.words = WordVectors(
            body.hidden_size,
            config.pooling_heads,  # type: ignore[arg-type]
            config.max_word_bytes,
            config.pooling,  # type: ignore[arg-type]
        )
        self.body = AutoModel.from_config(body)
        self.body.get_input_embeddings().requires_grad_(False)  # of one row, which nobody reads
        if getattr(self.body, "pooler", None) is not None:
            self.body.pooler = None
        for name in ("known_hashes", "known_table", "known_vectors"):
            self.register_buffer(name, None, persistent=False)
        self.post_init()

    def forward(
        self,
        table: Tensor | None = None,
        index: Tensor | None = None,
        attention_mask: Tensor | None = None,
        input_ids: Tensor | None = None,
        **_: Any,
    ) -> BaseModelOutput:
        """last_hidden_state: float [B, T, D]. The first place of a row is [CLS], the others are words.

        table, index, attention_mask: as in `WordBatch`; or input_ids: int64 [B, N], ids of a WordSplitter, of which
        only bytes count.
        Raises InvalidInputError for an index outside the table, words without bytes, and too many words.
        """
        table, index, attention_mask = self.batch(table, index, attention_mask, input_ids)
        if index.shape[1] > self.config.max_words + 1:
            raise InvalidInputError(
                f"{index.shape[1] - 1} words do not fit in the {self.config.max_words} places of the model; "
                "cut the document into windows"
            )
        if index.min() < 0 or index.max() >= len(table):
            wrong = ((index < 0) | (index >= len(table))).any(1).int().argmax()
            raise InvalidInputError(f"row {int(wrong)} has an index outside the table of {len(table)} words")
        vectors_BTD = self.word_vectors(table)[index]
        return BaseModelOutput(self.body(inputs_embeds=vectors_BTD, attention_mask=attention_mask).last_hidden_state)

    def batch(
        self, table: Tensor | None, index: Tensor | None, attention_mask: Tensor | None, input_ids: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """What `forward` was given, as (table, index, attention_mask) on the device of the model."""
        if input_ids is not None:
            words = collate_ids(input_ids, self.config.max_word_bytes)
            return words.table.to(self.device), words.index.to(self.device), words.attention_mask.to(self.device)
        if table is None or index is None:
            raise InvalidInputError("give table and index, as collate_words makes them, or input_ids")
        return table, index, attention_mask

    def word_vectors(self, table_UW: Tensor) -> Tensor:
        """[U, D]: looked up where they are known and no gradient is wanted, else from the bytes."""
        if self.known_hashes is None or torch.is_grad_enabled() or table_UW.shape[1] > self.config.max_word_bytes:
            return self.words(table_UW)
        table_UW = F.pad(table_UW, (0, self.config.max_word_bytes - table_UW.shape[1]), value=WORD_PADDING)
        place_U = torch.searchsorted(self.known_hashes, _hashes(table_UW)).clamp(max=len(self.known_hashes) - 1)
        is_new_U = (self.known_table[place_U] != table_UW).any(1)
        vectors_UD = self.known_vectors[place_U]
        if is_new_U.any():
            vectors_UD[is_new_U] = self.words(table_UW[is_new_U]).to(vectors_UD.dtype)
        return vectors_UD

    @torch.no_grad()
    def compile_vocabulary(self, words: Iterable[bytes], batch: int = 4096) -> None:
        """Keep the vectors of `words`, so that they are looked up; until the model is trained again.

        Raises InvalidInputError in training mode, for an empty word, and for one that is too long.
        """
        if self.training:
            raise InvalidInputError("the model is in training; call eval() before compile_vocabulary")
        width = self.config.max_word_bytes
        table_KW = table_of(words, width).to(self.device)
        table_KW = F.pad(table_KW, (0, width - table_KW.shape[1]), value=WORD_PADDING)
        vectors_KD = torch.cat([self.words(part) for part in table_KW.split(batch)])
        hashes_K, order_K = _hashes(table_KW).sort()
        self.known_hashes, self.known_table, self.known_vectors = hashes_K, table_KW[order_K], vectors_KD[order_K]

    def train(self, mode: bool = True) -> Self:
        """As torch's; training forgets the compiled vocabulary."""
        if mode:
            self.known_hashes = None
        return super().train(mode)


class Byte2WordForMaskedLM(Byte2WordPreTrainedModel):
    """The pieces of hidden words: all of a word at once, each by itself."""

    def __init__(self, config: Byte2WordConfig) -> None:
        super().__init__(config)
        width = config.body.hidden_size  # type: ignore[union-attr]
        self.byte2word = Byte2WordModel(config)
        self.which = nn.Embedding(config.max_pieces, width)
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.decoder = nn.Linear(width, config.target_vocab_size)
        self.post_init()

    def forward(
        self,
        table: Tensor | None = None,
        index: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        input_ids: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **_: Any,
    ) -> MaskedLMOutput:
        """labels: int64 [B, T, J], the pieces of chosen words, -100 elsewhere; then the loss is their mean cross
        entropy, and logits [M, V] are those of the pieces that have a label, in their order. Without labels logits
        [H, J, V] are those of the words that are [MASK].

        num_items_in_batch: pieces in all batches of an optimiser step, when there are several.
        """
        table, index, attention_mask = self.byte2word.batch(table, index, attention_mask, input_ids)
        states_BTD = self.byte2word(table, index, attention_mask).last_hidden_state
        if labels is None:
            states_HD = states_BTD[table[:, 0][index] == MASK]
            logits_HJV = self.piece_logits(states_HD[:, None], torch.arange(len(self.which.weight), device=self.device))
            return MaskedLMOutput(logits=logits_HJV)
        self._check(labels, index)
        row_M, place_M, piece_M = (labels != IGNORED).nonzero(as_tuple=True)
        logits_MV = self.piece_logits(states_BTD[row_M, place_M], piece_M)
        target_M = labels[row_M, place_M, piece_M]
        loss = F.cross_entropy(logits_MV.float(), target_M, reduction="sum")
        return MaskedLMOutput(loss=loss / (num_items_in_batch or max(1, len(target_M))), logits=logits_MV)

    def piece_logits(self, states: Tensor, piece: Tensor) -> Tensor:
        """[..., V]: of piece number `piece` of words with hidden states [..., D]."""
        return self.decoder(self.norm(F.gelu(self.dense(states + self.which(piece)))))

    def _check(self, labels_BTJ: Tensor, index_BT: Tensor) -> None:
        if labels_BTJ.shape[:2] != index_BT.shape or labels_BTJ.shape[2] > self.config.max_pieces:
            raise InvalidInputError(
                f"labels are {list(labels_BTJ.shape)}; {list(index_BT.shape)} words have {self.config.max_pieces} "
                "pieces at most"
            )
        if labels_BTJ.max() >= self.config.target_vocab_size:
            raise InvalidInputError(
                f"piece {int(labels_BTJ.max())} is none of the model's {self.config.target_vocab_size}; "
                "set target_vocab_size to that of the tokenizer"
            )


class Byte2WordForSequenceClassification(Byte2WordPreTrainedModel):
    """A label for a document: the state of [CLS] through a linear layer."""

    def __init__(self, config: Byte2WordConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.byte2word = Byte2WordModel(config)
        self.classifier = nn.Linear(config.body.hidden_size, config.num_labels)  # type: ignore[union-attr]
        self.post_init()

    def forward(
        self,
        table: Tensor | None = None,
        index: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        input_ids: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """logits: float [B, C]. labels: int64 [B]; then the loss is their mean cross entropy."""
        states_BTD = self.byte2word(table, index, attention_mask, input_ids).last_hidden_state
        logits_BC = self.classifier(states_BTD[:, 0]).float()
        return SequenceClassifierOutput(_label_loss(logits_BC, labels, num_items_in_batch), logits_BC)


class Byte2WordForTokenClassification(Byte2WordPreTrainedModel):
    """A label for each word."""

    def __init__(self, config: Byte2WordConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.byte2word = Byte2WordModel(config)
        self.classifier = nn.Linear(config.body.hidden_size, config.num_labels)  # type: ignore[union-attr]
        self.post_init()

    def forward(
        self,
        table: Tensor | None = None,
        index: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        input_ids: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **_: Any,
    ) -> TokenClassifierOutput:
        """logits: float [B, T, C]. labels: int64 [B, T], -100 where there is none, as for [CLS]."""
        states_BTD = self.byte2word(table, index, attention_mask, input_ids).last_hidden_state
        logits_BTC = self.classifier(states_BTD).float()
        return TokenClassifierOutput(_label_loss(logits_BTC, labels, num_items_in_batch), logits_BTC)


def embed(
    model: Byte2WordPreTrainedModel, documents: Sequence[Buffer], batch_bytes: int = 1 << 17
) -> npt.NDArray[np.float32]:
    """float32 [documents, D]: the mean state of the words of each document; of [CLS] where there is none.

    A document that is longer than the model's places is read in windows, whose words count alike. Documents of like
    lengths are read together, about `batch_bytes` at once. Raises TypeError for anything but bytes, InvalidInputError
    for a model in training mode.
    """
    if model.training:
        raise InvalidInputError("the model is in training; call eval() before embed")
    body = model.base_model
    splitter, size = body.config.splitter(), body.config.max_words
    windows: list[tuple[int, npt.NDArray[np.uint8], npt.NDArray[np.uint32]]] = []
    for number, document in enumerate(documents):
        part = as_bytes(document, number)
        lengths = splitter.word_lengths(part.data)
        ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        for at in range(0, max(1, len(lengths)), size):
            last = min(at + size, len(lengths))
            windows.append((number, part[ends[at] : ends[last]], lengths[at:last]))
    windows.sort(key=lambda window: len(window[2]))
    sums_BD = np.zeros((len(documents), body.config.body.hidden_size), np.float64)
    words_B = np.zeros(len(documents), np.int64)
    while windows:
        count = max(1, min(len(windows), batch_bytes // max(1, windows[-1][1].size)))
        some, windows = windows[-count:], windows[:-count]
        batch = batch_words([part for _, part, _ in some], [lengths for _, _, lengths in some])
        with torch.inference_mode():
            states_BTD = body(**batch.inputs(body.device)).last_hidden_state.float().cpu()
        for (number, _, lengths), states_TD in zip(some, states_BTD, strict=True):
            used_TD = states_TD[1 : 1 + len(lengths)] if len(lengths) else states_TD[:1]
            sums_BD[number] += used_TD.double().sum(0).numpy()
            words_B[number] += len(used_TD)
    return (sums_BD / words_B[:, None]).astype(np.float32)


def _label_loss(logits: Tensor, labels: Tensor | None, count: Tensor | int | None) -> Tensor | None:
    """Mean cross entropy of labels [...] under logits [..., C]. Raises InvalidInputError for labels that are none."""
    if labels is None:
        return None
    names = logits.shape[-1]
    is_wrong = (labels != IGNORED) & ((labels < 0) | (labels >= names))
    if is_wrong.any():
        raise InvalidInputError(f"label {labels[is_wrong][0].item()} is none of the model's {names}, counted from 0")
    loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return loss / (count or (labels != IGNORED).sum().clamp(min=1))


def _hashes(table_UW: Tensor) -> Tensor:
    """int64 [U]: a hash of each row; rows that share one are told apart by their symbols."""
    hash_U = torch.zeros(len(table_UW), dtype=torch.int64, device=table_UW.device)
    for symbol_U in table_UW.T:
        hash_U = (hash_U + symbol_U + 1) * 0x5851F42D4C957F2D  # wraps around
        hash_U = hash_U ^ (hash_U >> 32)
    return hash_U


AutoConfig.register(Byte2WordConfig.model_type, Byte2WordConfig, exist_ok=True)
AutoModel.register(Byte2WordConfig, Byte2WordModel, exist_ok=True)
AutoModelForMaskedLM.register(Byte2WordConfig, Byte2WordForMaskedLM, exist_ok=True)
AutoModelForSequenceClassification.register(Byte2WordConfig, Byte2WordForSequenceClassification, exist_ok=True)
AutoModelForTokenClassification.register(Byte2WordConfig, Byte2WordForTokenClassification, exist_ok=True)
