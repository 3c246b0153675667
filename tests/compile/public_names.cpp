// Every public name as its users write it: the members of options in their order, what is given
// back, and what stands for what. Compiled, and not run: what each does is tested elsewhere.
//
// WRONG=1 says: order
#include "asyncio.hpp"

#include <array>
#include <cstddef>
#include <exception>
#include <iostream>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <tuple>
#include <unordered_set>
#include <utility>
#include <variant>
#include <vector>

using namespace std::chrono_literals;

namespace {

template <class Expected, class Actual>
void is(Actual&&) {
    static_assert(std::is_same_v<Expected, std::remove_cvref_t<Actual>>);
}
template <class Awaited, class Expected>
concept gives = std::same_as<asyncio::await_result_t<Awaited>, Expected>;

asyncio::coro<int> number() { co_return 1; }
asyncio::coro<std::string> text() { co_return "text"; }
asyncio::coro<> nothing() { co_return; }
int plain(int n) { return n + 1; }
asyncio::coro<std::string> with_arguments(int n, std::string text) {
    co_return text + std::to_string(n);
}

// -- words --------------------------------------------------------------------------

static_assert(!std::is_base_of_v<std::exception, asyncio::cancelled_error>);
static_assert(!std::is_base_of_v<std::exception, asyncio::keyboard_interrupt>);
static_assert(std::is_base_of_v<std::runtime_error, asyncio::timeout_error>);
static_assert(std::is_base_of_v<std::logic_error, asyncio::invalid_state_error>);
static_assert(std::is_base_of_v<std::exception, asyncio::exception_group>);
static_assert(std::is_base_of_v<asyncio::base_exception_group, asyncio::exception_group>);
static_assert(std::is_base_of_v<asyncio::broken_executor, asyncio::worker_crashed>);
static_assert(!std::is_copy_constructible_v<asyncio::coro<int>>);
static_assert(std::is_convertible_v<asyncio::task<int>, asyncio::future<int>> ||
              std::is_base_of_v<asyncio::future<int>, asyncio::task<int>>);
static_assert(std::is_convertible_v<asyncio::task<int>, asyncio::any_task>);
static_assert(std::is_copy_constructible_v<asyncio::task<int>>);
static_assert(std::is_copy_constructible_v<asyncio::future<std::unique_ptr<int>>>);
static_assert(std::is_convertible_v<asyncio::duration, std::chrono::nanoseconds>);

void errors() {
    asyncio::cancelled_error plain_cancel;
    asyncio::cancelled_error cancel("why");
    asyncio::keyboard_interrupt interrupt;
    std::string_view what = cancel.what();
    asyncio::exception_group group("group", std::vector<std::exception_ptr>{});
    asyncio::base_exception_group base("group", std::vector<std::exception_ptr>{});
    const std::vector<std::exception_ptr>& errors = group.exceptions();
    std::string message(group.message());
    bool has = group.contains<std::runtime_error>();
    auto [matching, rest] = group.split<std::runtime_error>();
    is<std::optional<asyncio::exception_group>>(matching);
    is<std::optional<asyncio::exception_group>>(group.subgroup<std::runtime_error>());
    group.for_each<std::runtime_error>([](const std::runtime_error&) {});
    std::cout << group << base << what << message << has << errors.size();
    static_cast<void>(rest);
}

void times() {
    asyncio::duration d = 1.5s;
    d = asyncio::duration::seconds(0.5);
    std::chrono::nanoseconds ns = d;
    asyncio::event_loop& loop = asyncio::get_running_loop();
    asyncio::time_point t = loop.time() + 1.5s;
    is<asyncio::duration>(t - loop.time());
    static_cast<void>(ns);
}

// -- running ------------------------------------------------------------------------

void running() {
    is<int>(asyncio::run(number()));
    is<int>(asyncio::run(number(), {.debug = true,
                                    .clock = asyncio::clock_kind::virtual_time,
                                    .time_scale = 1,
                                    .shuffle_seed = 1,
                                    .handle_sigint = true,
                                    .exit_report = 2s}));
    is<int>(asyncio::run_main(number(), {.clock = asyncio::clock_kind::manual}));
    asyncio::runner runner({.clock = asyncio::clock_kind::real});
    is<int>(runner.run(number()));
    asyncio::event_loop& loop = runner.get_loop();
    runner.close();
    is<asyncio::duration>(asyncio::elapsed());
    asyncio::run_per_core(2, [](std::size_t) { return nothing(); });
    static_cast<void>(loop);
}

// -- coroutines, tasks, futures -----------------------------------------------------

asyncio::coro<> tasks() {
    asyncio::context variables;
    is<asyncio::task<int>>(asyncio::create_task(number()));
    is<asyncio::task<int>>(asyncio::create_task(
        number(), {.name = "worker", .eager_start = true, .ctx = &variables}));
    is<asyncio::task<std::string>>(asyncio::create_task(with_arguments, 1, "text"));
#if WRONG == 1
    asyncio::create_task(number(), {.eager_start = true, .name = "worker"});
#endif
    int captured = 1;
    auto t = asyncio::create_task([captured]() -> asyncio::coro<int> { co_return captured; });
    is<asyncio::task<int>>(asyncio::create_task(t));

    co_await asyncio::sleep(0s);
    is<int>(co_await asyncio::sleep(1s, 5));
    static_assert(std::convertible_to<decltype(asyncio::sleep(1s)), asyncio::coro<>>);

    const auto two = co_await asyncio::gather(number(), number());
    is<std::array<int, 2>>(two);
    const auto three = co_await asyncio::gather(number(), text(), nothing());
    is<std::tuple<int, std::string, std::monostate>>(three);
    std::vector<asyncio::coro<int>> many;
    is<std::vector<int>>(co_await asyncio::gather(std::move(many)));
    std::vector<asyncio::coro<>> voids;
    is<asyncio::future<void>>(asyncio::gather(std::move(voids)));
    const auto outcomes =
        co_await asyncio::gather(asyncio::return_exceptions, number(), number());
    is<std::array<asyncio::outcome<int>, 2>>(outcomes);

    is<int>(co_await asyncio::wait_for(number(), 1s));
    is<int>(co_await asyncio::wait_for(number(), std::nullopt));
    std::vector<asyncio::task<int>> list{t};
    auto waited = co_await asyncio::wait(
        list, {.timeout = 1s, .return_when = asyncio::return_when::first_completed});
    is<asyncio::wait_result<asyncio::task<int>>>(waited);
    is<std::vector<asyncio::task<int>>>(waited.pending);
    const std::vector<asyncio::any_task> mixed{t};
    is<asyncio::wait_result<asyncio::any_task>>(co_await asyncio::wait(mixed));
    static_cast<void>(asyncio::return_when::all_completed);
    static_cast<void>(asyncio::return_when::first_exception);
    auto ends = asyncio::as_completed(list, {.timeout = 1s});
    while (auto next = co_await ends.next()) is<int>(next->result());
    auto pack = asyncio::as_completed(t, t);
    is<std::optional<asyncio::task<int>>>(co_await pack.next());
    is<asyncio::future<int>>(asyncio::shield(number()));
    is<asyncio::any_task>(asyncio::current_task());
    is<std::vector<asyncio::any_task>>(asyncio::all_tasks());
    is<std::vector<asyncio::any_task>>(asyncio::all_tasks(asyncio::get_running_loop()));

    asyncio::outcome<int> result = co_await asyncio::as_outcome(number());
    if (!result) {
        const asyncio::error& error = result.error();
        std::cerr << error.what() << error.code() << error.holds<std::runtime_error>();
        std::exception_ptr exception = error.exception();
        if (exception) error.rethrow();
    }
    is<int>(result.value());
    is<bool>(result.has_value());
    is<int>(*result);

    is<bool>(t.done());
    is<bool>(t.cancelled());
    is<bool>(t.cancel());
    is<bool>(t.cancel("why"));
    is<int>(t.cancelling());
    is<int>(t.uncancel());
    is<std::exception_ptr>(t.exception());
    std::string name(t.get_name());
    t.set_name(name);
    asyncio::event_loop& loop = t.get_loop();
    auto id = t.add_done_callback([](const asyncio::task<int>&) {});
    is<bool>(t.remove_done_callback(id));
    t.add_done_callback([] {});
    std::set<asyncio::task<int>> ordered{t};
    std::unordered_set<asyncio::any_task> hashed{t};
    static_assert(std::is_same_v<decltype(t.result()), const int&>);

    asyncio::future<int> f = loop.create_future<int>();
    is<asyncio::future<int>>(asyncio::create_future<int>());
    is<asyncio::future<>>(loop.create_future());
    is<asyncio::future<>>(asyncio::create_future());
    f.set_result(1);
    f.set_exception(std::runtime_error("no"));
    f.set_exception(std::make_exception_ptr(1));
    f.cancel("why");
    is<bool>(asyncio::future<int>().valid());
    asyncio::any_task any = t;
    is<bool>(any.done());
    co_await any;
    co_await asyncio::fail(std::make_error_code(std::errc::io_error), "what");
}

// -- structured concurrency ---------------------------------------------------------

struct manager {
    asyncio::coro<int> aenter() { return number(); }
    asyncio::coro<bool> aexit(std::exception_ptr) { co_return false; }
};

asyncio::coro<> structured() {
    asyncio::task<int> t;
    co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& group) {
        t = group.create_task(number());
        group.create_task(number(), {.name = "child"});
        group.create_task(with_arguments, 1, "text");
        group.cancel();
    });
    auto body = [](asyncio::timeout& limit) -> asyncio::coro<int> {
        is<std::optional<asyncio::time_point>>(limit.when());
        limit.reschedule(asyncio::get_running_loop().time() + 1s);
        limit.reschedule(std::nullopt);
        is<bool>(limit.expired());
        co_return 1;
    };
    is<int>(co_await asyncio::with(asyncio::timeout(5s), body));
    is<int>(co_await asyncio::with(asyncio::timeout_at(std::nullopt), body));
    is<int>(co_await asyncio::finally(number(), nothing));
    is<int>(co_await asyncio::finally(number, nothing()));
    is<int>(co_await asyncio::with(manager(), [](int& given) { return given; }));
}

