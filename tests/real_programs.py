#!/usr/bin/env python3
"""Lets programs that everybody has talk to our servers and clients.

    real_programs.py NAME PROGRAM

NAME is an example of examples/cookbook, or real_client of tests; PROGRAM what was built of it. Servers
listen on a free port, and curl, wrk, nc, socat, redis-cli, redis-benchmark, openssl and chromium are
their clients, as far as they are installed; clients have a redis-server, openssl's, nc and socat.
Python's own asyncio is at the other end of both. Ends with 1 if a check does not hold, and with 77
(skipped) if none of the programs is there; ASYNCIO_TEST_ALL=1: nothing may be skipped.
"""

import asyncio
import contextlib
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time

name, program = sys.argv[1:]
clients = {
    "echo_server": ["nc", "socat", "python3"],
    "udp_echo": ["nc", "socat"],
    "http_server": ["curl", "wrk", "nc", "python3", "chromium"],
    "http_client": ["python3"],
    "redis_like": ["redis-cli", "redis-benchmark", "nc"],
    "chat_room": ["nc"],
    "per_core_server": ["nc"],
    "tls_openssl": ["openssl"],
    "https_client": ["openssl"],
    "distributed_agent": ["redis-server"],
    "real_client": ["redis-server", "nc", "socat", "python3"],
}
failed = passed = 0
limit = 120  # seconds that any of them may take; far more than it needs


def check(sentence, holds, seen=""):
    global failed, passed
    print("ok     " if holds else "FAILED ", sentence, flush=True)
    if not holds:
        print("    " + str(seen).replace("\n", "\n    ")[:2000], flush=True)
    failed += not holds
    passed += bool(holds)


def skip(why):
    if "ASYNCIO_TEST_ALL" in os.environ:
        check(why, False, "nothing may be skipped")
    else:
        print("skipped", why)


def has(tool):
    there = shutil.which(tool) is not None
    if not there:
        skip(f"{tool} is not installed")
    return there


def run(*command, given=b"", errors=None):
    """What a program prints; its errors go to this one's."""
    command = list(map(str, command))
    pipe = {"stdout": subprocess.PIPE, "stderr": errors}
    return subprocess.run(command, input=given, timeout=2 * limit, **pipe).stdout


@contextlib.contextmanager
def server(*options, end=signal.SIGTERM, status=0):
    """A server; gives its process and its port, and ends it by a signal."""
    process = subprocess.Popen([program, "--port", "0", *map(str, options)], stdout=subprocess.PIPE)
    try:
        line = process.stdout.readline().decode()
        yield process, int(re.search(r":(\d+)\b", line)[1])
        if process.poll() is None:
            process.send_signal(end)
        got = process.wait(limit)
        check(f"{end.name} ends it with {status}", got == status, got)
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def dialogue(*command, errors=None):
    """A program to talk to, line by line; killed at the end, or when that does not come."""
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
    with subprocess.Popen(list(map(str, command)), bufsize=0, **pipe) as client:
        late = threading.Timer(2 * limit, client.kill)
        late.start()
        try:
            yield client
        finally:
            late.cancel()
            client.kill()


def wait_for(happened):
    """Looks until it has; it is somebody else's work, so there is no event to wait for."""
    end = time.monotonic() + limit
    while not happened():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.01)


def echo_server():
    data = os.urandom(3_000_000)
    with server(end=signal.SIGINT, status=130) as (_, port):
        if has("nc"):
            got = run("nc", "-N", "127.0.0.1", port, given=b"hello\nand goodbye\n")
            check("nc gets back what it sends", got == b"hello\nand goodbye\n", got)
        if has("socat"):
            got = run("socat", "-t", limit, "-", f"TCP:127.0.0.1:{port}", given=data)
            check("socat gets back 3 MB", got == data, len(got))
        asyncio.run(asyncio.wait_for(python_on_echo_server(port), limit))


