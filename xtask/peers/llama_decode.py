"""Seconds a token of llama.cpp on the CPU: a prompt of 512 tokens, one stream, and 64 streams that share a prompt of 64
tokens. Prints a line of JSON for each, as `benches/peers.rs` does.

    python xtask/peers/llama_decode.py MODEL.gguf
"""

import json
import os
import sys
import time

import llama_cpp
from llama_cpp import llama_cpp as c

THREADS = os.cpu_count()
STREAMS, PROMPT, STEPS = 64, 64, 16


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def report(name, readings):
    print(json.dumps({"name": name, "readings": readings, "versions": {"llama-cpp-python": llama_cpp.__version__}}))


def decoding(model):
    """64 sequences over one shared prompt; gives the seconds a token of some steps."""
    params = c.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = 16384, 2048, 512
    params.n_threads = params.n_threads_batch = THREADS
    params.n_seq_max, params.kv_unified = STREAMS, True
    context = c.llama_init_from_model(model, params)
    batch = c.llama_batch_init(2048, 0, STREAMS)
    batch.n_tokens = PROMPT
    for i in range(PROMPT):
        batch.token[i], batch.pos[i], batch.logits[i], batch.n_seq_id[i] = 5 + i, i, 0, STREAMS
        for s in range(STREAMS):
            batch.seq_id[i][s] = s
    if c.llama_decode(context, batch) != 0:
        sys.exit("llama.cpp did not take the prompt")

    def steps():
        for step in range(STEPS):
            batch.n_tokens = STREAMS
            for s in range(STREAMS):
                batch.token[s], batch.pos[s], batch.logits[s] = 10 + s, PROMPT + step, 1
                batch.n_seq_id[s], batch.seq_id[s][0] = 1, s
            if c.llama_decode(context, batch) != 0:
                sys.exit("llama.cpp did not take a step")
            c.llama_get_logits(context)

    taken = seconds(steps)
    c.llama_batch_free(batch)
    c.llama_free(context)
    return taken / (STEPS * STREAMS)


def main(path):
    llm = llama_cpp.Llama(
        path, n_ctx=2048, n_threads=THREADS, n_threads_batch=THREADS, n_batch=2048, n_ubatch=512, verbose=False
    )

    def prefill(tokens):
        llm.reset()
        return seconds(lambda: llm.eval([5 + i for i in range(tokens)])) / tokens

    prefill(512)
    report("prefill_512", [prefill(512) for _ in range(7)])

    def stream():
        prefill(64)
        return seconds(lambda: [llm.eval([7]) for _ in range(64)]) / 64

    stream()
    report("decode_1", [stream() for _ in range(5)])
    decoding(llm.model)
    report("decode_64", [decoding(llm.model) for _ in range(5)])


if __name__ == "__main__":
    main(sys.argv[1])