// -- waiting for each other ---------------------------------------------------------

asyncio::coro<> primitives() {
    asyncio::lock lock;
    co_await lock.acquire();
    is<bool>(lock.locked());
    lock.release();
    {
        auto held = co_await lock.scoped();
    }
    asyncio::event event;
    co_await event.wait();
    event.set();
    event.clear();
    is<bool>(event.is_set());
    asyncio::condition condition;
    asyncio::condition shared(&lock);
    {
        auto held = co_await condition.scoped();
        co_await condition.wait();
        co_await condition.wait_for([] { return true; });
        condition.notify();
        condition.notify(2);
        condition.notify_all();
    }
    asyncio::semaphore semaphore(2);
    asyncio::bounded_semaphore bounded(2);
    co_await semaphore.acquire();
    semaphore.release();
    is<bool>(bounded.locked());
    co_await asyncio::with(semaphore, [] {});
    asyncio::barrier barrier(2);
    co_await barrier.wait();
    co_await barrier.reset();
    co_await barrier.abort();
    static_cast<void>(barrier.parties() + barrier.n_waiting());
    is<bool>(barrier.broken());

    asyncio::queue<int> queue;
    asyncio::priority_queue<int> smallest(3);
    asyncio::priority_queue<int, std::greater<int>> largest(3);
    asyncio::lifo_queue<int> stack;
    co_await queue.put(1);
    queue.put_nowait(1);
    is<int>(co_await queue.get());
    is<int>(queue.get_nowait());
    is<std::optional<int>>(co_await queue.next());
    static_cast<void>(queue.qsize() + queue.maxsize());
    is<bool>(queue.empty() || queue.full());
    queue.task_done();
    co_await queue.join();
    queue.shutdown();
    queue.shutdown(true);
    static_assert(std::is_class_v<asyncio::queue_empty> && std::is_class_v<asyncio::queue_full> &&
                  std::is_class_v<asyncio::queue_shut_down>);
}

