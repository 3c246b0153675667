// Cookbook: reading an API page by page, as fast as it allows, and only as far as needed.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/cookbook/paged_api.cpp -o paged && ./paged
//
// What it teaches: an async_generator is a coroutine that gives a value whenever it is asked for
// one, with co_yield, and may await in between: here a rate_limiter, and the next page.
// map_stream() is one, too: it calls a function for each item, some at a time, and gives the
// results in order.
// Look at: nobody fetches a page that is not read, and what was begun is tidied up.
// --virtual does not wait.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <ranges>
#include <string>
#include <string_view>
#include <vector>
using namespace std::chrono_literals;

constexpr int last_page = 12; // of an endless list, as far as we are concerned
constexpr int per_page = 5;

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

// The service, and what it sees of us.
struct library {
    std::vector<double> requests = {}; // when, in seconds
    int open = 0;                      // sessions
    int under_way = 0, most_under_way = 0;

    asyncio::coro<std::vector<int>> page(int number) { // the numbers of its books
        requests.push_back(asyncio::elapsed().total_seconds());
        co_await asyncio::sleep(30ms);
        std::vector<int> books;
        for (int i = 0; number <= last_page && i < per_page; ++i)
            books.push_back((number - 1) * per_page + i + 1);
        co_return books;
    }
    asyncio::coro<std::string> title(int book) {
        most_under_way = std::max(most_under_way, ++under_way);
        co_await asyncio::sleep(book % 3 == 0 ? 60ms : 20ms); // some take longer
        --under_way;
        co_return "book " + std::to_string(book);
    }
};

// Opens a session that is closed again, however the reader leaves.
struct session {
    explicit session(library& l) : at(l) { ++at.open; }
    session(const session&) = delete;
    ~session() { --at.open; }
    library& at;
};

// All books, one after the other. Between two co_yields it may stand for as long as it likes: the
// next page is asked for when somebody wants its first book. What it takes by reference has to
// outlive it.
asyncio::async_generator<int> books(library& from, asyncio::rate_limiter& limit) {
    const session own(from);
    for (int number = 1;; ++number) {
        co_await limit.acquire();
        const std::vector<int> page = co_await from.page(number);
        if (page.empty()) co_return; // there are no more
        for (const int book : page) co_yield book;
    }
}

asyncio::coro<int> async_main() {
    library service;
    asyncio::rate_limiter limit({.rate = 10, .per = 1s}); // requests that the service allows

    int count = 0;
    {
        auto all = books(service, limit);
        while (auto book = co_await all.next()) {
            ++count; // *book is its number
        }
    }
    std::printf("%.2f s  read all %d books\n", asyncio::elapsed().total_seconds(), count);
    claim(count == last_page * per_page, "every book came, and then nothing");
    claim(service.requests.size() == last_page + 1, "a request for each page, and one for the end");
    const double span = service.requests.back() - service.requests.front();
    claim(span > 1.1, "13 requests at 10 a second take more than a second");

    service.requests.clear();
    auto some = books(service, limit);
    int found = 0;
    while (auto book = co_await some.next()) {
        found = *book;
        if (found == 7) break; // on the second page: enough
    }
    const int open = service.open;
    co_await some.aclose(); // ends it where it stands; its locals go, and so does the session
    std::printf("%.2f s  found book %d\n", asyncio::elapsed().total_seconds(), found);
    claim(service.requests.size() == 2, "a reader who leaves early costs two pages, not 13");
    claim(open == 1 && service.open == 0, "and aclose() ends the generator's session");

    const double began = asyncio::elapsed().total_seconds();
    const auto title = [&service](int book) { return service.title(book); };
    auto titles = asyncio::map_stream(std::views::iota(1), title, {.limit = 4}); // without end
    std::vector<std::string> shelf;
    while (auto name = co_await titles.next()) {
        shelf.push_back(*name);
        if (shelf.size() == 12) break;
    }
    co_await titles.aclose(); // cancels those that are under way for nobody
    const double took = asyncio::elapsed().total_seconds() - began;
    std::printf("%.2f s  %zu titles, of an endless list\n", asyncio::elapsed().total_seconds(),
                shelf.size());
    bool in_order = true;
    for (std::size_t i = 0; i < shelf.size(); ++i)
        in_order = in_order && shelf[i] == "book " + std::to_string(i + 1);
    claim(in_order, "the titles come in order, though some take longer");
    claim(service.most_under_way == 4, "four are asked for at a time");
    claim(took < 0.8 * 0.4, "12 titles of 0.4 s in all took " +
                                std::to_string(std::lround(took * 1000)) + " ms");
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::run_options options;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--virtual") options.clock = asyncio::clock_kind::virtual_time;
        else {
            std::fputs("Reads an API page by page, with generators.\nusage: paged [--virtual]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(), options);
}
// Output:
// 1.24 s  read all 60 books
// holds:  every book came, and then nothing
// holds:  a request for each page, and one for the end
// holds:  13 requests at 10 a second take more than a second
// 1.44 s  found book 7
// holds:  a reader who leaves early costs two pages, not 13
// holds:  and aclose() ends the generator's session
// 1.58 s  12 titles, of an endless list
// holds:  the titles come in order, though some take longer
// holds:  four are asked for at a time
// holds:  12 titles of 0.4 s in all took 141 ms
