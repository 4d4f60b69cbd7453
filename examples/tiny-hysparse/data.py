"""Text and the retrieval task: keys planted in running text, asked for later."""
import random
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

ADJECTIVES = "amber bright calm dark early faint gentle hidden iron jolly keen lucky misty noble olive pale".split()
NOUNS = ("anchor bridge castle desert engine forest garden harbor island jacket kettle lantern meadow needle ocean "
         "pillar").split()


def train_tokenizer(text: str, size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # One digit per token, and the words of the task among the training text.
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    task = "".join(plant(name, "1 2 3 4") + question(name) for name in names() for _ in range(40))
    tokenizer.train_from_iterator([text[i:i + 100_000] for i in range(0, len(text), 100_000)] + [task], trainer)
    return tokenizer


def names():
    return [f"{a} {n}" for a in ADJECTIVES for n in NOUNS]


def plant(name: str, key: str) -> str:
    return f"\nThe pass key of the {name} is {key}.\n"


def question(name: str) -> str:
    return f"\nQuestion: what is the pass key of the {name}? The pass key of the {name} is"


def new_key(rng: random.Random) -> str:
    return " ".join(str(rng.randrange(10)) for _ in range(6))


class Data:
    """Batches of token ids with loss weights; every batch follows from the seed and the step alone."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, part: str):
        cache = folder / f"{part}.{tokenizer.get_vocab_size()}.npy"
        if not cache.exists():
            documents = (folder / f"{part}.txt").read_text().split("\x0c")
            ids = [e.ids for e in tokenizer.encode_batch(documents)]
            np.save(cache, np.concatenate([np.array(i, dtype=np.uint16) for i in ids]))
        self.text = np.load(cache)
        self.tokenizer = tokenizer
        self.names = names()

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text).ids

    def filler(self, rng: random.Random, length: int) -> list[int]:
        start = rng.randrange(len(self.text) - length)
        return self.text[start:start + length].tolist()

    def retrieval(self, rng: random.Random, length: int, keys: int, questions: int):
        """Keys planted at random places of a text, questions at its end; ids and where answers stand."""
        chosen = rng.sample(self.names, keys)
        key_of = {name: new_key(rng) for name in chosen}
        plants = [self.encode(plant(name, key_of[name])) for name in chosen]
        tail, answers = [], []
        for name in rng.sample(chosen, questions):
            tail += self.encode(question(name))
            answer = self.encode(f" {key_of[name]}.")
            answers.append((len(tail), len(answer)))
            tail += answer
        text = self.filler(rng, length - len(tail) - sum(map(len, plants)))
        places = sorted(rng.randrange(len(text) + 1) for _ in plants)
        ids, last = [], 0
        for place, planted in zip(places, plants, strict=True):
            ids += text[last:place] + planted
            last = place
        ids += text[last:]
        return ids + tail, [(len(ids) + at, n) for at, n in answers]

    def batch(self, seed: int, step: int, size: int, length: int, share: float):
        """ids [size, length + 1] and weights [size, length] of the predicted tokens."""
        rng = random.Random(seed * 1_000_003 + step)
        ids = np.zeros((size, length + 1), dtype=np.int64)
        weights = np.ones((size, length), dtype=np.float32)
        for row in range(size):
            if rng.random() >= share:
                ids[row] = self.filler(rng, length + 1)
                continue
            count = rng.randint(1, 6)
            tokens, answers = self.retrieval(rng, length + 1, count, rng.randint(1, count))
            ids[row] = tokens
            for at, n in answers:
                weights[row, at - 1:at - 1 + n] = 4.0
        return ids, weights