asyncio::async_generator<int> numbers() { co_yield 1; }

asyncio::coro<> generators_and_contexts() {
    auto all = numbers();
    while (auto one = co_await all.next()) is<int>(*one);
    co_await all.aclose();
    static asyncio::context_var<int> level("level", 1);
    is<int>(level.get());
    auto token = level.set(2);
    level.reset(std::move(token));
    asyncio::context present = asyncio::context::current();
    is<int>(present.run([] { return level.get(); }));
    present.get(level);
}

// -- the loop -----------------------------------------------------------------------

void loops() {
    asyncio::event_loop loop;
    asyncio::event_loop other({.clock = asyncio::clock_kind::manual});
    is<int>(loop.run_until_complete(number()));
    loop.run_forever();
    loop.stop();
    is<bool>(loop.is_running() || loop.is_closed());
    {
        auto entered = loop.enter();
    }
    asyncio::handle h = loop.call_soon([] {});
    h = loop.call_later(1s, [] {});
    h = loop.call_at(loop.time() + 1s, [] {});
    loop.call_soon([h] { h.cancel(); }); // as that of a task or a future
    is<bool>(h.cancelled());
    is<asyncio::time_point>(h.when());
    loop.call_soon_threadsafe([] {});
    is<asyncio::task<int>>(loop.create_task(number()));
    is<asyncio::future<int>>(loop.run_in_executor(nullptr, plain, 1));
    loop.set_default_executor(std::make_shared<asyncio::thread_pool_executor>(2));
    static_assert(gives<decltype(loop.shutdown_default_executor(1s)), void>);
    loop.set_exception_handler([](asyncio::event_loop&, const asyncio::exception_context& context) {
        std::cerr << context.message << (context.exception != nullptr);
        static_cast<void>(context.task);
    });
    loop.call_exception_handler({"message"});
    loop.set_debug(true);
    is<bool>(loop.get_debug());
    loop.slow_callback_duration = 100ms;
    loop.add_reader(0, [] {});
    loop.add_writer(1, [] {});
    is<bool>(loop.remove_reader(0) || loop.remove_writer(1));
    loop.add_signal_handler(15, [] {});
    is<bool>(loop.remove_signal_handler(15));
    is<std::size_t>(loop.poll());
    is<std::size_t>(loop.run_once());
    asyncio::run_result ran = loop.run_for(1ms);
    is<std::size_t>(ran.ran);
    is<bool>(ran.more);
    is<std::optional<asyncio::duration>>(loop.next_deadline());
    asyncio::event_loop::native_handle_type native = loop.native_handle();
    other.advance(1s);
    other.set_time_scale(2);
    other.pause();
    other.resume();
    loop.set_wake_handler([] {});
    loop.set_wake_handler(nullptr);
    asyncio::loop_metrics metrics = loop.metrics();
    is<asyncio::concurrent_future<int>>(asyncio::run_coroutine_threadsafe(number(), loop));
    loop.close();
    static_cast<void>(native);
    static_cast<void>(metrics);
}

