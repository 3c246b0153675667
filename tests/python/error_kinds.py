"""The twin of examples/3_advanced_patterns/error_kinds.cpp."""

import asyncio
import sys

from virtual_clock import run

began = 0.0
broken = 0


def seconds():
    # Sums of floating-point delays miss the exact time by some 1e-16.
    return round(asyncio.get_running_loop().time() - began, 6)


def say(text):
    print(f"{seconds():5.2f} s  {text}")


def claim(holds, text):
    global broken
    print("holds: " if holds else "BROKEN:", text)
    broken += not holds


async def temperature(answer, latency):
    await asyncio.sleep(latency)
    return int(answer)


async def temperature_from(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    return int(await reader.readline())


async def closed_port():
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port


async def handler_for(work):
    try:
        degrees = await asyncio.wait_for(work, 2)
        handler = f"no error: {degrees} degrees"
    except TimeoutError:
        handler = "timeout: try again later"
    except ConnectionRefusedError:
        handler = "refused: call the operators"
    except ValueError:
        handler = "nonsense: write a bug report"
    say(handler)
    return handler


async def main():
    global began
    began = asyncio.get_running_loop().time()

    good = await handler_for(temperature("21", 0.5))
    before = seconds()
    late = await handler_for(temperature("21", 10))
    took = seconds() - before
    port = await closed_port()
    refused = await handler_for(temperature_from(port))
    nonsense = await handler_for(temperature("rather warm", 0.5))

    claim(good == "no error: 21 degrees", "what works needs no handler")
    claim(
        late == "timeout: try again later" and 2 <= took < 4,
        f"a late answer reaches the handler for timeouts, after {took:.2f} s (about 2 s)",
    )
    claim(
        refused == "refused: call the operators",
        "a closed port reaches the handler for refused connections",
    )
    claim(
        nonsense == "nonsense: write a bug report",
        "an answer that is no number reaches the handler for nonsense",
    )
    return 1 if broken else 0


sys.exit(run(main(), "--virtual" in sys.argv))
