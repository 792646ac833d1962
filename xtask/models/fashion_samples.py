#!/usr/bin/env python3
"""Writes pictures of Fashion-MNIST as the tensors that effnet_lite0_cls96 takes, with their labels, as an uncompressed .npz.

x is float32 [N, 3, 96, 96], labels int64 [N]. All 10,000 pictures of the test set are 1.1 GB:
    fashion_samples.py --data ~/.cache/sluice/data/fashion_mnist --count 10000 --out all.npz
"""
import argparse
import pathlib
import zipfile

import numpy as np

SIZE, GREY_SIZE = 96, 28
BLOCK = 500


def read(folder, part):
    """Images uint8 [N, 28, 28] and labels of `train` or `t10k`, from the files of the data set."""
    def idx(name):
        data = (folder / f"{part}-{name}-ubyte").read_bytes()
        dims = np.frombuffer(data, ">i4", offset=4, count=data[3])
        return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(dims)

    return idx("images-idx3"), idx("labels-idx1").astype(np.int64)


def resizing():
    """The matrix that makes 96 points of 28, linearly, pixels being areas (not corners aligned)."""
    at = ((np.arange(SIZE) + 0.5) * GREY_SIZE / SIZE - 0.5).clip(0, GREY_SIZE - 1)
    return (1 - np.abs(at[:, None] - np.arange(GREY_SIZE))).clip(0)


def tensors(images):
    """float32 [N, 3, 96, 96], normalised as EfficientNet-Lite0 wants it, every channel the same."""
    grey = resizing() @ images @ resizing().T
    return np.repeat(((grey - 127) / 128).astype(np.float32)[:, None], 3, axis=1)


def write(path, images, labels):
    """A block at a time, as all of them fill the memory of a small machine."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(images), 3, SIZE, SIZE)}
    with zipfile.ZipFile(path, "w") as file:
        with file.open("x.npy", "w", force_zip64=True) as out:
            np.lib.format.write_array_header_1_0(out, header)
            for start in range(0, len(images), BLOCK):
                out.write(tensors(images[start:start + BLOCK]).astype("<f4").tobytes())
        with file.open("labels.npy", "w", force_zip64=True) as out:
            np.lib.format.write_array(out, labels.astype("<i8"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="the folder with the files of the data set")
    parser.add_argument("--part", choices=("t10k", "train"), default="t10k")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    images, labels = read(args.data, args.part)
    some = slice(args.first, args.first + args.count)
    if len(labels[some]) != args.count:
        parser.error(f"{args.part} has {len(labels)} pictures only")
    write(args.out, images[some], labels[some])


if __name__ == "__main__":
    main()
