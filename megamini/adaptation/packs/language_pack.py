"""Language packs: what a new language costs to ship, and how it plugs into any model that speaks its lineage.

A pack is a folder: `embeddings.safetensors` (token matrix [V, d], output bias [V], and for models that do not tie it an
output matrix [V, d]; of an extension or a replacement its own rows alone), the tokenizer's files, and `pack.json`
(language, kind, method, lineage, special tokens by role,
settings, ledger, checksum).
"""

import json
import tempfile
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from megamini.adaptation.packs.hub import local_folder, upload
from megamini.adaptation.packs.kinds import Kind, Vocabulary, check_rows, plugged_vocabulary
from megamini.adaptation.packs.own_embeddings import keep, projection, token_matrix
from megamini.adaptation.packs.pack_card import pack_card
from megamini.adaptation.packs.pack_description import DESCRIPTION, FORMAT, FORMAT_OF_PARTS, read_description
from megamini.adaptation.packs.reindex import reindexed, with_layout_of
from megamini.data.tokenizer import fingerprint, load_tokenizer, save_tokenizer, special_roles
from megamini.errors import UserError, writing
from megamini.files import fingerprint_of, folder_written_whole, sha256_of, write_tensors
from megamini.languages.codes import check_code
from megamini.models.families import truncating
from megamini.models.lineage import (
    Lineage,
    declared_lineage,
    described,
    lineage_of,
    output_matrix_of,
    same_embeddings,
)

_EMBEDDINGS = "embeddings.safetensors"