async def python_on_echo_server(port):
    """A client in Python's asyncio: all at once, byte by byte, reset, and two hundred of it."""
    data = os.urandom(1_000_000)

    async def talk(text):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.closing(writer):
            writer.write(text)
            writer.write_eof()
            return await reader.read()

    got = await talk(data)
    check("Python gets back 1 MB after its end", got == data, len(got))

    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    got = b""
    for byte in b"one by one":
        writer.write(bytes([byte]))
        got += await reader.readexactly(1)
    writer.write_eof()
    rest = await reader.read()
    writer.close()
    check("  and single bytes as they come", got == b"one by one" and not rest, got + rest)

    for _ in range(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        await reader.readexactly(1)
        linger = struct.pack("ii", 1, 0)  # close() resets
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
    texts = [b"client %d" % i for i in range(200)]
    got = await asyncio.gather(*map(talk, texts))
    check("  and, after 20 that reset, two hundred clients their own", got == texts, got)


def udp_echo():
    tools = {
        "nc": lambda port: ["nc", "-u", "127.0.0.1", port],
        "socat": lambda port: ["socat", "-", f"UDP:127.0.0.1:{port}"],
    }
    with server(end=signal.SIGINT, status=130) as (_, port):
        for tool, command in tools.items():
            if not has(tool):
                continue
            with dialogue(*command(port)) as client:
                for line in b"hello\n", b"and again\n":
                    client.stdin.write(line)
                    got = client.stdout.readline()
                    check(f"{tool} gets back {line}", got == line, got)


def http_server():
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as own:
        root, own = pathlib.Path(folder), pathlib.Path(own)
        page, large = os.urandom(5000), os.urandom(4_000_000)
        (root / "index.html").write_bytes(page)
        (root / "large").write_bytes(large)
        (root / ".hidden").write_bytes(b"secret")
        (root / "folder").mkdir()
        os.mkfifo(root / "pipe")
        with server(folder) as (process, port):
            url = f"http://127.0.0.1:{port}/"
            if has("nc"):
                request = b"GET /index.html HTTP/1.1\r\nHost: here\r\n"
                given = 3 * (request + b"\r\n") + request + b"Connection: close\r\n\r\n"
                got = run("nc", "127.0.0.1", port, given=given)
                check("nc gets four answers to four requests at once", got.count(page) == 4, got)
            asyncio.run(asyncio.wait_for(python_on_http_server(port, page, large), limit))
            if has("wrk"):
                with_wrk(url)
            if has("chromium"):
                with_chromium(url, root)
            if has("curl"):
                with_curl(url, own, page, large)
                slow_download_at_the_end(process, url, own, large)
        if has("curl"):
            with server("--writable", folder) as (_, port):
                uploads(port, root, own, large)


async def python_on_http_server(port, page, large):
    """A client in Python's asyncio that keeps its connection, and sends as slowly as it likes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def answer(reader):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(re.search(r"\r\nContent-Length: (\d+)\r\n", head)[1])
        return head.split()[1], await reader.readexactly(length)

    def request(path, fields=""):
        return f"GET {path} HTTP/1.1\r\nHost: here\r\n{fields}\r\n".encode()

    for byte in request("/"):
        writer.write(bytes([byte]))
        await asyncio.sleep(0)
    got = await answer(reader)
    check("Python gets a page for a request byte by byte", got == ("200", page), got)
    writer.write(request("/no") + 20 * request("/large") + request("/", "Connection: close\r\n"))
    writer.write_eof()
    got = [await answer(reader) for _ in range(22)]
    right = [("200", large)] * 20 + [("200", page)]
    check("  and 22 more over that connection, after its end", got[0][0] == "404" and got[1:] == right)
    rest = await reader.read()
    writer.close()
    check("  which then ends", rest == b"", rest)

    connections = 1000
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if connections + 100 > files:
        skip(f"{connections} connections: {files} files may be open here")
        return
    opening = [asyncio.open_connection("127.0.0.1", port) for _ in range(connections)]
    streams = await asyncio.gather(*opening)
    for what in "a page", "and another":
        for _, writer in streams:
            writer.write(request("/"))
        got = await asyncio.gather(*(answer(reader) for reader, _ in streams))
        right = got == connections * [("200", page)]
        check(f"  {what} over each of {connections} connections that are open at once", right)
    for _, writer in streams:
        writer.close()


def with_curl(url, own, page, large):
    def curl(*options, **more):
        return run("curl", "-sS", "--max-time", limit, *options, **more)

    def status(*options, **more):
        return curl("-o", os.devnull, "-w", "%{http_code} %{size_upload}", *options, **more)

    check("curl gets a page", curl(url) == page)
    check("  over HTTP/1.0", curl("-0", url) == page)
    check("  over HTTP/1.0 with keep-alive", curl("-0", "-H", "Connection: keep-alive", url) == page)
    check("  and a large file", curl(url + "large") == large)
    null = ["-o", os.devnull]
    four = [url, *null, url + "large", *null, url + "no", *null, url, *null]
    got = curl("-w", "%{num_connects} ", *four)
    check("  and four answers over one connection", got == b"1 0 0 0 ", got)
    got = curl("--parallel", url + "large?[1-20]", errors=subprocess.DEVNULL)  # it shows its progress
    check("  and twenty large files in parallel", len(got) == 20 * len(large), len(got))
    got = curl("-I", url + "large")
    check("HEAD gives the length", b"\r\nContent-Length: 4000000\r\n" in got, got)
    for bytes, part in {"0-0": large[:1], "100-4999": large[100:5000], "3999990-": large[-10:],
                        "-7": large[-7:], "3999999-5000000": large[-1:]}.items():
        got = curl("-r", bytes, url + "large")
        check(f"range {bytes}", got == part, len(got))
    (own / "part").write_bytes(large[:1_234_567])
    curl("-C", "-", "-o", own / "part", url + "large")
    check("a download goes on where it had ended", (own / "part").read_bytes() == large)
    got = status("-r", "4000000-", url + "large")
    check("no such range: 416", got == b"416 0", got)
    for path in ("no/such/file", "../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", ".hidden", "a%00b",
                 "pipe", "folder/", "/folder"):
        got = status("--path-as-is", url + path)
        check(f"/{path}: 404", got == b"404 0", got)
    got = curl(*null, "-w", "%{http_code} %{redirect_url}", url + "folder?a=b").decode()
    check("a folder without its slash is elsewhere", got == f"301 {url}folder/", got)
    (own / "up").write_bytes(large)
    got = status("-T", own / "up", url + "new")
    check("an upload that asks first is refused before it begins", got == b"405 0", got)
    got = status("-T", "-", "-H", "Expect:", url + "new", given=large)
    check("an upload in chunks that does not ask is refused", got.startswith(b"405 "), got)
    got = status("-d", "a=b", url)
    check("a form is refused", got.startswith(b"405 "), got)
    got = status("-H", "X-Long: " + 30_000 * "x", url)
    check("a head of 30 kB is refused", got == b"431 0", got)


def with_wrk(url):
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for connections in 1, 100, 1000:
        if connections + 100 > files:
            skip(f"{connections} connections: {files} files may be open here")
            continue
        for seconds in 1, 4, 16, 64:  # a busy machine may not come to an answer in one
            got = run("wrk", "-t", min(2, connections), "-c", connections, "-d", f"{seconds}s",
                      "--timeout", f"{limit}s", url).decode()
            good = "Socket errors" not in got and "Non-2xx" not in got
            some = re.search(r"\b[1-9]\d* requests in", got)
            if some or not good:
                break
        check(f"wrk with {connections} connections gets answers only", some and good, got)


def with_chromium(url, root):
    """A page that writes down what of its 50 parts has come, each in its own way."""
    page = "<!DOCTYPE html><meta charset=utf-8><title>Test</title><script>let scripts = 0</script>"
    for i in range(10):
        (root / f"style{i}.css").write_text(f":root {{ --style{i}: {i + 1} }}")
        page += f"<link rel=stylesheet href=style{i}.css>"
    for i in range(20):
        (root / f"script{i}.js").write_text("// " + i * 5000 * "x" + "\n++scripts;")
        page += f"<script src=script{i}.js></script>"
    for i in range(20):
        (root / f"image{i}.svg").write_text(
            f"<svg xmlns='http://www.w3.org/2000/svg' width='{i + 1}' height='1'/>")
        page += f"<img src=image{i}.svg>"
    page += """<script>onload = () => {
        const style = getComputedStyle(document.documentElement);
        const styles = [...Array(10).keys()].filter(i => style.getPropertyValue("--style" + i) == i + 1);
        const images = [...document.images].filter((image, i) => image.naturalWidth == i + 1);
        document.body.textContent = `${styles.length} ${scripts} ${images.length}`;
    }</script>"""
    (root / "page.html").write_text(page)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--dump-dom"]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options += [f"--user-data-dir={profile}", url + "page.html"]
        got = run("chromium", *options, errors=subprocess.DEVNULL)
    check("chromium shows a page with 50 parts", b"<body>10 20 20</body>" in got, got)


def uploads(port, root, own, large):
    url = f"http://127.0.0.1:{port}/"

    def curl(*options, **more):
        return run("curl", "-sS", "--max-time", limit, *options, **more).decode()

    def status(*options, **more):
        return curl("-o", os.devnull, "-w", "%{http_code} %{size_upload}", *options, **more)

    def answer(text):
        with socket.create_connection(("127.0.0.1", port), limit) as client:
            client.sendall(f"PUT /new HTTP/1.1\r\nHost: here\r\n{text}".encode())
            return client.recv(1000).decode()

    (own / "up").write_bytes(large)
    got = curl("-i", "-T", own / "up", "-H", "Expect: 100-continue", url + "new")
    check("curl asks, is told to go on, and uploads", "100 Continue\r\n\r\nHTTP/1.1 201" in got, got)
    check("  each byte of it", (root / "new").read_bytes() == large)
    got = status("-T", "-", url + "new", given=large[:77_777])
    check("  and in chunks, over what was there", got.startswith("200 "), got)
    check("  each byte of that", (root / "new").read_bytes() == large[:77_777])
    both = ["-T", own / "up", url + "one", "-T", own / "up", url + "folder/two"]
    got = curl("-w", "%{num_connects} ", *both)
    twice = [(root / path).read_bytes() == large for path in ("one", "folder/two")]
    check("  and two files over one connection", got == "1 0 " and all(twice), got)
    for path in "no/such/folder", "folder", "../up", ".new", "folder/":
        got = status("--path-as-is", "-T", own / "up", url + path)
        refused = {"no/such/folder": "409 ", "folder": "409 ", "folder/": "201 "}.get(path, "404 ")
        check(f"an upload to /{path}: {refused}", got.startswith(refused), got)
    length, chunks = "Content-Length: ", "Transfer-Encoding: chunked\r\n"
    for text, code in {f"{length}9000000000000\r\nExpect: 100-continue\r\n\r\n": "413",
                       f"{length}5\r\n{chunks}\r\n": "400", f"{length}-5\r\n\r\n": "400",
                       "Transfer-Encoding: gzip\r\n\r\n": "501", "\r\n": "411",
                       f"{chunks}\r\n-1\r\n": "400", f"{chunks}\r\n3\r\n1234\r\n0\r\n\r\n": "400",
                       f"{chunks}\r\n{90 * 'f'}\r\n": "400",
                       f"{chunks}\r\nfffffffffffff\r\n": "413"}.items():
        got = answer(text)
        check(f"{text!r}: {code}", got.startswith(f"HTTP/1.1 {code} "), got)
    with socket.create_connection(("127.0.0.1", port), limit) as client:
        client.sendall(b"PUT /half HTTP/1.1\r\nHost: here\r\nContent-Length: 5000\r\n\r\nhalf")
        wait_for(lambda: list(root.glob(".upload-*")))
    wait_for(lambda: not list(root.glob(".upload-*")))
    check("of an upload that ends in the middle nothing is left", not (root / "half").exists())


def slow_download_at_the_end(process, url, own, large):
    part = own / "slow"
    with subprocess.Popen(["curl", "-sS", "--limit-rate", "3M", "-o", part, url + "large"]) as slow:
        wait_for(lambda: part.exists() and part.stat().st_size > 0)
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: subprocess.call(["curl", "-s", "-o", os.devnull, url]) == 7)
        check("at the end a download still goes on", slow.wait(limit) == 0)
        check("  to its last byte", part.read_bytes() == large)


def redis_like():
    with server() as (_, port):
        if has("nc"):
            got = run("nc", "-N", "127.0.0.1", port, given=b"SET a b\r\nGET a\r\n")
            check("nc gets answers", got == b"+OK\r\n$1\r\nb\r\n", got)
        if has("redis-cli"):
            with_redis_cli(port)
        if has("redis-benchmark"):
            for pipeline in 1, 16:
                with_redis_benchmark(port, pipeline)


def with_redis_cli(port):
    def cli(*words, **more):
        return run("redis-cli", "-p", port, *words, **more)

    dialogue = {
        "PING": b"PONG\n",
        "SET key value": b"OK\n",
        "GET key": b"value\n",
        "EXISTS key none": b"1\n",
        "INCR n": b"1\n",
        "INCR n ": b"2\n",
        "INCR key": b"ERR value is not an integer or out of range\n\n",
        "EXPIRE key 1000000": b"1\n",
        "DEL key n": b"2\n",
        "GET key ": b"\n",
        "NONSENSE": b"ERR unknown command\n\n",
    }
    for line, answer in dialogue.items():
        got = cli(*line.split())
        check(f"redis-cli {line}", got == answer, got)
    value = bytes(range(256)) * 4000
    cli("-x", "SET", "bytes", given=value)
    check("redis-cli gets back 1 MB of bytes", cli("GET", "bytes") == value + b"\n")
    got = cli(given=b"".join(b"INCR many\n" for _ in range(1000)))
    check("redis-cli counts to 1000", got.split() == [str(i).encode() for i in range(1, 1001)], got)


def with_redis_benchmark(port, pipeline):
    names = ["PING_INLINE", "PING_MBULK", "SET", "GET", "INCR", "MSET"]
    got = run("redis-benchmark", "-p", port, "-P", pipeline, "-t", ",".join(names).lower(),
              "-c", 50, "-n", 2000 * pipeline, "-r", 1000, "-q", errors=subprocess.STDOUT).decode()
    rates = re.findall(r"^\s*(\w+)[^\n:]*: \d+\.\d+ requests per second", got.replace("\r", "\n"), re.M)
    good = rates == names and not re.search("error|warning|could not", got, re.I)
    check(f"redis-benchmark with pipelines of {pipeline}", good, got)


def chat_room():
    with server(end=signal.SIGINT, status=130) as (_, port), dialogue("nc", "127.0.0.1", port) as bob:
        with dialogue("nc", "127.0.0.1", port) as ada:
            for guest, name in (ada, b"Ada"), (bob, b"Bob"):
                got = guest.stdout.readline()
                check("nc is asked for a name", got == b"What is your name?\n", got)
                guest.stdin.write(name + b"\n")
                got = guest.stdout.readline()
                check("  and comes in", got == b"* " + name + b" comes in\n", got)
            got = ada.stdout.readline()
            check("the other one hears of it", got == b"* Bob comes in\n", got)
            ada.stdin.write(b"hello\n")
            got = [ada.stdout.readline(), bob.stdout.readline()]
            check("what one says, both hear", got == 2 * [b"Ada: hello\n"], got)
        got = bob.stdout.readline()
        check("who is killed has left", got == b"* Ada has left\n", got)


def per_core_server():
    with server(end=signal.SIGINT, status=130) as (_, port):
        got = run("nc", "-N", "127.0.0.1", port, given=b"hello\n")
        check("nc is served by a core", re.fullmatch(rb"core \d+: hello\n", got), got)


def tls_openssl():
    with tempfile.TemporaryDirectory() as folder:
        own = pathlib.Path(folder)
        for name in "good", "other":
            key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
            run("openssl", "req", "-x509", *key, "-keyout", own / (name + ".key"), "-out", own / name,
                "-subj", "/CN=test", "-addext", "subjectAltName=DNS:localhost", errors=subprocess.DEVNULL)
        request = ["openssl", "req", "-new", "-key", own / "good.key", "-subj", "/CN=localhost"]
        (own / "request").write_bytes(run(*request))
        (own / "ca").write_text(
            "[ca]\ndefault_ca=own\n[own]\ndatabase=index\nserial=serial\nrand_serial=yes\n"
            "default_md=sha256\npolicy=any\n[any]\ncommonName=supplied\n")
        (own / "index").touch()
        past = ["-startdate", "20200101000000Z", "-enddate", "20200102000000Z"]
        subprocess.run(["openssl", "ca", "-selfsign", "-batch", "-config", "ca", "-keyfile", "good.key",
                        *past, "-in", "request", "-out", "expired", "-notext", "-outdir", "."],
                       cwd=own, check=True, stderr=subprocess.DEVNULL)
        against_s_server(own)
        with server(own / "good", own / "good.key", end=signal.SIGINT, status=130) as (_, port):
            against_s_client(port, own)
            asyncio.run(asyncio.wait_for(python_over_tls(port, own), limit))


def ask_s_server(trusted, *options, name="localhost"):
    """How our client ends that trusts a certificate, what it prints, and what s_server has got."""
    command = ["openssl", "s_server", "-accept", "127.0.0.1:0", *map(str, options), "-naccept", "1"]
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, **pipe) as other:
        try:
            port = next(m[1] for line in other.stdout if (m := re.search(rb"^ACCEPT .*:(\d+)$", line)))
            environment = os.environ | {"SSL_CERT_FILE": str(trusted)}
            with subprocess.Popen([program, name, port], env=environment, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT) as client:
                seen = b""
                for line in other.stdout:  # up to the request, or its end if it gets none
                    seen += line
                    if line.startswith(b"HEAD "):
                        other.stdin.write(b"HTTP/1.1 200 fine\r\n\r\n")
                        other.stdin.flush()
                        break
                got = client.communicate(timeout=limit)[0]
            return client.returncode, got, seen + other.communicate(timeout=limit)[0]
        finally:
            other.kill()


def against_s_server(own):
    good = ["-cert", own / "good", "-key", own / "good.key"]
    for version in "-tls1_2", "-tls1_3":
        status, got, seen = ask_s_server(own / "good", *good, version)
        right = status == 0 and got == b"HTTP/1.1 200 fine\r\n\r\n" and b"HEAD / HTTP/1.1" in seen
        check(f"s_server {version} and our client understand each other", right, (got, seen))
    for what, trusted, name, options, why in [
        ("whom nobody vouches for", "other", "localhost", good, b"self-signed certificate"),
        ("of another name", "good", "127.0.0.1", good, b"mismatch"),
        ("whose time is over", "expired", "localhost", ["-cert", own / "expired", *good[2:]],
         b"certificate has expired"),
        ("that is too old", "good", "localhost", [*good, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
         b"protocol version"),
    ]:
        status, got, seen = ask_s_server(own / trusted, *options, name=name)
        right = status == 1 and why in got and b"HEAD" not in seen
        check(f"a server {what} is refused", right, (got, seen))


def against_s_client(port, own):
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "localhost",
               "-verify_hostname", "localhost", "-verify_return_error", "-quiet"]

    def refused(*options):
        return subprocess.run([*command, *map(str, options)], timeout=limit, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    for version in "-tls1_2", "-tls1_3":
        options = [version, "-CAfile", own / "good"]
        with dialogue(*command, *options, errors=subprocess.DEVNULL) as client:
            for line in b"hello\n", b"and again\n":
                client.stdin.write(line)
                got = client.stdout.readline()
                check(f"s_client {version} gets back {line}", got == line, got)
    got = refused("-CAfile", own / "other")
    right = got.returncode != 0 and b"certificate" in got.stdout
    check("s_client refuses a certificate that it does not know", right, got)
    got = refused("-tls1_1", "-cipher", "ALL:@SECLEVEL=0", "-CAfile", own / "good")
    check("s_client -tls1_1 is refused", got.returncode != 0 and b"alert protocol" in got.stdout, got)


async def python_over_tls(port, own):
    trusting = ssl.create_default_context(cafile=own / "good")
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=trusting, server_hostname="localhost")
    data = os.urandom(1_000_000)
    writer.write(data)
    got = await reader.readexactly(len(data))
    writer.close()
    check("Python gets back 1 MB over TLS", got == data)


def https_client():
    with tempfile.TemporaryDirectory() as folder:
        own = pathlib.Path(folder)
        (own / "config").write_text(
            "[ca]\ndefault_ca=own\n[own]\ndatabase=index\nrand_serial=yes\nunique_subject=no\n"
            "new_certs_dir=.\ndefault_md=sha256\npolicy=any\n[any]\ncommonName=supplied\n")
        (own / "index").touch()
        for authority in "ours", "theirs":
            make_key(own, authority, "-x509", "-addext", "keyUsage=critical,keyCertSign")
        now = time.time()
        for name, authority, names, end in [
            ("good", "ours", "DNS:localhost,IP:127.0.0.1", now + 86400),
            ("wrong", "ours", "DNS:example.org,DNS:*.localhost", now + 86400),
            ("expired", "ours", "DNS:localhost", now - 60),
            ("unknown", "theirs", "DNS:localhost", now + 86400),
        ]:
            make_key(own, name)
            (own / "names").write_text("subjectAltName=" + names)
            dates = [time.strftime("%Y%m%d%H%M%SZ", time.gmtime(t)) for t in (now - 86400, end)]
            openssl(own, "ca", "-batch", "-config", "config", "-cert", authority, "-keyfile",
                    authority + ".key", "-startdate", dates[0], "-enddate", dates[1], "-extfile",
                    "names", "-notext", "-in", name, "-out", name)
        pages_over_tls(own)
        asyncio.run(asyncio.wait_for(python_asked_over_tls(own), limit))


def openssl(own, *command):
    subprocess.run(["openssl", *command], cwd=own, check=True, stderr=subprocess.DEVNULL)


def make_key(own, name, *options):
    """A key in a file, and in another one what is to be signed, or with -x509 is."""
    openssl(own, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-new",
            "-subj", "/CN=" + name, "-keyout", name + ".key", "-out", name, *options)


def get_from_s_server(own, url, *options, certificate="good", authority="ours"):
    """What our client ends with and prints for a file of s_server, and what that one prints."""
    command = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", certificate, "-key",
               certificate + ".key", "-naccept", "1", "-WWW", *options]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, cwd=own, **pipe) as other:
        try:
            port = next(m[1] for line in other.stdout if (m := re.search(rb"^ACCEPT .*:(\d+)$", line)))
            ask = [program, "--ca", own / authority, url.format(port=int(port))]
            got = subprocess.run(ask, timeout=limit, **pipe)
            return got.returncode, got.stdout, other.communicate(timeout=limit)[0]
        finally:
            other.kill()


def pages_over_tls(own):
    page = os.urandom(1_000_000)
    (own / "page").write_bytes(page)
    by_name, by_address = "https://localhost:{port}/page", "https://127.0.0.1:{port}/page"
    for version in "-tls1_2", "-tls1_3":
        for url in by_name, by_address:
            status, got, seen = get_from_s_server(own, url, version)
            right = status == 0 and got == page and b"FILE:page" in seen
            check(f"our client gets 1 MB from s_server {version} at {url}", right, (got, seen))
    refused = b"no certificate for localhost: "
    for what, url, why, more in [
        ("of another name", by_name, refused + b"hostname mismatch", {"certificate": "wrong"}),
        ("of another address", by_address, b"IP address mismatch", {"certificate": "wrong"}),
        ("whose time is over", by_name, refused + b"certificate has expired", {"certificate": "expired"}),
        ("of an authority that is not ours", by_name, refused + b"unable to get local issuer",
         {"certificate": "unknown"}),
        ("of our authority, by who trusts another,", by_name, refused + b"unable to get local issuer",
         {"authority": "theirs"}),
    ]:
        status, got, seen = get_from_s_server(own, url, **more)
        right = status == 1 and why in got and b"FILE:" not in seen
        check(f"a server {what} is refused", right, (got, seen))


async def python_asked_over_tls(own):
    """A server in Python's asyncio, which answers with what it has been sent, after a hint."""
    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(int(re.search(rb"Content-Length: (\d+)", head)[1]))
        answer = head + body
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
        writer.write(b"HTTP/1.1 %d Fine\r\nContent-Length: %d\r\n\r\n" % (status, len(answer)) + answer)
        writer.close()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(own / "good", own / "good.key")
    for status in 200, 500:
        got, ended = await with_python_server(
            serve, program, "--ca", own / "ours", "--header", "Authorization: Bearer KEY",
            "--header", "Content-Type: application/json", "--data", '["Why?"]',
            "https://localhost:{port}/ask?a=b", errors=subprocess.DEVNULL, ssl=context)
        right = re.fullmatch(
            rb"POST /ask\?a=b HTTP/1.1\r\nHost: localhost:\d+\r\nConnection: close\r\n"
            rb"Authorization: Bearer KEY\r\nContent-Type: application/json\r\nContent-Length: 8\r\n"
            rb'\r\n\["Why\?"\]', got)
        check(f"Python's server gets our question and its key, and we its answer of {status}",
              right and ended == (status != 200), (got, ended))


@contextlib.contextmanager
def redis_server():
    """A redis-server; gives its port and the path of its Unix socket, and ends it."""
    with tempfile.TemporaryDirectory() as folder:
        path, log = os.path.join(folder, "socket"), pathlib.Path(folder, "log")
        for _ in range(10):  # until nobody else takes the port before it does
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            options = ["--bind", "127.0.0.1", "--port", str(port), "--unixsocket", path, "--dir", folder,
                       "--logfile", log, "--save", "", "--appendonly", "no", "--daemonize", "no"]
            with subprocess.Popen(["redis-server", *options]) as process:
                try:
                    wait_for(lambda: process.poll() is not None
                             or log.exists() and b"accept connections at" in log.read_bytes())
                    if process.poll() is None:
                        yield port, path
                        return
                finally:
                    process.kill()
        raise RuntimeError("redis-server does not start:\n" + log.read_text())


async def with_python_server(serve, *command, given=b"", errors=None, ssl=None):
    """What a client prints for the port of a server in Python's asyncio, and its exit code."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=ssl)
    async with server:
        port = server.sockets[0].getsockname()[1]
        command = [str(word).format(port=port) for word in command]
        pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
        client = await asyncio.create_subprocess_exec(*command, **pipe)
        try:
            got = await asyncio.wait_for(client.communicate(given), limit)
        except asyncio.TimeoutError:
            client.kill()
            raise
        return b"".join(filter(None, got)), client.returncode


def python_servers():
    """Servers of one connection each, by Python's asyncio, for our client."""
    data = os.urandom(1_000_000)
    received = []

    async def at_the_end(reader, writer):
        text = await reader.read()
        writer.write(text[::-1])
        await writer.drain()
        writer.close()

    async def both_ways(reader, writer):
        async def send():
            writer.write(data)
            await writer.drain()
            writer.write_eof()

        text, _ = await asyncio.gather(reader.read(), send())
        received.append(text)
        writer.close()

    async def slow_sender(reader, writer):
        for byte in data[:1000]:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.001)
        writer.close()

    async def slow_reader(reader, writer):
        length = 0
        while piece := await reader.read(1000):
            length += len(piece)
            await asyncio.sleep(0)
        writer.write(b"%d" % length)
        writer.close()

    async def reset(reader, writer):
        await reader.readexactly(100)
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    def ask(serve, given, **more):
        return asyncio.run(with_python_server(serve, program, "connect", "{port}", given=given, **more))

    got = ask(at_the_end, data)
    check("our client gets an answer that begins when it has ended", got == (data[::-1], 0), len(got[0]))
    got = ask(both_ways, data[::-1])
    right = got == (data, 0) and received == [data[::-1]]
    check("  1 MB both ways at once", right, len(got[0]))
    got = ask(slow_sender, b"")
    check("  bytes that come one by one", got == (data[:1000], 0), got)
    got = ask(slow_reader, data)
    check("  all of its own to a server that reads slowly", got == (b"1000000", 0), got)
    got, status = ask(reset, 10 * data, errors=subprocess.PIPE)
    check("  and an error if it is reset", status == 1 and re.search(rb"reset|Broken pipe", got), got)


