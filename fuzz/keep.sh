#!/usr/bin/env bash
# Keeps what of fuzz/corpus reaches code that the rest does not, inputs of up to 4 KiB alone, in kept.tar.xz. The targets
# must be built: RUSTC_BOOTSTRAP=1 cargo fuzz build -s none. Components are left out: one takes seconds to compile.
set -euo pipefail
cd "$(dirname "$0")"
kept=$(mktemp -d)
trap 'rm -rf "$kept"' EXIT
for target in adapters answers catalogues gguf models queries templates texts tokenizers; do
    mkdir -p "$kept/$target"
    RUSTC_BOOTSTRAP=1 cargo fuzz run "$target" -s none "$kept/$target" "corpus/$target" -- -merge=1
done
find "$kept" -type f -size +8 -delete
tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cJf kept.tar.xz -C "$kept" .
ls -l kept.tar.xz
