#!/bin/sh
# Compiles client.cc against the gRPC that `cargo xtask fetch` brought: build.sh GRPC_ROOT FOLDER, which leaves FOLDER/client.
# Generating and compiling takes half a minute, so what was made from the same files is left as it is.
set -eu
root=$1
out=$2
here=$(cd "$(dirname "$0")" && pwd)
protos=$here/../../proto/protos
mkdir -p "$out"
made_from=$(cat "$0" "$here/client.cc" "$protos"/inference.proto "$protos"/model_config.proto | sha256sum)
if [ -x "$out/client" ] && [ "$(cat "$out/made-from" 2>/dev/null)" = "$root $made_from" ]; then
    exit 0
fi
lib=$root/usr/lib/$(uname -m)-linux-gnu
LD_LIBRARY_PATH=$lib "$root/usr/bin/protoc" -I "$protos" --cpp_out="$out" --grpc_out="$out" \
    --plugin=protoc-gen-grpc="$root/usr/bin/grpc_cpp_plugin" inference.proto model_config.proto
# An RPATH, not a RUNPATH: the libraries find each other by it too.
g++ -std=c++17 -O0 -Wall -isystem "$root/usr/include" -I "$out" -o "$out/client" \
    "$here/client.cc" "$out/inference.pb.cc" "$out/inference.grpc.pb.cc" "$out/model_config.pb.cc" \
    -L"$lib" -Wl,--disable-new-dtags,-rpath,"$lib" -Wl,-rpath-link,"$lib" \
    -lgrpc++_unsecure -lgrpc_unsecure -lgpr -lprotobuf -labsl_synchronization -lpthread
echo "$root $made_from" > "$out/made-from"
