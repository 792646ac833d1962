"""BERT's tokenizer for English, as far as sentences without Chinese need it; tokenizer.json has its vocabulary."""
import json
import unicodedata

import numpy as np


class WordPiece:
    def __init__(self, tokenizer_json):
        self.vocabulary = json.loads(tokenizer_json)["model"]["vocab"]

    def encode(self, texts, length):
        """Ids and mask, int64 [N, length], cut and filled up."""
        ids, mask = np.zeros((2, len(texts), length), np.int64)
        for row, text in enumerate(texts):
            tokens = ["[CLS]", *self.tokens(text)[:length - 2], "[SEP]"]
            ids[row, :len(tokens)] = [self.vocabulary[token] for token in tokens]
            mask[row, :len(tokens)] = 1
        return ids, mask

    def tokens(self, text):
        plain = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn").lower()
        apart = "".join(f" {c} " if is_punctuation(c) else c for c in plain)
        return [piece for word in apart.split() for piece in self.pieces(word)]

    def pieces(self, word):
        """The longest known beginning, then the longest known continuation, and so on."""
        pieces = []
        while word:
            prefix = "##" if pieces else ""
            piece = next((prefix + word[:n] for n in range(len(word), 0, -1) if prefix + word[:n] in self.vocabulary), None)
            if piece is None:
                return ["[UNK]"]
            pieces.append(piece)
            word = word[len(piece) - len(prefix):]
        return pieces


def is_punctuation(c):
    return unicodedata.category(c).startswith("P") or (c.isascii() and c.isprintable() and not c.isalnum() and c != " ")
