"""Made-up language tasks as files in the layout of the Hub, for tests of what reads them."""

import numpy as np
import pandas as pd

from hies.tasks import TASKS

WORDS = ["sun", "moon", "river", "stone", "bird", "tree", "cloud", "house", "road", "salt", "lamp", "glass", "wind",
         "fire", "snow", "leaf", "hill", "boat", "bell", "coin"]  # fmt: skip
SUBJECTS = ("astronomy", "anatomy", "virology")
SIZES = {"test": 23, "validation": 26, "train": 40}


def sentence(draw, words=5):
    return " ".join(draw.choice(WORDS, words))


def hellaswag(draw, i):
    endings = [f"{sentence(draw, k)} [x] [title] {sentence(draw, 1)}" for k in (2, 5, 3, 4)]
    context = {"ctx_a": f"{i} {sentence(draw)}", "ctx_b": sentence(draw, 2), "activity_label": "Going out"}
    return {**context, "endings": endings, "label": str(draw.integers(4))}


def winogrande(draw, i):
    one, other = draw.choice(WORDS, 2, replace=False)
    text = f"{i} {sentence(draw)} because the _ was {sentence(draw, 3)}."
    return {"sentence": text, "option1": one, "option2": other, "answer": str(1 + draw.integers(2))}


def choices(draw, names):
    return {"text": [sentence(draw, draw.integers(1, 5)) for _ in names], "label": list(names)}


def arc(draw, i):
    names = ("ABCD", "1234", "ABC", "ABCDE")[i % 4]
    right = names[draw.integers(len(names))]
    return {"question": f"{i} {sentence(draw)}?", "choices": choices(draw, names), "answerKey": right}


def openbookqa(draw, i):
    return {
        "question_stem": f"{i} {sentence(draw)}",
        "choices": choices(draw, "ABCD"),
        "answerKey": draw.choice([*"ABCD"]),
    }


def piqa(draw, i):
    return {
        "goal": f"{i} {sentence(draw)}",
        "sol1": sentence(draw, draw.integers(2, 6)),
        "sol2": sentence(draw, draw.integers(2, 6)),
        "label": draw.integers(2),
    }


def mmlu(draw, i):
    options = [sentence(draw, 2) for _ in range(4)]
    question = {"question": f" {i} {sentence(draw)}? ", "subject": SUBJECTS[i * len(SUBJECTS) // 60 % 3]}
    return {**question, "choices": options, "answer": draw.integers(4)}


def gsm8k(draw, i):
    return {"question": f"{i} {sentence(draw)}?", "answer": f"{sentence(draw)}.\n#### {draw.integers(1, 2000):,}"}


MAKERS = {"hellaswag": hellaswag, "winogrande": winogrande, "arc_easy": arc, "arc_challenge": arc,
          "openbookqa": openbookqa, "piqa": piqa, "mmlu": mmlu, "gsm8k": gsm8k}  # fmt: skip


def write(root, repository, configs):
    """Tables by configuration and split, in the layout of a repository of the Hub."""
    lines = ["---", "configs:"]
    for config, splits in configs.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        for split, rows in splits.items():
            file = root / repository / config / f"{split}-00000-of-00001.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            rows.to_parquet(file)
            lines += [f"  - split: {split}", f"    path: {config}/{split}-*"]
    (root / repository / "README.md").write_text("\n".join([*lines, "---", ""]))
    return root


def made_up(name, splits, mark=0):
    draw = np.random.default_rng([mark, len(name)])
    return {split: pd.DataFrame([MAKERS[name](draw, i) for i in range(SIZES[split])]) for split in splits}


def copy_of(root, name, without=(), mark=0):
    """A made-up copy of a task's data set."""
    kind = TASKS[name]
    if name == "mmlu":
        return write(root, kind.repository, {"all": mmlu_tables()})
    splits = [split for split in ("train", kind.reported) if split not in without]
    return write(root, kind.repository, {kind.config: made_up(name, splits, mark)})


def mmlu_tables():
    """Three subjects of different size, five examples of each in `dev`."""
    draw, tables = np.random.default_rng(3), {}
    for split, sizes in {"dev": (5, 5, 5), "validation": (2, 4, 1), "test": (9, 3, 7)}.items():
        rows = [{**mmlu(draw, i), "subject": s} for s, n in zip(SUBJECTS, sizes, strict=True) for i in range(n)]
        tables[split] = pd.DataFrame(rows)
    return tables