def http_client():
    connections = []
    chunks = b"".join(b"%x\r\n%s\r\n" % (n, n * b"x") for n in (1, 16, 70_000)) + b"0\r\n\r\n"
    pages = {
        b"/": b"200 OK\r\nContent-Length: 7\r\n\r\nwelcome",
        b"/chunks": b"200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks,
        b"/end": b"200 OK\r\nConnection: close\r\n\r\n" + 1_000_000 * b"x",
        b"/early": b"103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly",
        b"/slow": b"404 Not Found\r\nContent-Length: 12\r\n\r\nit is not so",
        b"/broken": b"200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nless",
    }

    async def serve(reader, writer):
        connections.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError):  # the client has gone
            page = b""
            while b"close" not in page:
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split()[1]
                page = b"HTTP/1.1 " + pages[path]
                for piece in ([bytes([byte]) for byte in page] if path == b"/slow" else [page]):
                    writer.write(piece)
                    await asyncio.sleep(0)
                await writer.drain()
        writer.close()

    urls = ["http://127.0.0.1:{port}" + path.decode() for path in pages]
    got, status = asyncio.run(with_python_server(serve, program, *urls))
    answers = dict(re.findall(r"http://127.0.0.1:\d+(\S+): (.*)", got.decode()))
    for path, answer in {"/": "200, 7 bytes", "/chunks": "200, 70017 bytes",
                         "/end": "200, 1000000 bytes", "/early": "200, 5 bytes",
                         "/slow": "404, 12 bytes"}.items():
        check(f"our client gets {path} of Python's server: {answer}", answers.get(path) == answer, got)
    broken = answers.get("/broken", "")
    check("  and tells that one has ended too early", "ended after 4 bytes" in broken, got)
    check("  over six connections at once", status == 0 and len(connections) == 6, len(connections))


