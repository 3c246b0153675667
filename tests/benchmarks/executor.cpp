// Executor benchmarks: what a job costs beside the same thing written by hand.
//
// As in micro, all contenders run in this process, in rounds that alternate between them; but the
// figure is the time until the answer is there, since most of a job's time is spent waiting for
// somebody else's processor. Python's pools, if there is a python3, answer in the same rounds.
// README.md beside this file says how to build and read it.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace {

using clock_type = std::chrono::steady_clock;

double microseconds_since(clock_type::time_point start) {
    return std::chrono::duration<double, std::micro>(clock_type::now() - start).count();
}

void require(bool right, const char* what) {
    if (right) return;
    std::fprintf(stderr, "executor: %s\n", what);
    std::exit(1);
}

constexpr std::size_t large = 100'000'000; // bytes of the large argument

int add(int a, int b) { return a + b; }

// Looks at every page, as a job that uses its argument would.
std::uint64_t touch(const char* data, std::size_t size) {
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < size; i += 4096) sum += static_cast<unsigned char>(data[i]);
    return sum;
}
std::uint64_t touch_vector(std::vector<char> data) { return touch(data.data(), data.size()); }

const std::vector<char>& large_argument() {
    static const std::vector<char> data(large, 'x');
    return data;
}
std::uint64_t right_sum() {
    static const std::uint64_t sum = touch(large_argument().data(), large);
    return sum;
}

// ---- the bounds: exactly one use each, no cancellation, no errors, no second job ----------------

// A thread behind a condition variable, which answers through an eventfd.
class bound_thread {
public:
    bound_thread() : answer_(::eventfd(0, EFD_CLOEXEC)), poll_(::epoll_create1(EPOLL_CLOEXEC)) {
        epoll_event event{};
        event.events = EPOLLIN;
        require(::epoll_ctl(poll_, EPOLL_CTL_ADD, answer_, &event) == 0, "epoll_ctl failed");
        thread_ = std::thread([this] { work(); });
    }
    ~bound_thread() {
        give(stop);
        thread_.join();
        ::close(answer_);
        ::close(poll_);
    }
    double run(int jobs) {
        const auto start = clock_type::now();
        for (int i = 0; i < jobs; ++i) {
            give(work_to_do);
            epoll_event event{};
            require(::epoll_wait(poll_, &event, 1, -1) == 1, "epoll_wait failed");
            std::uint64_t count = 0;
            require(::read(answer_, &count, sizeof count) == sizeof count, "read failed");
        }
        return microseconds_since(start) / jobs;
    }

private:
    static constexpr int nothing = 0, work_to_do = 1, stop = 2;

    void give(int what) {
        {
            const std::lock_guard guard(mutex_);
            state_ = what;
        }
        changed_.notify_one();
    }
    void work() {
        for (;;) {
            {
                std::unique_lock lock(mutex_);
                changed_.wait(lock, [this] { return state_ != nothing; });
                if (state_ == stop) return;
                state_ = nothing;
            }
            const std::uint64_t one = 1;
            require(::write(answer_, &one, sizeof one) == sizeof one, "write failed");
        }
    }

    int answer_;
    int poll_;
    std::mutex mutex_;
    std::condition_variable changed_;
    int state_ = nothing;
    std::thread thread_;
};