asyncio::coro<> frames_and_clocks(asyncio::event_loop& loop) {
    static_assert(gives<decltype(asyncio::next_frame()), asyncio::duration>);
    is<asyncio::duration>(co_await asyncio::next_frame());
    asyncio::time_stream world(loop);
    world.set_scale(0.5);
    world.pause();
    world.resume();
    is<asyncio::time_point>(world.now());
    asyncio::task_scope entity(loop);
    is<asyncio::task<int>>(entity.create_task(number()));
    is<asyncio::task<>>(entity.create_task(nothing(), {.name = "slow", .clock = &world}));
    is<std::size_t>(entity.size());
    entity.cancel();
}

// -- executors ----------------------------------------------------------------------

asyncio::coro<> executors() {
    asyncio::thread_pool_executor threads(2, {.thread_name_prefix = "pool", .initializer = [] {}});
    asyncio::isolated_executor isolated(2, {.isolation = asyncio::isolation::process,
                                            .start = asyncio::start_method::forkserver,
                                            .max_tasks_per_child = 10,
                                            .memory_limit = 1 << 30,
                                            .cpu_time_limit = 10s,
                                            .job_timeout = 10s});
    asyncio::process_pool_executor processes(2);
    asyncio::interpreter_pool_executor isolated_threads(2);
    static_cast<void>(asyncio::start_method::fork);
    static_cast<void>(asyncio::start_method::spawn);
    static_cast<void>(asyncio::isolation::thread);
    asyncio::executor& any = threads;
    asyncio::concurrent_future<int> f = any.submit(plain, 1);
    is<int>(f.result());
    is<int>(f.result(1s));
    is<std::exception_ptr>(f.exception());
    is<bool>(f.cancel() || f.cancelled() || f.done());
    f.add_done_callback([](const asyncio::concurrent_future<int>&) {});
    const std::vector<int> items{1, 2};
    for (int n : any.map(plain, items, {.timeout = 1s, .chunksize = 2, .buffersize = 4}))
        is<int>(n);
    std::vector<asyncio::concurrent_future<int>> all{f};
    auto waited = asyncio::concurrent::wait(
        all, {.timeout = 1s, .return_when = asyncio::return_when::first_completed});
    is<std::vector<asyncio::concurrent_future<int>>>(waited.done);
    for (auto& done : asyncio::concurrent::as_completed(all, {.timeout = 1s}))
        is<int>(done.result());
    is<int>(co_await f);
    is<int>(co_await asyncio::run_in_executor(&threads, plain, 1));
    is<int>(co_await asyncio::run_in_executor(nullptr, plain, 1));
    is<int>(co_await asyncio::run_in_executor(isolated, plain, 1));
    is<int>(co_await asyncio::to_thread(plain, 1));
    is<int>(co_await asyncio::with(processes, [] { return 1; }));
    const auto count = [&items] { return items.size(); };
    static_assert(gives<decltype(asyncio::fork_job(count)), std::size_t>);
    isolated.kill_workers();
    isolated.terminate_workers();
    threads.shutdown({.wait = true, .cancel_futures = false});
}

