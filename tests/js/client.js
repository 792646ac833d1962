// The gRPC client of Node, from our own .proto files: `NODE_PATH=... node client.js --grpc HOST:PORT`, as tests/py/clients/common.py says.
"use strict";

const assert = require("node:assert");
const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const CASE_MS = 60_000;
const STREAM_LENGTH = 5000;
const STREAM_WRONG = 2500;
const UNLIMITED = { "grpc.max_receive_message_length": -1, "grpc.max_send_message_length": -1 };

const argument = (name) => process.argv[process.argv.indexOf(`--${name}`) + 1];
const protos = path.join(__dirname, "../../proto/protos");
const definition = loader.loadSync("inference.proto", { includeDirs: [protos], keepCase: true, longs: String, enums: String, defaults: true, oneofs: true });
const { inference } = grpc.loadPackageDefinition(definition);

const open = (options = {}) => new inference.GRPCInferenceService(argument("grpc"), grpc.credentials.createInsecure(), { ...UNLIMITED, ...options });
const client = open();

/** One unary call: a promise of the answer. */
function call(method, request = {}, { metadata = {}, deadline_ms = CASE_MS, options = {}, on = client } = {}) {
  const headers = new grpc.Metadata();
  for (const [name, value] of Object.entries(metadata)) headers.set(name, value);
  return new Promise((resolve, reject) => {
    on[method](request, headers, { deadline: Date.now() + deadline_ms, ...options }, (error, reply) => (error ? reject(error) : resolve(reply)));
  });
}

async function fails(code, needles, promise) {
  let error;
  try {
    await promise;
  } catch (caught) {
    error = caught;
  }
  assert(error, `expected ${code}, got an answer`);
  assert.strictEqual(grpc.status[error.code], code, error.message);
  for (const needle of needles) assert(error.details.includes(needle), `\`${needle}\` is not in \`${error.details}\``);
}

// Each type: how many bytes an element has, and some bytes of five elements. BYTES has elements of its own.
const WIDTHS = { BOOL: 1, UINT8: 1, UINT16: 2, UINT32: 4, UINT64: 8, INT8: 1, INT16: 2, INT32: 4, INT64: 8, FP16: 2, BF16: 2, FP32: 4, FP64: 8 };
const ODD_BYTES = [Buffer.from(""), Buffer.from("a\0b"), Buffer.from([0xff, 0xfe, 0xfd]), Buffer.from("grüße"), Buffer.from([0])];

function raw(datatype) {
  if (datatype === "BYTES") {
    return Buffer.concat(ODD_BYTES.flatMap((element) => {
      const length = Buffer.alloc(4);
      length.writeUInt32LE(element.length);
      return [length, element];
    }));
  }
  const bytes = Buffer.alloc(5 * WIDTHS[datatype]);
  for (let i = 0; i < bytes.length; i += 1) bytes[i] = datatype === "BOOL" ? i % 2 : (i * 37 + 11) % 120;
  return bytes;
}

// One field of each kind of typed contents, and the raw bytes that it means.
const TYPED = {
  BOOL: [{ bool_contents: [true, false] }, Buffer.from([1, 0])],
  UINT8: [{ uint_contents: [7, 255] }, Buffer.from([7, 255])],
  UINT16: [{ uint_contents: [7, 65535] }, Buffer.from(new Uint16Array([7, 65535]).buffer)],
  UINT32: [{ uint_contents: [7, 4294967295] }, Buffer.from(new Uint32Array([7, 4294967295]).buffer)],
  UINT64: [{ uint64_contents: ["7", "18446744073709551615"] }, Buffer.from(new BigUint64Array([7n, 18446744073709551615n]).buffer)],
  INT8: [{ int_contents: [7, -128] }, Buffer.from(new Int8Array([7, -128]).buffer)],
  INT16: [{ int_contents: [7, -32768] }, Buffer.from(new Int16Array([7, -32768]).buffer)],
  INT32: [{ int_contents: [7, -2147483648] }, Buffer.from(new Int32Array([7, -2147483648]).buffer)],
  INT64: [{ int64_contents: ["7", "-9223372036854775808"] }, Buffer.from(new BigInt64Array([7n, -9223372036854775808n]).buffer)],
  FP32: [{ fp32_contents: [0.5, -2] }, Buffer.from(new Float32Array([0.5, -2]).buffer)],
  FP64: [{ fp64_contents: [0.1, -2] }, Buffer.from(new Float64Array([0.1, -2]).buffer)],
  BYTES: [{ bytes_contents: [Buffer.from([0xff, 0]), Buffer.from("")] }, Buffer.from([2, 0, 0, 0, 0xff, 0, 0, 0, 0, 0])],
};

