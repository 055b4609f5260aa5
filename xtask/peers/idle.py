"""Connections that are opened and left, and searches beside them.

    python idle.py HOST PORT COUNT PID    # of `querywright serve --data demo`; needs `ulimit -n` above COUNT

Half of them send half a head. Prints the memory of the process PID, the milliseconds of searches meanwhile, and how many
connections the server has closed once `read_ms` (ten seconds by default) is over.
"""

import http.client
import json
import socket
import sys
import time


def main():
    host, port, count, process = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]

    def told(what):
        with open(f"/proc/{process}/status", encoding="ascii") as status:
            memory = int(next(line for line in status if line.startswith("VmRSS")).split()[1]) // 1024
        print(json.dumps({"when": what, "mib": memory, "searches_ms": [search() for _ in range(5)]}), flush=True)

    def search():
        begun = time.monotonic()
        connection = http.client.HTTPConnection(host, port, timeout=30)
        connection.request("POST", "/v1/search", json.dumps({"query": "steel kettle", "rewriter": "original"}))
        response = connection.getresponse()
        response.read()
        assert response.status == 200, response.status
        return round((time.monotonic() - begun) * 1e3, 1)

    told("before")
    opened = []
    for number in range(count):
        connection = socket.create_connection((host, port))
        if number % 2:
            connection.sendall(b"POST /v1/search HTTP/1.1\r\nhost: localhost\r\nx-a: ")
        opened.append(connection)
    told(f"{count} open")
    time.sleep(14)
    told("14 seconds later")
    closed = 0
    for connection in opened:
        connection.setblocking(False)
        try:
            connection.recv(200)
            closed += 1
        except BlockingIOError:
            pass
        except OSError:
            closed += 1
        connection.close()
    print(json.dumps({"closed_by_the_server": closed}))
    time.sleep(2)
    told("after")


main()
