// The gRPC client of C++, from our own .proto files: `client --grpc HOST:PORT`, as tests/py/clients/common.py says.
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstring>
#include <functional>
#include <iostream>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "inference.grpc.pb.h"

using namespace inference;
using Stub = GRPCInferenceService::Stub;

namespace {

constexpr int kStreamLength = 5000;
constexpr int kStreamWrong = 2500;

std::string address;
std::unique_ptr<Stub> stub;

[[noreturn]] void fail(const std::string& why) { throw std::runtime_error(why); }

void check(bool holds, const std::string& why) {
  if (!holds) fail(why);
}

std::unique_ptr<Stub> open(grpc::ChannelArguments arguments = {}) {
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetMaxSendMessageSize(-1);
  return GRPCInferenceService::NewStub(grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
}

void limit(grpc::ClientContext& context, int milliseconds = 60'000) {
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(milliseconds));
}

// One unary call that must succeed.
template <typename Request, typename Reply>
Reply ask(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Reply*), const Request& request) {
  grpc::ClientContext context;
  limit(context);
  Reply reply;
  const grpc::Status status = (stub.get()->*method)(&context, request, &reply);
  check(status.ok(), "status " + std::to_string(status.error_code()) + ": " + status.error_message());
  return reply;
}

ModelInferResponse infer(const ModelInferRequest& request) { return ask(&Stub::ModelInfer, request); }

void fails(grpc::StatusCode code, const std::vector<std::string>& needles, const ModelInferRequest& request, int milliseconds = 60'000) {
  grpc::ClientContext context;
  limit(context, milliseconds);
  ModelInferResponse reply;
  const grpc::Status status = stub->ModelInfer(&context, request, &reply);
  check(status.error_code() == code, "status " + std::to_string(status.error_code()) + ", expected " + std::to_string(code) + ": " + status.error_message());
  for (const auto& needle : needles) {
    check(status.error_message().find(needle) != std::string::npos, "`" + needle + "` is not in `" + status.error_message() + "`");
  }
}