// -- networking, files, processes -----------------------------------------------------

struct transport {
    asyncio::coro<std::size_t> recv(std::span<std::byte>) { co_return 0; }
    asyncio::coro<std::size_t> send(std::span<const std::byte> bytes) { co_return bytes.size(); }
    asyncio::coro<> shutdown() { co_return; }
};

asyncio::coro<> on_client(asyncio::stream_reader reader, asyncio::stream_writer writer) {
    is<std::string>(co_await reader.read());
    is<std::string>(co_await reader.read(10));
    is<std::string>(co_await reader.readline());
    is<std::string>(co_await reader.readexactly(10));
    is<std::string>(co_await reader.readuntil("\r\n"));
    const std::vector<std::string> separators{"\n", ";"};
    is<std::string>(co_await reader.readuntil(separators));
    std::array<std::byte, 10> buffer;
    is<std::size_t>(co_await reader.read_into(buffer));
    is<bool>(reader.at_eof());
    writer.write("bytes");
    const std::vector<std::string> lines{"a", "b"};
    writer.writelines(lines);
    co_await writer.drain();
    co_await writer.sendfile(0, 0, 10);
    is<bool>(writer.can_write_eof());
    writer.write_eof();
    writer.set_nodelay(true);
    is<asyncio::address>(writer.peername());
    is<asyncio::address>(writer.sockname());
    writer.close();
    is<bool>(writer.is_closing());
    co_await writer.wait_closed();
}

asyncio::coro<> networking() {
    auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", 80);
    is<asyncio::stream_reader>(reader);
    is<asyncio::stream_writer>(writer);
    auto limited = co_await asyncio::open_connection(
        "127.0.0.1", 80, {.limit = 1024, .happy_eyeballs_delay = 250ms});
    asyncio::server server = co_await asyncio::start_server(
        on_client, "127.0.0.1", 0,
        {.limit = 1024, .backlog = 100, .reuse_port = true, .reuse_address = true,
         .max_connections = 10});
    static_cast<void>(server.port());
    static_cast<void>(server.sockets());
    is<bool>(server.is_serving());
    co_await server.start_serving();
    co_await server.serve_forever();
    server.close();
    server.close_clients();
    server.abort_clients();
    co_await server.drain(5s);
    co_await server.wait_closed();
    co_await asyncio::open_unix_connection("path");
    server = co_await asyncio::start_unix_server(on_client, "path");
    auto streams = asyncio::make_streams(transport());
    is<std::pair<asyncio::stream_reader, asyncio::stream_writer>>(streams);

    asyncio::address address("127.0.0.1", 80);
    is<bool>(address.is_v4() || address.is_v6());
    is<std::vector<asyncio::address>>(co_await asyncio::getaddrinfo("localhost", "80"));
    asyncio::socket socket = asyncio::socket::tcp();
    socket = asyncio::socket::udp();
    socket = asyncio::socket::unix_stream();
    socket = asyncio::socket::unix_dgram();
    socket.bind(address);
    socket.listen();
    co_await socket.connect(address);
    std::array<std::byte, 10> buffer{};
    is<std::size_t>(co_await socket.recv(buffer));
    is<std::size_t>(co_await socket.send(buffer));
    co_await socket.sendall(buffer);
    co_await socket.recvfrom(buffer);
    co_await socket.sendto(buffer, address);
    is<asyncio::socket>(co_await socket.accept());
    is<asyncio::address>(socket.local_address());
    is<asyncio::address>(socket.remote_address());
    socket.close();

    co_await asyncio::create_pipe();
    is<asyncio::stream_reader>(co_await asyncio::connect_read_pipe(0));
    is<asyncio::stream_writer>(co_await asyncio::connect_write_pipe(1));
    is<asyncio::stream_reader>(co_await asyncio::stdin_reader());
    is<std::string>(co_await asyncio::read_file("path"));
    co_await asyncio::write_file("path", "text", {.atomic = true});
    asyncio::file file = co_await asyncio::file::open("path", "r+");
    is<std::string>(co_await file.read());
    is<std::string>(co_await file.read(10));
    is<std::string>(co_await file.readline());
    co_await file.write("text");
    co_await file.seek(0);
    co_await file.close();
    is<int>(co_await asyncio::wait_signal(15, 2));
}

