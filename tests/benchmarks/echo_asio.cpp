// Echo benchmark, peer: asio's coroutines (Debian: libasio-dev), used as its manual shows them.
#include "echo.hpp"

#include <asio/awaitable.hpp>
#include <asio/buffer.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/io_context.hpp>
#include <asio/ip/tcp.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/write.hpp>

#include <exception>
#include <utility>
#include <vector>

namespace {

using asio::awaitable;
using asio::use_awaitable;
using asio::ip::tcp;

awaitable<void> answer(tcp::socket client) {
    try {
        client.set_option(tcp::no_delay(true));
        std::vector<char> data(echo::piece);
        for (;;) {
            const std::size_t n =
                co_await client.async_read_some(asio::buffer(data), use_awaitable);
            co_await asio::async_write(client, asio::buffer(data.data(), n), use_awaitable);
        }
    } catch (const std::exception&) {} // the client has gone
}

awaitable<void> accept_all(tcp::acceptor& acceptor) {
    for (;;) {
        tcp::socket client = co_await acceptor.async_accept(use_awaitable);
        asio::co_spawn(acceptor.get_executor(), answer(std::move(client)), asio::detached);
    }
}

void serve(int listener) {
    asio::io_context context(1);
    tcp::acceptor acceptor(context, tcp::v4(), listener);
    asio::co_spawn(context, accept_all(acceptor), asio::detached);
    context.run();
}

const echo::registered peer("asio", serve);

} // namespace