def distributed_agent():
    """Two workers share a Redis over its port and its path; redis-cli gives jobs, and stops one."""
    if not has("redis-cli"):
        return
    with redis_server() as (port, path), contextlib.ExitStack() as at_the_end:

        def cli(*words):
            return run("redis-cli", "-p", port, *words).decode().split()

        def worker(*place):
            process = subprocess.Popen([program, "--worker", *map(str, place)])
            at_the_end.callback(process.wait)
            at_the_end.callback(process.kill)
            return process

        def add(question, rounds):
            return cli("XADD", "jobs", "*", "question", question, "rounds", rounds)[0]

        def held():
            return cli("XPENDING", "jobs", "agents", "-", "+", 10, "slow")

        def result():
            return cli("BLPOP", "results", limit)[1:3]  # who has done which job

        slow = worker("slow", "127.0.0.1", port)
        while True:
            first = add("first", 300_000_000)
            wait_for(held)
            slow.send_signal(signal.SIGSTOP)
            if held():
                break
            slow.send_signal(signal.SIGCONT)  # it has been too fast
            result()
        quick = worker("quick", path, 0)
        got = result()
        check("who does not end has its job taken away", got == [first, "quick"], got)
        quick.kill()
        quick.wait()
        second = add("second", 1000)
        slow.send_signal(signal.SIGCONT)
        got = result()
        check("  and does it in vain, then the next", got == [second, "slow"], got)
        jobs = [add(f"question-{i}", 1000 * i) for i in range(20)]
        got = [result()[0] for _ in jobs]
        check("twenty more jobs have one result each", sorted(got) == sorted(jobs), got)
        got = cli("LLEN", "results") + cli("XLEN", "jobs")
        check("  and no other", got == ["0", "0"], got)