const ints = (...values) => Buffer.from(new Int32Array(values).buffer);
const row = (first) => ints(...Array.from({ length: 16 }, (_, i) => first + i));

/** A request of `simple`: `INPUT0` counts from `first`, `INPUT1` from one. */
function simple(first = 0, fields = {}) {
  const inputs = ["INPUT0", "INPUT1"].map((name) => ({ name, datatype: "INT32", shape: [1, 16] }));
  return { model_name: "simple", inputs, raw_input_contents: [row(first), row(1)], ...fields };
}

function check_simple(reply, first = 0) {
  const want = { OUTPUT0: ints(...Array.from({ length: 16 }, (_, i) => first + 1 + 2 * i)), OUTPUT1: ints(...Array(16).fill(first - 1)) };
  assert.deepStrictEqual(reply.outputs.map((output) => output.name).sort(), Object.keys(want));
  reply.outputs.forEach((output, i) => assert(reply.raw_output_contents[i].equals(want[output.name]), output.name));
}

const slow = () => ({ model_name: "slow", inputs: [{ name: "INPUT0", datatype: "FP32", shape: [1, 256] }], raw_input_contents: [Buffer.alloc(1024)] });

/** Sends the requests on one stream and gives all answers, and the error that ended it if one did. */
function stream(requests, metadata = {}) {
  const headers = new grpc.Metadata();
  for (const [name, value] of Object.entries(metadata)) headers.set(name, value);
  return new Promise((resolve) => {
    const answers = [];
    const talk = client.ModelStreamInfer(headers, { deadline: Date.now() + CASE_MS });
    talk.on("data", (answer) => answers.push(answer));
    talk.on("error", (error) => resolve({ answers, error }));
    talk.on("end", () => resolve({ answers }));
    for (const request of requests) talk.write(request);
    talk.end();
  });
}

const cases = {};
for (const datatype of [...Object.keys(WIDTHS), "BYTES"]) {
  cases[`infer-${datatype.toLowerCase()}`] = async () => {
    const bytes = raw(datatype);
    const request = { model_name: `identity_${datatype.toLowerCase()}`, inputs: [{ name: "INPUT0", datatype, shape: [1, 5] }], raw_input_contents: [bytes] };
    const reply = await call("ModelInfer", request);
    assert.strictEqual(reply.outputs[0].datatype, datatype);
    assert(reply.raw_output_contents[0].equals(bytes), reply.raw_output_contents[0].toString("hex"));
  };
}

