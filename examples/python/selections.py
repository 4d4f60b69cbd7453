"""Plots which blocks the oracle layers choose for a prompt: `python selections.py MODEL.hyc PLOT.png [TEXTFILE]`.

Needs hyc, numpy and matplotlib. One picture a layer and KV head: tokens from top to bottom, blocks from left to right.
"""

import pathlib
import sys

import hyc
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np


def chosen(rows, head, blocks):
    """`[tokens, blocks]`: whether a token chose a block."""
    picture = np.zeros((len(rows), blocks))
    for token, heads in enumerate(rows):
        picture[token, heads[head]] = 1
    return picture


def main():
    path, plot, *text = sys.argv[1:]
    model = hyc.load(path)
    prompt = pathlib.Path(text[0]).read_text() if text else "The kernel reads a block of the cache. " * 100
    tokens = model.encode(prompt)[: model.max_context]
    session = model.session()
    selected = session.selections(session.add_sequence(), tokens)
    heads = len(next(iter(selected.values()))[0])
    blocks = 1 + max(block for rows in selected.values() for row in rows for head in row for block in head)
    figure, axes = plt.subplots(len(selected), heads, squeeze=False, figsize=(3 * heads, 4 * len(selected)))
    for line, (layer, rows) in zip(axes, selected.items(), strict=True):
        for head, axis in enumerate(line):
            axis.imshow(chosen(rows, head, blocks), aspect="auto", cmap="Greys", interpolation="nearest")
            axis.set_title(f"layer {layer}, KV head {head}")
            axis.set_xlabel("block")
            axis.set_ylabel("token")
    figure.tight_layout()
    figure.savefig(plot)


main()
