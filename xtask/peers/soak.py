"""A server under everything at once: searches, completions whose readers go, adapters and engines exchanged, documents that
come and go, a plugin that misbehaves, idle connections.

    python soak.py CONFIG.toml SECONDS [PROGRAM]

CONFIG has the engines `shop` (with `changes`, and rewriters `trained` and, with `also`, `both`), `plugin` and `hostile`
(plugins/hostile/dist/hostile.wasm), the model `smollm2-135m`, and in its folder of `adapters` one called `best`.

Starts `querywright serve CONFIG.toml`, prints a line of JSON now and then with the memory of the process, and at the end what
was answered. Wrong is: an answer to another query, a document twice, a document that was added and is not found or deleted and is, a
status that is not documented, a request that is lost, and a process that is gone.
"""

import collections
import http.client
import json
import random
import re
import socket
import subprocess
import sys
import threading
import time

WORDS = "kettle blanket ladder lantern whisk hammock stapler drill curtain scale leash cooler tripod mop helmet tent".split()
MISDEEDS = "loop trap recurse memory crumbs nan infinite unknown duplicate unsorted excluded many fewer more huge-list huge-text flood fine".split()
# Searches that the server may refuse: too much at once, or a retriever that failed.
EXPECTED = {200, 404, 502, 503, 504}


class Soak:
    def __init__(self, address, process, seconds):
        self.host, self.port = address
        self.process, self.end = process, time.monotonic() + seconds
        self.counts, self.wrong, self.latencies = collections.Counter(), [], collections.defaultdict(list)
        self.added = 0

    def over(self):
        return time.monotonic() > self.end

    def post(self, path, body, timeout=60):
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def search(self, engine, rewriter, query, k=5):
        begun = time.monotonic()
        try:
            status, answer = self.post("/v1/search", {"query": query, "engine": engine, "rewriter": rewriter, "k": k})
        except (OSError, http.client.HTTPException) as error:
            self.counts[f"lost: {type(error).__name__}"] += 1
            self.wrong.append((engine, query, repr(error)))
            return None
        self.latencies[engine].append((time.monotonic() - begun) * 1e3)
        self.counts[f"{engine} {status}"] += 1
        if status not in EXPECTED:
            self.wrong.append((engine, query, status, answer))
        if status != 200:
            return None
        ids = [hit["id"] for hit in answer["hits"]]
        if answer["trace"]["query"] != query or len(set(ids)) != len(ids):
            self.wrong.append((engine, query, answer))
        outcome = answer["trace"]["outcome"]
        self.counts[f"{engine} {outcome['kind']} {outcome.get('code', '')}".strip()] += 1
        return ids

    def searcher(self, seed):
        rng = random.Random(seed)
        while not self.over():
            query = " ".join(rng.sample(WORDS, 3))
            engine = rng.choice(["shop", "shop", "plugin"])
            self.search(engine, rng.choice(["original", "trained", "both", "swap"]) if engine == "shop" else "original", query)

    def misdeeds(self, seed):
        rng = random.Random(seed)
        while not self.over():
            self.search("hostile", "original", rng.choice(MISDEEDS))
            time.sleep(0.05)

    def readers_who_go(self):
        body = json.dumps({"model": "smollm2-135m", "prompt": "a b c " * 40, "max_tokens": 200, "stream": True})
        head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
        while not self.over():
            with socket.create_connection((self.host, self.port)) as connection:
                connection.sendall((head + body).encode())
                time.sleep(random.random() * 0.5)
            self.counts["streams broken off"] += 1
            time.sleep(0.3)

    def idle(self):
        while not self.over():
            with socket.create_connection((self.host, self.port)) as connection:
                connection.sendall(b"POST /v1/search HTTP/1.1\r\nhost: localhost\r\ncontent-le")
                time.sleep(min(20, max(0.0, self.end - time.monotonic())))
            self.counts["connections left open"] += 1

    def operator(self):
        while not self.over():
            body = {"lora_name": "swap", "lora_path": "best", "load_inplace": True, "engine": "shop"}
            self.change("adapter", "/v1/load_lora_adapter", body)
            time.sleep(1)
            self.change("reload", f"/v1/engines/{random.choice(['shop', 'plugin', 'hostile'])}/reload", {})
            time.sleep(1)
            self.added += 1
            new, old = f"zzqx{self.added}", f"zzqx{self.added - 3}"
            document = {"id": new, "title": f"{new} kettle", "text": "added while it ran"}
            if self.change("documents", "/v1/engines/shop/documents", {"add": [document], "delete": [old]}):
                for word, there in [(new, True), (old, False)]:
                    found = self.search("shop", "original", word)
                    if found is not None and (word in found) != there:
                        self.wrong.append(("documents", word, there, found))
            time.sleep(1)

    def change(self, what, path, body):
        try:
            status, answer = self.post(path, body, 300)
        except (OSError, http.client.HTTPException) as error:
            status, answer = type(error).__name__, ""
        self.counts[f"{what} {status}"] += 1
        if status != 200:
            self.wrong.append((what, body, status, answer))
        return status == 200

    def memory(self):
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as status:
            return int(next(line for line in status if line.startswith("VmRSS")).split()[1]) // 1024

    def run(self, seconds):
        # `swap` is there before anybody asks for it.
        self.change("adapter", "/v1/load_lora_adapter", {"lora_name": "swap", "lora_path": "best", "engine": "shop"})
        work = [lambda n=n: self.searcher(n) for n in range(6)] + [lambda: self.misdeeds(99)]
        work += [self.readers_who_go, self.operator] + [self.idle] * 20
        threads = [threading.Thread(target=one, daemon=True) for one in work]
        for thread in threads:
            thread.start()
        begun, each = time.monotonic(), max(5.0, seconds / 30)
        while any(thread.is_alive() for thread in threads):
            if self.process.poll() is not None:
                self.wrong.append(("the process ended", self.process.returncode))
                break
            print(json.dumps({"second": int(time.monotonic() - begun), "mib": self.memory(), "wrong": len(self.wrong)}), flush=True)
            time.sleep(each)
        tails = {}
        for engine, took in self.latencies.items():
            took.sort()
            at = lambda share: round(took[min(len(took) - 1, int(share * len(took)))])
            tails[engine] = {"p50": at(0.5), "p99": at(0.99), "p99.9": at(0.999), "most": round(took[-1])}
        print(json.dumps({"counts": dict(sorted(self.counts.items())), "ms": tails, "wrong": self.wrong[:10]}, indent=1))


def main():
    config, seconds = sys.argv[1], float(sys.argv[2])
    program = sys.argv[3] if len(sys.argv) > 3 else "querywright"
    with open("soak.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen([program, "serve", config], stderr=log)
        address = None
        while address is None and process.poll() is None:
            time.sleep(0.2)
            said = re.search(r"listening on http://([\d.]+):(\d+)", open("soak.log", encoding="utf-8").read())
            address = said and (said.group(1), int(said.group(2)))
        try:
            Soak(address, process, seconds).run(seconds)
        finally:
            process.terminate()
            print(f"ended with {process.wait(60)}")


main()
