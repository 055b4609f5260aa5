"""Load for a server: throughput and latencies.

    python serve.py closed URL CLIENTS[,CLIENTS…] SECONDS BODY    # /v1/completions, or another path of the URL
    python serve.py open URL RATE[,RATE…] SECONDS BODY

URL is the endpoint's, BODY its JSON with NEED where each request has another text. Closed: each client sends its next request
when it has the last one's answer. Open: requests are sent at their times, whatever is answered, and latencies count from those
times, so that a server that falls behind is seen. A line of JSON for each number of clients or requests a second: latencies in
milliseconds, answers by status and, where answers say them, by outcome, and tokens as the server counts them.
"""

import collections
import http.client
import json
import queue
import sys
import threading
import time
import urllib.parse

WORDS = "kettle blanket ladder lantern whisk hammock stapler drill curtain scale leash cooler tripod mop helmet tent".split()
# Connections of an open load: more requests than these are never under way.
CONNECTIONS = 300


def need(number):
    words = [WORDS[(number * (i + 3) + i * i + number // 16) % len(WORDS)] for i in range(6)]
    return " ".join(words) + f" {number}"


class Caller:
    def __init__(self, url, body):
        self.url, self.body = urllib.parse.urlsplit(url), body
        self.connection = http.client.HTTPConnection(self.url.netloc, timeout=600)

    def call(self, number, since):
        body = self.body.replace("NEED", need(number))
        try:
            self.connection.request("POST", self.url.path, body, {"content-type": "application/json"})
            response = self.connection.getresponse()
            answer = json.loads(response.read())
            status = response.status
        except (OSError, http.client.HTTPException) as error:
            self.connection.close()
            answer, status = {}, type(error).__name__
        trace = answer.get("trace", {}).get("outcome", {})
        outcome = ":".join(filter(None, [trace.get("kind"), trace.get("code")])) or None
        return status, outcome, (time.monotonic() - since) * 1e3, answer.get("usage", {}).get("completion_tokens", 0)


def closed(url, body, clients, seconds, first):
    done, begun = [], time.monotonic()

    def run(client):
        caller, number = Caller(url, body), first + client * 100_000
        while time.monotonic() - begun < seconds:
            done.append(caller.call(number, time.monotonic()))
            number += 1

    run_all([threading.Thread(target=run, args=(client,)) for client in range(clients)])
    return {"clients": clients, **summary(done, time.monotonic() - begun)}


def open_(url, body, rate, seconds, first):
    done, times, begun = [], queue.Queue(), time.monotonic() + 0.2
    for number in range(int(rate * seconds)):
        times.put((begun + number / rate, first + number))

    def run():
        caller = Caller(url, body)
        while True:
            try:
                at, number = times.get_nowait()
            except queue.Empty:
                return
            time.sleep(max(0.0, at - time.monotonic()))
            done.append(caller.call(number, at))

    run_all([threading.Thread(target=run) for _ in range(CONNECTIONS)])
    return {"rate": rate, **summary(done, time.monotonic() - begun)}


def run_all(threads):
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def summary(done, took):
    latencies = sorted(latency for _, _, latency, _ in done)
    tokens = sum(tokens for *_, tokens in done)
    at = lambda share: round(latencies[min(len(latencies) - 1, int(share * len(latencies)))], 1)
    return {
        "answers": len(done), "a_second": round(len(done) / took, 2), "tokens_a_second": round(tokens / took, 1),
        "tokens": round(tokens / len(done), 1), "p50": at(0.5), "p95": at(0.95), "p99": at(0.99), "p99.9": at(0.999),
        "most": round(latencies[-1], 1), "status": dict(collections.Counter(status for status, *_ in done)),
        "outcome": dict(collections.Counter(outcome for _, outcome, *_ in done if outcome)),
    }


def main():
    mode, url, loads, seconds, body = sys.argv[1:6]
    measure = {"closed": closed, "open": open_}[mode]
    measure(url, body, 1, 1, 90_000_000)
    for place, load in enumerate(loads.split(",")):
        # Other texts for each load, so that nothing was answered before.
        print(json.dumps(measure(url, body, int(load), float(seconds), place * 10_000_000)), flush=True)


main()
