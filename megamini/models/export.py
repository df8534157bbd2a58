"""Write a model as an ordinary checkpoint of `transformers`, and prove that it is one before calling it done.

Tensors are written, and read back, one file of a gigabyte at a time: a model need not fit into memory.
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import safe_open
from tqdm import tqdm
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from megamini.data.read_again import PROBE, advice_for, gives_the_same
from megamini.data.tokenizer import encoder, for_prompts
from megamini.errors import UserError, writing
from megamini.files import folder_written_whole, write_tensors
from megamini.models.families import family_of, truncating
from megamini.models.lineage import declared_lineage, lineage, output_matrix_of
from megamini.models.pretrained import names_in_files, saved_tensors
from megamini.models.primary_model import assert_tied

Read = Callable[[str], torch.Tensor]

_FILE_BYTES = 2**30
_LOADED_BYTES = 2 * 2**30  # of an outline that is also loaded as a whole once it is written


def export_checkpoint(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    description: dict,
    card: str,
    read: Read | None = None,
) -> None:
    """Write weights (safetensors), configuration, tokenizer and model card into `out`, which must not exist.

    read: gives the tensors of a `model` that lies on the meta device, by the names of its state dict; unset, they are
    the model's own. `description` and the lineage are kept in `config.json` under `megamini`; a model with a pack
    plugged in keeps the lineage that it declares. What was written is read again: every tensor that plain
    `transformers` expects of that `config.json`, in shape, and no other, equal bit for bit; embeddings tied, equal
    token ids. The tokenizer is to truncate at the model's positions, and a decoder's to leave the end of a text open.
    Models in memory, and outlines of at most 2 GiB,
    are also loaded: nothing missing or unexpected, and for a model in memory equal outputs. Else `UserError`.
    """
    if out.exists():
        raise UserError(f"{out} exists already; give another folder, or remove it")
    if model.get_output_embeddings() is not None:
        assert_tied(model)
    read = read or model.state_dict().__getitem__
    tokenizer = truncating(tokenizer, model.config)
    if family_of(model.config).causal:
        tokenizer = for_prompts(tokenizer)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    matrix, output = read(names[id(model.get_input_embeddings().weight)]), output_matrix_of(model)
    output = None if output is None else read(names[id(output)])
    own = declared_lineage(model) or lineage(matrix, tokenizer, output)
    model.config.megamini = {**description, "lineage": own}
    with writing(out), folder_written_whole(out) as aside:
        _write_weights(model, read, aside)
        tokenizer.save_pretrained(aside)
        (aside / "README.md").write_text(card, encoding="utf-8")
        _verify(model, tokenizer, aside, read)


def _write_weights(model: PreTrainedModel, read: Read, directory: Path) -> None:
    """`config.json` and the weights, as the library's `save_pretrained` lays them out."""
    model.config.architectures = [type(model).__name__]
    model.config.dtype = "float32"
    model.config.save_pretrained(directory)
    own, tensors = names_in_files(model), saved_tensors(model)
    plan = split_torch_state_dict_into_shards(
        {name: tensors[own[name]] for name in own},
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=_FILE_BYTES,
    )
    for file, names in tqdm(plan.filename_to_tensors.items(), "writing", unit="file", disable=not plan.is_sharded):
        values = {name: read(own[name]).contiguous() for name in names}
        write_tensors(values, directory / file, metadata={"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (directory / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _verify(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path, read: Read) -> None:
    """Raise `UserError` unless plain `transformers` gets back what was written."""
    with torch.device("meta"):
        reader = type(model)(AutoConfig.from_pretrained(directory, trust_remote_code=False))
    if reader.get_output_embeddings() is not None:
        assert_tied(reader)
    own, tensors = names_in_files(reader), saved_tensors(reader)
    expected, found = {name: tensors[own[name]] for name in own}, {}
    files = sorted(directory.glob("*.safetensors"))
    for path in tqdm(files, "reading again", unit="file", disable=len(files) == 1):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                found[name] = path.name
                written = file.get_tensor(name)
                is_known = name in expected and written.shape == expected[name].shape
                if not is_known or not written.equal(read(own[name])):
                    raise UserError(f"{path}: '{name}' is not what was to be written")
    if lost := expected.keys() - found.keys():
        raise UserError(f"{directory}: the exported checkpoint lacks '{min(lost)}'")
    if len(files) > 1 and json.loads((directory / SAFE_WEIGHTS_INDEX_NAME).read_text())["weight_map"] != found:
        raise UserError(f"{directory}: {SAFE_WEIGHTS_INDEX_NAME} does not say where the tensors are")
    loaded_tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    if not gives_the_same(tokenizer, loaded_tokenizer):
        advice = advice_for(model.config.model_type)
        raise UserError(f"{directory}: the exported tokenizer gives other ids than the one of the run{advice}")
    if model.device.type != "meta" or sum(path.stat().st_size for path in files) <= _LOADED_BYTES:
        _verify_loaded(model, encoder(tokenizer).encode(PROBE).ids, directory)


def _verify_loaded(model: PreTrainedModel, ids: list[int], directory: Path) -> None:
    again, report = type(model).from_pretrained(directory, output_loading_info=True, trust_remote_code=False)
    problems = [f"{kind}: {sorted(names)[0]}" for kind, names in report.items() if names]
    if problems:
        raise UserError(f"{directory}: the exported checkpoint does not load cleanly: {'; '.join(problems)}")
    if again.get_output_embeddings() is not None:
        assert_tied(again)
    if model.device.type == "meta":
        return  # no outputs to compare with
    probe = torch.tensor([ids[: min(len(ids), model.config.max_position_embeddings // 2)]])
    with torch.no_grad():
        # The first output: logits of a masked LM or a classifier, start logits of a reader.
        difference = (again.eval()(probe)[0] - model.eval()(probe)[0]).abs().max().item()
    if not difference <= 1e-5:
        raise UserError(f"{directory}: the exported model's logits differ by {difference:.2g}")
