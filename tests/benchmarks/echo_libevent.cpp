// Echo benchmark, peer: libevent (Debian: libevent-dev), by bufferevents, as its users write it.
#include "echo.hpp"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

namespace {

void answer(bufferevent* client, void*) {
    evbuffer_add_buffer(bufferevent_get_output(client), bufferevent_get_input(client));
}

void forget(bufferevent* client, short, void*) { bufferevent_free(client); }

void accept_one(evconnlistener*, evutil_socket_t fd, sockaddr*, int, void* loop) {
    const int on = 1;
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    bufferevent* const client =
        bufferevent_socket_new(static_cast<event_base*>(loop), fd, BEV_OPT_CLOSE_ON_FREE);
    bufferevent_set_max_single_read(client, echo::piece);
    bufferevent_setcb(client, answer, nullptr, forget, nullptr);
    bufferevent_enable(client, EV_READ | EV_WRITE);
}

void serve(int listener) {
    event_base* const loop = event_base_new();
    evconnlistener_new(loop, accept_one, loop, LEV_OPT_CLOSE_ON_FREE, 0, listener);
    event_base_dispatch(loop);
}

const echo::registered peer("libevent", serve);

} // namespace
