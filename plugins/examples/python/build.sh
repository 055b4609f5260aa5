#!/bin/sh
# Builds dist/words.wasm with its manifest. Needs Python 3.10 or later with pip; fetches componentize-py.
set -eu
cd "$(dirname "$0")"
[ -x venv/bin/componentize-py ] || {
    python3 -m venv venv && venv/bin/pip install --quiet componentize-py==0.25.1
} || { echo "componentize-py cannot be fetched" && exit 69; }
mkdir -p dist
venv/bin/componentize-py --wit-path ../../../wit --world plugin componentize words --output dist/words.wasm
{ printf 'sha256 = "%s"\n' "$(sha256sum dist/words.wasm | cut -d ' ' -f 1)"; cat plugin.toml; } > dist/plugin.toml
echo "built $PWD/dist/words.wasm"