// A forked process at the other end of a socket. A large argument comes as a memfd; `copies`: into
// a vector, as a job that takes one must.
class bound_process {
public:
    explicit bound_process(bool copies) {
        int both[2];
        require(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, both) == 0, "no sockets");
        std::fflush(nullptr);
        child_ = ::fork();
        if (child_ == 0) {
            ::close(both[0]);
            work(both[1], copies);
        }
        ::close(both[1]);
        socket_ = both[0];
        poll_ = ::epoll_create1(EPOLL_CLOEXEC);
        epoll_event event{};
        event.events = EPOLLIN;
        require(::epoll_ctl(poll_, EPOLL_CTL_ADD, socket_, &event) == 0, "epoll_ctl failed");
    }
    ~bound_process() {
        ::close(socket_);
        ::close(poll_);
        ::waitpid(child_, nullptr, 0);
    }
    double run(int jobs) {
        const auto start = clock_type::now();
        for (int i = 0; i < jobs; ++i) {
            const int arguments[2] = {i, 1};
            require(::send(socket_, arguments, sizeof arguments, 0) == sizeof arguments, "no send");
            wait();
            int sum = 0;
            require(::recv(socket_, &sum, sizeof sum, 0) == sizeof sum && sum == i + 1, "no sum");
        }
        return microseconds_since(start) / jobs;
    }
    pid_t process() const { return child_; }
    double run_large() {
        const std::vector<char>& data = large_argument();
        const auto start = clock_type::now();
        const int memory = ::memfd_create("bound", MFD_CLOEXEC);
        require(::write(memory, data.data(), large) == static_cast<ssize_t>(large), "no memory");
        char byte = 0;
        iovec part = {&byte, 1};
        alignas(cmsghdr) char room[CMSG_SPACE(sizeof(int))] = {};
        msghdr message{};
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        message.msg_control = room;
        message.msg_controllen = sizeof room;
        cmsghdr* const header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof memory);
        std::memcpy(CMSG_DATA(header), &memory, sizeof memory);
        require(::sendmsg(socket_, &message, 0) == 1, "no sendmsg");
        ::close(memory);
        wait();
        std::uint64_t sum = 0;
        require(::recv(socket_, &sum, sizeof sum, 0) == sizeof sum && sum == right_sum(), "no sum");
        return microseconds_since(start);
    }

private:
    void wait() const {
        epoll_event event{};
        require(::epoll_wait(poll_, &event, 1, -1) == 1, "epoll_wait failed");
    }
    [[noreturn]] static void work(int socket, bool copies) {
        for (;;) {
            int arguments[2];
            iovec part = {arguments, sizeof arguments};
            alignas(cmsghdr) char room[CMSG_SPACE(sizeof(int))] = {};
            msghdr message{};
            message.msg_iov = &part;
            message.msg_iovlen = 1;
            message.msg_control = room;
            message.msg_controllen = sizeof room;
            if (::recvmsg(socket, &message, MSG_CMSG_CLOEXEC) <= 0) ::_exit(0);
            const cmsghdr* const header = CMSG_FIRSTHDR(&message);
            if (header == nullptr) {
                const int sum = add(arguments[0], arguments[1]);
                if (::send(socket, &sum, sizeof sum, 0) < 0) ::_exit(1);
                continue;
            }
            int memory = -1;
            std::memcpy(&memory, CMSG_DATA(header), sizeof memory);
            void* const at =
                ::mmap(nullptr, large, PROT_READ, MAP_PRIVATE | MAP_POPULATE, memory, 0);
            ::close(memory);
            if (at == MAP_FAILED) ::_exit(1);
            const char* const bytes = static_cast<const char*>(at);
            const std::uint64_t sum = copies ? touch_vector(std::vector<char>(bytes, bytes + large))
                                             : touch(bytes, large);
            ::munmap(at, large);
            if (::send(socket, &sum, sizeof sum, 0) < 0) ::_exit(1);
        }
    }

    pid_t child_ = -1;
    int socket_ = -1;
    int poll_ = -1;
};

// ---- asyncio.hpp, as a user writes it -----------------------------------------------------------

template <class Executor>
asyncio::coro<double> jobs_on(Executor& pool, int jobs) {
    const auto start = clock_type::now();
    for (int i = 0; i < jobs; ++i) {
        const int sum = co_await asyncio::run_in_executor(pool, add, i, 1);
        require(sum == i + 1, "a wrong sum");
    }
    co_return microseconds_since(start) / jobs;
}

asyncio::coro<double> large_job(asyncio::isolated_executor& pool) {
    const auto start = clock_type::now();
    const std::uint64_t sum =
        co_await asyncio::run_in_executor(pool, touch_vector, large_argument());
    require(sum == right_sum(), "a wrong sum");
    co_return microseconds_since(start);
}

asyncio::coro<double> forked_jobs(int jobs) {
    const auto start = clock_type::now();
    for (int i = 0; i < jobs; ++i) {
        const auto job = [i] { return add(i, 1); };
        const int sum = co_await asyncio::fork_job(job);
        require(sum == i + 1, "a wrong sum");
    }
    co_return microseconds_since(start) / jobs;
}

