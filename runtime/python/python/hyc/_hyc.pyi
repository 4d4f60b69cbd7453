import sys
from collections.abc import Iterator, Sequence
from os import PathLike
from typing import Any, Literal, final

__all__ = [
    "Batch",
    "Error",
    "Event",
    "Floats",
    "Generation",
    "Model",
    "Session",
    "__version__",
    "compile",
    "load",
]

__version__: str

class Error(Exception):
    """What went wrong: `kind` says whose fault it is, `help` what to do."""

    kind: str
    help: str | None

@final
class Event:
    """What happens in a continuation."""

    @property
    def kind(self) -> Literal["prefill", "token", "text", "end"]: ...
    @property
    def token(self) -> int | None: ...
    @property
    def text(self) -> str | None: ...
    @property
    def done(self) -> int | None: ...
    @property
    def total(self) -> int | None: ...
    @property
    def finish(self) -> Literal["length", "stop", "context"] | None: ...

@final
class Floats:
    """A row of f32, which `numpy.asarray` and `memoryview` take without a copy."""

    def __len__(self) -> int: ...
    if sys.version_info >= (3, 12):
        def __buffer__(self, flags: int, /) -> memoryview: ...

    def tolist(self) -> list[float]: ...

@final
class Model:
    """A loaded model; threads share it."""

    @property
    def name(self) -> str: ...
    @property
    def vocab(self) -> int: ...
    @property
    def layers(self) -> int: ...
    @property
    def block(self) -> int:
        """Tokens of a block of the selection, which is a page of the KV caches."""

    @property
    def max_context(self) -> int: ...
    @property
    def max_batch(self) -> int: ...
    @property
    def plan(self) -> dict[str, Any]: ...
    @property
    def graph(self) -> str | None: ...
    def encode(self, text: str, *, bare: bool = False) -> list[int]: ...
    def decode(self, tokens: Sequence[int]) -> str: ...
    def session_bytes(
        self, *, threads: int | None = None, max_sequences: int | None = None, max_tokens: int | None = None
    ) -> int: ...
    def session(
        self, *, threads: int | None = None, max_sequences: int | None = None, max_tokens: int | None = None
    ) -> Session: ...

@final
class Session:
    """A model with caches and threads. One call at a time: another thread's is an `Error` of kind `busy`."""

    @property
    def model(self) -> Model: ...
    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        sequence: int | None = None,
        max_new_tokens: int = 256,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        seed: int | None = None,
        stop: Sequence[str] | None = None,
        stop_tokens: Sequence[int] | None = None,
        ignore_eos: bool = False,
        show_special: bool = False,
    ) -> Generation: ...
    def batch(
        self,
        prompts: Sequence[str | Sequence[int]],
        *,
        max_new_tokens: int = 256,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        seed: int | None = None,
        stop: Sequence[str] | None = None,
        stop_tokens: Sequence[int] | None = None,
        ignore_eos: bool = False,
        show_special: bool = False,
    ) -> Batch: ...
    def add_sequence(self) -> int: ...
    def remove_sequence(self, sequence: int) -> None: ...
    def fork(self, sequence: int) -> int: ...
    def truncate(self, sequence: int, len: int) -> None: ...
    def tokens(self, sequence: int) -> list[int]: ...
    def feed(self, sequence: int, tokens: Sequence[int]) -> None: ...
    def step(self) -> dict[int, int]: ...
    def output(self, sequence: int, name: Literal["logits", "hidden"]) -> Floats: ...
    def selections(self, sequence: int, tokens: Sequence[int]) -> dict[int, list[list[list[int]]]]: ...

@final
class Generation:
    """A continuation: an iterator over its events."""

    def __iter__(self) -> Iterator[Event]: ...
    def __next__(self) -> Event: ...
    def cancel(self) -> None: ...
    def run(self) -> str: ...
    @property
    def tokens(self) -> list[int]: ...
    @property
    def text(self) -> str: ...
    @property
    def finish(self) -> Literal["length", "stop", "context"]: ...
    @property
    def seed(self) -> int: ...
    def output(self, name: Literal["logits", "hidden"]) -> Floats: ...

@final
class Batch:
    """Continuations of several prompts: an iterator over whose event it is, and the event or what went wrong."""

    def __iter__(self) -> Iterator[tuple[int, Event | Error]]: ...
    def __next__(self) -> tuple[int, Event | Error]: ...
    def cancel(self, index: int) -> None: ...
    def run(self) -> list[str | Error]: ...

def compile(
    model: str | PathLike[str],
    output: str | PathLike[str],
    *,
    cpu: Literal["native", "v3", "baseline"] = "native",
) -> int:
    """Compiles a description with its weights into one file, and returns its bytes."""

def load(
    path: str | PathLike[str],
    *,
    verify: Literal["on-read", "full", "never"] = "on-read",
    copied: bool = False,
    random_weights: int | None = None,
) -> Model:
    """Loads a compiled model. Loading one is running a program: load what you would execute."""
