// The system's headers and their macros, and what careless ones define, before ours; and the
// standard headers that ours does without, whose functions argument-dependent lookup finds.
#include <sys/types.h>

#include <charconv>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <iterator>
#include <numeric>
#include <random>
#include <regex>
#include <valarray>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <syslog.h>
#include <termios.h>
#include <unistd.h>

// As windows.h and Qt define them.
#define small char
#define near
#define far
#define interface struct
#define ERROR 0
#define emit
#define slots
#define signals public
#define min(a, b) (((a) < (b)) ? (a) : (b))
#define max(a, b) (((a) > (b)) ? (a) : (b))

#include "asyncio.hpp"

// Who has Qt's keywords as macros implements elsewhere, or without them.
#undef emit
#undef slots
#undef signals
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"

// The program's own again.
static_assert(min(1, 2) == 1 && max(1, 2) == 2);

static asyncio::coro<int> answer() {
    asyncio::queue<int> numbers(1);
    co_await numbers.put(42);
    const int number = co_await numbers.get();
    co_return number;
}

int main() { return asyncio::run(answer()) == 42 ? 0 : 1; }
