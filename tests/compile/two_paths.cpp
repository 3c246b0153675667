// A call graph leaves out the header's own coroutines, by whatever path each unit has found it.
#include "asyncio.hpp"

#include <sstream>
#include <string>

using namespace std::chrono_literals;

static asyncio::coro<bool> shows_the_header() {
    // What is not a coroutine becomes one of the header's, here.
    auto task = asyncio::create_task(asyncio::sleep(1h));
    co_await asyncio::sleep(0s);
    std::ostringstream graph;
    asyncio::print_call_graph(task, graph);
    task.cancel();
    co_return graph.str().find("asyncio.hpp") != std::string::npos;
}

int main() { return asyncio::run(shows_the_header()) ? 1 : 0; }
