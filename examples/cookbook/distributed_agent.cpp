// Cookbook: jobs for several machines: Redis keeps them, and workers that may die do them.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/cookbook/distributed_agent.cpp -o agents && ./agents
//
// What it teaches: when one machine is not enough, leave the jobs to a program made for that. A
// stream of Redis gives each job to one worker, and remembers to whom until it is done; what a dead
// worker had, another one takes over after a while. That a job is done, and what has come of it, is
// said in one step, so that each job counts once, even when two have worked on it.
// Look at: worker-1 is killed in the middle of a job, and worker-2 does that job again. Both are
// this program, started again, and they end with it, as its redis-server does. On other machines,
// `./agents --worker NAME HOST PORT` works for the Redis there; for a job,
// `redis-cli XADD jobs '*' question Why? rounds 1000000`.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <random>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>
using namespace std::chrono_literals;
using std::string, std::string_view;

double seconds() { return asyncio::elapsed().total_seconds(); }
void say(const string& text) { std::printf("%5.2f s  %s\n", seconds(), text.c_str()); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

// ---- 1. The protocol of Redis ------------------------------------------------------------------
struct reply { // a text, also for numbers, or a list, or nothing
    string text = {};
    std::vector<reply> list = {};
};

class redis {
public:
    explicit redis(asyncio::stream_pair streams)
        : reader_(std::move(streams.first)), writer_(std::move(streams.second)) {}

    template <class... Words>
    asyncio::coro<reply> ask(const Words&... words) { // it is sent at once
        string request = "*" + std::to_string(sizeof...(words)) + "\r\n";
        for (const string_view word : {string_view(words)...})
            ((request += "$" + std::to_string(word.size()) + "\r\n") += word) += "\r\n";
        writer_.write(request);
        return receive();
    }

private:
    asyncio::coro<reply> receive() {
        string line = co_await reader_.readuntil("\r\n");
        line.resize(line.size() - 2);
        const char kind = line.at(0);
        reply answer{line.substr(1)};
        if (kind == '-') throw std::runtime_error("Redis: " + answer.text);
        if (kind == '+' || kind == ':') co_return answer;
        const long size = std::strtol(answer.text.c_str(), nullptr, 10); // -1: nothing
        answer.text.clear();
        if (kind == '$' && size >= 0) {
            answer.text = co_await reader_.readexactly(size + 2);
            answer.text.resize(answer.text.size() - 2);
        }
        for (long i = 0; kind == '*' && i < size; ++i) {
            reply item = co_await receive();
            answer.list.push_back(std::move(item));
        }
        co_return answer;
    }

    asyncio::stream_reader reader_;
    asyncio::stream_writer writer_;
};

asyncio::coro<redis> open_redis(string place, int port) { // a host, or with port 0 a path
    asyncio::coro<asyncio::stream_pair> opening = port > 0 ? asyncio::open_connection(place, port)
                                                           : asyncio::open_unix_connection(place);
    redis server(co_await std::move(opening));
    try {
        co_await server.ask("XGROUP", "CREATE", "jobs", "agents", "0", "MKSTREAM");
    } catch (const std::runtime_error& e) { // somebody else may have been the first
        if (!string_view(e.what()).starts_with("Redis: BUSYGROUP")) throw;
    }
    co_return server;
}

// ---- 2. A worker -------------------------------------------------------------------------------
// Stands for what a model makes of a question: a fixed amount of work for one core.
string infer(string question, unsigned long rounds) {
    std::uint64_t digest = 1;
    for (const char c : question) digest = digest * 1099511628211U + static_cast<unsigned char>(c);
    for (; rounds > 0; --rounds) digest = (digest ^ digest >> 29) * 0xbf58476d1ce4e5b9U + 1;
    return std::to_string(digest);
}

// Longer than a job takes. If one takes longer all the same, two work on it, and one does in vain.
constexpr string_view patience = "1000"; // in milliseconds

// Only who is the first to say that a job is done gives a result. Redis runs this without a break.
constexpr string_view job_done = "if redis.call('XACK', 'jobs', 'agents', ARGV[1]) == 1 then "
                                 "redis.call('XDEL', 'jobs', ARGV[1]) "
                                 "redis.call('RPUSH', 'results', ARGV[2]) end";

asyncio::coro<> work(string name, string place, int port) {
    redis server = co_await open_redis(place, port);
    for (;;) {
        // A job that another one has had for too long, or else the next.
        reply old = co_await server.ask("XAUTOCLAIM", "jobs", "agents", name, patience, "0",
                                        "COUNT", "1");
        std::vector<reply> jobs = std::move(old.list.at(1).list);
        if (jobs.empty()) {
            reply streams = co_await server.ask("XREADGROUP", "GROUP", "agents", name, "COUNT", "1",
                                                "BLOCK", "100", "STREAMS", "jobs", ">");
            if (streams.list.empty()) continue; // none came; is there an old one by now?
            jobs = std::move(streams.list.at(0).list.at(1).list);
        }
        const string id = jobs.at(0).list.at(0).text; // then: question, Why?, rounds, 1000000
        const std::vector<reply>& fields = jobs.at(0).list.at(1).list;
        const unsigned long rounds = std::strtoul(fields.at(3).text.c_str(), nullptr, 10);
        const string answer = co_await asyncio::to_thread(infer, fields.at(1).text, rounds);
        co_await server.ask("EVAL", job_done, "0", id, id + " " + name + " " + answer);
    }
}

// ---- 3. Who gives the jobs ---------------------------------------------------------------------
struct folder { // goes when this goes
    std::filesystem::path path = std::filesystem::temp_directory_path() /
                                 ("agents" + std::to_string(std::random_device()()));
    folder() { std::filesystem::create_directory(path); }
    ~folder() { std::error_code ignored; std::filesystem::remove_all(path, ignored); }
    folder(const folder&) = delete;
};

asyncio::coro<asyncio::process> start_redis(string path, string socket) {
    auto process = co_await asyncio::create_subprocess_exec(
        asyncio::argv("redis-server", "--port", "0", "--unixsocket", socket, "--dir", path,
                      "--save", ""),
        {.stdout_ = asyncio::stdio::pipe});
    for (string line; line.find("eady to accept connections") == string::npos;)
        line = co_await process.stdout_->readuntil("\n");
    co_return process;
}

asyncio::coro<asyncio::process> start_worker(string name, string socket) {
    return asyncio::create_subprocess_exec(
        asyncio::argv("/proc/self/exe", "--worker", name, socket, "0"));
}

// Kills a worker while it has a job, and gives that job's id: empty if it was just done.
asyncio::coro<string> kill_at_work(redis& server, asyncio::process& worker, string name) {
    reply jobs;
    while (jobs.list.empty())
        jobs = co_await server.ask("XPENDING", "jobs", "agents", "-", "+", "1", name);
    worker.kill();
    co_await worker.wait();
    jobs = co_await server.ask("XPENDING", "jobs", "agents", "-", "+", "1", name);
    co_return jobs.list.empty() ? "" : jobs.list.at(0).list.at(0).text;
}

struct job {
    string question, worker = {}, answer = {};
    int results = 0;
};
using job_map = std::map<string, job>; // by the ids that Redis gives

asyncio::coro<> collect(redis& server, job_map& jobs, int count) {
    for (; count > 0; --count) {
        const reply result = co_await server.ask("BLPOP", "results", "60"); // waits up to 60 s
        std::istringstream text(result.list.at(1).text);
        string id;
        text >> id;
        job& j = jobs.at(id);
        text >> j.worker >> j.answer;
        ++j.results;
        say(j.question + " by " + j.worker + ": " + j.answer);
    }
}

asyncio::coro<int> async_main(int count, unsigned long rounds) {
    const folder own;
    const string socket = (own.path / "socket").string();
    std::optional<asyncio::process> service;
    try {
        service = co_await asyncio::wait_for(start_redis(own.path.string(), socket), 60s);
    } catch (const std::system_error& error) {
        if (error.code() != std::errc::no_such_file_or_directory) throw;
        std::puts("skipped: redis-server is not installed, and the jobs are kept there");
        co_return 77; // which test programs take for skipped
    }
    redis server = co_await open_redis(socket, 0);
    job_map jobs;
    for (int i = 1; i <= count; ++i) {
        const string question = "question-" + std::to_string(i);
        const reply id = co_await server.ask("XADD", "jobs", "*", "question", question, "rounds",
                                             std::to_string(rounds));
        jobs[id.text] = job{question};
    }
    auto victim = co_await start_worker("worker-1", socket);
    auto other = co_await start_worker("worker-2", socket);
    co_await collect(server, jobs, count / 4);
    string lost = co_await kill_at_work(server, victim, "worker-1");
    while (lost.empty()) { // another one of that name, then
        victim = co_await start_worker("worker-1", socket);
        lost = co_await kill_at_work(server, victim, "worker-1");
    }
    say("worker-1 is dead, and " + jobs.at(lost).question + " is not done");
    co_await collect(server, jobs, count - count / 4);

    const reply jobs_left = co_await server.ask("XLEN", "jobs");
    const reply results_left = co_await server.ask("LLEN", "results");
    other.terminate(); // at any time: it can lose nothing
    co_await other.wait();
    service->terminate();
    co_await service->wait();
    int once = 0, right = 0;
    for (const auto& [id, j] : jobs) {
        once += j.results == 1;
        right += j.answer == infer(j.question, rounds);
    }
    claim(victim.returncode() == -9, "worker-1 was killed in the middle of a job");
    const job& again = jobs.at(lost);
    claim(again.worker == "worker-2", again.question + " was then done by " + again.worker);
    claim(once == count && results_left.text == "0", "each of " + std::to_string(count) +
          " jobs has one result: " + std::to_string(once));
    claim(right == count, "all answers are right: " + std::to_string(right));
    claim(jobs_left.text == "0", "nothing is left to do: " + jobs_left.text);
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    const string_view word = argc > 1 ? argv[1] : "";
    const int port = argc == 5 ? std::atoi(argv[4]) : -1; // 0: there is a path instead of a host
    if (word == "--worker" && port >= 0 && port < 65536)
        return asyncio::run_main(work(argv[2], argv[3], port));
    if (argc > 2 || (argc == 2 && word != "--quick")) {
        std::fputs("Gives jobs to two workers through Redis, and kills one of them.\n"
                   "usage: agents [--quick | --worker NAME HOST PORT]\n",
                   word == "--help" ? stdout : stderr);
        return word == "--help" ? 0 : 2;
    }
    return asyncio::run_main(async_main(12, word == "--quick" ? 5'000'000 : 50'000'000));
}
// Output:
//  0.12 s  question-2 by worker-2: 2827210401162127562
//  0.13 s  question-1 by worker-1: 5793756799547573857
//  0.22 s  question-3 by worker-2: 5286746700501224314
//  0.22 s  worker-1 is dead, and question-4 is not done
//  0.33 s  question-5 by worker-2: 6927135314403608811
//  0.44 s  question-6 by worker-2: 6919952738187030808
//  0.54 s  question-7 by worker-2: 4879202215710939608
//  0.65 s  question-8 by worker-2: 15355329338345725380
//  0.75 s  question-9 by worker-2: 704221395995447409
//  0.85 s  question-10 by worker-2: 13773829478847646418
//  0.95 s  question-11 by worker-2: 10296709713337275216
//  1.06 s  question-12 by worker-2: 3989344088597394110
//  1.34 s  question-4 by worker-2: 2481569365853254697
// holds:  worker-1 was killed in the middle of a job
// holds:  question-4 was then done by worker-2
// holds:  each of 12 jobs has one result: 12
// holds:  all answers are right: 12
// holds:  nothing is left to do: 0
