#!/usr/bin/env bash
# Writes the first corpus of each target into fuzz/corpus: from the files of the tests, and from kept.tar.xz, which holds
# small inputs that earlier runs found to reach new code (keep.sh). What fuzzing adds to the corpus is not in the repository.
set -euo pipefail
cd "$(dirname "$0")"
golden=../tests/golden
for target in adapters answers catalogues components gguf models queries templates texts tokenizers; do
    mkdir -p "corpus/$target"
done
tar -xJf kept.tar.xz -C corpus
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
printf '\10{"item_id":"B1","category":"Baby","metadata":"steel kettle"}\n' >corpus/catalogues/pool
printf '\11qid,query,item_id\n0,"boil, water",B1\n' >corpus/catalogues/table
printf '\12[{"query":"tea","item_id":["B1"]}]' >corpus/catalogues/list
printf '\13items = "sampled_item_metadata_1M.jsonl"\n' >corpus/catalogues/settings
printf '\14{"parent_asin":"B1","title":"kettle"}\n' >corpus/catalogues/meta
printf '\15user_id,parent_asin,rating,timestamp,history\nu1,B2,5.0,2,B1\n' >corpus/catalogues/histories
printf '\0217\t1\t3\t1\n' >corpus/catalogues/ratings
printf '\0q1 Q0 d1 1 2.5 run\n' >corpus/catalogues/run
printf '(steel^2 OR "tea pot"~2) AND NOT title:wool*' >corpus/queries/boolean
cp ../examples/configs/*.toml ../plugins/*/plugin.toml corpus/texts/ 2>/dev/null || true
cp ../plugins/*/dist/*.wasm corpus/components/ 2>/dev/null || true
