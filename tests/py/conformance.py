"""Stock clients against a running server: `conformance.py CASE GRPC_ADDRESS MODELS_DIR`. A failed assertion is a failed test."""
import asyncio, faulthandler, json, os, queue, signal, struct, sys, threading, time, traceback

import grpc
import numpy as np
import onnxruntime as ort
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

faulthandler.dump_traceback_later(240, exit=True)  # a client that hangs says where
CASE, ADDRESS, MODELS = sys.argv[1:4]
client = triton.InferenceServerClient(ADDRESS)
NAMES = ["sluice_variant", "sluice_worker", "sluice_queue_us", "sluice_compute_us"]
rng = np.random.default_rng(7)


def inputs(feed):
    out = []
    for name, a in feed.items():
        i = triton.InferInput(name, a.shape, np_to_triton_dtype(a.dtype))
        i.set_data_from_numpy(a)
        out.append(i)
    return out


def truth(model, feed):
    session = ort.InferenceSession(f"{MODELS}/{model}/1/model.onnx", providers=["CPUExecutionProvider"])
    feed = {k: np.array([[e.decode() for e in row] for row in v], dtype=object) if v.dtype == object else v for k, v in feed.items()}
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feed)))


def same(model, feed, exact=False):
    got = client.infer(model, inputs(feed), request_id=f"id-{model}")
    assert got.get_response().id == f"id-{model}"
    assert all(n in got.get_response().parameters for n in NAMES), got.get_response().parameters
    for name, want in truth(model, feed).items():
        have = got.as_numpy(name)
        assert have is not None and have.shape == want.shape, (model, name, want.shape)
        if exact:
            assert have.dtype == want.dtype and (have == want).all(), (model, name)
        else:
            assert np.abs(have - want).max() <= 1e-5, (model, name, np.abs(have - want).max())


def fails(code, *needles, call):
    try:
        call()
    except (InferenceServerException, grpc.RpcError) as e:
        got = str(e.status() if isinstance(e, InferenceServerException) else e.code())
        text = e.message() if isinstance(e, InferenceServerException) else e.details()
        assert code in got, (code, got, text)
        for needle in needles:
            assert needle in text, (needle, text)
        return text
    raise AssertionError(f"expected {code} {needles}, got an answer")


