"""System shared memory through stock clients: `shm.py grpc|http ADDRESS MODEL`. The server runs on this host with client shared
memory on; MODEL has at least two inputs and one output of fixed element size, and answers the same input alike (`add_sub`).
Prints a line per case, `case<TAB>ok` or `case<TAB>what went wrong`, and exits with 1 when one did."""
import importlib, os, sys

import numpy as np
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

KIND, ADDRESS, MODEL = sys.argv[1:4]
triton = importlib.import_module(f"tritonclient.{KIND}")
client = triton.InferenceServerClient(ADDRESS)
rng = np.random.default_rng(7)
GAP = 64  # bytes before every range but the first, so that an ignored offset shows


def as_dict(message):
    return message if KIND == "http" else {"name": message.name, "key": message.key, "offset": message.offset, "byte_size": message.byte_size}


def regions(name=""):
    status = client.get_system_shared_memory_status(name)
    listed = status if KIND == "http" else status.regions.values()
    return {r["name"]: (r["key"], int(r["offset"]), int(r["byte_size"])) for r in map(as_dict, listed)}


def signature():
    m = client.get_model_metadata(MODEL)
    m = m if KIND == "http" else {w: [{"name": t.name, "datatype": t.datatype, "shape": list(t.shape)} for t in getattr(m, w)] for w in ("inputs", "outputs")}
    return m["inputs"], m["outputs"]


INPUTS, OUTPUTS = signature()
FEED = {}
for spec in INPUTS:
    shape = [1 if int(d) < 0 else int(d) for d in spec["shape"]]
    FEED[spec["name"]] = rng.integers(0, 100, shape).astype(triton_to_np_dtype(spec["datatype"]))


def tensor(name, region=None, offset=0, size=None):
    """An input with its data, or with a place in a region."""
    datatype = next(s["datatype"] for s in INPUTS if s["name"] == name)
    i = triton.InferInput(name, list(FEED[name].shape), datatype)
    if region is None:
        i.set_data_from_numpy(FEED[name])
    else:
        i.set_shared_memory(region, FEED[name].nbytes if size is None else size, offset)
    return i


def wanted(name, region=None, size=0, offset=0):
    o = triton.InferRequestedOutput(name)
    if region is not None:
        o.set_shared_memory(region, size, offset)
    return o


def with_data():
    return [tensor(name) for name in FEED]


TRUTH = {s["name"]: client.infer(MODEL, with_data()).as_numpy(s["name"]) for s in OUTPUTS}
FIRST, SECOND = list(FEED)[:2]
OUT = OUTPUTS[0]["name"]


def same(result, names):
    for name in names:
        assert (result.as_numpy(name) == TRUTH[name]).all(), name


def parameter(result, output, name):
    """A parameter of an output of the answer, None when it is not there."""
    answered = result.get_output(output)
    if KIND == "http":
        return answered.get("parameters", {}).get(name)
    p = answered.parameters
    return getattr(p[name], p[name].WhichOneof("parameter_choice")) if name in p else None


def fails(*needles, call):
    try:
        call()
    except InferenceServerException as e:
        for needle in needles:
            assert needle in str(e), f"{needle!r} is not in {e}"
        return
    raise AssertionError(f"expected an error with {needles}")


class Region:
    """An object of this process, registered while the block runs."""

    def __init__(self, name, size):
        self.name, self.size, self.key = name, size, f"/client-{KIND}-{name}-{os.getpid()}"

    def __enter__(self):
        self.handle = shm.create_shared_memory_region(self.name, self.key, self.size, create_only=True)
        client.register_system_shared_memory(self.name, self.key, self.size)
        return self

    def __exit__(self, *_):
        client.unregister_system_shared_memory(self.name)
        shm.destroy_shared_memory_region(self.handle)

    def put(self, name, offset=0):
        shm.set_shared_memory_region(self.handle, [FEED[name]], offset)

    def get(self, name, offset=0):
        return shm.get_contents_as_numpy(self.handle, TRUTH[name].dtype, TRUTH[name].shape, offset).copy()


def in_and_out():
    """Regions for all inputs and for all outputs, one after another with gaps, and where each tensor lies."""
    places, end = {}, {"in": 0, "out": 0}
    for which, arrays in (("in", FEED), ("out", TRUTH)):
        for name, a in arrays.items():
            places[which, name] = end[which]
            end[which] += a.nbytes + GAP
    return Region("in", end["in"]), Region("out", end["out"]), places


def case_unregister_all_before_anything():
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory()
    assert regions() == {}


def case_register_status_unregister():
    with Region("r", 256) as r:
        client.register_system_shared_memory("part", r.key, 100, offset=28)
        # an object may have grown to whole pages; what was registered is what is told
        assert regions() == {"r": (r.key, 0, 256), "part": (r.key, 28, 100)}, regions()
        assert list(regions("part")) == ["part"], regions("part")
        fails("nope", call=lambda: regions("nope"))
        client.unregister_system_shared_memory("nope")
        client.unregister_system_shared_memory("part")
        assert list(regions()) == ["r"], regions()
        client.unregister_system_shared_memory()
        assert regions() == {}, regions()


