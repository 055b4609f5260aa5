"""Completions a second of a server with OpenAI's endpoints, at several numbers of clients.

    python serve.py http://127.0.0.1:8080 MODEL CLIENTS[,CLIENTS…] SECONDS [TOKENS]

Closed loop: each client sends its next request when it has the answer to the last one. Prints a line of JSON for each number
of clients: completions and tokens a second (tokens as the server counts them), and the latencies' percentiles in milliseconds.
"""

import http.client
import json
import sys
import threading
import time
import urllib.parse

WORDS = "kettle blanket ladder lantern whisk hammock stapler drill curtain scale leash cooler tripod mop helmet tent".split()
PROMPT = "A customer writes what they need, and the shop answers with words of the product.\nNeed: {}\nProduct:"


def prompt(client, number):
    words = [WORDS[(client * 7 + number * 3 + i * 5) % len(WORDS)] for i in range(6)]
    return PROMPT.format(" ".join(words) + f" {client} {number}")


def run(address, model, client, tokens, until, done):
    connection = http.client.HTTPConnection(address, timeout=600)
    number = 0
    while time.monotonic() < until:
        body = {"model": model, "prompt": prompt(client, number), "max_tokens": tokens, "temperature": 0}
        begun = time.monotonic()
        connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        answer = json.loads(connection.getresponse().read())
        done.append((begun, time.monotonic(), answer["usage"]["completion_tokens"]))
        number += 1


def measure(address, model, clients, seconds, tokens):
    done, begun = [], time.monotonic()
    threads = [
        threading.Thread(target=run, args=(address, model, client, tokens, begun + seconds, done)) for client in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = max(end for _, end, _ in done) - begun
    latencies = sorted((end - begun) * 1e3 for begun, end, _ in done)
    at = lambda share: latencies[min(len(latencies) - 1, int(share * len(latencies)))]
    return {
        "clients": clients,
        "completions_a_second": len(done) / took,
        "tokens_a_second": sum(tokens for _, _, tokens in done) / took,
        "tokens": sum(tokens for _, _, tokens in done) / len(done),
        "p50": at(0.50), "p95": at(0.95), "p99": at(0.99),
    }


def main():
    address, model, clients, seconds = sys.argv[1:5]
    tokens = int(sys.argv[5]) if len(sys.argv) > 5 else 16
    address = urllib.parse.urlsplit(address).netloc
    measure(address, model, 1, 2, tokens)
    for number in clients.split(","):
        print(json.dumps(measure(address, model, int(number), float(seconds), tokens)), flush=True)


main()
