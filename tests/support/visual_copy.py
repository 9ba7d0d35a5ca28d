"""Made-up VizWiz-VQA and MM-Vet files in the Hub's layout, and a small LLaVA with random weights as a folder."""

import io

import numpy as np
import pandas as pd
import torch
import transformers as tf
from PIL import Image

from hies.tasks.embedded.digits import DigitQuestions
from hies.tasks.vqa import mmvet, vizwiz

WORDS = ("which", "digit", "is", "this", "even", "larger", "than", "four")
ANSWERS = ("Yes", "no.", "a four", "Unanswerable", "the 5")
VISION = {
    "model_type": "clip_vision_model", "image_size": 8, "patch_size": 4, "hidden_size": 10, "num_hidden_layers": 2,
    "num_attention_heads": 5, "intermediate_size": 13, "projection_dim": 7,
}  # fmt: skip
TEXT = {
    "model_type": "llama", "vocab_size": 41, "hidden_size": 21, "num_hidden_layers": 2, "num_attention_heads": 3,
    "num_key_value_heads": 3, "head_dim": 6, "intermediate_size": 17, "max_position_embeddings": 128,
}  # fmt: skip
LLAVA = {"model_type": "llava", "vision_feature_layer": -1, "vision_config": VISION, "text_config": TEXT}


def picture_file(seed, size=(11, 9), kind="PNG"):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def question(generator, length):
    return " ".join(generator.choice(WORDS, length)).capitalize() + "?"


def images(first, count):
    return [{"bytes": picture_file(i), "path": f"{i}.png"} for i in range(first, first + count)]


def vizwiz_rows(count, seed=0):
    """Rows with ten answers each, of which some agree."""
    generator = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "question_id": [f"VizWiz_{i}" for i in range(count)],
            "image": images(100 * seed, count),
            "question": [question(generator, 2 + i % 7) for i in range(count)],
            "answers": [list(generator.choice(ANSWERS, 10)) for _ in range(count)],
            "category": ["other"] * count,
        }
    )


def write_split(root, repository, split, rows, files=1):
    folder = root / repository / "data"
    folder.mkdir(parents=True, exist_ok=True)
    bounds = np.linspace(0, len(rows), files + 1).astype(int)
    for i in range(files):
        rows[bounds[i] : bounds[i + 1]].to_parquet(folder / f"{split}-{i:05}-of-{files:05}.parquet")


def write_copies(root, val=23, files=2, questions=7):
    """VizWiz-VQA's validation split and MM-Vet under `root`."""
    write_split(root, vizwiz.VIZWIZ_REPOSITORY, "val", vizwiz_rows(val), files)
    generator = np.random.default_rng(5)
    rows = pd.DataFrame(
        {
            "question_id": [f"v1_{i}" for i in range(questions)],
            "image": images(1000, questions),
            "question": [question(generator, 3 + i % 5) for i in range(questions)],
            "answer": ["four<AND>five", "yes", "no<OR>none", "a cat", "six", "seven", "eight"][:questions],
        }
    )
    write_split(root, mmvet.MMVET_REPOSITORY, "test", rows)
    return root


def random_llava(seed=0, spread=0.3):
    """A LLaVA (sites of 5, 5, 3, 3 heads) whose answers depend on image, question and heads; and its processor."""
    task = DigitQuestions()
    processor = task.make_processor(None, LLAVA, 64)
    torch.manual_seed(seed)
    config = tf.AutoConfig.for_model(**LLAVA, **task.network_options(None, LLAVA, processor))
    model = tf.AutoModelForImageTextToText.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, spread)
        model.lm_head.weight[processor.image_token_id] = 0  # hardly ever said: a loop without a cache could not read it
    return model, processor


def write_llava(folder, **options):
    for part in random_llava(**options):
        part.save_pretrained(folder)
    return folder
