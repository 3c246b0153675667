// What asyncio.hpp needs of kqueue, on Linux: event.cpp beside this folder makes it of epoll, so
// that the code for macOS and the BSDs runs in every run of the tests.
#ifndef ASYNCIO_TESTS_SHIMS_SYS_EVENT_H
#define ASYNCIO_TESTS_SHIMS_SYS_EVENT_H

#pragma GCC system_header // as it stands in for one: a function hides the constructor of its like

#include <cstdint>
#include <ctime>

// Names, numbers and types are those of macOS; or of NetBSD 9, which, like OpenBSD, lacks two of
// the names.
#if defined(ASYNCIO_SHIM_NETBSD)
#define EVFILT_READ 0u
#define EVFILT_WRITE 1u
#define EVFILT_PROC 4u
typedef std::uint32_t shim_filter;
typedef std::uint32_t shim_flags;
typedef std::intptr_t shim_udata;
#else
#define EVFILT_READ (-1)
#define EVFILT_WRITE (-2)
#define EVFILT_PROC (-5)
#define EVFILT_USER (-10)
#define EV_OOBAND 0x2000u
typedef std::int16_t shim_filter;
typedef std::uint16_t shim_flags;
typedef void* shim_udata;
#endif

#define EV_ADD 0x0001u
#define EV_DELETE 0x0002u
#define EV_ONESHOT 0x0010u
#define EV_CLEAR 0x0020u
#define EV_EOF 0x8000u

#define NOTE_TRIGGER 0x01000000
#define NOTE_EXIT 0x80000000

struct kevent {
    std::uintptr_t ident;
    shim_filter filter;
    shim_flags flags;
    std::uint32_t fflags;
    std::intptr_t data;
    shim_udata udata;
};

extern "C" int kqueue();
extern "C" int kevent(int queue, const struct kevent* changes, int change_count,
                      struct kevent* events, int most_events, const timespec* timeout);

#endif