asyncio::coro<> subprocesses() {
    const asyncio::environment variables{{"LANG", "C"}};
    asyncio::process child = co_await asyncio::create_subprocess_exec(
        asyncio::argv("ls", "-l"), {.stdin_ = asyncio::stdio::devnull,
                                    .stdout_ = asyncio::stdio::pipe,
                                    .stderr_ = asyncio::stdio::to_stdout,
                                    .cwd = "/",
                                    .env = &variables});
    const std::list<std::string> words{"ls"};
    child = co_await asyncio::create_subprocess_exec(words, {});
    child = co_await asyncio::create_subprocess_shell("ls");
    is<std::optional<asyncio::stream_reader>>(child.stdout_);
    auto [out, err] = co_await child.communicate("input");
    is<std::optional<std::string>>(out);
    is<int>(co_await child.wait());
    child.send_signal(15);
    child.terminate();
    child.kill();
    is<int>(child.pid());
    is<std::optional<int>>(child.returncode());
}

// -- resilience, debugging ------------------------------------------------------------

asyncio::coro<> resilience() {
    is<int>(co_await asyncio::retry(number, {.attempts = 3,
                                             .initial_delay = 1s,
                                             .max_delay = 32s,
                                             .factor = 2,
                                             .jitter = 0.1,
                                             .timeout = 1s}));
    auto told = [](const asyncio::attempt& a) -> asyncio::coro<int> {
        static_cast<void>(a.last_error);
        static_cast<void>(a.next_delay);
        co_return a.number;
    };
    is<int>(co_await asyncio::retry(told, {}, [](const asyncio::error&) { return true; }));
    asyncio::circuit_breaker breaker({.failures = 5, .open_for = 60s, .half_open_calls = 1});
    breaker.on_change([](asyncio::circuit_state, asyncio::circuit_state) {});
    is<int>(co_await breaker.call(number));
    is<asyncio::circuit_state>(breaker.state());
    static_assert(std::is_class_v<asyncio::circuit_open_error>);
    asyncio::rate_limiter limiter({.rate = 10, .per = 1s, .burst = 2});
    co_await limiter.acquire();
    const std::vector<int> items{1, 2};
    auto call = [](int n) -> asyncio::coro<int> { co_return n; };
    is<std::vector<int>>(co_await asyncio::map(items, call, {.limit = 2, .ordered = true}));
    is<std::vector<asyncio::outcome<int>>>(
        co_await asyncio::map(asyncio::return_exceptions, items, call));
    is<asyncio::async_generator<int>>(asyncio::map_stream(items, call, {.limit = 2}));

    asyncio::print_call_graph(asyncio::current_task(), std::cout);
    asyncio::print_tasks(std::cout);
    asyncio::tracer trace(asyncio::get_running_loop());
    trace.mark("text");
    trace.write_chrome_trace(std::cout);
    trace.print_timeline(std::cout);
}

static_assert(ASYNCIO_VERSION_MAJOR >= 0 && ASYNCIO_VERSION_MINOR >= 0 &&
              ASYNCIO_VERSION_PATCH >= 0 && ASYNCIO_VERSION >= 0);

} // namespace

// All that is above, so that nothing is unused.
auto all_names();
auto all_names() {
    return std::make_tuple(&errors, &times, &running, &tasks, &structured, &primitives,
                           &generators_and_contexts, &loops, &frames_and_clocks, &executors,
                           &networking, &subprocesses, &resilience);
}
