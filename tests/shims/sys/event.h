// What asyncio.hpp needs of kqueue, on Linux: event.cpp beside this folder makes it of epoll, so
// that the code for macOS and the BSDs runs in every run of the tests.
#ifndef ASYNCIO_TESTS_SHIMS_SYS_EVENT_H
#define ASYNCIO_TESTS_SHIMS_SYS_EVENT_H

#pragma GCC system_header // as it stands in for one: a function hides the constructor of its like

#include <cstdint>
#include <ctime>

// Names and numbers are those of macOS.
#define EVFILT_READ (-1)
#define EVFILT_WRITE (-2)
#define EVFILT_PROC (-5)
#if !defined(ASYNCIO_SHIM_WITHOUT_USER) // as on OpenBSD
#define EVFILT_USER (-10)
#endif

#define EV_ADD 0x0001
#define EV_DELETE 0x0002
#define EV_ONESHOT 0x0010
#define EV_CLEAR 0x0020
#define EV_OOBAND 0x2000
#define EV_EOF 0x8000

#define NOTE_TRIGGER 0x01000000
#define NOTE_EXIT 0x80000000

struct kevent {
    std::uintptr_t ident;
    std::int16_t filter;
    std::uint16_t flags;
    std::uint32_t fflags;
    std::intptr_t data;
    void* udata;
};

extern "C" int kqueue();
extern "C" int kevent(int queue, const struct kevent* changes, int change_count,
                      struct kevent* events, int most_events, const timespec* timeout);

#endif
