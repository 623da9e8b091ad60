"""What answers inside a worker's process: an exported model, or the packaged embedder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from search.serve.batch_times import batched
from search.serve.generation_request import timed
from search.serve.hanging import CallPace, warmed
from search.serve.variants import Variant

#: Makes, in the process, what answers there: an object with `answer`, and for language models `generate` and `timed`.
#: Its first call compiles and allocates, so whoever makes it calls it once: later calls have no time for that.
Factory = Callable[[Any], Any]


def loaded(folder: Path, device: str, prefix_mb: float) -> Any:
    """An exported model, ready for rows of any length.

    A language model stores so many MB of prompts, if its cache can be reused.
    """
    from search.serve.generator import Generator
    from search.serve.pipeline import load
    from spaces.generation.prefix import reusable

    model = load(folder, device)
    model.prepare()
    if prefix_mb and isinstance(model, Generator) and reusable(model.program):
        model.reuse_prefixes(prefix_mb)
    return model


class ModelProcess:
    """An exported model, inside a worker's process. `stop` holds the number of the call to stop."""

    progress: Any = None  # set by the process: sends a piece to who waits

    def __init__(self, folder: Path, device: str, prefix_mb: float, stop: Any) -> None:
        from search.serve.pipeline import answering

        self._model: Any = loaded(folder, device, prefix_mb)
        self._answer, self._stop = answering(self._model), stop
        self._pace = warmed(self._model)

    def answer(self, rows: Sequence[Any]) -> list[Any]:
        return list(self._answer(rows))

    def generate(self, call: int, prompt: Any, options: Mapping[str, Any]) -> None:
        """Send the pieces of a completion until it ends or `stop` is the number of this call."""
        for piece in self._model.pieces(prompt, **options):
            if self._stop.value == call:
                return
            self.progress("piece", piece)

    def timed(self, variant: Variant) -> Variant:
        return timed(variant, self._model)

    def batched(self, variant: Variant) -> Variant:
        return batched(variant, self._model)

    def pace(self) -> CallPace:
        """The time of a call, as measured when the process was started."""
        assert self._pace is not None
        return self._pace


class EmbedderProcess:
    """The packaged embedder, inside its process."""

    def __init__(self, stop: Any) -> None:
        from search.serve.packaged_embedder import PackagedEmbedder

        self._embed = PackagedEmbedder()

    def answer(self, rows: Sequence[str]) -> Any:
        return self._embed(rows)

    def about(self) -> tuple[str, int]:
        """(digest, size of an embedding)."""
        return self._embed.digest, self._embed.size