def f32(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def case_answers():
    for batch in (1, 4):
        same("add_sub", {"INPUT0": f32(batch, 16), "INPUT1": f32(batch, 16)})
    same("no_batch", {"INPUT0": f32(2, 3)})
    same("identity_fp32", {"INPUT0": f32(2, 5)}, exact=True)
    same("identity_fp16", {"INPUT0": f32(2, 5).astype(np.float16)}, exact=True)
    same("identity_int64", {"INPUT0": rng.integers(-(2**60), 2**60, (3, 4))}, exact=True)
    same("identity_uint8", {"INPUT0": rng.integers(0, 256, (1, 7)).astype(np.uint8)}, exact=True)
    same("identity_bool", {"INPUT0": np.array([[True, False, True]])}, exact=True)
    odd = np.array([[b"", b"a\0b", b"\xff\xfe", "grüße".encode()]], dtype=object)  # any bytes come back as they went
    got = client.infer("identity_string", inputs({"INPUT0": odd})).as_numpy("OUTPUT0")
    assert (got == odd).all(), got
    same("efficientnet_lite0", {"x": f32(1, 3, 224, 224)})
    # rank 0 beside a first dimension that is no batch
    same("silero_vad", {"input": f32(1, 576), "state": np.zeros((2, 1, 128), np.float32), "sr": np.array(16000)})
    ids = rng.integers(1000, 20000, (2, 12))
    same("minilm_l6", {"input_ids": ids, "attention_mask": np.ones_like(ids)})


def case_woken():
    """A model that is asleep answers as one that is not."""
    same("add_sub", {"INPUT0": f32(2, 16), "INPUT1": f32(2, 16)})


def case_ways_to_ask():
    feed = {"INPUT0": f32(1, 16), "INPUT1": f32(1, 16)}
    want = feed["INPUT0"] + feed["INPUT1"]
    # async, with a callback
    done = queue.Queue()
    for _ in range(20):
        client.async_infer("add_sub", inputs(feed), callback=lambda result, error: done.put((result, error)))
    for _ in range(20):
        result, error = done.get(timeout=20)
        assert error is None and np.allclose(result.as_numpy("OUTPUT0"), want)
    # a subset of the outputs
    some = client.infer("add_sub", inputs(feed), outputs=[triton.InferRequestedOutput("OUTPUT1")])
    assert some.as_numpy("OUTPUT0") is None and some.as_numpy("OUTPUT1") is not None
    # asyncio
    async def ask():
        async with triton_aio.InferenceServerClient(ADDRESS) as aio:
            assert await aio.is_server_live() and await aio.is_model_ready("add_sub")
            results = await asyncio.gather(*[aio.infer("add_sub", inputs(feed)) for _ in range(20)])
            assert all(np.allclose(r.as_numpy("OUTPUT0"), want) for r in results)
    asyncio.run(ask())
    # typed contents instead of raw
    from tritonclient.grpc import service_pb2 as pb, service_pb2_grpc as stubs
    stub = stubs.GRPCInferenceServiceStub(grpc.insecure_channel(ADDRESS))
    request = pb.ModelInferRequest(model_name="add_sub")
    for name, a in feed.items():
        tensor = request.inputs.add(name=name, datatype="FP32", shape=a.shape)
        tensor.contents.fp32_contents.extend(a.flatten().tolist())
    reply = stub.ModelInfer(request)
    assert np.allclose(np.frombuffer(reply.raw_output_contents[0], np.float32), want.flatten())
    # compressed requests
    for algorithm in ("gzip", "deflate"):
        assert np.allclose(client.infer("add_sub", inputs(feed), compression_algorithm=algorithm).as_numpy("OUTPUT0"), want)
    # 40 MiB in one tensor
    big = f32(1, 10 << 20)
    assert (client.infer("identity_fp32", inputs({"INPUT0": big})).as_numpy("OUTPUT0") == big).all()


def case_stream():
    answers = queue.Queue()
    streaming = triton.InferenceServerClient(ADDRESS)
    streaming.start_stream(lambda result, error: answers.put((result, error)))
    feeds = [{"INPUT0": f32(1, 16), "INPUT1": f32(1, 16)} for _ in range(300)]
    for i, feed in enumerate(feeds):
        wrong = {"INPUT0": feed["INPUT0"]} if i == 150 else feed  # one fails in the middle, the stream goes on
        streaming.async_stream_infer("add_sub", inputs(wrong), request_id=str(i))
    seen, errors = set(), []
    for _ in feeds:
        result, error = answers.get(timeout=30)
        if error is not None:
            errors.append(str(error))
            continue
        i = int(result.get_response().id)
        assert np.allclose(result.as_numpy("OUTPUT0"), feeds[i]["INPUT0"] + feeds[i]["INPUT1"]), i
        seen.add(i)
    streaming.stop_stream()
    assert seen == set(range(300)) - {150} and len(errors) == 1 and "request id: 150" in errors[0], errors
    # a frame that cannot be read ends the stream, after what came before it is answered
    from tritonclient.grpc import service_pb2 as pb
    channel = grpc.insecure_channel(ADDRESS)
    raw = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer", request_serializer=lambda m: m, response_deserializer=lambda b: b)
    good = pb.ModelInferRequest(model_name="add_sub", id="before")
    for name in ("INPUT0", "INPUT1"):
        good.inputs.add(name=name, datatype="FP32", shape=(1, 16))
        good.raw_input_contents.append(bytes(64))
    got = raw(iter([good.SerializeToString(), bytes(66 << 20)]))
    assert b"before" in next(got)
    fails("RESOURCE_EXHAUSTED", "limit", call=lambda: next(got))
    # a client that asks for it gets a true status, and the stream ends
    streaming = triton.InferenceServerClient(ADDRESS)
    streaming.start_stream(lambda result, error: answers.put((result, error)), headers={"triton_grpc_error": "true"})
    streaming.async_stream_infer("nope", inputs(feeds[0]))
    _, error = answers.get(timeout=10)
    assert "NOT_FOUND" in str(error), error
    streaming.stop_stream()


def case_health_and_reflection():
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
    channel = grpc.insecure_channel(ADDRESS)
    health = health_pb2_grpc.HealthStub(channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    for service in ("", "inference.GRPCInferenceService", "liveness", "readiness", "models/add_sub"):
        assert health.Check(health_pb2.HealthCheckRequest(service=service)).status == serving, service
    fails("NOT_FOUND", "nope", call=lambda: health.Check(health_pb2.HealthCheckRequest(service="nope")))
    unknown = health.Watch(health_pb2.HealthCheckRequest(service="nope"), timeout=20)
    assert next(unknown).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    unknown.cancel()
    # Watch tells an unload and the load after it
    watch = health.Watch(health_pb2.HealthCheckRequest(service="models/no_batch"), timeout=60)
    assert next(watch).status == serving
    client.unload_model("no_batch")
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    client.load_model("no_batch")
    assert next(watch).status == serving
    watch.cancel()
    # List is newer than the package's stub: name 1 and status 1 of the map's entries are read by hand
    raw = channel.unary_unary("/grpc.health.v1.Health/List", request_serializer=lambda m: m, response_deserializer=lambda b: b)(b"")
    assert b"models/add_sub" in raw and b"liveness" in raw, raw
    names = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert "inference.GRPCInferenceService" in names and "grpc.health.v1.Health" in names, names
    database = ProtoReflectionDescriptorDatabase(channel)
    assert database.FindFileContainingSymbol("inference.ModelInferRequest").package == "inference"
    v1 = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", request_serializer=lambda m: m, response_deserializer=lambda b: b)
    listed = next(v1(iter([b"\x3a\x00"])))  # list_services = ""
    assert b"inference.GRPCInferenceService" in listed, listed


def case_stop_with_open_streams():
    """Opens what clients keep open, idle, then stops the server, whose process id is the fourth argument."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    watch = health_pb2_grpc.HealthStub(grpc.insecure_channel(ADDRESS)).Watch(health_pb2.HealthCheckRequest())
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer("add_sub", inputs({"INPUT0": f32(1, 16), "INPUT1": f32(1, 16)}))
    assert answers.get(timeout=20)[1] is None
    os.kill(int(sys.argv[4]), signal.SIGINT)
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    done = threading.Event()
    threading.Thread(target=lambda: (swallow(watch), done.set()), daemon=True).start()
    assert done.wait(10), "the watch is still open"
    _, error = answers.get(timeout=10)  # the client is told to ask elsewhere, not left with a stream that just ends
    assert "UNAVAILABLE" in str(error) and "draining" in str(error), error


def swallow(stream):
    try:
        return list(stream)
    except grpc.RpcError:
        return []


def case_metadata_and_control():
    assert client.is_server_live() and client.is_server_ready()
    server = client.get_server_metadata()
    assert server.name == "sluice" and server.version, server
    model = client.get_model_metadata("add_sub")
    assert (model.platform, list(model.versions)) == ("onnxruntime_onnx", ["1"]), model
    assert [(i.name, i.datatype, list(i.shape)) for i in model.inputs] == [("INPUT0", "FP32", [-1, 16]), ("INPUT1", "FP32", [-1, 16])]
    fails("NOT_FOUND", "`nope`", call=lambda: client.get_model_metadata("nope"))
    index = {m.name: m.state for m in client.get_model_repository_index().models}
    assert index["add_sub"] == "READY", index
    feed = inputs({"INPUT0": f32(1, 16), "INPUT1": f32(1, 16)})
    client.unload_model("add_sub")
    assert not client.is_model_ready("add_sub")
    fails("NOT_FOUND", "add_sub", "unloaded", call=lambda: client.infer("add_sub", feed))
    client.load_model("add_sub")
    assert client.is_model_ready("add_sub") and client.infer("add_sub", feed)
    client.load_model("add_sub")  # a loaded model is loaded anew
    assert client.infer("add_sub", feed)
    fails("INVALID_ARGUMENT", "nope", call=lambda: client.load_model("nope"))
    fails("NOT_FOUND", "`nope`", call=lambda: client.unload_model("nope"))
    fails("NOT_FOUND", "`nope`", call=lambda: client.get_model_metadata("nope"))  # nothing stays behind
    pinned = client.infer("add_sub", feed, parameters={"sluice_variant": "fp32@ort"})
    assert pinned.get_response().parameters["sluice_variant"].string_param == "fp32@ort"
    fails("NOT_FOUND", "int8@ort", call=lambda: client.infer("add_sub", feed, parameters={"sluice_variant": "int8@ort"}))


def case_deadline():
    feed = inputs({"INPUT0": f32(1, 256)})
    fails("DEADLINE_EXCEEDED", call=lambda: client.infer("slow", feed, client_timeout=0.02))
    got = client.infer("slow", feed, client_timeout=30).as_numpy("OUTPUT0")
    assert got.shape == (1, 256)


def case_bad_input():
    from tritonclient.grpc import service_pb2 as pb, service_pb2_grpc as stubs
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    stub = stubs.GRPCInferenceServiceStub(grpc.insecure_channel(ADDRESS, options))

    def request(model="add_sub", version="", shape=(1, 16), datatype="FP32", names=("INPUT0", "INPUT1"), length=64, raw=True, output=None):
        r = pb.ModelInferRequest(model_name=model, model_version=version, id="me")
        for name in names:
            r.inputs.add(name=name, datatype=datatype, shape=shape)
            if raw:
                r.raw_input_contents.append(bytes(length))
        if output:
            r.outputs.add(name=output)
        return r

    def bad(code, *needles, change=None, **kw):
        r = request(**kw)
        if change:
            change(r)
        return fails(code, *needles, call=lambda: stub.ModelInfer(r))

    assert "[request id: me]" in bad("NOT_FOUND", "`nope`", model="nope")
    bad("INVALID_ARGUMENT", "not allowed", model="../add_sub")
    bad("NOT_FOUND", "version 7", version="7")
    bad("INVALID_ARGUMENT", "version", version="one")
    bad("INVALID_ARGUMENT", "`INPUTX`", "INPUT0, INPUT1", names=("INPUT0", "INPUTX"))
    bad("INVALID_ARGUMENT", "expected 2 inputs, got 1", names=("INPUT0",))
    bad("INVALID_ARGUMENT", "`INPUT0` appears twice", names=("INPUT0", "INPUT0"))
    bad("INVALID_ARGUMENT", "`NOPE`", output="NOPE")
    bad("INVALID_ARGUMENT", "expected datatype FP32, got INT32", datatype="INT32")
    bad("INVALID_ARGUMENT", "FLOAT", datatype="FLOAT")
    bad("INVALID_ARGUMENT", "[-1,16]", "[16]", shape=(16,))
    bad("INVALID_ARGUMENT", "[-1,16]", "[1,15]", shape=(1, 15), length=60)
    bad("INVALID_ARGUMENT", "negative", shape=(-1, 16))
    bad("INVALID_ARGUMENT", "2147483647", shape=(2**40, 16))
    bad("INVALID_ARGUMENT", "too many elements", model="identity_fp32", names=("INPUT0",), shape=(2**31 - 1, 2**31 - 1), length=4)
    bad("INVALID_ARGUMENT", "expected 64 bytes", "got 63", length=63)
    bad("INVALID_ARGUMENT", "5 rows", "max_batch_size of 4", shape=(5, 16), length=320)
    bad("INVALID_ARGUMENT", "no rows", shape=(0, 16), length=0)
    bad("INVALID_ARGUMENT", "2 inputs but 3 raw", change=lambda r: r.raw_input_contents.append(b""))
    bad("INVALID_ARGUMENT", "one or the other", change=lambda r: r.inputs[0].contents.fp32_contents.append(1))
    bad("INVALID_ARGUMENT", "fp32_contents", raw=False, change=lambda r: r.inputs[0].contents.int_contents.append(1))
    strings = dict(model="identity_string", names=("INPUT0",), datatype="BYTES", shape=(1, 1))
    bad("INVALID_ARGUMENT", "claims", **strings, change=lambda r: r.raw_input_contents.__setitem__(0, struct.pack("<I", 2**32 - 1)))
    bad("INVALID_ARGUMENT", "expected 1 elements", **strings, length=0)
    bad("INVALID_ARGUMENT", "parameter", change=lambda r: r.parameters["sluice_variant"].__setattr__("int64_param", 1))
    bad("RESOURCE_EXHAUSTED", "73400", "limit of 68157440", model="identity_fp32", names=("INPUT0",), shape=(1, (70 << 20) // 4), length=70 << 20)
    # A bomb: 100 MiB of zeros that gzip to almost nothing.
    channel = grpc.insecure_channel(ADDRESS, options, compression=grpc.Compression.Gzip)
    bomb = request(model="identity_fp32", names=("INPUT0",), shape=(1, (100 << 20) // 4), length=100 << 20)
    fails("RESOURCE_EXHAUSTED", "limit", call=lambda: stubs.GRPCInferenceServiceStub(channel).ModelInfer(bomb))
    # Not protobuf at all, and a method that does not exist.
    raw = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer", request_serializer=lambda m: m, response_deserializer=lambda b: b)
    fails("INVALID_ARGUMENT", call=lambda: raw(b"\xff\xff\xff"))
    nothing = channel.unary_unary("/inference.GRPCInferenceService/Nothing", request_serializer=lambda m: m, response_deserializer=lambda b: b)
    fails("UNIMPLEMENTED", call=lambda: nothing(b""))
    # After all that it answers.
    assert stub.ModelInfer(request()).model_version == "1"


def case_worker_port():
    """ADDRESS is a worker's data port: a boundary of its own, which believes no lengths."""
    from tritonclient.grpc import service_pb2 as pb, service_pb2_grpc as stubs
    stub = stubs.GRPCInferenceServiceStub(grpc.insecure_channel(ADDRESS))
    request = pb.ModelInferRequest(model_name="add_sub")
    for name in ("INPUT0", "INPUT1"):
        request.inputs.add(name=name, datatype="FP32", shape=(1, 16))
        request.raw_input_contents.append(bytes(64))
    known = [("sluice-variant", "add_sub:1:fp32@ort")]
    assert len(stub.ModelInfer(request, metadata=known).raw_output_contents) == 2
    fails("INVALID_ARGUMENT", "sluice-variant", call=lambda: stub.ModelInfer(request))
    fails("INVALID_ARGUMENT", "model:version", call=lambda: stub.ModelInfer(request, metadata=[("sluice-variant", "x")]))
    fails("UNAVAILABLE", "no replica", call=lambda: stub.ModelInfer(request, metadata=[("sluice-variant", "add_sub:9:fp32@ort")]))
    fails("UNIMPLEMENTED", "gateway", call=lambda: stub.ServerLive(pb.ServerLiveRequest()))
    request.raw_input_contents[1] = bytes(4)
    fails("INVALID_ARGUMENT", "expected 64 bytes", call=lambda: stub.ModelInfer(request, metadata=known))


def case_nothing_known():
    """A gateway that has neither a registry nor a snapshot cannot say that a model does not exist."""
    assert client.is_server_live() and not client.is_server_ready()
    feed = inputs({"INPUT0": f32(1, 16), "INPUT1": f32(1, 16)})
    fails("UNAVAILABLE", call=lambda: client.infer("add_sub", feed))
    fails("UNAVAILABLE", call=lambda: client.get_model_metadata("add_sub"))


def case_failed_reload():
    """What was served before a load that fails is served on, by the same contract."""
    feed = inputs({"INPUT0": f32(1, 16), "INPUT1": f32(1, 16)})
    tensors = [{"name": f"INPUT{i}", "data_type": "TYPE_FP32", "dims": [4, 4], "reshape": {"shape": [16]}} for i in (0, 1)]
    large = {"name": "w", "batch_size": 1, "count": 1, "inputs": {i: {"data_type": "TYPE_FP32", "dims": [9], "zero_data": True} for i in ("INPUT0", "INPUT1")}}
    override = json.dumps({"max_batch_size": 2, "input": tensors, "model_warmup": [large]})
    fails("INVALID_ARGUMENT", "failed to load", call=lambda: client.load_model("add_sub", config=override))
    assert client.infer("add_sub", feed).as_numpy("OUTPUT0").shape == (1, 16)
    other = inputs({"INPUT0": f32(1, 4, 4), "INPUT1": f32(1, 4, 4)})
    fails("INVALID_ARGUMENT", "[1,4,4]", call=lambda: client.infer("add_sub", other))
    client.load_model("add_sub")
    assert client.infer("add_sub", feed).as_numpy("OUTPUT0").shape == (1, 16)


def case_unload_in_use():
    """What was taken before an unload is answered; what comes after it is not."""
    feed = inputs({"INPUT0": f32(1, 256)})
    answers = queue.Queue()
    for _ in range(6):
        client.async_infer("slow", feed, lambda result, error: answers.put(error))
    first = answers.get(timeout=60)
    client.unload_model("slow")
    errors = [first] + [answers.get(timeout=60) for _ in range(5)]
    assert errors == [None] * 6, errors
    fails("NOT_FOUND", "unloaded", call=lambda: client.infer("slow", feed))


def case_large():
    """Requests of any size come whole, and come back."""
    from tritonclient.grpc import service_pb2 as pb, service_pb2_grpc as stubs
    stub = stubs.GRPCInferenceServiceStub(grpc.insecure_channel(ADDRESS))
    for elements in (10, 30_000, 40_000, 1_500_000, 5_000_000):
        array = np.arange(elements, dtype=np.float32).reshape(1, -1)
        result = client.infer("identity_fp32", inputs({"INPUT0": array}))
        assert (result.as_numpy("OUTPUT0") == array).all(), elements
    # What the shape does not say is refused, however large it is, and the connection serves on.
    wrong = pb.ModelInferRequest(model_name="identity_fp32")
    wrong.inputs.add(name="INPUT0", datatype="FP32", shape=(1, 100_000))
    wrong.raw_input_contents.append(bytes(400_004))
    fails("INVALID_ARGUMENT", "400004", call=lambda: stub.ModelInfer(wrong))
    wrong.inputs[0].shape[1] = 100_001
    wrong.model_name = "nope"
    fails("NOT_FOUND", "nope", call=lambda: stub.ModelInfer(wrong))


def case_large_on_and_on():
    """For some seconds, while workers come and go."""
    array = np.arange(1_000_000, dtype=np.float32).reshape(1, -1)
    end, count = time.time() + 6, 0
    while time.time() < end:
        assert (client.infer("identity_fp32", inputs({"INPUT0": array})).as_numpy("OUTPUT0") == array).all()
        count += 1
    print(count)


def case_split():
    """Rows above the largest batch come back as one answer."""
    same("add_sub", {"INPUT0": f32(11, 16), "INPUT1": f32(11, 16)})
    stats = client.get_inference_statistics("add_sub").model_stats[0]
    assert (stats.inference_count, stats.execution_count >= 3) == (11, True), stats


def case_padding():
    """Sentences of different lengths share batches, and each gets its own answer."""
    feeds = []
    for length in range(17, 21):
        ids = rng.integers(1000, 20000, (1, length))
        feeds.append({"input_ids": ids, "attention_mask": np.ones_like(ids)})
    wanted = [truth("minilm_l6", feed)["sentence_embedding"] for feed in feeds]

    async def rounds():
        async with triton_aio.InferenceServerClient(ADDRESS) as many:
            for _ in range(8):
                got = await asyncio.gather(*(many.infer("minilm_l6", inputs(feed)) for feed in feeds))
                for have, want in zip(got, wanted):
                    have = have.as_numpy("sentence_embedding")
                    assert have.shape == want.shape and np.abs(have - want).max() <= 1e-4, (have.shape, want.shape)

    asyncio.run(rounds())
    stats = client.get_inference_statistics("minilm_l6").model_stats[0]
    assert stats.inference_count == 32 and stats.execution_count < 32, stats


def case_good():
    """The cluster answers as one process does."""
    same("add_sub", {"INPUT0": f32(2, 16), "INPUT1": f32(2, 16)})
    same("efficientnet_lite0", {"x": f32(1, 3, 224, 224)})
    workers = {client.infer("add_sub", inputs({"INPUT0": f32(1, 16), "INPUT1": f32(1, 16)})).get_response().parameters["sluice_worker"].string_param for _ in range(100)}
    print(sorted(workers))


try:
    globals()[f"case_{CASE}"]()
except BaseException:
    traceback.print_exc()
    sys.stderr.flush()
    os._exit(1)  # not by return: a client with an open stream would wait for it, and nobody would see what failed
