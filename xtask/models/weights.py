"""Readers of weight files, without the frameworks that wrote them."""
import collections
import io
import json
import pickle
import struct

import numpy as np


def read_safetensors(data):
    kinds = {"F32": np.float32, "F16": np.float16, "I64": np.int64}
    size = struct.unpack("<Q", data[:8])[0]
    out = {}
    for name, entry in json.loads(data[8:8 + size]).items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        kind = np.dtype(kinds[entry["dtype"]])
        flat = np.frombuffer(data, kind, offset=8 + size + begin, count=(end - begin) // kind.itemsize)
        out[name] = flat.reshape(entry["shape"])
    return out


def read_torch_legacy(data):
    """A state dict in torch's file format before 1.6, with an unpickler that allows four names only."""
    kinds = {"FloatStorage": np.float32, "LongStorage": np.int64}
    views, file = [], io.BytesIO(data)

    def rebuild(storage, offset, size, stride, *_):
        views.append((storage, offset, size, stride))
        return len(views) - 1

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            if (module, name) == ("collections", "OrderedDict"):
                return collections.OrderedDict
            if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
                return rebuild
            if module == "torch" and name in kinds:
                return name
            raise pickle.UnpicklingError(f"{module}.{name} not allowed")

        def persistent_load(self, pid):
            return pid[2], pid[1]  # key, storage type

    if Unpickler(file).load() != 0x1950A86A20F9469CFC6C:
        raise SystemExit("not torch's legacy format")
    Unpickler(file).load(), Unpickler(file).load()  # protocol version, system info
    state, keys = Unpickler(file).load(), Unpickler(file).load()
    types = {view[0][0]: view[0][1] for view in views}
    stores = {}
    for key in keys:
        count = struct.unpack("<q", file.read(8))[0]
        kind = np.dtype(kinds[types[key]])
        stores[key] = np.frombuffer(file.read(count * kind.itemsize), kind)
    out = {}
    for name, index in state.items():
        (key, _), offset, size, stride = views[index]
        flat = stores[key][offset:]
        out[name] = np.lib.stride_tricks.as_strided(flat, size, [s * flat.itemsize for s in stride]).copy()
    return out
