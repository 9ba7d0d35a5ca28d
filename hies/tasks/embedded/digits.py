"""Tasks about the handwritten digits that scikit-learn carries: no download, and small enough for any machine."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hies.errors import ParameterError
from hies.storage import digest
from hies.tasks.base import ClassifierTask
from hies.tasks.splits import Split, Splits
from hies.tasks.vqa.visual import VisualTask

if TYPE_CHECKING:
    from transformers import LlavaProcessor, PreTrainedTokenizerFast


DRAW_VERSION = 1  # to be raised when the same knobs give other data
DIGIT_SIZES = 1000, 297, 500  # train, selection, report, of the 1,797 images that scikit-learn carries


@dataclass(frozen=True)
class Digits(ClassifierTask):
    """scikit-learn's handwritten digits.

    Attributes:
        data_seed: decides which images fall into which split.
    """

    name: ClassVar[str] = "digits"
    modality: ClassVar[str] = "image"

    data_seed: int = 0

    def label_names(self, data_root: Path | None = None) -> tuple[str, ...]:
        """Returns the ten digits."""
        return tuple("0123456789")

    def identity(self, data_root: Path | None) -> str:
        """Returns a digest of the draw; the images themselves have been the same in every version of scikit-learn."""
        return digest(["digits", DRAW_VERSION, *DIGIT_SIZES, self.data_seed])

    def load(self, data_root: Path | None, cache_dir: Path) -> Splits:
        """Returns 1,000 images for training, 297 for selection and 500 to report, digits alike in all of them."""
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        images = (pixels.reshape(-1, 1, 8, 8) / 8 - 1).astype(np.float32)  # [images, 1, 8, 8], 0..16 -> -1..1
        every = Split({"pixel_values": images}, labels.astype(np.int64))
        _, selection, report = DIGIT_SIZES
        train, rest = self._divide(np.arange(len(labels)), labels, selection + report)
        return Splits(every.take(train), *map(every.take, self._divide(rest, labels, report)))

    def _divide(self, indices: np.ndarray, labels: np.ndarray, size: int) -> list[np.ndarray]:
        from sklearn.model_selection import train_test_split

        return train_test_split(indices, test_size=size, random_state=self.data_seed, stratify=labels[indices])


QUESTIONS_VERSION = 1  # to be raised when the same knobs give other data
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
QUESTIONS = {
    "Which digit is this?": DIGITS,
    "Is this digit even?": tuple("no" if digit % 2 else "yes" for digit in range(10)),
    "Is this digit larger than four?": tuple("yes" if digit > 4 else "no" for digit in range(10)),
}  # question -> its answer for each digit
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
TEMPLATE = (
    "{% for message in messages %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }} {% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)  # LLaVA-1.5's form of one question


@dataclass(frozen=True)
class DigitQuestions(VisualTask):
    """Three questions about each of scikit-learn's digits, answered in one word.

    Attributes:
        data_seed: decides which images fall into which split, as in the task `digits`.
    """

    name: ClassVar[str] = "digit_questions"
    max_new_tokens: ClassVar[int] = 2
    small: ClassVar[bool] = True  # training reads these images in every epoch

    data_seed: int = 0

    def identity(self, data_root: Path | None) -> str:
        """Returns a digest of the questions and the draw of the images."""
        return digest([QUESTIONS_VERSION, QUESTIONS, self._digits().identity(None)])

    def load(self, data_root: Path | None, cache_dir: Path) -> Splits:
        """Returns every question about 1,000 images to train on and 500 for the report, one about 297 for selection."""
        images = self._digits().load(data_root, cache_dir)
        return Splits(ask(images.train, 3), ask(images.selection, 1), ask(images.report, 3))

    def _digits(self) -> Digits:
        return Digits(data_seed=self.data_seed)

    def make_processor(self, train: Split, architecture: dict[str, Any], max_length: int) -> LlavaProcessor:
        """Returns a tokenizer with a word for each that occurs, and an image processor.

        Raises:
            ParameterError: the architecture is no LLaVA, or has too few words.
        """
        from transformers import LlavaProcessor
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        kind, vision, words = architecture.get("model_type"), architecture.get("vision_config"), vocabulary()
        if kind != "llava" or not vision:
            expected = f"task={self.name} trains llava, with a vision_config and a text_config"
            raise ParameterError("architecture.model_type", kind, expected)
        if (size := architecture.get("text_config", {}).get("vocab_size", 0)) < len(words):
            expected = f"task={self.name} has {len(words)} words"
            raise ParameterError("architecture.text_config.vocab_size", size, expected)
        sides, half = {"height": vision["image_size"], "width": vision["image_size"]}, [0.5] * 3
        return LlavaProcessor(
            CLIPImageProcessorPil(size=sides, do_center_crop=False, image_mean=half, image_std=half),
            _tokenizer(words),
            patch_size=vision["patch_size"],
            vision_feature_select_strategy=architecture.get("vision_feature_select_strategy", "default"),
            num_additional_image_tokens=1,  # the vision tower's class token
            chat_template=TEMPLATE,
        )

    def network_options(self, data_root: Path | None, architecture: dict[str, Any], processor: Any) -> dict[str, Any]:
        """Returns the token that stands for the image."""
        return {"image_token_index": processor.image_token_id}


def ask(images: Split, rounds: int) -> Split:
    """Returns `rounds` questions about each image, one a round, so that the first examples of a split ask everything.

    Args:
        images: of the task `digits`, pixels from -1 to 1, the digits as labels.
        rounds: 1 to 3.
    """
    files = [_file(pixels) for pixels in images.inputs["pixel_values"]]
    texts = list(QUESTIONS)
    order = [(i, texts[(i + shift) % len(texts)]) for shift in range(rounds) for i in range(len(images))]
    labels = [QUESTIONS[text][images.labels[i]] for i, text in order]
    return Split({"image": [files[i] for i, _ in order], "question": [text for _, text in order]}, np.array(labels))


def vocabulary() -> list[str]:
    """Returns all words of prompts and answers in the order of their indices."""
    words = {"user", "assistant", ":", "?", "yes", "no", *DIGITS}
    for text in QUESTIONS:
        words.update(text.lower().removesuffix("?").split())
    return [*SPECIAL, *sorted(words)]


def _file(pixels: np.ndarray) -> bytes:
    """Returns pixels from -1 to 1, float32 [1, height, width], as a grey PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.rint((pixels[0] + 1) * 127.5).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pad, start, end, unknown, image = SPECIAL
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=unknown))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single=f"{start} $A", special_tokens=[(start, 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=pad,
        bos_token=start,
        eos_token=end,
        unk_token=unknown,
        extra_special_tokens={"image_token": image},
        padding_side="left",
    )
