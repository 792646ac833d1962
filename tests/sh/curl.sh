#!/bin/bash
# curl: what a person types, and what no client library would send. `curl.sh --http HOST:PORT`, as tests/py/clients/common.py says.
set -u
while [ $# -gt 0 ]; do
    case $1 in
        --http) base=http://$2 ;;
    esac
    shift
done
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failed=0

# ask CODE ARGUMENTS...: the answer's body is then in $body, its head in $head. Fails the case on another status.
ask() {
    local want=$1 got
    shift
    got=$(curl --silent --show-error --max-time 60 --output "$folder/body" --dump-header "$folder/head" --write-out '%{http_code}' "$@" 2>"$folder/error")
    body=$(tr -d '\0' <"$folder/body")
    head=$(tr -d '\r' <"$folder/head" | tr 'A-Z' 'a-z')
    [ "$got" = "$want" ] || no "status $got, expected $want: ${body:0:200} $(cat "$folder/error")"
}

# post CODE PATH ARGUMENTS...
post() {
    local code=$1 path=$2
    shift 2
    ask "$code" --request POST "$base$path" "$@"
}

no() { echo "$*" >>"$folder/why"; }
has() { [[ $body == *"$1"* ]] || no "\`$1\` is not in \`${body:0:200}\`"; }
has_header() { grep --quiet --fixed-strings -- "$1" <<<"$head" || no "no header \`$1\` in $(tr '\n' ' ' <<<"$head")"; }
is_error() { # a JSON object with one member, and what is to be in its text
    [[ $body == '{"error":"'*'"}' ]] || no "no error object: ${body:0:200}"
    has_header 'content-type: application/json'
    for needle; do has "$needle"; done
}

