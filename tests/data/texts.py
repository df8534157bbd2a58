"""Real text in several scripts for the data tests: documents that all differ, being numbered."""

import json
import random
from pathlib import Path

SENTENCES = [
    "The mill by the river has not turned since the flood of last spring.",
    "Nobody had told the children why the bells were ringing so early.",
    "A good map shows less than the land, and that is why it helps.",
    "Die Straße führt über die alte Brücke und endet vor dem Größenvergleich.",
    "Gestern fragte sie, ob das Brot schon kühl genug zum Schneiden sei.",
    "Äpfel, Öl und süße Mandeln: mehr braucht der Kuchen nicht.",
    "Вчера вечером мы долго говорили о том, почему замёрзла река.",
    "Библиотека открыта каждый день, кроме понедельника.",
    "Сколько стоит билет до следующей станции?",
    "昨天晚上我们谈了很久，谁也不想先回家。",
    "图书馆每天开放，星期一除外。",
    "这张地图比土地简单，所以有用。",
    "She answered with one sign only: 🙂, then 👩‍🌾 and 🇩🇪.",
    "Prices: 3,50 €; ½ litre; the oﬃce is at № 7.",
]


def documents(count: int, seed: int = 0) -> list[str]:
    """`count` different documents of one to three lines, no blank line inside."""
    draw = random.Random(seed)
    texts = []
    for number in range(count):
        lines = [" ".join(draw.choices(SENTENCES, k=draw.randint(1, 6))) for _ in range(draw.randint(1, 3))]
        texts.append(f"{number}. " + "\n".join(lines))
    return texts


def write_text(path: Path, texts: list[str]) -> Path:
    """A blank line between documents."""
    path.write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    return path


def write_json_lines(path: Path, texts: list[str], **columns: list) -> Path:
    records = ({"text": text, **{name: values[n] for name, values in columns.items()}} for n, text in enumerate(texts))
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path
