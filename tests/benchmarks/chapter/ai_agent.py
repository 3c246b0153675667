#!/usr/bin/env python3
"""What examples/6_agent/ai_agent.cpp does, with Python's asyncio and a ProcessPoolExecutor: three HTTP
services answer after 2, 1.5 and 3 s, and each answer goes through an inference of 2 s of one core, in
40 pieces on worker processes; in turn with one worker, then all at once with one for each core."""

import asyncio
import concurrent.futures
import json
import os
import sys
import time

QUICK = "--quick" in sys.argv
QUESTION = "Is the museum free today?"
SERVICES = {  # latency and text of each
    "weather": (2, "Rain until noon. Then it is sunny and warm. Wind from the west at night."),
    "news": (1.5, "The marathon starts at ten. Museum entry is free today. Trains are late."),
    "knowledge": (3, "The museum is closed on Mondays. The harbour is old, cafes are new."),
}
FETCH_LIMIT, TOTAL_LIMIT = 5, 15
PIECES = 4 if QUICK else 40
PIECE_SECONDS = 0.001 if QUICK else 0.05
ALL_BITS = (1 << 64) - 1


def embed(text, round_number):
    """64 bits; texts that share runs of three letters have more than half of them in common."""
    sums = [0] * 64
    token = 0
    for c in text.encode():
        token = (token << 8 | c | 0x20) & 0xFFFFFF
        signs = (token | round_number << 24) * 0x9E3779B97F4A7C15 & ALL_BITS
        signs = (signs ^ signs >> 29) * 0xBF58476D1CE4E5B9 & ALL_BITS
        for i in range(64):
            sums[i] += 1 if signs >> i & 1 else -1
    return sum(1 << i for i, s in enumerate(sums) if s > 0)


def infer_piece(question, text, first_round, rounds):
    """The share of equal bits, and the processor time that it took to find out."""
    began = time.process_time()
    equal = 0
    for r in range(first_round, first_round + rounds):
        equal += 64 - (embed(question, r) ^ embed(text, r)).bit_count()
    return equal / (64 * rounds), time.process_time() - began


async def serve(name, reader, writer):
    latency, text = SERVICES[name]
    try:
        await receive(reader)
        await asyncio.sleep(latency / (10 if QUICK else 1))
        await send(writer, "HTTP/1.1 200 OK", json.dumps({"source": name, "text": text}))
    except (OSError, asyncio.IncompleteReadError):
        pass  # the agent gave up on us
    finally:
        writer.close()


async def receive(reader):
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = head.partition("\r\nContent-Length: ")[2].partition("\r\n")[0]
    return head.partition("\r\n")[0], (await reader.readexactly(int(length or 0))).decode()


async def send(writer, first_line, body):
    body = body.encode()
    head = f"{first_line}\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()


async def post(port, body):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        await send(writer, "POST / HTTP/1.1", body)
        status, answer = await receive(reader)
        if not status.startswith("HTTP/1.1 200"):
            raise RuntimeError(status)
        return answer
    finally:
        writer.close()


async def fetch(port):
    async with asyncio.timeout(FETCH_LIMIT):
        return json.loads(await post(port, QUESTION))["text"]


async def infer(pool, text, rounds, pieces=PIECES):
    loop = asyncio.get_running_loop()
    parts = await asyncio.gather(*(
        loop.run_in_executor(pool, infer_piece, QUESTION, text, i * rounds, rounds)
        for i in range(pieces)))
    return sum(share for share, _ in parts) / pieces, sum(cpu for _, cpu in parts)


async def ask_in_turn(pool, ports, rounds):
    texts = {name: await fetch(port) for name, port in ports.items()}
    return {name: (await infer(pool, text, rounds))[0] for name, text in texts.items()}


async def ask_at_once(pool, ports, rounds):
    async def fetch_and_infer(port):
        return (await infer(pool, await fetch(port), rounds))[0]

    async with asyncio.timeout(TOTAL_LIMIT), asyncio.TaskGroup() as group:
        tasks = {name: group.create_task(fetch_and_infer(port)) for name, port in ports.items()}
    return {name: task.result() for name, task in tasks.items()}


async def timed(work):
    began = time.perf_counter()
    return await work, time.perf_counter() - began


async def main():
    ports = {}
    for name in SERVICES:
        server = await asyncio.start_server(lambda r, w, name=name: serve(name, r, w), "127.0.0.1", 0)
        ports[name] = server.sockets[0].getsockname()[1]
    with (concurrent.futures.ProcessPoolExecutor(1) as one,
          concurrent.futures.ProcessPoolExecutor(os.cpu_count()) as all_cores):
        rounds = 5
        sample = SERVICES["weather"][1]
        for pool in all_cores, one, one:  # the first times, workers are started
            _, cpu = await infer(pool, sample, rounds, 20)
        rounds = max(1, round(rounds * PIECE_SECONDS / (cpu / 20)))
        slow, slow_time = await timed(ask_in_turn(one, ports, rounds))
        fast, fast_time = await timed(ask_at_once(all_cores, ports, rounds))
    holds = slow == fast and len(fast) == len(SERVICES)
    print("holds: " if holds else "BROKEN:", "same results")
    print(f"took:   in turn {slow_time:.2f} s, at once {fast_time:.2f} s")
    return 0 if holds else 1


if __name__ == "__main__":  # a worker process imports this file
    sys.exit(asyncio.run(main()))
