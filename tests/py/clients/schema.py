"""schemathesis against the OpenAPI document that the server gives: its answers are what the document says, whatever it is asked."""
import json
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

from common import arguments, run

# Nothing that unloads the models under the other calls.
LEFT_OUT = r"/unload$"

# Names that exist beside those that it makes up, and refusals of what this server does not offer.
CONFIG = """
[parameters]
model = ["control", "nope"]
version = ["1", "7"]

[checks.not_a_server_error]
expected-statuses = ["2xx", "4xx", 501, 503]
"""
EXAMPLES_MAX = 25


class Schema:
    def __init__(self, args):
        self.base = f"http://{args.http}"
        self.document = f"{self.base}/v2/openapi.json"

    def cases(self):
        return {"openapi-served": self.served, "openapi-answers": self.answers, "server-still-ready": self.still_ready}

    def served(self):
        document = json.load(urllib.request.urlopen(self.document, timeout=10))
        assert document["openapi"].startswith("3."), document["openapi"]
        paths = document["paths"]
        for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models", "/v2/repository/index"):
            assert path in paths, sorted(paths)
        assert any("{" in path and path.endswith("/infer") for path in paths), sorted(paths)

    def answers(self):
        with tempfile.TemporaryDirectory() as folder:
            config = pathlib.Path(folder) / "schemathesis.toml"
            config.write_text(CONFIG)
            # The seed makes a failure come again.
            command = [str(pathlib.Path(sys.executable).with_name("schemathesis")), "--config-file", str(config), "run", self.document, "--seed", "7",
                       "--max-examples", str(EXAMPLES_MAX), "--phases", "examples,coverage,fuzzing", "--request-timeout", "10",
                       "--exclude-path-regex", LEFT_OUT, "--no-color",
                       "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=85, cwd=folder)
        print(done.stdout, file=sys.stderr)
        failures = [line.strip() for line in done.stdout.splitlines() if line.strip().startswith(("- ", "____"))]
        assert done.returncode == 0, f"schemathesis ended with {done.returncode}: {' '.join(failures)[:350]}"

    def still_ready(self):
        assert urllib.request.urlopen(f"{self.base}/v2/health/ready", timeout=10).status == 200


if __name__ == "__main__":
    args = arguments()
    run(Schema(args).cases(), args.only)