@dataclass(frozen=True)
class LanguagePack:
    """A language's token embeddings over a given lineage.

    token_embeddings: fp32 [V, d]. output_bias: fp32 [V], for models with a masked-LM head. lineage: which source
    matrix and tokenizer they were learned beside (`models.lineage`). details: method, settings, ledger; provenance.
    output_embeddings: fp32 [V, d], for models whose output matrix is not the token matrix. kind: see `kinds`; of an
    extension or a replacement there are its own rows alone. ids: of a replacement, int64.
    """

    language: str
    token_embeddings: torch.Tensor
    output_bias: torch.Tensor
    tokenizer: PreTrainedTokenizerBase
    lineage: Lineage
    details: dict[str, Any] = field(default_factory=dict)
    output_embeddings: torch.Tensor | None = None
    kind: Kind = "swapped"
    ids: torch.Tensor | None = None

    def __post_init__(self) -> None:
        """Raises `UserError` for parts that no model could use together, and a language that is no language code."""
        check_code(self.language, "language pack: language")
        matrix, bias = self.token_embeddings, self.output_bias
        if matrix.ndim != 2 or bias.shape != matrix.shape[:1]:
            raise UserError(
                f"pack '{self.language}': token embeddings of shape {list(matrix.shape)} and an output bias of shape "
                f"{list(bias.shape)} do not fit each other"
            )
        output = self.output_embeddings
        if output is not None and output.shape != matrix.shape:
            raise UserError(
                f"pack '{self.language}': an output matrix of shape {list(output.shape)} does not fit token embeddings "
                f"of shape {list(matrix.shape)}"
            )
        outputs = [] if output is None else [("output matrix", output)]
        for name, tensor in (("token embeddings", matrix), ("output bias", bias), *outputs):
            if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
                raise UserError(
                    f"pack '{self.language}': its {name} hold values that are no finite numbers; learn it again"
                )

    def __repr__(self) -> str:
        """A line; its tensors and settings would fill pages."""
        pieces, width = self.token_embeddings.shape
        return f"LanguagePack(language={self.language!r}, kind={self.kind!r}, pieces={pieces}, width={width})"

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All that it holds."""
        output = self.output_embeddings
        return (self.token_embeddings, self.output_bias, *(() if output is None else (output,)))

    def save(self, directory: str | Path) -> None:
        """Write the pack; an existing one is replaced only by a whole one, and what is no pack by none: `UserError`."""
        directory = Path(directory)
        if directory.exists() and not (directory / DESCRIPTION).is_file() and not _is_empty(directory):
            raise UserError(f"{directory}: is there already and no language pack; move it away, or choose another run")
        with writing(directory), folder_written_whole(directory, replace=True) as aside:
            self._write(aside)

    def _write(self, aside: Path) -> None:
        tensors = {"token_embeddings": self.token_embeddings, "output_bias": self.output_bias}
        if self.output_embeddings is not None:
            tensors["output_embeddings"] = self.output_embeddings
        tensors = {name: tensor.detach().cpu().float().contiguous() for name, tensor in tensors.items()}
        write_tensors(tensors | ({} if self.ids is None else {"ids": self.ids.cpu()}), aside / _EMBEDDINGS)
        save_tokenizer(self.tokenizer, aside, [])
        description = {
            "format": FORMAT if self.kind == "swapped" else FORMAT_OF_PARTS,
            "language": self.language,
            **({} if self.kind == "swapped" else {"kind": self.kind}),
            "lineage": self.lineage,
            "special_tokens": special_roles(self.tokenizer),
            "embeddings_sha256": sha256_of(aside / _EMBEDDINGS),
            "tokenizer_sha256": fingerprint(self.tokenizer),
            **self.details,
        }
        text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
        (aside / DESCRIPTION).write_text(text, encoding="utf-8", errors="replace")
        card = pack_card(self.language, self.token_embeddings.shape, self.lineage, self.details, self.kind)
        (aside / "README.md").write_text(card, encoding="utf-8", errors="replace")

    def push_to_hub(
        self,
        name: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        message: str = "A language pack of megamini",
        token: str | None = None,
    ) -> str:
        """Upload the pack to the repository `name` of the hub, which is made if there is none; returns its address.

        `revision` is a branch, made if there is none. Without `token` the login of `huggingface_hub` counts. Raises
        `UserError` where the hub refuses, or cannot be reached.
        """
        with tempfile.TemporaryDirectory(prefix="megamini-") as folder:
            self.save(Path(folder) / "pack")
            return upload(Path(folder) / "pack", name, private, revision, message, token)

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str | None = None) -> "LanguagePack":
        """The pack in a folder, or in the repository `name` of the hub. Raises `UserError` as `load` does."""
        return cls.load(local_folder(name, revision))

    @classmethod
    def load(cls, directory: str | Path) -> "LanguagePack":
        """Read a pack; `UserError` where a file is missing, torn, or not what was written."""
        directory = Path(directory)
        description = read_description(directory)
        weights = directory / _EMBEDDINGS
        if not weights.is_file():
            raise UserError(f"{weights}: missing; fetch the whole pack again")
        if sha256_of(weights) != description["embeddings_sha256"]:
            raise UserError(f"{weights}: does not have the checksum in {DESCRIPTION}, torn? Fetch the pack again")
        try:
            tensors = load_file(weights)
        except (SafetensorError, ValueError) as error:
            raise UserError(f"{weights}: not a safetensors file: {error}") from None
        if not {"token_embeddings", "output_bias"} <= tensors.keys():
            raise UserError(f"{weights}: lacks token_embeddings or output_bias; not of a language pack")
        if tensors["token_embeddings"].ndim != 2:
            raise UserError(f"{weights}: its token embeddings are no matrix; not of a language pack")
        tokenizer = load_tokenizer(directory)
        if fingerprint(tokenizer) != description["tokenizer_sha256"]:
            raise UserError(f"{directory}: the tokenizer is not the one in {DESCRIPTION}; fetch the whole pack again")
        kind, ids = description.get("kind", "swapped"), tensors.get("ids")
        check_rows(kind, len(tensors["token_embeddings"]), ids, len(tokenizer), str(directory))
        known = {"format", "language", "kind", "lineage", "special_tokens", "embeddings_sha256", "tokenizer_sha256"}
        try:
            return cls(
                description["language"],
                tensors["token_embeddings"],
                tensors["output_bias"],
                tokenizer,
                description["lineage"],
                {key: value for key, value in description.items() if key not in known},
                tensors.get("output_embeddings"),
                kind,
                ids,
            )
        except UserError as error:
            raise UserError(f"{weights}: {error}") from None


def plug(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pack: LanguagePack | str | Path
) -> PreTrainedTokenizerBase:
    """Give `model` the pack's language, in place; returns the tokenizer to use from now on.

    `model` is any `transformers` model of the lineage: the primary, a mini-model, or a task model fine-tuned with
    frozen token embeddings; `tokenizer` is the one it speaks; `pack` may be its folder or hub name. Body and task head
    are not touched. Special tokens take the ids that they have in `tokenizer`, by role, and the places that it gives
    them around texts and pairs, so that position ids, segments, padding and the configuration hold as before; the
    tokenizer that comes back truncates at the model's positions. The model keeps a copy of its own embeddings, for
    `unplug`. An extension goes beside other extensions that are plugged in, and takes the place of any other pack. Of a
    piece that two extensions have the row that is there first stays, and a warning says of how many. Raises `UserError`
    when all pieces of an extension are there already with other rows, and when the lineage is another one: other
    embeddings (another seed, trained since) or another tokenizer.
    """
    if not hasattr(model, "get_input_embeddings") or not isinstance(pack, LanguagePack | str | Path):
        given = ", ".join(type(one).__name__ for one in (model, tokenizer, pack))
        raise UserError(f"plug takes a model, its tokenizer and a pack, in this order; given are: {given}")
    if not isinstance(pack, LanguagePack):
        pack = LanguagePack.from_pretrained(pack)
    pack = fitted(model, tokenizer, pack)
    dtype = token_matrix(model).dtype
    if not all(torch.isfinite(one.to(dtype)).all() for one in pack.tensors):
        raise UserError(f"pack '{pack.language}': has numbers too large for {dtype}; load the model in fp32 or bf16")
    speaks = _vocabulary_with(model, tokenizer, pack)
    if speaks.left_out:
        warnings.warn(
            f"pack '{pack.language}': {speaks.left_out} of its {len(pack.output_bias):,} pieces are those of a pack "
            "that is plugged in already, with other rows; the rows that are there stay",
            stacklevel=2,
        )
    keep(model, tokenizer)
    model.resize_token_embeddings(len(speaks.matrix), mean_resizing=False)
    with torch.no_grad():
        token_matrix(model).copy_(speaks.matrix)
        output = projection(model)
        if output is not None and output.bias is not None and speaks.bias is not None:
            output.bias.copy_(speaks.bias)
        own_output = output_matrix_of(model)
        if speaks.output is not None and own_output is not None:
            own_output.copy_(speaks.output)
    model.tie_weights()
    entry = {key: value for key, value in described(model.config).items() if key not in ("pack_kind", "own_pieces")}
    model.config.megamini = {**entry, "lineage": pack.lineage, "plugged": pack.language, **speaks.entry}
    return truncating(with_layout_of(speaks.tokenizer, tokenizer), model.config)


def _vocabulary_with(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pack: LanguagePack) -> Vocabulary:
    rows = pack.token_embeddings, pack.output_bias, pack.output_embeddings
    where = f"pack '{pack.language}'"
    return plugged_vocabulary(model, tokenizer, pack.kind, rows, pack.ids, pack.tokenizer, where)


def fitted(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pack: LanguagePack) -> LanguagePack:
    """The pack as it goes into `model`, of which only configuration and token embeddings are looked at, and which stays
    as it is. Raises `UserError` where it does not fit."""
    _check_lineage(model, tokenizer, pack)
    if pack.kind == "swapped":  # the others have the source's special tokens
        pack = _with_roles_of(pack, tokenizer)
    own_output = output_matrix_of(model) is not None
    if own_output and pack.output_embeddings is None:
        raise UserError(f"pack '{pack.language}': holds no output matrix, and this model's is not its token matrix")
    if pack.output_embeddings is not None and not own_output and projection(model) is not None:
        raise UserError(f"pack '{pack.language}': holds an output matrix, and this model's is its token matrix")
    width = token_matrix(model).shape[1]
    if width != pack.token_embeddings.shape[1]:
        raise UserError(f"pack '{pack.language}': has {pack.token_embeddings.shape[1]} dimensions, the model {width}")
    _vocabulary_with(model, tokenizer, pack)
    return pack


def pack_fingerprint(directory: str | Path) -> str:
    """Of a pack's rows and tokenizer, as its description has them. Raises `UserError` where it has none."""
    description = read_description(Path(directory))
    return fingerprint_of([description[key] for key in ("embeddings_sha256", "tokenizer_sha256")])


