#!/usr/bin/env bash
# Writes the first corpus of each target into fuzz/corpus: from the files of the tests, and from fuzz/kept, which holds
# small inputs that earlier runs found to reach new code. What fuzzing adds to the corpus is not in the repository.
set -euo pipefail
cd "$(dirname "$0")"
golden=../tests/golden
for target in adapters answers catalogues components gguf models queries templates texts tokenizers; do
    mkdir -p "corpus/$target"
done
[ ! -d kept ] || cp -r kept/. corpus/
for file in "$golden"/*.gguf; do tail -c +9 "$file" >"corpus/gguf/$(basename "$file" .gguf)"; done
for model in "$golden"/tiny-*/; do
    cp "$model/config.json" "corpus/models/$(basename "$model")-config"
    cp "$model/model.safetensors" "corpus/models/$(basename "$model")-weights"
done
cp "$golden"/tiny-qwen3/tokenizer.json corpus/tokenizers/
cp "$golden"/tiny-qwen3/chat_template.jinja corpus/templates/
python3 - "$golden" <<'PYTHON'
import json, sys
for name in ("chat-jinja2", "chat-idioms"):
    for n, case in enumerate(json.load(open(f"{sys.argv[1]}/{name}.json", encoding="utf-8"))):
        open(f"corpus/templates/{name}-{n}", "w", encoding="utf-8").write(case["template"])
PYTHON
for adapter in "$golden"/peft-*/; do
    name=$(basename "$adapter")
    { printf '\0'; cat "$adapter/adapter_config.json"; } >"corpus/adapters/$name-config"
    { printf '\2'; cat "$adapter/adapter_model.safetensors"; } >"corpus/adapters/$name-weights"
done
printf '\1style = "chat"\ntemplate = "prompt.jinja"\nmax_terms = 3\n' >corpus/adapters/prompt
printf '\3{"_id":"d1","title":"steel kettle","text":"boils water for tea"}\n' >corpus/catalogues/corpus
printf '\1{"_id":"q1","text":"boil water"}\n' >corpus/catalogues/queries
printf '\2query-id\tcorpus-id\tscore\nq1\td1\t1\n' >corpus/catalogues/qrels
printf '\6user_id:token\titem_id:token\nu1\ti1\n' >corpus/catalogues/interactions
printf '\7item_id:token\ttitle:token_seq\ni1\tkettle\n' >corpus/catalogues/items
printf '\0q1 Q0 d1 1 2.5 run\n' >corpus/catalogues/run
printf '(steel^2 OR "tea pot"~2) AND NOT title:wool*' >corpus/queries/boolean
cp ../examples/configs/*.toml ../plugins/*/plugin.toml corpus/texts/ 2>/dev/null || true
cp ../plugins/*/dist/*.wasm corpus/components/ 2>/dev/null || true