def listening(address):
    """Whether somebody listens at a Unix socket."""
    sockets = map(str.split, pathlib.Path("/proc/net/unix").read_text().splitlines())
    return any(s[-1] == address and s[3] == "00010000" for s in sockets)


def byte_by_byte(text, sender, receiver):
    """What arrives of a text of which each byte is sent when the one before has come."""
    got = b""
    for byte in text:
        sender.stdin.write(bytes([byte]))
        got += receiver.stdout.read(1)
    return got


def over_unix_socket(address):
    """nc and socat talk to our server and to our client; an address with @ is an abstract name."""
    data, words = os.urandom(3_000_000), b"one by one"

    def socat(what, options=""):
        kind, name = ("ABSTRACT", address[1:]) if address[0] == "@" else ("UNIX", address)
        return f"{kind}-{what}:{name}{options}"

    tools = {
        "nc": ["nc", "-N", "-U", address],
        "socat": ["socat", "-t", limit, "-", socat("CONNECT")],
    }
    with dialogue(program, "serve", address) as ours:
        ours.stdout.readline()
        for tool, command in tools.items():
            if not has(tool):
                continue
            got = run(*command, given=data)
            check(f"{tool} gets back 3 MB at {address}", got == data, len(got))
            with dialogue(*command) as client:
                got = byte_by_byte(words, client, client)
                client.stdin.close()
                rest = client.stdout.read()
            check("  and single bytes as they come", got == words and not rest, got + rest)
        ours.send_signal(signal.SIGINT)
        got = ours.wait(limit)
    check("  from a server that leaves nothing there", got == 130 and not os.path.exists(address), got)

    if has("socat"):
        with dialogue("socat", "-t", limit, socat("LISTEN", ",fork"), "EXEC:cat") as other:
            wait_for(lambda: listening(address))
            got = run(program, "connect", address, given=data)
            check(f"our client gets back 3 MB of socat at {address}", got == data, len(got))
            with dialogue(program, "connect", address) as ours:
                got = byte_by_byte(words, ours, ours)
                ours.stdin.close()
                rest = ours.stdout.read()
            check("  and single bytes as they come", got == words and not rest, got + rest)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(address)
    if has("nc"):
        with dialogue("nc", "-l", "-N", "-U", address) as other:
            wait_for(lambda: listening(address))
            with dialogue(program, "connect", address) as ours:
                got = byte_by_byte(words, other, ours), byte_by_byte(words, ours, other)
                other.stdin.close()
                ours.stdin.close()
                rest = ours.stdout.read(), other.stdout.read(), ours.wait(limit)
            right = got == (words, words) and rest == (b"", b"", 0)
            check(f"our client and nc exchange single bytes at {address}", right, (got, rest))


def real_client():
    python_servers()
    with tempfile.TemporaryDirectory() as folder:
        for address in folder + "/socket", f"@asyncio-{os.getpid()}":
            over_unix_socket(address)
    if has("redis-server"):
        with redis_server() as addresses:
            for address in addresses:
                got = subprocess.run([program, "redis", str(address)], timeout=limit, text=True,
                                     stdout=subprocess.PIPE)
                for line in re.findall("^holds: +(.*)", got.stdout, re.M):
                    check("redis-server, " + line, True)
                check("and nothing else", got.returncode == 0 and "BROKEN" not in got.stdout, got)


if not any(map(shutil.which, clients[name])):
    skip(f"none is installed of {clients[name]}")
    sys.exit(1 if failed else 77)
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
globals()[name]()
print(f"{passed} passed, {failed} failed")
sys.exit(1 if failed else 0)
