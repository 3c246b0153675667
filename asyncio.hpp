// asyncio.hpp - Python's asyncio for C++20, in one header.              version 0.1.0
//
// SPDX-License-Identifier: MIT (full text at the end of this file)
//
// Do this in exactly one .cpp file, and include plainly everywhere else:
//
//     #define ASYNCIO_IMPLEMENTATION
//     #include "asyncio.hpp"
//
// A whole program:
//
//     #define ASYNCIO_IMPLEMENTATION
//     #include "asyncio.hpp"
//     #include <cstdio>
//     using namespace std::chrono_literals;
//
//     asyncio::coro<int> answer(int n, asyncio::duration after) {
//         co_await asyncio::sleep(after); // others run meanwhile
//         co_return n;
//     }
//     asyncio::coro<> async_main() {
//         auto [a, b] = co_await asyncio::gather(answer(1, 1s), answer(2, 1s));
//         std::printf("%d and %d after one second, not two\n", a, b);
//     }
//     int main() { return asyncio::run_main(async_main()); }
//
// INDEX (search for "[SECTION]"; every section uses only sections above it)
//     [SECTION] configuration macros, and what the header finds out by itself
//     [SECTION] exceptions    cancelled_error, exception_group, ...   (Python: asyncio.exceptions)
//     [SECTION] support       duration, outcome, error
//     [SECTION] codec         what travels to another process
//     [SECTION] events        event_loop, handle, clocks              (Python: asyncio.events)
//     [SECTION] futures       future<T>                               (Python: asyncio.futures)
//     [SECTION] tasks         coro, task, sleep, async_generator     (Python: asyncio.tasks)
//     [SECTION] runners       run, run_main, runner, run_per_core     (Python: asyncio.runners)
//     [SECTION] timeouts      timeout, timeout_at, wait_for           (Python: asyncio.timeouts)
//     [SECTION] taskgroups    with, task_group, gather, wait, shield  (Python: asyncio.taskgroups)
//     [SECTION] locks         lock, event, condition, semaphore, barrier   (Python: asyncio.locks)
//     [SECTION] queues        queue, priority_queue, lifo_queue       (Python: asyncio.queues)
//     [SECTION] executors     run_in_executor, isolated_executor      (Python: concurrent.futures)
//     [SECTION] sockets       address, socket, datagram_endpoint      (Python: socket)
//     [SECTION] streams       open_connection, start_server           (Python: asyncio.streams)
//     [SECTION] processes     create_subprocess_exec, create_pipe     (Python: asyncio.subprocess)
//     [SECTION] files         read_file, write_file, file
//     [SECTION] resilience    retry, circuit_breaker, rate_limiter, map, map_stream
//     [SECTION] debugging     print_call_graph, print_tasks, tracer
//     [SECTION] os
//     [SECTION] backend
//     [SECTION] backend: readiness operations
//     [SECTION] backend: epoll
//     [SECTION] backend: kqueue
//     [SECTION] backend: iocp
//     [SECTION] backend: poll
//     [SECTION] backend: none
//     [SECTION] implementation: exceptions and support
//     [SECTION] implementation: events
//     [SECTION] implementation: futures and tasks
//     [SECTION] implementation: runners
//     [SECTION] implementation: timeouts and taskgroups
//     [SECTION] implementation: locks and queues
//     [SECTION] implementation: executors
//     [SECTION] implementation: sockets
//     [SECTION] implementation: streams
//     [SECTION] implementation: processes
//     [SECTION] implementation: files
//     [SECTION] implementation: resilience and debugging
//     [SECTION] licence
//
// RULES, where a comment says nothing else
//   Threads       Call from the loop's thread. From another one: call_soon_threadsafe(),
//                 run_coroutine_threadsafe(), and executors.
//   Lifetime      An object outlives the awaits on it. Callables and arguments given to
//                 this library are moved in and owned. Handles may outlive their loop:
//                 they throw then, and touch nothing.
//   Cancellation  Leaves everything as if the cancelled call had never been made.
//   g++ 12        Name a lambda with captures before it stands in a co_await expression,
//                 and keep co_await out of conditions: that compiler gets both wrong.
//
// WHAT IT DOES NOT DO
//   TLS and HTTP are not in here. TLS goes under a stream_reader and a stream_writer, by
//   make_streams(); a protocol goes on top of them: the AI agent among the examples
//   speaks HTTP in a page of code.
//
// CHANGES
//   0.1.0  The first version.

#if !defined(ASYNCIO_HPP)
#define ASYNCIO_HPP

// =============================================================================
// [SECTION] configuration
//
// Every macro that a program may set, and what the header finds out by itself.
//
//     ASYNCIO_IMPLEMENTATION   defined in exactly one .cpp before including
//     ASYNCIO_API              what stands before each exported function
//                              (visibility or dllexport; default: nothing)
//     ASYNCIO_BACKEND_EPOLL    the system interface to use: epoll, picked by itself on
//     ASYNCIO_BACKEND_KQUEUE   Linux; kqueue, picked on macOS and the BSDs; a completion
//     ASYNCIO_BACKEND_IOCP     port, picked on Windows; or poll(), picked where there is
//     ASYNCIO_BACKEND_POLL     none of them
//     ASYNCIO_BACKEND_NONE     no operating system; the program defines
//                              asyncio_port_now_ns() and asyncio_port_idle()
//     ASYNCIO_NO_THREADS       one thread only, by itself with ASYNCIO_BACKEND_NONE: no
//                              executors, processes, files and run_per_core(); names are
//                              looked up on the loop's thread, which waits for them
//     ASYNCIO_NO_EXCEPTIONS    nothing throws; by itself under -fno-exceptions. A failed
//                              await ends its coroutine and those that await it, innermost
//                              first, up to one that asked for an outcome
//     ASYNCIO_FATAL(text)      called with a sentence for what cannot be reported without
//                              exceptions (default: prints it; abort() follows)
//     ASYNCIO_ALLOC(size)      where coroutine frames and task states come from
//     ASYNCIO_FREE(p, size)    (default: operator new and delete)
//     ASYNCIO_DEBUG            1: debug mode is on unless run_options say otherwise
//     ASYNCIO_VERSION          major * 10000 + minor * 100 + patch, as one number
//     ASYNCIO_VERSION_MAJOR, ASYNCIO_VERSION_MINOR, ASYNCIO_VERSION_PATCH
//     ASYNCIO_ABI              the inline namespace: version and layout options
//     ASYNCIO_HPP, ASYNCIO_IMPLEMENTATION_DONE   the two include guards
//     ASYNCIO_ABI_ALLOC, ASYNCIO_ABI_EXCEPTIONS, ASYNCIO_ABI_SYSTEM, ASYNCIO_ABI_JOIN,
//     ASYNCIO_ABI_JOINED       what that is made of
//     ASYNCIO_SANITIZED        set by the header when an address sanitizer runs
//     ASYNCIO_THREAD_LOCAL     thread_local, or nothing
//     ASYNCIO_TRY, ASYNCIO_CATCH, ASYNCIO_CATCH_AS, ASYNCIO_CATCH_ALL
//                              try and catch; without exceptions only the first part stays
// =============================================================================

#define ASYNCIO_VERSION_MAJOR 0
#define ASYNCIO_VERSION_MINOR 1
#define ASYNCIO_VERSION_PATCH 0
#define ASYNCIO_VERSION \
    (ASYNCIO_VERSION_MAJOR * 10000 + ASYNCIO_VERSION_MINOR * 100 + ASYNCIO_VERSION_PATCH)

#if !defined(ASYNCIO_API)
#define ASYNCIO_API
#endif

#if defined(ASYNCIO_BACKEND_EPOLL) + defined(ASYNCIO_BACKEND_KQUEUE) + \
        defined(ASYNCIO_BACKEND_IOCP) + defined(ASYNCIO_BACKEND_POLL) + \
        defined(ASYNCIO_BACKEND_NONE) > 1
#error "asyncio.hpp: define one ASYNCIO_BACKEND_... only"
#endif
#if !defined(ASYNCIO_BACKEND_EPOLL) && !defined(ASYNCIO_BACKEND_KQUEUE) && \
    !defined(ASYNCIO_BACKEND_IOCP) && !defined(ASYNCIO_BACKEND_POLL) && \
    !defined(ASYNCIO_BACKEND_NONE)
#if defined(__linux__)
#define ASYNCIO_BACKEND_EPOLL 1
#elif (defined(__APPLE__) && defined(__MACH__)) || defined(__FreeBSD__) || \
    defined(__NetBSD__) || defined(__OpenBSD__) || defined(__DragonFly__)
#define ASYNCIO_BACKEND_KQUEUE 1
#elif defined(_WIN32)
#define ASYNCIO_BACKEND_IOCP 1
#elif defined(__unix__)
#define ASYNCIO_BACKEND_POLL 1
#else
#error "asyncio.hpp: this system is not known; define ASYNCIO_BACKEND_NONE to do without one"
#endif
#endif

#if defined(ASYNCIO_BACKEND_NONE) && !defined(ASYNCIO_NO_THREADS)
#define ASYNCIO_NO_THREADS 1
#endif
#if defined(ASYNCIO_NO_THREADS)
#define ASYNCIO_THREAD_LOCAL
#else
#define ASYNCIO_THREAD_LOCAL thread_local
#endif

#if defined(ASYNCIO_ALLOC) != defined(ASYNCIO_FREE)
#error "asyncio.hpp: define ASYNCIO_ALLOC and ASYNCIO_FREE together"
#endif

#if !defined(ASYNCIO_DEBUG)
#define ASYNCIO_DEBUG 0
#endif

// Recycled frames would hide uses of freed memory from the sanitizer.
#if defined(__SANITIZE_ADDRESS__)
#define ASYNCIO_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ASYNCIO_SANITIZED 1
#endif
#endif
#if !defined(ASYNCIO_SANITIZED)
#define ASYNCIO_SANITIZED 0
#endif

#if !defined(__cpp_exceptions) && !defined(_CPPUNWIND) && !defined(ASYNCIO_NO_EXCEPTIONS)
#define ASYNCIO_NO_EXCEPTIONS 1
#endif
#if defined(ASYNCIO_NO_EXCEPTIONS)
#define ASYNCIO_TRY if constexpr (true)
#define ASYNCIO_CATCH(type) else if constexpr (false)
#define ASYNCIO_CATCH_AS(declared) \
    else if constexpr ([[maybe_unused]] declared = ::asyncio::detail::never(); false)
#define ASYNCIO_CATCH_ALL else
#else
#define ASYNCIO_TRY try
#define ASYNCIO_CATCH(type) catch (type)
#define ASYNCIO_CATCH_AS(declared) catch (declared)
#define ASYNCIO_CATCH_ALL catch (...)
#endif

// Objects built with another version or other options that change what stands where must
// not meet under one name: the linker keeps them apart.
#if defined(ASYNCIO_ALLOC)
#define ASYNCIO_ABI_ALLOC _own_allocator
#else
#define ASYNCIO_ABI_ALLOC
#endif
#if defined(ASYNCIO_NO_EXCEPTIONS)
#define ASYNCIO_ABI_EXCEPTIONS _no_exceptions
#else
#define ASYNCIO_ABI_EXCEPTIONS
#endif
#if defined(ASYNCIO_BACKEND_NONE)
#define ASYNCIO_ABI_SYSTEM _no_system
#elif defined(ASYNCIO_NO_THREADS)
#define ASYNCIO_ABI_SYSTEM _no_threads
#else
#define ASYNCIO_ABI_SYSTEM
#endif
#define ASYNCIO_ABI_JOINED(a, b, c, d) a##b##c##d
#define ASYNCIO_ABI_JOIN(a, b, c, d) ASYNCIO_ABI_JOINED(a, b, c, d)
#define ASYNCIO_ABI \
    ASYNCIO_ABI_JOIN(v0_1_0, ASYNCIO_ABI_ALLOC, ASYNCIO_ABI_EXCEPTIONS, ASYNCIO_ABI_SYSTEM)

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <compare>
#include <concepts>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <iosfwd>
#include <iterator>
#include <limits>
#include <map>
#include <memory>
#include <new>
#include <optional>
#include <source_location>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <tuple>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <variant>
#include <vector>

// Where ASYNCIO_API says something, a library that hides its symbols shows all that is
// declared from here on: types too, whose exceptions are caught elsewhere, and thread-locals.
#define ASYNCIO_SAYS_SOMETHING(...) (0 __VA_OPT__(+1))
#define ASYNCIO_IS_EXPORTED(...) ASYNCIO_SAYS_SOMETHING(__VA_ARGS__)
#if defined(__GNUC__) && !defined(_WIN32)
#if ASYNCIO_IS_EXPORTED(ASYNCIO_API)
#pragma GCC visibility push(default)
#endif
#endif

// =============================================================================
// [SECTION] exceptions
// uses: configuration
//
// What awaits and calls throw. cancelled_error and keyboard_interrupt are no
// std::exceptions, as Python's are no `Exception`s: a handler for errors cannot
// swallow them by accident.
// =============================================================================

namespace asyncio::inline ASYNCIO_ABI {

/// Thrown at the await where a task stands when it is cancelled.
///
/// Catch it only to clean up, and let it go on. Python's asyncio.CancelledError.
class cancelled_error {
public:
    cancelled_error() = default;
    explicit cancelled_error(std::string message) : message_(std::move(message)) {}

    /// The message given to cancel(); empty when there was none.
    const char* what() const noexcept { return message_.c_str(); }

private:
    std::string message_;
};

/// Thrown out of run() after Ctrl-C. Python's KeyboardInterrupt.
class keyboard_interrupt {
public:
    keyboard_interrupt() = default;
    explicit keyboard_interrupt(std::string message) : message_(std::move(message)) {}

    const char* what() const noexcept { return message_.c_str(); }

private:
    std::string message_;
};

/// A time limit passed. Python's TimeoutError.
class timeout_error : public std::runtime_error {
public:
    timeout_error() : std::runtime_error("asyncio: the time limit passed") {}
    using std::runtime_error::runtime_error;
};

/// A future, task or coroutine was used in a state that does not allow it: a
/// result read too early or set twice, a coroutine awaited twice. Python's
/// asyncio.InvalidStateError.
class invalid_state_error : public std::logic_error {
public:
    using std::logic_error::logic_error;
};

/// A get_nowait() on an empty queue. Python's asyncio.QueueEmpty.
class queue_empty : public std::runtime_error {
public:
    queue_empty() : std::runtime_error("asyncio::queue: the queue is empty") {}
    using std::runtime_error::runtime_error;
};

/// A put_nowait() on a full queue. Python's asyncio.QueueFull.
class queue_full : public std::runtime_error {
public:
    queue_full() : std::runtime_error("asyncio::queue: the queue is full") {}
    using std::runtime_error::runtime_error;
};

/// A put(), or a get() with nothing left, after shutdown(). Python's
/// asyncio.QueueShutDown.
class queue_shut_down : public std::runtime_error {
public:
    queue_shut_down() : std::runtime_error("asyncio::queue: the queue was shut down") {}
    using std::runtime_error::runtime_error;
};

/// A barrier was reset or aborted under a waiting task. Python's
/// asyncio.BrokenBarrierError.
class broken_barrier_error : public std::runtime_error {
public:
    broken_barrier_error() : std::runtime_error("asyncio::barrier: the barrier is broken") {}
    using std::runtime_error::runtime_error;
};

/// The stream ended before everything that was asked for had come. Python's
/// asyncio.IncompleteReadError.
class incomplete_read_error : public std::runtime_error {
public:
    ASYNCIO_API incomplete_read_error(std::string partial, std::optional<std::size_t> expected);

    /// What had come before the end.
    const std::string& partial() const noexcept { return partial_; }

    /// How many bytes were asked for; nothing when a separator was.
    std::optional<std::size_t> expected() const noexcept { return expected_; }

private:
    std::string partial_;
    std::optional<std::size_t> expected_;
};

/// More bytes than the reader's limit came without a separator; they are still
/// in the reader. Python's asyncio.LimitOverrunError.
class limit_overrun_error : public std::runtime_error {
public:
    limit_overrun_error(const std::string& message, std::size_t consumed)
        : std::runtime_error(message), consumed_(consumed) {}

    /// How many bytes of the buffer certainly hold no part of a separator.
    std::size_t consumed() const noexcept { return consumed_; }

private:
    std::size_t consumed_;
};

/// The executor cannot run jobs any more. Python's BrokenExecutor.
class broken_executor : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

/// The worker that ran this job died: by a signal, or by leaving with a code.
/// Only this job is lost; the executor has replaced the worker.
class worker_crashed : public broken_executor {
public:
    worker_crashed(const std::string& message, int signal, int exit_code)
        : broken_executor(message), signal_(signal), exit_code_(exit_code) {}

    /// The signal that ended the worker; 0 when it left by itself.
    int signal() const noexcept { return signal_; }

    /// The code with which the worker left; 0 when a signal ended it.
    int exit_code() const noexcept { return exit_code_; }

private:
    int signal_;
    int exit_code_;
};

/// An exception of a job in another process whose type cannot be thrown here.
class remote_error : public std::runtime_error {
public:
    remote_error(std::string type_name, const std::string& message)
        : std::runtime_error(message), type_name_(std::move(type_name)) {}

    /// The exception's type, as the worker knew it.
    const std::string& type_name() const noexcept { return type_name_; }

private:
    std::string type_name_;
};

/// A value that cannot travel to a worker, or bytes that are no such value.
class codec_error : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

class base_exception_group;
class exception_group;

namespace detail {

[[noreturn]] ASYNCIO_API void fatal(const char* text) noexcept;

#if defined(ASYNCIO_NO_THREADS)

// What std::atomic offers, for one thread.
template <class T>
class atomic {
public:
    constexpr atomic() noexcept = default;
    constexpr atomic(T value) noexcept : value_(value) {}
    atomic(const atomic&) = delete;
    atomic& operator=(const atomic&) = delete;
    T operator=(T value) noexcept { return value_ = value; }
    operator T() const noexcept { return value_; }

    T load(std::memory_order = {}) const noexcept { return value_; }
    void store(T value, std::memory_order = {}) noexcept { value_ = value; }
    T exchange(T value, std::memory_order = {}) noexcept { return std::exchange(value_, value); }
    T fetch_add(T by, std::memory_order = {}) noexcept { return exchange(value_ + by); }
    T fetch_sub(T by, std::memory_order = {}) noexcept { return exchange(value_ - by); }
    T fetch_or(T bits, std::memory_order = {}) noexcept { return exchange(value_ | bits); }
    T operator++() noexcept { return ++value_; }
    bool compare_exchange_strong(T& expected, T value) noexcept {
        const bool same = value_ == expected;
        if (same) value_ = value;
        else expected = value_;
        return same;
    }
    bool compare_exchange_weak(T& expected, T value) noexcept {
        return compare_exchange_strong(expected, value);
    }
    void wait(T) const noexcept {}
    void notify_all() noexcept {}

private:
    T value_{};
};

#else

template <class T>
using atomic = std::atomic<T>;

#endif

// The name of a type, as the compiler spells it.
template <class T>
constexpr std::string_view type_name() noexcept {
    std::string_view text = std::source_location::current().function_name();
    const std::size_t begin = text.find("T = ");
    if (begin == std::string_view::npos) return text;
    text.remove_prefix(begin + 4);
    const std::size_t end = text.find_first_of(";]");
    return text.substr(0, end);
}

} // namespace detail

#if defined(ASYNCIO_NO_EXCEPTIONS)

namespace detail {

// What a discarded handler's parameter is made of.
struct anything {
    template <class T>
    operator T&() const noexcept;
};
anything never() noexcept;

// One address for each type.
template <class T>
inline constexpr char tag_of = 0;

ASYNCIO_API void* error_alloc(std::size_t size);
ASYNCIO_API void error_free(void* memory, std::size_t size) noexcept;

// An error that nobody throws. It knows the standard's and the library's bases of its
// type; other bases are not found again.
class error_object {
public:
    error_object() = default;
    error_object(const error_object&) = delete;
    error_object& operator=(const error_object&) = delete;
    virtual ~error_object() = default;

    virtual const void* find(const void* tag) const noexcept = 0; // the error, if it is one
    virtual const void* tag() const noexcept = 0;                 // of its own type
    virtual std::string_view type() const noexcept = 0;

    void add_ref() noexcept { refs_.fetch_add(1, std::memory_order_relaxed); }
    void release() noexcept {
        if (refs_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
    }

    static void* operator new(std::size_t size) { return error_alloc(size); }
    static void operator delete(void* memory, std::size_t size) noexcept {
        error_free(memory, size);
    }

private:
    atomic<std::uint32_t> refs_{1};
};

} // namespace detail

/// Points to an error; what std::exception_ptr is where errors are thrown.
class exception_ptr {
public:
    constexpr exception_ptr() noexcept = default;
    constexpr exception_ptr(std::nullptr_t) noexcept {}
    explicit exception_ptr(detail::error_object* owned) noexcept : object_(owned) {}
    exception_ptr(const exception_ptr& other) noexcept : object_(other.object_) {
        if (object_) object_->add_ref();
    }
    exception_ptr(exception_ptr&& other) noexcept
        : object_(std::exchange(other.object_, nullptr)) {}
    exception_ptr& operator=(exception_ptr other) noexcept {
        std::swap(object_, other.object_);
        return *this;
    }
    ~exception_ptr() {
        if (object_) object_->release();
    }

    explicit operator bool() const noexcept { return object_ != nullptr; }
    friend bool operator==(const exception_ptr&, const exception_ptr&) = default;

    // For the library's own functions.
    const detail::error_object* get() const noexcept { return object_; }

private:
    detail::error_object* object_ = nullptr;
};

#else

/// Points to an error.
using exception_ptr = std::exception_ptr;

#endif

namespace detail {

// What the library must tell apart. A base group holds a cancelled_error or a
// keyboard_interrupt somewhere inside.
enum class error_kind { ordinary, cancelled, interrupt, base_group };

ASYNCIO_API error_kind kind_of(const exception_ptr& error) noexcept;

// "type: what" of any exception, for reports.
ASYNCIO_API std::string describe(const exception_ptr& error);

ASYNCIO_API std::string group_text(const std::string& message, std::size_t count);

[[noreturn]] ASYNCIO_API void throw_system_error(int code, const char* call);
[[noreturn]] ASYNCIO_API void throw_runtime_error(const char* message);
[[noreturn]] ASYNCIO_API void throw_invalid_argument(const char* message);
[[noreturn]] ASYNCIO_API void throw_invalid_state(const char* message);

#if defined(ASYNCIO_NO_EXCEPTIONS)

// The end, with the error's text.
template <class E>
[[noreturn]] void throw_error(const E& error) noexcept {
    fatal(error.what());
}
[[noreturn]] ASYNCIO_API void rethrow(const exception_ptr& error) noexcept;
[[noreturn]] inline void rethrow_current() noexcept {
    fatal("asyncio: nothing is being handled");
}
inline exception_ptr current_error() noexcept { return {}; }

#else

template <class E>
[[noreturn]] void throw_error(E&& error) {
    throw std::forward<E>(error);
}
[[noreturn]] inline void rethrow(exception_ptr error) {
    std::rethrow_exception(std::move(error));
}
[[noreturn]] inline void rethrow_current() { throw; }
inline exception_ptr current_error() noexcept { return std::current_exception(); }

template <class E>
exception_ptr make_error(E error) noexcept {
    return std::make_exception_ptr(std::move(error));
}

#endif

// Calls `fn`, and gives what it throws.
template <class F>
exception_ptr thrown_by(F&& fn) noexcept {
    ASYNCIO_TRY {
        fn();
    } ASYNCIO_CATCH_ALL {
        return current_error();
    }
    return nullptr;
}

// An exception_group, or a base_exception_group when a leaf needs one.
ASYNCIO_API exception_ptr make_group(std::string message,
                                          std::vector<exception_ptr> errors);

template <class E>
const E* exception_cast(const exception_ptr& error) noexcept;

// Offers every error of the tree to `visit`; groups themselves only when asked to, and
// those that it does not want are gone through.
ASYNCIO_API void visit_leaves(const base_exception_group& group, bool with_groups,
                              bool (*visit)(const exception_ptr&, void*), void* context);

// What matches, and the rest, each as the members of a group.
ASYNCIO_API void split_group(const base_exception_group& group, bool with_groups,
                             bool (*matches)(const exception_ptr&),
                             std::vector<exception_ptr> (&parts)[2]);

} // namespace detail

/// Several errors that happened together, as a tree. Python's
/// BaseExceptionGroup; a group of ordinary errors only is an exception_group.
class base_exception_group {
public:
    /// Throws: std::invalid_argument when `errors` is empty or holds a null pointer.
    ASYNCIO_API base_exception_group(std::string message, std::vector<exception_ptr> errors);
    ASYNCIO_API base_exception_group(const base_exception_group&);
    ASYNCIO_API base_exception_group& operator=(const base_exception_group&);
    ASYNCIO_API virtual ~base_exception_group();

    const std::string& message() const noexcept { return message_; }

    /// The members, in the order in which they happened; some may be groups.
    const std::vector<exception_ptr>& exceptions() const noexcept { return errors_; }

    /// The message and the number of members.
    virtual const char* what() const noexcept { return what_.c_str(); }

    /// True when an error of type E is in the tree.
    template <class E>
    bool contains() const {
        bool found = false;
        for_each<E>([&](const E&) { found = true; });
        return found;
    }

    /// Calls fn(const E&) for every error of type E in the tree, depth first. The
    /// groups in it count as errors only when E is a type of group.
    template <class E, class F>
    void for_each(F&& fn) const;

    /// The part of the tree that holds errors of type E, and the part that holds
    /// the others; nesting is kept, and an empty part is absent.
    template <class E, class Group = base_exception_group>
    std::pair<std::optional<Group>, std::optional<Group>> split() const {
        return split_as<E, Group>();
    }

    /// The part of the tree that holds errors of type E.
    template <class E, class Group = base_exception_group>
    std::optional<Group> subgroup() const {
        return split_as<E, Group>().first;
    }

protected:
    template <class E, class Group>
    std::pair<std::optional<Group>, std::optional<Group>> split_as() const;

private:
    std::string message_;
    std::vector<exception_ptr> errors_;
    std::string what_;
};

/// Several ordinary errors that happened together. Python's ExceptionGroup.
class exception_group : public base_exception_group, public std::exception {
public:
    /// Throws: std::invalid_argument when `errors` is empty, or when one of them
    /// is no ordinary error (a cancelled_error, say): use base_exception_group.
    ASYNCIO_API exception_group(std::string message, std::vector<exception_ptr> errors);

    const char* what() const noexcept override { return base_exception_group::what(); }

    template <class E, class Group = exception_group>
    std::pair<std::optional<Group>, std::optional<Group>> split() const {
        return split_as<E, Group>();
    }

    template <class E, class Group = exception_group>
    std::optional<Group> subgroup() const {
        return split_as<E, Group>().first;
    }
};

#if !defined(ASYNCIO_BACKEND_NONE)
/// Prints a group as a tree, one error a line.
ASYNCIO_API std::ostream& operator<<(std::ostream& out, const base_exception_group& group);
#endif

#if defined(ASYNCIO_NO_EXCEPTIONS)

namespace detail {

template <class E>
class error_object_of final : public error_object {
public:
    explicit error_object_of(E&& error) : error_(std::move(error)) {}

    const void* tag() const noexcept override { return &tag_of<E>; }
    const void* find(const void* tag) const noexcept override {
        if (tag == &tag_of<E>) return &error_;
        return as_one_of<std::exception, std::runtime_error, std::logic_error, std::system_error,
                         std::invalid_argument, std::out_of_range, std::bad_alloc, timeout_error,
                         invalid_state_error, broken_executor, base_exception_group,
                         exception_group>(tag);
    }
    std::string_view type() const noexcept override { return type_name<E>(); }

private:
    template <class... Bases>
    const void* as_one_of(const void* tag) const noexcept {
        const void* found = nullptr;
        (as<Bases>(tag, found), ...);
        return found;
    }
    template <class Base>
    void as(const void* tag, const void*& found) const noexcept {
        if constexpr (std::derived_from<E, Base>)
            if (tag == &tag_of<Base>) found = static_cast<const Base*>(&error_);
    }

    E error_;
};

template <class E>
exception_ptr make_error(E error) {
    return exception_ptr(new error_object_of<E>(std::move(error)));
}

} // namespace detail

// The error behind `error` if it is an E.
template <class E>
const E* detail::exception_cast(const exception_ptr& error) noexcept {
    return error ? static_cast<const E*>(error.get()->find(&tag_of<E>)) : nullptr;
}

#else

// The exception behind `error` if it is an E. The object lives as long as the
// pointer does.
template <class E>
const E* detail::exception_cast(const exception_ptr& error) noexcept {
    if (!error) return nullptr;
    try {
        std::rethrow_exception(error);
    } catch (const E& match) {
        return &match;
    } catch (...) {
        return nullptr;
    }
}

#endif

template <class E, class F>
void base_exception_group::for_each(F&& fn) const {
    struct caller {
        static bool call(const exception_ptr& error, void* context) {
            const E* match = detail::exception_cast<E>(error);
            if (match) (*static_cast<std::remove_reference_t<F>*>(context))(*match);
            return match != nullptr;
        }
    };
    auto* context = const_cast<void*>(static_cast<const void*>(std::addressof(fn)));
    detail::visit_leaves(*this, std::derived_from<E, base_exception_group>, &caller::call,
                         context);
}

template <class E, class Group>
std::pair<std::optional<Group>, std::optional<Group>> base_exception_group::split_as() const {
    std::vector<exception_ptr> parts[2];
    detail::split_group(
        *this, std::derived_from<E, base_exception_group>,
        [](const exception_ptr& error) {
            return detail::exception_cast<E>(error) != nullptr;
        },
        parts);
    std::pair<std::optional<Group>, std::optional<Group>> result;
    if (!parts[0].empty()) result.first.emplace(message_, std::move(parts[0]));
    if (!parts[1].empty()) result.second.emplace(message_, std::move(parts[1]));
    return result;
}

} // namespace asyncio::inline ASYNCIO_ABI

// =============================================================================
// [SECTION] support
// uses: configuration, exceptions
//
// The small things that everything else is made of: time spans that check
// themselves, values-or-errors, counted pointers, memory for coroutine frames,
// and the codec that carries values between processes.
// =============================================================================

namespace asyncio::inline ASYNCIO_ABI {

/// A span of time in nanoseconds. Takes any std::chrono::duration and converts
/// back to one: `sleep(1.5s)`, `wait_for(f(), 200ms)`. Floating-point counts are
/// rounded to the nearest nanosecond.
///
/// Throws: std::invalid_argument when made from NaN or from more than the 292
/// years that fit. Negative spans count as zero wherever something waits.
class duration {
    // Here because clang evaluates no constants with what comes later in a class.
    static constexpr std::int64_t limit = INT64_MAX;

    [[noreturn]] static void overflow() {
        detail::throw_invalid_argument(
            "asyncio::duration: the span is not a number or over 292 years; give a smaller one");
    }

    template <class Rep, class Period>
    static constexpr std::int64_t checked(std::chrono::duration<Rep, Period> span) {
        using ratio = std::ratio_divide<Period, std::nano>;
        if constexpr (std::chrono::treat_as_floating_point<Rep>::value) {
            const long double value = static_cast<long double>(span.count()) *
                                      static_cast<long double>(ratio::num) /
                                      static_cast<long double>(ratio::den);
            // Written so that NaN fails the test.
            if (!(value > -9.2e18L && value < 9.2e18L)) overflow();
            return static_cast<std::int64_t>(value < 0 ? value - 0.5L : value + 0.5L);
        } else {
            using wide = std::common_type_t<Rep, std::int64_t>;
            const wide count = static_cast<wide>(span.count());
            constexpr std::int64_t most = limit / ratio::num;
            if constexpr (std::is_unsigned_v<wide>) {
                if (count > static_cast<wide>(most)) overflow();
            } else {
                if (count > most || count < -most) overflow();
            }
            return static_cast<std::int64_t>(count) * ratio::num / ratio::den;
        }
    }

public:
    constexpr duration() = default;

    template <class Rep, class Period>
    constexpr duration(std::chrono::duration<Rep, Period> span) : nanoseconds_(checked(span)) {}

    static duration seconds(double count) {
        return duration(std::chrono::duration<double>(count));
    }
    static constexpr duration zero() noexcept { return duration(); }

    /// Nanoseconds.
    constexpr std::int64_t count() const noexcept { return nanoseconds_; }

    /// Seconds, as Python's timedelta.total_seconds().
    constexpr double total_seconds() const noexcept {
        return static_cast<double>(nanoseconds_) * 1e-9;
    }

    constexpr operator std::chrono::nanoseconds() const noexcept {
        return std::chrono::nanoseconds(nanoseconds_);
    }
    template <class Rep, class Period>
        requires std::chrono::treat_as_floating_point<Rep>::value
    constexpr explicit operator std::chrono::duration<Rep, Period>() const noexcept {
        return std::chrono::nanoseconds(nanoseconds_);
    }

    friend constexpr auto operator<=>(duration, duration) = default;

    friend constexpr duration operator+(duration a, duration b) {
        const bool fits = b.nanoseconds_ >= 0 ? a.nanoseconds_ <= limit - b.nanoseconds_
                                              : a.nanoseconds_ >= -limit - b.nanoseconds_;
        if (!fits) overflow();
        return duration(std::chrono::nanoseconds(a.nanoseconds_ + b.nanoseconds_));
    }
    friend constexpr duration operator-(duration a) noexcept {
        return duration(std::chrono::nanoseconds(-a.nanoseconds_));
    }
    friend constexpr duration operator-(duration a, duration b) { return a + -b; }
    friend constexpr duration operator*(duration a, double factor) {
        return duration(std::chrono::duration<double, std::nano>(
            static_cast<double>(a.nanoseconds_) * factor));
    }
    friend constexpr duration operator*(double factor, duration a) { return a * factor; }
    friend constexpr duration operator/(duration a, double divisor) {
        return duration(std::chrono::duration<double, std::nano>(
            static_cast<double>(a.nanoseconds_) / divisor));
    }
    friend constexpr double operator/(duration a, duration b) {
        return static_cast<double>(a.nanoseconds_) / static_cast<double>(b.nanoseconds_);
    }
    constexpr duration& operator+=(duration other) { return *this = *this + other; }
    constexpr duration& operator-=(duration other) { return *this = *this - other; }

private:
    std::int64_t nanoseconds_ = 0;
};

/// A moment on a loop's clock; event_loop::time() gives the present one. Only
/// differences mean something.
class time_point {
public:
    constexpr time_point() = default;
    constexpr explicit time_point(duration since_epoch) noexcept : since_epoch_(since_epoch) {}

    constexpr duration time_since_epoch() const noexcept { return since_epoch_; }

    constexpr operator std::chrono::nanoseconds() const noexcept { return since_epoch_; }

    friend constexpr auto operator<=>(time_point, time_point) = default;
    friend constexpr time_point operator+(time_point t, duration d) {
        return time_point(t.since_epoch_ + d);
    }
    friend constexpr time_point operator+(duration d, time_point t) { return t + d; }
    friend constexpr time_point operator-(time_point t, duration d) {
        return time_point(t.since_epoch_ - d);
    }
    friend constexpr duration operator-(time_point a, time_point b) {
        return a.since_epoch_ - b.since_epoch_;
    }
    constexpr time_point& operator+=(duration d) { return *this = *this + d; }
    constexpr time_point& operator-=(duration d) { return *this = *this - d; }

private:
    duration since_epoch_;
};

/// What went wrong, without throwing it: the error half of an outcome.
class error {
public:
    error() = default;
    explicit error(exception_ptr exception);

    /// The exception's text.
    const char* what() const noexcept { return what_.c_str(); }

    /// The code of a std::system_error; errc::timed_out for a timeout_error,
    /// errc::operation_canceled for a cancelled_error, else an empty code.
    std::error_code code() const noexcept { return code_; }

    /// True when the exception is an E.
    template <class E>
    bool holds() const noexcept {
        return detail::exception_cast<E>(exception_) != nullptr;
    }

    const exception_ptr& exception() const noexcept { return exception_; }

    [[noreturn]] void rethrow() const {
        if (!exception_)
            detail::throw_invalid_state("asyncio::error: it is empty; nothing went wrong");
        detail::rethrow(exception_);
    }

private:
    exception_ptr exception_;
    std::string what_;
    std::error_code code_;
};

// Here, so that a program for a small machine that never asks for one has no error codes.
inline error::error(exception_ptr exception) : exception_(std::move(exception)) {
    if (!exception_) return;
    if (const auto* const system = detail::exception_cast<std::system_error>(exception_)) {
        code_ = system->code();
        what_ = system->what();
    } else if (const auto* const late = detail::exception_cast<timeout_error>(exception_)) {
        code_ = std::make_error_code(std::errc::timed_out);
        what_ = late->what();
    } else if (const auto* const end = detail::exception_cast<cancelled_error>(exception_)) {
        code_ = std::make_error_code(std::errc::operation_canceled);
        what_ = end->what();
    } else if (const auto* const any = detail::exception_cast<std::exception>(exception_)) {
        what_ = any->what();
    } else {
        what_ = detail::describe(exception_);
    }
}

/// A value, or the error that came instead of it: what as_outcome() and
/// gather(return_exceptions, ...) give.
template <class T>
class [[nodiscard]] outcome {
public:
    using value_type = T;

    outcome() requires std::default_initializable<T> : state_(std::in_place_index<0>) {}
    outcome(T value) : state_(std::in_place_index<0>, std::move(value)) {}
    outcome(asyncio::error e) : state_(std::in_place_index<1>, std::move(e)) {}
    outcome(exception_ptr e) : state_(std::in_place_index<1>, asyncio::error(std::move(e))) {}

    bool has_value() const noexcept { return state_.index() == 0; }
    explicit operator bool() const noexcept { return has_value(); }

    /// Throws: the error, when there is no value.
    const T& value() const& {
        if (!has_value()) error().rethrow();
        return std::get<0>(state_);
    }
    T& value() & {
        if (!has_value()) error().rethrow();
        return std::get<0>(state_);
    }
    T&& value() && {
        if (!has_value()) error().rethrow();
        return std::get<0>(std::move(state_));
    }

    /// Throws: invalid_state_error when there is a value.
    const asyncio::error& error() const {
        if (has_value())
            detail::throw_invalid_state("asyncio::outcome: it holds a value, not an error; ask "
                                        "has_value() first");
        return std::get<1>(state_);
    }

    const T& operator*() const& { return value(); }
    T& operator*() & { return value(); }
    T&& operator*() && { return std::move(*this).value(); }
    const T* operator->() const { return &value(); }
    T* operator->() { return &value(); }

private:
    std::variant<T, asyncio::error> state_;
};

/// The outcome of something that gives no value.
template <>
class [[nodiscard]] outcome<void> {
public:
    using value_type = void;

    outcome() = default;
    outcome(asyncio::error e) : error_(std::move(e)), failed_(true) {}
    outcome(exception_ptr e) : error_(std::move(e)), failed_(true) {}

    bool has_value() const noexcept { return !failed_; }
    explicit operator bool() const noexcept { return has_value(); }

    void value() const {
        if (failed_) error_.rethrow();
    }
    const asyncio::error& error() const {
        if (!failed_)
            detail::throw_invalid_state("asyncio::outcome: it holds a value, not an error; ask "
                                        "has_value() first");
        return error_;
    }
    void operator*() const { value(); }

private:
    asyncio::error error_;
    bool failed_ = false;
};

/// The first argument of gather() and map() that turns errors into outcomes.
struct return_exceptions_t {
    explicit return_exceptions_t() = default;
};
inline constexpr return_exceptions_t return_exceptions{};

/// Memory for coroutines in a buffer of the caller's: for programs that use no heap once
/// they run, or have none.
///
///     #define ASYNCIO_ALLOC(size) my_arena().allocate(size)
///     #define ASYNCIO_FREE(p, size) my_arena().deallocate(p, size)
///     #include "asyncio.hpp"
///
///     asyncio::fixed_arena& my_arena() {
///         static std::byte memory[64 * 1024];
///         static asyncio::fixed_arena arena(memory);
///         return arena;
///     }
///
///     #define ASYNCIO_IMPLEMENTATION
///     #include "asyncio.hpp"
///
/// When it is full, create_task() and calls of coroutine functions throw std::bad_alloc
/// and have done nothing. Pieces that are given back join their free neighbours, so that
/// memory of small coroutines serves for large ones later.
///
/// It needs no heap, no system and no exceptions itself, and takes 1/128 of the buffer to
/// keep its books. Time: what coroutines give back, the library keeps for the next ones of
/// their size, and asks the arena for new ones only.
///
/// Lifetime: the buffer outlives it, and it outlives all coroutines.
/// Thread safety: none. Where coroutines run on several threads, ASYNCIO_ALLOC and
/// ASYNCIO_FREE call it under a mutex.
class fixed_arena {
public:
    ASYNCIO_API explicit fixed_arena(std::span<std::byte> buffer) noexcept;
    fixed_arena(const fixed_arena&) = delete;
    fixed_arena& operator=(const fixed_arena&) = delete;

    /// At least `size` bytes, aligned to 16; null when there is no such piece left.
    ASYNCIO_API void* allocate(std::size_t size) noexcept;

    /// Takes back what allocate() gave for this size.
    ASYNCIO_API void deallocate(void* memory, std::size_t size) noexcept;

    /// Bytes that are given out, with those that the library keeps for later.
    std::size_t used() const noexcept { return used_ * cell; }
    /// The most that they ever were.
    std::size_t peak() const noexcept { return peak_ * cell; }
    std::size_t capacity() const noexcept { return cells_ * cell; }

private:
    static constexpr std::size_t cell = 16;
    static constexpr std::size_t bits = std::numeric_limits<std::size_t>::digits;

    static std::size_t cells_of(std::size_t size) noexcept {
        return size == 0 ? 1 : (size - 1) / cell + 1;
    }
    bool taken(std::size_t i) const noexcept { return ((map_[i / bits] >> (i % bits)) & 1) != 0; }

    std::size_t* map_ = nullptr; // a bit for each cell; in front of them
    std::byte* memory_ = nullptr;
    std::size_t cells_ = 0;
    std::size_t first_free_ = 0; // all before are taken
    std::size_t used_ = 0;
    std::size_t peak_ = 0;
};

namespace detail {

// std::exchange(from, {}) for pointers and handles; that one costs the compiler more for
// each type than this does for all.
template <class T>
constexpr T take(T& from) noexcept {
    T taken = from;
    from = T();
    return taken;
}

// A counted pointer to an object that counts for itself. One thread only,
// unless the object's count is atomic.
template <class T>
class ref_ptr {
public:
    constexpr ref_ptr() noexcept = default;
    constexpr ref_ptr(std::nullptr_t) noexcept {}
    explicit ref_ptr(T* object) noexcept : object_(object) {
        if (object_) object_->add_ref();
    }
    ref_ptr(const ref_ptr& other) noexcept : ref_ptr(other.object_) {}
    ref_ptr(ref_ptr&& other) noexcept : object_(detail::take(other.object_)) {}
    template <class U>
        requires std::convertible_to<U*, T*>
    ref_ptr(const ref_ptr<U>& other) noexcept : ref_ptr(other.get()) {}
    template <class U>
        requires std::convertible_to<U*, T*>
    ref_ptr(ref_ptr<U>&& other) noexcept : object_(other.detach()) {}
    ref_ptr& operator=(ref_ptr other) noexcept {
        T* const mine = object_;
        object_ = other.object_;
        other.object_ = mine;
        return *this;
    }
    ~ref_ptr() {
        if (object_) object_->release();
    }

    // Takes over a count that somebody already holds.
    static ref_ptr adopt(T* object) noexcept {
        ref_ptr p;
        p.object_ = object;
        return p;
    }
    T* detach() noexcept { return detail::take(object_); }

    T* get() const noexcept { return object_; }
    T& operator*() const noexcept { return *object_; }
    T* operator->() const noexcept { return object_; }
    explicit operator bool() const noexcept { return object_ != nullptr; }
    friend bool operator==(const ref_ptr&, const ref_ptr&) = default;

private:
    T* object_ = nullptr;
};

// Owns an object, and nothing more. std::unique_ptr does the same; that one costs the
// compiler ten times as much for each type.
template <class T>
class box {
public:
    constexpr box() noexcept = default;
    explicit box(T* object) noexcept : object_(object) {}
    box(box&& other) noexcept : object_(detail::take(other.object_)) {}
    box& operator=(box&& other) noexcept {
        reset(detail::take(other.object_));
        return *this;
    }
    ~box() { delete object_; }

    void reset(T* object = nullptr) noexcept { delete std::exchange(object_, object); }
    T* release() noexcept { return detail::take(object_); }
    T* get() const noexcept { return object_; }
    T& operator*() const noexcept { return *object_; }
    T* operator->() const noexcept { return object_; }
    explicit operator bool() const noexcept { return object_ != nullptr; }

private:
    T* object_ = nullptr;
};

// A move-only callable of any type. For things that are set once and called
// seldom; hot paths keep callables in nodes of their own.
template <class Signature>
class function;

template <class R, class... Args>
class function<R(Args...)> {
public:
    function() = default;
    template <class F>
        requires(!std::same_as<std::remove_cvref_t<F>, function> &&
                 std::invocable<std::decay_t<F>&, Args...>)
    function(F&& fn) : impl_(new holder<std::decay_t<F>>(std::forward<F>(fn))) {}

    explicit operator bool() const noexcept { return static_cast<bool>(impl_); }
    R operator()(Args... args) const { return impl_->call(std::forward<Args>(args)...); }

private:
    struct base {
        virtual ~base() = default;
        virtual R call(Args... args) = 0;
    };
    template <class F>
    struct holder final : base {
        template <class G>
        explicit holder(G&& g) : fn(std::forward<G>(g)) {}
        R call(Args... args) override {
            if constexpr (std::is_void_v<R>) fn(std::forward<Args>(args)...);
            else return fn(std::forward<Args>(args)...);
        }
        F fn;
    };

    box<base> impl_;
};

// Memory for coroutine frames and task states. Each thread keeps what it freed,
// sorted by size, and hands it out again; no lock, and no search. A block may be
// freed on another thread than the one that took it: it is kept there.
struct frame_cache {
    static constexpr std::size_t granularity = 16;
    static constexpr std::size_t classes = 64;
    static constexpr std::size_t most = granularity * classes;

    struct block {
        block* next;
    };
    block* free[classes];
    // How many more blocks of each size may be kept; 0 before the first use and
    // after the thread's end, so that frame_free() asks the slow path.
    std::uint32_t room[classes];
};

extern ASYNCIO_THREAD_LOCAL constinit frame_cache this_thread_frames;

ASYNCIO_API void* frame_alloc_slow(std::size_t size);
ASYNCIO_API void frame_free_slow(void* memory, std::size_t size) noexcept;

[[gnu::always_inline]] inline void* frame_alloc(std::size_t size) {
    if constexpr (!ASYNCIO_SANITIZED) {
        const std::size_t index = (size - 1) / frame_cache::granularity;
        if (index < frame_cache::classes) {
            frame_cache& cache = this_thread_frames;
            if (frame_cache::block* block = cache.free[index]) {
                cache.free[index] = block->next;
                ++cache.room[index];
                return block;
            }
        }
    }
    return frame_alloc_slow(size);
}

[[gnu::always_inline]] inline void frame_free(void* memory, std::size_t size) noexcept {
    if constexpr (!ASYNCIO_SANITIZED) {
        const std::size_t index = (size - 1) / frame_cache::granularity;
        if (index < frame_cache::classes) {
            frame_cache& cache = this_thread_frames;
            if (cache.room[index] != 0) {
                --cache.room[index];
                auto* block = static_cast<frame_cache::block*>(memory);
                block->next = cache.free[index];
                cache.free[index] = block;
                return;
            }
        }
    }
    frame_free_slow(memory, size);
}

// Base of classes whose objects live in that memory.
struct frame_allocated {
    static void* operator new(std::size_t size) { return frame_alloc(size); }
    static void operator delete(void* memory, std::size_t size) noexcept {
        frame_free(memory, size);
    }
};

} // namespace detail

} // namespace asyncio::inline ASYNCIO_ABI

// =============================================================================
// [SECTION] codec
// uses: exceptions, support
//
// Carries values between processes: encoder and decoder are the bytes, codec<T>
// is how a T becomes bytes and comes back. Isolated executors use it for
// arguments and results; both sides are the same program, so that numbers keep
// the machine's form.
// =============================================================================

#if !defined(ASYNCIO_BACKEND_NONE)

namespace asyncio::inline ASYNCIO_ABI {

class encoder;
class decoder;

/// How a T travels to a worker process and back. It knows numbers, enums,
/// strings, containers, optional, variant, pair, tuple, unique_ptr, times, and
/// plain structs of up to 16 such members. Specialise it for the rest:
///
///     template <>
///     struct asyncio::codec<big_number> {
///         static void encode(const big_number& n, encoder& out) { out.put(n.digits()); }
///         static big_number decode(decoder& in) { return big_number(in.get<std::string>()); }
///     };
///
/// A codec writes at least one byte, and throws codec_error for bytes that are
/// no T.
template <class T>
struct codec;

namespace detail {

[[noreturn]] ASYNCIO_API void throw_codec_error(const char* message);

// Where an encoder puts what is too large for its buffer.
class encoder_overflow {
public:
    // Takes what is buffered, which it may leave empty, and `size` more bytes.
    virtual void take(std::string& buffered, const char* data, std::size_t size) = 0;

protected:
    ~encoder_overflow() = default;
};

// A list or tree of more levels than this would overflow somebody's stack.
inline constexpr int codec_depth = 1000;

// Counts the levels of nested values.
class codec_level {
public:
    explicit codec_level(int& depth) : depth_(depth) {
        if (depth_ == codec_depth)
            throw_codec_error("asyncio::codec: a value is nested more than 1000 levels deep; send "
                              "a flat one, an index instead of a pointer");
        ++depth_;
    }
    codec_level(const codec_level&) = delete;
    codec_level& operator=(const codec_level&) = delete;
    ~codec_level() { --depth_; }

private:
    int& depth_;
};

} // namespace detail

/// Collects the bytes of values.
class encoder {
public:
    encoder() = default;
    encoder(detail::encoder_overflow& overflow, std::size_t room) noexcept
        : overflow_(&overflow), room_(room) {}
    encoder(const encoder&) = delete;
    encoder& operator=(const encoder&) = delete;

    /// Appends `value`, by codec<T>.
    template <class T>
    void put(const T& value) {
        if constexpr (std::is_scalar_v<T>) {
            codec<T>::encode(value, *this);
        } else {
            const detail::codec_level level(depth_);
            codec<T>::encode(value, *this);
        }
    }

    /// Appends bytes as they are.
    void write(const void* data, std::size_t size) {
        const char* const bytes = static_cast<const char*>(data);
        written_ += size;
        if (overflow_ && bytes_.size() + size > room_) overflow_->take(bytes_, bytes, size);
        else if (size != 0) bytes_.append(bytes, size);
    }

    /// Appends zeros until the next byte's position is a multiple of `alignment`.
    void align(std::size_t alignment) {
        static constexpr char zeros[16] = {};
        const std::size_t over = written_ % alignment;
        if (over != 0) write(zeros, alignment - over);
    }

    /// What was put so far, unless it went to an overflow.
    const std::string& bytes() const noexcept { return bytes_; }
    std::string& bytes() noexcept { return bytes_; }

    /// How many bytes were put so far.
    std::size_t written() const noexcept { return written_; }

private:
    std::string bytes_;
    std::size_t written_ = 0;
    int depth_ = 0;
    detail::encoder_overflow* overflow_ = nullptr;
    std::size_t room_ = 0;
};

/// Reads values out of bytes, and trusts none of them: whatever is not a value
/// throws codec_error before it costs memory or reaches anybody.
///
/// Lifetime: the bytes outlive the decoder.
class decoder {
public:
    explicit decoder(std::string_view bytes) noexcept : bytes_(bytes) {}
    decoder(const decoder&) = delete;
    decoder& operator=(const decoder&) = delete;

    /// The next value, by codec<T>.
    template <class T>
    T get() {
        if constexpr (std::is_scalar_v<T>) {
            return codec<T>::decode(*this);
        } else {
            const detail::codec_level level(depth_);
            return codec<T>::decode(*this);
        }
    }

    /// The next `size` bytes as they are.
    ///
    /// Throws: codec_error when fewer are left.
    std::string_view read(std::size_t size) {
        if (size > remaining())
            detail::throw_codec_error("asyncio::codec: the bytes end in the middle of a value; "
                                      "decode exactly what was encoded");
        const std::string_view part = bytes_.substr(position_, size);
        position_ += size;
        return part;
    }
    void read(void* into, std::size_t size) {
        const std::string_view part = read(size);
        if (size != 0) std::memcpy(into, part.data(), size);
    }

    /// Skips what encoder::align() put.
    void align(std::size_t alignment) {
        const std::size_t over = position_ % alignment;
        if (over != 0) read(alignment - over);
    }

    /// The number of elements that follow. Each takes at least one byte, so that a
    /// wrong number is found before memory is taken for them.
    std::size_t get_size(std::size_t bytes_each = 1) {
        std::uint64_t size = 0;
        read(&size, sizeof size);
        if (size > remaining() / bytes_each)
            detail::throw_codec_error("asyncio::codec: a length is larger than the bytes that "
                                      "follow it; decode exactly what was encoded");
        return static_cast<std::size_t>(size);
    }

    std::size_t remaining() const noexcept { return bytes_.size() - position_; }

    /// Throws: codec_error when bytes are left.
    void finish() const {
        if (remaining() != 0)
            detail::throw_codec_error("asyncio::codec: bytes are left after the last value; decode "
                                      "exactly what was encoded");
    }

private:
    std::string_view bytes_;
    std::size_t position_ = 0;
    int depth_ = 0;
};

namespace detail {

template <class... T>
struct type_list {};

template <class T, template <class...> class Template>
inline constexpr bool is_instance = false;
template <class... Args, template <class...> class Template>
inline constexpr bool is_instance<Template<Args...>, Template> = true;

template <class T>
inline constexpr bool is_array = false;
template <class T, std::size_t N>
inline constexpr bool is_array<std::array<T, N>> = true;

template <class T>
inline constexpr bool is_chrono_time = false;
template <class Rep, class Period>
inline constexpr bool is_chrono_time<std::chrono::duration<Rep, Period>> = true;
template <class Clock, class Duration>
inline constexpr bool is_chrono_time<std::chrono::time_point<Clock, Duration>> = true;

// Only a unique_ptr that deletes: another deleter says that the object is no
// plain value.
template <class T>
inline constexpr bool is_unique_ptr = false;
template <class T>
    requires(!std::is_array_v<T>)
inline constexpr bool is_unique_ptr<std::unique_ptr<T, std::default_delete<T>>> = true;

// Values that travel as their bytes, also many at once. A bool is none: only two
// of its 256 patterns may be read.
template <class T>
concept plain_bytes = std::is_arithmetic_v<T> && !std::same_as<T, bool>;

template <class T>
concept appendable = requires(T& c, typename T::value_type v) { c.push_back(std::move(v)); };
template <class T>
concept insertable =
    requires(T& c, typename T::value_type v) { c.insert(c.end(), std::move(v)); };

// Any container that grows, of the standard library or not: found by what it
// does, so that <map> and its kin need not be included.
template <class T>
concept container = std::default_initializable<T> && (appendable<T> || insertable<T>) &&
                    requires(const T& c) {
                        { c.size() } -> std::convertible_to<std::size_t>;
                        c.begin();
                        c.end();
                    };

// What a container's elements travel as: a map's, without the const.
template <class T>
struct element {
    using type = T;
};
template <class K, class V>
struct element<std::pair<const K, V>> {
    using type = std::pair<K, V>;
};
template <class T>
using element_t = typename element<typename T::value_type>::type;

// A container whose elements are plain bytes side by side.
template <class T>
concept plain_block = container<T> && plain_bytes<typename T::value_type> &&
                      requires(const T& c) {
                          { c.data() } -> std::same_as<const typename T::value_type*>;
                      };

// Stands for a member of any type but T itself.
template <class T>
struct any_member {
    template <class U>
        requires(!std::is_same_v<U, T>)
    operator U() const noexcept;
};

// Stands for a base of T.
template <class T>
struct any_base {
    template <class U>
        requires(std::is_base_of_v<U, T> && !std::is_same_v<U, T>)
    operator U() const noexcept;
};

template <class T, std::size_t... I>
constexpr bool takes_members(std::index_sequence<I...>) {
    return requires { T{(static_cast<void>(I), any_member<T>())...}; };
}

// How many members a struct has, when none can be made from {}.
template <class T, std::size_t N = 17>
constexpr std::size_t count_any_members() {
    if constexpr (N == 0) return 0;
    else if constexpr (takes_members<T>(std::make_index_sequence<N>())) return N;
    else return count_any_members<T, N - 1>();
}

// How many members a struct has; 17 when more than 16. Each {} makes exactly one
// member, which holds for arrays too; so that is asked first.
template <class T>
constexpr std::size_t count_members() {
    if constexpr (requires {
                      T{{}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}};
                  })
        return 17;
    else if constexpr (requires {
                           T{{}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}};
                       })
        return 16;
    else if constexpr (requires { T{{}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}}; })
        return 15;
    else if constexpr (requires { T{{}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}}; })
        return 14;
    else if constexpr (requires { T{{}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}}; })
        return 13;
    else if constexpr (requires { T{{}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}}; }) return 12;
    else if constexpr (requires { T{{}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}}; }) return 11;
    else if constexpr (requires { T{{}, {}, {}, {}, {}, {}, {}, {}, {}, {}}; }) return 10;
    else if constexpr (requires { T{{}, {}, {}, {}, {}, {}, {}, {}, {}}; }) return 9;
    else if constexpr (requires { T{{}, {}, {}, {}, {}, {}, {}, {}}; }) return 8;
    else if constexpr (requires { T{{}, {}, {}, {}, {}, {}, {}}; }) return 7;
    else if constexpr (requires { T{{}, {}, {}, {}, {}, {}}; }) return 6;
    else if constexpr (requires { T{{}, {}, {}, {}, {}}; }) return 5;
    else if constexpr (requires { T{{}, {}, {}, {}}; }) return 4;
    else if constexpr (requires { T{{}, {}, {}}; }) return 3;
    else if constexpr (requires { T{{}, {}}; }) return 2;
    else if constexpr (requires { T{{}}; }) return 1;
    else return count_any_members<T>();
}

template <class T>
concept has_base = requires { T{any_base<T>()}; };

// A struct that structured bindings can take apart.
template <class T>
concept plain_struct = std::is_class_v<T> && std::is_aggregate_v<T> && !is_array<T> &&
                       (std::is_empty_v<T> || (!has_base<T> && count_members<T>() >= 1 &&
                                               count_members<T>() <= 16));

// Calls fn with all members of `value`.
template <class T, class F>
constexpr decltype(auto) with_members(T& value, F&& fn) {
    constexpr std::size_t count = std::is_empty_v<T> ? 0 : count_members<std::remove_cv_t<T>>();
    if constexpr (count == 0) {
        return fn();
    } else if constexpr (count == 1) {
        auto& [a] = value;
        return fn(a);
    } else if constexpr (count == 2) {
        auto& [a, b] = value;
        return fn(a, b);
    } else if constexpr (count == 3) {
        auto& [a, b, c] = value;
        return fn(a, b, c);
    } else if constexpr (count == 4) {
        auto& [a, b, c, d] = value;
        return fn(a, b, c, d);
    } else if constexpr (count == 5) {
        auto& [a, b, c, d, e] = value;
        return fn(a, b, c, d, e);
    } else if constexpr (count == 6) {
        auto& [a, b, c, d, e, f] = value;
        return fn(a, b, c, d, e, f);
    } else if constexpr (count == 7) {
        auto& [a, b, c, d, e, f, g] = value;
        return fn(a, b, c, d, e, f, g);
    } else if constexpr (count == 8) {
        auto& [a, b, c, d, e, f, g, h] = value;
        return fn(a, b, c, d, e, f, g, h);
    } else if constexpr (count == 9) {
        auto& [a, b, c, d, e, f, g, h, i] = value;
        return fn(a, b, c, d, e, f, g, h, i);
    } else if constexpr (count == 10) {
        auto& [a, b, c, d, e, f, g, h, i, j] = value;
        return fn(a, b, c, d, e, f, g, h, i, j);
    } else if constexpr (count == 11) {
        auto& [a, b, c, d, e, f, g, h, i, j, k] = value;
        return fn(a, b, c, d, e, f, g, h, i, j, k);
    } else if constexpr (count == 12) {
        auto& [a, b, c, d, e, f, g, h, i, j, k, l] = value;
        return fn(a, b, c, d, e, f, g, h, i, j, k, l);
    } else if constexpr (count == 13) {
        auto& [a, b, c, d, e, f, g, h, i, j, k, l, m] = value;
        return fn(a, b, c, d, e, f, g, h, i, j, k, l, m);
    } else if constexpr (count == 14) {
        auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n] = value;
        return fn(a, b, c, d, e, f, g, h, i, j, k, l, m, n);
    } else if constexpr (count == 15) {
        auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o] = value;
        return fn(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o);
    } else {
        auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = value;
        return fn(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p);
    }
}

struct list_members {
    template <class... M>
    type_list<std::remove_cv_t<M>...> operator()(M&...) const {
        return {};
    }
};
template <class T>
using members_of = decltype(with_members(std::declval<T&>(), list_members()));

// A specialisation by the user has no such name.
template <class T>
concept built_in_codec = requires { typename codec<T>::built_in; };

template <class T, class... Seen>
constexpr bool can_encode();

template <class... T>
struct can_encode_all {
    template <class... Seen>
    static constexpr bool among = (can_encode<T, Seen...>() && ...);
};

template <class T>
struct part_types; // of a template's instance, or of a struct's member list
template <template <class...> class Template, class... T>
struct part_types<Template<T...>> {
    using type = can_encode_all<std::remove_cv_t<T>...>;
};

// True when codec<T> can carry a T. `Seen` are the types that T is part of: one
// that holds itself (a list's node) is asked once.
template <class T, class... Seen>
constexpr bool can_encode() {
    if constexpr ((std::is_same_v<T, Seen> || ...)) {
        return true;
    } else if constexpr (std::is_reference_v<T> || std::is_function_v<T> || std::is_void_v<T>) {
        return false;
    } else if constexpr (std::is_array_v<T>) {
        return can_encode<std::remove_cv_t<std::remove_all_extents_t<T>>, Seen...>();
    } else if constexpr (!built_in_codec<T>) {
        return true;
    } else if constexpr (std::is_arithmetic_v<T> || std::is_enum_v<T> || is_chrono_time<T> ||
                         std::same_as<T, duration> || std::same_as<T, time_point> ||
                         std::same_as<T, std::monostate>) {
        return true;
    } else if constexpr (is_instance<T, std::pair> || is_instance<T, std::tuple> ||
                         is_instance<T, std::variant> || is_instance<T, std::optional>) {
        return part_types<T>::type::template among<T, Seen...>;
    } else if constexpr (is_unique_ptr<T>) {
        return can_encode<std::remove_cv_t<typename T::element_type>, T, Seen...>();
    } else if constexpr (is_array<T>) {
        return can_encode<std::remove_cv_t<typename T::value_type>, T, Seen...>();
    } else if constexpr (container<T>) {
        return can_encode<element_t<T>, T, Seen...>();
    } else if constexpr (plain_struct<T>) {
        return part_types<members_of<T>>::type::template among<T, Seen...>;
    } else {
        return false;
    }
}

template <class T>
concept encodable = can_encode<T>();

inline void put_size(encoder& out, std::size_t size) {
    const std::uint64_t wide = size;
    out.write(&wide, sizeof wide);
}

// An element of an array or struct, which may be an array itself.
template <class T>
void put_member(encoder& out, const T& value) {
    if constexpr (std::is_array_v<T>) {
        for (const auto& part : value) put_member(out, part);
    } else {
        out.put<std::remove_cv_t<T>>(value);
    }
}
template <class T>
void get_member(decoder& in, T& value) {
    if constexpr (std::is_array_v<T>) {
        for (auto& part : value) get_member(in, part);
    } else {
        value = in.get<T>();
    }
}

template <class T>
void put_container(encoder& out, const T& value) {
    put_size(out, value.size());
    if constexpr (plain_block<T>) {
        using item = typename T::value_type;
        out.align(alignof(item));
        out.write(value.data(), value.size() * sizeof(item));
    } else if constexpr (std::same_as<typename T::value_type, bool>) {
        for (const bool part : value) out.put<bool>(part);
    } else {
        for (const auto& part : value) {
            if constexpr (is_instance<element_t<T>, std::pair>) {
                out.put(part.first);
                out.put(part.second);
            } else {
                out.put(part);
            }
        }
    }
}

template <class T>
T get_container(decoder& in) {
    using item = element_t<T>;
    if constexpr (plain_block<T>) {
        const std::size_t size = in.get_size(sizeof(item));
        in.align(alignof(item));
        const char* const bytes = in.read(size * sizeof(item)).data();
        if constexpr (std::constructible_from<T, const item*, const item*>) {
            // Straight from where the bytes are, without filling with zeros first.
            if (reinterpret_cast<std::uintptr_t>(bytes) % alignof(item) == 0) {
                const auto* const first = reinterpret_cast<const item*>(bytes);
                return T(first, first + size);
            }
        }
        T value(size, item());
        for (item& part : value)
            std::memcpy(&part, bytes + (&part - value.data()) * std::ptrdiff_t{sizeof(item)},
                        sizeof(item));
        return value;
    } else {
        const std::size_t size = in.get_size();
        T value;
        // As much as the bytes can make at most; never what somebody claims.
        if constexpr (requires { value.reserve(size); })
            value.reserve((std::min)(size, in.remaining() / sizeof(item) + 1));
        for (std::size_t i = 0; i < size; ++i) {
            if constexpr (is_instance<item, std::pair>) {
                auto first = in.get<typename item::first_type>();
                auto second = in.get<typename item::second_type>();
                if constexpr (appendable<T>)
                    value.emplace_back(std::move(first), std::move(second));
                else value.insert(value.end(), {std::move(first), std::move(second)});
            } else if constexpr (appendable<T>) {
                value.push_back(in.get<item>());
            } else {
                value.insert(value.end(), in.get<item>());
            }
        }
        return value;
    }
}

template <class T, std::size_t... I>
T get_array(decoder& in, std::index_sequence<I...>) {
    return T{(static_cast<void>(I), in.get<typename T::value_type>())...};
}

template <class T, class... M>
T get_struct(decoder& in, type_list<M...>) {
    if constexpr ((std::is_array_v<M> || ...)) {
        T value{};
        with_members(value, [&](auto&... members) { (get_member(in, members), ...); });
        return value;
    } else {
        return T{in.get<M>()...};
    }
}

template <class T, class... M>
T get_tuple(decoder& in, type_list<M...>) {
    return T{in.get<M>()...};
}

template <class T, class... M, std::size_t... I>
T get_variant(decoder& in, type_list<M...>, std::index_sequence<I...>) {
    using maker = T (*)(decoder&);
    static constexpr maker makers[] = {
        [](decoder& from) { return T(std::in_place_index<I>, from.get<M>()); }...};
    const auto index = in.get<std::uint16_t>();
    if (index >= sizeof...(M))
        throw_codec_error("asyncio::codec: a variant has no alternative of that number; decode "
                          "exactly what was encoded");
    return makers[index](in);
}

template <template <class...> class Template, class... M>
constexpr type_list<std::remove_cv_t<M>...> arguments_of(const Template<M...>*) {
    return {};
}

template <class T>
void encode_value(const T& value, encoder& out) {
    if constexpr (std::is_arithmetic_v<T>) {
        out.write(&value, sizeof value);
    } else if constexpr (std::is_enum_v<T>) {
        out.put(static_cast<std::underlying_type_t<T>>(value));
    } else if constexpr (std::same_as<T, duration>) {
        out.put(value.count());
    } else if constexpr (std::same_as<T, time_point>) {
        out.put(value.time_since_epoch());
    } else if constexpr (is_chrono_time<T>) {
        if constexpr (requires { value.time_since_epoch(); }) out.put(value.time_since_epoch());
        else out.put(value.count());
    } else if constexpr (is_instance<T, std::pair>) {
        put_member(out, value.first);
        put_member(out, value.second);
    } else if constexpr (is_instance<T, std::tuple>) {
        if constexpr (std::tuple_size_v<T> == 0) out.put(false);
        std::apply([&](const auto&... parts) { (put_member(out, parts), ...); }, value);
    } else if constexpr (is_instance<T, std::optional> || is_unique_ptr<T>) {
        out.put(static_cast<bool>(value));
        if (value) put_member(out, *value);
    } else if constexpr (is_instance<T, std::variant>) {
        if (value.valueless_by_exception())
            throw_codec_error("asyncio::codec: a variant without a value cannot travel; assign "
                              "one");
        out.put(static_cast<std::uint16_t>(value.index()));
        std::visit([&](const auto& part) { put_member(out, part); }, value);
    } else if constexpr (is_array<T>) {
        if constexpr (std::tuple_size_v<T> == 0) {
            out.put(false);
        } else if constexpr (plain_bytes<typename T::value_type>) {
            out.write(value.data(), sizeof value);
        } else {
            for (const auto& part : value) put_member(out, part);
        }
    } else if constexpr (container<T>) {
        put_container(out, value);
    } else if constexpr (std::is_empty_v<T>) {
        out.put(false); // nothing to say, but elements are counted in bytes
    } else {
        with_members(value, [&](const auto&... members) { (put_member(out, members), ...); });
    }
}

template <class T>
T decode_value(decoder& in) {
    if constexpr (std::same_as<T, bool>) {
        const char byte = in.read(1)[0];
        if (byte != 0 && byte != 1)
            throw_codec_error("asyncio::codec: a bool is neither true nor false; decode exactly "
                              "what was encoded");
        return byte == 1;
    } else if constexpr (std::is_arithmetic_v<T>) {
        T value;
        in.read(&value, sizeof value);
        return value;
    } else if constexpr (std::is_enum_v<T>) {
        return static_cast<T>(in.get<std::underlying_type_t<T>>());
    } else if constexpr (std::same_as<T, duration>) {
        return std::chrono::nanoseconds(in.get<std::int64_t>());
    } else if constexpr (std::same_as<T, time_point>) {
        return time_point(in.get<duration>());
    } else if constexpr (is_chrono_time<T>) {
        if constexpr (requires(const T& t) { t.time_since_epoch(); })
            return T(in.get<typename T::duration>());
        else return T(in.get<typename T::rep>());
    } else if constexpr (is_instance<T, std::pair> || is_instance<T, std::tuple>) {
        if constexpr (std::is_same_v<T, std::tuple<>>) in.get<bool>();
        return get_tuple<T>(in, arguments_of(static_cast<T*>(nullptr)));
    } else if constexpr (is_instance<T, std::optional>) {
        if (!in.get<bool>()) return T();
        return T(in.get<std::remove_cv_t<typename T::value_type>>());
    } else if constexpr (is_unique_ptr<T>) {
        if (!in.get<bool>()) return T();
        using target = std::remove_cv_t<typename T::element_type>;
        return T(new target(in.get<target>()));
    } else if constexpr (is_instance<T, std::variant>) {
        return get_variant<T>(in, arguments_of(static_cast<T*>(nullptr)),
                              std::make_index_sequence<std::variant_size_v<T>>());
    } else if constexpr (is_array<T>) {
        if constexpr (std::tuple_size_v<T> == 0) {
            in.get<bool>();
            return T{};
        } else if constexpr (plain_bytes<typename T::value_type>) {
            T value;
            in.read(value.data(), sizeof value);
            return value;
        } else if constexpr (std::default_initializable<typename T::value_type>) {
            T value;
            for (auto& part : value) get_member(in, part);
            return value;
        } else {
            return get_array<T>(in, std::make_index_sequence<std::tuple_size_v<T>>());
        }
    } else if constexpr (container<T>) {
        return get_container<T>(in);
    } else if constexpr (std::is_empty_v<T>) {
        in.get<bool>();
        return T{};
    } else {
        return get_struct<T>(in, members_of<T>());
    }
}

} // namespace detail

template <class T>
struct codec {
    using built_in = T;

    static void encode(const T& value, encoder& out) {
        check();
        if constexpr (detail::encodable<T>) detail::encode_value(value, out);
    }
    static T decode(decoder& in) {
        check();
        if constexpr (detail::encodable<T>) return detail::decode_value<T>(in);
    }

private:
    static constexpr void check() {
        static_assert(!std::is_pointer_v<T>,
                      "asyncio::codec: a pointer means nothing in another process; send the value "
                      "it points to (unique_ptr does that)");
        static_assert(detail::encodable<T> || std::is_pointer_v<T>,
                      "asyncio::codec: this type cannot travel to another process; make it a plain "
                      "struct of types that can, or specialise asyncio::codec for it");
    }
};

} // namespace asyncio::inline ASYNCIO_ABI

#endif // !ASYNCIO_BACKEND_NONE

// =============================================================================
// [SECTION] events
// uses: configuration, exceptions, support
//
// The event loop: a queue of what is ready to run, a heap of timers, and the
// system's events. Everything else in this file is built on call_soon().
// =============================================================================

namespace asyncio::inline ASYNCIO_ABI {

class event_loop;
class executor;
class any_task;
struct task_options;
template <class T>
class future;
template <class T>
class task;
template <class T>
class coro;

/// What a loop's clock follows.
enum class clock_kind {
    real,         ///< the system's monotonic clock
    virtual_time, ///< stands while callbacks run, jumps to the next timer when nothing is ready
    manual        ///< moves only by event_loop::advance()
};

/// How run(), runner and event_loop behave.
struct run_options {
    /// Reports mistakes; nothing given: on if the environment has ASYNCIO_DEBUG=1.
    std::optional<bool> debug = {};
    clock_kind clock = clock_kind::real;
    /// Loop seconds per real second, for the real clock.
    double time_scale = 1.0;
    /// Runs the ready callbacks of a turn in a random order that this number fixes.
    std::optional<std::uint64_t> shuffle_seed = {};
    /// Ctrl-C cancels the main task.
    bool handle_sigint = true;
    /// How long the end of run() waits for cancelled tasks before it prints them.
    duration exit_report = std::chrono::seconds(2);
};

/// What an exception handler is told.
struct exception_context {
    std::string message;
    exception_ptr exception = {};
    std::string task = {}; ///< the name of the task concerned; empty when there is none
};

/// What run_for() did: callbacks and steps run, and whether more are ready.
struct run_result {
    std::size_t ran;
    bool more;
};

/// A look into the loop, for dashboards and tests.
struct loop_metrics {
    std::size_t tasks = 0;  ///< unfinished tasks
    std::size_t timers = 0; ///< timers set
    std::uint64_t turns = 0;
    std::uint64_t callbacks = 0;   ///< callbacks and task steps run so far
    duration longest_callback = {}; ///< measured in debug mode only
};

namespace detail {

// Programs without an implementation, or with two, or with another version's, fail to
// link; this function is the first that the linker misses, and its name is the remedy.
struct implementation_present {};
ASYNCIO_API implementation_present define_ASYNCIO_IMPLEMENTATION_in_exactly_one_cpp_file();

struct backend_state;
struct task_base;
struct state_base;
struct scope_state;
struct stream_state;
class open_generator;

// One entry of the ready queue. It is part of what it runs (a task's state, a
// callback), so that queueing never allocates.
struct ready_node {
    ready_node* next = nullptr;
    void (*run)(ready_node*) = nullptr;
};

// First in, first out.
struct ready_queue {
    ready_node* first = nullptr;
    ready_node** tail = &first; // where the next one is hung

    ready_queue() = default;
    ready_queue(const ready_queue&) = delete;
    ready_queue& operator=(const ready_queue&) = delete;

    bool empty() const noexcept { return first == nullptr; }
    void push(ready_node* node) noexcept {
        node->next = nullptr;
        *tail = node;
        tail = &node->next;
    }
    ready_node* pop() noexcept {
        ready_node* node = first;
        first = node->next;
        if (!first) tail = &first;
        return node;
    }
    void append(ready_queue& other) noexcept {
        if (other.empty()) return;
        *tail = other.first;
        tail = other.tail;
        other.first = nullptr;
        other.tail = &other.first;
    }
    // A whole list in front of the others; `end` is its last node's `next`.
    void prepend(ready_node* list, ready_node** end) noexcept {
        *end = first;
        if (!first) tail = end;
        first = list;
    }
};

// A timer that is set. It lives in an awaiter or a callback and knows its place
// in the heap, so that taking it out costs O(log n).
struct timer_node {
    static constexpr std::uint32_t unset = 0xffffffff;

    timer_node() noexcept : place(unset) {}

    // These two are set by the heap, and `fire` by whoever sets the timer: a sleep
    // that only yields shall not pay for them.
    std::int64_t when;
    std::uint64_t order;
    void (*fire)(timer_node*); // only puts something into the ready queue
    std::uint32_t place;

    bool is_set() const noexcept { return place != unset; }
};

// An implicit heap of four children per node: half as deep as a binary one, and
// the four lie in one or two cache lines.
class timer_heap {
public:
    timer_heap() noexcept = default;
    timer_heap(const timer_heap&) = delete;
    timer_heap& operator=(const timer_heap&) = delete;
    ~timer_heap() {
        if (entries_) frame_free(entries_, room_ * sizeof(entry));
    }

    bool empty() const noexcept { return size_ == 0; }
    std::size_t size() const noexcept { return size_; }
    std::int64_t first_when() const noexcept { return entries_[0].when; }

    ASYNCIO_API void insert(timer_node& timer, std::int64_t when);
    ASYNCIO_API void remove(timer_node& timer) noexcept;

    // Takes the earliest timer out.
    timer_node& take_first() noexcept {
        timer_node& timer = *entries_[0].timer;
        remove(timer);
        return timer;
    }

private:
    struct entry {
        std::int64_t when;
        timer_node* timer;
    };
    static bool before(const entry& a, const entry& b) noexcept {
        return a.when != b.when ? a.when < b.when : a.timer->order < b.timer->order;
    }
    void put(std::size_t place, entry e) noexcept {
        entries_[place] = e;
        e.timer->place = static_cast<std::uint32_t>(place);
    }
    void sift_up(std::size_t place, entry e) noexcept;
    void sift_down(std::size_t place, entry e) noexcept;

    entry* entries_ = nullptr;
    std::size_t size_ = 0;
    std::size_t room_ = 0;
    std::uint64_t next_order_ = 0;
};

// The steps of Vigna's splitmix64: small, and the same on every machine.
inline std::uint64_t splitmix64(std::uint64_t& state) noexcept {
    std::uint64_t x = state += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

// Who records what a loop does; see tracer. Times are the loop's.
class trace_sink {
public:
    virtual void task_started(task_base& task) = 0;
    virtual void task_ended(task_base& task) = 0;
    // A job that task number `task_id` gave to an executor.
    virtual void job_ended(std::uint32_t task_id, std::int64_t begin, std::int64_t end) = 0;

protected:
    ~trace_sink() = default;
};

// Where flash is scarce debug mode has to be asked for when the program is compiled.
#if defined(ASYNCIO_BACKEND_NONE)
inline constexpr bool can_debug = ASYNCIO_DEBUG != 0;
#else
inline constexpr bool can_debug = true;
#endif

struct loop_core;

// How a clock with a scale of its own reckons. Behind pointers, so that a small program
// that never changes one needs no floating point.
struct clock_scale {
    std::int64_t (*loop_time)(const loop_core& core, std::int64_t system_time) noexcept;
    std::int64_t (*real_span)(const loop_core& core, std::int64_t loop_span) noexcept;
};

// What handles, tasks and primitives share with their loop. It outlives the
// loop, so that a late handle finds `closed` instead of freed memory.
struct loop_core {
    ready_queue ready;
    ready_queue yielded; // steps that wait for the next frame; see event_loop::poll()
    task_base* current = nullptr; // the task whose step runs now
    task_base* tasks = nullptr;   // all unfinished tasks, newest first
    open_generator* first_generator = nullptr; // those that have begun, oldest first
    open_generator* last_generator = nullptr;
    event_loop* loop = nullptr;   // null once the loop is destroyed
    timer_heap timers;
    stream_state* streams = nullptr; // all of them
    int clock_holds = 0;  // above 0: the virtual clock stands still
    bool closing = false;  // the pending is being destroyed
    bool dropping = false; // queues are emptied: nodes free what they own and call nobody
    bool ending_frames = false; // what they hold and never awaited is nobody's oversight
    bool closed = false;
    bool apart = false;   // closed, or a host is to be told of what is scheduled
    bool polling = false; // inside poll() or run_for()
    bool running_on = false; // inside run_forever(): there are no frames
    bool stopped_task = false; // since then awaits of what is done look for such a task
    bool debug = false;
    trace_sink* tracing = nullptr;
    std::uint64_t random_state = 0;
    std::uint32_t last_task_id = 0;
    std::size_t task_count = 0;

    loop_core() = default;
    loop_core(const loop_core&) = delete;
    loop_core& operator=(const loop_core&) = delete;

    // Runs `node` in the next turn.
    void schedule(ready_node* node) noexcept {
        if (!apart) [[likely]] ready.push(node);
        else schedule_apart(node);
    }
    ASYNCIO_API void schedule_apart(ready_node* node) noexcept;

    // Runs `node` in the next turn, or in the next frame of an embedded loop.
    void schedule_yield(ready_node* node) noexcept {
        if (polling) yielded.push(node);
        else ready.push(node);
    }

    // Runs `node` in the next frame; without frames, in the next turn.
    void schedule_frame(ready_node* node) noexcept {
        if (running_on) ready.push(node);
        else yielded.push(node);
    }

    // schedule() from any thread; wakes the loop. False: the loop is closed.
    ASYNCIO_API bool post(ready_node* node) noexcept;

    // Wakes the loop out of its sleep; any thread, any signal handler.
    ASYNCIO_API void wake() noexcept;

    // Calls the wake handler if the host has not been told yet; any thread.
    ASYNCIO_API void tell_host() noexcept;
    // The host knows what there is to do, and is told of what comes from here on.
    void watch_for_host() noexcept;

    ASYNCIO_API std::int64_t now_ns() const noexcept;

    // When the present frame began, or the last one if none is running.
    std::int64_t frame_ns() const noexcept {
        return running_on || frame_began == no_frame ? now_ns() : frame_began;
    }

    // From 0 to below 1.
    ASYNCIO_API double next_random() noexcept;

    void add_timer(timer_node& timer, std::int64_t when) {
        timers.insert(timer, when);
        // A deadline that has passed already is looked at in the next turn.
        if (when > last_now) return;
        ask_soon = true;
        if (apart) tell_host();
    }
    void remove_timer(timer_node& timer) noexcept {
        if (timer.is_set()) timers.remove(timer);
    }

    // Throws std::runtime_error when the loop is closed.
    void require_open(const char* message) const {
        if (closed) throw_runtime_error(message);
    }

    // Handles on the loop's thread count without atomics; all of them together
    // hold one count of those that may be shared between threads.
    void add_ref() noexcept { ++refs_; }
    void release() noexcept {
        if (--refs_ == 0) release_shared();
    }
    void add_shared_ref() noexcept { shared_refs_.fetch_add(1, std::memory_order_relaxed); }
    void release_shared() noexcept {
        if (shared_refs_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
    }

    // The clock; event_loop moves it.
    clock_kind clock = clock_kind::real;
    bool paused = false;
    double scale = 1.0;
    const clock_scale* scaled = nullptr; // how to reckon, once it was changed or paused
    std::int64_t stands_at = 0;    // virtual and manual clocks, and a frame's fixed time
    bool time_fixed = false;       // inside poll(): now_ns() is stands_at
    std::int64_t scale_origin = 0; // loop time and system time when the scale was set
    std::int64_t scale_start = 0;
    std::int64_t started = 0;      // when run() began
    // When timers were looked at last; while a host is told of timers: the last moment
    // that is earlier than all of them.
    std::int64_t last_now = 0;
    static constexpr std::int64_t no_frame = INT64_MIN;
    std::int64_t frame_began = no_frame;
#if defined(ASYNCIO_NO_EXCEPTIONS)
    exception_ptr interrupt; // that ends the run
#endif
    bool ask_soon = false;         // the next turn looks at timers and the system

    // Nodes that other threads posted, newest first; inbox_closed ends it.
    atomic<ready_node*> inbox{nullptr};
    atomic<int> posting{0};
    atomic<bool> telling{false}; // the next one who has work for the host tells it
    atomic<std::uint64_t> pending_signals{0};

private:
    std::size_t refs_ = 0;
    atomic<std::size_t> shared_refs_{1};
};

// Keeps a loop_core alive from any thread.
class shared_core {
public:
    constexpr shared_core() noexcept = default;
    explicit shared_core(loop_core* counted) noexcept : core_(counted) {}
    shared_core(shared_core&& other) noexcept : core_(detail::take(other.core_)) {}
    shared_core& operator=(shared_core&& other) noexcept {
        std::swap(core_, other.core_);
        return *this;
    }
    ~shared_core() {
        if (core_) core_->release_shared();
    }

    void reset() noexcept { *this = shared_core(); }
    loop_core* get() const noexcept { return core_; }
    loop_core& operator*() const noexcept { return *core_; }
    loop_core* operator->() const noexcept { return core_; }
    explicit operator bool() const noexcept { return core_ != nullptr; }

private:
    loop_core* core_ = nullptr;
};

inline shared_core share(loop_core& core) noexcept {
    core.add_shared_ref();
    return shared_core(&core);
}

// The core of the loop that runs on this thread.
extern ASYNCIO_THREAD_LOCAL constinit loop_core* this_thread_core;

// What ASYNCIO_DEBUG says, the macro or the environment's variable.
bool debug_by_default() noexcept;

inline loop_core* running_core() noexcept { return this_thread_core; }

// Throws std::runtime_error("asyncio::WHO: no running event loop; ...").
ASYNCIO_API loop_core& require_running(const char* who);

// The moment `delay` from `now`; negative delays count as none.
inline std::int64_t deadline_after(std::int64_t now, duration delay) noexcept {
    const std::int64_t span = delay.count() < 0 ? 0 : delay.count();
    return now > INT64_MAX - span ? INT64_MAX : now + span;
}

// While one lives, the loop's virtual clock stands still: something outside the
// loop (a worker, a child, a name look-up) is at work. Loop thread only.
class clock_hold {
public:
    clock_hold() = default;
    explicit clock_hold(loop_core& core) noexcept : core_(&core) { ++core.clock_holds; }
    clock_hold(clock_hold&& other) noexcept : core_(std::move(other.core_)) {}
    clock_hold& operator=(clock_hold&& other) noexcept {
        std::swap(core_, other.core_);
        return *this;
    }
    ~clock_hold() {
        if (core_) --core_->clock_holds;
    }
    void reset() noexcept { *this = clock_hold(); }

private:
    ref_ptr<loop_core> core_;
};

// The values of the context variables that a task or a callback sees. Copying one
// shares the values until somebody sets a variable.
struct context_cell : frame_allocated {
    struct entries;

    context_cell() = default;
    context_cell(const context_cell& other) : values(other.values) {}
    context_cell& operator=(const context_cell&) = delete;

    void add_ref() noexcept { refs.fetch_add(1, std::memory_order_relaxed); }
    void release() noexcept {
        if (refs.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
    }
    ASYNCIO_API const void* find(std::uint64_t variable) const noexcept;
    ASYNCIO_API std::shared_ptr<const void> put(std::uint64_t variable,
                                                std::shared_ptr<const void> value);

    atomic<std::uint32_t> refs{0};
    std::shared_ptr<const entries> values;
};

// Where the running code's cell is: null for code outside a loop, and an empty
// pointer until the first variable is set.
using context_slot = ref_ptr<context_cell>;
extern ASYNCIO_THREAD_LOCAL constinit context_slot* this_thread_context;

// The slot of this thread's code outside any loop.
ASYNCIO_API context_slot& thread_context() noexcept;

inline context_slot& current_context() noexcept {
    return this_thread_context ? *this_thread_context : thread_context();
}
[[gnu::always_inline]] inline context_slot copy_context() {
    const context_slot& present = current_context();
    if (!present || !present->values) [[likely]] return {};
    return context_slot(new context_cell(*present));
}

// Makes a slot the current one.
class context_scope {
public:
    explicit context_scope(context_slot& slot) noexcept
        : before_(std::exchange(this_thread_context, &slot)) {}
    context_scope(const context_scope&) = delete;
    context_scope& operator=(const context_scope&) = delete;
    ~context_scope() { this_thread_context = before_; }

private:
    context_slot* before_;
};

// A callback that waits in the ready queue, for its time, or both.
struct callback_base : frame_allocated, ready_node, timer_node {
    enum class state : std::uint32_t { pending, running, done, cancelled };

    callback_base() noexcept;
    callback_base(const callback_base&) = delete;
    virtual ~callback_base() = default;
    virtual void call() = 0;
    virtual void drop() noexcept = 0; // destroys the callable

    // Counts are atomic only for callbacks that another thread posted.
    void add_ref() noexcept {
        if (shared) refs.fetch_add(1, std::memory_order_relaxed);
        else refs.store(refs.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    }
    void release() noexcept {
        std::uint32_t left;
        if (shared) {
            left = refs.fetch_sub(1, std::memory_order_acq_rel) - 1;
        } else {
            left = refs.load(std::memory_order_relaxed) - 1;
            refs.store(left, std::memory_order_relaxed);
        }
        if (left == 0) delete this;
    }
    ASYNCIO_API void cancel() noexcept;

    atomic<std::uint32_t> refs{1}; // the queue's or the heap's own
    atomic<state> progress{state::pending};
    bool shared = false;
    context_slot variables = copy_context();
    ref_ptr<loop_core> core;   // of one that this thread made
    loop_core* posted_to = nullptr; // of one that another thread posted
};

template <class F>
struct callback final : callback_base {
    explicit callback(F&& f) : fn(std::move(f)) {}
    explicit callback(const F& f) : fn(f) {}
    void call() override { (*fn)(); }
    void drop() noexcept override { fn.reset(); }

    std::optional<F> fn;
};

} // namespace detail

/// A callback that was given to a loop. Dropping the handle changes nothing.
/// Python's asyncio.Handle and TimerHandle.
///
/// Thread safety: cancel() of a call_soon_threadsafe() may be called on any
/// thread, and waits there until a callback that is running has ended.
class handle {
public:
    handle() = default;
    explicit handle(detail::ref_ptr<detail::callback_base> node) : node_(std::move(node)) {}

    /// The callback never runs, unless it has already begun.
    void cancel() noexcept {
        if (node_) node_->cancel();
    }
    bool cancelled() const noexcept {
        return node_ && node_->progress.load() == detail::callback_base::state::cancelled;
    }
    /// When a call_later() or call_at() is due.
    time_point when() const noexcept {
        return time_point(std::chrono::nanoseconds(node_ ? node_->when : 0));
    }

private:
    detail::ref_ptr<detail::callback_base> node_;
};

/// Runs callbacks, tasks and I/O on one thread, in turns. Most programs never
/// name it: run() makes one. Python's asyncio event loop.
///
/// One turn takes in finished I/O and due timers, then runs what was ready at
/// that point, first come, first served; what they add runs in the next turn.
///
/// Thread safety: only call_soon_threadsafe() and stop() through it.
class event_loop {
public:
    using native_handle_type = int;

    explicit event_loop(run_options options = {})
        : event_loop(detail::define_ASYNCIO_IMPLEMENTATION_in_exactly_one_cpp_file(), options) {
        if (options.time_scale != 1.0) begin_scaled(options.time_scale);
    }
    event_loop(const event_loop&) = delete;
    event_loop& operator=(const event_loop&) = delete;

    /// Destroys what is pending: frames of unfinished tasks innermost first.
    ~event_loop();

    /// Runs until `main` is done and gives its result.
    ///
    /// Throws: what `main` throws; std::runtime_error when a loop already runs on
    /// this thread, or when stop() ended the run before `main` was done.
    template <class Awaitable>
    auto run_until_complete(Awaitable&& main);

    /// Runs until stop().
    void run_forever();

    /// Ends the run after the present turn.
    void stop() noexcept;

    /// Gives back what the system lent; a second close() does nothing.
    ///
    /// Throws: std::runtime_error when the loop is running.
    void close();

    bool is_running() const noexcept { return running_; }
    bool is_closed() const noexcept { return core_->closed; }

    /// While the guard lives, get_running_loop() and create_task() find this loop
    /// on this thread: for code between two polls of an embedded loop.
    class [[nodiscard]] entered {
    public:
        explicit entered(event_loop& loop);
        entered(const entered&) = delete;
        entered& operator=(const entered&) = delete;
        ~entered() { detail::this_thread_core = before_; }

    private:
        detail::loop_core* before_;
    };
    entered enter() { return entered(*this); }

    /// Runs `fn` in the next turn.
    template <class F>
    handle call_soon(F&& fn) {
        check_call("asyncio::event_loop::call_soon");
        auto node = make_callback(std::forward<F>(fn));
        node->core = core_;
        core_->schedule(node.get());
        return keep(std::move(node));
    }

    /// Runs `fn` after `delay`, never before. Equal times run in the order set.
    template <class F>
    handle call_later(duration delay, F&& fn) {
        return call_at_ns(after_ns(delay), std::forward<F>(fn));
    }
    template <class F>
    handle call_at(time_point when, F&& fn) {
        return call_at_ns(when.time_since_epoch().count(), std::forward<F>(fn));
    }

    /// call_soon() for other threads; wakes the loop.
    ///
    /// Throws: std::runtime_error when the loop is closed.
    template <class F>
    handle call_soon_threadsafe(F&& fn) {
        auto node = make_callback(std::forward<F>(fn));
        node->shared = true;
        node->posted_to = core_.get();
        node->add_ref();
        auto kept = handle(detail::ref_ptr<detail::callback_base>::adopt(node.get()));
        if (!core_->post(node.get()))
            detail::throw_runtime_error("asyncio::event_loop::call_soon_threadsafe: the loop is "
                                        "closed; keep it open while other threads use it");
        node.release();
        return kept;
    }

    /// The time of the loop's clock.
    time_point time() const noexcept {
        return time_point(std::chrono::nanoseconds(core_->now_ns()));
    }

    template <class T>
    future<T> create_future();
    /// As the free create_task(), on this loop.
    template <class A>
    auto create_task(A&& work);
    template <class A>
    auto create_task(A&& work, const task_options& options);
    template <class F, class... Args>
        requires(sizeof...(Args) > 0 && std::invocable<std::decay_t<F>&, std::decay_t<Args>...>)
    auto create_task(F&& fn, Args&&... args);
#if !defined(ASYNCIO_NO_THREADS)
    template <class F, class... Args>
    auto run_in_executor(executor* where, F&& fn, Args&&... args);

    /// The executor that run_in_executor(nullptr, ...) uses: a thread pool.
    template <class Executor>
    void set_default_executor(std::shared_ptr<Executor> pool);
    coro<void> shutdown_default_executor(std::optional<duration> timeout = {});
#endif

    /// Called with errors that nobody can be given: of callbacks, of dropped
    /// tasks. Without one they are printed to standard error, or, where there is no
    /// operating system, given to ASYNCIO_FATAL.
    void set_exception_handler(detail::function<void(event_loop&, const exception_context&)> fn);
    void call_exception_handler(const exception_context& context);

    void set_debug(bool on) noexcept {
        core_->debug = on;
        attentive_ = on || shuffle_state_;
    }
    bool get_debug() const noexcept { return core_->debug; }

    /// In debug mode, callbacks at least this long are reported.
    duration slow_callback_duration = std::chrono::milliseconds(100);

#if !defined(ASYNCIO_BACKEND_NONE)
    /// Runs `fn` whenever `fd` is readable or writable. `fd` must be pollable and
    /// stay open until the watch is removed. POSIX only.
    ///
    /// Throws: std::system_error when the system cannot watch `fd`.
    template <class F>
    void add_reader(int fd, F&& fn) {
        watch(fd, false, make_callback(std::forward<F>(fn)));
    }
    template <class F>
    void add_writer(int fd, F&& fn) {
        watch(fd, true, make_callback(std::forward<F>(fn)));
    }
    /// True when there was one to remove.
    bool remove_reader(int fd) { return unwatch(fd, false); }
    bool remove_writer(int fd) { return unwatch(fd, true); }

    /// Runs `fn` in the loop whenever the process gets the signal `number`. The
    /// signal's former disposition comes back when the last handler is removed.
    ///
    /// Throws: std::invalid_argument for no signal's number; std::runtime_error
    /// for one that cannot be caught.
    void add_signal_handler(int number, detail::function<void()> fn);
    bool remove_signal_handler(int number);

    // For run() and wait_signal(), which do not replace the user's handler: of those for
    // one signal only the highest layer is called.
    enum class signal_layer { run, user, wait };
    void listen(int number, signal_layer layer, const void* owner, detail::function<void()> fn);
    void stop_listening(const void* owner) noexcept;
#endif

    /// One frame of an embedded loop: fixes the time, takes in I/O and due timers,
    /// and runs turns until nothing is ready, but at most 1000. Never sleeps. What
    /// yields (sleep(0s), next_frame()) runs once a poll. Returns how many callbacks
    /// and task steps ran.
    ///
    /// Throws: std::runtime_error inside a callback, or when another loop runs on
    /// this thread.
    std::size_t poll();

    /// One turn, without sleeping.
    std::size_t run_once();

    /// Turns until nothing is ready or `budget`, which is real time, is used up.
    run_result run_for(duration budget);

    /// How long a foreign loop may sleep: zero when something is ready, nothing
    /// when no timer is set.
    std::optional<duration> next_deadline() const noexcept;

    /// A descriptor that is readable when poll() has I/O to take in; -1 when there is
    /// none, with ASYNCIO_BACKEND_POLL.
    native_handle_type native_handle() const noexcept;

    /// Calls `fn` when poll() has got work since the last one, from this thread or from
    /// another, or when next_deadline() has moved earlier: once, until the next poll()
    /// or next_deadline(). I/O and signals make native_handle() readable instead. An
    /// empty function takes the handler away, and waits until it does not run any more.
    ///
    /// Thread safety: `fn` runs on the thread that brings the work, in the middle of
    /// what that does. It only tells the host; it does not throw, poll, or wait for
    /// the loop's thread.
    void set_wake_handler(detail::function<void()> fn);

    /// Moves a manual clock; due timers fire in order, each at its own time.
    ///
    /// Throws: std::runtime_error for another kind of clock.
    void advance(duration by);

    /// Loop seconds per real second from now on. Throws: std::invalid_argument
    /// for a negative or infinite scale; std::runtime_error unless the clock is real.
    void set_time_scale(double scale);

    /// The real clock stands still until resume().
    void pause();
    void resume();

    loop_metrics metrics() const noexcept;

    // The parts that other sections work with.
    detail::loop_core& core() const noexcept { return *core_; }
    detail::backend_state& backend() const noexcept { return *backend_; }
#if !defined(ASYNCIO_NO_THREADS)
    std::shared_ptr<executor> default_executor;
    bool default_executor_ended = false;
#endif

private:
    friend struct detail::loop_core;
    event_loop(detail::implementation_present, const run_options& options);
    struct running_guard;
#if !defined(ASYNCIO_BACKEND_NONE)
    struct watch_entry;
#endif
    struct rest;

    template <class F>
    static detail::box<detail::callback_base> make_callback(F&& fn) {
        return detail::box<detail::callback_base>(
            new detail::callback<std::decay_t<F>>(std::forward<F>(fn)));
    }
    template <class F>
    handle call_at_ns(std::int64_t when, F&& fn) {
        check_call("asyncio::event_loop::call_at");
        auto node = make_callback(std::forward<F>(fn));
        node->core = core_;
        core_->add_timer(*node, when);
        return keep(std::move(node));
    }
    static handle keep(detail::box<detail::callback_base> node) {
        return handle(detail::ref_ptr<detail::callback_base>(node.release()));
    }
    std::int64_t after_ns(duration delay) const noexcept;
    void check_call(const char* who) const;
#if !defined(ASYNCIO_BACKEND_NONE)
    void watch(int fd, bool write, detail::box<detail::callback_base> fn);
    bool unwatch(int fd, bool write);
    void unwatch_all() noexcept;
#endif
    friend class runner;
    // Gives what ended the run before `main` was done.
    exception_ptr run_until_done(detail::state_base& main);

    std::size_t turn(bool may_sleep);
    void collect(bool may_sleep);
    void take_inbox() noexcept;
    void take_due_timers(std::int64_t now) noexcept;
#if defined(ASYNCIO_BACKEND_NONE)
    void take_isr_events() noexcept;
#else
    void take_signals();
    void forget_signal(const void* which) noexcept;
    bool listens_to(int number) const noexcept;
#endif
    void shuffle_ready();
    std::size_t run_ready();
    std::size_t run_ready_watched();
    void run_watched(detail::ready_node* node);
    void move_clock() noexcept;
    bool clock_can_move() noexcept;
    void begin_watch() noexcept;
    void end_watch() noexcept;
    void call_wake_handler() noexcept;
    void begin_frame() noexcept;
    void fix_time() noexcept;
    void require_real_clock(const char* who) const;
    void begin_scaled(double scale);
    std::int64_t sleep_time(std::int64_t now) const noexcept;
    void rescale(double scale, bool paused) noexcept;
    void destroy_pending() noexcept;
    void drop_queues() noexcept;

    detail::ref_ptr<detail::loop_core> core_;
    detail::backend_state* backend_ = nullptr;
    detail::box<rest> rest_; // what only the implementation looks at
    bool running_ = false;
    bool stopping_ = false;
    bool attentive_ = false; // debug mode or shuffling: turns take the long way
    std::optional<std::uint64_t> shuffle_state_;
    std::int64_t manual_target_ = 0;
    std::uint64_t runs_ = 0; // begun and ended by run_until_done()
    // How many turns may pass before the system is asked again, and the number
    // that about 50 microseconds of the turns seen lately make.
    std::uint32_t turns_left_ = 0;
    std::uint32_t turns_between_ = 1;
    std::int64_t asked_at_ = 0;
    loop_metrics metrics_;
};

/// A clock of its own for some of a loop's tasks: the world under a running menu, one
/// slow enemy. Tasks get it by task_options, and those that they start inherit it.
///
///     asyncio::time_stream world(loop);
///     loop.create_task(enemy(), {.clock = &world});
///     world.set_scale(0.25); // slow motion
///     world.pause();         // the menu's tasks go on
///
/// In such a task sleep(), timeouts and next_frame() go by it, and so do the moments
/// given to timeout_at(). It follows the loop's clock, whatever that follows.
///
/// Lifetime: may go before its tasks. They go on by it as it is then.
class time_stream {
public:
    /// Begins at the loop's time.
    ///
    /// Throws: std::runtime_error when the loop is closed.
    ASYNCIO_API explicit time_stream(event_loop& loop);
    time_stream(const time_stream&) = delete;
    time_stream& operator=(const time_stream&) = delete;
    ASYNCIO_API ~time_stream();

    /// Its seconds per second of the loop's clock from now on; at 0 it stands.
    ///
    /// Throws: std::invalid_argument for a negative or infinite scale.
    ASYNCIO_API void set_scale(double scale);

    /// It stands still until resume(), whatever becomes of its scale.
    ASYNCIO_API void pause() noexcept;
    ASYNCIO_API void resume() noexcept;

    ASYNCIO_API time_point now() const noexcept;

    // For the library's own functions.
    detail::stream_state& state() const noexcept { return *state_; }

private:
    detail::stream_state* state_;
};

/// The loop that runs on this thread. Throws: std::runtime_error when none does.
inline event_loop& get_running_loop() {
    return *detail::require_running("get_running_loop").loop;
}

/// The time since run() began, on the loop's clock.
ASYNCIO_API duration elapsed();

} // namespace asyncio::inline ASYNCIO_ABI

// =============================================================================
// [SECTION] futures
// uses: configuration, exceptions, support, events
//
// A place where a result will be. future<T> is a counted handle of it; a task is
// such a place, too, and adds the coroutine that fills it.
// =============================================================================

namespace asyncio::inline ASYNCIO_ABI {

namespace detail {

struct state_base;

// Is shown the futures that something waits for.
class awaited_visitor {
public:
    virtual void visit(state_base& state) = 0;

protected:
    ~awaited_visitor() = default;
};

// Who wants to know that a future is done. Called within the completing
// statement, so that it may only schedule what is to happen.
struct completion_node {
    completion_node* previous = nullptr;
    completion_node* following = nullptr;
    void (*completed)(completion_node*, state_base&) noexcept = nullptr;

    bool is_linked() const noexcept { return previous != nullptr; }
};

// What void results are stored as.
template <class T>
using stored = std::conditional_t<
    std::is_void_v<T>, std::monostate,
    std::conditional_t<std::is_reference_v<T>, std::add_pointer_t<std::remove_reference_t<T>>, T>>;

// The shared state of a future, all but the value. Counted by its handles, by
// those who wait for it, and by the loop while it is an unfinished task.
struct state_base : frame_allocated {
    enum class status : std::uint8_t { pending, finished, cancelled };

    state_base(loop_core& owner, bool task) noexcept : is_task(task), core(&owner) {}
    state_base(const state_base&) = delete;
    state_base& operator=(const state_base&) = delete;

    void add_ref() noexcept { ++refs; }
    void release() noexcept {
        if (--refs != 0) return;
        if (exception || waiters) [[unlikely]] last_handle_gone();
        else delete this;
    }

    bool done() const noexcept { return current != status::pending; }
    bool failed() const noexcept { return current == status::finished && exception; }

    // False when it is done already. A task passes the wish on to what it awaits.
    virtual bool cancel(std::string_view message);

    // Shows the futures that this one depends on: gather's, shield's.
    virtual void show_awaited(awaited_visitor&) {}

    // Ends it; what has been waiting is scheduled in the order of its coming.
    ASYNCIO_API void complete(status how) noexcept;
    ASYNCIO_API void wake_waiters() noexcept;
    ASYNCIO_API void complete_cancelled(exception_ptr error) noexcept;
    void fail(exception_ptr error) noexcept {
        exception = std::move(error);
        complete(status::finished);
    }

    void link(completion_node& node) noexcept {
        if (!waiters) {
            waiters = node.previous = node.following = &node;
        } else {
            node.previous = waiters->previous;
            node.following = waiters;
            node.previous->following = node.following->previous = &node;
        }
    }
    void unlink(completion_node& node) noexcept {
        if (node.following == &node) {
            waiters = nullptr;
        } else {
            node.previous->following = node.following;
            node.following->previous = node.previous;
            if (waiters == &node) waiters = node.following;
        }
        node.previous = node.following = nullptr;
    }

    bool has_value() const noexcept { return current == status::finished && !exception; }
    void require_value() {
        if (!has_value()) [[unlikely]] throw_no_value();
    }
    // What a result() without a value throws; marks it as seen.
    ASYNCIO_API exception_ptr why_no_value();
    [[noreturn]] ASYNCIO_API void throw_no_value();

    std::uint32_t refs = 0;
    status current = status::pending;
    const bool is_task;
    bool settable = false; // made by create_future(): whoever holds it sets its result
    bool reported = false; // somebody has seen the exception, or nobody needs to
    ref_ptr<loop_core> core;
    completion_node* waiters = nullptr; // a ring; the oldest first
    exception_ptr exception;

protected:
    virtual ~state_base() = default;

private:
    ASYNCIO_API void last_handle_gone() noexcept;
};

// A state with room for the value. Base is state_base, or a task's.
template <class T, class Base>
struct value_state : Base {
    using Base::Base;

    std::optional<stored<T>> value;

    void set(stored<T> v) {
        value.emplace(std::move(v));
        this->complete(state_base::status::finished);
    }
};

template <class T>
struct plain_state final : value_state<T, state_base> {
    explicit plain_state(loop_core& owner) noexcept : value_state<T, state_base>(owner, false) {
        this->settable = true;
    }
};

// Runs a done-callback in the turn after the completion. Until then it does not
// keep the future alive.
struct done_callback : frame_allocated, completion_node, ready_node {
    done_callback() noexcept {
        completed = &done_callback::on_completed;
        run = &done_callback::run_and_delete;
    }
    done_callback(const done_callback&) = delete;
    virtual ~done_callback() = default;
    virtual void call() = 0;

    ASYNCIO_API static void on_completed(completion_node* node, state_base& state) noexcept;
    ASYNCIO_API static void run_and_delete(ready_node* node);

    ref_ptr<state_base> subject;
    context_slot variables = copy_context();
    std::uint64_t id = 0;
};

template <class Handle, class F>
struct done_callback_of final : done_callback {
    template <class G>
    explicit done_callback_of(G&& g) : fn(std::forward<G>(g)) {}
    void call() override {
        if constexpr (std::invocable<F&, Handle>) fn(Handle(std::move(subject)));
        else fn();
    }
    F fn;
};

ASYNCIO_API std::uint64_t add_callback(state_base& state, box<done_callback> callback);
ASYNCIO_API bool remove_callback(state_base& state, std::uint64_t id) noexcept;

// What every handle of a future or task can do without knowing its type.
class future_handle {
public:
    future_handle() noexcept = default;

    /// False for an empty handle; nothing else may be asked of one.
    bool valid() const noexcept { return static_cast<bool>(state_); }
    explicit operator bool() const noexcept { return valid(); }

    bool done() const { return state().done(); }
    bool cancelled() const { return state().current == state_base::status::cancelled; }

    /// Asks it to stop. False when it is done already.
    bool cancel(std::string_view message = {}) const { return state().cancel(message); }

    /// The exception it ended with; null when there was none.
    ///
    /// Throws: invalid_state_error while it is pending; cancelled_error when it
    /// was cancelled.
    ASYNCIO_API exception_ptr exception() const;

    /// Forgets the done-callback with this id; false when there is none.
    bool remove_done_callback(std::uint64_t id) const { return remove_callback(state(), id); }

    /// Throws: std::runtime_error when the loop is gone.
    ASYNCIO_API event_loop& get_loop() const;

    friend bool operator==(const future_handle& a, const future_handle& b) noexcept {
        return a.state_.get() == b.state_.get();
    }
    friend bool operator<(const future_handle& a, const future_handle& b) noexcept {
        return std::less<const void*>()(a.state_.get(), b.state_.get());
    }
    std::size_t hash() const noexcept { return std::hash<const void*>()(state_.get()); }

    // For the library's own functions.
    state_base& state() const {
        if (!state_)
            throw_invalid_state("asyncio::future: the handle is empty; make one with "
                                "create_future() or create_task()");
        return *state_;
    }

protected:
    explicit future_handle(ref_ptr<state_base> state) noexcept : state_(std::move(state)) {}

    ref_ptr<state_base> state_;
};

// True when a T can be copied. Containers claim it whatever they hold.
template <class T>
inline constexpr bool copies = std::copy_constructible<T>;
template <class T>
    requires requires { typename T::value_type; } && (!std::same_as<typename T::value_type, T>)
inline constexpr bool copies<T> =
    std::copy_constructible<T> && copies<std::remove_cv_t<typename T::value_type>>;
template <class... Ts>
inline constexpr bool copies<std::tuple<Ts...>> = (copies<Ts> && ...);
template <class A, class B>
inline constexpr bool copies<std::pair<A, B>> = copies<std::remove_cv_t<A>> && copies<B>;

template <class T>
struct task_state;

// Where the value stands: a task's state has other fields before it.
template <class T>
std::optional<stored<T>>& value_of(state_base& state) noexcept;

template <class T, bool Move>
class future_awaiter;

} // namespace detail

/// A result that will be there later. Copyable handle; the state lives as long
/// as a handle does. Python's asyncio.Future.
///
/// `co_await f` gives a reference to the value; `co_await std::move(f)` moves it
/// out if no other handle exists.
///
/// Cancellation: a task that is cancelled while it awaits a future cancels the
/// future; put a shield() between them where that is wrong.
template <class T>
class future : public detail::future_handle {
public:
    using value_type = T;

    future() noexcept = default;
    explicit future(detail::ref_ptr<detail::state_base> state) noexcept
        : future_handle(std::move(state)) {}

    /// The value, or what happened instead.
    ///
    /// Throws: the exception it was given; cancelled_error; invalid_state_error
    /// while it is pending.
    decltype(auto) result() const& {
        state().require_value();
        return view(*state_);
    }
    T result() && {
        state().require_value();
        return take(std::move(state_));
    }

    /// Throws: invalid_state_error when it is done already.
    template <class U = T>
        requires(!std::is_void_v<T>)
    void set_result(U&& value) const {
        require_pending();
        auto& place = static_cast<detail::plain_state<T>&>(state());
        if constexpr (std::is_reference_v<T>) place.set(std::addressof(static_cast<T>(value)));
        else place.set(T(std::forward<U>(value)));
    }
    void set_result() const
        requires std::is_void_v<T>
    {
        require_pending();
        static_cast<detail::plain_state<T>&>(state()).set({});
    }
    void set_exception(exception_ptr error) const {
        if (!error)
            detail::throw_invalid_argument(
                "asyncio::future::set_exception: there is no exception; give one");
        require_pending();
        state().fail(std::move(error));
    }
    template <class E>
        requires(!std::same_as<std::remove_cvref_t<E>, exception_ptr>)
    void set_exception(E&& error) const {
        set_exception(detail::make_error(std::forward<E>(error)));
    }

    /// Runs `fn`, which takes the future or nothing, in the loop once it is done.
    /// Returns an id for remove_done_callback().
    template <class F>
    std::uint64_t add_done_callback(F&& fn) const {
        using node = detail::done_callback_of<future, std::decay_t<F>>;
        return detail::add_callback(
            state(), detail::box<detail::done_callback>(new node(std::forward<F>(fn))));
    }

    detail::future_awaiter<T, false> operator co_await() const&;
    detail::future_awaiter<T, true> operator co_await() &&;

    // For the library's own functions: the value, as a reference or moved out.
    static decltype(auto) view(detail::state_base& state) {
        if constexpr (!std::is_void_v<T>) {
            const detail::stored<T>& value = *detail::value_of<T>(state);
            if constexpr (std::is_reference_v<T>) return static_cast<T>(*value);
            else return static_cast<const T&>(value);
        }
    }
    static T take(detail::ref_ptr<detail::state_base> state) {
        if constexpr (std::is_reference_v<T>) {
            return static_cast<T>(**detail::value_of<T>(*state));
        } else if constexpr (!std::is_void_v<T>) {
            if (state->refs == 1) return std::move(*detail::value_of<T>(*state));
            if constexpr (detail::copies<T>) return *detail::value_of<T>(*state);
            else
                detail::throw_invalid_state(
                    "asyncio::future: the value cannot be copied, and other handles exist that "
                    "could ask for it; keep one handle only, or take a reference with result()");
        }
    }

private:
    void require_pending() const {
        if (!state().settable)
            detail::throw_invalid_state(
                "asyncio::future: the result of a task, a job or a gather() comes from there; "
                "only that of a create_future() can be set");
        if (state().done())
            detail::throw_invalid_state(
                "asyncio::future: it is done already; check done() before setting a result");
    }
};

namespace detail {

// The value, as futures and outcomes keep it.
template <class T>
stored<T> take_stored(ref_ptr<state_base> state) {
    if constexpr (std::is_void_v<T>) return {};
    else if constexpr (std::is_reference_v<T>)
        return std::addressof(future<T>::take(std::move(state)));
    else return future<T>::take(std::move(state));
}

} // namespace detail

/// A pending future of the running loop.
///
/// Throws: std::runtime_error when no loop runs.
template <class T>
future<T> create_future() {
    return get_running_loop().create_future<T>();
}

template <class T>
future<T> event_loop::create_future() {
    return future<T>(
        detail::ref_ptr<detail::state_base>(new detail::plain_state<T>(*core_)));
}

} // namespace asyncio::inline ASYNCIO_ABI

template <class T>
struct std::hash<asyncio::future<T>> {
    std::size_t operator()(const asyncio::future<T>& f) const noexcept { return f.hash(); }
};

// =============================================================================
// [SECTION] tasks
// uses: configuration, exceptions, support, events, futures
//
// Coroutines and what runs them. A coro<T> runs when it is awaited, as part of
// the awaiting task; create_task() makes it a task of its own.
//
// How a task runs: its step resumes the innermost suspended coroutine. An await
// starts the child at once and looks whether it finished; if so, the parent goes
// on and was never suspended. Only when something really has to wait do all
// frames return to the step. A child that was suspended and ends names its parent
// as what the step resumes next, and so does an await that is nested too deeply:
// the stack stays flat however long the chain is.
// =============================================================================

namespace asyncio::inline ASYNCIO_ABI {

namespace detail {

class suspension;
struct task_base;
struct reference_mark;

ASYNCIO_API std::uint64_t next_variable_id() noexcept;
[[noreturn]] ASYNCIO_API void throw_no_variable(const std::string& name);

// The part of a coroutine's promise that does not depend on its result.
struct promise_base {
    // Initialises what is read before it is set, and no more: this is on every call.
    promise_base() noexcept {}
    // One that belongs to no coroutine: somewhere to point to.
    constexpr explicit promise_base(std::nullptr_t) noexcept : owner(nullptr), held_by(nullptr) {}

    // A frame begins two pointers before its promise, whatever the promise's type.
    std::coroutine_handle<> self() noexcept {
        return std::coroutine_handle<promise_base>::from_promise(*this);
    }

    promise_base* parent = nullptr;   // who awaits this one; null while it has not suspended
    task_base* owner;                 // the task it runs in, once it runs
    std::coroutine_handle<>* held_by; // the parent's handle, once parent is set
    std::source_location place;       // where it awaits; its function before it begins
#if defined(ASYNCIO_NO_EXCEPTIONS)
    exception_ptr* catches = nullptr; // where its await wants the error; null: it ends with it
#endif

    static void* operator new(std::size_t size) { return frame_alloc(size); }
    [[gnu::always_inline]] static void operator delete(void* memory, std::size_t size) noexcept {
        frame_free(memory, size);
    }
};

struct task_extras {
    std::string name;
    std::string cancel_message;
};

// What a task hands down to those that it starts.
struct surroundings : frame_allocated {
    surroundings() = default;
    surroundings(const surroundings&) = delete;
    ASYNCIO_API ~surroundings();

    void add_ref() noexcept { ++refs; }
    void release() noexcept {
        if (--refs == 0) delete this;
    }

    std::uint32_t refs = 0;
    stream_state* clock = nullptr; // both counted
    scope_state* scope = nullptr;
};

// A task: the state of its future, and the coroutine that fills it.
struct task_base : state_base, ready_node {
    static constexpr std::uint32_t most_nested = 64;

    explicit task_base(loop_core& owner) noexcept : state_base(owner, true) {
        run = &task_base::step;
    }

    // Makes it known to the loop and lets it begin in the next turn.
    ASYNCIO_API void start(promise_base& promise) noexcept;
    // The same, but takes its first step at once.
    ASYNCIO_API void start_eagerly(promise_base& promise);
    ASYNCIO_API void enlist(promise_base& promise) noexcept;
    void report_references(const reference_mark& mark) const noexcept;

    bool cancel(std::string_view message) override;
    void note_cancel(std::string_view message);
    int uncancel() noexcept {
        if (cancel_requests > 0 && --cancel_requests == 0) unset(must_cancel);
        return cancel_requests;
    }

    ASYNCIO_API static void step(ready_node* node);
    ASYNCIO_API exception_ptr cancellation() const;
    [[noreturn]] void throw_cancelled() const { rethrow(cancellation()); }
    ASYNCIO_API void name(std::string_view text);
    ASYNCIO_API std::string name() const;

    ASYNCIO_API bool prepare_step();

    // The clock that it goes by.
    std::int64_t now_ns() const noexcept {
        return around ? time_around(core->now_ns()) : core->now_ns();
    }
    std::int64_t frame_ns() const noexcept {
        return around ? time_around(core->frame_ns()) : core->frame_ns();
    }
    void add_timer(timer_node& timer, std::int64_t when) {
        if (!around) [[likely]] core->add_timer(timer, when);
        else add_timer_around(timer, when);
    }
    void remove_timer(timer_node& timer) noexcept {
        if (!around) [[likely]] core->remove_timer(timer);
        else remove_timer_around(timer);
    }
    ASYNCIO_API std::int64_t time_around(std::int64_t loop_time) const noexcept;
    ASYNCIO_API void add_timer_around(timer_node& timer, std::int64_t when);
    ASYNCIO_API void remove_timer_around(timer_node& timer) noexcept;
    // Before it begins: gets what its creator hands down, or these.
    ASYNCIO_API void settle(time_stream* clock, scope_state* scope);

    // Moves the result out of the coroutine's frame into the state.
    virtual void finish() = 0;
    // The task is over; throws a keyboard_interrupt on, out of the loop.
    ASYNCIO_API void end_with(exception_ptr error);
    // Destroys the frames, innermost first, however deep they are nested.
    ASYNCIO_API void destroy_frames() noexcept;
#if defined(ASYNCIO_NO_EXCEPTIONS)
    // Its await fails: the step ends the coroutine there.
    void fail_at(promise_base& promise, exception_ptr error) noexcept {
        at = &promise;
        failure = std::move(error);
        next_thing = then::fails;
    }
    // Ends the coroutines with `failure`, innermost first, up to one that catches it, which
    // goes on. False: the task is over.
    bool unwind() noexcept;
#endif
    // Ends it where it stands, as cancelled; it must not be running.
    void end_at_once() noexcept;
    // It is running, and never gets past its next co_await.
    void stop_at_await() noexcept;
    bool is_running() const noexcept { return core->current == this || has(beneath); }
    ASYNCIO_API void leave_loop() noexcept;
    // Takes it from the loop's list of tasks.
    void unlist() noexcept {
        loop_core& loop = *core;
        if (loop.tracing) [[unlikely]] trace_end();
        (previous_task ? previous_task->following_task : loop.tasks) = following_task;
        if (following_task) following_task->previous_task = previous_task;
        --loop.task_count;
    }
    ASYNCIO_API void trace_end() noexcept;

    promise_base* root = nullptr;
    promise_base* at = nullptr; // what the next step, or this one, resumes
    suspension* waiting = nullptr;
    std::uint32_t nested = 0;
    int cancel_requests = 0;
    std::uint32_t id = 0;
    // What the running step does when what it resumed has returned.
    enum class then : std::uint8_t { waits, goes_on, stops, fails };
    then next_thing = then::waits;
    // What the next step has to see to before it resumes anything; mostly nothing.
    enum : std::uint8_t {
        must_cancel = 1,  // it delivers a cancellation
        must_confirm = 2, // it asks `waiting` whether to go on
        gone = 4,         // the frames are destroyed
        asking = 8,       // a cancellation is on its way to what it waits for
        beneath = 16,     // it runs, and another one that it started eagerly does on top
        stopping = 32,    // it runs, and goes no further than its next co_await
        counted = 64      // a queue holds it, and a count: its step gives that back
    };
    std::uint8_t attention = 0;
    // A task that has begun runs, or waits somewhere.
    bool fresh() const noexcept { return !waiting && core->current != this; }
    bool has(std::uint8_t what) const noexcept { return (attention & what) != 0; }
    void set(std::uint8_t what) noexcept { attention |= what; }
    void unset(std::uint8_t what) noexcept { attention &= static_cast<std::uint8_t>(~what); }

#if defined(ASYNCIO_NO_EXCEPTIONS)
    exception_ptr failure; // on its way
#endif
    // The parent of every root: the step that comes to it has ended the task.
    static promise_base end;
    box<task_extras> extras;
    context_slot variables;
    ref_ptr<surroundings> around;
    task_base* previous_task = nullptr;
    task_base* following_task = nullptr;
};

template <class T>
struct promise;

template <class T>
struct task_state final : value_state<T, task_base> {
    explicit task_state(loop_core& owner) noexcept : value_state<T, task_base>(owner) {}
    void finish() override;
};

template <class T>
std::optional<stored<T>>& value_of(state_base& state) noexcept {
    if (state.is_task) return static_cast<value_state<T, task_base>&>(state).value;
    return static_cast<value_state<T, state_base>&>(state).value;
}

// A place where a task waits: the base of every awaiter that suspends a task. It
// lives in the suspended frame.
class suspension {
public:
    suspension& operator=(const suspension&) = delete;

    // task.cancel() while it waits here. True: the cancellation will be delivered
    // here, by cancel_here() or by what is awaited. False: it has been woken
    // already, and its next step delivers it.
    virtual bool on_cancel() noexcept = 0;

    // The step that comes next throws here.
    void deliver_cancellation() noexcept { cancelled_ = true; }

    // After wake_and_confirm(), when the step has come: false, after wait_again(),
    // if the task has to wait on.
    virtual bool confirm() noexcept { return true; }

    // What await_resume() would throw, if anything; what had been granted is given back
    // then. Without exceptions it is asked in its place.
    virtual exception_ptr failure() { return cancelled_ ? task_->cancellation() : nullptr; }

    // Whether its task is in a queue, or will be put there.
    virtual bool on_its_way() const noexcept { return woken_; }

    // Shows the futures that the task waits for here.
    virtual void show_awaited(awaited_visitor&) {}

    // The future that a cancellation is passed on to, when it is all that is awaited.
    virtual state_base* passes_on_to() const noexcept { return nullptr; }

    // Ends the wait by a cancellation that cannot be passed on.
    virtual void give_up() noexcept {}

protected:
    suspension() noexcept = default;
    suspension(suspension&&) noexcept {} // only those that have not begun to wait move
    ~suspension() = default;             // a derived one leaves every list it is on

    // In await_suspend, before joining a list. False: a cancellation was pending,
    // the task is scheduled to receive it, and must not join.
    template <class Promise>
    [[nodiscard]] bool suspend(std::coroutine_handle<Promise> h) noexcept {
        enter(h.promise());
        if (!task_->has(task_base::must_cancel)) [[likely]] return true;
        task_->unset(task_base::must_cancel);
        cancel_here();
        return false;
    }
    void enter(promise_base& promise) noexcept {
        task_base* const task = promise.owner;
        task_ = task;
        task->at = &promise;
        task->waiting = this;
    }

    // The task goes on in the next turn.
    void wake() noexcept {
        woken_ = true;
        task_->core->schedule(task_);
    }
    bool woken() const noexcept { return woken_; }

    // The same, but asks confirm() first.
    void wake_and_confirm() noexcept {
        task_->set(task_base::must_confirm);
        wake();
    }
    // Its step has to ask confirm() first.
    void confirm_first() noexcept { task_->set(task_base::must_confirm); }
    void wait_again() noexcept { woken_ = false; }

    // The same, but within poll() in the next one.
    void wake_next_turn() noexcept {
        woken_ = true;
        task_->core->schedule_yield(task_);
    }
    // The same, but in the next frame of an embedded loop.
    void wake_next_frame() noexcept {
        woken_ = true;
        task_->core->schedule_frame(task_);
    }

    void cancel_here() noexcept {
        cancelled_ = true;
        wake();
    }

    // In await_suspend, around what may throw, or find that there is nothing to wait for:
    // unless keep() was called, the task is taken back from this place.
    class attempt {
    public:
        explicit attempt(suspension& place) noexcept : task_(place.task_) {}
        attempt(const attempt&) = delete;
        attempt& operator=(const attempt&) = delete;
        ~attempt() {
            if (task_) task_->waiting = nullptr;
        }
        void keep() noexcept { task_ = nullptr; }

    private:
        task_base* task_;
    };

    // First thing in await_resume. True: give back what had been granted, then
    // throw_cancelled(). Also right when nothing was suspended.
    bool interrupted() const noexcept { return cancelled_; }
    [[noreturn]] void throw_cancelled() const { task_->throw_cancelled(); }

    task_base* task() const noexcept { return task_; }
    loop_core* core() const noexcept { return task_->core.get(); }

private:
    task_base* task_ = nullptr;
    bool woken_ = false;
    bool cancelled_ = false;
};

// -- what may be awaited -------------------------------------------------------

template <class A>
concept has_member_co_await = requires(A&& a) { std::forward<A>(a).operator co_await(); };
template <class A>
concept has_free_co_await = requires(A&& a) { operator co_await(std::forward<A>(a)); };
template <class A>
concept is_awaiter = requires(std::remove_reference_t<A>& a) {
    { a.await_ready() } -> std::convertible_to<bool>;
    a.await_resume();
};

template <class A>
decltype(auto) get_awaiter(A&& a) {
    if constexpr (has_member_co_await<A>) return std::forward<A>(a).operator co_await();
    else if constexpr (has_free_co_await<A>) return operator co_await(std::forward<A>(a));
    else return static_cast<A&&>(a);
}

// Something that co_await takes, as it is kept: by value.
template <class A>
concept awaitable_object = has_member_co_await<std::decay_t<A>> ||
                           has_free_co_await<std::decay_t<A>> || is_awaiter<std::decay_t<A>>;

template <class A>
struct await_result;
template <class A>
    requires awaitable_object<A>
struct await_result<A> {
    using given = decltype(get_awaiter(std::declval<std::decay_t<A>>()).await_resume());
    // A future gives a reference to the value that it holds; only one whose value is a
    // reference means it.
    using type = std::conditional_t<
        requires { requires std::is_reference_v<typename std::decay_t<A>::value_type>; }, given,
        std::remove_cvref_t<given>>;
};
template <class F>
    requires(!awaitable_object<F> && std::invocable<std::decay_t<F>&>)
struct await_result<F> : await_result<std::invoke_result_t<std::decay_t<F>&>> {};

template <class F>
concept owned_callable =
    !awaitable_object<F> && std::invocable<std::decay_t<F>&> &&
    awaitable_object<std::invoke_result_t<std::decay_t<F>&>>;

// g++ up to 12 destroys a closure that stands as a temporary in a co_await
// expression twice when it holds anything with a destructor.
template <class F>
constexpr bool closure_survives() noexcept {
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ <= 12
    if constexpr (std::is_lvalue_reference_v<F> || std::is_trivially_destructible_v<F> ||
                  !std::is_class_v<F>)
        return true;
    else
        return !std::is_aggregate_v<F> && type_name<F>().find("<lambda(") == std::string_view::npos;
#else
    return true;
#endif
}

} // namespace detail

/// Anything that co_await takes in a coroutine, or a callable that returns such a
/// thing. Callables are moved into what awaits them, so that captures are safe.
template <class A>
concept awaitable = (detail::awaitable_object<A> || detail::owned_callable<A>) &&
                    std::constructible_from<std::decay_t<A>, A>;

/// What awaiting an A gives.
template <class A>
using await_result_t = typename detail::await_result<A>::type;

namespace detail {

// Base of the library's awaiters: makes them convertible to a coroutine.
template <class Self, class T>
struct awaitable_base {
    operator coro<T>() &&;
};

// Runs a child within the parent's await. True: it has to wait, or is nested so deeply
// that the step resumes it; then the parent stays suspended until the child's end.
template <class Ended>
bool start_child(promise_base& parent, promise_base& child, std::coroutine_handle<>& held,
                 Ended ended) noexcept {
    task_base& task = *parent.owner;
    child.owner = &task;
    if (task.nested < task_base::most_nested) { // never in one that is to stop
        ++task.nested;
        child.self().resume();
        --task.nested;
        if (ended()) return false;
    } else {
        task.at = &child;
        task.next_thing = task.has(task_base::stopping) ? task_base::then::stops
                                                        : task_base::then::goes_on;
    }
    child.parent = &parent;
    child.held_by = &held;
    return true;
}

// A child that a coroutine awaits. Starts it within the parent's await.
template <class T>
class coro_awaiter {
public:
    using belongs_to_asyncio = void;

    explicit coro_awaiter(std::coroutine_handle<>& child) noexcept : child_(child) {}

    bool await_ready() const {
        if (!child_)
            throw_invalid_state("asyncio::coro: awaited twice, or moved from; a coroutine runs "
                                "once, make a task of it to await it in several places");
        return false;
    }

    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> waiter) noexcept {
        static_assert(std::derived_from<Promise, promise_base>,
                      "asyncio: a coro is awaited in a coro");
        const std::coroutine_handle<> child = child_;
        return start_child(waiter.promise(), promise_of(child), child_,
                           [child] { return child.done(); });
    }

    // The frame goes here, as soon as its result is out.
    T await_resume() {
        struct ended {
            std::coroutine_handle<> frame;
            ~ended() { frame.destroy(); }
        } child{detail::take(child_)};
        return promise_of(child.frame).take();
    }

private:
    static promise<T>& promise_of(std::coroutine_handle<> frame) noexcept {
        return std::coroutine_handle<promise<T>>::from_address(frame.address()).promise();
    }

    std::coroutine_handle<>& child_; // the coro's own
};

struct final_awaiter {
    bool await_ready() const noexcept { return false; }
    template <class Promise>
    void await_suspend(std::coroutine_handle<Promise> h) const noexcept {
        promise_base& ended = h.promise();
        if (ended.parent) {
            ended.owner->at = ended.parent;
            ended.owner->next_thing = task_base::then::goes_on;
        }
    }
    void await_resume() const noexcept {}
};

template <class A>
class foreign_awaiter;

// A task that is to stop suspends here for ever.
inline bool stop_at(promise_base& promise) noexcept {
    promise.owner->at = &promise;
    return true;
}

// What await_resume() of an awaiter would throw. Those of the library say so; others throw.
template <class Awaiter>
exception_ptr failure_of(Awaiter& awaiter) {
    if constexpr (requires { awaiter.failure(); }) return awaiter.failure();
    else return {};
}

// Awaits an awaiter where it stands. g++ would copy one that await_transform
// returns by reference.
template <class Awaiter, class Promise>
class in_place {
public:
    in_place(Awaiter& awaiter, Promise& promise) noexcept : awaiter_(awaiter), promise_(promise) {}
    bool await_ready() const {
        if (stops()) [[unlikely]] return false;
        return awaiter_.await_ready();
    }
    // By the promise's own address; the handle would have to be loaded from the frame.
    auto await_suspend(std::coroutine_handle<>) const {
        const auto self = std::coroutine_handle<Promise>::from_promise(promise_);
        if constexpr (std::is_same_v<decltype(awaiter_.await_suspend(self)), bool>)
            if (stops()) [[unlikely]] return stop_at(promise_);
        return awaiter_.await_suspend(self);
    }
    decltype(auto) await_resume() const { return awaiter_.await_resume(); }
    exception_ptr failure() const { return failure_of(awaiter_); }

private:
    bool stops() const noexcept { return promise_.owner->has(task_base::stopping); }

    Awaiter& awaiter_;
    Promise& promise_;
};

// What a coroutine of this library really awaits in place of `awaited`.
template <class A, class Promise>
decltype(auto) awaiter_for(A&& awaited, Promise& promise) {
    using awaiter = std::remove_cvref_t<decltype(get_awaiter(std::forward<A>(awaited)))>;
    constexpr bool ours = requires { typename awaiter::belongs_to_asyncio; } ||
                          std::derived_from<awaiter, suspension>;
    if constexpr (ours && std::is_same_v<awaiter, std::remove_cvref_t<A>>)
        return in_place<awaiter, Promise>(awaited, promise);
    else if constexpr (ours)
        return get_awaiter(std::forward<A>(awaited));
    else
        return foreign_awaiter<decltype(get_awaiter(std::forward<A>(awaited)))>(
            get_awaiter(std::forward<A>(awaited)));
}

// Fails. `error` is not null.
class fail_awaiter {
public:
    using belongs_to_asyncio = void;

    explicit fail_awaiter(exception_ptr error) noexcept : error_(std::move(error)) {}
    bool await_ready() const noexcept { return true; }
    template <class Promise>
    void await_suspend(std::coroutine_handle<Promise> h) const noexcept {
        stop_at(h.promise());
    }
    [[noreturn]] void await_resume() { rethrow(std::move(error_)); }
    exception_ptr failure() const noexcept { return error_; }

private:
    exception_ptr error_;
};

inline fail_awaiter fail_with(exception_ptr error) noexcept {
    return fail_awaiter(std::move(error));
}

// What an await gave that never throws.
template <class T>
struct caught {
    caught() = default;

    exception_ptr error;
    std::optional<stored<T>> value; // if there was no error
};

// An await that gives a caught<T>.
template <class A>
struct catching_await {
    using kept = A;
    A&& awaited;
};
template <class A>
catching_await<A> catching(A&& awaited) noexcept {
    return {std::forward<A>(awaited)};
}
template <class A>
inline constexpr bool is_catching = false;
template <class A>
inline constexpr bool is_catching<catching_await<A>> = true;

template <class A, class Promise>
class catching_awaiter {
public:
    using result = caught<await_result_t<A>>;

    catching_awaiter(A&& awaited, Promise& promise)
        : awaiter_(awaiter_for(std::forward<A>(awaited), promise)), promise_(promise) {}
    catching_awaiter(const catching_awaiter&) = delete;
    catching_awaiter& operator=(const catching_awaiter&) = delete;

    bool await_ready() noexcept {
        ASYNCIO_TRY {
            if (!awaiter_.await_ready()) return false;
        } ASYNCIO_CATCH_ALL {
            error_ = current_error();
        }
        look_for_failure();
        return true;
    }
    bool await_suspend(std::coroutine_handle<>) noexcept {
        const auto self = std::coroutine_handle<Promise>::from_promise(promise_);
        bool waits = true;
#if defined(ASYNCIO_NO_EXCEPTIONS)
        promise_.catches = &error_;
#endif
        ASYNCIO_TRY {
            if constexpr (std::is_void_v<decltype(awaiter_.await_suspend(self))>)
                awaiter_.await_suspend(self);
            else waits = awaiter_.await_suspend(self);
        } ASYNCIO_CATCH_ALL {
            error_ = current_error();
            waits = false;
        }
        if (!waits) look_for_failure();
        return waits;
    }
    result await_resume() noexcept {
#if defined(ASYNCIO_NO_EXCEPTIONS)
        promise_.catches = nullptr;
#endif
        result got;
        ASYNCIO_TRY {
            using given = decltype(awaiter_.await_resume());
            if (error_) {
                got.error = std::move(error_);
            } else if constexpr (std::is_void_v<given>) {
                awaiter_.await_resume();
                got.value.emplace();
            } else if constexpr (std::is_reference_v<await_result_t<A>>) {
                got.value.emplace(std::addressof(awaiter_.await_resume()));
            } else {
                got.value.emplace(awaiter_.await_resume());
            }
        } ASYNCIO_CATCH_ALL {
            got.error = current_error();
        }
        return got;
    }

private:
    void look_for_failure() noexcept {
#if defined(ASYNCIO_NO_EXCEPTIONS)
        error_ = failure_of(awaiter_);
#endif
    }

    decltype(awaiter_for(std::declval<A>(), std::declval<Promise&>())) awaiter_;
    Promise& promise_;
    exception_ptr error_;
};

#if defined(ASYNCIO_NO_EXCEPTIONS)

// An await that fails ends its coroutine.
template <class A, class Promise>
class failing_awaiter {
public:
    failing_awaiter(A&& awaited, Promise& promise)
        : awaiter_(awaiter_for(std::forward<A>(awaited), promise)), promise_(promise) {}
    failing_awaiter(const failing_awaiter&) = delete;
    failing_awaiter& operator=(const failing_awaiter&) = delete;

    bool await_ready() {
        if (!awaiter_.await_ready()) return false;
        error_ = failure_of(awaiter_);
        return !error_;
    }
    bool await_suspend(std::coroutine_handle<>) {
        const auto self = std::coroutine_handle<Promise>::from_promise(promise_);
        if (!error_) {
            if constexpr (std::is_void_v<decltype(awaiter_.await_suspend(self))>) {
                awaiter_.await_suspend(self);
                return true;
            } else {
                if (awaiter_.await_suspend(self)) return true;
            }
            error_ = failure_of(awaiter_);
            if (!error_) return false;
        }
        promise_.owner->fail_at(promise_, std::move(error_));
        return true;
    }
    decltype(auto) await_resume() { return awaiter_.await_resume(); }

private:
    decltype(awaiter_for(std::declval<A>(), std::declval<Promise&>())) awaiter_;
    Promise& promise_;
    exception_ptr error_;
};

#endif

template <class A, class Promise>
decltype(auto) transform_await(A&& awaited, Promise& promise) {
    if constexpr (is_catching<std::remove_cvref_t<A>>) {
        using kept = typename std::remove_cvref_t<A>::kept;
        return catching_awaiter<kept, Promise>(std::forward<kept>(awaited.awaited), promise);
    } else {
#if defined(ASYNCIO_NO_EXCEPTIONS)
        return failing_awaiter<A, Promise>(std::forward<A>(awaited), promise);
#else
        return awaiter_for(std::forward<A>(awaited), promise);
#endif
    }
}

// The result of a coroutine: nothing until it ends, then a value or an error.
template <class T>
class promise_result : public promise_base {
public:
    promise_result() noexcept {}
    ~promise_result() { clear(); }

    template <class U = T>
        requires std::constructible_from<T, U>
    void return_value(U&& v) {
        if constexpr (std::is_reference_v<T>) std::construct_at(&value_, std::addressof(v));
        else std::construct_at(&value_, std::forward<U>(v));
        holds_ = value;
    }
    void set_error(exception_ptr error) noexcept {
        clear(); // a local's destructor may throw after co_return
        std::construct_at(&error_, std::move(error));
        holds_ = failure;
    }
    exception_ptr take_error() noexcept {
        return holds_ == failure ? std::move(error_) : nullptr;
    }
    stored<T>&& take_value() noexcept { return std::move(value_); }
    T take() {
        if (holds_ == failure) [[unlikely]] rethrow(std::move(error_));
        if constexpr (std::is_reference_v<T>) return static_cast<T>(*value_);
        else return std::move(value_);
    }

private:
    enum : std::uint8_t { nothing, value, failure };

    void clear() noexcept {
        if (holds_ == failure) [[unlikely]] std::destroy_at(&error_);
        else if constexpr (!std::is_trivially_destructible_v<stored<T>>) {
            if (holds_ == value) std::destroy_at(&value_);
        }
        holds_ = nothing;
    }

    union {
        stored<T> value_;
        exception_ptr error_;
    };
    std::uint8_t holds_ = nothing;
};

template <>
class promise_result<void> : public promise_base {
public:
    void return_void() const noexcept {}
    void set_error(exception_ptr error) noexcept { error_ = std::move(error); }
    exception_ptr take_error() noexcept { return std::move(error_); }
    std::monostate take_value() const noexcept { return {}; }
    void take() {
        if (error_) [[unlikely]] rethrow(std::move(error_));
    }

private:
    exception_ptr error_;
};

// "fetch, client.cpp:12", for reports.
std::string place_of(const promise_base& p);

// Ends the frame of a coroutine that never ran, and says so in debug mode.
ASYNCIO_API void drop_never_awaited(std::coroutine_handle<> frame) noexcept;

template <class T>
struct promise : promise_result<T> {
    coro<T> get_return_object(
        std::source_location here = std::source_location::current()) noexcept;
    std::suspend_always initial_suspend() const noexcept { return {}; }
    final_awaiter final_suspend() const noexcept { return {}; }
    void unhandled_exception() noexcept { this->set_error(current_error()); }

    template <class A>
    decltype(auto) await_transform(
        A&& awaited, std::source_location here = std::source_location::current()) {
        this->place = here;
        return transform_await(std::forward<A>(awaited), *this);
    }
};

// Where a coroutine's promise points, until it begins, when its function takes
// references. Debug mode reports it when a task is made of such a coroutine.
struct reference_mark : promise_base {
    constexpr reference_mark(std::size_t count, bool first, bool (*holds)(), bool others) noexcept
        : promise_base(nullptr), parameters(count), in_first(first), first_holds(holds),
          in_others(others) {}
    std::size_t parameters; // with the object of a member function, or the closure
    bool in_first;
    bool (*first_holds)(); // whether that has members, or captures, that can end too early
    bool in_others;
};

// Asked when the program runs: in a lambda's body its type is not complete yet.
template <class First>
bool holds_something() {
    if constexpr (requires { sizeof(std::remove_reference_t<First>); })
        return !std::is_empty_v<std::remove_reference_t<First>>;
    else return true;
}

template <class First, std::size_t Count, bool Others>
inline constinit reference_mark references_of{Count, std::is_reference_v<First>,
                                              &holds_something<First>, Others};

template <class T, class First, std::size_t Count, bool Others>
struct referring_promise : promise<T> {
    struct start {
        promise_base& self;
        bool await_ready() const noexcept { return false; }
        void await_suspend(std::coroutine_handle<>) const noexcept {}
        void await_resume() const noexcept {
            if (self.parent == &references_of<First, Count, Others>) self.parent = nullptr;
        }
    };

    referring_promise() noexcept { this->parent = &references_of<First, Count, Others>; }
    start initial_suspend() noexcept { return {*this}; }
};

template <class T, class... Parameters>
struct promise_for {
    using type = promise<T>;
};
template <class T, class First, class... Others>
    requires(std::is_reference_v<First> || (std::is_reference_v<Others> || ...))
struct promise_for<T, First, Others...> {
    using type = referring_promise<T, First, sizeof...(Others) + 1,
                                   (std::is_reference_v<Others> || ...)>;
};

} // namespace detail

/// What a coroutine function returns: work that has not begun. It runs when it is
/// awaited, or when create_task(), gather() or the like make a task of it. Python's
/// coroutine object, and `async def f() -> T` is `asyncio::coro<T> f()`.
///
/// Lifetime: destroying one that has not run destroys its arguments, no more.
/// Reference parameters must outlive the run: take parameters by value.
template <class T = void>
class [[nodiscard("a coroutine does nothing until it is awaited: co_await it, or give it to "
                  "create_task()")]] coro {
public:
    using promise_type = detail::promise<T>;
    using value_type = T;

    coro(coro&& other) noexcept : handle_(detail::take(other.handle_)) {}
    coro& operator=(coro&& other) noexcept {
        std::swap(handle_, other.handle_);
        return *this;
    }
    ~coro() {
        if (handle_) detail::drop_never_awaited(handle_);
    }

    /// Runs it within the awaiting task.
    ///
    /// Throws: what the coroutine throws; invalid_state_error the second time.
    detail::coro_awaiter<T> operator co_await() && noexcept {
        return detail::coro_awaiter<T>(handle_);
    }

    template <class U = T>
    detail::coro_awaiter<T> operator co_await() & {
        static_assert(!std::is_same_v<U, T>,
                      "asyncio::coro: awaiting a coroutine uses it up; write co_await "
                      "std::move(c), or make a task of it to await it in several places");
        return std::move(*this).operator co_await();
    }

    // For the library's own functions: gives up the frame.
    std::coroutine_handle<promise_type> release() noexcept {
        return std::coroutine_handle<promise_type>::from_address(
            detail::take(handle_).address());
    }
    // For them, too: whoever waits for it outlives what its parameters refer to.
    void accept_references() noexcept {
        if (handle_)
            std::coroutine_handle<promise_type>::from_address(handle_.address()).promise().parent =
                nullptr;
    }

private:
    friend promise_type;
    explicit coro(std::coroutine_handle<promise_type> handle) noexcept : handle_(handle) {}

    std::coroutine_handle<> handle_;
};

} // namespace asyncio::inline ASYNCIO_ABI

template <class T, class... Parameters>
struct std::coroutine_traits<asyncio::coro<T>, Parameters...> {
    using promise_type = typename asyncio::detail::promise_for<T, Parameters...>::type;
};

namespace asyncio::inline ASYNCIO_ABI {

namespace detail {

// A generator that has begun, as its loop knows it: the end of run() closes it, if nobody
// else does. Part of its promise.
class open_generator {
public:
    explicit open_generator(coro<> (*how)(open_generator&)) noexcept : close_(how) {}
    open_generator(const open_generator&) = delete;
    open_generator& operator=(const open_generator&) = delete;

    coro<> close() { return close_(*this); }
    void enlist(loop_core& core) noexcept {
        if (core_ != &core) join(core);
    }
    void leave() noexcept {
        if (!core_) return;
        (previous_ ? previous_->following_ : core_->first_generator) = following_;
        (following_ ? following_->previous_ : core_->last_generator) = previous_;
        core_ = nullptr;
    }

protected:
    ~open_generator() { leave(); }

private:
    void join(loop_core& core) noexcept {
        leave();
        core_ = &core;
        previous_ = core.last_generator;
        following_ = nullptr;
        (previous_ ? previous_->following_ : core.first_generator) = this;
        core.last_generator = this;
    }

    coro<> (*close_)(open_generator&);
    loop_core* core_ = nullptr;
    open_generator* previous_ = nullptr;
    open_generator* following_ = nullptr;
};

} // namespace detail

/// Values that come one after another, with pauses between them: a coroutine that
/// uses `co_yield`.
///
///     asyncio::async_generator<int> ticks(int n) {
///         for (int i = 0; i < n; ++i) {
///             co_await asyncio::sleep(1s);
///             co_yield i;
///         }
///     }
///     auto seconds = ticks(3);
///     while (auto i = co_await seconds.next()) show(*i);
///
/// Python's asynchronous generator; the loop stands for `async for`.
///
/// Lifetime: destroying one destroys its locals where it stands; aclose() lets it clean
/// up with awaits, and the end of run() calls that for those which are still there.
template <class T>
class [[nodiscard]] async_generator {
public:
    class promise_type;
    class next_awaiter;
    using value_type = T;

    async_generator(async_generator&& other) noexcept
        : handle_(detail::take(other.handle_)) {
        settle();
    }
    async_generator& operator=(async_generator&& other) noexcept {
        std::swap(handle_, other.handle_);
        settle();
        other.settle();
        return *this;
    }
    ~async_generator() {
        if (handle_) handle_.destroy();
    }

    /// Runs it up to its next value; gives nothing once it has ended.
    ///
    /// Throws: what the generator throws, which ends it; std::runtime_error while
    /// another next() is waiting.
    next_awaiter next() { return next_awaiter(*this, false); }

    /// Ends it: an exception that no handler names is thrown at its co_yield, so that
    /// it can clean up. A generator that has not begun just ends, and so does any without
    /// exceptions: its locals are destroyed.
    ///
    /// Throws: what the clean-up throws; std::runtime_error when it yields again.
    coro<> aclose() {
        const auto ended = co_await detail::catching(next_awaiter(*this, true));
        if (ended.error && !detail::exception_cast<typename promise_type::closed>(ended.error))
            co_await detail::fail_with(ended.error);
        if (ended.value && *ended.value)
            detail::throw_runtime_error("asyncio::async_generator::aclose: the generator yielded "
                                        "again instead of ending");
    }

private:
    explicit async_generator(std::coroutine_handle<promise_type> h) noexcept : handle_(h) {
        settle();
    }
    promise_type& promise() const noexcept {
        return std::coroutine_handle<promise_type>::from_address(handle_.address()).promise();
    }
    // Tells the frame who holds it.
    void settle() noexcept {
        if (handle_) promise().holder = this;
    }

    std::coroutine_handle<> handle_;
};

template <class T>
class async_generator<T>::promise_type : public detail::promise_base,
                                         public detail::open_generator {
public:
    // Thrown at a co_yield by aclose().
    struct closed {
        const char* what() const noexcept { return "asyncio::async_generator: closed"; }
    };

    promise_type() noexcept
        : open_generator([](open_generator& self) {
              return static_cast<promise_type&>(self).holder->aclose();
          }) {}

    async_generator get_return_object() noexcept {
        const auto handle = std::coroutine_handle<promise_type>::from_promise(*this);
        return async_generator(handle);
    }
    std::suspend_always initial_suspend() const noexcept { return {}; }
    auto final_suspend() noexcept { return stopped(*this); }
    auto yield_value(T item) {
        value.emplace(std::move(item));
        return yielded(*this);
    }
    void return_void() const noexcept {}
    void unhandled_exception() noexcept { exception = detail::current_error(); }

    template <class A>
    decltype(auto) await_transform(
        A&& awaited, std::source_location here = std::source_location::current()) {
        place = here;
        return detail::transform_await(std::forward<A>(awaited), *this);
    }

    std::optional<T> value;
    exception_ptr exception;
    async_generator* holder = nullptr;
    bool running = false; // between a next() and the value that it gets
    bool begun = false;
    bool closing = false;

private:
    // Stops at the end, and lets the awaiting coroutine go on.
    class stopped {
    public:
        explicit stopped(promise_type& p) noexcept : promise_(p) {}
        bool await_ready() const noexcept { return false; }
        void await_suspend(std::coroutine_handle<promise_type>) const noexcept {
            promise_.running = false;
            if (detail::promise_base* const waiting = detail::take(promise_.parent)) {
                promise_.owner->at = waiting;
                promise_.owner->next_thing = detail::task_base::then::goes_on;
            }
        }
        void await_resume() const noexcept {}

    protected:
        promise_type& promise_;
    };
    // The same at a value.
    class yielded : public stopped {
    public:
        using stopped::stopped;
        void await_resume() const {
            if (this->promise_.closing) detail::throw_error(closed());
        }
    };
};

template <class T>
class async_generator<T>::next_awaiter
    : public detail::awaitable_base<typename async_generator<T>::next_awaiter, std::optional<T>> {
public:
    using belongs_to_asyncio = void;

    next_awaiter(async_generator& generator, bool close) noexcept
        : generator_(&generator), close_(close) {}

    bool await_ready() const {
        if (!generator_->handle_ || generator_->handle_.done()) return true;
        if (generator_->promise().running)
            detail::throw_runtime_error("asyncio::async_generator: a next() is waiting already; "
                                        "await one after the other");
#if defined(ASYNCIO_NO_EXCEPTIONS)
        const bool just_ends = close_;
#else
        const bool just_ends = close_ && !generator_->promise().begun;
#endif
        if (just_ends) {
            detail::take(generator_->handle_).destroy();
            return true;
        }
        return false;
    }
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> waiter) noexcept {
        promise_type& child = generator_->promise();
        detail::promise_base& parent = waiter.promise();
        if (!close_) child.enlist(*parent.owner->core);
        child.running = child.begun = true;
        child.closing = close_;
        child.value.reset();
        return detail::start_child(waiter.promise(), child, generator_->handle_,
                                   [&child] { return !child.running; });
    }
    std::optional<T> await_resume() {
        if (!generator_->handle_) return std::nullopt;
        promise_type& child = generator_->promise();
        if (child.exception) detail::rethrow(std::exchange(child.exception, nullptr));
        return std::exchange(child.value, std::nullopt);
    }

private:
    async_generator* generator_;
    bool close_;
};

/// The values that context variables have for some code: a task, a callback. A copy
/// is independent of the original. Python's contextvars.Context.
class context {
public:
    /// An empty one.
    context() : cell_(new detail::context_cell) {}
    context(const context& other) : cell_(new detail::context_cell(*other.cell_)) {}
    context& operator=(const context& other) {
        cell_ = detail::context_slot(new detail::context_cell(*other.cell_));
        return *this;
    }
    ~context() = default;

    /// A copy of what the running code sees. Python's contextvars.copy_context.
    static context current() {
        context copy;
        if (const detail::context_slot& present = detail::current_context())
            copy.cell_->values = present->values;
        return copy;
    }

    /// Calls `fn` within this context and gives its result; what it sets stays here.
    template <class F>
    decltype(auto) run(F&& fn) {
        detail::context_slot slot = cell_;
        const detail::context_scope scope(slot);
        return std::forward<F>(fn)();
    }

    /// The variable's value in this context.
    ///
    /// Throws: std::out_of_range when it has neither a value here nor a default.
    template <class Variable>
    decltype(auto) get(const Variable& variable) const {
        return variable.get_in(cell_.get());
    }

    // For the library's own functions.
    const detail::context_slot& cell() const noexcept { return cell_; }

private:
    detail::context_slot cell_;
};

/// A value that each task has for itself: a new task starts with a copy of its
/// creator's. Python's contextvars.ContextVar.
///
///     asyncio::context_var<std::string> request_id("request_id", "none");
///
/// Lifetime: references that get() gives are good until the next set() in the same
/// context.
template <class T>
class context_var {
public:
    /// What set() gives, to go back with reset().
    class token {
    private:
        friend context_var;
        explicit token(std::shared_ptr<const void> before) : before_(std::move(before)) {}
        std::shared_ptr<const void> before_;
    };

    explicit context_var(std::string name) : name_(std::move(name)) {}
    context_var(std::string name, T value) : name_(std::move(name)), default_(std::move(value)) {}
    context_var(const context_var&) = delete;
    context_var& operator=(const context_var&) = delete;

    const std::string& name() const noexcept { return name_; }

    /// Throws: std::out_of_range when it has neither a value nor a default.
    const T& get() const { return get_in(detail::current_context().get()); }

    token set(T value) {
        detail::context_slot& slot = detail::current_context();
        if (!slot) slot = detail::context_slot(new detail::context_cell);
        return token(slot->put(id_, std::make_shared<const T>(std::move(value))));
    }

    /// Gives the variable the value that it had before the set() that gave `to`.
    void reset(const token& to) {
        detail::context_slot& slot = detail::current_context();
        if (slot) slot->put(id_, to.before_);
    }

    // For context::get().
    const T& get_in(const detail::context_cell* cell) const {
        const void* value = cell ? cell->find(id_) : nullptr;
        if (value) return *static_cast<const T*>(value);
        if (!default_) detail::throw_no_variable(name_);
        return *default_;
    }

private:
    const std::uint64_t id_ = detail::next_variable_id();
    std::string name_;
    std::optional<T> default_;
};

/// Options of create_task().
struct task_options {
    std::string_view name = {};  ///< copied; shown in reports
    bool eager_start = false;    ///< the first step runs at once, inside create_task()
    context* ctx = nullptr;      ///< runs in this one itself; null: in a copy of the creator's
    time_stream* clock = nullptr; ///< goes by this one; null: by the creator's
};

/// A coroutine that the loop runs. Copyable handle; dropping it changes nothing,
/// the loop keeps the task alive. Python's asyncio.Task.
template <class T = void>
class task : public future<T> {
public:
    task() noexcept = default;
    explicit task(detail::ref_ptr<detail::state_base> state) noexcept
        : future<T>(std::move(state)) {}

    /// How many cancel() calls have not been taken back by uncancel().
    int cancelling() const { return base().cancel_requests; }

    /// Takes one cancel() back and gives the number left: for code that asked for
    /// the cancellation and has dealt with it.
    int uncancel() const { return base().uncancel(); }

    std::string get_name() const { return base().name(); }
    void set_name(std::string_view name) const { base().name(name); }

    template <class F>
    std::uint64_t add_done_callback(F&& fn) const {
        using node = detail::done_callback_of<task, std::decay_t<F>>;
        return detail::add_callback(
            this->state(), detail::box<detail::done_callback>(new node(std::forward<F>(fn))));
    }

private:
    detail::task_base& base() const {
        return static_cast<detail::task_base&>(this->state());
    }
};

/// Any task, whatever its result. Awaiting one gives nothing.
class any_task : public detail::future_handle {
public:
    using value_type = void;

    any_task() noexcept = default;
    template <class T>
    any_task(const task<T>& t) noexcept : future_handle(t) {}
    explicit any_task(detail::ref_ptr<detail::state_base> state) noexcept
        : future_handle(std::move(state)) {}

    int cancelling() const { return base().cancel_requests; }
    int uncancel() const { return base().uncancel(); }
    std::string get_name() const { return base().name(); }
    void set_name(std::string_view name) const { base().name(name); }

    template <class F>
    std::uint64_t add_done_callback(F&& fn) const {
        using node = detail::done_callback_of<any_task, std::decay_t<F>>;
        return detail::add_callback(
            state(), detail::box<detail::done_callback>(new node(std::forward<F>(fn))));
    }

    detail::future_awaiter<any_task, false> operator co_await() const;

private:
    detail::task_base& base() const { return static_cast<detail::task_base&>(state()); }
};

namespace detail {

// The running task goes no further than the await that asks.
inline bool stops_here(const loop_core& core) noexcept {
    return core.stopped_task && core.current && core.current->has(task_base::stopping);
}

// Throws std::runtime_error for a task that awaits itself, or another loop's future.
ASYNCIO_API void require_awaitable(const task_base& waiter, const state_base& awaited);

// Waits for a future or task. Cancelling the waiting task cancels what it awaits.
template <class T, bool Move>
class future_awaiter : public suspension, completion_node {
public:
    using belongs_to_asyncio = void;

    explicit future_awaiter(ref_ptr<state_base> state) noexcept : state_(std::move(state)) {}
    future_awaiter(const future_awaiter&) = delete;
    future_awaiter& operator=(const future_awaiter&) = delete;
    ~future_awaiter() {
        if (!is_linked()) return;
        state_->unlink(*this); // the frame goes
        state_->reported = true;
    }

    bool await_ready() const {
        if (!state_)
            throw_invalid_state("asyncio::future: an empty handle cannot be awaited; make one "
                                "with create_future() or create_task()");
        return state_->done() && !stops_here(*state_->core);
    }
    template <class Promise>
    void await_suspend(std::coroutine_handle<Promise> h) {
        task_base& waiter = *static_cast<promise_base&>(h.promise()).owner;
        require_awaitable(waiter, *state_);
        enter(h.promise());
        completed = [](completion_node* node, state_base&) noexcept {
            static_cast<future_awaiter&>(*node).wake();
        };
        state_->link(*this);
        if (waiter.has(task_base::must_cancel) && on_cancel())
            waiter.unset(task_base::must_cancel);
    }
    decltype(auto) await_resume() {
        if (interrupted() || !state_->has_value()) rethrow(failure());
        if constexpr (std::is_same_v<T, any_task>) return;
        else if constexpr (Move) return future<T>::take(std::move(state_));
        else return future<T>::view(*state_);
    }

    exception_ptr failure() override {
        if (!interrupted()) return state_->has_value() ? nullptr : state_->why_no_value();
        // An error that came in the same turn has reached whoever awaited it.
        if (state_->done()) state_->reported = true;
        return suspension::failure();
    }

private:
    void show_awaited(awaited_visitor& visitor) override { visitor.visit(*state_); }
    state_base* passes_on_to() const noexcept override { return state_.get(); }
    void give_up() noexcept override {
        if (!is_linked()) return;
        state_->unlink(*this);
        cancel_here();
    }
    bool on_cancel() noexcept override {
        return state_->cancel(task()->extras ? task()->extras->cancel_message
                                             : std::string_view());
    }
    ref_ptr<state_base> state_;
};

// Waits for a moment of the loop's clock.
class timer_suspension : public suspension, protected timer_node {
protected:
    timer_suspension() noexcept = default;
    timer_suspension(timer_suspension&&) noexcept : timer_suspension() {}
    ~timer_suspension() {
        if (is_set()) take_back();
    }
    void wait_for(duration delay) {
        fire = [](timer_node* node) { static_cast<timer_suspension*>(node)->wake(); };
        task()->add_timer(*this, deadline_after(task()->now_ns(), delay));
    }
    void take_back() noexcept { task()->remove_timer(*this); }

private:
    bool on_cancel() noexcept override {
        if (woken()) return false;
        take_back();
        cancel_here();
        return true;
    }
};

template <class T>
class sleep_awaiter : public timer_suspension, public awaitable_base<sleep_awaiter<T>, T> {
public:
    sleep_awaiter(duration delay, stored<T> result)
        : delay_(delay), result_(std::move(result)) {}
    sleep_awaiter(sleep_awaiter&&) noexcept = default;

    bool await_ready() const noexcept { return false; }
    template <class Promise>
    void await_suspend(std::coroutine_handle<Promise> h) {
        if (!suspend(h)) return;
        if (delay_.count() > 0) wait_for(delay_);
        else wake_next_turn();
    }
    T await_resume() {
        if (interrupted()) throw_cancelled();
        if constexpr (!std::is_void_v<T>) return std::move(result_);
    }

private:
    duration delay_;
    [[no_unique_address]] stored<T> result_;
};

class frame_awaiter : public suspension, public awaitable_base<frame_awaiter, duration> {
public:
    frame_awaiter() noexcept = default;
    frame_awaiter(frame_awaiter&&) noexcept = default;

    bool await_ready() const noexcept { return false; }
    template <class Promise>
    void await_suspend(std::coroutine_handle<Promise> h) noexcept {
        if (!suspend(h)) return;
        began_ = task()->frame_ns();
        wake_next_frame();
    }
    duration await_resume() {
        if (interrupted()) throw_cancelled();
        return std::chrono::nanoseconds(task()->frame_ns() - began_);
    }

private:
    bool on_cancel() noexcept override { return false; } // it is on its way

    std::int64_t began_ = 0;
};

// An awaiter of somebody else's library. It gets a coroutine of its own to resume,
// on any thread; that one puts the task back into its loop.
struct foreign_hook {
    struct promise_type {
        foreign_hook get_return_object() noexcept {
            return {std::coroutine_handle<promise_type>::from_promise(*this)};
        }
        std::suspend_always initial_suspend() const noexcept { return {}; }
        std::suspend_never final_suspend() const noexcept { return {}; }
        void return_void() const noexcept {}
        void unhandled_exception() const noexcept {}
    };
    std::coroutine_handle<> handle;
};

template <class Awaiter>
class foreign_awaiter : public suspension {
public:
    explicit foreign_awaiter(Awaiter&& awaiter) : awaiter_(std::forward<Awaiter>(awaiter)) {}
    foreign_awaiter(const foreign_awaiter&) = delete;
    foreign_awaiter& operator=(const foreign_awaiter&) = delete;
    ~foreign_awaiter() {
        if (hook_ && !resumed_.load()) hook_.destroy();
    }

    bool await_ready() {
        const loop_core* const core = running_core();
        if (core && stops_here(*core)) return false;
        return static_cast<bool>(awaiter_.await_ready());
    }
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> h) {
        if (stops_here(*h.promise().owner->core)) return stop_at(h.promise());
        enter(h.promise());
        core_ = share(*core());
        hook_ = put_back(*this).handle;
        attempt waiting(*this);
        using result = decltype(awaiter_.await_suspend(hook_));
        if constexpr (std::is_void_v<result>) {
            awaiter_.await_suspend(hook_);
        } else if constexpr (std::is_same_v<result, bool>) {
            if (!awaiter_.await_suspend(hook_)) return false;
        } else {
            awaiter_.await_suspend(hook_).resume();
        }
        waiting.keep();
        return true;
    }
    decltype(auto) await_resume() {
        if (interrupted()) throw_cancelled();
        return awaiter_.await_resume();
    }

private:
    static foreign_hook put_back(foreign_awaiter& self) {
        // As soon as that is known, its loop may destroy the awaiter, but not the task.
        const shared_core loop = std::move(self.core_);
        task_base* const task = self.task();
        self.resumed_.store(true);
        loop->post(task);
        co_return;
    }
    bool on_its_way() const noexcept override { return woken() || resumed_.load(); }
    // Nobody but its own library can stop a foreign operation: the cancellation is
    // delivered when it has ended.
    bool on_cancel() noexcept override { return false; }

    Awaiter awaiter_;
    std::coroutine_handle<> hook_;
    atomic<bool> resumed_{false};
    shared_core core_;
};

template <class T>
coro<T> promise<T>::get_return_object(std::source_location here) noexcept {
    this->place = here;
    auto handle = std::coroutine_handle<promise>::from_promise(*this);
    static_assert(alignof(promise) <= 2 * sizeof(void*),
                  "asyncio::coro<T>: frames are aligned for pointers only; "
                  "return an over-aligned T by std::unique_ptr");
    return coro<T>(handle);
}

template <class T>
void task_state<T>::finish() {
    auto frame = std::coroutine_handle<promise<T>>::from_promise(
        *static_cast<promise<T>*>(this->root));
    promise<T>& result = frame.promise();
    exception_ptr error = result.take_error();
    if (!error) this->value.emplace(result.take_value());
    this->root = nullptr;
    frame.destroy();
    if (error || this->attention != 0) [[unlikely]] return this->end_with(std::move(error));
    // The loop's count is this function's from here on.
    const auto kept = ref_ptr<state_base>::adopt(this);
    this->current = state_base::status::finished;
    if (this->waiters) this->wake_waiters();
    this->unlist();
}

// Makes a coroutine of anything awaitable, owning it.
template <class T>
coro<T> as_coro(coro<T>&& work) noexcept {
    return std::move(work);
}
template <awaitable_object A>
coro<await_result_t<A>> as_coro(A awaited) {
    co_return co_await std::move(awaited);
}
template <owned_callable F>
coro<await_result_t<F>> as_coro(F fn) {
    co_return co_await fn();
}
template <class F, class... Args>
coro<await_result_t<std::invoke_result_t<F&, Args...>>> call_owned(F fn, Args... args) {
    co_return co_await std::invoke(fn, std::move(args)...);
}

template <class Self, class T>
awaitable_base<Self, T>::operator coro<T>() && {
    return as_coro(static_cast<Self&&>(*this));
}

template <class A>
inline constexpr bool is_coro = false;
template <class T>
inline constexpr bool is_coro<coro<T>> = true;
template <class A>
inline constexpr bool is_task = false;
template <class T>
inline constexpr bool is_task<task<T>> = true;
template <class A>
inline constexpr bool is_future = is_task<A>;
template <class T>
inline constexpr bool is_future<future<T>> = true;

ASYNCIO_API void require_open_for_tasks(loop_core& core);

template <class T>
task<T> spawn(loop_core& core, coro<T> work, const task_options& options,
              scope_state* scope = nullptr) {
    require_open_for_tasks(core);
    ref_ptr<state_base> state(new task_state<T>(core));
    auto& created = static_cast<task_state<T>&>(*state);
    if (!options.name.empty()) created.name(options.name);
    if (options.clock || scope || (core.current && core.current->around)) [[unlikely]]
        created.settle(options.clock, scope);
    auto frame = work.release();
    if (!frame)
        throw_invalid_state("asyncio::create_task: the coroutine was awaited or moved from; "
                            "call its function again");
    created.variables = options.ctx ? options.ctx->cell() : copy_context();
    if (options.eager_start) created.start_eagerly(frame.promise());
    else created.start(frame.promise());
    return task<T>(std::move(state));
}

template <class A>
auto spawn_any(loop_core& core, A&& work, const task_options& options,
               scope_state* scope = nullptr) {
    if constexpr (is_task<std::decay_t<A>>) return std::decay_t<A>(std::forward<A>(work));
    else
        return spawn<await_result_t<A>>(core, as_coro(std::decay_t<A>(std::forward<A>(work))),
                                        options, scope);
}

// The time of the clock that the running task goes by, or else of the loop's.
inline std::int64_t task_now_ns(const loop_core& core) noexcept {
    return core.current ? core.current->now_ns() : core.now_ns();
}

// A future of anything awaitable: itself, or a new task.
template <class A>
auto ensure_future(loop_core& core, A&& work) {
    using kept = std::decay_t<A>;
    if constexpr (is_future<kept>) return future<typename kept::value_type>(std::forward<A>(work));
    else return future<await_result_t<A>>(spawn_any(core, std::forward<A>(work), {}));
}

} // namespace detail

template <class T>
detail::future_awaiter<T, false> future<T>::operator co_await() const& {
    return detail::future_awaiter<T, false>(state_);
}
template <class T>
detail::future_awaiter<T, true> future<T>::operator co_await() && {
    return detail::future_awaiter<T, true>(std::move(state_));
}
inline detail::future_awaiter<any_task, false> any_task::operator co_await() const {
    return detail::future_awaiter<any_task, false>(state_);
}

template <class A>
auto event_loop::create_task(A&& work, const task_options& options) {
    return detail::spawn_any(*core_, std::forward<A>(work), options);
}
template <class A>
auto event_loop::create_task(A&& work) {
    return detail::spawn_any(*core_, std::forward<A>(work), {});
}
template <class F, class... Args>
    requires(sizeof...(Args) > 0 && std::invocable<std::decay_t<F>&, std::decay_t<Args>...>)
auto event_loop::create_task(F&& fn, Args&&... args) {
    return detail::spawn_any(*core_,
                             detail::call_owned<std::decay_t<F>, std::decay_t<Args>...>(
                                 std::forward<F>(fn), std::forward<Args>(args)...),
                             {});
}

/// Lets the running loop run `work` as a task of its own, from the next turn on.
/// A task is returned as it is. Python's asyncio.create_task.
///
/// Throws: std::runtime_error when no loop runs.
template <awaitable A>
auto create_task(A&& work, const task_options& options = {}) {
    return detail::spawn_any(detail::require_running("create_task"), std::forward<A>(work),
                             options);
}

/// The same for a call: moves `fn` and `args` into the task, so that references to
/// them stay good while it runs.
template <class F, class... Args>
    requires(sizeof...(Args) > 0 && std::invocable<std::decay_t<F>&, std::decay_t<Args>...>)
auto create_task(F&& fn, Args&&... args) {
    return get_running_loop().create_task(std::forward<F>(fn), std::forward<Args>(args)...);
}

/// Tasks that end with an object: a game's entity, a window, a connection.
///
///     class enemy {
///     public:
///         explicit enemy(asyncio::event_loop& loop) : tasks_(loop) {
///             tasks_.create_task(patrol());
///         }
///     private:
///         asyncio::coro<> patrol();   // uses the members
///         double health_ = 100;
///         asyncio::task_scope tasks_; // the last member: it goes first
///     };
///
/// Its destructor destroys the coroutines of these tasks, and of all that they have
/// started, where they stand: the newest task first, in each the innermost frame
/// first, and without a turn of the loop. Whoever awaits one of them gets a
/// cancelled_error. cancel() is the way that lets them clean up with awaits.
///
/// A task may destroy its own scope. It runs on to its next co_await, which never
/// returns; the older tasks of the scope end then, too.
///
/// Lifetime: may outlive the loop, which ends the tasks when it goes.
class task_scope {
public:
    /// Throws: std::runtime_error when the loop is closed.
    ASYNCIO_API explicit task_scope(event_loop& loop);
    task_scope(const task_scope&) = delete;
    task_scope& operator=(const task_scope&) = delete;
    ASYNCIO_API ~task_scope();

    /// As the free create_task(), on the scope's loop. A task that is there already
    /// belongs to the scope from here on, too.
    template <awaitable A>
    auto create_task(A&& work, const task_options& options = {}) {
        auto created = detail::spawn_any(core(), std::forward<A>(work), options, state_);
        if constexpr (detail::is_task<std::decay_t<A>>) adopt(created.state());
        return created;
    }

    /// Cancels the tasks, the oldest first; they end in their own time.
    ASYNCIO_API void cancel();

    /// The number of unfinished tasks.
    ASYNCIO_API std::size_t size() const noexcept;

private:
    ASYNCIO_API detail::loop_core& core() const noexcept;
    ASYNCIO_API void adopt(detail::state_base& task);

    detail::scope_state* state_;
};

/// Waits for `delay` on the loop's clock, at least. Zero or less gives up the loop
/// for one turn. Python's asyncio.sleep.
///
/// Cancellation: the timer is taken back.
inline detail::sleep_awaiter<void> sleep(duration delay) {
    return detail::sleep_awaiter<void>(delay, {});
}
template <class T>
detail::sleep_awaiter<std::decay_t<T>> sleep(duration delay, T&& result) {
    return detail::sleep_awaiter<std::decay_t<T>>(delay, std::forward<T>(result));
}

/// Waits for the next frame of an embedded loop: its next poll(), run_for() or
/// run_once(). Gives the time on the loop's clock from the beginning of the last
/// frame to that of the new one, so that all who wait get the same.
///
///     for (;;) {
///         const asyncio::duration passed = co_await asyncio::next_frame();
///         position += speed * passed.total_seconds();
///     }
///
/// advance() is no frame. In a loop that run() drives each turn is one.
///
/// Cancellation: is delivered in that frame.
inline detail::frame_awaiter next_frame() noexcept { return detail::frame_awaiter(); }

/// The running task; empty in a plain callback. Python's asyncio.current_task.
///
/// Throws: std::runtime_error when no loop runs.
ASYNCIO_API any_task current_task();

/// The unfinished tasks of a loop, oldest first. Python's asyncio.all_tasks.
ASYNCIO_API std::vector<any_task> all_tasks();
ASYNCIO_API std::vector<any_task> all_tasks(event_loop& loop);

/// `co_await fail(code, what)` ends the coroutine with a std::system_error, with and
/// without exceptions.
inline detail::fail_awaiter fail(std::error_code code, std::string what) {
    return detail::fail_with(detail::make_error(std::system_error(code, std::move(what))));
}
/// Passes the error of an outcome on.
///
/// Throws: invalid_state_error when it is empty.
inline detail::fail_awaiter fail(const error& e) {
    if (!e.exception())
        detail::throw_invalid_state("asyncio::fail: the error is empty; nothing went wrong");
    return detail::fail_with(e.exception());
}

} // namespace asyncio::inline ASYNCIO_ABI

template <class T>
struct std::hash<asyncio::task<T>> {
    std::size_t operator()(const asyncio::task<T>& t) const noexcept { return t.hash(); }
};
template <>
struct std::hash<asyncio::any_task> {
    std::size_t operator()(const asyncio::any_task& t) const noexcept { return t.hash(); }
};

// =============================================================================
// [SECTION] runners
// uses: configuration, exceptions, support, events, futures, tasks
//
// From main() into the loop and out again, with nothing left behind.
// =============================================================================

namespace asyncio::inline ASYNCIO_ABI {

namespace detail {

// Throws std::runtime_error when a loop runs on this thread.
ASYNCIO_API void refuse_nested_run(const event_loop* loop, const char* who);

} // namespace detail

/// Owns a loop and runs coroutines on it, one after the other. Python's
/// asyncio.Runner.
///
///     asyncio::runner r({.debug = true});
///     r.run(first());
///     r.run(second()); // on the same loop
///
/// The destructor closes it. What close() throws is printed there, not thrown.
class runner {
public:
    explicit runner(run_options options = {}) : options_(options) {
        detail::define_ASYNCIO_IMPLEMENTATION_in_exactly_one_cpp_file();
    }
    runner(const runner&) = delete;
    runner& operator=(const runner&) = delete;
    ~runner();

    /// Runs `main` and gives its result. Ctrl-C cancels the task that runs `main`.
    ///
    /// Throws: what `main` throws; keyboard_interrupt after Ctrl-C;
    /// std::runtime_error inside a running loop or after close().
    template <class A>
    await_result_t<A> run(A&& main);

    /// The loop, made at the first call.
    event_loop& get_loop();

    /// Cancels the tasks that are left and waits for them, closes generators, shuts
    /// the default executor down, closes the loop. A second close() does nothing.
    void close();

    // For run_main(): what run() gives or throws.
    template <class A>
    detail::caught<await_result_t<A>> run_catching(A&& main);

private:
    class interrupt_guard;
    exception_ptr run_until_done(detail::state_base& main);

    run_options options_;
    detail::box<event_loop> loop_;
    detail::box<context> context_; // what main tasks set in it, the next ones see
    bool closed_ = false;
};

template <class A>
auto event_loop::run_until_complete(A&& main) {
    detail::refuse_nested_run(this, "asyncio::event_loop::run_until_complete");
    if constexpr (detail::is_coro<std::remove_cvref_t<A>>) main.accept_references();
    auto result = detail::ensure_future(*core_, std::forward<A>(main));
    if (exception_ptr error = run_until_done(result.state())) detail::rethrow(std::move(error));
    return std::move(result).result();
}

template <class A>
await_result_t<A> runner::run(A&& main) {
    using T = await_result_t<A>;
    detail::caught<T> got = run_catching(std::forward<A>(main));
    if (got.error) detail::rethrow(std::move(got.error));
    if constexpr (std::is_reference_v<T>) return static_cast<T>(**got.value);
    else if constexpr (!std::is_void_v<T>) return std::move(*got.value);
}

template <class A>
detail::caught<await_result_t<A>> runner::run_catching(A&& main) {
    detail::refuse_nested_run(nullptr, "asyncio::runner::run");
    if constexpr (detail::is_coro<std::remove_cvref_t<A>>) main.accept_references();
    get_loop();
    task_options options;
    options.ctx = &*context_;
    future<await_result_t<A>> result = detail::spawn<await_result_t<A>>(
        loop_->core(), detail::as_coro(std::decay_t<A>(std::forward<A>(main))), options);
    detail::ref_ptr<detail::state_base> state(&result.state());
    result = {};
    detail::caught<await_result_t<A>> got;
    got.error = run_until_done(*state);
    if (!got.error && !state->has_value()) got.error = state->why_no_value();
    if (!got.error)
        got.error = detail::thrown_by([&] {
            got.value.emplace(detail::take_stored<await_result_t<A>>(std::move(state)));
        });
    return got;
}

/// Makes a loop, runs `main` on it, and ends everything that it left: tasks are
/// cancelled and awaited, generators and the default executor are shut down, the loop
/// is closed.
/// Python's asyncio.run.
///
/// Throws: what `main` throws; keyboard_interrupt after Ctrl-C; std::runtime_error
/// inside a running loop.
template <awaitable A>
await_result_t<A> run(A&& main, run_options options = {}) {
    detail::define_ASYNCIO_IMPLEMENTATION_in_exactly_one_cpp_file();
    detail::refuse_nested_run(nullptr, "asyncio::run");
    runner owner(options);
    if constexpr (std::is_void_v<await_result_t<A>>) {
        owner.run(std::forward<A>(main));
        owner.close();
    } else {
        await_result_t<A> result = owner.run(std::forward<A>(main));
        owner.close();
        return result;
    }
}

namespace detail {

// Prints an error that nobody handled; gives the exit code.
ASYNCIO_API int report_uncaught(const exception_ptr& error) noexcept;

} // namespace detail

/// run() for main(): its int result, or 0. Uncaught errors are printed, groups as
/// a tree, and give 1; Ctrl-C gives 130.
template <awaitable A>
int run_main(A&& main, run_options options = {}) {
    ASYNCIO_TRY {
        detail::define_ASYNCIO_IMPLEMENTATION_in_exactly_one_cpp_file();
        detail::refuse_nested_run(nullptr, "asyncio::run_main");
        runner owner(options);
        const auto got = owner.run_catching(std::forward<A>(main));
        owner.close();
        if (got.error) return detail::report_uncaught(got.error);
        if constexpr (std::convertible_to<await_result_t<A>, int>)
            return static_cast<int>(*got.value);
        else return 0;
    } ASYNCIO_CATCH_ALL {
        return detail::report_uncaught(detail::current_error());
    }
}

#if !defined(ASYNCIO_BACKEND_NONE)

namespace detail {

// Waits for one of some signals.
class signal_awaiter : public suspension, public awaitable_base<signal_awaiter, int> {
public:
    ASYNCIO_API explicit signal_awaiter(std::initializer_list<int> numbers);
    ASYNCIO_API signal_awaiter(signal_awaiter&& other) noexcept;
    ~signal_awaiter() { stop(); }

    bool await_ready() const noexcept { return false; }
    template <class Promise>
    void await_suspend(std::coroutine_handle<Promise> h) {
        if (!suspend(h)) return;
        attempt waiting(*this);
        begin();
        waiting.keep();
    }
    int await_resume() {
        stop();
        if (interrupted()) throw_cancelled();
        return received_;
    }

private:
    ASYNCIO_API void begin();
    ASYNCIO_API void stop() noexcept;
    ASYNCIO_API bool on_cancel() noexcept override;

    std::uint64_t numbers_ = 0; // bit n - 1 for signal n
    event_loop* listening_ = nullptr;
    int received_ = 0;
};

} // namespace detail

/// Waits until the process gets one of these signals and gives its number; until
/// then, and only so long, the signal has no other effect.
///
/// Throws: std::invalid_argument or std::runtime_error for what is no signal or
/// cannot be caught.
template <std::same_as<int>... Numbers>
detail::signal_awaiter wait_signal(Numbers... numbers) {
    return detail::signal_awaiter({numbers...});
}

#endif

#if !defined(ASYNCIO_NO_THREADS)

namespace detail {

template <class F>
coro<> run_factory(F factory, std::size_t core) {
    if constexpr (std::invocable<F&, std::size_t>) static_cast<void>(co_await factory(core));
    else static_cast<void>(co_await factory());
}

ASYNCIO_API void run_per_core(std::size_t n, function<coro<>(std::size_t)> make,
                              const run_options& options);

} // namespace detail

/// Runs `n` threads (0: one for each processor that this process may use), each with
/// a loop of its own, which runs what `factory(i)` or `factory()` gives on it; `i`
/// counts from 0. Returns when all have ended. Each thread has a copy of `factory`.
///
///     asyncio::run_per_core(0, []() -> asyncio::coro<> {
///         asyncio::server s = co_await asyncio::start_server(
///             serve, "0.0.0.0", 8080, {.reuse_port = true}); // the system shares them out
///         co_await s.serve_forever();
///     });
///
/// When one fails, or after Ctrl-C, the others are cancelled.
///
/// Throws: what the first one that failed threw; keyboard_interrupt after Ctrl-C;
/// std::runtime_error inside a running loop.
template <class F>
    requires(std::invocable<std::decay_t<F>&, std::size_t> || std::invocable<std::decay_t<F>&>)
void run_per_core(std::size_t n, F&& factory, run_options options = {}) {
    detail::run_per_core(
        n,
        [own = std::decay_t<F>(std::forward<F>(factory))](std::size_t core) {
            return detail::run_factory(own, core);
        },
        options);
}

#endif

} // namespace asyncio::inline ASYNCIO_ABI

// =============================================================================
// [SECTION] timeouts
// uses: configuration, exceptions, support, events, futures, tasks
//
// Limits in time. A timeout cancels the task that stands in its block and turns
// that cancellation, and no other, into a timeout_error.
// =============================================================================

namespace asyncio::inline ASYNCIO_ABI {

namespace detail {

// A value that is there already, or an error, as an awaitable.
template <class T>
class ready_awaiter : public awaitable_base<ready_awaiter<T>, T> {
public:
    using belongs_to_asyncio = void;

    explicit ready_awaiter(stored<T> value = {}, exception_ptr error = {})
        : value_(std::move(value)), error_(std::move(error)) {}
    bool await_ready() const noexcept { return true; }
    template <class Promise>
    void await_suspend(std::coroutine_handle<Promise> h) const noexcept {
        stop_at(h.promise());
    }
    T await_resume() {
        if (error_) rethrow(std::move(error_));
        if constexpr (!std::is_void_v<T>) return std::move(value_);
    }
    exception_ptr failure() const noexcept { return error_; }

private:
    [[no_unique_address]] stored<T> value_;
    exception_ptr error_;
};

} // namespace detail

/// A limit for a block of code, given to with():
///
///     co_await asyncio::with(asyncio::timeout(5s), [&]() -> asyncio::coro<> {
///         co_await download(url);
///     });
///
/// Throws, at the block's end: timeout_error when the limit passed; an error that
/// the block throws instead of its cancellation goes on as it is. Python's
/// asyncio.timeout.
class [[nodiscard("a timeout limits the block that it is given to: co_await with(timeout(5s), "
                  "body)")]] timeout {
public:
    /// No delay: no limit, until reschedule() sets one.
    explicit timeout(std::optional<duration> delay) : delay_(delay) {}
    timeout(timeout&& other);
    timeout& operator=(timeout&&) = delete;
    ~timeout() { timer_.cancel(); }

    /// When the limit passes; nothing: never. Known once the block has begun.
    std::optional<time_point> when() const noexcept;

    /// Moves the limit; nothing: takes it away.
    ///
    /// Throws: std::runtime_error unless the block is running and not expired.
    void reschedule(std::optional<time_point> when);

    /// True once the limit has passed while the block ran.
    bool expired() const noexcept {
        return state_ == state::expiring || state_ == state::expired;
    }

    // What with() calls.
    detail::ready_awaiter<void> aenter();
    detail::ready_awaiter<bool> aexit(const exception_ptr& error) {
        return detail::ready_awaiter<bool>(false, leave(error));
    }
    // Ends the block; gives the timeout_error that takes the place of `error`, if one does.
    exception_ptr leave(const exception_ptr& error);

private:
    friend timeout timeout_at(std::optional<time_point> when);
    enum class state { created, entered, expiring, expired, exited };
    void set(std::optional<time_point> when) noexcept;
    void set_timer();
    void on_timeout();

    std::optional<duration> delay_;
    bool limited_ = false;
    time_point when_; // if limited
    state state_ = state::created;
    handle timer_;
    any_task task_;
    int cancelling_ = 0; // the task's count when the block began
};

/// A timeout that passes at a moment of the loop's clock. Python's
/// asyncio.timeout_at.
ASYNCIO_API timeout timeout_at(std::optional<time_point> when);

namespace detail {

// Cancels a future and waits until it is done.
template <class T>
class cancel_and_wait : public suspension, completion_node {
public:
    using belongs_to_asyncio = void;

    explicit cancel_and_wait(const future<T>& f) noexcept : state_(&f.state()) {
        completed = [](completion_node* node, state_base&) noexcept {
            static_cast<cancel_and_wait*>(node)->wake();
        };
    }
    cancel_and_wait(const cancel_and_wait&) = delete;
    cancel_and_wait& operator=(const cancel_and_wait&) = delete;
    ~cancel_and_wait() {
        if (is_linked()) state_->unlink(*this);
    }
    bool await_ready() const noexcept { return false; }
    template <class Promise>
    void await_suspend(std::coroutine_handle<Promise> h) {
        const bool waits = suspend(h); // not when the waiting task is cancelled itself
        if (waits) state_->link(*this);
        state_->cancel({});
    }
    void await_resume() {
        if (interrupted()) throw_cancelled();
    }

private:
    void show_awaited(awaited_visitor& visitor) override { visitor.visit(*state_); }
    bool on_cancel() noexcept override {
        if (woken()) return false;
        state_->unlink(*this);
        cancel_here();
        return true;
    }
    state_base* state_;
};

// Of a wait_for() whose time is over before it began.
template <class A>
coro<await_result_t<A>> wait_no_longer(A awaited) {
    using T = await_result_t<A>;
    auto f = ensure_future(*running_core(), std::move(awaited));
    const bool late = !f.done();
    if (late) co_await cancel_and_wait<T>(f);
    if (late && f.cancelled()) co_await fail_with(make_error(timeout_error()));
    if constexpr (std::is_void_v<T>) co_await std::move(f);
    else co_return co_await std::move(f);
}

template <class A>
coro<await_result_t<A>> wait_limited(A awaited, duration limit) {
    using T = await_result_t<A>;
    timeout guard(limit);
    co_await guard.aenter();
    caught<T> got;
    if constexpr (awaitable_object<A>) {
        got = co_await catching(std::move(awaited));
    } else {
        std::optional<std::decay_t<decltype(awaited())>> work;
        got.error = thrown_by([&] { work.emplace(awaited()); });
        if (work) got = co_await catching(std::move(*work));
    }
    if (exception_ptr late = guard.leave(got.error)) got.error = std::move(late);
    if (got.error) co_await fail_with(std::move(got.error));
    if constexpr (std::is_reference_v<T>) co_return static_cast<T>(**got.value);
    else if constexpr (!std::is_void_v<T>) co_return std::move(*got.value);
}

} // namespace detail

/// Awaits `work`, but cancels it when `limit` has passed; waits until it has really
/// ended, then throws timeout_error. No limit: waits for ever. A limit of zero or
/// less gives only what is done already. Python's asyncio.wait_for.
///
/// Cancellation: goes on to `work`.
template <awaitable A>
coro<await_result_t<A>> wait_for(A&& work, std::optional<duration> limit) {
    static_assert(detail::closure_survives<A>(),
                  "asyncio::wait_for: g++ up to 12 destroys such a closure twice; name the lambda "
                  "first: auto work = [...]...; co_await wait_for(work, limit)");
    using kept = std::decay_t<A>;
    if (!limit) return detail::as_coro(kept(std::forward<A>(work)));
    if (limit->count() <= 0) return detail::wait_no_longer<kept>(std::forward<A>(work));
    return detail::wait_limited<kept>(std::forward<A>(work), *limit);
}

} // namespace asyncio::inline ASYNCIO_ABI

// =============================================================================
// [SECTION] taskgroups
// uses: configuration, exceptions, support, events, futures, tasks, timeouts
//
// Several things at once, and blocks of code with a beginning and an end.
// =============================================================================

namespace asyncio::inline ASYNCIO_ABI {

// -- with, finally, as_outcome ---------------------------------------------------

namespace detail {

template <class M>
using enter_result_t = await_result_t<decltype(std::declval<M&>().aenter())>;

// What the body's parameter refers to: what aenter() gave, or the manager.
template <class M>
using entered_t = std::conditional_t<std::is_void_v<enter_result_t<M>>, M, enter_result_t<M>>;

template <class M>
concept manager = requires(M& m, exception_ptr error) {
    m.aenter();
    { m.aexit(error) };
};

// A body takes what was entered, or nothing.
template <class Body, class Entered>
decltype(auto) call_body(Body& body, Entered& entered) {
    if constexpr (std::invocable<Body&, Entered&>) return body(entered);
    else return body();
}

// Bodies are coroutines or plain callables.
template <class R>
struct body_result {
    using type = std::remove_cvref_t<R>;
};
template <class R>
    requires awaitable_object<R>
struct body_result<R> {
    using type = await_result_t<R>;
};
template <class Body, class Entered>
using body_result_t = typename body_result<decltype(call_body(
    std::declval<Body&>(), std::declval<Entered&>()))>::type;

// Runs the body within its manager; M is a reference for one that the caller keeps.
template <class M, class Body>
auto run_with(M manager, Body body)
    -> coro<body_result_t<Body, entered_t<std::remove_reference_t<M>>>> {
    using kept = std::remove_reference_t<M>;
    using entered = entered_t<kept>;
    using called = decltype(call_body(std::declval<Body&>(), std::declval<entered&>()));
    using R = body_result_t<Body, entered>;

    std::optional<stored<enter_result_t<kept>>> given;
    if constexpr (std::is_void_v<enter_result_t<kept>>) co_await manager.aenter();
    else given.emplace(co_await manager.aenter());

    entered* what = nullptr;
    if constexpr (std::is_void_v<enter_result_t<kept>>) what = std::addressof(manager);
    else what = std::addressof(*given);

    caught<R> got;
    if constexpr (awaitable_object<called>) {
        std::optional<std::decay_t<called>> work;
        got.error = thrown_by([&] { work.emplace(call_body(body, *what)); });
        if (work) got = co_await catching(std::move(*work));
    } else if constexpr (std::is_void_v<R>) {
        got.error = thrown_by([&] { call_body(body, *what); });
        if (!got.error) got.value.emplace();
    } else {
        got.error = thrown_by([&] { got.value.emplace(call_body(body, *what)); });
    }
    const bool swallowed = co_await manager.aexit(got.error);
    if (got.error && !swallowed) co_await fail_with(std::move(got.error));
    if constexpr (!std::is_void_v<R>) {
        if (!got.value) {
            if constexpr (std::constructible_from<R, std::nullopt_t>) co_return R(std::nullopt);
            else
                co_await fail_with(make_error(invalid_state_error(
                    "asyncio::with: the manager swallowed the error, and the body has no value "
                    "to give; let it return an optional")));
        }
        co_return std::move(*got.value);
    }
}

template <class A>
coro<outcome<await_result_t<A>>> run_as_outcome(coro<await_result_t<A>> work) {
    using T = await_result_t<A>;
    // A cancellation that is meant for the caller goes on; one of `work` is a result.
    task_base& self = *running_core()->current;
    const int requests = self.cancel_requests;
    const bool pending = self.has(task_base::must_cancel);
    caught<T> got = co_await catching(std::move(work));
    if constexpr (std::is_void_v<T>) {
        if (!got.error) co_return outcome<T>();
    } else {
        if (!got.error) co_return outcome<T>(std::move(*got.value));
    }
    const bool delivered = pending && !self.has(task_base::must_cancel);
    const bool caller = self.cancel_requests > requests || delivered;
    if (kind_of(got.error) == error_kind::interrupt ||
        (caller && kind_of(got.error) == error_kind::cancelled))
        co_await fail_with(std::move(got.error));
    co_return outcome<T>(error(std::move(got.error)));
}

template <class Body, class Cleanup>
coro<await_result_t<Body>> run_finally(coro<await_result_t<Body>> body,
                                       coro<await_result_t<Cleanup>> cleanup) {
    using T = await_result_t<Body>;
    caught<T> got = co_await catching(std::move(body));
    co_await std::move(cleanup);
    if (got.error) co_await fail_with(std::move(got.error));
    if constexpr (!std::is_void_v<T>) co_return std::move(*got.value);
}

} // namespace detail

/// Runs `body` between manager.aenter() and manager.aexit(error), which is awaited
/// whatever happens in the body, also when it is cancelled. An rvalue manager is
/// moved in; an lvalue stays the caller's. The body is a coroutine or a plain
/// callable; it takes nothing, or a reference to what aenter() gave (the manager
/// itself, when that is nothing). Its value is the result. Python's `async with`.
///
/// A manager has aenter() and coro<bool> aexit(std::exception_ptr); true swallows
/// the error.
template <class M, class Body>
    requires detail::manager<std::remove_cvref_t<M>>
auto with(M&& manager, Body&& body) {
    static_assert(detail::closure_survives<Body>(),
                  "asyncio::with: g++ up to 12 destroys such a closure twice; name the lambda "
                  "first: auto body = [...]...; co_await with(manager, body)");
    using kept = std::conditional_t<std::is_lvalue_reference_v<M>, M, std::decay_t<M>>;
    return detail::run_with<kept, std::decay_t<Body>>(std::forward<M>(manager),
                                                      std::forward<Body>(body));
}

/// Awaits `body`, then `cleanup`, whether the body succeeded, failed or was
/// cancelled; then the body's outcome goes on. Stands for Python's `finally:` with
/// an await in it, which C++ does not allow in a catch clause.
template <awaitable Body, awaitable Cleanup>
coro<await_result_t<Body>> finally(Body&& body, Cleanup&& cleanup) {
    static_assert(detail::closure_survives<Body>() && detail::closure_survives<Cleanup>(),
                  "asyncio::finally: g++ up to 12 destroys such a closure twice; name the lambda "
                  "first");
    return detail::run_finally<Body, Cleanup>(
        detail::as_coro(std::decay_t<Body>(std::forward<Body>(body))),
        detail::as_coro(std::decay_t<Cleanup>(std::forward<Cleanup>(cleanup))));
}

/// Awaits `work` and never throws its error: it is in the outcome, as is a
/// cancellation of `work` itself. A cancellation of the caller passes through.
template <awaitable A>
coro<outcome<await_result_t<A>>> as_outcome(A&& work) {
    static_assert(detail::closure_survives<A>(),
                  "asyncio::as_outcome: g++ up to 12 destroys such a closure twice; name the "
                  "lambda first");
    return detail::run_as_outcome<A>(detail::as_coro(std::decay_t<A>(std::forward<A>(work))));
}

// -- task_group --------------------------------------------------------------------

/// Tasks that live and end together. When one fails, the others and the body are
/// cancelled; all are awaited; then their errors are thrown as one group.
///
///     asyncio::task<int> a, b;
///     co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& tg) {
///         a = tg.create_task(fetch(1));
///         b = tg.create_task(fetch(2));
///     });
///     use(a.result(), b.result());
///
/// Throws, at the block's end: exception_group of what the children and the body
/// threw; cancelled_error when the task was cancelled from outside; a
/// keyboard_interrupt as it is. Python's asyncio.TaskGroup.
class task_group {
public:
    task_group() = default;
    task_group(task_group&& other);
    task_group& operator=(task_group&&) = delete;
    ~task_group();

    /// As the free create_task(), within the group.
    ///
    /// Throws: std::runtime_error before the block begins, after it ended, and while
    /// the group is ending; `work` is destroyed without running.
    template <awaitable A>
    auto create_task(A&& work, const task_options& options = {}) {
        require_open();
        auto created = detail::spawn_any(*core_, std::forward<A>(work), options);
        adopt(created.state());
        return created;
    }
    template <class F, class... Args>
        requires(sizeof...(Args) > 0 && std::invocable<std::decay_t<F>&, std::decay_t<Args>...>)
    auto create_task(F&& fn, Args&&... args) {
        require_open();
        return create_task(detail::call_owned<std::decay_t<F>, std::decay_t<Args>...>(
            std::forward<F>(fn), std::forward<Args>(args)...));
    }

    /// Ends the group without an error: cancels the children and the body, and the
    /// block ends normally when all have ended.
    void cancel();

    // What with() calls.
    detail::ready_awaiter<void> aenter();
    coro<bool> aexit(exception_ptr error);

private:
    struct child;
    class all_done;

    void require_open() const;
    void adopt(detail::state_base& task);
    void abort();
    void cancel_parent();
    void on_child_done(child& c);

    detail::ref_ptr<detail::loop_core> core_;
    any_task parent_;
    child* children_ = nullptr;
    all_done* waiting_ = nullptr;
    std::vector<exception_ptr> errors_;
    exception_ptr interrupt_;
    bool entered_ = false;
    bool exiting_ = false;
    bool finished_ = false;
    bool aborting_ = false;
    bool parent_cancel_requested_ = false;
};

// -- gather ------------------------------------------------------------------------

namespace detail {

// Some addresses.
class key_set {
public:
    key_set() = default;
    key_set(const key_set&) = delete;
    key_set& operator=(const key_set&) = delete;
    ASYNCIO_API ~key_set();

    // False for one that was in there already.
    ASYNCIO_API bool insert(const void* key);

private:
    struct table;
    table* table_ = nullptr;
};

// Some futures, held. Its functions are compiled once, not in every file that includes
// the header.
class state_list {
public:
    state_list() noexcept = default;
    state_list(state_list&& other) noexcept
        : states_(detail::take(other.states_)), size_(std::exchange(other.size_, 0)) {}
    state_list& operator=(state_list&&) = delete;
    ASYNCIO_API ~state_list();

    ASYNCIO_API void add(state_base& state);
    std::size_t size() const noexcept { return size_; }
    state_base& operator[](std::size_t i) const noexcept { return *states_[i]; }

    // Gives one away; nothing else may be asked of that place.
    ref_ptr<state_base> take(std::size_t i) noexcept {
        return ref_ptr<state_base>::adopt(detail::take(states_[i]));
    }

private:
    state_base** states_ = nullptr; // room for a power of two
    std::size_t size_ = 0;
};

// What gather() waits for, all but the result.
class gather_children {
public:
    gather_children(const gather_children&) = delete;
    gather_children& operator=(const gather_children&) = delete;

    ASYNCIO_API bool cancel_children(std::string_view message);
    ASYNCIO_API void show_children(awaited_visitor& visitor);

    // In the order of the arguments; the same one may stand in several places.
    state_list positions;

protected:
    ASYNCIO_API gather_children(state_list states, bool keep_errors);
    ASYNCIO_API ~gather_children();

    // Waits for each of them; `future` is the one that gather() gives.
    ASYNCIO_API void begin(state_base& future);

private:
    struct child;

    // Makes the result of the children's.
    virtual void assemble() = 0;
    void child_done(child& c);

    state_base* future_ = nullptr;
    child* children_ = nullptr; // an array
    std::size_t count_ = 0;
    std::size_t unfinished_ = 0;
    bool outcomes_;
    bool cancel_requested_ = false;
};

// The future that gather() gives.
template <class Result>
struct gather_state : value_state<Result, state_base>, gather_children {
    gather_state(loop_core& loop, state_list states, bool keep_errors)
        : value_state<Result, state_base>(loop, false),
          gather_children(std::move(states), keep_errors) {
        begin(*this);
    }
    bool cancel(std::string_view message) override {
        return !this->done() && cancel_children(message);
    }
    void show_awaited(awaited_visitor& visitor) override { show_children(visitor); }
};

// One child's part of the result: its value, or its outcome.
template <class T>
outcome<T> take_outcome(ref_ptr<state_base> state) {
    if (state->exception) return outcome<T>(error(state->exception));
    if (state->current == state_base::status::cancelled)
        return outcome<T>(error(make_error(cancelled_error())));
    if constexpr (std::is_void_v<T>) return outcome<T>();
    else return outcome<T>(future<T>::take(std::move(state)));
}
template <bool Outcomes, class T>
using gathered = std::conditional_t<Outcomes, outcome<T>, stored<T>>;

template <bool Outcomes, class T>
gathered<Outcomes, T> take_gathered(ref_ptr<state_base> state) {
    if constexpr (Outcomes) return take_outcome<T>(std::move(state));
    else return take_stored<T>(std::move(state));
}

// std::array when all parts are of one type, else std::tuple.
template <class... Parts>
struct gather_result {
    using type = std::tuple<Parts...>;
};
template <class Part, class... Parts>
    requires(std::same_as<Part, Parts> && ...)
struct gather_result<Part, Parts...> {
    using type = std::array<Part, 1 + sizeof...(Parts)>;
};

template <bool Outcomes, class... Ts>
struct gather_pack final
    : gather_state<typename gather_result<gathered<Outcomes, Ts>...>::type> {
    using result = typename gather_result<gathered<Outcomes, Ts>...>::type;
    using gather_state<result>::gather_state;

    void assemble() override { assemble_at(std::index_sequence_for<Ts...>()); }

private:
    template <std::size_t... I>
    void assemble_at(std::index_sequence<I...>) {
        this->set(result{take_gathered<Outcomes, Ts>(this->positions.take(I))...});
    }
};

template <bool Outcomes, class T>
using range_result =
    std::conditional_t<std::is_void_v<T> && !Outcomes, void, std::vector<gathered<Outcomes, T>>>;

template <bool Outcomes, class T>
struct gather_range final : gather_state<range_result<Outcomes, T>> {
    using gather_state<range_result<Outcomes, T>>::gather_state;

    void assemble() override {
        if constexpr (std::is_void_v<range_result<Outcomes, T>>) {
            this->set({});
        } else {
            range_result<Outcomes, T> values;
            values.reserve(this->positions.size());
            const std::size_t count = this->positions.size();
            for (std::size_t i = 0; i < count; ++i)
                values.push_back(take_gathered<Outcomes, T>(this->positions.take(i)));
            this->set(std::move(values));
        }
    }
};

template <class R>
concept awaitable_range = !awaitable<R> && requires(R& r) {
    std::begin(r);
    std::end(r);
} && awaitable<std::remove_cvref_t<decltype(*std::begin(std::declval<R&>()))>>;

template <class R>
using range_element_t = std::remove_cvref_t<decltype(*std::begin(std::declval<R&>()))>;

// Moves the elements out of a range that is given away.
template <class R, class F>
void for_each_given(R&& range, F&& fn) {
    for (auto&& element : range) {
        if constexpr (std::is_lvalue_reference_v<R>) fn(element);
        else fn(std::move(element));
    }
}

template <class A>
ref_ptr<state_base> state_of(loop_core& core, A&& work) {
    return ref_ptr<state_base>(&ensure_future(core, std::forward<A>(work)).state());
}

template <bool Outcomes, class... As>
auto gather_all(As&&... works) {
    loop_core& core = require_running("gather");
    using state = gather_pack<Outcomes, await_result_t<As>...>;
    state_list states;
    (states.add(*state_of(core, std::forward<As>(works))), ...);
    ref_ptr<state_base> made(new state(core, std::move(states), Outcomes));
    if constexpr (sizeof...(As) == 0) static_cast<state&>(*made).set({});
    return future<typename state::result>(std::move(made));
}

template <bool Outcomes, class R>
auto gather_each(R&& range) {
    loop_core& core = require_running("gather");
    using T = await_result_t<range_element_t<R>>;
    using state = gather_range<Outcomes, T>;
    state_list states;
    for_each_given(std::forward<R>(range), [&](auto&& work) {
        states.add(*state_of(core, std::forward<decltype(work)>(work)));
    });
    const bool none = states.size() == 0;
    ref_ptr<state_base> made(new state(core, std::move(states), Outcomes));
    if (none) static_cast<state&>(*made).assemble();
    return future<range_result<Outcomes, T>>(std::move(made));
}

template <class... As>
inline constexpr bool closures_survive = (closure_survives<As>() && ...);

} // namespace detail

/// Runs everything at the same time and gives the results in the order of the
/// arguments: a std::array when they are of one type, else a std::tuple; void
/// results are std::monostate. A range gives a std::vector; a range of void,
/// nothing. Python's asyncio.gather.
///
/// The first error ends the wait and is thrown; the others run on. With
/// `return_exceptions` as the first argument every result is an outcome, and
/// nothing is thrown.
///
/// Cancellation: cancels all that is not done.
template <awaitable... As>
auto gather(As&&... works) {
    static_assert(detail::closures_survive<As...>,
                  "asyncio::gather: g++ up to 12 destroys such a closure twice; name the lambda "
                  "first");
    return detail::gather_all<false>(std::forward<As>(works)...);
}
template <awaitable... As>
auto gather(return_exceptions_t, As&&... works) {
    static_assert(detail::closures_survive<As...>,
                  "asyncio::gather: g++ up to 12 destroys such a closure twice; name the lambda "
                  "first");
    return detail::gather_all<true>(std::forward<As>(works)...);
}
template <detail::awaitable_range R>
auto gather(R&& range) {
    return detail::gather_each<false>(std::forward<R>(range));
}
template <detail::awaitable_range R>
auto gather(return_exceptions_t, R&& range) {
    return detail::gather_each<true>(std::forward<R>(range));
}

// -- shield ------------------------------------------------------------------------

namespace detail {

ASYNCIO_API void report_if_failed(state_base& inner);

template <class T>
struct shield_state final : value_state<T, state_base> {
    shield_state(loop_core& loop, future<T> shielded)
        : value_state<T, state_base>(loop, false), inner(std::move(shielded)) {
        node.owner = this;
        node.completed = [](completion_node* n, state_base&) noexcept {
            shield_state& self = *static_cast<link*>(n)->owner;
            self.add_ref();
            self.core->schedule(static_cast<link*>(n));
        };
        node.run = [](ready_node* n) { static_cast<link*>(n)->owner->inner_done(); };
        inner.state().link(node);
    }
    ~shield_state() override {
        if (node.is_linked()) inner.state().unlink(node);
    }

    bool cancel(std::string_view message) override {
        if (this->done()) return false;
        if (node.is_linked()) {
            // Nobody waits for it now; an error of it is reported.
            inner.state().unlink(node);
            inner.add_done_callback([](const future<T>& f) { report_if_failed(f.state()); });
        }
        return state_base::cancel(message);
    }

    void show_awaited(awaited_visitor& visitor) override {
        if (node.is_linked()) visitor.visit(inner.state());
    }

private:
    struct link : completion_node, ready_node {
        shield_state* owner = nullptr;
    };

    void inner_done() {
        const auto kept = ref_ptr<shield_state>::adopt(this);
        if (this->core->dropping) return;
        if (this->done()) return report_if_failed(inner.state());
        state_base& ended = inner.state();
        ended.reported = true;
        if (ended.current == state_base::status::cancelled) {
            this->complete_cancelled(ended.exception);
        } else if (ended.exception) {
            this->fail(ended.exception);
        } else {
            ASYNCIO_TRY {
                ref_ptr<state_base> only(&ended);
                inner = future<T>();
                this->set(take_stored<T>(std::move(only)));
            } ASYNCIO_CATCH_ALL {
                this->fail(current_error());
            }
        }
    }

    future<T> inner;
    link node;
};

} // namespace detail

/// Awaits `work`, but keeps it running when the awaiting task is cancelled. Hold a
/// handle of the task if you want to see its end. Python's asyncio.shield.
template <awaitable A>
future<await_result_t<A>> shield(A&& work) {
    static_assert(detail::closure_survives<A>(),
                  "asyncio::shield: g++ up to 12 destroys such a closure twice; name the lambda "
                  "first");
    using T = await_result_t<A>;
    detail::loop_core& core = detail::require_running("shield");
    auto inner = detail::ensure_future(core, std::forward<A>(work));
    if (inner.done()) return inner;
    return future<T>(detail::ref_ptr<detail::state_base>(
        new detail::shield_state<T>(core, std::move(inner))));
}

// -- wait, as_completed ---------------------------------------------------------------

/// When wait() returns.
enum class return_when { all_completed, first_completed, first_exception };

/// Options of wait().
struct wait_options {
    std::optional<duration> timeout = {};
    asyncio::return_when return_when = asyncio::return_when::all_completed;
};

/// What wait() gives, in the order of the arguments.
template <class Handle>
struct wait_result {
    std::vector<Handle> done;
    std::vector<Handle> pending;
};

namespace detail {

// Waits until enough of some futures are done, or a time has come.
class some_done : public timer_suspension {
public:
    ASYNCIO_API some_done(state_list states, return_when until, std::optional<duration> timeout);
    ASYNCIO_API some_done(some_done&& other) noexcept;
    ASYNCIO_API ~some_done();

    ASYNCIO_API bool await_ready() noexcept;
    template <class Promise>
    void await_suspend(std::coroutine_handle<Promise> h) {
        if (suspend(h)) begin();
    }
    ASYNCIO_API void await_resume();

private:
    struct link;
    ASYNCIO_API void begin();
    ASYNCIO_API void show_awaited(awaited_visitor& visitor) override;
    bool enough(const state_base& ended) const noexcept;
    void leave() noexcept;
    bool on_cancel() noexcept override;

    state_list states_;
    link* links_ = nullptr; // one for each of them, once it has begun
    std::size_t unfinished_ = 0;
    return_when until_;
    std::optional<duration> timeout_;
};

template <class Handle>
coro<wait_result<Handle>> wait_on(std::vector<Handle> handles, wait_options options) {
    state_list states;
    for (const Handle& h : handles) states.add(h.state());
    co_await some_done(std::move(states), options.return_when, options.timeout);
    wait_result<Handle> result;
    for (Handle& h : handles) {
        if (h.done()) result.done.push_back(std::move(h));
        else result.pending.push_back(std::move(h));
    }
    co_return result;
}

// Each handle once, in order.
template <class Handle>
std::vector<Handle> without_duplicates(std::vector<Handle> handles) {
    key_set seen;
    std::vector<Handle> unique;
    unique.reserve(handles.size());
    for (Handle& h : handles)
        if (seen.insert(&h.state())) unique.push_back(std::move(h));
    return unique;
}

template <class H>
concept waitable =
    is_future<std::remove_cvref_t<H>> || std::same_as<std::remove_cvref_t<H>, any_task>;

template <class R>
concept waitable_range = requires(R& r) {
    std::begin(r);
    std::end(r);
} && waitable<decltype(*std::begin(std::declval<R&>()))>;

// The one type that holds all of some handles.
template <class First, class... Rest>
struct common_handle {
    using type = any_task;
};
template <class First, class... Rest>
    requires(std::same_as<First, Rest> && ...)
struct common_handle<First, Rest...> {
    using type = First;
};
template <class First, class... Rest>
    requires(!(std::same_as<First, Rest> && ...) &&
             (std::same_as<typename First::value_type, typename Rest::value_type> && ...) &&
             is_future<First> && (is_future<Rest> && ...))
struct common_handle<First, Rest...> {
    using type = future<typename First::value_type>;
};

ASYNCIO_API void require_waitable(std::size_t count, return_when until);

template <class... Hs>
auto wait_pack(wait_options options, const Hs&... handles) {
    using H = typename common_handle<Hs...>::type;
    std::vector<H> all;
    (all.push_back(H(handles)), ...);
    require_waitable(all.size(), options.return_when);
    return wait_on<H>(without_duplicates(std::move(all)), options);
}

} // namespace detail

/// Waits until all of some tasks or futures are done, the first is, or the first
/// has failed; or until the timeout passed. Throws no error of theirs and cancels
/// nothing. Tasks of different types are waited for as any_task. Python's
/// asyncio.wait.
///
/// Throws: std::invalid_argument when there is nothing to wait for.
template <detail::waitable_range R>
auto wait(R&& range, wait_options options = {}) {
    using H = detail::range_element_t<R>;
    std::vector<H> handles;
    for (const auto& h : range) handles.push_back(h);
    detail::require_waitable(handles.size(), options.return_when);
    return detail::wait_on<H>(detail::without_duplicates(std::move(handles)), options);
}
template <detail::waitable... Hs>
    requires(sizeof...(Hs) > 0)
auto wait(const Hs&... handles) {
    return detail::wait_pack({}, handles...);
}
template <class... As>
    requires(sizeof...(As) > 0 && ((awaitable<As> && !detail::waitable<As>) || ...))
void wait(As&&...) {
    static_assert(sizeof...(As) == 0,
                  "asyncio::wait: it takes tasks and futures; make tasks of coroutines with "
                  "create_task() first, so that you can tell them apart in the result");
}
// Options in braces cannot follow a pack: one overload for each number of handles.
template <detail::waitable A>
auto wait(const A& a, wait_options options) {
    return detail::wait_pack(options, a);
}
template <detail::waitable A, detail::waitable B>
auto wait(const A& a, const B& b, wait_options options) {
    return detail::wait_pack(options, a, b);
}
template <detail::waitable A, detail::waitable B, detail::waitable C>
auto wait(const A& a, const B& b, const C& c, wait_options options) {
    return detail::wait_pack(options, a, b, c);
}
template <detail::waitable A, detail::waitable B, detail::waitable C, detail::waitable D>
auto wait(const A& a, const B& b, const C& c, const D& d, wait_options options) {
    return detail::wait_pack(options, a, b, c, d);
}

/// Options of as_completed().
struct as_completed_options {
    std::optional<duration> timeout = {};
};

/// The futures given to as_completed(), in the order in which they end.
template <class Handle>
class completions {
public:
    completions(std::vector<Handle> handles, std::optional<duration> timeout)
        : handles_(detail::without_duplicates(std::move(handles))) {
        if (timeout)
            deadline_ns_ = detail::deadline_after(
                detail::task_now_ns(detail::require_running("as_completed")), *timeout);
        for (std::size_t i = 0; i < handles_.size(); ++i) links_.push_back({*this, i});
        for (link& l : links_) {
            detail::state_base& state = handles_[l.place].state();
            if (state.done()) finished(l);
            else state.link(l);
        }
    }
    completions(const completions&) = delete;
    completions& operator=(const completions&) = delete;
    ~completions() {
        for (link& l : links_)
            if (l.is_linked()) handles_[l.place].state().unlink(l);
    }

    /// The next one to be done; nothing when all have been given.
    ///
    /// Throws: timeout_error for each that was not done when the timeout passed. It
    /// runs on.
    ///
    /// Cancellation: no completion is lost.
    coro<std::optional<Handle>> next() {
        for (;;) {
            if (given_ == handles_.size()) co_return std::nullopt;
            if (first_finished_) break;
            detail::state_list states;
            for (link& l : links_)
                if (l.is_linked()) states.add(handles_[l.place].state());
            std::optional<duration> left;
            if (deadline_ns_ != no_deadline) {
                left = std::chrono::nanoseconds(
                    deadline_ns_ - detail::task_now_ns(get_running_loop().core()));
                if (left->count() <= 0) {
                    ++given_;
                    co_await detail::fail_with(detail::make_error(
                        timeout_error("asyncio::as_completed: the time limit passed")));
                }
            }
            co_await detail::some_done(std::move(states), return_when::first_completed, left);
        }
        ++given_;
        const std::size_t place = first_finished_->place;
        first_finished_ = first_finished_->next_finished;
        co_return handles_[place];
    }

private:
    struct link : detail::completion_node {
        link(completions& o, std::size_t p) : owner(&o), place(p) {
            completed = [](completion_node* node, detail::state_base& state) noexcept {
                auto* self = static_cast<link*>(node);
                if (task_now_ns(*state.core) < self->owner->deadline_ns_)
                    self->owner->finished(*self);
            };
        }
        completions* owner;
        std::size_t place;
        link* next_finished = nullptr;
    };

    void finished(link& l) noexcept {
        (first_finished_ ? last_finished_->next_finished : first_finished_) = &l;
        last_finished_ = &l;
    }

    std::vector<Handle> handles_;
    std::vector<link> links_;
    link* first_finished_ = nullptr; // and not given yet
    link* last_finished_ = nullptr;
    std::size_t given_ = 0;
    static constexpr std::int64_t no_deadline = (std::numeric_limits<std::int64_t>::max)();
    std::int64_t deadline_ns_ = no_deadline;
};

namespace detail {

// What as_completed() yields for an A: itself, or the task made of it.
template <class A>
struct completion_handle {
    using type = task<await_result_t<A>>;
};
template <class A>
    requires is_future<std::remove_cvref_t<A>>
struct completion_handle<A> {
    using type = std::remove_cvref_t<A>;
};

template <class H, class A>
H completion_of(loop_core& core, A&& work) {
    if constexpr (is_future<std::remove_cvref_t<A>>) return H(std::forward<A>(work));
    else return H(spawn_any(core, std::forward<A>(work), {}));
}

} // namespace detail

/// Runs everything and hands each out as it ends:
///
///     auto ends = asyncio::as_completed(tasks);
///     while (auto t = co_await ends.next()) use(t->result());
///
/// Tasks and futures are yielded as they were given; of coroutines, tasks are made.
/// Python's asyncio.as_completed.
template <detail::awaitable_range R>
auto as_completed(R&& range, as_completed_options options = {}) {
    detail::loop_core& core = detail::require_running("as_completed");
    using H = typename detail::completion_handle<detail::range_element_t<R>>::type;
    std::vector<H> handles;
    detail::for_each_given(std::forward<R>(range), [&](auto&& work) {
        handles.push_back(detail::completion_of<H>(core, std::forward<decltype(work)>(work)));
    });
    return completions<H>(std::move(handles), options.timeout);
}
template <awaitable... As>
    requires(sizeof...(As) > 0)
auto as_completed(As&&... works) {
    detail::loop_core& core = detail::require_running("as_completed");
    using H = typename detail::common_handle<
        typename detail::completion_handle<As>::type...>::type;
    std::vector<H> handles;
    (handles.push_back(detail::completion_of<H>(core, std::forward<As>(works))), ...);
    return completions<H>(std::move(handles), std::nullopt);
}

} // namespace asyncio::inline ASYNCIO_ABI

// =============================================================================
// [SECTION] locks
// uses: configuration, exceptions, support, events, futures, tasks
//
// Counters and flags that tasks wait for. None of them blocks a thread, and all
// serve their waiters first come, first served.
// =============================================================================

namespace asyncio::inline ASYNCIO_ABI {

namespace detail {

class waiter_list;

// Debug mode: `task` stays suspended, as what it waits for was destroyed.
ASYNCIO_API void report_orphan(task_base& task) noexcept;

// A task that waits in a line. It stays in the line after it was woken, until its
// step comes, so that newcomers queue behind it.
class list_waiter : public suspension {
public:
    friend class waiter_list;

protected:
    list_waiter() noexcept = default;
    list_waiter(list_waiter&&) noexcept : list_waiter() {}
    ~list_waiter() { leave(); }

    bool in_line() const noexcept { return list_ != nullptr; }
    inline void join(waiter_list& list) noexcept;
    inline void leave() noexcept;

    bool on_cancel() noexcept override {
        if (woken()) return false;
        leave();
        cancel_here();
        return true;
    }

    // Whether a woken one cannot go on without the object that it waited for.
    virtual bool needs_owner() const noexcept { return true; }
    bool confirm() noexcept override {
        if (!orphaned_) return true;
        wait_again();
        return false;
    }

private:
    // The object goes. True: the task stays suspended until it is cancelled.
    bool orphan() noexcept {
        leave();
        if (woken() && !needs_owner()) return false;
        orphaned_ = true;
        if (woken()) task()->set(task_base::must_confirm);
        return true;
    }

    bool orphaned_ = false;
    waiter_list* list_ = nullptr;
    list_waiter* previous_ = nullptr;
    list_waiter* following_ = nullptr;
};

// A line of waiting tasks, the oldest first. Waiting never allocates: the nodes
// live in the coroutine frames. When the line goes, those in it stay suspended and
// can still be cancelled.
class waiter_list {
public:
    waiter_list() noexcept = default;
    waiter_list(const waiter_list&) = delete;
    waiter_list& operator=(const waiter_list&) = delete;
    ~waiter_list() {
        if (first_) detach_all();
    }

    bool empty() const noexcept { return first_ == nullptr; }

    // Wakes the oldest if it sleeps; false when there is none that does.
    bool wake_first() noexcept { return first_ == sleeper_ && wake_next(); }
    // Wakes the oldest that sleeps; false when there is none.
    bool wake_next() noexcept {
        if (!sleeper_) return false;
        std::exchange(sleeper_, sleeper_->following_)->wake();
        return true;
    }

private:
    friend class list_waiter;
    ASYNCIO_API void detach_all() noexcept;

    list_waiter* first_ = nullptr;
    list_waiter* last_ = nullptr;
    list_waiter* sleeper_ = nullptr; // the oldest that was not woken; after it, none was
};

inline void list_waiter::join(waiter_list& list) noexcept {
    list_ = &list;
    previous_ = list.last_;
    (list.last_ ? list.last_->following_ : list.first_) = this;
    list.last_ = this;
    if (!list.sleeper_) list.sleeper_ = this;
}

inline void list_waiter::leave() noexcept {
    if (!list_) return;
    if (list_->sleeper_ == this) list_->sleeper_ = following_;
    (previous_ ? previous_->following_ : list_->first_) = following_;
    (following_ ? following_->previous_ : list_->last_) = previous_;
    list_ = nullptr;
    previous_ = following_ = nullptr;
}

class tie_list;

// Tells code that outlived an object that it did: an object has a tie_list, and who
// wants to know has a tie to it.
class tie {
public:
    explicit tie(tie_list& list) noexcept { link(list); }
    tie(tie&& other) noexcept { *this = std::move(other); }
    tie& operator=(tie&& other) noexcept {
        cut();
        if (tie_list* const list = other.list_) {
            other.cut();
            link(*list);
        }
        return *this;
    }
    ~tie() { cut(); }

    bool holds() const noexcept { return list_ != nullptr; }
    inline void cut() noexcept;

private:
    inline void link(tie_list& list) noexcept;

    tie_list* list_ = nullptr;
    tie* previous_ = nullptr;
    tie* following_ = nullptr;
};

class tie_list {
public:
    tie_list() noexcept = default;
    tie_list(const tie_list&) = delete;
    tie_list& operator=(const tie_list&) = delete;
    ~tie_list() {
        while (first_) first_->cut();
    }

private:
    friend class tie;
    tie* first_ = nullptr;
};

inline void tie::link(tie_list& list) noexcept {
    list_ = &list;
    previous_ = nullptr;
    following_ = list.first_;
    if (following_) following_->previous_ = this;
    list.first_ = this;
}

inline void tie::cut() noexcept {
    if (!list_) return;
    (previous_ ? previous_->following_ : list_->first_) = following_;
    if (following_) following_->previous_ = previous_;
    list_ = nullptr;
}

// Holds a slot and gives it back: what scoped() gives.
template <class Owner>
class [[nodiscard("the guard gives back what it holds when it goes: auto held = co_await "
                  "x.scoped()")]] scoped_guard {
public:
    explicit scoped_guard(Owner& owner) noexcept : owner_(&owner) {}
    scoped_guard(scoped_guard&& other) noexcept : owner_(detail::take(other.owner_)) {}
    scoped_guard& operator=(scoped_guard&& other) noexcept {
        std::swap(owner_, other.owner_);
        return *this;
    }
    ~scoped_guard() {
        if (owner_) owner_->release();
    }

private:
    Owner* owner_;
};

// Waits as Acquire does, then gives a guard.
template <class Owner, class Acquire>
class scoped_awaiter : public Acquire {
public:
    explicit scoped_awaiter(Owner& owner) noexcept : Acquire(owner), owner_(&owner) {}
    typename Owner::guard await_resume() {
        Acquire::await_resume();
        return typename Owner::guard(*owner_);
    }
    operator coro<typename Owner::guard>() && { return as_coro(std::move(*this)); }

private:
    Owner* owner_;
};

} // namespace detail

/// Lets one task at a time into a section of code.
///
///     asyncio::lock mutex;
///     {
///         auto held = co_await mutex.scoped();
///         balance = co_await load() + 1;
///     } // the lock is free again here
///
/// A manager for with(). Python's asyncio.Lock.
class lock {
public:
    class acquire_awaiter;
    class guard;

    lock() noexcept = default;
    lock(const lock&) = delete;
    lock& operator=(const lock&) = delete;

    bool locked() const noexcept { return turn_ != 0; }

    /// Waits until the lock is free and takes it; always gives true.
    ///
    /// Cancellation: the task leaves the line and does not take the lock.
    acquire_awaiter acquire() noexcept;

    /// acquire() with a guard that calls release().
    detail::scoped_awaiter<lock, acquire_awaiter> scoped() noexcept;

    /// Gives the lock to the task that has waited longest.
    ///
    /// Throws: std::runtime_error when it is not locked.
    void release() {
        if (!locked())
            detail::throw_runtime_error("asyncio::lock::release: the lock is not held; acquire() "
                                        "it first, and release it once");
        turn_ = 0;
        waiters_.wake_first();
    }

    acquire_awaiter aenter() noexcept;
    ASYNCIO_API coro<bool> aexit(exception_ptr);

private:
    friend class condition;
    bool take() noexcept {
        turn_ = ++turns_;
        return true;
    }

    std::uint64_t turn_ = 0;  // of who holds it; 0: nobody
    std::uint64_t turns_ = 0; // how many there were
    detail::waiter_list waiters_;
    detail::tie_list guards_;
};

/// Releases a lock when it goes: what scoped() gives. Does nothing when somebody
/// released the lock before, or when the lock is gone.
class [[nodiscard("the guard releases the lock when it goes: auto held = co_await "
                  "mutex.scoped()")]] lock::guard {
public:
    explicit guard(lock& owner) noexcept
        : owner_(&owner), turn_(owner.turn_), tie_(owner.guards_) {}
    guard(guard&&) noexcept = default;
    guard& operator=(guard&& other) noexcept {
        if (this != &other) {
            give_back();
            owner_ = other.owner_;
            turn_ = other.turn_;
            tie_ = std::move(other.tie_);
        }
        return *this;
    }
    ~guard() { give_back(); }

private:
    // A frame that is destroyed in condition::wait() does not hold the lock then.
    void give_back() noexcept {
        if (tie_.holds() && owner_->turn_ == turn_) owner_->release();
    }

    lock* owner_;
    std::uint64_t turn_;
    detail::tie tie_;
};

class lock::acquire_awaiter : public detail::list_waiter,
                              public detail::awaitable_base<lock::acquire_awaiter, bool> {
public:
    explicit acquire_awaiter(lock& owner) noexcept : owner_(&owner) {}
    acquire_awaiter(acquire_awaiter&&) noexcept = default;
    ~acquire_awaiter() {
        // The frame goes before the task could take the turn it was given.
        if (in_line() && woken()) pass_on();
    }

    bool await_ready() noexcept {
        if (owner_->locked() || !owner_->waiters_.empty()) return false;
        return owner_->take();
    }
    template <class Promise>
    void await_suspend(std::coroutine_handle<Promise> h) noexcept {
        if (suspend(h)) join(owner_->waiters_);
    }
    bool await_resume() {
        if (!task()) return true; // it was free
        if (interrupted()) {
            if (in_line()) pass_on();
            throw_cancelled();
        }
        leave();
        return owner_->take();
    }

private:
    // The turn that it was given goes to the next one.
    void pass_on() noexcept {
        leave();
        if (!owner_->locked()) owner_->waiters_.wake_first();
    }

    lock* owner_;
};

inline lock::acquire_awaiter lock::acquire() noexcept { return acquire_awaiter(*this); }
inline lock::acquire_awaiter lock::aenter() noexcept { return acquire_awaiter(*this); }
inline detail::scoped_awaiter<lock, lock::acquire_awaiter> lock::scoped() noexcept {
    return detail::scoped_awaiter<lock, acquire_awaiter>(*this);
}

/// A flag that tasks wait for. Python's asyncio.Event.
class event {
public:
    class wait_awaiter;

    event() noexcept = default;
    event(const event&) = delete;
    event& operator=(const event&) = delete;

    bool is_set() const noexcept { return set_; }

    /// Wakes all that wait, in the order in which they came.
    void set() noexcept {
        if (set_) return;
        set_ = true;
        while (waiters_.wake_next()) {}
    }
    void clear() noexcept { set_ = false; }

    /// Waits until the flag is set; always gives true. Those that waited when it was
    /// set go on even if it is cleared before their turn.
    wait_awaiter wait() noexcept;

private:
    bool set_ = false;
    detail::waiter_list waiters_;
};

class event::wait_awaiter : public detail::list_waiter,
                            public detail::awaitable_base<event::wait_awaiter, bool> {
public:
    explicit wait_awaiter(event& owner) noexcept : owner_(&owner) {}
    wait_awaiter(wait_awaiter&&) noexcept = default;

    bool await_ready() const noexcept { return owner_->set_; }
    template <class Promise>
    void await_suspend(std::coroutine_handle<Promise> h) noexcept {
        if (suspend(h)) join(owner_->waiters_);
    }
    bool await_resume() {
        leave();
        if (interrupted()) throw_cancelled();
        return true;
    }

private:
    bool needs_owner() const noexcept override { return false; }

    event* owner_;
};

inline event::wait_awaiter event::wait() noexcept { return wait_awaiter(*this); }

#if defined(ASYNCIO_BACKEND_NONE)

/// A flag that an interrupt sets and one task waits for.
///
///     asyncio::isr_event button;
///     extern "C" void EXTI0_IRQHandler() { clear_interrupt(); button.set(); }
///
///     for (;;) {
///         co_await button.wait();
///         toggle(led);
///     }
///
/// Several set() before the task comes count as one.
///
/// Lifetime: longer than the interrupts that set it; a global object is right.
class isr_event {
public:
    class wait_awaiter;

    ASYNCIO_API isr_event() noexcept;
    isr_event(const isr_event&) = delete;
    isr_event& operator=(const isr_event&) = delete;
    ASYNCIO_API ~isr_event();

    /// In an interrupt, or anywhere else; the loop wakes up. Takes a few instructions,
    /// and no lock.
    void set() noexcept { set_.store(true); }
    bool is_set() const noexcept { return set_.load(); }

    /// Waits until it is set, and clears it.
    ///
    /// Cancellation: it stays set if it was.
    wait_awaiter wait() noexcept;

    /// True when one that a task waits for is set: with interrupts masked, for
    /// asyncio_port_idle() to see whether it may sleep.
    ASYNCIO_API static bool pending() noexcept;

    // What the loop does in its turn: wakes the tasks whose events are set.
    ASYNCIO_API static void take_all() noexcept;

private:
    std::atomic<bool> set_{false};
    detail::waiter_list waiters_;
    isr_event* next_;
};

class isr_event::wait_awaiter : public detail::list_waiter,
                                public detail::awaitable_base<isr_event::wait_awaiter, void> {
public:
    explicit wait_awaiter(isr_event& owner) noexcept : owner_(&owner) {}
    wait_awaiter(wait_awaiter&&) noexcept = default;

    bool await_ready() const noexcept { return owner_->set_.load(); }
    template <class Promise>
    void await_suspend(std::coroutine_handle<Promise> h) noexcept {
        if (suspend(h)) join(owner_->waiters_);
    }
    void await_resume() {
        leave();
        if (interrupted()) throw_cancelled();
        owner_->set_.store(false);
    }

private:
    isr_event* owner_;
};

inline isr_event::wait_awaiter isr_event::wait() noexcept { return wait_awaiter(*this); }

#endif

/// Lets tasks wait for a change of what a lock guards. Python's asyncio.Condition.
class condition {
public:
    /// Uses `shared`, which several conditions may share, or a lock of its own.
    explicit condition(lock* shared = nullptr) noexcept : lock_(shared ? shared : &own_) {}
    condition(const condition&) = delete;
    condition& operator=(const condition&) = delete;

    bool locked() const noexcept { return lock_->locked(); }
    lock::acquire_awaiter acquire() noexcept { return lock_->acquire(); }
    auto scoped() noexcept { return lock_->scoped(); }
    void release() { lock_->release(); }

    /// Releases the lock, waits for a notification, and takes the lock again; always
    /// gives true.
    ///
    /// Throws: std::runtime_error when the lock is not held.
    ///
    /// Cancellation: the lock is held again when cancelled_error is thrown; a
    /// notification that had been meant for this task goes to another.
    ASYNCIO_API coro<bool> wait();

    /// Waits until `predicate` gives true, or something that converts to true, and
    /// gives that.
    template <class Predicate>
    auto wait_for(Predicate&& predicate) {
        static_assert(detail::closure_survives<Predicate>(),
                      "asyncio::condition::wait_for: g++ up to 12 destroys such a closure twice; "
                      "name the lambda first: auto ready = [...]...; co_await c.wait_for(ready)");
        return wait_until_true<std::decay_t<Predicate>>(std::forward<Predicate>(predicate));
    }

    /// Wakes up to `count` waiters, the oldest first; they go on when they get the
    /// lock.
    ///
    /// Throws: std::runtime_error when the lock is not held.
    ASYNCIO_API void notify(std::size_t count = 1);
    void notify_all() { notify(SIZE_MAX); }

    lock::acquire_awaiter aenter() noexcept { return lock_->acquire(); }
    coro<bool> aexit(exception_ptr error) { return lock_->aexit(std::move(error)); }

private:
    friend class barrier;
    class notified;
    class visit;

    template <class Predicate>
    coro<std::remove_cvref_t<std::invoke_result_t<Predicate&>>> wait_until_true(
        Predicate predicate) {
        for (;;) {
            auto value = predicate();
            if (value) co_return value;
            co_await wait();
        }
    }
    void wake(std::size_t count) noexcept {
        while (count-- > 0 && waiters_.wake_next()) {}
    }

    lock own_;
    lock* lock_;
    detail::waiter_list waiters_;
    detail::tie_list visits_;
};

/// Lets at most `value` tasks into a section of code at the same time.
///
///     asyncio::semaphore slots(4);
///     {
///         auto slot = co_await slots.scoped();
///         co_await download(url);
///     } // the slot is free again here
///
/// A manager for with(). Python's asyncio.Semaphore; scoped() stands for its
/// `async with`.
class semaphore {
public:
    class acquire_awaiter;
    using guard = detail::scoped_guard<semaphore>;

    /// Throws: std::invalid_argument when `value` is negative.
    explicit semaphore(std::ptrdiff_t value = 1) : value_(value) {
        if (value < 0)
            detail::throw_invalid_argument(
                "asyncio::semaphore: the initial value is negative; give 0 or more");
    }
    semaphore(const semaphore&) = delete;
    semaphore& operator=(const semaphore&) = delete;

    /// True when acquire() would have to wait.
    bool locked() const noexcept { return value_ == 0 || !waiters_.empty(); }

    /// Waits for a free slot and takes it; release() gives it back. Always gives
    /// true.
    ///
    /// Cancellation: the task leaves the line and takes no slot.
    acquire_awaiter acquire() noexcept;
    detail::scoped_awaiter<semaphore, acquire_awaiter> scoped() noexcept;

    void release() noexcept {
        ++value_;
        wake_next();
    }

    acquire_awaiter aenter() noexcept;
    ASYNCIO_API coro<bool> aexit(exception_ptr);

protected:
    std::ptrdiff_t value_;

private:
    // A slot is taken for the woken task at once, so that nobody overtakes it.
    bool wake_next() noexcept {
        if (!waiters_.wake_next()) return false;
        --value_;
        return true;
    }

    detail::waiter_list waiters_;
};

class semaphore::acquire_awaiter
    : public detail::list_waiter,
      public detail::awaitable_base<semaphore::acquire_awaiter, bool> {
public:
    explicit acquire_awaiter(semaphore& owner) noexcept : owner_(&owner) {}
    acquire_awaiter(acquire_awaiter&&) noexcept = default;
    ~acquire_awaiter() {
        // The frame goes before the task could use the slot it was given.
        if (in_line() && woken()) give_back();
    }

    bool await_ready() noexcept {
        if (owner_->locked()) return false;
        --owner_->value_;
        return true;
    }
    template <class Promise>
    void await_suspend(std::coroutine_handle<Promise> h) noexcept {
        if (suspend(h)) join(owner_->waiters_);
    }
    bool await_resume() {
        if (!task()) return true; // a slot was free
        const bool granted = in_line();
        if (interrupted()) {
            if (granted) give_back();
            throw_cancelled();
        }
        leave();
        // While this one was in the line, newcomers queued although slots were free.
        while (owner_->value_ > 0 && owner_->wake_next()) {}
        return true;
    }

private:
    void give_back() noexcept {
        leave();
        ++owner_->value_;
        while (owner_->value_ > 0 && owner_->wake_next()) {}
    }

    semaphore* owner_;
};

inline semaphore::acquire_awaiter semaphore::acquire() noexcept { return acquire_awaiter(*this); }
inline semaphore::acquire_awaiter semaphore::aenter() noexcept { return acquire_awaiter(*this); }
inline detail::scoped_awaiter<semaphore, semaphore::acquire_awaiter> semaphore::scoped() noexcept {
    return detail::scoped_awaiter<semaphore, acquire_awaiter>(*this);
}

/// A semaphore that refuses more releases than acquires. Python's
/// asyncio.BoundedSemaphore.
class bounded_semaphore : public semaphore {
public:
    using guard = detail::scoped_guard<bounded_semaphore>;

    explicit bounded_semaphore(std::ptrdiff_t value = 1) : semaphore(value), bound_(value) {}

    detail::scoped_awaiter<bounded_semaphore, acquire_awaiter> scoped() noexcept {
        return detail::scoped_awaiter<bounded_semaphore, acquire_awaiter>(*this);
    }

    /// Throws: std::invalid_argument when every slot is free already.
    void release() {
        if (value_ >= bound_)
            detail::throw_invalid_argument("asyncio::bounded_semaphore::release: it was released "
                                           "more often than acquired");
        semaphore::release();
    }

    ASYNCIO_API coro<bool> aexit(exception_ptr);

private:
    std::ptrdiff_t bound_;
};

/// Lets a fixed number of tasks go on together, round after round. Python's
/// asyncio.Barrier.
class barrier {
public:
    /// Throws: std::invalid_argument when `parties` is below 1.
    explicit barrier(std::ptrdiff_t parties) : parties_(parties) {
        if (parties < 1)
            detail::throw_invalid_argument("asyncio::barrier: it needs at least one party");
    }
    barrier(const barrier&) = delete;
    barrier& operator=(const barrier&) = delete;

    /// Waits until all parties have come; gives the place in the order of arrival.
    ///
    /// Throws: broken_barrier_error when the barrier is reset or aborted meanwhile.
    ///
    /// Cancellation: the place is free for another task.
    ASYNCIO_API coro<std::size_t> wait();

    /// Sends those that wait away with broken_barrier_error and mends the barrier.
    ASYNCIO_API coro<> reset();

    /// Breaks the barrier: all wait() throw broken_barrier_error until reset().
    ASYNCIO_API coro<> abort();

    std::size_t parties() const noexcept { return static_cast<std::size_t>(parties_); }
    /// How many wait for the round to fill; 0 while a full round leaves.
    std::size_t n_waiting() const noexcept {
        return state_ == state::filling ? static_cast<std::size_t>(count_) : 0;
    }
    bool broken() const noexcept { return state_ == state::broken; }

private:
    enum class state { filling, draining, resetting, broken };

    // Leaves the round when wait() ends, however it ends.
    class leaving {
    public:
        explicit leaving(barrier& round) noexcept : round_(round), tie_(round.visits_) {}
        leaving(const leaving&) = delete;
        leaving& operator=(const leaving&) = delete;
        ~leaving() {
            if (tie_.holds()) round_.leave_round();
        }

    private:
        barrier& round_;
        detail::tie tie_;
    };

    coro<> wait_in_round();
    ASYNCIO_API void leave_round() noexcept;

    condition changed_;
    detail::tie_list visits_;
    std::ptrdiff_t parties_;
    std::ptrdiff_t count_ = 0;
    state state_ = state::filling;
};

} // namespace asyncio::inline ASYNCIO_ABI

// =============================================================================
// [SECTION] queues
// uses: configuration, exceptions, support, events, futures, tasks, locks
//
// Items on their way from tasks to tasks.
// =============================================================================

namespace asyncio::inline ASYNCIO_ABI {

namespace detail {

// First in, first out, in one block that doubles when it is full.
template <class T>
class fifo_store {
public:
    std::size_t size() const noexcept { return size_; }
    void push(T&& item) {
        if (size_ > mask_ || slots_.empty()) grow();
        slots_[(first_ + size_) & mask_].emplace(std::move(item));
        ++size_;
    }
    T pop() {
        std::optional<T>& slot = slots_[first_];
        T item = std::move(*slot);
        slot.reset();
        first_ = (first_ + 1) & mask_;
        --size_;
        return item;
    }
    void clear() noexcept { *this = fifo_store(); }

private:
    void grow() {
        std::vector<std::optional<T>> larger(slots_.empty() ? 8 : slots_.size() * 2);
        for (std::size_t i = 0; i < size_; ++i)
            larger[i] = std::move(slots_[(first_ + i) & mask_]);
        slots_ = std::move(larger);
        mask_ = slots_.size() - 1;
        first_ = 0;
    }

    std::vector<std::optional<T>> slots_; // their number is a power of two
    std::size_t mask_ = 0;
    std::size_t first_ = 0;
    std::size_t size_ = 0;
};

template <class T>
class lifo_store {
public:
    std::size_t size() const noexcept { return items_.size(); }
    void push(T&& item) { items_.push_back(std::move(item)); }
    T pop() {
        T item = std::move(items_.back());
        items_.pop_back();
        return item;
    }
    void clear() noexcept { items_.clear(); }

private:
    std::vector<T> items_;
};

// The smallest first.
template <class T, class Compare>
class priority_store {
public:
    std::size_t size() const noexcept { return items_.size(); }
    void push(T&& item) {
        items_.push_back(std::move(item));
        std::push_heap(items_.begin(), items_.end(), after);
    }
    T pop() {
        std::pop_heap(items_.begin(), items_.end(), after);
        T item = std::move(items_.back());
        items_.pop_back();
        return item;
    }
    void clear() noexcept { items_.clear(); }

private:
    static bool after(const T& a, const T& b) { return Compare()(b, a); }
    std::vector<T> items_;
};

// Everything about a queue but its items: who waits for one, and what is still to
// be done.
class queue_base {
public:
    queue_base(const queue_base&) = delete;
    queue_base& operator=(const queue_base&) = delete;

    /// The bound; 0: none.
    std::size_t maxsize() const noexcept { return maxsize_; }

    /// Says that an item taken from the queue has been dealt with; see join().
    ///
    /// Throws: std::invalid_argument when called more often than items were put.
    ASYNCIO_API void task_done();

    /// Waits until task_done() has been called for every item that was put.
    event::wait_awaiter join() noexcept { return finished_.wait(); }

protected:
    class line;

    class line_waiter;

    struct chain {
        line_waiter* first = nullptr;
        line_waiter* last = nullptr;
        inline void insert(line_waiter& w, line_waiter* before) noexcept; // null: as the last
        inline void remove(line_waiter& w) noexcept;
    };

    // A task in one of the two lines. A woken one leaves the line when its step comes;
    // should somebody else have taken the item, or the slot, before that, it goes back
    // to its place.
    class line_waiter : public suspension {
    public:
        // At its step: false sends it back to the line.
        bool confirm() noexcept final;

    protected:
        line_waiter(queue_base& queue, line& l) noexcept : queue_(&queue), line_(&l) {}
        line_waiter(line_waiter&& other) noexcept : line_waiter(*other.queue_, *other.line_) {}
        [[gnu::always_inline]] ~line_waiter() {
            if (in_) [[unlikely]] leave_frame();
        }

        void join() noexcept { line_->join(*this); }
        // First thing in await_resume.
        void leave() noexcept {
            if (in_) line_->leave(*this);
        }
        // It was cancelled: what it may have been woken for is the next one's.
        void pass_on() noexcept {
            if (!line_) return; // the queue is gone
            queue_->wake_getter();
            queue_->wake_putter();
        }
        // The queue is gone, and had been shut down before.
        bool ended() const noexcept { return ended_; }
        bool on_cancel() noexcept override;

        queue_base* queue_;

    private:
        friend class line;
        friend struct chain;
        void leave_frame() noexcept;
        line* line_; // null when the queue is gone
        line_waiter* previous_ = nullptr;
        line_waiter* following_ = nullptr;
        chain* in_ = nullptr;
        std::uint64_t ticket_ = 0; // its place
        bool ended_ = false;
    };

    class line {
    public:
        line() noexcept = default;
        line(const line&) = delete;
        line& operator=(const line&) = delete;

        void join(line_waiter& w) noexcept {
            w.ticket_ = ++tickets_;
            asleep_.insert(w, nullptr);
        }
        // A woken one that got nothing.
        void join_again(line_waiter& w) noexcept {
            line_waiter* behind = asleep_.first;
            while (behind && behind->ticket_ < w.ticket_) behind = behind->following_;
            asleep_.insert(w, behind);
        }
        // True when it had been woken.
        bool leave(line_waiter& w) noexcept {
            const bool was_woken = w.in_ == &woken_;
            if (was_woken) --promised;
            w.in_->remove(w);
            return was_woken;
        }
        // Wakes the oldest when there is more than the woken ones will take.
        void wake_first(std::size_t available) noexcept {
            if (asleep_.first && available > promised) wake_one();
        }
        void wake_all() noexcept {
            while (asleep_.first) wake_one();
        }
        // Somebody else took what the woken ones were to get: their steps look first.
        void check_promises(std::size_t available) noexcept {
            if (promised > available) [[unlikely]] doubt();
        }
        // The queue goes. Who waits stays suspended, unless it had been shut down.
        ASYNCIO_API void detach_all(bool shut_down) noexcept;

        std::size_t promised = 0; // the number of woken ones

    private:
        ASYNCIO_API void doubt() noexcept;
        void wake_one() noexcept {
            line_waiter& w = *asleep_.first;
            asleep_.remove(w);
            woken_.insert(w, nullptr);
            ++promised;
            w.wake();
        }
        chain asleep_; // in the order of their tickets
        chain woken_;
        std::uint64_t tickets_ = 0;
    };

    explicit queue_base(std::ptrdiff_t maxsize) noexcept
        : maxsize_(maxsize > 0 ? static_cast<std::size_t>(maxsize) : 0) {
        finished_.set();
    }
    ~queue_base() {
        getters_.detach_all(shut_down_);
        putters_.detach_all(shut_down_);
    }

    static constexpr std::size_t unbounded = SIZE_MAX;

    std::size_t free_slots() const noexcept {
        if (maxsize_ == 0) return unbounded;
        return count_ < maxsize_ ? maxsize_ - count_ : 0;
    }
    void wake_getter() noexcept { getters_.wake_first(count_); }
    void wake_putter() noexcept { putters_.wake_first(free_slots()); }
    void item_added() noexcept {
        ++count_;
        if (unfinished_++ == 0) finished_.clear();
        if (maxsize_ != 0) putters_.check_promises(free_slots());
        wake_getter();
    }
    void item_taken() noexcept {
        --count_;
        getters_.check_promises(count_);
        wake_putter();
        // Who came after shutdown() and waited for what others had been woken for.
        if (shut_down_ && count_ == 0) getters_.wake_all();
    }
    // After discarding `dropped` items.
    ASYNCIO_API void shut_down(std::size_t dropped) noexcept;

    std::size_t maxsize_;
    std::size_t count_ = 0; // items in the store
    std::size_t unfinished_ = 0;
    bool shut_down_ = false;
    line getters_;
    line putters_;
    event finished_;
};

inline void queue_base::chain::insert(line_waiter& w, line_waiter* before) noexcept {
    w.in_ = this;
    w.following_ = before;
    w.previous_ = before ? before->previous_ : last;
    (w.previous_ ? w.previous_->following_ : first) = &w;
    (before ? before->previous_ : last) = &w;
}

inline void queue_base::chain::remove(line_waiter& w) noexcept {
    (w.previous_ ? w.previous_->following_ : first) = w.following_;
    (w.following_ ? w.following_->previous_ : last) = w.previous_;
    w.in_ = nullptr;
}

inline bool queue_base::line_waiter::confirm() noexcept {
    if (ended_) return true;
    if (line_) {
        line_->leave(*this);
        const std::size_t available =
            line_ == &queue_->getters_ ? queue_->count_ : queue_->free_slots();
        if (available > 0 || queue_->shut_down_) return true;
        line_->join_again(*this);
    }
    wait_again();
    return false;
}

inline void queue_base::line_waiter::leave_frame() noexcept {
    // When the frame goes before its step, what it was woken for is the next one's.
    if (line_->leave(*this)) pass_on();
}

template <class T, class Store>
class basic_queue : public queue_base {
public:
    using value_type = T;

    template <class Result>
    class get_awaiter;
    class put_awaiter;

    std::size_t qsize() const noexcept { return count_; }
    bool empty() const noexcept { return count_ == 0; }
    bool full() const noexcept { return free_slots() == 0; }

    /// Waits for a free slot and puts the item in.
    ///
    /// Throws: queue_shut_down after shutdown().
    ///
    /// Cancellation: an item given with std::move() is still the caller's.
    put_awaiter put(T&& item) { return put_awaiter(*this, std::addressof(item)); }
    put_awaiter put(const T& item) { return put_awaiter(*this, T(item)); }

    /// Throws: queue_full; queue_shut_down after shutdown().
    void put_nowait(T item) {
        if (shut_down_) throw_error(queue_shut_down());
        if (full()) throw_error(queue_full());
        store(std::move(item));
    }

    /// Waits for an item and takes it.
    ///
    /// Throws: queue_shut_down once the queue is shut down and empty.
    ///
    /// Cancellation: no item is lost.
    get_awaiter<T> get() noexcept { return get_awaiter<T>(*this); }

    /// As get(), but gives nothing once the queue is shut down and empty:
    /// `while (auto item = co_await q.next())`.
    get_awaiter<std::optional<T>> next() noexcept { return get_awaiter<std::optional<T>>(*this); }

    /// Throws: queue_empty; queue_shut_down when it is shut down and empty.
    T get_nowait() {
        if (empty()) {
            if (shut_down_) throw_error(queue_shut_down());
            throw_error(queue_empty());
        }
        return take();
    }

    /// No item can be put any more. Those inside can still be taken, unless
    /// `immediate`, which drops them. Then get() throws queue_shut_down.
    void shutdown(bool immediate = false) noexcept {
        const std::size_t dropped = immediate ? count_ : 0;
        if (immediate) items_.clear();
        shut_down(dropped);
    }

protected:
    explicit basic_queue(std::ptrdiff_t maxsize) noexcept : queue_base(maxsize) {}

private:
    void store(T&& item) {
        items_.push(std::move(item));
        item_added();
    }
    T take() {
        T item = items_.pop();
        item_taken();
        return item;
    }

    Store items_;
};

template <class T, class Store>
template <class Result>
class basic_queue<T, Store>::get_awaiter
    : public queue_base::line_waiter,
      public awaitable_base<typename basic_queue<T, Store>::template get_awaiter<Result>, Result> {
public:
    explicit get_awaiter(basic_queue& queue) noexcept
        : line_waiter(queue, queue.getters_) {}
    get_awaiter(get_awaiter&&) noexcept = default;

    bool await_ready() const noexcept {
        const basic_queue& q = queue();
        return q.count_ > q.getters_.promised || (q.shut_down_ && q.count_ == 0);
    }
    template <class Promise>
    void await_suspend(std::coroutine_handle<Promise> h) noexcept {
        if (this->suspend(h)) this->join();
    }
    Result await_resume() {
        this->leave();
        if (this->interrupted()) [[unlikely]] rethrow(failure());
        if (nothing_left()) {
            if constexpr (std::is_same_v<Result, T>) throw_error(queue_shut_down());
            else return std::nullopt;
        }
        return queue().take();
    }
    exception_ptr failure() override {
        this->leave();
        if (this->interrupted()) {
            this->pass_on();
            return suspension::failure();
        }
        if (!std::is_same_v<Result, T> || !nothing_left()) return nullptr;
        return make_error(queue_shut_down());
    }

private:
    bool nothing_left() const noexcept { return this->ended() || queue().count_ == 0; }
    basic_queue& queue() const noexcept { return static_cast<basic_queue&>(*this->queue_); }
};

template <class T, class Store>
class basic_queue<T, Store>::put_awaiter
    : public queue_base::line_waiter,
      public awaitable_base<typename basic_queue<T, Store>::put_awaiter, void> {
public:
    // The item stays where it is until there is a slot; an awaiter that is moved,
    // into a task say, takes it along.
    put_awaiter(basic_queue& queue, T* item) noexcept
        : line_waiter(queue, queue.putters_), item_(item) {}
    put_awaiter(basic_queue& queue, T&& copy)
        : line_waiter(queue, queue.putters_), own_(std::move(copy)), item_(&*own_) {}
    put_awaiter(put_awaiter&& other)
        : line_waiter(std::move(other)), own_(std::move(*other.item_)), item_(&*own_) {}

    bool await_ready() const noexcept {
        const basic_queue& q = queue();
        return q.shut_down_ || q.free_slots() > q.putters_.promised;
    }
    template <class Promise>
    void await_suspend(std::coroutine_handle<Promise> h) noexcept {
        if (this->suspend(h)) this->join();
    }
    void await_resume() {
        this->leave();
        if (this->interrupted() || is_shut_down()) [[unlikely]] rethrow(failure());
        queue().store(std::move(*item_));
    }
    exception_ptr failure() override {
        this->leave();
        if (this->interrupted()) {
            this->pass_on();
            return suspension::failure();
        }
        return is_shut_down() ? make_error(queue_shut_down()) : nullptr;
    }

private:
    bool is_shut_down() const noexcept { return this->ended() || queue().shut_down_; }
    basic_queue& queue() const noexcept { return static_cast<basic_queue&>(*this->queue_); }

    std::optional<T> own_;
    T* item_;
};

} // namespace detail

/// Hands items from tasks to tasks, first in, first out. With a `maxsize` above 0,
/// put() waits while it is full: the producers go no faster than the consumers.
///
///     asyncio::queue<job> jobs(20);
///     co_await jobs.put(std::move(j));                        // the producers
///     jobs.shutdown();                                        // no more
///     while (auto j = co_await jobs.next()) work(*j);         // the consumers
///
/// Python's asyncio.Queue.
template <class T>
class queue : public detail::basic_queue<T, detail::fifo_store<T>> {
public:
    explicit queue(std::ptrdiff_t maxsize = 0) noexcept
        : detail::basic_queue<T, detail::fifo_store<T>>(maxsize) {}
};

/// Gives the smallest item first. Python's asyncio.PriorityQueue.
template <class T, class Compare = std::less<T>>
class priority_queue : public detail::basic_queue<T, detail::priority_store<T, Compare>> {
public:
    explicit priority_queue(std::ptrdiff_t maxsize = 0) noexcept
        : detail::basic_queue<T, detail::priority_store<T, Compare>>(maxsize) {}
};

/// Gives the item put last first. Python's asyncio.LifoQueue.
template <class T>
class lifo_queue : public detail::basic_queue<T, detail::lifo_store<T>> {
public:
    explicit lifo_queue(std::ptrdiff_t maxsize = 0) noexcept
        : detail::basic_queue<T, detail::lifo_store<T>>(maxsize) {}
};

} // namespace asyncio::inline ASYNCIO_ABI

// =============================================================================
// [SECTION] executors
// uses: configuration, exceptions, support, codec, events, futures, tasks,
//       taskgroups
//
// Work that would block the loop runs elsewhere: on threads, or in processes of
// its own where a crash, a leak or an endless loop costs only the job. A
// concurrent_future stands for the job on every thread, and can be awaited.
// =============================================================================

#if !defined(ASYNCIO_NO_THREADS)

namespace asyncio::inline ASYNCIO_ABI {

template <class T>
class concurrent_future;

namespace detail {

// When a thread has waited long enough. std::optional is much dearer to compile.
using steady_time = std::chrono::steady_clock::time_point;
inline constexpr steady_time no_steady_time = (steady_time::max)();
ASYNCIO_API steady_time steady_deadline(std::optional<duration> timeout) noexcept;
ASYNCIO_API duration left_until(steady_time deadline) noexcept;

// A mutex for a few pointer assignments, four bytes large.
class job_lock {
public:
    void lock() noexcept;
    void unlock() noexcept;

private:
    static constexpr int free = 0, held = 1, contended = 2;
    std::atomic<int> state_{free};
};

class concurrent_base;

// Somebody who wants to know that a concurrent future is done.
struct done_node {
    done_node* previous = nullptr;
    done_node* following = nullptr;

    // Called once, on the thread that completes it, in the order of registration.
    virtual void done(concurrent_base& state) noexcept = 0;
    // Called instead when the future goes away unfinished.
    virtual void dropped() noexcept {}

protected:
    done_node() = default;
    done_node(const done_node&) = delete;
    ~done_node() = default;
};

// The shared state of a concurrent future, all but the value.
class concurrent_base {
public:
    enum class status : std::uint8_t { pending, running, finished, cancelled };

    concurrent_base() = default;
    concurrent_base(const concurrent_base&) = delete;
    concurrent_base& operator=(const concurrent_base&) = delete;

    // Everybody who needs the object: its executor, those who wait.
    void add_ref() noexcept { refs_.fetch_add(1, std::memory_order_relaxed); }
    void release() noexcept {
        if (refs_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
    }

    // Those who can ask for the value. The last one may move it out, whether or
    // not the executor has let go of the job already.
    void add_handle() noexcept { handles_.fetch_add(1, std::memory_order_relaxed); }
    void release_handle() noexcept { handles_.fetch_sub(1, std::memory_order_acq_rel); }
    bool only_handle() const noexcept { return handles_.load(std::memory_order_acquire) == 1; }

    status current() const noexcept { return status_.load(std::memory_order_acquire); }
    bool done() const noexcept { return current() >= status::finished; }

    // For the executor, before it runs the job. False: cancelled, do not run it.
    ASYNCIO_API bool start() noexcept;

    // When it was, in nanoseconds of the system's monotonic clock; 0 before that.
    std::int64_t started_at() const noexcept {
        return started_at_.load(std::memory_order_relaxed);
    }

    // False when it is running or finished.
    ASYNCIO_API bool cancel() noexcept;

    // The task that awaits it was cancelled. Stops the job where that is possible.
    virtual void abort() noexcept { cancel(); }

    // False when it is done already, and the node has not joined.
    ASYNCIO_API bool watch(done_node& node) noexcept;

    // False when the node is being called, or has been.
    ASYNCIO_API bool unwatch(done_node& node) noexcept;

    // Whoever sets the outcome says so first. False: there is one, or somebody else
    // is setting it.
    ASYNCIO_API bool claim() noexcept;

    // Ends it with the outcome that has been stored since claim().
    ASYNCIO_API void publish(status how) noexcept;

    // Ends it with an error; false when it has an outcome.
    ASYNCIO_API bool fail(exception_ptr why) noexcept;

    // Ends it as cancelled, running or not; false when it has an outcome.
    ASYNCIO_API bool cancel_anyway() noexcept;

    // Blocks until it is done; false when the time passed first.
    ASYNCIO_API bool wait(std::optional<duration> timeout) noexcept;

    // Blocks, and throws what result() throws without a value. `last`: by the handle
    // that will not ask again; the error is moved out if there is no other.
    ASYNCIO_API void require_value(std::optional<duration> timeout, bool last);

    // Blocks, and gives what exception() gives.
    ASYNCIO_API exception_ptr exception(std::optional<duration> timeout);

    // claim(), or invalid_state_error.
    ASYNCIO_API void require_claim();

    exception_ptr error;

protected:
    ASYNCIO_API virtual ~concurrent_base();

private:
    std::atomic<std::size_t> refs_{0};
    std::atomic<std::size_t> handles_{0};
    std::atomic<std::int64_t> started_at_{0};
    std::atomic<status> status_{status::pending};
    bool claimed_ = false;
    job_lock lock_;
    done_node* first_ = nullptr;
    done_node* last_ = nullptr;
};

template <class T>
class concurrent_state : public concurrent_base {
public:
    std::optional<stored<T>> value;

    bool finish(stored<T> result) noexcept {
        if (!claim()) return false;
        finish_claimed(std::move(result));
        return true;
    }
    void finish_claimed(stored<T> result) noexcept {
        ASYNCIO_TRY {
            value.emplace(std::move(result));
        } ASYNCIO_CATCH_ALL {
            error = current_error();
        }
        publish(status::finished);
    }

    // The value, moved out if nobody else can ask for it.
    T take() {
        if constexpr (!std::is_void_v<T>) {
            if (only_handle()) return std::move(*value);
            if constexpr (copies<T>) return *value;
            else
                throw_invalid_state(
                    "asyncio::concurrent_future: the value cannot be copied, and other handles "
                    "exist that could ask for it; keep one handle only, or take a reference");
        }
    }
};

// A done-callback of the user's. What it throws is printed, and the others run.
template <class T, class F>
struct concurrent_callback final : done_node {
    explicit concurrent_callback(F f) : fn(std::move(f)) {}
    void done(concurrent_base& state) noexcept override;
    void dropped() noexcept override { delete this; }
    F fn;
};

ASYNCIO_API void report_callback_error() noexcept;

// What a loop does when a job is done: the part that lives on the loop's thread.
class relay_target {
public:
    relay_target() noexcept = default;
    relay_target(const relay_target&) = delete;
    relay_target& operator=(const relay_target&) = delete;
    virtual void job_done() noexcept = 0;

protected:
    // Joins; false when the job is done already.
    ASYNCIO_API bool join(concurrent_base& job, loop_core& core);
    // Joins; of a job that is done already it hears in the loop's next turn.
    ASYNCIO_API void follow(concurrent_base& job, loop_core& core);
    // The loop has lost interest. On the loop's thread, like the destructor.
    ASYNCIO_API void leave() noexcept;
    ~relay_target() { leave(); }

private:
    friend struct loop_relay;
    struct loop_relay* relay_ = nullptr;
    ref_ptr<concurrent_base> job_;
};

// Waits in a task for a concurrent future.
template <class T, bool Move>
class concurrent_awaiter : suspension, relay_target {
public:
    using belongs_to_asyncio = void;

    explicit concurrent_awaiter(concurrent_future<T> future) noexcept
        : future_(std::move(future)) {}
    concurrent_awaiter(const concurrent_awaiter&) = delete;

    bool await_ready() const {
        const loop_core* const core = running_core();
        return future_.state().done() && !(core && stops_here(*core));
    }
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> h) {
        if (!suspend(h)) {
            future_.state().abort();
            return true;
        }
        hold_ = clock_hold(*core());
        if (!join(future_.state(), *core())) wake();
        return true;
    }
    decltype(auto) await_resume() {
        if (interrupted()) throw_cancelled();
        future_.state().require_value({}, Move);
        if constexpr (Move) return future_.state().take();
        else if constexpr (!std::is_void_v<T>) return static_cast<const T&>(*future_.state().value);
    }

private:
    void job_done() noexcept override {
        hold_.reset();
        if (!woken()) wake();
    }
    bool on_cancel() noexcept override {
        if (woken()) return false;
        leave();
        hold_.reset();
        future_.state().abort();
        cancel_here();
        return true;
    }

    concurrent_future<T> future_;
    clock_hold hold_;
};

} // namespace detail

/// The result of a job that runs elsewhere. Copyable handle; the job goes on when
/// the handles are gone. Python's concurrent.futures.Future, and awaitable.
///
///     asyncio::concurrent_future<int> f = pool.submit(count_words, text);
///     int n = co_await f; // in a coroutine; f.result() blocks the thread instead
///
/// Cancellation: a task that is cancelled while it awaits one cancels the job if
/// it has not begun; one that runs in a process of its own is killed.
/// Thread safety: everything may be called on any thread at any time.
template <class T>
class concurrent_future {
public:
    using value_type = T;

    /// An empty handle.
    concurrent_future() noexcept = default;
    concurrent_future(const concurrent_future& other) noexcept : state_(other.state_) {
        if (state_) state_->add_handle();
    }
    concurrent_future(concurrent_future&& other) noexcept : state_(std::move(other.state_)) {}
    concurrent_future& operator=(concurrent_future other) noexcept {
        std::swap(state_, other.state_);
        return *this;
    }
    ~concurrent_future() {
        if (state_) state_->release_handle();
    }

    /// A pending one, for executors and tests: whoever makes it sets its outcome.
    static concurrent_future create() {
        return concurrent_future(
            detail::ref_ptr<detail::concurrent_state<T>>(new detail::concurrent_state<T>));
    }

    bool valid() const noexcept { return static_cast<bool>(state_); }

    bool done() const { return state().done(); }
    bool running() const { return state().current() == detail::concurrent_base::status::running; }
    bool cancelled() const {
        return state().current() == detail::concurrent_base::status::cancelled;
    }

    /// Takes the job back. False when it is running or finished.
    bool cancel() const { return state().cancel(); }

    /// The value; blocks this thread until it is there, or for `timeout`.
    ///
    /// Throws: what the job threw; cancelled_error; timeout_error, and then nothing
    /// has changed.
    decltype(auto) result() const& { return view({}); }
    decltype(auto) result(duration timeout) const& { return view(timeout); }
    T result() && {
        state().require_value({}, true);
        return state().take();
    }
    T result(duration timeout) && {
        state().require_value(timeout, true);
        return state().take();
    }

    /// What the job threw, or null; blocks like result().
    ///
    /// Throws: cancelled_error, timeout_error.
    exception_ptr exception() const { return state().exception({}); }
    exception_ptr exception(duration timeout) const { return state().exception(timeout); }

    /// Runs `fn`, which takes the future or nothing, on the thread that completes
    /// it; at once when it is done already. Callbacks run in the order given, and
    /// what one throws is printed to standard error.
    template <class F>
    void add_done_callback(F&& fn) const {
        auto node = std::make_unique<detail::concurrent_callback<T, std::decay_t<F>>>(
            std::forward<F>(fn));
        if (state().watch(*node)) static_cast<void>(node.release());
        else node.release()->done(state());
    }

    /// For executors: the job begins. False when it was cancelled; do not run it.
    ///
    /// Throws: invalid_state_error when it has begun already.
    bool set_running() const {
        if (state().start()) return true;
        if (cancelled()) return false;
        detail::throw_invalid_state(
            "asyncio::concurrent_future: the job has begun already; start it once");
    }

    /// For executors: the outcome.
    ///
    /// Throws: invalid_state_error when there is one; the first is kept.
    template <class U = T>
        requires(!std::is_void_v<T>)
    void set_result(U&& value) const {
        T result(std::forward<U>(value));
        state().require_claim();
        state().finish_claimed(std::move(result));
    }
    void set_result() const
        requires std::is_void_v<T>
    {
        state().require_claim();
        state().finish_claimed({});
    }
    void set_exception(exception_ptr error) const {
        state().require_claim();
        state().error = std::move(error);
        state().publish(detail::concurrent_base::status::finished);
    }
    template <class E>
        requires(!std::same_as<std::remove_cvref_t<E>, exception_ptr>)
    void set_exception(E&& error) const {
        set_exception(detail::make_error(std::forward<E>(error)));
    }

    detail::concurrent_awaiter<T, false> operator co_await() const& {
        return detail::concurrent_awaiter<T, false>(checked(*this));
    }
    detail::concurrent_awaiter<T, true> operator co_await() && {
        return detail::concurrent_awaiter<T, true>(checked(std::move(*this)));
    }

    friend bool operator==(const concurrent_future& a, const concurrent_future& b) noexcept {
        return a.state_ == b.state_;
    }

    // For the library's own functions.
    explicit concurrent_future(detail::ref_ptr<detail::concurrent_state<T>> state) noexcept
        : state_(std::move(state)) {
        if (state_) state_->add_handle();
    }
    detail::concurrent_state<T>& state() const {
        if (!state_)
            detail::throw_invalid_state("asyncio::concurrent_future: the handle is empty; get one "
                                        "from submit()");
        return *state_;
    }

private:
    template <class Self>
    static Self&& checked(Self&& self) {
        self.state();
        return std::forward<Self>(self);
    }
    decltype(auto) view(std::optional<duration> timeout) const {
        state().require_value(timeout, false);
        if constexpr (!std::is_void_v<T>) return static_cast<const T&>(*state_->value);
    }

    detail::ref_ptr<detail::concurrent_state<T>> state_;
};

namespace detail {

template <class T, class F>
void concurrent_callback<T, F>::done(concurrent_base& state) noexcept {
    const std::unique_ptr<concurrent_callback> own(this);
    ASYNCIO_TRY {
        if constexpr (std::invocable<F&, concurrent_future<T>>)
            fn(concurrent_future<T>(
                ref_ptr<concurrent_state<T>>(static_cast<concurrent_state<T>*>(&state))));
        else fn();
    } ASYNCIO_CATCH_ALL {
        report_callback_error();
    }
}

// -- jobs that run in this process -------------------------------------------------

// What a thread takes out of a queue and runs.
class local_job {
public:
    local_job* next = nullptr;

    // Runs it and keeps the outcome; the callable and its arguments are gone then.
    virtual void run() noexcept = 0;
    virtual concurrent_base& state() noexcept = 0;

protected:
    ~local_job() = default;
};

struct plain_call {
    template <class Fn, class... Args>
    static decltype(auto) call(Fn& fn, Args&... args) {
        return std::invoke(fn, std::move(args)...);
    }
};

template <class R, class Call, class Fn, class... Args>
class local_job_of final : public concurrent_state<R>, public local_job {
public:
    template <class F, class... A>
    explicit local_job_of(F&& fn, A&&... args)
        : fn_(std::forward<F>(fn)), args_(std::in_place, std::forward<A>(args)...) {}

    void run() noexcept override {
        this->claim();
        const auto work = [this](Args&... args) -> decltype(auto) {
            return Call::call(*fn_, args...);
        };
        ASYNCIO_TRY {
            if constexpr (std::is_void_v<R>) {
                std::apply(work, *args_);
                this->value.emplace();
            } else {
                this->value.emplace(std::apply(work, *args_));
            }
        } ASYNCIO_CATCH_ALL {
            this->error = current_error();
        }
        args_.reset();
        fn_.reset();
    }
    concurrent_base& state() noexcept override { return *this; }

private:
    std::optional<Fn> fn_;
    std::optional<std::tuple<Args...>> args_;
};

// -- jobs that run in another process ----------------------------------------------

using code_pointer = void (*)();
using remote_entry = void (*)(decoder& in, encoder& out);

// A function as the program file or library it is in, and its place there:
// processes have the same program at different addresses.
ASYNCIO_API void put_code(encoder& out, code_pointer code);
ASYNCIO_API code_pointer get_code(decoder& in);

// An encoded call on its way to a worker: bytes, or shared memory if they are many.
class outgoing final : encoder_overflow {
public:
    ASYNCIO_API outgoing();
    ASYNCIO_API ~outgoing();
    outgoing(const outgoing&) = delete;
    outgoing& operator=(const outgoing&) = delete;

    // Nothing is put after this.
    ASYNCIO_API void seal();

    encoder out;
    int shared = -1; // descriptor of the memory that holds all bytes; -1: they are in `out`

private:
    ASYNCIO_API void take(std::string& buffered, const char* data, std::size_t size) override;
    void spill(const char* data, std::size_t size);
};

class executor_core;

// What an isolated executor keeps while a worker runs the call.
class remote_job {
public:
    virtual void decode_result(decoder& in) = 0;
    virtual concurrent_base& state() noexcept = 0;

    std::weak_ptr<executor_core> pool; // set once, before anybody else knows the job

protected:
    ~remote_job() = default;
    // Takes the job back, or kills the worker that runs it.
    ASYNCIO_API void stop() noexcept;
};

template <class R>
class remote_job_of final : public concurrent_state<R>, public remote_job {
public:
    void abort() noexcept override { stop(); }
    void decode_result(decoder& in) override {
        if constexpr (std::is_void_v<R>) this->value.emplace();
        else this->value.emplace(in.get<R>());
        in.finish();
    }
    concurrent_base& state() noexcept override { return *this; }
};

template <class Fn>
struct signature {
    using parameters = void; // overloaded, or a template
};
template <class R, class... P>
struct signature<R (*)(P...)> {
    using parameters = type_list<P...>;
};
template <class R, class... P>
struct signature<R (*)(P...) noexcept> : signature<R (*)(P...)> {};
template <class C, class R, class... P>
struct signature<R (C::*)(P...)> : signature<R (*)(P...)> {};
template <class C, class R, class... P>
struct signature<R (C::*)(P...) const> : signature<R (*)(P...)> {};
template <class C, class R, class... P>
struct signature<R (C::*)(P...) noexcept> : signature<R (*)(P...)> {};
template <class C, class R, class... P>
struct signature<R (C::*)(P...) const noexcept> : signature<R (*)(P...)> {};
template <class Fn>
    requires requires { &Fn::operator(); }
struct signature<Fn> : signature<decltype(&Fn::operator())> {};

template <class T>
inline constexpr bool is_span = false;
template <class T, std::size_t N>
inline constexpr bool is_span<std::span<T, N>> = true;

template <class T>
concept reference_like = requires(const T& t) {
    typename T::type;
    { t.get() } -> std::same_as<typename T::type&>;
};

// What travels for a parameter P: the text instead of a view of it, and so on.
template <class P>
struct sent_for {
    using type = std::remove_cvref_t<P>;
};
template <>
struct sent_for<std::string_view> {
    using type = std::string;
};
template <class T, std::size_t N>
struct sent_for<std::span<T, N>> {
    using type = std::vector<std::remove_cv_t<T>>;
};

// What travels for an argument when the parameter is unknown.
template <class A>
using sent_alone =
    std::conditional_t<std::same_as<A, const char*> || std::same_as<A, char*>, std::string, A>;

template <class Parameters, class... Args>
struct sent_types {
    using type = type_list<sent_alone<std::decay_t<Args>>...>;
};
template <class... P, class... Args>
    requires(sizeof...(P) == sizeof...(Args))
struct sent_types<type_list<P...>, Args...> {
    using type = type_list<typename sent_for<std::remove_cvref_t<P>>::type...>;
};

// A callable that can be sent: a function, a type without state, or plain state.
template <class Fn>
concept sendable_callable =
    (std::is_pointer_v<Fn> && std::is_function_v<std::remove_pointer_t<Fn>>) ||
    (std::is_class_v<Fn> && ((std::is_empty_v<Fn> && std::default_initializable<Fn>) ||
                             encodable<Fn>));

template <sendable_callable Fn>
void put_callable(encoder& out, const Fn& fn) {
    if constexpr (std::is_pointer_v<Fn>) put_code(out, reinterpret_cast<code_pointer>(fn));
    else if constexpr (!std::is_empty_v<Fn>) out.put(fn);
}
template <sendable_callable Fn>
Fn get_callable(decoder& in) {
    if constexpr (std::is_pointer_v<Fn>) return reinterpret_cast<Fn>(get_code(in));
    else if constexpr (!std::is_empty_v<Fn>) return in.get<Fn>();
    else return Fn();
}

template <class Fn, class Types>
struct remote_call;
template <class Fn, class... Sent>
struct remote_call<Fn, type_list<Sent...>> {
    // An argument that has arrived is moved into the function; but a span needs
    // something that stays.
    template <class P, class T>
    static decltype(auto) hand_over(T& arg) {
        if constexpr (is_span<std::remove_cvref_t<P>>) return std::remove_cvref_t<P>(arg);
        else return std::move(arg);
    }
    template <class... P>
    static decltype(auto) call_as(type_list<P...>, Fn& fn, Sent&... args) {
        return fn(hand_over<P>(args)...);
    }
    static decltype(auto) call(Fn& fn, Sent&... args) {
        using parameters = typename signature<Fn>::parameters;
        if constexpr (std::is_void_v<parameters>) return fn(std::move(args)...);
        else return call_as(parameters(), fn, args...);
    }

    // Runs in the worker. There is no format to agree on beyond the types: both
    // sides are the same program.
    static void run(decoder& in, encoder& out) {
        Fn fn = get_callable<Fn>(in);
        std::tuple<Sent...> arguments{in.get<Sent>()...};
        in.finish();
        const auto work = [&](Sent&... args) -> decltype(auto) { return call(fn, args...); };
        using result = decltype(std::apply(work, arguments));
        if constexpr (std::is_void_v<result>) std::apply(work, arguments);
        else out.put<std::remove_cvref_t<result>>(std::apply(work, arguments));
    }

    template <class... Args>
    static void encode(encoder& out, const Fn& fn, const Args&... args) {
        put_code(out, reinterpret_cast<code_pointer>(static_cast<remote_entry>(&run)));
        put_callable(out, fn);
        (put_as<Sent>(out, args), ...);
    }
    // Without a copy where the argument is what travels.
    template <class S, class A>
    static void put_as(encoder& out, const A& arg) {
        if constexpr (std::same_as<S, A>) out.put(arg);
        else if constexpr (is_span<A>) out.put(S(arg.begin(), arg.end()));
        else out.put(S(arg));
    }
};

// What is known about a call before any of it is compiled.
template <class P, class S>
using handed = std::conditional_t<is_span<std::remove_cvref_t<P>>, std::remove_cvref_t<P>, S>;

template <class Fn, class Parameters, class Sent>
struct remote_result {
    static constexpr bool callable = false;
};
template <class Fn, class... S>
    requires std::invocable<Fn&, S...>
struct remote_result<Fn, void, type_list<S...>> {
    static constexpr bool callable = true;
    using type = std::remove_cvref_t<std::invoke_result_t<Fn&, S...>>;
};
template <class Fn, class... P, class... S>
    requires(sizeof...(P) == sizeof...(S) && std::invocable<Fn&, handed<P, S>...>)
struct remote_result<Fn, type_list<P...>, type_list<S...>> {
    static constexpr bool callable = true;
    using type = std::remove_cvref_t<std::invoke_result_t<Fn&, handed<P, S>...>>;
};

template <class T>
inline constexpr bool result_travels = encodable<T>;
template <>
inline constexpr bool result_travels<void> = true;

template <class Fn, class... Args>
struct call_traits {
    using callable = std::decay_t<Fn>;
    using parameters = typename signature<callable>::parameters;
    using sent = typename sent_types<parameters, Args...>::type;
    using remote = remote_result<callable, parameters, sent>;

    template <class S, class Arg>
    static constexpr bool sends_as =
        std::same_as<S, Arg> || is_span<Arg> || std::constructible_from<S, const Arg&>;

    template <class... S>
    static constexpr bool sendable_arguments(type_list<S...>) {
        if constexpr (sizeof...(S) == sizeof...(Args))
            return ((encodable<S> && sends_as<S, std::remove_cvref_t<Args>>) && ...);
        else return false;
    }
    static constexpr bool travels() {
        if constexpr (sendable_callable<callable> && remote::callable)
            return sendable_arguments(sent()) && result_travels<typename remote::type>;
        else return false;
    }
};

template <class Fn, class... Args>
using job_result_t =
    std::remove_cvref_t<std::invoke_result_t<std::decay_t<Fn>&, std::decay_t<Args>...>>;

// -- executors ---------------------------------------------------------------------

// What an executor object holds. Threads that work for it share it, so that it may
// outlive the object.
class executor_core : public std::enable_shared_from_this<executor_core> {
public:
    explicit executor_core(bool is_remote) noexcept : remote(is_remote) {}
    executor_core(const executor_core&) = delete;
    executor_core& operator=(const executor_core&) = delete;
    virtual ~executor_core() = default;

    const bool remote; // jobs are encoded calls

    // Throws: std::runtime_error after shutdown, broken_executor.
    virtual void submit(ref_ptr<concurrent_base> state, local_job& job);
    virtual void submit(ref_ptr<concurrent_base> state, remote_job& job,
                        box<outgoing> call);

    virtual void stop(remote_job& job) noexcept;
    virtual void shutdown(bool wait, bool cancel_futures) = 0;
    virtual void kill(int signal);
    // What the executor's destructor does.
    virtual void close() noexcept = 0;
};

template <class R, class Call, class... Stored, class Fn, class... Args>
ref_ptr<concurrent_state<R>> submit_local(executor_core& core, type_list<Stored...>, Fn&& fn,
                                          Args&&... args) {
    using job = local_job_of<R, Call, std::decay_t<Fn>, Stored...>;
    auto* made = new job(std::forward<Fn>(fn), std::forward<Args>(args)...);
    const ref_ptr<concurrent_state<R>> state(made);
    core.submit(state, *made);
    return state;
}

template <class R, class Fn, class... Args>
ref_ptr<concurrent_state<R>> submit_remote(executor_core& core, const Fn& fn,
                                           const Args&... args) {
    box<outgoing> call(new outgoing);
    remote_call<std::decay_t<Fn>, typename call_traits<Fn, Args...>::sent>::encode(
        call->out, fn, args...);
    call->seal();
    auto* made = new remote_job_of<R>;
    const ref_ptr<concurrent_state<R>> state(made);
    made->pool = core.weak_from_this();
    core.submit(state, *made, std::move(call));
    return state;
}

[[noreturn]] ASYNCIO_API void throw_cannot_travel(std::string_view callable);

// For an executor whose kind is known only when the program runs.
template <class Fn, class... Args>
auto submit_any(executor_core& core, Fn&& fn, Args&&... args)
    -> ref_ptr<concurrent_state<job_result_t<Fn, Args...>>> {
    using result = job_result_t<Fn, Args...>;
    using traits = call_traits<Fn, Args...>;
    if (core.remote) {
        if constexpr (traits::travels()) {
            if constexpr (std::same_as<result, typename traits::remote::type>)
                return submit_remote<result>(core, fn, args...);
        }
        throw_cannot_travel(type_name<std::decay_t<Fn>>());
    }
    return submit_local<result, plain_call>(core, type_list<std::decay_t<Args>...>(),
                                            std::forward<Fn>(fn), std::forward<Args>(args)...);
}

// For thread pools: nothing is encoded.
template <class Fn, class... Args>
auto submit_to_threads(executor_core& core, Fn&& fn, Args&&... args)
    -> ref_ptr<concurrent_state<job_result_t<Fn, Args...>>> {
    return submit_local<job_result_t<Fn, Args...>, plain_call>(
        core, type_list<std::decay_t<Args>...>(), std::forward<Fn>(fn),
        std::forward<Args>(args)...);
}

template <class A>
constexpr bool is_argument_pointer =
    std::is_pointer_v<std::decay_t<A>> && !std::same_as<std::decay_t<A>, const char*> &&
    !std::same_as<std::decay_t<A>, char*>;

// Says at compile time why a call cannot go to a worker, and what to do.
template <class Fn, class... Args>
constexpr bool check_isolated() {
    using traits = call_traits<Fn, Args...>;
    using callable = typename traits::callable;
    constexpr bool callable_travels = sendable_callable<callable>;
    constexpr bool no_references = !(reference_like<std::decay_t<Args>> || ...);
    constexpr bool no_pointers = !(is_argument_pointer<Args> || ...);
    static_assert(callable_travels,
                  "asyncio::isolated_executor: this callable has captures, or state that cannot "
                  "travel to a worker; make it a function or a captureless lambda and pass what it "
                  "needs as arguments");
    static_assert(no_references,
                  "asyncio::isolated_executor: a reference (std::ref) means nothing to an isolated "
                  "worker; pass the value and return the changed one");
    static_assert(no_pointers,
                  "asyncio::isolated_executor: a pointer means nothing to an isolated worker; pass "
                  "the value it points to");
    if constexpr (callable_travels && no_references && no_pointers) {
        static_assert(traits::remote::callable,
                      "asyncio::isolated_executor: the function cannot be called with these "
                      "arguments, which come as copies; pass as many as it takes, and let it take "
                      "values or const references");
        static_assert(traits::sendable_arguments(typename traits::sent()),
                      "asyncio::isolated_executor: an argument cannot travel to a worker; make it "
                      "a plain struct of types that can, or specialise asyncio::codec for it");
        if constexpr (traits::remote::callable)
            static_assert(result_travels<typename traits::remote::type>,
                          "asyncio::isolated_executor: the result cannot come back from a worker; "
                          "return a value, not a pointer or a view, or specialise asyncio::codec");
    }
    return traits::travels();
}

// For isolated executors: in a process, or with copies of its own on a thread.
template <class Fn, class... Args>
auto submit_isolated(executor_core& core, Fn&& fn, Args&&... args) {
    if constexpr (check_isolated<Fn, Args...>()) {
        using traits = call_traits<Fn, Args...>;
        using result = typename traits::remote::type;
        using call = remote_call<typename traits::callable, typename traits::sent>;
        if (core.remote) return submit_remote<result>(core, fn, args...);
        return submit_local<result, call>(core, typename traits::sent(), std::forward<Fn>(fn),
                                          std::forward<Args>(args)...);
    } else {
        return ref_ptr<concurrent_state<void>>(); // the reason has been given above
    }
}

// -- map ---------------------------------------------------------------------------

// The results of some elements, and what ended the chunk early.
template <class R>
struct map_chunk {
    std::vector<R> values;
    exception_ptr error;
};

template <class Fn, class In, class R>
struct map_call {
    Fn fn;

    map_chunk<stored<R>> operator()(std::vector<In> items) {
        map_chunk<stored<R>> done;
        done.values.reserve(items.size());
        ASYNCIO_TRY {
            for (auto&& item : items) {
                if constexpr (std::is_void_v<R>) {
                    std::invoke(fn, static_cast<In>(std::move(item)));
                    done.values.emplace_back();
                } else {
                    done.values.push_back(std::invoke(fn, static_cast<In>(std::move(item))));
                }
            }
        } ASYNCIO_CATCH_ALL {
            done.error = current_error();
        }
        return done;
    }
};

} // namespace detail

/// An exception travels as one of the same type where it is a standard one or one
/// of this library's, else as a remote_error; nested ones and groups keep theirs.
template <>
struct codec<exception_ptr> {
    ASYNCIO_API static void encode(const exception_ptr& error, encoder& out);
    ASYNCIO_API static exception_ptr decode(decoder& in);
};

template <class Fn, class In, class R>
    requires detail::sendable_callable<Fn>
struct codec<detail::map_call<Fn, In, R>> {
    static void encode(const detail::map_call<Fn, In, R>& call, encoder& out) {
        out.put(false);
        detail::put_callable(out, call.fn);
    }
    static detail::map_call<Fn, In, R> decode(decoder& in) {
        in.get<bool>();
        return {detail::get_callable<Fn>(in)};
    }
};

/// Options of executor::map().
struct executor_map_options {
    /// For everything, from the call of map() on.
    std::optional<duration> timeout = {};
    /// How many elements make one job: more for many short ones.
    std::size_t chunksize = 1;
    /// At most this many elements are handed out before their results are taken;
    /// nothing given: all of them at once.
    std::optional<std::size_t> buffersize = {};
};

/// The results of executor::map(), in the order of the elements:
///
///     for (int n : pool.map(count_words, texts)) total += n;
///
/// An element's error is thrown when its turn comes. Leaving early takes back the
/// jobs that have not begun. Blocks; in coroutines await asyncio::map() instead.
template <class R>
class executor_map {
public:
    using value_type = detail::stored<R>;
    class iterator;

    executor_map(executor_map&&) noexcept = default;
    executor_map& operator=(executor_map&&) = delete;
    ~executor_map() { cancel_rest(); }

    /// The next result; nothing after the last.
    ///
    /// Throws: what the element's job threw; timeout_error.
    std::optional<value_type> next() {
        ASYNCIO_TRY {
            while (place_ == chunk_.values.size()) {
                if (chunk_.error) detail::rethrow(std::exchange(chunk_.error, nullptr));
                if (taken_ == jobs_.size()) return std::nullopt;
                auto job = std::move(jobs_[taken_++]);
                if (submit_next_) submit_next_(jobs_);
                place_ = 0;
                chunk_ = {};
                chunk_ = deadline_ == detail::no_steady_time
                             ? std::move(job).result()
                             : std::move(job).result(detail::left_until(deadline_));
            }
        } ASYNCIO_CATCH_ALL {
            cancel_rest();
            detail::rethrow_current();
        }
        return std::optional<value_type>(std::move(chunk_.values[place_++]));
    }

    iterator begin() { return iterator(*this); }
    std::default_sentinel_t end() const noexcept { return {}; }

    // For executor::map(): appends jobs until `submit_next` adds none.
    using job_list = std::vector<concurrent_future<detail::map_chunk<value_type>>>;
    executor_map(const executor_map_options& options, detail::function<bool(job_list&)> submit_next)
        : submit_next_(std::move(submit_next)),
          deadline_(detail::steady_deadline(options.timeout)) {
        const std::size_t ahead = options.buffersize.value_or(0);
        ASYNCIO_TRY {
            while (!options.buffersize || jobs_.size() * options.chunksize < ahead)
                if (!submit_next_(jobs_)) {
                    submit_next_ = {};
                    break;
                }
        } ASYNCIO_CATCH_ALL {
            cancel_rest();
            detail::rethrow_current();
        }
    }

private:
    void cancel_rest() noexcept {
        while (taken_ < jobs_.size()) jobs_[taken_++].cancel();
        submit_next_ = {};
        chunk_ = {};
        place_ = 0;
    }

    job_list jobs_;
    std::size_t taken_ = 0;
    detail::map_chunk<value_type> chunk_;
    std::size_t place_ = 0;
    detail::function<bool(job_list&)> submit_next_;
    detail::steady_time deadline_;
};

template <class R>
class executor_map<R>::iterator {
public:
    using value_type = detail::stored<R>;
    using difference_type = std::ptrdiff_t;
    using iterator_concept = std::input_iterator_tag;

    explicit iterator(executor_map& of) : of_(&of), value_(of.next()) {}
    iterator(iterator&&) noexcept = default;
    iterator& operator=(iterator&&) noexcept = default;

    value_type& operator*() const noexcept { return *value_; }
    iterator& operator++() {
        value_ = of_->next();
        return *this;
    }
    void operator++(int) { ++*this; }
    friend bool operator==(const iterator& i, std::default_sentinel_t) noexcept {
        return !i.value_;
    }

private:
    executor_map* of_;
    mutable std::optional<value_type> value_;
};

/// Options of executor::shutdown().
struct shutdown_options {
    /// Blocks until all jobs have ended and the workers are gone.
    bool wait = true;
    /// Takes back the jobs that have not begun.
    bool cancel_futures = false;
};

/// Runs calls somewhere else: the common part of thread_pool_executor and
/// isolated_executor. Python's concurrent.futures.Executor.
///
///     asyncio::thread_pool_executor pool(4);
///     auto words = co_await run_in_executor(pool, count_words, text);
///
/// `co_await with(pool, body)` shuts it down, with waiting, when the body ends.
///
/// Thread safety: everything may be called on any thread.
class executor {
public:
    virtual ~executor() {
        if (core_) core_->close();
    }

    /// Runs fn(args...) on a worker; callable and arguments are copied or moved.
    ///
    /// Throws: std::runtime_error after shutdown(); broken_executor; codec_error
    /// when the executor is isolated and the call cannot travel.
    template <class Fn, class... Args>
        requires std::invocable<std::decay_t<Fn>&, std::decay_t<Args>...>
    auto submit(Fn&& fn, Args&&... args) {
        return concurrent_future<detail::job_result_t<Fn, Args...>>(
            detail::submit_any(core(), std::forward<Fn>(fn), std::forward<Args>(args)...));
    }

    /// Runs `fn` for every element of `elements`, which are all handed out now.
    ///
    /// Lifetime: with a buffersize, an lvalue range is read while results are taken.
    template <class Fn, class Range>
    auto map(Fn fn, Range&& elements, executor_map_options options = {}) {
        return map_with<any_kind>(std::move(fn), std::forward<Range>(elements), options);
    }

    /// No more jobs after this. What was submitted still runs.
    ASYNCIO_API void shutdown(shutdown_options options = {});

    /// For with(): shuts down with waiting, on a thread that may block.
    coro<> aenter();
    ASYNCIO_API coro<bool> aexit(exception_ptr error);

    // For the library's own functions.
    detail::executor_core& core() const {
        if (!core_)
            detail::throw_runtime_error("asyncio::executor: it was moved from; use the one that "
                                        "it was moved to");
        return *core_;
    }

    // How jobs of a kind of executor are submitted.
    struct any_kind {
        template <class... A>
        static auto submit(detail::executor_core& core, A&&... args) {
            return detail::submit_any(core, std::forward<A>(args)...);
        }
    };

protected:
    explicit executor(std::shared_ptr<detail::executor_core> core) noexcept
        : core_(std::move(core)) {}
    executor(executor&& other) noexcept = default;
    executor& operator=(executor&&) = delete;

    template <class Kind, class Fn, class Range>
    auto map_with(Fn fn, Range&& elements, const executor_map_options& options);

private:
    std::shared_ptr<detail::executor_core> core_;
};

/// A callable that workers call before their first job. It is copied by the call
/// that the options are given to.
class worker_initializer {
public:
    constexpr worker_initializer() noexcept = default;
    template <class F>
        requires(!std::same_as<std::remove_cvref_t<F>, worker_initializer> &&
                 std::invocable<std::decay_t<F>&>)
    worker_initializer(F&& fn) noexcept {
        if constexpr (std::is_function_v<std::remove_reference_t<F>>) {
            code_ = reinterpret_cast<detail::code_pointer>(&fn);
            copy_ = [](const worker_initializer& from) {
                return detail::function<void()>(
                    reinterpret_cast<std::remove_reference_t<F>*>(from.code_));
            };
        } else {
            object_ = const_cast<void*>(static_cast<const void*>(std::addressof(fn)));
            copy_ = [](const worker_initializer& from) {
                return detail::function<void()>(static_cast<F&&>(
                    *static_cast<std::remove_reference_t<F>*>(from.object_)));
            };
        }
    }

    // For the library's own functions.
    detail::function<void()> copy() const {
        return copy_ ? copy_(*this) : detail::function<void()>();
    }

private:
    void* object_ = nullptr;
    detail::code_pointer code_ = nullptr;
    detail::function<void()> (*copy_)(const worker_initializer&) = nullptr;
};

/// Options of thread_pool_executor.
struct thread_pool_options {
    /// Threads are called this, _ and a number.
    std::string_view thread_name_prefix = {};
    /// Called by each thread before its first job. When it throws, the pool is
    /// broken: every job fails with broken_executor.
    worker_initializer initializer = {};
};

/// Runs jobs on threads of this process, for calls that block. Threads are started
/// when needed and used again. Python's ThreadPoolExecutor.
///
/// Lifetime: the destructor waits for all jobs, as shutdown() does.
class thread_pool_executor : public executor {
public:
    /// As many threads as usable processors and 4 more, at most 32.
    explicit thread_pool_executor(thread_pool_options options = {})
        : thread_pool_executor(0, options, true) {}

    /// Throws: std::invalid_argument unless `workers` is positive.
    explicit thread_pool_executor(std::ptrdiff_t workers, thread_pool_options options = {})
        : thread_pool_executor(workers, options, false) {}

    thread_pool_executor(thread_pool_executor&&) noexcept = default;

    template <class Fn, class... Args>
        requires std::invocable<std::decay_t<Fn>&, std::decay_t<Args>...>
    auto submit(Fn&& fn, Args&&... args) {
        return concurrent_future<detail::job_result_t<Fn, Args...>>(detail::submit_to_threads(
            core(), std::forward<Fn>(fn), std::forward<Args>(args)...));
    }
    template <class Fn, class Range>
    auto map(Fn fn, Range&& elements, executor_map_options options = {}) {
        return map_with<thread_kind>(std::move(fn), std::forward<Range>(elements), options);
    }

    // For the library's own functions.
    struct thread_kind {
        template <class... A>
        static auto submit(detail::executor_core& core, A&&... args) {
            return detail::submit_to_threads(core, std::forward<A>(args)...);
        }
    };

private:
    ASYNCIO_API thread_pool_executor(std::ptrdiff_t workers, const thread_pool_options& options,
                                     bool automatic);
};

/// What keeps the jobs of an isolated_executor apart.
enum class isolation {
    process, ///< each worker is a process: whatever a job does, it does to itself
    thread   ///< each worker is a thread; only the arguments and results are its own
};

/// How worker processes come into being.
enum class start_method {
    /// By a small process that forks them: the program started again where
    /// worker_main() has run, else forked when the executor is made.
    forkserver,
    /// The same, but always forked when the executor is made: workers begin with
    /// the program's memory as it is then.
    fork,
    /// Each worker is the program started again; needs worker_main().
    spawn
};

/// Options of isolated_executor. All but initializer and max_tasks_per_child are
/// for processes only.
struct isolated_options {
    asyncio::isolation isolation = asyncio::isolation::process;
    start_method start = start_method::forkserver;
    /// Called by each worker before its first job: a function or captureless lambda.
    void (*initializer)() = nullptr;
    /// A worker is replaced when it has run this many jobs.
    std::optional<std::size_t> max_tasks_per_child = {};
    /// Bytes that a worker may grow beyond its size at the start; best effort, and
    /// not enforced under sanitizers. A job that wants more gets std::bad_alloc, or
    /// its worker dies.
    std::optional<std::size_t> memory_limit = {};
    /// Processor time of one job; the worker that uses more dies.
    std::optional<duration> cpu_time_limit = {};
    /// Time for one job from its begin on; then its worker is killed, and the job
    /// fails with timeout_error.
    std::optional<duration> job_timeout = {};
};

/// Runs jobs in processes of their own: a crash, an exit() or an endless loop costs
/// that job only, which fails with worker_crashed, and the worker is replaced.
///
///     int main() {
///         asyncio::worker_main(); // workers are this program, and end in here
///         return asyncio::run_main(async_main());
///     }
///     ...
///     asyncio::isolated_executor pool(4, {.job_timeout = 30s});
///     auto report = co_await run_in_executor(pool, render, document);
///
/// Jobs are functions, captureless lambdas and plain function objects; what they
/// take and return must have a codec. With isolation::thread the same calls run on
/// threads, and what they take and return is moved.
///
/// Cancellation: kills the worker that runs the job.
/// Lifetime: the destructor takes back what has not begun, gives running jobs a
/// second, then kills their workers.
class isolated_executor : public executor {
public:
    /// `workers` 0: as many as usable processors.
    ///
    /// Throws: std::invalid_argument for options that do not fit together;
    /// std::runtime_error when start_method::spawn lacks worker_main();
    /// std::system_error when the system gives no process.
    explicit isolated_executor(std::ptrdiff_t workers = 0, isolated_options options = {})
        : isolated_executor("asyncio::isolated_executor", workers, options) {}

    isolated_executor(isolated_executor&&) noexcept = default;

    template <class Fn, class... Args>
    auto submit(Fn&& fn, Args&&... args) {
        auto state = detail::submit_isolated(core(), std::forward<Fn>(fn),
                                             std::forward<Args>(args)...);
        return future_of(std::move(state));
    }
    template <class Fn, class Range>
    auto map(Fn fn, Range&& elements, executor_map_options options = {}) {
        return map_with<isolated_kind>(std::move(fn), std::forward<Range>(elements), options);
    }

    /// Ends all workers now (SIGKILL, SIGTERM), and the executor with them: running
    /// jobs fail with worker_crashed, the others are cancelled.
    ASYNCIO_API void kill_workers();
    ASYNCIO_API void terminate_workers();

    // For the library's own functions.
    struct isolated_kind {
        template <class... A>
        static auto submit(detail::executor_core& core, A&&... args) {
            return detail::submit_isolated(core, std::forward<A>(args)...);
        }
    };

protected:
    ASYNCIO_API isolated_executor(const char* who, std::ptrdiff_t workers,
                                  const isolated_options& options);

private:
    template <class R>
    static concurrent_future<R> future_of(detail::ref_ptr<detail::concurrent_state<R>> state) {
        return concurrent_future<R>(std::move(state));
    }
};

/// An isolated_executor of processes. Python's ProcessPoolExecutor.
class process_pool_executor : public isolated_executor {
public:
    explicit process_pool_executor(std::ptrdiff_t workers = 0, isolated_options options = {})
        : isolated_executor("asyncio::process_pool_executor", workers,
                            with_isolation(options, isolation::process)) {}

private:
    static isolated_options with_isolation(isolated_options options, asyncio::isolation kind) {
        options.isolation = kind;
        return options;
    }
};

/// An isolated_executor of threads. Python's InterpreterPoolExecutor.
class interpreter_pool_executor : public isolated_executor {
public:
    explicit interpreter_pool_executor(std::ptrdiff_t workers = 0, isolated_options options = {})
        : isolated_executor("asyncio::interpreter_pool_executor", workers,
                            with_isolation(options, isolation::thread)) {}

private:
    static isolated_options with_isolation(isolated_options options, asyncio::isolation kind) {
        options.isolation = kind;
        return options;
    }
};

/// The first line of main() in a program with worker processes. Returns at once in
/// the program itself; a process that was started as a worker works in here, and
/// leaves when its executor ends. Python's multiprocessing.freeze_support.
ASYNCIO_API void worker_main();

namespace detail {

// Ends a process that was started as a worker and did not call worker_main(): it
// would run the whole program, and start workers of its own.
ASYNCIO_API void refuse_in_worker();

} // namespace detail

template <class Kind, class Fn, class Range>
auto executor::map_with(Fn fn, Range&& elements, const executor_map_options& options) {
    using iterator = decltype(std::begin(elements));
    using in = std::remove_cvref_t<decltype(*std::begin(elements))>;
    using result = std::remove_cvref_t<std::invoke_result_t<Fn&, in>>;
    using results = executor_map<result>;
    using call = detail::map_call<Fn, in, result>;
    if (options.chunksize == 0)
        detail::throw_invalid_argument("asyncio::executor::map: chunksize is 0; give 1 or more");
    if (options.buffersize == std::size_t{0})
        detail::throw_invalid_argument("asyncio::executor::map: buffersize is 0; give 1 or more, "
                                       "or none for no limit");
    // An rvalue range is kept only if it is read later.
    auto kept = std::make_unique<std::conditional_t<std::is_lvalue_reference_v<Range>,
                                                    std::remove_reference_t<Range>*, Range>>(
        [&]() -> decltype(auto) {
            if constexpr (std::is_lvalue_reference_v<Range>) return std::addressof(elements);
            else return std::move(elements);
        }());
    auto& range = [&]() -> auto& {
        if constexpr (std::is_lvalue_reference_v<Range>) return **kept;
        else return *kept;
    }();
    auto submit_next = [core = core_, kept = std::move(kept), at = iterator(std::begin(range)),
                        end = std::end(range), fn = std::move(fn),
                        size = options.chunksize](typename results::job_list& jobs) mutable {
        std::vector<in> chunk;
        for (; chunk.size() < size && at != end; ++at) {
            if constexpr (std::is_lvalue_reference_v<Range>) chunk.push_back(*at);
            else chunk.push_back(std::move(*at));
        }
        if (chunk.empty()) return false;
        jobs.emplace_back(Kind::submit(*core, call{fn}, std::move(chunk)));
        return true;
    };
    core();
    return results(options, std::move(submit_next));
}

inline coro<> executor::aenter() { co_return; }

// -- in a loop ---------------------------------------------------------------------

namespace detail {

// Tells the loop's tracer of a job: for which task it ran, and when.
class job_trace {
public:
    ASYNCIO_API explicit job_trace(loop_core& loop) noexcept;
    ASYNCIO_API void ended(loop_core& loop, const concurrent_base& job);

private:
    std::uint32_t task_ = 0;
    std::int64_t submitted_ = 0;
};

// The future of a job, on a loop.
template <class T>
class job_future final : public value_state<T, state_base>, relay_target {
public:
    job_future(loop_core& owner, ref_ptr<concurrent_state<T>> job) noexcept
        : value_state<T, state_base>(owner, false), hold_(owner), job_(std::move(job)),
          trace_(owner) {}

    // Whoever gets the future finds it pending, however fast the job was.
    void begin() { follow(*job_, *this->core); }
    bool cancel(std::string_view message) override {
        if (!state_base::cancel(message)) return false;
        leave();
        hold_.reset();
        detail::take(job_)->abort();
        return true;
    }

private:
    void job_done() noexcept override {
        hold_.reset();
        const auto job = detail::take(job_);
        trace_.ended(*this->core, *job);
        if (this->done()) return;
        if (job->current() == concurrent_base::status::cancelled)
            this->complete_cancelled(make_error(cancelled_error()));
        else if (job->error) this->fail(std::move(job->error));
        else this->set(std::move(*job->value));
    }

    clock_hold hold_;
    ref_ptr<concurrent_state<T>> job_;
    job_trace trace_;
};

template <class T>
future<T> future_of_job(loop_core& loop, ref_ptr<concurrent_state<T>> job) {
    auto* made = new job_future<T>(loop, std::move(job));
    ref_ptr<state_base> state(made);
    made->begin();
    return future<T>(std::move(state));
}

// The loop's thread pool, made when first used.
ASYNCIO_API executor& default_executor(loop_core& loop);
ASYNCIO_API void shutdown_default_executor_blocking(event_loop& loop);

template <class Executor>
concept executor_type = std::derived_from<std::remove_cvref_t<Executor>, executor>;

template <class Executor, class Fn, class... Args>
auto submit_to(Executor& where, Fn&& fn, Args&&... args) {
    if constexpr (std::derived_from<Executor, isolated_executor>)
        return submit_isolated(where.core(), std::forward<Fn>(fn), std::forward<Args>(args)...);
    else if constexpr (std::derived_from<Executor, thread_pool_executor>)
        return submit_to_threads(where.core(), std::forward<Fn>(fn), std::forward<Args>(args)...);
    else return submit_any(where.core(), std::forward<Fn>(fn), std::forward<Args>(args)...);
}

// The loop for which this thread submits a job that nobody else can wait for: it may
// listen to the worker itself. Null: there is none.
extern thread_local constinit loop_core* submitting_loop;

class submitting_for {
public:
    explicit submitting_for(loop_core& loop) noexcept { submitting_loop = &loop; }
    submitting_for(const submitting_for&) = delete;
    submitting_for& operator=(const submitting_for&) = delete;
    ~submitting_for() { submitting_loop = nullptr; }
};

template <class Fn>
constexpr void require_named_closure() {
    static_assert(closure_survives<Fn>(),
                  "asyncio::run_in_executor, to_thread, fork_job: this compiler destroys a closure "
                  "with such captures twice when it stands inside a co_await expression; name the "
                  "lambda first and pass the name");
}

} // namespace detail

/// Runs fn(args...) on an executor, and gives a future of the running loop. The job
/// is submitted at once. Python's loop.run_in_executor.
///
/// Throws: std::runtime_error when no loop runs, or the executor was shut down.
/// Cancellation: takes the job back; one that has begun on a thread runs to its end,
/// and its result is dropped; one in a process is killed.
template <detail::executor_type Executor, class Fn, class... Args>
auto run_in_executor(Executor& where, Fn&& fn, Args&&... args) {
    detail::require_named_closure<Fn>();
    detail::loop_core& loop = detail::require_running("run_in_executor");
    const detail::submitting_for alone(loop);
    return detail::future_of_job(
        loop, detail::submit_to(where, std::forward<Fn>(fn), std::forward<Args>(args)...));
}
template <detail::executor_type Executor, class Fn, class... Args>
auto run_in_executor(Executor* where, Fn&& fn, Args&&... args) {
    if (where) return run_in_executor(*where, std::forward<Fn>(fn), std::forward<Args>(args)...);
    if constexpr (std::same_as<std::remove_cv_t<Executor>, executor>)
        return run_in_executor(detail::default_executor(detail::require_running("run_in_executor")),
                               std::forward<Fn>(fn), std::forward<Args>(args)...);
    detail::throw_invalid_argument(
        "asyncio::run_in_executor: the pointer to the executor is null; pass nullptr itself for "
        "the default executor");
}

/// The same on the loop's default executor, a thread pool.
template <class Fn, class... Args>
auto run_in_executor(std::nullptr_t, Fn&& fn, Args&&... args) {
    detail::require_named_closure<Fn>();
    detail::loop_core& loop = detail::require_running("run_in_executor");
    return detail::future_of_job(
        loop, detail::submit_to_threads(detail::default_executor(loop).core(),
                                        std::forward<Fn>(fn), std::forward<Args>(args)...));
}

namespace detail {

// What a forked child does: the call, and what it gave becomes bytes.
class forked_call {
public:
    virtual void run(encoder& out) = 0;

protected:
    ~forked_call() = default;
};

template <class Fn, class R>
class forked_call_of final : public forked_call {
public:
    explicit forked_call_of(Fn& fn) noexcept : fn_(fn) {}
    void run(encoder& out) override {
        if constexpr (std::is_void_v<R>) fn_();
        else out.put<R>(fn_());
    }

private:
    Fn& fn_;
};

ASYNCIO_API void start_forked(loop_core& loop, ref_ptr<concurrent_base> state, remote_job& job,
                              forked_call& call);

} // namespace detail

/// Runs `fn` in a copy of this process that is made for it, and gives a future of the
/// running loop. `fn` may capture anything, as it is all there in the copy; only what
/// it returns or throws has to have a codec. What it changes stays there. When it
/// crashes or leaves, the future fails with worker_crashed.
///
///     auto sum = co_await asyncio::fork_job([&table] { return table.checksum(); });
///
/// Copying costs about 50 ms per gigabyte in use. The copy has this thread only, an
/// empty standard input, and the descriptors that exec() would keep. It dies with this
/// process, and when the thread that forked it ends. POSIX only.
///
/// Throws: std::runtime_error when no loop runs, and when other threads are at work: a
/// lock that one of them holds would stay locked in the copy. Threads of an executor
/// may be there, but no job on them. std::system_error when the system gives no process.
/// Cancellation: kills the copy, and what it has started.
template <class Fn>
    requires std::invocable<std::remove_reference_t<Fn>&>
auto fork_job(Fn&& fn) {
    using result = std::remove_cvref_t<std::invoke_result_t<std::remove_reference_t<Fn>&>>;
    detail::require_named_closure<Fn>();
    static_assert(detail::result_travels<result>,
                  "asyncio::fork_job: the result cannot come back from another process; return a "
                  "value, not a pointer or a view, or specialise asyncio::codec");
    detail::loop_core& loop = detail::require_running("fork_job");
    auto* made = new detail::remote_job_of<result>;
    const detail::ref_ptr<detail::concurrent_state<result>> state(made);
    detail::forked_call_of<std::remove_reference_t<Fn>, result> call(fn);
    detail::start_forked(loop, state, *made, call);
    return detail::future_of_job(loop, state);
}

template <class F, class... Args>
auto event_loop::run_in_executor(executor* where, F&& fn, Args&&... args) {
    if (!where) where = &detail::default_executor(*core_);
    return detail::future_of_job(*core_, detail::submit_any(where->core(), std::forward<F>(fn),
                                                            std::forward<Args>(args)...));
}

template <class Executor>
void event_loop::set_default_executor(std::shared_ptr<Executor> pool) {
    static_assert(std::derived_from<Executor, thread_pool_executor>,
                  "asyncio::event_loop::set_default_executor: the default executor is a "
                  "thread_pool_executor; pass another one to run_in_executor() where it is used");
    if (!pool)
        detail::throw_invalid_argument(
            "asyncio::event_loop::set_default_executor: the pointer is null; give a pool");
    default_executor = std::move(pool);
}

// -- from other threads ------------------------------------------------------------

namespace detail {

// What a thread waits for. When it goes away without an outcome, because the loop was
// closed, the thread is told.
template <class T>
class promised {
public:
    explicit promised(ref_ptr<concurrent_state<T>> state) noexcept : state_(std::move(state)) {}
    promised(promised&&) noexcept = default;
    promised& operator=(promised&&) = delete;
    ~promised() {
        if (state_) state_->cancel_anyway();
    }
    concurrent_state<T>* operator->() const noexcept { return state_.get(); }
    concurrent_state<T>& operator*() const noexcept { return *state_; }

private:
    ref_ptr<concurrent_state<T>> state_;
};

// Cancels a task when the thread that waits for it has cancelled the future.
class cancel_link final : relay_target {
public:
    cancel_link(concurrent_base& result, any_task task) : task_(std::move(task)) {
        if (!join(result, *task_.state().core)) task_.cancel();
    }

private:
    void job_done() noexcept override { task_.cancel(); }

    any_task task_;
};

template <class T>
coro<> run_for_thread(coro<T> work, promised<T> result) {
    const auto link = std::make_unique<cancel_link>(*result, current_task());
    caught<T> got = co_await catching(std::move(work));
    if (!got.error) {
        result->finish(std::move(*got.value));
    } else if (kind_of(got.error) == error_kind::cancelled) {
        result->cancel_anyway();
        co_await fail_with(std::move(got.error));
    } else {
        result->fail(std::move(got.error));
    }
}

} // namespace detail

/// Runs something awaitable as a task of a loop that runs on another thread.
/// Cancelling the future cancels the task. Python's asyncio.run_coroutine_threadsafe.
///
/// Throws: std::runtime_error when the loop is closed.
/// Thread safety: for other threads than the loop's; result() on its own blocks it
/// for ever.
template <awaitable Awaitable>
concurrent_future<await_result_t<Awaitable>> run_coroutine_threadsafe(Awaitable&& work,
                                                                      event_loop& loop) {
    using result = await_result_t<Awaitable>;
    detail::ref_ptr<detail::concurrent_state<result>> state(new detail::concurrent_state<result>);
    concurrent_future<result> future(state);
    loop.call_soon_threadsafe(
        [work = detail::as_coro(std::decay_t<Awaitable>(std::forward<Awaitable>(work))),
         promise = detail::promised<result>(std::move(state))]() mutable {
            create_task(detail::run_for_thread<result>(std::move(work), std::move(promise)));
        });
    return future;
}

// -- blocking waits ----------------------------------------------------------------

namespace detail {

// Lets a thread wait for the first of several concurrent futures to be done.
class completion_watch {
public:
    ASYNCIO_API completion_watch();
    ASYNCIO_API ~completion_watch();
    completion_watch(completion_watch&&) noexcept;
    completion_watch& operator=(completion_watch&&) = delete;

    ASYNCIO_API void add(concurrent_base& state);

    // The index of one that is done: each once, in the order in which they ended.
    // Nothing when `deadline` passed first.
    ASYNCIO_API std::optional<std::size_t> next(steady_time deadline);

private:
    struct shared;
    std::shared_ptr<shared> shared_;
};

// The futures of a range, each once.
template <class Range>
auto distinct_futures(Range&& range) {
    using handle = std::remove_cvref_t<decltype(*std::begin(range))>;
    key_set seen;
    std::vector<handle> all;
    for (const handle& f : range)
        if (seen.insert(&f.state())) all.push_back(f);
    return all;
}

} // namespace detail

/// What concurrent.futures has beside its executors: waits that block a thread.
namespace concurrent {

/// Options of concurrent::as_completed().
struct as_completed_options {
    std::optional<duration> timeout = {};
};

/// The futures of a range in the order in which they end:
///
///     for (auto& f : asyncio::concurrent::as_completed(futures)) use(f.result());
template <class T>
class completed_futures {
public:
    class iterator {
    public:
        using value_type = concurrent_future<T>;
        using difference_type = std::ptrdiff_t;
        using iterator_concept = std::input_iterator_tag;

        explicit iterator(completed_futures& of) : of_(&of), value_(of.next()) {}
        concurrent_future<T>& operator*() const noexcept { return *value_; }
        iterator& operator++() {
            value_ = of_->next();
            return *this;
        }
        void operator++(int) { ++*this; }
        friend bool operator==(const iterator& i, std::default_sentinel_t) noexcept {
            return !i.value_;
        }

    private:
        completed_futures* of_;
        mutable std::optional<concurrent_future<T>> value_;
    };

    completed_futures(std::vector<concurrent_future<T>> futures, std::optional<duration> timeout)
        : futures_(std::move(futures)), left_(futures_.size()),
          deadline_(detail::steady_deadline(timeout)) {
        for (const auto& f : futures_) watch_.add(f.state());
    }

    /// The next one that is done; nothing after the last.
    ///
    /// Throws: timeout_error when the time for all of them passed first.
    std::optional<concurrent_future<T>> next() {
        if (left_ == 0) return std::nullopt;
        const auto index = watch_.next(deadline_);
        if (!index)
            detail::throw_error(
                timeout_error("asyncio::concurrent::as_completed: the time limit passed before "
                              "all were done"));
        --left_;
        return std::move(futures_[*index]);
    }

    iterator begin() { return iterator(*this); }
    std::default_sentinel_t end() const noexcept { return {}; }

private:
    std::vector<concurrent_future<T>> futures_;
    std::size_t left_;
    detail::completion_watch watch_;
    detail::steady_time deadline_;
};

/// Gives the futures of a range as they end. Python's concurrent.futures.as_completed.
template <class Range>
auto as_completed(Range&& futures, as_completed_options options = {}) {
    auto all = detail::distinct_futures(futures);
    using handle = typename decltype(all)::value_type;
    return completed_futures<typename handle::value_type>(std::move(all), options.timeout);
}

/// Blocks until some or all of the futures are done; those given twice count once.
/// A timeout throws nothing. Python's concurrent.futures.wait.
template <class Range>
auto wait(Range&& futures, wait_options options = {}) {
    auto all = detail::distinct_futures(futures);
    wait_result<typename decltype(all)::value_type> result;
    detail::completion_watch watch;
    std::size_t left = 0;
    bool enough = false;
    const auto note = [&](const auto& f) {
        if (options.return_when == return_when::first_completed) enough = true;
        if (options.return_when == return_when::first_exception && !f.cancelled() && f.exception())
            enough = true;
    };
    for (const auto& f : all) {
        if (f.done()) note(f);
        ++left;
        watch.add(f.state());
    }
    const auto deadline = detail::steady_deadline(options.timeout);
    while (left > 0 && !enough) {
        const auto index = watch.next(deadline);
        if (!index) break;
        --left;
        note(all[*index]);
    }
    for (auto& f : all) (f.done() ? result.done : result.pending).push_back(std::move(f));
    return result;
}

} // namespace concurrent

// -- to_thread ---------------------------------------------------------------------

namespace detail {

template <class Fn, class... Args>
coro<job_result_t<Fn, Args...>> call_in_thread(Fn fn, Args... args) {
    // The function sees the caller's context variables, in a copy.
    auto call = [variables = context::current(), fn = std::move(fn)](Args&&... values) mutable {
        return variables.run([&]() -> decltype(auto) { return plain_call::call(fn, values...); });
    };
    loop_core& loop = require_running("to_thread");
    auto job = future_of_job(loop, submit_to_threads(default_executor(loop).core(),
                                                     std::move(call), std::move(args)...));
    co_return co_await std::move(job);
}

} // namespace detail

/// Runs fn(args...) on a thread of the default executor when it is awaited. `fn`
/// sees the caller's context variables. Python's asyncio.to_thread.
///
/// Cancellation: as that of run_in_executor().
template <class Fn, class... Args>
    requires std::invocable<std::decay_t<Fn>&, std::decay_t<Args>...>
coro<detail::job_result_t<Fn, Args...>> to_thread(Fn&& fn, Args&&... args) {
    detail::require_named_closure<Fn>();
    return detail::call_in_thread<std::decay_t<Fn>, std::decay_t<Args>...>(
        std::forward<Fn>(fn), std::forward<Args>(args)...);
}

} // namespace asyncio::inline ASYNCIO_ABI

#endif // !ASYNCIO_NO_THREADS

// =============================================================================
// [SECTION] sockets
// uses: configuration, exceptions, support, events, tasks
//
// Addresses and names turned into them; sockets whose calls are awaited, for those
// who want the lower level; and datagrams. Connections with buffers, and servers,
// are the next section's.
// =============================================================================

#if !defined(ASYNCIO_BACKEND_NONE)

namespace asyncio::inline ASYNCIO_ABI {

/// Where a socket is bound or connected to: an IPv4 or IPv6 address with a port,
/// or the path of a Unix socket. A value; one made by the default constructor is
/// no address.
///
///     asyncio::address here("127.0.0.1", 8080);
///     asyncio::address there = asyncio::address::parse("[::1]:8080");
class address {
public:
    enum class family_type : unsigned char { none, v4, v6, local };

    address() = default;

    /// A numeric address, such as "127.0.0.1", "::1" or "fe80::1%eth0". Names are
    /// getaddrinfo()'s business.
    ///
    /// Throws: std::invalid_argument for anything else, and for no port number.
    ASYNCIO_API address(std::string_view host, int port);

    /// A Unix socket's path. One that begins with a zero byte is in Linux's
    /// abstract namespace.
    ASYNCIO_API static address local(std::string_view path);

    /// Reads what to_string() writes.
    ///
    /// Throws: std::invalid_argument.
    ASYNCIO_API static address parse(std::string_view text);

    family_type family() const noexcept { return family_; }
    bool is_v4() const noexcept { return family_ == family_type::v4; }
    bool is_v6() const noexcept { return family_ == family_type::v6; }
    bool is_local() const noexcept { return family_ == family_type::local; }
    explicit operator bool() const noexcept { return family_ != family_type::none; }

    /// The host's number without the port; empty for a Unix socket.
    ASYNCIO_API std::string host() const;

    /// 0 for a Unix socket.
    int port() const noexcept { return port_; }

    /// The same host with another port.
    ///
    /// Throws: std::invalid_argument for no port number.
    ASYNCIO_API address with_port(int port) const;

    /// Empty for Internet addresses and for a Unix socket without a name.
    const std::string& path() const noexcept { return path_; }

    /// "127.0.0.1:80", "[::1]:80" or "unix:/run/x.sock".
    ASYNCIO_API std::string to_string() const;

    friend bool operator==(const address&, const address&) = default;

    // For the library: the numbers as the network has them.
    struct numbers {
        std::array<unsigned char, 16> bytes{}; // the first four for IPv4
        std::uint32_t scope = 0;
        friend bool operator==(const numbers&, const numbers&) = default;
    };
    address(family_type family, const numbers& n, std::uint16_t port) noexcept
        : numbers_(n), port_(port), family_(family) {}
    const numbers& raw() const noexcept { return numbers_; }

private:
    std::string path_;
    numbers numbers_;
    std::uint16_t port_ = 0;
    family_type family_ = family_type::none;
};

ASYNCIO_API std::ostream& operator<<(std::ostream& out, const address& a);

/// The category of a std::system_error about a name that does not resolve; its
/// codes are the EAI_ numbers of <netdb.h>.
ASYNCIO_API const std::error_category& getaddrinfo_category() noexcept;

/// The addresses of a host for TCP, the system's preference first. `service` is a
/// port number, a name such as "http", or empty for port 0; an empty `host` gives
/// the addresses a server listens on to be reached from everywhere. Numeric
/// addresses are answered at once, names are looked up on a helper thread. Python's
/// loop.getaddrinfo().
///
/// Throws: std::system_error naming the host.
/// Cancellation: at once; the look-up ends unheard.
ASYNCIO_API coro<std::vector<address>> getaddrinfo(std::string host, std::string service = {});

/// A datagram, where it came from, and whether it was longer than the room for it:
/// what did not fit is lost.
struct datagram {
    ASYNCIO_API datagram() noexcept;
    ASYNCIO_API datagram(std::string d, address f, bool t) noexcept;

    std::string data;
    address from;
    bool truncated = false;
};

/// The same of a datagram that was received into the caller's memory.
struct received_datagram {
    ASYNCIO_API received_datagram() noexcept;
    ASYNCIO_API received_datagram(std::size_t s, address f, bool t) noexcept;

    std::size_t size = 0;
    address from;
    bool truncated = false;
};

class socket;
class datagram_endpoint;

namespace detail {

class socket_state;  // what a socket and its waiting operations share
class endpoint_link; // the same of a datagram_endpoint
class stream_link;   // of a connection: what its reader and its writer share

// -- waiting for a condition of an endpoint, a connection or a server -----------

class condition_awaiter;

// Who waits for the same thing, oldest first.
class wait_list {
public:
    wait_list() noexcept = default;
    wait_list(const wait_list&) = delete;
    wait_list& operator=(const wait_list&) = delete;

    // Wakes all of them; `granted`: what they wait for has come.
    void wake_all(bool granted) noexcept;

private:
    friend class condition_awaiter;

    condition_awaiter* first_ = nullptr;
    condition_awaiter* last_ = nullptr;
};

enum class wait_goal : unsigned char { sent, drained, closed };
enum class wait_outlook : unsigned char {
    reached, // nothing to wait for
    ended,   // nothing to wait for any more; check() says why
    ahead
};

// What such a condition is one of.
class wait_source {
public:
    virtual void add_ref() noexcept = 0;
    virtual void release() noexcept = 0;

    virtual wait_outlook look(wait_goal goal) const noexcept = 0;
    // Where to wait; null: others get a turn, no more.
    virtual wait_list* list_of(wait_goal goal) noexcept = 0;
    // Throws the reason why what was waited for did not come, if it is an error.
    virtual void check(wait_goal goal) const = 0;

protected:
    ~wait_source() = default;
};

class condition_awaiter final : public suspension,
                                public awaitable_base<condition_awaiter, void> {
public:
    condition_awaiter(ref_ptr<wait_source> source, wait_goal goal) noexcept
        : source_(std::move(source)), goal_(goal) {}
    condition_awaiter(condition_awaiter&& other) noexcept
        : source_(std::move(other.source_)), goal_(other.goal_) {}
    ~condition_awaiter() { leave(); }

    ASYNCIO_API bool await_ready() noexcept;
    template <class Promise>
    void await_suspend(std::coroutine_handle<Promise> h) noexcept {
        if (suspend(h)) wait();
    }
    ASYNCIO_API void await_resume();

private:
    friend class wait_list;

    ASYNCIO_API void wait() noexcept;
    ASYNCIO_API void leave() noexcept;
    ASYNCIO_API bool on_cancel() noexcept override;

    ref_ptr<wait_source> source_;
    wait_list* list_ = nullptr;
    condition_awaiter* next_ = nullptr;
    condition_awaiter* previous_ = nullptr;
    wait_goal goal_;
    bool granted_ = false;
};

// -- waiting for a socket's operation ---------------------------------------------

// One operation of a socket, as the awaiting task holds it. Of each direction the
// oldest one is with the system; the others wait behind it.
class socket_wait : public suspension {
public:
    enum class action : unsigned char {
        receive,
        receive_from,
        accept,
        connect,
        send,
        send_to,
        send_all
    };

protected:
    ASYNCIO_API socket_wait(ref_ptr<socket_state> state, action what, void* memory,
                            std::size_t size, const address* peer) noexcept;
    ASYNCIO_API socket_wait(socket_wait&& other) noexcept;
    ASYNCIO_API ~socket_wait();

    ASYNCIO_API bool begin();
    ASYNCIO_API void wait() noexcept;

    // The end of the wait: what the operation gave, or its error.
    ASYNCIO_API void take();
    ASYNCIO_API void take(std::size_t& count);
    ASYNCIO_API void take(std::string& data);
    ASYNCIO_API void take(datagram& d);
    ASYNCIO_API void take(received_datagram& d);
    ASYNCIO_API void take(socket& accepted);

private:
    friend class socket_state;

    ASYNCIO_API bool on_cancel() noexcept override;
    ASYNCIO_API void let_go() noexcept;

    ref_ptr<socket_state> state_;
    socket_wait* next_ = nullptr; // in its direction's queue
    socket_wait* previous_ = nullptr;
    void* memory_;                // of the caller; null: text_ is for it
    std::size_t size_;
    std::size_t count_ = 0;       // how much of it was moved
    std::string text_;
    address peer_;
    int error_ = 0;
    int accepted_ = -1;
    action what_;
    bool queued_ = false;
    bool started_ = false;  // the system has it
    bool finished_ = false; // the result is here, and not taken yet
    bool truncated_ = false;
};

template <class T>
class socket_awaiter final : public socket_wait, public awaitable_base<socket_awaiter<T>, T> {
public:
    socket_awaiter(ref_ptr<socket_state> state, action what, void* memory, std::size_t size,
                   const address* peer = nullptr) noexcept
        : socket_wait(std::move(state), what, memory, size, peer) {}
    socket_awaiter(socket_awaiter&&) noexcept = default;

    bool await_ready() { return begin(); }
    template <class Promise>
    void await_suspend(std::coroutine_handle<Promise> h) noexcept {
        if (suspend(h)) wait();
    }
    T await_resume() {
        if constexpr (std::is_void_v<T>) {
            take();
        } else {
            T result;
            take(result);
            return result;
        }
    }
};

} // namespace detail

/// A non-blocking socket that owns its descriptor. Its calls are the system's, and
/// those that may have to wait are awaited. For connections that read lines and
/// keep what they cannot send yet, see open_connection(). Python's socket.socket
/// with the loop's sock_ functions.
///
///     asyncio::socket listener = asyncio::socket::tcp();
///     listener.bind(asyncio::address("127.0.0.1", 0));
///     listener.listen();
///     asyncio::socket peer = co_await listener.accept();
///     std::string request = co_await peer.recv(1024);
///     co_await peer.sendall("thanks\n");
///
/// Several tasks may wait for one socket: they are served in turn. The first await
/// ties it to the loop that is running then.
///
/// Throws: std::system_error with the name of the call, here and below; EBADF when
/// the socket was closed, also under a task that waits.
/// Cancellation: what has been received meanwhile, bytes, datagrams or connections,
/// is kept and is what the next such call gives. What was to be sent may have been
/// sent in part. A connect goes on: close the socket.
/// Lifetime: memory that is received into or sent from outlives the await.
class [[nodiscard]] socket {
public:
    /// No socket: as one that was closed.
    socket() noexcept;

    static socket tcp(address::family_type family = address::family_type::v4);
    static socket udp(address::family_type family = address::family_type::v4);
    static socket unix_stream();
    static socket unix_dgram();

    /// Takes over a socket that somebody else has made, and makes it non-blocking.
    explicit socket(int fd);

    socket(socket&& other) noexcept;
    socket& operator=(socket&& other) noexcept;
    ~socket();

    void bind(const address& where);
    void listen(int backlog = 1024);

    /// The next connection; its remote_address() tells from where.
    detail::socket_awaiter<socket> accept();

    /// At once for datagrams: they go there from now on, and come from nowhere else.
    detail::socket_awaiter<void> connect(const address& where);

    /// At least one byte and at most `n`; nothing at the end of the stream. Of a
    /// datagram socket, the next datagram; recvfrom() tells more of it.
    detail::socket_awaiter<std::string> recv(std::size_t n);
    detail::socket_awaiter<std::size_t> recv(std::span<std::byte> target);
    detail::socket_awaiter<std::size_t> recv(std::span<char> target);

    /// The next datagram, of which as much as `n` bytes, or as fit into `target`.
    detail::socket_awaiter<datagram> recvfrom(std::size_t n = 64 * 1024);
    detail::socket_awaiter<received_datagram> recvfrom(std::span<std::byte> target);

    /// Sends what the system takes, at least one byte, and gives how much that was.
    detail::socket_awaiter<std::size_t> send(std::string_view data);
    detail::socket_awaiter<std::size_t> send(std::span<const std::byte> data);

    /// Sends one datagram.
    detail::socket_awaiter<std::size_t> sendto(std::string_view data, const address& where);
    detail::socket_awaiter<std::size_t> sendto(std::span<const std::byte> data,
                                               const address& where);

    /// Sends all of it; nobody else's data comes in between. When cancelled, the
    /// cancelled_error tells how much was sent, unless cancel() was given a message.
    detail::socket_awaiter<void> sendall(std::string_view data);
    detail::socket_awaiter<void> sendall(std::span<const std::byte> data);

    enum direction { shut_rd, shut_wr, shut_rdwr };

    /// Ends one direction of a connection, or both.
    void shutdown(direction what = shut_rdwr);

    /// Gives the descriptor back. Whoever waits for the socket finds it closed.
    void close() noexcept;

    /// As close(), but leaves the descriptor open and gives it to the caller.
    int detach() noexcept;

    /// The descriptor; -1 after close().
    int fileno() const noexcept;

    /// Options with the numbers of the system's headers: SOL_SOCKET, SO_RCVBUF, ...
    int getsockopt(int level, int name) const;
    void setsockopt(int level, int name, int value);
    std::size_t getsockopt(int level, int name, std::span<std::byte> value) const;
    void setsockopt(int level, int name, std::span<const std::byte> value);

    address local_address() const;
    address remote_address() const;

private:
    friend class detail::socket_wait;
    friend class detail::endpoint_link;
    friend class detail::stream_link;
    int open_fd(const char* call) const;
    const detail::ref_ptr<detail::socket_state>& state() const;

    detail::ref_ptr<detail::socket_state> state_;
};

/// A host and a port, such as {"127.0.0.1", 4000}; just a host: any port.
struct host_port {
    constexpr host_port() noexcept = default;
    constexpr host_port(std::string_view h, int p = 0) noexcept : host(h), port(p) {}
    constexpr host_port(const char* h, int p = 0) noexcept : host(h), port(p) {}

    std::string_view host = {};
    int port = 0;
};

namespace detail {

// A number of bytes, or none given.
struct fill_mark {
    constexpr fill_mark() noexcept = default;
    constexpr fill_mark(std::ptrdiff_t n) noexcept : bytes(n), given(true) {}

    std::ptrdiff_t bytes = 0;
    bool given = false;
};

} // namespace detail

/// Sends and receives datagrams. Sending never waits: what the system does not take
/// at once is kept and follows by itself. Python's DatagramTransport, with
/// recvfrom() in place of the protocol's callbacks.
///
///     asyncio::datagram_endpoint echo =
///         co_await asyncio::create_datagram_endpoint({.local_addr = {"127.0.0.1", 9999}});
///     for (;;) {
///         asyncio::datagram d = co_await echo.recvfrom();
///         echo.sendto(d.data, d.from);
///     }
///
/// Lifetime: destroying it closes it as close() does.
class [[nodiscard]] datagram_endpoint {
public:
    explicit datagram_endpoint(detail::ref_ptr<detail::endpoint_link> link) noexcept;
    datagram_endpoint(datagram_endpoint&& other) noexcept;
    datagram_endpoint& operator=(datagram_endpoint&& other) noexcept;
    ~datagram_endpoint();

    /// Sends a datagram to `where`; without it, to the remote address that the
    /// endpoint was made with. On one that is closed it does nothing.
    ///
    /// Throws: std::invalid_argument when there is no address, or another one than
    /// the remote address; std::system_error for a datagram that is too large.
    void sendto(std::string_view data, const address& where = {});
    void sendto(std::span<const std::byte> data, const address& where = {});

    /// The next datagram.
    ///
    /// Throws: std::system_error when the endpoint is closed; and, once for each,
    /// for what the system or the network reports of datagrams that were sent, such
    /// as a refusal (only with a remote address); the endpoint stays open.
    /// Cancellation: a datagram that has come is kept for the next call.
    detail::socket_awaiter<datagram> recvfrom();

    /// Waits while too much is kept: from the high-water mark down to the low one.
    ///
    /// Throws: std::system_error when the endpoint is closed.
    detail::condition_awaiter drain();

    /// Ends receiving, sends what is kept, then gives the socket back.
    void close();
    bool is_closing() const;

    /// Waits until the endpoint is closed.
    detail::condition_awaiter wait_closed();

    /// Closes it now; what is kept is dropped.
    void abort();

    /// Where it is bound to, and the remote address, if any.
    address sockname() const;
    address peername() const;

    /// As stream_writer's.
    void set_write_buffer_limits(detail::fill_mark high = {}, detail::fill_mark low = {});
    std::size_t get_write_buffer_size() const;

private:
    detail::endpoint_link& link() const;

    detail::ref_ptr<detail::endpoint_link> link_;
};

/// Options of create_datagram_endpoint(). Strings are copied.
struct datagram_options {
    host_port local_addr = {};  ///< where to receive
    host_port remote_addr = {}; ///< where to send to, and the only one to hear from
    bool reuse_port = false;      ///< others may receive at the same port
    bool allow_broadcast = false; ///< broadcast addresses may be sent to
    std::size_t max_size = 64 * 1024; ///< of a datagram that is received
};

/// A UDP endpoint. Python's loop.create_datagram_endpoint().
///
/// Throws: std::invalid_argument when no address is given; std::system_error naming
/// the address that failed.
ASYNCIO_API coro<datagram_endpoint> create_datagram_endpoint(datagram_options options);

/// The same over a socket that is bound or connected already: one with options of
/// its own, or a Unix one.
ASYNCIO_API coro<datagram_endpoint> create_datagram_endpoint(socket over,
                                                             std::size_t max_size = 64 * 1024);

} // namespace asyncio::inline ASYNCIO_ABI

template <>
struct std::hash<asyncio::address> {
    std::size_t operator()(const asyncio::address& a) const noexcept {
        std::size_t h = std::hash<std::string>()(a.path()) + static_cast<std::size_t>(a.port());
        for (unsigned char byte : a.raw().bytes) h = h * 31 + byte;
        return h;
    }
};

#endif // !ASYNCIO_BACKEND_NONE

// =============================================================================
// [SECTION] streams
// uses: configuration, exceptions, support, events, tasks, sockets
//
// Connections as a pair of a reader and a writer, and servers that make such
// pairs. Python's asyncio.streams.
//
//     auto [reader, writer] = co_await asyncio::open_connection("example.org", 80);
//     writer.write("GET / HTTP/1.0\r\n\r\n");
//     co_await writer.drain();
//     std::string status = co_await reader.readline();
//
// Reading is done when somebody waits for it: what nobody reads stays in the
// system's buffers, and the peer is held back. Writing is done at once as far as
// the system takes it; the rest is kept, and drain() is where to wait for it.
// =============================================================================

#if !defined(ASYNCIO_BACKEND_NONE)

namespace asyncio::inline ASYNCIO_ABI {

class stream_reader;
class stream_writer;

namespace detail {

class server_state; // what a server and its connections share

// Collects texts of any range. What it is made of costs nothing where the header is
// only included.
class text_list {
public:
    struct items; // either copies or views

    ASYNCIO_API explicit text_list(bool copies);
    text_list(const text_list&) = delete;
    ASYNCIO_API ~text_list();
    ASYNCIO_API void add(std::string_view text);

    items& list;
};

// -- reading --------------------------------------------------------------------

// A reader's wait. It holds what is wanted; the bytes themselves stay with the
// connection until the task goes on, so that a cancellation in between loses none.
class read_wait : public suspension {
protected:
    enum class goal : unsigned char { some, all, exactly, line, until, into };

    read_wait(const ref_ptr<stream_link>& link, goal g, std::size_t n) noexcept;
    read_wait(read_wait&& other) noexcept;
    ~read_wait();

    bool begin();
    void wait() noexcept;
    std::string finish();
    std::size_t finish_into();

    const std::string* separators_ = nullptr; // of line and until; set by begin()
    std::size_t separator_count_ = 0;
    std::span<std::byte> target_;             // of into

private:
    friend class stream_link;

    bool on_cancel() noexcept override;

    ref_ptr<stream_link> link_;
    std::size_t n_;
    std::size_t searched_ = 0; // bytes that begin no separator
    std::size_t found_ = 0;    // where the separator begins, and its size
    std::size_t found_size_ = 0;
    std::size_t received_ = 0; // bytes put straight into target_
    goal goal_;
    bool overrun_ = false; // the limit was passed
    bool reading_ = false; // it is the connection's reader now
};

class read_awaiter final : public read_wait, public awaitable_base<read_awaiter, std::string> {
public:
    using read_wait::goal;

    read_awaiter(const ref_ptr<stream_link>& link, goal g, std::size_t n) noexcept
        : read_wait(link, g, n) {}
    read_awaiter(read_awaiter&&) noexcept = default;

    bool await_ready() { return begin(); }
    template <class Promise>
    void await_suspend(std::coroutine_handle<Promise> h) noexcept {
        if (suspend(h)) wait();
    }
    std::string await_resume() { return finish(); }
};

class read_until_awaiter final : public read_wait,
                                 public awaitable_base<read_until_awaiter, std::string> {
public:
    read_until_awaiter(const ref_ptr<stream_link>& link, std::string separator) noexcept
        : read_wait(link, goal::until, 0), one_(std::move(separator)) {}
    read_until_awaiter(const ref_ptr<stream_link>& link,
                       std::vector<std::string> separators) noexcept
        : read_wait(link, goal::until, 0), several_(std::move(separators)) {}
    read_until_awaiter(read_until_awaiter&&) noexcept = default;

    ASYNCIO_API bool await_ready();
    template <class Promise>
    void await_suspend(std::coroutine_handle<Promise> h) noexcept {
        if (suspend(h)) wait();
    }
    std::string await_resume() { return finish(); }

private:
    std::string one_;
    std::vector<std::string> several_;
};

class read_into_awaiter final : public read_wait,
                                public awaitable_base<read_into_awaiter, std::size_t> {
public:
    read_into_awaiter(const ref_ptr<stream_link>& link, std::span<std::byte> target) noexcept
        : read_wait(link, goal::into, 0) {
        target_ = target;
    }
    read_into_awaiter(read_into_awaiter&&) noexcept = default;

    bool await_ready() { return begin(); }
    template <class Promise>
    void await_suspend(std::coroutine_handle<Promise> h) noexcept {
        if (suspend(h)) wait();
    }
    std::size_t await_resume() { return finish_into(); }
};

// -- writing --------------------------------------------------------------------

// Something that is text or bytes, as a piece of writelines().
template <class R>
concept range_of_text = requires(R& range) {
    std::string_view(*std::begin(range));
    std::end(range);
};

} // namespace detail

/// The receiving side of a connection. Python's asyncio.StreamReader.
///
/// One task reads at a time; a second read meanwhile throws std::runtime_error.
/// After an end of stream what had come before can still be read; after an error
/// every read throws it.
///
/// Cancellation: of any read leaves what has come to the next one.
class [[nodiscard]] stream_reader {
public:
    explicit stream_reader(detail::ref_ptr<detail::stream_link> link) noexcept;
    stream_reader(stream_reader&& other) noexcept;
    stream_reader& operator=(stream_reader&& other) noexcept;
    ~stream_reader();

    /// At least one byte and at most `n`, as soon as there is one; empty at the end
    /// of the stream. Without `n`, everything up to the end.
    detail::read_awaiter read(std::ptrdiff_t n = -1);

    /// A line with its "\n"; what is left at the end of the stream, and then empty.
    ///
    /// Throws: std::invalid_argument for a line longer than the limit, which is
    /// skipped as far as it has come.
    detail::read_awaiter readline();

    /// Exactly `n` bytes.
    ///
    /// Throws: incomplete_read_error with what there was, when the stream ends
    /// first; std::invalid_argument for a negative `n`.
    detail::read_awaiter readexactly(std::ptrdiff_t n);

    /// Everything up to and including the separator, or that one of several which
    /// ends first.
    ///
    /// Throws: incomplete_read_error with what there was, when the stream ends
    /// first; limit_overrun_error when over the limit came without one, and then
    /// leaves it all in place; std::invalid_argument for an empty separator.
    detail::read_until_awaiter readuntil(std::string_view separator = "\n");
    template <class Range>
        requires(detail::range_of_text<Range> && !std::convertible_to<Range, std::string_view>)
    detail::read_until_awaiter readuntil(const Range& separators) {
        detail::text_list list(true);
        for (const auto& separator : separators) list.add(std::string_view(separator));
        return read_until_any(list);
    }

    /// Receives straight into `target` and gives the number of bytes: at least one,
    /// unless the stream has ended or `target` is empty. No copy, no allocation.
    ///
    /// Lifetime: `target` outlives the await.
    detail::read_into_awaiter read_into(std::span<std::byte> target);
    detail::read_into_awaiter read_into(std::span<char> target);

    /// True once the end of the stream was met and all before it was read.
    bool at_eof() const;

private:
    detail::read_until_awaiter read_until_any(detail::text_list& separators);
    const detail::ref_ptr<detail::stream_link>& link() const;

    detail::ref_ptr<detail::stream_link> link_;
};

/// The sending side of a connection. Python's asyncio.StreamWriter.
///
/// Lifetime: destroying it closes the connection as close() does.
class [[nodiscard]] stream_writer {
public:
    explicit stream_writer(detail::ref_ptr<detail::stream_link> link) noexcept;
    stream_writer(stream_writer&& other) noexcept;
    stream_writer& operator=(stream_writer&& other) noexcept;
    ~stream_writer();

    /// Sends what the system takes at once and keeps a copy of the rest, which
    /// follows by itself. Never waits: call drain() every now and then. On a
    /// connection that is closed or lost it does nothing; drain() tells.
    ///
    /// Throws: std::runtime_error after write_eof().
    void write(std::string_view data);
    void write(std::span<const std::byte> data);

    /// write() of each piece, with as few system calls as possible.
    template <class Range>
        requires detail::range_of_text<Range>
    void writelines(Range&& pieces) {
        // Pieces that do not outlive the step to the next one are copied.
        detail::text_list list(!std::is_reference_v<decltype(*std::begin(pieces))>);
        for (auto&& piece : pieces) list.add(std::string_view(piece));
        write_pieces(list);
    }

    /// Waits while too much is kept: from the high-water mark down to the low one.
    ///
    /// Throws: std::system_error once the connection is lost or closed.
    detail::condition_awaiter drain();

    /// Sends `n` bytes of the file `fd`, from `offset` on, after all that was written;
    /// without `n`, all up to the end of the file. Gives how many that were. The data
    /// does not pass through this process where the system can do without. Python's
    /// loop.sendfile().
    ///
    /// Throws: std::system_error; std::runtime_error after write_eof(), and from a
    /// write() or another sendfile() meanwhile; std::invalid_argument for a negative
    /// offset.
    /// Cancellation: a part of the file may have been sent.
    coro<std::size_t> sendfile(int fd, std::int64_t offset = 0, std::ptrdiff_t n = -1);

    /// Tells the peer that no more will come, after all that was written. Reading
    /// goes on.
    ///
    /// Throws: std::runtime_error unless can_write_eof().
    void write_eof();

    /// False for what make_streams() has made over a transport.
    bool can_write_eof() const;

    /// Ends reading, sends what is kept, then closes the connection.
    void close();
    bool is_closing() const;

    /// Waits until the connection is closed.
    ///
    /// Throws: std::system_error when it ended with an error.
    detail::condition_awaiter wait_closed();

    /// Closes the connection now; what is kept is dropped.
    void abort();

    /// Where the other side is, and where this one is.
    address peername() const;
    address sockname() const;

    /// Whether small writes are sent without delay. They are, by default.
    ///
    /// Throws: std::system_error.
    void set_nodelay(bool on);

    /// How much may be kept before drain() waits (default 64 KiB), and how little
    /// must be left before it goes on (default a quarter of that).
    ///
    /// Throws: std::invalid_argument unless 0 <= low <= high.
    void set_write_buffer_limits(detail::fill_mark high = {}, detail::fill_mark low = {});

    /// How much is kept.
    std::size_t get_write_buffer_size() const;

private:
    void write_pieces(const detail::text_list& pieces);
    const detail::ref_ptr<detail::stream_link>& link() const;

    detail::ref_ptr<detail::stream_link> link_;
};

/// What open_connection() gives: auto [reader, writer] = co_await ...
using stream_pair = std::pair<stream_reader, stream_writer>;

/// Options of open_connection().
struct connect_options {
    std::size_t limit = 64 * 1024; ///< of the reader: how long a line may be
    host_port local_addr = {}; ///< where to connect from; copied
    /// When a host has several addresses: how long one is tried before the next is
    /// tried beside it. Nothing: the next one only after the former has failed.
    std::optional<duration> happy_eyeballs_delay = {};
    bool keep_alive = false; ///< the system asks now and then whether the peer still is there
};

/// Connects to a TCP server. A host with several addresses is tried at each of
/// them in turn. Python's asyncio.open_connection().
///
/// Throws: std::system_error naming the address, or all of them when each failed
/// in its own way.
/// Cancellation: the attempt is given up, the socket is closed.
ASYNCIO_API coro<stream_pair> open_connection(std::string host, int port,
                                              connect_options options = {});

/// The same for addresses that are known already, such as getaddrinfo()'s.
///
/// Throws: std::invalid_argument when there is none.
ASYNCIO_API coro<stream_pair> open_connection(std::vector<address> where,
                                              connect_options options = {});

/// Connects to a server on a Unix socket.
ASYNCIO_API coro<stream_pair> open_unix_connection(std::string path, connect_options options = {});

/// Makes streams of a socket that is connected already.
ASYNCIO_API coro<stream_pair> open_connection(socket connected, connect_options options = {});

/// Options of make_streams().
struct stream_options {
    std::size_t limit = 64 * 1024; ///< of the reader: how long a line may be
};

namespace detail {

// What make_streams() is given, whatever its type is.
class transport {
public:
    virtual ~transport() = default;
    virtual coro<std::size_t> recv(std::span<std::byte> target) = 0;
    virtual coro<std::size_t> send(std::span<const std::byte> data) = 0;
    virtual coro<> shutdown() = 0;
    virtual address peername() const = 0;
    virtual address sockname() const = 0;
};

template <class T>
class transport_of final : public transport {
public:
    explicit transport_of(T&& value) : value_(std::move(value)) {}

    coro<std::size_t> recv(std::span<std::byte> target) override {
        return as_coro(value_.recv(target));
    }
    coro<std::size_t> send(std::span<const std::byte> data) override {
        return as_coro(value_.send(data));
    }
    coro<> shutdown() override { return as_coro(value_.shutdown()); }
    address peername() const override {
        if constexpr (requires { address(value_.peername()); }) return value_.peername();
        else return address();
    }
    address sockname() const override {
        if constexpr (requires { address(value_.sockname()); }) return value_.sockname();
        else return address();
    }

private:
    T value_;
};

ASYNCIO_API stream_pair make_streams(box<transport> over, std::size_t limit);

} // namespace detail

/// What make_streams() takes: something that moves bytes, such as a TLS session.
///
///     coro<std::size_t> recv(std::span<std::byte> target);      // 0: the end
///     coro<std::size_t> send(std::span<const std::byte> data);  // may be a part
///     coro<> shutdown();                                        // says goodbye
///
/// At most one recv() and one send() run at a time, each as a task of its own;
/// shutdown() runs once, when neither does. When the connection is aborted or fails,
/// what runs is cancelled and shutdown() is not called.
template <class T>
concept stream_transport =
    std::movable<T> &&
    requires(T& t, std::span<std::byte> target, std::span<const std::byte> data) {
        { t.recv(target) } -> awaitable;
        { t.send(data) } -> awaitable;
        { t.shutdown() } -> awaitable;
        requires std::convertible_to<await_result_t<decltype(t.recv(target))>, std::size_t>;
        requires std::convertible_to<await_result_t<decltype(t.send(data))>, std::size_t>;
    };

/// Makes streams over any transport: this is where TLS and the like plug in. The
/// transport is moved in, and destroyed when the connection is closed. If it has
/// peername() and sockname(), the writer gives them.
///
///     auto [plain_reader, plain_writer] = co_await asyncio::open_connection(host, 443);
///     auto [reader, writer] =
///         asyncio::make_streams(my_tls(std::move(plain_reader), std::move(plain_writer)));
///
/// A write() is handed over in the next turn. There is no half-close: see
/// can_write_eof().
template <stream_transport Transport>
stream_pair make_streams(Transport over, stream_options options = {}) {
    return detail::make_streams(
        detail::box<detail::transport>(
            new detail::transport_of<Transport>(std::move(over))),
        options.limit);
}

/// The same for a socket that is connected, without a layer in between.
ASYNCIO_API stream_pair make_streams(socket connected, stream_options options = {});

/// Options of start_server().
struct server_options {
    std::size_t limit = 64 * 1024; ///< of each connection's reader
    /// How many connections the system keeps waiting, with Linux up to
    /// net.core.somaxconn. More that come before the loop has a turn try again after a
    /// second, or never learn that they were dropped; hence more than Python's 100.
    int backlog = 1024;
    bool reuse_port = false;       ///< other servers may listen on the same port
    bool reuse_address = true;     ///< connections of a former server do not block the port
    std::size_t max_connections = 0; ///< more of them wait in the backlog; 0: no limit
    bool start_serving = true;       ///< false: start_serving() or serve_forever() does it
    bool keep_alive = false;         ///< as in connect_options, for each connection
};

/// Options of start_unix_server().
struct unix_server_options {
    std::size_t limit = 64 * 1024;
    int backlog = 1024;
    std::size_t max_connections = 0;
    bool start_serving = true;
    bool cleanup_socket = true; ///< close() removes the socket's file
};

/// A listening socket of a server. Python's asyncio.trsock.TransportSocket.
class server_socket {
public:
    server_socket(int fd, address local) : local_(std::move(local)), fd_(fd) {}

    const address& local_address() const noexcept { return local_; }
    int fileno() const noexcept { return fd_; }

private:
    address local_;
    int fd_;
};

/// A server that start_server() has made; a manager for with(), which closes it
/// and waits for its connections. Python's asyncio.Server.
///
/// Lifetime: destroying it closes it as close() does; connections go on.
class [[nodiscard]] server {
public:
    explicit server(detail::ref_ptr<detail::server_state> state) noexcept;
    server(server&& other) noexcept;
    server& operator=(server&& other) noexcept;
    ~server();

    /// Begins to accept connections; does nothing when it has begun.
    ///
    /// Throws: std::runtime_error when the server is closed.
    coro<> start_serving();

    /// Accepts connections until the task is cancelled or close() is called; then
    /// closes the server, waits for its connections and ends with cancelled_error.
    ///
    /// Throws: std::runtime_error when the server is closed, or when another
    /// serve_forever() is running.
    coro<> serve_forever();

    bool is_serving() const;

    /// Stops listening. Connections go on.
    void close();

    /// Waits until the server is closed and its last connection has gone.
    detail::condition_awaiter wait_closed();

    /// close() of each connection; abort() of each.
    void close_clients();
    void abort_clients();

    /// Stops listening, gives connections that long to end, then aborts the rest.
    coro<> drain(duration grace);

    /// The sockets it listens on; none after close().
    std::vector<server_socket> sockets() const;

    /// The first socket's port; 0 after close() and for Unix sockets.
    int port() const;

    coro<> aenter();
    coro<bool> aexit(exception_ptr error);

private:
    detail::server_state& state() const;

    detail::ref_ptr<detail::server_state> state_;
};

namespace detail {

// Makes the task that serves one client; empty when the callback is no coroutine.
using client_handler = function<any_task(stream_reader, stream_writer)>;

template <class Handler>
client_handler make_client_handler(Handler&& on_client) {
    static_assert(closure_survives<Handler>(),
                  "asyncio::start_server: g++ 12 destroys this closure twice; name the lambda "
                  "first: auto on_client = [...](...) {...}; start_server(on_client, ...)");
    return [fn = std::decay_t<Handler>(std::forward<Handler>(on_client))](
               stream_reader reader, stream_writer writer) mutable -> any_task {
        using result = decltype(fn(std::move(reader), std::move(writer)));
        if constexpr (std::is_void_v<result>) {
            fn(std::move(reader), std::move(writer));
            return any_task();
        } else {
            auto serving = as_coro(fn(std::move(reader), std::move(writer)));
            serving.accept_references(); // the server keeps the closure as long as the task
            return create_task(std::move(serving));
        }
    };
}

ASYNCIO_API coro<server> start_server(client_handler on_client, std::string host, int port,
                                      server_options options);
ASYNCIO_API coro<server> start_unix_server(client_handler on_client, std::string path,
                                           unix_server_options options);
ASYNCIO_API coro<server> start_server(client_handler on_client, socket listener,
                                      server_options options);

template <class Handler>
concept handles_clients =
    std::invocable<std::decay_t<Handler>&, stream_reader, stream_writer>;

} // namespace detail

/// Listens on `port` of the addresses that `host` has (empty: all of this machine)
/// and calls `on_client(reader, writer)` for each connection, whose coroutine runs
/// as a task. Port 0 takes a free one: server::port() tells. Python's
/// asyncio.start_server().
///
/// A handler that throws is reported to the loop's exception handler, and its
/// connection is closed; the others and the server go on.
///
/// Throws: std::system_error naming the address that is in use.
template <class Handler>
    requires detail::handles_clients<Handler>
coro<server> start_server(Handler&& on_client, std::string host, int port,
                          server_options options = {}) {
    return detail::start_server(detail::make_client_handler(std::forward<Handler>(on_client)),
                                std::move(host), port, options);
}

/// The same over a socket that is bound already, for instance by somebody else who
/// hands it over; the options that concern binding are not looked at.
template <class Handler>
    requires detail::handles_clients<Handler>
coro<server> start_server(Handler&& on_client, socket listener, server_options options = {}) {
    return detail::start_server(detail::make_client_handler(std::forward<Handler>(on_client)),
                                std::move(listener), options);
}

/// Listens on a Unix socket. A socket's file that is left at `path` is replaced.
template <class Handler>
    requires detail::handles_clients<Handler>
coro<server> start_unix_server(Handler&& on_client, std::string path,
                               unix_server_options options = {}) {
    return detail::start_unix_server(
        detail::make_client_handler(std::forward<Handler>(on_client)), std::move(path), options);
}

} // namespace asyncio::inline ASYNCIO_ABI

#endif // !ASYNCIO_BACKEND_NONE

// =============================================================================
// [SECTION] processes
// uses: configuration, support, events, tasks, streams
//
// Child processes, and pipes as streams. Python's asyncio.subprocess.
//
//     auto ls = co_await asyncio::create_subprocess_exec(
//         asyncio::argv("ls", "-l"), {.stdout_ = asyncio::stdio::pipe});
//     auto [out, err] = co_await ls.communicate();
//     int code = *ls.returncode();
//
// A child gets the three standard descriptors and no others. The library waits
// for its own children only and leaves SIGCHLD alone.
// =============================================================================

#if !defined(ASYNCIO_NO_THREADS)

namespace asyncio::inline ASYNCIO_ABI {

/// The variables of a child's environment, by name.
using environment = std::map<std::string, std::string>;

/// What a standard stream of a child is.
enum class stdio : unsigned char {
    inherit,  ///< the one of this process
    pipe,     ///< a stream of the process object
    devnull,  ///< nothing to read; what is written is dropped
    to_stdout ///< for stderr_ only: the same as stdout_
};

/// One of these, or a descriptor of the caller's, who may close it once the child runs.
class child_stream {
public:
    constexpr child_stream(stdio what = stdio::inherit) noexcept : what_(what) {}
    constexpr child_stream(int fd) noexcept : fd_(fd), is_fd_(true) {}

    constexpr stdio what() const noexcept { return what_; } ///< inherit for a descriptor
    constexpr bool is_fd() const noexcept { return is_fd_; }
    constexpr int fd() const noexcept { return fd_; }

private:
    int fd_ = -1;
    bool is_fd_ = false;
    stdio what_ = stdio::inherit;
};

/// Options of create_subprocess_exec() and create_subprocess_shell().
struct subprocess_options {
    child_stream stdin_ = {};
    child_stream stdout_ = {};
    child_stream stderr_ = {};
    std::string_view cwd = {};        ///< where the child works; empty: where this process does
    const environment* env = nullptr; ///< instead of this process's environment; copied
    std::size_t limit = 64 * 1024;    ///< of the readers: how long a line may be
    /// The child leads a process group: Ctrl-C at the terminal is not for it, and signals
    /// that are sent to it go to what it has started, too.
    bool new_group = false;
    /// A cancelled wait() or communicate() kills the child, and ends when it has ended.
    bool kill_on_cancel = false;
};

/// What communicate() gives: standard output and error; nothing for one that is no pipe.
using process_output = std::pair<std::optional<std::string>, std::optional<std::string>>;

namespace detail {

class process_state;

// Waits for a child's end, and for what it gives.
class process_awaiter final : public suspension, public awaitable_base<process_awaiter, int> {
public:
    ASYNCIO_API explicit process_awaiter(const ref_ptr<process_state>& state) noexcept;
    ASYNCIO_API process_awaiter(process_awaiter&& other) noexcept;
    ASYNCIO_API ~process_awaiter();

    ASYNCIO_API bool await_ready() const;
    template <class Promise>
    void await_suspend(std::coroutine_handle<Promise> h) noexcept {
        if (suspend(h)) wait();
    }
    ASYNCIO_API int await_resume();

private:
    friend class process_state;

    ASYNCIO_API void wait() noexcept;
    ASYNCIO_API void leave() noexcept;
    ASYNCIO_API bool on_cancel() noexcept override;

    ref_ptr<process_state> state_;
    process_awaiter* next_ = nullptr; // who waits for the same child
    process_awaiter* previous_ = nullptr;
    bool listed_ = false;
    bool killed_ = false; // by a cancellation, which is delivered when the child has ended
};

} // namespace detail

/// A child process. Python's asyncio.subprocess.Process.
///
/// A virtual clock stands still as long as the child runs.
///
/// Lifetime: destroying it kills a child that still runs, and waits for its end.
class [[nodiscard]] process {
public:
    /// Where the child reads, and what it writes; empty where stdio::pipe was not asked for.
    std::optional<stream_writer> stdin_;
    std::optional<stream_reader> stdout_;
    std::optional<stream_reader> stderr_;

    ASYNCIO_API explicit process(detail::ref_ptr<detail::process_state> state) noexcept;
    ASYNCIO_API process(process&& other) noexcept;
    ASYNCIO_API process& operator=(process&& other) noexcept;
    ASYNCIO_API ~process();

    /// Waits until the child has ended and gives its exit code, or -N when signal N
    /// ended it. Whoever else may still hold its pipes is not waited for.
    ///
    /// A code that somebody else in this program has taken (by waitpid(-1), or because
    /// SIGCHLD is ignored) is lost where the system does not tell it once more: then it
    /// is 255, and the loop's exception handler is told.
    ///
    /// Cancellation: the child runs on, unless kill_on_cancel was asked for.
    ASYNCIO_API detail::process_awaiter wait();

    /// Sends `input` and closes stdin_, reads what the child writes to its pipes until
    /// they are closed, and waits for its end. A child that does not read its input is
    /// no error; without a pipe to stdin_ the input goes nowhere.
    ///
    /// Cancellation: the child runs on, unless kill_on_cancel was asked for; what has
    /// been read is part of what the next communicate() gives.
    ASYNCIO_API coro<process_output> communicate(std::string input = {});

    /// Sends a signal; terminate() sends SIGTERM, kill() SIGKILL.
    ///
    /// Throws: std::system_error with ESRCH once the child's end has been seen.
    ASYNCIO_API void send_signal(int number);
    ASYNCIO_API void terminate();
    ASYNCIO_API void kill();

    ASYNCIO_API int pid() const;

    /// What wait() gives; nothing as long as the loop has not seen the child's end.
    ASYNCIO_API std::optional<int> returncode() const;

private:
    detail::process_state& state() const;

    detail::ref_ptr<detail::process_state> state_;
};

namespace detail {

ASYNCIO_API std::vector<std::string> take_texts(text_list& list);
ASYNCIO_API coro<process> create_subprocess(text_list& arguments,
                                            const subprocess_options& options);

} // namespace detail

/// A program and its arguments, as create_subprocess_exec() wants them.
template <class... Text>
    requires(sizeof...(Text) > 0 && (std::convertible_to<const Text&, std::string_view> && ...))
std::vector<std::string> argv(const Text&... words) {
    detail::text_list list(true);
    (list.add(std::string_view(words)), ...);
    return detail::take_texts(list);
}

/// Starts a program. A name without a slash is looked for in the PATH of the child's
/// environment. Python's asyncio.create_subprocess_exec().
///
/// Throws: std::system_error naming what could not be executed, or the directory.
template <class Range>
    requires(detail::range_of_text<Range> && !std::convertible_to<Range, std::string_view>)
coro<process> create_subprocess_exec(Range&& arguments, subprocess_options options = {}) {
    detail::text_list list(true);
    for (auto&& word : arguments) list.add(std::string_view(word));
    return detail::create_subprocess(list, options);
}

/// Has a shell run a command line. Quote what comes from elsewhere, or better use
/// create_subprocess_exec(). Python's asyncio.create_subprocess_shell().
ASYNCIO_API coro<process> create_subprocess_shell(std::string_view command,
                                                  subprocess_options options = {});

/// A pipe inside this process: what is written to the one is read from the other.
ASYNCIO_API coro<stream_pair> create_pipe(std::size_t limit = 64 * 1024);

/// Makes a stream of one end of a pipe, of a terminal or of a socket. `fd` no longer
/// blocks, and belongs to the stream; when this fails it is closed. Python's
/// loop.connect_read_pipe() and loop.connect_write_pipe().
///
/// Throws: std::invalid_argument for a file, which file is for; std::system_error.
ASYNCIO_API coro<stream_reader> connect_read_pipe(int fd, std::size_t limit = 64 * 1024);
ASYNCIO_API coro<stream_writer> connect_write_pipe(int fd);

/// Reads this process's standard input, be it a terminal, a pipe, a socket or a file.
/// The descriptor itself stays as it is, and open. One reader at a time: what one has
/// received and not given out is lost to the next, and to std::cin.
///
/// Throws: std::system_error when there is no standard input.
ASYNCIO_API coro<stream_reader> stdin_reader(std::size_t limit = 64 * 1024);

} // namespace asyncio::inline ASYNCIO_ABI

#endif // !ASYNCIO_NO_THREADS

// =============================================================================
// [SECTION] files
// uses: configuration, support, tasks
//
// Files, off the loop: a disk can be slow, and no system says in advance that a
// file is ready. Each operation is a job of the loop's default executor, and an
// error is a std::system_error that says what was done to which path.
//
//     std::string text = co_await asyncio::read_file("notes.txt");
//     co_await asyncio::write_file("notes.txt", text + "more\n", {.atomic = true});
//
// A job that has begun cannot be interrupted: the await of one that is cancelled
// ends at once, the job itself later. Pipes and terminals may keep a thread busy
// for ever; they are for connect_read_pipe() and stdin_reader().
// =============================================================================

#if !defined(ASYNCIO_NO_THREADS)

namespace asyncio::inline ASYNCIO_ABI {

/// The contents of a file.
///
/// Throws: std::system_error.
ASYNCIO_API coro<std::string> read_file(std::string path);

/// Options of write_file().
struct write_file_options {
    /// Replaces the file in one step, so that whoever opens it finds all of the old or all
    /// of the new contents, also after a crash. Its permissions stay; other names (hard
    /// links) keep the old contents.
    bool atomic = false;
};

/// Makes `data` the contents of a file, which is created if it is not there.
///
/// Throws: std::system_error. Unless atomic, the file may hold a part of `data` then.
/// Cancellation: the file may be written all the same, and later.
ASYNCIO_API coro<> write_file(std::string path, std::string data, write_file_options options = {});

namespace detail {
class file_state;
}

/// What file::seek() counts from.
enum class seek_from : unsigned char { start, current, end };

/// An open file. Operations that several tasks begin are done one after the other.
///
///     asyncio::file log = co_await asyncio::file::open("log.txt", "a");
///     co_await log.write("started\n");
///     co_await log.close();
///
/// Cancellation: of a read takes nothing; of a write, it may be done all the same. A
/// later operation comes after it in any case.
/// Lifetime: destroying it closes the file, and an error of that is lost; close() tells.
class [[nodiscard]] file {
public:
    /// Opens a file: "r" to read, "w" to write a new one in place of the old, "a" to
    /// write at the end, "x" to write one that must not exist yet; with "+" to do both.
    /// A "b" changes nothing: bytes are bytes. Python's open().
    ///
    /// Throws: std::invalid_argument for another mode; std::system_error.
    ASYNCIO_API static coro<file> open(std::string path, std::string_view mode = "r");

    ASYNCIO_API explicit file(detail::ref_ptr<detail::file_state> state) noexcept;
    ASYNCIO_API file(file&& other) noexcept;
    ASYNCIO_API file& operator=(file&& other) noexcept;
    ASYNCIO_API ~file();

    /// At most `n` bytes, and fewer only at the end of the file, where it is empty.
    /// Without `n`, everything up to the end.
    ASYNCIO_API coro<std::string> read(std::ptrdiff_t n = -1);

    /// A line with its "\n"; what is left at the end of the file, and then empty.
    ASYNCIO_API coro<std::string> readline();

    /// Writes all of `data`, where the file is read next or at its end, and gives the
    /// number of bytes.
    ASYNCIO_API coro<std::size_t> write(std::string data);

    /// Where to go on reading and writing; gives the place counted from the start.
    ASYNCIO_API coro<std::int64_t> seek(std::int64_t offset, seek_from from = seek_from::start);

    /// Closes the file; a second close() does nothing.
    ///
    /// Throws: std::system_error when the system could not store what was written.
    ASYNCIO_API coro<> close();

private:
    const detail::ref_ptr<detail::file_state>& state() const;

    detail::ref_ptr<detail::file_state> state_;
};

} // namespace asyncio::inline ASYNCIO_ABI

#endif // !ASYNCIO_NO_THREADS

// =============================================================================
// [SECTION] resilience
// uses: configuration, exceptions, support, events, futures, tasks, timeouts, taskgroups, locks
//
// What keeps a program going when others fail: trying again, leaving a dead service
// alone, going slowly, and working on many items with a limit. Python's asyncio has
// none of these.
// =============================================================================

namespace asyncio::inline ASYNCIO_ABI {

/// What a function given to retry() may ask about its call.
struct attempt {
    int number = 1;                       ///< 1 for the first call
    const error* last_error = nullptr;    ///< of the call before; null for the first
    duration next_delay = {};             ///< the pause that follows if this call fails
};

/// Options of retry().
struct retry_options {
    int attempts = 3; ///< calls in all, the first one included
    duration initial_delay = std::chrono::seconds(1);
    duration max_delay = std::chrono::seconds(32);
    double factor = 2;
    double jitter = 0.1;                    ///< up to this share is added to each delay
    std::optional<duration> timeout = {}; ///< of each call
};

namespace detail {

template <class F>
concept takes_attempt = std::invocable<F&, const attempt&>;

template <class F>
decltype(auto) call_attempt(F& fn, const attempt& now) {
    if constexpr (takes_attempt<F>) return fn(now);
    else return fn();
}

template <class F>
using attempt_result_t =
    await_result_t<decltype(call_attempt(std::declval<F&>(), std::declval<const attempt&>()))>;

struct always {
    bool operator()(const error&) const noexcept { return true; }
};

// The pause before call number `next`, with jitter, below the cap.
ASYNCIO_API duration retry_delay(const retry_options& options, int next);

// Throws std::invalid_argument for options that make no sense.
ASYNCIO_API void check_retry(const retry_options& options);

template <class F, class Predicate>
coro<attempt_result_t<F>> run_retry(F fn, retry_options options, Predicate again) {
    using R = attempt_result_t<F>;
    attempt now;
    error last;
    for (;;) {
        now.next_delay =
            now.number < options.attempts ? retry_delay(options, now.number + 1) : duration();
        std::optional<coro<R>> call;
        caught<R> got;
        got.error = thrown_by(
            [&] { call.emplace(wait_for(call_attempt(fn, now), options.timeout)); });
        if (call) got = co_await catching(std::move(*call));
        if constexpr (std::is_void_v<R>) {
            if (!got.error) co_return;
        } else {
            if (!got.error) co_return std::move(*got.value);
        }
        const exception_ptr failure = std::move(got.error);
        if (kind_of(failure) != error_kind::ordinary || now.number >= options.attempts)
            co_await fail_with(failure);
        last = error(failure);
        now.last_error = &last;
        const bool repeat = again(std::as_const(last));
        if (!repeat) co_await fail_with(failure);
        co_await sleep(now.next_delay);
        ++now.number;
    }
}

} // namespace detail

/// Calls `fn` until it succeeds, at most options.attempts times, with growing pauses
/// between the calls. `fn` returns an awaitable; it may take a const attempt&.
/// `again` says for which errors another call makes sense.
///
/// Throws: the last call's error, std::invalid_argument for options that make no
/// sense.
///
/// Cancellation: ends it; a cancellation is never tried again.
template <class F, class Predicate = detail::always>
auto retry(F&& fn, retry_options options = {}, Predicate&& again = {}) {
    static_assert(detail::closure_survives<F>() && detail::closure_survives<Predicate>(),
                  "asyncio::retry: g++ up to 12 destroys such a closure twice; name the lambda "
                  "first: auto call = [...]...; co_await retry(call)");
    detail::check_retry(options);
    return detail::run_retry<std::decay_t<F>, std::decay_t<Predicate>>(
        std::forward<F>(fn), options, std::forward<Predicate>(again));
}

/// The states of a circuit_breaker.
enum class circuit_state { closed, open, half_open };

/// A call that a circuit_breaker did not let through.
class circuit_open_error : public std::runtime_error {
public:
    circuit_open_error()
        : std::runtime_error("asyncio::circuit_breaker: the circuit is open after repeated "
                             "failures; try again later") {}
    using std::runtime_error::runtime_error;
};

/// Options of circuit_breaker.
struct circuit_breaker_options {
    int failures = 5;                           ///< in a row, that open it
    duration open_for = std::chrono::seconds(60); ///< until a trial call is let through
    int half_open_calls = 1;                    ///< trial calls that must succeed to close it
};

/// Leaves a service alone that keeps failing. Closed, it lets calls through; after some
/// failures in a row it opens, and calls fail at once; after a while it is half open and
/// lets trial calls through: their success closes it, a failure opens it again.
/// Cancellations count neither as success nor as failure. (M. Nygard, Release It!)
class circuit_breaker {
public:
    /// Throws: std::invalid_argument for options that make no sense.
    explicit circuit_breaker(circuit_breaker_options options = {});
    circuit_breaker(const circuit_breaker&) = delete;
    circuit_breaker& operator=(const circuit_breaker&) = delete;
    ~circuit_breaker();

    /// Awaits what `fn` returns, or throws circuit_open_error without calling it.
    template <class F>
        requires detail::owned_callable<F>
    auto call(F&& fn) {
        static_assert(detail::closure_survives<F>(),
                      "asyncio::circuit_breaker::call: g++ up to 12 destroys such a closure "
                      "twice; name the lambda first: auto fn = [...]...; co_await c.call(fn)");
        return run_call<std::decay_t<F>>(std::forward<F>(fn));
    }

    /// Open turns into half_open when its time is over.
    circuit_state state() const noexcept;

    /// `fn(from, to)` is called at each change.
    void on_change(detail::function<void(circuit_state, circuit_state)> fn);

private:
    template <class F>
    coro<await_result_t<F>> run_call(F fn) {
        using R = await_result_t<F>;
        const bool open = !let_in();
        if (open) co_await detail::fail_with(detail::make_error(circuit_open_error()));
        const std::uint64_t period = period_;
        std::optional<std::decay_t<std::invoke_result_t<F&>>> work;
        detail::caught<R> got;
        got.error = detail::thrown_by([&] { work.emplace(fn()); });
        if (work) got = co_await detail::catching(std::move(*work));
        note(period, got.error);
        if (got.error) co_await detail::fail_with(std::move(got.error));
        if constexpr (!std::is_void_v<R>) co_return std::move(*got.value);
    }
    bool let_in();
    void note(std::uint64_t period, const exception_ptr& failure);
    void change(circuit_state to);

    circuit_breaker_options options_;
    detail::function<void(circuit_state, circuit_state)> on_change_;
    circuit_state state_ = circuit_state::closed;
    std::uint64_t period_ = 0; // changes so far: late results of an earlier state do not count
    int failures_ = 0;         // in a row
    int trials_ = 0;           // let in since it is half open
    int successes_ = 0;        // of those
    time_point open_until_;
};

/// Options of rate_limiter.
struct rate_limiter_options {
    double rate = 1;                            ///< turns ...
    duration per = std::chrono::seconds(1); ///< ... in this time
    double burst = 1;                           ///< turns that may be saved up
};

/// Lets a number of turns through per time, first come, first served: a token bucket.
class rate_limiter {
public:
    /// Throws: std::invalid_argument unless rate, per and burst are positive, burst at
    /// least 1.
    explicit rate_limiter(rate_limiter_options options);
    rate_limiter(const rate_limiter&) = delete;
    rate_limiter& operator=(const rate_limiter&) = delete;

    /// Waits for a turn and takes it.
    ///
    /// Cancellation: no turn is taken.
    coro<> acquire();

private:
    void refill();

    rate_limiter_options options_;
    double saved_;
    time_point filled_at_;
    bool begun_ = false;
    lock line_;
};

/// Options of map().
struct map_options {
    std::optional<std::size_t> limit = {}; ///< calls at the same time; none: all
    bool ordered = true;                   ///< results in the order of the range, or as they come
};

namespace detail {

template <class T, class F>
using map_result_t = await_result_t<std::invoke_result_t<F&, T>>;

template <bool Outcomes, class T, class F>
struct map_state {
    using R = map_result_t<T, F>;
    std::vector<T> items;
    F fn;
    std::size_t next = 0;
    std::vector<std::optional<gathered<Outcomes, R>>> results;
    bool ordered;
    std::size_t finished = 0;
};

// One of the tasks that work on the items.
template <bool Outcomes, class T, class F>
coro<> map_worker(map_state<Outcomes, T, F>& work) {
    using R = map_result_t<T, F>;
    while (work.next < work.items.size()) {
        const std::size_t index = work.next++;
        std::optional<gathered<Outcomes, R>> result;
        if constexpr (Outcomes) {
            auto call = as_coro(work.fn(std::move(work.items[index])));
            result.emplace(co_await as_outcome(std::move(call)));
        } else if constexpr (std::is_void_v<R>) {
            co_await work.fn(std::move(work.items[index]));
            result.emplace();
        } else {
            result.emplace(co_await work.fn(std::move(work.items[index])));
        }
        work.results[work.ordered ? index : work.finished] = std::move(result);
        ++work.finished;
    }
}

template <bool Outcomes, class T, class F>
coro<range_result<Outcomes, map_result_t<T, F>>> run_map(std::vector<T> items, F fn,
                                                         map_options options) {
    using R = map_result_t<T, F>;
    const std::size_t count = items.size();
    map_state<Outcomes, T, F> work{std::move(items), std::move(fn), 0, {}, options.ordered, 0};
    work.results.resize(count);
    const std::size_t workers = (std::min)(count, options.limit.value_or(count));
    auto body = [&work, workers](task_group& group) {
        for (std::size_t i = 0; i < workers; ++i) group.create_task(map_worker(work));
    };
    const caught<void> got = co_await catching(with(task_group(), body));
    const auto* const group = exception_cast<base_exception_group>(got.error);
    if (group) co_await fail_with(group->exceptions().front());
    if (got.error) co_await fail_with(got.error);
    // A call that somebody else has cancelled gave nothing.
    if constexpr (!Outcomes) {
        if (work.finished < count) co_await fail_with(make_error(cancelled_error()));
    }
    if constexpr (!std::is_void_v<range_result<Outcomes, R>>) {
        range_result<Outcomes, R> results;
        results.reserve(count);
        for (auto& result : work.results) {
            if (result) results.push_back(std::move(*result));
            else if constexpr (Outcomes)
                results.push_back(outcome<R>(error(make_error(cancelled_error()))));
        }
        co_return results;
    }
}

template <bool Outcomes, class Range, class F>
auto map_each(Range&& range, F&& fn, map_options options) {
    static_assert(closure_survives<F>(),
                  "asyncio::map: g++ up to 12 destroys such a closure twice; name the lambda "
                  "first: auto fn = [...]...; co_await map(range, fn)");
    if (options.limit && *options.limit == 0)
        throw_invalid_argument("asyncio::map: a limit of 0 lets nothing run; give at least 1");
    using T = range_element_t<Range>;
    std::vector<T> items;
    for_each_given(std::forward<Range>(range),
                   [&](auto&& item) { items.push_back(std::forward<decltype(item)>(item)); });
    return run_map<Outcomes, T, std::decay_t<F>>(std::move(items), std::forward<F>(fn), options);
}

} // namespace detail

/// Calls `fn`, which returns an awaitable, for each item of a range, at most
/// options.limit at the same time, and gives the results as a vector. The items and `fn`
/// are moved or copied in.
///
/// Throws: the first failure, as it is, after the other calls were cancelled and have
/// ended; cancelled_error when somebody else cancelled one of the calls. With
/// `return_exceptions` as the first argument nothing is thrown and the results are
/// outcomes.
///
/// Cancellation: cancels the calls and waits for them.
template <class Range, class F>
    requires(!std::same_as<std::remove_cvref_t<Range>, return_exceptions_t>)
auto map(Range&& range, F&& fn, map_options options = {}) {
    return detail::map_each<false>(std::forward<Range>(range), std::forward<F>(fn), options);
}
template <class Range, class F>
auto map(return_exceptions_t, Range&& range, F&& fn, map_options options = {}) {
    return detail::map_each<true>(std::forward<Range>(range), std::forward<F>(fn), options);
}

namespace detail {

// The calls under way of a map_stream(). Nobody needs those that are left when it goes.
template <class R>
struct stream_calls {
    stream_calls() = default;
    stream_calls(const stream_calls&) = delete;
    stream_calls& operator=(const stream_calls&) = delete;
    ~stream_calls() { cancel(); }

    void cancel() noexcept {
        for (const task<R>& call : tasks) call.cancel();
    }
    some_done wait(return_when until) {
        state_list states;
        for (const task<R>& call : tasks) states.add(call.state());
        return some_done(std::move(states), until, std::nullopt);
    }

    std::vector<task<R>> tasks; // in the order of their items
};

// Cancels what is under way and waits for it, however often it is cancelled itself.
template <class R>
coro<> end_calls(stream_calls<R>& calls) {
    calls.cancel();
    exception_ptr cancelled;
    for (bool ended = false; !ended;) {
        caught<void> got = co_await catching(calls.wait(return_when::all_completed));
        if (got.error) cancelled = std::move(got.error);
        else ended = true;
    }
    for (const task<R>& call : calls.tasks) call.state().reported = true;
    calls.tasks.clear();
    if (cancelled) co_await fail_with(std::move(cancelled));
}

template <bool Outcomes, class Range, class F, class R>
async_generator<gathered<Outcomes, R>> run_map_stream(Range range, F fn, map_options options) {
    const std::size_t limit = options.limit.value_or(16);
    stream_calls<R> calls;
    auto place = std::begin(range);
    const auto end = std::end(range);
    exception_ptr failure;
    while (!failure) {
        failure = thrown_by([&] {
            while (calls.tasks.size() < limit && place != end) {
                calls.tasks.push_back(create_task(fn(*place)));
                ++place;
            }
        });
        if (failure || calls.tasks.empty()) break;
        std::size_t next = 0;
        caught<void> waited;
        if (options.ordered) {
            state_list first;
            first.add(calls.tasks.front().state());
            some_done oldest(std::move(first), return_when::all_completed, std::nullopt);
            waited = co_await catching(std::move(oldest));
        } else {
            waited = co_await catching(calls.wait(return_when::first_completed));
        }
        failure = std::move(waited.error);
        if (failure) break;
        while (!calls.tasks[next].done()) ++next;
        ref_ptr<state_base> done(&calls.tasks[next].state());
        if constexpr (Outcomes) done->reported = true;
        else if (!done->has_value()) failure = done->why_no_value();
        if (failure) break;
        calls.tasks.erase(calls.tasks.begin() + static_cast<std::ptrdiff_t>(next));
        ASYNCIO_TRY {
            co_yield take_gathered<Outcomes, R>(std::move(done));
        } ASYNCIO_CATCH_ALL {
            failure = current_error(); // of an aclose(), most likely
        }
    }
    if (!failure) co_return;
    co_await end_calls(calls);
    co_await fail_with(std::move(failure));
}

template <bool Outcomes, class Range, class F>
auto map_stream_of(Range&& range, F&& fn, map_options options) {
    if (options.limit && *options.limit == 0)
        throw_invalid_argument(
            "asyncio::map_stream: a limit of 0 lets nothing run; give at least 1");
    using R = await_result_t<std::invoke_result_t<std::decay_t<F>&, decltype(*std::begin(range))>>;
    return run_map_stream<Outcomes, Range, std::decay_t<F>, R>(std::forward<Range>(range),
                                                               std::forward<F>(fn), options);
}

} // namespace detail

/// The same for a range that has no end, or more items than should be in memory: an
/// async_generator of the results, which calls `fn` when a result has been taken. At most
/// options.limit calls, 16 when none is given, are under way or wait to be taken.
///
///     auto pages = asyncio::map_stream(std::views::iota(1), fetch_page, {.limit = 4});
///     while (auto page = co_await pages.next()) show(*page);
///
/// Throws: the failure of a call in its turn, after the other calls were cancelled and
/// have ended. A call that gives nothing yields std::monostate.
///
/// Lifetime: the range outlives the generator, unless it is moved in.
///
/// Cancellation, of a next(): as a failure. Leaving early, too, cancels the calls;
/// aclose() waits for them.
template <class Range, class F>
    requires(!std::same_as<std::remove_cvref_t<Range>, return_exceptions_t>)
auto map_stream(Range&& range, F&& fn, map_options options = {}) {
    return detail::map_stream_of<false, Range>(std::forward<Range>(range), std::forward<F>(fn),
                                               options);
}
template <class Range, class F>
auto map_stream(return_exceptions_t, Range&& range, F&& fn, map_options options = {}) {
    return detail::map_stream_of<true, Range>(std::forward<Range>(range), std::forward<F>(fn),
                                              options);
}

} // namespace asyncio::inline ASYNCIO_ABI

// =============================================================================
// [SECTION] debugging
// uses: configuration, exceptions, support, events, futures, tasks
//
// Seeing what a program does: which tasks lived when, and which jobs ran for them.
// =============================================================================

#if !defined(ASYNCIO_BACKEND_NONE)

namespace asyncio::inline ASYNCIO_ABI {

/// Prints where a task stands: its coroutines, the outermost first, each with the place
/// of its await; and below, in the same way, the tasks that wait for it. `limit` keeps
/// the n outermost coroutines, a negative one the n innermost, 0 none. Without a task:
/// the running one; nothing in a plain callback. Python's asyncio.print_call_graph.
///
/// Of a running task the coroutines are known up to where it was last suspended. A chain
/// of tasks is shown for 64 of them.
///
/// Throws: std::runtime_error outside a loop when no task is given.
ASYNCIO_API void print_call_graph(const any_task& task, std::ostream& out);
ASYNCIO_API void print_call_graph(const any_task& task, std::ostream& out,
                                  std::optional<int> limit);
ASYNCIO_API void print_call_graph(std::ostream& out);
ASYNCIO_API void print_call_graph(std::ostream& out, std::optional<int> limit);

/// Prints all unfinished tasks of the running loop as trees: below each task stand those
/// that it waits for, to a depth of 64; a task that two wait for stands under both. As
/// `asyncio pstree`.
///
/// Throws: std::runtime_error outside a loop, and when tasks wait for each other in a
/// circle, naming them.
ASYNCIO_API void print_tasks(std::ostream& out);

/// Records the tasks of a loop and the executor jobs that they await, while it lives.
///
///     asyncio::tracer trace(asyncio::get_running_loop());
///     co_await work();
///     trace.print_timeline(std::cout);
///
/// Thread safety: the loop's thread only. One tracer per loop at a time.
class tracer final : detail::trace_sink {
public:
    /// Throws: std::runtime_error when the loop is being traced already.
    explicit tracer(event_loop& loop);
    tracer(const tracer&) = delete;
    tracer& operator=(const tracer&) = delete;
    ~tracer();

    /// Notes a moment.
    void mark(std::string_view text);

    /// Writes all spans as JSON for chrome://tracing and Perfetto.
    void write_chrome_trace(std::ostream& out) const;

    /// Draws a row for each task, in the order of their begin: `=` while it lives, `#`
    /// while a job of it runs in an executor, `!` where it failed, `x` where it was
    /// cancelled. `width` is the width of the time axis in columns.
    void print_timeline(std::ostream& out, std::size_t width = 60) const;

private:
    struct record;

    void task_started(detail::task_base& task) override;
    void task_ended(detail::task_base& task) override;
    void job_ended(std::uint32_t task_id, std::int64_t begin, std::int64_t end) override;
    std::int64_t now() const noexcept;
    void refresh_names() const;

    detail::ref_ptr<detail::loop_core> core_;
    detail::box<record> record_;
};

} // namespace asyncio::inline ASYNCIO_ABI

#endif // !ASYNCIO_BACKEND_NONE

#if defined(__GNUC__) && !defined(_WIN32)
#if ASYNCIO_IS_EXPORTED(ASYNCIO_API)
#pragma GCC visibility pop
#endif
#endif
#undef ASYNCIO_SAYS_SOMETHING
#undef ASYNCIO_IS_EXPORTED

#endif // ASYNCIO_HPP

#if defined(ASYNCIO_IMPLEMENTATION) && !defined(ASYNCIO_IMPLEMENTATION_DONE)
#define ASYNCIO_IMPLEMENTATION_DONE

// =============================================================================
// [SECTION] os
// uses: configuration, exceptions
//
// The only place that includes headers of the operating system, and what every
// section below asks of it.
// =============================================================================

#if defined(ASYNCIO_BACKEND_NONE)

#include <cstdlib>
#include <unordered_set>
#if !defined(_MSC_VER)
#include <cxxabi.h>
#endif

extern "C" {
/// Nanoseconds since some moment; never goes backwards.
std::int64_t asyncio_port_now_ns();

/// Sleeps until an interrupt comes or `ns` nanoseconds have passed; -1: until an interrupt.
/// May return early. An interrupt may come right before it: sleep as WFE does, or look at
/// isr_event::pending() with interrupts masked.
void asyncio_port_idle(std::int64_t ns);
}

namespace asyncio::inline ASYNCIO_ABI::detail {

template <class T>
T& of_this_thread() {
    static T object{};
    return object;
}

static bool may_keep_for_thread() noexcept { return true; }
static void refuse_in_worker() noexcept {}

} // namespace asyncio::inline ASYNCIO_ABI::detail

#else

#if defined(_WIN32)
#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <fcntl.h>
#include <functional>
#include <io.h>
#include <ios>
#include <mutex>
#include <ostream>
#include <sstream>
#include <sys/stat.h>
#include <sys/types.h>
#include <thread>
#include <time.h>
#include <unordered_map>
#include <unordered_set>
#if !defined(_MSC_VER)
#include <cxxabi.h>
#endif
// Without what nobody here needs; the macros are the user's own again afterwards.
#pragma push_macro("WIN32_LEAN_AND_MEAN")
#pragma push_macro("NOMINMAX")
#undef WIN32_LEAN_AND_MEAN
#undef NOMINMAX
#define WIN32_LEAN_AND_MEAN 1
#define NOMINMAX 1
#include <winsock2.h> // before windows.h, which would bring the one before it

#include <afunix.h>
#include <mswsock.h>
#include <windows.h>
#include <winternl.h>
#include <ws2tcpip.h>
#pragma pop_macro("NOMINMAX")
#pragma pop_macro("WIN32_LEAN_AND_MEAN")
#if defined(_MSC_VER)
#pragma comment(lib, "ws2_32.lib")
#endif
#else
#include <arpa/inet.h>
#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cxxabi.h>
#include <deque>
#include <dirent.h>
#include <fcntl.h>
#include <functional>
#include <ios>
#include <mutex>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <ostream>
#include <sstream>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <thread>
#include <time.h>
#include <unistd.h>
#include <unordered_map>
#include <unordered_set>
#endif
#if defined(__linux__)
#include <elf.h>
#include <link.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#elif defined(__APPLE__)
#include <crt_externs.h>
#elif !defined(_WIN32)
extern "C" char** environ;
#endif
#if defined(ASYNCIO_BACKEND_EPOLL)
#include <sys/epoll.h>
#elif defined(ASYNCIO_BACKEND_KQUEUE)
#include <sys/event.h>
#endif

namespace asyncio::inline ASYNCIO_ABI::detail {

// -- errors ---------------------------------------------------------------------------
//
//     last_error    the errno value of the system call that has just failed
//     code_of       such a number as users see it

#if defined(_WIN32)

// An error is the same on every system: an errno value, where one means the same. What
// else Windows says goes through the same int, negated.
struct windows_error {
    unsigned long windows;
    int same;
    const char* text; // the C library's own words end before the network's errors
};

constexpr windows_error windows_errors[] = {
    {WSAEADDRINUSE, EADDRINUSE, "Address already in use"},
    {WSAEADDRNOTAVAIL, EADDRNOTAVAIL, "Cannot assign requested address"},
    {WSAEAFNOSUPPORT, EAFNOSUPPORT, "Address family not supported by protocol"},
    {WSAEALREADY, EALREADY, "Operation already in progress"},
    {ERROR_OPERATION_ABORTED, ECANCELED, "Operation canceled"},
    {WSAECONNABORTED, ECONNABORTED, "Software caused connection abort"},
    {ERROR_CONNECTION_ABORTED, ECONNABORTED, "Software caused connection abort"},
    {WSAECONNREFUSED, ECONNREFUSED, "Connection refused"},
    {ERROR_CONNECTION_REFUSED, ECONNREFUSED, "Connection refused"},
    {WSAECONNRESET, ECONNRESET, "Connection reset by peer"},
    {ERROR_NETNAME_DELETED, ECONNRESET, "Connection reset by peer"},
    {WSAEDESTADDRREQ, EDESTADDRREQ, "Destination address required"},
    {WSAEHOSTUNREACH, EHOSTUNREACH, "No route to host"},
    {ERROR_HOST_UNREACHABLE, EHOSTUNREACH, "No route to host"},
    {WSAEINPROGRESS, EINPROGRESS, "Operation now in progress"},
    {WSAEISCONN, EISCONN, "Transport endpoint is already connected"},
    {WSAEMSGSIZE, EMSGSIZE, "Message too long"},
    {WSAENETDOWN, ENETDOWN, "Network is down"},
    {WSAENETRESET, ENETRESET, "Network dropped connection on reset"},
    {WSAENETUNREACH, ENETUNREACH, "Network is unreachable"},
    {ERROR_NETWORK_UNREACHABLE, ENETUNREACH, "Network is unreachable"},
    {WSAENOBUFS, ENOBUFS, "No buffer space available"},
    {WSAENOPROTOOPT, ENOPROTOOPT, "Protocol not available"},
    {WSAENOTCONN, ENOTCONN, "Transport endpoint is not connected"},
    {WSAENOTSOCK, ENOTSOCK, "Socket operation on non-socket"},
    {ERROR_NOT_SUPPORTED, ENOTSUP, "Operation not supported"},
    {WSAEOPNOTSUPP, EOPNOTSUPP, "Operation not supported"},
    {WSAEPROTONOSUPPORT, EPROTONOSUPPORT, "Protocol not supported"},
    {WSAEPROTOTYPE, EPROTOTYPE, "Protocol wrong type for socket"},
    {WSAETIMEDOUT, ETIMEDOUT, "Connection timed out"},
    {ERROR_SEM_TIMEOUT, ETIMEDOUT, "Connection timed out"},
    {WSAEWOULDBLOCK, EAGAIN, nullptr},
    {WSAESHUTDOWN, EPIPE, nullptr},
    {WSAEACCES, EACCES, nullptr},
    {ERROR_ACCESS_DENIED, EACCES, nullptr},
    {ERROR_SHARING_VIOLATION, EACCES, nullptr},
    {WSAEBADF, EBADF, nullptr},
    {ERROR_INVALID_HANDLE, EBADF, nullptr},
    {WSAEFAULT, EFAULT, nullptr},
    {WSAEINTR, EINTR, nullptr},
    {WSAEINVAL, EINVAL, nullptr},
    {ERROR_INVALID_PARAMETER, EINVAL, nullptr},
    {WSAEMFILE, EMFILE, nullptr},
    {ERROR_TOO_MANY_OPEN_FILES, EMFILE, nullptr},
    {ERROR_FILE_NOT_FOUND, ENOENT, nullptr},
    {ERROR_PATH_NOT_FOUND, ENOENT, nullptr},
    {ERROR_FILE_EXISTS, EEXIST, nullptr},
    {ERROR_ALREADY_EXISTS, EEXIST, nullptr},
    {ERROR_NOT_ENOUGH_MEMORY, ENOMEM, nullptr},
    {ERROR_OUTOFMEMORY, ENOMEM, nullptr},
    {ERROR_BROKEN_PIPE, EPIPE, nullptr},
    {ERROR_NO_DATA, EPIPE, nullptr},
};

static int error_of(unsigned long code) noexcept {
    for (const windows_error& e : windows_errors)
        if (e.windows == code) return e.same;
    return -static_cast<int>(code);
}

static int last_error() noexcept { return error_of(::GetLastError()); }

// errno's category, with words for all of its values.
static const std::error_category& errno_category() noexcept {
    struct category final : std::error_category {
        const char* name() const noexcept override { return "generic"; }
        std::string message(int code) const override {
            for (const windows_error& e : windows_errors)
                if (e.same == code && e.text != nullptr) return e.text;
            return std::generic_category().message(code);
        }
        std::error_condition default_error_condition(int code) const noexcept override {
            return std::error_condition(code, std::generic_category());
        }
    };
    static const category instance;
    return instance;
}

static std::error_code code_of(int error) noexcept {
    if (error < 0) return std::error_code(-error, std::system_category());
    return std::error_code(error, errno_category());
}

#else

static int last_error() noexcept { return errno; }
static std::error_code code_of(int error) noexcept {
    return std::error_code(error, std::system_category());
}

#endif

// Throws what the system says. `call` is the system call, or what it was made for.
[[noreturn]] inline void throw_last_error(const char* call) {
    throw_system_error(last_error(), call);
}

#if defined(_WIN32)

// For what only other systems have, or what this version does not do here yet.
[[noreturn]] static void throw_not_on_windows(const std::string& who) {
    const std::string text = who + " is not supported on Windows";
    throw_system_error(ENOTSUP, text.c_str());
}

// UTF-8 as the system's calls take it.
static std::wstring wide(std::string_view text) {
    if (text.empty()) return {};
    const int size = static_cast<int>(text.size());
    const int length =
        ::MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, text.data(), size, nullptr, 0);
    if (length == 0) throw_system_error(EILSEQ, "a text that is no UTF-8");
    std::wstring result(static_cast<std::size_t>(length), L'\0');
    ::MultiByteToWideChar(CP_UTF8, 0, text.data(), size, result.data(), length);
    return result;
}

// Windows keeps the numbers of handles within 32 bits.
static SOCKET socket_of(int fd) noexcept {
    return static_cast<SOCKET>(static_cast<std::intptr_t>(fd));
}
static int number_of(SOCKET s) noexcept {
    return static_cast<int>(static_cast<std::intptr_t>(s));
}

using pid_t = int;
using ssize_t = std::ptrdiff_t;

inline void close_fd(int fd) noexcept { ::closesocket(socket_of(fd)); }

#else

inline void close_fd(int fd) noexcept { ::close(fd); }

#endif

// -- what a thread has for itself -----------------------------------------------------
//
//     of_this_thread        an object that goes when the thread ends
//     may_keep_for_thread   whether the end of this thread is seen in time for what lies in
//                           a plain thread_local

#if defined(__MINGW32__)

// The memory of thread-locals is given back there before the destructors of those that
// have one run, in all threads but the first.
template <class T>
T& of_this_thread() {
    static const DWORD place = ::FlsAlloc([](void* object) { delete static_cast<T*>(object); });
    if (void* const object = ::FlsGetValue(place)) return *static_cast<T*>(object);
    auto fresh = std::make_unique<T>();
    if (::FlsSetValue(place, fresh.get()) == 0) detail::throw_error(std::bad_alloc());
    return *fresh.release();
}

// Initialised before main(), or when a library is loaded.
static const DWORD first_thread = ::GetCurrentThreadId();
static bool may_keep_for_thread() noexcept { return ::GetCurrentThreadId() == first_thread; }

#else

template <class T>
T& of_this_thread() {
    static thread_local T object{};
    return object;
}

static bool may_keep_for_thread() noexcept { return true; }

#endif

// Owns the number of something open, which `Close` gives back; -1 is none.
template <void (*Close)(int) noexcept>
class owned_number {
public:
    owned_number() noexcept = default;
    explicit owned_number(int fd) noexcept : fd_(fd) {}
    owned_number(owned_number&& other) noexcept : fd_(other.release()) {}
    owned_number& operator=(owned_number&& other) noexcept {
        reset(other.release());
        return *this;
    }
    ~owned_number() { reset(); }

    int get() const noexcept { return fd_; }
    explicit operator bool() const noexcept { return fd_ >= 0; }
    int release() noexcept { return std::exchange(fd_, -1); }

    // Linux frees the number even when close() is interrupted: never again.
    void reset(int fd = -1) noexcept {
        if (fd_ >= 0) Close(fd_);
        fd_ = fd;
    }

private:
    int fd_ = -1;
};

using owned_fd = owned_number<close_fd>; // a descriptor, or on Windows a socket

#if !defined(_WIN32)

// These calls are macros on macOS, which a :: would break.
static sigset_t no_signals() noexcept {
    sigset_t set;
    sigemptyset(&set);
    return set;
}

static sigset_t all_signals() noexcept {
    sigset_t set;
    sigfillset(&set);
    return set;
}

static sigset_t only_signal(int number) noexcept {
    sigset_t set = no_signals();
    sigaddset(&set, number);
    return set;
}

static bool has_signal(const sigset_t& set, int number) noexcept {
    return sigismember(&set, number) == 1;
}

// Keeps all signals away from this thread, and from those that it starts meanwhile: the
// program's signals are for its own threads.
class signals_held {
public:
    signals_held() noexcept {
        const sigset_t all = all_signals();
        ::pthread_sigmask(SIG_SETMASK, &all, &before_);
    }
    signals_held(const signals_held&) = delete;
    signals_held& operator=(const signals_held&) = delete;
    ~signals_held() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

    const sigset_t& before() const noexcept { return before_; }

private:
    sigset_t before_;
};

#endif

// -- what Linux has, and what stands for it elsewhere ---------------------------------
//
//     catch_signal, restore_signal    a handler for a signal that may be caught, and back
//     has_default_action   whether a signal has the system's own effect
//     kill_signal          the number of SIGKILL
//     socket_of            a descriptor as calls for sockets take it
//     unblock              O_NONBLOCK, for a socket
//     set_option           setsockopt() with an int
//     connect_datagrams    connect() of a socket for datagrams; 0, or the error
//     reuse_port_option    SO_REUSEPORT
//     shut_reading, shut_writing, shut_both    what shutdown() is told
//     host_down            an error of accept()
//     read_at              pread()
//     no_signal            a flag of send(): a peer that is gone raises no SIGPIPE
//     passed_closed        a flag of recvmsg(): close-on-exec for what is passed along
//     not_on_network       an error of accept()
//     keep_quiet           the same as `no_signal`, for all that a descriptor ever sends
//     take_signal          takes out a pending signal that this thread holds back
//     new_pipe, new_socket, accept_from    close-on-exec; sockets are non-blocking, too
//     family_of            AF_INET and its like, of a socket
//     send_from_file       some of a file, to a socket; 0 at the file's end
//     readable_now         1: a read would not block; 0; or -1 and errno
//     open_anew            another way to what `fd` is, non-blocking, that nobody else uses
//     open_pidfd           a descriptor that becomes readable when the process ends; or -1
//     signal_pidfd, wait_pidfd    kill() and waitid() by such a descriptor
//     process_environment  "NAME=value", up to a null pointer

#if defined(_WIN32)

// Winsock is taken into use once and never given back: sockets may outlive any object.
static void start_winsock() {
    static const int failure = [] {
        WSADATA data;
        return ::WSAStartup(MAKEWORD(2, 2), &data);
    }();
    if (failure != 0)
        throw_system_error(error_of(static_cast<unsigned long>(failure)), "WSAStartup");
}

constexpr int not_on_network = -1;
constexpr int host_down = -WSAEHOSTDOWN;
constexpr int shut_reading = SD_RECEIVE, shut_writing = SD_SEND, shut_both = SD_BOTH;

// Turns it off: a datagram that nobody took would fail the next receive of a socket that is
// connected to nobody, whose owner cannot tell which one it was.
static void report_unreachable(int fd, bool on) noexcept {
    BOOL value = on ? TRUE : FALSE;
    DWORD size = 0;
    constexpr DWORD code = IOC_IN | IOC_VENDOR | 12; // SIO_UDP_CONNRESET
    ::WSAIoctl(socket_of(fd), code, &value, sizeof value, nullptr, 0, &size, nullptr, nullptr);
}

static int set_for_loop(int fd) noexcept {
    if (fd < 0) return fd;
    u_long on = 1;
    if (::ioctlsocket(socket_of(fd), static_cast<long>(FIONBIO), &on) == 0) {
        ::SetHandleInformation(reinterpret_cast<HANDLE>(socket_of(fd)), HANDLE_FLAG_INHERIT, 0);
        return fd;
    }
    const int error = ::WSAGetLastError();
    close_fd(fd);
    ::WSASetLastError(error);
    return -1;
}

static int new_socket(int family, int type) {
    start_winsock();
    constexpr DWORD flags = WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT;
    const int fd =
        set_for_loop(number_of(::WSASocketW(family, type, 0, nullptr, 0, flags)));
    if (fd >= 0 && type == SOCK_DGRAM) report_unreachable(fd, false);
    return fd;
}

static int accept_from(int fd, sockaddr* peer, socklen_t* size) noexcept {
    return set_for_loop(number_of(::accept(socket_of(fd), peer, size)));
}

static int set_option(int fd, int level, int name, int value) noexcept {
    return ::setsockopt(socket_of(fd), level, name, reinterpret_cast<const char*>(&value),
                        sizeof value);
}

static void unblock(int fd) noexcept {
    u_long on = 1;
    ::ioctlsocket(socket_of(fd), static_cast<long>(FIONBIO), &on);
}

static int connect_datagrams(int fd, const sockaddr* to, socklen_t size) noexcept {
    if (::connect(socket_of(fd), to, size) != 0) return last_error();
    report_unreachable(fd, true);
    return 0;
}

static int reuse_port_option() { throw_not_on_windows("asyncio: the option reuse_port"); }

// Nobody asks for more than whether it is a Unix socket.
static int family_of(int) noexcept { return AF_UNSPEC; }

// `file` is a descriptor of the C library.
static ssize_t read_at(int file, char* into, std::size_t size, std::int64_t from) noexcept {
    const auto place = static_cast<std::uint64_t>(from);
    OVERLAPPED where{};
    where.Offset = static_cast<DWORD>(place & 0xffffffff);
    where.OffsetHigh = static_cast<DWORD>(place >> 32);
    DWORD got = 0;
    const auto most = static_cast<DWORD>(std::min<std::size_t>(size, 1u << 30));
    const auto handle = reinterpret_cast<HANDLE>(::_get_osfhandle(file));
    if (::ReadFile(handle, into, most, &got, &where) != 0) return static_cast<ssize_t>(got);
    return ::GetLastError() == ERROR_HANDLE_EOF ? 0 : -1;
}

static ssize_t send_from_file(int to, int file, std::int64_t from, std::size_t size) noexcept {
    char piece[16384];
    const ssize_t got = read_at(file, piece, std::min(size, sizeof piece), from);
    return got <= 0 ? got : ::send(socket_of(to), piece, static_cast<int>(got), 0);
}

[[maybe_unused]] static std::size_t usable_processors() noexcept {
    return std::max<std::size_t>(std::thread::hardware_concurrency(), 1);
}

// Initialised before main(), or when a library is loaded.
static const std::thread::id main_thread = std::this_thread::get_id();
static bool on_main_thread() noexcept { return std::this_thread::get_id() == main_thread; }

// Versions before Windows 10 cannot do it.
[[maybe_unused]] static void name_this_thread(const std::string& name) noexcept {
    using function = HRESULT(WINAPI*)(HANDLE, const wchar_t*);
    static const auto set_name = reinterpret_cast<function>(reinterpret_cast<void*>(
        ::GetProcAddress(::GetModuleHandleW(L"kernel32.dll"), "SetThreadDescription")));
    wchar_t wide[64] = {};
    for (std::size_t i = 0; i + 1 < std::size(wide) && i < name.size(); ++i)
        wide[i] = static_cast<unsigned char>(name[i]);
    if (set_name != nullptr) set_name(::GetCurrentThread(), wide);
}

// The C library calls handlers for raise(), and on a thread of the console's for Ctrl-C; it
// forgets a handler each time before it calls it. So the console is asked directly.
using signal_action = void (*)(int);
constexpr int kill_signal = 9;
static std::atomic<signal_action> caught_signals[NSIG] = {};

static bool can_catch(int number) noexcept {
    return number == SIGINT || number == SIGBREAK || number == SIGTERM;
}

static void on_raise(int number) {
    std::signal(number, &on_raise);
    if (const signal_action handler = caught_signals[number].load()) handler(number);
}

static BOOL WINAPI on_console_event(DWORD what) {
    if (what != CTRL_C_EVENT && what != CTRL_BREAK_EVENT) return FALSE;
    const int number = what == CTRL_C_EVENT ? SIGINT : SIGBREAK;
    const signal_action handler = caught_signals[number].load();
    if (handler == nullptr) return FALSE;
    handler(number);
    return TRUE;
}

static int catch_signal(int number, signal_action handler, signal_action& before) noexcept {
    const bool first = !caught_signals[SIGINT].load() && !caught_signals[SIGBREAK].load();
    before = std::signal(number, &on_raise);
    if (before == SIG_ERR) {
        ::SetLastError(ERROR_INVALID_PARAMETER);
        return -1;
    }
    caught_signals[number].store(handler);
    if (number != SIGTERM && first) ::SetConsoleCtrlHandler(&on_console_event, TRUE);
    return 0;
}

static void restore_signal(int number, signal_action before) noexcept {
    caught_signals[number].store(nullptr);
    const bool last = !caught_signals[SIGINT].load() && !caught_signals[SIGBREAK].load();
    if (number != SIGTERM && last) ::SetConsoleCtrlHandler(&on_console_event, FALSE);
    std::signal(number, before);
}

static bool has_default_action(int number) noexcept {
    const signal_action present = std::signal(number, SIG_DFL);
    if (present != SIG_DFL) std::signal(number, present);
    return present == SIG_DFL;
}

#else

constexpr int host_down = EHOSTDOWN;
constexpr int shut_reading = SHUT_RD, shut_writing = SHUT_WR, shut_both = SHUT_RDWR;

static int socket_of(int fd) noexcept { return fd; }

static void unblock(int fd) noexcept {
    const int flags = ::fcntl(fd, F_GETFL);
    if (flags >= 0) ::fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

static int connect_datagrams(int fd, const sockaddr* to, socklen_t size) noexcept {
    return ::connect(fd, to, size) == 0 ? 0 : errno;
}

static int reuse_port_option() noexcept { return SO_REUSEPORT; }

using signal_action = struct ::sigaction;
constexpr int kill_signal = SIGKILL;

static bool can_catch(int number) noexcept { return number != SIGKILL && number != SIGSTOP; }

static int catch_signal(int number, void (*handler)(int), signal_action& before) noexcept {
    struct ::sigaction action = {};
    action.sa_handler = handler;
    action.sa_flags = SA_RESTART;
    sigfillset(&action.sa_mask);
    return ::sigaction(number, &action, &before);
}

static void restore_signal(int number, const signal_action& before) noexcept {
    ::sigaction(number, &before, nullptr);
}

static bool has_default_action(int number) noexcept {
    struct ::sigaction present = {};
    return ::sigaction(number, nullptr, &present) == 0 && present.sa_handler == SIG_DFL;
}

static int set_option(int fd, int level, int name, int value) noexcept {
    return ::setsockopt(fd, level, name, &value, sizeof value);
}

static ssize_t read_at(int file, char* into, std::size_t size, std::int64_t from) noexcept {
    return ::pread(file, into, size, static_cast<off_t>(from));
}

#endif

#if defined(__linux__)

constexpr int no_signal = MSG_NOSIGNAL;
constexpr int passed_closed = MSG_CMSG_CLOEXEC;
constexpr int not_on_network = ENONET;

static void keep_quiet(int) noexcept {}

static bool take_signal(const sigset_t& set) noexcept {
    const timespec now = {};
    for (;;) {
        if (::sigtimedwait(&set, nullptr, &now) >= 0) return true;
        if (errno != EINTR) return false;
    }
}

[[maybe_unused]] static int new_pipe(int (&fds)[2]) noexcept { return ::pipe2(fds, O_CLOEXEC); }

static int new_socket(int family, int type) noexcept {
    return ::socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

static int accept_from(int fd, sockaddr* peer, socklen_t* size) noexcept {
    return ::accept4(fd, peer, size, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

static int family_of(int fd) noexcept {
    int family = AF_UNSPEC;
    socklen_t size = sizeof family;
    ::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &size);
    return family;
}

static ssize_t send_from_file(int to, int file, std::int64_t from, std::size_t size) noexcept {
    off_t offset = static_cast<off_t>(from);
    return ::sendfile(to, file, &offset, size);
}

static int readable_now(int fd) noexcept {
    pollfd polled = {fd, POLLIN, 0};
    return ::poll(&polled, 1, 0);
}

[[maybe_unused]] static owned_fd open_anew(int fd) {
    const std::string path = "/proc/self/fd/" + std::to_string(fd);
    return owned_fd(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
}

[[maybe_unused]] static int open_pidfd(pid_t pid) noexcept {
    return static_cast<int>(::syscall(SYS_pidfd_open, pid, 0u));
}

constexpr auto id_is_pidfd = static_cast<idtype_t>(3); // P_PIDFD, which older headers lack

[[maybe_unused]] static int signal_pidfd(int fd, int number) noexcept {
    return static_cast<int>(::syscall(SYS_pidfd_send_signal, fd, number, nullptr, 0u));
}

[[maybe_unused]] static int wait_pidfd(int fd, siginfo_t& info, int options) noexcept {
    return ::waitid(id_is_pidfd, static_cast<id_t>(fd), &info, options);
}

[[maybe_unused]] static char** process_environment() noexcept { return ::environ; }

// How many processors this process may use.
[[maybe_unused]] static std::size_t usable_processors() noexcept {
    cpu_set_t set;
    if (::sched_getaffinity(0, sizeof set, &set) == 0)
        return static_cast<std::size_t>(std::max(CPU_COUNT(&set), 1));
    return std::max<std::size_t>(std::thread::hardware_concurrency(), 1);
}

static bool on_main_thread() noexcept { return ::syscall(SYS_gettid) == ::getpid(); }

[[maybe_unused]] static void name_this_thread(const std::string& name) noexcept {
    ::pthread_setname_np(::pthread_self(), name.substr(0, 15).c_str()); // the system's limit
}

#elif !defined(_WIN32)

#if defined(__APPLE__)
constexpr int no_signal = 0; // keep_quiet() has seen to it
#else
constexpr int no_signal = MSG_NOSIGNAL;
#endif
constexpr int passed_closed = 0;
constexpr int not_on_network = -1;

// Sockets and pipes: macOS raises SIGPIPE for the process, not for the thread, so that no
// thread can hold it back alone.
static void keep_quiet([[maybe_unused]] int fd) noexcept {
#if defined(__APPLE__)
    ::fcntl(fd, F_SETNOSIGPIPE, 1);
#endif
}

static bool take_signal(const sigset_t& set) noexcept {
    sigset_t pending;
    if (::sigpending(&pending) != 0) return false;
    for (int number = 1; number < NSIG; ++number) {
        int taken = 0;
        if (has_signal(set, number) && has_signal(pending, number))
            return ::sigwait(&set, &taken) == 0;
    }
    return false;
}

// Another thread's exec() may come in between; there is no way to do both at once.
static int set_close_on_exec(int fd) noexcept { return ::fcntl(fd, F_SETFD, FD_CLOEXEC); }

static int set_for_loop(int fd) noexcept {
    if (fd < 0) return fd;
    const int flags = ::fcntl(fd, F_GETFL);
    if (flags >= 0 && ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0 && set_close_on_exec(fd) == 0)
        return fd;
    const int error = errno;
    ::close(fd);
    errno = error;
    return -1;
}

[[maybe_unused]] static int new_pipe(int (&fds)[2]) noexcept {
    if (::pipe(fds) != 0) return -1;
    for (const int fd : fds) set_close_on_exec(fd);
    return 0;
}

static int new_socket(int family, int type) noexcept {
    return set_for_loop(::socket(family, type, 0));
}

static int accept_from(int fd, sockaddr* peer, socklen_t* size) noexcept {
    return set_for_loop(::accept(fd, peer, size));
}

static int family_of(int fd) noexcept {
    sockaddr_storage own = {};
    socklen_t size = sizeof own;
    if (::getsockname(fd, reinterpret_cast<sockaddr*>(&own), &size) != 0) return AF_UNSPEC;
    return own.ss_family;
}

// What was sent before it would have blocked counts as sent.
static ssize_t send_from_file(int to, int file, std::int64_t from, std::size_t size) noexcept {
#if defined(__APPLE__)
    auto sent = static_cast<off_t>(std::min<std::size_t>(size, 1u << 30));
    if (sent == 0) return 0; // which would mean all of it
    const int result = ::sendfile(file, to, static_cast<off_t>(from), &sent, nullptr, 0);
    return result == 0 || sent > 0 ? static_cast<ssize_t>(sent) : -1;
#else
    char piece[16384];
    const ssize_t got = ::pread(file, piece, std::min(size, sizeof piece),
                                static_cast<off_t>(from));
    return got <= 0 ? got : ::send(to, piece, static_cast<std::size_t>(got), no_signal);
#endif
}

// poll() knows no devices on some versions of macOS, among them terminals; select() does.
static int readable_now(int fd) noexcept {
    if (fd >= FD_SETSIZE) {
        pollfd polled = {fd, POLLIN, 0};
        return ::poll(&polled, 1, 0);
    }
    fd_set asked;
    FD_ZERO(&asked);
    FD_SET(fd, &asked);
    timeval now = {};
    return ::select(fd + 1, &asked, nullptr, nullptr, &now);
}

// /dev/fd/N would be a copy that shares the blocking mode. A terminal can be opened by name.
[[maybe_unused]] static owned_fd open_anew(int fd) {
    char name[1024];
    if (::ttyname_r(fd, name, sizeof name) != 0) return owned_fd();
    return owned_fd(::open(name, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
}

static int no_pidfds() noexcept {
    errno = ENOSYS;
    return -1;
}

[[maybe_unused]] static int open_pidfd(pid_t) noexcept { return no_pidfds(); }
[[maybe_unused]] static int signal_pidfd(int, int) noexcept { return no_pidfds(); }
[[maybe_unused]] static int wait_pidfd(int, siginfo_t&, int) noexcept { return no_pidfds(); }

[[maybe_unused]] static char** process_environment() noexcept {
#if defined(__APPLE__)
    return *::_NSGetEnviron(); // a library of Apple's cannot see `environ`
#else
    return ::environ;
#endif
}

[[maybe_unused]] static std::size_t usable_processors() noexcept {
    return std::max<std::size_t>(std::thread::hardware_concurrency(), 1);
}

// Initialised before main(), or when a library is loaded.
static const std::thread::id main_thread = std::this_thread::get_id();
static bool on_main_thread() noexcept { return std::this_thread::get_id() == main_thread; }

static void name_this_thread([[maybe_unused]] const std::string& name) noexcept {
#if defined(__APPLE__)
    ::pthread_setname_np(name.c_str());
#endif
}

#endif

} // namespace asyncio::inline ASYNCIO_ABI::detail

#if defined(ASYNCIO_NO_THREADS)
namespace asyncio::inline ASYNCIO_ABI::detail {
static void refuse_in_worker() noexcept {}
} // namespace asyncio::inline ASYNCIO_ABI::detail
#endif

#endif // !ASYNCIO_BACKEND_NONE

// =============================================================================
// [SECTION] backend
// uses: os, events
//
// The contract between the loop and the system interface that it sleeps on. The
// sections above speak completions: "receive into this buffer and tell me when
// it is done". Whether the system completes operations itself (IOCP) or only
// says that one could go on (epoll) stays below this line.
// =============================================================================

#if !defined(ASYNCIO_BACKEND_NONE)

namespace asyncio::inline ASYNCIO_ABI::detail {

// A piece of memory to send.
struct io_buffer {
    const void* data;
    std::size_t size;
};

enum class io_kind : unsigned char {
    receive,
    send,
    accept,
    connect,
    receive_from, // one datagram; an io_datagram
    send_to,      // one datagram; an io_datagram
    send_file     // a part of a file, to a stream; an io_file
};

struct io_descriptor; // what the backend knows of a descriptor; memory of the caller

// One operation. It belongs to the caller, who keeps it and what it points to
// alive and in place from a start() that gave false until done() or cancel(). A
// backend whose system holds on to memory for longer works in memory of its own.
struct io_operation {
    using done_function = void (*)(io_operation&) noexcept;

    io_operation(io_kind k, done_function d) noexcept : done(d), into(nullptr), kind(k) {}
    io_operation(const io_operation&) = delete;
    io_operation& operator=(const io_operation&) = delete;

    // Called inside wait(), which does nothing else meanwhile: it may start,
    // cancel, attach and detach, but runs no code of the user.
    done_function done;

    io_descriptor* on = nullptr;
    union {
        void* into;            // receive: the buffer; accept: a sockaddr_storage
        const io_buffer* from; // send: the pieces, in order
        const void* address;   // connect: a sockaddr
    };
    std::size_t size = 0;  // of the buffer or the address; send: how many pieces;
                           // send_file: how many bytes
    std::size_t count = 0; // result: bytes moved; accept: size of the peer's address
    int accepted = -1;     // result of accept: the new descriptor, non-blocking
    int error = 0;         // result: 0, or the errno value of the failure
    io_kind kind;
    bool pending = false;
    bool only_now = false; // start() gives up at once rather than wait
};

// receive_from: `into` and `size` are the buffer. send_to: `from` is one piece.
struct io_datagram : io_operation {
    using io_operation::io_operation;

    void* peer = nullptr;      // receive_from: where its address goes; send_to: where
                               // to, or null for the address connected to
    std::size_t peer_size = 0; // the room there, then the size of the address
    bool truncated = false;    // result: the datagram was larger than the buffer
};

struct io_file : io_operation {
    using io_operation::io_operation;

    int file = -1;
    std::int64_t offset = 0; // moved on by what was sent
};

// A callback for a descriptor of the user (add_reader): called inside wait() as
// often as the descriptor is found ready. Like done() it only schedules things.
struct io_watch {
    void (*ready)(io_watch&) noexcept = nullptr;
};

// Descriptors of sockets are attached once for all their operations; at most one
// receive or accept, and one send or connect, is pending on each. Descriptors of
// the user are watched instead; one descriptor is never both. A failure that the
// network reports of an earlier datagram is the next operation's, either way.
//
//     attach      registers d.fd. Throws std::system_error.
//     detach      forgets it; nothing may be pending. Before the descriptor is closed.
//     start       true: it is finished already, and done() is not called. False:
//                 done() will be called (only_now: never, and nothing is pending).
//     cancel      takes a pending operation back; done() will not be called. What
//                 has come for it meanwhile stays with the system.
//     wait        sleeps until something finished, wake() was called or `ns`
//                 nanoseconds passed (negative: for ever; 0: does not sleep), then
//                 calls done() and ready() of all that did. Never wakes early for
//                 the time's sake.
//     wake        any thread: wait() returns now, or the next one at once. Several
//                 calls before that count as one.
//     after_fork  in the child of a fork: the parent's registrations are left
//                 alone, and all that is attached or watched is registered anew.
//                 Nobody has to call it: attach, wait and watch find out.
//     watch       one callback per descriptor and direction; a second one replaces
//                 the first. `call` is named in errors. Throws std::system_error.
//     unwatch     false when there was none.
//     watch_exit  ready() once, when the child has ended; `pidfd` is open_pidfd()'s.
//                 False: this system cannot tell. Throws std::system_error.
//     unwatch_exit  takes it back; nothing happens when there was none.
//     native_handle  becomes readable when wait() has something to do; or -1.
template <class B>
concept backend_like = requires(B b, const B constant, io_descriptor& d, io_operation& op,
                                io_watch& w, int fd, bool write, std::int64_t ns, pid_t pid) {
    b.attach(d);
    { b.detach(d) } noexcept;
    { b.start(op) } noexcept -> std::same_as<bool>;
    { b.cancel(op) } noexcept;
    b.wait(ns);
    { b.wake() } noexcept;
    b.after_fork();
    b.watch(fd, write, w, "call");
    { b.unwatch(fd, write) } noexcept -> std::same_as<bool>;
    { b.watch_exit(pid, fd, w) } -> std::same_as<bool>;
    { b.unwatch_exit(pid, fd) } noexcept;
    { constant.native_handle() } noexcept -> std::same_as<int>;
};

} // namespace asyncio::inline ASYNCIO_ABI::detail

#endif // !ASYNCIO_BACKEND_NONE

// =============================================================================
// [SECTION] backend: readiness operations
// uses: os, backend
//
// Operations for systems that only say when a descriptor is ready: each is tried
// at once, waits for readiness if it would block, and is tried again.
//
// The flags `readable` and `writable` remember the last news. They are what
// makes a request and its answer cost one recv and one send: a receive that
// filled less than its buffer has emptied the socket, so the next one waits
// without asking in vain, and news comes by itself because registrations are
// edge-triggered.
// =============================================================================

#if !defined(ASYNCIO_BACKEND_NONE)

namespace asyncio::inline ASYNCIO_ABI::detail {

// What a descriptor is. A shared one is a terminal, or belongs to others, too: it may
// block, so that the system is asked before each read; and a short read does not mean
// that there is no more, since a terminal gives one line at a time.
enum class io_form : unsigned char { socket, pipe, shared };

struct io_descriptor {
    int fd = -1;
    io_form form = io_form::socket; // set before the first operation
    bool attached = false;
    bool watched = false; // the user's, with callbacks instead of operations
    bool readable = false;
    bool writable = false;
    bool hung_up = false; // an end or an error waits behind the data
    // A receive may end before the data does: at urgent data, or at descriptors that
    // were sent along over a Unix socket.
    bool stops_short = false;
    io_operation* reading = nullptr; // a pending receive or accept
    io_operation* writing = nullptr; // a pending send or connect
    io_descriptor* next = nullptr;   // all that are attached to one backend
    io_descriptor* previous = nullptr;
#if defined(ASYNCIO_BACKEND_IOCP)
    struct asked_socket* asked = nullptr; // what the system has been asked of it
#endif
};

// A descriptor of the user.
struct watched_descriptor : io_descriptor {
    io_watch* reader = nullptr;
    io_watch* writer = nullptr;
};

#if !defined(_WIN32)

// Sending to a peer that is gone raises SIGPIPE in this thread, and where a call has
// no flag against it, it is held back meanwhile and taken out again if it came: also
// of a call that succeeds, because a part had been sent before.
class no_broken_pipe_signal {
public:
    no_broken_pipe_signal() noexcept {
        ::pthread_sigmask(SIG_BLOCK, &broken_pipe_, &before_);
        // One that the program itself holds back, and that came before, is not ours.
        sigset_t pending;
        foreign_ = has_signal(before_, SIGPIPE) && ::sigpending(&pending) == 0 &&
                   has_signal(pending, SIGPIPE);
    }
    no_broken_pipe_signal(const no_broken_pipe_signal&) = delete;
    no_broken_pipe_signal& operator=(const no_broken_pipe_signal&) = delete;
    ~no_broken_pipe_signal() {
        const int error = errno; // of the call in between
        if (!foreign_) take_signal(broken_pipe_);
        ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
        errno = error;
    }

private:
    const sigset_t broken_pipe_ = only_signal(SIGPIPE);
    sigset_t before_;
    bool foreign_;
};

#endif

class readiness_operations {
public:
    bool start(io_operation& op) noexcept;
    void cancel(io_operation& op) noexcept;

protected:
    // Takes in news of a descriptor and finishes what can go on.
    void report_readable(io_descriptor& d) noexcept { report(d.readable, d.reading); }
    void report_writable(io_descriptor& d) noexcept { report(d.writable, d.writing); }

    void link(io_descriptor& d) noexcept;
    void unlink(io_descriptor& d) noexcept;

    // The loop is gone: whoever still waits learns it, and closes what is its own.
    template <class Backend>
    static void abandon_all(Backend& backend) noexcept;

    [[noreturn]] static void refuse_watch(int error, int fd, const char* call);

    // Whether a fork has made this process since note_process().
    void note_process();
    bool inherited() const noexcept { return forks_ != fork_count; }

    io_descriptor* attached_ = nullptr;

    static bool reads(const io_operation& op) noexcept {
        return op.kind == io_kind::receive || op.kind == io_kind::accept ||
               op.kind == io_kind::receive_from;
    }

private:
    static inline unsigned fork_count = 0; // of this process and those that it came from
    unsigned forks_ = 0;

    void report(bool& ready, io_operation*& waiting) noexcept;

    // True when the operation has finished; false when it would have to wait.
    static bool attempt(io_operation& op) noexcept;
    static bool receive(io_operation& op, io_descriptor& d) noexcept;
    static bool send(io_operation& op, io_descriptor& d) noexcept;
#if !defined(_WIN32)
    static ssize_t write(int fd, const iovec* pieces, int count) noexcept;
#endif
    static bool accept(io_operation& op, io_descriptor& d) noexcept;
    static bool connect(io_operation& op, io_descriptor& d) noexcept;
    static bool receive_from(io_datagram& op, io_descriptor& d) noexcept;
    static bool send_to(io_datagram& op, io_descriptor& d) noexcept;
    static bool send_file(io_file& op, io_descriptor& d) noexcept;
    static bool failed(io_operation& op, int error) noexcept {
        op.error = error;
        return true;
    }
};

bool readiness_operations::start(io_operation& op) noexcept {
    io_descriptor& d = *op.on;
    op.error = 0;
    op.count = 0;
    // A connect goes out at once: nothing can say that a socket is ready for it.
    const bool ready = op.kind == io_kind::connect || (reads(op) ? d.readable : d.writable);
    if (ready && attempt(op)) return true;
    if (op.only_now) return false;
    (reads(op) ? d.reading : d.writing) = &op;
    op.pending = true;
    return false;
}

void readiness_operations::cancel(io_operation& op) noexcept {
    if (op.pending) (reads(op) ? op.on->reading : op.on->writing) = nullptr;
    op.pending = false;
}

void readiness_operations::report(bool& ready, io_operation*& waiting) noexcept {
    ready = true;
    io_operation* const op = waiting;
    if (op == nullptr || !attempt(*op)) return;
    waiting = nullptr;
    op->pending = false;
    op->done(*op); // last: the descriptor may be gone afterwards
}

void readiness_operations::link(io_descriptor& d) noexcept {
    d.previous = nullptr;
    d.next = attached_;
    if (attached_ != nullptr) attached_->previous = &d;
    attached_ = &d;
    d.attached = true;
#if !defined(_WIN32)
    keep_quiet(d.fd);
#endif
}

void readiness_operations::unlink(io_descriptor& d) noexcept {
    if (d.next != nullptr) d.next->previous = d.previous;
    (d.previous != nullptr ? d.previous->next : attached_) = d.next;
    d.attached = false;
}

template <class Backend>
void readiness_operations::abandon_all(Backend& backend) noexcept {
    while (io_descriptor* const d = backend.attached_) {
        io_operation*& waiting = d->reading != nullptr ? d->reading : d->writing;
        io_operation* const op = std::exchange(waiting, nullptr);
        if (op == nullptr) {
            backend.detach(*d);
            continue;
        }
        op->pending = false;
        op->error = ECANCELED;
        op->done(*op); // may take back the other one, or free the descriptor
    }
}

void readiness_operations::refuse_watch(int error, int fd, const char* call) {
    std::string text = std::string(call) + " of descriptor " + std::to_string(fd);
    if (error == EPERM) text += " (a regular file is always ready; there is nothing to wait for)";
    if (error == EEXIST) text += " (a stream or socket of this loop uses it)";
    throw_system_error(error, text.c_str());
}

#if defined(_WIN32)

void readiness_operations::note_process() {} // there is no fork

#else

void readiness_operations::note_process() {
    static const int counting = ::pthread_atfork(nullptr, nullptr, [] { ++fork_count; });
    if (counting != 0) throw_system_error(counting, "pthread_atfork");
    forks_ = fork_count;
}

#endif

bool readiness_operations::attempt(io_operation& op) noexcept {
    io_descriptor& d = *op.on;
    switch (op.kind) {
    case io_kind::receive: return receive(op, d);
    case io_kind::send: return send(op, d);
    case io_kind::accept: return accept(op, d);
    case io_kind::connect: return connect(op, d);
    case io_kind::receive_from: return receive_from(static_cast<io_datagram&>(op), d);
    case io_kind::send_to: return send_to(static_cast<io_datagram&>(op), d);
    case io_kind::send_file: return send_file(static_cast<io_file&>(op), d);
    }
    return true;
}

#if defined(_WIN32)

// As many bytes as a call can take.
static ULONG size_for(std::size_t size) noexcept {
    return static_cast<ULONG>(std::min<std::size_t>(size, 1u << 30));
}

bool readiness_operations::receive(io_operation& op, io_descriptor& d) noexcept {
    const int n = ::recv(socket_of(d.fd), static_cast<char*>(op.into),
                         static_cast<int>(size_for(op.size)), 0);
    if (n >= 0) {
        op.count = static_cast<std::size_t>(n);
        if (op.count < op.size) d.readable = false; // drained
        return true;
    }
    if (last_error() != EAGAIN) return failed(op, last_error());
    d.readable = false;
    return false;
}

bool readiness_operations::send(io_operation& op, io_descriptor& d) noexcept {
    constexpr std::size_t most = 64;
    WSABUF pieces[most];
    const std::size_t count = std::min(op.size, most);
    std::size_t offered = 0;
    for (std::size_t i = 0; i < count; ++i) {
        pieces[i].buf = const_cast<char*>(static_cast<const char*>(op.from[i].data));
        pieces[i].len = size_for(op.from[i].size);
        offered += op.from[i].size;
    }
    DWORD sent = 0;
    if (::WSASend(socket_of(d.fd), pieces, static_cast<DWORD>(count), &sent, 0, nullptr, nullptr) ==
        0) {
        op.count = sent;
        if (op.count < offered) d.writable = false; // the socket is full
        return true;
    }
    if (last_error() != EAGAIN) return failed(op, last_error());
    d.writable = false;
    return false;
}

bool readiness_operations::accept(io_operation& op, io_descriptor& d) noexcept {
    socklen_t size = static_cast<socklen_t>(op.size);
    op.accepted = accept_from(d.fd, static_cast<sockaddr*>(op.into), &size);
    if (op.accepted >= 0) {
        op.count = std::min(op.size, static_cast<std::size_t>(size));
        return true;
    }
    if (last_error() != EAGAIN) return failed(op, last_error());
    d.readable = false;
    return false;
}

bool readiness_operations::connect(io_operation& op, io_descriptor& d) noexcept {
    if (op.pending) {
        int error = 0;
        socklen_t size = sizeof error;
        if (::getsockopt(socket_of(d.fd), SOL_SOCKET, SO_ERROR, reinterpret_cast<char*>(&error),
                         &size) != 0)
            return failed(op, last_error());
        if (error != 0) return failed(op, error_of(static_cast<unsigned long>(error)));
        return true;
    }
    d.readable = d.writable = false; // nothing is known of the connection yet
    const auto* address = static_cast<const sockaddr*>(op.address);
    if (::connect(socket_of(d.fd), address, static_cast<socklen_t>(op.size)) == 0) {
        d.writable = true;
        return true;
    }
    if (last_error() == EAGAIN) return false;
    return failed(op, last_error());
}

// However small a datagram is, the next one may be there already.
bool readiness_operations::receive_from(io_datagram& op, io_descriptor& d) noexcept {
    WSABUF buffer{size_for(op.size), static_cast<char*>(op.into)};
    INT size = static_cast<INT>(op.peer_size);
    DWORD got = 0;
    DWORD flags = 0;
    const bool ok = ::WSARecvFrom(socket_of(d.fd), &buffer, 1, &got, &flags,
                                  static_cast<sockaddr*>(op.peer), &size, nullptr, nullptr) == 0;
    const int error = ok ? 0 : last_error();
    if (ok || error == EMSGSIZE) {
        op.count = ok ? got : buffer.len;
        op.peer_size = static_cast<std::size_t>(size);
        op.truncated = !ok;
        return true;
    }
    // Windows speaks of a connection that was reset where nobody listens.
    if (error != EAGAIN) return failed(op, error == ECONNRESET ? ECONNREFUSED : error);
    d.readable = false;
    return false;
}

bool readiness_operations::send_to(io_datagram& op, io_descriptor& d) noexcept {
    const int n = ::sendto(socket_of(d.fd), static_cast<const char*>(op.from->data),
                           static_cast<int>(size_for(op.from->size)), 0,
                           static_cast<const sockaddr*>(op.peer),
                           static_cast<socklen_t>(op.peer_size));
    if (n >= 0) {
        op.count = static_cast<std::size_t>(n);
        return true;
    }
    const int error = last_error();
    if (error != EAGAIN) return failed(op, error == ECONNRESET ? ECONNREFUSED : error);
    d.writable = false;
    return false;
}

// Nothing sent and no error: the file ends here.
bool readiness_operations::send_file(io_file& op, io_descriptor& d) noexcept {
    const ssize_t n = send_from_file(d.fd, op.file, op.offset, op.size);
    if (n >= 0) {
        op.count = static_cast<std::size_t>(n);
        op.offset += n;
        return true;
    }
    if (last_error() != EAGAIN) return failed(op, last_error());
    d.writable = false;
    return false;
}

#else

bool readiness_operations::receive(io_operation& op, io_descriptor& d) noexcept {
    for (;;) {
        if (d.form == io_form::shared) {
            const int ready = readable_now(d.fd);
            if (ready < 0 && errno == EINTR) continue;
            if (ready == 0) {
                d.readable = false;
                return false;
            }
        }
        const ssize_t n = d.form == io_form::socket ? ::recv(d.fd, op.into, op.size, 0)
                                                    : ::read(d.fd, op.into, op.size);
        if (n >= 0) {
            op.count = static_cast<std::size_t>(n);
            // Drained, unless the end is what comes next: it was reported
            // together with the data and will not be reported again.
            const bool more = d.hung_up || d.stops_short || d.form == io_form::shared;
            if (op.count < op.size && !more) d.readable = false;
            return true;
        }
        if (errno == EINTR) continue;
        if (errno != EAGAIN) return failed(op, errno);
        d.readable = false;
        return false;
    }
}

bool readiness_operations::send(io_operation& op, io_descriptor& d) noexcept {
    constexpr std::size_t most = 64;
    for (;;) {
        ssize_t n;
        std::size_t offered = 0;
        if (op.size == 1 && d.form == io_form::socket) {
            offered = op.from->size;
            n = ::send(d.fd, op.from->data, offered, no_signal);
        } else {
            iovec pieces[most];
            const std::size_t count = std::min(op.size, most);
            for (std::size_t i = 0; i < count; ++i) {
                pieces[i].iov_base = const_cast<void*>(op.from[i].data);
                pieces[i].iov_len = op.from[i].size;
                offered += op.from[i].size;
            }
            msghdr message{};
            message.msg_iov = pieces;
            message.msg_iovlen = static_cast<decltype(message.msg_iovlen)>(count);
            n = d.form == io_form::socket ? ::sendmsg(d.fd, &message, no_signal)
                                          : write(d.fd, pieces, static_cast<int>(count));
        }
        if (n >= 0) {
            op.count = static_cast<std::size_t>(n);
            if (op.count < offered) d.writable = false; // the socket is full
            return true;
        }
        if (errno == EINTR) continue;
        if (errno != EAGAIN) return failed(op, errno);
        d.writable = false;
        return false;
    }
}

ssize_t readiness_operations::write(int fd, const iovec* pieces, int count) noexcept {
    const no_broken_pipe_signal quiet;
    return ::writev(fd, pieces, count);
}

bool readiness_operations::accept(io_operation& op, io_descriptor& d) noexcept {
    for (;;) {
        socklen_t size = static_cast<socklen_t>(op.size);
        op.accepted = accept_from(d.fd, static_cast<sockaddr*>(op.into), &size);
        if (op.accepted >= 0) {
            op.count = std::min(op.size, static_cast<std::size_t>(size));
            return true;
        }
        if (errno == EINTR) continue;
        if (errno != EAGAIN) return failed(op, errno);
        d.readable = false;
        return false;
    }
}

bool readiness_operations::connect(io_operation& op, io_descriptor& d) noexcept {
    if (op.pending) {
        int error = 0;
        socklen_t size = sizeof error;
        if (::getsockopt(d.fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0) error = errno;
        if (error != 0) return failed(op, error);
        return true;
    }
    // What was reported of the unconnected socket (it counts as hung up) is void.
    d.readable = d.writable = d.hung_up = false;
    const auto* address = static_cast<const sockaddr*>(op.address);
    if (::connect(d.fd, address, static_cast<socklen_t>(op.size)) == 0) {
        d.writable = true;
        return true;
    }
    // An interrupted connect goes on by itself; repeating it would fail.
    if (errno == EINPROGRESS || errno == EINTR) return false;
    return failed(op, errno);
}

// However small a datagram is, the next one may be there already.
bool readiness_operations::receive_from(io_datagram& op, io_descriptor& d) noexcept {
    iovec buffer{op.into, op.size};
    for (;;) {
        msghdr message{};
        message.msg_iov = &buffer;
        message.msg_iovlen = 1;
        message.msg_name = op.peer;
        message.msg_namelen = static_cast<socklen_t>(op.peer_size);
        const ssize_t n = ::recvmsg(d.fd, &message, passed_closed);
        if (n >= 0) {
            op.count = static_cast<std::size_t>(n);
            op.peer_size = message.msg_namelen;
            op.truncated = (message.msg_flags & MSG_TRUNC) != 0;
            return true;
        }
        if (errno == EINTR) continue;
        if (errno != EAGAIN) return failed(op, errno);
        d.readable = false;
        return false;
    }
}

bool readiness_operations::send_to(io_datagram& op, io_descriptor& d) noexcept {
    for (;;) {
        const auto* to = static_cast<const sockaddr*>(op.peer);
        const ssize_t n = ::sendto(d.fd, op.from->data, op.from->size, no_signal, to,
                                   static_cast<socklen_t>(op.peer_size));
        if (n >= 0) {
            op.count = static_cast<std::size_t>(n);
            return true;
        }
        if (errno == EINTR) continue;
        if (errno != EAGAIN) return failed(op, errno);
        d.writable = false;
        return false;
    }
}

// Nothing sent and no error: the file ends here.
bool readiness_operations::send_file(io_file& op, io_descriptor& d) noexcept {
    const no_broken_pipe_signal quiet;
    for (;;) {
        const ssize_t n = send_from_file(d.fd, op.file, op.offset, op.size);
        if (n >= 0) {
            op.count = static_cast<std::size_t>(n);
            op.offset += n;
            return true;
        }
        if (errno == EINTR) continue;
        if (errno != EAGAIN) return failed(op, errno);
        d.writable = false;
        return false;
    }
}

#endif

} // namespace asyncio::inline ASYNCIO_ABI::detail

#endif // !ASYNCIO_BACKEND_NONE

// =============================================================================
// [SECTION] backend: epoll
// uses: os, events, backend, backend: readiness operations
//
// Facts about epoll that this code depends on:
//   - Edge-triggered, a descriptor is reported once per piece of news, and
//     epoll_wait looks again before it reports: news that somebody has consumed
//     meanwhile is not reported, and registering reports what is there already.
//   - End of stream that arrives together with data is no news of its own later;
//     EPOLLRDHUP in the same report tells it apart.
//   - Each write to an eventfd is news, even if nobody ever reads it: a wake-up
//     costs no read. Its counter overflows after 2^64 wake-ups.
//   - A registration belongs to the open file, not to the number. A copy in a
//     forked child keeps it alive after close(), hence EPOLL_CTL_DEL before it;
//     and a child that changes the inherited epoll changes its parent's.
//   - epoll_wait counts in milliseconds, and a timeout of 0.4 ms given as 0 does
//     not sleep at all: it is rounded up. epoll_pwait2 counts in nanoseconds, but
//     kernels before 5.11, sandboxes and qemu do not have it.
//   - EINTR is no error here: the loop turns once more and asks again.
//   - Regular files and directories are refused with EPERM.
//   - A child of fork() has the same epoll and the same eventfd as its parent. So
//     forks are counted, and what finds itself in a child starts anew before it
//     changes anything.
// =============================================================================

#if defined(ASYNCIO_BACKEND_EPOLL)

namespace asyncio::inline ASYNCIO_ABI::detail {

class epoll_backend : public readiness_operations {
public:
    explicit epoll_backend(loop_core&) { open(); }
    epoll_backend(const epoll_backend&) = delete;
    epoll_backend& operator=(const epoll_backend&) = delete;
    ~epoll_backend() { abandon_all(*this); }

    void attach(io_descriptor& d);
    void detach(io_descriptor& d) noexcept;
    void wait(std::int64_t ns);
    void wake() noexcept;
    void after_fork();
    void watch(int fd, bool write, io_watch& w, const char* call);
    bool unwatch(int fd, bool write) noexcept;
    bool watch_exit(pid_t pid, int pidfd, io_watch& w);
    void unwatch_exit(pid_t pid, int pidfd) noexcept;
    int native_handle() const noexcept { return epoll_.get(); }

private:
    // Taken from the kernel at a time. So few that what one turn receives is still
    // in the processor's cache when the tasks get to it.
    static constexpr int most_events = 32;
    static constexpr std::uint32_t attached_events =
        EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP | EPOLLET;

    friend readiness_operations;

    void open();
    int control(int what, int fd, std::uint32_t events, io_descriptor* d) noexcept;
    int sleep(epoll_event* events, std::int64_t ns) noexcept;
    void dispatch(const epoll_event& event) noexcept;
    static std::uint32_t watched_events(const watched_descriptor& d) noexcept;

    owned_fd epoll_;
    owned_fd wake_;
    std::atomic<bool> awake_{false}; // a wake-up is on its way
    bool has_pwait2_ = true;
    // What wait() is working through, so that detach() can strike out the rest of
    // what was reported for a descriptor.
    epoll_event* reported_ = nullptr;
    int reported_count_ = 0;
    std::unordered_map<int, watched_descriptor> watched_;
};

static_assert(backend_like<epoll_backend>);

// What event_loop holds a pointer to.
struct backend_state final : epoll_backend {
    using epoll_backend::epoll_backend;
};

void epoll_backend::open() {
    note_process();
    epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
    if (!epoll_) throw_last_error("epoll_create1");
    wake_.reset(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    if (!wake_) throw_last_error("eventfd");
    if (control(EPOLL_CTL_ADD, wake_.get(), EPOLLIN | EPOLLET, nullptr) != 0)
        throw_last_error("epoll_ctl");
}

void epoll_backend::attach(io_descriptor& d) {
    if (inherited()) after_fork();
    if (control(EPOLL_CTL_ADD, d.fd, attached_events, &d) != 0) throw_last_error("epoll_ctl");
    d.readable = d.hung_up = false; // the registration reports what is there
    d.writable = true;
    link(d);
}

void epoll_backend::detach(io_descriptor& d) noexcept {
    if (!d.attached) return;
    if (!inherited()) control(EPOLL_CTL_DEL, d.fd, 0, nullptr);
    unlink(d);
    for (int i = 0; i < reported_count_; ++i)
        if (reported_[i].data.ptr == &d) reported_[i].data.ptr = this;
}

void epoll_backend::wait(std::int64_t ns) {
    if (inherited()) after_fork();
    epoll_event events[most_events];
    const int n = sleep(events, ns);
    if (n < 0) {
        if (errno != EINTR) throw_last_error("epoll_wait");
        return;
    }
    reported_ = events;
    reported_count_ = n;
    for (int i = 0; i < n; ++i) dispatch(events[i]);
    reported_count_ = 0;
}

int epoll_backend::sleep(epoll_event* events, std::int64_t ns) noexcept {
    if (ns > 0 && has_pwait2_) {
        // The kernel's own layout, the same on 32-bit processors.
        const std::int64_t timeout[2] = {ns / 1'000'000'000, ns % 1'000'000'000};
        constexpr long number = 441; // epoll_pwait2, everywhere; C libraries often lack it
        const long n = ::syscall(number, epoll_.get(), events, most_events, timeout, nullptr, 0);
        if (n >= 0 || (errno != ENOSYS && errno != EPERM)) return static_cast<int>(n);
        has_pwait2_ = false;
    }
    int milliseconds = ns < 0 ? -1 : 0;
    if (ns > 0) {
        const std::int64_t up = (ns - 1) / 1'000'000 + 1;
        milliseconds = static_cast<int>(std::min<std::int64_t>(up, 1'000'000'000));
    }
    return ::epoll_wait(epoll_.get(), events, most_events, milliseconds);
}

// One report. Done functions may detach any descriptor, this one too, so that
// event.data is looked at anew before the second half.
void epoll_backend::dispatch(const epoll_event& event) noexcept {
    if (event.data.ptr == this) return; // struck out by detach()
    if (event.data.ptr == nullptr) {
        // Before the loop looks at what was posted: a later wake() writes again.
        // An exchange, to see everything that the last waker had done.
        awake_.exchange(false);
        return;
    }
    auto& d = *static_cast<io_descriptor*>(event.data.ptr);
    const std::uint32_t ends = event.events & (EPOLLERR | EPOLLHUP);
    const bool readable = (event.events & (EPOLLIN | EPOLLPRI | EPOLLRDHUP)) != 0 || ends != 0;
    const bool writable = (event.events & EPOLLOUT) != 0 || ends != 0;
    if (d.watched) {
        auto& user = static_cast<watched_descriptor&>(d);
        if (readable && user.reader != nullptr) user.reader->ready(*user.reader);
        if (event.data.ptr != &d) return;
        if (writable && user.writer != nullptr) user.writer->ready(*user.writer);
        return;
    }
    if (ends != 0 || (event.events & EPOLLRDHUP) != 0) d.hung_up = true;
    if ((event.events & EPOLLPRI) != 0) d.stops_short = true;
    if (readable) report_readable(d);
    if (writable && event.data.ptr == &d) report_writable(d);
}

void epoll_backend::wake() noexcept {
    if (awake_.exchange(true)) return;
    const std::uint64_t one = 1;
    while (::write(wake_.get(), &one, sizeof one) < 0 && errno == EINTR) {}
}

void epoll_backend::after_fork() {
    open();
    // What the child has closed by now is missed by nobody.
    const auto add = [this](int fd, std::uint32_t events, io_descriptor* d) {
        if (control(EPOLL_CTL_ADD, fd, events, d) != 0 && errno != EBADF)
            throw_last_error("epoll_ctl");
    };
    for (io_descriptor* d = attached_; d != nullptr; d = d->next) add(d->fd, attached_events, d);
    for (auto& [fd, d] : watched_) add(fd, watched_events(d), &d);
    if (awake_.exchange(false)) wake(); // it went to the parent
}

// Level-triggered, as add_reader() promises: what a callback leaves unread is
// reported again.
void epoll_backend::watch(int fd, bool write, io_watch& w, const char* call) {
    if (inherited()) after_fork();
    const auto [place, fresh] = watched_.try_emplace(fd);
    watched_descriptor& d = place->second;
    if (fresh) {
        d.fd = fd;
        d.watched = true;
    }
    io_watch* const before = std::exchange(write ? d.writer : d.reader, &w);
    const int what = fresh ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
    if (control(what, fd, watched_events(d), &d) == 0) return;
    int error = errno;
    // The user closed the descriptor without unwatching it, and the number is in
    // use again: the system has forgotten the old registration.
    if (error == ENOENT) error = control(EPOLL_CTL_ADD, fd, watched_events(d), &d) == 0 ? 0 : errno;
    if (error == 0) return;
    (write ? d.writer : d.reader) = before;
    if (d.reader == nullptr && d.writer == nullptr) watched_.erase(place);
    refuse_watch(error, fd, call);
}

bool epoll_backend::unwatch(int fd, bool write) noexcept {
    const auto place = watched_.find(fd);
    if (place == watched_.end()) return false;
    watched_descriptor& d = place->second;
    if (std::exchange(write ? d.writer : d.reader, nullptr) == nullptr) return false;
    if (d.reader != nullptr || d.writer != nullptr) {
        if (!inherited()) control(EPOLL_CTL_MOD, fd, watched_events(d), &d);
        return true;
    }
    if (!inherited()) control(EPOLL_CTL_DEL, fd, 0, nullptr);
    for (int i = 0; i < reported_count_; ++i)
        if (reported_[i].data.ptr == &d) reported_[i].data.ptr = this;
    watched_.erase(place);
    return true;
}

bool epoll_backend::watch_exit(pid_t, int pidfd, io_watch& w) {
    if (pidfd < 0) return false;
    watch(pidfd, false, w, "create_subprocess");
    return true;
}

void epoll_backend::unwatch_exit(pid_t, int pidfd) noexcept { unwatch(pidfd, false); }

std::uint32_t epoll_backend::watched_events(const watched_descriptor& d) noexcept {
    std::uint32_t events = 0;
    if (d.reader != nullptr) events |= EPOLLIN | EPOLLRDHUP;
    if (d.writer != nullptr) events |= EPOLLOUT;
    return events;
}

int epoll_backend::control(int what, int fd, std::uint32_t events, io_descriptor* d) noexcept {
    epoll_event event{};
    event.events = events;
    event.data.ptr = d;
    return ::epoll_ctl(epoll_.get(), what, fd, &event);
}

} // namespace asyncio::inline ASYNCIO_ABI::detail

#endif // ASYNCIO_BACKEND_EPOLL

// =============================================================================
// [SECTION] backend: kqueue
// uses: os, events, backend, backend: readiness operations
//
// Facts about kqueue that this code depends on:
//   - With EV_CLEAR a filter is reported once per piece of news, and kevent() looks
//     again before it reports: news that somebody has consumed meanwhile is not
//     reported, and registering reports what is there already.
//   - End of stream that arrives together with data is no news of its own later;
//     EV_EOF in the same report tells it apart. EV_OOBAND tells of urgent data, where
//     a system has it.
//   - A direction that can do nothing any more may be refused (EPIPE: nobody reads
//     this pipe). Then the other one counts, and the next send finds out.
//   - EV_ADD of what is registered changes it silently, so it is known here who uses
//     a descriptor. Regular files are taken and always ready: refused here.
//   - close() removes registrations, but what emulates kqueue loses track: EV_DELETE
//     comes before it.
//   - A child of fork() has no kqueue; its number is free there, or another file's. So
//     forks are counted, and what finds itself in a child starts anew.
//   - NOTE_EXIT comes a moment before the child can be waited for, and macOS says
//     ESRCH of a child that has ended before it was asked about.
//   - Integers stand for pointers on NetBSD before 10: hence change_of() and about().
//     It, and OpenBSD, have no EVFILT_USER: a pipe wakes them.
//   - EINTR is no error here: the loop turns once more and asks again.
// =============================================================================

#if defined(ASYNCIO_BACKEND_KQUEUE)

namespace asyncio::inline ASYNCIO_ABI::detail {

class kqueue_backend : public readiness_operations {
public:
    explicit kqueue_backend(loop_core&) { open(); }
    kqueue_backend(const kqueue_backend&) = delete;
    kqueue_backend& operator=(const kqueue_backend&) = delete;
    ~kqueue_backend() {
        abandon_all(*this);
        if (inherited()) kqueue_.release();
    }

    void attach(io_descriptor& d);
    void detach(io_descriptor& d) noexcept;
    void wait(std::int64_t ns);
    void wake() noexcept;
    void after_fork();
    void watch(int fd, bool write, io_watch& w, const char* call);
    bool unwatch(int fd, bool write) noexcept;
    bool watch_exit(pid_t pid, int pidfd, io_watch& w);
    void unwatch_exit(pid_t pid, int pidfd) noexcept;
    int native_handle() const noexcept { return kqueue_.get(); }

private:
    using report_type = struct ::kevent;

    // Taken from the kernel at a time; a descriptor may have two.
    static constexpr int most_events = 64;

    friend readiness_operations;

    void open();
    int change(const report_type* changes, int count) noexcept;
    int change(int fd, bool read, bool write, unsigned flags, void* about) noexcept;
    int ask_for_exit(pid_t pid) noexcept;
    void dispatch(const report_type& event) noexcept;
    void strike_out(const io_descriptor& d) noexcept;
    void tell_of_exit(pid_t pid) noexcept;

    template <class Ident>
    static report_type change_of(Ident ident, int filter, unsigned flags, unsigned more,
                                 void* about) noexcept {
        report_type change{};
        change.ident = static_cast<decltype(change.ident)>(ident);
        change.filter = static_cast<decltype(change.filter)>(filter);
        change.flags = static_cast<decltype(change.flags)>(flags);
        change.fflags = static_cast<decltype(change.fflags)>(more);
        change.udata = reinterpret_cast<decltype(change.udata)>(about);
        return change;
    }
    static void* about(const report_type& event) noexcept {
        return reinterpret_cast<void*>(event.udata);
    }

    owned_fd kqueue_;
    owned_fd wake_reader_; // without EVFILT_USER
    owned_fd wake_writer_;
    std::atomic<bool> awake_{false}; // a wake-up is on its way
    // What wait() is working through, so that detach() can strike out the rest of
    // what was reported for a descriptor.
    report_type* reported_ = nullptr;
    int reported_count_ = 0;
    std::unordered_map<int, watched_descriptor> watched_;
    std::unordered_map<pid_t, io_watch*> exits_;
    std::vector<pid_t> ended_; // children whose end is known, but not told
};

static_assert(backend_like<kqueue_backend>);

// What event_loop holds a pointer to.
struct backend_state final : kqueue_backend {
    using kqueue_backend::kqueue_backend;
};

void kqueue_backend::open() {
    note_process();
    kqueue_.reset(::kqueue());
    if (!kqueue_) throw_last_error("kqueue");
    if (::fcntl(kqueue_.get(), F_SETFD, FD_CLOEXEC) != 0) throw_last_error("fcntl");
#if defined(EVFILT_USER)
    const report_type wake = change_of(0, EVFILT_USER, EV_ADD | EV_CLEAR, 0, nullptr);
#else
    int fds[2];
    if (new_pipe(fds) != 0) throw_last_error("pipe");
    wake_reader_.reset(fds[0]);
    wake_writer_.reset(fds[1]);
    for (const int fd : fds)
        if (::fcntl(fd, F_SETFL, O_NONBLOCK) != 0) throw_last_error("fcntl");
    const report_type wake =
        change_of(wake_reader_.get(), EVFILT_READ, EV_ADD | EV_CLEAR, 0, nullptr);
#endif
    if (change(&wake, 1) != 0) throw_last_error("kevent");
}

int kqueue_backend::change(const report_type* changes, int count) noexcept {
    return ::kevent(kqueue_.get(), changes, count, nullptr, 0, nullptr);
}

// For one direction of a descriptor or both; an error only when all are refused.
int kqueue_backend::change(int fd, bool read, bool write, unsigned flags, void* about) noexcept {
    report_type changes[2];
    int count = 0;
    if (read) changes[count++] = change_of(fd, EVFILT_READ, flags, 0, about);
    if (write) changes[count++] = change_of(fd, EVFILT_WRITE, flags, 0, about);
    if (change(changes, count) == 0) return 0;
    if (count == 1) return errno;
    int error = 0;
    bool done = false;
    for (const report_type& one : changes) {
        if (change(&one, 1) == 0) done = true;
        else if (error == 0) error = errno;
    }
    return done ? 0 : error;
}

void kqueue_backend::attach(io_descriptor& d) {
    if (inherited()) after_fork();
    if (watched_.count(d.fd) != 0) throw_system_error(EEXIST, "kevent");
    if (const int error = change(d.fd, true, true, EV_ADD | EV_CLEAR, &d))
        throw_system_error(error, "kevent");
    d.readable = d.hung_up = false; // the registration reports what is there
    d.writable = true;
    link(d);
}

void kqueue_backend::detach(io_descriptor& d) noexcept {
    if (!d.attached) return;
    if (!inherited()) change(d.fd, true, true, EV_DELETE, nullptr);
    unlink(d);
    strike_out(d);
}

void kqueue_backend::strike_out(const io_descriptor& d) noexcept {
    for (int i = 0; i < reported_count_; ++i)
        if (about(reported_[i]) == &d) reported_[i] = change_of(0, 0, 0, 0, nullptr);
}

void kqueue_backend::wait(std::int64_t ns) {
    if (inherited()) after_fork();
    if (!ended_.empty()) ns = 0;
    // Some systems refuse a time beyond what they can count.
    const std::int64_t limited = std::min<std::int64_t>(ns, 1'000'000'000'000'000);
    timespec timeout = {};
    timeout.tv_sec = static_cast<time_t>(limited / 1'000'000'000);
    timeout.tv_nsec = static_cast<long>(limited % 1'000'000'000);
    report_type events[most_events];
    const int n = ::kevent(kqueue_.get(), nullptr, 0, events, most_events,
                           ns < 0 ? nullptr : &timeout);
    if (n < 0 && errno != EINTR) throw_last_error("kevent");
    reported_ = events;
    reported_count_ = std::max(n, 0);
    for (int i = 0; i < n; ++i) dispatch(events[i]);
    reported_count_ = 0;
    while (!ended_.empty()) {
        const pid_t pid = ended_.back();
        ended_.pop_back();
        tell_of_exit(pid);
    }
}

// One report; one that was struck out has no filter.
void kqueue_backend::dispatch(const report_type& event) noexcept {
    if (event.filter == 0) return;
    if (event.filter == EVFILT_PROC) {
        tell_of_exit(static_cast<pid_t>(event.ident));
        return;
    }
    if (about(event) == nullptr) {
#if !defined(EVFILT_USER)
        char drained[64];
        while (::read(wake_reader_.get(), drained, sizeof drained) > 0) {}
#endif
        // Before the loop looks at what was posted: a later wake() triggers again.
        // An exchange, to see everything that the last waker had done.
        awake_.exchange(false);
        return;
    }
    auto& d = *static_cast<io_descriptor*>(about(event));
    const bool reading = event.filter == EVFILT_READ;
    if (d.watched) {
        auto& user = static_cast<watched_descriptor&>(d);
        io_watch* const told = reading ? user.reader : user.writer;
        if (told != nullptr) told->ready(*told);
        return;
    }
    const bool ends = (event.flags & EV_EOF) != 0;
    if (ends) d.hung_up = true;
#if defined(EV_OOBAND)
    if (reading && (event.flags & EV_OOBAND) != 0) d.stops_short = true;
#endif
    // The end of one direction may be the other one's, too: nobody reads this pipe.
    if (reading || ends) report_readable(d);
    if (!reading && about(event) == &d) report_writable(d);
}

void kqueue_backend::wake() noexcept {
    if (awake_.exchange(true)) return;
#if defined(EVFILT_USER)
    const report_type trigger = change_of(0, EVFILT_USER, 0, NOTE_TRIGGER, nullptr);
    while (change(&trigger, 1) != 0 && errno == EINTR) {}
#else
    while (::write(wake_writer_.get(), "", 1) < 0 && errno == EINTR) {}
#endif
}

void kqueue_backend::after_fork() {
    kqueue_.release(); // it is not this process's
    open();
    // What the child has closed by now is missed by nobody.
    const auto add = [this](int fd, bool read, bool write, unsigned flags, io_descriptor* d) {
        const int error = change(fd, read, write, EV_ADD | flags, d);
        if (error != 0 && error != EBADF) throw_system_error(error, "kevent");
    };
    for (io_descriptor* d = attached_; d != nullptr; d = d->next)
        add(d->fd, true, true, EV_CLEAR, d);
    for (auto& [fd, d] : watched_) add(fd, d.reader != nullptr, d.writer != nullptr, 0, &d);
    for (const auto& [pid, w] : exits_)
        if (ask_for_exit(pid) == ESRCH) ended_.push_back(pid);
    if (awake_.exchange(false)) wake(); // it went to the parent
}

// Level-triggered, as add_reader() promises: what a callback leaves unread is
// reported again.
void kqueue_backend::watch(int fd, bool write, io_watch& w, const char* call) {
    if (inherited()) after_fork();
    struct stat status;
    if (::fstat(fd, &status) != 0) refuse_watch(errno, fd, call);
    if (S_ISREG(status.st_mode) || S_ISDIR(status.st_mode)) refuse_watch(EPERM, fd, call);
    for (const io_descriptor* d = attached_; d != nullptr; d = d->next)
        if (d->fd == fd) refuse_watch(EEXIST, fd, call);
    const auto [place, fresh] = watched_.try_emplace(fd);
    watched_descriptor& d = place->second;
    if (fresh) {
        d.fd = fd;
        d.watched = true;
    }
    io_watch* const before = std::exchange(write ? d.writer : d.reader, &w);
    if (const int error = change(fd, !write, write, EV_ADD, &d)) {
        (write ? d.writer : d.reader) = before;
        if (d.reader == nullptr && d.writer == nullptr) watched_.erase(place);
        refuse_watch(error, fd, call);
    }
    // The user may have closed the descriptor without unwatching it, and the number is
    // in use again: the system has forgotten the other direction.
    if (d.reader != nullptr && d.writer != nullptr) change(fd, write, !write, EV_ADD, &d);
}

bool kqueue_backend::unwatch(int fd, bool write) noexcept {
    const auto place = watched_.find(fd);
    if (place == watched_.end()) return false;
    watched_descriptor& d = place->second;
    if (std::exchange(write ? d.writer : d.reader, nullptr) == nullptr) return false;
    if (!inherited()) change(fd, !write, write, EV_DELETE, nullptr);
    if (d.reader != nullptr || d.writer != nullptr) return true;
    strike_out(d);
    watched_.erase(place);
    return true;
}

int kqueue_backend::ask_for_exit(pid_t pid) noexcept {
    const report_type end = change_of(pid, EVFILT_PROC, EV_ADD | EV_ONESHOT, NOTE_EXIT, nullptr);
    return change(&end, 1) == 0 ? 0 : errno;
}

bool kqueue_backend::watch_exit(pid_t pid, int, io_watch& w) {
    if (inherited()) after_fork();
    ended_.reserve(exits_.size() + 1);
    exits_[pid] = &w;
    const int error = ask_for_exit(pid);
    if (error == ESRCH) {
        ended_.push_back(pid);
    } else if (error != 0) {
        exits_.erase(pid);
        return false;
    }
    return true;
}

void kqueue_backend::unwatch_exit(pid_t pid, int) noexcept {
    if (exits_.erase(pid) == 0) return;
    std::erase(ended_, pid);
    const report_type end = change_of(pid, EVFILT_PROC, EV_DELETE, 0, nullptr);
    if (!inherited()) change(&end, 1);
}

void kqueue_backend::tell_of_exit(pid_t pid) noexcept {
    const auto place = exits_.find(pid);
    if (place == exits_.end()) return;
    io_watch& w = *place->second;
    exits_.erase(place);
    w.ready(w);
}

} // namespace asyncio::inline ASYNCIO_ABI::detail

#endif // ASYNCIO_BACKEND_KQUEUE

// =============================================================================
// [SECTION] backend: iocp
// uses: os, events, backend, backend: readiness operations
//
// A completion port tells what has finished. What is finished here is a question:
// whether a socket can be read or written. The receive itself is then tried as on any
// other system, so that nothing of the user's is in the system's hands while a task
// waits, a cancelled receive has lost nothing, and 10 000 idle connections hold no
// buffers.
//
// Facts about Windows that this code depends on:
//   - AFD, the driver beneath Winsock, answers such a question with one packet, at once
//     if that is how things are. It is the one that select() asks, and this way to it
//     is how libuv and others have gone for years. A question that was answered is over.
//   - An answer is written into memory of ours, up to the moment that its packet has
//     been taken out: a question lives until then, cancelled or not.
//   - A question names the socket beneath what other programs may have layered over it:
//     SIO_BASE_HANDLE. A closed socket answers its questions.
//   - Cancelling costs time for all questions of one handle, so that few share one.
//   - The port counts in milliseconds, and what it is given is rounded up here. It may
//     be as coarse as the system's clock, 15.6 ms.
//   - A packet without a question is a wake-up.
// =============================================================================

#if defined(ASYNCIO_BACKEND_IOCP)

namespace asyncio::inline ASYNCIO_ABI::detail {

// Owns a handle of the system; null is none.
class owned_handle {
public:
    owned_handle() noexcept = default;
    explicit owned_handle(HANDLE handle) noexcept : handle_(handle) {}
    owned_handle(owned_handle&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    owned_handle& operator=(owned_handle&& other) noexcept {
        std::swap(handle_, other.handle_);
        return *this;
    }
    ~owned_handle() {
        if (handle_ != nullptr) ::CloseHandle(handle_);
    }

    HANDLE get() const noexcept { return handle_; }
    explicit operator bool() const noexcept { return handle_ != nullptr; }

private:
    HANDLE handle_ = nullptr;
};

// What AFD is asked and answers, in its own layout.
struct afd_poll {
    static constexpr ULONG control_code = 0x00012024;
    static constexpr ULONG receive = 0x1, send = 0x4, disconnect = 0x8, abort = 0x10,
                           closed_here = 0x20, accept = 0x80, connect_fail = 0x100;

    LARGE_INTEGER timeout;
    ULONG count;
    ULONG exclusive;
    HANDLE socket;
    ULONG events;
    LONG status;
};

// A handle of AFD's, which some sockets share.
struct afd_group {
    static constexpr std::size_t most = 32;

    owned_handle handle;
    std::size_t sockets = 0;
};

struct asked_socket;

// The packet of an answer leads to `result`, which is why it comes first.
struct socket_question {
    OVERLAPPED result{};
    afd_poll poll{};
    asked_socket* of = nullptr;
    bool open = false; // the packet has not come
};

// Of one socket, both ways; outlives it until the last packet has come.
struct asked_socket {
    io_descriptor* about = nullptr; // null: detached
    afd_group* group = nullptr;
    HANDLE base = nullptr;
    bool in_use = false; // by dispatch()
    socket_question reading;
    socket_question writing;
};

class iocp_backend : public readiness_operations {
public:
    explicit iocp_backend(loop_core&) { open(); }
    iocp_backend(const iocp_backend&) = delete;
    iocp_backend& operator=(const iocp_backend&) = delete;
    ~iocp_backend();

    void attach(io_descriptor& d);
    void detach(io_descriptor& d) noexcept;
    bool start(io_operation& op) noexcept;
    void wait(std::int64_t ns);
    void wake() noexcept;
    void after_fork() {}
    void watch(int fd, bool write, io_watch& w, const char* call);
    bool unwatch(int fd, bool write) noexcept;
    bool watch_exit(pid_t, int, io_watch&) { return false; }
    void unwatch_exit(pid_t, int) noexcept {}
    int native_handle() const noexcept { return -1; }

private:
    // Taken from the system at a time.
    static constexpr ULONG most_packets = 64;

    friend readiness_operations;

    using create_function = LONG(NTAPI*)(HANDLE*, ACCESS_MASK, OBJECT_ATTRIBUTES*, IO_STATUS_BLOCK*,
                                         LARGE_INTEGER*, ULONG, ULONG, ULONG, ULONG, void*, ULONG);
    using control_function = LONG(NTAPI*)(HANDLE, HANDLE, void*, void*, void*, ULONG, void*, ULONG,
                                          void*, ULONG);
    using error_function = ULONG(NTAPI*)(LONG);

    void open();
    template <class Function>
    static Function find(const char* name);
    void add_group();
    void connect_to_afd(io_descriptor& d);
    void let_go(asked_socket& asked) noexcept;
    void close_if_answered(asked_socket& asked) noexcept;
    int ask(asked_socket& asked, bool write) noexcept;
    void ask_again(asked_socket& asked) noexcept;
    void ask_watched() noexcept;
    void dispatch(const OVERLAPPED_ENTRY& packet) noexcept;

    create_function create_file_ = nullptr;
    control_function control_ = nullptr;
    error_function error_of_status_ = nullptr;
    owned_handle port_;
    std::atomic<bool> awake_{false}; // a wake-up is on its way
    std::vector<std::unique_ptr<afd_group>> groups_;
    std::vector<afd_group*> with_room_;
    std::size_t open_questions_ = 0;
    std::unordered_map<int, watched_descriptor> watched_;
};

static_assert(backend_like<iocp_backend>);

// What event_loop holds a pointer to.
struct backend_state final : iocp_backend {
    using iocp_backend::iocp_backend;
};

template <class Function>
Function iocp_backend::find(const char* name) {
    const auto place = ::GetProcAddress(::GetModuleHandleW(L"ntdll.dll"), name);
    if (place == nullptr) throw_last_error(name);
    return reinterpret_cast<Function>(reinterpret_cast<void*>(place));
}

void iocp_backend::open() {
    start_winsock();
    note_process();
    create_file_ = find<create_function>("NtCreateFile");
    control_ = find<control_function>("NtDeviceIoControlFile");
    error_of_status_ = find<error_function>("RtlNtStatusToDosError");
    port_ = owned_handle(::CreateIoCompletionPort(INVALID_HANDLE_VALUE, nullptr, 0, 1));
    if (!port_) throw_last_error("CreateIoCompletionPort");
}

// Whatever the system still writes to has to stay until it has answered.
iocp_backend::~iocp_backend() {
    abandon_all(*this);
    while (!watched_.empty()) {
        const int fd = watched_.begin()->first;
        unwatch(fd, false);
        unwatch(fd, true);
    }
    while (open_questions_ > 0) {
        OVERLAPPED_ENTRY packets[most_packets];
        ULONG count = 0;
        if (::GetQueuedCompletionStatusEx(port_.get(), packets, most_packets, &count, INFINITE,
                                          FALSE) == 0)
            std::terminate(); // as good as any memory would be overwritten
        for (ULONG i = 0; i < count; ++i) dispatch(packets[i]);
    }
}

void iocp_backend::add_group() {
    wchar_t text[] = L"\\Device\\Afd\\asyncio";
    UNICODE_STRING name;
    name.Buffer = text;
    name.Length = sizeof text - sizeof text[0];
    name.MaximumLength = sizeof text;
    OBJECT_ATTRIBUTES about{};
    about.Length = sizeof about;
    about.ObjectName = &name;
    IO_STATUS_BLOCK result{};
    HANDLE handle = nullptr;
    constexpr ULONG share = FILE_SHARE_READ | FILE_SHARE_WRITE;
    constexpr ULONG open_existing = 1;
    const LONG status = create_file_(&handle, SYNCHRONIZE, &about, &result, nullptr, 0, share,
                                     open_existing, 0, nullptr, 0);
    if (status != 0)
        throw_system_error(error_of(error_of_status_(status)), "NtCreateFile(\\Device\\Afd)");
    auto group = std::make_unique<afd_group>();
    group->handle = owned_handle(handle);
    if (::CreateIoCompletionPort(handle, port_.get(), 0, 0) == nullptr)
        throw_last_error("CreateIoCompletionPort");
    ::SetFileCompletionNotificationModes(handle, FILE_SKIP_SET_EVENT_ON_HANDLE);
    groups_.reserve(groups_.size() + 1);
    with_room_.reserve(groups_.size() + 1); // room for all: letting go allocates nothing
    with_room_.push_back(group.get());
    groups_.push_back(std::move(group));
}

void iocp_backend::connect_to_afd(io_descriptor& d) {
    auto asked = std::make_unique<asked_socket>();
    SOCKET base = INVALID_SOCKET;
    DWORD size = 0;
    constexpr DWORD base_handle = IOC_OUT | IOC_WS2 | 34; // SIO_BASE_HANDLE
    if (::WSAIoctl(socket_of(d.fd), base_handle, nullptr, 0, &base, sizeof base, &size, nullptr,
                   nullptr) != 0)
        throw_last_error("WSAIoctl(SIO_BASE_HANDLE)");
    if (with_room_.empty()) add_group();
    afd_group& group = *with_room_.back();
    if (++group.sockets == afd_group::most) with_room_.pop_back();
    asked->about = &d;
    asked->group = &group;
    asked->base = reinterpret_cast<HANDLE>(base);
    asked->reading.of = asked->writing.of = asked.get();
    d.asked = asked.release();
}

void iocp_backend::attach(io_descriptor& d) {
    if (watched_.count(d.fd) != 0) throw_system_error(EEXIST, "attach");
    connect_to_afd(d);
    d.readable = d.writable = true; // not known yet: the first operation finds out
    d.hung_up = false;
    link(d);
}

void iocp_backend::detach(io_descriptor& d) noexcept {
    if (!d.attached) return;
    unlink(d);
    let_go(*std::exchange(d.asked, nullptr));
}

void iocp_backend::let_go(asked_socket& asked) noexcept {
    asked.about = nullptr;
    for (socket_question* q : {&asked.reading, &asked.writing})
        if (q->open) ::CancelIoEx(asked.group->handle.get(), &q->result);
    close_if_answered(asked);
}

void iocp_backend::close_if_answered(asked_socket& asked) noexcept {
    if (asked.about != nullptr || asked.in_use || asked.reading.open || asked.writing.open) return;
    if (asked.group->sockets-- == afd_group::most) with_room_.push_back(asked.group);
    delete &asked;
}

// 0, or the error of a question that could not be asked.
int iocp_backend::ask(asked_socket& asked, bool write) noexcept {
    socket_question& q = write ? asked.writing : asked.reading;
    if (q.open) return 0;
    q.result = OVERLAPPED{};
    q.poll = afd_poll{};
    q.poll.timeout.QuadPart = INT64_MAX;
    q.poll.count = 1;
    q.poll.socket = asked.base;
    q.poll.events = write ? afd_poll::send | afd_poll::connect_fail
                          : afd_poll::receive | afd_poll::accept | afd_poll::disconnect;
    q.poll.events |= afd_poll::abort | afd_poll::closed_here;
    constexpr LONG pending = 0x103;
    // The first two words of an OVERLAPPED are what the system calls a status block.
    const LONG status =
        control_(asked.group->handle.get(), nullptr, nullptr, &q.result, &q.result,
                 afd_poll::control_code, &q.poll, sizeof q.poll, &q.poll, sizeof q.poll);
    if (status != 0 && status != pending) return error_of(error_of_status_(status));
    q.open = true; // the packet comes in both cases
    ++open_questions_;
    return 0;
}

bool iocp_backend::start(io_operation& op) noexcept {
    if (readiness_operations::start(op)) return true;
    if (!op.pending) return false;
    const int error = ask(*op.on->asked, !reads(op));
    if (error == 0) return false;
    cancel(op);
    op.error = error;
    return true;
}

// Whoever waits and has not been told: the answer was outrun, or came to nothing.
void iocp_backend::ask_again(asked_socket& asked) noexcept {
    for (const bool write : {false, true}) {
        if (asked.about == nullptr) return;
        io_operation*& waiting = write ? asked.about->writing : asked.about->reading;
        if (waiting == nullptr) continue;
        const int error = ask(asked, write);
        if (error == 0) continue;
        io_operation* const op = std::exchange(waiting, nullptr);
        op->pending = false;
        op->error = error;
        op->done(*op);
    }
}

// Level-triggered, as add_reader() promises: what a callback leaves unread is asked
// about, and reported, again.
void iocp_backend::ask_watched() noexcept {
    for (auto& [fd, d] : watched_) {
        if (d.reader != nullptr && d.readable) ask(*d.asked, false);
        if (d.writer != nullptr && d.readable) ask(*d.asked, true);
    }
}

void iocp_backend::wait(std::int64_t ns) {
    ask_watched();
    DWORD milliseconds = ns < 0 ? INFINITE : 0;
    if (ns > 0) {
        const std::int64_t up = (ns - 1) / 1'000'000 + 1; // never early
        milliseconds = static_cast<DWORD>(std::min<std::int64_t>(up, 1'000'000'000));
    }
    OVERLAPPED_ENTRY packets[most_packets];
    ULONG count = 0;
    if (::GetQueuedCompletionStatusEx(port_.get(), packets, most_packets, &count, milliseconds,
                                      FALSE) == 0) {
        if (::GetLastError() == WAIT_TIMEOUT) return;
        throw_last_error("GetQueuedCompletionStatusEx");
    }
    for (ULONG i = 0; i < count; ++i) dispatch(packets[i]);
}

// One packet. Done functions may detach any socket, this one too.
void iocp_backend::dispatch(const OVERLAPPED_ENTRY& packet) noexcept {
    if (packet.lpOverlapped == nullptr) {
        // Before the loop looks at what was posted: a later wake() posts again.
        // An exchange, to see everything that the last waker had done.
        awake_.exchange(false);
        return;
    }
    auto& q = *reinterpret_cast<socket_question*>(packet.lpOverlapped);
    asked_socket& asked = *q.of;
    q.open = false;
    --open_questions_;
    asked.in_use = true;
    io_descriptor* const d = asked.about;
    const bool write = &q == &asked.writing;
    if (d != nullptr && d->watched) {
        auto& user = static_cast<watched_descriptor&>(*d);
        io_watch* const told = write ? user.writer : user.reader;
        // Closed by the user, who has not unwatched it.
        if ((q.poll.events & afd_poll::closed_here) != 0) user.readable = false;
        else if (told != nullptr) told->ready(*told);
    } else if (d != nullptr) {
        if (write) report_writable(*d);
        else report_readable(*d);
        ask_again(asked);
    }
    asked.in_use = false;
    close_if_answered(asked);
}

void iocp_backend::wake() noexcept {
    if (awake_.exchange(true)) return;
    if (::PostQueuedCompletionStatus(port_.get(), 0, 0, nullptr) == 0) awake_.store(false);
}

void iocp_backend::watch(int fd, bool write, io_watch& w, const char* call) {
    for (const io_descriptor* d = attached_; d != nullptr; d = d->next)
        if (d->fd == fd) refuse_watch(EEXIST, fd, call);
    const auto [place, fresh] = watched_.try_emplace(fd);
    watched_descriptor& d = place->second;
    if (fresh) {
        d.fd = fd;
        d.watched = true;
        ASYNCIO_TRY {
            connect_to_afd(d);
        } ASYNCIO_CATCH_AS(const std::system_error& e) {
            watched_.erase(place);
            refuse_watch(e.code().value(), fd, call);
        }
    }
    d.readable = true; // asked about
    (write ? d.writer : d.reader) = &w;
}

bool iocp_backend::unwatch(int fd, bool write) noexcept {
    const auto place = watched_.find(fd);
    if (place == watched_.end()) return false;
    watched_descriptor& d = place->second;
    if (std::exchange(write ? d.writer : d.reader, nullptr) == nullptr) return false;
    if (d.reader != nullptr || d.writer != nullptr) return true;
    let_go(*d.asked);
    watched_.erase(place);
    return true;
}

} // namespace asyncio::inline ASYNCIO_ABI::detail

#endif // ASYNCIO_BACKEND_IOCP

// =============================================================================
// [SECTION] backend: poll
// uses: os, events, backend, backend: readiness operations
//
// For systems that have nothing better, and to compare others with. poll() tells
// what is, not what is new: it is asked only for what is not known to be ready, and
// then not again before an operation has found that it would block. Each wait costs
// time for each descriptor, so this is for a few hundred of them.
// =============================================================================

#if defined(ASYNCIO_BACKEND_POLL)

namespace asyncio::inline ASYNCIO_ABI::detail {

class poll_backend : public readiness_operations {
public:
    explicit poll_backend(loop_core&) { open(); }
    poll_backend(const poll_backend&) = delete;
    poll_backend& operator=(const poll_backend&) = delete;
    ~poll_backend() { abandon_all(*this); }

    void attach(io_descriptor& d);
    void detach(io_descriptor& d) noexcept;
    void wait(std::int64_t ns);
    void wake() noexcept;
    void after_fork();
    void watch(int fd, bool write, io_watch& w, const char* call);
    bool unwatch(int fd, bool write) noexcept;
    bool watch_exit(pid_t pid, int pidfd, io_watch& w);
    void unwatch_exit(pid_t pid, int pidfd) noexcept;
    int native_handle() const noexcept { return -1; }

private:
    friend readiness_operations;

    void open();
    void make_room();
    void ask(io_descriptor& d, bool read, bool write) noexcept;
    void dispatch(std::size_t place) noexcept;
    void strike_out(const io_descriptor& d) noexcept;

    owned_fd wake_reader_;
    owned_fd wake_writer_;
    std::atomic<bool> awake_{false}; // a wake-up is on its way
    std::unordered_map<int, watched_descriptor> watched_;
    std::size_t known_ = 0; // descriptors, attached and watched
    // What poll() was asked, and about whom: null for wake_reader_, and for what has been
    // detached since. Both have room for all, so that waiting allocates nothing.
    std::vector<pollfd> polled_;
    std::vector<io_descriptor*> asked_;
};

static_assert(backend_like<poll_backend>);

// What event_loop holds a pointer to.
struct backend_state final : poll_backend {
    using poll_backend::poll_backend;
};

void poll_backend::open() {
    note_process();
    int fds[2];
    if (new_pipe(fds) != 0) throw_last_error("pipe");
    owned_fd reader(fds[0]);
    owned_fd writer(fds[1]);
    // Never 0, 1 or 2, which somebody may take for a standard stream.
    wake_reader_.reset(::fcntl(reader.get(), F_DUPFD_CLOEXEC, 3));
    wake_writer_.reset(::fcntl(writer.get(), F_DUPFD_CLOEXEC, 3));
    if (!wake_reader_ || !wake_writer_) throw_last_error("fcntl");
    for (const int fd : {wake_reader_.get(), wake_writer_.get()})
        if (::fcntl(fd, F_SETFL, O_NONBLOCK) != 0) throw_last_error("fcntl");
    make_room();
}

void poll_backend::make_room() {
    const std::size_t needed = known_ + 2; // one more, and wake_reader_
    if (polled_.capacity() < needed) polled_.reserve(2 * needed);
    if (asked_.capacity() < needed) asked_.reserve(2 * needed);
}

void poll_backend::attach(io_descriptor& d) {
    if (::fcntl(d.fd, F_GETFL) < 0) throw_last_error("fcntl");
    if (watched_.count(d.fd) != 0) throw_system_error(EEXIST, "poll");
    make_room();
    d.readable = d.writable = true; // not known yet: the first operation finds out
    d.hung_up = false;
    link(d);
    ++known_;
}

void poll_backend::detach(io_descriptor& d) noexcept {
    if (!d.attached) return;
    unlink(d);
    --known_;
    strike_out(d);
}

void poll_backend::strike_out(const io_descriptor& d) noexcept {
    for (std::size_t i = 1; i < asked_.size(); ++i)
        if (asked_[i] == &d) asked_[i] = nullptr;
}

void poll_backend::ask(io_descriptor& d, bool read, bool write) noexcept {
    if (!read && !write) return;
    const int events = (read ? POLLIN : 0) | (write ? POLLOUT : 0);
    polled_.push_back({d.fd, static_cast<short>(events), 0});
    asked_.push_back(&d);
}

void poll_backend::wait(std::int64_t ns) {
    if (inherited()) after_fork();
    polled_.assign(1, {wake_reader_.get(), POLLIN, 0});
    asked_.assign(1, nullptr);
    for (io_descriptor* d = attached_; d != nullptr; d = d->next)
        ask(*d, !d->readable, !d->writable);
    for (auto& [fd, d] : watched_)
        if (d.readable) ask(d, d.reader != nullptr, d.writer != nullptr);
    int milliseconds = ns < 0 ? -1 : 0;
    if (ns > 0) {
        const std::int64_t up = (ns - 1) / 1'000'000 + 1; // never early
        milliseconds = static_cast<int>(std::min<std::int64_t>(up, 1'000'000'000));
    }
    const int n = ::poll(polled_.data(), static_cast<nfds_t>(polled_.size()), milliseconds);
    if (n < 0 && errno != EINTR) {
        const int error = errno;
        asked_.clear();
        throw_system_error(error, "poll");
    }
    // By place: who is told may attach others, and the lists may move.
    if (n > 0)
        for (std::size_t i = 0; i < asked_.size(); ++i) dispatch(i);
    asked_.clear();
}

void poll_backend::dispatch(std::size_t place) noexcept {
    const int events = polled_[place].revents;
    if (events == 0) return;
    if (place == 0) {
        char drained[64];
        while (::read(wake_reader_.get(), drained, sizeof drained) > 0 || errno == EINTR) {}
        // Before the loop looks at what was posted: a later wake() writes again.
        // An exchange, to see everything that the last waker had done.
        awake_.exchange(false);
        return;
    }
    io_descriptor* const d = asked_[place];
    if (d == nullptr) return; // struck out
    const bool ends = (events & (POLLERR | POLLHUP | POLLNVAL)) != 0;
    const bool readable = (events & POLLIN) != 0 || ends;
    const bool writable = (events & POLLOUT) != 0 || ends;
    if (d->watched) {
        auto& user = static_cast<watched_descriptor&>(*d);
        // Closed by the user, who has not unwatched it.
        if ((events & POLLNVAL) != 0) user.readable = false;
        else if (readable && user.reader != nullptr) user.reader->ready(*user.reader);
        if (asked_[place] != d || (events & POLLNVAL) != 0) return;
        if (writable && user.writer != nullptr) user.writer->ready(*user.writer);
        return;
    }
    if (readable) report_readable(*d);
    if (writable && asked_[place] == d) report_writable(*d);
}

void poll_backend::wake() noexcept {
    if (awake_.exchange(true)) return;
    while (::write(wake_writer_.get(), "", 1) < 0 && errno == EINTR) {}
}

// Nothing is registered anywhere, but the pipe is the parent's, too.
void poll_backend::after_fork() {
    open();
    if (awake_.exchange(false)) wake(); // it went to the parent
}

void poll_backend::watch(int fd, bool write, io_watch& w, const char* call) {
    struct stat status;
    if (::fstat(fd, &status) != 0) refuse_watch(errno, fd, call);
    if (S_ISREG(status.st_mode) || S_ISDIR(status.st_mode)) refuse_watch(EPERM, fd, call);
    for (const io_descriptor* d = attached_; d != nullptr; d = d->next)
        if (d->fd == fd) refuse_watch(EEXIST, fd, call);
    make_room();
    const auto [place, fresh] = watched_.try_emplace(fd);
    watched_descriptor& d = place->second;
    if (fresh) {
        d.fd = fd;
        d.watched = true;
        ++known_;
    }
    d.readable = true; // asked about
    (write ? d.writer : d.reader) = &w;
}

bool poll_backend::unwatch(int fd, bool write) noexcept {
    const auto place = watched_.find(fd);
    if (place == watched_.end()) return false;
    watched_descriptor& d = place->second;
    if (std::exchange(write ? d.writer : d.reader, nullptr) == nullptr) return false;
    if (d.reader != nullptr || d.writer != nullptr) return true;
    strike_out(d);
    watched_.erase(place);
    --known_;
    return true;
}

bool poll_backend::watch_exit(pid_t, int pidfd, io_watch& w) {
    if (pidfd < 0) return false;
    watch(pidfd, false, w, "create_subprocess");
    return true;
}

void poll_backend::unwatch_exit(pid_t, int pidfd) noexcept { unwatch(pidfd, false); }

} // namespace asyncio::inline ASYNCIO_ABI::detail

#endif // ASYNCIO_BACKEND_POLL

// =============================================================================
// [SECTION] backend: none
// uses: os, events
//
// Facts about having no operating system that this code depends on:
//   - Only interrupts come from outside, and only isr_event::set() runs in them.
//   - A flag of one byte is stored and loaded in one piece on every processor.
// =============================================================================

#if defined(ASYNCIO_BACKEND_NONE)

namespace asyncio::inline ASYNCIO_ABI::detail {

struct backend_state {
    explicit backend_state(loop_core&) noexcept {}
    void wait(std::int64_t ns) noexcept {
        if (ns != 0 && !isr_event::pending()) asyncio_port_idle(ns);
    }
    void wake() noexcept {}
    int native_handle() const noexcept { return -1; }
};

} // namespace asyncio::inline ASYNCIO_ABI::detail

#endif // ASYNCIO_BACKEND_NONE

// =============================================================================
// [SECTION] implementation: exceptions and support
// uses: os, exceptions, support
// =============================================================================

namespace asyncio::inline ASYNCIO_ABI {

namespace detail {

// The linker names this function when the program has no implementation of this
// version, or more than one: that is its only purpose.
implementation_present define_ASYNCIO_IMPLEMENTATION_in_exactly_one_cpp_file() { return {}; }

void fatal([[maybe_unused]] const char* text) noexcept {
#if defined(ASYNCIO_FATAL)
    ASYNCIO_FATAL(text);
#elif !defined(ASYNCIO_BACKEND_NONE)
    std::fprintf(stderr, "%s\n", text);
#endif
    std::abort();
}

#if defined(ASYNCIO_NO_EXCEPTIONS)

void* error_alloc(std::size_t size) { return frame_alloc(size); }
void error_free(void* memory, std::size_t size) noexcept { frame_free(memory, size); }

// The text of an error; empty when it has none.
static const char* text_of(const exception_ptr& error) noexcept {
    if (const auto* const e = exception_cast<std::exception>(error)) return e->what();
    if (const auto* const e = exception_cast<base_exception_group>(error)) return e->what();
    if (const auto* const e = exception_cast<cancelled_error>(error)) return e->what();
    if (const auto* const e = exception_cast<keyboard_interrupt>(error)) return e->what();
    return "";
}

void rethrow(const exception_ptr& error) noexcept {
#if defined(ASYNCIO_BACKEND_NONE)
    fatal(text_of(error));
#else
    fatal(describe(error).c_str());
#endif
}

error_kind kind_of(const exception_ptr& error) noexcept {
    if (exception_cast<cancelled_error>(error)) return error_kind::cancelled;
    if (exception_cast<keyboard_interrupt>(error)) return error_kind::interrupt;
    if (exception_cast<exception_group>(error)) return error_kind::ordinary;
    if (exception_cast<base_exception_group>(error)) return error_kind::base_group;
    return error_kind::ordinary;
}

// The inline namespace is no part of the name that users write.
static std::string readable_name(std::string_view name) {
    std::string text(name);
    const std::string_view own = "asyncio::v";
    if (text.starts_with(own)) {
        const std::size_t end = text.find("::", own.size());
        if (end != std::string::npos) text = "asyncio" + text.substr(end);
    }
    return text;
}

std::string describe(const exception_ptr& error) {
    if (!error) return "no exception";
    const std::string_view text = text_of(error);
    std::string name = readable_name(error.get()->type());
    if (text.empty()) return name;
    return name.append(": ").append(text);
}

#else

error_kind kind_of(const exception_ptr& error) noexcept {
    try {
        std::rethrow_exception(error);
    } catch (const cancelled_error&) {
        return error_kind::cancelled;
    } catch (const keyboard_interrupt&) {
        return error_kind::interrupt;
    } catch (const exception_group&) {
        return error_kind::ordinary;
    } catch (const base_exception_group&) {
        return error_kind::base_group;
    } catch (...) {
        return error_kind::ordinary;
    }
}

#if defined(_MSC_VER)

// Names are readable there, but say "class" or "struct" first.
static std::string demangled(const char* name) {
    std::string text = name;
    for (const std::string_view word : {"class ", "struct "})
        for (std::size_t i = text.find(word); i != std::string::npos; i = text.find(word, i))
            text.erase(i, word.size());
    return text;
}

// Nothing tells the type of what is no std::exception.
static const std::type_info* current_type() noexcept { return nullptr; }

#else

static std::string demangled(const char* name) {
    int status = 0;
    const std::unique_ptr<char, decltype(&std::free)> text(
        abi::__cxa_demangle(name, nullptr, nullptr, &status), &std::free);
    return status == 0 && text ? text.get() : name;
}

static const std::type_info* current_type() noexcept {
    return abi::__cxa_current_exception_type();
}

#endif

static std::string readable_name(const char* mangled) {
    std::string text = demangled(mangled);
    // The inline namespace is no part of the name that users write.
    const std::string_view own = "asyncio::v";
    if (text.starts_with(own)) {
        const std::size_t end = text.find("::", own.size());
        if (end != std::string::npos) text = "asyncio" + text.substr(end);
    }
    return text;
}

std::string describe(const exception_ptr& error) {
    if (!error) return "no exception";
    try {
        std::rethrow_exception(error);
    } catch (const base_exception_group& e) {
        return readable_name(typeid(e).name()) + ": " + e.what();
    } catch (const std::exception& e) {
        return readable_name(typeid(e).name()) + ": " + e.what();
    } catch (const cancelled_error& e) {
        return std::string("asyncio::cancelled_error") + (*e.what() ? ": " : "") + e.what();
    } catch (const keyboard_interrupt& e) {
        return std::string("asyncio::keyboard_interrupt") + (*e.what() ? ": " : "") + e.what();
    } catch (...) {
        const std::type_info* type = current_type();
        return type ? readable_name(type->name()) : "unknown exception";
    }
}

#endif

std::string group_text(const std::string& message, std::size_t count) {
    return message + " (" + std::to_string(count) +
           (count == 1 ? " sub-exception)" : " sub-exceptions)");
}

#if !defined(ASYNCIO_BACKEND_NONE)
void throw_system_error(int code, const char* call) {
    throw_error(std::system_error(code_of(code), call));
}
#endif
#if defined(ASYNCIO_NO_EXCEPTIONS)
void throw_runtime_error(const char* message) { fatal(message); }
void throw_invalid_argument(const char* message) { fatal(message); }
void throw_invalid_state(const char* message) { fatal(message); }
#else
void throw_runtime_error(const char* message) { throw std::runtime_error(message); }
void throw_invalid_argument(const char* message) { throw std::invalid_argument(message); }
void throw_invalid_state(const char* message) { throw invalid_state_error(message); }
#endif

exception_ptr make_group(std::string message, std::vector<exception_ptr> errors) {
    const bool ordinary = std::all_of(errors.begin(), errors.end(), [](const auto& error) {
        return kind_of(error) == error_kind::ordinary;
    });
    if (ordinary)
        return make_error(exception_group(std::move(message), std::move(errors)));
    return make_error(base_exception_group(std::move(message), std::move(errors)));
}

#if !defined(ASYNCIO_BACKEND_NONE)
static void print_tree(std::ostream& out, const base_exception_group& group,
                       const std::string& indent) {
    out << group.what() << '\n';
    const std::vector<exception_ptr>& members = group.exceptions();
    for (std::size_t i = 0; i < members.size(); ++i) {
        const bool last = i + 1 == members.size();
        out << indent << (last ? "`-- " : "|-- ");
        if (const auto* inner = exception_cast<base_exception_group>(members[i]))
            print_tree(out, *inner, indent + (last ? "    " : "|   "));
        else
            out << describe(members[i]) << '\n';
    }
}
#endif

ASYNCIO_THREAD_LOCAL constinit frame_cache this_thread_frames{};

namespace {

// Null when there is no memory.
void* raw_alloc(std::size_t size) {
#if defined(ASYNCIO_ALLOC)
    return ASYNCIO_ALLOC(size);
#else
    return ::operator new(size, std::nothrow);
#endif
}

void raw_free(void* memory, std::size_t size) noexcept {
#if defined(ASYNCIO_ALLOC)
    ASYNCIO_FREE(memory, size);
#else
    ::operator delete(memory, size);
#endif
}

// A block's size: what the caller asked for, rounded up to its class.
std::size_t block_size(std::size_t size) noexcept {
    if (size > frame_cache::most) return size;
    return (size + frame_cache::granularity - 1) / frame_cache::granularity *
           frame_cache::granularity;
}

// What this thread keeps.
void give_back_frames() noexcept {
    frame_cache& cache = this_thread_frames;
    for (std::size_t i = 0; i < frame_cache::classes; ++i)
        while (frame_cache::block* block = cache.free[i]) {
            cache.free[i] = block->next;
            ++cache.room[i];
            raw_free(block, (i + 1) * frame_cache::granularity);
        }
}

// Gives the kept blocks back when the thread ends.
struct frame_cache_keeper {
    frame_cache_keeper() noexcept {
        constexpr std::size_t bytes_per_class = std::size_t(1) << 20;
        for (std::size_t i = 0; i < frame_cache::classes; ++i)
            this_thread_frames.room[i] = static_cast<std::uint32_t>(
                bytes_per_class / ((i + 1) * frame_cache::granularity));
    }
    ~frame_cache_keeper() {
        ended = true;
        give_back_frames();
        for (std::uint32_t& room : this_thread_frames.room) room = 0;
    }
    static ASYNCIO_THREAD_LOCAL constinit bool ended;
    static ASYNCIO_THREAD_LOCAL constinit bool begun;
};
ASYNCIO_THREAD_LOCAL constinit bool frame_cache_keeper::ended = false;
ASYNCIO_THREAD_LOCAL constinit bool frame_cache_keeper::begun = false;

} // namespace

void* frame_alloc_slow(std::size_t size) {
    const std::size_t whole = block_size(size);
    void* memory = raw_alloc(whole);
    if (!memory) [[unlikely]] {
        // What is kept for other sizes may make room for this one.
        give_back_frames();
        memory = raw_alloc(whole);
    }
    if (!memory) throw_error(std::bad_alloc());
    return memory;
}

void frame_free_slow(void* memory, std::size_t size) noexcept {
    if (!ASYNCIO_SANITIZED && !frame_cache_keeper::ended && !frame_cache_keeper::begun &&
        size <= frame_cache::most && may_keep_for_thread()) {
        // The first block that this thread frees.
        frame_cache_keeper::begun = true;
        static ASYNCIO_THREAD_LOCAL frame_cache_keeper keeper;
        static_cast<void>(keeper);
        frame_free(memory, size);
        return;
    }
    raw_free(memory, block_size(size));
}

void visit_leaves(const base_exception_group& group, bool with_groups,
                  bool (*visit)(const exception_ptr&, void*), void* context) {
    for (const exception_ptr& error : group.exceptions()) {
        const auto* inner = exception_cast<base_exception_group>(error);
        if ((with_groups || !inner) && visit(error, context)) continue;
        if (inner) visit_leaves(*inner, with_groups, visit, context);
    }
}

void split_group(const base_exception_group& group, bool with_groups,
                 bool (*matches)(const exception_ptr&),
                 std::vector<exception_ptr> (&parts)[2]) {
    for (const exception_ptr& error : group.exceptions()) {
        const auto* inner = exception_cast<base_exception_group>(error);
        if ((with_groups || !inner) && matches(error)) {
            parts[0].push_back(error);
        } else if (inner) {
            std::vector<exception_ptr> inner_parts[2];
            split_group(*inner, with_groups, matches, inner_parts);
            for (int i = 0; i < 2; ++i)
                if (!inner_parts[i].empty())
                    parts[i].push_back(make_group(inner->message(), std::move(inner_parts[i])));
        } else {
            parts[1].push_back(error);
        }
    }
}

} // namespace detail

fixed_arena::fixed_arena(std::span<std::byte> buffer) noexcept {
    void* begin = buffer.data();
    std::size_t size = buffer.size();
    if (!std::align(cell, 2 * cell, begin, size)) return;
    const std::size_t words = (size / cell + bits - 1) / bits;
    const std::size_t books = cells_of(words * sizeof(std::size_t)) * cell;
    if (size < books + cell) return;
    map_ = static_cast<std::size_t*>(begin);
    std::uninitialized_fill_n(map_, words, std::size_t(0));
    memory_ = static_cast<std::byte*>(begin) + books;
    cells_ = (size - books) / cell;
}

// The first gap that is wide enough.
void* fixed_arena::allocate(std::size_t size) noexcept {
    const std::size_t wanted = cells_of(size);
    std::size_t begin = first_free_;
    for (std::size_t i = begin; i < cells_;) {
        if (map_[i / bits] == SIZE_MAX) { // a word of taken ones
            begin = i = (i / bits + 1) * bits;
            continue;
        }
        if (taken(i++)) {
            begin = i;
            continue;
        }
        if (i - begin < wanted) continue;
        for (std::size_t c = begin; c < i; ++c) map_[c / bits] |= std::size_t(1) << (c % bits);
        if (begin == first_free_) first_free_ = i;
        used_ += wanted;
        peak_ = std::max(peak_, used_);
        return memory_ + begin * cell;
    }
    return nullptr;
}

void fixed_arena::deallocate(void* memory, std::size_t size) noexcept {
    if (!memory) return;
    const std::ptrdiff_t offset = static_cast<std::byte*>(memory) - memory_;
    const std::size_t begin = static_cast<std::size_t>(offset) / cell;
    const std::size_t end = begin + cells_of(size);
    for (std::size_t c = begin; c < end; ++c) map_[c / bits] &= ~(std::size_t(1) << (c % bits));
    first_free_ = std::min(first_free_, begin);
    used_ -= end - begin;
}

incomplete_read_error::incomplete_read_error(std::string partial,
                                             std::optional<std::size_t> expected)
    : std::runtime_error("asyncio::stream_reader: the stream ended after " +
                         std::to_string(partial.size()) + " bytes, expected " +
                         (expected ? std::to_string(*expected) : "a separator")),
      partial_(std::move(partial)), expected_(expected) {}

base_exception_group::base_exception_group(std::string message,
                                           std::vector<exception_ptr> errors)
    : message_(std::move(message)), errors_(std::move(errors)) {
    if (errors_.empty())
        detail::throw_invalid_argument(
            "asyncio::exception_group: no errors given; a group holds at least one");
    for (const exception_ptr& error : errors_)
        if (!error)
            detail::throw_invalid_argument("asyncio::exception_group: a null exception_ptr");
    what_ = detail::group_text(message_, errors_.size());
}
base_exception_group::base_exception_group(const base_exception_group&) = default;
base_exception_group& base_exception_group::operator=(const base_exception_group&) = default;
base_exception_group::~base_exception_group() = default;

exception_group::exception_group(std::string message, std::vector<exception_ptr> errors)
    : base_exception_group(std::move(message), std::move(errors)) {
    for (const exception_ptr& error : exceptions())
        if (detail::kind_of(error) != detail::error_kind::ordinary)
            detail::throw_invalid_argument(
                "asyncio::exception_group: a cancellation or an interrupt is no ordinary "
                "error; use base_exception_group");
}

#if !defined(ASYNCIO_BACKEND_NONE)
std::ostream& operator<<(std::ostream& out, const base_exception_group& group) {
    detail::print_tree(out, group, "");
    return out;
}
#endif

} // namespace asyncio::inline ASYNCIO_ABI

// =============================================================================
// [SECTION] implementation: events
// uses: os, backend, events, futures, tasks, executors
// =============================================================================

namespace asyncio::inline ASYNCIO_ABI {

namespace detail {

ASYNCIO_THREAD_LOCAL constinit loop_core* this_thread_core = nullptr;
// The loop whose wake handler this thread is in.
static ASYNCIO_THREAD_LOCAL constinit const loop_core* telling_host = nullptr;
ASYNCIO_THREAD_LOCAL constinit context_slot* this_thread_context = nullptr;

context_slot& thread_context() noexcept {
    return of_this_thread<context_slot>();
}

struct context_cell::entries {
    struct entry {
        std::uint64_t variable;
        std::shared_ptr<const void> value;
    };
    std::vector<entry> all;
};

const void* context_cell::find(std::uint64_t variable) const noexcept {
    if (values)
        for (const entries::entry& e : values->all)
            if (e.variable == variable) return e.value.get();
    return nullptr;
}

// Gives the value before; nothing, when there was none.
std::shared_ptr<const void> context_cell::put(std::uint64_t variable,
                                              std::shared_ptr<const void> value) {
    auto changed = values ? std::make_shared<entries>(*values) : std::make_shared<entries>();
    const auto found = std::find_if(changed->all.begin(), changed->all.end(), [&](const auto& e) {
        return e.variable == variable;
    });
    std::shared_ptr<const void> before;
    if (found != changed->all.end()) {
        before = std::move(found->value);
        if (value) found->value = std::move(value);
        else changed->all.erase(found);
    } else if (value) {
        changed->all.push_back({variable, std::move(value)});
    }
    values = std::move(changed);
    return before;
}

loop_core& require_running(const char* who) {
    if (loop_core* core = this_thread_core) return *core;
    throw_error(std::runtime_error(std::string("asyncio::") + who +
                             ": no running event loop; call it inside run(), or after "
                             "event_loop::enter()"));
}

// -- timers ----------------------------------------------------------------------

void timer_heap::insert(timer_node& timer, std::int64_t when) {
    timer.when = when;
    timer.order = next_order_++;
    if (size_ == room_) {
        const std::size_t more = std::max<std::size_t>(16, room_ * 2);
        auto* const larger = static_cast<entry*>(frame_alloc(more * sizeof(entry)));
        std::uninitialized_copy_n(entries_, size_, larger);
        if (entries_) frame_free(entries_, room_ * sizeof(entry));
        entries_ = larger;
        room_ = more;
    }
    sift_up(size_++, {when, &timer});
}

void timer_heap::remove(timer_node& timer) noexcept {
    const std::size_t place = timer.place;
    const entry last = entries_[--size_];
    timer.place = timer_node::unset;
    if (place == size_) return;
    if (place > 0 && before(last, entries_[(place - 1) / 4])) sift_up(place, last);
    else sift_down(place, last);
}

void timer_heap::sift_up(std::size_t place, entry e) noexcept {
    while (place > 0) {
        const std::size_t parent = (place - 1) / 4;
        if (!before(e, entries_[parent])) break;
        put(place, entries_[parent]);
        place = parent;
    }
    put(place, e);
}

void timer_heap::sift_down(std::size_t place, entry e) noexcept {
    for (;;) {
        const std::size_t first = place * 4 + 1;
        if (first >= size_) break;
        const std::size_t end = std::min(first + 4, size_);
        std::size_t least = first;
        for (std::size_t child = first + 1; child < end; ++child)
            if (before(entries_[child], entries_[least])) least = child;
        if (!before(entries_[least], e)) break;
        put(place, entries_[least]);
        place = least;
    }
    put(place, e);
}

// -- callbacks -------------------------------------------------------------------

callback_base::callback_base() noexcept {
    run = [](ready_node* node) {
        auto* self = static_cast<callback_base*>(node);
        // Released also when the callable throws an interrupt out of the loop.
        const auto own = ref_ptr<callback_base>::adopt(self);
        loop_core* owner = self->shared ? self->posted_to : self->core.get();
        if (owner->dropping) {
            self->drop();
            return;
        }
        state expected = state::pending;
        if (!self->progress.compare_exchange_strong(expected, state::running)) return;
        struct ending {
            callback_base* self;
            ~ending() {
                self->drop();
                self->progress.store(state::done);
                if (self->shared) self->progress.notify_all();
            }
        } end{self};
        ASYNCIO_TRY {
            const context_scope scope(self->variables);
            self->call();
        } ASYNCIO_CATCH(const keyboard_interrupt&) {
            rethrow_current();
        } ASYNCIO_CATCH_ALL {
            if (owner->loop)
                owner->loop->call_exception_handler(
                    {"exception in a callback", current_error()});
        }
    };
    fire = [](timer_node* node) {
        auto* self = static_cast<callback_base*>(node);
        self->core->schedule(self);
    };
}

void callback_base::cancel() noexcept {
    state expected = state::pending;
    if (progress.compare_exchange_strong(expected, state::cancelled)) {
        // Who posts from another thread may not touch the loop: the callable goes
        // when the loop comes across it.
        if (shared) return;
        drop();
        if (is_set()) {
            core->remove_timer(*this);
            release();
        }
        return;
    }
    if (shared && expected == state::running && this_thread_core != posted_to)
        progress.wait(state::running);
}

// -- what other threads may do -----------------------------------------------------

// Stands at the inbox's end once the loop is closed.
static ready_node closed_inbox;

bool loop_core::post(ready_node* node) noexcept {
    // close() waits until nobody is inside, before it destroys the backend.
    posting.fetch_add(1);
    ready_node* head = inbox.load(std::memory_order_relaxed);
    bool accepted = false;
    while (head != &closed_inbox && !accepted) {
        node->next = head;
        accepted = inbox.compare_exchange_weak(head, node); // in one order with `telling`
    }
    if (accepted && !head) loop->backend().wake();
    if (accepted) tell_host();
    posting.fetch_sub(1);
    return accepted;
}

void loop_core::schedule_apart(ready_node* node) noexcept {
    if (closed) return;
    ready.push(node);
    tell_host();
}

void loop_core::wake() noexcept {
    posting.fetch_add(1);
    if (inbox.load() != &closed_inbox) loop->backend().wake();
    posting.fetch_sub(1);
}

// -- the clock -----------------------------------------------------------------------

static std::int64_t system_now_ns() noexcept {
#if defined(ASYNCIO_BACKEND_NONE)
    static constinit std::int64_t last = INT64_MIN;
    const std::int64_t now = asyncio_port_now_ns();
    if (now < last)
        fatal("asyncio: asyncio_port_now_ns() went backwards; let it count up, across the "
              "overflows of its timer, too");
    return last = now;
#else
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
#endif
}

std::int64_t loop_core::now_ns() const noexcept {
    if (clock != clock_kind::real || time_fixed || paused) return stands_at;
    const std::int64_t now = system_now_ns();
    return scaled ? scaled->loop_time(*this, now) : now;
}

static constexpr clock_scale changed_scale{
    [](const loop_core& core, std::int64_t system_time) noexcept {
        const auto passed = static_cast<double>(system_time - core.scale_start);
        return core.scale_origin + static_cast<std::int64_t>(passed * core.scale);
    },
    [](const loop_core& core, std::int64_t loop_span) noexcept {
        if (core.scale == 1.0) return loop_span;
        return static_cast<std::int64_t>(static_cast<double>(loop_span) / core.scale) + 1;
    }};

// -- clocks of one's own ---------------------------------------------------------------

// A time_stream's. Its timers have a heap of their own, for which there is one timer in
// the loop's: to pause costs the same however many sleep. What others call is virtual, so
// that a small program without a time_stream has nothing of it.
struct stream_state : timer_node {
    explicit stream_state(loop_core& loop) noexcept
        : core(&loop), origin(loop.now_ns()), start(origin), following(loop.streams) {
        fire = [](timer_node* node) { static_cast<stream_state*>(node)->fire_due(); };
        if (following) following->previous = this;
        loop.streams = this;
    }
    stream_state(const stream_state&) = delete;
    virtual ~stream_state() {
        core->remove_timer(*this);
        (previous ? previous->following : core->streams) = following;
        if (following) following->previous = previous;
    }
    void add_ref() noexcept { ++refs; }
    void release() noexcept {
        if (--refs == 0) delete this;
    }

    // What it shows at a moment of the loop's clock since the last change.
    virtual std::int64_t at(std::int64_t loop_time) const noexcept {
        if (paused || loop_time <= start) return origin;
        const std::int64_t passed = loop_time - start;
        return after(origin, scale == 1.0 ? passed : whole(static_cast<double>(passed) * scale));
    }
    std::int64_t now() const noexcept { return at(core->now_ns()); }

    // When the loop's clock will be there, if nothing changes.
    std::int64_t loop_time_of(std::int64_t moment) const noexcept {
        if (moment <= origin) return start;
        const std::int64_t left = moment - origin;
        if (scale == 1.0) return after(start, left);
        const double exact = static_cast<double>(left) / scale;
        const std::int64_t span = whole(exact);
        return after(start, static_cast<double>(span) < exact ? span + 1 : span);
    }
    static std::int64_t whole(double span) noexcept {
        return span < 9e18 ? static_cast<std::int64_t>(span) : INT64_MAX / 2;
    }
    static std::int64_t after(std::int64_t moment, std::int64_t span) noexcept {
        return deadline_after(moment, std::chrono::nanoseconds(span));
    }

    void change(double new_scale, bool pause) noexcept {
        const std::int64_t loop_time = core->now_ns();
        origin = at(loop_time);
        start = loop_time;
        scale = new_scale;
        paused = pause;
        set_timer();
    }
    virtual void add(timer_node& timer, std::int64_t moment) {
        timers.insert(timer, moment);
        if (timer.place == 0) set_timer();
    }
    virtual void remove(timer_node& timer) noexcept {
        if (!timer.is_set()) return;
        const bool first = timer.place == 0;
        timers.remove(timer);
        if (first) set_timer();
    }
    void set_timer() noexcept {
        core->remove_timer(*this);
        if (timers.empty() || paused || scale == 0) return;
        const std::int64_t moment = timers.first_when();
        std::int64_t loop_time = loop_time_of(moment);
        // Rounding never makes it fire in vain for ever.
        if (moment > now()) loop_time = std::max(loop_time, core->now_ns() + 1);
        core->add_timer(*this, loop_time);
    }
    virtual void fire_due() noexcept {
        const std::int64_t time = core->dropping ? INT64_MAX : now();
        while (!timers.empty() && timers.first_when() <= time) {
            timer_node& timer = timers.take_first();
            timer.fire(&timer);
        }
        set_timer();
    }

    std::uint32_t refs = 1;
    bool paused = false;
    double scale = 1.0;
    ref_ptr<loop_core> core;
    std::int64_t origin; // its time and the loop's when it was changed last
    std::int64_t start;
    timer_heap timers;
    stream_state* previous = nullptr;
    stream_state* following;
};

// A callback that a stream's clock calls.
struct stream_callback final : callback_base {
    stream_callback(stream_state& stream, function<void()> callable)
        : clock(&stream), fn(std::move(callable)) {
        core = stream.core;
    }
    void call() override { fn(); }
    void drop() noexcept override {
        fn = {};
        if (!is_set()) return;
        clock->remove(*this);
        release();
    }

    ref_ptr<stream_state> clock;
    function<void()> fn;
};

static handle call_at(stream_state& stream, std::int64_t when, function<void()> fn) {
    box<stream_callback> node(new stream_callback(stream, std::move(fn)));
    stream.add(*node, when);
    return handle(ref_ptr<callback_base>(node.release()));
}

#if !defined(ASYNCIO_BACKEND_NONE)

// -- signals -------------------------------------------------------------------------
//
// The process has one disposition per signal, but any number of loops may want to
// know. The handler itself only marks the signal in each loop's core and wakes it.

namespace {

constexpr int most_signals = 64;

struct signal_table {
    static constexpr std::size_t most_loops = 64;

    std::mutex mutex;
    atomic<loop_core*> loops[most_loops] = {};
    atomic<int> handling{0};
    std::uint64_t wanted[most_loops] = {};
    signal_action before[most_signals + 1] = {};
    int users[most_signals + 1] = {};
};
signal_table signal_users;

void on_signal(int number) noexcept {
    const int saved = errno;
    signal_users.handling.fetch_add(1);
    for (atomic<loop_core*>& slot : signal_users.loops)
        if (loop_core* core = slot.load()) {
            core->pending_signals.fetch_or(std::uint64_t(1) << (number - 1));
            core->wake();
        }
    signal_users.handling.fetch_sub(1);
    errno = saved;
}

void want_signal(loop_core& core, int number) {
    const std::lock_guard lock(signal_users.mutex);
    std::size_t place = signal_table::most_loops;
    for (std::size_t i = 0; i < signal_table::most_loops; ++i) {
        if (signal_users.loops[i] == &core) {
            place = i;
            break;
        }
        if (!signal_users.loops[i].load() && place == signal_table::most_loops) place = i;
    }
    if (place == signal_table::most_loops)
        throw_error(std::runtime_error(
            "asyncio::event_loop::add_signal_handler: over 64 loops handle signals"));
    if (signal_users.users[number] == 0 &&
        catch_signal(number, on_signal, signal_users.before[number]) != 0)
        throw_last_error("sigaction");
    ++signal_users.users[number];
    signal_users.loops[place] = &core;
    signal_users.wanted[place] |= std::uint64_t(1) << (number - 1);
}

void unwant_signal(loop_core& core, int number) noexcept {
    const std::lock_guard lock(signal_users.mutex);
    for (std::size_t i = 0; i < signal_table::most_loops; ++i) {
        if (signal_users.loops[i] != &core) continue;
        signal_users.wanted[i] &= ~(std::uint64_t(1) << (number - 1));
        if (signal_users.wanted[i] == 0) {
            signal_users.loops[i] = nullptr;
            // A handler on another thread may still hold the pointer.
            while (signal_users.handling.load() != 0) std::this_thread::yield();
        }
        break;
    }
    if (--signal_users.users[number] == 0) restore_signal(number, signal_users.before[number]);
}

} // namespace

#endif

} // namespace detail

struct event_loop::rest {
#if !defined(ASYNCIO_BACKEND_NONE)
    struct signal {
        int number;
        signal_layer layer;
        const void* owner;
        detail::function<void()> fn;
        bool removed = false;
        detail::context_slot variables = detail::copy_context();
    };
    std::vector<std::shared_ptr<signal>> signals;
    std::vector<std::shared_ptr<watch_entry>> watches;
#endif
    detail::function<void(event_loop&, const exception_context&)> exception_handler;
    std::vector<detail::ready_node*> shuffled;
#if !defined(ASYNCIO_NO_THREADS)
    // Held while the handler runs, which may replace itself.
    std::recursive_mutex waking;
#endif
    std::shared_ptr<detail::function<void()>> wake_handler;
};

#if !defined(ASYNCIO_BACKEND_NONE)

void event_loop::add_signal_handler(int number, detail::function<void()> fn) {
    // The new one first, so that the signal does not get its default effect in between.
    const auto before = rest_->signals;
    listen(number, signal_layer::user, this, std::move(fn));
    for (const auto& handler : before)
        if (handler->number == number && handler->layer == signal_layer::user)
            forget_signal(handler.get());
}

bool event_loop::remove_signal_handler(int number) {
    for (const auto& handler : rest_->signals)
        if (handler->number == number && handler->layer == signal_layer::user) {
            forget_signal(handler.get());
            return true;
        }
    return false;
}

void event_loop::listen(int number, signal_layer layer, const void* owner,
                        detail::function<void()> fn) {
    if (number < 1 || number > detail::most_signals)
        detail::throw_error(
            std::invalid_argument("asyncio::event_loop::add_signal_handler: no signal has the "
                                  "number " +
                                  std::to_string(number)));
#if defined(_WIN32)
    if (!detail::can_catch(number))
        detail::throw_not_on_windows("asyncio::event_loop::add_signal_handler: signal " +
                                     std::to_string(number));
#else
    if (!detail::can_catch(number))
        detail::throw_runtime_error(
            "asyncio::event_loop::add_signal_handler: SIGKILL and SIGSTOP cannot be caught");
#endif
    core_->require_open("asyncio::event_loop::add_signal_handler: the loop is closed");
    auto handler = std::make_shared<rest::signal>(
        rest::signal{number, layer, owner, std::move(fn)});
    rest_->signals.reserve(rest_->signals.size() + 1);
    if (!listens_to(number)) detail::want_signal(*core_, number);
    rest_->signals.push_back(std::move(handler));
}

void event_loop::stop_listening(const void* owner) noexcept {
    for (std::size_t i = rest_->signals.size(); i-- > 0;)
        if (rest_->signals[i]->owner == owner) forget_signal(rest_->signals[i].get());
}

void event_loop::forget_signal(const void* which) noexcept {
    auto& handlers = rest_->signals;
    const auto found = std::find_if(handlers.begin(), handlers.end(),
                                    [&](const auto& h) { return h.get() == which; });
    (*found)->removed = true;
    const int number = (*found)->number;
    handlers.erase(found);
    if (!listens_to(number)) detail::unwant_signal(*core_, number);
}

bool event_loop::listens_to(int number) const noexcept {
    return std::any_of(rest_->signals.begin(), rest_->signals.end(),
                       [&](const auto& h) { return h->number == number; });
}

// Handlers come before what is ready, so that Ctrl-C reaches a task before its next step.
void event_loop::take_signals() {
    const std::uint64_t pending = core_->pending_signals.exchange(0);
    if (!pending) return;
    detail::ready_queue later;
    later.append(core_->ready);
    for (const auto& handler : rest_->signals) {
        if (!(pending & (std::uint64_t(1) << (handler->number - 1)))) continue;
        const bool covered = std::any_of(
            rest_->signals.begin(), rest_->signals.end(), [&](const auto& other) {
                return other->number == handler->number && other->layer > handler->layer;
            });
        if (covered) continue;
        call_soon([handler] {
            if (handler->removed) return;
            const detail::context_scope scope(handler->variables);
            handler->fn();
        });
    }
    core_->ready.append(later);
}

#else

void event_loop::take_isr_events() noexcept {
    isr_event::take_all();
}

#endif

// -- the loop ------------------------------------------------------------------------

bool detail::debug_by_default() noexcept {
#if defined(ASYNCIO_BACKEND_NONE)
    return ASYNCIO_DEBUG != 0;
#else
    const char* const text = std::getenv("ASYNCIO_DEBUG");
    return ASYNCIO_DEBUG != 0 || (text && *text && std::strcmp(text, "0") != 0);
#endif
}

event_loop::event_loop(detail::implementation_present, const run_options& options)
    : core_(new detail::loop_core), rest_(new rest) {
    detail::refuse_in_worker();
    core_->loop = this;
    core_->clock = options.clock;
    core_->debug = options.debug.value_or(detail::debug_by_default());
    shuffle_state_ = options.shuffle_seed;
    attentive_ = core_->debug || shuffle_state_;
    backend_ = new detail::backend_state(*core_);
}

event_loop::~event_loop() {
    running_ = false;
    close();
    core_->loop = nullptr;
}

void event_loop::close() {
    if (running_)
        detail::throw_runtime_error("asyncio::event_loop::close: the loop is running; stop() it "
                                    "and close it after run_forever() has returned");
    if (core_->closed) return;
    set_wake_handler({});
    destroy_pending();
    while (core_->first_generator) core_->first_generator->leave();
#if !defined(ASYNCIO_BACKEND_NONE)
    while (!rest_->signals.empty()) forget_signal(rest_->signals.back().get());
    unwatch_all();
#endif
    // From here on nobody can post; wait for those who are about to have done so.
    detail::ready_node* late = core_->inbox.exchange(&detail::closed_inbox);
#if !defined(ASYNCIO_NO_THREADS)
    while (core_->posting.load() != 0) std::this_thread::yield();
#endif
    while (late) {
        detail::ready_node* node = std::exchange(late, late->next);
        core_->ready.push(node);
    }
    drop_queues();
    core_->closed = core_->apart = true;
#if !defined(ASYNCIO_NO_THREADS)
    // Waits for its jobs. One that waits for the loop has been told by now.
    default_executor.reset();
#endif
    delete std::exchange(backend_, nullptr);
}

// Tasks that never ended, and callbacks that never ran. Destructors in the frames
// may still cancel, wake and schedule: it all lands in queues that are dropped.
void event_loop::destroy_pending() noexcept {
    detail::loop_core* const before = std::exchange(detail::this_thread_core, core_.get());
    core_->closing = true;
    // Some of them stand in the ready queue: they go after that was emptied.
    std::vector<detail::ref_ptr<detail::state_base>> ended;
    while (detail::task_base* task = core_->tasks) {
        ended.emplace_back(task);
        if (detail::can_debug && core_->debug)
            call_exception_handler({"task was destroyed while it was pending", {}, task->name()});
        task->destroy_frames();
        task->reported = true;
        task->complete_cancelled({});
        task->leave_loop();
    }
    drop_queues();
    ended.clear();
    detail::this_thread_core = before;
}

void event_loop::drop_queues() noexcept {
    core_->dropping = true;
    take_inbox();
    core_->ready.append(core_->yielded);
    do {
        while (!core_->ready.empty()) {
            detail::ready_node* node = core_->ready.pop();
            node->run(node);
        }
        while (!core_->timers.empty()) {
            detail::timer_node& timer = core_->timers.take_first();
            timer.fire(&timer);
        }
        for (detail::stream_state* s = core_->streams; s; s = s->following) s->fire_due();
    } while (!core_->ready.empty());
    core_->dropping = false;
}

void event_loop::set_exception_handler(
    detail::function<void(event_loop&, const exception_context&)> fn) {
    rest_->exception_handler = std::move(fn);
}

void event_loop::call_exception_handler(const exception_context& context) {
    [[maybe_unused]] std::string also;
    if (rest_->exception_handler) {
        ASYNCIO_TRY {
            rest_->exception_handler(*this, context);
            return;
        } ASYNCIO_CATCH(const keyboard_interrupt&) {
            detail::rethrow_current();
        } ASYNCIO_CATCH_ALL {
            also = "\n  the exception handler itself failed with " +
                   detail::describe(detail::current_error());
        }
    }
#if defined(ASYNCIO_BACKEND_NONE)
    detail::fatal(context.message.c_str()); // nowhere to print it, and it must not be lost
#else
    std::string text = "asyncio: " + context.message;
    if (!context.task.empty()) text += " (task '" + context.task + "')";
    if (context.exception) text += ": " + detail::describe(context.exception);
    text += also + '\n';
    std::fputs(text.c_str(), stderr);
#endif
}

void event_loop::check_call(const char* who) const {
    if (core_->closed)
        detail::throw_error(std::runtime_error(std::string(who) + ": the loop is closed"));
    if (detail::can_debug && core_->debug && running_ &&
        detail::this_thread_core != core_.get())
        detail::throw_error(std::runtime_error(std::string(who) +
                                               ": called from another thread; use "
                                               "call_soon_threadsafe()"));
}

std::int64_t event_loop::after_ns(duration delay) const noexcept {
    // Negative delays keep their order among each other.
    const std::int64_t now = core_->now_ns();
    return delay.count() < 0 ? now + delay.count() : detail::deadline_after(now, delay);
}

#if !defined(ASYNCIO_BACKEND_NONE)

// -- descriptors of the user ---------------------------------------------------------

struct event_loop::watch_entry final : detail::io_watch, detail::ready_node {
    watch_entry(event_loop& owner, int descriptor, bool writing,
            detail::box<detail::callback_base> callback)
        : loop(owner), fd(descriptor), write(writing), fn(std::move(callback)) {
        ready = [](detail::io_watch& self) noexcept {
            auto& w = static_cast<watch_entry&>(self);
            if (w.queued) return;
            w.queued = true;
            w.kept = w.shared;
            w.loop.core().schedule(&w);
        };
        run = [](detail::ready_node* node) {
            auto& w = *static_cast<watch_entry*>(node);
            w.queued = false;
            const std::shared_ptr<watch_entry> alive = std::move(w.kept);
            if (w.removed || w.loop.core().dropping) return;
            ASYNCIO_TRY {
                const detail::context_scope scope(w.fn->variables);
                w.fn->call();
            } ASYNCIO_CATCH(const keyboard_interrupt&) {
                detail::rethrow_current();
            } ASYNCIO_CATCH_ALL {
                w.loop.call_exception_handler({"exception in a reader's or writer's callback",
                                               detail::current_error()});
            }
        };
    }

    event_loop& loop;
    int fd;
    bool write;
    bool queued = false;
    bool removed = false;
    detail::box<detail::callback_base> fn;
    std::shared_ptr<watch_entry> shared; // itself, while it is registered
    std::shared_ptr<watch_entry> kept;   // itself, while it is in the ready queue
};

void event_loop::watch(int fd, bool write, detail::box<detail::callback_base> fn) {
    const char* const who =
        write ? "asyncio::event_loop::add_writer" : "asyncio::event_loop::add_reader";
    check_call(who);
    auto entry = std::make_shared<watch_entry>(*this, fd, write, std::move(fn));
    unwatch(fd, write);
    backend_->watch(fd, write, *entry, who);
    entry->shared = entry;
    rest_->watches.push_back(std::move(entry));
}

bool event_loop::unwatch(int fd, bool write) {
    auto& watches = rest_->watches;
    const auto found = std::find_if(watches.begin(), watches.end(), [&](const auto& w) {
        return w->fd == fd && w->write == write;
    });
    if (found == watches.end()) return false;
    backend_->unwatch(fd, write);
    const std::shared_ptr<watch_entry> entry = std::move(*found);
    entry->removed = true;
    entry->shared.reset();
    watches.erase(found);
    return true;
}

void event_loop::unwatch_all() noexcept {
    while (!rest_->watches.empty()) {
        const watch_entry& last = *rest_->watches.back();
        unwatch(last.fd, last.write);
    }
}

#endif

// -- turns -----------------------------------------------------------------------------

// Marks the loop as the one that runs on this thread.
struct event_loop::running_guard {
    running_guard(event_loop& l, const char* who, bool frame) : loop(l) {
        loop.core_->require_open("asyncio::event_loop: the loop is closed; make another one");
        if (loop.running_)
            detail::throw_error(std::runtime_error(std::string(who) +
                                                   ": the loop is running already; await "
                                                   "the work instead"));
        before = detail::this_thread_core;
        if (before && before != loop.core_.get() && before->loop && before->loop->running_)
            detail::throw_error(std::runtime_error(std::string(who) +
                                                   ": another loop is running on this "
                                                   "thread; await the work there"));
        if (detail::telling_host == loop.core_.get())
            detail::throw_error(std::runtime_error(std::string(who) +
                                                   ": called in the wake handler; let that "
                                                   "only tell the host to do it"));
        loop.end_watch();
        detail::this_thread_core = loop.core_.get();
        loop.running_ = true;
        if (frame) loop.core_->polling = true;
    }
    running_guard(const running_guard&) = delete;
    running_guard& operator=(const running_guard&) = delete;
    ~running_guard() {
        loop.running_ = false;
        loop.core_->current = nullptr;
        detail::this_thread_context = context_before;
        // Who waits on from this run measures from its end.
        if (loop.core_->running_on) loop.core_->frame_began = loop.core_->now_ns();
        loop.core_->running_on = false;
        loop.core_->polling = false;
        loop.core_->time_fixed = false;
        detail::this_thread_core = before;
        if (loop.rest_->wake_handler) loop.begin_watch();
    }
    event_loop& loop;
    detail::loop_core* before = nullptr;
    detail::context_slot* const context_before = detail::this_thread_context;
};

event_loop::entered::entered(event_loop& loop) : before_(detail::this_thread_core) {
    loop.core_->require_open("asyncio::event_loop::enter: the loop is closed");
    detail::this_thread_core = loop.core_.get();
}

void event_loop::run_forever() {
    const running_guard guard(*this, "asyncio::event_loop::run_forever", false);
    struct clear {
        bool& flag;
        ~clear() { flag = false; }
    } stopped{stopping_};
    core_->running_on = true;
    core_->ready.append(core_->yielded);
    do turn(!stopping_);
    while (!stopping_);
}

void event_loop::stop() noexcept { stopping_ = true; }

[[gnu::always_inline]] inline std::size_t event_loop::turn(bool may_sleep) {
    const detail::loop_core& core = *core_;
    if (turns_left_ > 0 && !core.ready.empty() && !core.ask_soon &&
        !core.inbox.load(std::memory_order_relaxed) &&
        !core.pending_signals.load(std::memory_order_relaxed))
        --turns_left_;
    else
        collect(may_sleep);
    ++metrics_.turns;
    return attentive_ ? run_ready_watched() : run_ready();
}

// Takes in what others posted, what the system finished, and due timers. Under
// load the system is asked only now and then: asking costs more than a step.
void event_loop::collect(bool may_sleep) {
    detail::loop_core& core = *core_;
    if (core.inbox.load(std::memory_order_relaxed)) {
        take_inbox();
        if (turns_left_ > 0 && !core.ask_soon &&
            !core.pending_signals.load(std::memory_order_relaxed)) {
            --turns_left_;
            return;
        }
    }
    core.ask_soon = false;
    std::int64_t timeout = 0;
    if (core.ready.empty() && may_sleep) {
        timeout = core.timers.empty() && core.clock == clock_kind::real
                      ? -1
                      : sleep_time(core.now_ns());
        turns_between_ = 1;
    }
    backend_->wait(timeout);
    take_inbox();
#if defined(ASYNCIO_BACKEND_NONE)
    take_isr_events();
#else
    if (core.pending_signals.load(std::memory_order_relaxed)) take_signals();
#endif
    if (core.clock != clock_kind::real && core.ready.empty() && timeout == 0 && may_sleep)
        move_clock();

    // Every clock but the real one wants each timer in its own turn.
    if (core.clock == clock_kind::real && !shuffle_state_) {
        const std::int64_t now = detail::system_now_ns();
        if (timeout == 0 && now - asked_at_ < 50'000)
            turns_between_ = std::min<std::uint32_t>(turns_between_ * 2, 64);
        else if (turns_between_ > 1)
            turns_between_ /= 2;
        asked_at_ = now;
        turns_left_ = turns_between_ - 1;
    }
    if (!core.timers.empty()) {
        const std::int64_t now = core.now_ns();
        core.last_now = now;
        take_due_timers(now);
    }
}

void event_loop::take_inbox() noexcept {
    detail::ready_node* node = core_->inbox.load(std::memory_order_relaxed);
    if (!node || node == &detail::closed_inbox) return;
    node = core_->inbox.exchange(nullptr, std::memory_order_acquire);
    detail::ready_node* in_order = nullptr;
    while (node) {
        detail::ready_node* next = node->next;
        node->next = in_order;
        in_order = node;
        node = next;
    }
    while (in_order) {
        node = in_order;
        in_order = node->next;
        core_->ready.push(node);
    }
}

void event_loop::take_due_timers(std::int64_t now) noexcept {
    detail::timer_heap& timers = core_->timers;
    while (!timers.empty() && timers.first_when() <= now) {
        detail::timer_node& timer = timers.take_first();
        timer.fire(&timer);
    }
}

// Nanoseconds that the system may sleep; negative: until something happens.
std::int64_t event_loop::sleep_time(std::int64_t now) const noexcept {
    const detail::loop_core& core = *core_;
    if (core.clock == clock_kind::virtual_time)
        return core.clock_holds > 0 || core.timers.empty() ? -1 : 0;
    if (core.clock == clock_kind::manual) return core.stands_at < manual_target_ ? 0 : -1;
    if (core.timers.empty() || core.paused) return -1;
    const std::int64_t left = core.timers.first_when() - now;
    if (left <= 0) return 0;
    return core.scaled ? core.scaled->real_span(core, left) : left;
}

// Nothing is ready, and nothing holds the clock: a virtual one jumps to the next
// timer, a manual one as far as it was told to.
void event_loop::move_clock() noexcept {
    detail::loop_core& core = *core_;
    const bool any = !core.timers.empty();
    if (core.clock == clock_kind::virtual_time) {
        if (any) core.stands_at = std::max(core.stands_at, core.timers.first_when());
    } else if (any && core.timers.first_when() <= manual_target_) {
        core.stands_at = std::max(core.stands_at, core.timers.first_when());
    } else {
        core.stands_at = std::max(core.stands_at, manual_target_);
    }
}

void event_loop::shuffle_ready() {
    rest_->shuffled.clear();
    while (!core_->ready.empty()) rest_->shuffled.push_back(core_->ready.pop());
    for (std::size_t i = rest_->shuffled.size(); i > 1; --i) {
        const std::uint64_t random = detail::splitmix64(*shuffle_state_);
        std::swap(rest_->shuffled[i - 1], rest_->shuffled[static_cast<std::size_t>(random % i)]);
    }
    for (detail::ready_node* node : rest_->shuffled) core_->ready.push(node);
}

// Runs what is ready now; what that adds stays for the next turn. An interrupt that
// is thrown out leaves the rest in the queue.
[[gnu::always_inline]] inline std::size_t event_loop::run_ready() {
    detail::ready_queue& ready = core_->ready;
    detail::ready_node* node = ready.first;
    if (!node) return 0;
    ready.first = nullptr;
    detail::ready_node** const end = std::exchange(ready.tail, &ready.first);
    detail::ready_node* next = nullptr;
    std::size_t ran = 0;
    ASYNCIO_TRY {
        do {
            next = node->next; // the node may be gone after it ran
            ++ran;
            node->run(node);
            node = next;
        } while (node);
    } ASYNCIO_CATCH_ALL { // an interrupt: the rest runs when the loop runs again
        if (next) ready.prepend(next, end);
        metrics_.callbacks += ran;
        detail::rethrow_current();
    }
    metrics_.callbacks += ran;
    return ran;
}

std::size_t event_loop::run_ready_watched() {
    if (shuffle_state_) shuffle_ready();
    detail::ready_queue& ready = core_->ready;
    if (ready.empty()) return 0;
    detail::ready_node** const end = ready.tail;
    std::size_t ran = 0;
    for (bool more = true; more;) {
        detail::ready_node* const node = ready.pop();
        more = &node->next != end; // before it runs: it may be gone afterwards
        ++ran;
        run_watched(node);
    }
    metrics_.callbacks += ran;
    return ran;
}

void event_loop::run_watched(detail::ready_node* node) {
    if (!detail::can_debug || !core_->debug) return node->run(node);
    std::string who = "a callback";
    if (node->run == &detail::task_base::step)
        who = "a step of task '" + static_cast<detail::task_base*>(node)->name() + "'";
    const std::int64_t begin = detail::system_now_ns();
    node->run(node);
    const duration took = std::chrono::nanoseconds(detail::system_now_ns() - begin);
    metrics_.longest_callback = std::max(metrics_.longest_callback, took);
    if (took >= slow_callback_duration)
        call_exception_handler({who + " took " + std::to_string(took.total_seconds()) +
                                " s and blocked the loop; give such work to to_thread() or "
                                "an executor"});
}

// -- embedding ---------------------------------------------------------------------------

std::size_t event_loop::poll() {
    const running_guard guard(*this, "asyncio::event_loop::poll", true);
    fix_time();
    begin_frame();
    std::size_t ran = 0;
    for (int i = 0; i < 1000; ++i) {
        core_->ask_soon = core_->ask_soon || i == 0;
        const std::size_t now = turn(false);
        ran += now;
        if (now == 0 && core_->ready.empty() && !clock_can_move()) break;
    }
    return ran;
}

std::size_t event_loop::run_once() {
    const running_guard guard(*this, "asyncio::event_loop::run_once", false);
    begin_frame();
    core_->ask_soon = true;
    return turn(false);
}

run_result event_loop::run_for(duration budget) {
    const running_guard guard(*this, "asyncio::event_loop::run_for", true);
    begin_frame();
    const std::int64_t end = detail::deadline_after(detail::system_now_ns(), budget);
    std::size_t ran = 0;
    do {
        core_->ask_soon = true;
        const std::size_t now = turn(false);
        ran += now;
        if (now == 0 && core_->ready.empty() && !clock_can_move()) break;
    } while (detail::system_now_ns() < end);
    return {ran, !core_->ready.empty()};
}

void event_loop::begin_frame() noexcept {
    core_->ready.append(core_->yielded);
    core_->frame_began = core_->now_ns();
}

// One time for a whole frame, so that everything in it agrees.
void event_loop::fix_time() noexcept {
    if (core_->clock != clock_kind::real || core_->paused) return;
    core_->stands_at = core_->now_ns();
    core_->time_fixed = true;
}

// Lets a manual or virtual clock go on when nothing is ready; false when it stays.
bool event_loop::clock_can_move() noexcept {
    detail::loop_core& core = *core_;
    if (core.clock == clock_kind::real) return false;
    if (core.clock == clock_kind::manual && core.stands_at >= manual_target_) return false;
    if (core.clock == clock_kind::virtual_time && (core.timers.empty() || core.clock_holds > 0))
        return false;
    move_clock();
    take_due_timers(core.stands_at);
    return !core.ready.empty();
}

std::optional<duration> event_loop::next_deadline() const noexcept {
    detail::loop_core& core = *core_;
    const bool told = core.apart && !core.telling.load();
    if (core.apart && !core.closed) core.watch_for_host();
    if (!core.ready.empty() || !core.yielded.empty() || core.inbox.load() ||
        core.pending_signals.load()) {
        if (told) core.telling.store(false); // it has not polled since
        return duration();
    }
    if (core.timers.empty() || core.paused) return std::nullopt;
    const std::int64_t left = core.timers.first_when() - core.now_ns();
    if (left <= 0) return duration();
    return duration(
        std::chrono::nanoseconds(core.scaled ? core.scaled->real_span(core, left) : left));
}

event_loop::native_handle_type event_loop::native_handle() const noexcept {
    return backend_ ? backend_->native_handle() : -1;
}

void detail::loop_core::tell_host() noexcept {
    if (!telling.load() || !telling.exchange(false)) return;
    const loop_core* const before = std::exchange(telling_host, this);
    loop->call_wake_handler();
    telling_host = before;
}

void detail::loop_core::watch_for_host() noexcept {
    last_now = timers.empty() ? INT64_MAX : timers.first_when() - 1;
    if (paused) last_now = INT64_MIN; // no timer comes before the clock goes on
    telling.store(true);
}

void event_loop::begin_watch() noexcept {
    core_->apart = true;
    core_->watch_for_host();
    // It came after the last look at what others post.
    if (core_->inbox.load()) core_->tell_host();
}

void event_loop::end_watch() noexcept {
    if (!core_->apart) return;
    core_->apart = false;
    core_->telling.store(false);
    core_->last_now = core_->now_ns();
}

void event_loop::set_wake_handler(detail::function<void()> fn) {
    core_->require_open("asyncio::event_loop::set_wake_handler: the loop is closed");
#if !defined(ASYNCIO_NO_THREADS)
    const std::lock_guard lock(rest_->waking);
#endif
    end_watch();
    rest_->wake_handler.reset();
    if (!fn) return;
    rest_->wake_handler = std::make_shared<detail::function<void()>>(std::move(fn));
    if (!running_) begin_watch();
}

void event_loop::call_wake_handler() noexcept {
#if !defined(ASYNCIO_NO_THREADS)
    const std::lock_guard lock(rest_->waking);
#endif
    if (const auto handler = rest_->wake_handler) (*handler)();
}

void event_loop::advance(duration by) {
    if (core_->clock != clock_kind::manual)
        detail::throw_runtime_error("asyncio::event_loop::advance: only a manual clock moves by "
                                    "hand; make the loop with clock_kind::manual");
    manual_target_ = detail::deadline_after(std::max(manual_target_, core_->stands_at), by);
    // Within a callback the running loop does the rest when nothing else is ready.
    if (running_) return;
    const running_guard guard(*this, "asyncio::event_loop::advance", false);
    // What yields for ever must not hold the clock for ever.
    constexpr int most_turns = 1000;
    for (int turns = 0;;) {
        core_->ask_soon = true;
        const bool idle = turn(false) == 0 && core_->ready.empty();
        if (!idle && ++turns < most_turns) continue;
        if (!clock_can_move()) break;
        turns = 0;
    }
}

void event_loop::begin_scaled(double scale) {
    if (!(scale > 0) || scale > std::numeric_limits<double>::max())
        detail::throw_invalid_argument(
            "asyncio::run_options: time_scale must be a positive number");
    if (core_->clock == clock_kind::real) rescale(scale, false);
}

void event_loop::set_time_scale(double scale) {
    if (!(scale >= 0) || scale > std::numeric_limits<double>::max())
        detail::throw_invalid_argument(
            "asyncio::event_loop::set_time_scale: the scale must be zero or positive");
    require_real_clock("asyncio::event_loop::set_time_scale");
    // A scale of 0 stops the clock until another scale is set; resume() does not.
    rescale(scale, scale == 0 || (core_->paused && core_->scale != 0));
}
void event_loop::pause() {
    require_real_clock("asyncio::event_loop::pause");
    rescale(core_->scale, true);
}
void event_loop::resume() {
    require_real_clock("asyncio::event_loop::resume");
    rescale(core_->scale, core_->scale == 0);
}
void event_loop::require_real_clock(const char* who) const {
    if (core_->clock != clock_kind::real)
        detail::throw_error(std::runtime_error(std::string(who) +
                                               ": only the real clock has a scale; move a "
                                               "manual one with advance()"));
}

void event_loop::rescale(double scale, bool paused) noexcept {
    detail::loop_core& core = *core_;
    const std::int64_t now = core.now_ns();
    const bool faster = !paused && (core.paused || scale > core.scale);
    core.scale_origin = now;
    core.scale_start = detail::system_now_ns();
    core.scale = scale;
    core.scaled = &detail::changed_scale;
    core.stands_at = now;
    core.paused = paused;
    core.ask_soon = true;
    if (core.apart && faster && !core.timers.empty()) core.tell_host();
}

time_stream::time_stream(event_loop& loop) {
    loop.core().require_open("asyncio::time_stream: the loop is closed; make another one");
    state_ = new detail::stream_state(loop.core());
}
time_stream::~time_stream() { state_->release(); }

void time_stream::set_scale(double scale) {
    if (!(scale >= 0) || scale > std::numeric_limits<double>::max())
        detail::throw_invalid_argument(
            "asyncio::time_stream::set_scale: the scale must be zero or positive");
    state_->change(scale, state_->paused);
}
void time_stream::pause() noexcept { state_->change(state_->scale, true); }
void time_stream::resume() noexcept { state_->change(state_->scale, false); }
time_point time_stream::now() const noexcept {
    return time_point(std::chrono::nanoseconds(state_->now()));
}

loop_metrics event_loop::metrics() const noexcept {
    loop_metrics m = metrics_;
    m.tasks = core_->task_count;
    m.timers = core_->timers.size();
    return m;
}

duration elapsed() {
    const detail::loop_core& core = detail::require_running("elapsed");
    return std::chrono::nanoseconds(core.now_ns() - core.started);
}

} // namespace asyncio::inline ASYNCIO_ABI

// =============================================================================
// [SECTION] implementation: futures and tasks
// uses: os, events, futures, tasks
// =============================================================================

namespace asyncio::inline ASYNCIO_ABI {

namespace detail {

// -- futures -------------------------------------------------------------------------

// Ends the run with an interrupt: what run_forever() throws.
static void leave_loop_with(loop_core& core, exception_ptr interrupt) {
#if defined(ASYNCIO_NO_EXCEPTIONS)
    core.interrupt = std::move(interrupt);
    core.loop->stop();
#else
    static_cast<void>(core);
    std::rethrow_exception(std::move(interrupt));
#endif
}

bool state_base::cancel(std::string_view message) {
    if (done() || core->closed) return false;
    complete_cancelled(make_error(cancelled_error(std::string(message))));
    return true;
}

void state_base::complete(status how) noexcept {
    current = how;
    wake_waiters();
}

void state_base::wake_waiters() noexcept {
    while (completion_node* node = waiters) {
        unlink(*node);
        node->completed(node, *this);
    }
}

void state_base::complete_cancelled(exception_ptr error) noexcept {
    exception = std::move(error);
    complete(status::cancelled);
}

exception_ptr state_base::why_no_value() {
    if (!done())
        throw_invalid_state("asyncio::future: the result is not there yet; await it, or ask "
                            "done() first");
    reported = true;
    return exception ? exception : make_error(cancelled_error());
}

void state_base::throw_no_value() { rethrow(why_no_value()); }

void state_base::last_handle_gone() noexcept {
    event_loop* const loop = core->loop;
    if (failed() && !reported && loop) {
        reported = true;
        ++refs; // the report must not end it a second time
        exception_context context{is_task ? "a task failed and nobody looked at its error"
                                          : "a future failed and nobody looked at its error",
                                  exception};
        if (is_task) context.task = static_cast<task_base*>(this)->name();
        ASYNCIO_TRY {
            loop->call_exception_handler(context);
        } ASYNCIO_CATCH_ALL {
            // What the handler throws leaves the loop in the next turn, not here.
            if (!core->closed)
                loop->call_soon([error = current_error()] {
                    rethrow(error);
                });
        }
        --refs;
    }
    // Callbacks of a future that nobody can complete any more.
    while (completion_node* node = waiters) {
        unlink(*node);
        if (node->completed == &done_callback::on_completed)
            delete static_cast<done_callback*>(node);
    }
    delete this;
}

void done_callback::on_completed(completion_node* node, state_base& state) noexcept {
    auto* self = static_cast<done_callback*>(node);
    if (state.core->closed) {
        delete self;
        return;
    }
    self->subject = ref_ptr<state_base>(&state);
    state.core->schedule(self);
}

void done_callback::run_and_delete(ready_node* node) {
    const box<done_callback> self(static_cast<done_callback*>(node));
    const ref_ptr<loop_core> core = self->subject->core;
    if (core->dropping) return;
    ASYNCIO_TRY {
        const context_scope scope(self->variables);
        self->call();
    } ASYNCIO_CATCH(const keyboard_interrupt&) {
        rethrow_current();
    } ASYNCIO_CATCH_ALL {
        if (core->loop)
            core->loop->call_exception_handler(
                {"exception in a done-callback", current_error()});
    }
}

std::uint64_t add_callback(state_base& state, box<done_callback> callback) {
    static ASYNCIO_THREAD_LOCAL constinit std::uint64_t last_id = 0;
    state.core->require_open("asyncio::future::add_done_callback: the loop is closed");
    const std::uint64_t id = callback->id = ++last_id;
    if (state.done()) done_callback::on_completed(callback.release(), state);
    else state.link(*callback.release());
    return id;
}

bool remove_callback(state_base& state, std::uint64_t id) noexcept {
    completion_node* node = state.waiters;
    if (!node) return false;
    do {
        if (node->completed == &done_callback::on_completed &&
            static_cast<done_callback*>(node)->id == id) {
            state.unlink(*node);
            delete static_cast<done_callback*>(node);
            return true;
        }
        node = node->following;
    } while (node != state.waiters);
    return false;
}

exception_ptr future_handle::exception() const {
    state_base& s = state();
    if (s.current != state_base::status::finished) s.throw_no_value();
    s.reported = true;
    return s.exception;
}

event_loop& future_handle::get_loop() const {
    event_loop* loop = state().core->loop;
    if (!loop)
        throw_runtime_error("asyncio::future::get_loop: its loop is gone; keep the loop alive as "
                            "long as its futures are used");
    return *loop;
}

std::uint64_t next_variable_id() noexcept {
    static atomic<std::uint64_t> last{0};
    return ++last;
}

void throw_no_variable(const std::string& name) {
    throw_error(std::out_of_range("asyncio::context_var: '" + name +
                            "' has no value here and no default; set() it first"));
}

// -- tasks ---------------------------------------------------------------------------

void require_open_for_tasks(loop_core& core) {
    core.require_open("asyncio::create_task: the loop is closed; make another one");
}

void require_awaitable(const task_base& waiter, const state_base& awaited) {
    if (&waiter == &awaited)
        throw_runtime_error("asyncio::task: it awaits itself and would wait for ever");
    if (waiter.core != awaited.core) {
        if (!awaited.core->loop || awaited.core->closed)
            throw_runtime_error("asyncio::future: its loop is closed, so that it will never be "
                                "done");
        throw_runtime_error("asyncio::future: it belongs to another loop; use "
                            "run_coroutine_threadsafe() between loops");
    }
}

// The tasks of a task_scope. It lives on while one of them has to be waited for.
struct scope_state : frame_allocated {
    struct member : frame_allocated, completion_node {
        explicit member(task_base& t) noexcept : task(t) {
            completed = [](completion_node* node, state_base&) noexcept {
                box<member> self(static_cast<member*>(node));
                const ref_ptr<scope_state> owner = std::move(self->scope);
                owner->remove(*self);
                self.reset();
                if (owner->ended && !owner->ending) owner->end();
            };
        }
        task_base& task;
        ref_ptr<scope_state> scope;
        member* newer = nullptr;
        member* older = nullptr;
    };

    explicit scope_state(loop_core& loop) noexcept : core(&loop) {}
    scope_state(const scope_state&) = delete;
    void add_ref() noexcept { ++refs; }
    void release() noexcept {
        if (--refs == 0) delete this;
    }

    void add(task_base& task) {
        auto* const m = new member(task);
        m->scope = ref_ptr<scope_state>(this);
        m->older = newest;
        if (newest) newest->newer = m;
        newest = m;
        ++count;
        task.link(*m);
    }
    void remove(member& m) noexcept {
        (m.newer ? m.newer->older : newest) = m.older;
        if (m.older) m.older->newer = m.newer;
        --count;
    }

    // Ends the tasks, the newest first: an older one may have started it and hold what it
    // uses. One that runs ends when it suspends, and those that are older after it. The
    // caller holds a count.
    void end() noexcept {
        ended = ending = true;
        member* next = newest;
        while (next) {
            task_base& task = next->task;
            if (task.is_running()) {
                task.stop_at_await();
                break;
            }
            if (task.has(task_base::gone) || !task.root) { // its own frames hold the scope
                next = next->older;
                continue;
            }
            task.end_at_once();
            next = newest;
        }
        ending = false;
    }

    ref_ptr<loop_core> core;
    std::uint32_t refs = 1;
    bool ended = false;
    bool ending = false;
    std::size_t count = 0;
    member* newest = nullptr;
};

void task_base::start(promise_base& promise) noexcept {
    enlist(promise);
    core->schedule(this);
}

void task_base::enlist(promise_base& promise) noexcept {
    const promise_base* const references = promise.parent;
    root = at = &promise;
    promise.parent = &end;
    promise.owner = this;
    id = ++core->last_task_id;
    ++core->task_count;
    following_task = core->tasks;
    if (following_task) following_task->previous_task = this;
    core->tasks = this;
    add_ref(); // the loop's
    if (around && around->scope) around->scope->add(*this);
    if (core->tracing) core->tracing->task_started(*this);
    if (can_debug && references && core->debug)
        report_references(static_cast<const reference_mark&>(*references));
}

// A place in this header.
static bool is_ours(const std::source_location& place) noexcept {
    return std::strcmp(place.file_name(), std::source_location::current().file_name()) == 0;
}

// "fetch, client.cpp:12". g++ names the function that a coroutine is turned into, with
// its frame as the parameter.
std::string place_of(const promise_base& p) {
    std::string_view function = p.place.function_name();
    if (is_ours(p.place)) {
        function = function.substr(0, function.find("("));
        return std::string(function.substr(function.rfind(':') + 1)) + " of asyncio.hpp";
    }
    if (function.ends_with(".Frame*)")) {
        std::size_t begin = function.size() - 1;
        for (int depth = 0; begin > 0; --begin) {
            if (function[begin] == ')') ++depth;
            if (function[begin] == '(' && --depth == 0) break;
        }
        function = function.substr(0, begin);
        if (function.starts_with("void ")) function.remove_prefix(5);
    }
    return std::string(function) + ", " + p.place.file_name() + ":" +
           std::to_string(p.place.line());
}

static void print_line([[maybe_unused]] const std::string& text) noexcept {
#if !defined(ASYNCIO_BACKEND_NONE)
    std::fprintf(stderr, "%s\n", text.c_str());
#endif
}

// How many parameters the signature lists that a compiler gives for a coroutine, as in
// `coro<int> app::fetch(url, int&) [with T = int]` or `main()::<lambda(int)>`.
static std::size_t listed_parameters(std::string_view signature) {
    signature = signature.substr(0, signature.find(" ["));
    const std::size_t end = signature.rfind(')');
    if (end == std::string_view::npos) return 0;
    std::size_t count = 1;
    int depth = 0;
    std::size_t at = end;
    while (at-- > 0) {
        const char c = signature[at];
        if (c == '(' && depth == 0) break;
        if (c == ')' || c == '>' || c == ']') ++depth;
        if (c == '(' || c == '<' || c == '[') --depth;
        if (c == ',' && depth == 0) ++count;
    }
    const std::string_view list = signature.substr(at + 1, end - at - 1);
    return list.empty() || list == "void" ? 0 : count;
}

// A member function's first parameter is its object, which is likely to live longer than
// what it starts; a closure is likely not to. Only the signature tells them apart.
void task_base::report_references(const reference_mark& mark) const noexcept {
    if (is_ours(root->place)) return; // and sees to it that what it refers to lives on
    const std::string_view name = root->place.function_name();
    ASYNCIO_TRY {
        const bool has_object = listed_parameters(name) + 1 == mark.parameters;
        const bool call = name.ends_with(")>") || name.find("operator()") != name.npos;
        std::string what;
        if (mark.in_first && has_object && call && mark.first_holds()) {
            what = "is a closure with captures that nobody keeps while the task runs; pass the "
                   "closure itself, not its call, to create_task(), which keeps it";
        } else if (mark.in_others || (mark.in_first && !has_object)) {
            what = "takes a reference, and what that refers to may end before the task; take the "
                   "parameter by value, or pass the function and its arguments to create_task(), "
                   "which keeps them";
        } else {
            return;
        }
        core->loop->call_exception_handler(
            {"the coroutine of a task " + what + ": " + place_of(*root), {}, this->name()});
    } ASYNCIO_CATCH_ALL {
        // Out of memory: the task goes on without the report.
    }
}

void drop_never_awaited(std::coroutine_handle<> frame) noexcept {
    loop_core* const core = this_thread_core;
    const bool debug = core ? core->debug && core->loop : debug_by_default();
    const bool ending = core && (core->closing || core->ending_frames);
#if defined(ASYNCIO_NO_EXCEPTIONS)
    const bool unwinding = false; // then it is ending
#else
    // While an error is on its way, nobody can await what it passes by.
    const bool unwinding = std::uncaught_exceptions() != 0;
#endif
    if (can_debug && debug && !ending && !unwinding) {
        const promise_base& promise =
            std::coroutine_handle<promise_base>::from_address(frame.address()).promise();
        ASYNCIO_TRY {
            const std::string message =
                "a coroutine was never awaited; co_await it, or give it to create_task(): " +
                place_of(promise);
            if (core) core->loop->call_exception_handler({message, {}, {}});
            else print_line("asyncio: " + message);
        } ASYNCIO_CATCH_ALL {
            // Out of memory: the coroutine goes without the report.
        }
    }
    frame.destroy();
}

void task_base::start_eagerly(promise_base& promise) {
    enlist(promise);
    task_base* const creator = core->current;
    context_slot* const context = this_thread_context;
    struct restore {
        loop_core& loop;
        task_base* current;
        context_slot* slot;
        ~restore() {
            if (current) current->unset(beneath);
            loop.current = current;
            this_thread_context = slot;
        }
    } at_end{*core, creator, context};
    if (creator) creator->set(beneath);
    const bool idle = core->ready.empty() && core->yielded.empty();
    step(this);
    // Between two polls: it may have yielded, which nobody else tells the host.
    if (core->apart && idle && !(core->ready.empty() && core->yielded.empty())) core->tell_host();
}

void task_base::leave_loop() noexcept {
    unlist();
    release();
}

void task_base::trace_end() noexcept { core->tracing->task_ended(*this); }

bool task_base::cancel(std::string_view message) {
    if (done()) return false;
    // A task that awaits a task passes the wish on. Such chains may be long, so this is
    // a loop; and they may be circles, which the slower pointer finds out.
    task_base* last = this;
    task_base* slower = this;
    for (bool odd = false;; odd = !odd) {
        last->note_cancel(message);
        state_base* const awaited = last->waiting ? last->waiting->passes_on_to() : nullptr;
        if (!awaited || !awaited->is_task || awaited->done()) break;
        last = static_cast<task_base*>(awaited);
        if (odd) slower = static_cast<task_base*>(slower->waiting->passes_on_to());
        if (last != slower) continue;
        last->waiting->give_up();
        return true;
    }
    // Futures like gather()'s pass it on as well, and may lead back to here.
    if (last->has(asking)) {
        last->waiting->give_up();
        return true;
    }
    last->set(asking);
    const bool passed_on = last->waiting && last->waiting->on_cancel();
    last->unset(asking);
    if (!passed_on) last->set(must_cancel);
    return true;
}

void task_base::note_cancel(std::string_view message) {
    ++cancel_requests;
    if (message.empty() && !extras) return;
    if (!extras) extras.reset(new task_extras);
    extras->cancel_message = message;
}

exception_ptr task_base::cancellation() const {
    return make_error(cancelled_error(extras ? extras->cancel_message : std::string()));
}

void task_base::name(std::string_view text) {
    if (!extras) extras.reset(new task_extras);
    extras->name = text;
}

std::string task_base::name() const {
    if (extras && !extras->name.empty()) return extras->name;
    return "Task-" + std::to_string(id);
}

// One step: resumes where the task stands, and whatever is to go on after that,
// until the task has to wait or has ended.
void task_base::step(ready_node* node) {
    task_base& self = static_cast<task_base&>(*node);
    if (self.attention != 0 && !self.prepare_step()) [[unlikely]] return;
    loop_core& loop = *self.core;
    loop.current = &self;
    this_thread_context = &self.variables;
    self.next_thing = then::waits;
    [[maybe_unused]] suspension* const waited = take(self.waiting);
#if defined(ASYNCIO_NO_EXCEPTIONS)
    if (waited)
        if (exception_ptr error = waited->failure()) self.fail_at(*self.at, std::move(error));
    if (self.next_thing == then::waits) self.at->self().resume();
    while ((self.next_thing == then::goes_on && self.at != &end) ||
           (self.next_thing == then::fails && self.unwind())) {
#else
    self.at->self().resume();
    while (self.next_thing == then::goes_on && self.at != &end) {
#endif
        self.next_thing = self.has(stopping) ? then::stops : then::waits;
        self.at->self().resume();
    }
    loop.current = nullptr;
    this_thread_context = nullptr;
    if (self.next_thing == then::waits) [[likely]] return;
    if (self.next_thing == then::goes_on) self.finish();
#if defined(ASYNCIO_NO_EXCEPTIONS)
    else if (self.next_thing == then::fails) self.end_with(std::move(self.failure));
#endif
    else self.end_at_once(); // its scope is gone
}

#if defined(ASYNCIO_NO_EXCEPTIONS)
bool task_base::unwind() noexcept {
    // What the frames hold and never awaited is nobody's oversight.
    const bool before = std::exchange(core->ending_frames, true);
    bool caught = false;
    for (promise_base* p = at; p && !caught;) {
        if (p->catches) {
            *take(p->catches) = std::move(failure);
            at = p;
            caught = true;
        } else {
            promise_base* const parent = p == root ? nullptr : p->parent;
            if (parent) *p->held_by = nullptr;
            else root = nullptr;
            at = parent;
            p->self().destroy();
            p = parent;
        }
    }
    core->ending_frames = before;
    next_thing = then::fails; // whatever its destructors made of it
    return caught;
}
#endif

constinit promise_base task_base::end{nullptr};

surroundings::~surroundings() {
    if (clock) clock->release();
    if (scope) scope->release();
}

void task_base::settle(time_stream* clock, scope_state* scope) {
    if (clock && clock->state().core != core)
        throw_runtime_error("asyncio::create_task: the time_stream belongs to another loop; make "
                            "one for each loop");
    if (core->current) around = core->current->around;
    stream_state* const own_clock = clock ? &clock->state() : around ? around->clock : nullptr;
    scope_state* const own_scope = scope ? scope : around ? around->scope : nullptr;
    if (around && around->clock == own_clock && around->scope == own_scope) return;
    const ref_ptr<surroundings> own(new surroundings);
    if ((own->clock = own_clock)) own_clock->add_ref();
    if ((own->scope = own_scope)) own_scope->add_ref();
    around = own;
}

std::int64_t task_base::time_around(std::int64_t loop_time) const noexcept {
    return around->clock ? around->clock->at(loop_time) : loop_time;
}
void task_base::add_timer_around(timer_node& timer, std::int64_t when) {
    if (around->clock) around->clock->add(timer, when);
    else core->add_timer(timer, when);
}
void task_base::remove_timer_around(timer_node& timer) noexcept {
    if (around->clock) around->clock->remove(timer);
    else core->remove_timer(timer);
}

// What is rare before a step. False: there is none.
bool task_base::prepare_step() {
    if (has(gone)) {
        if (has(counted)) release();
        return false;
    }
    if (has(must_confirm)) {
        unset(must_confirm);
        if (!waiting->confirm() && !has(must_cancel)) return false;
    }
    const bool cancelled = has(must_cancel);
    const bool begun = waiting != nullptr;
    attention = 0;
    if (!cancelled) return true;
    if (begun) {
        waiting->deliver_cancellation();
        return true;
    }
    // Cancelled before it began: nothing of it ever runs.
    const ref_ptr<state_base> kept(this);
    destroy_frames();
    complete_cancelled(cancellation());
    leave_loop();
    return false;
}

void task_base::end_with(exception_ptr error) {
    const ref_ptr<state_base> kept(this);
    const error_kind kind = error ? kind_of(error) : error_kind::ordinary;
    if (!error && has(must_cancel)) {
        // It cancelled itself and then returned: the cancellation wins.
        complete_cancelled(cancellation());
    } else if (!error) {
        complete(status::finished);
    } else if (kind == error_kind::cancelled) {
        complete_cancelled(std::move(error));
    } else {
        fail(error);
    }
    leave_loop();
    if (kind == error_kind::interrupt) {
        reported = true;
        leave_loop_with(*core, std::move(error));
    }
}

void task_base::end_at_once() noexcept {
    const ref_ptr<state_base> kept(this);
    loop_core* const before = std::exchange(this_thread_core, core.get());
    // One that has not begun stands in the queue, too.
    if (waiting ? waiting->on_its_way() : !has(stopping)) {
        set(counted);
        add_ref();
    }
    destroy_frames();
    reported = true;
    complete_cancelled(make_error(
        cancelled_error("asyncio::task_scope: the scope of the task is gone")));
    leave_loop();
    this_thread_core = before;
}

void task_base::stop_at_await() noexcept {
    if (has(stopping)) return;
    set(stopping);
    unset(must_cancel);
    core->stopped_task = true;
    nested += 1 << 20; // no child begins
    next_thing = then::stops;
}

void task_base::destroy_frames() noexcept {
    if (!root) return;
    promise_base* const first = root;
    // While the frames go, wake-ups of this task lead nowhere.
    root = nullptr;
    set(gone);
    const bool before = std::exchange(core->ending_frames, true);
    for (promise_base* p = at; p;) {
        promise_base* const parent = p == first ? nullptr : p->parent;
        if (parent) *p->held_by = nullptr;
        p->self().destroy();
        p = parent;
    }
    core->ending_frames = before;
}

} // namespace detail

task_scope::task_scope(event_loop& loop) {
    loop.core().require_open("asyncio::task_scope: the loop is closed; make another one");
    state_ = new detail::scope_state(loop.core());
}

task_scope::~task_scope() {
    state_->end();
    state_->release();
}

void task_scope::cancel() {
    std::vector<any_task> tasks;
    tasks.reserve(state_->count);
    for (detail::scope_state::member* m = state_->newest; m; m = m->older)
        tasks.emplace_back(detail::ref_ptr<detail::state_base>(&m->task));
    for (auto task = tasks.rbegin(); task != tasks.rend(); ++task) task->cancel();
}

std::size_t task_scope::size() const noexcept { return state_->count; }
detail::loop_core& task_scope::core() const noexcept { return *state_->core; }

void task_scope::adopt(detail::state_base& task) {
    auto& created = static_cast<detail::task_base&>(task);
    if (created.core != state_->core)
        detail::throw_runtime_error("asyncio::task_scope::create_task: the task belongs to another "
                                    "loop");
    const bool present = created.around && created.around->scope == state_;
    if (!task.done() && !present) state_->add(created);
}

any_task current_task() {
    detail::loop_core& core = detail::require_running("current_task");
    return any_task(detail::ref_ptr<detail::state_base>(core.current));
}

std::vector<any_task> all_tasks(event_loop& loop) {
    std::vector<any_task> tasks;
    tasks.reserve(loop.core().task_count);
    for (detail::task_base* t = loop.core().tasks; t; t = t->following_task)
        tasks.emplace_back(detail::ref_ptr<detail::state_base>(t));
    std::reverse(tasks.begin(), tasks.end());
    return tasks;
}

std::vector<any_task> all_tasks() { return all_tasks(get_running_loop()); }

} // namespace asyncio::inline ASYNCIO_ABI

// =============================================================================
// [SECTION] implementation: runners
// uses: os, events, futures, tasks, runners, taskgroups, debugging
// =============================================================================

namespace asyncio::inline ASYNCIO_ABI {

void detail::refuse_nested_run(const event_loop* loop, const char* who) {
    const loop_core* running = this_thread_core;
    const bool nested = running && running->loop && running->loop->is_running();
    if (nested || (loop && loop->is_running()))
        detail::throw_error(std::runtime_error(std::string(who) +
                                               ": a loop is running on this thread already; "
                                               "co_await the work instead"));
}

exception_ptr event_loop::run_until_done(detail::state_base& main) {
    core_->require_open("asyncio::event_loop::run_until_complete: the loop is closed; make "
                        "another one");
    const future<void> watched{detail::ref_ptr<detail::state_base>(&main)};
    // The callback is still queued when an interrupt ends the run in the very turn in which
    // `main` ended. It must not stop the next run.
    const std::uint64_t id = watched.add_done_callback([this, run = ++runs_] {
        if (run == runs_) stop();
    });
    exception_ptr error = detail::thrown_by([this] { run_forever(); });
#if defined(ASYNCIO_NO_EXCEPTIONS)
    error = std::exchange(core_->interrupt, nullptr);
#endif
    if (error) ++runs_;
    watched.remove_done_callback(id);
    if (error && main.done()) main.reported = true;
    if (!error && !main.done())
        detail::throw_runtime_error("asyncio::event_loop::run_until_complete: stop() ended the "
                                    "run before the work was done; run it again to go on");
    return error;
}

#if !defined(ASYNCIO_BACKEND_NONE)

// Ctrl-C while a runner's main task runs.
class runner::interrupt_guard {
public:
    interrupt_guard(event_loop& loop, any_task main, bool wanted)
        : loop_(loop), main_(std::move(main)) {
        // Only where nobody else has taken it over: as Python, the main thread and
        // the default disposition.
        active_ = wanted && detail::on_main_thread() && detail::has_default_action(SIGINT);
        if (active_)
            loop_.listen(SIGINT, event_loop::signal_layer::run, this, [this] { on_interrupt(); });
    }
    interrupt_guard(const interrupt_guard&) = delete;
    interrupt_guard& operator=(const interrupt_guard&) = delete;
    ~interrupt_guard() {
        if (active_) loop_.stop_listening(this);
    }

    int count() const noexcept { return count_; }

private:
    void on_interrupt() {
        ++count_;
        if (count_ == 1 && !main_.done()) {
            main_.cancel();
            return;
        }
        // A third one has the system's effect.
        loop_.stop_listening(this);
        active_ = false;
        detail::leave_loop_with(loop_.core(), detail::make_error(keyboard_interrupt()));
    }

    event_loop& loop_;
    any_task main_;
    int count_ = 0;
    bool active_ = false;
};

#endif

runner::~runner() {
    ASYNCIO_TRY {
        close();
    } ASYNCIO_CATCH_ALL {
        detail::report_uncaught(detail::current_error());
    }
}

event_loop& runner::get_loop() {
    if (closed_)
        detail::throw_runtime_error("asyncio::runner: it is closed; make another one");
    if (!loop_) {
        loop_.reset(new event_loop(options_));
        context_.reset(new context(context::current()));
    }
    return *loop_;
}

exception_ptr runner::run_until_done(detail::state_base& main) {
    loop_->core().started = loop_->core().now_ns();
#if defined(ASYNCIO_BACKEND_NONE)
    return loop_->run_until_done(main);
#else
    const any_task task{detail::ref_ptr<detail::state_base>(&main)};
    const interrupt_guard guard(*loop_, task, options_.handle_sigint);
    if (exception_ptr error = loop_->run_until_done(main)) return error;
    if (!task.cancelled() || guard.count() == 0 || task.uncancel() != 0) return nullptr;
    main.reported = true;
    return detail::make_error(keyboard_interrupt());
#endif
}

namespace detail {

// Cancels each of these once. Who awaits another one passes the wish on, so that only
// those whom nobody awaits are asked: a long chain of tasks costs a single walk.
static void cancel_all(const std::vector<any_task>& tasks) {
    std::unordered_set<const state_base*> reached;
    for (const any_task& task : tasks) {
        suspension* const waiting = static_cast<const task_base&>(task.state()).waiting;
        const state_base* const awaited = waiting ? waiting->passes_on_to() : nullptr;
        if (awaited && !awaited->done()) reached.insert(awaited);
    }
    std::vector<int> before;
    before.reserve(tasks.size());
    for (const any_task& task : tasks) before.push_back(task.cancelling());
    for (const any_task& task : tasks)
        if (!reached.contains(&task.state())) task.cancel();
    // Those that await each other in a circle.
    for (std::size_t i = 0; i < tasks.size(); ++i)
        if (!tasks[i].done() && tasks[i].cancelling() == before[i]) tasks[i].cancel();
}

// Cancels what is left until nothing is left. A task that does not listen is asked
// again every second, and named after a while.
static coro<> end_tasks(event_loop& loop, [[maybe_unused]] duration patience) {
    const any_task self = current_task();
    [[maybe_unused]] const time_point begin = loop.time();
    [[maybe_unused]] bool printed = false;
    for (;;) {
        std::vector<any_task> left = all_tasks(loop);
        std::erase(left, self);
        if (left.empty()) co_return;
        cancel_all(left);
        wait_options options;
        options.timeout = std::chrono::seconds(1);
        const wait_result<any_task> ended = co_await wait(left, options);
        for (const any_task& task : ended.done) {
            state_base& state = task.state();
            if (!state.failed() || state.reported) continue;
            state.reported = true;
            loop.call_exception_handler({"a task failed while run() was ending it",
                                         state.exception, task.get_name()});
        }
#if !defined(ASYNCIO_BACKEND_NONE)
        if (!ended.pending.empty() && !printed && loop.time() - begin >= patience) {
            printed = true;
            std::ostringstream text;
            text << "asyncio: run() waits for tasks that do not end after their cancellation:\n";
            constexpr std::size_t most_shown = 10;
            const std::size_t shown = std::min(ended.pending.size(), most_shown);
            for (std::size_t i = 0; i < shown; ++i) print_call_graph(ended.pending[i], text);
            if (shown < ended.pending.size())
                text << "and " << ended.pending.size() - shown << " more\n";
            std::fputs(text.str().c_str(), stderr);
        }
#endif
    }
}

// Those that stand at a value, one after the other: an older one may hold a newer one, and
// destroys it when it ends.
static coro<> close_generators(event_loop& loop) {
    while (open_generator* const generator = loop.core().first_generator) {
        generator->leave();
        const caught<void> closed = co_await catching(generator->close());
        if (!closed.error) continue;
        const error_kind kind = kind_of(closed.error);
        if (kind == error_kind::interrupt) co_await fail_with(closed.error);
        if (kind == error_kind::cancelled) continue; // its own, which concerns nobody else
        loop.call_exception_handler(
            {"a generator failed while run() was closing it", closed.error, {}});
    }
}

} // namespace detail

void runner::close() {
    if (closed_) return;
    closed_ = true;
    if (!loop_) return;
    // Whatever is thrown on the way, the loop gets closed.
    struct closing {
        detail::box<event_loop>& loop;
        ~closing() { loop.reset(); }
    } at_end{loop_};
    if (loop_->core().tasks)
        loop_->run_until_complete(detail::end_tasks(*loop_, options_.exit_report));
    if (loop_->core().first_generator)
        loop_->run_until_complete(detail::close_generators(*loop_));
#if !defined(ASYNCIO_NO_THREADS)
    if (loop_->default_executor)
        loop_->run_until_complete(
            loop_->shutdown_default_executor(duration(std::chrono::minutes(5))));
#endif
    loop_->close();
}

int detail::report_uncaught(const exception_ptr& error) noexcept {
#if defined(ASYNCIO_BACKEND_NONE)
    fatal(("asyncio: uncaught " + describe(error)).c_str());
#else
    if (kind_of(error) == error_kind::interrupt) return 130;
    std::ostringstream text;
    if (const auto* const group = exception_cast<base_exception_group>(error)) text << *group;
    else text << describe(error) << '\n';
    std::fprintf(stderr, "asyncio: uncaught %s", text.str().c_str());
    return 1;
#endif
}

#if !defined(ASYNCIO_BACKEND_NONE)

detail::signal_awaiter::signal_awaiter(std::initializer_list<int> numbers) {
    for (const int number : numbers) {
        if (number < 1 || number > most_signals)
            detail::throw_error(std::invalid_argument(
                "asyncio::wait_signal: no signal has the number " + std::to_string(number)));
        numbers_ |= std::uint64_t(1) << (number - 1);
    }
}

detail::signal_awaiter::signal_awaiter(signal_awaiter&& other) noexcept
    : numbers_(other.numbers_) {}

void detail::signal_awaiter::begin() {
    event_loop& loop = *core()->loop;
    listening_ = &loop;
    for (int number = 1; number <= most_signals; ++number) {
        if ((numbers_ >> (number - 1) & 1) == 0) continue;
        loop.listen(number, event_loop::signal_layer::wait, this, [this, number] {
            if (woken()) return;
            received_ = number;
            wake();
        });
    }
}

void detail::signal_awaiter::stop() noexcept {
    if (!listening_) return;
    listening_->stop_listening(this);
    listening_ = nullptr;
}

bool detail::signal_awaiter::on_cancel() noexcept {
    if (woken()) return false;
    stop();
    cancel_here();
    return true;
}

#endif

#if !defined(ASYNCIO_NO_THREADS)

namespace detail {

// Threads with a loop each, and what the calling thread's loop knows of them.
class core_group : public std::enable_shared_from_this<core_group> {
public:
    explicit core_group(std::size_t n) : members_(n) {}

    coro<> run(std::vector<coro<>> mains, run_options options);
    void join() {
        for (member& m : members_)
            if (m.thread.joinable()) m.thread.join();
    }

private:
    struct member {
        std::thread thread;
        event_loop* loop = nullptr; // while `main` runs there
        any_task main;              // its loop's thread alone touches it
    };

    struct enlisted;
    static coro<> run_member(std::shared_ptr<core_group> group, std::size_t i, coro<> main);
    void work(std::size_t i, coro<> main, const run_options& options) noexcept;
    void ended(exception_ptr error);
    void cancel_all();

    std::mutex mutex_; // for `loop` of the members, and cancelled_
    std::vector<member> members_;
    bool cancelled_ = false;
    // The calling thread's alone:
    event_loop* home_ = nullptr;
    future<void> news_;
    std::size_t running_ = 0;
    exception_ptr first_error_;
};

coro<> core_group::run(std::vector<coro<>> mains, run_options options) {
    const auto self = shared_from_this();
    home_ = &get_running_loop();
    options.handle_sigint = false; // Ctrl-C comes to this task
    exception_ptr error;
    ASYNCIO_TRY {
        for (std::size_t i = 0; i < members_.size(); ++i) {
            members_[i].thread = std::thread(
                [self, i, options, main = std::move(mains[i])]() mutable {
                    self->work(i, std::move(main), options);
                });
            ++running_;
        }
    } ASYNCIO_CATCH(const std::system_error&) {
        error = current_error();
        cancel_all();
    }
    while (running_ > 0) {
        news_ = home_->create_future<void>();
        const future<void> news = news_;
        caught<void> got = co_await catching(news);
        if (got.error && !error) error = std::move(got.error);
        if (error || first_error_) cancel_all();
    }
    if (!error) error = first_error_;
    if (error) co_await fail_with(std::move(error));
}

// On the member's thread, from here to cancel_all().
void core_group::work(std::size_t i, coro<> main, const run_options& options) noexcept {
    exception_ptr error;
    ASYNCIO_TRY {
        asyncio::run(run_member(shared_from_this(), i, std::move(main)), options);
    } ASYNCIO_CATCH(const cancelled_error&) {
        const std::lock_guard lock(mutex_);
        if (!cancelled_) error = current_error();
    } ASYNCIO_CATCH_ALL {
        error = current_error();
    }
    home_->call_soon_threadsafe([self = shared_from_this(), error] { self->ended(error); });
}

// g++ 12 warns of a local type in a coroutine's frame.
struct core_group::enlisted {
    enlisted(core_group& g, member& m) : owner(g), self(m) {
        const std::lock_guard lock(owner.mutex_);
        if (owner.cancelled_) throw_error(cancelled_error());
        self.main = current_task();
        self.loop = &get_running_loop();
    }
    ~enlisted() {
        const std::lock_guard lock(owner.mutex_);
        self.loop = nullptr;
        self.main = any_task();
    }
    core_group& owner;
    member& self;
};

coro<> core_group::run_member(std::shared_ptr<core_group> group, std::size_t i, coro<> main) {
    const enlisted guard(*group, group->members_[i]);
    co_await std::move(main);
}

// On the calling thread again.
void core_group::ended(exception_ptr error) {
    --running_;
    if (error && !first_error_) first_error_ = std::move(error);
    if (!news_.done()) news_.set_result();
}

void core_group::cancel_all() {
    const std::lock_guard lock(mutex_);
    if (std::exchange(cancelled_, true)) return;
    for (member& m : members_)
        if (m.loop != nullptr)
            m.loop->call_soon_threadsafe([self = shared_from_this(), &m] {
                if (m.main.valid()) m.main.cancel();
            });
}

void run_per_core(std::size_t n, function<coro<>(std::size_t)> make, const run_options& options) {
    refuse_nested_run(nullptr, "asyncio::run_per_core");
    if (n == 0) n = usable_processors();
    std::vector<coro<>> mains;
    for (std::size_t i = 0; i < n; ++i) mains.push_back(make(i));
    const auto group = std::make_shared<core_group>(n);
    struct joined {
        core_group& group;
        ~joined() { group.join(); }
    } at_end{*group};
    run_options waiting;
    waiting.debug = options.debug;
    waiting.handle_sigint = options.handle_sigint;
    waiting.exit_report = options.exit_report;
    asyncio::run(group->run(std::move(mains), options), waiting);
}

} // namespace detail

#endif

} // namespace asyncio::inline ASYNCIO_ABI

// =============================================================================
// [SECTION] implementation: timeouts and taskgroups
// uses: events, futures, tasks, timeouts, taskgroups
// =============================================================================

namespace asyncio::inline ASYNCIO_ABI {

// -- timeout -------------------------------------------------------------------------

timeout::timeout(timeout&& other)
    : delay_(other.delay_), limited_(other.limited_), when_(other.when_), state_(other.state_) {
    if (state_ != state::created)
        detail::throw_runtime_error("asyncio::timeout: it cannot move once its block has begun");
}

timeout timeout_at(std::optional<time_point> when) {
    timeout t{std::nullopt};
    t.set(when);
    return t;
}

std::optional<time_point> timeout::when() const noexcept {
    if (!limited_) return std::nullopt;
    return when_;
}

void timeout::set(std::optional<time_point> when) noexcept {
    limited_ = when.has_value();
    if (when) when_ = *when;
}

detail::ready_awaiter<void> timeout::aenter() {
    if (state_ != state::created)
        detail::throw_runtime_error(
            "asyncio::timeout: it was used already; make one for each block");
    task_ = current_task();
    if (!task_)
        detail::throw_runtime_error("asyncio::timeout: no task is running; use it in a coroutine");
    state_ = state::entered;
    cancelling_ = task_.cancelling();
    if (delay_)
        set(time_point(std::chrono::nanoseconds(detail::deadline_after(
            static_cast<detail::task_base&>(task_.state()).now_ns(), *delay_))));
    set_timer();
    return detail::ready_awaiter<void>();
}

void timeout::set_timer() {
    timer_.cancel();
    timer_ = handle();
    if (!limited_) return;
    event_loop& loop = task_.get_loop();
    const auto& task = static_cast<detail::task_base&>(task_.state());
    const std::int64_t when = when_.time_since_epoch().count();
    if (when <= task.now_ns()) timer_ = loop.call_soon([this] { on_timeout(); });
    else if (task.around && task.around->clock)
        timer_ = detail::call_at(*task.around->clock, when, [this] { on_timeout(); });
    else timer_ = loop.call_at(when_, [this] { on_timeout(); });
}

void timeout::on_timeout() {
    state_ = state::expiring;
    task_.cancel();
}

void timeout::reschedule(std::optional<time_point> when) {
    switch (state_) {
    case state::entered: break;
    case state::created:
        detail::throw_runtime_error("asyncio::timeout::reschedule: its block has not begun; give "
                                    "the timeout to with() first");
    case state::expiring:
        detail::throw_runtime_error("asyncio::timeout::reschedule: it is expiring: the limit has "
                                    "passed and the block is being cancelled");
    case state::expired:
        detail::throw_runtime_error("asyncio::timeout::reschedule: it has expired; make another "
                                    "one");
    case state::exited:
        detail::throw_runtime_error("asyncio::timeout::reschedule: its block is finished");
    }
    set(when);
    set_timer();
}

exception_ptr timeout::leave(const exception_ptr& error) {
    timer_.cancel();
    timer_ = handle();
    const any_task task = std::exchange(task_, any_task());
    if (state_ == state::expiring) {
        state_ = state::expired;
        // Somebody else's cancellation goes on as what it is.
        if (task.uncancel() <= cancelling_ && error &&
            detail::kind_of(error) == detail::error_kind::cancelled)
            return detail::make_error(timeout_error("asyncio::timeout: the time limit passed"));
    } else if (state_ == state::entered) {
        state_ = state::exited;
    }
    return nullptr;
}

// -- task_group ------------------------------------------------------------------------

// A child that has not been taken note of. Its end is noted in the turn after it.
struct task_group::child : detail::frame_allocated, detail::completion_node, detail::ready_node {
    child(task_group& g, detail::state_base& state) : group(&g), task(&state) {
        completed = [](completion_node* node, detail::state_base& ended) noexcept {
            ended.core->schedule(static_cast<child*>(node));
        };
        run = [](ready_node* node) {
            auto* self = static_cast<child*>(node);
            if (self->group && !self->task->core->dropping) self->group->on_child_done(*self);
            else self->forget();
        };
    }
    // Leaves its group's list.
    void leave() noexcept {
        if (!group) return;
        (previous_child ? previous_child->next_child : group->children_) = next_child;
        if (next_child) next_child->previous_child = previous_child;
        group = nullptr;
    }
    void forget() noexcept {
        leave();
        delete this;
    }

    task_group* group;
    detail::ref_ptr<detail::state_base> task;
    child* previous_child = nullptr;
    child* next_child = nullptr;
};

// Waits until the group has no children.
class task_group::all_done : public detail::suspension {
public:
    explicit all_done(task_group& group) noexcept : group_(&group) {}
    all_done(all_done&&) = delete;
    ~all_done() {
        if (group_->waiting_ == this) group_->waiting_ = nullptr;
    }
    bool await_ready() const noexcept { return group_->children_ == nullptr; }
    template <class Promise>
    void await_suspend(std::coroutine_handle<Promise> h) noexcept {
        if (suspend(h)) group_->waiting_ = this;
    }
    void await_resume() {
        if (group_->waiting_ == this) group_->waiting_ = nullptr;
        if (interrupted()) throw_cancelled();
    }
    void children_gone() noexcept {
        if (!woken()) wake();
    }

private:
    void show_awaited(detail::awaited_visitor& visitor) override {
        for (child* c = group_->children_; c; c = c->next_child) visitor.visit(*c->task);
    }
    bool on_cancel() noexcept override {
        if (woken()) return false;
        group_->waiting_ = nullptr;
        cancel_here();
        return true;
    }
    task_group* group_;
};

task_group::task_group(task_group&& other) {
    if (other.entered_)
        detail::throw_runtime_error("asyncio::task_group: it cannot move once its block has begun");
}

task_group::~task_group() {
    while (child* c = children_) {
        if (c->is_linked()) {
            c->task->unlink(*c);
            c->forget();
        } else {
            c->leave(); // it is in the ready queue, and goes when its turn comes
        }
    }
}

void task_group::require_open() const {
    if (!entered_)
        detail::throw_runtime_error("asyncio::task_group::create_task: the group's block has not "
                                    "begun; give the group to with() and use it in the body");
    if (finished_ || (exiting_ && !children_))
        detail::throw_runtime_error("asyncio::task_group::create_task: the group is finished");
    if (aborting_)
        detail::throw_runtime_error("asyncio::task_group::create_task: the group is shutting down "
                                    "after an error or a cancellation");
}

void task_group::adopt(detail::state_base& task) {
    auto* c = new child(*this, task);
    c->next_child = children_;
    if (children_) children_->previous_child = c;
    children_ = c;
    if (task.done()) c->completed(c, task);
    else task.link(*c);
}

void task_group::abort() {
    aborting_ = true;
    // Oldest first: the list has the newest first.
    std::vector<detail::ref_ptr<detail::state_base>> tasks;
    for (child* c = children_; c; c = c->next_child) tasks.push_back(c->task);
    for (auto it = tasks.rbegin(); it != tasks.rend(); ++it) (*it)->cancel({});
}

void task_group::cancel_parent() {
    parent_cancel_requested_ = true;
    parent_.cancel();
}

void task_group::cancel() {
    if (!entered_ || finished_)
        detail::throw_runtime_error("asyncio::task_group::cancel: the group's block is not "
                                    "running");
    if (aborting_) return;
    abort();
    if (!parent_cancel_requested_) cancel_parent();
}

void task_group::on_child_done(child& c) {
    const detail::ref_ptr<detail::state_base> task = c.task;
    c.forget();
    if (!children_ && waiting_) waiting_->children_gone();
    if (!task->failed()) return;
    task->reported = true;
    errors_.push_back(task->exception);
    if (detail::kind_of(task->exception) == detail::error_kind::interrupt && !interrupt_)
        interrupt_ = task->exception;
    if (!aborting_ && !parent_cancel_requested_) {
        abort();
        cancel_parent();
    }
}

detail::ready_awaiter<void> task_group::aenter() {
    if (entered_)
        detail::throw_runtime_error(
            "asyncio::task_group: it was used already; make one for each block");
    parent_ = current_task();
    if (!parent_)
        detail::throw_runtime_error(
            "asyncio::task_group: no task is running; use it in a coroutine");
    core_ = parent_.state().core;
    entered_ = true;
    return detail::ready_awaiter<void>();
}

coro<bool> task_group::aexit(exception_ptr error) {
    using detail::error_kind;
    exiting_ = true;
    const error_kind kind = error ? detail::kind_of(error) : error_kind::ordinary;
    if (error && kind == error_kind::interrupt && !interrupt_) interrupt_ = error;
    exception_ptr cancellation;
    if (error && kind == error_kind::cancelled) cancellation = error;
    if (error && !aborting_) abort();

    // The parent may be cancelled again and again while it waits here.
    while (children_) {
        detail::caught<void> waited = co_await detail::catching(all_done(*this));
        if (waited.error && !cancellation) cancellation = std::move(waited.error);
        if (cancellation && !aborting_) abort();
    }
    finished_ = true;
    const any_task parent = std::exchange(parent_, any_task());
    const std::vector<exception_ptr> nothing;
    std::vector<exception_ptr> errors = std::exchange(errors_, nothing);
    if (interrupt_) co_await detail::fail_with(std::exchange(interrupt_, nullptr));

    bool own_cancellation = false; // the body's cancelled_error is this group's doing
    if (parent_cancel_requested_ && parent.uncancel() == 0) {
        own_cancellation = true;
        cancellation = nullptr;
    }
    if (error && kind != error_kind::cancelled) errors.push_back(error);
    if (cancellation && errors.empty()) co_await detail::fail_with(std::move(cancellation));
    if (!errors.empty()) {
        // A cancellation from outside that has been delivered already is asked for
        // again, so that the next await throws it.
        if (parent.cancelling() > 0) {
            parent.uncancel();
            parent.cancel();
        }
        co_await detail::fail_with(
            detail::make_group("unhandled errors in a task group", std::move(errors)));
    }
    co_return own_cancellation;
}

// -- wait, shield ------------------------------------------------------------------------

namespace detail {

state_list::~state_list() {
    for (std::size_t i = 0; i < size_; ++i)
        if (states_[i]) states_[i]->release();
    delete[] states_;
}

void state_list::add(state_base& state) {
    if ((size_ & (size_ - 1)) == 0) { // 0, or a power of two: there is no room left
        auto** larger = new state_base*[size_ ? size_ * 2 : 1];
        std::copy(states_, states_ + size_, larger);
        delete[] std::exchange(states_, larger);
    }
    states_[size_++] = &state;
    state.add_ref();
}

struct some_done::link : completion_node {
    some_done* owner = nullptr;
};

some_done::some_done(state_list states, return_when until, std::optional<duration> timeout)
    : states_(std::move(states)), until_(until), timeout_(timeout) {}

some_done::some_done(some_done&& other) noexcept
    : some_done(std::move(other.states_), other.until_, other.timeout_) {}

some_done::~some_done() { leave(); }

void some_done::leave() noexcept {
    if (!links_) return;
    for (std::size_t i = 0; i < states_.size(); ++i)
        if (links_[i].is_linked()) states_[i].unlink(links_[i]);
    delete[] std::exchange(links_, nullptr);
}

bool some_done::enough(const state_base& ended) const noexcept {
    return unfinished_ == 0 || until_ == return_when::first_completed ||
           (until_ == return_when::first_exception && ended.failed());
}

bool some_done::await_ready() noexcept {
    unfinished_ = 0;
    for (std::size_t i = 0; i < states_.size(); ++i)
        if (!states_[i].done()) ++unfinished_;
    for (std::size_t i = 0; i < states_.size(); ++i)
        if (states_[i].done() && enough(states_[i])) return true;
    return unfinished_ == 0;
}

void some_done::begin() {
    links_ = new link[states_.size()];
    for (std::size_t i = 0; i < states_.size(); ++i) {
        link& l = links_[i];
        l.owner = this;
        l.completed = [](completion_node* node, state_base& ended) noexcept {
            some_done& self = *static_cast<link*>(node)->owner;
            --self.unfinished_;
            if (self.enough(ended) && !self.woken()) {
                self.take_back();
                self.wake();
            }
        };
        if (!states_[i].done()) states_[i].link(l);
    }
    if (timeout_) wait_for(*timeout_);
}

void some_done::show_awaited(awaited_visitor& visitor) {
    for (std::size_t i = 0; links_ && i < states_.size(); ++i)
        if (links_[i].is_linked()) visitor.visit(states_[i]);
}

void some_done::await_resume() {
    leave();
    if (interrupted()) throw_cancelled();
}

bool some_done::on_cancel() noexcept {
    if (woken()) return false;
    leave();
    take_back();
    cancel_here();
    return true;
}

void require_waitable(std::size_t count, return_when until) {
    if (count == 0)
        throw_invalid_argument("asyncio::wait: there is nothing to wait for; give at least one "
                               "task or future");
    if (until < return_when::all_completed || until > return_when::first_exception)
        throw_invalid_argument("asyncio::wait: return_when has no such value; use "
                               "all_completed, first_completed or first_exception");
}

struct gather_children::child : completion_node, ready_node {
    gather_children* owner = nullptr;
    ref_ptr<state_base> state;
};

gather_children::gather_children(state_list states, bool keep_errors)
    : positions(std::move(states)), outcomes_(keep_errors) {}

gather_children::~gather_children() {
    for (std::size_t i = 0; i < count_; ++i) {
        child& c = children_[i];
        if (!c.is_linked()) continue;
        c.state->unlink(c);
        // Once the whole has failed nobody needs to look at later errors; and where they are
        // outcomes, nobody ever needs to.
        if (future_->done() || outcomes_) c.state->reported = true;
    }
    delete[] children_;
}

void gather_children::begin(state_base& future) {
    future_ = &future;
    key_set seen;
    children_ = new child[positions.size()];
    for (std::size_t i = 0; i < positions.size(); ++i)
        if (seen.insert(&positions[i]))
            children_[count_++].state = ref_ptr<state_base>(&positions[i]);
    unfinished_ = count_;
    for (std::size_t i = 0; i < count_; ++i) {
        child& c = children_[i];
        c.owner = this;
        c.completed = [](completion_node* node, state_base&) noexcept {
            auto& self = *static_cast<child*>(node);
            self.owner->future_->add_ref(); // until its turn
            self.owner->future_->core->schedule(&self);
        };
        c.run = [](ready_node* node) {
            auto& self = *static_cast<child*>(node);
            self.owner->child_done(self);
        };
        if (c.state->done()) c.completed(&c, *c.state);
        else c.state->link(c);
    }
}

bool gather_children::cancel_children(std::string_view message) {
    bool any = false;
    for (std::size_t i = 0; i < count_; ++i)
        any = (children_[i].state && children_[i].state->cancel(message)) || any;
    cancel_requested_ = cancel_requested_ || any;
    return any;
}

void gather_children::show_children(awaited_visitor& visitor) {
    for (std::size_t i = 0; i < count_; ++i)
        if (children_[i].state && !children_[i].state->done()) visitor.visit(*children_[i].state);
}

void gather_children::child_done(child& c) {
    const auto kept = ref_ptr<state_base>::adopt(future_);
    if (future_->core->dropping) return;
    state_base& ended = *c.state;
    --unfinished_;
    ended.reported = true;
    if (future_->done()) return;
    if (!outcomes_ && (ended.failed() || ended.current == state_base::status::cancelled)) {
        future_->fail(ended.exception ? ended.exception
                                      : make_error(cancelled_error()));
        return;
    }
    if (unfinished_ > 0) return;
    if (cancel_requested_) {
        future_->fail(make_error(cancelled_error()));
        return;
    }
    ASYNCIO_TRY {
        // So that values may be moved out of states that nobody else holds.
        for (std::size_t i = 0; i < count_; ++i) children_[i].state = nullptr;
        assemble();
    } ASYNCIO_CATCH_ALL {
        future_->fail(current_error());
    }
}

struct key_set::table {
    std::unordered_set<const void*> keys;
};

bool key_set::insert(const void* key) {
    if (!table_) table_ = new table;
    return table_->keys.insert(key).second;
}

key_set::~key_set() { delete table_; }

void report_if_failed(state_base& inner) {
    if (!inner.failed()) return;
    inner.reported = true;
    if (inner.core->loop)
        inner.core->loop->call_exception_handler(
            {"a shielded future failed after what awaited it had been cancelled",
             inner.exception});
}

} // namespace detail

} // namespace asyncio::inline ASYNCIO_ABI

// =============================================================================
// [SECTION] implementation: locks and queues
// uses: events, tasks, locks, queues
// =============================================================================

namespace asyncio::inline ASYNCIO_ABI {

void detail::waiter_list::detach_all() noexcept {
    while (list_waiter* w = first_)
        if (w->orphan()) report_orphan(*w->task());
}

void detail::report_orphan(task_base& task) noexcept {
    loop_core& core = *task.core;
    if (!can_debug || !core.debug || core.closing || !core.loop) return;
    ASYNCIO_TRY {
        core.loop->call_exception_handler(
            {"what a task waits for was destroyed; the task stays suspended until it is cancelled",
             {},
             task.name()});
    } ASYNCIO_CATCH_ALL {
        // A destructor has no way to pass it on.
    }
}

#if defined(ASYNCIO_BACKEND_NONE)

// All of them.
static constinit isr_event* first_isr_event = nullptr;

isr_event::isr_event() noexcept : next_(std::exchange(first_isr_event, this)) {}

isr_event::~isr_event() {
    isr_event** link = &first_isr_event;
    while (*link != this) link = &(*link)->next_;
    *link = next_;
}

bool isr_event::pending() noexcept {
    for (const isr_event* e = first_isr_event; e; e = e->next_)
        if (e->is_set() && !e->waiters_.empty()) return true;
    return false;
}

void isr_event::take_all() noexcept {
    for (isr_event* e = first_isr_event; e; e = e->next_)
        if (e->is_set()) e->waiters_.wake_first();
}

#endif

coro<bool> lock::aexit(exception_ptr) {
    release();
    co_return false;
}

coro<bool> semaphore::aexit(exception_ptr) {
    release();
    co_return false;
}

coro<bool> bounded_semaphore::aexit(exception_ptr) {
    release();
    co_return false;
}

// -- condition -----------------------------------------------------------------------

// Waits for a notification, without the lock.
class condition::notified : public detail::list_waiter {
public:
    explicit notified(condition& owner) noexcept : owner_(&owner) {}

    bool await_ready() const noexcept { return false; }
    template <class Promise>
    void await_suspend(std::coroutine_handle<Promise> h) noexcept {
        if (suspend(h)) join(owner_->waiters_);
    }
    void await_resume() {
        leave();
        if (interrupted()) throw_cancelled();
    }

private:
    condition* owner_;
};

// Somebody in wait(). When it leaves without having used its notification, however
// that happens, another one shall have it.
class condition::visit {
public:
    explicit visit(condition& owner) noexcept : owner_(owner), tie_(owner.visits_) {}
    visit(const visit&) = delete;
    visit& operator=(const visit&) = delete;
    ~visit() {
        if (tie_.holds()) owner_.wake(1);
    }
    bool condition_lives() const noexcept { return tie_.holds(); }
    void succeeded() noexcept { tie_.cut(); }

private:
    condition& owner_;
    detail::tie tie_;
};

coro<bool> condition::wait() {
    if (!locked())
        detail::throw_runtime_error("asyncio::condition::wait: the lock is not held; acquire() "
                                    "it first");
    lock& mutex = *lock_;
    visit here(*this);
    const std::uint64_t turn = mutex.turn_;
    mutex.release();
    exception_ptr cancelled;
    {
        detail::caught<void> notification = co_await detail::catching(notified(*this));
        cancelled = std::move(notification.error);
    }
    // However often it is cancelled meanwhile, the task comes out with the lock; unless
    // the condition is gone, and its lock probably with it.
    for (bool held = false; !held;) {
        if (!here.condition_lives() && cancelled)
            co_await detail::fail_with(std::move(cancelled));
        detail::caught<bool> acquired = co_await detail::catching(mutex.acquire());
        if (acquired.error) cancelled = std::move(acquired.error);
        else held = true;
    }
    // For the caller's guard it is the turn that it had before.
    mutex.turn_ = turn;
    if (cancelled) co_await detail::fail_with(std::move(cancelled));
    here.succeeded();
    co_return true;
}

void condition::notify(std::size_t count) {
    if (!locked())
        detail::throw_runtime_error("asyncio::condition::notify: the lock is not held; acquire() "
                                    "it first");
    wake(count);
}

// -- barrier -------------------------------------------------------------------------

coro<> barrier::wait_in_round() {
    while (state_ == state::filling) co_await changed_.wait();
    if (state_ == state::broken || state_ == state::resetting)
        co_await detail::fail_with(detail::make_error(broken_barrier_error()));
}

// Also where the lock is not held: in a frame that is destroyed while it waits.
void barrier::leave_round() noexcept {
    --count_;
    if (count_ > 0) return;
    if (state_ == state::resetting || state_ == state::draining) state_ = state::filling;
    changed_.wake(std::numeric_limits<std::size_t>::max());
}

coro<std::size_t> barrier::wait() {
    const auto held = co_await changed_.scoped();
    // Those of the last round leave first.
    while (state_ == state::draining || state_ == state::resetting) co_await changed_.wait();
    if (state_ == state::broken)
        co_await detail::fail_with(detail::make_error(broken_barrier_error()));

    const std::size_t place = static_cast<std::size_t>(count_++);
    const leaving at_end(*this);
    if (count_ == parties_) {
        state_ = state::draining;
        changed_.notify_all();
    } else {
        co_await wait_in_round();
    }
    co_return place;
}

coro<> barrier::reset() {
    const auto held = co_await changed_.scoped();
    if (count_ > 0) {
        state_ = state::resetting;
        changed_.notify_all();
    } else {
        state_ = state::filling;
    }
}

coro<> barrier::abort() {
    const auto held = co_await changed_.scoped();
    state_ = state::broken;
    changed_.notify_all();
}

// -- queues --------------------------------------------------------------------------

void detail::queue_base::task_done() {
    if (unfinished_ == 0)
        throw_invalid_argument("asyncio::queue::task_done: called more often than items were put");
    if (--unfinished_ == 0) finished_.set();
}

void detail::queue_base::shut_down(std::size_t dropped) noexcept {
    shut_down_ = true;
    count_ -= dropped;
    unfinished_ -= std::min(unfinished_, dropped);
    if (unfinished_ == 0) finished_.set();
    getters_.wake_all();
    putters_.wake_all();
}

void detail::queue_base::line::doubt() noexcept {
    for (line_waiter* w = woken_.first; w; w = w->following_) w->confirm_first();
}

void detail::queue_base::line::detach_all(bool shut_down) noexcept {
    for (chain* const from : {&asleep_, &woken_})
        while (line_waiter* w = from->first) {
            from->remove(*w);
            w->line_ = nullptr;
            w->ended_ = shut_down;
            if (!shut_down && w->woken()) w->confirm_first();
            if (!shut_down) report_orphan(*w->task());
            else if (!w->woken()) w->wake();
        }
}

bool detail::queue_base::line_waiter::on_cancel() noexcept {
    if (woken()) return false;
    if (in_) line_->leave(*this);
    cancel_here();
    return true;
}

} // namespace asyncio::inline ASYNCIO_ABI
// =============================================================================
// [SECTION] implementation: executors
// uses: os, codec, events, futures, tasks, executors
// =============================================================================

#if !defined(ASYNCIO_NO_THREADS)

namespace asyncio::inline ASYNCIO_ABI {

namespace detail {

thread_local constinit loop_core* submitting_loop = nullptr;

inline void job_lock::lock() noexcept {
    int seen = free;
    if (state_.compare_exchange_strong(seen, held, std::memory_order_acquire)) return;
    while (state_.exchange(contended, std::memory_order_acquire) != free)
        state_.wait(contended, std::memory_order_relaxed);
}

inline void job_lock::unlock() noexcept {
    if (state_.exchange(free, std::memory_order_release) == contended) state_.notify_one();
}

// -- concurrent futures ------------------------------------------------------------

concurrent_base::~concurrent_base() {
    while (first_) {
        done_node* node = std::exchange(first_, first_->following);
        node->dropped();
    }
}

bool concurrent_base::start() noexcept {
    const std::lock_guard guard(lock_);
    if (claimed_ || status_.load(std::memory_order_relaxed) != status::pending) return false;
    started_at_.store(system_now_ns(), std::memory_order_relaxed);
    status_.store(status::running, std::memory_order_release);
    return true;
}

job_trace::job_trace(loop_core& loop) noexcept {
    if (!loop.tracing || !loop.current) return;
    task_ = loop.current->id;
    submitted_ = loop.now_ns();
}

void job_trace::ended(loop_core& loop, const concurrent_base& job) {
    if (!loop.tracing || task_ == 0) return;
    // The loop's own time where that is the system's; else all that is known is when
    // the job was submitted.
    const bool same = loop.clock == clock_kind::real && loop.scale == 1.0 && !loop.paused;
    const std::int64_t began = same && job.started_at() ? job.started_at() : submitted_;
    loop.tracing->job_ended(task_, began, loop.now_ns());
}

bool concurrent_base::cancel() noexcept {
    {
        const std::lock_guard guard(lock_);
        const status now = status_.load(std::memory_order_relaxed);
        if (now == status::cancelled) return true;
        if (claimed_ || now != status::pending) return false;
        claimed_ = true;
    }
    publish(status::cancelled);
    return true;
}

bool concurrent_base::claim() noexcept {
    const std::lock_guard guard(lock_);
    return !std::exchange(claimed_, true);
}

void concurrent_base::require_claim() {
    if (!claim())
        throw_invalid_state("asyncio::concurrent_future: it is done already; check done() before "
                            "setting a result");
}

void concurrent_base::publish(status how) noexcept {
    done_node* node = nullptr;
    {
        const std::lock_guard guard(lock_);
        status_.store(how, std::memory_order_release);
        node = std::exchange(first_, nullptr);
        last_ = nullptr;
    }
    // A node may be gone as soon as it has been called.
    while (node) std::exchange(node, node->following)->done(*this);
}

bool concurrent_base::fail(exception_ptr why) noexcept {
    if (!claim()) return false;
    error = std::move(why);
    publish(status::finished);
    return true;
}

bool concurrent_base::cancel_anyway() noexcept {
    if (!claim()) return false;
    publish(status::cancelled);
    return true;
}

bool concurrent_base::watch(done_node& node) noexcept {
    const std::lock_guard guard(lock_);
    if (done()) return false;
    node.previous = last_;
    node.following = nullptr;
    (last_ ? last_->following : first_) = &node;
    last_ = &node;
    return true;
}

bool concurrent_base::unwatch(done_node& node) noexcept {
    const std::lock_guard guard(lock_);
    if (done()) return false;
    (node.previous ? node.previous->following : first_) = node.following;
    (node.following ? node.following->previous : last_) = node.previous;
    return true;
}

// A thread that waits for one future.
struct blocked_thread final : done_node {
    std::mutex mutex;
    std::condition_variable changed;
    bool ready = false;

    void done(concurrent_base&) noexcept override {
        // Under the mutex to the end: the thread's stack may be gone right after.
        const std::lock_guard guard(mutex);
        ready = true;
        changed.notify_one();
    }
};

steady_time steady_deadline(std::optional<duration> timeout) noexcept {
    if (!timeout) return no_steady_time;
    const std::int64_t now = std::chrono::steady_clock::now().time_since_epoch() /
                             std::chrono::nanoseconds(1);
    return steady_time(std::chrono::duration_cast<steady_time::duration>(
        std::chrono::nanoseconds(deadline_after(now, *timeout))));
}

duration left_until(steady_time deadline) noexcept {
    return deadline - std::chrono::steady_clock::now();
}

bool concurrent_base::wait(std::optional<duration> timeout) noexcept {
    if (done()) return true;
    blocked_thread self;
    if (!watch(self)) return true;
    std::unique_lock lock(self.mutex);
    const auto ready = [&] { return self.ready; };
    if (!timeout) {
        self.changed.wait(lock, ready);
        return true;
    }
    if (self.changed.wait_until(lock, steady_deadline(timeout), ready)) return true;
    lock.unlock();
    if (unwatch(self)) return false;
    // It has been done in this very moment.
    lock.lock();
    self.changed.wait(lock, ready);
    return true;
}

exception_ptr concurrent_base::exception(std::optional<duration> timeout) {
    if (!wait(timeout))
        throw_error(
            timeout_error("asyncio::concurrent_future: the time limit passed before the job was "
                          "done; it goes on"));
    if (current() == status::cancelled) throw_error(cancelled_error());
    return error;
}

void concurrent_base::require_value(std::optional<duration> timeout, bool last) {
    exception_ptr why = exception(timeout);
    if (!why) return;
    if (last && only_handle()) error = nullptr;
    rethrow(std::move(why));
}

void report_callback_error() noexcept {
    ASYNCIO_TRY {
        std::fprintf(stderr, "asyncio::concurrent_future: a done-callback threw %s\n",
                     describe(current_error()).c_str());
    } ASYNCIO_CATCH_ALL {
        // There is no memory left to say it with.
    }
}

// -- from a worker to a loop -------------------------------------------------------

// Travels from the completing thread to the loop's. Counted by the future or the
// loop's queue, and by the target, which only the loop's thread looks at.
struct loop_relay final : callback_base, done_node {
    loop_relay(relay_target& for_whom, loop_core& loop) : target(&for_whom), owner(share(loop)) {
        shared = true;
        posted_to = &loop;
    }
    void done(concurrent_base&) noexcept override {
        // On the loop's own thread it need not be woken.
        if (this_thread_core == owner.get() && !owner->closed) owner->schedule(this);
        else if (!owner->post(this)) release();
    }
    void dropped() noexcept override { release(); }
    void call() override {
        relay_target* const whom = std::exchange(target, nullptr);
        if (!whom) return;
        whom->relay_ = nullptr;
        release();
        whom->job_ = nullptr;
        whom->job_done();
    }
    void drop() noexcept override {}

    relay_target* target;
    shared_core owner;
};

bool relay_target::join(concurrent_base& job, loop_core& core) {
    auto* relay = new loop_relay(*this, core);
    relay->add_ref();
    if (!job.watch(*relay)) {
        relay->release();
        relay->release();
        return false;
    }
    relay_ = relay;
    job_ = ref_ptr<concurrent_base>(&job);
    return true;
}

void relay_target::follow(concurrent_base& job, loop_core& core) {
    auto* relay = new loop_relay(*this, core);
    relay->add_ref();
    relay_ = relay;
    job_ = ref_ptr<concurrent_base>(&job);
    if (!job.watch(*relay)) relay->done(job);
}

void relay_target::leave() noexcept {
    if (!relay_) return;
    relay_->target = nullptr;
    if (job_->unwatch(*relay_)) relay_->release();
    std::exchange(relay_, nullptr)->release();
    job_ = nullptr;
}

// -- a thread that waits for several futures ---------------------------------------

struct completion_watch::shared {
    std::mutex mutex;
    std::condition_variable changed;
    std::vector<std::size_t> ended; // in the order in which they ended
    std::size_t taken = 0;

    struct node final : done_node {
        node(std::shared_ptr<shared> of, std::size_t i) : owner(std::move(of)), index(i) {}
        void done(concurrent_base&) noexcept override {
            const std::unique_ptr<node> own(this);
            const std::lock_guard guard(owner->mutex);
            owner->ended.push_back(index);
            owner->changed.notify_one();
        }
        void dropped() noexcept override { delete this; }

        std::shared_ptr<shared> owner;
        std::size_t index;
    };
    // A node that has been called is gone: its state knows, and is asked first.
    std::vector<std::pair<ref_ptr<concurrent_base>, node*>> nodes;
};

completion_watch::completion_watch() : shared_(std::make_shared<shared>()) {}
completion_watch::completion_watch(completion_watch&&) noexcept = default;
completion_watch::~completion_watch() {
    if (!shared_) return;
    for (auto& [state, node] : std::exchange(shared_->nodes, {}))
        if (state->unwatch(*node)) delete node;
}

void completion_watch::add(concurrent_base& state) {
    const std::size_t index = shared_->nodes.size();
    auto node = std::make_unique<shared::node>(shared_, index);
    {
        // Room now: nothing may fail when it ends.
        const std::lock_guard guard(shared_->mutex);
        shared_->ended.reserve(index + 1);
    }
    shared_->nodes.emplace_back(ref_ptr<concurrent_base>(&state), node.get());
    if (state.watch(*node)) static_cast<void>(node.release());
    else node.release()->done(state);
}

std::optional<std::size_t> completion_watch::next(steady_time deadline) {
    std::unique_lock lock(shared_->mutex);
    const auto ready = [&] { return shared_->taken < shared_->ended.size(); };
    if (deadline == no_steady_time) shared_->changed.wait(lock, ready);
    else if (!shared_->changed.wait_until(lock, deadline, ready)) return std::nullopt;
    return shared_->ended[shared_->taken++];
}

// -- executors ---------------------------------------------------------------------

void executor_core::submit(ref_ptr<concurrent_base>, local_job&) {
    throw_error(std::logic_error("asyncio::executor: it runs encoded calls only"));
}
void executor_core::submit(ref_ptr<concurrent_base>, remote_job&, box<outgoing>) {
    throw_error(std::logic_error("asyncio::executor: it runs no encoded calls"));
}
void executor_core::stop(remote_job& job) noexcept { job.state().cancel(); }
void executor_core::kill(int) {
    throw_runtime_error("asyncio::isolated_executor::kill_workers: threads cannot be killed; use "
                        "isolation::process");
}

void throw_cannot_travel(std::string_view callable) {
    throw_error(
        codec_error("asyncio::executor::submit: this call cannot travel to an isolated worker; "
                    "give it a function or a captureless lambda, with arguments and a result "
                    "that have a codec (" +
                    std::string(callable) + ")"));
}

// -- threads and forks -------------------------------------------------------------
//
// Locks that other threads hold at a fork stay locked in the child for ever.

// Threads of executors that run no job: they hold no lock that a child could want.
static std::atomic<std::size_t> harmless_threads{0};

// While one of them runs the user's code.
struct working_thread {
    working_thread() noexcept { harmless_threads.fetch_sub(1); }
    working_thread(const working_thread&) = delete;
    working_thread& operator=(const working_thread&) = delete;
    ~working_thread() { harmless_threads.fetch_add(1); }
};

// -- threads -----------------------------------------------------------------------

// Threads that take jobs out of one queue.
class thread_core final : public executor_core {
public:
    struct settings {
        std::string who;
        std::string prefix;
        std::size_t most = 1;
        std::optional<std::size_t> max_tasks;
        function<void()> initializer;
    };

    explicit thread_core(settings how) : executor_core(false), how_(std::move(how)) {}

    void submit(ref_ptr<concurrent_base> state, local_job& job) override;
    void shutdown(bool wait, bool cancel_futures) override;
    void close() noexcept override { shutdown(true, false); }

private:
    void start_thread();
    void work(std::size_t number);
    bool initialise();
    void break_pool(const std::string& why) noexcept;
    local_job* take_first() noexcept;
    local_job* take_all() noexcept;
    static void release(local_job& job) noexcept { job.state().release(); }

    const settings how_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::condition_variable gone_;
    local_job* first_ = nullptr; // each job in the queue holds a count of its state
    local_job* last_ = nullptr;
    std::size_t queued_ = 0;
    std::size_t idle_ = 0;  // threads that wait, or will look into the queue next
    std::size_t alive_ = 0; // threads that take jobs
    std::size_t started_ = 0;
    bool shut_down_ = false;
    std::string broken_;
    std::unordered_map<std::thread::id, std::thread> threads_;
    std::vector<std::thread> ended_; // have left, and are to be joined
};

void thread_core::submit(ref_ptr<concurrent_base> state, local_job& job) {
    std::unique_lock lock(mutex_);
    if (!broken_.empty()) throw_error(broken_executor(broken_));
    if (shut_down_)
        throw_error(std::runtime_error(how_.who +
                                       "::submit: the executor was shut down; submit before "
                                       "shutdown(), or make another one"));
    job.next = nullptr;
    (last_ ? last_->next : first_) = &job;
    local_job* const before = std::exchange(last_, &job);
    static_cast<void>(state.detach());
    ++queued_;
    if (queued_ > idle_ && alive_ < how_.most) {
        ASYNCIO_TRY {
            start_thread();
        } ASYNCIO_CATCH_ALL {
            // Other threads will come to it; with none, nobody would.
            if (alive_ > 0) return;
            last_ = before;
            (before ? before->next : first_) = nullptr;
            --queued_;
            lock.unlock();
            release(job);
            rethrow_current();
        }
        return;
    }
    lock.unlock();
    wake_.notify_one();
}

void thread_core::start_thread() {
    for (std::thread& thread : std::exchange(ended_, {})) thread.join();
    auto self = std::static_pointer_cast<thread_core>(shared_from_this());
    harmless_threads.fetch_add(1);
    std::thread thread;
    ASYNCIO_TRY {
        thread = std::thread([self = std::move(self), number = started_] {
            self->work(number);
            harmless_threads.fetch_sub(1);
        });
    } ASYNCIO_CATCH_ALL {
        harmless_threads.fetch_sub(1);
        rethrow_current();
    }
    ++started_;
    ++alive_;
    const std::thread::id id = thread.get_id();
    threads_.emplace(id, std::move(thread));
}

local_job* thread_core::take_first() noexcept {
    local_job* const job = std::exchange(first_, first_->next);
    if (!first_) last_ = nullptr;
    --queued_;
    return job;
}

local_job* thread_core::take_all() noexcept {
    last_ = nullptr;
    queued_ = 0;
    return std::exchange(first_, nullptr);
}

bool thread_core::initialise() {
    if (!how_.initializer) return true;
    const working_thread busy;
    ASYNCIO_TRY {
        how_.initializer();
        return true;
    } ASYNCIO_CATCH_ALL {
        break_pool(how_.who + ": the initializer threw " + describe(current_error()) +
                   "; no worker can run jobs");
        return false;
    }
}

void thread_core::break_pool(const std::string& why) noexcept {
    std::unique_lock lock(mutex_);
    if (broken_.empty()) broken_ = why;
    local_job* job = take_all();
    lock.unlock();
    wake_.notify_all();
    while (job) {
        local_job* const next = job->next;
        job->state().fail(make_error(broken_executor(why)));
        release(*std::exchange(job, next));
    }
}

void thread_core::work(std::size_t number) {
    name_this_thread(how_.prefix + "_" + std::to_string(number));
    const bool ready = initialise();
    std::size_t done = 0;
    std::unique_lock lock(mutex_);
    bool retired = false;
    while (ready && !retired) {
        ++idle_;
        wake_.wait(lock, [this] { return first_ || shut_down_ || !broken_.empty(); });
        --idle_;
        if (!first_) break;
        local_job* const job = take_first();
        lock.unlock();
        const bool begun = job->state().start();
        if (begun) {
            const working_thread busy;
            job->run();
            ++done;
        }
        retired = how_.max_tasks && done == *how_.max_tasks;
        // Whoever waits for this job and submits the next one finds this thread idle.
        lock.lock();
        if (!retired) ++idle_;
        lock.unlock();
        if (begun) job->state().publish(concurrent_base::status::finished);
        release(*job);
        lock.lock();
        if (!retired) --idle_;
    }
    --alive_;
    if (retired && first_ && queued_ > idle_) {
        ASYNCIO_TRY {
            start_thread();
        } ASYNCIO_CATCH_ALL {
            if (alive_ == 0) {
                lock.unlock();
                break_pool(how_.who + ": no thread could be started for the next job");
                lock.lock();
            }
        }
    }
    const auto self = threads_.find(std::this_thread::get_id());
    if (self != threads_.end()) {
        ended_.push_back(std::move(self->second));
        threads_.erase(self);
    }
    gone_.notify_all();
}

void thread_core::shutdown(bool wait, bool cancel_futures) {
    std::unique_lock lock(mutex_);
    shut_down_ = true;
    local_job* job = cancel_futures ? take_all() : nullptr;
    lock.unlock();
    wake_.notify_all();
    while (job) {
        local_job* const next = job->next;
        job->state().cancel();
        release(*std::exchange(job, next));
    }
    if (!wait) return;
    // A job that shuts its own pool down cannot wait for itself.
    lock.lock();
    const auto self = threads_.find(std::this_thread::get_id());
    std::thread own;
    if (self != threads_.end()) {
        own = std::move(self->second);
        threads_.erase(self);
    }
    const std::size_t staying = own.joinable() ? 1 : 0;
    gone_.wait(lock, [&] { return alive_ <= staying; });
    std::vector<std::thread> ended = std::exchange(ended_, {});
    lock.unlock();
    for (std::thread& thread : ended) thread.join();
    if (own.joinable()) own.detach();
}

} // namespace detail

thread_pool_executor::thread_pool_executor(std::ptrdiff_t workers,
                                           const thread_pool_options& options, bool automatic)
    : executor([&] {
          detail::refuse_in_worker();
          if (!automatic && workers <= 0)
              detail::throw_invalid_argument("asyncio::thread_pool_executor: the number of workers "
                                             "must be positive; leave it out for a good one");
          detail::thread_core::settings how;
          how.who = "asyncio::thread_pool_executor";
          how.prefix = options.thread_name_prefix.empty() ? std::string_view("asyncio")
                                                          : options.thread_name_prefix;
          how.most = automatic ? std::min<std::size_t>(detail::usable_processors() + 4, 32)
                               : static_cast<std::size_t>(workers);
          how.initializer = options.initializer.copy();
          return std::make_shared<detail::thread_core>(std::move(how));
      }()) {}

void executor::shutdown(shutdown_options options) {
    core().shutdown(options.wait, options.cancel_futures);
}

coro<bool> executor::aexit(exception_ptr) {
    // The thread may outlive the executor object, when this wait is cancelled.
    auto ended = concurrent_future<void>::create();
    ended.set_running();
    std::thread([core = core_, ended] {
        core->shutdown(true, false);
        ended.set_result();
    }).detach();
    co_await ended;
    co_return false;
}

namespace detail {

// -- the default executor ----------------------------------------------------------

executor& default_executor(loop_core& core) {
    event_loop& loop = *core.loop;
    if (loop.default_executor_ended)
        throw_runtime_error("asyncio::run_in_executor: the default executor was shut down; pass an "
                            "executor of your own");
    if (!loop.default_executor)
        loop.default_executor = std::make_shared<thread_pool_executor>();
    return *loop.default_executor;
}

void shutdown_default_executor_blocking(event_loop& loop) {
    loop.default_executor_ended = true;
    if (const auto pool = std::exchange(loop.default_executor, nullptr)) pool->shutdown();
}

} // namespace detail

coro<> event_loop::shutdown_default_executor(std::optional<duration> timeout) {
    default_executor_ended = true;
    const auto pool = std::exchange(default_executor, nullptr);
    if (!pool) co_return;
    auto ended = concurrent_future<void>::create();
    ended.set_running();
    // The thread keeps the pool: its destructor must not block the loop.
    std::thread([pool, ended] {
        pool->shutdown();
        ended.set_result();
    }).detach();
    if (!timeout) {
        co_await ended;
        co_return;
    }
    const auto got = co_await detail::catching(wait_for(ended, *timeout));
    if (got.error && !detail::exception_cast<timeout_error>(got.error))
        co_await detail::fail_with(got.error);
    if (got.error)
        call_exception_handler({"the default executor did not end its jobs in time; their threads "
                                "are left to themselves",
                                {},
                                {}});
}

namespace detail {

// -- exceptions that travel --------------------------------------------------------

enum class error_form : std::uint8_t {
    none,
    known,
    other,
    cancelled,
    interrupt,
    group,
    base_group
};

// How one exception type travels. Without exceptions there are no nested ones.
#if defined(ASYNCIO_NO_EXCEPTIONS)
struct error_type {
    const void* tag;
    void (*put)(const std::exception& error, encoder& out);
    exception_ptr (*make)(decoder& in, const exception_ptr& cause);
};

template <class E>
exception_ptr with_cause(E error, const exception_ptr&) {
    return make_error(std::move(error));
}
#else
struct error_type {
    const std::type_info* plain;
    const std::type_info& (*nested)(); // its type when thrown by throw_with_nested()
    void (*put)(const std::exception& error, encoder& out);
    exception_ptr (*make)(decoder& in, const exception_ptr& cause);
};

template <class E>
exception_ptr with_cause(E error, const exception_ptr& cause) {
    if (!cause) return make_error(std::move(error));
    try {
        rethrow(cause);
    } catch (...) {
        try {
            std::throw_with_nested(std::move(error));
        } catch (...) {
            return current_error();
        }
    }
}
#endif

// E as it is put and made: by its message, unless it has none or has more.
template <class E>
struct carried {
    static E sample() {
        if constexpr (std::default_initializable<E>) return E();
        else return E("");
    }
    static void put(const std::exception& error, encoder& out) {
        if constexpr (std::constructible_from<E, std::string>) out.put(std::string(error.what()));
    }
    static E make(decoder& in) {
        if constexpr (std::constructible_from<E, std::string>) return E(in.get<std::string>());
        else return E();
    }
};

template <>
struct carried<worker_crashed> {
    static worker_crashed sample() { return worker_crashed("", 0, 0); }
    static void put(const std::exception& error, encoder& out) {
        const auto& crash = static_cast<const worker_crashed&>(error);
        out.put(std::string(crash.what()));
        out.put(crash.signal());
        out.put(crash.exit_code());
    }
    static worker_crashed make(decoder& in) {
        const auto what = in.get<std::string>();
        const int signal = in.get<int>();
        return worker_crashed(what, signal, in.get<int>());
    }
};

template <>
struct carried<remote_error> {
    static remote_error sample() { return remote_error("", ""); }
    static void put(const std::exception& error, encoder& out) {
        out.put(static_cast<const remote_error&>(error).type_name());
        out.put(std::string(error.what()));
    }
    static remote_error make(decoder& in) {
        auto type = in.get<std::string>();
        return remote_error(std::move(type), in.get<std::string>());
    }
};

template <>
struct carried<limit_overrun_error> {
    static limit_overrun_error sample() { return limit_overrun_error("", 0); }
    static void put(const std::exception& error, encoder& out) {
        out.put(std::string(error.what()));
        out.put(static_cast<const limit_overrun_error&>(error).consumed());
    }
    static limit_overrun_error make(decoder& in) {
        const auto what = in.get<std::string>();
        return limit_overrun_error(what, in.get<std::size_t>());
    }
};

template <>
struct carried<incomplete_read_error> {
    static incomplete_read_error sample() { return incomplete_read_error("", std::nullopt); }
    static void put(const std::exception& error, encoder& out) {
        const auto& read = static_cast<const incomplete_read_error&>(error);
        out.put(read.partial());
        out.put(read.expected());
    }
    static incomplete_read_error make(decoder& in) {
        auto partial = in.get<std::string>();
        return incomplete_read_error(std::move(partial), in.get<std::optional<std::size_t>>());
    }
};

// The categories that mean the same in every process.
static const std::error_category* portable_category(std::string_view name) noexcept {
    if (name == std::generic_category().name()) return &std::generic_category();
    if (name == std::system_category().name()) return &std::system_category();
    if (name == std::iostream_category().name()) return &std::iostream_category();
    return nullptr;
}

template <class E>
    requires std::derived_from<E, std::system_error>
struct carried<E> {
    static E sample() { return E("", std::error_code()); }
    static void put(const std::exception& error, encoder& out) {
        const std::error_code code = static_cast<const std::system_error&>(error).code();
        // what() is the text given, then ": " and the code's message.
        std::string what = error.what();
        const std::string tail = ": " + code.message();
        if (what.ends_with(tail)) what.resize(what.size() - tail.size());
        out.put(std::string(code.category().name()));
        out.put(code.value());
        out.put(what);
    }
    static E make(decoder& in) {
        const std::error_category* const category = portable_category(in.get<std::string>());
        const int value = in.get<int>();
        const auto what = in.get<std::string>();
        if (!category)
            throw_codec_error("asyncio::codec: an error code of an unknown category; decode "
                              "exactly what was encoded");
        const std::error_code code(value, *category);
        if constexpr (std::constructible_from<E, std::error_code, std::string>)
            return E(code, what);
        else return E(what, code);
    }
};
template <>
struct carried<std::system_error> {
    using base = carried<std::ios_base::failure>;
    static std::system_error sample() { return std::system_error(std::error_code(), ""); }
    static void put(const std::exception& error, encoder& out) { base::put(error, out); }
    static std::system_error make(decoder& in) {
        const std::ios_base::failure same = base::make(in);
        std::string what = same.what();
        const std::string tail = ": " + same.code().message();
        if (what.ends_with(tail)) what.resize(what.size() - tail.size());
        return std::system_error(same.code(), what);
    }
};

template <class E>
error_type type_of() {
#if defined(ASYNCIO_NO_EXCEPTIONS)
    return {&tag_of<E>, &carried<E>::put, [](decoder& in, const exception_ptr& cause) {
                return with_cause<E>(carried<E>::make(in), cause);
            }};
#else
    return {&typeid(E),
            []() -> const std::type_info& {
                static const std::type_info& type = []() -> const std::type_info& {
                    try {
                        std::throw_with_nested(carried<E>::sample());
                    } catch (const std::exception& error) {
                        return typeid(error);
                    }
                }();
                return type;
            },
            &carried<E>::put,
            [](decoder& in, const exception_ptr& cause) {
                return with_cause<E>(carried<E>::make(in), cause);
            }};
#endif
}

template <class... E>
std::array<error_type, sizeof...(E)> types_of() {
    return {type_of<E>()...};
}

// Both sides are the same program, so that a place in this table is a name.
static const auto& error_types() {
    static const auto types =
        types_of<std::exception, std::bad_alloc, std::bad_array_new_length, std::bad_cast,
                 std::bad_typeid, std::bad_exception, std::bad_function_call, std::bad_weak_ptr,
                 std::bad_optional_access, std::bad_variant_access, std::logic_error,
                 std::invalid_argument, std::domain_error, std::length_error, std::out_of_range,
                 std::runtime_error, std::range_error, std::overflow_error, std::underflow_error,
                 std::system_error, std::ios_base::failure, timeout_error, invalid_state_error,
                 queue_empty, queue_full, queue_shut_down, broken_barrier_error,
                 incomplete_read_error, limit_overrun_error, broken_executor, worker_crashed,
                 remote_error, codec_error>();
    return types;
}

static void put_group(encoder& out, error_form form, const base_exception_group& group) {
    out.put(form);
    out.put(group.message());
    out.put(group.exceptions());
}

#if defined(ASYNCIO_NO_EXCEPTIONS)

static void put_other(encoder& out, const exception_ptr& error) {
    const auto& types = error_types();
    const auto* const standard = exception_cast<std::exception>(error);
    for (std::size_t i = 0; standard && i < types.size(); ++i) {
        if (types[i].tag != error.get()->tag()) continue;
        if (const auto* const coded = exception_cast<std::system_error>(error))
            if (!portable_category(coded->code().category().name())) break;
        out.put(error_form::known);
        out.put(static_cast<std::uint8_t>(i));
        out.put(exception_ptr());
        types[i].put(*standard, out);
        return;
    }
    out.put(error_form::other);
    out.put(readable_name(error.get()->type()));
    out.put(std::string(text_of(error)));
    out.put(exception_ptr());
}

#else

static std::string current_exception_type() {
    const std::type_info* const type = current_type();
    return type ? demangled(type->name()) : "unknown";
}

static void put_standard(encoder& out, const std::exception& error) {
    const auto* const nested = dynamic_cast<const std::nested_exception*>(&error);
    const std::type_info& type = typeid(error);
    const auto& types = error_types();
    for (std::size_t i = 0; i < types.size(); ++i) {
        if (nested ? types[i].nested() != type : *types[i].plain != type) continue;
        if (const auto* const coded = dynamic_cast<const std::system_error*>(&error))
            if (!portable_category(coded->code().category().name())) break;
        out.put(error_form::known);
        out.put(static_cast<std::uint8_t>(i));
        out.put(nested ? nested->nested_ptr() : exception_ptr());
        types[i].put(error, out);
        return;
    }
    out.put(error_form::other);
    out.put(current_exception_type());
    out.put(std::string(error.what()));
    out.put(nested ? nested->nested_ptr() : exception_ptr());
}

static void put_other(encoder& out, const exception_ptr& error) {
    try {
        std::rethrow_exception(error);
    } catch (const std::exception& e) {
        put_standard(out, e);
    } catch (...) {
        out.put(error_form::other);
        out.put(current_exception_type());
        out.put(std::string("an exception that is no std::exception"));
        out.put(exception_ptr());
    }
}

#endif

void throw_codec_error(const char* message) { throw_error(codec_error(message)); }

} // namespace detail

void codec<exception_ptr>::encode(const exception_ptr& error, encoder& out) {
    using detail::error_form;
    if (!error) {
        out.put(error_form::none);
        return;
    }
    if (const auto* const end = detail::exception_cast<cancelled_error>(error)) {
        out.put(error_form::cancelled);
        out.put(std::string(end->what()));
    } else if (const auto* const stop = detail::exception_cast<keyboard_interrupt>(error)) {
        out.put(error_form::interrupt);
        out.put(std::string(stop->what()));
    } else if (const auto* const group = detail::exception_cast<exception_group>(error)) {
        detail::put_group(out, error_form::group, *group);
    } else if (const auto* const any = detail::exception_cast<base_exception_group>(error)) {
        detail::put_group(out, error_form::base_group, *any);
    } else {
        detail::put_other(out, error);
    }
}

exception_ptr codec<exception_ptr>::decode(decoder& in) {
    using detail::error_form;
    switch (in.get<error_form>()) {
    case error_form::none: return nullptr;
    case error_form::cancelled:
        return detail::make_error(cancelled_error(in.get<std::string>()));
    case error_form::interrupt:
        return detail::make_error(keyboard_interrupt(in.get<std::string>()));
    case error_form::group: {
        auto message = in.get<std::string>();
        auto errors = in.get<std::vector<exception_ptr>>();
        return detail::make_error(exception_group(std::move(message), std::move(errors)));
    }
    case error_form::base_group: {
        auto message = in.get<std::string>();
        auto errors = in.get<std::vector<exception_ptr>>();
        return detail::make_error(base_exception_group(std::move(message), std::move(errors)));
    }
    case error_form::known: {
        const auto& types = detail::error_types();
        const std::size_t index = in.get<std::uint8_t>();
        if (index >= types.size()) break;
        const auto cause = in.get<exception_ptr>();
        return types[index].make(in, cause);
    }
    case error_form::other: {
        auto type = in.get<std::string>();
        auto what = in.get<std::string>();
        const auto cause = in.get<exception_ptr>();
        return detail::with_cause(remote_error(std::move(type), what), cause);
    }
    }
    detail::throw_codec_error("asyncio::codec: no such exception; decode exactly what was encoded");
}

namespace detail {

#if defined(__linux__)

// -- functions that travel ---------------------------------------------------------
//
// The same program is at another address in another process, but each of its files
// (the program, libraries) has an identity and a function its place in the file.

// One loaded file that is looked for, by an address in it or by its identity.
struct module_search {
    std::uintptr_t address = 0;
    std::string id; // wanted; found
    bool by_id = false;
    std::uintptr_t base = 0;
    std::uintptr_t code_begin = 0, code_end = 0; // what may be called
    bool found = false;
};

// The build-id that the linker wrote; without one, the file's read-only beginning,
// which names all its parts, as a number.
static std::string module_identity(const dl_phdr_info& info) {
    std::uint64_t hash = 14695981039346656037u;
    const auto mix = [&](const void* data, std::size_t size) {
        const auto* bytes = static_cast<const unsigned char*>(data);
        for (std::size_t i = 0; i < size; ++i) hash = (hash ^ bytes[i]) * 1099511628211u;
    };
    for (int i = 0; i < info.dlpi_phnum; ++i) {
        const auto& part = info.dlpi_phdr[i];
        if (part.p_type != PT_NOTE) continue;
        const char* at = reinterpret_cast<const char*>(info.dlpi_addr + part.p_vaddr);
        const char* const end = at + part.p_memsz;
        while (static_cast<std::size_t>(end - at) >= sizeof(ElfW(Nhdr))) {
            ElfW(Nhdr) note;
            std::memcpy(&note, at, sizeof note);
            const char* const name = at + sizeof note;
            const char* const desc = name + (note.n_namesz + 3) / 4 * 4;
            if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 &&
                std::memcmp(name, "GNU", 4) == 0)
                return std::string(desc, note.n_descsz);
            at = desc + (note.n_descsz + 3) / 4 * 4;
        }
    }
    mix(info.dlpi_phdr, sizeof info.dlpi_phdr[0] * info.dlpi_phnum);
    for (int i = 0; i < info.dlpi_phnum; ++i) {
        const auto& part = info.dlpi_phdr[i];
        if (part.p_type != PT_LOAD || (part.p_flags & PF_W) != 0) continue;
        mix(reinterpret_cast<const char*>(info.dlpi_addr + part.p_vaddr),
            std::min<std::size_t>(part.p_filesz, 65536));
        break;
    }
    return std::string(reinterpret_cast<const char*>(&hash), sizeof hash);
}

static int visit_module(dl_phdr_info* info, std::size_t, void* context) {
    auto& search = *static_cast<module_search*>(context);
    std::uintptr_t begin = 0, end = 0;
    bool holds = false;
    for (int i = 0; i < info->dlpi_phnum; ++i) {
        const auto& part = info->dlpi_phdr[i];
        if (part.p_type != PT_LOAD) continue;
        const std::uintptr_t first = info->dlpi_addr + part.p_vaddr;
        const std::uintptr_t last = first + part.p_memsz;
        if (search.address >= first && search.address < last) holds = true;
        // Where function pointers point to descriptors, those are data.
#if defined(__powerpc64__) && defined(_CALL_ELF) && _CALL_ELF == 1
        const bool callable = true;
#else
        const bool callable = (part.p_flags & PF_X) != 0;
#endif
        if (!callable) continue;
        begin = begin == 0 ? first : std::min(begin, first);
        end = std::max(end, last);
    }
    if (!search.by_id && !holds) return 0;
    std::string id = module_identity(*info);
    if (search.by_id && id != search.id) return 0;
    search.id = std::move(id);
    search.base = info->dlpi_addr;
    search.code_begin = begin;
    search.code_end = end;
    search.found = true;
    return 1;
}

void put_code(encoder& out, code_pointer code) {
    module_search search;
    search.address = reinterpret_cast<std::uintptr_t>(code);
    ::dl_iterate_phdr(visit_module, &search);
    if (!search.found)
        throw_codec_error("asyncio::isolated_executor: the job's function is in no file of this "
                          "program; a function made at run time cannot travel");
    out.put(search.id);
    out.put(static_cast<std::uint64_t>(search.address - search.base));
}

code_pointer get_code(decoder& in) {
    module_search search;
    search.by_id = true;
    search.id = in.get<std::string>();
    const auto offset = in.get<std::uint64_t>();
    ::dl_iterate_phdr(visit_module, &search);
    if (!search.found)
        throw_codec_error("asyncio::isolated_executor: the job's function is in a library that the "
                          "worker has not loaded; link it to the program, or load it before the "
                          "executor is made and use start_method::fork");
    const std::uintptr_t address = search.base + static_cast<std::uintptr_t>(offset);
    if (address < search.code_begin || address >= search.code_end)
        throw_codec_error("asyncio::isolated_executor: the job's function is at no place of its "
                          "file that holds code; decode exactly what was encoded");
    return reinterpret_cast<code_pointer>(address);
}

// -- frames ------------------------------------------------------------------------
//
// Parent and worker exchange one frame at a time over a socket that keeps message
// boundaries. What is larger than a frame lies in sealed shared memory whose
// descriptor comes with it, so that no size of payload can fill a buffer that
// nobody empties.
//
// Facts about Linux that this depends on:
//   - A SOCK_SEQPACKET message arrives whole or not at all, with its descriptor.
//   - A peer that dies with unread messages makes recv() fail with ECONNRESET once;
//     one that had read everything makes it return 0. So a job that was never taken
//     can be told from one that killed its worker.
//   - F_SEAL_WRITE and F_SEAL_SHRINK cannot be taken back: what is mapped stays as
//     it is, whatever the other process does.

constexpr std::size_t frame_room = 64 * 1024; // of payload; more goes to shared memory

enum class frame_kind : std::uint16_t { setup, ready, unfit, job, result, failure };

struct frame_header {
    static constexpr std::uint32_t right_magic = 0x4f494141; // "AAIO"
    static constexpr std::uint16_t right_version = 1;

    std::uint32_t magic = right_magic;
    std::uint16_t version = right_version;
    frame_kind kind = frame_kind::setup;
    std::uint64_t size = 0; // of the payload
};
static_assert(sizeof(frame_header) == 16);

union descriptor_message {
    cmsghdr header;
    char room[CMSG_SPACE(sizeof(int))];
};

// Sends a descriptor along with a message; -1 is none.
static void attach_descriptor(msghdr& message, descriptor_message& control, int fd) noexcept {
    if (fd < 0) return;
    std::memset(&control, 0, sizeof control);
    message.msg_control = &control;
    message.msg_controllen = sizeof control.room;
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
}

static owned_fd attached_descriptor(msghdr& message) noexcept {
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header))
        if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
            int fd = -1;
            std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
            return owned_fd(fd);
        }
    return owned_fd();
}

// 0, or what errno says.
static int send_frame(int socket, frame_kind kind, const outgoing& call, int flags) noexcept {
    frame_header header;
    header.kind = kind;
    header.size = call.out.written();
    iovec parts[2] = {{&header, sizeof header},
                      {const_cast<char*>(call.out.bytes().data()),
                       call.shared < 0 ? call.out.bytes().size() : 0}};
    msghdr message = {};
    message.msg_iov = parts;
    message.msg_iovlen = 2;
    descriptor_message control;
    attach_descriptor(message, control, call.shared);
    for (;;) {
        if (::sendmsg(socket, &message, flags | MSG_NOSIGNAL) >= 0) return 0;
        if (errno != EINTR) return errno;
    }
}

// Takes in one frame after the other.
class frame_reader {
public:
    enum class outcome { frame, nothing, end, unread, broken };

    frame_reader() : buffer_(new char[sizeof(frame_header) + frame_room]) {}
    frame_reader(const frame_reader&) = delete;
    frame_reader& operator=(const frame_reader&) = delete;
    ~frame_reader() { unmap(); }

    outcome receive(int socket, int flags) noexcept;

    frame_kind kind() const noexcept { return kind_; }
    // The payload, until the next receive().
    std::string_view bytes() const noexcept { return bytes_; }

private:
    bool map(const owned_fd& memory, std::uint64_t size) noexcept;
    void unmap() noexcept {
        if (mapped_) ::munmap(mapped_, mapped_size_);
        mapped_ = nullptr;
    }

    std::unique_ptr<char[]> buffer_;
    frame_kind kind_ = frame_kind::setup;
    std::string_view bytes_;
    void* mapped_ = nullptr;
    std::size_t mapped_size_ = 0;
};

frame_reader::outcome frame_reader::receive(int socket, int flags) noexcept {
    unmap();
    iovec part = {buffer_.get(), sizeof(frame_header) + frame_room};
    descriptor_message control;
    msghdr message = {};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = &control;
    message.msg_controllen = sizeof control.room;
    ssize_t size = 0;
    do size = ::recvmsg(socket, &message, flags | MSG_CMSG_CLOEXEC);
    while (size < 0 && errno == EINTR);
    if (size == 0) return outcome::end;
    if (size < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK) return outcome::nothing;
        return errno == ECONNRESET ? outcome::unread : outcome::end;
    }
    const owned_fd memory = attached_descriptor(message);
    const std::size_t got = static_cast<std::size_t>(size);
    frame_header header;
    if (got < sizeof header || (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0)
        return outcome::broken;
    std::memcpy(&header, buffer_.get(), sizeof header);
    if (header.magic != frame_header::right_magic ||
        header.version != frame_header::right_version)
        return outcome::broken;
    kind_ = header.kind;
    if (memory) return map(memory, header.size) ? outcome::frame : outcome::broken;
    if (header.size != got - sizeof header) return outcome::broken;
    bytes_ = std::string_view(buffer_.get() + sizeof header, got - sizeof header);
    return outcome::frame;
}

bool frame_reader::map(const owned_fd& memory, std::uint64_t told) noexcept {
    const auto size = static_cast<std::size_t>(told);
    constexpr int wanted = F_SEAL_SHRINK | F_SEAL_WRITE;
    const int seals = ::fcntl(memory.get(), F_GET_SEALS);
    struct ::stat about;
    if (seals < 0 || (seals & wanted) != wanted || ::fstat(memory.get(), &about) < 0 ||
        static_cast<std::uint64_t>(about.st_size) != told || size != told || size == 0)
        return false;
    void* const at =
        ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, memory.get(), 0);
    if (at == MAP_FAILED) return false;
    mapped_ = at;
    mapped_size_ = size;
    bytes_ = std::string_view(static_cast<const char*>(at), size);
    return true;
}

outgoing::outgoing() : out(*this, frame_room) {}

outgoing::~outgoing() {
    if (shared >= 0) ::close(shared);
}

void outgoing::take(std::string& buffered, const char* data, std::size_t size) {
    spill(buffered.data(), buffered.size());
    buffered.clear();
    if (size < frame_room / 2) buffered.append(data, size);
    else spill(data, size);
}

void outgoing::spill(const char* data, std::size_t size) {
    if (shared < 0) {
        shared = ::memfd_create("asyncio", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (shared < 0) throw_last_error("memfd_create");
    }
    while (size > 0) {
        const ssize_t done = ::write(shared, data, std::min<std::size_t>(size, 1u << 30));
        if (done < 0) {
            if (errno == EINTR) continue;
            throw_last_error("write to shared memory");
        }
        data += done;
        size -= static_cast<std::size_t>(done);
    }
}

void outgoing::seal() {
    if (shared < 0) return;
    spill(out.bytes().data(), out.bytes().size());
    out.bytes().clear();
    if (::fcntl(shared, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0)
        throw_last_error("fcntl(F_ADD_SEALS)");
}

// -- in a worker process -----------------------------------------------------------

// Coverage runtimes write their data at exit(), which a worker does not reach.
extern "C" {
void __gcov_dump(void) __attribute__((weak));
int __llvm_profile_write_file(void) __attribute__((weak));
}

#if defined(__SANITIZE_THREAD__)
constexpr bool limits_memory = false;
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
constexpr bool limits_memory = false;
#else
constexpr bool limits_memory = !ASYNCIO_SANITIZED;
#endif
#else
constexpr bool limits_memory = !ASYNCIO_SANITIZED; // a sanitizer maps terabytes
#endif

// The descriptor at which a process that was started as a worker finds its socket.
constexpr int worker_socket = 3;

// What a worker is told first.
struct worker_setup {
    std::optional<std::uint64_t> memory_limit;
    std::optional<std::int64_t> cpu_limit; // nanoseconds per job
    bool has_initializer = false;          // its place follows
};

// A worker never runs the program's exit handlers: they are the parent's business.
[[noreturn]] static void leave_worker(int code) noexcept {
    std::fflush(nullptr);
    if (&__gcov_dump != nullptr) __gcov_dump();
    if (&__llvm_profile_write_file != nullptr) __llvm_profile_write_file();
    ::_exit(code);
}

// The same for a job that calls exit(): handlers run in reverse order, and this one is
// the last.
static void leave_at_exit() noexcept {
#if defined(__GLIBC__)
    ::on_exit([](int code, void*) { leave_worker(code); }, nullptr);
#endif
}

static void close_descriptors_from(int first) noexcept {
#if defined(SYS_close_range)
    if (::syscall(SYS_close_range, static_cast<unsigned>(first), ~0u, 0u) == 0) return;
#endif
    const long last = std::min(::sysconf(_SC_OPEN_MAX), 65536L);
    for (int fd = first; fd < last; ++fd) ::close(fd);
}

// Limits growth from here on: what the process inherited is not the job's.
static void limit_memory(std::uint64_t growth) noexcept {
    if (!limits_memory) return;
    std::FILE* const file = std::fopen("/proc/self/statm", "re");
    if (!file) return;
    unsigned long long pages = 0;
    const bool known = std::fscanf(file, "%llu", &pages) == 1;
    std::fclose(file);
    if (!known) return;
    const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    const std::uint64_t bytes = pages * page + growth;
    rlimit limit;
    limit.rlim_cur = limit.rlim_max = static_cast<rlim_t>(bytes);
    if (limit.rlim_cur == bytes) ::setrlimit(RLIMIT_AS, &limit); // else beyond all addresses
}

// Kills this process when it has used so much processor time while armed.
class cpu_alarm {
public:
    explicit cpu_alarm(std::optional<std::int64_t> limit) noexcept : limit_(limit) {
        if (!limit_) return;
        sigevent event = {};
        event.sigev_notify = SIGEV_SIGNAL;
        event.sigev_signo = SIGXCPU;
        if (::timer_create(CLOCK_PROCESS_CPUTIME_ID, &event, &timer_) != 0) limit_.reset();
    }
    // While one exists.
    class armed {
    public:
        explicit armed(cpu_alarm& of) noexcept : of_(of) { of_.set(of_.limit_.value_or(0)); }
        armed(const armed&) = delete;
        armed& operator=(const armed&) = delete;
        ~armed() { of_.set(0); }

    private:
        cpu_alarm& of_;
    };

private:
    void set(std::int64_t nanoseconds) noexcept {
        if (!limit_) return;
        itimerspec when = {};
        when.it_value.tv_sec = static_cast<time_t>(nanoseconds / 1000000000);
        when.it_value.tv_nsec = static_cast<long>(nanoseconds % 1000000000);
        ::timer_settime(timer_, 0, &when, nullptr);
    }
    std::optional<std::int64_t> limit_;
    timer_t timer_ = {};
};

// Sends an error; one that cannot travel is told by its text.
static void send_error(int socket, frame_kind kind, const exception_ptr& error) {
    outgoing message;
    ASYNCIO_TRY {
        message.out.put(error);
        message.seal();
        send_frame(socket, kind, message, 0);
        return;
    } ASYNCIO_CATCH(const std::exception&) {
        // Fall through to an error that surely fits.
    }
    outgoing plain;
    plain.out.put(make_error(
        codec_error("asyncio::codec: the job's error could not travel: " + describe(error))));
    plain.seal();
    send_frame(socket, kind, plain, 0);
}

// Runs a job, which puts its result, and sends what came of it.
template <class Job>
void answer(int socket, Job job) noexcept {
    exception_ptr error;
    ASYNCIO_TRY {
        outgoing result;
        job(result.out);
        result.seal();
        std::fflush(nullptr);
        send_frame(socket, frame_kind::result, result, 0);
        return;
    } ASYNCIO_CATCH_ALL {
        error = current_error();
    }
    std::fflush(nullptr);
    ASYNCIO_TRY {
        send_error(socket, frame_kind::failure, error);
    } ASYNCIO_CATCH_ALL {
        leave_worker(1); // not even the memory for an error message
    }
}

// Runs jobs until the parent closes the socket.
[[noreturn]] static void run_worker(int socket) noexcept {
    ::prctl(PR_SET_NAME, "asyncio-worker");
    leave_at_exit();
    frame_reader reader;
    if (reader.receive(socket, 0) != frame_reader::outcome::frame ||
        reader.kind() != frame_kind::setup)
        leave_worker(0);
    worker_setup setup;
    ASYNCIO_TRY {
        decoder in(reader.bytes());
        setup = in.get<worker_setup>();
        if (setup.memory_limit) limit_memory(*setup.memory_limit);
        if (setup.has_initializer) get_code(in)();
    } ASYNCIO_CATCH_ALL {
        send_error(socket, frame_kind::unfit, current_error());
        leave_worker(0);
    }
    cpu_alarm alarm(setup.cpu_limit);
    send_frame(socket, frame_kind::ready, outgoing(), 0);
    while (reader.receive(socket, 0) == frame_reader::outcome::frame)
        answer(socket, [&](encoder& out) {
            decoder in(reader.bytes());
            const auto entry = reinterpret_cast<remote_entry>(get_code(in));
            const cpu_alarm::armed limited(alarm);
            entry(in, out);
        });
    leave_worker(0);
}

// -- the fork server ---------------------------------------------------------------
//
// A process with one thread and nothing open, which makes the workers and sees them
// die. Only it knows for sure whether a process number still means a worker.
//
// Its parent is a process of the same kind, the keeper, which does nothing but make
// another server when one is killed. It cannot come from the program itself: there
// are threads by then, and locks that they hold would stay locked in all workers.
//
// Facts about Linux that this depends on:
//   - A pidfd is readable when its process has died, whoever waits for it or not.
//   - A dead child that has not been waited for keeps its process and group number:
//     killing the group before waiting hits nobody else.
//   - PR_SET_PDEATHSIG acts when the *thread* that forked ends; the server has one.
//   - With PR_SET_CHILD_SUBREAPER the children of a dead server, and those of dead
//     workers, are the keeper's before it is told that the server died.

enum class control_kind : std::int32_t { start, kill, dead, failed, lost };

struct control_message {
    control_kind kind = control_kind::start;
    std::uint32_t worker = 0;
    std::int32_t first = 0;  // kill: the signal; dead, lost: the signal or 0; failed: errno
    std::int32_t second = 0; // dead: the exit code
};

static bool send_control(int socket, const control_message& what, int fd) noexcept {
    iovec part = {const_cast<control_message*>(&what), sizeof what};
    msghdr message = {};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    descriptor_message control;
    attach_descriptor(message, control, fd);
    ssize_t sent = 0;
    do sent = ::sendmsg(socket, &message, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent == static_cast<ssize_t>(sizeof what);
}

enum class control_outcome { message, nothing, end };

static control_outcome receive_control(int socket, control_message& what, owned_fd& fd) noexcept {
    iovec part = {&what, sizeof what};
    descriptor_message control;
    msghdr message = {};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = &control;
    message.msg_controllen = sizeof control.room;
    ssize_t size = 0;
    do size = ::recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (size < 0 && errno == EINTR);
    if (size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return control_outcome::nothing;
    if (size != static_cast<ssize_t>(sizeof what)) return control_outcome::end;
    fd = attached_descriptor(message);
    return control_outcome::message;
}

// Starts this program again; it finds `socket` at worker_socket, and in its
// environment what it is to be. Throws nothing: returns errno.
static int start_program(pid_t& pid, int socket, char role) {
    const std::string variable =
        std::string("ASYNCIO_WORKER=") + role + ":" + std::to_string(::getpid());
    std::vector<char*> environment;
    for (char** entry = process_environment(); entry && *entry; ++entry)
        if (std::strncmp(*entry, "ASYNCIO_WORKER=", 15) != 0) environment.push_back(*entry);
    environment.push_back(const_cast<char*>(variable.c_str()));
    environment.push_back(nullptr);
    char* arguments[] = {::program_invocation_name, nullptr};

    // Not the number itself: a dup2() onto the same one would keep it close-on-exec.
    const owned_fd source(::fcntl(socket, F_DUPFD_CLOEXEC, worker_socket + 1));
    if (!source) return errno;
    ::posix_spawn_file_actions_t actions;
    ::posix_spawnattr_t attributes;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawnattr_init(&attributes);
    ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    ::posix_spawn_file_actions_adddup2(&actions, source.get(), worker_socket);
    const sigset_t all = all_signals();
    const sigset_t none = no_signals();
    ::posix_spawnattr_setsigdefault(&attributes, &all);
    ::posix_spawnattr_setsigmask(&attributes, &none);
    ::posix_spawnattr_setpgroup(&attributes, 0); // Ctrl-C at the terminal is not for workers
    ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF |
                                                POSIX_SPAWN_SETSIGMASK);
    const int error = ::posix_spawn(&pid, "/proc/self/exe", &actions, &attributes, arguments,
                                    environment.data());
    ::posix_spawnattr_destroy(&attributes);
    ::posix_spawn_file_actions_destroy(&actions);
    return error;
}

class fork_server {
public:
    // `parent` is the pidfd of the program. `started` counts workers.
    fork_server(int control, int parent, bool spawns, std::atomic<unsigned>& started) noexcept
        : control_(control), spawns_(spawns), parent_(parent), started_(started) {}

    [[noreturn]] void run() noexcept {
        std::vector<pollfd> polled;
        for (;;) {
            polled.clear();
            polled.push_back({control_, POLLIN, 0});
            polled.push_back({parent_, POLLIN, 0});
            for (const child& c : children_) polled.push_back({c.pidfd, POLLIN, 0});
            if (::poll(polled.data(), polled.size(), -1) < 0) {
                if (errno == EINTR) continue;
                end();
            }
            if (polled[1].revents != 0) end();
            for (std::size_t i = polled.size(); i-- > 2;)
                if (polled[i].revents != 0) bury(i - 2);
            if (polled[0].revents != 0) take_orders();
        }
    }

private:
    struct child {
        std::uint32_t worker;
        pid_t pid;
        int pidfd;
    };

    void take_orders() noexcept {
        for (;;) {
            control_message order;
            owned_fd fd;
            switch (receive_control(control_, order, fd)) {
            case control_outcome::nothing: return;
            case control_outcome::end: end();
            case control_outcome::message: break;
            }
            if (order.kind == control_kind::start) start(order.worker, fd);
            else if (order.kind == control_kind::kill) kill(order.worker, order.first);
        }
    }

    void start(std::uint32_t worker, const owned_fd& socket) noexcept {
        pid_t pid = 0;
        int error = 0;
        if (spawns_) {
            error = start_program(pid, socket.get(), 'w');
        } else {
            std::fflush(nullptr);
            pid = ::fork();
            if (pid == 0) become_worker(socket.get());
            if (pid < 0) error = errno;
            // Both sides do this, so that it is done before either goes on.
            else ::setpgid(pid, pid);
        }
        int pidfd = -1;
        if (error == 0 && (pidfd = open_pidfd(pid)) < 0) {
            error = errno;
            ::kill(-pid, SIGKILL);
            ::waitpid(pid, nullptr, 0);
        }
        if (error != 0) {
            tell({control_kind::failed, worker, error, 0});
            return;
        }
        children_.push_back({worker, pid, pidfd});
        started_.fetch_add(1, std::memory_order_relaxed);
    }

    [[noreturn]] void become_worker(int socket) noexcept {
        const pid_t server = ::getppid();
        ::setpgid(0, 0);
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (::getppid() != server) ::_exit(0);
        ::dup2(socket, worker_socket);
        ::fcntl(worker_socket, F_SETFD, FD_CLOEXEC);
        close_descriptors_from(worker_socket + 1);
        run_worker(worker_socket);
    }

    void kill(std::uint32_t worker, int signal) noexcept {
        for (const child& c : children_)
            if (c.worker == worker) ::kill(-c.pid, signal);
    }

    // A child has died: so does what it has started.
    void bury(std::size_t index) noexcept {
        const child dead = children_[index];
        children_.erase(children_.begin() + static_cast<std::ptrdiff_t>(index));
        ::kill(-dead.pid, SIGKILL);
        int status = 0;
        while (::waitpid(dead.pid, &status, 0) < 0 && errno == EINTR) {}
        ::close(dead.pidfd);
        tell({control_kind::dead, dead.worker, WIFSIGNALED(status) ? WTERMSIG(status) : 0,
              WIFEXITED(status) ? WEXITSTATUS(status) : 0});
    }

    void tell(const control_message& what) noexcept {
        if (!send_control(control_, what, -1)) end();
    }

    // The parent is gone, or needs no workers any more.
    [[noreturn]] void end() noexcept {
        for (const child& c : children_) ::kill(-c.pid, SIGKILL);
        for (const child& c : children_)
            while (::waitpid(c.pid, nullptr, 0) < 0 && errno == EINTR) {}
        leave_worker(0);
    }

    int control_;
    bool spawns_;
    int parent_;
    std::atomic<unsigned>& started_;
    std::vector<child> children_;
};

// Kills what a dead server has left behind, also what jobs have started in groups of its
// own. Bounded: what hangs in the kernel holds up nobody.
static void kill_children() noexcept {
    for (int round = 0; round < 1000; ++round) {
        if (std::FILE* const list = std::fopen("/proc/thread-self/children", "re")) {
            int pid = 0;
            while (std::fscanf(list, "%d", &pid) == 1) {
                ::kill(-pid, SIGKILL);
                ::kill(pid, SIGKILL);
            }
            std::fclose(list);
        }
        pid_t ended = 0;
        do ended = ::waitpid(-1, nullptr, WNOHANG);
        while (ended > 0);
        if (ended < 0) return;
        const timespec moment = {0, 1000000};
        ::nanosleep(&moment, nullptr);
    }
}

// Makes this process, which has its control socket at worker_socket, the keeper of a
// fork server.
[[noreturn]] static void keep_server(pid_t parent, bool spawns) noexcept {
    // Servers that die before they have started a worker, before this gives up.
    constexpr int most_failures = 10;

    ::prctl(PR_SET_NAME, "asyncio-keeper");
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
    ::fcntl(worker_socket, F_SETFD, FD_CLOEXEC);
    close_descriptors_from(worker_socket + 1);
    pollfd program = {open_pidfd(parent), POLLIN, 0};
    // It may have died before its pidfd was there.
    if (::getppid() != parent) ::_exit(0);
    void* const page = ::mmap(nullptr, sizeof(std::atomic<unsigned>), PROT_READ | PROT_WRITE,
                              MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) leave_worker(1);
    auto& started = *::new (page) std::atomic<unsigned>(0); // shared with the server
    for (int failures = 0; failures < most_failures;) {
        const unsigned before = started.load();
        const pid_t server = ::fork();
        if (server == 0) {
            ::prctl(PR_SET_NAME, "asyncio-forks");
            fork_server(worker_socket, program.fd, spawns, started).run();
        }
        if (server > 0) {
            int status = 0;
            pid_t ended = 0;
            do ended = ::waitpid(-1, &status, 0);
            while (ended != server && (ended >= 0 || errno == EINTR));
            kill_children();
            if (ended == server && WIFEXITED(status)) leave_worker(0); // nobody needs it
            if (!send_control(worker_socket, {control_kind::lost, 0, WTERMSIG(status), 0}, -1))
                leave_worker(0);
        }
        failures = started.load() != before ? 1 : failures + 1;
        // 0, 20, 40 ... milliseconds; nothing is lost, as orders wait in the socket.
        const int pause = failures == 1 ? 0 : std::min(5 << failures, 1000);
        if (::poll(&program, 1, pause) > 0) leave_worker(0);
    }
    leave_worker(1);
}

// Whether worker_main() has been called in this program.
static std::atomic<bool> worker_main_ran{false};

// What this process was started to be: f and s are fork servers that fork and
// spawn, w is a worker, 0 is none of them.
static char worker_role(pid_t& parent) noexcept {
    const char* const text = std::getenv("ASYNCIO_WORKER");
    if (!text || !*text || text[1] != ':') return 0;
    // The variable alone may have been inherited by somebody else.
    int type = 0;
    socklen_t size = sizeof type;
    if (::getsockopt(worker_socket, SOL_SOCKET, SO_TYPE, &type, &size) != 0 ||
        type != SOCK_SEQPACKET)
        return 0;
    parent = static_cast<pid_t>(std::strtol(text + 2, nullptr, 10));
    return *text;
}

void refuse_in_worker() {
    if (worker_main_ran.load(std::memory_order_relaxed)) return;
    pid_t parent = 0;
    if (worker_role(parent) == 0) return;
    static constexpr std::string_view sentence =
        "asyncio::worker_main: this process was started as a worker, but main() did not call "
        "worker_main(); make asyncio::worker_main() the first line of main()\n";
    static_cast<void>(!::write(STDERR_FILENO, sentence.data(), sentence.size()));
    ::_exit(1);
}

} // namespace detail

void worker_main() {
    detail::worker_main_ran.store(true);
    pid_t parent = 0;
    const char role = detail::worker_role(parent);
    if (role == 0) return;
    ::unsetenv("ASYNCIO_WORKER");
    if (role == 'w') {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (::getppid() != parent) ::_exit(0);
        ::fcntl(detail::worker_socket, F_SETFD, FD_CLOEXEC);
        detail::close_descriptors_from(detail::worker_socket + 1);
        detail::run_worker(detail::worker_socket);
    }
    detail::keep_server(parent, role == 's');
}

namespace detail {

// -- process workers, seen from the parent -----------------------------------------
//
// One thread per executor, the supervisor, reads what workers send and hears of
// their deaths. Whoever submits a job writes it to an idle worker itself, so that
// the supervisor sleeps whenever nothing has happened.
//
// A loop that alone waits for a job listens to its worker itself, which saves the way
// through the supervisor's thread. It keeps listening there, so
// that the next job costs nothing more, until somebody else's job goes to that worker,
// jobs have to queue, or the executor ends: a loop may be busy or gone, and then others
// must not wait for it. Whoever receives an answer first deals with it.

class process_core final : public executor_core {
public:
    struct settings {
        std::string who;
        std::size_t most = 1;
        start_method start = start_method::forkserver;
        std::optional<std::size_t> max_tasks;
        std::optional<duration> job_timeout;
        worker_setup setup;
        void (*initializer)() = nullptr;
    };

    explicit process_core(settings how);
    ~process_core() override;

    void begin();
    void submit(ref_ptr<concurrent_base> state, remote_job& job,
                box<outgoing> call) override;
    void stop(remote_job& job) noexcept override;
    void shutdown(bool wait, bool cancel_futures) override;
    void kill(int signal) override;
    void close() noexcept override;

private:
    using clock = std::chrono::steady_clock;

    struct item {
        ref_ptr<concurrent_base> state;
        remote_job* job = nullptr;
        box<outgoing> call; // kept while it runs: a job never taken is sent again
        bool started = false;
    };
    enum class phase { starting, idle, busy, leaving };
    struct worker {
        std::uint32_t id = 0;
        owned_fd socket;
        phase now = phase::starting;
        item job; // while busy
        std::size_t jobs = 0;
        std::optional<clock::time_point> deadline;
        loop_core* listener = nullptr;      // null: the supervisor
        std::vector<loop_core*> watched_by; // loops that have its socket among their readers
        int kill_with = 0;    // a signal that the supervisor is to have sent
        bool silent = false;  // nothing more comes from its socket
        bool untaken = false; // it has died, and its job was not read
    };
    // What has happened to a job; told to its future when no lock is held.
    struct ending {
        item job;
        exception_ptr error; // null: cancelled
    };
    using endings = std::vector<ending>;
    struct loop_link;

    void start_server();
    void reap_server() noexcept;
    void supervise() noexcept;
    void settle(endings& ends);
    bool start_worker(endings& ends);
    void hand_out(endings& ends, loop_core* alone = nullptr);
    void set_listener(worker& w, loop_core* loop);
    void listen_alone() noexcept;
    void set_timer();
    void wake() noexcept;
    void listen(worker& from, bool to_the_end);
    bool hear(std::uint32_t id, loop_core* loop, frame_reader& reader);
    void unlink(std::uint32_t id, loop_core* loop) noexcept;
    bool take(worker& from, frame_reader::outcome got, const frame_reader& reader, item& job,
              endings& ends);
    bool take_frame(worker& from, const frame_reader& reader, item& job, endings& ends);
    void take_notes();
    void bury(std::uint32_t id, int signal, int code, bool by_itself = true);
    void expire(clock::time_point now);
    void server_lost(int signal);
    void server_died();
    void break_pool(const std::string& why, endings& ends);
    void cancel_queue(endings& ends);
    void wait_for_end() noexcept;
    void make_idle(worker& w);
    void forget_idle(const worker& w) noexcept;
    void dismiss(worker& w) noexcept;
    worker* find(std::uint32_t id) noexcept;
    bool any_fit() const noexcept;
    static void finish(endings& ends) noexcept;

    const settings how_;
    owned_fd control_;
    owned_fd server_; // the keeper's pidfd
    owned_fd wake_;
    owned_fd timer_;

    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<item> queue_;
    std::vector<std::unique_ptr<worker>> workers_; // the supervisor alone adds and removes
    std::vector<worker*> idle_;                    // the last used is used next: it is warm
    std::size_t starting_ = 0;
    std::uint32_t next_id_ = 1;
    std::size_t deaths_in_a_row_ = 0; // before they took a job
    std::size_t unfit_in_a_row_ = 0;  // whose initializer failed
    bool shut_down_ = false;
    bool over_ = false;
    std::string broken_;
    std::optional<clock::time_point> kill_at_; // of the destructor
    std::optional<clock::time_point> timer_set_;
    std::thread supervisor_;
    std::thread::id supervisor_id_;
    frame_reader reader_; // the supervisor's
};

static owned_fd made_fd(int fd, const char* call) {
    if (fd < 0) throw_last_error(call);
    return owned_fd(fd);
}

static std::pair<owned_fd, owned_fd> socket_pair() {
    int both[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, both) < 0)
        throw_last_error("socketpair");
    std::pair<owned_fd, owned_fd> pair{owned_fd(both[0]), owned_fd(both[1])};
    // Room for a full frame, whatever the system's default is.
    const int room = 4 * static_cast<int>(frame_room);
    for (const int fd : both) ::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    return pair;
}

// Forks a child that runs `body`, which does not return. The child has a process group
// of its own: Ctrl-C at the terminal is not for it.
template <class Body>
static pid_t fork_child(Body body) {
    // No handler of the parent's may run in the child: it would write to pipes that
    // both have.
    const signals_held quiet;
    std::fflush(nullptr);
    const pid_t pid = ::fork();
    if (pid < 0) throw_last_error("fork");
    if (pid > 0) {
        // Both sides do this, so that it is done before either goes on.
        ::setpgid(pid, pid);
        return pid;
    }
    this_thread_core = nullptr;
    ::setpgid(0, 0);
    for (int signal = 1; signal < NSIG; ++signal) ::signal(signal, SIG_DFL);
    const int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (null >= 0) ::dup2(null, STDIN_FILENO);
    const sigset_t none = no_signals();
    ::pthread_sigmask(SIG_SETMASK, &none, nullptr);
    body();
    leave_worker(0);
}

process_core::process_core(settings how)
    : executor_core(true), how_(std::move(how)),
      wake_(made_fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd")),
      timer_(made_fd(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK),
                     "timerfd_create")) {
    start_server();
}

process_core::~process_core() {
    // Only when begin() failed: else the supervisor has done it.
    control_.reset();
    reap_server();
}

// Only by its pidfd: somebody else's waitpid(-1) may have been first, and its number may
// be another process's by now.
void process_core::reap_server() noexcept {
    siginfo_t about = {};
    if (server_)
        while (::waitid(id_is_pidfd, static_cast<id_t>(server_.get()), &about, WEXITED) < 0 &&
               errno == EINTR) {}
    server_.reset();
}

static std::size_t count_threads() noexcept {
    std::size_t threads = 0;
    if (DIR* const tasks = ::opendir("/proc/self/task")) {
        while (const dirent* entry = ::readdir(tasks))
            if (entry->d_name[0] != '.') ++threads;
        ::closedir(tasks);
    }
    return threads;
}

static void warn_of_threads(const std::string& who) {
    if (!(this_thread_core ? this_thread_core->debug : ASYNCIO_DEBUG != 0)) return;
    const std::size_t threads = count_threads();
    if (threads > 1)
        std::fprintf(stderr,
                     "%s: %zu threads run while the workers' process is forked; make the executor "
                     "before them, or call asyncio::worker_main() first in main()\n",
                     who.c_str(), threads);
}

void process_core::start_server() {
    auto [ours, theirs] = socket_pair();
    const bool again = worker_main_ran.load() && how_.start != start_method::fork;
    pid_t pid = 0;
    if (again) {
        const int error =
            start_program(pid, theirs.get(), how_.start == start_method::spawn ? 's' : 'f');
        if (error != 0) throw_system_error(error, "posix_spawn");
    } else {
        warn_of_threads(how_.who);
        const pid_t parent = ::getpid();
        pid = fork_child([&] {
            ::dup2(theirs.get(), worker_socket);
            keep_server(parent, false);
        });
    }
    server_ = owned_fd(open_pidfd(pid));
    control_ = std::move(ours);
}

void process_core::begin() {
    auto self = std::static_pointer_cast<process_core>(shared_from_this());
    const signals_held quiet;
    const std::lock_guard guard(mutex_);
    harmless_threads.fetch_add(1);
    ASYNCIO_TRY {
        supervisor_ = std::thread([self = std::move(self)] {
            self->supervise();
            harmless_threads.fetch_sub(1);
        });
    } ASYNCIO_CATCH_ALL {
        harmless_threads.fetch_sub(1);
        rethrow_current();
    }
    supervisor_id_ = supervisor_.get_id();
}

void process_core::wake() noexcept {
    const std::uint64_t one = 1;
    static_cast<void>(!::write(wake_.get(), &one, sizeof one));
}

void process_core::finish(endings& ends) noexcept {
    for (ending& end : ends) {
        if (end.error) end.job.state->fail(std::move(end.error));
        else end.job.state->cancel_anyway();
    }
    ends.clear();
}

void process_core::submit(ref_ptr<concurrent_base> state, remote_job& job,
                          box<outgoing> call) {
    endings ends;
    {
        const std::lock_guard guard(mutex_);
        if (!broken_.empty()) throw_error(broken_executor(broken_));
        if (shut_down_)
            throw_error(std::runtime_error(how_.who +
                                           "::submit: the executor was shut down; submit "
                                           "before shutdown(), or make another one"));
        queue_.push_back({std::move(state), &job, std::move(call), false});
        hand_out(ends, queue_.size() == 1 ? submitting_loop : nullptr);
        if (!queue_.empty()) listen_alone();
        if (how_.job_timeout) set_timer();
        if (starting_ < queue_.size() && workers_.size() < how_.most) wake();
    }
    finish(ends);
}

// Gives jobs to idle workers. `alone`: the loop, on this thread, that alone waits for the
// only job.
void process_core::hand_out(endings& ends, loop_core* alone) {
    while (!queue_.empty() && !idle_.empty()) {
        item& next = queue_.front();
        if (!next.started && !next.state->start()) {
            queue_.pop_front(); // cancelled
            continue;
        }
        next.started = true;
        worker& w = *idle_.back();
        set_listener(w, alone);
        const int error = send_frame(w.socket.get(), frame_kind::job, *next.call, MSG_DONTWAIT);
        if (error == EPIPE || error == ECONNRESET) {
            // It has died idle; its death note is on the way.
            idle_.pop_back();
            w.now = phase::leaving;
            continue;
        }
        if (error != 0) {
            ends.push_back({std::move(next), make_error(std::system_error(
                                                 error, std::system_category(), "sendmsg"))});
            queue_.pop_front();
            continue;
        }
        idle_.pop_back();
        w.job = std::move(next);
        w.now = phase::busy;
        if (how_.job_timeout) w.deadline = steady_deadline(how_.job_timeout);
        queue_.pop_front();
    }
}

// Ends a job with what its worker sent.
static void finish_remote(concurrent_base& state, remote_job& job, const frame_reader& reader) {
    if (!state.claim()) return;
    ASYNCIO_TRY {
        decoder in(reader.bytes());
        if (reader.kind() == frame_kind::result) job.decode_result(in);
        else state.error = in.get<exception_ptr>();
    } ASYNCIO_CATCH_ALL {
        state.error = current_error();
    }
    state.publish(concurrent_base::status::finished);
}

// A worker's socket among the readers of a loop. It has a descriptor of its own for the
// socket: the other one may be closed by then.
struct process_core::loop_link {
    std::weak_ptr<process_core> pool;
    std::uint32_t worker;
    loop_core* loop;
    owned_fd socket;
    bool registered = false;
    frame_reader reader = {};

    ~loop_link() {
        const auto core = pool.lock();
        if (core && registered) core->unlink(worker, loop);
    }
    void ready() {
        const auto core = pool.lock();
        if (!core || !core->hear(worker, loop, reader)) loop->loop->remove_reader(socket.get());
    }
};

// Says who listens to a worker from now on; a loop's thread only says so of its own loop.
void process_core::set_listener(worker& w, loop_core* loop) {
    if (w.listener == loop) return;
    w.listener = loop;
    if (!loop) {
        wake();
        return;
    }
    if (std::find(w.watched_by.begin(), w.watched_by.end(), loop) != w.watched_by.end()) return;
    ASYNCIO_TRY {
        owned_fd socket = made_fd(::fcntl(w.socket.get(), F_DUPFD_CLOEXEC, 0), "fcntl");
        const int fd = socket.get();
        w.watched_by.push_back(loop);
        auto link = std::shared_ptr<loop_link>(new loop_link{
            std::static_pointer_cast<process_core>(shared_from_this()), w.id, loop,
            std::move(socket)});
        loop->loop->add_reader(fd, [link] { link->ready(); });
        link->registered = true;
    } ASYNCIO_CATCH_ALL {
        std::erase(w.watched_by, loop);
        w.listener = nullptr; // the supervisor, which has not stopped to
    }
}

// Leaves no worker to a loop.
void process_core::listen_alone() noexcept {
    bool changed = false;
    for (const auto& w : workers_) changed |= std::exchange(w->listener, nullptr) != nullptr;
    if (changed) wake();
}

void process_core::unlink(std::uint32_t id, loop_core* loop) noexcept {
    const std::lock_guard guard(mutex_);
    worker* const w = find(id);
    if (!w) return;
    std::erase(w->watched_by, loop);
    if (w->listener != loop) return;
    w->listener = nullptr;
    wake();
}

// A loop has found a worker's socket readable. False: it is not to listen there.
bool process_core::hear(std::uint32_t id, loop_core* loop, frame_reader& reader) {
    endings ends;
    item job;
    bool listens = false;
    {
        const std::lock_guard guard(mutex_);
        worker* const w = find(id);
        if (!w || w->silent) return false;
        const auto got = reader.receive(w->socket.get(), MSG_DONTWAIT);
        if (got != frame_reader::outcome::nothing) take(*w, got, reader, job, ends);
        listens = w->listener == loop && !w->silent;
        if (w->silent || shut_down_ || !queue_.empty()) wake();
    }
    finish(ends);
    if (job.state) finish_remote(*job.state, *job.job, reader);
    return listens;
}

void process_core::set_timer() {
    std::optional<clock::time_point> first = kill_at_;
    for (const auto& w : workers_)
        if (w->now == phase::busy && w->deadline && (!first || *w->deadline < *first))
            first = w->deadline;
    if (first == timer_set_) return;
    timer_set_ = first;
    itimerspec when = {};
    if (first) {
        const std::int64_t ns = std::max<std::int64_t>(
            std::chrono::duration_cast<std::chrono::nanoseconds>(first->time_since_epoch()).count(),
            1);
        when.it_value.tv_sec = static_cast<time_t>(ns / 1000000000);
        when.it_value.tv_nsec = static_cast<long>(ns % 1000000000);
    }
    ::timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &when, nullptr);
}

process_core::worker* process_core::find(std::uint32_t id) noexcept {
    for (const auto& w : workers_)
        if (w->id == id) return w.get();
    return nullptr;
}

bool process_core::any_fit() const noexcept {
    return std::any_of(workers_.begin(), workers_.end(), [](const auto& w) {
        return w->now == phase::idle || w->now == phase::busy;
    });
}

void process_core::make_idle(worker& w) {
    w.now = phase::idle;
    w.deadline.reset();
    idle_.push_back(&w);
}

void process_core::forget_idle(const worker& w) noexcept { std::erase(idle_, &w); }

// Lets a worker leave by itself.
void process_core::dismiss(worker& w) noexcept {
    forget_idle(w);
    if (w.now == phase::starting) --starting_;
    w.now = phase::leaving;
    w.silent = true;
    ::shutdown(w.socket.get(), SHUT_RDWR); // loops may have it open, too
    w.socket.reset();
}

void process_core::supervise() noexcept {
    name_this_thread("asyncio-workers");
    std::vector<pollfd> polled;
    std::vector<worker*> heard;
    for (;;) {
        endings ends;
        polled.clear();
        heard.clear();
        {
            const std::lock_guard guard(mutex_);
            settle(ends);
            if (shut_down_ && queue_.empty() && workers_.empty() && ends.empty()) break;
            polled.push_back({wake_.get(), POLLIN, 0});
            polled.push_back({timer_.get(), POLLIN, 0});
            polled.push_back({control_.get(), POLLIN, 0});
            for (const auto& w : workers_)
                if (!w->silent && !w->listener) {
                    polled.push_back({w->socket.get(), POLLIN, 0});
                    heard.push_back(w.get());
                }
        }
        if (!ends.empty()) {
            finish(ends);
            continue; // a callback may have submitted something
        }
        if (::poll(polled.data(), polled.size(), -1) < 0) continue;
        std::uint64_t count = 0;
        if (polled[0].revents != 0)
            static_cast<void>(!::read(wake_.get(), &count, sizeof count));
        // First what workers say, then that they have died.
        for (std::size_t i = 0; i < heard.size(); ++i)
            if (polled[i + 3].revents != 0) listen(*heard[i], false);
        if (polled[2].revents != 0) take_notes();
        if (polled[1].revents != 0) {
            static_cast<void>(!::read(timer_.get(), &count, sizeof count));
            expire(clock::now());
        }
    }
    // Nobody is left: the server leaves when its socket closes.
    control_.reset();
    if (server_) {
        pollfd gone = {server_.get(), POLLIN, 0};
        while (::poll(&gone, 1, 2000) < 0 && errno == EINTR) {}
        if (gone.revents == 0)
            ::syscall(SYS_pidfd_send_signal, server_.get(), SIGKILL, nullptr, 0u);
    }
    reap_server();
    const std::lock_guard guard(mutex_);
    over_ = true;
    changed_.notify_all();
}

// Does what the present state asks for.
void process_core::settle(endings& ends) {
    hand_out(ends);
    if (shut_down_ && queue_.empty())
        for (const auto& w : workers_)
            if (w->now == phase::idle || w->now == phase::starting) dismiss(*w);
    for (const auto& w : workers_)
        if (const int signal = std::exchange(w->kill_with, 0))
            send_control(control_.get(), {control_kind::kill, w->id, signal, 0}, -1);
    // While some workers are fit and the new ones are not, those are enough.
    while (broken_.empty() && starting_ < queue_.size() && workers_.size() < how_.most &&
           unfit_in_a_row_ < how_.most)
        if (!start_worker(ends)) break;
    set_timer();
}

bool process_core::start_worker(endings& ends) {
    ASYNCIO_TRY {
        auto [ours, theirs] = socket_pair();
        outgoing setup;
        setup.out.put(how_.setup);
        if (how_.initializer) put_code(setup.out, how_.initializer);
        setup.seal();
        const int error = send_frame(ours.get(), frame_kind::setup, setup, MSG_DONTWAIT);
        if (error != 0) throw_system_error(error, "sendmsg");
        auto made = std::make_unique<worker>();
        made->id = next_id_++;
        made->socket = std::move(ours);
        workers_.reserve(workers_.size() + 1);
        idle_.reserve(how_.most);
        if (!send_control(control_.get(), {control_kind::start, made->id, 0, 0}, theirs.get()))
            throw_runtime_error("asyncio::isolated_executor: the fork server has died; make "
                                "another executor");
        workers_.push_back(std::move(made));
        ++starting_;
        return true;
    } ASYNCIO_CATCH_AS(const std::exception& error) {
        // Those that work will come to the jobs; with none, nobody would.
        if (workers_.empty())
            break_pool(how_.who + ": no worker could be started: " + error.what(), ends);
        return false;
    }
}

void process_core::break_pool(const std::string& why, endings& ends) {
    if (broken_.empty()) broken_ = why;
    for (item& waiting : queue_)
        ends.push_back({std::move(waiting), make_error(broken_executor(broken_))});
    queue_.clear();
}

// On the supervisor, which alone removes workers.
void process_core::listen(worker& from, bool to_the_end) {
    for (;;) {
        {
            const std::lock_guard guard(mutex_);
            if (from.silent) return;
        }
        const frame_reader::outcome got = reader_.receive(from.socket.get(), MSG_DONTWAIT);
        if (got == frame_reader::outcome::nothing) return;
        endings ends;
        item job;
        bool more = false;
        {
            const std::lock_guard guard(mutex_);
            more = take(from, got, reader_, job, ends);
        }
        finish(ends);
        if (job.state) finish_remote(*job.state, *job.job, reader_);
        // A worker sends one frame per job: asking for more costs a system call that
        // finds nothing.
        if (!more || !to_the_end) return;
    }
}

// Deals with what came from a worker. False: nothing more will come.
bool process_core::take(worker& from, frame_reader::outcome got, const frame_reader& reader,
                        item& job, endings& ends) {
    if (got == frame_reader::outcome::frame && take_frame(from, reader, job, ends)) {
        hand_out(ends);
        return true;
    }
    from.silent = true;
    from.untaken = got == frame_reader::outcome::unread;
    // Usually it is dead; one that has only closed its socket is of no use.
    from.kill_with = SIGKILL;
    forget_idle(from);
    const bool noise = got == frame_reader::outcome::frame || got == frame_reader::outcome::broken;
    if (noise && from.now == phase::busy)
        ends.push_back({std::exchange(from.job, {}),
                        make_error(codec_error(
                            how_.who + ": what the worker sent is no message; a job must not "
                                       "write to descriptors it did not open"))});
    if (from.now == phase::idle) from.now = phase::leaving;
    return false;
}

// False: it has no business to send that now.
bool process_core::take_frame(worker& from, const frame_reader& reader, item& job,
                              endings& ends) {
    switch (reader.kind()) {
    case frame_kind::ready:
        if (from.now != phase::starting) return false;
        --starting_;
        unfit_in_a_row_ = 0;
        make_idle(from);
        return true;
    case frame_kind::unfit: {
        if (from.now != phase::starting) return false;
        std::string why = "unknown";
        ASYNCIO_TRY {
            decoder in(reader.bytes());
            why = describe(in.get<exception_ptr>());
        } ASYNCIO_CATCH(const std::exception&) {
            // It is unfit all the same.
        }
        dismiss(from);
        ++unfit_in_a_row_;
        if (unfit_in_a_row_ >= how_.most && !any_fit())
            break_pool(how_.who + ": the initializer threw " + why +
                           " in every worker; none can run jobs",
                       ends);
        return true;
    }
    case frame_kind::result:
    case frame_kind::failure:
        // A job that was cancelled or timed out has left the worker already.
        if (from.now == phase::leaving) return true;
        if (from.now != phase::busy) return false;
        job = std::exchange(from.job, {});
        deaths_in_a_row_ = 0;
        ++from.jobs;
        if (how_.max_tasks && from.jobs == *how_.max_tasks) dismiss(from);
        else make_idle(from);
        return true;
    default: return false;
    }
}

void process_core::take_notes() {
    for (;;) {
        control_message note;
        owned_fd fd;
        switch (receive_control(control_.get(), note, fd)) {
        case control_outcome::nothing: return;
        case control_outcome::end: server_died(); return;
        case control_outcome::message: break;
        }
        if (note.kind == control_kind::dead) bury(note.worker, note.first, note.second);
        else if (note.kind == control_kind::failed) bury(note.worker, 0, -note.first);
        else if (note.kind == control_kind::lost) server_lost(note.first);
    }
}

// "signal 11 (Segmentation fault)" or "exit code 3".
static std::string how_it_died(int signal, int code) {
    if (code < 0) return std::system_category().message(-code) + ", before it began";
    if (signal == 0) return "exit code " + std::to_string(code);
    std::string text = "signal " + std::to_string(signal);
#if defined(__GLIBC_PREREQ)
#if __GLIBC_PREREQ(2, 32)
    if (const char* name = ::sigdescr_np(signal)) text += std::string(" (") + name + ")";
#endif
#endif
    return text;
}

void process_core::bury(std::uint32_t id, int signal, int code, bool by_itself) {
    worker* const dead = find(id);
    if (!dead) return;
    listen(*dead, true); // what it still managed to say
    endings ends;
    {
        const std::lock_guard guard(mutex_);
        forget_idle(*dead);
        bool early = false;
        if (dead->now == phase::starting) {
            --starting_;
            early = true;
        }
        if (dead->job.state && dead->untaken) {
            queue_.push_front(std::move(dead->job));
            early = true;
        } else if (dead->job.state) {
            deaths_in_a_row_ = 0;
            ends.push_back({std::move(dead->job),
                            make_error(worker_crashed(
                                how_.who + ": the worker that ran this job died by " +
                                    how_it_died(signal, code),
                                signal, code))});
        }
        std::erase_if(workers_, [&](const auto& w) { return w.get() == dead; });
        if (early && by_itself && ++deaths_in_a_row_ >= 3)
            break_pool(how_.who + ": three workers in a row died before they took a job, the last "
                                  "by " +
                           how_it_died(signal, code) +
                           "; see whether the program can be started again",
                       ends);
    }
    finish(ends);
}

void process_core::expire(clock::time_point now) {
    // A job that is late only because its loop has no time to listen is not late.
    std::vector<worker*> unheard;
    {
        const std::lock_guard guard(mutex_);
        for (const auto& w : workers_)
            if (w->now == phase::busy && w->listener && w->deadline && *w->deadline <= now) {
                w->listener = nullptr;
                unheard.push_back(w.get());
            }
    }
    for (worker* const w : unheard) listen(*w, false);
    endings ends;
    {
        const std::lock_guard guard(mutex_);
        timer_set_.reset();
        const bool end = kill_at_ && *kill_at_ <= now;
        if (end) kill_at_.reset();
        for (const auto& w : workers_) {
            const bool late = w->now == phase::busy && w->deadline && *w->deadline <= now;
            if (late)
                ends.push_back({std::exchange(w->job, {}),
                                make_error(timeout_error(
                                    how_.who + ": the job ran longer than job_timeout; its worker "
                                               "was killed"))});
            else if (end && w->now == phase::busy)
                ends.push_back({std::exchange(w->job, {}),
                                make_error(broken_executor(
                                    how_.who + ": the executor was destroyed while the job ran; "
                                               "wait with shutdown() before that"))});
            if (late || end) {
                if (w->now == phase::starting) --starting_;
                forget_idle(*w);
                w->now = phase::leaving;
                w->kill_with = SIGKILL;
            }
        }
    }
    finish(ends);
}

// The server was killed, and its workers with it; the next one is on its way. It finds
// the orders that nobody has read, also for workers of which nothing is left here: they
// leave at once.
void process_core::server_lost(int signal) {
    while (!workers_.empty()) bury(workers_.back()->id, signal, 0, false);
}

// The server and its keeper are gone, and all workers with them.
void process_core::server_died() {
    server_lost(SIGKILL);
    endings ends;
    {
        const std::lock_guard guard(mutex_);
        break_pool(how_.who + ": the processes that make the workers have died; make another "
                              "executor",
                   ends);
        control_.reset(); // poll() passes over it
    }
    finish(ends);
}

void process_core::cancel_queue(endings& ends) {
    for (item& waiting : queue_) ends.push_back({std::move(waiting), nullptr});
    queue_.clear();
}

void process_core::stop(remote_job& job) noexcept {
    endings ends;
    {
        const std::lock_guard guard(mutex_);
        for (auto i = queue_.begin(); i != queue_.end(); ++i)
            if (i->job == &job) {
                ends.push_back({std::move(*i), nullptr});
                queue_.erase(i);
                break;
            }
        for (const auto& w : workers_)
            if (w->now == phase::busy && w->job.job == &job) {
                ends.push_back({std::exchange(w->job, {}), nullptr});
                w->now = phase::leaving;
                w->kill_with = SIGKILL;
                wake();
            }
    }
    finish(ends);
}

void remote_job::stop() noexcept {
    if (const auto core = pool.lock()) core->stop(*this);
}

void process_core::wait_for_end() noexcept {
    std::unique_lock lock(mutex_);
    // A done-callback runs on the supervisor, which cannot wait for itself.
    if (std::this_thread::get_id() == supervisor_id_) {
        if (supervisor_.joinable()) supervisor_.detach();
        return;
    }
    changed_.wait(lock, [this] { return over_; });
    std::thread ended = std::move(supervisor_);
    lock.unlock();
    if (ended.joinable()) ended.join();
}

void process_core::shutdown(bool wait, bool cancel_futures) {
    endings ends;
    {
        const std::lock_guard guard(mutex_);
        shut_down_ = true;
        listen_alone();
        if (cancel_futures) cancel_queue(ends);
    }
    finish(ends);
    wake();
    if (wait) wait_for_end();
}

void process_core::close() noexcept {
    endings ends;
    {
        const std::lock_guard guard(mutex_);
        shut_down_ = true;
        listen_alone();
        cancel_queue(ends);
        kill_at_ = clock::now() + std::chrono::seconds(1);
    }
    finish(ends);
    wake();
    wait_for_end();
}

void process_core::kill(int signal) {
    endings ends;
    {
        const std::lock_guard guard(mutex_);
        shut_down_ = true;
        listen_alone();
        cancel_queue(ends);
        for (const auto& w : workers_) w->kill_with = signal;
    }
    finish(ends);
    wake();
}

// -- a child for one job -----------------------------------------------------------

// Throws while other threads of this process are at work.
static void require_no_threads() {
#if defined(__SANITIZE_THREAD__)
    constexpr std::size_t own = 2; // the sanitizer has one
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
    constexpr std::size_t own = 2;
#else
    constexpr std::size_t own = 1;
#endif
#else
    constexpr std::size_t own = 1;
#endif
    std::size_t others = 0;
    // One that has been joined may be listed for a moment more.
    for (int round = 0; round < 100; ++round) {
        const std::size_t harmless = harmless_threads.load();
        const std::size_t all = count_threads();
        if (all <= own + harmless) return;
        others = all - own - harmless;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    throw_error(std::runtime_error("asyncio::fork_job: " + std::to_string(others) +
                             " other threads are at work, and locks that they hold would stay "
                             "locked in the child; fork while none runs, or use an "
                             "isolated_executor"));
}

// Closes what exec() would have closed, all but `kept`.
static void close_as_exec_would(int kept) noexcept {
    DIR* const list = ::opendir("/proc/self/fd");
    if (!list) return;
    while (const dirent* entry = ::readdir(list)) {
        const int fd = static_cast<int>(std::strtol(entry->d_name, nullptr, 10));
        const int flags = ::fcntl(fd, F_GETFD);
        if (fd != kept && fd != ::dirfd(list) && flags >= 0 && (flags & FD_CLOEXEC) != 0)
            ::close(fd);
    }
    ::closedir(list);
}

[[noreturn]] static void run_forked(int socket, forked_call& call, pid_t parent) noexcept {
    ::prctl(PR_SET_NAME, "asyncio-job");
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(0);
    leave_at_exit();
    close_as_exec_would(socket);
    // Not before the parent has a pidfd: somebody else's wait() could be faster.
    char go = 0;
    if (::recv(socket, &go, sizeof go, 0) != sizeof go) ::_exit(0);
    answer(socket, [&](encoder& out) { call.run(out); });
    leave_worker(0);
}

// An executor for one job. The loop watches its socket, then its process, and keeps it
// until the process has been waited for.
class forked_process final : public executor_core {
public:
    forked_process(event_loop& loop, ref_ptr<concurrent_base> state, remote_job& job)
        : executor_core(true), loop_(loop), state_(std::move(state)), job_(job) {}
    ~forked_process() override {
        if (!process_) return;
        // The loop is closed.
        kill_group();
        static_cast<void>(reap());
        state_->cancel_anyway();
    }

    void start(forked_call& call) {
        auto [ours, theirs] = socket_pair();
        const pid_t parent = ::getpid();
        pid_ = fork_child([&] { run_forked(theirs.get(), call, parent); });
        process_ = owned_fd(open_pidfd(pid_));
        if (!process_) {
            const int error = errno;
            ::kill(-pid_, SIGKILL);
            ::waitpid(pid_, nullptr, 0);
            throw_system_error(error, "pidfd_open");
        }
        ::send(ours.get(), "", 1, MSG_NOSIGNAL);
        socket_ = std::move(ours);
        state_->start();
        loop_.add_reader(socket_.get(), [self = self()] { self->listen(); });
    }

    void stop(remote_job&) noexcept override {
        kill_group();
        state_->cancel_anyway();
    }
    void shutdown(bool, bool) override {}
    void close() noexcept override {}

private:
    std::shared_ptr<forked_process> self() {
        return std::static_pointer_cast<forked_process>(shared_from_this());
    }

    void listen() {
        frame_reader reader;
        const frame_reader::outcome got = reader.receive(socket_.get(), MSG_DONTWAIT);
        if (got == frame_reader::outcome::nothing) return;
        if (got == frame_reader::outcome::frame) finish_remote(*state_, job_, reader);
        else kill_group(); // usually it is dead; else it has closed its socket, or writes noise
        const auto alive = self();
        loop_.remove_reader(socket_.get());
        socket_.reset();
        loop_.add_reader(process_.get(), [self = alive] { self->bury(); });
    }

    void bury() {
        const auto alive = self();
        loop_.remove_reader(process_.get());
        kill_group(); // what it has started
        const std::optional<siginfo_t> end = reap();
        process_.reset();
        if (state_->done()) return;
        const bool known = end.has_value();
        const bool left = known && end->si_code == CLD_EXITED;
        const int status = known ? end->si_status : 0;
        const int signal = left ? 0 : status;
        const int code = left ? status : 0;
        state_->fail(make_error(worker_crashed(
            "asyncio::fork_job: the process that ran this job died by " +
                (known ? how_it_died(signal, code)
                       : std::string("a cause that somebody else's wait() took away")),
            signal, code)));
    }

    // While it has not been waited for, its number and its group's are nobody else's.
    void kill_group() noexcept {
        siginfo_t about = {};
        if (::waitid(id_is_pidfd, static_cast<id_t>(process_.get()), &about,
                     WEXITED | WNOHANG | WNOWAIT) == 0)
            ::kill(-pid_, SIGKILL);
    }

    // How it ended; nothing when somebody else has waited for it.
    std::optional<siginfo_t> reap() noexcept {
        siginfo_t about = {};
        int result = 0;
        do result = ::waitid(id_is_pidfd, static_cast<id_t>(process_.get()), &about, WEXITED);
        while (result < 0 && errno == EINTR);
        if (result < 0) return std::nullopt;
        return about;
    }

    event_loop& loop_;
    const ref_ptr<concurrent_base> state_;
    remote_job& job_; // part of the state
    pid_t pid_ = -1;
    owned_fd process_; // its pidfd
    owned_fd socket_;
};

void start_forked(loop_core& loop, ref_ptr<concurrent_base> state, remote_job& job,
                  forked_call& call) {
    require_no_threads();
    const auto made = std::make_shared<forked_process>(*loop.loop, std::move(state), job);
    job.pool = made;
    made->start(call);
}

static std::shared_ptr<executor_core> make_process_core(const std::string& name, std::size_t most,
                                                        const isolated_options& options) {
    if (options.start == start_method::spawn && !worker_main_ran.load())
        throw_error(std::runtime_error(name +
                                       ": start_method::spawn starts this program again; make "
                                       "asyncio::worker_main() the first line of main()"));
    process_core::settings how;
    how.who = name;
    how.most = most;
    how.start = options.start;
    how.max_tasks = options.max_tasks_per_child;
    how.job_timeout = options.job_timeout;
    how.setup.memory_limit = options.memory_limit;
    if (options.cpu_time_limit) how.setup.cpu_limit = options.cpu_time_limit->count();
    how.setup.has_initializer = options.initializer != nullptr;
    how.initializer = options.initializer;
    auto core = std::make_shared<process_core>(std::move(how));
    core->begin();
    return core;
}

#else

// -- without worker processes ------------------------------------------------------
//
// Theirs are pidfds, sealed memory and signals at a parent's death: this version has them
// on Linux only. Elsewhere whoever asks for a process is told so.

[[noreturn]] static void refuse_processes(const std::string& who) {
    const std::string text =
        who + ": worker processes run on Linux only in this version; use isolation::thread";
    throw_system_error(ENOTSUP, text.c_str());
}

void put_code(encoder&, code_pointer) { refuse_processes("asyncio::codec"); }
code_pointer get_code(decoder&) { refuse_processes("asyncio::codec"); }

outgoing::outgoing() : out(*this, 65536) {}
outgoing::~outgoing() = default;
void outgoing::take(std::string& buffered, const char* data, std::size_t size) {
    buffered.append(data, size);
}
void outgoing::spill(const char*, std::size_t) {}
void outgoing::seal() {}

void refuse_in_worker() {}
void remote_job::stop() noexcept {}

void start_forked(loop_core&, ref_ptr<concurrent_base>, remote_job&, forked_call&) {
    refuse_processes("asyncio::fork_job");
}

static std::shared_ptr<executor_core> make_process_core(const std::string& name, std::size_t,
                                                        const isolated_options&) {
    refuse_processes(name);
}

} // namespace detail

void worker_main() {}

namespace detail {

#endif

} // namespace detail

isolated_executor::isolated_executor(const char* who, std::ptrdiff_t workers,
                                     const isolated_options& options)
    : executor([&]() -> std::shared_ptr<detail::executor_core> {
          detail::refuse_in_worker();
          const std::string name = who;
          const auto reject = [&](const char* what) {
              detail::throw_error(std::invalid_argument(name + ": " + what));
          };
          if (workers < 0) reject("the number of workers is negative; give 0 for a good one");
          if (options.max_tasks_per_child == std::size_t{0})
              reject("max_tasks_per_child is 0; give 1 or more, or none for no limit");
          if (options.job_timeout && options.job_timeout->count() <= 0)
              reject("job_timeout is not positive; give a time in which a job can be done");
          if (options.cpu_time_limit && options.cpu_time_limit->count() <= 0)
              reject("cpu_time_limit is not positive; give a time in which a job can be done");
          const std::size_t most = workers == 0 ? detail::usable_processors()
                                                : static_cast<std::size_t>(workers);
          if (options.isolation == isolation::thread) {
              if (options.memory_limit || options.cpu_time_limit || options.job_timeout)
                  reject("a thread cannot be stopped or limited; use isolation::process for "
                         "memory_limit, cpu_time_limit and job_timeout");
              detail::thread_core::settings how;
              how.who = name;
              how.prefix = "isolated";
              how.most = most;
              how.max_tasks = options.max_tasks_per_child;
              if (options.initializer) how.initializer = options.initializer;
              return std::make_shared<detail::thread_core>(std::move(how));
          }
          return detail::make_process_core(name, most, options);
      }()) {}

void isolated_executor::kill_workers() { core().kill(detail::kill_signal); }
void isolated_executor::terminate_workers() { core().kill(SIGTERM); }

} // namespace asyncio::inline ASYNCIO_ABI

#endif // !ASYNCIO_NO_THREADS

// =============================================================================
// [SECTION] implementation: sockets
// uses: os, backend, events, tasks, sockets
// =============================================================================

#if !defined(ASYNCIO_BACKEND_NONE)

namespace asyncio::inline ASYNCIO_ABI {

namespace detail {

// An address as system calls take it.
struct system_address {
    system_address() noexcept = default;
    explicit system_address(const address& a) noexcept;

    address to_address() const;
    sockaddr* get() noexcept { return reinterpret_cast<sockaddr*>(&storage); }
    const sockaddr* get() const noexcept { return reinterpret_cast<const sockaddr*>(&storage); }

    sockaddr_storage storage{};
    socklen_t size = 0;
};

system_address::system_address(const address& a) noexcept {
    const address::numbers& n = a.raw();
    const auto port = htons(static_cast<std::uint16_t>(a.port()));
    if (a.is_v4()) {
        sockaddr_in in{};
        in.sin_family = AF_INET;
        in.sin_port = port;
        std::memcpy(&in.sin_addr, n.bytes.data(), sizeof in.sin_addr);
        std::memcpy(&storage, &in, size = sizeof in);
    } else if (a.is_v6()) {
        sockaddr_in6 in{};
        in.sin6_family = AF_INET6;
        in.sin6_port = port;
        in.sin6_scope_id = n.scope;
        std::memcpy(&in.sin6_addr, n.bytes.data(), sizeof in.sin6_addr);
        std::memcpy(&storage, &in, size = sizeof in);
    } else if (a.is_local()) {
        sockaddr_un un{};
        un.sun_family = AF_UNIX;
        const std::string& path = a.path(); // address::local() has checked the length
        std::memcpy(un.sun_path, path.data(), path.size());
        const bool named = !path.empty() && path[0] != '\0'; // then a zero byte ends it
        size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + named);
        std::memcpy(&storage, &un, size);
    }
}

address system_address::to_address() const {
    address::numbers n;
    const auto length = static_cast<std::size_t>(size);
    if (storage.ss_family == AF_INET && length >= sizeof(sockaddr_in)) {
        sockaddr_in in;
        std::memcpy(&in, &storage, sizeof in);
        std::memcpy(n.bytes.data(), &in.sin_addr, sizeof in.sin_addr);
        return address(address::family_type::v4, n, ntohs(in.sin_port));
    }
    if (storage.ss_family == AF_INET6 && length >= sizeof(sockaddr_in6)) {
        sockaddr_in6 in;
        std::memcpy(&in, &storage, sizeof in);
        std::memcpy(n.bytes.data(), &in.sin6_addr, sizeof in.sin6_addr);
        n.scope = in.sin6_scope_id;
        return address(address::family_type::v6, n, ntohs(in.sin6_port));
    }
    if (storage.ss_family == AF_UNIX) {
        sockaddr_un un;
        std::memcpy(&un, &storage, sizeof un);
        constexpr std::size_t start = offsetof(sockaddr_un, sun_path);
        std::string_view path(un.sun_path, length > start ? length - start : 0);
        if (!path.empty() && path.front() != '\0') path = path.substr(0, path.find('\0'));
        return address::local(path);
    }
    return address();
}

static std::uint16_t checked_port(int port) {
    if (port < 0 || port > 65535)
        throw_error(std::invalid_argument("asyncio::address: no port has the number " +
                                    std::to_string(port) + "; ports are 0 to 65535"));
    return static_cast<std::uint16_t>(port);
}

static address parse_numeric(std::string_view host, std::uint16_t port) {
    address::numbers n;
    std::string text(host);
    if (::inet_pton(AF_INET, text.c_str(), n.bytes.data()) == 1)
        return address(address::family_type::v4, n, port);
    const std::size_t percent = text.find('%');
    if (percent != std::string::npos) {
        const std::string zone = text.substr(percent + 1);
        text.resize(percent);
#if !defined(_WIN32) // where zones are numbers
        n.scope = ::if_nametoindex(zone.c_str());
#endif
        if (n.scope == 0)
            n.scope = static_cast<std::uint32_t>(std::strtoul(zone.c_str(), nullptr, 10));
        if (n.scope == 0) return address();
    }
    if (::inet_pton(AF_INET6, text.c_str(), n.bytes.data()) == 1)
        return address(address::family_type::v6, n, port);
    return address();
}

} // namespace detail

address::address(std::string_view host, int port) {
    *this = detail::parse_numeric(host, detail::checked_port(port));
    if (!*this)
        detail::throw_error(std::invalid_argument("asyncio::address: '" + std::string(host) +
                                    "' is no numeric address; look names up with getaddrinfo()"));
}

address address::local(std::string_view path) {
    if (path.size() >= sizeof(sockaddr_un::sun_path))
        detail::throw_error(
            std::invalid_argument("asyncio::address: the path of a Unix socket has at most " +
                                  std::to_string(sizeof(sockaddr_un::sun_path) - 1) + " bytes: '" +
                                  std::string(path) + "'"));
    address a;
    a.path_ = path;
    a.family_ = family_type::local;
    return a;
}

address address::parse(std::string_view text) {
    if (text.starts_with("unix:@")) return local('\0' + std::string(text.substr(6)));
    if (text.starts_with("unix:")) return local(text.substr(5));
    const std::size_t colon = text.rfind(':');
    std::string_view host = text.substr(0, colon);
    if (host.size() >= 2 && host.front() == '[' && host.back() == ']')
        host = host.substr(1, host.size() - 2);
    else if (host.find(':') != std::string_view::npos) host = {}; // an IPv6 address needs brackets
    int port = -1;
    if (colon != std::string_view::npos && colon + 1 < text.size() && text.size() - colon <= 6) {
        port = 0;
        for (char c : text.substr(colon + 1)) {
            if (c < '0' || c > '9') port = -1;
            if (port >= 0) port = port * 10 + (c - '0');
        }
    }
    const address a = port < 0 || port > 65535
                          ? address()
                          : detail::parse_numeric(host, static_cast<std::uint16_t>(port));
    if (!a)
        detail::throw_error(std::invalid_argument("asyncio::address: '" + std::string(text) +
                                    "' is not of the form 127.0.0.1:80, [::1]:80 or unix:/path"));
    return a;
}

std::string address::host() const {
    char text[INET6_ADDRSTRLEN] = "";
    if (is_v4()) ::inet_ntop(AF_INET, numbers_.bytes.data(), text, sizeof text);
    if (is_v6()) ::inet_ntop(AF_INET6, numbers_.bytes.data(), text, sizeof text);
    std::string result = text;
    if (numbers_.scope != 0) {
#if defined(_WIN32)
        result += '%' + std::to_string(numbers_.scope);
#else
        char name[IF_NAMESIZE];
        const bool named = ::if_indextoname(numbers_.scope, name) != nullptr;
        result += '%' + (named ? std::string(name) : std::to_string(numbers_.scope));
#endif
    }
    return result;
}

address address::with_port(int port) const {
    address a = *this;
    a.port_ = detail::checked_port(port);
    return a;
}

std::string address::to_string() const {
    switch (family_) {
    case family_type::none: return "no address";
    case family_type::v4: return host() + ':' + std::to_string(port_);
    case family_type::v6: return '[' + host() + "]:" + std::to_string(port_);
    case family_type::local: break;
    }
    return path_.empty() || path_[0] != '\0' ? "unix:" + path_ : "unix:@" + path_.substr(1);
}

std::ostream& operator<<(std::ostream& out, const address& a) { return out << a.to_string(); }

const std::error_category& getaddrinfo_category() noexcept {
    struct category final : std::error_category {
        const char* name() const noexcept override { return "getaddrinfo"; }
#if defined(_WIN32)
        std::string message(int code) const override {
            switch (code) {
            case EAI_AGAIN: return "Temporary failure in name resolution";
            case EAI_BADFLAGS: return "Bad value for ai_flags";
            case EAI_FAIL: return "Non-recoverable failure in name resolution";
            case EAI_FAMILY: return "ai_family not supported";
            case EAI_MEMORY: return "Memory allocation failure";
            case EAI_NONAME: return "Name or service not known";
            case EAI_SERVICE: return "Servname not supported for ai_socktype";
            case EAI_SOCKTYPE: return "ai_socktype not supported";
            default: return std::system_category().message(code);
            }
        }
#else
        std::string message(int code) const override { return ::gai_strerror(code); }
#endif
    };
    static const category instance;
    return instance;
}

namespace detail {

// -- name look-up -----------------------------------------------------------------

// A name, and what became of it.
struct name_lookup {
    name_lookup(std::string h, std::string s) : host(std::move(h)), service(std::move(s)) {}
    void look_up();
    // Null when it was found.
    exception_ptr error() const;

    const std::string host;
    const std::string service;
    std::vector<address> found;
    int failure = 0; // an EAI_ number
    int system_failure = 0;
};

void name_lookup::look_up() {
    addrinfo hints{};
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = host.empty() ? AI_PASSIVE : 0;
    addrinfo* list = nullptr;
    failure = ::getaddrinfo(host.empty() ? nullptr : host.c_str(),
                            service.empty() ? nullptr : service.c_str(), &hints, &list);
#if !defined(_WIN32)
    if (failure == EAI_SYSTEM) system_failure = errno;
#endif
    if (failure != 0) return;
    for (const addrinfo* entry = list; entry != nullptr; entry = entry->ai_next) {
        system_address a;
        if (entry->ai_addrlen > sizeof a.storage) continue;
        a.size = static_cast<socklen_t>(entry->ai_addrlen);
        std::memcpy(&a.storage, entry->ai_addr, entry->ai_addrlen);
        found.push_back(a.to_address());
    }
    ::freeaddrinfo(list);
}

exception_ptr name_lookup::error() const {
    if (failure == 0) return nullptr;
    const std::string what = "look-up of " + (host.empty() ? service : host);
#if !defined(_WIN32)
    if (failure == EAI_SYSTEM)
        return make_error(std::system_error(code_of(system_failure), what));
#endif
    return make_error(std::system_error(failure, getaddrinfo_category(), what));
}

#if !defined(ASYNCIO_NO_THREADS)

class lookup_awaiter;

// A name on its way through a helper thread. The thread and the awaiter hold a
// count each; the count's last holder deletes it, whichever ends first.
struct lookup_job final : name_lookup, ready_node {
    lookup_job(std::string h, std::string s, shared_core c)
        : name_lookup(std::move(h), std::move(s)), core(std::move(c)) {
        run = &lookup_job::arrive;
    }
    void release() noexcept {
        if (count.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
    }
    static void arrive(ready_node* node);

    const shared_core core;
    lookup_job* behind = nullptr;     // in the queue of names to look up
    lookup_awaiter* waiter = nullptr; // the loop's thread alone looks at it
    std::atomic<int> count{2};
};

// Threads that exist only while there are names to look up: a look-up cannot be
// interrupted and may take half a minute, which no executor should wait for.
class lookup_threads {
public:
    static lookup_threads& instance() {
        static lookup_threads* const threads = new lookup_threads; // outlives exit()
        return *threads;
    }

    // Takes over the thread's count of `job`.
    void add(lookup_job* job) {
        const std::lock_guard lock(mutex_);
        if (running_ < most) {
            ASYNCIO_TRY {
                std::thread([this] { work(); }).detach();
                ++running_;
            } ASYNCIO_CATCH(const std::system_error&) {
                if (running_ == 0) rethrow_current(); // else one of the others will do it
            }
        }
        (last_ != nullptr ? last_->behind : first_) = job;
        last_ = job;
    }

private:
    static constexpr int most = 16;

    void work() noexcept {
        for (;;) {
            lookup_job* job;
            {
                const std::lock_guard lock(mutex_);
                job = first_;
                if (job == nullptr) {
                    --running_;
                    return;
                }
                first_ = job->behind;
                if (first_ == nullptr) last_ = nullptr;
            }
            job->look_up();
            if (!job->core->post(job)) job->release();
        }
    }

    std::mutex mutex_;
    lookup_job* first_ = nullptr;
    lookup_job* last_ = nullptr;
    int running_ = 0;
};

class lookup_awaiter final : public suspension {
public:
    lookup_awaiter(std::string host, std::string service)
        : host_(std::move(host)), service_(std::move(service)) {}
    lookup_awaiter(lookup_awaiter&& other) noexcept
        : suspension(std::move(other)), host_(std::move(other.host_)),
          service_(std::move(other.service_)) {}
    ~lookup_awaiter() { forget(); }

    bool await_ready() const noexcept { return false; }
    template <class Promise>
    void await_suspend(std::coroutine_handle<Promise> h) {
        job_ = new lookup_job(host_, service_, share(*h.promise().owner->core));
        ASYNCIO_TRY {
            lookup_threads::instance().add(job_);
        } ASYNCIO_CATCH_ALL {
            job_->release();
            rethrow_current();
        }
        if (!suspend(h)) return;
        job_->waiter = this;
        hold_ = clock_hold(*core());
    }
    std::vector<address> await_resume() {
        if (exception_ptr error = failure()) rethrow(std::move(error));
        return std::move(job_->found);
    }
    exception_ptr failure() override {
        return interrupted() ? suspension::failure() : job_->error();
    }

    void arrived() noexcept {
        hold_.reset();
        wake();
    }

private:
    bool on_cancel() noexcept override {
        if (woken()) return false;
        forget();
        cancel_here();
        return true;
    }
    void forget() noexcept {
        hold_.reset();
        if (job_ == nullptr) return;
        job_->waiter = nullptr;
        std::exchange(job_, nullptr)->release();
    }

    std::string host_;
    std::string service_;
    lookup_job* job_ = nullptr;
    clock_hold hold_;
};

// In the loop's thread, also when the loop is being emptied.
void lookup_job::arrive(ready_node* node) {
    auto* const job = static_cast<lookup_job*>(node);
    if (lookup_awaiter* const waiter = std::exchange(job->waiter, nullptr)) waiter->arrived();
    job->release();
}

#endif // !ASYNCIO_NO_THREADS

// What needs no look-up: numeric hosts, or none, with numeric ports.
static std::vector<address> numeric_addresses(const std::string& host, const std::string& service) {
    int port = 0;
    for (char c : service) {
        if (c < '0' || c > '9' || port > 65535) return {};
        port = port * 10 + (c - '0');
    }
    const std::uint16_t checked = checked_port(port);
    if (host.empty()) return {parse_numeric("::", checked), parse_numeric("0.0.0.0", checked)};
    const address a = parse_numeric(host, checked);
    if (!a) return {};
    return {a};
}

} // namespace detail

coro<std::vector<address>> getaddrinfo(std::string host, std::string service) {
    std::vector<address> found = detail::numeric_addresses(host, service);
    if (!found.empty()) co_return found;
#if defined(ASYNCIO_NO_THREADS)
    detail::name_lookup name(std::move(host), std::move(service));
    name.look_up();
    if (exception_ptr error = name.error()) co_await detail::fail_with(std::move(error));
    co_return std::move(name.found);
#else
    co_return co_await detail::lookup_awaiter(std::move(host), std::move(service));
#endif
}

namespace detail {

// -- waiting for a condition --------------------------------------------------------

void wait_list::wake_all(bool granted) noexcept {
    while (condition_awaiter* const w = first_) {
        w->leave();
        w->granted_ = granted;
        w->wake();
    }
}

bool condition_awaiter::await_ready() noexcept {
    const wait_outlook outlook = source_->look(goal_);
    granted_ = outlook == wait_outlook::reached;
    return outlook != wait_outlook::ahead;
}

void condition_awaiter::wait() noexcept {
    list_ = source_->list_of(goal_);
    if (list_ == nullptr) return wake();
    previous_ = list_->last_;
    (previous_ != nullptr ? previous_->next_ : list_->first_) = this;
    list_->last_ = this;
}

void condition_awaiter::leave() noexcept {
    if (list_ == nullptr) return;
    (previous_ != nullptr ? previous_->next_ : list_->first_) = next_;
    (next_ != nullptr ? next_->previous_ : list_->last_) = previous_;
    list_ = nullptr;
}

bool condition_awaiter::on_cancel() noexcept {
    if (woken()) return false;
    leave();
    cancel_here();
    return true;
}

void condition_awaiter::await_resume() {
    if (interrupted()) throw_cancelled();
    if (!granted_) source_->check(goal_);
}

// -- a socket -------------------------------------------------------------------------

static owned_fd open_socket(address::family_type family, int type) {
#if defined(_WIN32)
    if (family == address::family_type::local) throw_not_on_windows("asyncio: a Unix socket");
#endif
    const int number = family == address::family_type::v4   ? AF_INET
                       : family == address::family_type::v6 ? AF_INET6
                                                            : AF_UNIX;
    return owned_fd(new_socket(number, type));
}

class socket_state final : public frame_allocated {
public:
    socket_state(owned_fd fd, bool datagrams) noexcept;
    socket_state(const socket_state&) = delete;
    ~socket_state() { close(); }

    void add_ref() noexcept { ++count_; }
    void release() noexcept {
        if (--count_ == 0) delete this;
    }

    // An awaiter's way: begin() gives true when all is done already; else wait() and,
    // in the end or before it, leave().
    bool begin(socket_wait& w);
    void wait(socket_wait& w) noexcept;
    void leave(socket_wait& w) noexcept;
    // Takes back what has come for somebody who was cancelled.
    void keep(socket_wait& w) noexcept;

    void attach();
    owned_fd take_fd() noexcept;
    std::string take_kept_bytes() noexcept { return std::exchange(kept_bytes_, {}); }
    void close() noexcept { take_fd().reset(); }
    void stop_receiving() noexcept;
    // The next one who receives gets this error.
    void report(int error) noexcept;

    bool closed() const noexcept { return closed_; }
    bool deaf() const noexcept { return closed_ || deaf_; }
    int fd() const noexcept { return fd_.get(); }
    io_descriptor& descriptor() noexcept { return descriptor_; }
    backend_state& backend() noexcept { return *backend_; }
    loop_core* core() const noexcept { return core_.get(); }

private:
    // Who waits for one direction, and the operation of the first of them.
    struct direction : io_datagram {
        direction(socket_state& s, io_kind k) noexcept : io_datagram(k, &done_here), state(s) {}
        // A connection that came when nobody could take it any more.
        ~direction() { owned_fd(accepted).reset(); }

        socket_state& state;
        socket_wait* first = nullptr;
        socket_wait* last = nullptr;
        system_address address_;
        io_buffer piece{nullptr, 0};
    };
    static void done_here(io_operation& op) noexcept;
    static bool receives(const socket_wait& w) noexcept {
        return w.what_ <= socket_wait::action::accept;
    }
    direction& direction_of(const socket_wait& w) noexcept {
        return receives(w) ? receiving_ : sending_;
    }
    bool start(socket_wait& w, bool only_now) noexcept;
    bool retry_soon(socket_wait& w) noexcept;
    void prepare(socket_wait& w, direction& d);
    bool took(socket_wait& w, direction& d) noexcept;
    bool take_kept(socket_wait& w);
    void join(socket_wait& w, direction& d) noexcept;
    void go_on(direction& d) noexcept;
    void end_all(direction& d, int error) noexcept;
    static void finish(socket_wait& w, int error) noexcept {
        w.error_ = error;
        w.finished_ = true;
    }

    std::size_t count_ = 0;
    owned_fd fd_;
    io_descriptor descriptor_;
    ref_ptr<loop_core> core_;
    backend_state* backend_ = nullptr;
    direction receiving_{*this, io_kind::receive};
    direction sending_{*this, io_kind::send};
    clock_hold connecting_;
    handle retry_;
    bool datagrams_;
    bool closed_ = false;
    bool deaf_ = false; // stop_receiving()
    int kept_error_ = 0;
    std::unique_ptr<char[]> buffer_; // where texts are received
    std::size_t buffer_size_ = 0;
    // Of those who were cancelled, the oldest first.
    std::string kept_bytes_;
    std::vector<datagram> kept_datagrams_;
    std::vector<owned_fd> kept_connections_;
};

socket_state::socket_state(owned_fd fd, bool datagrams) noexcept
    : fd_(std::move(fd)), datagrams_(datagrams) {
    descriptor_.fd = fd_.get();
    receiving_.on = sending_.on = &descriptor_;
    closed_ = !fd_;
}

void socket_state::attach() {
    loop_core& core = require_running("socket");
    if (descriptor_.attached) {
        if (core_.get() != &core)
            throw_runtime_error("asyncio::socket: it is tied to another loop, by its first await; "
                                "use it there");
        return;
    }
    core_ = ref_ptr<loop_core>(&core);
    backend_ = &core.loop->backend();
    descriptor_.stops_short = family_of(fd()) == AF_UNIX;
    backend_->attach(descriptor_);
}

bool socket_state::begin(socket_wait& w) {
    if (closed_ || (deaf_ && receives(w))) {
        finish(w, EBADF);
        return true;
    }
    attach();
    direction& d = direction_of(w);
    if (d.first != nullptr) return false; // others are waiting already
    if (take_kept(w)) return true;
    if (datagrams_ && w.what_ == socket_wait::action::connect) {
        const system_address a(w.peer_);
        finish(w, connect_datagrams(fd(), a.get(), a.size));
        return true;
    }
    // A connect is under way from here on, whether it is waited for or not.
    if (w.what_ != socket_wait::action::connect) return start(w, true);
    join(w, d);
    if (!start(w, false)) return false;
    leave(w);
    return true;
}

void socket_state::wait(socket_wait& w) noexcept {
    direction& d = direction_of(w);
    if (!w.queued_) join(w, d);
    const bool connects = w.what_ == socket_wait::action::connect;
    if (connects && d.pending) connecting_ = clock_hold(*core_);
    if (d.first == &w && !w.started_) go_on(d);
}

void socket_state::join(socket_wait& w, direction& d) noexcept {
    w.queued_ = true;
    w.next_ = nullptr;
    w.previous_ = d.last;
    (d.last != nullptr ? d.last->next_ : d.first) = &w;
    d.last = &w;
}

// The first one's turn. It stays the first until its task has gone on, so that
// what it leaves behind comes before what the next one gets.
void socket_state::go_on(direction& d) noexcept {
    socket_wait* const w = d.first;
    if (w == nullptr || w->woken() || w->started_) return;
    bool ready = true;
    ASYNCIO_TRY {
        ready = take_kept(*w) || start(*w, false);
    } ASYNCIO_CATCH(const std::bad_alloc&) {
        finish(*w, ENOMEM);
    }
    if (ready) w->wake();
}

void socket_state::leave(socket_wait& w) noexcept {
    if (!w.queued_) return;
    w.queued_ = false;
    direction& d = direction_of(w);
    const bool first = d.first == &w;
    (w.previous_ != nullptr ? w.previous_->next_ : d.first) = w.next_;
    (w.next_ != nullptr ? w.next_->previous_ : d.last) = w.previous_;
    if (w.what_ == socket_wait::action::connect) connecting_.reset();
    if (!first) return;
    retry_.cancel();
    if (std::exchange(w.started_, false) && d.pending) backend_->cancel(d);
    if (!closed_) go_on(d);
}

// Gives the operation to the system. True: it is finished.
bool socket_state::start(socket_wait& w, bool only_now) noexcept {
    direction& d = direction_of(w);
    ASYNCIO_TRY {
        prepare(w, d);
    } ASYNCIO_CATCH(const std::bad_alloc&) {
        finish(w, ENOMEM);
        return true;
    }
    d.only_now = only_now;
    while (backend_->start(d)) {
        if (d.error == EAGAIN) return retry_soon(w); // a Unix socket's backlog is full
        if (took(w, d)) return true;
    }
    if (only_now) return false;
    w.started_ = true;
    if (w.what_ != socket_wait::action::send_to || !w.peer_.is_local()) return false;
    backend_->cancel(d);
    return retry_soon(w);
}

// Unix sockets say nothing when somebody else's full queue has room again. True: it
// cannot be tried again.
bool socket_state::retry_soon(socket_wait& w) noexcept {
    w.started_ = true;
    ASYNCIO_TRY {
        retry_ = core_->loop->call_later(
            std::chrono::milliseconds(1), [self = ref_ptr<socket_state>(this), &w] {
                w.started_ = false;
                self->go_on(self->sending_);
            });
        return false;
    } ASYNCIO_CATCH(const std::bad_alloc&) {
        w.started_ = false;
        finish(w, ENOMEM);
        return true;
    }
}

void socket_state::prepare(socket_wait& w, direction& d) {
    using action = socket_wait::action;
    d.peer = nullptr;
    d.peer_size = 0;
    d.truncated = false;
    if (receives(w)) {
        d.into = w.memory_;
        d.size = w.size_;
        if (w.what_ == action::accept) {
            d.kind = io_kind::accept;
            d.into = d.address_.get();
            d.size = sizeof d.address_.storage;
            return;
        }
        if (w.memory_ == nullptr) {
            constexpr std::size_t most = 64 * 1024; // of a stream: there is always more to come
            if (!datagrams_) d.size = std::min(d.size, most);
            if (buffer_size_ < d.size) {
                buffer_.reset(new char[d.size]);
                buffer_size_ = d.size;
            }
            d.into = buffer_.get();
        }
        d.kind = datagrams_ ? io_kind::receive_from : io_kind::receive;
        d.peer = d.address_.get();
        d.peer_size = sizeof d.address_.storage;
        return;
    }
    if (w.what_ == action::connect || w.what_ == action::send_to)
        d.address_ = system_address(w.peer_);
    if (w.what_ == action::connect) {
        d.kind = io_kind::connect;
        d.address = d.address_.get();
        d.size = d.address_.size;
        return;
    }
    d.kind = datagrams_ || w.what_ == action::send_to ? io_kind::send_to : io_kind::send;
    d.piece = {static_cast<const char*>(w.memory_) + w.count_, w.size_ - w.count_};
    d.from = &d.piece;
    d.size = 1;
    if (w.what_ == action::send_to) {
        d.peer = d.address_.get();
        d.peer_size = d.address_.size;
    }
}

// What the system did for the first one. False: it has to do more.
bool socket_state::took(socket_wait& w, direction& d) noexcept {
    using action = socket_wait::action;
    finish(w, d.error);
    if (d.error != 0) return true;
    switch (w.what_) {
    case action::accept: w.accepted_ = std::exchange(d.accepted, -1); [[fallthrough]];
    case action::connect: return true;
    case action::send_all:
        w.count_ += d.count;
        w.finished_ = datagrams_ || w.count_ == w.size_;
        d.piece = {static_cast<const char*>(w.memory_) + w.count_, w.size_ - w.count_};
        return w.finished_;
    default: break;
    }
    w.count_ = d.count;
    if (!receives(w)) return true;
    w.truncated_ = d.truncated;
    ASYNCIO_TRY {
        if (w.memory_ == nullptr) w.text_.assign(buffer_.get(), d.count);
        if (datagrams_) {
            d.address_.size = static_cast<socklen_t>(d.peer_size);
            w.peer_ = d.address_.to_address();
        }
    } ASYNCIO_CATCH(const std::bad_alloc&) {
        w.error_ = ENOMEM;
    }
    return true;
}

// Inside wait().
void socket_state::done_here(io_operation& op) noexcept {
    auto& d = static_cast<direction&>(op);
    socket_wait& w = *d.first;
    w.started_ = false;
    if (d.error == ECANCELED) { // the loop is gone
        finish(w, d.error);
    } else if (!d.state.took(w, d) && !d.state.start(w, false)) {
        return;
    }
    d.state.connecting_.reset();
    if (!w.woken()) w.wake();
}

void socket_state::keep(socket_wait& w) noexcept {
    if (!std::exchange(w.finished_, false)) return;
    owned_fd accepted(std::exchange(w.accepted_, -1));
    if (!receives(w) || closed_) return;
    ASYNCIO_TRY {
        if (w.error_ != 0) {
            kept_error_ = w.error_;
        } else if (w.what_ == socket_wait::action::accept) {
            kept_connections_.insert(kept_connections_.begin(), std::move(accepted));
        } else {
            const std::string_view data =
                w.memory_ == nullptr
                    ? std::string_view(w.text_)
                    : std::string_view(static_cast<const char*>(w.memory_), w.count_);
            if (datagrams_)
                kept_datagrams_.emplace(kept_datagrams_.begin(), std::string(data),
                                        std::move(w.peer_), w.truncated_);
            else kept_bytes_.insert(0, data);
        }
    } ASYNCIO_CATCH(const std::bad_alloc&) {
        kept_error_ = ENOMEM;
    }
}

// What was left behind by others comes first.
bool socket_state::take_kept(socket_wait& w) {
    if (!receives(w)) return false;
    if (kept_error_ != 0) {
        finish(w, std::exchange(kept_error_, 0));
        return true;
    }
    if (w.what_ == socket_wait::action::accept) {
        if (kept_connections_.empty()) return false;
        w.accepted_ = kept_connections_.front().release();
        kept_connections_.erase(kept_connections_.begin());
        finish(w, 0);
        return true;
    }
    if (!datagrams_ && w.size_ == 0) { // not the end of the stream
        w.count_ = 0;
        finish(w, 0);
        return true;
    }
    if (datagrams_ ? kept_datagrams_.empty() : kept_bytes_.empty()) return false;
    const std::string& source = datagrams_ ? kept_datagrams_.front().data : kept_bytes_;
    w.count_ = std::min(w.size_, source.size());
    if (w.memory_ == nullptr) w.text_.assign(source, 0, w.count_);
    else if (w.count_ != 0) std::memcpy(w.memory_, source.data(), w.count_);
    if (datagrams_) {
        datagram& d = kept_datagrams_.front();
        w.truncated_ = d.truncated || d.data.size() > w.size_;
        w.peer_ = std::move(d.from);
        kept_datagrams_.erase(kept_datagrams_.begin());
    } else {
        kept_bytes_.erase(0, w.count_);
    }
    finish(w, 0);
    return true;
}

void socket_state::end_all(direction& d, int error) noexcept {
    if (d.pending) backend_->cancel(d);
    for (socket_wait* w = d.first; w != nullptr; w = w->next_) {
        w->started_ = false;
        if (w->woken()) continue;
        finish(*w, error);
        w->wake();
    }
}

owned_fd socket_state::take_fd() noexcept {
    if (std::exchange(closed_, true)) return owned_fd();
    retry_.cancel();
    end_all(receiving_, EBADF);
    end_all(sending_, EBADF);
    connecting_.reset();
    if (descriptor_.attached) backend_->detach(descriptor_);
    kept_bytes_.clear();
    kept_datagrams_.clear();
    kept_connections_.clear();
    return std::move(fd_);
}

void socket_state::stop_receiving() noexcept {
    deaf_ = true;
    end_all(receiving_, EBADF);
}

void socket_state::report(int error) noexcept {
    kept_error_ = error;
    socket_wait* const w = receiving_.first;
    if (w == nullptr || w->woken()) return;
    if (receiving_.pending) backend_->cancel(receiving_);
    w->started_ = false;
    finish(*w, std::exchange(kept_error_, 0));
    w->wake();
}

// -- the awaiter ----------------------------------------------------------------------

socket_wait::socket_wait(ref_ptr<socket_state> state, action what, void* memory, std::size_t size,
                         const address* peer) noexcept
    : state_(std::move(state)), memory_(memory), size_(size), what_(what) {
    if (peer != nullptr) peer_ = *peer;
}
socket_wait::socket_wait(socket_wait&& other) noexcept
    : suspension(std::move(other)), state_(std::move(other.state_)), memory_(other.memory_),
      size_(other.size_), peer_(std::move(other.peer_)), what_(other.what_) {}

// A frame that is destroyed while it waits, or before it could take what had come.
socket_wait::~socket_wait() {
    if (state_) let_go();
}

void socket_wait::let_go() noexcept {
    state_->keep(*this);
    state_->leave(*this);
}

bool socket_wait::begin() { return state_->begin(*this); }
void socket_wait::wait() noexcept { state_->wait(*this); }

bool socket_wait::on_cancel() noexcept {
    if (woken()) return false;
    state_->leave(*this);
    cancel_here();
    return true;
}

void socket_wait::take() {
    if (interrupted()) {
        let_go();
        const bool told = task()->extras && !task()->extras->cancel_message.empty();
        if (what_ == action::send_all && count_ > 0 && !told)
            throw_error(cancelled_error("asyncio::socket::sendall: cancelled when " +
                                  std::to_string(count_) + " of " + std::to_string(size_) +
                                  " bytes had been sent"));
        throw_cancelled();
    }
    finished_ = false;
    state_->leave(*this);
    if (error_ == 0) return;
    static constexpr const char* names[] = {"recv", "recvfrom", "accept", "connect to",
                                            "send", "sendto",   "sendall"};
    std::string call = names[static_cast<int>(what_)];
    if (what_ == action::connect || what_ == action::send_to) call += ' ' + peer_.to_string();
    if (error_ == EBADF && state_->deaf()) call += ": the socket is closed";
    throw_system_error(error_, call.c_str());
}

void socket_wait::take(std::size_t& count) {
    take();
    count = count_;
}
void socket_wait::take(std::string& data) {
    take();
    data = std::move(text_);
}
void socket_wait::take(datagram& d) {
    take();
    d = datagram(std::move(text_), std::move(peer_), truncated_);
}
void socket_wait::take(received_datagram& d) {
    take();
    d = received_datagram(count_, std::move(peer_), truncated_);
}
void socket_wait::take(socket& accepted) {
    take();
    accepted.state_ = ref_ptr<socket_state>(
        new socket_state(owned_fd(std::exchange(accepted_, -1)), false));
}

static ref_ptr<socket_state> make_socket_state(address::family_type family, int type) {
    owned_fd fd = open_socket(family, type);
    if (!fd) throw_last_error("socket");
    return ref_ptr<socket_state>(
        new socket_state(std::move(fd), (type & SOCK_DGRAM) == SOCK_DGRAM));
}

} // namespace detail

datagram::datagram() noexcept = default;
datagram::datagram(std::string d, address f, bool t) noexcept
    : data(std::move(d)), from(std::move(f)), truncated(t) {}
received_datagram::received_datagram() noexcept = default;
received_datagram::received_datagram(std::size_t s, address f, bool t) noexcept
    : size(s), from(std::move(f)), truncated(t) {}

socket::socket() noexcept = default;
socket::socket(socket&& other) noexcept = default;
socket& socket::operator=(socket&& other) noexcept {
    if (this != &other) close();
    state_ = std::move(other.state_);
    return *this;
}
socket::~socket() { close(); }

socket::socket(int fd) {
    detail::owned_fd owned(fd);
    int type = 0;
    socklen_t size = sizeof type;
    if (::getsockopt(detail::socket_of(fd), SOL_SOCKET, SO_TYPE, reinterpret_cast<char*>(&type),
                     &size) != 0) {
        const int error = detail::last_error();
        static_cast<void>(owned.release()); // it stays the caller's
        detail::throw_system_error(error, "getsockopt(SO_TYPE)");
    }
    detail::unblock(fd);
    state_ = detail::ref_ptr<detail::socket_state>(
        new detail::socket_state(std::move(owned), type != SOCK_STREAM));
}

socket socket::tcp(address::family_type family) {
    socket s;
    s.state_ = detail::make_socket_state(family, SOCK_STREAM);
    return s;
}
socket socket::udp(address::family_type family) {
    socket s;
    s.state_ = detail::make_socket_state(family, SOCK_DGRAM);
    return s;
}
socket socket::unix_stream() { return tcp(address::family_type::local); }
socket socket::unix_dgram() { return udp(address::family_type::local); }

// Of one that was moved from, or never was any: as of a closed one.
const detail::ref_ptr<detail::socket_state>& socket::state() const {
    if (state_) return state_;
    auto& none = detail::of_this_thread<detail::ref_ptr<detail::socket_state>>();
    if (!none)
        none = detail::ref_ptr<detail::socket_state>(
            new detail::socket_state(detail::owned_fd(), false));
    return none;
}

int socket::open_fd(const char* call) const {
    const int fd = fileno();
    if (fd < 0) {
        const std::string text = std::string(call) + ": the socket is closed";
        detail::throw_system_error(EBADF, text.c_str());
    }
    return fd;
}

int socket::fileno() const noexcept { return state_ ? state_->fd() : -1; }

void socket::close() noexcept {
    if (state_) state_->close();
}

int socket::detach() noexcept { return state_ ? state_->take_fd().release() : -1; }

void socket::bind(const address& where) {
    const detail::system_address a(where);
    const std::string call = "bind to " + where.to_string();
    if (::bind(detail::socket_of(open_fd("bind")), a.get(), a.size) != 0)
        detail::throw_last_error(call.c_str());
}

void socket::listen(int backlog) {
    if (::listen(detail::socket_of(open_fd("listen")), backlog) != 0)
        detail::throw_last_error("listen");
}

void socket::shutdown(direction what) {
    const int how = what == shut_rd   ? detail::shut_reading
                    : what == shut_wr ? detail::shut_writing
                                      : detail::shut_both;
    if (::shutdown(detail::socket_of(open_fd("shutdown")), how) != 0)
        detail::throw_last_error("shutdown");
}

int socket::getsockopt(int level, int name) const {
    int value = 0;
    getsockopt(level, name, std::as_writable_bytes(std::span(&value, 1)));
    return value;
}

void socket::setsockopt(int level, int name, int value) {
    setsockopt(level, name, std::as_bytes(std::span(&value, 1)));
}

std::size_t socket::getsockopt(int level, int name, std::span<std::byte> value) const {
    socklen_t size = static_cast<socklen_t>(value.size());
    if (::getsockopt(detail::socket_of(open_fd("getsockopt")), level, name,
                     reinterpret_cast<char*>(value.data()), &size) != 0)
        detail::throw_last_error("getsockopt");
    return static_cast<std::size_t>(size);
}

void socket::setsockopt(int level, int name, std::span<const std::byte> value) {
    if (::setsockopt(detail::socket_of(open_fd("setsockopt")), level, name,
                     reinterpret_cast<const char*>(value.data()),
                     static_cast<socklen_t>(value.size())) != 0)
        detail::throw_last_error("setsockopt");
}

address socket::local_address() const {
    detail::system_address a;
    a.size = sizeof a.storage;
    if (::getsockname(detail::socket_of(open_fd("getsockname")), a.get(), &a.size) != 0)
        detail::throw_last_error("getsockname");
    return a.to_address();
}

address socket::remote_address() const {
    detail::system_address a;
    a.size = sizeof a.storage;
    if (::getpeername(detail::socket_of(open_fd("getpeername")), a.get(), &a.size) != 0)
        detail::throw_last_error("getpeername");
    return a.to_address();
}

using socket_action = detail::socket_wait::action;

detail::socket_awaiter<socket> socket::accept() {
    return {state(), socket_action::accept, nullptr, 0};
}
detail::socket_awaiter<void> socket::connect(const address& where) {
    return {state(), socket_action::connect, nullptr, 0, &where};
}
detail::socket_awaiter<std::string> socket::recv(std::size_t n) {
    return {state(), socket_action::receive, nullptr, n};
}
detail::socket_awaiter<std::size_t> socket::recv(std::span<std::byte> target) {
    return {state(), socket_action::receive, target.data(), target.size()};
}
detail::socket_awaiter<std::size_t> socket::recv(std::span<char> target) {
    return recv(std::as_writable_bytes(target));
}
detail::socket_awaiter<datagram> socket::recvfrom(std::size_t n) {
    return {state(), socket_action::receive_from, nullptr, n};
}
detail::socket_awaiter<received_datagram> socket::recvfrom(std::span<std::byte> target) {
    return {state(), socket_action::receive_from, target.data(), target.size()};
}

namespace detail {

// What is sent is only read.
static void* unchanged(const void* data) noexcept { return const_cast<void*>(data); }

} // namespace detail

detail::socket_awaiter<std::size_t> socket::send(std::string_view data) {
    return {state(), socket_action::send, detail::unchanged(data.data()), data.size()};
}
detail::socket_awaiter<std::size_t> socket::send(std::span<const std::byte> data) {
    return {state(), socket_action::send, detail::unchanged(data.data()), data.size()};
}
detail::socket_awaiter<std::size_t> socket::sendto(std::string_view data, const address& where) {
    return {state(), socket_action::send_to, detail::unchanged(data.data()), data.size(), &where};
}
detail::socket_awaiter<std::size_t> socket::sendto(std::span<const std::byte> data,
                                                   const address& where) {
    return {state(), socket_action::send_to, detail::unchanged(data.data()), data.size(), &where};
}
detail::socket_awaiter<void> socket::sendall(std::string_view data) {
    return {state(), socket_action::send_all, detail::unchanged(data.data()), data.size()};
}
detail::socket_awaiter<void> socket::sendall(std::span<const std::byte> data) {
    return {state(), socket_action::send_all, detail::unchanged(data.data()), data.size()};
}

// -- datagram_endpoint ------------------------------------------------------------------

namespace detail {

class endpoint_link final : public frame_allocated, public wait_source {
public:
    endpoint_link(socket over, std::size_t max_size);
    endpoint_link(const endpoint_link&) = delete;

    void add_ref() noexcept override { ++count_; }
    // Where g++ 12 sees through two of these in one function, it warns of a use after free.
    [[gnu::noinline]] void release() noexcept override {
        if (--count_ == 0) delete this;
    }
    wait_outlook look(wait_goal goal) const noexcept override;
    wait_list* list_of(wait_goal goal) noexcept override;
    void check(wait_goal goal) const override;

    void send(std::string_view data, const address& to);
    void set_limits(std::size_t high, std::size_t low) noexcept;
    void close() noexcept;
    void abort() noexcept;

    bool closing() const noexcept { return closing_; }
    std::size_t unsent() const noexcept { return kept_; }
    const address& local() const noexcept { return local_; }
    const address& remote() const noexcept { return remote_; }
    const ref_ptr<socket_state>& state() const noexcept { return state_; }
    std::size_t max_size() const noexcept { return max_size_; }

private:
    struct kept_datagram {
        std::string data;
        address to;
    };
    struct operation final : io_datagram {
        explicit operation(endpoint_link& l) noexcept
            : io_datagram(io_kind::send_to,
                          [](io_operation& op) noexcept {
                              // The count that flush() took.
                              const auto kept = ref_ptr<endpoint_link>::adopt(
                                  &static_cast<operation&>(op).link);
                              kept->sent();
                              kept->flush();
                          }),
              link(l) {}
        endpoint_link& link;
    };
    // What a datagram costs beside its bytes, as Python counts it: empty ones must
    // not fill the memory unnoticed.
    static constexpr std::size_t overhead = 8;

    bool start(std::string_view data, const address& to, bool only_now) noexcept;
    void flush() noexcept;
    void sent() noexcept;
    void retry_soon() noexcept;
    void check_fill() noexcept;
    void finish_close() noexcept;

    std::size_t count_ = 0;
    ref_ptr<socket_state> state_;
    std::size_t max_size_;
    operation send_{*this};
    io_buffer piece_{nullptr, 0};
    system_address to_;
    std::deque<kept_datagram> out_;
    std::size_t kept_ = 0;
    std::size_t high_ = 64 * 1024;
    std::size_t low_ = 16 * 1024;
    bool tried_ = false; // the first of out_
    bool paused_ = false;
    bool closing_ = false;
    bool closed_ = false;
    handle retry_;
    address local_;
    address remote_;
    wait_list draining_;
    wait_list closed_waiters_;
};

endpoint_link::endpoint_link(socket over, std::size_t max_size)
    : state_(over.state()), max_size_(max_size) {
    over.open_fd("create_datagram_endpoint");
    int type = over.getsockopt(SOL_SOCKET, SO_TYPE);
    if (type != SOCK_DGRAM)
        throw_invalid_argument("asyncio::create_datagram_endpoint: the socket is none for "
                               "datagrams");
    local_ = over.local_address();
    system_address peer;
    peer.size = sizeof peer.storage;
    if (::getpeername(socket_of(over.fileno()), peer.get(), &peer.size) == 0)
        remote_ = peer.to_address();
    state_->attach();
    send_.on = &state_->descriptor();
    over.state_ = nullptr; // it is this one's now
}

wait_outlook endpoint_link::look(wait_goal goal) const noexcept {
    if (goal == wait_goal::closed) return closed_ ? wait_outlook::reached : wait_outlook::ahead;
    if (closed_) return wait_outlook::ended;
    return paused_ || closing_ ? wait_outlook::ahead : wait_outlook::reached;
}

wait_list* endpoint_link::list_of(wait_goal goal) noexcept {
    if (goal == wait_goal::closed) return &closed_waiters_;
    return paused_ ? &draining_ : nullptr;
}

void endpoint_link::check(wait_goal goal) const {
    if (goal == wait_goal::drained && closed_)
        throw_system_error(EBADF, "asyncio::datagram_endpoint::drain: the endpoint is closed");
}

void endpoint_link::send(std::string_view data, const address& to) {
    if (remote_ ? to && to != remote_ : !to)
        throw_invalid_argument(
            remote_ ? "asyncio::datagram_endpoint::sendto: it sends to its remote address only; "
                      "make it without one to send to several"
                    : "asyncio::datagram_endpoint::sendto: no address is given, and it has no "
                      "remote address");
    if (closing_ || state_->closed()) return;
    // The first failure may be that of an earlier datagram, whose answer has come.
    for (int tries = 0; out_.empty() && start(data, to, true); ++tries) {
        if (send_.error == EMSGSIZE) throw_system_error(EMSGSIZE, "sendto");
        if (send_.error != 0) state_->report(send_.error);
        if (send_.error == 0 || tries == 1) return;
    }
    out_.push_back({std::string(data), to});
    kept_ += data.size() + overhead;
    flush();
    check_fill();
}

// True: it is sent, or has failed.
bool endpoint_link::start(std::string_view data, const address& to, bool only_now) noexcept {
    piece_ = {data.data(), data.size()};
    send_.from = &piece_;
    send_.size = 1;
    send_.peer = nullptr;
    send_.peer_size = 0;
    send_.only_now = only_now;
    if (!remote_) {
        to_ = system_address(to);
        send_.peer = to_.get();
        send_.peer_size = to_.size;
    }
    return state_->backend().start(send_);
}

void endpoint_link::flush() noexcept {
    while (!out_.empty() && !send_.pending && !state_->closed()) {
        const kept_datagram& next = out_.front();
        if (start(next.data, next.to, false)) {
            sent();
            continue;
        }
        add_ref(); // the rest is sent even if nobody else holds the endpoint
        if (next.to.is_local()) retry_soon();
        return;
    }
}

// A Unix socket that is full of others' datagrams says nothing when it has room.
void endpoint_link::retry_soon() noexcept {
    state_->backend().cancel(send_);
    const auto kept = ref_ptr<endpoint_link>::adopt(this); // the timer holds it now
    retry_.cancel();
    ASYNCIO_TRY {
        retry_ = state_->core()->loop->call_later(std::chrono::milliseconds(1),
                                                  [kept] { kept->flush(); });
    } ASYNCIO_CATCH(const std::bad_alloc&) {
        abort();
    }
}

void endpoint_link::sent() noexcept {
    if (send_.error == ECANCELED) return abort(); // the loop is gone
    if (send_.error != 0) {
        state_->report(send_.error);
        if (!std::exchange(tried_, true) && send_.error != EMSGSIZE) return; // see send()
    }
    tried_ = false;
    kept_ -= out_.front().data.size() + overhead;
    out_.pop_front();
    if (paused_ && kept_ <= low_) {
        paused_ = false;
        draining_.wake_all(true);
    }
    if (out_.empty() && closing_) finish_close();
}

void endpoint_link::set_limits(std::size_t high, std::size_t low) noexcept {
    high_ = high;
    low_ = low;
    check_fill();
}

void endpoint_link::check_fill() noexcept {
    if (kept_ > high_) paused_ = true;
}

void endpoint_link::close() noexcept {
    if (closing_) return;
    closing_ = true;
    state_->stop_receiving();
    if (out_.empty()) finish_close();
}

void endpoint_link::abort() noexcept {
    if (closed_) return;
    closing_ = true;
    out_.clear();
    kept_ = 0;
    finish_close();
}

void endpoint_link::finish_close() noexcept {
    const ref_ptr<endpoint_link> kept(this);
    closed_ = true;
    retry_.cancel();
    if (send_.pending) {
        state_->backend().cancel(send_);
        release(); // the count that flush() took
    }
    state_->close();
    paused_ = false;
    draining_.wake_all(false);
    closed_waiters_.wake_all(true);
}

// The options' strings do not live as long as the coroutine.
struct endpoint_plan {
    endpoint_plan() = default;

    std::string local_host;
    std::string remote_host;
    int local_port = 0;
    int remote_port = 0;
    bool local = false;
    bool remote = false;
};

static socket endpoint_socket(const address& local, const address& remote,
                              const datagram_options& options) {
    const address& any = local ? local : remote;
    socket s = socket::udp(any.family());
    if (options.reuse_port) s.setsockopt(SOL_SOCKET, reuse_port_option(), 1);
    if (options.allow_broadcast) s.setsockopt(SOL_SOCKET, SO_BROADCAST, 1);
    if (local) {
        if (local.is_v6()) s.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 1);
        s.bind(local);
    }
    if (remote) {
        const system_address a(remote);
        const std::string call = "connect to " + remote.to_string();
        const int error = connect_datagrams(s.fileno(), a.get(), a.size);
        if (error != 0) throw_system_error(error, call.c_str());
    }
    return s;
}

// Tries what the two names have of one family, until one of them works.
static coro<datagram_endpoint> make_endpoint(endpoint_plan plan, datagram_options options) {
    std::vector<address> locals(1);
    std::vector<address> remotes(1);
    if (plan.local)
        locals = co_await getaddrinfo(plan.local_host, std::to_string(plan.local_port));
    if (plan.remote)
        remotes = co_await getaddrinfo(plan.remote_host, std::to_string(plan.remote_port));
    exception_ptr error;
    ref_ptr<endpoint_link> made;
    for (const address& remote : remotes) {
        for (const address& local : locals) {
            if (made || (local && remote && local.family() != remote.family())) continue;
            ASYNCIO_TRY {
                socket s = endpoint_socket(local, remote, options);
                made = ref_ptr<endpoint_link>(new endpoint_link(std::move(s), options.max_size));
            } ASYNCIO_CATCH(const std::system_error&) {
                error = current_error();
            }
        }
    }
    if (!made && !error)
        error = make_error(std::invalid_argument("asyncio::create_datagram_endpoint: the two "
                                                 "addresses are of different families"));
    if (!made) co_await fail_with(std::move(error));
    co_return datagram_endpoint(std::move(made));
}

static coro<datagram_endpoint> make_endpoint(socket over, std::size_t max_size) {
    co_return datagram_endpoint(
        ref_ptr<endpoint_link>(new endpoint_link(std::move(over), max_size)));
}

// The marks of a buffer: each follows from the other where only one is given.
static std::pair<std::size_t, std::size_t> fill_limits(fill_mark high, fill_mark low) {
    constexpr std::ptrdiff_t usual = 64 * 1024;
    const std::ptrdiff_t most = high.given ? high.bytes : low.given ? 4 * low.bytes : usual;
    const std::ptrdiff_t least = low.given ? low.bytes : most / 4;
    if (least < 0 || most < least)
        throw_invalid_argument("asyncio: set_write_buffer_limits: give 0 <= low <= high");
    return {static_cast<std::size_t>(most), static_cast<std::size_t>(least)};
}

} // namespace detail

coro<datagram_endpoint> create_datagram_endpoint(datagram_options options) {
    const auto given = [](const host_port& a) { return !a.host.empty() || a.port != 0; };
    detail::endpoint_plan plan;
    plan.local = given(options.local_addr);
    plan.remote = given(options.remote_addr);
    if (!plan.local && !plan.remote)
        detail::throw_invalid_argument("asyncio::create_datagram_endpoint: give local_addr, "
                                       "remote_addr or both");
    plan.local_host = options.local_addr.host;
    plan.local_port = detail::checked_port(options.local_addr.port);
    plan.remote_host = options.remote_addr.host;
    plan.remote_port = detail::checked_port(options.remote_addr.port);
    return detail::make_endpoint(std::move(plan), options);
}

coro<datagram_endpoint> create_datagram_endpoint(socket over, std::size_t max_size) {
    return detail::make_endpoint(std::move(over), max_size);
}

datagram_endpoint::datagram_endpoint(detail::ref_ptr<detail::endpoint_link> link) noexcept
    : link_(std::move(link)) {}
datagram_endpoint::datagram_endpoint(datagram_endpoint&& other) noexcept = default;
datagram_endpoint& datagram_endpoint::operator=(datagram_endpoint&& other) noexcept {
    std::swap(link_, other.link_);
    return *this;
}
datagram_endpoint::~datagram_endpoint() {
    if (link_) link_->close();
}

detail::endpoint_link& datagram_endpoint::link() const {
    if (!link_)
        detail::throw_runtime_error("asyncio::datagram_endpoint: it was moved from; use the one "
                                    "that it was moved to");
    return *link_;
}

void datagram_endpoint::sendto(std::string_view data, const address& where) {
    link().send(data, where);
}
void datagram_endpoint::sendto(std::span<const std::byte> data, const address& where) {
    sendto(std::string_view(reinterpret_cast<const char*>(data.data()), data.size()), where);
}
detail::socket_awaiter<datagram> datagram_endpoint::recvfrom() {
    return {link().state(), detail::socket_wait::action::receive_from, nullptr, link().max_size()};
}
detail::condition_awaiter datagram_endpoint::drain() {
    return {detail::ref_ptr<detail::wait_source>(&link()), detail::wait_goal::drained};
}
void datagram_endpoint::close() { link().close(); }
bool datagram_endpoint::is_closing() const { return link().closing(); }
detail::condition_awaiter datagram_endpoint::wait_closed() {
    return {detail::ref_ptr<detail::wait_source>(&link()), detail::wait_goal::closed};
}
void datagram_endpoint::abort() { link().abort(); }
address datagram_endpoint::sockname() const { return link().local(); }
address datagram_endpoint::peername() const { return link().remote(); }
std::size_t datagram_endpoint::get_write_buffer_size() const { return link().unsent(); }
void datagram_endpoint::set_write_buffer_limits(detail::fill_mark high, detail::fill_mark low) {
    const auto [most, least] = detail::fill_limits(high, low);
    link().set_limits(most, least);
}

} // namespace asyncio::inline ASYNCIO_ABI

#endif // !ASYNCIO_BACKEND_NONE

// =============================================================================
// [SECTION] implementation: streams
// uses: os, backend, events, futures, tasks, sockets, streams, implementation: sockets
// =============================================================================

#if !defined(ASYNCIO_BACKEND_NONE)

namespace asyncio::inline ASYNCIO_ABI {

namespace detail {

// -- buffers ----------------------------------------------------------------------

// What has been received and not been read: one contiguous piece, so that lines
// are views of it.
class receive_buffer {
public:
    std::string_view view() const noexcept { return {data_.get() + begin_, end_ - begin_}; }
    std::size_t size() const noexcept { return end_ - begin_; }
    bool empty() const noexcept { return begin_ == end_; }

    void consume(std::size_t n) noexcept {
        begin_ += n;
        if (begin_ != end_) return;
        begin_ = end_ = 0;
        if (capacity_ > most_kept) {
            data_.reset();
            capacity_ = 0;
        }
    }
    std::string take(std::size_t n) {
        std::string result(view().substr(0, n));
        consume(n);
        return result;
    }
    void append(std::span<const std::byte> bytes) {
        while (room().size() < bytes.size()) resize(capacity_ * 2);
        std::memcpy(data_.get() + end_, bytes.data(), bytes.size());
        end_ += bytes.size();
    }

    // Where to receive: at least half of what the buffer holds, and more if the
    // last receive filled all that it was given.
    std::span<char> room() {
        if (capacity_ == 0 || (filled_ && capacity_ < most_kept)) {
            resize(std::max(capacity_ * 2, least));
        } else if (capacity_ - end_ < capacity_ / 2) {
            if (size() > capacity_ / 2) resize(capacity_ * 2);
            else compact();
        }
        return {data_.get() + end_, capacity_ - end_};
    }
    void commit(std::size_t n) noexcept {
        end_ += n;
        filled_ = end_ == capacity_;
    }

private:
    static constexpr std::size_t least = 4096;
    static constexpr std::size_t most_kept = 256 * 1024;

    void compact() noexcept {
        std::memmove(data_.get(), data_.get() + begin_, size());
        end_ -= begin_;
        begin_ = 0;
    }
    void resize(std::size_t capacity) {
        std::unique_ptr<char[]> bigger(new char[capacity]);
        if (!empty()) std::memcpy(bigger.get(), data_.get() + begin_, size());
        data_ = std::move(bigger);
        end_ -= begin_;
        begin_ = 0;
        capacity_ = capacity;
        filled_ = false;
    }

    std::unique_ptr<char[]> data_;
    std::size_t begin_ = 0;
    std::size_t end_ = 0;
    std::size_t capacity_ = 0;
    bool filled_ = false;
};

// What was written and the system has not taken yet.
class send_queue {
public:
    send_queue() noexcept = default;
    send_queue(const send_queue&) = delete;
    send_queue& operator=(const send_queue&) = delete;
    ~send_queue() { clear(); }

    std::size_t size() const noexcept { return size_; }
    bool empty() const noexcept { return size_ == 0; }

    void append(std::string_view data) {
        size_ += data.size();
        if (last_ != nullptr) {
            const std::size_t n = std::min(data.size(), last_->capacity - last_->end);
            std::memcpy(last_->bytes() + last_->end, data.data(), n);
            last_->end += n;
            data.remove_prefix(n);
        }
        if (data.empty()) return;
        chunk* const fresh = make(std::max(data.size(), least));
        std::memcpy(fresh->bytes(), data.data(), data.size());
        fresh->end = data.size();
        (last_ != nullptr ? last_->next : first_) = fresh;
        last_ = fresh;
    }

    // The first pieces, for a vectored send; gives how many.
    std::size_t pieces(std::span<io_buffer> out) const noexcept {
        std::size_t count = 0;
        for (chunk* c = first_; c != nullptr && count < out.size(); c = c->next)
            out[count++] = {c->bytes() + c->begin, c->end - c->begin};
        return count;
    }
    void consume(std::size_t n) noexcept {
        size_ -= n;
        while (n > 0) {
            const std::size_t here = std::min(n, first_->end - first_->begin);
            first_->begin += here;
            n -= here;
            if (first_->begin == first_->end) drop_first();
        }
    }
    void clear() noexcept {
        while (first_ != nullptr) drop_first();
        size_ = 0;
    }

private:
    static constexpr std::size_t least = 16 * 1024 - 64;

    struct chunk {
        chunk* next;
        std::size_t begin;
        std::size_t end;
        std::size_t capacity;
        char* bytes() noexcept { return reinterpret_cast<char*>(this + 1); }
    };
    static chunk* make(std::size_t capacity) {
        void* const memory = ::operator new(sizeof(chunk) + capacity);
        return ::new (memory) chunk{nullptr, 0, 0, capacity};
    }
    void drop_first() noexcept {
        chunk* const gone = first_;
        first_ = gone->next;
        if (first_ == nullptr) last_ = nullptr;
        ::operator delete(gone);
    }

    chunk* first_ = nullptr;
    chunk* last_ = nullptr;
    std::size_t size_ = 0;
};

// -- a connection -------------------------------------------------------------------

// Tells the server that accepted the connection, if any, that it has gone.
static void leave_server(stream_link& link) noexcept;

class file_awaiter;

class stream_link final : public frame_allocated, public wait_source {
public:
    // Takes a connected socket, or one that is about to be.
    stream_link(loop_core& core, owned_fd fd, address peer, std::size_t limit);
    stream_link(loop_core& core, box<transport> over, std::size_t limit);
    static ref_ptr<stream_link> adopt(socket connected, std::size_t limit);
    stream_link(const stream_link&) = delete;
    ~stream_link();

    void add_ref() noexcept override { ++count_; }
    void release() noexcept override {
        if (--count_ == 0) delete this;
    }
    wait_outlook look(wait_goal goal) const noexcept override;
    wait_list* list_of(wait_goal goal) noexcept override;
    void check(wait_goal goal) const override;

    // Reading.
    bool begin_read(read_wait& w);
    void wait_for_data(read_wait& w) noexcept;
    void forget(read_wait& w) noexcept;
    std::string take(read_wait& w);
    std::size_t take_into(read_wait& w);
    bool at_eof() const noexcept { return eof_ && in_.empty(); }

    // Writing.
    void require_writable() const;
    void write(std::span<const io_buffer> data);
    void write_eof();
    bool can_write_eof() const noexcept { return !over_; }
    void set_limits(std::size_t high, std::size_t low) noexcept;
    std::size_t unsent() const noexcept { return closed_ ? 0 : out_.size(); }
    bool begin_file();
    void end_file() noexcept;

    // The end.
    void close() noexcept;
    void abort() noexcept;
    void fail(int error, const char* call) noexcept;
    bool closing() const noexcept { return closing_; }
    bool closed() const noexcept { return closed_; }
    bool failed() const noexcept { return error_ != 0; }
    [[noreturn]] void throw_reason() const {
        if (reason_) rethrow(reason_);
        throw_system_error(error_, call_);
    }

    io_descriptor& descriptor() noexcept { return descriptor_; }
    backend_state& backend() noexcept { return *backend_; }
    int fd() const noexcept { return fd_.get(); }
    const address& peer() const noexcept { return peer_; }
    loop_core& core() const noexcept { return *core_; }
    address local();

    // Of the server that accepted it.
    ref_ptr<server_state> server;
    stream_link* next = nullptr;
    stream_link* previous = nullptr;

private:
    friend class file_awaiter;

    struct operation : io_operation {
        operation(io_kind k, done_function d, stream_link& l) noexcept
            : io_operation(k, d), link(l) {}
        stream_link& link;
    };

    // A task that reads without end from a fast peer lets others have their turn
    // after so many receives.
    static constexpr int most_receives = 16;

    bool open() const noexcept {
        return descriptor_.attached || (over_ && !closed_ && !core_->closed && !core_->closing);
    }
    bool satisfied(read_wait& w) const;
    bool search(read_wait& w) const;
    bool pump(read_wait& w);
    bool receive(read_wait& w);
    void absorb() noexcept;
    void go_on() noexcept;
    void flush() noexcept;
    void sent() noexcept;
    void check_fill() noexcept;
    void end_sending() noexcept;
    void finish_close() noexcept;
    bool is_socket() const noexcept { return descriptor_.form == io_form::socket; }

    // Over a transport, tasks do what the system does for a socket. Each holds a count.
    static coro<> receive_over(ref_ptr<stream_link> link);
    static coro<> send_over(ref_ptr<stream_link> link);
    static coro<> shut_over(ref_ptr<stream_link> link);
    void run_over(any_task& place, coro<> (*work)(ref_ptr<stream_link>)) noexcept;
    void over_ended(any_task& place, any_task& task) noexcept;
    void end_over() noexcept;
    void lose_file() noexcept;

    std::size_t count_ = 0;
    ref_ptr<loop_core> core_;
    backend_state* backend_;
    owned_fd fd_;
    io_descriptor descriptor_;
    box<transport> over_;
    any_task receiving_; // over a transport, while it runs; also the others
    any_task sending_;
    any_task shutting_;
    operation receive_;
    operation send_;
    receive_buffer in_;
    send_queue out_;
    std::array<io_buffer, 16> pieces_;
    read_wait* reader_ = nullptr; // who waits for data
    read_wait* direct_ = nullptr; // into whose memory receive_ receives
    std::size_t limit_;
    std::size_t high_ = 64 * 1024;
    std::size_t low_ = 16 * 1024;
    const char* call_ = "";
    int error_ = 0;
    exception_ptr reason_; // of a transport
    bool eof_ = false;
    bool eof_wanted_ = false; // write_eof()
    bool file_ = false;       // sendfile() is at work
    file_awaiter* file_wait_ = nullptr;
    bool paused_ = false;
    bool closing_ = false;
    bool closed_ = false;
    address peer_;
    address local_;
    wait_list draining_;
    wait_list sent_waiters_;
    wait_list closed_waiters_;
};

stream_link::stream_link(loop_core& core, box<transport> over, std::size_t limit)
    : stream_link(core, owned_fd(), over->peername(), limit) {
    over_ = std::move(over);
    local_ = over_->sockname();
}

stream_link::stream_link(loop_core& core, owned_fd fd, address peer, std::size_t limit)
    : core_(&core), backend_(&core.loop->backend()), fd_(std::move(fd)),
      receive_(
          io_kind::receive,
          [](io_operation& op) noexcept {
              auto& link = static_cast<operation&>(op).link;
              link.absorb();
              link.go_on();
          },
          *this),
      send_(
          io_kind::send,
          [](io_operation& op) noexcept {
              // The count that flush() took, so that closing may drop the rest.
              const auto kept = ref_ptr<stream_link>::adopt(&static_cast<operation&>(op).link);
              kept->sent();
              kept->flush();
          },
          *this),
      limit_(limit), peer_(std::move(peer)) {
    descriptor_.fd = fd_.get();
    descriptor_.stops_short = peer_.is_local();
    if (fd_) backend_->attach(descriptor_);
    receive_.on = send_.on = &descriptor_;
}

// Nothing is pending: whoever waits, and a send on its way, hold a count.
stream_link::~stream_link() {
    if (descriptor_.attached) backend_->detach(descriptor_);
    leave_server(*this);
}

ref_ptr<stream_link> stream_link::adopt(socket connected, std::size_t limit) {
    loop_core& core = require_running("make_streams");
    if (connected.getsockopt(SOL_SOCKET, SO_TYPE) != SOCK_STREAM)
        throw_invalid_argument("asyncio::make_streams: the socket is none for streams; see "
                               "create_datagram_endpoint()");
    address peer = connected.remote_address();
    // What was received for somebody who was cancelled.
    const std::string kept = connected.state_->take_kept_bytes();
    owned_fd fd(connected.detach());
    ref_ptr<stream_link> link(new stream_link(core, std::move(fd), std::move(peer), limit));
    if (!kept.empty()) link->in_.append(std::as_bytes(std::span(kept)));
    return link;
}

address stream_link::local() {
    if (!local_ && fd_) {
        system_address a;
        a.size = sizeof a.storage;
        if (::getsockname(socket_of(fd_.get()), a.get(), &a.size) == 0) local_ = a.to_address();
    }
    return local_;
}

// -- reading ------------------------------------------------------------------------

bool stream_link::begin_read(read_wait& w) {
    if (reader_ != nullptr)
        throw_runtime_error("asyncio::stream_reader: another task is waiting to read already; "
                            "one task at a time reads from a connection");
    return pump(w);
}

void stream_link::wait_for_data(read_wait& w) noexcept {
    w.reading_ = true;
    reader_ = &w;
}

// The wait is over, however it ended. What came for it and was not handed over
// goes back to the buffer, which is empty: it was received past it.
void stream_link::forget(read_wait& w) noexcept {
    if ((w.reading_ || direct_ == &w) && receive_.pending) backend_->cancel(receive_);
    if (direct_ == &w) direct_ = nullptr;
    if (w.reading_) reader_ = nullptr;
    w.reading_ = false;
    if (w.received_ == 0) return;
    ASYNCIO_TRY {
        in_.append(w.target_.first(std::exchange(w.received_, 0)));
    } ASYNCIO_CATCH(const std::bad_alloc&) {
        fail(ENOMEM, "recv");
    }
}

// Receives until the wait has what it wants. False: that will take a while.
bool stream_link::pump(read_wait& w) {
    for (int i = 0; i < most_receives; ++i) {
        if (satisfied(w)) return true;
        if (!open()) {
            eof_ = true; // the loop is closed
            return true;
        }
        if (receive_.pending || receiving_.valid() || !receive(w)) return false;
    }
    if (satisfied(w)) return true;
    core_->loop->call_soon([link = ref_ptr<stream_link>(this)] { link->go_on(); });
    return false;
}

// True when something came at once.
bool stream_link::receive(read_wait& w) {
    if (over_) {
        run_over(receiving_, &stream_link::receive_over);
        return false;
    }
    if (w.goal_ == read_wait::goal::into && in_.empty()) {
        direct_ = &w;
        receive_.into = w.target_.data();
        receive_.size = w.target_.size();
    } else {
        const std::span<char> room = in_.room();
        receive_.into = room.data();
        receive_.size = room.size();
    }
    if (!backend_->start(receive_)) return false;
    absorb();
    return true;
}

// Takes in what receive_ brought.
void stream_link::absorb() noexcept {
    read_wait* const direct = std::exchange(direct_, nullptr);
    if (receive_.error != 0) fail(receive_.error, is_socket() ? "recv" : "read");
    else if (receive_.count == 0) eof_ = true;
    else if (direct != nullptr) direct->received_ = receive_.count;
    else in_.commit(receive_.count);
}

void stream_link::go_on() noexcept {
    if (reader_ == nullptr || reader_->woken()) return;
    bool ready = true;
    ASYNCIO_TRY {
        ready = pump(*reader_);
    } ASYNCIO_CATCH(const std::bad_alloc&) {
        fail(ENOMEM, "recv"); // wakes the reader
        return;
    }
    if (ready) reader_->wake();
}

bool stream_link::satisfied(read_wait& w) const {
    if (failed()) return true;
    switch (w.goal_) {
    case read_wait::goal::some: return w.n_ == 0 || !in_.empty() || eof_;
    case read_wait::goal::all: return eof_;
    case read_wait::goal::exactly: return in_.size() >= w.n_ || eof_;
    case read_wait::goal::line:
    case read_wait::goal::until: return search(w) || eof_;
    case read_wait::goal::into:
        return w.received_ != 0 || w.target_.empty() || !in_.empty() || eof_;
    }
    return true;
}

// Looks for the separator that ends first. Bytes that can begin none are not
// looked at again when more has come.
bool stream_link::search(read_wait& w) const {
    const std::string_view data = in_.view();
    std::size_t shortest = static_cast<std::size_t>(-1);
    std::size_t longest = 0;
    for (const std::string& separator : std::span(w.separators_, w.separator_count_)) {
        shortest = std::min(shortest, separator.size());
        longest = std::max(longest, separator.size());
    }
    if (data.size() < w.searched_ + shortest) return false;
    std::size_t end = static_cast<std::size_t>(-1);
    for (const std::string& separator : std::span(w.separators_, w.separator_count_)) {
        const std::size_t at = data.find(separator, w.searched_);
        if (at == std::string_view::npos || at + separator.size() >= end) continue;
        end = at + separator.size();
        w.found_ = at;
        w.found_size_ = separator.size();
    }
    if (w.found_size_ != 0) {
        w.overrun_ = w.found_ > limit_;
        return true;
    }
    w.searched_ = data.size() + 1 > longest ? data.size() + 1 - longest : 0;
    w.overrun_ = w.searched_ > limit_;
    return w.overrun_;
}

std::string stream_link::take(read_wait& w) {
    if (failed()) throw_reason();
    switch (w.goal_) {
    case read_wait::goal::some: return in_.take(std::min(w.n_, in_.size()));
    case read_wait::goal::exactly:
        if (in_.size() < w.n_) throw_error(incomplete_read_error(in_.take(in_.size()), w.n_));
        return in_.take(w.n_);
    case read_wait::goal::line:
    case read_wait::goal::until: break;
    default: return in_.take(in_.size());
    }
    const bool line = w.goal_ == read_wait::goal::line;
    if (w.overrun_) {
        const bool found = w.found_size_ != 0;
        if (line) {
            in_.consume(found ? w.found_ + w.found_size_ : in_.size());
            throw_invalid_argument("asyncio::stream_reader::readline: the line is longer than "
                                   "the limit; raise it with {.limit = ...}");
        }
        throw_error(limit_overrun_error(
            found ? "asyncio::stream_reader::readuntil: the separator comes after more bytes "
                    "than the limit; raise it with {.limit = ...}"
                  : "asyncio::stream_reader::readuntil: no separator within the limit; raise it "
                    "with {.limit = ...}",
            found ? w.found_ : w.searched_));
    }
    if (w.found_size_ != 0) return in_.take(w.found_ + w.found_size_);
    std::string rest = in_.take(in_.size());
    if (!line) throw_error(incomplete_read_error(std::move(rest), std::nullopt));
    return rest;
}

std::size_t stream_link::take_into(read_wait& w) {
    if (failed()) throw_reason();
    const std::size_t n = std::min(w.target_.size(), in_.size());
    if (n == 0) return 0;
    std::memcpy(w.target_.data(), in_.view().data(), n);
    in_.consume(n);
    return n;
}

// -- writing ------------------------------------------------------------------------

void stream_link::require_writable() const {
    if (eof_wanted_)
        throw_runtime_error("asyncio::stream_writer::write: write_eof() has been called");
    if (file_)
        throw_runtime_error("asyncio::stream_writer::write: a sendfile() is in progress; await "
                            "it first");
}

void stream_link::write(std::span<const io_buffer> data) {
    if ((closing_ && !file_) || !open() || data.empty()) return;
    std::size_t done = 0;
    if (out_.empty() && !over_) {
        send_.from = data.data();
        send_.size = data.size();
        send_.only_now = true;
        if (backend_->start(send_)) {
            if (send_.error != 0) return fail(send_.error, is_socket() ? "send" : "write");
            done = send_.count;
        }
    }
    for (const io_buffer& piece : data) {
        const std::size_t skip = std::min(done, piece.size);
        done -= skip;
        if (skip < piece.size)
            out_.append({static_cast<const char*>(piece.data) + skip, piece.size - skip});
    }
    if (out_.empty()) return;
    flush();
    check_fill();
}

// Sends what is kept, as far as the system takes it.
void stream_link::flush() noexcept {
    if (over_) {
        if (open() && !out_.empty() && !sending_.valid())
            run_over(sending_, &stream_link::send_over);
        return;
    }
    while (open() && !out_.empty() && !send_.pending) {
        send_.from = pieces_.data();
        send_.size = out_.pieces(pieces_);
        send_.only_now = false;
        if (!backend_->start(send_)) {
            add_ref(); // the rest is sent even if nobody else holds the connection
            return;
        }
        sent();
    }
}

void stream_link::sent() noexcept {
    if (send_.error != 0) return fail(send_.error, is_socket() ? "send" : "write");
    out_.consume(send_.count);
    if (paused_ && out_.size() <= low_) {
        paused_ = false;
        draining_.wake_all(true);
    }
    if (!out_.empty()) return;
    sent_waiters_.wake_all(true);
    if (!file_) end_sending();
}

// All that was written is sent: if it was the last, the peer is told.
void stream_link::end_sending() noexcept {
    if (closing_ && over_) run_over(shutting_, &stream_link::shut_over);
    else if (closing_) finish_close();
    else if (eof_wanted_ && is_socket()) ::shutdown(socket_of(fd_.get()), shut_writing);
    else if (eof_wanted_) close(); // a pipe has no other direction that stays open
}

void stream_link::write_eof() {
    if (over_)
        throw_runtime_error("asyncio::stream_writer::write_eof: this transport has no half-close; "
                            "ask can_write_eof()");
    if (closing_ || eof_wanted_ || !open()) return;
    eof_wanted_ = true;
    if (out_.empty() && !file_) end_sending();
}

// False: there is nobody to send a file to.
bool stream_link::begin_file() {
    require_writable();
    if (closing_ || !open()) return false;
    file_ = true;
    return true;
}

void stream_link::end_file() noexcept {
    file_ = false;
    if (!closed_ && open() && out_.empty()) end_sending();
}

void stream_link::set_limits(std::size_t high, std::size_t low) noexcept {
    high_ = high;
    low_ = low;
    check_fill();
}

void stream_link::check_fill() noexcept {
    if (out_.size() > high_) paused_ = true;
}

// -- the end ------------------------------------------------------------------------

void stream_link::close() noexcept {
    if (closing_) return;
    closing_ = true;
    eof_ = true;
    if (reader_ != nullptr && !reader_->woken()) reader_->wake();
    if (!open()) finish_close();
    else if (out_.empty() && !file_) end_sending();
}

void stream_link::abort() noexcept {
    if (closed_) return;
    closing_ = true;
    eof_ = true;
    finish_close();
}

void stream_link::fail(int error, const char* call) noexcept {
    if (closed_) return;
    error_ = error;
    call_ = call;
    closing_ = true;
    finish_close();
}

void stream_link::finish_close() noexcept {
    const ref_ptr<stream_link> kept(this);
    closed_ = true;
    if (descriptor_.attached) {
        if (send_.pending) {
            backend_->cancel(send_);
            release(); // the count that flush() took
        }
        backend_->cancel(receive_);
        lose_file();
        backend_->detach(descriptor_);
    }
    if (over_) end_over(); // what it sends must stay until it has ended
    else out_.clear();
    fd_.reset();
    if (reader_ != nullptr && !reader_->woken()) reader_->wake();
    paused_ = false;
    draining_.wake_all(false);
    sent_waiters_.wake_all(false);
    closed_waiters_.wake_all(false);
    leave_server(*this);
}

wait_outlook stream_link::look(wait_goal goal) const noexcept {
    if (goal == wait_goal::closed) return closed_ ? wait_outlook::ended : wait_outlook::ahead;
    if (failed()) return wait_outlook::ended;
    if (goal == wait_goal::sent)
        return closed_        ? wait_outlook::ended
               : out_.empty() ? wait_outlook::reached
                              : wait_outlook::ahead;
    return closing_ || paused_ ? wait_outlook::ahead : wait_outlook::reached;
}

// Who drains while it is closing gives others a turn, so that the end can come.
wait_list* stream_link::list_of(wait_goal goal) noexcept {
    if (goal == wait_goal::closed) return &closed_waiters_;
    if (goal == wait_goal::sent) return &sent_waiters_;
    return paused_ ? &draining_ : nullptr;
}

void stream_link::check(wait_goal goal) const {
    if (failed()) throw_reason();
    if (goal != wait_goal::closed && closed_)
        throw_system_error(ECONNRESET, "asyncio::stream_writer::drain: the connection is closed");
}

// -- over a transport -----------------------------------------------------------------

void stream_link::run_over(any_task& place, coro<> (*work)(ref_ptr<stream_link>)) noexcept {
    if (place.valid()) return;
    const ref_ptr<stream_link> self(this);
    ASYNCIO_TRY {
        place = core_->loop->create_task(work(self));
        place.add_done_callback([self, &place](any_task task) { self->over_ended(place, task); });
    } ASYNCIO_CATCH(const std::bad_alloc&) {
        fail(ENOMEM, "asyncio::make_streams");
    }
}

void stream_link::over_ended(any_task& place, any_task& task) noexcept {
    if (place == task) place = any_task();
    // Who closes gives up receiving.
    if (!closed_ && !(closing_ && &place == &receiving_)) {
        if (!task.cancelled()) reason_ = task.exception();
        if (task.cancelled()) fail(ECANCELED, "asyncio::make_streams: the transport's task");
        else if (reason_) fail(EIO, "asyncio::make_streams");
    }
    if (closed_) end_over();
}

// The connection is closed, and nobody needs the transport's tasks any more; nor the
// transport itself, as soon as nobody is inside it.
void stream_link::end_over() noexcept {
    bool running = false;
    for (any_task* task : {&receiving_, &sending_, &shutting_}) {
        if (!task->valid()) continue;
        running = true;
        if (&task->state() != core_->current) task->cancel();
    }
    if (running) return;
    over_.reset();
    out_.clear();
}

coro<> stream_link::receive_over(ref_ptr<stream_link> link) {
    constexpr std::size_t size = 16 * 1024;
    const std::unique_ptr<std::byte[]> room(new std::byte[size]);
    const std::span<std::byte> target(room.get(), size);
    const std::size_t n = co_await link->over_->recv(target);
    if (link->closing_) co_return;
    if (n == 0) link->eof_ = true;
    else link->in_.append(target.first(std::min(n, size)));
    link->receiving_ = any_task(); // there may be another one now
    link->go_on();
}

coro<> stream_link::send_over(ref_ptr<stream_link> link) {
    while (!link->closed_ && !link->out_.empty()) {
        io_buffer piece{nullptr, 0};
        link->out_.pieces({&piece, 1});
        const std::span<const std::byte> data(static_cast<const std::byte*>(piece.data),
                                              piece.size);
        const std::size_t n = co_await link->over_->send(data);
        if (link->closed_) co_return;
        if (n == 0 || n > piece.size)
            throw_runtime_error("asyncio::make_streams: the transport's send() gave a size that "
                                "it cannot have sent");
        link->send_.error = 0;
        link->send_.count = n;
        link->sent();
    }
    link->sending_ = any_task();
}

coro<> stream_link::shut_over(ref_ptr<stream_link> link) {
    any_task receiving = link->receiving_;
    if (receiving.valid()) {
        receiving.cancel();
        static_cast<void>(co_await as_outcome(receiving));
    }
    co_await link->over_->shutdown();
    link->shutting_ = any_task();
    link->finish_close();
}

// -- the awaiters -------------------------------------------------------------------

read_wait::read_wait(const ref_ptr<stream_link>& link, goal g, std::size_t n) noexcept
    : link_(link), n_(n), goal_(g) {}
read_wait::read_wait(read_wait&& other) noexcept
    : suspension(std::move(other)), target_(other.target_), link_(std::move(other.link_)),
      n_(other.n_), goal_(other.goal_) {}

read_wait::~read_wait() {
    if (link_) link_->forget(*this);
}

bool read_wait::begin() {
    static const std::string newline = "\n";
    if (goal_ == goal::line) {
        separators_ = &newline;
        separator_count_ = 1;
    }
    return link_->begin_read(*this);
}

void read_wait::wait() noexcept { link_->wait_for_data(*this); }

bool read_wait::on_cancel() noexcept {
    if (woken()) return false;
    link_->forget(*this);
    cancel_here();
    return true;
}

std::string read_wait::finish() {
    const bool cancelled = interrupted();
    link_->forget(*this);
    if (cancelled) throw_cancelled();
    return link_->take(*this);
}

std::size_t read_wait::finish_into() {
    const bool cancelled = interrupted();
    const std::size_t received = cancelled ? 0 : std::exchange(received_, 0);
    link_->forget(*this);
    if (cancelled) throw_cancelled();
    return received != 0 ? received : link_->take_into(*this);
}

} // namespace detail

// -- stream_reader and stream_writer --------------------------------------------------

stream_reader::stream_reader(detail::ref_ptr<detail::stream_link> link) noexcept
    : link_(std::move(link)) {}
stream_reader::stream_reader(stream_reader&& other) noexcept = default;
stream_reader& stream_reader::operator=(stream_reader&& other) noexcept = default;
stream_reader::~stream_reader() = default;

const detail::ref_ptr<detail::stream_link>& stream_reader::link() const {
    if (!link_)
        detail::throw_runtime_error("asyncio::stream_reader: it was moved from; use the one that "
                                    "it was moved to");
    return link_;
}

detail::read_awaiter stream_reader::read(std::ptrdiff_t n) {
    using goal = detail::read_awaiter::goal;
    return {link(), n < 0 ? goal::all : goal::some, static_cast<std::size_t>(n)};
}

detail::read_awaiter stream_reader::readline() {
    return {link(), detail::read_awaiter::goal::line, 0};
}

detail::read_awaiter stream_reader::readexactly(std::ptrdiff_t n) {
    if (n < 0)
        detail::throw_invalid_argument("asyncio::stream_reader::readexactly: the size is negative");
    return {link(), detail::read_awaiter::goal::exactly, static_cast<std::size_t>(n)};
}

detail::read_until_awaiter stream_reader::readuntil(std::string_view separator) {
    if (separator.empty())
        detail::throw_invalid_argument("asyncio::stream_reader::readuntil: the separator is empty");
    return {link(), std::string(separator)};
}

namespace detail {

struct text_list::items {
    bool copies;
    std::vector<std::string> texts;
    std::vector<std::string_view> views;
};

text_list::text_list(bool copies) : list(*new items{copies, {}, {}}) {}
text_list::~text_list() { delete &list; }

void text_list::add(std::string_view text) {
    if (list.copies) list.texts.emplace_back(text);
    else list.views.push_back(text);
}

bool read_until_awaiter::await_ready() {
    separators_ = several_.empty() ? &one_ : several_.data();
    separator_count_ = several_.empty() ? 1 : several_.size();
    return begin();
}

} // namespace detail

detail::read_into_awaiter stream_reader::read_into(std::span<char> target) {
    return read_into(std::as_writable_bytes(target));
}

detail::read_until_awaiter stream_reader::read_until_any(detail::text_list& list) {
    std::vector<std::string>& separators = list.list.texts;
    if (separators.empty())
        detail::throw_invalid_argument("asyncio::stream_reader::readuntil: no separators given");
    for (const std::string& separator : separators)
        if (separator.empty())
            detail::throw_invalid_argument(
                "asyncio::stream_reader::readuntil: a separator is empty");
    return {link(), std::move(separators)};
}

detail::read_into_awaiter stream_reader::read_into(std::span<std::byte> target) {
    return {link(), target};
}

bool stream_reader::at_eof() const { return link()->at_eof(); }

stream_writer::stream_writer(detail::ref_ptr<detail::stream_link> link) noexcept
    : link_(std::move(link)) {}
stream_writer::stream_writer(stream_writer&& other) noexcept = default;
stream_writer& stream_writer::operator=(stream_writer&& other) noexcept {
    std::swap(link_, other.link_);
    return *this;
}
stream_writer::~stream_writer() {
    if (link_) link_->close();
}

const detail::ref_ptr<detail::stream_link>& stream_writer::link() const {
    if (!link_)
        detail::throw_runtime_error("asyncio::stream_writer: it was moved from; use the one that "
                                    "it was moved to");
    return link_;
}

void stream_writer::write(std::string_view data) {
    const detail::io_buffer piece{data.data(), data.size()};
    link()->require_writable();
    link()->write({&piece, data.empty() ? std::size_t(0) : std::size_t(1)});
}

void stream_writer::write(std::span<const std::byte> data) {
    write(std::string_view(reinterpret_cast<const char*>(data.data()), data.size()));
}

void stream_writer::write_pieces(const detail::text_list& pieces) {
    std::vector<detail::io_buffer> list;
    const auto add = [&](std::string_view piece) {
        if (!piece.empty()) list.push_back({piece.data(), piece.size()});
    };
    for (const std::string& text : pieces.list.texts) add(text);
    for (std::string_view view : pieces.list.views) add(view);
    link()->require_writable();
    link()->write(list);
}

detail::condition_awaiter stream_writer::drain() {
    return {link(), detail::wait_goal::drained};
}
void stream_writer::write_eof() { link()->write_eof(); }
bool stream_writer::can_write_eof() const { return link()->can_write_eof(); }
void stream_writer::close() { link()->close(); }
bool stream_writer::is_closing() const { return link()->closing(); }
detail::condition_awaiter stream_writer::wait_closed() {
    return {link(), detail::wait_goal::closed};
}
void stream_writer::abort() { link()->abort(); }
address stream_writer::peername() const { return link()->peer(); }
address stream_writer::sockname() const { return link()->local(); }
std::size_t stream_writer::get_write_buffer_size() const { return link()->unsent(); }

void stream_writer::set_nodelay(bool on) {
    if (link()->peer().is_local() || link()->fd() < 0) return;
    if (detail::set_option(link()->fd(), IPPROTO_TCP, TCP_NODELAY, on ? 1 : 0) != 0)
        detail::throw_last_error("setsockopt(TCP_NODELAY)");
}

void stream_writer::set_write_buffer_limits(detail::fill_mark high, detail::fill_mark low) {
    const auto [most, least] = detail::fill_limits(high, low);
    link()->set_limits(most, least);
}

namespace detail {

static stream_pair make_pair_of(const ref_ptr<stream_link>& link) {
    return {stream_reader(link), stream_writer(link)};
}

stream_pair make_streams(box<transport> over, std::size_t limit) {
    loop_core& core = require_running("make_streams");
    return make_pair_of(ref_ptr<stream_link>(new stream_link(core, std::move(over), limit)));
}

// -- sending a file -----------------------------------------------------------------

// Hands a part of a file to the system. The connection holds a count of itself as long
// as the task that waits here does.
class file_awaiter final : public suspension {
public:
    file_awaiter(stream_link& link, int file, std::int64_t offset, std::size_t n) noexcept
        : link_(link), operation_(*this) {
        operation_.on = &link_.descriptor();
        operation_.file = file;
        operation_.offset = offset;
        operation_.size = n;
    }
    file_awaiter(file_awaiter&& other) noexcept
        : file_awaiter(other.link_, other.operation_.file, other.operation_.offset,
                       other.operation_.size) {}
    ~file_awaiter() { leave(); }

    bool await_ready() noexcept {
        if (link_.closed()) return true;
        return link_.backend().start(operation_);
    }
    template <class Promise>
    void await_suspend(std::coroutine_handle<Promise> h) noexcept {
        if (suspend(h)) link_.file_wait_ = this;
        else leave();
    }
    // How much was sent; 0 without an error(): the file has ended.
    std::size_t await_resume() {
        leave();
        if (interrupted()) throw_cancelled();
        if (link_.failed()) link_.throw_reason();
        if (link_.closed())
            throw_system_error(ECONNRESET,
                               "asyncio::stream_writer::sendfile: the connection is closed");
        return operation_.count;
    }
    int error() const noexcept { return operation_.error; }

    void lose() noexcept {
        leave();
        if (!woken()) wake();
    }

private:
    struct operation final : io_file {
        explicit operation(file_awaiter& a) noexcept
            : io_file(io_kind::send_file,
                      [](io_operation& op) noexcept {
                          auto& self = static_cast<operation&>(op).awaiter;
                          if (!self.woken()) self.wake();
                      }),
              awaiter(a) {}
        file_awaiter& awaiter;
    };

    void leave() noexcept {
        if (operation_.pending) link_.backend().cancel(operation_);
        if (link_.file_wait_ == this) link_.file_wait_ = nullptr;
    }
    bool on_cancel() noexcept override {
        if (woken()) return false;
        leave();
        cancel_here();
        return true;
    }

    stream_link& link_;
    operation operation_;
};

void stream_link::lose_file() noexcept {
    if (file_wait_ != nullptr) file_wait_->lose();
}

static std::string part_of_file(int file, std::int64_t from, std::size_t size) {
    std::string data(size, '\0');
    ssize_t got;
    do got = read_at(file, data.data(), size, from);
    while (got < 0 && last_error() == EINTR);
    if (got < 0) throw_last_error("pread");
    data.resize(static_cast<std::size_t>(got));
    return data;
}

// Where the system cannot do it, the bytes go through this process, read on a thread.
static coro<std::size_t> copy_file(ref_ptr<stream_link> link, int fd, std::int64_t offset,
                                   std::size_t n) {
    constexpr std::size_t piece = 128 * 1024;
    std::size_t sent = 0;
    while (sent < n) {
        const auto from = offset + static_cast<std::int64_t>(sent);
        const std::size_t size = std::min(piece, n - sent);
#if defined(ASYNCIO_NO_THREADS)
        const std::string data = part_of_file(fd, from, size);
#else
        const std::string data = co_await to_thread(&part_of_file, fd, from, size);
#endif
        if (data.empty()) break;
        const io_buffer buffer{data.data(), data.size()};
        link->write({&buffer, 1});
        co_await condition_awaiter(link, wait_goal::drained);
        sent += data.size();
    }
    co_return sent;
}

struct file_guard {
    explicit file_guard(stream_link& l) noexcept : link(l) {}
    ~file_guard() { link.end_file(); }
    stream_link& link;
};

static coro<std::size_t> send_file(ref_ptr<stream_link> link, int fd, std::int64_t offset,
                                   std::size_t n) {
    if (!link->begin_file()) {
        if (link->failed()) link->throw_reason();
        throw_system_error(ECONNRESET,
                           "asyncio::stream_writer::sendfile: the connection is closed");
    }
    const file_guard guard(*link);
    co_await condition_awaiter(link, wait_goal::sent);
    if (link->fd() < 0) co_return co_await copy_file(link, fd, offset, n);
    constexpr std::size_t most = 1 << 20;
    constexpr int most_at_once = 16; // then others have their turn
    std::size_t sent = 0;
    for (int i = 1; sent < n; ++i) {
        file_awaiter sending(*link, fd, offset + static_cast<std::int64_t>(sent),
                             std::min(most, n - sent));
        const std::size_t now = co_await sending;
        const int error = sending.error();
        const bool cannot = error == EINVAL || error == ENOSYS || error == EOPNOTSUPP;
        if (cannot && sent == 0) co_return co_await copy_file(link, fd, offset, n);
        if (error != 0) {
            // Of the connection, or of the file.
            if (error == EPIPE || error == ECONNRESET) link->fail(error, "sendfile");
            throw_system_error(error, "sendfile");
        }
        if (now == 0) break;
        sent += now;
        if (i % most_at_once == 0) co_await asyncio::sleep(duration());
    }
    co_return sent;
}

} // namespace detail

coro<std::size_t> stream_writer::sendfile(int fd, std::int64_t offset, std::ptrdiff_t n) {
    if (offset < 0)
        detail::throw_invalid_argument("asyncio::stream_writer::sendfile: the offset is negative");
    return detail::send_file(link(), fd, offset, static_cast<std::size_t>(n));
}

namespace detail {

// -- connecting -------------------------------------------------------------------

// Gives 0 or the errno value. A look at the clock finds it standing meanwhile.
class connect_awaiter final : public suspension {
public:
    connect_awaiter(ref_ptr<stream_link> link, const address& to)
        : link_(std::move(link)), to_(to), operation_(*this) {}
    connect_awaiter(connect_awaiter&& other) noexcept
        : suspension(std::move(other)), link_(std::move(other.link_)), to_(other.to_),
          operation_(*this) {}
    ~connect_awaiter() {
        if (operation_.pending) link_->backend().cancel(operation_);
    }

    bool await_ready() noexcept {
        operation_.on = &link_->descriptor();
        operation_.address = to_.get();
        operation_.size = to_.size;
        return link_->backend().start(operation_);
    }
    template <class Promise>
    void await_suspend(std::coroutine_handle<Promise> h) noexcept {
        if (suspend(h)) hold_ = clock_hold(*core());
    }
    int await_resume() {
        if (interrupted()) throw_cancelled();
        return operation_.error;
    }

private:
    struct operation final : io_operation {
        explicit operation(connect_awaiter& a) noexcept
            : io_operation(io_kind::connect,
                           [](io_operation& op) noexcept {
                               auto& self = static_cast<operation&>(op).awaiter;
                               self.hold_.reset();
                               if (!self.woken()) self.wake();
                           }),
              awaiter(a) {}
        connect_awaiter& awaiter;
    };

    bool on_cancel() noexcept override {
        if (woken()) return false;
        link_->backend().cancel(operation_);
        hold_.reset();
        cancel_here();
        return true;
    }

    ref_ptr<stream_link> link_;
    system_address to_;
    operation operation_;
    clock_hold hold_;
};

// A connection, or why there is none.
struct connect_result {
    connect_result() = default;
    connect_result(int e, std::string c) : error(e), call(std::move(c)) {}

    ref_ptr<stream_link> link;
    int error = 0;
    std::string call;
};

// What a connection is to be like; see connect_options.
struct link_plan {
    std::size_t limit;
    bool keep_alive;
};

static void prepare_for_streams(int fd, bool keep_alive) noexcept {
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1); // fails for a Unix socket
    if (keep_alive) set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
}

static coro<connect_result> connect_to(address to, address from, link_plan plan) {
    owned_fd fd = open_socket(to.family(), SOCK_STREAM);
    if (!fd) co_return connect_result(last_error(), "socket");
    if (!to.is_local()) prepare_for_streams(fd.get(), plan.keep_alive);
    if (from) {
        const system_address local(from);
        if (::bind(socket_of(fd.get()), local.get(), local.size) != 0)
            co_return connect_result(last_error(), "bind to " + from.to_string());
    }
    connect_result result;
    result.link = ref_ptr<stream_link>(
        new stream_link(require_running("open_connection"), std::move(fd), to, plan.limit));
    result.error = co_await connect_awaiter(result.link, to);
    // A Unix socket whose backlog is full says so at once, and nothing when it has room.
    while (result.error == EAGAIN) {
        co_await asyncio::sleep(std::chrono::milliseconds(1));
        result.error = co_await connect_awaiter(result.link, to);
    }
    if (result.error != 0) {
        result.link = nullptr;
        result.call = "connect to " + to.to_string();
    }
    co_return result;
}

// Each failure's own words, as one error when they differ.
[[noreturn]] static void throw_connect_errors(const std::vector<connect_result>& failures) {
    const connect_result& first = failures.front();
    const bool alike = std::all_of(failures.begin(), failures.end(),
                                   [&](const auto& f) { return f.error == first.error; });
    std::string text = first.call;
    for (std::size_t i = 1; i < failures.size(); ++i) {
        if (!alike) text += ": " + code_of(failures[i - 1].error).message();
        text += "; " + failures[i].call;
    }
    const int error = failures.back().error;
    throw_system_error(error, text.c_str());
}

static coro<stream_pair> connect_to_any(std::vector<address> to, address from, link_plan plan) {
    std::vector<connect_result> failures;
    for (const address& a : to) {
        connect_result result = co_await connect_to(a, from, plan);
        if (result.link) co_return make_pair_of(result.link);
        failures.push_back(std::move(result));
    }
    throw_connect_errors(failures);
}

// Takes a timer back at the end of a block.
struct timer_guard {
    explicit timer_guard(handle t) noexcept : timer(std::move(t)) {}
    ~timer_guard() { timer.cancel(); }
    handle timer;
};

// Attempts that run beside each other, and what the race waits for: that one of
// them ends, or that it is time for the next.
struct connect_race {
    connect_race() = default;
    void tell() const {
        if (!news.done()) news.set_result();
    }

    future<void> news;
    std::vector<task<connect_result>> running;
};

// Whatever ends the race ends the attempts.
struct connect_race_guard {
    explicit connect_race_guard(connect_race& r) noexcept : race(r) {}
    ~connect_race_guard() {
        for (const auto& attempt : race.running) attempt.cancel();
    }
    connect_race& race;
};

// IPv6 and IPv4 take turns, so that one that is broken delays only one step.
static std::vector<address> interleaved(const std::vector<address>& list) {
    std::vector<address> result;
    std::vector<address> others;
    for (const address& a : list)
        (a.family() == list.front().family() ? result : others).push_back(a);
    for (std::size_t i = 0; i < others.size(); ++i)
        result.insert(result.begin() + static_cast<std::ptrdiff_t>(
                                           std::min(2 * i + 1, result.size())),
                      others[i]);
    return result;
}

// "Happy eyeballs": the next attempt begins when the former has failed or `delay`
// has passed; the first that succeeds wins.
static coro<stream_pair> connect_to_fastest(std::vector<address> to, address from,
                                            link_plan plan, duration delay) {
    event_loop& loop = get_running_loop();
    to = interleaved(to);
    const auto race = std::make_shared<connect_race>();
    const connect_race_guard guard(*race);
    std::vector<connect_result> failures;
    std::size_t next = 0;
    while (failures.size() < to.size()) {
        race->news = loop.create_future<void>();
        handle timer;
        if (next < to.size()) {
            auto attempt = loop.create_task(connect_to(to[next++], from, plan));
            attempt.add_done_callback([race] { race->tell(); });
            race->running.push_back(std::move(attempt));
            if (next < to.size()) timer = loop.call_later(delay, [race] { race->tell(); });
        }
        const timer_guard stop(timer);
        future<void> news = race->news;
        co_await news;
        for (std::size_t i = 0; i < race->running.size();) {
            if (!race->running[i].done()) {
                ++i;
                continue;
            }
            task<connect_result> ended = std::move(race->running[i]);
            race->running.erase(race->running.begin() + static_cast<std::ptrdiff_t>(i));
            connect_result result = ended.result();
            if (result.link) co_return make_pair_of(result.link);
            failures.push_back(std::move(result));
        }
    }
    throw_connect_errors(failures);
}

static coro<stream_pair> connect_to_best(std::vector<address> to, address from, link_plan plan,
                                         std::optional<duration> delay) {
    if (to.empty()) throw_invalid_argument("asyncio::open_connection: no address given");
    if (delay && to.size() > 1)
        return connect_to_fastest(std::move(to), std::move(from), plan, *delay);
    return connect_to_any(std::move(to), std::move(from), plan);
}

static coro<stream_pair> connect_to_host(std::string host, int port, address from,
                                         link_plan plan, std::optional<duration> delay) {
    std::vector<address> found = co_await getaddrinfo(std::move(host), std::to_string(port));
    co_return co_await connect_to_best(std::move(found), std::move(from), plan, delay);
}

// The options' strings are looked at before the coroutine begins.
static address local_address(const host_port& from) {
    if (from.host.empty() && from.port == 0) return address();
    return address(from.host.empty() ? "0.0.0.0" : from.host, from.port);
}

} // namespace detail

coro<stream_pair> open_connection(std::string host, int port, connect_options options) {
    detail::checked_port(port);
    return detail::connect_to_host(std::move(host), port,
                                   detail::local_address(options.local_addr),
                                   {options.limit, options.keep_alive},
                                   options.happy_eyeballs_delay);
}

coro<stream_pair> open_connection(std::vector<address> where, connect_options options) {
    return detail::connect_to_best(std::move(where), detail::local_address(options.local_addr),
                                   {options.limit, options.keep_alive},
                                   options.happy_eyeballs_delay);
}

coro<stream_pair> open_unix_connection(std::string path, connect_options options) {
    std::vector<address> to(1, address::local(path));
    return detail::connect_to_any(std::move(to), address(), {options.limit, false});
}

stream_pair make_streams(socket connected, stream_options options) {
    return detail::make_pair_of(
        detail::stream_link::adopt(std::move(connected), options.limit));
}

namespace detail {

static coro<stream_pair> connect_over(socket connected, link_plan plan) {
    if (connected.fileno() >= 0) prepare_for_streams(connected.fileno(), plan.keep_alive);
    co_return make_pair_of(stream_link::adopt(std::move(connected), plan.limit));
}

} // namespace detail

coro<stream_pair> open_connection(socket connected, connect_options options) {
    return detail::connect_over(std::move(connected), {options.limit, options.keep_alive});
}

namespace detail {

// -- servers ------------------------------------------------------------------------

// A listening socket. It stays in the server's list after it was closed, because
// callbacks that are on their way point to it.
struct listener {
    listener(owned_fd f, address a, server_state& s, io_operation::done_function done) noexcept
        : fd(std::move(f)), local(std::move(a)), accept(*this, s, done) {
        descriptor.fd = fd.get();
        accept.on = &descriptor;
    }
    listener(const listener&) = delete;

    struct operation final : io_operation {
        operation(listener& l, server_state& s, done_function d) noexcept
            : io_operation(io_kind::accept, d), of(l), server(s) {}
        // A connection that came when nobody could take it any more.
        ~operation() { owned_fd(accepted).reset(); }
        listener& of;
        server_state& server;
        system_address peer;
    };

    owned_fd fd;
    address local;
    io_descriptor descriptor;
    operation accept;
    bool parked = false; // stopped by max_connections or by an error; see unpark()
};

class server_state final : public frame_allocated, public wait_source {
public:
    server_state(loop_core& core, client_handler on_client, std::size_t limit,
                 std::size_t max_connections, int backlog)
        : core_(&core), on_client_(std::move(on_client)), limit_(limit),
          max_connections_(max_connections), backlog_(backlog) {}
    server_state(const server_state&) = delete;
    ~server_state() { close(); }

    void add_ref() noexcept override { ++count_; }
    void release() noexcept override {
        if (--count_ == 0) delete this;
    }
    wait_outlook look(wait_goal) const noexcept override {
        return ended() ? wait_outlook::reached : wait_outlook::ahead;
    }
    wait_list* list_of(wait_goal) noexcept override { return &ended_waiters_; }
    void check(wait_goal) const override {}

    void add_listener(owned_fd fd, address local);
    void remove_file_at_end(std::string path);

    void start_serving();
    void close() noexcept;
    void close_clients(bool at_once) noexcept;
    void leave(stream_link& link) noexcept;

    bool closed() const noexcept { return closed_; }
    bool serving() const noexcept { return serving_ && !closed_; }
    bool ended() const noexcept { return closed_ && clients_ == nullptr; }
    std::vector<server_socket> sockets() const;
    loop_core& core() const noexcept { return *core_; }

    std::optional<future<void>> forever; // what serve_forever() waits for

private:
    static constexpr int most_accepts = 64; // before others have a turn

    static void accepted(io_operation& op) noexcept;
    void accept_from(listener& from);
    bool take(listener& from);
    void serve(owned_fd fd, address peer);
    void report(const char* message, exception_ptr error) const;
    void park_when_full() noexcept;
    void unpark() noexcept;

    std::size_t count_ = 0;
    ref_ptr<loop_core> core_;
    client_handler on_client_;
    std::vector<std::unique_ptr<listener>> listeners_;
    stream_link* clients_ = nullptr;
    std::size_t client_count_ = 0;
    std::size_t limit_;
    std::size_t max_connections_;
    int backlog_;
    bool serving_ = false;
    bool closed_ = false;
    handle retry_;
    std::string file_; // of a Unix socket, to be removed if it is still the same
#if !defined(_WIN32)
    dev_t file_device_ = 0;
    ino_t file_inode_ = 0;
#endif
    wait_list ended_waiters_;
};

static void leave_server(stream_link& link) noexcept {
    if (const ref_ptr<server_state> server = std::exchange(link.server, nullptr))
        server->leave(link);
}

void server_state::add_listener(owned_fd fd, address local) {
    listeners_.push_back(std::make_unique<listener>(std::move(fd), std::move(local), *this,
                                                    &server_state::accepted));
}

#if !defined(_WIN32)

void server_state::remove_file_at_end(std::string path) {
    struct stat info {};
    if (::stat(path.c_str(), &info) != 0) return;
    file_ = std::move(path);
    file_device_ = info.st_dev;
    file_inode_ = info.st_ino;
}

#endif

void server_state::start_serving() {
    if (closed_)
        throw_runtime_error("asyncio::server: the server is closed; start a new one");
    if (serving_) return;
    for (const auto& l : listeners_) {
        if (::listen(socket_of(l->fd.get()), backlog_) != 0) {
            const std::string call = "listen on " + l->local.to_string();
            throw_last_error(call.c_str());
        }
        if (!l->descriptor.attached) core_->loop->backend().attach(l->descriptor);
    }
    serving_ = true;
    for (const auto& l : listeners_) accept_from(*l);
}

// Inside wait(): the handler is the user's code and has to wait for its turn.
void server_state::accepted(io_operation& op) noexcept {
    auto& accept = static_cast<listener::operation&>(op);
    if (op.error == ECANCELED) return; // the loop is gone
    server_state& server = accept.server;
    server.core_->loop->call_soon(
        [self = ref_ptr<server_state>(&server), &from = accept.of] {
            if (self->take(from)) self->accept_from(from);
        });
}

// Accepts what is waiting, then lets the system tell when there is more.
void server_state::accept_from(listener& from) {
    for (int i = 0; i < most_accepts; ++i) {
        if (!serving()) return;
        if (max_connections_ != 0 && client_count_ >= max_connections_) {
            from.parked = true; // until one of them leaves
            return;
        }
        from.accept.into = from.accept.peer.get();
        from.accept.size = sizeof from.accept.peer.storage;
        if (!core_->loop->backend().start(from.accept)) return;
        if (!take(from)) return;
    }
    core_->loop->call_soon(
        [self = ref_ptr<server_state>(this), &from] { self->accept_from(from); });
}

// Handles the outcome of an accept. False: accepting stops for now.
bool server_state::take(listener& from) {
    const int error = from.accept.error;
    if (error == 0) {
        owned_fd fd(std::exchange(from.accept.accepted, -1));
        if (!serving()) return false;
        from.accept.peer.size = static_cast<socklen_t>(from.accept.count);
        serve(std::move(fd), from.accept.peer.to_address());
        return true;
    }
    if (!serving()) return false;
    switch (error) {
    case ECONNABORTED: // the peer, or the network, was faster than we: the next one
    case EPROTO:
    case EPERM:
    case ENETDOWN:
    case host_down:
    case ENETUNREACH:
    case EHOSTUNREACH:
    case ENOPROTOOPT:
    case not_on_network: return true;
    default: break;
    }
    // Out of descriptors or memory. The connection stays in the backlog and would
    // be reported again at once, for ever; so it is left there for a second.
    from.parked = true;
    report("asyncio::start_server: cannot accept connections for now",
           make_error(std::system_error(code_of(error), "accept")));
    retry_ = core_->loop->call_later(std::chrono::seconds(1),
                                     [self = ref_ptr<server_state>(this)] { self->unpark(); });
    return false;
}

void server_state::serve(owned_fd fd, address peer) {
    ref_ptr<stream_link> link;
    ASYNCIO_TRY {
        link = ref_ptr<stream_link>(
            new stream_link(*core_, std::move(fd), std::move(peer), limit_));
        link->server = ref_ptr<server_state>(this);
        link->next = clients_;
        if (clients_ != nullptr) clients_->previous = link.get();
        clients_ = link.get();
        ++client_count_;
        park_when_full();
        any_task task = on_client_(stream_reader(link), stream_writer(link));
        if (!task.valid()) return;
        // Holds the server, and with it the handler, as long as the task runs.
        task.add_done_callback([self = ref_ptr<server_state>(this), link](any_task t) {
            if (!t.cancelled() && t.exception() == nullptr) return;
            link->close();
            if (!t.cancelled())
                self->report("asyncio::start_server: unhandled exception in the client callback",
                             t.exception());
        });
    } ASYNCIO_CATCH_ALL {
        if (link) link->close();
        report("asyncio::start_server: unhandled exception in the client callback",
               current_error());
    }
}

// The last place is taken: the other sockets stop waiting for connections, too.
void server_state::park_when_full() noexcept {
    if (max_connections_ == 0 || client_count_ < max_connections_) return;
    for (const auto& l : listeners_) {
        if (!l->accept.pending) continue;
        core_->loop->backend().cancel(l->accept);
        l->parked = true;
    }
}

void server_state::report(const char* message, exception_ptr error) const {
    if (core_->loop != nullptr) core_->loop->call_exception_handler({message, error, {}});
}

void server_state::leave(stream_link& link) noexcept {
    (link.previous != nullptr ? link.previous->next : clients_) = link.next;
    if (link.next != nullptr) link.next->previous = link.previous;
    --client_count_;
    unpark(); // there is a place, and a descriptor, again
    if (ended()) ended_waiters_.wake_all(true);
}

void server_state::unpark() noexcept {
    if (!serving() || core_->closed) return;
    for (const auto& l : listeners_) {
        if (!l->parked) continue;
        l->parked = false;
        core_->loop->call_soon(
            [self = ref_ptr<server_state>(this), from = l.get()] { self->accept_from(*from); });
    }
}

void server_state::close() noexcept {
    if (closed_) return;
    closed_ = true;
    retry_.cancel();
    for (const auto& l : listeners_) {
        if (l->descriptor.attached) {
            backend_state& backend = core_->loop->backend();
            backend.cancel(l->accept);
            backend.detach(l->descriptor);
        }
        l->fd.reset();
    }
#if !defined(_WIN32)
    struct stat info {};
    if (!file_.empty() && ::stat(file_.c_str(), &info) == 0 && info.st_dev == file_device_ &&
        info.st_ino == file_inode_)
        ::unlink(file_.c_str());
#endif
    if (forever && !forever->done()) forever->cancel();
    if (ended()) ended_waiters_.wake_all(true);
}

void server_state::close_clients(bool at_once) noexcept {
    for (stream_link* link = clients_; link != nullptr;) {
        const ref_ptr<stream_link> kept(link);
        link = link->next; // closing takes it off the list
        if (at_once) kept->abort();
        else kept->close();
    }
}

std::vector<server_socket> server_state::sockets() const {
    std::vector<server_socket> list;
    for (const auto& l : listeners_)
        if (l->fd) list.emplace_back(l->fd.get(), l->local);
    return list;
}

} // namespace detail

server::server(detail::ref_ptr<detail::server_state> state) noexcept : state_(std::move(state)) {}
server::server(server&& other) noexcept = default;
server& server::operator=(server&& other) noexcept {
    std::swap(state_, other.state_);
    return *this;
}
server::~server() {
    if (state_) state_->close();
}

detail::server_state& server::state() const {
    if (!state_)
        detail::throw_runtime_error("asyncio::server: it was moved from; use the one that it was "
                                    "moved to");
    return *state_;
}

namespace detail {

static coro<> start_serving(ref_ptr<server_state> state) {
    state->start_serving();
    co_await asyncio::sleep(duration());
}

// What serve_forever() waits for, as long as it runs.
struct forever_future {
    explicit forever_future(server_state& s) : state(s) {
        state.forever = s.core().loop->create_future<void>();
    }
    ~forever_future() { state.forever.reset(); }
    server_state& state;
};

static coro<> serve_forever(ref_ptr<server_state> state) {
    if (state->forever)
        throw_runtime_error("asyncio::server::serve_forever: it is running already");
    state->start_serving();
    const forever_future guard(*state);
    const future<void> waited = *state->forever;
    const caught<void> why = co_await catching(waited);
    state->close();
    co_await condition_awaiter(state, wait_goal::closed);
    if (why.error) co_await fail_with(why.error);
}

static coro<> drain(ref_ptr<server_state> state, duration grace) {
    state->close();
    const timer_guard guard(state->core().loop->call_later(
        grace, [state] { state->close_clients(true); }));
    co_await condition_awaiter(state, wait_goal::closed);
}

} // namespace detail

coro<> server::start_serving() {
    state();
    return detail::start_serving(state_);
}
coro<> server::serve_forever() {
    state();
    return detail::serve_forever(state_);
}
bool server::is_serving() const { return state().serving(); }
void server::close() { state().close(); }
detail::condition_awaiter server::wait_closed() {
    state();
    return {state_, detail::wait_goal::closed};
}
void server::close_clients() { state().close_clients(false); }
void server::abort_clients() { state().close_clients(true); }
coro<> server::drain(duration grace) {
    state();
    return detail::drain(state_, grace);
}
std::vector<server_socket> server::sockets() const { return state().sockets(); }

int server::port() const {
    const std::vector<server_socket> list = state().sockets();
    return list.empty() ? 0 : list.front().local_address().port();
}

coro<> server::aenter() {
    state();
    co_return;
}

coro<bool> server::aexit(exception_ptr) {
    close();
    co_await wait_closed();
    co_return false;
}

namespace detail {

// A socket bound to `where`, which becomes what the system made of it.
static owned_fd bind_socket(address& where, const server_options& options) {
    owned_fd fd = open_socket(where.family(), SOCK_STREAM);
    if (!fd) throw_last_error("socket");
    prepare_for_streams(fd.get(), options.keep_alive); // connections inherit it
    const auto set = [&](int level, int name, const char* call) {
        if (set_option(fd.get(), level, name, 1) != 0) throw_last_error(call);
    };
#if !defined(_WIN32) // where it would let others take the address as well
    if (options.reuse_address) set(SOL_SOCKET, SO_REUSEADDR, "setsockopt(SO_REUSEADDR)");
#endif
    if (options.reuse_port) set(SOL_SOCKET, reuse_port_option(), "setsockopt(SO_REUSEPORT)");
    // IPv4 has a socket of its own.
    if (where.is_v6()) set(IPPROTO_IPV6, IPV6_V6ONLY, "setsockopt(IPV6_V6ONLY)");
    const std::string call = "bind to " + where.to_string();
    system_address a(where);
    if (::bind(socket_of(fd.get()), a.get(), a.size) != 0) throw_last_error(call.c_str());
    a.size = sizeof a.storage;
    if (::getsockname(socket_of(fd.get()), a.get(), &a.size) != 0) throw_last_error("getsockname");
    where = a.to_address();
    return fd;
}

// True for a failure that only means that this machine lacks the address family.
[[maybe_unused]] static bool not_here(const std::system_error& e) noexcept {
    const int code = e.code().value();
    return code == EADDRNOTAVAIL || code == EAFNOSUPPORT || code == EPROTONOSUPPORT;
}

// Binds to each address. With port 0 all of them get the port that the first gets;
// false when somebody else has it at one of the others.
static bool bind_all(server_state& state, const std::vector<address>& where,
                     const server_options& options) {
    std::vector<std::pair<owned_fd, address>> bound;
    exception_ptr missing;
    for (address a : where) {
        const bool any_port = a.port() == 0;
        if (any_port && !bound.empty()) a = a.with_port(bound.front().second.port());
        ASYNCIO_TRY {
            owned_fd fd = bind_socket(a, options);
            bound.emplace_back(std::move(fd), a);
        } ASYNCIO_CATCH_AS(const std::system_error& e) {
            if (any_port && !bound.empty() && e.code().value() == EADDRINUSE) return false;
            if (!not_here(e)) rethrow_current();
            missing = current_error();
        }
    }
    if (bound.empty()) rethrow(missing);
    for (auto& [fd, a] : bound) state.add_listener(std::move(fd), std::move(a));
    return true;
}

coro<server> start_server(client_handler on_client, std::string host, int port,
                          server_options options) {
    checked_port(port);
    const std::vector<address> where =
        co_await getaddrinfo(std::move(host), std::to_string(port));
    const ref_ptr<server_state> state(
        new server_state(require_running("start_server"), std::move(on_client), options.limit,
                         options.max_connections, options.backlog));
    server result(state);
    for (int tries = 1; !bind_all(*state, where, options); ++tries)
        if (tries == 16) throw_system_error(EADDRINUSE, "bind to one port of several addresses");
    if (options.start_serving) state->start_serving();
    co_return result;
}

coro<server> start_server(client_handler on_client, socket listener, server_options options) {
    if (listener.getsockopt(SOL_SOCKET, SO_TYPE) != SOCK_STREAM)
        throw_invalid_argument("asyncio::start_server: the socket is none for streams");
    const ref_ptr<server_state> state(
        new server_state(require_running("start_server"), std::move(on_client), options.limit,
                         options.max_connections, options.backlog));
    server result(state);
    address local = listener.local_address();
    prepare_for_streams(listener.fileno(), options.keep_alive);
    state->add_listener(owned_fd(listener.detach()), std::move(local));
    if (options.start_serving) state->start_serving();
    co_return result;
}

#if defined(_WIN32)

coro<server> start_unix_server(client_handler, std::string, unix_server_options) {
    throw_not_on_windows("asyncio::start_unix_server");
}

#else

// Replaces the file of a socket, but nothing else.
static owned_fd bind_unix_socket(const address& where) {
    const std::string& path = where.path();
    struct stat info {};
    if (!path.empty() && path[0] != '\0' && ::stat(path.c_str(), &info) == 0 &&
        S_ISSOCK(info.st_mode))
        ::unlink(path.c_str());
    owned_fd fd = open_socket(where.family(), SOCK_STREAM);
    if (!fd) throw_last_error("socket");
    const system_address a(where);
    const std::string call = "bind to " + where.to_string();
    if (::bind(socket_of(fd.get()), a.get(), a.size) != 0) throw_last_error(call.c_str());
    return fd;
}

coro<server> start_unix_server(client_handler on_client, std::string path,
                               unix_server_options options) {
    const address where = address::local(path);
    const ref_ptr<server_state> state(
        new server_state(require_running("start_unix_server"), std::move(on_client),
                         options.limit, options.max_connections, options.backlog));
    server result(state);
    state->add_listener(bind_unix_socket(where), where);
    if (options.cleanup_socket && !path.empty() && path[0] != '\0')
        state->remove_file_at_end(path);
    if (options.start_serving) state->start_serving();
    co_return result;
}

#endif

} // namespace detail

} // namespace asyncio::inline ASYNCIO_ABI

#endif // !ASYNCIO_BACKEND_NONE

// =============================================================================
// [SECTION] implementation: processes
// uses: os, backend, backend: readiness operations, events, tasks, taskgroups, executors, streams,
//     processes, implementation: executors, implementation: streams
//
// Facts about Linux that this depends on, beside those of the fork server:
//   - A child that has died is a zombie and keeps its number until somebody waits
//     for it. As long as nobody has, signals to the number reach nobody else.
//   - Somebody else in the program may wait for it first: waitpid(-1), or the kernel
//     itself where SIGCHLD is ignored. A pidfd never means another process all the
//     same, and since Linux 6.15 tells how its process ended even then.
//   - vfork() shares the memory until the child executes its program, and stops the
//     parent until then: it takes no time for a large memory, and holds no locks of
//     other threads. valgrind and qemu make a plain fork() of it.
// =============================================================================

#if !defined(ASYNCIO_NO_THREADS)

namespace asyncio::inline ASYNCIO_ABI {

namespace detail {

#if defined(_WIN32)

// -- without children --------------------------------------------------------------
//
// This version starts none on Windows, and makes no streams of pipes there. Whoever asks
// for one is told so; an object of these classes never exists.

class process_state final : public frame_allocated {
public:
    void add_ref() noexcept { ++count_; }
    void release() noexcept {
        if (--count_ == 0) delete this;
    }

private:
    std::size_t count_ = 0;
};

process_awaiter::process_awaiter(const ref_ptr<process_state>& state) noexcept : state_(state) {}
process_awaiter::process_awaiter(process_awaiter&& other) noexcept
    : suspension(std::move(other)), state_(std::move(other.state_)) {}
process_awaiter::~process_awaiter() = default;
bool process_awaiter::await_ready() const { throw_not_on_windows("asyncio::process"); }
void process_awaiter::wait() noexcept {}
void process_awaiter::leave() noexcept {}
bool process_awaiter::on_cancel() noexcept { return false; }
int process_awaiter::await_resume() { throw_not_on_windows("asyncio::process"); }

std::vector<std::string> take_texts(text_list& list) { return std::move(list.list.texts); }

static void require_no_zero(std::string_view text, const char* what) {
    if (text.find('\0') == std::string_view::npos) return;
    throw_error(std::invalid_argument(std::string("asyncio::") + what + " holds a zero byte"));
}

[[noreturn]] static void throw_error_of(int error, const char* call, const std::string& object) {
    const std::string text = std::string(call) + ' ' + object;
    throw_system_error(error, text.c_str());
}

coro<process> create_subprocess(text_list&, const subprocess_options&) {
    throw_not_on_windows("asyncio::create_subprocess_exec");
}

} // namespace detail

process::process(detail::ref_ptr<detail::process_state> state) noexcept
    : state_(std::move(state)) {}
process::process(process&& other) noexcept = default;
process& process::operator=(process&& other) noexcept = default;
process::~process() = default;

detail::process_state& process::state() const {
    detail::throw_not_on_windows("asyncio::process");
}
detail::process_awaiter process::wait() {
    state();
    return detail::process_awaiter(state_);
}
coro<process_output> process::communicate(std::string) {
    detail::throw_not_on_windows("asyncio::process::communicate");
}
void process::send_signal(int) { state(); }
void process::terminate() { state(); }
void process::kill() { state(); }
int process::pid() const { detail::throw_not_on_windows("asyncio::process::pid"); }
std::optional<int> process::returncode() const { return std::nullopt; }

coro<process> create_subprocess_shell(std::string_view, subprocess_options) {
    detail::throw_not_on_windows("asyncio::create_subprocess_shell");
}
coro<stream_pair> create_pipe(std::size_t) {
    detail::throw_not_on_windows("asyncio::create_pipe");
}
coro<stream_reader> connect_read_pipe(int, std::size_t) {
    detail::throw_not_on_windows("asyncio::connect_read_pipe");
}
coro<stream_writer> connect_write_pipe(int) {
    detail::throw_not_on_windows("asyncio::connect_write_pipe");
}
coro<stream_reader> stdin_reader(std::size_t) {
    detail::throw_not_on_windows("asyncio::stdin_reader");
}

#else

// -- starting ---------------------------------------------------------------------

// What a child is made of. Everything is copied here before the coroutine begins.
struct launch {
    launch() = default;

    std::vector<std::string> arguments;
    std::string cwd;
    std::optional<std::vector<std::string>> variables; // "NAME=value"; none: this process's
    std::array<child_stream, 3> streams;
    std::size_t limit = 0;
    bool new_group = false;
    bool kill_on_cancel = false;
};

static void require_no_zero(std::string_view text, const char* what) {
    if (text.find('\0') == std::string_view::npos) return;
    detail::throw_error(
        std::invalid_argument(std::string("asyncio::") + what + " holds a zero byte"));
}

[[noreturn]] static void throw_error_of(int error, const char* call, const std::string& object) {
    const std::string text = std::string(call) + ' ' + object;
    throw_system_error(error, text.c_str());
}

static launch make_launch(std::vector<std::string> arguments, const subprocess_options& options) {
    launch job;
    job.arguments = std::move(arguments);
    job.cwd = options.cwd;
    job.streams = {options.stdin_, options.stdout_, options.stderr_};
    job.limit = options.limit;
    job.new_group = options.new_group;
    job.kill_on_cancel = options.kill_on_cancel;
    if (job.arguments.empty())
        throw_invalid_argument("asyncio::create_subprocess_exec: no program given");
    for (const std::string& argument : job.arguments)
        require_no_zero(argument, "create_subprocess_exec: an argument");
    require_no_zero(job.cwd, "create_subprocess_exec: the directory");
    for (int i = 0; i < 2; ++i)
        if (job.streams[static_cast<std::size_t>(i)].what() == stdio::to_stdout)
            throw_invalid_argument("asyncio::create_subprocess_exec: stdio::to_stdout is for "
                                   "stderr_ only");
    if (options.env == nullptr) return job;
    job.variables.emplace();
    for (const auto& [name, value] : *options.env) {
        if (name.empty() || name.find('=') != std::string::npos)
            detail::throw_error(std::invalid_argument("asyncio::create_subprocess_exec: '" + name +
                                        "' cannot be the name of a variable"));
        job.variables->push_back(name + '=' + value);
        require_no_zero(job.variables->back(), "create_subprocess_exec: the environment");
    }
    return job;
}

static std::vector<char*> pointers_to(const std::vector<std::string>& texts) {
    std::vector<char*> list;
    for (const std::string& text : texts) list.push_back(const_cast<char*>(text.c_str()));
    list.push_back(nullptr);
    return list;
}

// A copy of a descriptor above the standard ones, of which a child's are made.
static owned_fd copy_of(int fd, const std::string& what) {
    owned_fd copy(::fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
    if (!copy) throw_error_of(errno, "dup of", what);
    return copy;
}

static owned_fd above_standard(owned_fd fd) {
    return fd.get() > STDERR_FILENO ? std::move(fd) : copy_of(fd.get(), "a new descriptor");
}

static std::pair<owned_fd, owned_fd> make_pipe() {
    int both[2];
    if (new_pipe(both) != 0) throw_last_error("pipe");
    return {owned_fd(both[0]), owned_fd(both[1])};
}

static void set_non_blocking(int fd) {
    const int flags = ::fcntl(fd, F_GETFL);
    if (flags < 0 || ((flags & O_NONBLOCK) == 0 && ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0))
        throw_last_error("fcntl(O_NONBLOCK)");
}

// The ends of a child's standard streams.
struct child_ends {
    std::array<owned_fd, 3> theirs; // none: inherited, or another one's
    std::array<owned_fd, 3> ours;   // of pipes
};

static child_ends make_ends(const launch& job) {
    child_ends ends;
    for (std::size_t i = 0; i < 3; ++i) {
        const child_stream& stream = job.streams[i];
        if (stream.is_fd()) {
            ends.theirs[i] = copy_of(stream.fd(), "descriptor " + std::to_string(stream.fd()));
        } else if (stream.what() == stdio::devnull) {
            owned_fd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
            if (!null) throw_error_of(errno, "open", "/dev/null");
            ends.theirs[i] = above_standard(std::move(null));
        } else if (stream.what() == stdio::pipe) {
            auto [reading, writing] = make_pipe();
            ends.theirs[i] = above_standard(std::move(i == 0 ? reading : writing));
            ends.ours[i] = std::move(i == 0 ? writing : reading);
            set_non_blocking(ends.ours[i].get());
        }
    }
    return ends;
}

// Where a program may be, in the order in which to try.
static std::vector<std::string> candidates(const launch& job) {
    const std::string& program = job.arguments.front();
    if (program.empty() || program.find('/') != std::string::npos) return {program};
    std::string_view path = "/bin:/usr/bin"; // where no PATH is set
    if (!job.variables) {
        if (const char* const value = std::getenv("PATH")) path = value;
    } else {
        for (const std::string& variable : *job.variables)
            if (variable.starts_with("PATH=")) path = std::string_view(variable).substr(5);
    }
    std::vector<std::string> list;
    for (std::size_t begin = 0; begin <= path.size();) {
        const std::size_t end = std::min(path.find(':', begin), path.size());
        const std::string_view folder = path.substr(begin, end - begin);
        begin = end + 1;
        list.push_back(folder.empty() ? program : std::string(folder) + '/' + program);
    }
    return list;
}

// What a child does before it executes its program: system calls and nothing else, since
// it may share its parent's memory.
struct child_plan {
    const char* const* paths; // where the program may be; null ends them
    char* const* arguments;
    char* const* variables;
    const char* cwd; // null: where the parent is
    int ends[3];     // what becomes the standard descriptors; -1: stays what it is
    bool error_to_output;
    bool new_group;
    const sigset_t* mask;
    int report;                   // tells the parent what failed; closed by success
    volatile bool shared = false; // with the parent: set by the child
};

enum class child_step : int { other, chdir };

struct child_failure {
    child_step step = child_step::other;
    int error = 0;
};

[[noreturn]] static void give_up(const child_plan& plan, int error,
                                 child_step step = child_step::other) noexcept {
    const child_failure failure{step, error};
    static_cast<void>(!::write(plan.report, &failure, sizeof failure));
    ::_exit(127);
}

// Not even what other code has opened without O_CLOEXEC is for the child.
static void close_all_but(int kept) noexcept {
#if defined(SYS_close_range)
    const auto close = [](int first, unsigned last) {
        return ::syscall(SYS_close_range, static_cast<unsigned>(first), last, 0u) == 0;
    };
    const bool below = kept == STDERR_FILENO + 1 ||
                       close(STDERR_FILENO + 1, static_cast<unsigned>(kept) - 1);
    if (below && close(kept + 1, ~0u)) return;
#endif
    const long last = std::min(::sysconf(_SC_OPEN_MAX), 65536L);
    for (int fd = STDERR_FILENO + 1; fd < last; ++fd)
        if (fd != kept) ::close(fd);
}

// All signals are held back here. What was caught gets its default; what is ignored stays
// so (nohup), but for what programs ignore for their own sake.
static void reset_signals(const sigset_t& mask) noexcept {
    for (int number = 1; number < NSIG; ++number) {
        struct sigaction action = {};
        if (::sigaction(number, nullptr, &action) != 0) continue;
        const bool ignored = action.sa_handler == SIG_IGN;
        if (action.sa_handler == SIG_DFL) continue;
        if (ignored && number != SIGPIPE && number != SIGXFSZ) continue;
        action = {};
        action.sa_handler = SIG_DFL;
        ::sigaction(number, &action, nullptr);
    }
    ::pthread_sigmask(SIG_SETMASK, &mask, nullptr);
}

[[noreturn]] static void become_program(child_plan& plan) noexcept {
    plan.shared = true;
    if (plan.new_group) ::setpgid(0, 0);
    for (int i = 0; i < 3; ++i)
        if (plan.ends[i] >= 0 && ::dup2(plan.ends[i], i) < 0) give_up(plan, errno);
    if (plan.error_to_output && ::dup2(STDOUT_FILENO, STDERR_FILENO) < 0) give_up(plan, errno);
    if (plan.cwd != nullptr && ::chdir(plan.cwd) != 0) give_up(plan, errno, child_step::chdir);
    close_all_but(plan.report);
    reset_signals(*plan.mask);
    int why = ENOENT;
    for (const char* const* path = plan.paths; *path != nullptr; ++path) {
        ::execve(*path, plan.arguments, plan.variables);
        if (errno == ENOENT || errno == ENOTDIR) continue;
        why = errno; // one that may not be executed is the better reason
        if (why != EACCES) break;
    }
    give_up(plan, why);
}

// A function of its own: nothing that the child writes here may be needed afterwards.
[[gnu::noinline]] static pid_t start_child_of(child_plan& plan) noexcept {
#if defined(__linux__)
    const pid_t pid = ::vfork();
#else
    const pid_t pid = ::fork();
#endif
    if (pid == 0) become_program(plan);
    return pid;
}

static pid_t spawn(const launch& job, const child_ends& ends) {
    auto [reading, writing] = make_pipe();
    writing = above_standard(std::move(writing));
    const std::vector<char*> arguments = pointers_to(job.arguments);
    const std::vector<std::string> places = candidates(job);
    const std::vector<char*> paths = pointers_to(places);
    std::vector<char*> variables;
    if (job.variables) variables = pointers_to(*job.variables);

    child_plan plan;
    plan.paths = paths.data();
    plan.arguments = arguments.data();
    plan.variables = job.variables ? variables.data() : process_environment();
    plan.cwd = job.cwd.empty() ? nullptr : job.cwd.c_str();
    for (std::size_t i = 0; i < 3; ++i) plan.ends[i] = ends.theirs[i].get();
    plan.error_to_output = job.streams[2].what() == stdio::to_stdout;
    plan.new_group = job.new_group;
    plan.report = writing.get();
    pid_t pid = -1;
    int error = 0;
    {
        const signals_held quiet;
        plan.mask = &quiet.before();
        pid = start_child_of(plan);
        error = errno;
    }
    if (pid < 0) throw_error_of(error, "fork for", job.arguments.front());
    writing.reset();
    // All is said when the memory is shared. Nobody waits then for a stranger who may have
    // inherited the pipe from another thread's fork().
    if (plan.shared) set_non_blocking(reading.get());
    child_failure failure;
    ssize_t n = 0;
    do n = ::read(reading.get(), &failure, sizeof failure);
    while (n < 0 && errno == EINTR);
    if (n != static_cast<ssize_t>(sizeof failure)) return pid;
    while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {}
    if (failure.step == child_step::chdir) throw_error_of(failure.error, "chdir", job.cwd);
    throw_error_of(failure.error, "exec", job.arguments.front());
}

// -- how a child ended ------------------------------------------------------------

static int exit_code_of(int status) noexcept {
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

// Of a process that somebody else has waited for.
static std::optional<int> exit_code_from(int pidfd) noexcept {
    // struct pidfd_info in the form that every kernel takes which has it.
    struct {
        std::uint64_t mask = 1u << 3; // PIDFD_INFO_EXIT: wanted, and given
        std::uint64_t cgroup = 0;
        std::uint32_t numbers[11] = {};
        std::int32_t status = 0;
    } info;
    static_assert(sizeof info == 64);
    constexpr unsigned long get_info = _IOWR(0xff, 11, info);
    const std::uint64_t wanted = info.mask;
    if (pidfd < 0 || ::ioctl(pidfd, get_info, &info) != 0 || (info.mask & wanted) == 0)
        return std::nullopt;
    return exit_code_of(info.status);
}

// A child of this process, until it has been waited for.
class child_process {
public:
    enum class fate { running, ended, lost };

    child_process(pid_t pid, bool leads_group) noexcept
        : pid_(pid), leads_group_(leads_group), pidfd_(open_pidfd(pid)) {}

    pid_t pid() const noexcept { return pid_; }
    int pidfd() const noexcept { return pidfd_.get(); } // -1: the system has none

    // 0, or what errno says.
    int send_signal(int number) const noexcept;

    // Looks whether it has ended. Lost: the code is.
    fate look(int& code) noexcept;

    // The system says that it has ended: look() waits for what is left of it.
    void note_end() noexcept { ended_ = true; }

    // Kills it, and waits for its end.
    void destroy() noexcept;

    // It has been waited for.
    void forget() noexcept { pidfd_.reset(); }

private:
    bool ended_within(int milliseconds) noexcept;

    pid_t pid_;
    bool leads_group_;
    bool ended_ = false;
    owned_fd pidfd_;
};

int child_process::send_signal(int number) const noexcept {
    // A child whose end nobody has seen is a group's leader still, though a zombie.
    if (leads_group_ && ::kill(-pid_, number) == 0) return 0;
    if (leads_group_) return errno;
    if (pidfd_) {
        if (signal_pidfd(pidfd_.get(), number) == 0) return 0;
        if (errno != ENOSYS && errno != EPERM) return errno;
    }
    return ::kill(pid_, number) == 0 ? 0 : errno;
}

child_process::fate child_process::look(int& code) noexcept {
    siginfo_t info = {};
    int result = -1;
    errno = EINVAL;
    // Not by its number, which may be another child's when somebody else waited for it.
    if (pidfd_) {
        do result = wait_pidfd(pidfd_.get(), info, WEXITED | WNOHANG);
        while (result != 0 && errno == EINTR);
    }
    if (result != 0 && errno == EINVAL) { // no pidfd, or a kernel that cannot wait for one
        int status = 0;
        pid_t ended = 0;
        do ended = ::waitpid(pid_, &status, ended_ ? 0 : WNOHANG);
        while (ended < 0 && errno == EINTR);
        if (ended == 0) return fate::running;
        if (ended == pid_) {
            code = exit_code_of(status);
            return fate::ended;
        }
    }
    if (result == 0 && info.si_pid == 0) return fate::running;
    if (result == 0) {
        code = info.si_code == CLD_EXITED ? info.si_status : -info.si_status;
        return fate::ended;
    }
    const std::optional<int> told = exit_code_from(pidfd_.get());
    code = told.value_or(255);
    return told ? fate::ended : fate::lost;
}

bool child_process::ended_within(int milliseconds) noexcept {
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(milliseconds);
    int code = 0;
    for (;;) {
        if (look(code) != fate::running) return true;
        if (std::chrono::steady_clock::now() >= end) return false;
        // Without a pidfd, poll() only sleeps.
        pollfd polled = {pidfd_.get(), POLLIN, 0};
        ::poll(&polled, 1, pidfd_ ? milliseconds : 1);
    }
}

void child_process::destroy() noexcept {
    send_signal(SIGKILL);
    // What is killed is gone within a millisecond, unless it hangs in the kernel.
    if (ended_within(100)) return;
    ASYNCIO_TRY {
        std::thread([pid = pid_] {
            while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {}
        }).detach();
    } ASYNCIO_CATCH(const std::system_error&) {
        // It stays a zombie until this process ends.
    }
}

// -- waiting for a child's end ----------------------------------------------------

class process_state;

// Where the system cannot tell the loop, a thread waits for each child. It leaves the child
// a zombie, so that its number stays its own. The thread and the state hold a count
// each; the last one deletes it.
struct exit_note final : ready_node {
    exit_note(process_state& s, pid_t p, shared_core c) : state(&s), pid(p), core(std::move(c)) {
        run = &exit_note::arrive;
    }
    void release() noexcept {
        if (count.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
    }
    void wait() noexcept {
        siginfo_t info = {};
        while (::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT) != 0 &&
               errno == EINTR) {}
        if (!core->post(this)) release();
    }
    static void arrive(ready_node* node); // also when the loop is being emptied

    process_state* state; // the loop's thread alone looks at it
    const pid_t pid;
    const shared_core core;
    std::atomic<int> count{2};
};

class process_state final : public io_watch, public frame_allocated {
public:
    process_state(loop_core& core, child_process child, bool kill_on_cancel);
    process_state(const process_state&) = delete;
    ~process_state() { abandon(); }

    void add_ref() noexcept { ++count_; }
    void release() noexcept {
        if (--count_ == 0) delete this;
    }

    void look() noexcept;
    void abandon() noexcept; // kills a child that still runs
    void send_signal(int number);
    void kill_quietly() noexcept { static_cast<void>(child_.send_signal(SIGKILL)); }

    pid_t pid() const noexcept { return child_.pid(); }
    std::optional<int> code() const noexcept { return code_; }
    bool kills_on_cancel() const noexcept { return kill_on_cancel_; }
    bool loop_closed() const noexcept { return core_->closed; }

    process_output output; // what communicate() has read so far

private:
    friend class process_awaiter;

    void finish(int code) noexcept;
    void report_lost() const noexcept;

    std::size_t count_ = 0;
    ref_ptr<loop_core> core_;
    clock_hold hold_;
    child_process child_;
    exit_note* note_ = nullptr;
    process_awaiter* first_ = nullptr; // who waits, the first to come first
    process_awaiter* last_ = nullptr;
    bool watched_ = false;
    bool kill_on_cancel_;
    std::optional<int> code_;
};

process_state::process_state(loop_core& core, child_process child, bool kill_on_cancel)
    : core_(&core), hold_(core), child_(std::move(child)), kill_on_cancel_(kill_on_cancel) {
    ready = [](io_watch& w) noexcept {
        auto& state = static_cast<process_state&>(w);
        state.child_.note_end();
        state.look();
    };
    ASYNCIO_TRY {
        watched_ = core.loop->backend().watch_exit(child_.pid(), child_.pidfd(), *this);
        if (!watched_) {
            note_ = new exit_note(*this, child_.pid(), share(core));
            const signals_held quiet;
            std::thread([note = note_] { note->wait(); }).detach();
        }
    } ASYNCIO_CATCH_ALL {
        delete std::exchange(note_, nullptr);
        child_.destroy();
        detail::rethrow_current();
    }
}

void exit_note::arrive(ready_node* node) {
    auto* const note = static_cast<exit_note*>(node);
    if (note->state != nullptr) note->state->look();
    note->release();
}

void process_state::look() noexcept {
    int code = 0;
    const auto fate = child_.look(code);
    if (fate == child_process::fate::running) return;
    if (fate == child_process::fate::lost) report_lost();
    finish(code);
}

void process_state::finish(int code) noexcept {
    code_ = code;
    if (watched_ && !core_->closed)
        core_->loop->backend().unwatch_exit(child_.pid(), child_.pidfd());
    watched_ = false;
    if (note_ != nullptr) {
        note_->state = nullptr;
        std::exchange(note_, nullptr)->release();
    }
    child_.forget();
    hold_.reset();
    while (process_awaiter* const awaiter = first_) {
        awaiter->leave();
        awaiter->wake();
    }
}

void process_state::abandon() noexcept {
    if (code_) return;
    child_.destroy();
    finish(-SIGKILL);
}

// Later: this is called where no code of the user may run.
void process_state::report_lost() const noexcept {
    ASYNCIO_TRY {
        core_->loop->call_soon([core = core_, pid = child_.pid()] {
            const std::string text = "asyncio::process: somebody else has waited for child " +
                                     std::to_string(pid) + "; its exit code is taken for 255";
            core->loop->call_exception_handler({text, {}, {}});
        });
    } ASYNCIO_CATCH_ALL {
        // There is no memory left to say it with.
    }
}

void process_state::send_signal(int number) {
    const int error = code_ ? ESRCH : child_.send_signal(number);
    if (error != 0) throw_error_of(error, "kill of child", std::to_string(child_.pid()));
}

process_awaiter::process_awaiter(const ref_ptr<process_state>& state) noexcept : state_(state) {}
process_awaiter::process_awaiter(process_awaiter&& other) noexcept
    : suspension(std::move(other)), state_(std::move(other.state_)) {}
process_awaiter::~process_awaiter() { leave(); }

bool process_awaiter::await_ready() const {
    if (state_->code()) return true;
    if (state_->loop_closed())
        throw_runtime_error("asyncio::process::wait: the child's loop is closed; wait for it on "
                            "the loop that it was started on");
    return false;
}

void process_awaiter::wait() noexcept {
    process_awaiter*& last = state_->last_;
    previous_ = last;
    (last != nullptr ? last->next_ : state_->first_) = this;
    last = this;
    listed_ = true;
}

void process_awaiter::leave() noexcept {
    if (!std::exchange(listed_, false)) return;
    (previous_ != nullptr ? previous_->next_ : state_->first_) = next_;
    (next_ != nullptr ? next_->previous_ : state_->last_) = previous_;
}

bool process_awaiter::on_cancel() noexcept {
    if (woken()) return false;
    if (state_->kills_on_cancel()) {
        state_->kill_quietly();
        killed_ = true;
        return true;
    }
    leave();
    cancel_here();
    return true;
}

int process_awaiter::await_resume() {
    if (interrupted() || killed_) throw_cancelled();
    return *state_->code();
}

// -- streams over other descriptors -------------------------------------------------

// What a stream can be made of; nothing for a file.
static std::optional<io_form> form_of(int fd) {
    struct stat info = {};
    if (::fstat(fd, &info) != 0) throw_error_of(errno, "fstat", std::to_string(fd));
    if (S_ISFIFO(info.st_mode)) return io_form::pipe;
    if (S_ISSOCK(info.st_mode)) return io_form::socket;
    if (S_ISCHR(info.st_mode)) return io_form::shared;
    return std::nullopt;
}

static ref_ptr<stream_link> make_link(owned_fd fd, io_form form, std::size_t limit) {
    const ref_ptr<stream_link> link(
        new stream_link(require_running("streams over pipes"), std::move(fd), address(), limit));
    link->descriptor().form = form;
    link->descriptor().stops_short = form == io_form::socket; // it may be a Unix one
    return link;
}

// Takes over a descriptor of the caller's.
static ref_ptr<stream_link> connect_pipe(int fd, const char* who, std::size_t limit) {
    owned_fd owned(fd);
    ASYNCIO_TRY {
        if (const std::optional<io_form> form = form_of(fd)) {
            set_non_blocking(fd);
            return make_link(std::move(owned), *form, limit);
        }
    } ASYNCIO_CATCH_AS(const std::system_error& e) {
        if (e.code().value() != EPERM)
            detail::rethrow_current(); // a device that nobody can wait for
    }
    detail::throw_error(std::invalid_argument(std::string("asyncio::") + who + ": descriptor " +
                                std::to_string(fd) + " is a file, or like one; use asyncio::file"));
}

// -- standard input -----------------------------------------------------------------

// One read of a file, on a thread of the executor.
static std::string read_piece(const std::shared_ptr<owned_fd>& file, std::size_t most) {
    std::string piece(most, '\0');
    ssize_t n = 0;
    do n = ::read(file->get(), piece.data(), most);
    while (n < 0 && errno == EINTR);
    if (n < 0) throw_last_error("read of standard input");
    piece.resize(static_cast<std::size_t>(n));
    return piece;
}

static coro<std::size_t> receive_from(std::shared_ptr<owned_fd> file,
                                      std::span<std::byte> target) {
    // Not straight into the target, which a cancelled job would outlive.
    const std::string piece = co_await run_in_executor(nullptr, &read_piece, file, target.size());
    std::memcpy(target.data(), piece.data(), piece.size());
    co_return piece.size();
}

// A file as what a stream reads from: nobody can wait for it, and a disk may be slow.
class file_source {
public:
    explicit file_source(owned_fd file) : file_(std::make_shared<owned_fd>(std::move(file))) {}

    coro<std::size_t> recv(std::span<std::byte> target) { return receive_from(file_, target); }
    coro<std::size_t> send(std::span<const std::byte>) { co_return 0; } // there is no writer
    coro<> shutdown() { co_return; }

private:
    std::shared_ptr<owned_fd> file_; // also of the job that is reading
};

static ref_ptr<stream_link> stdin_link(std::size_t limit) {
    owned_fd copy = copy_of(STDIN_FILENO, "standard input");
    struct stat info = {};
    if (::fstat(copy.get(), &info) != 0) throw_last_error("standard input");
    if (S_ISDIR(info.st_mode)) throw_system_error(EISDIR, "standard input");
    if (S_ISFIFO(info.st_mode) || S_ISCHR(info.st_mode) || S_ISSOCK(info.st_mode)) {
        owned_fd own = open_anew(copy.get()); // fails for a socket, and for another user's
        const bool pipe = own && S_ISFIFO(info.st_mode);
        if (!own) own = copy_of(copy.get(), "standard input");
        ASYNCIO_TRY {
            return make_link(std::move(own), pipe ? io_form::pipe : io_form::shared, limit);
        } ASYNCIO_CATCH_AS(const std::system_error& e) {
            if (e.code().value() != EPERM)
                detail::rethrow_current(); // else a device like /dev/null
        }
    } else if (!S_ISREG(info.st_mode) && !S_ISBLK(info.st_mode)) {
        // There was none when the program began, and its number was given to another.
        throw_system_error(EBADF, "standard input");
    }
    box<transport> file(new transport_of<file_source>(file_source(std::move(copy))));
    return ref_ptr<stream_link>(
        new stream_link(require_running("stdin_reader"), std::move(file), limit));
}

// -- children ----------------------------------------------------------------------

static process start_child(const launch& job) {
    loop_core& core = require_running("create_subprocess_exec");
    child_ends ends = make_ends(job);
    const ref_ptr<process_state> state(new process_state(
        core, child_process(spawn(job, ends), job.new_group), job.kill_on_cancel));
    process child(state); // from here on it is killed when something fails
    const auto link = [&](std::size_t i) {
        return make_link(std::move(ends.ours[i]), io_form::pipe, job.limit);
    };
    if (ends.ours[0]) child.stdin_.emplace(link(0));
    if (ends.ours[1]) child.stdout_.emplace(link(1));
    if (ends.ours[2]) child.stderr_.emplace(link(2));
    return child;
}

static coro<process> start(launch job) { co_return start_child(job); }

std::vector<std::string> take_texts(text_list& list) { return std::move(list.list.texts); }

coro<process> create_subprocess(text_list& arguments, const subprocess_options& options) {
    return start(make_launch(take_texts(arguments), options));
}

// Into a place that outlives a cancellation.
static coro<> read_all(stream_reader* from, std::optional<std::string>* into) {
    const std::string rest = co_await from->read();
    if (!*into) into->emplace();
    into->value() += rest;
}

static coro<> read_both(process* self, process_output& output) {
    if (self->stdout_ && self->stderr_)
        co_await gather(read_all(&*self->stdout_, &output.first),
                        read_all(&*self->stderr_, &output.second));
    else if (self->stdout_) co_await read_all(&*self->stdout_, &output.first);
    else if (self->stderr_) co_await read_all(&*self->stderr_, &output.second);
}

static coro<process_output> communicate(process* self, ref_ptr<process_state> state,
                                        std::string input) {
    if (self->stdin_ && !self->stdin_->is_closing()) {
        self->stdin_->write(input); // what the child does not read is nobody's error
        self->stdin_->close();
    }
    process_output& output = state->output;
    const caught<void> read = co_await catching(read_both(self, output));
    if (read.error) {
        const bool cancelled = kind_of(read.error) == error_kind::cancelled;
        if (!cancelled || !state->kills_on_cancel()) co_await fail_with(read.error);
        state->kill_quietly();
    }
    co_await process_awaiter(state);
    if (read.error) co_await fail_with(read.error);
    co_return std::move(output);
}

} // namespace detail

process::process(detail::ref_ptr<detail::process_state> state) noexcept
    : state_(std::move(state)) {}
process::process(process&& other) noexcept = default;
process& process::operator=(process&& other) noexcept {
    std::swap(stdin_, other.stdin_);
    std::swap(stdout_, other.stdout_);
    std::swap(stderr_, other.stderr_);
    std::swap(state_, other.state_);
    return *this;
}
process::~process() {
    if (state_) state_->abandon();
}

detail::process_state& process::state() const {
    if (!state_)
        detail::throw_runtime_error("asyncio::process: it was moved from; use the one that it was "
                                    "moved to");
    return *state_;
}

detail::process_awaiter process::wait() {
    state();
    return detail::process_awaiter(state_);
}
coro<process_output> process::communicate(std::string input) {
    state();
    return detail::communicate(this, state_, std::move(input));
}
void process::send_signal(int number) { state().send_signal(number); }
void process::terminate() { send_signal(SIGTERM); }
void process::kill() { send_signal(SIGKILL); }
int process::pid() const { return state().pid(); }
std::optional<int> process::returncode() const { return state().code(); }

coro<process> create_subprocess_shell(std::string_view command, subprocess_options options) {
    return create_subprocess_exec(argv("/bin/sh", "-c", command), options);
}

coro<stream_pair> create_pipe(std::size_t limit) {
    auto [reading, writing] = detail::make_pipe();
    detail::set_non_blocking(reading.get());
    detail::set_non_blocking(writing.get());
    constexpr auto form = detail::io_form::pipe;
    stream_reader reader(detail::make_link(std::move(reading), form, limit));
    stream_writer writer(detail::make_link(std::move(writing), form, limit));
    co_return stream_pair(std::move(reader), std::move(writer));
}

coro<stream_reader> connect_read_pipe(int fd, std::size_t limit) {
    co_return stream_reader(detail::connect_pipe(fd, "connect_read_pipe", limit));
}

coro<stream_writer> connect_write_pipe(int fd) {
    co_return stream_writer(detail::connect_pipe(fd, "connect_write_pipe", 0));
}

coro<stream_reader> stdin_reader(std::size_t limit) {
    co_return stream_reader(detail::stdin_link(limit));
}

#endif

} // namespace asyncio::inline ASYNCIO_ABI

#endif // !ASYNCIO_NO_THREADS

// =============================================================================
// [SECTION] implementation: files
// uses: os, tasks, taskgroups, locks, executors, files, implementation: streams,
//     implementation: processes
// =============================================================================

#if !defined(ASYNCIO_NO_THREADS)

namespace asyncio::inline ASYNCIO_ABI {

namespace detail {

// -- what the system has for files ------------------------------------------------------
//
//     owned_file          owns an open file, -1 is none
//     for_reading, ...    flags of open_path()
//     open_path           nobody else inherits it; -1 and errno
//     read_some, write_some, seek_to, close_number    read(), write(), lseek(), close()
//     size_of_file        0 where it is not known

#if defined(_WIN32)

// A descriptor of the C library's, which can append and knows errno.
inline void close_file_number(int fd) noexcept { ::_close(fd); }
using owned_file = owned_number<close_file_number>;

constexpr int for_reading = _O_RDONLY, for_writing = _O_WRONLY, for_both = _O_RDWR,
              make_it = _O_CREAT, empty_it = _O_TRUNC, at_the_end = _O_APPEND, only_new = _O_EXCL;

static int open_path(const std::string& path, int flags) {
    const std::wstring name = wide(path);
    return ::_wopen(name.c_str(), flags | _O_BINARY | _O_NOINHERIT, _S_IREAD | _S_IWRITE);
}

static ssize_t read_some(int fd, void* into, std::size_t size) noexcept {
    return ::_read(fd, into, static_cast<unsigned>(std::min<std::size_t>(size, 1u << 30)));
}
static ssize_t write_some(int fd, const void* from, std::size_t size) noexcept {
    return ::_write(fd, from, static_cast<unsigned>(std::min<std::size_t>(size, 1u << 30)));
}
static std::int64_t seek_to(int fd, std::int64_t offset, int whence) noexcept {
    return ::_lseeki64(fd, offset, whence);
}
static int close_number(int fd) noexcept { return ::_close(fd); }

static std::size_t size_of_file(int fd) noexcept {
    return static_cast<std::size_t>(std::max<std::int64_t>(::_filelengthi64(fd), 0));
}

#else

using owned_file = owned_fd;

constexpr int for_reading = O_RDONLY, for_writing = O_WRONLY, for_both = O_RDWR,
              make_it = O_CREAT, empty_it = O_TRUNC, at_the_end = O_APPEND, only_new = O_EXCL;

static int open_path(const std::string& path, int flags) noexcept {
    return ::open(path.c_str(), flags | O_CLOEXEC | O_NOCTTY, 0666);
}

static ssize_t read_some(int fd, void* into, std::size_t size) noexcept {
    return ::read(fd, into, size);
}
static ssize_t write_some(int fd, const void* from, std::size_t size) noexcept {
    return ::write(fd, from, std::min<std::size_t>(size, 1u << 30));
}
static std::int64_t seek_to(int fd, std::int64_t offset, int whence) noexcept {
    return ::lseek(fd, static_cast<off_t>(offset), whence);
}
static int close_number(int fd) noexcept { return ::close(fd); }

static std::size_t size_of_file(int fd) noexcept {
    struct stat info = {};
    if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) return 0;
    return static_cast<std::size_t>(info.st_size);
}

#endif

// -- what jobs do, on threads of the executor -----------------------------------------

// 0, or what errno says.
static int write_all(int fd, std::string_view data) noexcept {
    while (!data.empty()) {
        const ssize_t n = write_some(fd, data.data(), data.size());
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return errno;
        data.remove_prefix(static_cast<std::size_t>(n));
    }
    return 0;
}

// Appends up to `most` bytes, fewer only at the end of the file. 0, or what errno says.
static int read_up_to(int fd, std::string& into, std::size_t most) {
    std::size_t step = 64 * 1024; // where a size says nothing, as in /proc
    if (const std::size_t known = size_of_file(fd)) step = std::max(step, known + 1);
    while (most > 0) {
        const std::size_t size = into.size();
        const std::size_t wanted = std::min(step, most);
        into.resize(size + wanted);
        ssize_t n = 0;
        do n = read_some(fd, into.data() + size, wanted);
        while (n < 0 && errno == EINTR);
        const int error = n < 0 ? errno : 0;
        const auto got = static_cast<std::size_t>(std::max<ssize_t>(n, 0));
        into.resize(size + got);
        if (got == 0) return error;
        most -= got;
    }
    return 0;
}

static owned_file open_file(const std::string& path, int flags) {
    owned_file fd;
    do fd.reset(open_path(path, flags));
    while (!fd && errno == EINTR);
    if (!fd) throw_error_of(errno, "open", path);
    return fd;
}

// An error of close() is the last word on what was written before. Interrupted or not,
// the descriptor is gone.
static int close_file(owned_file& fd) noexcept {
    return close_number(fd.release()) == 0 || errno == EINTR ? 0 : errno;
}

static void check(int error, const char* call, const std::string& path) {
    if (error != 0) throw_error_of(error, call, path);
}

static std::string read_whole_file(const std::string& path) {
    const owned_file fd = open_file(path, for_reading);
    std::string text;
    check(read_up_to(fd.get(), text, static_cast<std::size_t>(-1)), "read", path);
    return text;
}

static void write_whole_file(const std::string& path, const std::string& data) {
    owned_file fd = open_file(path, for_writing | make_it | empty_it);
    check(write_all(fd.get(), data), "write", path);
    check(close_file(fd), "close", path);
}

#if defined(_WIN32)

// A file beside the one that it is to replace; removed unless it did.
class replacement {
public:
    explicit replacement(const std::string& target) {
        static std::atomic<unsigned> counter{0};
        const std::string start = target.substr(0, target.find_last_of("/\\:") + 1) + ".asyncio-" +
                                  std::to_string(::GetCurrentProcessId()) + '-';
        do {
            path_ = start + std::to_string(counter.fetch_add(1));
            fd.reset(open_path(path_, for_writing | make_it | only_new));
        } while (!fd && errno == EEXIST);
        if (!fd) throw_error_of(errno, "open", path_);
    }
    replacement(const replacement&) = delete;
    replacement& operator=(const replacement&) = delete;
    ~replacement() {
        fd.reset();
        if (!path_.empty()) ::DeleteFileW(wide(path_).c_str());
    }

    // Keeps the permissions of what was there.
    int replace(const std::string& target) {
        const std::wstring from = wide(path_);
        const std::wstring to = wide(target);
        constexpr DWORD how = MOVEFILE_REPLACE_EXISTING | MOVEFILE_WRITE_THROUGH;
        if (::ReplaceFileW(to.c_str(), from.c_str(), nullptr, 0, nullptr, nullptr) == 0 &&
            ::MoveFileExW(from.c_str(), to.c_str(), how) == 0)
            return last_error();
        path_.clear();
        return 0;
    }

    owned_file fd;

private:
    std::string path_;
};

static void replace_whole_file(const std::string& path, const std::string& data) {
    const DWORD about = ::GetFileAttributesW(wide(path).c_str());
    if (about != INVALID_FILE_ATTRIBUTES && (about & FILE_ATTRIBUTE_DIRECTORY) != 0)
        throw_error_of(EISDIR, "replace", path);
    replacement fresh(path);
    check(write_all(fresh.fd.get(), data), "write", path);
    check(::_commit(fresh.fd.get()) == 0 ? 0 : errno, "flush", path);
    check(close_file(fresh.fd), "close", path);
    check(fresh.replace(path), "rename", path);
}

#else

// A file beside the one that it is to replace; removed unless it did.
class replacement {
public:
    explicit replacement(const std::string& target) {
        static std::atomic<unsigned> counter{0};
        const std::string start = target.substr(0, target.rfind('/') + 1) + ".asyncio-" +
                                  std::to_string(::getpid()) + '-';
        do {
            path_ = start + std::to_string(counter.fetch_add(1));
            fd.reset(::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
        } while (!fd && (errno == EEXIST || errno == EINTR));
        if (!fd) throw_error_of(errno, "open", path_);
    }
    replacement(const replacement&) = delete;
    replacement& operator=(const replacement&) = delete;
    ~replacement() {
        if (!path_.empty()) ::unlink(path_.c_str());
    }

    int replace(const std::string& target) noexcept {
        if (::rename(path_.c_str(), target.c_str()) != 0) return errno;
        path_.clear();
        return 0;
    }

    owned_fd fd;

private:
    std::string path_;
};

static void replace_whole_file(const std::string& path, const std::string& data) {
    // A symbolic link stays one: what it leads to is replaced.
    std::string target = path;
    if (char* const real = ::realpath(path.c_str(), nullptr)) {
        target = real;
        std::free(real);
    }
    struct stat before = {};
    const bool exists = ::stat(target.c_str(), &before) == 0;
    if (exists && !S_ISREG(before.st_mode)) // a device would be gone for good
        throw_error_of(S_ISDIR(before.st_mode) ? EISDIR : EINVAL, "replace", path);
    replacement fresh(target);
    const int fd = fresh.fd.get();
    if (exists) {
        // The owner first, which takes some permissions away. Only root may give files away.
        static_cast<void>(!::fchown(fd, before.st_uid, before.st_gid));
        check(::fchmod(fd, before.st_mode & 07777) == 0 ? 0 : errno, "fchmod", path);
    }
    check(write_all(fd, data), "write", path);
    check(::fsync(fd) == 0 ? 0 : errno, "fsync", path);
    check(close_file(fresh.fd), "close", path);
    check(fresh.replace(target), "rename", path);
}

#endif

static coro<std::string> read_on_thread(std::string path) {
    co_return co_await run_in_executor(nullptr, &read_whole_file, std::move(path));
}

static coro<> write_on_thread(std::string path, std::string data, bool atomic) {
    const auto write = atomic ? &replace_whole_file : &write_whole_file;
    co_await run_in_executor(nullptr, write, std::move(path), std::move(data));
}

// -- an open file -----------------------------------------------------------------------

// What a file shares with the job that works on it: only one of them looks at it at a time.
struct file_work {
    file_work(std::string p, int flags)
        : path(std::move(p)), fd(open_file(path, flags)),
          seekable(seek_to(fd.get(), 0, (flags & at_the_end) != 0 ? SEEK_END : SEEK_CUR) >= 0) {}

    void read() { set(read_up_to(fd.get(), data, wanted), "read"); }
    void read_once() {
        data.resize(64 * 1024);
        ssize_t n = 0;
        do n = read_some(fd.get(), data.data(), data.size());
        while (n < 0 && errno == EINTR);
        set(n < 0 ? errno : 0, "read");
        data.resize(static_cast<std::size_t>(std::max<ssize_t>(n, 0)));
    }
    void write() {
        if (go_back()) set(write_all(fd.get(), data), "write");
        data.clear();
    }
    void seek() {
        if (!go_back()) return;
        offset = seek_to(fd.get(), offset, whence);
        set(offset < 0 ? errno : 0, "lseek");
    }
    void close() { set(close_file(fd), "close"); }

    const std::string path;
    owned_file fd;
    const bool seekable;
    std::string data; // to be written, or what was read
    std::size_t wanted = 0;
    std::size_t ahead = 0; // bytes that were read and not given out
    std::int64_t offset = 0;
    int whence = SEEK_SET;
    int error = 0;
    const char* call = "";

private:
    void set(int e, const char* c) noexcept {
        error = e;
        call = c;
    }
    bool go_back() noexcept {
        const auto back =
            seekable ? -static_cast<std::int64_t>(std::exchange(ahead, 0)) : std::int64_t(0);
        set(back == 0 || seek_to(fd.get(), back, SEEK_CUR) >= 0 ? 0 : errno, "lseek");
        return error == 0;
    }
};

static std::shared_ptr<file_work> open_on_thread(const std::string& path, int flags) {
    return std::make_shared<file_work>(path, flags);
}

class file_state final : public frame_allocated {
public:
    using job = void (file_work::*)();

    explicit file_state(std::shared_ptr<file_work> w) noexcept : work(std::move(w)) {}
    file_state(const file_state&) = delete;

    void add_ref() noexcept { ++count_; }
    void release() noexcept {
        if (--count_ == 0) delete this;
    }

    coro<> settle();
    coro<> perform(job what);
    void take_over();
    void require_open() const {
        if (!work->fd)
            throw_invalid_argument("asyncio::file: it is closed; open it again");
    }
    // What was read ahead is read anew after a write or a seek.
    void drop_ahead() noexcept {
        if (!work->seekable) return;
        work->ahead = in.size();
        in.consume(in.size());
    }

    lock turn; // held during an operation
    receive_buffer in;
    const std::shared_ptr<file_work> work;

private:
    static void run(const std::shared_ptr<file_work>& work, job what) noexcept;

    std::size_t count_ = 0;
    std::optional<future<void>> running_; // a job, also one that was left behind
};

void file_state::run(const std::shared_ptr<file_work>& work, job what) noexcept {
    ASYNCIO_TRY {
        ((*work).*what)();
    } ASYNCIO_CATCH(const std::bad_alloc&) {
        work->error = ENOMEM;
        work->call = "read";
    }
}

// What a job has read belongs to the file from now on.
void file_state::take_over() {
    if (work->data.empty()) return;
    in.append(std::as_bytes(std::span(work->data)));
    work->data.clear();
}

// Waits for the job that a cancelled operation has left behind.
coro<> file_state::settle() {
    if (running_) {
        future<void> left = *running_;
        co_await shield(left);
        running_.reset();
    }
    take_over();
}

// The job is not taken back when this is cancelled: the next operation waits for it.
coro<> file_state::perform(job what) {
    running_ = run_in_executor(nullptr, &file_state::run, work, what);
    future<void> done = *running_;
    co_await shield(done);
    running_.reset();
    check(work->error, work->call, work->path);
}

static coro<std::string> read_from(ref_ptr<file_state> file, std::ptrdiff_t n) {
    auto held = co_await file->turn.scoped();
    co_await file->settle();
    file->require_open();
    const auto most = static_cast<std::size_t>(n); // a negative number is the most of all
    const std::size_t here = file->in.size();
    if (here >= most) co_return file->in.take(most);
    file->work->wanted = n < 0 ? most : most - here;
    co_await file->perform(&file_work::read);
    if (here == 0) co_return std::exchange(file->work->data, {});
    file->take_over();
    co_return file->in.take(file->in.size());
}

static coro<std::string> read_line_from(ref_ptr<file_state> file) {
    auto held = co_await file->turn.scoped();
    co_await file->settle();
    file->require_open();
    for (std::size_t searched = 0;;) {
        const std::size_t end = file->in.view().find('\n', searched);
        if (end != std::string_view::npos) co_return file->in.take(end + 1);
        searched = file->in.size();
        co_await file->perform(&file_work::read_once);
        file->take_over();
        if (file->in.size() == searched) co_return file->in.take(searched);
    }
}

static coro<std::size_t> write_to(ref_ptr<file_state> file, std::string data) {
    auto held = co_await file->turn.scoped();
    co_await file->settle();
    file->require_open();
    const std::size_t size = data.size();
    file->drop_ahead();
    file->work->data = std::move(data);
    co_await file->perform(&file_work::write);
    co_return size;
}

static coro<std::int64_t> seek_in(ref_ptr<file_state> file, std::int64_t offset, seek_from from) {
    auto held = co_await file->turn.scoped();
    co_await file->settle();
    file->require_open();
    file->drop_ahead();
    file->work->offset = offset;
    file->work->whence = from == seek_from::start     ? SEEK_SET
                         : from == seek_from::current ? SEEK_CUR
                                                      : SEEK_END;
    co_await file->perform(&file_work::seek);
    co_return file->work->offset;
}

static coro<> close_it(ref_ptr<file_state> file) {
    auto held = co_await file->turn.scoped();
    co_await file->settle();
    if (file->work->fd) co_await file->perform(&file_work::close);
}

static int flags_of(std::string_view mode) {
    int flags = -1;
    switch (mode.empty() ? '\0' : mode.front()) {
    case 'r': flags = 0; break;
    case 'w': flags = make_it | empty_it; break;
    case 'a': flags = make_it | at_the_end; break;
    case 'x': flags = make_it | only_new; break;
    default: break;
    }
    const std::string_view rest = mode.substr(std::min<std::size_t>(mode.size(), 1));
    const bool both = rest == "+" || rest == "b+" || rest == "+b";
    if (flags < 0 || !(both || rest.empty() || rest == "b"))
        throw_error(std::invalid_argument("asyncio::file::open: there is no mode '" +
                                          std::string(mode) +
                                          "'; it is r, w, a or x, then + to read and write"));
    return flags | (both ? for_both : flags == 0 ? for_reading : for_writing);
}

static coro<file> open_as_file(std::string path, int flags) {
    auto work = co_await run_in_executor(nullptr, &open_on_thread, std::move(path), flags);
    co_return file(ref_ptr<file_state>(new file_state(std::move(work))));
}

} // namespace detail

coro<std::string> read_file(std::string path) {
    detail::require_no_zero(path, "read_file: the path");
    return detail::read_on_thread(std::move(path));
}

coro<> write_file(std::string path, std::string data, write_file_options options) {
    detail::require_no_zero(path, "write_file: the path");
    return detail::write_on_thread(std::move(path), std::move(data), options.atomic);
}

file::file(detail::ref_ptr<detail::file_state> state) noexcept : state_(std::move(state)) {}
file::file(file&& other) noexcept = default;
file& file::operator=(file&& other) noexcept = default;
file::~file() = default;

const detail::ref_ptr<detail::file_state>& file::state() const {
    if (!state_)
        detail::throw_runtime_error("asyncio::file: it was moved from; use the one that it was "
                                    "moved to");
    return state_;
}

coro<file> file::open(std::string path, std::string_view mode) {
    detail::require_no_zero(path, "file::open: the path");
    return detail::open_as_file(std::move(path), detail::flags_of(mode));
}
coro<std::string> file::read(std::ptrdiff_t n) { return detail::read_from(state(), n); }
coro<std::string> file::readline() { return detail::read_line_from(state()); }
coro<std::size_t> file::write(std::string data) {
    return detail::write_to(state(), std::move(data));
}
coro<std::int64_t> file::seek(std::int64_t offset, seek_from from) {
    return detail::seek_in(state(), offset, from);
}
coro<> file::close() { return detail::close_it(state()); }

} // namespace asyncio::inline ASYNCIO_ABI

#endif // !ASYNCIO_NO_THREADS

// =============================================================================
// [SECTION] implementation: resilience and debugging
// uses: os, events, futures, tasks, resilience, debugging
// =============================================================================

namespace asyncio::inline ASYNCIO_ABI {

namespace detail {

void check_retry(const retry_options& options) {
    if (options.attempts < 1)
        throw_invalid_argument("asyncio::retry: attempts counts the first call; give at least 1");
    constexpr double most = std::numeric_limits<double>::max();
    if (!(options.factor >= 1 && options.factor <= most) ||
        !(options.jitter >= 0 && options.jitter <= most))
        throw_invalid_argument("asyncio::retry: factor must be a number of at least 1, and "
                               "jitter one that is not negative");
}

duration retry_delay(const retry_options& options, int next) {
    double seconds = options.initial_delay.total_seconds();
    const double cap = options.max_delay.total_seconds();
    for (int n = 2; n < next && seconds < cap; ++n) seconds *= options.factor;
    seconds *= 1 + options.jitter * require_running("retry").next_random();
    return duration::seconds(std::min(seconds, cap));
}

double loop_core::next_random() noexcept {
    // Under a virtual clock runs are repeatable; otherwise programs should differ.
    if (random_state == 0 && clock == clock_kind::real)
        random_state = static_cast<std::uint64_t>(now_ns()) ^
                       static_cast<std::uint64_t>(reinterpret_cast<std::uintptr_t>(this));
    return static_cast<double>(splitmix64(random_state) >> 11) * 0x1.0p-53;
}

} // namespace detail

// -- circuit_breaker, rate_limiter ---------------------------------------------------

circuit_breaker::circuit_breaker(circuit_breaker_options options) : options_(options) {
    if (options_.failures < 1 || options_.half_open_calls < 1)
        detail::throw_invalid_argument("asyncio::circuit_breaker: failures and half_open_calls "
                                       "must be at least 1");
}

circuit_breaker::~circuit_breaker() = default;

void circuit_breaker::on_change(detail::function<void(circuit_state, circuit_state)> fn) {
    on_change_ = std::move(fn);
}

circuit_state circuit_breaker::state() const noexcept {
    const detail::loop_core* core = detail::running_core();
    if (state_ == circuit_state::open && core &&
        core->now_ns() >= open_until_.time_since_epoch().count())
        return circuit_state::half_open;
    return state_;
}

void circuit_breaker::change(circuit_state to) {
    const circuit_state from = std::exchange(state_, to);
    ++period_;
    failures_ = trials_ = successes_ = 0;
    if (to == circuit_state::open) open_until_ = get_running_loop().time() + options_.open_for;
    if (on_change_) on_change_(from, to);
}

// Whether a call is let through.
bool circuit_breaker::let_in() {
    if (state_ == circuit_state::open && state() == circuit_state::half_open)
        change(circuit_state::half_open);
    if (state_ == circuit_state::open ||
        (state_ == circuit_state::half_open && trials_ >= options_.half_open_calls))
        return false;
    if (state_ == circuit_state::half_open) ++trials_;
    return true;
}

void circuit_breaker::note(std::uint64_t period, const exception_ptr& failure) {
    if (period != period_) return; // it was let in by a state that is over
    const bool counts = !failure || detail::kind_of(failure) == detail::error_kind::ordinary;
    if (state_ == circuit_state::half_open) {
        if (!counts) --trials_; // another one may try
        else if (failure) change(circuit_state::open);
        else if (++successes_ == options_.half_open_calls) change(circuit_state::closed);
    } else if (counts) {
        failures_ = failure ? failures_ + 1 : 0;
        if (failures_ >= options_.failures) change(circuit_state::open);
    }
}

rate_limiter::rate_limiter(rate_limiter_options options)
    : options_(options), saved_(options.burst) {
    if (!(options.rate > 0) || options.per.count() <= 0 || !(options.burst >= 1))
        detail::throw_invalid_argument("asyncio::rate_limiter: rate and per must be positive, "
                                       "and burst at least 1");
}

void rate_limiter::refill() {
    const time_point now = get_running_loop().time();
    if (std::exchange(begun_, true))
        saved_ = std::min(options_.burst,
                          saved_ + (now - filled_at_) / options_.per * options_.rate);
    filled_at_ = now;
}

coro<> rate_limiter::acquire() {
    // Who sleeps for its turn holds the line; the others wait behind it.
    const auto first_in_line = co_await line_.scoped();
    refill();
    while (saved_ < 1) {
        // A nanosecond more than computed, so that rounding costs no second sleep.
        const duration pause = options_.per * ((1 - saved_) / options_.rate);
        co_await sleep(pause + std::chrono::nanoseconds(1));
        refill();
    }
    saved_ -= 1;
}

#if !defined(ASYNCIO_BACKEND_NONE)

// -- call graphs -----------------------------------------------------------------------

namespace detail {

namespace {

// The unfinished tasks of a loop, and which of them waits for which: directly, or
// through futures like gather's.
class await_graph {
public:
    explicit await_graph(event_loop& loop) : tasks_(all_tasks(loop)) {
        for (const any_task& task : tasks_) {
            finder find{*this, &base(task), {}};
            if (suspension* waiting = base(task).waiting) waiting->show_awaited(find);
        }
        std::sort(awaits_.begin(), awaits_.end());
        std::sort(awaited_by_.begin(), awaited_by_.end());
    }

    const std::vector<any_task>& tasks() const noexcept { return tasks_; }
    static task_base& base(const any_task& task) {
        return static_cast<task_base&>(task.state());
    }
    std::vector<const task_base*> awaited_by(const task_base& task) const {
        return of(awaited_by_, task);
    }
    std::vector<const task_base*> awaits(const task_base& task) const { return of(awaits_, task); }

private:
    struct finder final : awaited_visitor {
        finder(await_graph& g, const task_base* w, std::vector<state_base*> s)
            : graph(g), waiter(w), seen(std::move(s)) {}
        void visit(state_base& state) override {
            if (state.is_task) {
                if (state.done()) return;
                const auto* const awaited = static_cast<const task_base*>(&state);
                graph.awaits_.push_back({waiter, graph.awaits_.size(), awaited});
                graph.awaited_by_.push_back({awaited, graph.awaited_by_.size(), waiter});
                return;
            }
            if (std::find(seen.begin(), seen.end(), &state) != seen.end()) return;
            seen.push_back(&state);
            state.show_awaited(*this);
        }
        await_graph& graph;
        const task_base* waiter;
        std::vector<state_base*> seen;
    };

    // They are sorted by the task that they are looked up by, then as they were found.
    struct edge {
        const task_base* from;
        std::size_t number;
        const task_base* to;
        bool operator<(const edge& other) const noexcept {
            return from != other.from ? std::less<>()(from, other.from) : number < other.number;
        }
    };
    static std::vector<const task_base*> of(const std::vector<edge>& edges, const task_base& task) {
        std::vector<const task_base*> all;
        auto it = std::lower_bound(edges.begin(), edges.end(), edge{&task, 0, nullptr});
        for (; it != edges.end() && it->from == &task; ++it) all.push_back(it->to);
        return all;
    }

    std::vector<any_task> tasks_;
    std::vector<edge> awaits_;     // from who waits
    std::vector<edge> awaited_by_; // to who waits
};

// The coroutines of a task from the innermost suspended one outwards, without those of
// this library.
std::vector<const promise_base*> coroutines_of(const task_base& task) {
    std::vector<const promise_base*> chain;
    if (task.done() || task.fresh()) return chain; // of one that is done the frames are gone
    for (const promise_base* p = task.at; p; p = p == task.root ? nullptr : p->parent)
        if (!is_ours(p->place)) chain.push_back(p);
    return chain;
}

// A chain of tasks may be longer than any stack, and than anybody reads.
constexpr std::size_t deepest_shown = 64;
constexpr const char* deeper = "... and so on\n";

void print_graph(std::ostream& out, const await_graph& graph, const task_base& task,
                 std::optional<int> limit, const std::string& indent,
                 std::vector<const task_base*>& above) {
    out << indent << "* task '" << task.name() << "'"
        << (task.done()                    ? ", done"
            : task.core->current == &task ? ", running"
            : task.fresh()                ? ", not started"
                                          : "")
        << '\n';
    std::vector<const promise_base*> chain = coroutines_of(task);
    std::reverse(chain.begin(), chain.end()); // the outermost first
    if (limit) {
        const std::size_t keep = std::min(chain.size(), static_cast<std::size_t>(std::abs(*limit)));
        if (*limit >= 0) chain.resize(keep);
        else chain.erase(chain.begin(), chain.end() - static_cast<std::ptrdiff_t>(keep));
    }
    if (!chain.empty()) out << indent << "  awaits in\n";
    for (const promise_base* p : chain) out << indent << "  | " << place_of(*p) << '\n';
    const std::vector<const task_base*> waiters = graph.awaited_by(task);
    if (waiters.empty()) return;
    out << indent << "  awaited by\n";
    above.push_back(&task);
    if (above.size() == deepest_shown) {
        out << indent << "    " << deeper;
        above.pop_back();
        return;
    }
    for (const task_base* waiter : waiters) {
        if (std::find(above.begin(), above.end(), waiter) != above.end())
            out << indent << "    * task '" << waiter->name() << "', see above: a circle\n";
        else
            print_graph(out, graph, *waiter, limit, indent + "    ", above);
    }
    above.pop_back();
}

void print_task_tree(std::ostream& out, const await_graph& graph, const task_base& task,
                     const std::string& indent, std::size_t depth = 1) {
    out << "task '" << task.name() << "'\n";
    const std::vector<const promise_base*> chain = coroutines_of(task);
    for (auto p = chain.rbegin(); p != chain.rend(); ++p)
        out << indent << "  " << place_of(**p) << '\n';
    const std::vector<const task_base*> children = graph.awaits(task);
    for (std::size_t i = 0; i < children.size(); ++i) {
        const bool last = i + 1 == children.size();
        out << indent << (last ? "  `-- " : "  |-- ");
        if (depth == deepest_shown) out << deeper;
        else
            print_task_tree(out, graph, *children[i], indent + (last ? "      " : "  |   "),
                            depth + 1);
    }
}

// Follows the awaits from `task`; throws when they lead back to where they were. `safe` are
// those from which they do not.
void refuse_circles(const await_graph& graph, const task_base& task,
                    std::unordered_set<const task_base*>& safe) {
    struct step {
        const task_base* task;
        std::vector<const task_base*> awaits;
        std::size_t next = 0;
    };
    std::vector<step> path;
    std::unordered_set<const task_base*> on_path;
    const auto enter = [&](const task_base& entered) {
        if (safe.contains(&entered)) return;
        if (!on_path.insert(&entered).second) {
            std::string names;
            auto it = std::find_if(path.begin(), path.end(), [&](const step& one) {
                return one.task == &entered;
            });
            for (; it != path.end(); ++it) names += "'" + it->task->name() + "' -> ";
            throw_error(std::runtime_error(
                "asyncio::print_tasks: tasks wait for each other in a circle: " + names + "'" +
                entered.name() + "'"));
        }
        path.push_back({&entered, graph.awaits(entered)});
    };
    enter(task);
    while (!path.empty()) {
        step& last = path.back();
        if (last.next < last.awaits.size()) {
            enter(*last.awaits[last.next++]);
        } else {
            safe.insert(last.task);
            on_path.erase(last.task);
            path.pop_back();
        }
    }
}

} // namespace

} // namespace detail

void print_call_graph(const any_task& task, std::ostream& out, std::optional<int> limit) {
    const detail::await_graph graph(task.get_loop());
    std::vector<const detail::task_base*> above;
    detail::print_graph(out, graph, detail::await_graph::base(task), limit, "", above);
}

void print_call_graph(const any_task& task, std::ostream& out) {
    print_call_graph(task, out, std::nullopt);
}

void print_call_graph(std::ostream& out) { print_call_graph(out, std::nullopt); }

void print_call_graph(std::ostream& out, std::optional<int> limit) {
    const any_task task = current_task();
    if (task) print_call_graph(task, out, limit);
}

void print_tasks(std::ostream& out) {
    const detail::await_graph graph(get_running_loop());
    std::unordered_set<const detail::task_base*> safe;
    for (const any_task& task : graph.tasks())
        detail::refuse_circles(graph, detail::await_graph::base(task), safe);
    for (const any_task& task : graph.tasks())
        if (graph.awaited_by(detail::await_graph::base(task)).empty())
            detail::print_task_tree(out, graph, detail::await_graph::base(task), "");
}

// -- tracer --------------------------------------------------------------------------

struct tracer::record {
    struct job {
        std::int64_t begin;
        std::int64_t end;
    };
    struct span {
        std::uint32_t id;
        std::string name;
        std::int64_t begin;
        std::int64_t end = -1; // -1: still alive
        detail::state_base::status status = detail::state_base::status::pending;
        bool failed = false;
        std::vector<job> jobs = {};
    };
    struct moment {
        std::string text;
        std::int64_t at;
    };

    // Ids grow with time.
    span* find(std::uint32_t id) noexcept {
        const auto found =
            std::lower_bound(spans.begin(), spans.end(), id,
                             [](const span& s, std::uint32_t i) { return s.id < i; });
        return found != spans.end() && found->id == id ? &*found : nullptr;
    }

    std::int64_t begin;
    std::vector<span> spans = {};
    std::vector<moment> moments = {};
};

tracer::tracer(event_loop& loop) : core_(&loop.core()), record_(new record{core_->now_ns()}) {
    if (core_->tracing)
        detail::throw_runtime_error("asyncio::tracer: the loop is being traced already; end the "
                                    "other tracer first");
    core_->tracing = this;
    for (const any_task& task : all_tasks(loop))
        task_started(static_cast<detail::task_base&>(task.state()));
}

tracer::~tracer() { core_->tracing = nullptr; }

std::int64_t tracer::now() const noexcept { return core_->now_ns() - record_->begin; }

void tracer::mark(std::string_view text) {
    record_->moments.push_back({std::string(text), now()});
}

void tracer::task_started(detail::task_base& task) {
    record_->spans.push_back({task.id, task.name(), now()});
}

void tracer::task_ended(detail::task_base& task) {
    record::span* s = record_->find(task.id);
    if (!s) return;
    s->name = task.name();
    s->end = now();
    s->status = task.current;
    s->failed = task.failed();
}

// Tasks that are still alive may have been named after their begin.
void tracer::refresh_names() const {
    for (const detail::task_base* t = core_->tasks; t; t = t->following_task)
        if (record::span* s = record_->find(t->id)) s->name = t->name();
}

void tracer::job_ended(std::uint32_t task_id, std::int64_t begin, std::int64_t end) {
    // A job may be older than the tracer.
    const std::int64_t none = 0;
    const std::int64_t first = record_->begin;
    if (record::span* s = record_->find(task_id))
        s->jobs.push_back({std::max(begin - first, none), std::max(end - first, none)});
}

namespace detail {

// How many bytes the UTF-8 character at the begin of `text` has; 0 if that is none.
static std::size_t utf8_length(std::string_view text) noexcept {
    const auto byte = [&](std::size_t i) {
        return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U;
    };
    const unsigned first = byte(0);
    if (first < 0x80) return 1;
    const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    std::uint32_t value = first & (0x7fU >> length);
    for (std::size_t i = 1; i < length; ++i) {
        if ((byte(i) & 0xc0U) != 0x80) return 0;
        value = value << 6 | (byte(i) & 0x3fU);
    }
    constexpr std::uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    const bool surrogate = value >= 0xd800 && value < 0xe000;
    return first < 0xc0 || first >= 0xf8 || value < least[length] || value > 0x10ffff || surrogate
               ? 0
               : length;
}

// A string as JSON. Bytes that are no UTF-8 become the replacement character.
static std::string quoted(std::string_view text) {
    std::string out = "\"";
    for (std::size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        const auto byte = static_cast<unsigned char>(c);
        if (byte >= 0x80) {
            const std::size_t length = utf8_length(text.substr(i));
            out += length == 0 ? "\\ufffd" : text.substr(i, length);
            if (length > 1) i += length - 1;
        } else if (c == '"' || c == '\\') {
            out += '\\';
            out += c;
        } else if (byte < 0x20) {
            char escape[8];
            std::snprintf(escape, sizeof escape, "\\u%04x", byte);
            out += escape;
        } else {
            out += c;
        }
    }
    return out + '"';
}

static std::string microseconds(std::int64_t nanoseconds) {
    char text[32];
    std::snprintf(text, sizeof text, "%lld.%03d", static_cast<long long>(nanoseconds / 1000),
                  static_cast<int>(nanoseconds % 1000));
    return text;
}

} // namespace detail

void tracer::write_chrome_trace(std::ostream& out) const {
    using detail::microseconds;
    using detail::quoted;
    refresh_names();
    const std::int64_t last = now();
    out << "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n"
        << R"({"name":"process_name","ph":"M","pid":1,"args":{"name":"asyncio"}})";
    for (const record::span& s : record_->spans) {
        const std::int64_t end = s.end < 0 ? last : s.end;
        const char* state = s.end < 0  ? "running"
                            : s.failed ? "failed"
                            : s.status == detail::state_base::status::cancelled ? "cancelled"
                                                                                : "finished";
        out << ",\n"
            << R"({"name":"thread_name","ph":"M","pid":1,"tid":)" << s.id << R"(,"args":{"name":)"
            << quoted(s.name) << "}},\n"
            // Viewers sort by name else; in the order of their creation tasks tell a story.
            << R"({"name":"thread_sort_index","ph":"M","pid":1,"tid":)" << s.id
            << R"(,"args":{"sort_index":)" << s.id << "}},\n"
            << R"({"name":)" << quoted(s.name) << R"(,"cat":"task","ph":"X","pid":1,"tid":)" << s.id
            << R"(,"ts":)" << microseconds(s.begin) << R"(,"dur":)" << microseconds(end - s.begin)
            << R"(,"args":{"state":")" << state << "\"}}";
        // Jobs of one task overlap: asynchronous events, each with an id of its own.
        for (std::size_t i = 0; i < s.jobs.size(); ++i)
            for (const bool begin : {true, false})
                out << ",\n"
                    << R"({"name":"job","cat":"job","ph":")" << (begin ? 'b' : 'e')
                    << R"(","pid":1,"tid":)" << s.id << R"(,"id":")" << s.id << '.' << i
                    << R"(","ts":)" << microseconds(begin ? s.jobs[i].begin : s.jobs[i].end) << '}';
    }
    for (const record::moment& m : record_->moments)
        out << ",\n"
            << R"({"name":)" << quoted(m.text)
            << R"(,"cat":"mark","ph":"i","s":"p","pid":1,"tid":0,"ts":)" << microseconds(m.at)
            << '}';
    out << "\n]}\n";
}

void tracer::print_timeline(std::ostream& out, std::size_t width) const {
    constexpr std::size_t most_rows = 40;
    refresh_names();
    width = std::max<std::size_t>(width, 10);
    const std::int64_t total = std::max<std::int64_t>(now(), 1);
    const auto column = [&](std::int64_t at) {
        const double share = static_cast<double>(at) / static_cast<double>(total);
        return std::min(width - 1, static_cast<std::size_t>(std::max(0.0, share) *
                                                            static_cast<double>(width)));
    };
    std::size_t name_width = 4;
    for (const record::span& s : record_->spans)
        name_width = std::max(name_width, std::min<std::size_t>(24, s.name.size()));

    const auto row = [&](std::string_view name, const std::string& bar, const std::string& note) {
        std::string text(name.substr(0, name_width));
        text.resize(name_width + 1, ' ');
        text += '|' + bar + '|' + note;
        // A row is one line, whatever is in the names.
        for (char& c : text)
            if (static_cast<unsigned char>(c) < 0x20) c = ' ';
        out << text << '\n';
    };
    char head[64];
    std::snprintf(head, sizeof head, "%.3f s", static_cast<double>(total) * 1e-9);
    std::string axis = "0";
    axis.resize(width > std::strlen(head) ? width - std::strlen(head) : 1, ' ');
    row("time", axis + head, "");

    for (std::size_t i = 0; i < record_->spans.size() && i < most_rows; ++i) {
        const record::span& s = record_->spans[i];
        std::string bar(width, ' ');
        const std::size_t end = column(s.end < 0 ? total : s.end);
        for (std::size_t c = column(s.begin); c <= end; ++c) bar[c] = '=';
        for (const record::job& j : s.jobs)
            for (std::size_t c = column(j.begin); c <= column(j.end); ++c) bar[c] = '#';
        if (s.failed) bar[end] = '!';
        if (s.status == detail::state_base::status::cancelled) bar[end] = 'x';
        std::snprintf(head, sizeof head, " %.3f-%.3f s", static_cast<double>(s.begin) * 1e-9,
                      static_cast<double>(s.end < 0 ? total : s.end) * 1e-9);
        row(s.name, bar, head);
    }
    if (record_->spans.size() > most_rows)
        out << "... and " << record_->spans.size() - most_rows << " more tasks\n";
    for (const record::moment& m : record_->moments) {
        std::string bar(width, ' ');
        bar[column(m.at)] = '^';
        row("", bar, " " + m.text);
    }
}

#endif // !ASYNCIO_BACKEND_NONE

} // namespace asyncio::inline ASYNCIO_ABI

// =============================================================================
// [SECTION] licence
//
// MIT License
//
// Copyright (c) 2026 the asyncio.hpp authors
//
// Permission is hereby granted, free of charge, to any person obtaining a copy
// of this software and associated documentation files (the "Software"), to deal
// in the Software without restriction, including without limitation the rights
// to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
// copies of the Software, and to permit persons to whom the Software is
// furnished to do so, subject to the following conditions:
//
// The above copyright notice and this permission notice shall be included in all
// copies or substantial portions of the Software.
//
// THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
// IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
// FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
// AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
// LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
// OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
// SOFTWARE.
// =============================================================================

#endif // ASYNCIO_IMPLEMENTATION
