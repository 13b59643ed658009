#!/usr/bin/env bash
# From a config to an answer in five steps: train, export, serve, call, stop.
#
#   examples/demo.sh NAME "a sentence" ["another" ...]
#
# NAME is a config of this folder: `demo` is examples/demo.toml, trained into runs/demo, exported to bundles/demo.
# `make demo` calls this with palm-train, palm-export and palm-serve on the PATH.
set -euo pipefail
cd "$(dirname "$0")/.."

name=$1
shift

echo "==> 1. train: examples/${name//-/_}.toml -> runs/$name"
palm-train run "examples/${name//-/_}.toml" --output "runs/$name" --overwrite

echo "==> 2. export: runs/$name -> bundles/$name"
palm-export "runs/$name" --output "bundles/$name" --overwrite --precision fp32

echo "==> 3. serve: bundles/$name, on a free port"
log=$(mktemp)
palm-serve run "bundles/$name" --port 0 >"$log" 2>&1 &
server=$!
trap 'kill "$server" 2>/dev/null || true; rm -f "$log"' EXIT
for _ in {1..600}; do # 60 seconds
    if grep -q '^palm-serve: ready' "$log" || ! kill -0 "$server" 2>/dev/null; then break; fi
    sleep 0.1
done
cat "$log"
if ! grep -q '^palm-serve: ready' "$log"; then
    echo "the server did not become ready" >&2
    exit 1
fi
target=$(sed -n 's/^palm-serve: listening on //p' "$log")

echo "==> 4. call $target"
for sentence in "$@"; do
    echo "\"$sentence\""
    palm-serve call "$sentence" --target "$target"
done

echo "==> 5. stop the server (SIGTERM)"
kill -TERM "$server"
wait "$server" # its exit code becomes this script's
command="examples/demo_serve.sh $name"
if [ "$name" = demo ]; then command="make demo-serve"; fi
echo "==> done. Try it in a browser, at http://127.0.0.1:8080: $command"
echo "    Faster graphs, where they answer the same: palm-export runs/$name --output bundles/$name --overwrite"