// Work for one core, always the same.
std::uint64_t compute(std::uint64_t seed) {
    for (int i = 0; i < 10'000'000; ++i) seed = (seed ^ seed >> 29) * 0xbf58476d1ce4e5b9U + 1;
    return seed;
}
constexpr std::uint64_t heavy_jobs = 8;

asyncio::coro<double> heavy_on(asyncio::isolated_executor& two_workers) {
    const auto start = clock_type::now();
    std::vector<asyncio::future<std::uint64_t>> jobs;
    for (std::uint64_t i = 0; i < heavy_jobs; ++i)
        jobs.push_back(asyncio::run_in_executor(two_workers, compute, i));
    std::uint64_t all = 0;
    for (auto& job : jobs) {
        const std::uint64_t result = co_await job;
        all ^= result;
    }
    require(all != 0, "no results");
    co_return microseconds_since(start);
}

// What two cores can do: two threads that share the jobs beforehand, and nobody else.
double heavy_by_hand() {
    const auto start = clock_type::now();
    std::uint64_t results[2] = {};
    const auto half = [&results](std::uint64_t first) {
        for (std::uint64_t i = first; i < heavy_jobs; i += 2) results[first] ^= compute(i);
    };
    std::thread even(half, 0), odd(half, 1);
    even.join();
    odd.join();
    require((results[0] ^ results[1]) != 0, "no results");
    return microseconds_since(start);
}

// Until four workers have been started and each has done a job.
double ready_pool() {
    const auto start = clock_type::now();
    asyncio::isolated_executor pool(4);
    std::vector<asyncio::concurrent_future<int>> jobs;
    for (int i = 0; i < 4; ++i) jobs.push_back(pool.submit(add, i, 1));
    for (auto& job : jobs) require(job.result() > 0, "a wrong sum");
    return microseconds_since(start);
}

double ready_by_hand() {
    const auto start = clock_type::now();
    std::unique_ptr<bound_process> four[4];
    for (auto& one : four) one = std::make_unique<bound_process>(true);
    for (auto& one : four) one->run(1);
    return microseconds_since(start);
}

// A fork, an answer, a wait, by hand.
double forked_by_hand(int jobs) {
    const auto start = clock_type::now();
    for (int i = 0; i < jobs; ++i) {
        int ends[2];
        require(::pipe2(ends, O_CLOEXEC) == 0, "no pipe");
        const pid_t child = ::fork();
        if (child == 0) {
            const int sum = add(i, 1);
            ::_exit(::write(ends[1], &sum, sizeof sum) == sizeof sum ? 0 : 1);
        }
        ::close(ends[1]);
        int sum = 0;
        require(::read(ends[0], &sum, sizeof sum) == sizeof sum && sum == i + 1, "no sum");
        ::close(ends[0]);
        ::waitpid(child, nullptr, 0);
    }
    return microseconds_since(start) / jobs;
}

// ---- Python's pools, in a process that answers "NAME COUNT" with microseconds per job -----------

class python {
public:
    python() {
        static constexpr const char* program = R"(
import asyncio, sys, time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from operator import add
def touch(data): return sum(data[::4096])
async def jobs(pool, fn, count, *args):
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(pool, fn, *args)
    start = time.perf_counter()
    for _ in range(count): await loop.run_in_executor(pool, fn, *args)
    return (time.perf_counter() - start) * 1e6 / count
if __name__ == "__main__":
    pools = {"thread": ThreadPoolExecutor(1), "process": ProcessPoolExecutor(1)}
    data = b"x" * 100_000_000
    for line in sys.stdin:
        name, count = line.split()
        if name == "large": result = asyncio.run(jobs(pools["process"], touch, int(count), data))
        else: result = asyncio.run(jobs(pools[name], add, int(count), 1, 2))
        print(result, flush=True)
)";
        int to[2], from[2];
        if (::pipe2(to, O_CLOEXEC) != 0 || ::pipe2(from, O_CLOEXEC) != 0) return;
        child_ = ::fork();
        if (child_ == 0) {
            ::dup2(to[0], STDIN_FILENO);
            ::dup2(from[1], STDOUT_FILENO);
            ::execlp("python3", "python3", "-c", program, static_cast<char*>(nullptr));
            ::_exit(127);
        }
        ::close(to[0]);
        ::close(from[1]);
        questions_ = ::fdopen(to[1], "w");
        answers_ = ::fdopen(from[0], "r");
    }
    ~python() {
        if (questions_ != nullptr) std::fclose(questions_);
        if (answers_ != nullptr) std::fclose(answers_);
        if (child_ > 0) ::waitpid(child_, nullptr, 0);
    }
    // Below zero: there is no Python.
    double ask(const char* name, int count) {
        double result = -1;
        std::fprintf(questions_, "%s %d\n", name, count);
        std::fflush(questions_);
        if (std::fscanf(answers_, "%lf", &result) != 1) result = -1;
        return result;
    }

