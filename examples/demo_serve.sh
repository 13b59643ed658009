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
echo "==> serve: bundles/$name, until Ctrl-C"
exec palm-serve run "bundles/$name" --port 0 --http-port 0 --feedback "runs/$name-feedback.jsonl" "$@"
