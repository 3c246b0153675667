// kqueue over epoll, as far as asyncio.hpp uses it, with habits of macOS that its code depends on:
//
//   - One direction's news says nothing of the other one: each has an epoll of its own, and both
//     stand in a third one, which is the kqueue.
//   - A child of fork() has none of its parent's kqueues; their numbers are free there.
//   - Who asks for the end of a child that has ended already gets ESRCH.
//   - close() forgets all about a kqueue, so it is defined here.
//
// A kqueue belongs to one thread, but for NOTE_TRIGGER, which is also safe in signal handlers.
#include <sys/event.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <memory>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <unordered_map>

namespace {

enum class source : std::uint32_t { reads, writes, user, exit };

struct note {
    std::uint32_t flags = 0;
    shim_udata udata{};
    int pidfd = -1; // of a process
};

struct queue {
    int self = -1;
    int reads = -1;
    int writes = -1;
    int user = -1; // an eventfd
    std::unordered_map<int, note> readers;
    std::unordered_map<int, note> writers;
    std::unordered_map<int, note> exits;
    note trigger;
};

constexpr std::size_t most_descriptors = 65536;
std::array<std::atomic<queue*>, most_descriptors> queues{};
std::atomic<std::size_t> end_of_queues{0}; // beyond the largest number that was ever one

int close_now(int fd) { return static_cast<int>(::syscall(SYS_close, fd)); }

// What epoll_wait() of the tests does not count.
int take_now(int fd, epoll_event* events, int most) {
    return static_cast<int>(::syscall(SYS_epoll_pwait, fd, events, most, 0, nullptr, 0));
}

void close_inside(const queue& q) {
    for (const int fd : {q.reads, q.writes, q.user})
        if (fd >= 0) close_now(fd);
    for (const auto& [pid, n] : q.exits) close_now(n.pidfd);
}

void forget(int fd) {
    if (fd < 0 || static_cast<std::size_t>(fd) >= most_descriptors) return;
    auto& place = queues[static_cast<std::size_t>(fd)];
    if (place.load(std::memory_order_acquire) == nullptr) return;
    const std::unique_ptr<queue> q(place.exchange(nullptr));
    if (q) close_inside(*q);
}

void forget_all_in_child() {
    for (std::size_t fd = 0; fd < end_of_queues.load(); ++fd) {
        if (queues[fd].load() == nullptr) continue;
        forget(static_cast<int>(fd));
        close_now(static_cast<int>(fd));
    }
}

int fail(int error) {
    errno = error;
    return -1;
}

std::uint64_t tag(source kind, int ident) {
    return std::uint64_t{static_cast<std::uint32_t>(kind)} << 32 | static_cast<unsigned>(ident);
}

int put(int epoll, int what, int fd, std::uint32_t events, std::uint64_t data) {
    epoll_event event{};
    event.events = events;
    event.data.u64 = data;
    return ::epoll_ctl(epoll, what, fd, &event);
}

int change_direction(const struct kevent& change, int epoll, std::unordered_map<int, note>& notes,
                     std::uint32_t wanted) {
    const int fd = static_cast<int>(change.ident);
    if (change.flags == EV_DELETE) {
        if (notes.erase(fd) == 0) return fail(ENOENT);
        return put(epoll, EPOLL_CTL_DEL, fd, 0, 0);
    }
    if ((change.flags & ~EV_CLEAR) != EV_ADD) return fail(EINVAL);
    if ((change.flags & EV_CLEAR) != 0) wanted |= EPOLLET | (wanted & EPOLLIN ? EPOLLPRI : 0u);
    const auto data = static_cast<std::uint64_t>(fd);
    int result = put(epoll, EPOLL_CTL_ADD, fd, wanted, data);
    if (result != 0 && errno == EEXIST) result = put(epoll, EPOLL_CTL_MOD, fd, wanted, data);
    if (result == 0) notes[fd] = {change.flags, change.udata, -1};
    return result;
}

void end_exit(queue& q, int pid) {
    const auto place = q.exits.find(pid);
    close_now(place->second.pidfd); // its only one, so the epoll forgets it
    q.exits.erase(place);
}

int change_exit(queue& q, const struct kevent& change) {
    const int pid = static_cast<int>(change.ident);
    if (change.flags == EV_DELETE) {
        if (q.exits.count(pid) == 0) return fail(ENOENT);
        end_exit(q, pid);
        return 0;
    }
    if (change.flags != (EV_ADD | EV_ONESHOT) || change.fflags != NOTE_EXIT) return fail(EINVAL);
    if (q.exits.count(pid) != 0) end_exit(q, pid);
    const int pidfd = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0u));
    if (pidfd < 0) return -1;
    pollfd ended = {pidfd, POLLIN, 0};
    long answer = 0;
    do answer = ::syscall(SYS_ppoll, &ended, 1, std::array<long, 2>{}.data(), nullptr, 0);
    while (answer < 0 && errno == EINTR);
    if (answer != 0) {
        close_now(pidfd);
        return fail(ESRCH);
    }
    q.exits[pid] = {change.flags, change.udata, pidfd};
    return put(q.self, EPOLL_CTL_ADD, pidfd, EPOLLIN, tag(source::exit, pid));
}

#if defined(EVFILT_USER)
int change_user(queue& q, const struct kevent& change) {
    const std::uint64_t one = 1;
    if (change.fflags == NOTE_TRIGGER && change.flags == 0) {
        if (q.user < 0) return fail(ENOENT);
        return ::write(q.user, &one, sizeof one) < 0 ? -1 : 0;
    }
    if (change.flags != (EV_ADD | EV_CLEAR) || q.user >= 0) return fail(EINVAL);
    q.user = ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (q.user < 0) return -1;
    q.trigger = {change.flags, change.udata, -1};
    return put(q.self, EPOLL_CTL_ADD, q.user, EPOLLIN, tag(source::user, 0));
}
#endif