private:
    pid_t child_ = -1;
    std::FILE* questions_ = nullptr;
    std::FILE* answers_ = nullptr;
};

// ---- where a worker runs: the other core makes a job ten times slower ---------------------------

cpu_set_t processors_of(pid_t thread) {
    cpu_set_t set;
    require(::sched_getaffinity(thread, sizeof set, &set) == 0, "sched_getaffinity failed");
    return set;
}
void move_to(pid_t thread, const cpu_set_t& set) {
    require(::sched_setaffinity(thread, sizeof set, &set) == 0, "sched_setaffinity failed");
}
std::vector<std::size_t> usable_processors() {
    const cpu_set_t set = processors_of(0);
    std::vector<std::size_t> found;
    for (std::size_t i = 0; i < CPU_SETSIZE; ++i)
        if (CPU_ISSET(i, &set)) found.push_back(i);
    return found;
}

// This thread and a worker process, each on one processor until the end of the block.
class pinned {
public:
    pinned(std::size_t here, pid_t worker, std::size_t there)
        : worker_(worker), before_(processors_of(0)) {
        move_to(0, only(here));
        move_to(worker_, only(there));
    }
    pinned(const pinned&) = delete;
    ~pinned() {
        move_to(0, before_);
        move_to(worker_, before_);
    }

private:
    static cpu_set_t only(std::size_t processor) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(processor, &set);
        return set;
    }
    pid_t worker_;
    cpu_set_t before_;
};

// ---- rounds and the table -----------------------------------------------------------------------

struct row {
    const char* meaning;
    double limit; // of ours over the bound; 0: nothing is promised
    double at_most = 0; // microseconds; 0: likewise
    std::vector<double> bound = {}, ours = {}, peer = {};

    // The median of the rounds' ratios: the two stand side by side in each.
    double ratio() const {
        if (ours.empty()) return 0;
        std::vector<double> ratios;
        for (std::size_t i = 0; i < ours.size(); ++i) ratios.push_back(ours[i] / bound[i]);
        return median(ratios);
    }
    static double median(std::vector<double> values) {
        std::sort(values.begin(), values.end());
        return values[values.size() / 2];
    }
};

void print_row(const row& one, const char* name, const std::vector<double>& values, bool compare) {
    if (values.empty()) return;
    std::printf("%-34s %-12s %10.1f %10.1f", one.meaning, name,
                *std::min_element(values.begin(), values.end()), row::median(values));
    if (compare) std::printf(" %8.2f", row::median(values) / row::median(one.bound));
    if (compare && &values == &one.ours && one.limit > 0) std::printf("  (limit %.2f)", one.limit);
    if (&values == &one.ours && one.at_most > 0) std::printf("  (limit %.0f us)", one.at_most);
    std::printf("\n");
}

} // namespace

