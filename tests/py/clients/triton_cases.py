"""The calls of tritonclient that its four flavours share. Each flavour's own script says how its calls differ."""
import io
import json
import os
import pathlib

import numpy as np
from PIL import Image
from tritonclient.utils import InferenceServerException, np_to_triton_dtype, shared_memory

from common import CONTENTS, ODD_BYTES, TENSORS, holds, methods, same, until

# gRPC code to what the flavours of tritonclient.http have as status.
HTTP_STATUS = {"INVALID_ARGUMENT": "400", "ALREADY_EXISTS": "400", "NOT_FOUND": "404", "UNAVAILABLE": "503", "UNIMPLEMENTED": "501", "DEADLINE_EXCEEDED": "504"}
BIG = 32 << 20


class TritonCases:
    """A flavour gives `module` (its InferInput and so on), `transport` (grpc or http), `client`, and the methods that raise here."""

    def cases(self):
        of_types = {f"infer-{name.lower()}": lambda name=name: self.identity(name) for name in TENSORS}
        return of_types | methods(self)

    # What the flavours differ in.

    def typed(self, model, array, datatype):
        """One infer call with readable numbers and strings in both directions where the protocol has them: OUTPUT0."""
        raise NotImplementedError

    def compressed(self, algorithm, model, inputs):
        raise NotImplementedError

    def settings(self, reply):
        """Trace or log settings as `{name: list of texts}`."""
        raise NotImplementedError

    # Helpers.

    def inputs(self, feed):
        return [self.input(name, array) for name, array in feed.items()]

    def input(self, name, array):
        tensor = self.module.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        return tensor

    def output(self, name, **options):
        return self.module.InferRequestedOutput(name, **options)

    def infer(self, model, feed, **options):
        return self.client.infer(model, self.inputs(feed), **options)

    def identity(self, datatype):
        array = np.concatenate([TENSORS[datatype]] * 2)
        same(self.infer(f"identity_{datatype.lower()}", {"INPUT0": array}).as_numpy("OUTPUT0"), array, datatype)

    def simple(self, **options):
        feed = pair(np.int32)
        check_pair(self.infer("simple", feed, **options), feed)

    def fails(self, code, *needles, call):
        try:
            call()
        except InferenceServerException as error:
            status = code if self.transport == "grpc" else HTTP_STATUS[code]
            assert status in str(error.status()), f"expected {status}, got {error.status()}: {error.message()}"
            holds(error.message(), *needles)
            return error.message()
        raise AssertionError(f"expected {code}, got an answer")

    def response(self, result):
        """The answer without its tensors as a dict."""
        reply = result.get_response()
        return reply if isinstance(reply, dict) else {"id": reply.id, "model_name": reply.model_name, "model_version": reply.model_version,
                                                      "parameters": dict(reply.parameters)}

    # The server and its models.

    def case_server_live(self):
        assert self.client.is_server_live()

    def case_server_ready(self):
        assert self.client.is_server_ready()

    def case_model_ready(self):
        assert self.client.is_model_ready("simple") and self.client.is_model_ready("simple", "1")
        assert not self.client.is_model_ready("simple", "7")

    def case_server_metadata(self):
        server = self.client.get_server_metadata(**self.as_json)
        assert server["name"] == "sluice" and server["version"], server
        for extension in ("classification", "model_configuration", "model_repository", "parameters", "statistics", "trace", "logging"):
            assert extension in server["extensions"], (extension, server)

    def case_model_metadata(self):
        model = self.client.get_model_metadata("simple", **self.as_json)
        assert (model["name"], model["platform"], model["versions"]) == ("simple", "onnxruntime_onnx", ["1"]), model
        for side, names in (("inputs", ["INPUT0", "INPUT1"]), ("outputs", ["OUTPUT0", "OUTPUT1"])):
            got = [(t["name"], t["datatype"], [int(d) for d in t["shape"]]) for t in model[side]]
            assert sorted(got) == [(name, "INT32", [-1, 16]) for name in names], got
        fixed = self.client.get_model_metadata("nobatch", **self.as_json)["inputs"][0]
        assert [int(d) for d in fixed["shape"]] == [2, 3], fixed
        self.fails("NOT_FOUND", "nope", call=lambda: self.client.get_model_metadata("nope"))

    def config(self, model):
        config = self.client.get_model_config(model, **self.as_json)
        return config.get("config", config)

    def case_model_config(self):
        config = self.config("simple")
        assert (config["name"], config["max_batch_size"], config["platform"]) == ("simple", 8, "onnxruntime_onnx"), config
        got = {t["name"]: (t["data_type"], [int(d) for d in t["dims"]]) for t in config["input"]}
        assert got == {name: ("TYPE_INT32", [16]) for name in ("INPUT0", "INPUT1")}, got
        assert self.config("classifier")["output"][0]["label_filename"] == "labels.txt"
        assert [t["name"] for t in self.config("optional")["input"] if t.get("optional")] == ["BIAS"]

    def case_model_config_completed(self):
        """No config.pbtxt: as Triton completes it from the graph."""
        config = self.config("identity_bytes")
        assert config["max_batch_size"] == 4 and config["input"][0]["data_type"] == "TYPE_STRING", config
        assert [int(d) for d in config["input"][0]["dims"]] == [-1], config

    def statistics(self, model):
        stats = self.client.get_inference_statistics(model, **self.as_json)["model_stats"]
        assert [(s["name"], s["version"]) for s in stats] == [(model, "1")], stats
        return stats[0]

    def case_statistics(self):
        def counts():
            stats = self.statistics("simple_int8")
            success = stats["inference_stats"]["success"].get("count", 0)
            return [int(n) for n in (stats.get("inference_count", 0), stats.get("execution_count", 0), success)]

        before = counts()
        for rows in (1, 2, 4):
            self.infer("simple_int8", pair(np.int8, rows))
        want = [before[0] + 7, before[1] + 3, before[2] + 3]
        until(f"inferences, executions and successes are {want}", lambda: counts() == want)
        stats = self.statistics("simple_int8")
        for part in ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"):
            assert part in stats["inference_stats"], (part, stats)
        assert {int(b["batch_size"]) for b in stats["batch_stats"]} >= {1, 2, 4} and int(stats["last_inference"]) > 0, stats
        everything = self.client.get_inference_statistics(**self.as_json)["model_stats"]
        assert {"simple", "simple_int8", "nobatch"} <= {s["name"] for s in everything}
        self.fails("NOT_FOUND", "nope", call=lambda: self.client.get_inference_statistics("nope"))

    def index(self):
        index = self.client.get_model_repository_index(**self.as_json)
        index = index if isinstance(index, list) else index["models"]
        return {m["name"]: (m.get("version"), m.get("state"), m.get("reason", "")) for m in index}

    def case_repository_index(self):
        index = self.index()
        assert index["simple"][:2] == ("1", "READY") and index["nobatch"][:2] == ("1", "READY"), index

    def case_load_unload(self):
        array = TENSORS["FP32"]
        self.client.unload_model("control")
        until("control is unloaded", lambda: not self.client.is_model_ready("control"))
        _, state, why = self.index()["control"]
        assert (state, why) == ("UNAVAILABLE", "unloaded"), (state, why)
        self.fails("NOT_FOUND", "control", call=lambda: self.infer("control", {"INPUT0": array}))
        self.client.load_model("control")
        assert self.client.is_model_ready("control")
        same(self.infer("control", {"INPUT0": array}).as_numpy("OUTPUT0"), array)
        self.fails("NOT_FOUND", "nope", call=lambda: self.client.unload_model("nope"))

    def case_load_unknown(self):
        try:
            self.client.load_model("nope")
        except InferenceServerException as error:
            holds(error.message(), "failed to load", "nope")
        else:
            raise AssertionError("loaded a model that does not exist")

    def case_load_with_config(self):
        self.client.load_model("control", config=json.dumps({"max_batch_size": 2}))
        assert self.config("control")["max_batch_size"] == 2
        rows = np.zeros((3, 4), np.float32)
        self.fails("INVALID_ARGUMENT", "3", "2", call=lambda: self.infer("control", {"INPUT0": rows}))
        self.client.load_model("control")
        assert self.config("control")["max_batch_size"] == 4
        self.infer("control", {"INPUT0": rows})

    def case_load_with_files(self):
        """A model that exists only in the call. It has the graph of `nobatch`."""
        assert self.repo, "needs --repo"
        graph = (pathlib.Path(self.repo) / "nobatch/1/model.onnx").read_bytes()
        name = f"sent_{type(self).__name__.lower()}"
        self.client.load_model(name, config=json.dumps({"backend": "onnxruntime"}), files={"file:1/model.onnx": graph})
        array = np.arange(6, dtype=np.float32).reshape(2, 3)
        same(self.infer(name, {"INPUT0": array}).as_numpy("OUTPUT0"), 2 * array)
        self.client.unload_model(name)
        until(f"{name} is unloaded", lambda: not self.client.is_model_ready(name))

    def case_load_refused(self):
        """A bad override says why, and what was loaded before still serves."""
        for config in ("{", json.dumps({"max_batch_size": "many"}), json.dumps({"no_such_field": 1}),
                       json.dumps({"input": [{"name": "NOPE", "data_type": "TYPE_FP32", "dims": [1]}]})):
            try:
                self.client.load_model("control", config=config)
            except InferenceServerException as error:
                holds(error.message(), "failed to load", "control")
            else:
                raise AssertionError(f"loaded with {config}")
        try:
            self.client.load_model("sent_bad", config="{}", files={"file:1/model.onnx": b"not a model"})
        except InferenceServerException as error:
            holds(error.message(), "failed to load", "sent_bad")
        else:
            raise AssertionError("loaded what is no model")
        array = TENSORS["FP32"]
        same(self.infer("control", {"INPUT0": array}).as_numpy("OUTPUT0"), array)

    def case_trace_settings(self):
        get = lambda **model: self.settings(self.client.get_trace_settings(**model, **self.as_json))
        update = lambda settings, **model: self.settings(
            self.client.update_trace_settings(settings=settings, **model, **self.as_json))
        before = get()
        assert {"trace_level", "trace_rate", "trace_count", "log_frequency"} <= before.keys(), before
        assert update({"trace_rate": "500"})["trace_rate"] == ["500"] and get()["trace_rate"] == ["500"]
        assert update({"trace_rate": "7"}, model_name="simple")["trace_rate"] == ["7"]
        assert get(model_name="simple")["trace_rate"] == ["7"] and get()["trace_rate"] == ["500"]
        assert update({"trace_rate": None}, model_name="simple")["trace_rate"] == ["500"]  # cleared: the global one again
        update({"trace_rate": None})
        assert get()["trace_rate"] == before["trace_rate"], get()
        self.fails("INVALID_ARGUMENT", "trace_rate", call=lambda: update({"trace_rate": "often"}))

    def case_log_settings(self):
        get = lambda: self.settings(self.client.get_log_settings(**self.as_json))
        update = lambda settings: self.settings(self.client.update_log_settings(settings, **self.as_json))
        before = get()
        assert {"log_info", "log_warning", "log_error", "log_verbose_level", "log_format"} <= before.keys(), before
        everything = {"log_info": True, "log_warning": True, "log_error": True, "log_verbose_level": 1}
        assert update(everything)["log_verbose_level"] == ["1"] and get()["log_verbose_level"] == ["1"]
        levels = {name: before[name] == ["true"] for name in ("log_info", "log_warning", "log_error")}
        update(levels | {"log_verbose_level": int(before["log_verbose_level"][0])})
        assert get() == before, (get(), before)
        self.fails("INVALID_ARGUMENT", "nope", call=lambda: update({"nope": True}))

    def case_shared_memory_status(self):
        for kind in ("system", "cuda"):
            status = getattr(self.client, f"get_{kind}_shared_memory_status")(**self.as_json)
            regions = status if isinstance(status, list) else list(status.get("regions", {}).values())
            assert regions == [], regions

    def case_shared_memory_unregister_all(self):
        self.client.unregister_system_shared_memory()
        self.client.unregister_cuda_shared_memory()

    def case_cuda_shared_memory_refused(self):
        handle = b"\0" * 64 if self.transport == "grpc" else b"A" * 88  # HTTP takes it as base64 already
        self.fails("UNIMPLEMENTED", "CUDA", call=lambda: self.client.register_cuda_shared_memory("region", handle, 0, 64))

    def case_system_shared_memory(self):
        """One input and one output in shared memory beside others that are not; without the server's consent, a refusal that says so."""
        feed = pair(np.int32)
        region = shared_memory.create_shared_memory_region("region", f"/client-test-{os.getpid()}", 128)
        try:
            shared_memory.set_shared_memory_region(region, [feed["INPUT0"]])
            register = lambda: self.client.register_system_shared_memory("region", f"/client-test-{os.getpid()}", 128)
            if not self.shm:
                self.fails("UNAVAILABLE", "--allow-client-shm", call=register)
                return
            register()
            self.fails("ALREADY_EXISTS", "region", call=register)
            inputs, outputs = self.inputs(feed), [self.output("OUTPUT0"), self.output("OUTPUT1")]
            inputs[0] = self.module.InferInput("INPUT0", [1, 16], "INT32")
            inputs[0].set_shared_memory("region", 64)
            outputs[1].set_shared_memory("region", 64, offset=64)
            result = self.client.infer("simple", inputs, outputs=outputs)
            same(result.as_numpy("OUTPUT0"), feed["INPUT0"] + feed["INPUT1"])
            got = shared_memory.get_contents_as_numpy(region, np.int32, [1, 16], offset=64)
            same(np.array(got), feed["INPUT0"] - feed["INPUT1"])
            inputs[0].set_shared_memory("region", 64, offset=100)  # past its end
            self.fails("INVALID_ARGUMENT", "region", call=lambda: self.client.infer("simple", inputs))
            self.client.unregister_system_shared_memory("region")
            self.fails("NOT_FOUND", "region", call=lambda: self.client.infer("simple", inputs))
        finally:
            self.client.unregister_system_shared_memory()
            shared_memory.destroy_shared_memory_region(region)

    # Inference.

    def case_infer_typed(self):
        """Each type as numbers and strings one can read: gRPC's typed contents, or JSON."""
        for datatype in CONTENTS:
            array = TENSORS[datatype]
            if datatype == "BYTES" and self.transport == "http":
                array = np.array([[b"", b"a\0b", "grüße".encode(), b'"\\/', b"x"]], dtype=object)  # JSON holds no other bytes
            same(self.typed(f"identity_{datatype.lower()}", array, datatype), array, datatype)

    def case_infer_typed_half_refused(self):
        """FP16 and BF16 have no typed form; the error says what to do."""
        for datatype in ("FP16", "BF16"):
            array = np.ones((1, 2), np.float32)
            self.fails("INVALID_ARGUMENT", datatype, call=lambda: self.typed(f"identity_{datatype.lower()}", array, datatype))

    def case_infer_empty(self):
        array = np.zeros((2, 0), np.float32)
        same(self.infer("identity_fp32", {"INPUT0": array}).as_numpy("OUTPUT0"), array)

    def case_infer_simple(self):
        self.simple()
        feed = pair(np.int32, 8)
        check_pair(self.infer("simple", feed), feed)

    def case_infer_simple_string(self):
        feed = {"INPUT0": strings(0), "INPUT1": strings(7)}
        result = self.infer("simple_string", feed)
        for i in (0, 1):
            same(result.as_numpy(f"OUTPUT{i}"), feed[f"INPUT{i}"])

    def case_infer_simple_int8(self):
        feed = pair(np.int8)
        check_pair(self.infer("simple_int8", feed), feed)

    def case_infer_nobatch(self):
        array = np.arange(6, dtype=np.float32).reshape(2, 3)
        same(self.infer("nobatch", {"INPUT0": array}).as_numpy("OUTPUT0"), 2 * array)

    def case_infer_optional(self):
        array, bias = np.arange(4, dtype=np.float32), np.full(4, -1, np.float32)
        same(self.infer("optional", {"INPUT0": array}).as_numpy("OUTPUT0"), array + 10)
        same(self.infer("optional", {"INPUT0": array, "BIAS": bias}).as_numpy("OUTPUT0"), array - 1)

    def case_infer_reshape(self):
        array, one = np.arange(12, dtype=np.float32).reshape(3, 4), np.arange(3, dtype=np.float32).reshape(3, 1)
        result = self.infer("reshape", {"INPUT0": array, "INPUT1": one})
        same(result.as_numpy("OUTPUT0"), np.ascontiguousarray(array[:, [0, 2, 1, 3]]))
        same(result.as_numpy("OUTPUT1"), 2 * one)

    def case_infer_32_mib(self):
        array = np.arange(BIG // 4, dtype=np.float32).reshape(1, -1)
        same(self.infer("identity_fp32", {"INPUT0": array}).as_numpy("OUTPUT0"), array)

    def case_model_version(self):
        feed = pair(np.int32)
        for version in ("", "1"):
            result = self.infer("simple", feed, model_version=version)
            check_pair(result, feed)
            assert self.response(result)["model_version"] == "1"

    def case_outputs_subset(self):
        feed = pair(np.int32)
        result = self.infer("simple", feed, outputs=[self.output("OUTPUT1")])
        assert result.as_numpy("OUTPUT0") is None
        same(result.as_numpy("OUTPUT1"), feed["INPUT0"] - feed["INPUT1"])

    def case_classification(self):
        array = np.linspace(-1, 1, 16, dtype=np.float32).reshape(2, 8)
        scores = self.infer("classifier", {"INPUT0": array}).as_numpy("OUTPUT0")
        labels = ["north", "east", "south", "west"]
        for k, rows in ((1, 1), (3, 3), (100, 4)):  # more than there are classes: all of them
            got = self.infer("classifier", {"INPUT0": array}, outputs=[self.output("OUTPUT0", class_count=k)]).as_numpy("OUTPUT0")
            assert got.shape == (2, rows), got.shape
            for row, texts in enumerate(got):
                best = np.argsort(-scores[row], kind="stable")[:rows]
                for index, text in zip(best, texts):
                    score, at, label = text.decode().split(":")
                    assert (int(at), label) == (index, labels[index]) and abs(float(score) - scores[row][index]) < 1e-4, (text, scores)

    def case_image_classification(self):
        """What Triton's image client does: read metadata and configuration, make the tensor they ask for, infer, read the labels."""
        metadata, config = self.client.get_model_metadata("image", **self.as_json), self.config("image")
        name, output = metadata["inputs"][0]["name"], metadata["outputs"][0]["name"]
        assert config["max_batch_size"] > 0 and config["input"][0]["format"] == "FORMAT_NCHW", config
        assert metadata["inputs"][0]["datatype"] == "FP32", metadata
        channels, height, width = [int(d) for d in config["input"][0]["dims"]]
        assert channels == 3, config
        pictures = [picture(colour).resize((width, height), Image.BILINEAR) for colour in COLOURS.values()]
        batch = np.stack([(np.asarray(p, np.float32) / 127.5 - 1).transpose(2, 0, 1) for p in pictures])
        result = self.infer("image", {name: np.ascontiguousarray(batch)}, outputs=[self.output(output, class_count=2)])
        tops = [row[0].decode().split(":") for row in result.as_numpy(output)]
        assert [label for _, _, label in tops] == list(COLOURS) and [int(index) for _, index, _ in tops] == [0, 1, 2], tops

    def case_image_encoded(self):
        """A PNG or JPEG file as it is, one element on input `image`."""
        for kind in ("PNG", "JPEG"):
            for label, colour in COLOURS.items():
                file = io.BytesIO()
                picture(colour).save(file, kind)
                array = np.array([[file.getvalue()]], dtype=object)
                result = self.infer("image", {"image": array}, outputs=[self.output("colour", class_count=1)])
                assert result.as_numpy("colour")[0][0].decode().endswith(f":{label}"), (kind, result.as_numpy("colour"))

    def case_request_id(self):
        assert self.response(self.infer("simple", pair(np.int32), request_id="id-7 é"))["id"] == "id-7 é"
        self.fails("NOT_FOUND", "[request id: id-8]", call=lambda: self.infer("nope", pair(np.int32), request_id="id-8"))

    def case_parameters(self):
        custom = {"text": "some", "whole": 7, "yes": True, "part": 0.5}
        self.simple(parameters=custom, priority=1, timeout=10_000_000)
        reply = self.response(self.infer("simple", pair(np.int32), parameters=custom))
        assert "sluice_variant" in reply["parameters"], reply

    def case_headers(self):
        self.simple(headers={"x-request-id": "abc", "authorization": "Basic dXNlcjpzZWNyZXQ="})

    def case_gzip(self):
        self.compression("gzip")

    def case_deflate(self):
        self.compression("deflate")

    def compression(self, algorithm):
        array = np.zeros((1, 1 << 20), np.float32)
        array[0, ::1000] = 1.5
        same(self.compressed(algorithm, "identity_fp32", self.inputs({"INPUT0": array})).as_numpy("OUTPUT0"), array)

    # Errors.

    def case_error_unknown_model(self):
        self.fails("NOT_FOUND", "nope", call=lambda: self.infer("nope", pair(np.int32)))

    def case_error_unknown_version(self):
        self.fails("NOT_FOUND", "simple", "7", call=lambda: self.infer("simple", pair(np.int32), model_version="7"))

    def case_error_shape(self):
        feed = {name: array[:, :15] for name, array in pair(np.int32).items()}
        self.fails("INVALID_ARGUMENT", "INPUT", "15", "16", call=lambda: self.infer("simple", feed))
        flat = {name: array[0] for name, array in pair(np.int32).items()}
        self.fails("INVALID_ARGUMENT", "INPUT", "[16]", call=lambda: self.infer("simple", flat))

    def case_error_batch(self):
        self.fails("INVALID_ARGUMENT", "9", "8", "simple", call=lambda: self.infer("simple", pair(np.int32, 9)))

    def case_error_datatype(self):
        feed = pair(np.float32)
        self.fails("INVALID_ARGUMENT", "INPUT0", "FP32", "INT32", call=lambda: self.infer("simple", feed))

    def case_error_missing_input(self):
        feed = {"INPUT0": pair(np.int32)["INPUT0"]}
        self.fails("INVALID_ARGUMENT", "2", "1", call=lambda: self.infer("simple", feed))

    def case_error_unknown_input(self):
        feed = {"INPUT0": pair(np.int32)["INPUT0"], "INPUTX": pair(np.int32)["INPUT0"]}
        self.fails("INVALID_ARGUMENT", "INPUTX", call=lambda: self.infer("simple", feed))

    def case_error_unknown_output(self):
        wanted = [self.output("NOPE")]
        self.fails("INVALID_ARGUMENT", "NOPE", call=lambda: self.infer("simple", pair(np.int32), outputs=wanted))


COLOURS = {"red": (230, 20, 30), "green": (20, 230, 30), "blue": (30, 20, 230)}


def picture(colour):
    return Image.new("RGB", (48, 40), colour)


def pair(kind, rows=1):
    return {f"INPUT{i}": (np.arange(rows * 16) * (i + 1) % 50 - i).astype(kind).reshape(rows, 16) for i in (0, 1)}


def check_pair(result, feed):
    same(result.as_numpy("OUTPUT0"), feed["INPUT0"] + feed["INPUT1"], "OUTPUT0")
    same(result.as_numpy("OUTPUT1"), feed["INPUT0"] - feed["INPUT1"], "OUTPUT1")


def strings(first):
    return np.array([ODD_BYTES[i % len(ODD_BYTES)] + str(i).encode() for i in range(first, first + 16)], dtype=object).reshape(1, 16)
