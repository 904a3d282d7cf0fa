#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Requests a second through a responder: HTTP/2 over TLS, 8 connections with 16 streams each and a body
of 200 bytes. h-httpd over both roads against nginx + FastCGI (best and default configuration) and
lighttpd + FastCGI, interleaved in one run inside the device, so that drift of the machine meets all
alike; and what the bus carries alone, without a server. Started by ./hybridos bench responder; prints
JSON.

    responder.py FOLDER BUS-NAME [CASE…]

The peers' best configuration: kept upstream connections and a thread for each request in
flight; their default one: a new upstream connection for each request, four threads.
"""
import functools
import json
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROUNDS, SECONDS = 5, 4
APP = "bench-app"

NGINX = """
worker_processes 1; daemon off; pid {dir}/nginx.pid; error_log {dir}/nginx.err;
events {{ worker_connections 512; }}
http {{
  access_log off; client_body_temp_path {dir}/b; fastcgi_temp_path {dir}/f; proxy_temp_path {dir}/p;
  uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate {dir}/cert.pem; ssl_certificate_key {dir}/key.pem;
  keepalive_requests 1000000000;
  upstream kept {{ server unix:{dir}/kept.sock; keepalive 128; keepalive_requests 1000000000; }}
  fastcgi_param REQUEST_METHOD $request_method; fastcgi_param SCRIPT_NAME $uri;
  fastcgi_param QUERY_STRING $query_string; fastcgi_param SERVER_PROTOCOL $server_protocol;
  server {{ listen 127.0.0.1:9443 ssl http2;
    location / {{ fastcgi_pass kept; fastcgi_keep_conn on; }} }}
  server {{ listen 127.0.0.1:9444 ssl http2;
    location / {{ fastcgi_pass unix:{dir}/fcgi.sock; }} }}
}}
"""
LIGHTTPD = """
server.modules = ("mod_openssl", "mod_fastcgi")
server.document-root = "{dir}"
server.port = 9445
server.bind = "127.0.0.1"
server.feature-flags += ("server.h2proto" => "enable")
server.max-keep-alive-requests = 65535
ssl.engine = "enable"
ssl.pemfile = "{dir}/cert.pem"
ssl.privkey = "{dir}/key.pem"
fastcgi.server = ("/" => (("socket" => "{dir}/fcgi.sock", "check-local" => "disable")))
"""


class Refused(Exception):
    """A server that did not answer everything with 2xx has no rate; its row says what came instead."""


def h2load(url, requests):
    """Seconds that `requests` took, and their mean latency; every answer has to be a 2xx."""
    out = subprocess.run(["h2load", "-c8", "-m16", "-t1", f"-n{requests}", url], check=True, text=True,
                         stdout=subprocess.PIPE).stdout
    if not re.search(rf"status codes: {requests} 2xx", out):
        codes = re.search(r"status codes: .*", out)
        raise Refused(f"of {requests}: {codes[0] if codes else out}")
    took = re.search(r"finished in ([0-9.]+)(ms|s|us)", out)
    mean = re.search(r"time for request:\s+\S+\s+\S+\s+(\S+)", out)[1]
    return float(took[1]) * {"s": 1, "ms": 1e-3, "us": 1e-6}[took[2]], mean


def load(url, seconds):
    """Requests a second and mean latency over about `seconds`, after a short warm-up."""
    warm_up = 4000
    took, _ = h2load(url, warm_up)
    requests = max(warm_up, int(warm_up / took * seconds))
    took, mean = h2load(url, requests)
    return requests / took, mean


def calls(binaries, name, seconds):
    """Calls a second over the bus alone, with as many in flight as h-httpd has."""
    def took(n):
        done = subprocess.run(["setpriv", "--reuid", APP, "--regid", "hybridos", "--clear-groups",
                               str(binaries / "bench-call"), name, "48", str(n)], check=True, text=True,
                              stdout=subprocess.PIPE)
        return float(done.stdout)
    return took(max(4000, int(took(4000) * seconds))), ""


def main():
    binaries, bus_name, *only = pathlib.Path(sys.argv[1]), *sys.argv[2:]
    httpd = "https://localhost:8443"
    work = tempfile.mkdtemp(prefix="bench-")
    os.chmod(work, 0o755)
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                    "-keyout", f"{work}/key.pem", "-out", f"{work}/cert.pem", "-subj", "/CN=localhost"],
                   check=True, stderr=subprocess.DEVNULL)
    for name, text in (("nginx.conf", NGINX), ("lighttpd.conf", LIGHTTPD)):
        pathlib.Path(work, name).write_text(text.format(dir=work))
    # A libfcgi thread belongs to its connection as long as that is kept, so the best configuration needs
    # one thread for each request in flight.
    sockets = {f"{work}/kept.sock": "128", f"{work}/fcgi.sock": "4"}
    peers = [*[[binaries / "bench-fcgi", path, threads] for path, threads in sockets.items()],
             ["nginx", "-c", f"{work}/nginx.conf"],
             ["lighttpd", "-D", "-f", f"{work}/lighttpd.conf"]]
    cases = {"h-httpd, channel": f"{httpd}/bench", "h-httpd, bus": f"{httpd}/bench-bus",
             "nginx + FastCGI, best": "https://localhost:9443/bench",
             "nginx + FastCGI, default": "https://localhost:9444/bench",
             "lighttpd + FastCGI": "https://localhost:9445/bench"}
    measures = {case: functools.partial(load, url) for case, url in cases.items()}
    measures["the bus alone"] = functools.partial(calls, binaries, bus_name)
    measures = {case: measure for case, measure in measures.items() if not only or case in only}
    running = []
    try:
        for command in peers:
            running.append(subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL,
                                            stderr=subprocess.DEVNULL))
        deadline = time.monotonic() + 10
        while not all(map(os.path.exists, sockets)) and time.monotonic() < deadline:
            time.sleep(0.05)
        for path in sockets:
            os.chmod(path, 0o666)
        for url in (cases[case] for case in cases if case in measures):
            subprocess.run(["curl", "-ksf", "--retry", "20", "--retry-connrefused", "--retry-all-errors",
                            "--retry-delay", "1", "-o", "/dev/null", url], check=True)
        rates = {name: [] for name in measures}
        means, refused = {}, {}
        for _ in range(ROUNDS):
            for name, measure in measures.items():
                if name in refused:
                    continue
                try:
                    rate, means[name] = measure(SECONDS)
                    rates[name].append(rate)
                except Refused as reason:
                    refused[name] = str(reason)
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            process.wait()
    medians = {name: statistics.median(r) for name, r in rates.items() if name not in refused}
    rows = [{"name": n, "median": round(medians[n]), "min": round(min(rates[n])), "max": round(max(rates[n])),
             "mean latency": means[n]} if n in medians else {"name": n, "median": "refused", "why": refused[n]}
            for n in measures]
    pairs = {"channel : nginx best (budget >= 4)": ("h-httpd, channel", "nginx + FastCGI, best"),
             "bus : nginx default (budget >= 1)": ("h-httpd, bus", "nginx + FastCGI, default"),
             "bus : the bus alone": ("h-httpd, bus", "the bus alone"),
             "channel : lighttpd": ("h-httpd, channel", "lighttpd + FastCGI")}
    ratios = {what: round(medians[a] / medians[b], 2) for what, (a, b) in pairs.items()
              if a in medians and b in medians}
    json.dump({"unit": "requests/s", "rounds": ROUNDS, "rows": rows, "ratios": ratios}, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