numbers() { seq -s, "$1" "$2"; }
# A request of `simple`; its first input counts from the argument.
simple() {
    echo "{\"inputs\":[{\"name\":\"INPUT0\",\"datatype\":\"INT32\",\"shape\":[1,16],\"data\":[$(numbers "$1" $(($1 + 15)))]},
        {\"name\":\"INPUT1\",\"datatype\":\"INT32\",\"shape\":[1,16],\"data\":[[$(numbers 1 16)]]}]}"
}
infer=/v2/models/simple/infer
sums=$(seq -s, 1 2 31)

case_server_live() { ask 200 "$base/v2/health/live"; }
case_server_ready() { ask 200 "$base/v2/health/ready"; }
case_model_ready() {
    ask 200 "$base/v2/models/simple/ready"
    ask 200 "$base/v2/models/simple/versions/1/ready"
    ask 404 "$base/v2/models/nope/ready"
}
case_server_metadata() {
    for path in /v2 /v2/; do ask 200 "$base$path" && has '"name":"sluice"' && has binary_tensor_data; done
}
case_model_metadata() { ask 200 "$base/v2/models/simple" && has '"shape":[-1,16]' && has onnxruntime_onnx; }
case_model_config() { ask 200 "$base/v2/models/simple/config" && has '"max_batch_size":8' && has TYPE_INT32; }
case_statistics() {
    ask 200 "$base/v2/models/simple/stats" && has '"inference_count":' && has '"cache_miss":'
    ask 200 "$base/v2/models/stats" && has '"name":"nobatch"'
}
case_model_list() { ask 200 "$base/v2/models" && has '"models":[' && has '"simple"'; }
case_repository_index() {
    post 200 /v2/repository/index && has '"state":"READY"'
    [[ $body == '['* ]] || no "no array: ${body:0:100}"
    post 200 /v2/repository/index --data '{"ready":true}'
}
case_load_unload() {
    post 200 /v2/repository/models/control/unload
    post 200 /v2/repository/models/control/load
    ask 200 "$base/v2/models/control/ready"
    post 200 /v2/repository/models/control/unload --data '{"parameters":{"unload_dependents":true}}'
    post 200 /v2/repository/models/control/load --data '{}'
}
case_load_refused() {
    post 400 /v2/repository/models/control/load --data '{"parameters":{"config":"{"}}' && is_error 'failed to load'
}
case_trace_settings() { ask 200 "$base/v2/trace/setting" && has '"trace_rate"'; }
case_log_settings() { ask 200 "$base/v2/logging" && has '"log_info"'; }
case_shared_memory_status() {
    for kind in system cuda; do ask 200 "$base/v2/${kind}sharedmemory/status" && [ "$body" = '[]' ] || no "$body"; done
}
case_shared_memory_unregister_all() { for kind in system cuda; do post 200 "/v2/${kind}sharedmemory/unregister"; done; }

case_infer_simple() {
    post 200 "$infer" --data "$(simple 0)" && has "\"data\":[$sums]" && has '"model_version":"1"'
    has_header 'content-type: application/json'
    post 200 /v2/models/simple/versions/%31/infer --data "$(simple 0)" && has "\"data\":[$sums]"
}
case_infer_typed() {
    post 200 /v2/models/identity_fp64/infer --data '{"inputs":[{"name":"INPUT0","datatype":"FP64","shape":[2,2],"data":[[0.1,-2],[3e5,4]]}]}'
    has '"data":[0.1,-2.0,300000.0,4.0]'
    post 200 /v2/models/identity_bytes/infer --data '{"inputs":[{"name":"INPUT0","datatype":"BYTES","shape":[1,3],"data":["","\u00fc\"\\","b"]}]}'
    has '"data":["","ü\"\\","b"]'
    post 200 /v2/models/identity_bool/infer --data '{"inputs":[{"name":"INPUT0","datatype":"BOOL","shape":[1,2],"data":[true,0]}]}'
    has '"data":[true,false]'
}
case_infer_binary() { # JSON, then the bytes of both inputs; the first output comes back binary
    local json
    json='{"inputs":[{"name":"INPUT0","datatype":"INT32","shape":[1,16],"parameters":{"binary_data_size":64}},
        {"name":"INPUT1","datatype":"INT32","shape":[1,16],"parameters":{"binary_data_size":64}}],
        "outputs":[{"name":"OUTPUT0","parameters":{"binary_data":true}},{"name":"OUTPUT1"}]}'
    { printf '%s' "$json"; head --bytes 128 /dev/zero; } >"$folder/request"
    post 200 "$infer" --header "Inference-Header-Content-Length: ${#json}" --data-binary "@$folder/request"
    has '"binary_data_size":64'
    has_header 'inference-header-content-length: '
    has_header 'content-type: application/octet-stream'
}
case_infer_raw() { # no JSON at all: the body is the one input
    printf '\0\0\200\77\0\0\0\100' >"$folder/request"
    post 200 /v2/models/identity_fp32/infer --header 'Inference-Header-Content-Length: 0' --data-binary "@$folder/request"
    has '"binary_data_size":8' && has '"shape":[1,2]'
    [ "$(tail --bytes 8 "$folder/body" | od -An -tx1 | tr -d ' \n')" = 0000803f00000040 ] || no 'other bytes came back'
    printf 'some text' >"$folder/request"
    post 200 /v2/models/identity_bytes/infer --header 'Inference-Header-Content-Length: 0' --data-binary "@$folder/request" && has 'some text'
    post 400 "$infer" --header 'Inference-Header-Content-Length: 0' --data-binary "@$folder/request" && is_error
}
case_request_id() {
    post 200 "$infer" --data "{\"id\":\"id-7\",$(simple 0 | tail --bytes +2)" && has '"id":"id-7"'
    post 404 /v2/models/nope/infer --data "{\"id\":\"id-8\",$(simple 0 | tail --bytes +2)" && is_error 'request id: id-8' nope
}
case_outputs_subset() {
    post 200 "$infer" --data "{\"outputs\":[{\"name\":\"OUTPUT1\"}],$(simple 0 | tail --bytes +2)" && has OUTPUT1
    [[ $body != *OUTPUT0* ]] || no 'OUTPUT0 came too'
}
case_classification() {
    post 200 /v2/models/classifier/infer --data '{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[1,8],"data":[1,2,3,4,5,6,7,8]}],
        "outputs":[{"name":"OUTPUT0","parameters":{"classification":2}}]}'
    has '"shape":[1,2]' && has '"datatype":"BYTES"'
    grep --quiet --extended-regexp '"[0-9.e-]+:[0-3]:(north|east|south|west)"' <<<"$body" || no "no label: $body"
}
compressed() { # compressed NAME COMMAND...: both ways
    local name=$1
    shift
    simple 0 | "$@" >"$folder/request"
    post 200 "$infer" --header "Content-Encoding: $name" --data-binary "@$folder/request" && has "\"data\":[$sums]"
    # An answer long enough to be worth it.
    local long="{\"inputs\":[{\"name\":\"INPUT0\",\"datatype\":\"INT32\",\"shape\":[1,20000],\"data\":[$(numbers 1 20000)]}]}"
    echo "$long" >"$folder/request"
    post 200 /v2/models/identity_int32/infer --header "Accept-Encoding: $name" --data "@$folder/request"
    has_header "content-encoding: $name"
    post 200 /v2/models/identity_int32/infer --header "Accept-Encoding: $name" --compressed --data "@$folder/request" && has ',19999,20000]'
}
case_gzip() { compressed gzip gzip; }
case_deflate() { compressed deflate python3 -c 'import sys, zlib; sys.stdout.buffer.write(zlib.compress(sys.stdin.buffer.read()))'; }
case_chunked() {
    post 200 "$infer" --header 'Transfer-Encoding: chunked' --data "$(simple 0)" && has "\"data\":[$sums]"
}
case_keep_alive() {
    local connections
    connections=$(curl --silent --max-time 60 --http1.1 --output /dev/null --output /dev/null --write-out '%{num_connects} ' "$base/v2/health/live" "$base/v2")
    [ "$connections" = '1 0 ' ] || no "new connections per request: $connections"
}
case_http_1_0() { ask 200 --http1.0 "$base/v2/health/live"; }
case_head() { ask 200 --head "$base/v2/health/live"; }