def case_register_twice():
    with Region("r", 64) as r:
        fails("`r`", "already", call=lambda: client.register_system_shared_memory("r", r.key, 32))
        assert regions()["r"] == (r.key, 0, 64), regions()


def case_register_out_of_bounds():
    with Region("r", 4096) as r:
        for size, offset in ((1 << 30, 0), (4096, 1 << 20), (0, 0), (2**63, 2**63)):
            fails("`b`", str(size), call=lambda: client.register_system_shared_memory("b", r.key, size, offset=offset))
        for key in ("/no-such-object", "/../etc/passwd", "", "/triton_python_backend_shm_region_1"):
            fails("`b`", call=lambda: client.register_system_shared_memory("b", key, 1))
        assert list(regions()) == ["r"], regions()


def case_all_inputs_and_outputs():
    inputs, outputs, places = in_and_out()
    with inputs, outputs:
        for name in FEED:
            inputs.put(name, places["in", name])
        ask = [tensor(name, "in", places["in", name]) for name in FEED]
        want = [wanted(name, "out", a.nbytes, places["out", name]) for name, a in TRUTH.items()]
        result = client.infer(MODEL, ask, outputs=want)
        for name, a in TRUTH.items():
            assert (outputs.get(name, places["out", name]) == a).all(), name
            assert parameter(result, name, "shared_memory_region") == "out", name
            assert parameter(result, name, "shared_memory_byte_size") == a.nbytes, name
            assert parameter(result, name, "shared_memory_offset") in (places["out", name], None), name
        if KIND == "grpc":
            assert [len(raw) for raw in result.get_response().raw_output_contents] == [0] * len(TRUTH)


def case_first_input_in_a_region():
    with Region("in", FEED[FIRST].nbytes + GAP) as r:
        r.put(FIRST, GAP)
        same(client.infer(MODEL, [tensor(FIRST, "in", GAP)] + [tensor(n) for n in list(FEED)[1:]]), TRUTH)


def case_second_input_in_a_region():
    with Region("in", FEED[SECOND].nbytes) as r:
        r.put(SECOND)
        same(client.infer(MODEL, [tensor(n, *(["in"] if n == SECOND else [])) for n in FEED]), TRUTH)


def case_one_output_in_a_region():
    a = TRUTH[OUT]
    with Region("out", a.nbytes + 100) as r:
        want = [wanted(name, *(["out", a.nbytes + 100] if name == OUT else [])) for name in TRUTH]
        result = client.infer(MODEL, with_data(), outputs=want)
        assert (r.get(OUT) == a).all()
        assert parameter(result, OUT, "shared_memory_byte_size") == a.nbytes, "the true length, not the room"
        same(result, [name for name in TRUTH if name != OUT])


def case_input_out_of_bounds():
    size = FEED[FIRST].nbytes
    with Region("in", size):
        rest = [tensor(n) for n in list(FEED)[1:]]
        for offset, length in ((1, size), (0, size + 1), (2**62, size)):
            fails("`in`", str(length), call=lambda: client.infer(MODEL, [tensor(FIRST, "in", offset, length)] + rest))
        fails(f"`{FIRST}`", str(size), str(size - 1), call=lambda: client.infer(MODEL, [tensor(FIRST, "in", 0, size - 1)] + rest))
        fails("`nope`", call=lambda: client.infer(MODEL, [tensor(FIRST, "nope")] + rest))


def case_output_out_of_bounds():
    size = TRUTH[OUT].nbytes
    with Region("out", size):
        ask = lambda *place: lambda: client.infer(MODEL, with_data(), outputs=[wanted(OUT, *place)])
        fails("`out`", call=ask("out", size, 1))
        fails("`out`", str(size + 1), call=ask("out", size + 1))
        fails(f"`{OUT}`", str(size), str(size - 1), call=ask("out", size - 1))
        fails("`nope`", call=ask("nope", size))


def case_unregistered_region_is_gone():
    with Region("in", FEED[FIRST].nbytes) as r:
        r.put(FIRST)
        client.unregister_system_shared_memory("in")
        fails("`in`", call=lambda: client.infer(MODEL, [tensor(FIRST, "in")] + [tensor(n) for n in list(FEED)[1:]]))


def case_shrunk_object():
    size = 8192
    with Region("in", size) as r:
        with open(f"/dev/shm{r.key}", "r+b") as f:
            f.truncate(16)
        fails("`in`", "shrunk", call=lambda: client.infer(MODEL, [tensor(FIRST, "in", 4096, FEED[FIRST].nbytes)] + [tensor(n) for n in list(FEED)[1:]]))
        same(client.infer(MODEL, with_data()), TRUTH)


def case_cuda_is_refused():
    fails(call=lambda: client.register_cuda_shared_memory("c", b"", 0, 64))


bad = 0
for name, case in [(n[5:], f) for n, f in list(globals().items()) if n.startswith("case_")]:
    try:
        case()
        print(f"{name}\tok")
    except Exception as e:  # a line per case, whatever happens in it
        bad = 1
        print(f"{name}\t{type(e).__name__}: {' '.join(str(e).split())}")
        client.unregister_system_shared_memory()
sys.exit(bad)