int main(int argc, char** argv) {
    asyncio::worker_main();
    bool quick = false;
    bool peers = true;
    double slack = 0;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--quick") quick = true;
        else if (word == "--no-peers") peers = false;
        else if (word == "--check" && i + 1 < argc) slack = std::strtod(argv[++i], nullptr);
        else {
            std::fputs("usage: executor [--quick] [--no-peers] [--check SLACK]\n", stderr);
            return 2;
        }
    }
    ::signal(SIGPIPE, SIG_IGN); // a python3 that is not there
    const int jobs = quick ? 300 : 2000;
    const int rounds = quick ? 7 : 21;
    row thread{"an empty job on a thread", 1.1};
    row process{"an empty job in a process", 0};
    row near{"... on the same core", 1.3};
    row far{"... on another core", 1.3};
    row argument{"100 MB to a process, as a vector", 1.2};
    row forked{"an empty job in a fork of its own", 0};
    row heavy{"8 jobs that compute, on 2 workers", 1 / 0.95};
    row small{"a pool of 4 is ready", 0, 5'000};
    row big{"... in a program of 2 GiB", 0, 10'000};

    // What forks comes before the threads.
    const auto other = peers ? std::make_unique<python>() : nullptr;
    bound_process process_bound(true);
    for (int i = 0; i < rounds; ++i) {
        forked.bound.push_back(forked_by_hand(jobs / 20));
        forked.ours.push_back(asyncio::run(forked_jobs(jobs / 20)));
        small.bound.push_back(ready_by_hand());
        small.ours.push_back(ready_pool());
    }
    bound_thread thread_bound;
    asyncio::thread_pool_executor threads(1);
    asyncio::isolated_executor workers(1);
    asyncio::run(jobs_on(threads, 10));
    asyncio::run(jobs_on(workers, 10));
    const auto ask = [&](row& one, const char* name, int count) {
        const double result = other ? other->ask(name, count) : -1;
        if (result > 0) one.peer.push_back(result);
    };
    const pid_t worker = workers.stats().workers.front().pid;
    const std::vector<std::size_t> cores = usable_processors();
    const auto place = [&](row& one, std::size_t there) {
        {
            const pinned both(cores[0], process_bound.process(), there);
            one.bound.push_back(process_bound.run(jobs));
        }
        const pinned both(cores[0], worker, there);
        one.ours.push_back(asyncio::run(jobs_on(workers, jobs)));
    };
    for (int i = 0; i < rounds; ++i) {
        thread.bound.push_back(thread_bound.run(jobs));
        thread.ours.push_back(asyncio::run(jobs_on(threads, jobs)));
        ask(thread, "thread", jobs / 4);
        process.bound.push_back(process_bound.run(jobs));
        process.ours.push_back(asyncio::run(jobs_on(workers, jobs)));
        ask(process, "process", jobs / 4);
        place(near, cores[0]);
        if (cores.size() > 1) place(far, cores[1]);
        argument.bound.push_back(process_bound.run_large());
        argument.ours.push_back(asyncio::run(large_job(workers)));
        if (i < 3) ask(argument, "large", 1);
    }
    asyncio::isolated_executor two_workers(2);
    asyncio::run(heavy_on(two_workers));
    for (int i = 0; i < rounds; ++i) {
        heavy.bound.push_back(heavy_by_hand());
        heavy.ours.push_back(asyncio::run(heavy_on(two_workers)));
    }
    const std::vector<char> ballast(std::size_t{2} << 30, 'x');
    for (int i = 0; i < rounds; ++i) {
        big.bound.push_back(ready_by_hand());
        big.ours.push_back(ready_pool());
    }
    require(ballast.back() == 'x', "no memory");

    std::printf("%-34s %-12s %10s %10s %8s\n", "microseconds per job", "", "min", "median",
                "/ bound");
    bool fine = true;
    for (const row& one : {thread, process, near, far, argument, forked, heavy, small, big}) {
        print_row(one, "bound", one.bound, false);
        print_row(one, "asyncio.hpp", one.ours, true);
        print_row(one, "Python", one.peer, true);
        if (slack > 0 && one.limit > 0 && one.ratio() > one.limit * slack) {
            std::fprintf(stderr, "executor: %s costs %.2f times its bound (limit %.1f x %.1f)\n",
                         one.meaning, one.ratio(), one.limit, slack);
            fine = false;
        }
        if (slack > 0 && one.at_most > 0 && row::median(one.ours) > one.at_most * slack) {
            std::fprintf(stderr, "executor: %s after %.0f us (limit %.0f x %.1f)\n", one.meaning,
                         row::median(one.ours), one.at_most, slack);
            fine = false;
        }
    }
    return fine ? 0 : 1;
}