def _with_roles_of(pack: LanguagePack, tokenizer: PreTrainedTokenizerBase) -> LanguagePack:
    """The pack with each special role at the id that it has in `tokenizer`."""
    try:
        own, order = reindexed(pack.tokenizer, special_roles(tokenizer))
    except UserError as error:
        raise UserError(f"pack '{pack.language}': {error}") from None
    if own is pack.tokenizer:
        return pack
    rows, output = torch.from_numpy(order), pack.output_embeddings
    return replace(
        pack,
        token_embeddings=pack.token_embeddings[rows],
        output_bias=pack.output_bias[rows],
        output_embeddings=None if output is None else output[rows],
        tokenizer=own,
    )


def _check_lineage(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pack: LanguagePack) -> None:
    """A plugged model no longer holds its source matrix, so there the declared lineage counts."""
    own = declared_lineage(model) or lineage_of(model, tokenizer)
    if not same_embeddings(own, pack.lineage):
        half = token_matrix(model).dtype is torch.float16
        raise UserError(
            f"pack '{pack.language}' does not fit this model: it was learned beside other token embeddings (another "
            f"model, or they have been trained since{'; or the pack is old: load the model in fp32' if half else ''})"
        )
    if own["tokenizer_sha256"] != pack.lineage["tokenizer_sha256"]:
        raise UserError(f"pack '{pack.language}' does not fit this model: it was learned beside another tokenizer")


def _is_empty(directory: Path) -> bool:
    return directory.is_dir() and not any(directory.iterdir())
