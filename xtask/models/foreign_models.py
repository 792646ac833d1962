"""Model files as others make them, to try what reads, rewrites and runs models on what this repository did not build.

Not all load: some use operators that the runtime does not have yet, or inputs that are no tensors.
"""
import pathlib
import warnings

import onnx
from onnx.backend.test.case.node import collect_testcases

RAPIDOCR = "rapidocr_onnxruntime/models/"
SILERO = "silero_vad/data/"
WHEELS = {
    "ppocr_det": ("rapidocr-onnxruntime", RAPIDOCR + "ch_PP-OCRv4_det_infer.onnx"),
    "ppocr_rec": ("rapidocr-onnxruntime", RAPIDOCR + "ch_PP-OCRv4_rec_infer.onnx"),
    "ppocr_cls": ("rapidocr-onnxruntime", RAPIDOCR + "ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    "magika": ("magika", "magika/models/standard_v3_3/model.onnx"),
    "silero_vad": ("silero-vad", SILERO + "silero_vad.onnx"),  # both rates in branches of If, with branches inside
    "silero_vad_half": ("silero-vad", SILERO + "silero_vad_half.onnx"),
    "silero_vad_ifless": ("silero-vad", SILERO + "silero_vad_op18_ifless.onnx"),
    "silero_vad_sequence": ("silero-vad", SILERO + "silero_vad_16k_sequence.onnx"),
}

# Of the onnx package, files: whole networks of before 2018 whose weights are constants made by nodes, and text.
FILES = {name: f"light/{name}.onnx" for name in ("light_resnet50", "light_shufflenet", "light_inception_v2")} | {
    "string_normalizer": "simple/test_strnorm_model_monday_casesensintive_lower/model.onnx"}

# Of the onnx package, made by its own test cases: a node or a few each, in the operator set that each case is for.
CASES = ["if_seq", "loop13_seq", "scan9_multi_state", "sequence_map_add_2_sequences", "identity_opt",
         "string_split_basic", "ai_onnx_ml_label_encoder_string_int", "ai_onnx_ml_tree_ensemble_set_membership",
         "lstm_bidirectional", "attention_4d_gqa_with_past_and_present", "nonmaxsuppression_two_batches",
         "qlinearconv", "matmulinteger", "dequantizelinear_int4", "training_dropout", "momentum"]


def write(wheels, folder):
    folder.mkdir(parents=True)
    files = {name: wheels.read(*member) for name, member in WHEELS.items()}
    package = pathlib.Path(onnx.__file__).parent / "backend/test/data"
    files |= {name: (package / path).read_bytes() for name, path in FILES.items()}
    with warnings.catch_warnings(action="ignore"):  # some cases overflow on purpose
        cases = {case.name: case.model for case in collect_testcases(None)}
    files |= {name: cases[f"test_{name}"].SerializeToString() for name in CASES}
    for name, contents in files.items():
        (folder / f"{name}.onnx").write_bytes(contents)
