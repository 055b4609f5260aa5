#!/bin/sh
# Builds dist/words.wasm with its manifest. Needs Node.js 20 or later with npm; fetches componentize-js.
set -eu
cd "$(dirname "$0")"
[ -d node_modules/@bytecodealliance/componentize-js ] ||
    npm install --silent --no-save --no-package-lock --prefix . @bytecodealliance/componentize-js@0.23.0 ||
    { echo "componentize-js cannot be fetched" && exit 69; }
mkdir -p dist
node build.mjs
{ printf 'sha256 = "%s"\n' "$(sha256sum dist/words.wasm | cut -d ' ' -f 1)"; cat plugin.toml; } > dist/plugin.toml
echo "built $PWD/dist/words.wasm"
