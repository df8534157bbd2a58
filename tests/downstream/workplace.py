"""A tiny primary model with a real tokenizer, a language pack for it, and task files, made for a test."""

import json
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForMaskedLM

from megamini.adaptation.packs.language_pack import LanguagePack
from megamini.data.tokenizer import load_tokenizer, train_unigram
from megamini.models.lineage import lineage_of

PROSE = Path(__file__).resolve().parents[1] / "integration" / "prose.txt"
WIDTH, LENGTH = 16, 64
GERMAN = (
    "Das Brot wird aus Mehl, Wasser, Hefe und Salz gebacken. Der Teig ruht eine Stunde lang an einem warmen Ort. "
    "Danach kommt er in den heißen Ofen, bis die Kruste braun ist. Viele Bäcker beginnen ihre Arbeit in der Nacht. "
)


def make_primary(folder: Path, length: int = LENGTH) -> Path:
    """A checkpoint of 2 layers with 400 pieces and the lineage that an export has."""
    tokenizer = train_unigram(PROSE.read_text(encoding="utf-8").splitlines(), 400, 0.9998, folder.parent / "sample.txt")
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "xlm-roberta",
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=length + 2,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = AutoModelForMaskedLM.from_config(config)
    with torch.no_grad():  # outputs that differ from text to text, as a trained model's do
        model.get_input_embeddings().weight.mul_(50)
    model.config.megamini = {"language": "en", "lineage": lineage_of(model, tokenizer)}
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_pack(primary: Path, folder: Path, language: str = "de", seed: int = 1) -> Path:
    """A pack with a tokenizer and a vocabulary size of its own, and random rows."""
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(primary), load_tokenizer(primary)
    folder.parent.mkdir(parents=True, exist_ok=True)
    own = train_unigram([GERMAN] * 3, 360, 0.9998, folder.parent / "sample.txt")
    draw = torch.Generator().manual_seed(seed)
    matrix, bias = torch.randn(len(own), WIDTH, generator=draw), torch.randn(len(own), generator=draw)
    LanguagePack(language, matrix, bias, own, lineage_of(model, tokenizer), {"method": "mini"}).save(folder)
    return folder


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write_texts(folder: Path, language: str, count: int = 24) -> None:
    """A task that can be learned: sentences on bread or on water, in files as the task `custom` reads them."""
    words = {"bread": "Bread is baked from flour", "water": "The river carries cold water"}
    rows = [(f"{text} {number}", label) for number in range(count) for label, text in words.items()]
    for split, part in (("train", rows), ("test", rows[: count // 2])):
        write(folder / f"{split}-{language}.tsv", "".join(f"{text}\t{label}\n" for text, label in part))


def write_pages(folder: Path, languages: tuple[str, ...], count: int = 6) -> None:
    """Parallel pages as tools/fetch_text.py writes them."""
    for language in languages:
        pages = [
            {"id": f"swriter/{n}.html", "text": f"Page {n * n} says {n} in {language}", "label": "swriter"}
            for n in range(count)
        ]
        write(folder / f"libreoffice-help.{language}.jsonl", "".join(json.dumps(page) + "\n" for page in pages))


def finetune_recipe(primary: Path, folder: Path, **tasks: dict) -> dict:
    return {
        "name": "tuned",
        "model": {"primary": str(primary)},
        "tasks": tasks or {"topic": custom(folder / "texts")},
        "optimizer": {"learning_rate": 0.003},
        "schedule": {"updates": 4},
        "training": {"global_batch": 8, "micro_batch": 8, "runs": str(folder / "runs")},
    }


def custom(path: Path) -> dict:
    files = {"train": "train-{language}.tsv", "test": "test-{language}.tsv"}
    return {
        "task": "custom", "kind": "classification", "path": str(path), "files": files, "validation_split": "test",
    }  # fmt: skip


def evaluate_recipe(folder: Path, packs: dict[str, Path], **tasks: dict) -> dict:
    task = {key: value for key, value in custom(folder / "texts").items() if key != "validation_split"}
    return {
        "name": "zero-shot",
        "model": {"finetuned": str(folder / "runs" / "tuned")},
        "packs": {name: str(path) for name, path in packs.items()},
        "tasks": tasks or {"topic": task},
        "evaluation": {"runs": str(folder / "runs")},
    }