int apply(queue& q, const struct kevent& change) {
    switch (change.filter) {
    case EVFILT_READ: return change_direction(change, q.reads, q.readers, EPOLLIN | EPOLLRDHUP);
    case EVFILT_WRITE: return change_direction(change, q.writes, q.writers, EPOLLOUT);
    case EVFILT_PROC: return change_exit(q, change);
#if defined(EVFILT_USER)
    case EVFILT_USER: return change_user(q, change);
#endif
    default: return fail(EINVAL);
    }
}

struct kevent report(int ident, int filter, unsigned flags, const note& n) {
    struct kevent event {};
    event.ident = static_cast<std::uintptr_t>(ident);
    event.filter = static_cast<shim_filter>(filter);
    event.flags = static_cast<shim_flags>(flags);
    event.udata = n.udata;
    return event;
}

bool is_pipe(int fd) {
    struct stat info {};
    return ::fstat(fd, &info) == 0 && S_ISFIFO(info.st_mode);
}

// How many reports of one direction were made.
int take_direction(int epoll, std::unordered_map<int, note>& notes, int filter,
                   struct kevent* events, int room) {
    epoll_event ready[64];
    const int n = take_now(epoll, ready, room < 64 ? room : 64);
    int made = 0;
    for (int i = 0; i < n; ++i) {
        const int fd = static_cast<int>(ready[i].data.u64);
        const auto place = notes.find(fd);
        if (place == notes.end()) continue; // closed, and open elsewhere
        const std::uint32_t what = ready[i].events;
        unsigned flags = 0;
        if ((what & (EPOLLHUP | EPOLLRDHUP)) != 0) flags |= EV_EOF;
        if ((what & EPOLLERR) != 0 && is_pipe(fd)) flags |= EV_EOF;
#if defined(EV_OOBAND)
        if ((what & EPOLLPRI) != 0) flags |= EV_OOBAND;
#endif
        events[made++] = report(fd, filter, flags, place->second);
    }
    return made;
}

int take_all(queue& q, const epoll_event* ready, int n, struct kevent* events, int most) {
    int made = 0;
    for (int i = 0; i < n && made < most; ++i) {
        const int ident = static_cast<int>(ready[i].data.u64 & 0xffffffff);
        switch (static_cast<source>(ready[i].data.u64 >> 32)) {
        case source::reads:
            made += take_direction(q.reads, q.readers, EVFILT_READ, events + made, most - made);
            break;
        case source::writes:
            made += take_direction(q.writes, q.writers, EVFILT_WRITE, events + made, most - made);
            break;
        case source::user: {
            std::uint64_t count = 0;
            static_cast<void>(!::read(q.user, &count, sizeof count));
#if defined(EVFILT_USER)
            events[made++] = report(0, EVFILT_USER, 0, q.trigger);
#endif
            break;
        }
        case source::exit:
            events[made] = report(ident, EVFILT_PROC, EV_ONESHOT, q.exits[ident]);
            events[made++].fflags = NOTE_EXIT;
            end_exit(q, ident);
            break;
        }
    }
    return made;
}

} // namespace

extern "C" int close(int fd) {
    forget(fd);
    return close_now(fd);
}

extern "C" int kqueue() {
    static const int forks = ::pthread_atfork(nullptr, nullptr, &forget_all_in_child);
    if (forks != 0) return fail(forks);
    auto q = std::make_unique<queue>();
    q->self = ::epoll_create1(0);
    q->reads = ::epoll_create1(EPOLL_CLOEXEC);
    q->writes = ::epoll_create1(EPOLL_CLOEXEC);
    if (q->self < 0 || q->reads < 0 || q->writes < 0 ||
        static_cast<std::size_t>(q->self) >= most_descriptors ||
        put(q->self, EPOLL_CTL_ADD, q->reads, EPOLLIN, tag(source::reads, 0)) != 0 ||
        put(q->self, EPOLL_CTL_ADD, q->writes, EPOLLIN, tag(source::writes, 0)) != 0) {
        const int error = errno;
        close_inside(*q);
        if (q->self >= 0) close_now(q->self);
        return fail(error);
    }
    const int self = q->self;
    const std::size_t number = static_cast<std::size_t>(self);
    queues[number].store(q.release());
    std::size_t end = end_of_queues.load();
    while (end <= number && !end_of_queues.compare_exchange_weak(end, number + 1)) {}
    return self;
}

extern "C" int kevent(int number, const struct kevent* changes, int change_count,
                      struct kevent* events, int most_events, const timespec* timeout) {
    if (number < 0 || static_cast<std::size_t>(number) >= most_descriptors) return fail(EBADF);
    queue* const q = queues[static_cast<std::size_t>(number)].load(std::memory_order_acquire);
    if (q == nullptr) return fail(EBADF);
    for (int i = 0; i < change_count; ++i)
        if (apply(*q, changes[i]) != 0) return -1;
    if (most_events == 0) return 0;
    const bool sleeps = timeout == nullptr;
    if (!sleeps && (timeout->tv_sec != 0 || timeout->tv_nsec != 0)) {
        pollfd polled = {q->self, POLLIN, 0}; // which counts in nanoseconds
        const int n = ::ppoll(&polled, 1, timeout, nullptr);
        if (n <= 0) return n;
    }
    epoll_event ready[64];
    const int n = ::epoll_wait(q->self, ready, 64, sleeps ? -1 : 0);
    return n <= 0 ? n : take_all(*q, ready, n, events, most_events);
}