template <typename T>
std::string bytes_of(const std::vector<T>& values) {
  std::string bytes(values.size() * sizeof(T), '\0');
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

std::string with_lengths(const std::vector<std::string>& elements) {
  std::string bytes;
  for (const auto& element : elements) bytes += bytes_of(std::vector<uint32_t>{static_cast<uint32_t>(element.size())}) + element;
  return bytes;
}

void add_input(ModelInferRequest& request, const std::string& name, const std::string& datatype, const std::vector<int64_t>& shape) {
  auto* input = request.add_inputs();
  input->set_name(name);
  input->set_datatype(datatype);
  for (const int64_t dimension : shape) input->add_shape(dimension);
}

// A request of `simple`: INPUT0 counts from `first`, INPUT1 from one.
ModelInferRequest simple(int first = 0) {
  ModelInferRequest request;
  request.set_model_name("simple");
  std::vector<int32_t> a(16), b(16);
  for (int i = 0; i < 16; i++) a[i] = first + i, b[i] = 1 + i;
  add_input(request, "INPUT0", "INT32", {1, 16});
  add_input(request, "INPUT1", "INT32", {1, 16});
  request.add_raw_input_contents(bytes_of(a));
  request.add_raw_input_contents(bytes_of(b));
  return request;
}

void check_simple(const ModelInferResponse& reply, int first = 0) {
  check(reply.outputs_size() == 2 && reply.raw_output_contents_size() == 2, "two outputs: " + reply.ShortDebugString());
  for (int i = 0; i < 2; i++) {
    std::vector<int32_t> want(16);
    for (int j = 0; j < 16; j++) want[j] = reply.outputs(i).name() == "OUTPUT0" ? first + 1 + 2 * j : first - 1;
    check(reply.raw_output_contents(i) == bytes_of(want), reply.outputs(i).name());
  }
}

ModelInferRequest identity(const std::string& datatype, const std::vector<int64_t>& shape, const std::string& raw) {
  ModelInferRequest request;
  std::string name = "identity_" + datatype;
  for (auto& c : name) c = static_cast<char>(std::tolower(c));
  request.set_model_name(name);
  add_input(request, "INPUT0", datatype, shape);
  request.add_raw_input_contents(raw);
  return request;
}

void same(const ModelInferResponse& reply, const std::string& raw, const std::string& datatype) {
  check(reply.outputs(0).datatype() == datatype, reply.outputs(0).datatype());
  check(reply.raw_output_contents(0) == raw, datatype + ": other bytes came back");
}

ModelInferRequest slow() {
  ModelInferRequest request;
  request.set_model_name("slow");
  add_input(request, "INPUT0", "FP32", {1, 256});
  request.add_raw_input_contents(std::string(1024, '\0'));
  return request;
}

void typed() {
  const auto one = [](const std::string& datatype, const std::string& raw, const std::function<void(InferTensorContents*)>& fill) {
    ModelInferRequest request = identity(datatype, {1, 2}, "");
    request.clear_raw_input_contents();
    fill(request.mutable_inputs(0)->mutable_contents());
    same(infer(request), raw, datatype);
  };
  const auto unsigned_ints = [](uint32_t a, uint32_t b) { return [=](InferTensorContents* c) { c->add_uint_contents(a), c->add_uint_contents(b); }; };
  const auto ints = [](int32_t a, int32_t b) { return [=](InferTensorContents* c) { c->add_int_contents(a), c->add_int_contents(b); }; };
  one("BOOL", std::string("\1\0", 2), [](auto* c) { c->add_bool_contents(true), c->add_bool_contents(false); });
  one("UINT8", bytes_of<uint8_t>({7, 255}), unsigned_ints(7, 255));
  one("UINT16", bytes_of<uint16_t>({7, 65535}), unsigned_ints(7, 65535));
  one("UINT32", bytes_of<uint32_t>({7, UINT32_MAX}), unsigned_ints(7, UINT32_MAX));
  one("UINT64", bytes_of<uint64_t>({7, UINT64_MAX}), [](auto* c) { c->add_uint64_contents(7), c->add_uint64_contents(UINT64_MAX); });
  one("INT8", bytes_of<int8_t>({7, INT8_MIN}), ints(7, INT8_MIN));
  one("INT16", bytes_of<int16_t>({7, INT16_MIN}), ints(7, INT16_MIN));
  one("INT32", bytes_of<int32_t>({7, INT32_MIN}), ints(7, INT32_MIN));
  one("INT64", bytes_of<int64_t>({7, INT64_MIN}), [](auto* c) { c->add_int64_contents(7), c->add_int64_contents(INT64_MIN); });
  one("FP32", bytes_of<float>({0.5f, -2}), [](auto* c) { c->add_fp32_contents(0.5f), c->add_fp32_contents(-2); });
  one("FP64", bytes_of<double>({0.1, -2}), [](auto* c) { c->add_fp64_contents(0.1), c->add_fp64_contents(-2); });
  const std::string odd("\xff\0", 2);
  one("BYTES", with_lengths({odd, ""}), [&](auto* c) { c->add_bytes_contents(odd), c->add_bytes_contents(""); });
}

void statistics() {
  const auto count = [] {
    ModelStatisticsRequest request;
    request.set_name("simple");
    return ask(&Stub::ModelStatistics, request).model_stats(0).inference_count();
  };
  const uint64_t before = count();
  for (int i = 0; i < 3; i++) infer(simple());
  for (int i = 0; count() != before + 3; i++) {
    check(i < 200, std::to_string(count()) + " inferences, expected " + std::to_string(before + 3));
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

void load(const std::string& config) {
  RepositoryModelLoadRequest request;
  request.set_model_name("control");
  if (!config.empty()) (*request.mutable_parameters())["config"].set_string_param(config);
  ask(&Stub::RepositoryModelLoad, request);
}

int max_batch_size(const std::string& model) {
  ModelConfigRequest request;
  request.set_name(model);
  return ask(&Stub::ModelConfig, request).config().max_batch_size();
}

void compressed(grpc_compression_algorithm algorithm) {
  grpc::ClientContext context;
  limit(context);
  context.set_compression_algorithm(algorithm);
  ModelInferResponse reply;
  const std::string raw(1 << 20, 'x');
  const grpc::Status status = stub->ModelInfer(&context, identity("FP32", {1, 1 << 18}, raw), &reply);
  check(status.ok(), status.error_message());
  same(reply, raw, "FP32");
}

// Sends all requests on one stream from a thread of its own, and gives each answer to `each`.
grpc::Status stream(const std::vector<ModelInferRequest>& requests, bool error_as_status, const std::function<void(const ModelStreamInferResponse&)>& each) {
  grpc::ClientContext context;
  limit(context);
  if (error_as_status) context.AddMetadata("triton_grpc_error", "true");
  auto talk = stub->ModelStreamInfer(&context);
  std::thread writer([&] {
    for (const auto& request : requests) {
      if (!talk->Write(request)) break;
    }
    talk->WritesDone();
  });
  ModelStreamInferResponse answer;
  while (talk->Read(&answer)) each(answer);
  writer.join();
  return talk->Finish();
}

void stream_of_many() {
  std::vector<ModelInferRequest> requests;
  for (int i = 0; i < kStreamLength; i++) {
    requests.push_back(simple(i));
    if (i == kStreamWrong) requests.back().clear_inputs(), requests.back().clear_raw_input_contents();
    requests.back().set_id(std::to_string(i));
  }
  std::set<std::string> seen;
  std::vector<std::string> errors;
  const grpc::Status status = stream(requests, false, [&](const ModelStreamInferResponse& answer) {
    const std::string& id = answer.infer_response().id();
    check(seen.insert(id).second, "answered twice: " + id);
    if (answer.error_message().empty()) {
      check_simple(answer.infer_response(), std::stoi(id));
    } else {
      errors.push_back(answer.error_message());
    }
  });
  check(status.ok(), status.error_message());
  check(seen.size() == kStreamLength, std::to_string(seen.size()) + " answers");
  check(errors.size() == 1 && errors[0].find("request id: " + std::to_string(kStreamWrong)) != std::string::npos, "errors: " + std::to_string(errors.size()));
}

void async_infer() {
  constexpr int kCalls = 100;
  struct Call {
    grpc::ClientContext context;
    ModelInferResponse reply;
    grpc::Status status;
    std::unique_ptr<grpc::ClientAsyncResponseReader<ModelInferResponse>> reader;
  };
  std::vector<Call> calls(kCalls);
  grpc::CompletionQueue queue;
  for (int i = 0; i < kCalls; i++) {
    limit(calls[i].context);
    calls[i].reader = stub->AsyncModelInfer(&calls[i].context, simple(i), &queue);
    calls[i].reader->Finish(&calls[i].reply, &calls[i].status, reinterpret_cast<void*>(static_cast<intptr_t>(i)));
  }
  for (int done = 0; done < kCalls; done++) {
    void* tag;
    bool ok;
    check(queue.Next(&tag, &ok) && ok, "the queue ended");
    const int i = static_cast<int>(reinterpret_cast<intptr_t>(tag));
    check(calls[i].status.ok(), calls[i].status.error_message());
    check_simple(calls[i].reply, i);
  }
}

void async_cancel() {
  grpc::ClientContext context;
  limit(context);
  grpc::CompletionQueue queue;
  ModelInferResponse reply;
  grpc::Status status;
  auto reader = stub->AsyncModelInfer(&context, slow(), &queue);
  reader->Finish(&reply, &status, nullptr);
  context.TryCancel();
  void* tag;
  bool ok;
  check(queue.Next(&tag, &ok), "the queue ended");
  check(status.error_code() == grpc::StatusCode::CANCELLED, "status " + std::to_string(status.error_code()));
  check_simple(infer(simple()));
}

void another_channel(const grpc::ChannelArguments& arguments, std::chrono::milliseconds idle) {
  const auto own = open(arguments);
  for (int i = 0; i < 2; i++) {
    grpc::ClientContext context;
    limit(context);
    ModelInferResponse reply;
    const grpc::Status status = own->ModelInfer(&context, simple(), &reply);
    check(status.ok(), status.error_message());
    check_simple(reply);
    std::this_thread::sleep_for(idle);
  }
}

using Cases = std::vector<std::pair<std::string, std::function<void()>>>;

Cases cases() {
  Cases all;
  const std::map<std::string, int> widths = {{"BOOL", 1},  {"UINT8", 1}, {"UINT16", 2}, {"UINT32", 4}, {"UINT64", 8}, {"INT8", 1}, {"INT16", 2},
                                             {"INT32", 4}, {"INT64", 8}, {"FP16", 2},   {"BF16", 2},   {"FP32", 4},   {"FP64", 8}, {"BYTES", 0}};
  for (const auto& [datatype, width] : widths) {
    std::string raw(5 * width, '\0');
    for (size_t i = 0; i < raw.size(); i++) raw[i] = static_cast<char>(datatype == "BOOL" ? i % 2 : (i * 37 + 11) % 120);
    if (datatype == "BYTES") raw = with_lengths({"", std::string("a\0b", 3), "\xff\xfe\xfd", "gr\xc3\xbc\xc3\x9f", std::string(1, '\0')});
    std::string name = "infer-" + datatype;
    for (auto& c : name) c = static_cast<char>(std::tolower(c));
    all.emplace_back(name, [datatype = datatype, raw] { same(infer(identity(datatype, {1, 5}, raw)), raw, datatype); });
  }
  all.emplace_back("server-live", [] { check(ask(&Stub::ServerLive, {}).live(), "not live"); });
  all.emplace_back("server-ready", [] { check(ask(&Stub::ServerReady, {}).ready(), "not ready"); });
  all.emplace_back("model-ready", [] {
    ModelReadyRequest request;
    request.set_name("simple");
    check(ask(&Stub::ModelReady, request).ready(), "not ready");
  });
  all.emplace_back("server-metadata", [] { check(ask(&Stub::ServerMetadata, {}).name() == "sluice", "another name"); });
  all.emplace_back("model-metadata", [] {
    ModelMetadataRequest request;
    request.set_name("simple");
    const auto model = ask(&Stub::ModelMetadata, request);
    check(model.platform() == "onnxruntime_onnx" && model.inputs_size() == 2 && model.inputs(0).shape(1) == 16, model.ShortDebugString());
  });
  all.emplace_back("model-config", [] { check(max_batch_size("simple") == 8, "another max_batch_size"); });
  all.emplace_back("statistics", statistics);
  all.emplace_back("repository-index", [] {
    const auto index = ask(&Stub::RepositoryIndex, {});
    for (const auto& model : index.models()) {
      if (model.name() == "simple" && model.state() == "READY") return;
    }
    fail(index.ShortDebugString());
  });
  all.emplace_back("load-unload", [] {
    RepositoryModelUnloadRequest request;
    request.set_model_name("control");
    ask(&Stub::RepositoryModelUnload, request);
    load("");
    ModelReadyRequest ready;
    ready.set_name("control");
    check(ask(&Stub::ModelReady, ready).ready(), "not ready");
  });
  all.emplace_back("load-with-config", [] {
    load(R"({"max_batch_size": 2})");
    check(max_batch_size("control") == 2, "not overridden");
    load("");
    check(max_batch_size("control") == 4, "still overridden");
  });
  all.emplace_back("trace-settings", [] { check(ask(&Stub::TraceSetting, {}).settings().count("trace_rate") == 1, "no trace_rate"); });
  all.emplace_back("log-settings", [] { check(ask(&Stub::LogSettings, {}).settings().count("log_info") == 1, "no log_info"); });
  all.emplace_back("shared-memory-status", [] { check(ask(&Stub::SystemSharedMemoryStatus, {}).regions().empty(), "regions of nobody"); });
  all.emplace_back("shared-memory-unregister-all", [] {
    ask(&Stub::SystemSharedMemoryUnregister, {});
    ask(&Stub::CudaSharedMemoryUnregister, {});
  });
  all.emplace_back("infer-typed", typed);
  all.emplace_back("infer-simple", [] { check_simple(infer(simple(5)), 5); });
  all.emplace_back("infer-32-mib", [] {
    const std::string raw(32 << 20, 's');
    same(infer(identity("FP32", {1, 8 << 20}, raw)), raw, "FP32");
  });
  all.emplace_back("outputs-subset", [] {
    ModelInferRequest request = simple();
    request.add_outputs()->set_name("OUTPUT1");
    const auto reply = infer(request);
    check(reply.outputs_size() == 1 && reply.outputs(0).name() == "OUTPUT1" && reply.raw_output_contents_size() == 1, reply.ShortDebugString());
  });
  all.emplace_back("classification", [] {
    ModelInferRequest request;
    request.set_model_name("classifier");
    add_input(request, "INPUT0", "FP32", {1, 8});
    request.add_raw_input_contents(bytes_of<float>({1, 2, 3, 4, 5, 6, 7, 8}));
    auto* output = request.add_outputs();
    output->set_name("OUTPUT0");
    (*output->mutable_parameters())["classification"].set_int64_param(2);
    const auto reply = infer(request);
    check(reply.outputs(0).datatype() == "BYTES" && reply.outputs(0).shape(1) == 2, reply.ShortDebugString());
    check(reply.raw_output_contents(0).find(':') != std::string::npos, "no label");
  });
  all.emplace_back("request-id", [] {
    ModelInferRequest request = simple();
    request.set_id("id-7 \xc3\xa9");
    check(infer(request).id() == request.id(), "another id");
    request.set_model_name("nope");
    fails(grpc::StatusCode::NOT_FOUND, {"[request id: id-7", "nope"}, request);
  });
  all.emplace_back("parameters", [] {
    ModelInferRequest request = simple();
    auto& parameters = *request.mutable_parameters();
    parameters["text"].set_string_param("some");
    parameters["whole"].set_int64_param(7);
    parameters["yes"].set_bool_param(true);
    parameters["part"].set_double_param(0.5);
    parameters["big"].set_uint64_param(9);
    check_simple(infer(request));
  });
  all.emplace_back("gzip", [] { compressed(GRPC_COMPRESS_GZIP); });
  all.emplace_back("deflate", [] { compressed(GRPC_COMPRESS_DEFLATE); });
  all.emplace_back("error-unknown-model", [] {
    ModelInferRequest request = simple();
    request.set_model_name("nope");
    fails(grpc::StatusCode::NOT_FOUND, {"nope"}, request);
  });
  all.emplace_back("error-unknown-version", [] {
    ModelInferRequest request = simple();
    request.set_model_version("7");
    fails(grpc::StatusCode::NOT_FOUND, {"7"}, request);
  });
  all.emplace_back("error-shape", [] {
    ModelInferRequest request = simple();
    request.mutable_inputs(0)->set_shape(1, 15);
    fails(grpc::StatusCode::INVALID_ARGUMENT, {"INPUT0", "15", "16"}, request);
  });
  all.emplace_back("error-byte-size", [] {
    ModelInferRequest request = simple();
    request.mutable_raw_input_contents(0)->pop_back();
    fails(grpc::StatusCode::INVALID_ARGUMENT, {"INPUT0", "63", "64"}, request);
  });
  all.emplace_back("client-timeout", [] { fails(grpc::StatusCode::DEADLINE_EXCEEDED, {}, slow(), 20); });
  all.emplace_back("async-infer", async_infer);
  all.emplace_back("async-cancel", async_cancel);
  all.emplace_back("keep-alive", [] {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 200);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    another_channel(arguments, std::chrono::milliseconds(1000));
  });
  all.emplace_back("custom-arguments", [] {
    grpc::ChannelArguments arguments;
    arguments.SetUserAgentPrefix("my-application");
    arguments.SetLoadBalancingPolicyName("round_robin");
    another_channel(arguments, std::chrono::milliseconds(0));
  });
  all.emplace_back("stream", stream_of_many);
  all.emplace_back("stream-error-as-status", [] {
    ModelInferRequest wrong;
    wrong.set_model_name("simple");
    const grpc::Status status = stream({wrong, simple()}, true, [](const auto&) {});
    check(status.error_code() == grpc::StatusCode::INVALID_ARGUMENT, "status " + std::to_string(status.error_code()));
  });
  all.emplace_back("stream-empty-final", [] {
    ModelInferRequest request = simple();
    (*request.mutable_parameters())["triton_enable_empty_final_response"].set_bool_param(true);
    std::vector<bool> last;
    const grpc::Status status = stream({request}, false, [&](const ModelStreamInferResponse& answer) {
      const auto& parameters = answer.infer_response().parameters();
      const auto found = parameters.find("triton_final_response");
      last.push_back(found != parameters.end() && found->second.bool_param());
    });
    check(status.ok(), status.error_message());
    check(!last.empty() && last.back(), "no final response");
  });
  return all;
}

}  // namespace

int main(int count, char** words) {
  for (int i = 1; i + 1 < count; i++) {
    if (std::string(words[i]) == "--grpc") address = words[i + 1];
  }
  stub = open();
  bool failed = false;
  for (const auto& [name, run] : cases()) {
    try {
      run();
      std::cout << name << "\tok" << std::endl;
    } catch (const std::exception& error) {
      failed = true;
      std::cout << name << "\tFAIL " << error.what() << std::endl;
    }
  }
  return failed ? 1 : 0;
}