case_error_unknown_model() {
    post 404 /v2/models/nope/infer --data "$(simple 0)" && is_error nope
    ask 404 "$base/v2/models/nope" && is_error nope
}
case_error_unknown_version() { post 404 /v2/models/simple/versions/7/infer --data "$(simple 0)" && is_error simple 7; }
case_error_unknown_path() { ask 404 "$base/v2/nothing" && is_error; }
case_error_method() {
    ask 405 "$base$infer" && is_error
    ask 405 --request DELETE "$base/v2/models/simple" && is_error
}
case_error_shape() { post 400 "$infer" --data "$(simple 0 | sed 's/\[1,16\]/[1,15]/')" && is_error INPUT0 15 16; }
case_error_byte_size() {
    local json='{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":7}}]}'
    post 400 /v2/models/identity_fp32/infer --header "Inference-Header-Content-Length: ${#json}" --data-binary "${json}1234567" && is_error INPUT0 7 8
}
case_error_header_length() {
    for length in -1 999999999999999999999 1000 x; do
        post 400 "$infer" --header "Inference-Header-Content-Length: $length" --data '{}' && is_error
    done
}
case_error_leftover() {
    local json='{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[1,1],"parameters":{"binary_data_size":4}}]}'
    post 400 /v2/models/identity_fp32/infer --header "Inference-Header-Content-Length: ${#json}" --data-binary "${json}12345678" && is_error
}
case_error_json() {
    local input='{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[1,1],"data":[%s]}]}'
    for value in NaN Infinity 1e999 '"x"' '{}' '1,2' '' 01 "$(printf '[%.0s' {1..5000})"; do
        # shellcheck disable=SC2059
        post 400 /v2/models/identity_fp32/infer --data "$(printf "$input" "$value")" && is_error
    done
    post 400 /v2/models/identity_int8/infer --data "$(printf "$input" 128 | sed s/FP32/INT8/)" && is_error 128
    post 400 /v2/models/identity_fp32/infer --data '{"inputs":' && is_error
    post 400 /v2/models/identity_fp32/infer --data '' && is_error
}
case_error_half_json() {
    for type in FP16 BF16; do
        post 400 "/v2/models/identity_${type,,}/infer" --data "{\"inputs\":[{\"name\":\"INPUT0\",\"datatype\":\"$type\",\"shape\":[1,1],\"data\":[1]}]}"
        is_error "$type" binary
    done
}
case_error_bomb() { # 200 MiB of zeros in 200 kB
    head --bytes 200M /dev/zero | gzip >"$folder/request"
    post 413 /v2/models/identity_fp32/infer --header 'Content-Encoding: gzip' --header 'Inference-Header-Content-Length: 0' --data-binary "@$folder/request"
    printf 'not gzip' >"$folder/request"
    post 400 "$infer" --header 'Content-Encoding: gzip' --data-binary "@$folder/request" && is_error
}
case_error_gzip_members() { # a hundred thousand empty members are 2 MB
    printf '' | gzip >"$folder/member"
    for i in $(seq 200); do cat "$folder/member"; done >"$folder/some"
    for i in $(seq 500); do cat "$folder/some"; done >"$folder/request"
    post 400 "$infer" --header 'Content-Encoding: gzip' --data-binary "@$folder/request" && is_error
}
case_error_encoding() { # 415 is HTTP's for it
    post 415 "$infer" --header 'Content-Encoding: br' --data "$(simple 0)" && is_error br gzip
    post 200 "$infer" --header 'Content-Encoding: identity' --data "$(simple 0)"
}
case_error_path_not_utf8() { ask 400 "$base/v2/models/%ff/config" && is_error; }
case_error_control_too_large() { # what carries neither tensors nor files is small, and its faults are not echoed whole
    { printf '{"log_info": ['; head --bytes 1500K /dev/zero | tr '\0' '1' | sed 's/1/1,/g'; printf '1]}'; } >"$folder/request"
    post 413 /v2/logging --data-binary "@$folder/request" && is_error
    { printf '{"log_info": ['; head --bytes 100K /dev/zero | tr '\0' '1' | sed 's/1/1,/g'; printf '1]}'; } >"$folder/request"
    post 400 /v2/logging --data-binary "@$folder/request" && is_error && [ ${#body} -lt 300 ]
}
case_error_too_large() {
    head --bytes 100M /dev/zero >"$folder/request"
    post 413 /v2/models/identity_fp32/infer --header 'Inference-Header-Content-Length: 0' --data-binary "@$folder/request"
    post 413 /v2/models/identity_fp32/infer --header 'Inference-Header-Content-Length: 0' --header 'Transfer-Encoding: chunked' --data-binary "@$folder/request"
}
case_error_traversal() {
    for name in '..%2fsimple' '%2e%2e' 'a%00b' '..%5csimple'; do
        post 400 "/v2/models/$name/infer" --path-as-is --data "$(simple 0)" && is_error
    done
}

for case in $(declare -F | sed -n 's/^declare -f \(case_.*\)/\1/p'); do
    : >"$folder/why"
    "$case"
    name=$(sed 's/^case_//; s/_/-/g' <<<"$case")
    if [ -s "$folder/why" ]; then
        failed=1
        printf '%s\tFAIL %s\n' "$name" "$(head --lines 1 "$folder/why" | tr '\t' ' ' | cut -c 1-400)"
    else
        printf '%s\tok\n' "$name"
    fi
done
exit $failed