Object.assign(cases, {
  "server-live": async () => assert((await call("ServerLive")).live),
  "server-ready": async () => assert((await call("ServerReady")).ready),
  "model-ready": async () => assert((await call("ModelReady", { name: "simple" })).ready),
  "server-metadata": async () => {
    const server = await call("ServerMetadata");
    assert.strictEqual(server.name, "sluice");
    assert(server.extensions.includes("statistics"), server.extensions);
  },
  "model-metadata": async () => {
    const model = await call("ModelMetadata", { name: "simple" });
    assert.deepStrictEqual([model.platform, model.versions], ["onnxruntime_onnx", ["1"]]);
    assert.deepStrictEqual(model.inputs[0].shape, ["-1", "16"]);
  },
  "model-config": async () => {
    const { config } = await call("ModelConfig", { name: "simple" });
    assert.deepStrictEqual([config.name, config.max_batch_size, config.input[0].data_type], ["simple", 8, "TYPE_INT32"]);
  },
  statistics: async () => {
    const count = async () => Number((await call("ModelStatistics", { name: "simple" })).model_stats[0].inference_count);
    const before = await count();
    for (let i = 0; i < 3; i += 1) await call("ModelInfer", simple());
    const end = Date.now() + 10_000;
    while ((await count()) !== before + 3) {
      assert(Date.now() < end, `${await count()} inferences, expected ${before + 3}`);
      await new Promise((wake) => setTimeout(wake, 50));
    }
  },
  "repository-index": async () => {
    const { models } = await call("RepositoryIndex");
    assert(models.some((model) => model.name === "simple" && model.state === "READY"), JSON.stringify(models));
  },
  "load-unload": async () => {
    await call("RepositoryModelUnload", { model_name: "control" });
    await call("RepositoryModelLoad", { model_name: "control" });
    assert((await call("ModelReady", { name: "control" })).ready);
  },
  "load-with-config": async () => {
    const max_batch_size = async () => (await call("ModelConfig", { name: "control" })).config.max_batch_size;
    await call("RepositoryModelLoad", { model_name: "control", parameters: { config: { string_param: JSON.stringify({ max_batch_size: 2 }) } } });
    assert.strictEqual(await max_batch_size(), 2);
    await call("RepositoryModelLoad", { model_name: "control" });
    assert.strictEqual(await max_batch_size(), 4);
  },
  "trace-settings": async () => assert((await call("TraceSetting")).settings.trace_rate.value.length === 1),
  "log-settings": async () => assert("log_info" in (await call("LogSettings")).settings),
  "shared-memory-status": async () => assert.deepStrictEqual((await call("SystemSharedMemoryStatus")).regions, {}),
  "shared-memory-unregister-all": async () => {
    await call("SystemSharedMemoryUnregister");
    await call("CudaSharedMemoryUnregister");
  },
  "infer-typed": async () => {
    for (const [datatype, [contents, bytes]] of Object.entries(TYPED)) {
      const request = { model_name: `identity_${datatype.toLowerCase()}`, inputs: [{ name: "INPUT0", datatype, shape: [1, 2], contents }] };
      const reply = await call("ModelInfer", request);
      assert(reply.raw_output_contents[0].equals(bytes), `${datatype}: ${reply.raw_output_contents[0].toString("hex")}`);
    }
  },
  "infer-simple": async () => check_simple(await call("ModelInfer", simple(5)), 5),
  "infer-32-mib": async () => {
    const bytes = Buffer.alloc(32 << 20, "sluice!");
    const inputs = [{ name: "INPUT0", datatype: "FP32", shape: [1, bytes.length / 4] }];
    const reply = await call("ModelInfer", { model_name: "identity_fp32", inputs, raw_input_contents: [bytes] });
    assert(reply.raw_output_contents[0].equals(bytes));
  },
  "outputs-subset": async () => {
    const reply = await call("ModelInfer", simple(0, { outputs: [{ name: "OUTPUT1" }] }));
    assert.deepStrictEqual(reply.outputs.map((output) => output.name), ["OUTPUT1"]);
  },
  classification: async () => {
    const outputs = [{ name: "OUTPUT0", parameters: { classification: { int64_param: 2 } } }];
    const inputs = [{ name: "INPUT0", datatype: "FP32", shape: [1, 8] }];
    const bytes = Buffer.from(new Float32Array([1, 2, 3, 4, 5, 6, 7, 8]).buffer);
    const reply = await call("ModelInfer", { model_name: "classifier", inputs, outputs, raw_input_contents: [bytes] });
    assert.deepStrictEqual([reply.outputs[0].datatype, reply.outputs[0].shape], ["BYTES", ["1", "2"]]);
    assert.match(reply.raw_output_contents[0].toString("latin1", 4), /^[0-9.e-]+:[0-3]:(north|east|south|west)/);
  },
  "request-id": async () => {
    assert.strictEqual((await call("ModelInfer", simple(0, { id: "id-7 é" }))).id, "id-7 é");
    await fails("NOT_FOUND", ["[request id: id-8]", "nope"], call("ModelInfer", simple(0, { model_name: "nope", id: "id-8" })));
  },
  parameters: async () => {
    const parameters = { text: { string_param: "some" }, whole: { int64_param: 7 }, yes: { bool_param: true }, part: { double_param: 0.5 }, big: { uint64_param: 9 } };
    check_simple(await call("ModelInfer", simple(0, { parameters })));
  },
  headers: async () => check_simple(await call("ModelInfer", simple(), { metadata: { "x-request-id": "abc" } })),
  gzip: async () => {
    const on = open({ "grpc.default_compression_algorithm": 2 });
    check_simple(await call("ModelInfer", simple(), { on }));
    on.close();
  },
  deflate: async () => {
    const on = open({ "grpc.default_compression_algorithm": 1 });
    check_simple(await call("ModelInfer", simple(), { on }));
    on.close();
  },
  "error-unknown-model": () => fails("NOT_FOUND", ["nope"], call("ModelInfer", simple(0, { model_name: "nope" }))),
  "error-unknown-version": () => fails("NOT_FOUND", ["7"], call("ModelInfer", simple(0, { model_version: "7" }))),
  "error-shape": () => {
    const request = simple();
    request.inputs[0].shape = [1, 15];
    return fails("INVALID_ARGUMENT", ["INPUT0", "15", "16"], call("ModelInfer", request));
  },
  "error-byte-size": () => {
    const request = simple();
    request.raw_input_contents[0] = request.raw_input_contents[0].subarray(1);
    return fails("INVALID_ARGUMENT", ["INPUT0", "63", "64"], call("ModelInfer", request));
  },
  "client-timeout": () => fails("DEADLINE_EXCEEDED", [], call("ModelInfer", slow(), { deadline_ms: 20 })),
  "async-infer": async () => {
    const replies = await Promise.all(Array.from({ length: 100 }, (_, i) => call("ModelInfer", simple(i))));
    replies.forEach((reply, i) => check_simple(reply, i));
  },
  "async-cancel": async () => {
    const cancelled = new Promise((resolve, reject) => {
      const started = client.ModelInfer(slow(), (error, reply) => (error ? reject(error) : resolve(reply)));
      started.cancel();
    });
    await fails("CANCELLED", [], cancelled);
    check_simple(await call("ModelInfer", simple()));
  },
  "keep-alive": async () => {
    const on = open({ "grpc.keepalive_time_ms": 200, "grpc.keepalive_timeout_ms": 5000, "grpc.keepalive_permit_without_calls": 1 });
    check_simple(await call("ModelInfer", simple(), { on }));
    await new Promise((wake) => setTimeout(wake, 2000));
    check_simple(await call("ModelInfer", simple(), { on }));
    on.close();
  },
  "custom-arguments": async () => {
    const on = open({ "grpc.primary_user_agent": "my-application", "grpc.use_local_subchannel_pool": 1 });
    check_simple(await call("ModelInfer", simple(), { on }));
    on.close();
  },
  stream: async () => {
    const wrong = { model_name: "simple", id: String(STREAM_WRONG) };
    const requests = Array.from({ length: STREAM_LENGTH }, (_, i) => (i === STREAM_WRONG ? wrong : simple(i, { id: String(i) })));
    const { answers, error } = await stream(requests);
    assert(!error, error);
    const bad = answers.filter((answer) => answer.error_message !== "");
    assert.strictEqual(bad.length, 1);
    assert(bad[0].error_message.includes(`request id: ${STREAM_WRONG}`), bad[0].error_message);
    for (const { infer_response } of answers.filter((answer) => answer.error_message === "")) check_simple(infer_response, Number(infer_response.id));
    assert.strictEqual(new Set(answers.map((answer) => answer.infer_response.id)).size, STREAM_LENGTH);
  },
  "stream-error-as-status": async () => {
    const { error } = await stream([{ model_name: "simple" }, simple()], { triton_grpc_error: "true" });
    assert.strictEqual(error?.code, grpc.status.INVALID_ARGUMENT, error);
  },
  "stream-empty-final": async () => {
    const { answers, error } = await stream([simple(0, { parameters: { triton_enable_empty_final_response: { bool_param: true } } })]);
    assert(!error && answers.length > 0, error);
    const final = answers.map((answer) => answer.infer_response.parameters.triton_final_response.bool_param);
    assert(final.at(-1) && !final.slice(0, -1).some(Boolean), final);
  },
});

async function main() {
  let failed = false;
  for (const [name, run] of Object.entries(cases)) {
    let timer;
    try {
      const late = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error(`not done after ${CASE_MS} ms`)), CASE_MS);
      });
      await Promise.race([run(), late]);
      console.log(`${name}\tok`);
    } catch (error) {
      failed = true;
      console.log(`${name}\tFAIL ${String(error).replace(/\s+/g, " ").slice(0, 400)}`);
    } finally {
      clearTimeout(timer);
    }
  }
  process.exit(failed ? 1 : 0);
}

main();
