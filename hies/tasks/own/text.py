"""text: how well a language model reads on in a text file of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hies.errors import HiesError, ParameterError
from hies.tasks.base import Answers, PromptTask
from hies.tasks.checks import shown
from hies.tasks.choice_task import encode_texts
from hies.tasks.own.base import OwnData, sizes_in_words
from hies.tasks.own.files import called, read_text
from hies.tasks.splits import Split, Splits

if TYPE_CHECKING:
    from hies.batching import Encoded

FOLLOWING = 40  # characters of what comes after a piece, which the predicted token is compared with
SHORTEST = 20  # characters of a piece


@dataclass(frozen=True)
class OwnText(OwnData, PromptTask):
    """How well a language model reads on in a text file of one's own: its loss, and which token it expects next.

    The text is cut into pieces between words. The loss of a piece is the mean negative log-likelihood of its tokens, in
    nats, and exp(loss) the perplexity; quality is how often the text behind a piece goes on with the token that the
    model holds most likely, stability how often that is the token of the unpruned model.

    Attributes:
        characters: of a piece, at most.
    """

    characters: int = 400

    kind_name: ClassVar[str] = "text"
    example: ClassVar[str] = "FILE.txt"
    modality: ClassVar[str] = "language"
    metric: ClassVar[str] = "next_token"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.characters < SHORTEST:
            raise ParameterError("characters", self.characters, f"a piece has at least {SHORTEST}")

    def read(self, data_root: Path | None) -> Splits:
        """Returns pieces of text as `text`, with the text behind each as its label."""
        parts = {}
        for part, source in self.given().items():
            found = list(pieces(read_text(part, source, self.encoding), self.characters))
            texts, following = [piece for piece, _ in found], [after for _, after in found]
            parts[part] = Split({"text": texts}, np.array(following, dtype=f"<U{FOLLOWING}"))
        splits = self.divided(parts, unit="piece")
        self.warn_of_shared(parts, splits, "piece")
        return splits

    def encode(self, examples: Split, processor: Any, max_length: int, image_size: int | None = None) -> Encoded:
        """Returns the tokens of each piece, which are its labels too; of one with more than `max_length` the last.

        Raises:
            HiesError: a piece is a single token of this tokenizer, before which nothing stands that predicts it.
        """
        texts = list(examples.inputs["text"])
        encoded = encode_texts(texts, processor, max_length)
        if short := next((text for place, text in enumerate(texts) if encoded.length(place) < 2), None):
            raise HiesError(
                f"{self._place_of(short)}: {shown(short)} is a piece of a single token of this model, which has no "
                "loss; take out the blanks around it, or leave it out."
            )
        return encoded

    def _place_of(self, wanted: str) -> str:
        """Returns the file and the line that a piece begins in."""
        for part, source in self.given().items():
            text, place = read_text(part, source, self.encoding), 0
            for piece, _ in pieces(text, self.characters):
                place = text.index(piece, place)
                if piece == wanted:
                    return f"{called(source)}, line {text.count(chr(10), 0, place) + 1}"
                place += len(piece)
        return self.name or self.kind_name

    def prepare(self, examples: Split, processor: Any, max_length: int, image_size: int | None = None) -> Encoded:
        """Returns the encoded pieces."""
        return self.encode(examples, processor, max_length, image_size)

    def answers(self, network: Any, processor: Any, examples: Encoded, batch_size: int, precision: str) -> Answers:
        """Returns the token that comes next, as a text, and the loss of a token of each piece under both names."""
        from hies.tasks.own.continuation import read_on

        return read_on(network, processor, examples, batch_size, precision)

    def description(self, data_root: Path | None) -> str:
        """Returns what is read: files and splits."""
        sizes = sizes_in_words(self.in_use(data_root))
        return f"{self.name}: {self.origin()}; pieces of at most {self.characters} characters, {sizes}."


def pieces(text: str, characters: int) -> Iterator[tuple[str, str]]:
    """Yields successive pieces of a text, cut before a blank where there is one in their second half, and what follows.

    What is left at the end is none: nothing follows it.
    """
    start = 0
    while (end := start + characters) < len(text):
        blank = max(text.rfind(one, start + characters // 2, end + 1) for one in " \n\t")
        cut = end if blank < 0 else blank
        piece, after = text[start:cut].strip(), text[cut : cut + characters].strip()[:FOLLOWING]
        if piece and after:
            yield piece, after
        start = cut
