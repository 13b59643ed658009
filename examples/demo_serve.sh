#!/usr/bin/env bash
# Serves what demo.sh made until Ctrl-C, and prints the address of a page to try it in a browser.
#
#   examples/demo_serve.sh NAME [OPTION...]
#
# NAME is a config of this folder: `demo` serves bundles/demo, which is made first where it is missing.
# OPTION... goes to `palm-serve run`. Answers that are corrected in the page are saved in runs/NAME-feedback.jsonl.
set -euo pipefail
cd "$(dirname "$0")/.."

name=$1
shift

if [ ! -f "bundles/$name/manifest.json" ]; then
    echo "==> train: examples/${name//-/_}.toml -> runs/$name"
    palm-train run "examples/${name//-/_}.toml" --output "runs/$name" --overwrite
    echo "==> export: runs/$name -> bundles/$name"
    palm-export "runs/$name" --output "bundles/$name" --precision fp32 --overwrite
fi
mkdir -p runs
# The address that demo.sh prints. Where something else answers there, the system chooses the port, and the server prints it.
port=8080
if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then port=0; fi
echo "==> serve: bundles/$name, until Ctrl-C"
exec palm-serve run "bundles/$name" --port 0 --http-port "$port" --feedback "runs/$name-feedback.jsonl" "$@"
