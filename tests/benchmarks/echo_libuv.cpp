// Echo benchmark, peer: libuv (Debian: libuv1-dev), uv_try_write() first, which is its fastest.
#include "echo.hpp"

#include <uv.h>

#include <cstdlib>
#include <cstring>

namespace {

char data[echo::piece]; // of the one read that is under way

struct late_write { // what the socket did not take at once
    uv_write_t request;
    char* rest;
};

void forget(uv_handle_t* client) { delete reinterpret_cast<uv_tcp_t*>(client); }

void answer(uv_stream_t* client, ssize_t n, const uv_buf_t*) {
    if (n < 0) {
        uv_close(reinterpret_cast<uv_handle_t*>(client), forget);
        return;
    }
    uv_buf_t out = uv_buf_init(data, static_cast<unsigned>(n));
    const int sent = uv_try_write(client, &out, 1);
    const std::size_t done = sent < 0 ? 0 : static_cast<std::size_t>(sent);
    const std::size_t left = static_cast<std::size_t>(n) - done;
    if (left == 0) return;
    auto* const late = new late_write;
    late->rest = new char[left];
    std::memcpy(late->rest, data + done, left);
    out = uv_buf_init(late->rest, static_cast<unsigned>(left));
    uv_write(&late->request, client, &out, 1, [](uv_write_t* request, int) {
        auto* const written = reinterpret_cast<late_write*>(request);
        delete[] written->rest;
        delete written;
    });
}

void accept_one(uv_stream_t* listener, int) {
    auto* const client = new uv_tcp_t;
    uv_tcp_init(listener->loop, client);
    if (uv_accept(listener, reinterpret_cast<uv_stream_t*>(client)) != 0) std::abort();
    uv_tcp_nodelay(client, 1);
    const auto give = [](uv_handle_t*, std::size_t, uv_buf_t* buffer) {
        *buffer = uv_buf_init(data, sizeof data);
    };
    uv_read_start(reinterpret_cast<uv_stream_t*>(client), give, answer);
}

void serve(int listener) {
    uv_loop_t loop;
    uv_tcp_t server;
    uv_loop_init(&loop);
    uv_tcp_init(&loop, &server);
    uv_tcp_open(&server, listener);
    uv_listen(reinterpret_cast<uv_stream_t*>(&server), 1024, accept_one);
    uv_run(&loop, UV_RUN_DEFAULT);
}

const echo::registered peer("libuv", serve);

} // namespace
